//! The status document, key by key. `CONTROL.md` lists them; keys are only ever added.
//!
//! All numbers count since the daemon's start, where nothing else is said.

use std::collections::BTreeMap;

use serde::Serialize;

/// The whole of it.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    /// The program's.
    pub(super) version: &'static str,
    /// The node's; so `node`, `epoch`, `mode` and `role`. All are missing where there is no replication.
    pub(super) name: Option<String>,
    /// 16 hex digits.
    pub(super) node: Option<String>,
    pub(super) epoch: Option<u64>,
    pub(super) uptime_ms: u64,
    pub(super) mode: Option<String>,
    pub(super) role: Option<String>,
    /// Peers that are primary while this node is, and should not be.
    pub(super) split_brain: Vec<String>,
    /// In sync with every peer that was ever met, nothing full, no loss unmended.
    pub(super) ready: bool,
    /// Why not.
    pub(super) not_ready: Vec<String>,
    pub(super) gate: Gate,
    pub(super) isolated: bool,
    /// Missing where replicas do not go into the kernel as they come.
    pub(super) hot: Option<Hot>,
    pub(super) engine: Engine,
    pub(super) internal: Cache,
    pub(super) external: Cache,
    pub(super) source: Source,
    pub(super) peers: Vec<Peer>,
    pub(super) links: Vec<Link>,
    pub(super) refused: Refused,
    /// Clients that are served now, this one included.
    pub(super) clients: usize,
    pub(super) process: Process,
}

/// Whether this node should be let take over.
#[derive(Debug, Serialize)]
pub(super) struct Gate {
    pub(super) open: bool,
    /// What is worth waiting for.
    pub(super) waits: Vec<String>,
    /// How long it has been waited for, since somebody asked first.
    pub(super) held_up_ms: u64,
}

/// What became of what peers told and went into the kernel as it came.
#[derive(Debug, Serialize)]
pub(super) struct Hot {
    pub(super) created: u64,
    pub(super) updated: u64,
    /// Not taken over: newer here.
    pub(super) kept: u64,
    pub(super) ended: u64,
    /// Not confirmed by anybody.
    pub(super) purged: u64,
    /// By the kernel's words.
    pub(super) refused: BTreeMap<String, u64>,
}

/// What reads the kernel's events.
#[derive(Debug, Serialize)]
pub(super) struct Engine {
    pub(super) backend: &'static str,
    pub(super) workers: usize,
    /// Of flows, of all three kinds.
    pub(super) events: u64,
    pub(super) events_new: u64,
    pub(super) events_update: u64,
    pub(super) events_destroy: u64,
    pub(super) moved: u64,
    pub(super) events_expect: u64,
    pub(super) events_lost: u64,
    pub(super) malformed: u64,
    /// Changes of flows that the configuration keeps from the peers.
    pub(super) filtered: u64,
    /// Of all sockets, now.
    pub(super) buffer_bytes: u64,
    /// Times that a worker's flows were compared with the kernel's table.
    pub(super) resyncs: u64,
    /// Times that a worker asked for it, because it had lost something.
    pub(super) resync_lost: u64,
    /// Workers that wait for the end of a resync now.
    pub(super) resync_pending: u64,
    /// Times that a client had a table of the kernel emptied.
    pub(super) flushes: u64,
}

/// A cache. What is held is as of now.
#[derive(Debug, Default, Serialize)]
pub(super) struct Cache {
    pub(super) flows: u64,
    pub(super) expectations: u64,
    pub(super) created: u64,
    pub(super) updated: u64,
    pub(super) destroyed: u64,
    pub(super) refused: u64,
    pub(super) purged: u64,
    /// Flows of each family that there is room for.
    pub(super) capacity: u64,
    /// Of memory, for flows.
    pub(super) bytes: u64,
}

/// What the peers are told.
#[derive(Debug, Default, Serialize)]
pub(super) struct Source {
    pub(super) streams: Vec<SourceStream>,
    /// Flows, expectations and ends.
    pub(super) deltas: u64,
    /// Each once, whoever gets it.
    pub(super) batches: u64,
    /// Of these.
    pub(super) bytes: u64,
    /// Batches, to one peer each.
    pub(super) resent: u64,
    /// Changes that were never told because a later one of the same flow was.
    pub(super) conflated: u64,
    /// The bound of the resend queue, of all streams together.
    pub(super) resend_bytes_max: u64,
    /// Times that batches waited because a peer's window was closed.
    pub(super) deferred: u64,
}

/// A stream of this node.
#[derive(Debug, Serialize)]
pub(super) struct SourceStream {
    pub(super) stream: u16,
    /// The newest batch.
    pub(super) seq: u64,
    /// What every live peer has; nothing where none is live.
    pub(super) acknowledged: Option<u64>,
    pub(super) resend_batches: u64,
    pub(super) resend_bytes: u64,
}

/// Another node.
#[derive(Debug, Serialize)]
pub(super) struct Peer {
    pub(super) name: String,
    /// 16 hex digits.
    pub(super) node: String,
    pub(super) epoch: u64,
    /// greeting, live, lost, stopped or refused.
    pub(super) standing: &'static str,
    pub(super) address: Option<String>,
    pub(super) role: String,
    /// How long ago.
    pub(super) last_heard_ms: u64,
    /// How far it is behind this node.
    pub(super) behind_batches: u64,
    pub(super) behind_bytes: u64,
    pub(super) behind_ms: u64,
    /// How far this node is behind it.
    pub(super) streams: Vec<PeerStream>,
    /// From a change on it to this node's cache.
    pub(super) lag_ms_p50: f64,
    pub(super) lag_ms_p99: f64,
    pub(super) lag_ms_p999: f64,
    pub(super) lag_ms_max: f64,
    /// Times that a batch came before its turn.
    pub(super) gaps: u64,
    /// Times that it went on past what it no longer keeps.
    pub(super) skipped: u64,
    /// Batches that made no sense.
    pub(super) malformed: u64,
}

/// A stream of another node.
#[derive(Debug, Serialize)]
pub(super) struct PeerStream {
    pub(super) stream: u16,
    /// The next batch to apply.
    pub(super) next: u64,
    /// Buckets that are not known.
    pub(super) unknown: u32,
    /// Bytes of batches that came before their turn.
    pub(super) held_back: u64,
    /// Batches that are known to have been told and were not applied.
    pub(super) behind_batches: u64,
    /// How long, since the last that was.
    pub(super) behind_ms: u64,
}

/// A link.
#[derive(Debug, Serialize)]
pub(super) struct Link {
    /// From 1.
    pub(super) number: usize,
    /// udp, multicast or tcp.
    pub(super) transport: &'static str,
    pub(super) local: String,
    pub(super) peers: Vec<String>,
    pub(super) interface: Option<String>,
    pub(super) active: bool,
    pub(super) healthy: bool,
    pub(super) sent: u64,
    pub(super) sent_bytes: u64,
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    pub(super) send_errors: u64,
    pub(super) receive_errors: u64,
    /// Connections of TCP that stand; so the next.
    pub(super) dialled: usize,
    pub(super) accepted: usize,
}

/// Datagrams that were refused, by reason.
#[derive(Debug, Default, Serialize)]
pub(super) struct Refused {
    /// Not this protocol.
    pub(super) foreign: u64,
    /// Another version of it.
    pub(super) version: u64,
    /// In clear, where this node has a key.
    pub(super) clear: u64,
    /// Sealed, where this node has none.
    pub(super) sealed: u64,
    /// Another key, or changed on the way.
    pub(super) key: u64,
    /// A control message that came before.
    pub(super) replayed: u64,
    /// Of a run that was not proven.
    pub(super) unproven: u64,
    /// Of a run before the last that was proven.
    pub(super) epoch: u64,
    /// Control messages that do not parse, or have a block that must be known and is not.
    pub(super) malformed: u64,
    /// Of another node with this node's name.
    pub(super) namesake: u64,
    /// Of one peer too many.
    pub(super) peers: u64,
}

/// This process.
#[derive(Debug, Default, Serialize)]
pub(super) struct Process {
    pub(super) resident_bytes: u64,
    /// Of all threads.
    pub(super) cpu_ms: u64,
}
