//! What is known of another node.

use crate::control::{Reason, Verdict};
use crate::host::Address;
use crate::limits::{LOST_MS, RESPONSIVE_MS};
use crate::mode::Role;
use crate::receive::ReceiveStream;
use crate::time::Epoch;

/// How a peer stands with this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// It said hello; that this is no recording is not proven yet.
    Unproven,
    /// Its epoch is proven, and it was heard within three seconds.
    Live,
    /// It was not heard for three seconds.
    Lost,
    /// It said that it stops.
    Stopped,
    /// One of the two refuses the other.
    Refused(Reason),
}

/// Another node.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: u64,
    pub(crate) name: String,
    /// The greatest epoch proven; none before the first.
    pub(crate) epoch: Epoch,
    pub(crate) state: PeerState,
    pub(crate) role: Role,
    /// Where it was heard last.
    pub(crate) at: Address,
    /// When it was heard last, monotonic.
    pub(crate) last_received_ms: u64,
    /// Control messages that came.
    pub(crate) replay_window: ReplayWindow,
    /// Its streams here.
    pub(crate) streams: Vec<ReceiveStream>,
    /// How many streams it had before, while replicas of those are still kept.
    pub(crate) old_stream_count: Option<u16>,
    /// Whether the log already says that all of it is known.
    pub(crate) in_sync_reported: bool,
    /// This node's streams there.
    pub(crate) acked: Vec<Acked>,
    /// When a message of an epoch that is refused was answered last.
    pub(crate) answered_ms: Option<u64>,
}

/// How far a peer has come in one of this node's streams.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Acked {
    /// The next seq it wants; 0 before its first acknowledgement.
    pub(crate) next: u64,
    /// What the batches told before that were charged.
    pub(crate) charged_bytes: u64,
    /// When it last came further, or had nothing to come further to; monotonic.
    pub(crate) progress_ms: u64,
    /// When batches were last sent again to it.
    pub(crate) resent_ms: Option<u64>,
    /// What it said when the stream was last compared.
    pub(crate) verdict: Option<Verdict>,
}

impl Peer {
    /// One that is heard of for the first time.
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

    pub(crate) fn is_live(&self) -> bool {
        self.state == PeerState::Live
    }

    /// Whether its batches and control messages of the proven epoch are taken.
    pub(crate) fn is_accepted(&self) -> bool {
        matches!(self.state, PeerState::Live | PeerState::Lost | PeerState::Stopped)
    }

    /// Whether it may still ask for batches: one that stopped will not.
    pub(crate) fn may_request_resend(&self) -> bool {
        matches!(self.state, PeerState::Live | PeerState::Lost)
    }

    pub(crate) fn is_overdue(&self, now_ms: u64) -> bool {
        self.is_live() && now_ms >= self.lost_at_ms()
    }

    pub(crate) fn lost_at_ms(&self) -> u64 {
        self.last_received_ms + LOST_MS
    }

    /// Bytes of a stream's batches that it has not acknowledged and that the source is to wait for: none if it is
    /// silent or does not come further.
    pub(crate) fn window_bytes_used(&self, now_ms: u64, stream: u16, bytes_told: u64) -> u64 {
        let recent = |then_ms: u64| now_ms.saturating_sub(then_ms) < RESPONSIVE_MS;
        match self.acked.get(usize::from(stream)) {
            Some(acked) if self.is_live() && recent(self.last_received_ms) && recent(acked.progress_ms) => {
                bytes_told.saturating_sub(acked.charged_bytes)
            }
            _ => 0,
        }
    }

    /// Whether all its streams have begun and are known as far as there is room.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.streams.iter().all(ReceiveStream::is_in_sync)
    }
}

/// Seqs of control messages that came: the greatest, and which of the 64 before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplayWindow {
    greatest: u64,
    /// Bit *n*: `greatest` − *n* came.
    received: u64,
}

impl ReplayWindow {
    /// Everything up to `seq` counts as come.
    pub(crate) fn up_to(seq: u64) -> Self {
        Self { greatest: seq, received: u64::MAX }
    }

    /// Whether `seq` came before, or is too old to tell.
    pub(crate) fn contains(&self, seq: u64) -> bool {
        match self.greatest.checked_sub(seq) {
            None => false,
            Some(age) => age >= 64 || self.received >> age & 1 == 1,
        }
    }

    /// Notes that `seq` came.
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
        /// Nothing passes twice, and nothing that is new and recent is held off.
        #[test]
        fn the_replay_window_is_a_set_of_recent_seqs(seqs in prop::collection::vec(1u64..200, 0..100)) {
            let (mut window, mut came) = (ReplayWindow::up_to(0), std::collections::BTreeSet::from([0]));
            for seq in seqs {
                let greatest = *came.last().unwrap();
                prop_assert_eq!(window.contains(seq), came.contains(&seq) || seq + 64 <= greatest);
                window.insert(seq);
                came.insert(seq);
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
        assert_eq!(peer.window_bytes_used(RESPONSIVE_MS, 0, 150), 0, "speaks, but does not come further");
        peer.acked[0].progress_ms = RESPONSIVE_MS;
        assert_eq!(peer.window_bytes_used(RESPONSIVE_MS, 0, 150), 50);
        assert_eq!(peer.window_bytes_used(2 * RESPONSIVE_MS, 0, 150), 0, "silent");
    }
}
