//! The state that a node keeps of each peer.

use crate::ctflow::control::Verdict;
use crate::ctflow::limits::{LOST_MS, RESPONSIVE_MS};
use crate::ctflow::receive::ReceiveStream;
use crate::model::host::Address;
use crate::model::mode::Role;
use crate::model::status::PeerState;
use crate::model::time::Epoch;

/// A peer: its streams received here, and its progress in this node's streams.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: u64,
    pub(crate) name: String,
    /// Its greatest proven epoch; [`Epoch::NONE`] before the first.
    pub(crate) epoch: Epoch,
    pub(crate) state: PeerState,
    pub(crate) role: Role,
    /// The origin of the last message accepted from it.
    pub(crate) at: Address,
    /// The time of the last message accepted from it, monotonic.
    pub(crate) last_received_ms: u64,
    /// The control messages received in its proven epoch.
    pub(crate) replay_window: ReplayWindow,
    /// Its streams, as received here.
    pub(crate) streams: Vec<ReceiveStream>,
    /// The number of streams that it had in an earlier epoch, while the replicas of those are kept.
    pub(crate) old_stream_count: Option<u16>,
    /// Whether the log already reports it as in sync.
    pub(crate) in_sync_reported: bool,
    /// Its progress in each of this node's streams.
    pub(crate) acked: Vec<Acked>,
    /// The time of the last answer to a message of a refused epoch, monotonic.
    pub(crate) answered_ms: Option<u64>,
}

/// The progress of a peer in one of this node's streams.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Acked {
    /// The next seq that it expects; 0 before its first acknowledgement.
    pub(crate) next: u64,
    /// The bytes that the batches before `next` were charged in the resend queue.
    pub(crate) charged_bytes: u64,
    /// The last time when it acknowledged something new or had nothing to acknowledge, monotonic.
    pub(crate) progress_ms: u64,
    /// The time of the last resend round to it, monotonic.
    pub(crate) resent_ms: Option<u64>,
    /// Its verdict on the last comparison of the stream.
    pub(crate) verdict: Option<Verdict>,
}

impl Peer {
    /// Creates a peer whose epoch is not proven yet.
    pub(crate) fn new(node: u64, name: &str, at: Address, now_ms: u64) -> Self {
        Self {
            node,
            name: name.into(),
            epoch: Epoch::NONE,
            state: PeerState::Unproven,
            role: Role::None,
            at,
            last_received_ms: now_ms,
            replay_window: ReplayWindow::up_to(0),
            streams: Vec::new(),
            old_stream_count: None,
            in_sync_reported: false,
            acked: Vec::new(),
            answered_ms: None,
        }
    }

    /// Whether it is [`PeerState::Live`].
    pub(crate) fn is_live(&self) -> bool {
        self.state == PeerState::Live
    }

    /// Whether its batches and control messages of the proven epoch are accepted.
    pub(crate) fn is_accepted(&self) -> bool {
        matches!(self.state, PeerState::Live | PeerState::Lost | PeerState::Stopped)
    }

    /// Whether it may still request batches from the resend queue: a stopped peer does not.
    pub(crate) fn may_request_resend(&self) -> bool {
        matches!(self.state, PeerState::Live | PeerState::Lost)
    }

    /// Whether it is live, and silent for so long that it is lost.
    pub(crate) fn is_overdue(&self, now_ms: u64) -> bool {
        self.is_live() && now_ms >= self.lost_at_ms()
    }

    /// The time from which it is lost if nothing more is received, monotonic.
    pub(crate) fn lost_at_ms(&self) -> u64 {
        self.last_received_ms + LOST_MS
    }

    /// The bytes of a stream's batches that it has not acknowledged and that count against the window: 0 if it is
    /// silent or acknowledges nothing new, so that it does not hold up the source. All batches of the stream were
    /// charged `charged_bytes`.
    pub(crate) fn window_bytes_used(&self, now_ms: u64, stream: u16, charged_bytes: u64) -> u64 {
        let recent = |then_ms: u64| now_ms.saturating_sub(then_ms) < RESPONSIVE_MS;
        match self.acked.get(usize::from(stream)) {
            Some(acked) if self.is_live() && recent(self.last_received_ms) && recent(acked.progress_ms) => {
                charged_bytes.saturating_sub(acked.charged_bytes)
            }
            _ => 0,
        }
    }

    /// Whether all buckets of all its streams are known, except those that the replica has no room for.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.streams.iter().all(ReceiveStream::is_in_sync)
    }
}

/// The seqs of received control messages: the greatest, and which of the 63 before it were received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplayWindow {
    greatest: u64,
    /// Bit *n*: `greatest` − *n* was received.
    received: u64,
}

impl ReplayWindow {
    /// A window in which every seq up to `seq` counts as received.
    pub(crate) fn up_to(seq: u64) -> Self {
        Self { greatest: seq, received: u64::MAX }
    }

    /// Whether `seq` was received, or is too old for the window.
    pub(crate) fn contains(&self, seq: u64) -> bool {
        match self.greatest.checked_sub(seq) {
            None => false,
            Some(age) => age >= 64 || self.received >> age & 1 == 1,
        }
    }

    /// Records that `seq` was received.
    pub(crate) fn insert(&mut self, seq: u64) {
        match self.greatest.checked_sub(seq) {
            None => {
                let ahead = seq - self.greatest;
                self.received = if ahead < 64 { self.received << ahead | 1 } else { 1 };
                self.greatest = seq;
            }
            Some(age) if age < 64 => self.received |= 1 << age,
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No seq passes twice, and every new and recent seq passes.
        #[test]
        fn the_replay_window_is_a_set_of_recent_seqs(seqs in prop::collection::vec(1u64..200, 0..100)) {
            let (mut window, mut received) = (ReplayWindow::up_to(0), std::collections::BTreeSet::from([0]));
            for seq in seqs {
                let greatest = *received.last().unwrap();
                prop_assert_eq!(window.contains(seq), received.contains(&seq) || seq + 64 <= greatest);
                window.insert(seq);
                received.insert(seq);
                prop_assert!(window.contains(seq));
            }
        }
    }

    #[test]
    fn only_a_progressing_peer_uses_the_window() {
        let mut peer = Peer::new(1, "b", Address { peer: 0, link: 0 }, 0);
        peer.acked = vec![Acked { charged_bytes: 100, ..Acked::default() }];
        assert_eq!(peer.window_bytes_used(10, 0, 150), 0, "not live");
        peer.state = PeerState::Live;
        assert_eq!(peer.window_bytes_used(10, 0, 150), 50);
        peer.last_received_ms = RESPONSIVE_MS;
        assert_eq!(peer.window_bytes_used(RESPONSIVE_MS, 0, 150), 0, "sends, but acknowledges nothing new");
        peer.acked[0].progress_ms = RESPONSIVE_MS;
        assert_eq!(peer.window_bytes_used(RESPONSIVE_MS, 0, 150), 50);
        assert_eq!(peer.window_bytes_used(2 * RESPONSIVE_MS, 0, 150), 0, "silent");
    }
}
