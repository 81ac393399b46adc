//! What is known of another node.

use crate::control::{Reason, Verdict};
use crate::host::Address;
use crate::limits::{LOST_MS, RESPONSIVE_MS};
use crate::mode::Role;
use crate::receive::ReceiveStream;
use crate::time::Epoch;

/// How a peer stands with this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It said hello; that this is no recording is not proven yet.
    Greeting,
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
    pub(crate) standing: Standing,
    pub(crate) role: Role,
    /// Where it was heard last.
    pub(crate) at: Address,
    /// When it was heard last, monotonic.
    pub(crate) heard_ms: u64,
    /// Control messages that came.
    pub(crate) window: Window,
    /// Its streams here.
    pub(crate) streams: Vec<ReceiveStream>,
    /// How many streams it had before, while replicas of those are still kept.
    pub(crate) streams_before: Option<u16>,
    /// Whether the log already says that all of it is known.
    pub(crate) synchronised: bool,
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
    pub(crate) bytes: u64,
    /// When it last came further, or had nothing to come further to; monotonic.
    pub(crate) progress_ms: u64,
    /// When batches were last sent again to it.
    pub(crate) round_ms: Option<u64>,
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
            standing: Standing::Greeting,
            role: Role::None,
            at,
            heard_ms: now_ms,
            window: Window::behind(0),
            streams: Vec::new(),
            streams_before: None,
            synchronised: false,
            acked: Vec::new(),
            answered_ms: None,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.standing == Standing::Live
    }

    /// Whether its batches and control messages of the proven epoch are taken.
    pub(crate) fn is_heeded(&self) -> bool {
        matches!(self.standing, Standing::Live | Standing::Lost | Standing::Stopped)
    }

    /// Whether it may still ask for batches: one that stopped will not.
    pub(crate) fn may_ask(&self) -> bool {
        matches!(self.standing, Standing::Live | Standing::Lost)
    }

    pub(crate) fn is_overdue(&self, now_ms: u64) -> bool {
        self.is_live() && now_ms >= self.lost_at()
    }

    pub(crate) fn lost_at(&self) -> u64 {
        self.heard_ms + LOST_MS
    }

    /// Bytes of a stream's batches that it has not acknowledged and that the source is to wait for: none if it is
    /// silent or does not come further.
    pub(crate) fn holds_up(&self, now_ms: u64, stream: u16, bytes_told: u64) -> u64 {
        let recent = |then_ms: u64| now_ms.saturating_sub(then_ms) < RESPONSIVE_MS;
        match self.acked.get(usize::from(stream)) {
            Some(acked) if self.is_live() && recent(self.heard_ms) && recent(acked.progress_ms) => {
                bytes_told.saturating_sub(acked.bytes)
            }
            _ => 0,
        }
    }

    /// Whether all its streams have begun and are known as far as there is room.
    pub(crate) fn is_synchronised(&self) -> bool {
        self.streams.iter().all(ReceiveStream::is_in_sync)
    }
}

/// Seqs of control messages that came: the greatest, and which of the 64 before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    greatest: u64,
    /// Bit *n*: `greatest` − *n* came.
    came: u64,
}

impl Window {
    /// Everything up to `seq` counts as come.
    pub(crate) fn behind(seq: u64) -> Self {
        Self { greatest: seq, came: u64::MAX }
    }

    /// Whether `seq` came before, or is too old to tell.
    pub(crate) fn has(&self, seq: u64) -> bool {
        match self.greatest.checked_sub(seq) {
            None => false,
            Some(age) => age >= 64 || self.came >> age & 1 == 1,
        }
    }

    /// Notes that `seq` came.
    pub(crate) fn put(&mut self, seq: u64) {
        match self.greatest.checked_sub(seq) {
            None => {
                let ahead = seq - self.greatest;
                self.came = if ahead < 64 { self.came << ahead | 1 } else { 1 };
                self.greatest = seq;
            }
            Some(age) if age < 64 => self.came |= 1 << age,
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
        fn the_window_is_a_set_of_recent_seqs(seqs in prop::collection::vec(1u64..200, 0..100)) {
            let (mut window, mut came) = (Window::behind(0), std::collections::BTreeSet::from([0]));
            for seq in seqs {
                let greatest = *came.last().unwrap();
                prop_assert_eq!(window.has(seq), came.contains(&seq) || seq + 64 <= greatest);
                window.put(seq);
                came.insert(seq);
                prop_assert!(window.has(seq));
            }
        }
    }

    #[test]
    fn a_peer_holds_up_only_while_it_comes_further() {
        let mut peer = Peer::new(1, "b", Address { peer: 0, link: 0 }, 0);
        peer.acked = vec![Acked { bytes: 100, ..Acked::default() }];
        assert_eq!(peer.holds_up(10, 0, 150), 0, "not live");
        peer.standing = Standing::Live;
        assert_eq!(peer.holds_up(10, 0, 150), 50);
        peer.heard_ms = RESPONSIVE_MS;
        assert_eq!(peer.holds_up(RESPONSIVE_MS, 0, 150), 0, "speaks, but does not come further");
        peer.acked[0].progress_ms = RESPONSIVE_MS;
        assert_eq!(peer.holds_up(RESPONSIVE_MS, 0, 150), 50);
        assert_eq!(peer.holds_up(2 * RESPONSIVE_MS, 0, 150), 0, "silent");
    }
}
