//! The status of the replication, for operators.

use std::fmt;

use crate::model::buckets::BucketSet;
use crate::model::host::Address;
use crate::model::mode::{Mode, Role};
use crate::model::time::Epoch;

/// The number of refused datagrams, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refusals {
    /// Of another protocol.
    pub foreign: u64,
    /// Of another version of the protocol.
    pub version: u64,
    /// In clear although this node has a key, or sealed although it has none.
    pub cipher: u64,
    /// Sealed with another key, or changed in transit.
    pub not_authentic: u64,
    /// Of an epoch that was not proven.
    pub unproven: u64,
    /// Of an epoch below the greatest one proven.
    pub old_epoch: u64,
    /// Control messages that were received before.
    pub replayed: u64,
    /// Control messages that do not parse.
    pub malformed: u64,
    /// Control messages with an unknown block that must be known.
    pub unknown_block: u64,
    /// From another node with this node's name.
    pub duplicate_name: u64,
    /// Hellos of new nodes while there were as many peers as there can be.
    pub too_many_peers: u64,
}

/// The counters of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Batches sent, resends not counted.
    pub batches_sent: u64,
    /// The bytes of these batches.
    pub bytes_sent: u64,
    /// Batches not sent because no peer was live. Not in the status document.
    pub batches_unsent: u64,
    /// Batches sent again to one peer.
    pub batches_resent: u64,
    /// Skips sent. Not in the status document.
    pub skips_sent: u64,
    /// Datagrams refused.
    pub refusals: Refusals,
}

/// The status of a node and its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its node id.
    pub node: u64,
    /// Its epoch; `None` if its protocol has none.
    pub epoch: Option<Epoch>,
    /// Its mode.
    pub mode: Mode,
    /// Its role.
    pub role: Role,
    /// The node's own streams.
    pub streams: Vec<SourceStatus>,
    /// The bytes in the resend queue.
    pub resend_bytes: usize,
    /// The bound of the resend queue in bytes.
    pub resend_bytes_max: usize,
    /// Batches evicted from the resend queue to stay within its bound.
    pub resend_evicted: u64,
    /// Its counters.
    pub counters: Counters,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
}

/// The status of one of the node's own streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceStatus {
    /// The oldest seq in the resend queue; `None` if no batch is kept.
    pub oldest: Option<u64>,
    /// The seq of the newest batch; 0 before the first.
    pub newest: u64,
    /// The number of flows, expectations and ends sent.
    pub entries: u64,
    /// The bytes that all its sealed batches were charged in the resend queue.
    pub bytes: u64,
    /// The bytes of its batches that are in the resend queue.
    pub resend_bytes: u64,
    /// The number of buckets that its shard is scheduled to send and has not begun; `None` if the protocol has no
    /// buckets.
    pub scheduled: Option<u32>,
}

/// The status of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its node id.
    pub node: u64,
    /// Its greatest proven epoch; `None` before the first, and if the protocol has none.
    pub epoch: Option<Epoch>,
    /// Its state.
    pub state: PeerState,
    /// Its role.
    pub role: Role,
    /// The origin of the last message accepted from it.
    pub at: Address,
    /// The milliseconds since that message.
    pub silent_ms: u64,
    /// Its streams, as received here.
    pub received: Vec<ReceiveStatus>,
    /// Its progress in each of this node's streams: the number of batches that it has not acknowledged, and the
    /// milliseconds since the oldest of them was sent.
    pub behind: Vec<(u64, u64)>,
    /// The bytes of the batches that it has not acknowledged, of all this node's streams.
    pub behind_bytes: u64,
    /// Its verdict on the last comparison of each of this node's streams.
    pub verdicts: Vec<Option<VerdictStatus>>,
}

/// The status of a peer's stream, as received here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveStatus {
    /// The next seq to apply; 0 before the first heads.
    pub next: u64,
    /// The number of batches that the peer is known to have sent and that were not applied.
    pub behind: u64,
    /// The milliseconds since the time of the last applied batch, while `behind` is not 0; else 0.
    pub behind_ms: u64,
    /// The number of buckets that are not known; `None` if the protocol has no buckets.
    pub unknown: Option<u32>,
    /// The bytes of the batches held back behind a gap.
    pub held_back_bytes: usize,
    /// Its counters.
    pub counters: ReceiveCounters,
    /// The verdict on the last comparison that an operator requested.
    pub verdict: Option<VerdictStatus>,
}

/// The verdict on the comparison of a replica with its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerdictStatus {
    /// The number of the verification.
    pub number: u64,
    /// The seq of the batch with the last of the digests.
    pub seq: u64,
    /// The number of entries in the replica at that seq.
    pub entries: u64,
    /// The sum of the digests of all the source's buckets, modulo 2^64.
    pub digest: u64,
    /// The buckets that differed.
    pub differing: BucketSet,
}

/// The state of a peer as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// A hello of it was received, but its epoch is not proven: the hello may be a recording.
    Unproven,
    /// Its epoch is proven, and a message of it was received within the last three seconds.
    Live,
    /// Nothing was received from it for three seconds.
    Lost,
    /// It reported that it stops.
    Stopped,
    /// It refuses this node, or this node refuses it.
    Refused(Reason),
}

/// The reason of a bye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The sender was stopped.
    Stopped,
    /// The two nodes have no protocol version in common.
    Version,
    /// Another node has the addressee's name.
    NameTaken,
    /// The two nodes run in different modes.
    Mode,
    /// A reason of a later protocol version.
    Other(u8),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("it was stopped"),
            Self::Version => f.write_str("no protocol version in common; update the older node"),
            Self::NameTaken => f.write_str("another node has the same name; change [node] name on one of the two"),
            Self::Mode => f.write_str("it runs another mode; set [sync] mode alike"),
            Self::Other(number) => write!(f, "reason {number}, unknown to this version; update this node"),
        }
    }
}

/// The counters of one stream received from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiveCounters {
    /// Flows, expectations and ends applied. Not in the status document.
    pub entries: u64,
    /// Batches received more than once. Not in the status document.
    pub duplicates: u64,
    /// Gaps that opened while no other was open; in the modes without resending, batches missing before a newer one.
    pub missed: u64,
    /// Skips: the source continued after batches that it no longer keeps.
    pub skips: u64,
    /// Batches that did not parse.
    pub malformed: u64,
    /// Entries that the replica had no room for. Not in the status document.
    pub refused: u64,
    /// Entries purged at the end of a bucket or by a sweep. Not in the status document.
    pub purged: u64,
}
