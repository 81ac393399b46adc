//! A node: its own streams, its peers, and what is said between them.
//!
//! ```text
//!  shards ── tell ──►  source (per stream) ── seal ──► resend queue ──► Host::send
//!                          ▲ ack, want: resend, skip, tell_buckets
//!  links ── receive ─►  peer ──► receive (per stream) ──► Host::replica
//!  timer ── tick ────►  hello, heads, ack + want, lost peers
//! ```
//!
//! One thread drives it. Nothing here blocks, reads a clock or keeps more than [`crate::limits`] say: a caller passes the
//! time, asks [`Node::is_window_open`] before it hands a batch over, and calls [`Node::tick`] at [`Node::deadline`].

mod handshake;
mod receive;
mod send;
mod status;

use crate::batch::Payload;
use crate::bucket_cycle::BucketCycle;
use crate::buckets::BucketSet;
use crate::host::{Destination, Host, Replica, ReplicaId};
use crate::limits::{
    BATCH_OVERHEAD_BYTES, CACHE_TIMEOUT_MS_DEFAULT, DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, HEADS_BUSY_MS,
    HEADS_IDLE_MS, HELD_BACK_BYTES_DEFAULT, HELLO_MS, REFRESH_MS_DEFAULT, RESEND_BYTES_DEFAULT, STREAMS_MAX, VERIFY_MS,
    WINDOW_BYTES_DEFAULT,
};
use crate::mode::{Mode, Role};
use crate::note::{Note, RecentNotes};
use crate::peer::{Peer, PeerState};
use crate::receive::ReceiveStream;
use crate::resend_queue::ResendQueue;
use crate::seal::{Key, Sealer};
use crate::source::SourceStream;
use crate::time::{Epoch, Time};
use crate::wire::{Header, Kind, node_id};
pub use status::{Counters, PeerStatus, ReceiveStatus, Refusals, SourceStatus, Status, VerdictStatus};

/// What a node is and how it replicates.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name; no other node of the cluster has it.
    pub name: String,
    /// Its streams: as many as it has shards, 1 to [`STREAMS_MAX`].
    pub streams: u16,
    /// How it replicates.
    pub mode: Mode,
    /// The pre-shared key; without one everything is in clear.
    pub key: Option<Key>,
    /// This run.
    pub epoch: Epoch,
    /// The longest datagram in bytes: a link's MTU without IP and UDP headers, within the protocol's bounds.
    pub datagram_bytes: usize,
    /// Bytes of batches that are kept for resending, all streams together; at least two batches a stream.
    pub resend_bytes: usize,
    /// Bytes of a stream's batches that a peer may be behind before the source waits; at most its part of the above.
    pub window_bytes: usize,
    /// Bytes of batches held back in each stream of a peer.
    pub held_back_bytes: usize,
    /// In alarm mode, how often everything is told, in milliseconds.
    pub refresh_ms: u64,
    /// In alarm mode, how long what was not told stays, in milliseconds; at most twice that.
    pub cache_timeout_ms: u64,
}

impl Config {
    /// A node in ftfw mode, in clear, with the default bounds.
    #[must_use]
    pub fn new(name: &str, streams: u16, epoch: Epoch) -> Self {
        Self {
            name: name.into(),
            streams,
            mode: Mode::Ftfw,
            key: None,
            epoch,
            datagram_bytes: 1_432,
            resend_bytes: RESEND_BYTES_DEFAULT,
            window_bytes: WINDOW_BYTES_DEFAULT,
            held_back_bytes: HELD_BACK_BYTES_DEFAULT,
            refresh_ms: REFRESH_MS_DEFAULT,
            cache_timeout_ms: CACHE_TIMEOUT_MS_DEFAULT,
        }
    }
}

/// An operator's wish to compare, until all peers answered.
#[derive(Debug)]
struct Verification {
    number: u64,
    until_ms: u64,
    due_ms: u64,
}

/// One node of a cluster.
pub struct Node {
    config: Config,
    id: u64,
    epoch: Epoch,
    role: Role,
    /// Since when what absent peers held is this node's; monotonic.
    absent_flushed_ms: Option<u64>,
    sealer: Sealer,
    /// The last control message's seq.
    control_seq: u64,
    hlc_ms: u64,
    streams: Vec<SourceStream>,
    resend: ResendQueue,
    peers: Vec<Peer>,
    hello_due: u64,
    heads_due: u64,
    verify: Option<Verification>,
    /// In alarm mode, what is told again.
    refresh: BucketCycle,
    /// In alarm mode, what expires.
    sweep: BucketCycle,
    recent_notes: RecentNotes,
    datagrams_opened: u64,
    counters: Counters,
    /// The buffer that control messages are written into.
    scratch: Vec<u8>,
}

impl Node {
    /// A node that knows nobody yet. Numbers in `config` are taken to the nearest that the protocol allows.
    #[must_use]
    pub fn new(mut config: Config, now: Time) -> Self {
        config.streams = config.streams.clamp(1, STREAMS_MAX);
        config.datagram_bytes = config.datagram_bytes.clamp(DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_MAX);
        // What a peer that keeps up has not acknowledged must still be there to be sent again: all windows, and in each
        // stream the batch that closes its window, fit the resend queue. Otherwise a loss would cost it whole buckets,
        // and telling those the next loss.
        let streams = usize::from(config.streams);
        let batch_bytes = config.datagram_bytes + BATCH_OVERHEAD_BYTES;
        config.resend_bytes = config.resend_bytes.max(2 * streams * batch_bytes);
        config.window_bytes = config.window_bytes.min(config.resend_bytes / streams - batch_bytes);
        Self {
            id: node_id(&config.name),
            epoch: config.epoch,
            role: Role::None,
            absent_flushed_ms: None,
            sealer: Sealer::new(config.key.clone()),
            control_seq: 0,
            hlc_ms: now.wall_ms,
            streams: (0..config.streams).map(SourceStream::new).collect(),
            resend: ResendQueue::new(config.streams, config.resend_bytes),
            peers: Vec::new(),
            hello_due: now.mono_ms,
            heads_due: now.mono_ms + HEADS_IDLE_MS,
            verify: None,
            refresh: BucketCycle::new(config.refresh_ms, now.mono_ms),
            sweep: BucketCycle::new(config.cache_timeout_ms, now.mono_ms),
            recent_notes: RecentNotes::default(),
            datagrams_opened: 0,
            counters: Counters::default(),
            scratch: Vec::new(),
            config,
        }
    }

    /// Its node id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its epoch; a greater one than configured where its clock went back.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Datagrams that opened so far: whoever sent them has the key. One that came before may be among them, or not.
    #[must_use]
    pub fn datagrams_opened(&self) -> u64 {
        self.datagrams_opened
    }

    /// HLC time: the wall clock's, but never before what was seen of a peer; milliseconds since 1970.
    #[must_use]
    pub fn hlc_ms(&self, now: Time) -> u64 {
        self.hlc_ms.max(now.wall_ms)
    }

    /// Whether the window of `stream` is open: its shard may hand over a batch. If not, deltas wait in the shard, where
    /// the newest state of a flow takes the place of older ones.
    #[must_use]
    pub fn is_window_open(&self, now: Time, stream: u16) -> bool {
        let Some(source) = self.streams.get(usize::from(stream)) else { return false };
        let behind = self.peers.iter().map(|peer| peer.window_bytes_used(now.mono_ms, stream, source.charged_bytes));
        behind.max().unwrap_or(0) < self.config.window_bytes as u64
    }

    /// Tells all peers the next batch of a stream. While none is live it is kept for one that is lost, if what it missed so
    /// far is there too; else only what it touched is noted: a peer that comes later asks for the buckets.
    pub fn send_batch(&mut self, now: Time, payload: Payload, host: &mut impl Host) {
        self.advance_hlc(now, payload.time_ms);
        let stream = payload.stream;
        let Some(source) = self.streams.get_mut(usize::from(stream)) else { return };
        let seq = source.append_batch(&payload);
        let (epoch, cipher) = (self.epoch, self.sealer.cipher());
        let header = Header { kind: Kind::Batch, cipher, stream, node: self.id, epoch, seq };
        let mut datagram = payload.bytes;
        let is_heard = self.peers.iter().any(Peer::is_live);
        let is_kept = is_heard || self.lost_peer_can_resume(stream, seq);
        if !is_kept || self.sealer.seal(&header, &mut datagram).is_none() {
            self.resend.clear(stream);
            self.counters.batches_unsent += 1;
            return;
        }
        if is_heard {
            host.send(Destination::All, &datagram);
            self.counters.batches_sent += 1;
            self.counters.bytes_sent += datagram.len() as u64;
            self.heads_due = self.heads_due.min(now.mono_ms + HEADS_BUSY_MS);
        } else {
            self.counters.batches_unsent += 1;
        }
        let Some(source) = self.streams.get_mut(usize::from(stream)) else { return };
        if !self.config.mode.acknowledges() {
            return;
        }
        let before = source.charged_bytes;
        source.charged_bytes += self.resend.push(stream, seq, before, now.mono_ms, datagram) as u64;
        for peer in self.peers.iter_mut().filter(|peer| peer.is_live()) {
            if let Some(acked) = peer.acked.get_mut(usize::from(stream)).filter(|acked| acked.charged_bytes == before) {
                acked.progress_ms = now.mono_ms; // it has something to come further to from now on
            }
        }
    }

    /// Whether a lost peer that comes back could go on where it was, with the batches of a stream that are kept and `seq`,
    /// the next one.
    fn lost_peer_can_resume(&self, stream: u16, seq: u64) -> bool {
        let oldest = self.resend.oldest(stream).unwrap_or(seq);
        let lost = self.peers.iter().filter(|peer| peer.may_request_resend() && !peer.is_live());
        let mut reached = lost.filter_map(|peer| peer.acked.get(usize::from(stream)));
        self.config.mode.acknowledges() && reached.any(|acked| acked.next >= oldest)
    }

    /// Does what is due. Early or late calls do no harm.
    pub fn tick(&mut self, now: Time, host: &mut impl Host) {
        self.advance_hlc(now, 0);
        self.mark_silent_peers_lost(now, host);
        if now.mono_ms >= self.hello_due {
            self.hello_due = now.mono_ms + HELLO_MS;
            self.send_hello(host);
        }
        if now.mono_ms >= self.heads_due {
            self.send_heads(now, host);
        }
        for peer in 0..self.peers.len() {
            self.send_due_acks(now, peer, host);
        }
        if self.verify.as_ref().is_some_and(|verify| now.mono_ms >= verify.due_ms) {
            self.send_verify(now, host);
        }
        if self.config.mode.expires() {
            self.refresh_and_sweep(now, host);
        }
    }

    /// When [`Node::tick`] is wanted next, in monotonic milliseconds.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        let alarm = self.config.mode.expires().then(|| self.refresh.next_due_ms().min(self.sweep.next_due_ms()));
        let verify = self.verify.as_ref().map(|verify| verify.due_ms);
        let live = self.peers.iter().filter(|peer| peer.is_live());
        let peers = live.flat_map(|peer| {
            let acks = peer.streams.iter().filter_map(|stream| stream.ack_due);
            acks.chain([peer.lost_at_ms()])
        });
        let own = [Some(self.hello_due), Some(self.heads_due), alarm, verify];
        own.into_iter().flatten().chain(peers).min().unwrap_or(self.hello_due)
    }

    /// Sets what it does for traffic, and tells its peers.
    pub fn set_role(&mut self, now: Time, role: Role) {
        self.role = role;
        self.absent_flushed_ms = None;
        self.hello_due = now.mono_ms;
    }

    /// What it does for traffic.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether any peer is live.
    #[must_use]
    pub fn has_live_peer(&self) -> bool {
        self.peers.iter().any(Peer::is_live)
    }

    /// Whether a peer is live, and of those that are everything is known.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        let known = |peer: &Peer| !peer.streams.is_empty() && peer.streams.iter().all(ReceiveStream::is_in_sync);
        self.has_live_peer() && self.peers.iter().filter(|peer| peer.is_live()).all(known)
    }

    /// The names of the live peers that do as this node does: two primaries, unless that is what the operator wants.
    pub fn peers_in_role(&self, role: Role) -> impl Iterator<Item = &str> {
        self.peers.iter().filter(move |peer| peer.is_live() && peer.role == role).map(|peer| peer.name.as_str())
    }

    /// The operator wants everything from all peers again.
    pub fn request_from_all(&mut self, now: Time, host: &mut impl Host) {
        for peer in 0..self.peers.len() {
            self.request_from_peer(now, peer, host);
        }
    }

    /// The operator wants everything told to all peers again.
    pub fn bulk_send(&mut self, host: &mut impl Host) {
        for stream in 0..self.config.streams {
            self.bulk_send_buckets(stream, &BucketSet::all_of(stream), host);
        }
    }

    /// The operator wants to know whether replicas and sources agree, this node's and its peers'. Answers come as
    /// [`Note::Verdict`] under `number`, which is not 0, and stand in the status.
    pub fn verify(&mut self, now: Time, number: u64, host: &mut impl Host) {
        self.verify = Some(Verification { number, until_ms: now.mono_ms + VERIFY_MS, due_ms: now.mono_ms });
        self.send_verify(now, host);
    }

    /// The operator wants the replicas emptied. What the peers have is asked for again.
    pub fn flush_external(&mut self, now: Time, host: &mut impl Host) {
        self.empty_replicas(now, |_| true, host);
    }

    /// The same of the replicas of peers that are not live: what they held is this node's now, and goes on without them.
    /// Likewise of those that turn out not to have been, as they are not heard any more from here on.
    pub fn flush_absent(&mut self, now: Time, host: &mut impl Host) {
        self.absent_flushed_ms = Some(now.mono_ms);
        self.empty_replicas(now, |peer| !peer.is_live(), host);
    }

    fn empty_replicas(&mut self, now: Time, whose: impl Fn(&Peer) -> bool, host: &mut impl Host) {
        for index in 0..self.peers.len() {
            if !self.peers.get(index).is_some_and(&whose) {
                continue;
            }
            self.drop_old_replicas(index, host);
            if let Some(peer) = self.peers.get(index) {
                for stream in &peer.streams {
                    host.replica(stream.id).clear();
                }
            }
            self.request_from_peer(now, index, host);
        }
    }

    /// Takes leave of all peers. Nothing is to be called after it.
    pub fn stop(&mut self, host: &mut impl Host) {
        for index in 0..self.peers.len() {
            self.send_stopped(index, host);
        }
    }

    /// Brings HLC time forward to what the clock or somebody else says.
    fn advance_hlc(&mut self, now: Time, seen_ms: u64) {
        self.hlc_ms = self.hlc_ms.max(now.wall_ms).max(seen_ms);
    }

    fn note(&mut self, now: Time, note: Note, host: &mut impl Host) {
        if self.recent_notes.admit(&note, now.mono_ms) {
            host.note(note);
        }
    }

    fn mark_silent_peers_lost(&mut self, now: Time, host: &mut impl Host) {
        let inherited_ms = self.absent_flushed_ms;
        let mut inherited = Vec::new();
        for peer in self.peers.iter_mut().filter(|peer| peer.is_overdue(now.mono_ms)) {
            peer.state = PeerState::Lost;
            host.note(Note::Lost { name: peer.name.clone() });
            if inherited_ms.is_some_and(|since| peer.last_received_ms <= since) {
                inherited.push(peer.node);
            }
        }
        if !inherited.is_empty() {
            self.empty_replicas(now, |peer| inherited.contains(&peer.node), host);
        }
    }

    /// Has the shard tell the buckets that it was not asked for already.
    fn bulk_send_buckets(&mut self, stream: u16, buckets: &BucketSet, host: &mut impl Host) {
        let Some(source) = self.streams.get_mut(usize::from(stream)) else { return };
        let ask = source.schedule_wanted(buckets, u64::MAX);
        if !ask.is_empty() {
            host.schedule_buckets(stream, &ask);
        }
    }

    fn refresh_and_sweep(&mut self, now: Time, host: &mut impl Host) {
        let refreshed: BucketSet = self.refresh.due_buckets(now.mono_ms).collect();
        if !refreshed.is_empty() {
            for stream in 0..self.config.streams {
                self.bulk_send_buckets(stream, &refreshed, host);
            }
        }
        for bucket in self.sweep.due_buckets(now.mono_ms) {
            for stream in self.peers.iter_mut().flat_map(|peer| &mut peer.streams) {
                stream.sweep_bucket(bucket, host.replica(stream.id));
            }
        }
    }

    /// Gives up the replicas of the streams that a peer had before.
    fn drop_old_replicas(&mut self, peer: usize, host: &mut impl Host) {
        let Some(peer) = self.peers.get_mut(peer) else { return };
        if let Some(of) = peer.old_stream_count.take() {
            for stream in 0..of {
                host.drop_replica(ReplicaId { node: peer.node, stream, streams: of });
            }
        }
    }

    /// Ends the operator's verification once all live peers answered for all streams, there and here.
    fn finish_verify(&mut self, now: Time) {
        let Some(Verification { number, until_ms, .. }) = self.verify else { return };
        let answered = self.peers.iter().filter(|peer| peer.is_live()).all(|peer| {
            let here = peer.streams.iter().map(|stream| stream.verdict);
            let there = peer.acked.iter().map(|acked| acked.verdict);
            here.chain(there).all(|verdict| verdict.is_some_and(|verdict| verdict.number == number))
        });
        if answered || now.mono_ms >= until_ms {
            self.verify = None;
        }
    }
}

#[cfg(test)]
mod tests;
