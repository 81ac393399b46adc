//! `commit`: what a takeover waits for: a full replica put into the backup's own kernel, after the primary was cut off.
//!
//! The floor is the same flows put into the same empty table by this process, in batches, while the daemon listens: what the
//! kernel takes for them, events included.

use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::options::Options;
use crate::pair::{Pair, Side};
use crate::program::Programs;
use crate::report::{Goal, Row, Table};
use crate::runs::Runs;
use crate::suite::Suite;
use crate::table::Table as KernelTable;

const FLOWS: u32 = 300_000;
/// Of conntrackd's time: 2.2 times faster.
const SHARE: f64 = 1.0 / 2.2;

/// What was measured of one run.
#[derive(Debug)]
struct Committed {
    /// From the command's start to its end.
    wall: Duration,
    /// The daemon's CPU time for it, the kernel's work included.
    cpu: Duration,
    /// Resident memory of the daemon that it took besides.
    memory_bytes: u64,
    /// Flows that the backup's kernel has too few or too many.
    missing: u64,
    /// Of the kernel alone.
    floor: Duration,
}

/// Runs it.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::flows(options, FLOWS)?;
    let (pair, ours, peer) = (Pair::build()?, Suite::ours(programs)?, Suite::peer()?);
    let runs = Runs::alternate("commit", options.rounds, [&ours, &peer], |suite| committed(&pair, suite, flows))?;
    let title = format!(
        "commit: {} replicated flows put into the backup's kernel, {} rounds",
        super::count(flows),
        options.rounds
    );
    Ok(Table { title, names: [ours.name(), peer.name()], rows: rows(&runs), notes: note.into_iter().collect() })
}

fn committed(pair: &Pair, suite: &Suite, flows: u32) -> Result<Committed, Failure> {
    let mut running = suite.start(pair)?;
    let mut backup = KernelTable::open(pair.host(Side::Backup))?;
    let began = Instant::now();
    backup.create(0..flows)?;
    let floor = began.elapsed();
    pair.flush(Side::Backup)?;
    KernelTable::open(pair.host(Side::Primary))?.create(0..flows)?;
    pair.await_quiet()?;
    running.kill(Side::Primary);
    let before = running.process(Side::Backup)?.cpu()?;
    let resident = running.process(Side::Backup)?.resident_bytes()?;
    let began = Instant::now();
    running.letters(Side::Backup, &["-c"])?;
    let wall = began.elapsed();
    let cpu = running.process(Side::Backup)?.cpu()?.saturating_sub(before);
    let memory_bytes = running.process(Side::Backup)?.resident_bytes()?.saturating_sub(resident);
    let missing = pair.flows(Side::Backup)?.abs_diff(flows.into());
    running.end()?;
    Ok(Committed { wall, cpu, memory_bytes, missing, floor })
}

fn rows(runs: &Runs<Committed>) -> Vec<Row> {
    let wall_ms = runs.summaries(|run| super::cost::milliseconds(run.wall));
    let floor_ms = runs.summaries(|run| super::cost::milliseconds(run.floor));
    vec![
        Row::both("flows missing in the kernel, or too many", runs.summaries(|run| run.missing as f64))
            .goal(Goal::none),
        Row::both("from the command to its end, ms", wall_ms).goal_of_peer(SHARE),
        Row::both("the same flows put in by this process, ms", floor_ms),
        Row::both("CPU of the daemon, ms", runs.summaries(|run| super::cost::milliseconds(run.cpu))),
        Row::both("memory taken besides, KiB", runs.summaries(|run| run.memory_bytes as f64 / 1024.0)),
    ]
}
