//! `return`: a backup is killed and restarted, then the link is down for a while, both under load. Measures how soon
//! the caches agree again, and the bytes sent for it.
//!
//! The load never pauses, so the caches change while they are compared; `verify` can compare them under load. The bytes
//! of a resync are the bytes that the primary sent from the return until the agreement, minus those that the load alone
//! takes in that time. They are compared with the bytes of the first bulk send.

use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::options::Options;
use crate::pair::{Pair, Side};
use crate::program::Programs;
use crate::report::{Goal, Row, Table};
use crate::statistics::Summary;
use crate::suite::{Running, Suite, json_number};
use crate::table::{Churn, Table as KernelTable};

const FLOWS: u32 = 150_000;
/// One flow of this many is replaced all the time; the others stay.
const CHURNED_OF: u32 = 15;
/// Events a second.
const RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(9_999);
/// How long the bytes of the load alone are measured.
const BASELINE_TIME: Duration = Duration::from_secs(5);
/// The time from the kill to the restart, in which the primary declares the backup lost.
const KILLED_TIME: Duration = Duration::from_secs(5);
/// How long the link is down.
const LINK_DOWN_TIME: Duration = Duration::from_secs(30);
/// The goal of the time from the return to the agreement, in seconds.
const GOAL_S: f64 = 5.0;
/// How long the caches may take to agree.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest duration of the load, longer than any run.
const LOAD_LONGEST: Duration = Duration::from_secs(600);

/// The measurements of one run.
#[derive(Debug)]
struct ReturnRun {
    restart: Recovery,
    link: Recovery,
    /// The bytes of the first bulk send, of the whole cache.
    whole_bytes: f64,
    /// The number of batches that the primary resent.
    resent: f64,
    /// How often the backup skipped batches that could not be resent.
    skipped: f64,
    /// The number of lines of the dumps that differ at the end, after the load.
    differing: f64,
}

/// The measurements of one resync.
#[derive(Debug)]
struct Recovery {
    /// The time from the return until the caches agreed.
    elapsed: Duration,
    /// The bytes sent in that time, without those of the load.
    bytes: f64,
    /// The bytes that the load takes in the time of the outage.
    missed_bytes: f64,
}

/// Runs the scenario.
///
/// # Errors
/// When a program or the network fails, or the caches do not agree within a minute.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let (pair, suite) = (Pair::build()?, Suite::ours(programs)?);
    let mut runs = Vec::with_capacity(options.rounds);
    for round in 1..=options.rounds {
        eprintln!("return: round {round} of {}", options.rounds);
        runs.push(measure(&pair, &suite, flows)?);
    }
    let title = format!(
        "return: {} flows, {} events a second throughout; a backup killed for {} s, a link down for {} s, {} rounds",
        super::count(flows),
        super::count(RATE.get()),
        KILLED_TIME.as_secs(),
        LINK_DOWN_TIME.as_secs(),
        options.rounds
    );
    let names = [suite.name(), String::new()];
    Ok(Table { title, names, rows: rows(&runs), notes: note.into_iter().collect() })
}

fn measure(pair: &Pair, suite: &Suite, flows: u32) -> Result<ReturnRun, Failure> {
    let mut running = suite.start(pair)?;
    let mut table = KernelTable::open(pair.host(Side::Primary))?;
    let before = pair.wire_bytes()?.sent;
    table.create(0..flows)?;
    pair.await_quiet()?;
    let whole_bytes = (pair.wire_bytes()?.sent - before) as f64;
    let load = Churn::start(table, flows - flows / CHURNED_OF..flows, RATE, LOAD_LONGEST)?;
    let load_rate = sent_per_second(pair)?;

    running.kill(Side::Backup);
    thread::sleep(KILLED_TIME);
    let restart = RunningRecovery::start(pair, load_rate, KILLED_TIME)?;
    running.start_daemon(Side::Backup)?;
    let restart = restart.finish(&running)?;

    pair.set_link_up(false)?;
    thread::sleep(LINK_DOWN_TIME);
    let link = RunningRecovery::start(pair, load_rate, LINK_DOWN_TIME)?;
    pair.set_link_up(true)?;
    let link = link.finish(&running)?;

    load.stop()?;
    pair.await_quiet()?;
    let differing = running.dumps()?.difference().lines as f64;
    let resent = json_number(&running.status(Side::Primary)?["source"]["resent"]);
    let skipped = json_number(&running.status(Side::Backup)?["peers"][0]["skipped"]);
    running.stop()?;
    Ok(ReturnRun { restart, link, whole_bytes, resent, skipped, differing })
}

/// The bytes a second that the primary sends for the load alone.
fn sent_per_second(pair: &Pair) -> Result<f64, Failure> {
    thread::sleep(Duration::from_secs(1)); // until the load has its rate
    let (before, since) = (pair.wire_bytes()?.sent, Instant::now());
    thread::sleep(BASELINE_TIME);
    Ok((pair.wire_bytes()?.sent - before) as f64 / since.elapsed().as_secs_f64())
}

/// A resync in progress.
struct RunningRecovery<'p> {
    pair: &'p Pair,
    since: Instant,
    sent: u64,
    load_rate: f64,
    missed: Duration,
}

impl<'p> RunningRecovery<'p> {
    /// Starts to measure a resync after an outage of the duration `missed`.
    fn start(pair: &'p Pair, load_rate: f64, missed: Duration) -> Result<Self, Failure> {
        Ok(Self { pair, since: Instant::now(), sent: pair.wire_bytes()?.sent, load_rate, missed })
    }

    /// Waits until the caches agree, and returns the measurements.
    fn finish(self, running: &Running<'_>) -> Result<Recovery, Failure> {
        let elapsed = running.await_agreement(LONGEST)? - self.since;
        let sent = (self.pair.wire_bytes()?.sent - self.sent) as f64;
        let bytes = (sent - self.load_rate * self.since.elapsed().as_secs_f64()).max(0.0);
        Ok(Recovery { elapsed, bytes, missed_bytes: self.load_rate * self.missed.as_secs_f64() })
    }
}

fn rows(runs: &[ReturnRun]) -> Vec<Row> {
    let row =
        |figure: String, value: &dyn Fn(&ReturnRun) -> f64| Row::single(figure, Summary::of(runs.iter().map(value)));
    let of = |name: &str, of: fn(&ReturnRun) -> &Recovery| {
        [
            row(format!("{name}: time to agreement, s"), &|run| of(run).elapsed.as_secs_f64())
                .with_goal(|ours| Goal::at_most(GOAL_S, ours)),
            row(format!("{name}: sent, bytes"), &|run| of(run).bytes),
            row(format!("{name}: sent, % of missed load"), &|run| 100.0 * of(run).bytes / of(run).missed_bytes),
            row(format!("{name}: sent, % of whole cache"), &|run| 100.0 * of(run).bytes / run.whole_bytes),
        ]
    };
    let mut rows = Vec::from(of("backup restarted", |run| &run.restart));
    rows.extend(of("link restored", |run| &run.link));
    rows.push(row("whole cache, first bulk send, bytes".into(), &|run| run.whole_bytes));
    rows.push(row("batches resent".into(), &|run| run.resent));
    rows.push(row("skips of batches by the backup".into(), &|run| run.skipped));
    rows.push(row("lines that differ at the end".into(), &|run| run.differing).with_goal(Goal::zero));
    rows
}
