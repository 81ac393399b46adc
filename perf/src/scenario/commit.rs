//! `commit`: the backup commits a full replica to its kernel after the primary was killed, as in a takeover.
//!
//! Meanwhile other flows start and end in the backup's kernel, at 10,000 events a second.
//!
//! The baseline is the time in which this process inserts the same flows into the same empty table, in batches, while
//! the daemon listens: the kernel's time for them, including events.

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
/// The number of other flows created and deleted between two pauses, which makes 10,000 events a second.
const BUSY_FLOWS: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// The goal of the commit's time, as a share of conntrackd's: 2.2 times faster.
const SHARE: f64 = 1.0 / 2.2;

/// The measurements of one run.
#[derive(Debug)]
struct CommitRun {
    /// The time from the command's start to its end.
    wall: Duration,
    /// The daemon's CPU time for the commit, including the kernel's work.
    cpu: Duration,
    /// The growth of the daemon's resident memory.
    memory_bytes: u64,
    /// The number of flows missing or surplus in the backup's kernel.
    missing: u64,
    /// The number of overruns of the backup's socket.
    overruns: u64,
    /// The time in which this process inserts the same flows.
    baseline: Duration,
}

/// Runs the scenario.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let (pair, ours, reference) = (Pair::build()?, Suite::ours(programs)?, Suite::reference()?);
    let runs = Runs::alternate("commit", options.rounds, [&ours, &reference], |suite| measure(&pair, suite, flows))?;
    let title = format!(
        "commit: {} replicated flows committed to the backup's kernel, {} rounds",
        super::count(flows),
        options.rounds
    );
    Ok(Table { title, names: [ours.name(), reference.name()], rows: rows(&runs), notes: note.into_iter().collect() })
}

fn measure(pair: &Pair, suite: &Suite, flows: u32) -> Result<CommitRun, Failure> {
    let mut running = suite.start(pair)?;
    let mut backup = KernelTable::open(pair.host(Side::Backup))?;
    let started = Instant::now();
    backup.create(0..flows)?;
    let baseline = started.elapsed();
    pair.flush(Side::Backup)?;
    KernelTable::open(pair.host(Side::Primary))?.create(0..flows)?;
    pair.await_quiet()?;
    running.kill(Side::Primary);
    // All namespaces share one hash table. The flows of a primary on another machine would not be in it.
    pair.flush(Side::Primary)?;
    let before = running.process(Side::Backup)?.cpu()?;
    let resident = running.process(Side::Backup)?.resident_bytes()?;
    let (done, own) = (AtomicBool::new(false), flows..flows.saturating_add(BUSY_FLOWS));
    let (wall, others) = thread::scope(|scope| {
        let others = scope.spawn(|| keep_busy(pair, own, &done));
        let started = Instant::now();
        let committed = running.run_daemon_command(Side::Backup, &["-c"]);
        let wall = started.elapsed();
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
    Ok(CommitRun { wall, cpu, memory_bytes, missing, overruns, baseline })
}

/// Creates and deletes flows in the backup's kernel until `done` is set.
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
    let baseline_ms = runs.summaries(|run| super::cost::milliseconds(run.baseline));
    vec![
        Row::both("flows missing or surplus in the kernel", runs.summaries(|run| run.missing as f64))
            .with_goal(Goal::zero),
        Row::both("overruns of the backup's socket", runs.summaries(|run| run.overruns as f64)).with_goal(Goal::zero),
        Row::both("from the command to its end, ms", wall_ms).with_goal_of_reference(SHARE),
        Row::both("same flows inserted by this process, ms", baseline_ms),
        Row::both("CPU of the daemon, ms", runs.summaries(|run| super::cost::milliseconds(run.cpu))),
        Row::both("growth of memory, KiB", runs.summaries(|run| run.memory_bytes as f64 / 1024.0)),
    ]
}
