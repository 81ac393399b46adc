//! `loss`: flows start and end while each side loses one of ten datagrams that the other sends.
//!
//! After the last event both caches are compared repeatedly until they are equal, and once more after 5 s. Datagrams
//! are lost all that time.

use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::options::Options;
use crate::pair::{Pair, Side};
use crate::program::Programs;
use crate::report::{Goal, Row, Table};
use crate::runs::Runs;
use crate::suite::{Running, Suite, json_number};
use crate::table::Table as KernelTable;

const FLOWS: u32 = 100_000;
/// Of ten flows this many are deleted.
const DELETED_OF_TEN: u32 = 6;
/// One datagram of this many is lost.
const LOST_OF: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
/// How long the caches may take to become equal after the last event.
const EQUAL_WITHIN: Duration = Duration::from_secs(5);
/// The pause between two comparisons. Each comparison costs a dump of both caches.
const COMPARED_EVERY: Duration = Duration::from_millis(100);

/// The measurements of one run.
#[derive(Debug)]
struct LossRun {
    /// The time from the last event until both dumps were equal, including the time of dumping; [`EQUAL_WITHIN`] if
    /// they did not become equal.
    until_equal: Duration,
    /// The number of lines that differ when [`EQUAL_WITHIN`] is over.
    differing: u64,
    /// One of these lines from each side, as notes.
    examples: Vec<String>,
    /// Whether `verify` finds the caches equal then; `None` for conntrackd.
    agrees: Option<bool>,
    /// The bytes sent by the primary.
    sent_bytes: u64,
    /// The number of batches that the primary resent; 0 for conntrackd.
    resent: f64,
}

/// Runs the scenario.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let (pair, ours, reference) = (Pair::build()?, Suite::ours(programs)?, Suite::reference()?);
    let once = |suite: &Suite| {
        pair.start_loss(LOST_OF)?;
        let measured = measure(&pair, suite, flows);
        pair.stop_loss()?;
        measured
    };
    let runs = Runs::alternate("loss", options.rounds, [&ours, &reference], once)?;
    let title = format!(
        "loss: {} flows, {} of them deleted, one datagram of {LOST_OF} lost in both directions, {} rounds",
        super::count(flows),
        super::count(deleted(flows)),
        options.rounds
    );
    let examples = runs.ours.iter().flat_map(|run| &run.examples).take(2).cloned();
    let notes = note.into_iter().chain(examples).collect();
    Ok(Table { title, names: [ours.name(), reference.name()], rows: rows(&runs), notes })
}

fn deleted(flows: u32) -> u32 {
    flows / 10 * DELETED_OF_TEN
}

fn measure(pair: &Pair, suite: &Suite, flows: u32) -> Result<LossRun, Failure> {
    let running = suite.start(pair)?;
    let mut table = KernelTable::open(pair.host(Side::Primary))?;
    let sent = pair.wire_bytes()?.sent;
    table.create(0..flows)?;
    table.delete(0..deleted(flows))?;
    let last = Instant::now();
    let until_equal = await_equal_dumps(&running, last, u64::from(flows - deleted(flows)))?;
    thread::sleep(EQUAL_WITHIN.saturating_sub(last.elapsed()));
    let agrees = suite.is_ours().then(|| running.verify()).transpose()?;
    let difference = running.dumps()?.difference();
    let sent_bytes = pair.wire_bytes()?.sent - sent;
    let resent = if suite.is_ours() { json_number(&running.status(Side::Primary)?["source"]["resent"]) } else { 0.0 };
    running.stop()?;
    let sides = [("primary", difference.left), ("backup", difference.right)];
    let example = |(side, line): (&str, Option<String>)| line.map(|line| format!("Only the {side} has: {line}"));
    let examples = sides.into_iter().filter_map(example).collect();
    Ok(LossRun { until_equal, differing: difference.lines, examples, agrees, sent_bytes, resent })
}

/// Compares the dumps until they are equal, and returns the time from `last`; at most [`EQUAL_WITHIN`].
fn await_equal_dumps(running: &Running<'_>, last: Instant, flows: u64) -> Result<Duration, Failure> {
    while last.elapsed() < EQUAL_WITHIN {
        let dumps = running.dumps()?;
        if dumps.replica_count() == flows && dumps.difference().lines == 0 {
            return Ok(last.elapsed());
        }
        thread::sleep(COMPARED_EVERY);
    }
    Ok(EQUAL_WITHIN)
}

fn rows(runs: &Runs<LossRun>) -> Vec<Row> {
    let equal_ms = runs.summaries(|run| super::cost::milliseconds(run.until_equal));
    let disagreeing = |run: &LossRun| f64::from(u8::from(run.agrees == Some(false)));
    let [disagreeing, _] = runs.summaries(disagreeing);
    let [resent, _] = runs.summaries(|run| run.resent);
    vec![
        Row::both("lines that differ after 5 s", runs.summaries(|run| run.differing as f64)).with_goal(Goal::zero),
        Row::single("verify finds a difference after 5 s", disagreeing).with_goal(Goal::zero),
        Row::both("last event to equal dumps, ms (5,000: never)", equal_ms),
        Row::both("sent by the primary, bytes", runs.summaries(|run| run.sent_bytes as f64)),
        Row::single("batches resent", resent),
    ]
}
