//! `replicate`: a full table is created in the primary's kernel and flushed again, and replicated to the backup.
//!
//! Each flow causes two events. A daemon's CPU time runs from before the first flow until the link is quiet, and again
//! from before the flush until the link is quiet. The memory a flow is measured in between.

use std::time::Duration;

use crate::failure::Failure;
use crate::options::Options;
use crate::pair::{Pair, Side};
use crate::program::Programs;
use crate::report::{Goal, Row, Table};
use crate::runs::Runs;
use crate::suite::{Running, Suite};
use crate::table::Table as KernelTable;

const FLOWS: u32 = 300_000;
/// The goal of the CPU time an event on the primary, as a share of conntrackd's.
const PRIMARY_SHARE: f64 = 0.333;
/// The goal of the CPU time an event on the backup, as a share of conntrackd's.
const BACKUP_SHARE: f64 = 0.125;
/// The goal of the memory a flow, as a share of conntrackd's.
const MEMORY_SHARE: f64 = 0.25;
/// The goal of the memory a flow, in bytes.
const MEMORY_GOAL_BYTES: f64 = 128.0;

/// The measurements of one run.
#[derive(Debug)]
struct ReplicateRun {
    flows: u64,
    primary: Usage,
    backup: Usage,
    /// The bytes from the primary to the backup while flows were created.
    wire_bytes: u64,
    /// The number of flows that are missing in the replica, surplus, or different.
    missing: u64,
    /// The number of flows in the replica after the flush.
    left: u64,
    /// The number of overruns of the primary's socket.
    overruns: u64,
}

/// The CPU time and memory of one daemon.
#[derive(Debug)]
struct Usage {
    cpu: Duration,
    resident_bytes: u64,
}

/// Runs the scenario.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let (pair, ours, reference) = (Pair::build()?, Suite::ours(programs)?, Suite::reference()?);
    let once = |suite: &Suite| measure(&pair, suite, flows);
    let runs = Runs::alternate("replicate", options.rounds, [&ours, &reference], once)?;
    let title = format!(
        "replicate: {} flows created in the primary's kernel, then flushed, {} rounds; ctflow encrypted",
        super::count(flows),
        options.rounds
    );
    Ok(Table { title, names: [ours.name(), reference.name()], rows: rows(&runs), notes: note.into_iter().collect() })
}

fn measure(pair: &Pair, suite: &Suite, flows: u32) -> Result<ReplicateRun, Failure> {
    let mut running = suite.start(pair)?;
    let mut table = KernelTable::open(pair.host(Side::Primary))?;
    let (before, sent) = (sample_usage(&mut running)?, pair.wire_bytes()?.sent);
    table.create(0..flows)?;
    let flows = pair.flows(Side::Primary)?;
    pair.await_quiet()?;
    let (created, wire_bytes) = (sample_usage(&mut running)?, pair.wire_bytes()?.sent - sent);
    let dumps = running.dumps()?; // conntrackd dumps in a child process, whose CPU time is not counted
    let missing = dumps.difference().lines + dumps.replica_count().abs_diff(flows);
    let dumped = sample_usage(&mut running)?;
    pair.flush(Side::Primary)?;
    pair.await_quiet()?;
    let ended = sample_usage(&mut running)?;
    let left = running.dumps()?.replica_count();
    let overruns = running.overruns(Side::Primary)?;
    running.stop()?;
    let spent = |side: usize| Usage {
        cpu: (created[side].cpu - before[side].cpu) + (ended[side].cpu - dumped[side].cpu),
        resident_bytes: created[side].resident_bytes.saturating_sub(before[side].resident_bytes),
    };
    Ok(ReplicateRun { flows, primary: spent(0), backup: spent(1), wire_bytes, missing, left, overruns })
}

/// Reads the current usage of both daemons: the primary's, then the backup's.
fn sample_usage(running: &mut Running<'_>) -> Result<[Usage; 2], Failure> {
    let mut of = |side| {
        let process = running.process(side)?;
        Ok::<_, Failure>(Usage { cpu: process.cpu()?, resident_bytes: process.resident_bytes()? })
    };
    Ok([of(Side::Primary)?, of(Side::Backup)?])
}

fn rows(runs: &Runs<ReplicateRun>) -> Vec<Row> {
    let event_ns = |of: fn(&ReplicateRun) -> &Usage| {
        runs.summaries(move |run| of(run).cpu.as_nanos() as f64 / (2 * run.flows) as f64)
    };
    let memory =
        |of: fn(&ReplicateRun) -> &Usage| runs.summaries(move |run| of(run).resident_bytes as f64 / run.flows as f64);
    let memory_rows = |name: &str, of| {
        let [ours, reference] = memory(of);
        [
            Row::both(format!("memory a flow, {name}, bytes"), [ours, reference]).with_goal_of_reference(MEMORY_SHARE),
            Row::single(format!("memory a flow, {name}, absolute goal, bytes"), ours)
                .with_goal(|ours| Goal::at_most(MEMORY_GOAL_BYTES, ours)),
        ]
    };
    let mut rows = vec![
        Row::both("flows that differ or are missing", runs.summaries(|run| run.missing as f64)).with_goal(Goal::zero),
        Row::both("flows left after the flush", runs.summaries(|run| run.left as f64)).with_goal(Goal::zero),
        Row::both("CPU an event, primary, ns", event_ns(|run| &run.primary)).with_goal_of_reference(PRIMARY_SHARE),
        Row::both("CPU an event, backup, ns", event_ns(|run| &run.backup)).with_goal_of_reference(BACKUP_SHARE),
    ];
    rows.extend(memory_rows("primary", |run| &run.primary));
    rows.extend(memory_rows("backup", |run| &run.backup));
    rows.push(Row::both("bytes on the wire a flow", runs.summaries(|run| run.wire_bytes as f64 / run.flows as f64)));
    rows.push(Row::both("overruns of the primary's socket", runs.summaries(|run| run.overruns as f64)));
    rows
}
