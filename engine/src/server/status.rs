//! Fills the status document from the counters and states of engine, stage and kernel.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ctflow_replicate::{PeerState, PeerStatus, Role, SourceStatus};

use super::context::{Query, ServerContext};
use super::document::{Cache, Document, Engine, Gate, Hot, Link, Peer, PeerStream, Refused, Source, SourceStream};
use super::failure::Failure;
use super::job::{Job, PendingQuery, Polled, Step};
use super::out::OutBuffer;
use super::process;
use crate::limits::STAGE_ANSWER_MAX;
use crate::metrics::Counts;
use crate::replication::link::{LinkReport, Transport};
use crate::replication::{PeerReport, ReplicationStatus, StageRequest};
use crate::takeover::Tally;

/// The reason while a kernel resync runs.
const KERNEL_RESYNC_RUNS: &str =
    "the internal cache is being compared with the kernel's table, after a start or after lost events";

/// The job of a client that waits for the status document.
pub(super) struct StatusJob {
    /// The query for the stage's status; `None` without replication.
    pending_status: Option<PendingQuery<ReplicationStatus>>,
}

impl StatusJob {
    /// Creates the query for the stage's status.
    pub(super) fn new(context: &ServerContext) -> Self {
        let query = |_| PendingQuery::new(STAGE_ANSWER_MAX, context, |reply| Query::Stage(StageRequest::Status(reply)));
        Self { pending_status: context.access.replication.as_ref().map(query) }
    }
}

impl Job for StatusJob {
    fn advance(&mut self, context: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        let stage = match &mut self.pending_status {
            None => StageReport::NoStage,
            Some(query) => match query.poll(context) {
                Ok(Polled::Pending(step)) => return Ok(step),
                Ok(Polled::Ready(status)) => StageReport::Status(Box::new(status)),
                // The rest of the status is needed most when the stage is stuck.
                Err(_) => StageReport::NoAnswer,
            },
        };
        out.push_json(&document(context, &stage))?;
        Ok(Step::Done)
    }
}

/// The answer of the replication stage.
enum StageReport {
    /// The daemon has no peers, so there is no stage.
    NoStage,
    /// The stage did not answer in time.
    NoAnswer,
    /// The stage's status.
    Status(Box<ReplicationStatus>),
}

impl StageReport {
    /// The status, if there is one.
    fn status(&self) -> Option<&ReplicationStatus> {
        match self {
            Self::Status(status) => Some(status),
            Self::NoStage | Self::NoAnswer => None,
        }
    }
}

/// Fills the document.
fn document(context: &mut ServerContext, stage: &StageReport) -> Document {
    let totals = context.access.totals();
    let status = stage.status();
    let node = status.map(|status| &status.node);
    let not_ready = not_ready(&totals, stage);
    let uptime = context.now.saturating_duration_since(context.access.started);
    Document {
        version: env!("CARGO_PKG_VERSION"),
        name: node.map(|node| node.name.clone()),
        node: node.map(|node| format!("{:016x}", node.node)),
        epoch: node.and_then(|node| node.epoch).map(|epoch| epoch.0),
        uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        mode: node.map(|node| node.mode.to_string()),
        role: node.map(|node| node.role.to_string()),
        split_brain: status.map(|status| status.split_brain.clone()).unwrap_or_default(),
        ready: not_ready.is_empty(),
        not_ready,
        gate: gate(context, &totals, stage),
        isolated: context.takeover.is_isolated(),
        hot: hot(context),
        engine: engine(context, &totals),
        internal: internal(context, &totals),
        external: status.map(external).unwrap_or_default(),
        source: status.map(|status| source(status, &totals)).unwrap_or_default(),
        peers: status.map(peers).unwrap_or_default(),
        links: status.map(|status| (1..).zip(&status.links).map(link).collect()).unwrap_or_default(),
        refused: status.map(refused).unwrap_or_default(),
        clients: context.clients,
        process: process::measure_process(),
    }
}

/// Lists every reason why a takeover by this node would lose flows now.
fn not_ready(totals: &Counts, stage: &StageReport) -> Vec<String> {
    let mut reasons = Vec::new();
    if totals.resync_pending > 0 {
        reasons.push(KERNEL_RESYNC_RUNS.to_owned());
    }
    if totals.full > 0 {
        reasons.push("the internal cache is full and refuses flows: raise [engine] flows_max".to_owned());
    }
    match stage {
        StageReport::NoStage => {}
        StageReport::NoAnswer => reasons.push("the replication thread does not answer: see the log".to_owned()),
        StageReport::Status(status) => {
            // Anybody can send an unproven hello, so an unproven peer is no reason.
            reasons.extend(status.proven_peers().filter_map(|peer| out_of_sync(peer, status)));
            let refused = status.node.counters.refusals;
            let unreadable = refused.not_authentic + refused.cipher + refused.version;
            if status.proven_peers().next().is_none() && unreadable > 0 {
                reasons.push(format!(
                    "no peer has connected (datagrams refused: {unreadable}): use the same key file and version on \
                     both nodes"
                ));
            }
        }
    }
    reasons
}

/// The reason why this node is not in sync with a peer; `None` when it is.
fn out_of_sync(peer: &PeerStatus, status: &ReplicationStatus) -> Option<String> {
    let label = status.peer_label(peer);
    match peer.state {
        PeerState::Live => {}
        PeerState::Lost => {
            let silent_s = peer.silent_ms / 1_000;
            return Some(format!("peer {label} is lost, silent for {silent_s} s: check the peer and the link"));
        }
        PeerState::Stopped => return Some(format!("peer {label} has stopped: start its daemon")),
        PeerState::Refused(reason) => return Some(format!("peer {label} and this node refuse each other: {reason}")),
        PeerState::Unproven => return None,
    }
    if status.replicas.iter().any(|replica| replica.id.node == peer.node && replica.is_full) {
        return Some(format!("no room for more flows of peer {label}: raise [engine] flows_max"));
    }
    missing_buckets(peer, status)
}

/// The reason while buckets of a peer are unknown; `None` when all are known.
fn missing_buckets(peer: &PeerStatus, status: &ReplicationStatus) -> Option<String> {
    let unknown = status.unknown_buckets_of(peer);
    let label = status.peer_label(peer);
    (unknown > 0).then(|| format!("waiting for flows of peer {label} (parts not received yet: {unknown})"))
}

/// Whether keepalived should let this node take over now, or stay primary. The gate of a primary is always open,
/// because no other node has more flows. The gate of another node is closed only for reasons that end by themselves,
/// and at most for `ready_within`: if the primary is dead, waiting for its flows has no end.
fn gate(context: &mut ServerContext, totals: &Counts, stage: &StageReport) -> Gate {
    let mut waits = Vec::new();
    if context.takeover.role() == Role::Primary {
        context.waiting_since = None;
        return Gate { open: true, waits, held_up_ms: 0 };
    }
    if totals.resync_pending > 0 {
        waits.push(KERNEL_RESYNC_RUNS.to_owned());
    }
    if let StageReport::Status(status) = stage {
        let live = status.proven_peers().filter(|peer| peer.state == PeerState::Live);
        waits.extend(live.filter_map(|peer| missing_buckets(peer, status)));
        if status.proven_peers().next().is_none() {
            waits.push("no peer has connected yet: check the links and the other node".to_owned());
        }
    }
    if waits.is_empty() {
        context.waiting_since = None;
        return Gate { open: true, waits, held_up_ms: 0 };
    }
    let closed = context.now.saturating_duration_since(*context.waiting_since.get_or_insert(context.now));
    let open = closed >= context.takeover.settings.ready_within;
    Gate { open, waits, held_up_ms: u64::try_from(closed.as_millis()).unwrap_or(u64::MAX) }
}

/// The counts of hot mode; `None` without hot mode.
fn hot(context: &ServerContext) -> Option<Hot> {
    let takeover = &context.takeover;
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

/// The counts of the part that receives the kernel's events.
fn engine(context: &ServerContext, totals: &Counts) -> Engine {
    Engine {
        backend: context.access.backend,
        workers: context.access.workers.len(),
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
        flushes: context.flushes.load(Ordering::Relaxed),
        expectations_refused: totals.expectations_refused,
    }
}

/// The counts of the internal cache.
fn internal(context: &ServerContext, totals: &Counts) -> Cache {
    Cache {
        flows: totals.flows,
        expectations: totals.expectations,
        created: totals.flows_created,
        updated: totals.flows_updated,
        destroyed: totals.flows_destroyed,
        refused: totals.flows_refused,
        purged: totals.purged,
        capacity: u64::from(context.access.flows_max) * context.access.workers.len() as u64,
        bytes: totals.cache_bytes,
    }
}

/// The counts of the external cache.
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

/// The counts of the changes sent to the peers.
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
        unencodable: totals.unencodable,
    }
}

/// All peers.
fn peers(status: &ReplicationStatus) -> Vec<Peer> {
    status.node.peers.iter().zip(&status.peers).map(|(peer, report)| self::peer(peer, report)).collect()
}

/// One peer.
fn peer(peer: &PeerStatus, report: &PeerReport) -> Peer {
    let streams = (0..).zip(&peer.received).map(|(stream, received)| PeerStream {
        stream,
        next: received.next,
        unknown: received.unknown.unwrap_or(0),
        held_back: received.held_back_bytes as u64,
        behind_batches: received.behind,
        behind_ms: received.behind_ms,
    });
    let counters = || peer.received.iter().map(|stream| &stream.counters);
    Peer {
        name: peer.name.clone(),
        node: format!("{:016x}", peer.node),
        epoch: peer.epoch.map_or(0, |epoch| epoch.0),
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

/// One link.
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

/// The refused datagrams. The counter `cipher` counts datagrams that do not match this node: not sealed where it has a
/// key, sealed where it has none.
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

/// A time in milliseconds, exact to the microsecond.
fn fractional_ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
