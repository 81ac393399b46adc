//! The control messages that a node sends, on its own or in answer, and the batches that it resends.

use super::Node;
use crate::ctflow::control::{Addressee, ControlWriter, Hello, Verdict};
use crate::ctflow::limits::{
    GAPS_PER_ACK, HEADS_BUSY_MS, HEADS_IDLE_MS, RESEND_ROUND_MS, RESENDS_PER_ROUND, VERIFY_REPEAT_MS,
};
use crate::ctflow::peer::Peer;
use crate::ctflow::receive::ReceiveStream;
use crate::ctflow::wire::{Header, Kind, VERSION};
use crate::model::buckets::BucketSet;
use crate::model::host::{DatagramClass, Destination, Host};
use crate::model::status::Reason;
use crate::model::time::{Epoch, Time};

/// The features of this node. Bit 0: expectations.
const FEATURES: u32 = 1;

/// The longest bodies of one stream's acknowledgement and want, in bytes.
const ACK_BODY_BYTES: usize = 12 + 16 * GAPS_PER_ACK + 36;

impl Node {
    /// Starts a message to `node` in its `epoch`; to every peer if both are 0.
    fn new_message(&mut self, node: u64, epoch: Epoch) -> ControlWriter {
        let addressee = Addressee { node, epoch, time_ms: self.hlc_ms };
        ControlWriter::new(std::mem::take(&mut self.scratch), addressee, self.config.datagram_bytes)
    }

    /// Seals and sends a message, unless it has no blocks. Its buffer is reused for the next one.
    fn send_message(&mut self, to: Destination, message: ControlWriter, host: &mut impl Host) {
        let is_empty = message.is_empty();
        let mut datagram = message.bytes;
        if !is_empty {
            self.control_seq += 1;
            let (node, epoch, seq) = (self.id, self.epoch, self.control_seq);
            let header = Header { kind: Kind::Control, cipher: self.sealer.cipher(), stream: 0, node, epoch, seq };
            if self.sealer.seal(&header, &mut datagram).is_some() {
                host.send(to, DatagramClass::Control, &datagram);
            }
        }
        self.scratch = datagram;
    }

    /// Appends this node's hello, which names `newest` as the newest known epoch of the addressee.
    fn push_own_hello(&self, message: &mut ControlWriter, newest: Epoch) {
        message.push_hello(&Hello {
            version_lowest: VERSION,
            version_highest: VERSION,
            mode: self.config.mode.number(),
            role: self.role,
            streams: self.config.streams,
            features: FEATURES,
            newest,
            name: &self.config.name,
        });
    }

    /// Sends a hello to every configured address or the group, and one to each live peer in its epoch.
    pub(super) fn send_hello(&mut self, host: &mut impl Host) {
        let mut message = self.new_message(0, Epoch::NONE);
        self.push_own_hello(&mut message, Epoch::NONE);
        self.send_message(Destination::All, message, host);
        for index in 0..self.peers.len() {
            if self.peers.get(index).is_some_and(Peer::is_live) {
                self.send_hello_to_peer(index, host);
            }
        }
    }

    /// Sends hello and heads to a peer in its proven epoch. In notrack mode the message also requests everything, until
    /// a bucket of every stream has begun to arrive.
    pub(super) fn send_hello_to_peer(&mut self, index: usize, host: &mut impl Host) {
        let Some(peer) = self.peers.get(index) else { return };
        let mode = self.config.mode;
        let requests_all = mode.honours_request() && !mode.acknowledges();
        let requests_all = requests_all && !peer.streams.iter().all(ReceiveStream::has_bulk_started);
        let (node, at, epoch) = (peer.node, peer.at, peer.epoch);
        let mut message = self.new_message(node, epoch);
        self.push_own_hello(&mut message, epoch);
        if requests_all {
            message.push_request();
        }
        message.push_heads(&self.current_heads());
        self.send_message(Destination::Peer { node, at }, message, host);
    }

    /// Sends a hello to an epoch that is not proven, or no longer; it names the newest proven epoch of that node,
    /// `newest`.
    pub(super) fn answer_hello(
        &mut self,
        node: u64,
        epoch: Epoch,
        newest: Epoch,
        to: Destination,
        host: &mut impl Host,
    ) {
        let mut message = self.new_message(node, epoch);
        self.push_own_hello(&mut message, newest);
        self.send_message(to, message, host);
    }

    /// Sends a bye to a node: this node stops, or refuses the other one.
    pub(super) fn send_bye(&mut self, node: u64, epoch: Epoch, reason: Reason, to: Destination, host: &mut impl Host) {
        let mut message = self.new_message(node, epoch);
        message.push_bye(reason);
        self.send_message(to, message, host);
    }

    /// Reports to a peer that this node stops.
    pub(super) fn send_stopped(&mut self, index: usize, host: &mut impl Host) {
        let Some(peer) = self.peers.get(index).filter(|peer| peer.is_accepted()) else { return };
        let (node, at, epoch) = (peer.node, peer.at, peer.epoch);
        self.send_bye(node, epoch, Reason::Stopped, Destination::Peer { node, at }, host);
    }

    /// The heads of this node's streams: stream, oldest seq kept, newest seq.
    fn current_heads(&self) -> Vec<(u16, u64, u64)> {
        let streams = (0..).zip(&self.streams);
        let oldest = |stream, newest: u64| self.resend.oldest(stream).unwrap_or(newest.saturating_add(1));
        streams.map(|(stream, source)| (stream, oldest(stream, source.newest), source.newest)).collect()
    }

    /// Sends the heads of all streams to all peers. They are repeated soon while a peer has batches to acknowledge.
    pub(super) fn send_heads(&mut self, now: Time, host: &mut impl Host) {
        let live = || self.peers.iter().filter(|peer| peer.is_live());
        let behind = live().any(|peer| {
            let mut streams = self.streams.iter().zip(&peer.acked);
            streams.any(|(source, acked)| acked.next <= source.newest)
        });
        let is_busy = behind && self.config.mode.acknowledges();
        self.heads_due = now.mono_ms + if is_busy { HEADS_BUSY_MS } else { HEADS_IDLE_MS };
        if live().next().is_none() {
            return;
        }
        let heads = self.current_heads();
        let mut rest = heads.as_slice();
        while !rest.is_empty() {
            let mut message = self.new_message(0, Epoch::NONE);
            let written = message.push_heads(rest);
            rest = rest.get(written.max(1)..).unwrap_or_default();
            self.send_message(Destination::All, message, host);
        }
    }

    /// Sends the acknowledgements that are due to a peer, each with a want for the unknown buckets of the stream.
    pub(super) fn send_due_acks(&mut self, now: Time, index: usize, host: &mut impl Host) {
        let is_due = |stream: &ReceiveStream| stream.ack_due.is_some_and(|due| now.mono_ms >= due);
        let Some(peer) = self.peers.get(index).filter(|peer| peer.is_live()) else { return };
        if !peer.streams.iter().any(is_due) {
            return;
        }
        let (node, at, epoch, streams) = (peer.node, peer.at, peer.epoch, peer.streams.len());
        let to = Destination::Peer { node, at };
        let mut message = self.new_message(node, epoch);
        for stream in 0..streams {
            if !message.has_room(2, ACK_BODY_BYTES) {
                let full = std::mem::replace(&mut message, self.new_message(node, epoch));
                self.send_message(to, full, host);
            }
            let receive = self.peers.get_mut(index).and_then(|peer| peer.streams.get_mut(stream));
            let Some(receive) = receive.filter(|stream| is_due(stream)) else { continue };
            let stream = receive.id.stream;
            message.push_ack(stream, receive.next, &receive.gaps());
            if let Some((buckets, digests_first)) = receive.wanted_buckets(now.mono_ms) {
                message.push_want(stream, digests_first, &buckets);
            }
            receive.on_ack_sent(now.mono_ms);
        }
        self.send_message(to, message, host);
    }

    /// Resends the batches in a peer's gaps, from the resend queue. If a gap begins before the oldest batch kept, a
    /// skip is sent too. This happens at most once in [`RESEND_ROUND_MS`]; the peer reports its gaps again until then.
    pub(super) fn resend_gaps(
        &mut self,
        now: Time,
        index: usize,
        stream: u16,
        next: u64,
        gaps: impl Iterator<Item = (u64, u64)>,
        host: &mut impl Host,
    ) {
        let Some(source) = self.streams.get(usize::from(stream)) else { return };
        let Some(peer) = self.peers.get_mut(index) else { return };
        let (node, at, epoch) = (peer.node, peer.at, peer.epoch);
        let Some(acked) = peer.acked.get_mut(usize::from(stream)) else { return };
        if acked.resent_ms.is_some_and(|round_ms| now.mono_ms < round_ms + RESEND_ROUND_MS) {
            return;
        }
        let to = Destination::Peer { node, at };
        let newest = source.newest;
        let oldest = self.resend.oldest(stream).unwrap_or(newest.saturating_add(1));
        let touched: BucketSet = source.touched_since(next);
        let mut left = RESENDS_PER_ROUND;
        let mut has_evicted = false;
        for (from, to_seq) in gaps {
            acked.resent_ms = Some(now.mono_ms);
            has_evicted |= from < oldest;
            for seq in from.max(oldest)..=to_seq.min(newest) {
                let Some(kept) = self.resend.get(stream, seq).filter(|_| left > 0) else { break };
                host.send(to, DatagramClass::Delta, &kept.datagram);
                left -= 1;
                self.counters.batches_resent += 1;
            }
        }
        if has_evicted {
            let mut message = self.new_message(node, epoch);
            message.push_skip(stream, oldest, &touched);
            self.send_message(to, message, host);
            self.counters.skips_sent += 1;
        }
    }

    /// Sends the verdict on one of a peer's streams to that peer.
    pub(super) fn send_verdict(&mut self, index: usize, verdict: &Verdict, host: &mut impl Host) {
        let Some(peer) = self.peers.get(index) else { return };
        let (node, at, epoch) = (peer.node, peer.at, peer.epoch);
        let mut message = self.new_message(node, epoch);
        message.push_verdict(verdict);
        self.send_message(Destination::Peer { node, at }, message, host);
    }

    /// Requests everything of a peer again: by wants in ftfw mode, by a request in notrack mode. In alarm mode nothing
    /// is sent, because the peer sends everything periodically.
    pub(super) fn request_from_peer(&mut self, now: Time, index: usize, host: &mut impl Host) {
        let Some(peer) = self.peers.get_mut(index).filter(|peer| peer.is_accepted()) else { return };
        peer.in_sync_reported = false;
        for stream in &mut peer.streams {
            stream.mark_all_unknown(now.mono_ms);
        }
        let (node, at, epoch) = (peer.node, peer.at, peer.epoch);
        if self.config.mode.acknowledges() {
            self.send_due_acks(now, index, host);
        } else if self.config.mode.honours_request() {
            let mut message = self.new_message(node, epoch);
            message.push_request();
            self.send_message(Destination::Peer { node, at }, message, host);
        }
    }

    /// Requests verdicts on all streams, this node's and its peers', unless all were received or the time is over.
    pub(super) fn send_verify(&mut self, now: Time, host: &mut impl Host) {
        self.finish_verify(now);
        let Some(verify) = &mut self.verify else { return };
        verify.due_ms = now.mono_ms + VERIFY_REPEAT_MS;
        let number = verify.number;
        for (stream, source) in (0..).zip(&mut self.streams) {
            if source.schedule_digests(number) {
                host.schedule_digests(stream, number);
            }
        }
        for index in 0..self.peers.len() {
            let Some(peer) = self.peers.get(index).filter(|peer| peer.is_live()) else { continue };
            let (node, at, epoch) = (peer.node, peer.at, peer.epoch);
            let mut message = self.new_message(node, epoch);
            message.push_verify(number);
            self.send_message(Destination::Peer { node, at }, message, host);
        }
    }
}
