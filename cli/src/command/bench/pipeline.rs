//! The pipeline that receives a load's events, and its counters and CPU time.

use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::engine::{Engine, Settings};
use ctflow_engine::metrics::Counts;
use ctflow_engine::replication::filter::ReplicationFilter;
use ctflow_engine::replication::link::{LinkSettings, Transport};
use ctflow_engine::replication::{Lag, Replication, ReplicationSettings, ReplicationStatus, StageCpu};
use ctflow_engine::takeover;
use ctflow_engine::worker::threads::{Duty, Thread, Usage};
use ctflow_lab::drain::Drain;
use ctflow_lab::load::LoadTotals;
use ctflow_lab::{backups, sysctl};
use ctflow_replicate::{Config, Epoch, Key};
use serde::Serialize;

use super::network::Network;
use crate::config::secret;
use crate::failure::Failure;

/// The UDP port of all nodes' links.
const PORT: u16 = 3780;
/// Interval of the checks whether everything has arrived.
const TICK: Duration = Duration::from_millis(10);
/// Everything has arrived when nothing has arrived for this long.
const QUIET: Duration = Duration::from_millis(100);
/// The longest wait for everything to arrive.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// How far events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Depth {
    /// Nothing listens, so the kernel sends no event.
    Unheard,
    /// Events are received and discarded: the floor.
    Drain,
    /// Events are applied to the shards.
    Capture,
    /// Events are applied to the shards, and changes are sent to replicas in sealed batches.
    Replicate,
}

/// The running threads of a depth. Dropping it stops them.
pub(super) enum Pipeline {
    /// No thread.
    Unheard,
    /// Threads that discard events.
    Drain(Drain),
    /// An engine on the firewall, and one for each backup.
    Engine { primary: Arc<Engine>, backups: Vec<Arc<Engine>> },
}

/// All counters and CPU times at one moment.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// When they were read.
    pub(super) at: Instant,
    /// The load's counters.
    pub(super) made: LoadTotals,
    /// Events received.
    pub(super) events: u64,
    /// Events lost.
    pub(super) lost: u64,
    /// CPU time and wake-ups of the primary's workers, or of the floor's threads.
    pub(super) worker: Usage,
    /// CPU time and wake-ups of the primary's control thread.
    pub(super) control: Usage,
    /// CPU time and wake-ups of the primary's replication stage.
    pub(super) stage: Usage,
    /// CPU time and wake-ups of all backups together.
    pub(super) backup: Usage,
    /// Bytes of datagrams to all backups.
    pub(super) wire_bytes: u64,
    /// Latencies to all replicas.
    pub(super) lag: Lag,
    /// The primary's counters, with the CPU time of its workers' steps if that is metered.
    pub(super) counts: Counts,
    /// The CPU time of the replication stage's steps if that is metered: of the primary, and of all backups together.
    pub(super) stage_cpu: [StageCpu; 2],
}

impl Pipeline {
    /// Starts the threads of a depth in the calling thread's network, and on the backups' hosts. A flow must reach
    /// `age` to be replicated.
    ///
    /// # Errors
    /// A thread or a socket cannot be started.
    pub(super) fn start(depth: Depth, network: &Network, settings: &Settings, age: Duration) -> Result<Self, Failure> {
        Ok(match depth {
            Depth::Unheard => Self::Unheard,
            Depth::Drain => Self::Drain(Drain::start(settings)?),
            Depth::Capture => Self::Engine { primary: Arc::new(Engine::start(settings)?), backups: Vec::new() },
            Depth::Replicate => {
                let nodes = Nodes::new(network.backups().len(), age)?;
                let backups = (0..network.backups().len()).map(|index| nodes.start_backup(network, settings, index, 1));
                let backups = backups.collect::<Result<_, Failure>>()?;
                Self::Engine { primary: nodes.start_primary(settings, 1)?, backups }
            }
        })
    }

    /// Reads all counters. `made` reads those of the load at the same time.
    ///
    /// # Errors
    /// A replication stage does not answer.
    pub(super) fn read_counters(&self, made: impl FnOnce() -> LoadTotals) -> Result<Reading, Failure> {
        let (at, made, (events, lost)) = (Instant::now(), made(), self.received());
        let mut reading = Reading {
            at,
            made,
            events,
            lost,
            worker: Usage::default(),
            control: Usage::default(),
            stage: Usage::default(),
            backup: Usage::default(),
            wire_bytes: 0,
            lag: Lag::default(),
            counts: self.counts(),
            stage_cpu: Default::default(),
        };
        match self {
            Self::Unheard => {}
            Self::Drain(drain) => reading.worker = thread_usage(drain.threads(), |_| true),
            Self::Engine { primary, backups } => {
                reading.worker = thread_usage(primary.threads(), |duty| matches!(duty, Duty::Worker(_)));
                reading.control = thread_usage(primary.threads(), |duty| duty == Duty::Control);
                reading.stage = thread_usage(primary.threads(), |duty| duty == Duty::Stage);
                for backup in backups {
                    reading.backup += thread_usage(backup.threads(), |_| true);
                    if let Some(replication) = backup.replication() {
                        reading.lag.merge(&replication.lag().map_err(|error| Failure::Bench(error.to_string()))?);
                        reading.stage_cpu[1].receive_ns += replication_status(replication)?.cpu.receive_ns;
                    }
                }
                if let Some(replication) = primary.replication() {
                    let status = replication_status(replication)?;
                    reading.wire_bytes = link_sent_bytes(&status);
                    reading.stage_cpu[0] = status.cpu;
                }
            }
        }
        Ok(reading)
    }

    /// Returns the events received and the events lost so far.
    pub(super) fn received(&self) -> (u64, u64) {
        match self {
            Self::Unheard => (0, 0),
            Self::Drain(drain) => {
                let totals = drain.totals();
                (totals.datagrams, totals.lost)
            }
            Self::Engine { primary, .. } => {
                let totals = primary.totals();
                (totals.events() + totals.events_expect, totals.events_lost)
            }
        }
    }

    /// Returns whether every thread runs.
    pub(super) fn is_running(&self) -> bool {
        match self {
            Self::Unheard => true,
            Self::Drain(drain) => drain.is_running(),
            Self::Engine { primary, backups } => {
                primary.is_running() && backups.iter().all(|backup| backup.is_running())
            }
        }
    }

    /// Stops every thread.
    ///
    /// # Errors
    /// A thread ended before.
    pub(super) fn stop(self) -> Result<(), Failure> {
        let was_running = self.is_running();
        match self {
            Self::Unheard => {}
            Self::Drain(drain) => drain.stop()?,
            Self::Engine { primary, backups } => {
                for engine in iter::once(primary).chain(backups).filter_map(Arc::into_inner) {
                    engine.stop()?;
                }
            }
        }
        let ended = || Failure::Bench("a thread of the pipeline ended during a trial".to_owned());
        was_running.then_some(()).ok_or_else(ended)
    }

    /// Returns the primary's counters.
    fn counts(&self) -> Counts {
        match self {
            Self::Unheard | Self::Drain(_) => Counts::default(),
            Self::Engine { primary, .. } => primary.totals(),
        }
    }

    /// Waits until all events have arrived in shards and replicas, also those of flows that must reach `age` first.
    /// Returns whether that happened within [`SETTLE_MAX`].
    pub(super) fn wait_until_settled(&self, age: Duration) -> Result<bool, Failure> {
        thread::sleep(age);
        let started = Instant::now();
        let (mut seen, mut since) = (self.arrival_counts(), Instant::now());
        while started.elapsed() < SETTLE_MAX {
            thread::sleep(TICK);
            let now = self.arrival_counts();
            if now != seen || self.counts().resync_pending > 0 {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() >= QUIET {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether the shards hold as many flows as the kernel, and each backup's replicas as many as the shards.
    /// With an
    /// `age` replicas may hold fewer, because young flows are not replicated, and are not compared.
    ///
    /// # Errors
    /// The kernel's number of flows cannot be read.
    pub(super) fn counts_agree(&self, age: Duration) -> Result<bool, Failure> {
        let Self::Engine { primary, backups } = self else { return Ok(true) };
        let held = primary.totals().flows;
        let is_complete = |backup: &Arc<Engine>| !age.is_zero() || replica_flows(backup) == held;
        Ok(held == sysctl::flow_count()? && backups.iter().all(is_complete))
    }

    /// Returns the events received, and the changes that all backups have applied to their replicas.
    fn arrival_counts(&self) -> (u64, u64) {
        let changed = match self {
            Self::Unheard | Self::Drain(_) => 0,
            Self::Engine { backups, .. } => backups.iter().map(|backup| replica_changes(backup)).sum(),
        };
        (self.received().0, changed)
    }
}

/// Returns the bytes of datagrams sent to all peers.
pub(super) fn link_sent_bytes(status: &ReplicationStatus) -> u64 {
    status.links.iter().map(|link| link.traffic.sent_bytes).sum()
}

/// Queries the status of a replication stage.
///
/// # Errors
/// The stage does not answer.
pub(super) fn replication_status(replication: &Replication) -> Result<ReplicationStatus, Failure> {
    replication.status().map_err(|error| Failure::Bench(error.to_string()))
}

/// Returns the sum of the usage of those threads whose duty `of` accepts.
pub(super) fn thread_usage(threads: &[Thread], of: impl Fn(Duty) -> bool) -> Usage {
    let mut sum = Usage::default();
    threads.iter().filter(|thread| of(thread.duty)).for_each(|thread| sum += thread.usage());
    sum
}

/// Returns the number of flows in a backup's replicas; 0 if its stage does not answer.
pub(super) fn replica_flows(backup: &Engine) -> u64 {
    let status = backup.replication().and_then(|replication| replication.status().ok());
    status.map_or(0, |status| status.replicas.iter().map(|replica| replica.flows).sum())
}

/// Returns the number of changes that a backup has applied to its replicas; 0 if its stage does not answer.
fn replica_changes(backup: &Engine) -> u64 {
    let status = backup.replication().and_then(|replication| replication.status().ok());
    status.map_or(0, |status| status.changes.created + status.changes.updated + status.changes.destroyed)
}

/// What the nodes of one pipeline share.
pub(super) struct Nodes {
    key: secret::Key,
    /// The number of backups.
    backups: usize,
    /// The age that a flow must reach to be replicated.
    age: Duration,
}

impl Nodes {
    /// Creates a random key for a primary and its backups.
    ///
    /// # Errors
    /// There is no random key.
    pub(super) fn new(backups: usize, age: Duration) -> Result<Self, Failure> {
        let key = secret::Key::random().map_err(|error| Failure::Bench(format!("there is no random key: {error}")))?;
        Ok(Self { key, backups, age })
    }

    /// Starts the primary in the calling thread's network. Each start needs a greater `epoch`.
    ///
    /// # Errors
    /// A thread or a socket cannot be started.
    pub(super) fn start_primary(&self, settings: &Settings, epoch: u64) -> Result<Arc<Engine>, Failure> {
        let replication = Some(self.replication(0, epoch));
        Ok(Arc::new(Engine::start(&Settings { replication, ..settings.clone() })?))
    }

    /// Starts the backup with this index, from 0, on its host. Each start needs a greater `epoch`.
    ///
    /// # Errors
    /// A thread or a socket cannot be started, or the network has no such backup.
    pub(super) fn start_backup(
        &self,
        network: &Network,
        settings: &Settings,
        index: usize,
        epoch: u64,
    ) -> Result<Arc<Engine>, Failure> {
        let replication = Some(self.replication(index + 1, epoch));
        let settings = Settings { workers: 1, pin: false, replication, ..settings.clone() };
        let host = network.backups().get(index).ok_or_else(|| Failure::Bench("there is no such backup".to_owned()))?;
        Ok(Arc::new(host.run(move || Engine::start(&settings))?))
    }

    /// Returns the settings of a node: the primary has number 0, backups have numbers from 1 on.
    fn replication(&self, number: usize, epoch: u64) -> ReplicationSettings {
        let at = |number: usize| SocketAddr::new(backups::sync_address(number), PORT);
        let peers = if number == 0 { (1..=self.backups).map(at).collect() } else { vec![at(0)] };
        let config = Config::new(&format!("node{number}"), 1, Epoch::new(epoch, 0));
        ReplicationSettings {
            node: Config { key: Some(Key::new(*self.key.bytes())), ..config },
            links: vec![LinkSettings { transport: Transport::Udp, local: at(number), peers, interface: None }],
            filter: ReplicationFilter {
                least_age_ms: u32::try_from(self.age.as_millis()).unwrap_or(u32::MAX),
                ..ReplicationFilter::default()
            },
            replica_flows_max: ctflow_engine::limits::FLOWS_PER_SHARD,
            takeover: takeover::Settings::default(),
            isolation: None,
            role_file: None,
        }
    }
}
