//! `commit`: what a takeover waits for: a full replica put into the backup's own kernel, after the primary was cut off.
//!
//! Meanwhile the backup has 10,000 events a second of its own, of flows that begin and end.
//!
//! The floor is the same flows put into the same empty table by this process, in batches, while the daemon listens: what the
//! kernel takes for them, events included.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
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
/// Flows that begin and end at once, between two breaks: 10,000 events a second.
const BUSY_FLOWS: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Of conntrackd's time: 2.2 times faster.
const SHARE: f64 = 1.0 / 2.2;

/// What was measured of one run.
#[derive(Debug)]
struct CommitRun {
    /// From the command's start to its end.
    wall: Duration,
    /// The daemon's CPU time for it, the kernel's work included.
    cpu: Duration,
    /// Resident memory of the daemon that it took besides.
    memory_bytes: u64,
    /// Flows that the backup's kernel has too few or too many.
    missing: u64,
    /// Times that the backup's daemon lost events.
    overruns: u64,
    /// Of the kernel alone.
    baseline: Duration,
}

/// Runs it.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let (pair, ours, peer) = (Pair::build()?, Suite::ours(programs)?, Suite::reference()?);
    let runs = Runs::alternate("commit", options.rounds, [&ours, &peer], |suite| measure(&pair, suite, flows))?;
    let title = format!(
        "commit: {} replicated flows put into the backup's kernel, {} rounds",
        super::count(flows),
        options.rounds
    );
    Ok(Table { title, names: [ours.name(), peer.name()], rows: rows(&runs), notes: note.into_iter().collect() })
}

fn measure(pair: &Pair, suite: &Suite, flows: u32) -> Result<CommitRun, Failure> {
    let mut running = suite.start(pair)?;
    let mut backup = KernelTable::open(pair.host(Side::Backup))?;
    let began = Instant::now();
    backup.create(0..flows)?;
    let floor = began.elapsed();
    pair.flush(Side::Backup)?;
    KernelTable::open(pair.host(Side::Primary))?.create(0..flows)?;
    pair.await_quiet()?;
    running.kill(Side::Primary);
    // Another machine's flows would not be in the one hash table that all namespaces share.
    pair.flush(Side::Primary)?;
    let before = running.process(Side::Backup)?.cpu()?;
    let resident = running.process(Side::Backup)?.resident_bytes()?;
    let (done, own) = (AtomicBool::new(false), flows..flows.saturating_add(BUSY_FLOWS));
    let (wall, others) = thread::scope(|scope| {
        let others = scope.spawn(|| keep_busy(pair, own, &done));
        let began = Instant::now();
        let committed = running.run_daemon_command(Side::Backup, &["-c"]);
        let wall = began.elapsed();
        done.store(true, Ordering::Relaxed);
        (committed.map(|()| wall), others.join())
    });
    let wall = wall?;
    others.unwrap_or_else(|panic| resume_unwind(panic))?;
    let cpu = running.process(Side::Backup)?.cpu()?.saturating_sub(before);
    let memory_bytes = running.process(Side::Backup)?.resident_bytes()?.saturating_sub(resident);
    let missing = pair.flows(Side::Backup)?.abs_diff(flows.into());
    let overruns = running.overruns(Side::Backup)?;
    running.stop()?;
    Ok(CommitRun { wall, cpu, memory_bytes, missing, overruns, baseline: floor })
}

/// Has flows begin and end in the backup's kernel until it is `done`.
fn keep_busy(pair: &Pair, flows: Range<u32>, done: &AtomicBool) -> Result<(), Failure> {
    let mut table = KernelTable::open(pair.host(Side::Backup))?;
    while !done.load(Ordering::Relaxed) {
        table.create(flows.clone())?;
        table.delete(flows.clone())?;
        thread::sleep(BUSY_PAUSE);
    }
    Ok(())
}

fn rows(runs: &Runs<CommitRun>) -> Vec<Row> {
    let wall_ms = runs.summaries(|run| super::cost::milliseconds(run.wall));
    let floor_ms = runs.summaries(|run| super::cost::milliseconds(run.baseline));
    vec![
        Row::both("flows missing in the kernel, or too many", runs.summaries(|run| run.missing as f64))
            .with_goal(Goal::zero),
        Row::both("times that the backup lost events", runs.summaries(|run| run.overruns as f64)).with_goal(Goal::zero),
        Row::both("from the command to its end, ms", wall_ms).with_goal_of_reference(SHARE),
        Row::both("the same flows put in by this process, ms", floor_ms),
        Row::both("CPU of the daemon, ms", runs.summaries(|run| super::cost::milliseconds(run.cpu))),
        Row::both("memory taken besides, KiB", runs.summaries(|run| run.memory_bytes as f64 / 1024.0)),
    ]
}
