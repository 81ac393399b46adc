//! How things stand: the document filled from what engine, stage and kernel tell.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ctflow_replicate::node::{PeerStatus, SourceStatus};
use ctflow_replicate::{PeerState, Role};

use super::context::{Query, ServerContext};
use super::document::{Cache, Document, Engine, Gate, Hot, Link, Peer, PeerStream, Refused, Source, SourceStream};
use super::failure::Failure;
use super::job::{Job, PendingQuery, Polled, Step};
use super::out::OutBuffer;
use super::process;
use crate::limits::STAGE_ANSWER_MAX;
use crate::link::{LinkReport, Transport};
use crate::metrics::Counts;
use crate::replication::{PeerReport, ReplicationStatus, StageRequest, Tally};

/// A client that waits for the document.
pub(super) struct StatusJob {
    /// Where there is a stage to ask.
    pending_status: Option<PendingQuery<ReplicationStatus>>,
}

impl StatusJob {
    pub(super) fn new(world: &ServerContext) -> Self {
        let ask = |_| PendingQuery::new(STAGE_ANSWER_MAX, world, |reply| Query::Stage(StageRequest::Status(reply)));
        Self { pending_status: world.access.replication.as_ref().map(ask) }
    }
}

impl Job for StatusJob {
    fn advance(&mut self, world: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        let stage = match &mut self.pending_status {
            None => StageReport::NoStage,
            Some(question) => match question.poll(world) {
                Ok(Polled::Pending(turn)) => return Ok(turn),
                Ok(Polled::Ready(status)) => StageReport::Status(Box::new(status)),
                // What else there is to say is all the more wanted then.
                Err(_) => StageReport::NoAnswer,
            },
        };
        out.push_json(&document(world, &stage))?;
        Ok(Step::Done)
    }
}

/// What is known of the replication stage.
enum StageReport {
    NoStage,
    NoAnswer,
    Status(Box<ReplicationStatus>),
}

impl StageReport {
    fn status(&self) -> Option<&ReplicationStatus> {
        match self {
            Self::Status(status) => Some(status),
            Self::NoStage | Self::NoAnswer => None,
        }
    }
}

fn document(world: &mut ServerContext, stage: &StageReport) -> Document {
    let totals = world.access.totals();
    let status = stage.status();
    let node = status.map(|status| &status.node);
    let not_ready = not_ready(&totals, stage);
    let uptime = world.now.saturating_duration_since(world.access.started);
    Document {
        version: env!("CARGO_PKG_VERSION"),
        name: node.map(|node| node.name.clone()),
        node: node.map(|node| format!("{:016x}", node.node)),
        epoch: node.map(|node| node.epoch.0),
        uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        mode: node.map(|node| node.mode.to_string()),
        role: node.map(|node| node.role.to_string()),
        split_brain: status.map(|status| status.split_brain.clone()).unwrap_or_default(),
        ready: not_ready.is_empty(),
        not_ready,
        gate: gate(world, &totals, stage),
        isolated: world.access.takeover.is_isolated(),
        hot: hot(world),
        engine: engine(world, &totals),
        internal: internal(world, &totals),
        external: status.map(external).unwrap_or_default(),
        source: status.map(|status| source(status, &totals)).unwrap_or_default(),
        peers: status.map(peers).unwrap_or_default(),
        links: status.map(|status| (1..).zip(&status.links).map(link).collect()).unwrap_or_default(),
        refused: status.map(refused).unwrap_or_default(),
        clients: world.clients,
        process: process::measure_process(),
    }
}

/// Every reason why this node should not take over now.
fn not_ready(totals: &Counts, stage: &StageReport) -> Vec<String> {
    let mut reasons = Vec::new();
    if totals.resync_pending > 0 {
        reasons
            .push("the internal cache is being compared with the kernel's table, after a start or a loss".to_owned());
    }
    if totals.full > 0 {
        reasons.push("the internal cache is full and refuses flows: raise [engine] flows_max".to_owned());
    }
    match stage {
        StageReport::NoStage => {}
        StageReport::NoAnswer => reasons.push("the replication stage does not answer: see the log".to_owned()),
        StageReport::Status(status) => {
            // One that never proved itself was not met.
            reasons.extend(status.proven_peers().filter_map(|peer| out_of_sync(peer, status)));
            let refused = status.node.counters.refusals;
            let unread = refused.not_authentic + refused.cipher + refused.version;
            if status.proven_peers().next().is_none() && unread > 0 {
                reasons.push(format!("no peer was met, and {unread} datagrams could not be read: see the log"));
            }
        }
    }
    reasons
}

/// Why this node is not in sync with a peer.
fn out_of_sync(peer: &PeerStatus, status: &ReplicationStatus) -> Option<String> {
    let name = &peer.name;
    match peer.state {
        PeerState::Live => {}
        PeerState::Lost => return Some(format!("peer {name} is lost: not heard for {} s", peer.silent_ms / 1_000)),
        PeerState::Stopped => return Some(format!("peer {name} has stopped")),
        PeerState::Refused(_) => return Some(format!("peer {name} and this node refuse each other: see the log")),
        PeerState::Unproven => return None,
    }
    if status.replicas.iter().any(|replica| replica.id.node == peer.node && replica.is_full) {
        return Some(format!("the replica of peer {name} is full: raise [engine] flows_max"));
    }
    missing_buckets(peer, status)
}

/// What a peer has yet to tell.
fn missing_buckets(peer: &PeerStatus, status: &ReplicationStatus) -> Option<String> {
    let (name, unknown) = (&peer.name, status.unknown_buckets_of(peer));
    (unknown > 0).then(|| format!("peer {name} has yet to tell {unknown} buckets of flows"))
}

/// Whether keepalived should let this node take over now, or stay what it is: a primary gives way to nobody for what it lacks,
/// for nobody has more. It is held up only by what time mends, and no longer than the operator allows: with the primary gone,
/// who waits for it waits in vain.
fn gate(world: &mut ServerContext, totals: &Counts, stage: &StageReport) -> Gate {
    let mut waits = Vec::new();
    if world.access.takeover.role() == Role::Primary {
        world.waiting_since = None;
        return Gate { open: true, waits, held_up_ms: 0 };
    }
    if totals.resync_pending > 0 {
        waits.push("the internal cache is being compared with the kernel's table".to_owned());
    }
    if let StageReport::Status(status) = stage {
        let live = status.proven_peers().filter(|peer| peer.state == PeerState::Live);
        waits.extend(live.filter_map(|peer| missing_buckets(peer, status)));
        if status.proven_peers().next().is_none() {
            waits.push("no peer has been met yet".to_owned());
        }
    }
    if waits.is_empty() {
        world.waiting_since = None;
        return Gate { open: true, waits, held_up_ms: 0 };
    }
    let held_up = world.now.saturating_duration_since(*world.waiting_since.get_or_insert(world.now));
    let open = held_up >= world.access.takeover.settings.ready_within;
    Gate { open, waits, held_up_ms: u64::try_from(held_up.as_millis()).unwrap_or(u64::MAX) }
}

/// What became of what went into the kernel as it came.
fn hot(world: &ServerContext) -> Option<Hot> {
    let takeover = &world.access.takeover;
    let of = |tally: &Tally| Hot {
        created: tally.created,
        updated: tally.updated,
        kept: tally.kept,
        ended: tally.ended,
        purged: tally.purged,
        refused: tally.refused.clone(),
    };
    takeover.settings.hot.then(|| of(&takeover.tally.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn engine(world: &ServerContext, totals: &Counts) -> Engine {
    Engine {
        backend: world.access.backend,
        workers: world.access.workers.len(),
        events: totals.events(),
        events_new: totals.events_new,
        events_update: totals.events_update,
        events_destroy: totals.events_destroy,
        moved: totals.moved,
        events_expect: totals.events_expect,
        events_lost: totals.events_lost,
        malformed: totals.malformed,
        filtered: totals.filtered,
        buffer_bytes: totals.buffer_bytes,
        resyncs: totals.resyncs,
        resync_lost: totals.resyncs_requested,
        resync_pending: totals.resync_pending,
        flushes: world.flushes.load(Ordering::Relaxed),
    }
}

fn internal(world: &ServerContext, totals: &Counts) -> Cache {
    Cache {
        flows: totals.flows,
        expectations: totals.expectations,
        created: totals.flows_created,
        updated: totals.flows_updated,
        destroyed: totals.flows_destroyed,
        refused: totals.flows_refused,
        purged: totals.purged,
        capacity: u64::from(world.access.flows_max) * world.access.workers.len() as u64,
        bytes: totals.cache_bytes,
    }
}

fn external(status: &ReplicationStatus) -> Cache {
    let replicas = || status.replicas.iter();
    Cache {
        flows: replicas().map(|replica| replica.flows).sum(),
        expectations: replicas().map(|replica| replica.expectations).sum(),
        created: status.changes.created,
        updated: status.changes.updated,
        destroyed: status.changes.destroyed,
        refused: status.changes.refused,
        purged: status.changes.purged,
        capacity: replicas().map(|replica| u64::from(replica.flows_max)).sum(),
        bytes: replicas().map(|replica| replica.bytes).sum(),
    }
}

fn source(status: &ReplicationStatus, totals: &Counts) -> Source {
    let node = &status.node;
    let live = || node.peers.iter().filter(|peer| peer.state == PeerState::Live);
    let stream = |(stream, source): (u16, &SourceStatus)| {
        let behind = live().filter_map(|peer| peer.behind.get(usize::from(stream))).map(|(batches, _)| *batches).max();
        let kept = |oldest: u64| source.newest.saturating_add(1).saturating_sub(oldest);
        SourceStream {
            stream,
            seq: source.newest,
            acknowledged: behind.map(|behind| source.newest.saturating_sub(behind)),
            resend_batches: source.oldest.map_or(0, kept),
            resend_bytes: source.resend_bytes,
        }
    };
    Source {
        streams: (0..).zip(&node.streams).map(stream).collect(),
        deltas: node.streams.iter().map(|stream| stream.entries).sum(),
        batches: node.counters.batches_sent,
        bytes: node.counters.bytes_sent,
        resent: node.counters.batches_resent,
        conflated: totals.conflated,
        resend_bytes_max: node.resend_bytes_max as u64,
        deferred: status.deferred,
    }
}

fn peers(status: &ReplicationStatus) -> Vec<Peer> {
    status.node.peers.iter().zip(&status.peers).map(|(peer, report)| self::peer(peer, report)).collect()
}

fn peer(peer: &PeerStatus, report: &PeerReport) -> Peer {
    let streams = (0..).zip(&peer.received).map(|(stream, received)| PeerStream {
        stream,
        next: received.next,
        unknown: received.unknown,
        held_back: received.held_back_bytes as u64,
        behind_batches: received.behind,
        behind_ms: received.behind_ms,
    });
    let counters = || peer.received.iter().map(|stream| &stream.counters);
    Peer {
        name: peer.name.clone(),
        node: format!("{:016x}", peer.node),
        epoch: peer.epoch.0,
        standing: match peer.state {
            PeerState::Unproven => "greeting",
            PeerState::Live => "live",
            PeerState::Lost => "lost",
            PeerState::Stopped => "stopped",
            PeerState::Refused(_) => "refused",
        },
        address: report.address.map(|address| address.to_string()),
        role: peer.role.to_string(),
        last_heard_ms: peer.silent_ms,
        behind_batches: peer.behind.iter().map(|(batches, _)| batches).sum(),
        behind_bytes: peer.behind_bytes,
        behind_ms: peer.behind.iter().filter(|(batches, _)| *batches > 0).map(|(_, time)| *time).max().unwrap_or(0),
        streams: streams.collect(),
        lag_ms_p50: fractional_ms(report.lag.p50),
        lag_ms_p99: fractional_ms(report.lag.p99),
        lag_ms_p999: fractional_ms(report.lag.p999),
        lag_ms_max: fractional_ms(report.lag.max),
        gaps: counters().map(|counters| counters.missed).sum(),
        skipped: counters().map(|counters| counters.skips).sum(),
        malformed: counters().map(|counters| counters.malformed).sum(),
    }
}

fn link((number, link): (usize, &LinkReport)) -> Link {
    let (dialled, accepted) = link.connections.unwrap_or_default();
    Link {
        number,
        transport: match link.settings.transport {
            Transport::Udp => "udp",
            Transport::Multicast => "multicast",
            Transport::Tcp => "tcp",
        },
        local: link.settings.local.to_string(),
        peers: link.settings.peers.iter().map(ToString::to_string).collect(),
        interface: link.settings.interface.clone(),
        active: link.active,
        healthy: link.healthy,
        sent: link.traffic.sent,
        sent_bytes: link.traffic.sent_bytes,
        received: link.traffic.received,
        received_bytes: link.traffic.received_bytes,
        send_errors: link.traffic.send_errors,
        receive_errors: link.traffic.receive_errors,
        dialled,
        accepted,
    }
}

fn refused(status: &ReplicationStatus) -> Refused {
    let refusals = &status.node.counters.refusals;
    let (clear, sealed) = if status.sealed { (refusals.cipher, 0) } else { (0, refusals.cipher) };
    Refused {
        foreign: refusals.foreign,
        version: refusals.version,
        clear,
        sealed,
        key: refusals.not_authentic,
        replayed: refusals.replayed,
        unproven: refusals.unproven,
        epoch: refusals.old_epoch,
        malformed: refusals.malformed + refusals.unknown_block,
        namesake: refusals.duplicate_name,
        peers: refusals.too_many_peers,
    }
}

/// For the document: to the microsecond.
fn fractional_ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
