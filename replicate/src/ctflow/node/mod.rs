//! A node: its own streams, its peers, and the messages between them.
//!
//! ```text
//!  shards ── send_batch ─►  source (per stream) ── seal ──► resend queue ──► Host::send
//!                              ▲ ack, want: resend, skip, schedule_buckets
//!  links ─── receive ────►  peer ──► receive (per stream) ──► Host::replica
//!  timer ─── tick ───────►  hello, heads, ack + want, lost peers
//! ```
//!
//! One thread drives a node. A node does not block and reads no clock, and its memory is bounded by [`crate::ctflow::limits`]
//! and its configuration. The caller passes the time, checks [`Node::is_window_open`] before it passes a batch, and
//! calls [`Node::tick`] at [`Node::deadline`].

mod handshake;
mod receive;
mod send;
mod status;

use crate::ctflow::batch::Payload;
use crate::ctflow::bucket_cycle::BucketCycle;
use crate::ctflow::limits::{
    BATCH_OVERHEAD_BYTES, CACHE_TIMEOUT_MS_DEFAULT, DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, HEADS_BUSY_MS,
    HEADS_IDLE_MS, HELD_BACK_BYTES_DEFAULT, HELLO_MS, REFRESH_MS_DEFAULT, RESEND_BYTES_DEFAULT, WINDOW_BYTES_DEFAULT,
};
use crate::ctflow::peer::Peer;
use crate::ctflow::receive::ReceiveStream;
use crate::ctflow::resend_queue::ResendQueue;
use crate::ctflow::seal::{Key, Sealer};
use crate::ctflow::source::SourceStream;
use crate::ctflow::wire::{Header, Kind};
use crate::limits::{STREAMS_MAX, VERIFY_MS};
use crate::model::buckets::BucketSet;
use crate::model::host::{DatagramClass, Destination, Host, Replica, ReplicaId, node_id};
use crate::model::mode::{Mode, Role};
use crate::model::note::{Note, RecentNotes};
use crate::model::status::{Counters, PeerState};
use crate::model::time::{Epoch, Time};

/// The configuration of a node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name, which is unique in the cluster.
    pub name: String,
    /// The number of its streams, one for each shard, 1 to [`STREAMS_MAX`].
    pub streams: u16,
    /// The replication mode.
    pub mode: Mode,
    /// The pre-shared key; without one nothing is encrypted.
    pub key: Option<Key>,
    /// The epoch of this run.
    pub epoch: Epoch,
    /// The longest datagram in bytes: a link's MTU without IP and UDP headers, within the protocol's bounds.
    pub datagram_bytes: usize,
    /// The size of the resend queue in bytes, for all streams together; at least two batches a stream.
    pub resend_bytes: usize,
    /// The window in bytes: what a responsive peer may leave unacknowledged of a stream before the source waits; at
    /// most the stream's share of `resend_bytes`.
    pub window_bytes: usize,
    /// The bound of the batches held back behind a gap in each stream of a peer, in bytes.
    pub held_back_bytes: usize,
    /// The refresh time in milliseconds: in alarm mode every bucket is sent once in it.
    pub refresh_ms: u64,
    /// The cache timeout in milliseconds: in alarm mode an entry that is no longer sent expires after one to two of it.
    pub cache_timeout_ms: u64,
}

impl Config {
    /// The configuration of a node in ftfw mode, without encryption, with the default bounds.
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

/// A verification that an operator requested, until all peers have answered or its time is over.
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
    /// The time of the last [`Node::flush_absent`] in the current role, monotonic.
    absent_flushed_ms: Option<u64>,
    sealer: Sealer,
    /// The seq of the last control message sent.
    control_seq: u64,
    hlc_ms: u64,
    streams: Vec<SourceStream>,
    resend: ResendQueue,
    peers: Vec<Peer>,
    hello_due: u64,
    heads_due: u64,
    verify: Option<Verification>,
    /// In alarm mode, the schedule by which buckets are sent.
    refresh: BucketCycle,
    /// In alarm mode, the schedule by which buckets are swept.
    sweep: BucketCycle,
    recent_notes: RecentNotes,
    datagrams_opened: u64,
    counters: Counters,
    /// The buffer into which control messages are written.
    scratch: Vec<u8>,
}

impl Node {
    /// Creates a node without peers. The numbers in `config` are clamped to what the protocol allows.
    #[must_use]
    pub fn new(mut config: Config, now: Time) -> Self {
        config.streams = config.streams.clamp(1, STREAMS_MAX);
        config.datagram_bytes = config.datagram_bytes.clamp(DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_MAX);
        // The batches that a responsive peer has not acknowledged must all be kept for resending, so the resend queue
        // has room for all windows and, in each stream, for the batch that closes the window. Otherwise a loss would be
        // repaired by sending whole buckets, and the load of these would cause the next loss.
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

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The node's epoch; greater than the configured one if its clock went back.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The number of datagrams opened so far. With a key, each of them is from a node that has it. A duplicate may be
    /// counted or not.
    #[must_use]
    pub fn datagrams_opened(&self) -> u64 {
        self.datagrams_opened
    }

    /// HLC time in milliseconds since 1970: the wall clock's, but never before a time received from a peer.
    #[must_use]
    pub fn hlc_ms(&self, now: Time) -> u64 {
        self.hlc_ms.max(now.wall_ms)
    }

    /// Whether the window of `stream` is open, so that its shard may pass a batch. While it is closed, deltas wait in
    /// the shard, where the newest state of a flow replaces older ones.
    #[must_use]
    pub fn is_window_open(&self, now: Time, stream: u16) -> bool {
        let Some(source) = self.streams.get(usize::from(stream)) else { return false };
        let behind = self.peers.iter().map(|peer| peer.window_bytes_used(now.mono_ms, stream, source.charged_bytes));
        behind.max().unwrap_or(0) < self.config.window_bytes as u64
    }

    /// Sends the next batch of a stream to all peers. While none is live, the batch is kept for a lost peer if all
    /// batches that this peer has not acknowledged are kept too. Otherwise only the buckets that it touches are
    /// recorded, and a peer that connects later wants these. A batch of a stream that does not exist is dropped.
    pub fn send_batch(&mut self, now: Time, payload: Payload, host: &mut impl Host) {
        self.advance_hlc(now, payload.time_ms);
        let stream = payload.stream;
        let Some(source) = self.streams.get_mut(usize::from(stream)) else { return };
        let seq = source.append_batch(&payload);
        let (epoch, cipher) = (self.epoch, self.sealer.cipher());
        let header = Header { kind: Kind::Batch, cipher, stream, node: self.id, epoch, seq };
        let mut datagram = payload.bytes;
        let is_any_live = self.peers.iter().any(Peer::is_live);
        let is_kept = is_any_live || self.lost_peer_can_resume(stream, seq);
        if !is_kept || self.sealer.seal(&header, &mut datagram).is_none() {
            self.resend.clear(stream);
            self.counters.batches_unsent += 1;
            return;
        }
        if is_any_live {
            host.send(Destination::All, DatagramClass::Delta, &datagram);
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
                acked.progress_ms = now.mono_ms; // from now on it has something to acknowledge
            }
        }
    }

    /// Whether a lost peer that returns could resume where it was, with the kept batches of a stream and `seq`, the
    /// next one.
    fn lost_peer_can_resume(&self, stream: u16, seq: u64) -> bool {
        let oldest = self.resend.oldest(stream).unwrap_or(seq);
        let lost = self.peers.iter().filter(|peer| peer.may_request_resend() && !peer.is_live());
        let mut reached = lost.filter_map(|peer| peer.acked.get(usize::from(stream)));
        self.config.mode.acknowledges() && reached.any(|acked| acked.next >= oldest)
    }

    /// Sends the messages and does the timed work that is due. Early or late calls do no harm.
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

    /// The time at which to call [`Node::tick`] next, in monotonic milliseconds.
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

    /// Sets the role, and makes the hello due that reports it to the peers.
    pub fn set_role(&mut self, now: Time, role: Role) {
        self.role = role;
        self.absent_flushed_ms = None;
        self.hello_due = now.mono_ms;
    }

    /// The node's role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether any peer is live.
    #[must_use]
    pub fn has_live_peer(&self) -> bool {
        self.peers.iter().any(Peer::is_live)
    }

    /// Whether a peer is live, and all live peers are in sync here: all their buckets are known, except those that the
    /// replicas have no room for.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        let known = |peer: &Peer| !peer.streams.is_empty() && peer.streams.iter().all(ReceiveStream::is_in_sync);
        self.has_live_peer() && self.peers.iter().filter(|peer| peer.is_live()).all(known)
    }

    /// The names of the live peers in `role`. Another primary beside this one is a split brain, unless the operator
    /// configured both as primary.
    pub fn peers_in_role(&self, role: Role) -> impl Iterator<Item = &str> {
        self.peers.iter().filter(move |peer| peer.is_live() && peer.role == role).map(|peer| peer.name.as_str())
    }

    /// Requests everything from all peers again, for an operator.
    pub fn request_from_all(&mut self, now: Time, host: &mut impl Host) {
        for peer in 0..self.peers.len() {
            self.request_from_peer(now, peer, host);
        }
    }

    /// Sends everything to all peers again, for an operator or a peer that requests it.
    pub fn bulk_send(&mut self, host: &mut impl Host) {
        for stream in 0..self.config.streams {
            self.bulk_send_buckets(stream, &BucketSet::all_of(stream), host);
        }
    }

    /// Compares all replicas with their sources, this node's and its peers', for an operator. Each verdict is reported
    /// as [`Note::Verdict`] under `number`, which is not 0, and in the status.
    pub fn verify(&mut self, now: Time, number: u64, host: &mut impl Host) {
        self.verify = Some(Verification { number, until_ms: now.mono_ms + VERIFY_MS, due_ms: now.mono_ms });
        self.send_verify(now, host);
    }

    /// Empties all replicas, for an operator, and requests everything from the peers again.
    pub fn flush_external(&mut self, now: Time, host: &mut impl Host) {
        self.empty_replicas(now, |_| true, host);
    }

    /// Empties the replicas of the peers that are not live, because this node has taken over their flows and those
    /// change without them. A peer that is marked live now, but from which nothing more is received, is treated alike
    /// once it is lost.
    pub fn flush_absent(&mut self, now: Time, host: &mut impl Host) {
        self.absent_flushed_ms = Some(now.mono_ms);
        self.empty_replicas(now, |peer| !peer.is_live(), host);
    }

    /// Empties the replicas of the peers that `selects` returns true for, and requests everything from these again.
    fn empty_replicas(&mut self, now: Time, selects: impl Fn(&Peer) -> bool, host: &mut impl Host) {
        for index in 0..self.peers.len() {
            if !self.peers.get(index).is_some_and(&selects) {
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

    /// Sends a bye to all peers. No other method may be called afterwards.
    pub fn stop(&mut self, host: &mut impl Host) {
        for index in 0..self.peers.len() {
            self.send_stopped(index, host);
        }
    }

    /// Advances HLC time to the wall clock's, and to `seen_ms`, which was received from a peer or shard.
    fn advance_hlc(&mut self, now: Time, seen_ms: u64) {
        self.hlc_ms = self.hlc_ms.max(now.wall_ms).max(seen_ms);
    }

    /// Passes a note to the host, unless the same one was passed shortly before.
    fn note(&mut self, now: Time, note: Note, host: &mut impl Host) {
        if self.recent_notes.admit(&note, now.mono_ms) {
            host.note(note);
        }
    }

    /// Marks live peers as lost that have been silent for too long, and empties the replicas of those that were already
    /// silent at the last [`Node::flush_absent`].
    fn mark_silent_peers_lost(&mut self, now: Time, host: &mut impl Host) {
        let flushed_ms = self.absent_flushed_ms;
        let mut flushed = Vec::new();
        for peer in self.peers.iter_mut().filter(|peer| peer.is_overdue(now.mono_ms)) {
            peer.state = PeerState::Lost;
            host.note(Note::Lost { name: peer.name.clone() });
            if flushed_ms.is_some_and(|since| peer.last_received_ms <= since) {
                flushed.push(peer.node);
            }
        }
        if !flushed.is_empty() {
            self.empty_replicas(now, |peer| flushed.contains(&peer.node), host);
        }
    }

    /// Schedules those of `buckets` that are not scheduled already, even if they are in flight to a peer.
    fn bulk_send_buckets(&mut self, stream: u16, buckets: &BucketSet, host: &mut impl Host) {
        let Some(source) = self.streams.get_mut(usize::from(stream)) else { return };
        let added = source.schedule_wanted(buckets, u64::MAX);
        if !added.is_empty() {
            host.schedule_buckets(stream, &added);
        }
    }

    /// Sends and sweeps the buckets that are due, for alarm mode.
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

    /// Drops the replicas of the streams that a peer had in an earlier epoch, when their number was another.
    fn drop_old_replicas(&mut self, peer: usize, host: &mut impl Host) {
        let Some(peer) = self.peers.get_mut(peer) else { return };
        if let Some(streams) = peer.old_stream_count.take() {
            for stream in 0..streams {
                host.drop_replica(ReplicaId { node: peer.node, stream, streams });
            }
        }
    }

    /// Ends the operator's verification once there are verdicts on all streams of this node and of all live peers, or
    /// its time is over.
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
