//! `loss`: flows come and go while each side loses one datagram of ten that the other sends.
//!
//! After the last event both caches are compared again and again until they are equal, and once more when 5 s are over. The
//! loss goes on all the while.

use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::options::Options;
use crate::pair::{Pair, Side};
use crate::program::Programs;
use crate::report::{Goal, Row, Table};
use crate::runs::Runs;
use crate::suite::{Running, Suite, number};
use crate::table::Table as KernelTable;

const FLOWS: u32 = 100_000;
/// Of ten flows so many are deleted.
const DELETED_OF_TEN: u32 = 6;
/// One datagram of so many is lost.
const LOST_OF: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
/// After the last event.
const EQUAL_WITHIN: Duration = Duration::from_secs(5);
/// How often the caches are compared: each time costs what a dump of both costs.
const COMPARED_EVERY: Duration = Duration::from_millis(100);

/// What was measured of one run.
#[derive(Debug)]
struct Lossy {
    /// From the last event until both dumps were found equal, what dumping took included; the longest wait where they were not.
    until_equal: Duration,
    /// Lines that differ when the time is over.
    differing: u64,
    /// Of these lines, one of each side.
    examples: Vec<String>,
    /// Whether the program finds them equal then, where it can say.
    agrees: Option<bool>,
    /// Bytes sent by the primary.
    sent_bytes: u64,
    /// Batches that the primary sent again, where it says so.
    resent: f64,
}

/// Runs it.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::flows(options, FLOWS)?;
    let (pair, ours, peer) = (Pair::build()?, Suite::ours(programs)?, Suite::peer()?);
    let once = |suite: &Suite| {
        pair.lose_one_of(LOST_OF)?;
        let measured = lossy(&pair, suite, flows);
        pair.lose_nothing()?;
        measured
    };
    let runs = Runs::alternate("loss", options.rounds, [&ours, &peer], once)?;
    let title = format!(
        "loss: {} flows, {} of them deleted, one datagram of {LOST_OF} lost both ways, {} rounds",
        super::count(flows),
        super::count(deleted(flows)),
        options.rounds
    );
    let examples = runs.ours.iter().flat_map(|run| &run.examples).take(2).cloned();
    let notes = note.into_iter().chain(examples).collect();
    Ok(Table { title, names: [ours.name(), peer.name()], rows: rows(&runs), notes })
}

fn deleted(flows: u32) -> u32 {
    flows / 10 * DELETED_OF_TEN
}

fn lossy(pair: &Pair, suite: &Suite, flows: u32) -> Result<Lossy, Failure> {
    let running = suite.start(pair)?;
    let mut table = KernelTable::open(pair.host(Side::Primary))?;
    let sent = pair.wire()?.sent;
    table.create(0..flows)?;
    table.delete(0..deleted(flows))?;
    let last = Instant::now();
    let until_equal = equal_after(&running, last, u64::from(flows - deleted(flows)))?;
    thread::sleep(EQUAL_WITHIN.saturating_sub(last.elapsed()));
    let agrees = suite.is_ours().then(|| running.agrees()).transpose()?;
    let difference = running.dumps()?.difference();
    let sent_bytes = pair.wire()?.sent - sent;
    let resent = if suite.is_ours() { number(&running.status(Side::Primary)?["source"]["resent"]) } else { 0.0 };
    running.end()?;
    let sides = [("primary", difference.left), ("backup", difference.right)];
    let example = |(side, line): (&str, Option<String>)| line.map(|line| format!("Only the {side} has: {line}"));
    let examples = sides.into_iter().filter_map(example).collect();
    Ok(Lossy { until_equal, differing: difference.lines, examples, agrees, sent_bytes, resent })
}

/// Compares until they are equal, at most as long as they have time.
fn equal_after(running: &Running<'_>, last: Instant, flows: u64) -> Result<Duration, Failure> {
    while last.elapsed() < EQUAL_WITHIN {
        let dumps = running.dumps()?;
        if dumps.replicated() == flows && dumps.difference().lines == 0 {
            return Ok(last.elapsed());
        }
        thread::sleep(COMPARED_EVERY);
    }
    Ok(EQUAL_WITHIN)
}

fn rows(runs: &Runs<Lossy>) -> Vec<Row> {
    let equal_ms = runs.summaries(|run| super::cost::milliseconds(run.until_equal));
    let disagreeing = |run: &Lossy| f64::from(u8::from(run.agrees == Some(false)));
    let [disagreeing, _] = runs.summaries(disagreeing);
    let [resent, _] = runs.summaries(|run| run.resent);
    vec![
        Row::both("lines that differ after 5 s", runs.summaries(|run| run.differing as f64)).goal(Goal::none),
        Row::single("verify finds a difference after 5 s", disagreeing).goal(Goal::none),
        Row::both("last event to equal dumps, ms (5,000: never)", equal_ms),
        Row::both("sent by the primary, bytes", runs.summaries(|run| run.sent_bytes as f64)),
        Row::single("batches sent again", resent),
    ]
}
