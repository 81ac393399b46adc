//! The status of the replication, for operators.

use super::Node;
use crate::ctflow::control::Verdict;
use crate::ctflow::peer::{Peer, PeerState};
use crate::ctflow::receive::ReceiveCounters;
use crate::ctflow::source::SourceStream;
use crate::model::buckets::BucketSet;
use crate::model::host::Address;
use crate::model::mode::{Mode, Role};
use crate::model::time::{Epoch, Time};

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
    /// Batches not sent because no peer was live.
    pub batches_unsent: u64,
    /// Batches sent again to one peer.
    pub batches_resent: u64,
    /// Skips sent.
    pub skips_sent: u64,
    /// Control messages sent.
    pub messages_sent: u64,
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
    /// Its epoch.
    pub epoch: Epoch,
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
    /// The number of buckets that its shard is scheduled to send and has not begun.
    pub scheduled: u32,
}

/// The status of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its node id.
    pub node: u64,
    /// Its greatest proven epoch; [`Epoch::NONE`] before the first.
    pub epoch: Epoch,
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
    /// The number of buckets that are not known.
    pub unknown: u32,
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

impl From<Verdict> for VerdictStatus {
    fn from(verdict: Verdict) -> Self {
        let Verdict { number, seq, entries, digest, differing, .. } = verdict;
        Self { number, seq, entries, digest, differing }
    }
}

impl Node {
    /// Returns the status of the node and its peers.
    #[must_use]
    pub fn status(&self, now: Time) -> Status {
        let streams = (0..).zip(&self.streams).map(|(stream, source)| SourceStatus {
            oldest: self.resend.oldest(stream),
            newest: source.newest,
            entries: source.entries,
            bytes: source.charged_bytes,
            resend_bytes: self.resend_bytes_of(stream, source),
            scheduled: source.scheduled(),
        });
        Status {
            name: self.config.name.clone(),
            node: self.id,
            epoch: self.epoch,
            mode: self.config.mode,
            role: self.role,
            streams: streams.collect(),
            resend_bytes: self.resend.bytes(),
            resend_bytes_max: self.config.resend_bytes,
            resend_evicted: self.resend.evicted,
            counters: self.counters,
            peers: self.peers.iter().map(|peer| self.peer_status(now, peer)).collect(),
        }
    }

    /// The bytes of a stream's batches in the resend queue.
    fn resend_bytes_of(&self, stream: u16, source: &SourceStream) -> u64 {
        let oldest = self.resend.oldest(stream).and_then(|seq| self.resend.get(stream, seq));
        oldest.map_or(0, |kept| source.charged_bytes.saturating_sub(kept.bytes_before))
    }

    /// The status of a peer.
    fn peer_status(&self, now: Time, peer: &Peer) -> PeerStatus {
        let received = peer.streams.iter().map(|stream| {
            let behind = stream.newest.saturating_add(1).saturating_sub(stream.next);
            let age_ms = self.hlc_ms(now).saturating_sub(stream.time_ms);
            ReceiveStatus {
                next: stream.next,
                behind,
                behind_ms: if behind == 0 { 0 } else { age_ms },
                unknown: stream.unknown().count(),
                held_back_bytes: stream.held_back_bytes(),
                counters: stream.counters,
                verdict: stream.verdict.map(VerdictStatus::from),
            }
        });
        let behind = (0..).zip(self.streams.iter().zip(&peer.acked)).map(|(stream, (source, acked))| {
            let queued_ms = self.resend.get(stream, acked.next).map_or(now.mono_ms, |kept| kept.queued_ms);
            let batches = source.newest.saturating_add(1).saturating_sub(acked.next.max(1));
            (batches, now.mono_ms.saturating_sub(queued_ms))
        });
        let streams = self.streams.iter().zip(&peer.acked);
        let behind_bytes =
            streams.map(|(source, acked)| source.charged_bytes.saturating_sub(acked.charged_bytes)).sum();
        PeerStatus {
            name: peer.name.clone(),
            node: peer.node,
            epoch: peer.epoch,
            state: peer.state,
            role: peer.role,
            at: peer.at,
            silent_ms: now.mono_ms.saturating_sub(peer.last_received_ms),
            received: received.collect(),
            behind: behind.collect(),
            behind_bytes,
            verdicts: peer.acked.iter().map(|acked| acked.verdict.map(VerdictStatus::from)).collect(),
        }
    }
}
