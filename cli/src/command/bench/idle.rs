//! The cost of a full table while nothing happens: memory, idle CPU time, and the times of both kinds of resync.
//!
//! A benchmark measures this first: later the process would use memory that it freed before, which does not show as
//! growth.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::engine::{Engine, Settings};
use ctflow_engine::kernel::commit::CommitRules;
use ctflow_engine::takeover::CommitScope;
use ctflow_lab::load::{Load, Senders};
use serde::Serialize;

use super::network::Network;
use super::pipeline::{Nodes, Pipeline, link_sent_bytes, replica_flows, replication_status, thread_usage};
use crate::command::progress::Live;
use crate::failure::Failure;

/// Interval at which memory is read while the table fills.
const SAMPLE: Duration = Duration::from_millis(20);
/// The most points of the memory curve, except the last one.
const POINTS: usize = 32;
/// Interval of the checks while waiting.
const TICK: Duration = Duration::from_millis(1);
/// The longest wait for a resync.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// The figures of a full, idle table.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct IdleFigures {
    /// The number of flows.
    pub(super) flows: u64,
    /// Growth of the process's resident memory, for each flow.
    pub(super) primary_bytes_per_flow: f64,
    /// Growth of resident memory by a backup, for each flow; null without a backup.
    pub(super) backup_bytes_per_flow: Option<f64>,
    /// Points of flows and growth of resident memory in bytes, while the table filled.
    pub(super) memory: Vec<(u64, u64)>,
    /// The primary's CPU time without events, in percent of a core.
    pub(super) primary_idle_percent: f64,
    /// A backup's CPU time without events, in percent of a core; null without a backup.
    pub(super) backup_idle_percent: Option<f64>,
    /// Time from the start of a pipeline until its cache matches the kernel's table.
    pub(super) kernel_resync_ms: f64,
    /// Time from the start of a backup until its replica is complete; null without a backup.
    pub(super) peer_resync_ms: Option<f64>,
    /// Bytes of datagrams sent to the backup meanwhile, for each flow; null without a backup. All batches are full.
    pub(super) told_bytes_per_flow: Option<f64>,
    /// Time of committing the replica into the backup's kernel; null without a backup.
    pub(super) commit_ms: Option<f64>,
    /// Flows that the backup's kernel refused in the commit; null without a backup.
    pub(super) commit_refused: Option<u64>,
}

/// Fills the table and measures all figures.
///
/// # Errors
/// The pipeline or the load failed, or a resync took too long.
pub(super) fn measure(
    network: &Network,
    settings: &Settings,
    (load, duration): (Load, Duration),
    live: &mut Live,
) -> Result<IdleFigures, Failure> {
    live.start_step(format!("memory and times of {} flows", load.flows));
    let nodes = Nodes::new(network.backups().len(), Duration::ZERO)?;
    let start = |epoch| match network.backups() {
        [] => Ok(Arc::new(Engine::start(settings)?)),
        _ => nodes.start_primary(settings, epoch),
    };
    let mut senders = Senders::open(load, network.firewall())?;
    let mut primary = start(1)?;
    let empty = resident_bytes();
    let memory = fill_table(&mut senders, &primary, empty)?;
    let pipeline = Pipeline::Engine { primary: primary.clone(), backups: Vec::new() };
    pipeline.wait_until_settled(Duration::ZERO)?;
    let flows = primary.totals().flows;
    let full = resident_bytes();
    let each = |bytes: u64| bytes as f64 / (flows as f64).max(1.0);
    let mut figures =
        IdleFigures { flows, primary_bytes_per_flow: each(full.saturating_sub(empty)), ..IdleFigures::default() };
    figures.memory = thin(memory);
    if let Some(host) = network.backups().first() {
        let (started, sent_before) = (Instant::now(), sent_bytes(&primary)?);
        let backup = nodes.start_backup(network, settings, 0, 1)?;
        wait_until(|| replica_flows(&backup) == flows, "the replica is not complete")?;
        figures.peer_resync_ms = Some(milliseconds(started));
        figures.told_bytes_per_flow = Some(each(sent_bytes(&primary)? - sent_before));
        let with_backup = resident_bytes();
        figures.backup_bytes_per_flow = Some(each(with_backup.saturating_sub(full)));
        let [primary_idle, backup_idle] = idle_percent([&primary, &backup], duration);
        (figures.primary_idle_percent, figures.backup_idle_percent) = (primary_idle, Some(backup_idle));
        let committed = host.run({
            let backup = backup.clone();
            move || backup.commit(CommitScope { flows: true, expectations: false }, CommitRules::default())
        });
        let committed = committed.map_err(|error| Failure::Bench(error.to_string()))?;
        figures.commit_ms = Some(committed.took.as_secs_f64() * 1e3);
        figures.commit_refused = Some(committed.tally.refused.values().sum());
    } else {
        let [primary_idle] = idle_percent([&primary], duration);
        figures.primary_idle_percent = primary_idle;
    }
    drop(pipeline);
    drop(primary);
    let started = Instant::now();
    primary = start(2)?;
    wait_until(|| primary.totals().resync_pending == 0, "the kernel resync is not complete")?;
    figures.kernel_resync_ms = milliseconds(started);
    drop(primary);
    match network {
        Network::Host => senders.clear()?,
        Network::Lab { .. } => network.flush()?,
    }
    Ok(figures)
}

/// Returns the bytes that an engine has sent to its peers.
///
/// # Errors
/// The replication stage does not answer.
fn sent_bytes(engine: &Engine) -> Result<u64, Failure> {
    engine.replication().map_or(Ok(0), |replication| Ok(link_sent_bytes(&replication_status(replication)?)))
}

/// Creates all flows. Returns points of flows and growth of resident memory over `empty`, in bytes.
///
/// # Errors
/// The load failed.
fn fill_table(senders: &mut Senders, primary: &Engine, empty: u64) -> Result<Vec<(u64, u64)>, Failure> {
    thread::scope(|scope| {
        let filling = scope.spawn(|| senders.fill());
        let mut memory = vec![(0, 0)];
        while !filling.is_finished() {
            thread::sleep(SAMPLE);
            memory.push((primary.totals().flows, resident_bytes().saturating_sub(empty)));
        }
        let filled = filling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        filled.map(|()| memory).map_err(Failure::from)
    })
}

/// Returns about [`POINTS`] of the points, with the last one.
fn thin(points: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let (step, last) = (points.len().div_ceil(POINTS).max(1), points.len().saturating_sub(1));
    let kept = points.into_iter().enumerate().filter(|(index, _)| index % step == 0 || *index == last);
    kept.map(|(_, point)| point).collect()
}

/// Measures the CPU time of engines without events, in percent of a core.
fn idle_percent<const N: usize>(engines: [&Arc<Engine>; N], duration: Duration) -> [f64; N] {
    let all = |engine: &Arc<Engine>| thread_usage(engine.threads(), |_| true);
    let (before, started) = (engines.map(|engine| (engine, all(engine))), Instant::now());
    thread::sleep(duration);
    let time = started.elapsed().as_secs_f64();
    before.map(|(engine, before)| 100.0 * all(engine).since(&before).cpu.as_secs_f64() / time)
}

/// Waits until `is_done` returns true. `what` describes the state before, for the error.
///
/// # Errors
/// It took longer than [`WAIT_MAX`].
fn wait_until(mut is_done: impl FnMut() -> bool, what: &str) -> Result<(), Failure> {
    let started = Instant::now();
    while !is_done() {
        if started.elapsed() > WAIT_MAX {
            return Err(Failure::Bench(format!("{what} after {} s", WAIT_MAX.as_secs())));
        }
        thread::sleep(TICK);
    }
    Ok(())
}

/// Returns the milliseconds since a moment.
fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Returns the resident memory of this process in bytes.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
