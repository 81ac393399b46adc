//! `return`: a backup that was killed and started again, and a link that was down, both under load: how soon they agree, and
//! at what cost.
//!
//! The load goes on until they agree and never ends in between, so what is compared is a moment of it, which `verify` can.
//! What was sent for it is what the primary sent from the return until then, less what the load takes by itself. Against
//! that stands what the whole cache took when it was first told.

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
/// One of so many comes and goes, the others stay.
const CHURNED_OF: u32 = 15;
/// Events a second.
const RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(9_999);
/// How long the load alone is looked at.
const BASELINE_TIME: Duration = Duration::from_secs(5);
/// From the kill to the new start: the primary has given the backup up by then.
const KILLED_TIME: Duration = Duration::from_secs(5);
/// How long the link is down.
const LINK_DOWN_TIME: Duration = Duration::from_secs(30);
/// Seconds from the return.
const GOAL_S: f64 = 5.0;
/// What does not come back in this time does not.
const LONGEST: Duration = Duration::from_secs(60);
/// Longer than any run.
const LOAD_LONGEST: Duration = Duration::from_secs(600);

/// What was measured of one run.
#[derive(Debug)]
struct ReturnRun {
    restart: Recovery,
    link: Recovery,
    /// What the whole cache took on the wire.
    whole_bytes: f64,
    /// Batches that were sent again in all, and the times that the backup had to go on past some.
    resent: f64,
    skipped: f64,
    /// Lines of the dumps that differ at the end, when the load has ended.
    differing: f64,
}

/// One return.
#[derive(Debug)]
struct Recovery {
    /// From the return until both agreed.
    elapsed: Duration,
    /// Sent for it besides the load.
    bytes: f64,
    /// What the load sends in the time that was missed.
    missed_bytes: f64,
}

/// Runs it.
///
/// # Errors
/// When a program or the network fails, or they do not agree in a minute.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let (pair, suite) = (Pair::build()?, Suite::ours(programs)?);
    let mut runs = Vec::with_capacity(options.rounds);
    for round in 1..=options.rounds {
        eprintln!("return: round {round} of {}", options.rounds);
        runs.push(measure(&pair, &suite, flows)?);
    }
    let title = format!(
        "return: {} flows, {} events a second all the while; a backup killed for {} s, a link down for {} s, {} rounds",
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

/// What the load alone has the primary send.
fn sent_per_second(pair: &Pair) -> Result<f64, Failure> {
    thread::sleep(Duration::from_secs(1)); // until it flows
    let (before, since) = (pair.wire_bytes()?.sent, Instant::now());
    thread::sleep(BASELINE_TIME);
    Ok((pair.wire_bytes()?.sent - before) as f64 / since.elapsed().as_secs_f64())
}

/// A return that is under way.
struct RunningRecovery<'p> {
    pair: &'p Pair,
    since: Instant,
    sent: u64,
    load_rate: f64,
    missed: Duration,
}

impl<'p> RunningRecovery<'p> {
    fn start(pair: &'p Pair, load_rate: f64, missed: Duration) -> Result<Self, Failure> {
        Ok(Self { pair, since: Instant::now(), sent: pair.wire_bytes()?.sent, load_rate, missed })
    }

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
            row(format!("{name}: agree after, s"), &|run| of(run).elapsed.as_secs_f64())
                .with_goal(|ours| Goal::at_most(GOAL_S, ours)),
            row(format!("{name}: sent for it, bytes"), &|run| of(run).bytes),
            row(format!("{name}: of what was missed, %"), &|run| 100.0 * of(run).bytes / of(run).missed_bytes),
            row(format!("{name}: of the whole cache, %"), &|run| 100.0 * of(run).bytes / run.whole_bytes),
        ]
    };
    let mut rows = Vec::from(of("backup restarted", |run| &run.restart));
    rows.extend(of("link up again", |run| &run.link));
    rows.push(row("whole cache when first told, bytes".into(), &|run| run.whole_bytes));
    rows.push(row("batches sent again".into(), &|run| run.resent));
    rows.push(row("times that the backup skipped batches".into(), &|run| run.skipped));
    rows.push(row("lines that differ at the end".into(), &|run| run.differing).with_goal(Goal::zero));
    rows
}
