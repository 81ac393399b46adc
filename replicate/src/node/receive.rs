//! What a node does with what it hears.

use super::Node;
use crate::buckets::BucketSet;
use crate::control::{self, Addressee, Block, Blocks, ControlError, Hello};
use crate::host::{Address, Host};
use crate::note::{HeldBy, Note};
use crate::peer::{Peer, PeerState};
use crate::receive::Outcome;
use crate::seal::OpenError;
use crate::time::{Epoch, Time};
use crate::wire::{Header, HeaderError, Kind};

impl Node {
    /// Takes a received datagram; it is opened where it is. Whatever it is, it is acted on or counted, never more.
    pub fn receive(&mut self, now: Time, from: Address, datagram: &mut [u8], host: &mut impl Host) {
        self.advance_hlc(now, 0);
        let header = match Header::parse(datagram) {
            Ok(header) => header,
            Err(HeaderError::Foreign) => {
                self.counters.refusals.foreign += 1;
                return;
            }
            Err(HeaderError::Version(version)) => {
                self.counters.refusals.version += 1;
                self.note(now, Note::OtherVersion { from, version }, host);
                return;
            }
        };
        if header.node == self.id && header.epoch == self.epoch {
            return; // its own, come back from the group
        }
        match header.kind {
            Kind::Batch => self.receive_batch(now, from, &header, datagram, host),
            Kind::Control => self.receive_control(now, from, &header, datagram, host),
        }
    }

    /// The body of a datagram; one that does not open is counted, and the log says so.
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

    fn receive_batch(&mut self, now: Time, from: Address, header: &Header, datagram: &mut [u8], host: &mut impl Host) {
        let index = self.peer_index(header.node);
        let peer = index.and_then(|index| self.peers.get_mut(index));
        let peer = peer.filter(|peer| peer.is_accepted() && peer.epoch == header.epoch);
        let stream = peer.and_then(|peer| peer.streams.get_mut(usize::from(header.stream)));
        let (Some(index), Some(stream)) = (index, stream) else {
            self.counters.refusals.unproven += 1;
            return;
        };
        if stream.is_missing(now.mono_ms, header.seq) {
            let Some(body) = self.open(now, from, header, datagram, host) else { return };
            self.mark_live(now, from, index, host);
            let mut found = Outcome::default();
            let peer = self.peers.get_mut(index);
            if let Some(stream) = peer.and_then(|peer| peer.streams.get_mut(usize::from(header.stream))) {
                stream.accept_batch(now.mono_ms, header.seq, body, host.replica(stream.id), &mut found);
                let time_ms = stream.time_ms;
                self.advance_hlc(now, time_ms);
            }
            self.report_outcome(now, index, header.stream, found, host);
        }
        self.send_due_acks(now, index, host);
    }

    /// A peer is heard: it is live, wherever it speaks from.
    fn mark_live(&mut self, now: Time, from: Address, index: usize, host: &mut impl Host) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        (peer.at, peer.last_received_ms) = (from, now.mono_ms);
        if peer.state != PeerState::Live {
            peer.state = PeerState::Live;
            host.note(Note::Reconnected { name: peer.name.clone() });
        }
    }

    /// Tells its peer and the operator what came of some batches.
    fn report_outcome(&mut self, now: Time, index: usize, stream: u16, found: Outcome, host: &mut impl Host) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        let is_news = !peer.in_sync_reported && peer.is_in_sync();
        peer.in_sync_reported |= is_news;
        // What every batch of a busy stream comes through ends here.
        if !is_news && found.malformed_seq.is_none() && !found.replica_full && found.verdicts.is_empty() {
            return;
        }
        let name = peer.name.clone();
        if is_news {
            host.note(Note::InSync { name: name.clone() });
            self.drop_old_replicas(index, host);
        }
        if let Some(seq) = found.malformed_seq {
            self.note(now, Note::Malformed { name: name.clone(), stream, seq }, host);
        }
        if found.replica_full {
            self.note(now, Note::Full { name: name.clone(), stream }, host);
        }
        for verdict in found.verdicts {
            self.send_verdict(index, &verdict, host);
            self.note_verdict(&name, HeldBy::ThisNode, &verdict, host);
            self.finish_verify(now);
        }
    }

    /// Says what a comparison found if it was this node's wish, or if something differs.
    fn note_verdict(&self, name: &str, held: HeldBy, verdict: &control::Verdict, host: &mut impl Host) {
        let wished = self.verify.as_ref().is_some_and(|verify| verify.number == verdict.number);
        if wished || !verdict.differing.is_empty() {
            host.note(Note::Verdict {
                name: name.into(),
                held_by: held,
                stream: verdict.stream,
                number: verdict.number,
                entries: verdict.entries,
                differing: verdict.differing.count(),
            });
        }
    }

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
        let Some((to, blocks)) = self.read_control(now, header, body, host) else { return };
        if to.node != 0 && to.node != self.id {
            return; // another one's, by a group
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

    /// The addressee and blocks of a message, all of which were seen to parse; one that does not is dropped whole.
    fn read_control<'a>(
        &mut self,
        now: Time,
        header: &Header,
        body: &'a [u8],
        host: &mut impl Host,
    ) -> Option<(Addressee, Blocks<'a>)> {
        let whole = control::parse(body).map_err(ControlError::from).and_then(|(to, blocks)| {
            blocks.clone().try_for_each(|block| block.map(drop))?;
            Ok((to, blocks))
        });
        match whole {
            Ok(whole) => return Some(whole),
            Err(ControlError::Malformed) => self.counters.refusals.malformed += 1,
            Err(ControlError::MustKnow(kind)) => {
                self.counters.refusals.unknown_block += 1;
                self.note(now, Note::UnknownBlock { node: header.node, kind }, host);
            }
        }
        None
    }

    /// Hears an epoch that is not proven. Whether it is now.
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
        let said = blocks.find_map(|block| match block {
            Ok(Block::Hello(hello)) => Some(Ok(hello)),
            Ok(Block::Bye(reason)) => Some(Err(reason)),
            _ => None,
        });
        match said {
            Some(Ok(hello)) => return self.on_unproven_hello(now, from, header, to, &hello, host),
            Some(Err(reason)) if to.epoch == self.epoch => self.on_bye(now, from, header, reason, host),
            _ => self.counters.refusals.unproven += 1,
        }
        false
    }

    /// Raises this node's epoch if a message to this run knows a later one.
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

    /// Hears a peer in its proven epoch.
    #[allow(clippy::too_many_arguments)] // one message: when, from where, whose, to whom, what
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
        let is_heeded = self.peers.get(index).is_some_and(Peer::is_accepted);
        for block in blocks.flatten() {
            match block {
                Block::Hello(hello) => self.on_hello(index, &hello, is_for_all, host),
                Block::Bye(reason) if is_to_this_run => {
                    stopped = true;
                    self.on_bye(now, from, header, reason, host);
                }
                _ if !is_heeded => {}
                Block::Heads(heads) => self.on_heads(now, index, heads.iter(), host),
                _ if !is_to_this_run => {} // said to an earlier run
                Block::Ack { stream, next, gaps } => {
                    let gaps = gaps.iter().map(|gap| (gap.from, gap.to));
                    acked = self.on_ack(now, index, stream, next, gaps, host).then_some((stream, next));
                }
                Block::Want { stream, digests_first, buckets } => {
                    // What is wanted goes with where its peer is: with an older message's, more would be told than lacks.
                    if let Some((_, next)) = acked.filter(|(of, _)| *of == stream) {
                        self.on_want(stream, next, digests_first, &buckets, host);
                    }
                }
                Block::Skip { stream, resume_at: go_on, buckets } => {
                    let mut found = Outcome::default();
                    let peer = self.peers.get_mut(index);
                    if let Some(receive) = peer.and_then(|peer| peer.streams.get_mut(usize::from(stream))) {
                        receive.on_skip(now.mono_ms, go_on, &buckets, host.replica(receive.id), &mut found);
                    }
                    self.report_outcome(now, index, stream, found, host);
                }
                Block::Verify { number } => self.on_verify(number, host),
                Block::Verdict(verdict) => self.on_verdict(now, index, verdict, host),
                Block::Request => self.on_request(host),
                Block::Bye(_) => {}
            }
        }
        if is_heeded && !stopped {
            self.mark_live(now, from, index, host);
            self.send_due_acks(now, index, host);
        }
    }

    /// A hello of a proven epoch: news of its role. One that is to this node by name and does not know its epoch is
    /// answered, so that it is proven there too.
    fn on_hello(&mut self, index: usize, hello: &Hello<'_>, is_for_all: bool, host: &mut impl Host) {
        let own_epoch = self.epoch;
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.role = hello.role;
        if !is_for_all && hello.newest != own_epoch {
            self.send_hello_to_peer(index, host);
        }
    }

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
                receive.want_refused_if_room(host.replica(receive.id));
                receive.on_heads(now.mono_ms, newest);
            }
        }
    }

    /// Whether the acknowledgement is the newest of its stream.
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

    /// Drops the batches of `stream` that all have who may ask for any.
    fn trim_resend_queue(&mut self, stream: u16) {
        let peers = self.peers.iter().filter(|peer| peer.may_request_resend());
        let acked = peers.filter_map(|peer| peer.acked.get(usize::from(stream)));
        if let Some(next) = acked.map(|acked| acked.next).min() {
            self.resend.drop_before(stream, next);
        }
    }

    fn on_want(&mut self, stream: u16, next: u64, digests_first: bool, buckets: &BucketSet, host: &mut impl Host) {
        let Some(source) = self.streams.get_mut(usize::from(stream)) else { return };
        if digests_first {
            if source.schedule_digests_for(next) {
                host.schedule_digests(stream, 0);
            }
            return;
        }
        let ask = source.schedule_wanted(buckets, next);
        if !ask.is_empty() {
            host.schedule_buckets(stream, &ask);
        }
    }

    fn on_verify(&mut self, number: u64, host: &mut impl Host) {
        for (stream, source) in (0..).zip(&mut self.streams) {
            if source.schedule_digests(number) {
                host.schedule_digests(stream, number);
            }
        }
    }

    fn on_verdict(&mut self, now: Time, index: usize, verdict: control::Verdict, host: &mut impl Host) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        let Some(acked) = peer.acked.get_mut(usize::from(verdict.stream)) else { return };
        acked.verdict = Some(verdict);
        let name = peer.name.clone();
        self.note_verdict(&name, HeldBy::Peer, &verdict, host);
        self.finish_verify(now);
    }

    /// Somebody wants everything told again.
    fn on_request(&mut self, host: &mut impl Host) {
        if self.config.mode.honours_request() {
            self.bulk_send(host);
        }
    }
}
