//! What listens to the load, and what it has done and taken so far.

use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::drain::Drain;
use ctflow_engine::engine::{Engine, Settings};
use ctflow_engine::filter::ReplicationFilter;
use ctflow_engine::lab::load::LoadTotals;
use ctflow_engine::lab::{backups, sysctl};
use ctflow_engine::link::{LinkSettings, Transport};
use ctflow_engine::metrics::Counts;
use ctflow_engine::replication::{Lag, Replication, ReplicationSettings, ReplicationStatus, StageCpu};
use ctflow_engine::takeover;
use ctflow_engine::threads::{Duty, Thread, Usage};
use ctflow_replicate::{Config, Epoch, Key};
use serde::Serialize;

use super::network::Network;
use crate::config::secret;
use crate::failure::Failure;

const PORT: u16 = 3780;
/// How often it is looked whether all has arrived.
const TICK: Duration = Duration::from_millis(10);
/// All has arrived when nothing came for so long…
const QUIET: Duration = Duration::from_millis(100);
/// … and it is not waited for longer.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// How far events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Depth {
    /// Nobody listens.
    Unheard,
    /// They are received and thrown away: the floor.
    Drain,
    /// They are taken into the shards.
    Capture,
    /// And told to replicas, sealed.
    Replicate,
}

/// What listens.
pub(super) enum Pipeline {
    Unheard,
    Drain(Drain),
    Engine { primary: Arc<Engine>, backups: Vec<Arc<Engine>> },
}

/// What was done and taken until a moment.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) made: LoadTotals,
    pub(super) events: u64,
    pub(super) lost: u64,
    pub(super) worker: Usage,
    pub(super) control: Usage,
    pub(super) stage: Usage,
    /// Of all backups together.
    pub(super) backup: Usage,
    /// Bytes of datagrams to all backups.
    pub(super) wire_bytes: u64,
    pub(super) lag: Lag,
    /// Where it is measured.
    pub(super) counts: Counts,
    /// Likewise, of the primary and of all backups.
    pub(super) stage_cpu: [StageCpu; 2],
}

impl Pipeline {
    /// Has something listen in the calling thread's network.
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

    /// What was done and taken so far; `made` is what the load says at the same time.
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

    /// Events heard and events lost so far.
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

    /// Whether every thread runs.
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
    /// What ended one before.
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
        let ended = || Failure::Bench("a thread of the pipeline has ended by itself".to_owned());
        was_running.then_some(()).ok_or_else(ended)
    }

    /// What the workers have counted.
    fn counts(&self) -> Counts {
        match self {
            Self::Unheard | Self::Drain(_) => Counts::default(),
            Self::Engine { primary, .. } => primary.totals(),
        }
    }

    /// Waits until all that was made has arrived wherever it goes, also what reaches its `age` first; whether it did.
    pub(super) fn wait_until_settled(&self, age: Duration) -> Result<bool, Failure> {
        thread::sleep(age);
        let began = Instant::now();
        let (mut seen, mut since) = (self.arrival_counts(), Instant::now());
        while began.elapsed() < SETTLE_MAX {
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

    /// Whether the shards hold as many flows as the kernel, and the replicas as many as these; only what is not told
    /// before its age is left out.
    pub(super) fn counts_agree(&self, age: Duration) -> Result<bool, Failure> {
        let Self::Engine { primary, backups } = self else { return Ok(true) };
        let held = primary.totals().flows;
        let is_complete = |backup: &Arc<Engine>| !age.is_zero() || replica_flows(backup) == held;
        Ok(held == sysctl::flow_count()? && backups.iter().all(is_complete))
    }

    /// Events heard, and changes that the replicas of all backups have seen.
    fn arrival_counts(&self) -> (u64, u64) {
        let changed = match self {
            Self::Unheard | Self::Drain(_) => 0,
            Self::Engine { backups, .. } => backups.iter().map(|backup| replica_changes(backup)).sum(),
        };
        (self.received().0, changed)
    }
}

/// Bytes of datagrams to all peers.
pub(super) fn link_sent_bytes(status: &ReplicationStatus) -> u64 {
    status.links.iter().map(|link| link.traffic.sent_bytes).sum()
}

/// How the replication stage stands.
pub(super) fn replication_status(replication: &Replication) -> Result<ReplicationStatus, Failure> {
    replication.status().map_err(|error| Failure::Bench(error.to_string()))
}

/// What threads have taken together.
pub(super) fn thread_usage(threads: &[Thread], of: impl Fn(Duty) -> bool) -> Usage {
    let mut sum = Usage::default();
    threads.iter().filter(|thread| of(thread.duty)).for_each(|thread| sum += thread.usage());
    sum
}

/// Flows in the replicas of a backup.
pub(super) fn replica_flows(backup: &Engine) -> u64 {
    let status = backup.replication().and_then(|replication| replication.status().ok());
    status.map_or(0, |status| status.replicas.iter().map(|replica| replica.flows).sum())
}

/// Changes that the replicas of a backup have seen.
fn replica_changes(backup: &Engine) -> u64 {
    let status = backup.replication().and_then(|replication| replication.status().ok());
    status.map_or(0, |status| status.changes.created + status.changes.updated + status.changes.destroyed)
}

/// The nodes of one run: what they share.
pub(super) struct Nodes {
    key: secret::Key,
    backups: usize,
    age: Duration,
}

impl Nodes {
    pub(super) fn new(backups: usize, age: Duration) -> Result<Self, Failure> {
        let key = secret::Key::random().map_err(|error| Failure::Bench(format!("there is no random key: {error}")))?;
        Ok(Self { key, backups, age })
    }

    /// Starts the primary in the calling thread's network; each time under a greater `epoch`.
    pub(super) fn start_primary(&self, settings: &Settings, epoch: u64) -> Result<Arc<Engine>, Failure> {
        let replication = Some(self.replication(0, epoch));
        Ok(Arc::new(Engine::start(&Settings { replication, ..settings.clone() })?))
    }

    /// Starts a backup on its host, likewise.
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
