//! The status of the replication, for operators.

use super::Node;
use crate::ctflow::control::Verdict;
use crate::ctflow::peer::Peer;
use crate::ctflow::source::SourceStream;
use crate::model::status::{PeerStatus, ReceiveStatus, SourceStatus, Status, VerdictStatus};
use crate::model::time::{Epoch, Time};

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
            scheduled: Some(source.scheduled()),
        });
        Status {
            name: self.config.name.clone(),
            node: self.id,
            epoch: Some(self.epoch),
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
                unknown: Some(stream.unknown().count()),
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
            epoch: (peer.epoch != Epoch::NONE).then_some(peer.epoch),
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
