//! The status document, key by key. `CONTROL.md` lists the keys. Keys are only ever added.
//!
//! All numbers count since the daemon's start unless stated otherwise.

use std::collections::BTreeMap;

use serde::Serialize;

/// The status document.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    /// The version of the program.
    pub(super) version: &'static str,
    /// The node's name. `name`, `node`, `epoch`, `mode` and `role` are null without replication.
    pub(super) name: Option<String>,
    /// The node id, 16 hex digits.
    pub(super) node: Option<String>,
    pub(super) epoch: Option<u64>,
    pub(super) uptime_ms: u64,
    pub(super) mode: Option<String>,
    pub(super) role: Option<String>,
    /// Names of the peers in split brain with this node.
    pub(super) split_brain: Vec<String>,
    /// In sync with every peer that was ever proven, nothing full, every loss repaired.
    pub(super) ready: bool,
    /// Every reason against `ready`.
    pub(super) not_ready: Vec<String>,
    pub(super) gate: Gate,
    /// Whether isolation blocks traffic to this node.
    pub(super) isolated: bool,
    /// Null without hot mode.
    pub(super) hot: Option<Hot>,
    pub(super) engine: Engine,
    pub(super) internal: Cache,
    pub(super) external: Cache,
    pub(super) source: Source,
    pub(super) peers: Vec<Peer>,
    pub(super) links: Vec<Link>,
    pub(super) refused: Refused,
    /// Clients connected now, this one included.
    pub(super) clients: usize,
    pub(super) process: Process,
}

/// Whether keepalived should let this node take over.
#[derive(Debug, Serialize)]
pub(super) struct Gate {
    pub(super) open: bool,
    /// What to wait for: each reason ends by itself.
    pub(super) waits: Vec<String>,
    /// How long the gate is closed, since the first status request that found it closed.
    pub(super) held_up_ms: u64,
}

/// Counts of what hot mode wrote into the kernel.
#[derive(Debug, Serialize)]
pub(super) struct Hot {
    pub(super) created: u64,
    pub(super) updated: u64,
    /// Kept unchanged, because they are newer here.
    pub(super) kept: u64,
    pub(super) ended: u64,
    /// Deleted, because no peer confirmed them.
    pub(super) purged: u64,
    /// Refused entries by reason.
    pub(super) refused: BTreeMap<String, u64>,
}

/// The part that receives the kernel's events.
#[derive(Debug, Serialize)]
pub(super) struct Engine {
    pub(super) backend: &'static str,
    pub(super) workers: usize,
    /// Events of flows, of all three kinds.
    pub(super) events: u64,
    pub(super) events_new: u64,
    pub(super) events_update: u64,
    pub(super) events_destroy: u64,
    /// Ends of flows whose NAT address left this host.
    pub(super) moved: u64,
    pub(super) events_expect: u64,
    pub(super) events_lost: u64,
    pub(super) malformed: u64,
    /// Changes of flows that the replication filter excludes.
    pub(super) filtered: u64,
    /// The receive buffers of all sockets, now.
    pub(super) buffer_bytes: u64,
    /// Kernel resyncs, counted for each worker.
    pub(super) resyncs: u64,
    /// Kernel resyncs that a worker requested because of a loss.
    pub(super) resync_lost: u64,
    /// Workers in a kernel resync, or waiting for one, now.
    pub(super) resync_pending: u64,
    /// Flushes of a table of the kernel for clients.
    pub(super) flushes: u64,
    /// Expectations refused by a full worker.
    pub(super) expectations_refused: u64,
}

/// A cache. `flows`, `expectations`, `capacity` and `bytes` are as of now.
#[derive(Debug, Default, Serialize)]
pub(super) struct Cache {
    pub(super) flows: u64,
    pub(super) expectations: u64,
    pub(super) created: u64,
    pub(super) updated: u64,
    pub(super) destroyed: u64,
    pub(super) refused: u64,
    pub(super) purged: u64,
    /// Flows of each address family that have room.
    pub(super) capacity: u64,
    /// Memory of the flows.
    pub(super) bytes: u64,
}

/// The changes sent to the peers.
#[derive(Debug, Default, Serialize)]
pub(super) struct Source {
    pub(super) streams: Vec<SourceStream>,
    /// Changes and ends of flows and expectations.
    pub(super) deltas: u64,
    /// Batches sent, each counted once for all peers.
    pub(super) batches: u64,
    /// Bytes of these batches.
    pub(super) bytes: u64,
    /// Batches sent again, each counted for the one peer that it went to.
    pub(super) resent: u64,
    /// Changes that were never sent, because a later one of the same flow was sent instead.
    pub(super) conflated: u64,
    /// The bound of the resend queue of all streams together.
    pub(super) resend_bytes_max: u64,
    /// How often batches waited because a peer's window was closed.
    pub(super) deferred: u64,
    /// Changes that were never sent, because they cannot be encoded.
    pub(super) unencodable: u64,
}

/// A stream of this node.
#[derive(Debug, Serialize)]
pub(super) struct SourceStream {
    pub(super) stream: u16,
    /// The seq of the newest batch.
    pub(super) seq: u64,
    /// The seq that every live peer has acknowledged; null while no peer is live.
    pub(super) acknowledged: Option<u64>,
    pub(super) resend_batches: u64,
    pub(super) resend_bytes: u64,
}

/// A peer.
#[derive(Debug, Serialize)]
pub(super) struct Peer {
    pub(super) name: String,
    /// The node id, 16 hex digits.
    pub(super) node: String,
    pub(super) epoch: u64,
    /// `greeting` (its epoch is not proven), `live`, `lost`, `stopped` or `refused`.
    pub(super) standing: &'static str,
    pub(super) address: Option<String>,
    pub(super) role: String,
    /// The time since its last message.
    pub(super) last_heard_ms: u64,
    /// What it has not acknowledged yet.
    pub(super) behind_batches: u64,
    pub(super) behind_bytes: u64,
    pub(super) behind_ms: u64,
    /// Its streams, and what this node has not received yet.
    pub(super) streams: Vec<PeerStream>,
    /// Time from a change on the peer to the change in this node's cache.
    pub(super) lag_ms_p50: f64,
    pub(super) lag_ms_p99: f64,
    pub(super) lag_ms_p999: f64,
    pub(super) lag_ms_max: f64,
    /// How often a batch arrived before an earlier one.
    pub(super) gaps: u64,
    /// How often it skipped batches that its resend queue no longer had.
    pub(super) skipped: u64,
    /// Batches that did not parse.
    pub(super) malformed: u64,
}

/// A stream of a peer.
#[derive(Debug, Serialize)]
pub(super) struct PeerStream {
    pub(super) stream: u16,
    /// The seq of the next batch to apply.
    pub(super) next: u64,
    /// Unknown buckets.
    pub(super) unknown: u32,
    /// Bytes of batches that wait for an earlier one.
    pub(super) held_back: u64,
    /// Batches that the peer has sent and that are not applied yet.
    pub(super) behind_batches: u64,
    /// The time since the last applied batch, while others are not applied.
    pub(super) behind_ms: u64,
}

/// A replication link.
#[derive(Debug, Serialize)]
pub(super) struct Link {
    /// The number of the link, from 1.
    pub(super) number: usize,
    /// `udp`, `multicast` or `tcp`.
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
    /// Open TCP connections that this node dialled.
    pub(super) dialled: usize,
    /// Open TCP connections that this node accepted.
    pub(super) accepted: usize,
}

/// Refused datagrams by reason.
#[derive(Debug, Default, Serialize)]
pub(super) struct Refused {
    /// Not of this protocol.
    pub(super) foreign: u64,
    /// Of another version of the protocol.
    pub(super) version: u64,
    /// Not sealed, while this node has a key.
    pub(super) clear: u64,
    /// Sealed, while this node has no key.
    pub(super) sealed: u64,
    /// Sealed with another key, or damaged.
    pub(super) key: u64,
    /// Control messages that arrived before.
    pub(super) replayed: u64,
    /// Of an epoch that is not proven.
    pub(super) unproven: u64,
    /// Of an epoch before the last proven one.
    pub(super) epoch: u64,
    /// Control messages that do not parse, or need a block that this version does not know.
    pub(super) malformed: u64,
    /// Of another node with this node's name (a duplicate name).
    pub(super) namesake: u64,
    /// Of nodes beyond the greatest number of peers.
    pub(super) peers: u64,
}

/// This process.
#[derive(Debug, Default, Serialize)]
pub(super) struct Process {
    pub(super) resident_bytes: u64,
    /// Processor time of all threads.
    pub(super) cpu_ms: u64,
}
