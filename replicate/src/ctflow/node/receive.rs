//! How a node handles the datagrams that it receives.

use super::Node;
use crate::ctflow::control::{self, Addressee, Block, Blocks, ControlError, Hello};
use crate::ctflow::peer::Peer;
use crate::ctflow::receive::Outcome;
use crate::ctflow::seal::OpenError;
use crate::ctflow::wire::{Header, HeaderError, Kind, VERSION};
use crate::model::buckets::BucketSet;
use crate::model::host::{Address, Host};
use crate::model::note::{HeldBy, Note};
use crate::model::status::PeerState;
use crate::model::time::{Epoch, Time};

impl Node {
    /// Handles a received datagram, which is decrypted in place. Any bytes are allowed: a datagram that is not accepted
    /// is counted and dropped.
    pub fn receive(&mut self, now: Time, from: Address, datagram: &mut [u8], host: &mut impl Host) {
        self.advance_hlc(now, 0);
        let header = match Header::parse(datagram) {
            Ok(header) => header,
            Err(HeaderError::Foreign) => {
                self.counters.refusals.foreign += 1;
                return;
            }
            Err(HeaderError::Version(theirs)) => {
                self.counters.refusals.version += 1;
                self.note(now, Note::OtherVersion { from, theirs, ours: VERSION }, host);
                return;
            }
        };
        if header.node == self.id && header.epoch == self.epoch {
            return; // this node's own datagram, returned by the group
        }
        match header.kind {
            Kind::Batch => self.receive_batch(now, from, &header, datagram, host),
            Kind::Control => self.receive_control(now, from, &header, datagram, host),
        }
    }

    /// Decrypts the body of a datagram in place. One that cannot be opened is counted and logged.
    fn open<'a>(
        &mut self,
        now: Time,
        from: Address,
        header: &Header,
        datagram: &'a mut [u8],
        host: &mut impl Host,
    ) -> Option<&'a [u8]> {
        match self.sealer.open(header, datagram) {
            Ok(body) => {
                self.datagrams_opened += 1;
                Some(body)
            }
            Err(OpenError::Cipher) => {
                self.counters.refusals.cipher += 1;
                self.note(now, Note::OtherCipher { from, theirs: header.cipher }, host);
                None
            }
            Err(OpenError::NotAuthentic) => {
                self.counters.refusals.not_authentic += 1;
                self.note(now, Note::WrongKey { from }, host);
                None
            }
        }
    }

    /// Handles a batch: a missing one of a proven epoch is decrypted and applied or held back.
    fn receive_batch(&mut self, now: Time, from: Address, header: &Header, datagram: &mut [u8], host: &mut impl Host) {
        let index = self.peer_index(header.node);
        let peer = index.and_then(|index| self.peers.get_mut(index));
        let peer = peer.filter(|peer| peer.is_accepted() && peer.epoch == header.epoch);
        let stream = peer.and_then(|peer| peer.streams.get_mut(usize::from(header.stream)));
        let (Some(index), Some(stream)) = (index, stream) else {
            self.counters.refusals.unproven += 1;
            return;
        };
        // Duplicates are found by the header alone, before any decryption. A forged header gains nothing: at most it
        // makes an acknowledgement due.
        if stream.is_missing(now.mono_ms, header.seq) {
            let Some(body) = self.open(now, from, header, datagram, host) else { return };
            self.mark_live(now, from, index, host);
            let mut outcome = Outcome::default();
            let peer = self.peers.get_mut(index);
            if let Some(stream) = peer.and_then(|peer| peer.streams.get_mut(usize::from(header.stream))) {
                stream.accept_batch(now.mono_ms, header.seq, body, host.replica(stream.id), &mut outcome);
                let time_ms = stream.time_ms;
                self.advance_hlc(now, time_ms);
            }
            self.report_outcome(now, index, header.stream, outcome, host);
        }
        self.send_due_acks(now, index, host);
    }

    /// Records that a message of a peer was accepted: the peer is live, at the origin of the message.
    fn mark_live(&mut self, now: Time, from: Address, index: usize, host: &mut impl Host) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        (peer.at, peer.last_received_ms) = (from, now.mono_ms);
        if peer.state != PeerState::Live {
            peer.state = PeerState::Live;
            host.note(Note::Reconnected { name: peer.name.clone() });
        }
    }

    /// Reports the outcome of applied batches: verdicts to the peer, and progress and problems to the log.
    fn report_outcome(&mut self, now: Time, index: usize, stream: u16, outcome: Outcome, host: &mut impl Host) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        let has_synced = !peer.in_sync_reported && peer.is_in_sync();
        peer.in_sync_reported |= has_synced;
        // Nearly every batch of a busy stream has nothing to report: it must cost no allocation.
        if !has_synced && outcome.malformed_seq.is_none() && !outcome.replica_full && outcome.verdicts.is_empty() {
            return;
        }
        let name = peer.name.clone();
        if has_synced {
            host.note(Note::InSync { name: name.clone() });
            self.drop_old_replicas(index, host);
        }
        if let Some(seq) = outcome.malformed_seq {
            self.note(now, Note::Malformed { name: name.clone(), stream, seq }, host);
        }
        if outcome.replica_full {
            self.note(now, Note::Full { name: name.clone(), stream }, host);
        }
        for verdict in outcome.verdicts {
            self.send_verdict(index, &verdict, host);
            self.note_verdict(&name, HeldBy::ThisNode, &verdict, host);
            self.finish_verify(now);
        }
    }

    /// Logs a verdict if this node requested it, or if a bucket differs.
    fn note_verdict(&self, name: &str, held_by: HeldBy, verdict: &control::Verdict, host: &mut impl Host) {
        let requested = self.verify.as_ref().is_some_and(|verify| verify.number == verdict.number);
        if requested || !verdict.differing.is_empty() {
            host.note(Note::Verdict {
                name: name.into(),
                held_by,
                stream: verdict.stream,
                number: verdict.number,
                entries: verdict.entries,
                differing: verdict.differing.count(),
            });
        }
    }

    /// Handles a control message: it is checked against replays, opened, parsed, and then handled by what is known of
    /// its epoch.
    fn receive_control(
        &mut self,
        now: Time,
        from: Address,
        header: &Header,
        datagram: &mut [u8],
        host: &mut impl Host,
    ) {
        let index = self.peer_index(header.node);
        let peer = index.and_then(|index| self.peers.get(index));
        let proven = peer.map_or(Epoch::NONE, |peer| peer.epoch);
        if header.epoch == proven && peer.is_some_and(|peer| peer.replay_window.contains(header.seq)) {
            self.counters.refusals.replayed += 1;
            return;
        }
        let Some(body) = self.open(now, from, header, datagram, host) else { return };
        let Some((to, blocks)) = self.read_control(now, from, header, body, host) else { return };
        if to.node != 0 && to.node != self.id {
            return; // addressed to another node of the group
        }
        if header.node == self.id {
            self.on_duplicate_name(now, from, header, &to, host);
            return;
        }
        if header.epoch < proven {
            self.on_refused_epoch(now, from, header, host);
            self.raise_epoch_if_newer_known(now, &to, &blocks, host);
            return;
        }
        if header.epoch > proven && !self.on_unproven_message(now, from, header, &to, blocks.clone(), host) {
            return;
        }
        let Some(index) = self.peer_index(header.node) else { return };
        self.on_proven_message(now, from, index, header, &to, blocks, host);
    }

    /// Parses the addressee and blocks of a message. If one block does not parse, the whole message is dropped, so that
    /// it never takes effect in part.
    fn read_control<'a>(
        &mut self,
        now: Time,
        from: Address,
        header: &Header,
        body: &'a [u8],
        host: &mut impl Host,
    ) -> Option<(Addressee, Blocks<'a>)> {
        let parsed = control::parse(body).map_err(ControlError::from).and_then(|(to, blocks)| {
            blocks.clone().try_for_each(|block| block.map(drop))?;
            Ok((to, blocks))
        });
        match parsed {
            Ok(parsed) => return Some(parsed),
            Err(ControlError::Malformed) => self.counters.refusals.malformed += 1,
            Err(ControlError::MustKnow(kind)) => {
                self.counters.refusals.unknown_block += 1;
                let name = self.peer_name(header.node);
                self.note(now, Note::UnknownBlock { from, node: header.node, name, kind }, host);
            }
        }
        None
    }

    /// Handles a message of an epoch that is not proven; returns whether the epoch is proven now.
    fn on_unproven_message(
        &mut self,
        now: Time,
        from: Address,
        header: &Header,
        to: &Addressee,
        mut blocks: Blocks<'_>,
        host: &mut impl Host,
    ) -> bool {
        self.raise_epoch_if_newer_known(now, to, &blocks, host);
        let hello_or_bye = blocks.find_map(|block| match block {
            Ok(Block::Hello(hello)) => Some(Ok(hello)),
            Ok(Block::Bye(reason)) => Some(Err(reason)),
            _ => None,
        });
        match hello_or_bye {
            Some(Ok(hello)) => return self.on_unproven_hello(now, from, header, to, &hello, host),
            Some(Err(reason)) if to.epoch == self.epoch => self.on_bye(now, from, header, reason, host),
            _ => self.counters.refusals.unproven += 1,
        }
        false
    }

    /// Raises this node's epoch if a message that is addressed to this run names a later epoch of this node.
    fn raise_epoch_if_newer_known(&mut self, now: Time, to: &Addressee, blocks: &Blocks<'_>, host: &mut impl Host) {
        for block in blocks.clone() {
            if let Ok(Block::Hello(Hello { newest, .. })) = block
                && to.epoch == self.epoch
                && newest > self.epoch
            {
                self.raise_epoch(now, newest, host);
            }
        }
    }

    /// Handles a message of a peer in its proven epoch.
    #[allow(clippy::too_many_arguments)] // one message: time, origin, peer, header, addressee, blocks
    fn on_proven_message(
        &mut self,
        now: Time,
        from: Address,
        index: usize,
        header: &Header,
        to: &Addressee,
        blocks: Blocks<'_>,
        host: &mut impl Host,
    ) {
        self.raise_epoch_if_newer_known(now, to, &blocks, host);
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.replay_window.insert(header.seq);
        self.advance_hlc(now, to.time_ms);
        let is_to_this_run = to.epoch == self.epoch;
        let is_for_all = to.node == 0;
        let mut acked = None;
        let mut stopped = false;
        let is_accepted = self.peers.get(index).is_some_and(Peer::is_accepted);
        for block in blocks.flatten() {
            match block {
                Block::Hello(hello) => self.on_hello(index, &hello, is_for_all, host),
                Block::Bye(reason) if is_to_this_run => {
                    stopped = true;
                    self.on_bye(now, from, header, reason, host);
                }
                _ if !is_accepted => {}
                // Heads are usually addressed to every peer, without an epoch.
                Block::Heads(heads) => self.on_heads(now, index, heads.iter(), host),
                _ if !is_to_this_run => {} // addressed to an earlier run of this node
                Block::Ack { stream, next, gaps } => {
                    let gaps = gaps.iter().map(|gap| (gap.from, gap.to));
                    acked = self.on_ack(now, index, stream, next, gaps, host).then_some((stream, next));
                }
                Block::Want { stream, digests_first, buckets } => {
                    // A want counts only with the newest position of the peer. A late one would be read against that
                    // position and would request buckets again that are already in flight.
                    if let Some((_, next)) = acked.filter(|(of, _)| *of == stream) {
                        self.on_want(stream, next, digests_first, &buckets, host);
                    }
                }
                Block::Skip { stream, resume_at, buckets } => {
                    let mut outcome = Outcome::default();
                    let peer = self.peers.get_mut(index);
                    if let Some(receive) = peer.and_then(|peer| peer.streams.get_mut(usize::from(stream))) {
                        receive.on_skip(now.mono_ms, resume_at, &buckets, host.replica(receive.id), &mut outcome);
                    }
                    self.report_outcome(now, index, stream, outcome, host);
                }
                Block::Verify { number } => self.on_verify(number, host),
                Block::Verdict(verdict) => self.on_verdict(now, index, verdict, host),
                Block::Request => self.on_request(host),
                Block::Bye(_) => {}
            }
        }
        if is_accepted && !stopped {
            self.mark_live(now, from, index, host);
            self.send_due_acks(now, index, host);
        }
    }

    /// Handles a hello of a proven epoch, which carries the peer's role. If it is addressed to this node and does not
    /// name this node's epoch, it is answered, so that this node is proven at the peer too.
    fn on_hello(&mut self, index: usize, hello: &Hello<'_>, is_for_all: bool, host: &mut impl Host) {
        let own_epoch = self.epoch;
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.role = hello.role;
        if !is_for_all && hello.newest != own_epoch {
            self.send_hello_to_peer(index, host);
        }
    }

    /// Handles heads: the newest seq of each of the peer's streams.
    fn on_heads(
        &mut self,
        now: Time,
        index: usize,
        heads: impl Iterator<Item = (u16, u64, u64)>,
        host: &mut impl Host,
    ) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        for (stream, _, newest) in heads {
            if let Some(receive) = peer.streams.get_mut(usize::from(stream)) {
                // A quiet stream has no batches, after which the replica is checked for room too.
                receive.want_refused_if_room(host.replica(receive.id));
                receive.on_heads(now.mono_ms, newest);
            }
        }
    }

    /// Handles an acknowledgement: records the peer's progress, drops batches that are no longer needed, and resends
    /// gaps. Returns false, and does nothing, for one that is older than the last or beyond what was sent.
    fn on_ack(
        &mut self,
        now: Time,
        index: usize,
        stream: u16,
        next: u64,
        gaps: impl Iterator<Item = (u64, u64)>,
        host: &mut impl Host,
    ) -> bool {
        let Some(source) = self.streams.get(usize::from(stream)) else { return false };
        let Some(peer) = self.peers.get_mut(index) else { return false };
        let Some(acked) = peer.acked.get_mut(usize::from(stream)) else { return false };
        if next < acked.next || next > source.newest.saturating_add(1) {
            return false;
        }
        if next > acked.next {
            acked.next = next;
            acked.progress_ms = now.mono_ms;
            if next > source.newest {
                acked.charged_bytes = source.charged_bytes;
            } else if let Some(kept) = self.resend.get(stream, next) {
                acked.charged_bytes = kept.bytes_before;
            }
            self.trim_resend_queue(stream);
        }
        self.resend_gaps(now, index, stream, next, gaps, host);
        true
    }

    /// Drops the batches of `stream` that every peer has acknowledged that may still request a resend.
    fn trim_resend_queue(&mut self, stream: u16) {
        let peers = self.peers.iter().filter(|peer| peer.may_request_resend());
        let acked = peers.filter_map(|peer| peer.acked.get(usize::from(stream)));
        if let Some(next) = acked.map(|acked| acked.next).min() {
            self.resend.drop_before(stream, next);
        }
    }

    /// Handles a want: schedules the wanted buckets, or the digests if they are to be sent first.
    fn on_want(&mut self, stream: u16, next: u64, digests_first: bool, buckets: &BucketSet, host: &mut impl Host) {
        let Some(source) = self.streams.get_mut(usize::from(stream)) else { return };
        if digests_first {
            if source.schedule_digests_for(next) {
                host.schedule_digests(stream, 0);
            }
            return;
        }
        let added = source.schedule_wanted(buckets, next);
        if !added.is_empty() {
            host.schedule_buckets(stream, &added);
        }
    }

    /// Handles a verify: schedules the digests of all streams under `number`.
    fn on_verify(&mut self, number: u64, host: &mut impl Host) {
        for (stream, source) in (0..).zip(&mut self.streams) {
            if source.schedule_digests(number) {
                host.schedule_digests(stream, number);
            }
        }
    }

    /// Handles the verdict of a peer on one of this node's streams.
    fn on_verdict(&mut self, now: Time, index: usize, verdict: control::Verdict, host: &mut impl Host) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        let Some(acked) = peer.acked.get_mut(usize::from(verdict.stream)) else { return };
        acked.verdict = Some(verdict);
        let name = peer.name.clone();
        self.note_verdict(&name, HeldBy::Peer, &verdict, host);
        self.finish_verify(now);
    }

    /// Handles a request to send everything again.
    fn on_request(&mut self, host: &mut impl Host) {
        if self.config.mode.honours_request() {
            self.bulk_send(host);
        }
    }
}
