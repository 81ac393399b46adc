//! What an operator can see of the replication.

use super::Node;
use crate::buckets::BucketSet;
use crate::control::Verdict;
use crate::host::Address;
use crate::mode::{Mode, Role};
use crate::peer::{Peer, PeerState};
use crate::receive::ReceiveCounters;
use crate::source::SourceStream;
use crate::time::{Epoch, Time};

/// Datagrams that were refused, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refusals {
    /// Not this protocol.
    pub foreign: u64,
    /// Another version of it.
    pub version: u64,
    /// In clear where it should be sealed, or the reverse.
    pub cipher: u64,
    /// Another key, or changed on its way.
    pub not_authentic: u64,
    /// Of an epoch that was not proven.
    pub unproven: u64,
    /// Of an epoch below the greatest one proven.
    pub old_epoch: u64,
    /// A control message that came before.
    pub replayed: u64,
    /// A control message that does not parse.
    pub malformed: u64,
    /// A control message with an unknown block that must be known.
    pub unknown_block: u64,
    /// Another node with this one's name.
    pub duplicate_name: u64,
    /// One peer too many.
    pub too_many_peers: u64,
}

/// What was counted of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Batches sent, each once.
    pub batches_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Batches that nobody was there for.
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

/// A node and its peers.
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
    /// Its own streams.
    pub streams: Vec<SourceStatus>,
    /// Bytes in the resend queue.
    pub resend_bytes: usize,
    /// Bytes that it may have.
    pub resend_bytes_max: usize,
    /// Batches that left the resend queue for want of room.
    pub resend_evicted: u64,
    /// What was counted.
    pub counters: Counters,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
}

/// One of a node's own streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceStatus {
    /// The oldest seq kept; `None` where none is.
    pub oldest: Option<u64>,
    /// The newest seq told.
    pub newest: u64,
    /// Flows, expectations and ends told.
    pub entries: u64,
    /// Bytes that its sealed batches took in the resend queue.
    pub bytes: u64,
    /// Bytes of it that are in the resend queue.
    pub resend_bytes: u64,
    /// Buckets that the shard was asked to tell whole and has not begun with.
    pub scheduled: u32,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its node id.
    pub node: u64,
    /// Its greatest epoch proven; none where it has none.
    pub epoch: Epoch,
    /// How it stands.
    pub state: PeerState,
    /// Its role.
    pub role: Role,
    /// Where it was heard last.
    pub at: Address,
    /// Milliseconds since then.
    pub silent_ms: u64,
    /// Its streams, as replicated here.
    pub received: Vec<ReceiveStatus>,
    /// This node's streams, as replicated there: batches it has not acknowledged, and milliseconds since the oldest of
    /// them was told.
    pub behind: Vec<(u64, u64)>,
    /// Bytes of the batches that it has not acknowledged, of all this node's streams.
    pub behind_bytes: u64,
    /// What it found at the last comparison of each of this node's streams.
    pub verdicts: Vec<Option<VerdictStatus>>,
}

/// A peer's stream, as replicated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveStatus {
    /// The next seq.
    pub next: u64,
    /// Batches that are known to have been told and were not applied.
    pub behind: u64,
    /// Milliseconds from the last applied batch's time to now, while there are any such; 0 otherwise.
    pub behind_ms: u64,
    /// Buckets that are not known.
    pub unknown: u32,
    /// Bytes of batches held back.
    pub held_back_bytes: usize,
    /// What was counted.
    pub counters: ReceiveCounters,
    /// What was found at the last comparison.
    pub verdict: Option<VerdictStatus>,
}

/// A comparison of a replica with its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerdictStatus {
    /// What it was asked for under.
    pub number: u64,
    /// The batch with the digests.
    pub seq: u64,
    /// Entries in the replica then.
    pub entries: u64,
    /// The digest of all the source's buckets.
    pub digest: u64,
    /// Buckets that differed.
    pub differing: BucketSet,
}

impl From<Verdict> for VerdictStatus {
    fn from(verdict: Verdict) -> Self {
        let Verdict { number, seq, entries, digest, differing, .. } = verdict;
        Self { number, seq, entries, digest, differing }
    }
}

impl Node {
    /// How things stand.
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

    fn resend_bytes_of(&self, stream: u16, source: &SourceStream) -> u64 {
        let oldest = self.resend.oldest(stream).and_then(|seq| self.resend.get(stream, seq));
        oldest.map_or(0, |kept| source.charged_bytes.saturating_sub(kept.bytes_before))
    }

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
            let told_ms = self.resend.get(stream, acked.next).map_or(now.mono_ms, |kept| kept.queued_ms);
            let batches = source.newest.saturating_add(1).saturating_sub(acked.next.max(1));
            (batches, now.mono_ms.saturating_sub(told_ms))
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
