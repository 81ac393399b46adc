//! The handshake, which proves the epoch of a peer, and the refusal of other nodes.
//!
//! ```text
//!  A (starts)                                        B
//!  hello to 0 ──────────────────────────────────────► not proven: answers
//!  proven: it names A's epoch ◄───── hello to A's epoch
//!  hello to B's epoch, heads ───────────────────────► proven: it names B's epoch
//!  starts after the heads ◄──── hello to A's epoch, heads
//! ```

use super::Node;
use crate::ctflow::control::{Addressee, Hello};
use crate::ctflow::limits::HELLO_MS;
use crate::ctflow::peer::{Acked, Peer, ReplayWindow};
use crate::ctflow::receive::ReceiveStream;
use crate::ctflow::wire::{Header, VERSION};
use crate::limits::{PEERS_MAX, STREAMS_MAX};
use crate::model::host::{Address, Destination, Host, Replica, ReplicaId};
use crate::model::mode::Mode;
use crate::model::note::Note;
use crate::model::status::{PeerState, Reason};
use crate::model::time::{Epoch, Time};

impl Node {
    /// Handles a hello of an epoch above the greatest proven one; returns whether the epoch is proven now.
    pub(super) fn on_unproven_hello(
        &mut self,
        now: Time,
        from: Address,
        header: &Header,
        to: &Addressee,
        hello: &Hello<'_>,
        host: &mut impl Host,
    ) -> bool {
        let names_us = to.epoch == self.epoch;
        let (node, epoch) = (header.node, header.epoch);
        if let Some(reason) = self.refusal_reason(hello) {
            self.send_bye(node, epoch, reason, Destination::Address(from), host);
            if names_us {
                self.record_refusal(now, from, header, hello, reason, host);
            }
            return false;
        }
        let Some(index) = self.find_or_add_peer(now, from, node, hello.name, host) else { return false };
        if !names_us {
            let proven = self.peers.get(index).map_or(Epoch::NONE, |peer| peer.epoch);
            self.answer_hello(node, epoch, proven, Destination::Address(from), host);
            return false;
        }
        self.mark_proven(now, from, index, header, hello, host);
        self.send_hello_to_peer(index, host);
        true
    }

    /// The reason to refuse the sender of this hello; `None` if it is accepted.
    fn refusal_reason(&self, hello: &Hello<'_>) -> Option<Reason> {
        if !(hello.version_lowest..=hello.version_highest).contains(&VERSION) {
            return Some(Reason::Version);
        }
        (Mode::from_number(hello.mode) != Some(self.config.mode)).then_some(Reason::Mode)
    }

    /// Records that a node is refused. Its hello names this run, so it is no recording.
    fn record_refusal(
        &mut self,
        now: Time,
        from: Address,
        header: &Header,
        hello: &Hello<'_>,
        reason: Reason,
        host: &mut impl Host,
    ) {
        let Some(index) = self.find_or_add_peer(now, from, header.node, hello.name, host) else { return };
        if let Some(peer) = self.peers.get_mut(index) {
            peer.state = PeerState::Refused(reason);
        }
        if reason == Reason::Mode {
            let (name, theirs) = (hello.name.into(), Mode::from_number(hello.mode));
            self.note(now, Note::OtherMode { name, theirs, ours: self.config.mode }, host);
        }
    }

    /// The index in `peers` of the peer with this node id.
    pub(super) fn peer_index(&self, node: u64) -> Option<usize> {
        self.peers.iter().position(|peer| peer.node == node)
    }

    /// The name of the peer with this node id; `None` if the node has sent no hello yet.
    pub(super) fn peer_name(&self, node: u64) -> Option<String> {
        self.peer_index(node).and_then(|index| self.peers.get(index)).map(|peer| peer.name.clone())
    }

    /// Returns the index of the peer with this node id. A peer not known yet is added, if there is room or if one that
    /// was never proven can be dropped for it.
    fn find_or_add_peer(
        &mut self,
        now: Time,
        from: Address,
        node: u64,
        name: &str,
        host: &mut impl Host,
    ) -> Option<usize> {
        if let Some(index) = self.peer_index(node) {
            return Some(index);
        }
        if self.peers.len() >= PEERS_MAX {
            let Some(unproven) = self.peers.iter().position(|peer| peer.epoch == Epoch::NONE) else {
                self.counters.refusals.too_many_peers += 1;
                self.note(now, Note::TooManyPeers { from }, host);
                return None;
            };
            self.peers.remove(unproven);
        }
        self.peers.push(Peer::new(node, name, from, now.mono_ms));
        Some(self.peers.len() - 1)
    }

    /// Records the epoch of a peer as proven: the peer is live, and all buckets of its streams are unknown.
    fn mark_proven(
        &mut self,
        now: Time,
        from: Address,
        index: usize,
        header: &Header,
        hello: &Hello<'_>,
        host: &mut impl Host,
    ) {
        let (mode, held_back_bytes) = (self.config.mode, self.config.held_back_bytes);
        let Some(peer) = self.peers.get_mut(index) else { return };
        let stream_count = hello.streams.clamp(1, STREAMS_MAX);
        replace_replicas(peer, stream_count, host);
        peer.name = hello.name.into();
        peer.epoch = header.epoch;
        peer.state = PeerState::Live;
        peer.role = hello.role;
        (peer.at, peer.last_received_ms) = (from, now.mono_ms);
        peer.replay_window = ReplayWindow::up_to(header.seq);
        peer.in_sync_reported = false;
        peer.answered_ms = None;
        let streams = (0..stream_count).map(|stream| {
            let id = ReplicaId { node: header.node, stream, streams: stream_count };
            let holds_some = host.replica(id).entries() > 0;
            ReceiveStream::new(id, mode, held_back_bytes, holds_some)
        });
        peer.streams = streams.collect();
        let acked = |bytes| Acked { charged_bytes: bytes, progress_ms: now.mono_ms, ..Acked::default() };
        peer.acked = self.streams.iter().map(|source| acked(source.charged_bytes)).collect();
        host.note(Note::Live { name: peer.name.clone(), epoch: peer.epoch, streams: stream_count });
    }

    /// Handles a message of an epoch below the greatest proven one of its node: it is a recording, or its sender is a
    /// node whose clock went back or a second node of the same name. It is answered at most once a second.
    pub(super) fn on_refused_epoch(&mut self, now: Time, from: Address, header: &Header, host: &mut impl Host) {
        self.counters.refusals.old_epoch += 1;
        let Some(index) = self.peer_index(header.node) else { return };
        let Some(peer) = self.peers.get_mut(index) else { return };
        if peer.answered_ms.is_some_and(|answered_ms| now.mono_ms < answered_ms + HELLO_MS) {
            return;
        }
        peer.answered_ms = Some(now.mono_ms);
        let (is_elsewhere, proven) = (peer.is_live() && peer.at.peer != from.peer, peer.epoch);
        let to = Destination::Address(from);
        if is_elsewhere {
            // An answer with the proven epoch would make a second node of this name raise its own above it, and the two
            // would go on to outbid each other.
            self.send_bye(header.node, header.epoch, Reason::NameTaken, to, host);
        } else {
            self.answer_hello(header.node, header.epoch, proven, to, host);
        }
    }

    /// Handles a message of a node with this node's name. It may be of this node's own last run, or a recording of
    /// that, so the duplicate name is logged only after the other node has addressed this run.
    pub(super) fn on_duplicate_name(
        &mut self,
        now: Time,
        from: Address,
        header: &Header,
        to: &Addressee,
        host: &mut impl Host,
    ) {
        self.counters.refusals.duplicate_name += 1;
        if to.epoch == self.epoch {
            self.note(now, Note::NameTaken { name: self.config.name.clone(), from }, host);
        } else {
            self.send_bye(header.node, header.epoch, Reason::NameTaken, Destination::Address(from), host);
        }
    }

    /// Raises this node's epoch above `known`, a later epoch of it that a peer knows because this node's clock went
    /// back. All streams start again at seq 1.
    pub(super) fn raise_epoch(&mut self, now: Time, known: Epoch, host: &mut impl Host) {
        self.epoch = self.epoch.above(known);
        self.control_seq = 0;
        for (stream, source) in (0..).zip(&mut self.streams) {
            source.restart();
            self.resend.clear(stream);
        }
        for peer in &mut self.peers {
            peer.acked.fill(Acked { progress_ms: now.mono_ms, ..Acked::default() });
        }
        self.hello_due = now.mono_ms;
        host.note(Note::EpochRaised { epoch: self.epoch });
    }

    /// Handles a bye: a peer stops, or a node refuses this run.
    pub(super) fn on_bye(&mut self, now: Time, from: Address, header: &Header, reason: Reason, host: &mut impl Host) {
        let index = self.peer_index(header.node);
        let peer = index.and_then(|index| self.peers.get_mut(index));
        if reason == Reason::Stopped {
            if let Some(peer) = peer.filter(|peer| peer.is_live() && peer.epoch == header.epoch) {
                peer.state = PeerState::Stopped;
                host.note(Note::Stopped { name: peer.name.clone() });
            }
            return;
        }
        if let Some(peer) = peer.filter(|peer| !peer.is_accepted()) {
            peer.state = PeerState::Refused(reason);
        }
        let note = match reason {
            Reason::NameTaken => Note::NameTaken { name: self.config.name.clone(), from },
            reason => Note::Refused { from, node: header.node, name: self.peer_name(header.node), reason },
        };
        self.note(now, note, host);
    }
}

/// Decides which replicas to keep of a peer that has `stream_count` streams now: those of the same number of streams,
/// which may still be correct, and of others those that were complete last, until the new ones are complete.
fn replace_replicas(peer: &mut Peer, stream_count: u16, host: &mut impl Host) {
    let Ok(had @ 1..) = u16::try_from(peer.streams.len()) else { return };
    if had == stream_count {
        return;
    }
    let incomplete = match peer.old_stream_count {
        None => {
            peer.old_stream_count = Some(had);
            None
        }
        Some(before) => {
            if before == stream_count {
                peer.old_stream_count = None;
            }
            Some(had)
        }
    };
    for stream in 0..incomplete.unwrap_or(0) {
        host.drop_replica(ReplicaId { node: peer.node, stream, streams: had });
    }
}
