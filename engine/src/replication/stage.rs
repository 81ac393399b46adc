//! The replication thread.
//!
//! ```text
//! loop:  requests ──► batches ──► tick ──► worker requests ──► flush ──► wait ──► receive datagrams
//!                     while       timers   buckets and         links     for links, batches,
//!                     windows              digests to send               requests, the next timer
//!                     are open
//! ```
//!
//! Each step is bounded, so that no step delays the others for long: a round reads at most [`STAGE_BATCHES_PER_ROUND`]
//! batches of each worker and [`LINK_DATAGRAMS_PER_ROUND`] datagrams of each socket of a link.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use ctflow_replicate::buckets::BucketSet;
use ctflow_replicate::{Address, DatagramClass, Destination, Host, Note, PeerStatus, Protocol, ReplicaId, Time};
use mio::{Events, Poll, Token, Waker};
use thiserror::Error;

use super::inject_queue::InjectQueue;
use super::split_brain::SplitBrain;
use super::{
    Lag, PeerReport, ReplicaStatus, Replication, ReplicationSettings, ReplicationStatus, StageCpu, StageRequest,
};
use crate::clock::{now_ms, now_us};
use crate::limits::{
    LINK_DATAGRAM_MAX, LINK_DATAGRAMS_PER_ROUND, LINK_TICK, STAGE_BATCHES_PER_ROUND, STAGE_REQUESTS, STAGE_RETRY,
};
use crate::os_error::os_error_text;
use crate::replication::link::{LinkError, Links, Origin};
use crate::shard::replica::{Changes, Replica};
use crate::worker::channel::{DeltaReceiver, WorkerRequest};
use crate::worker::meter::Meter;

/// The token of the stage's waker.
const STAGE: Token = Token(0);
/// The first token of the links' sockets.
const LINKS: usize = 1;

/// The stage cannot be set up.
#[derive(Debug, Error)]
pub enum StageError {
    /// The system refused a descriptor, usually because of `RLIMIT_NOFILE`.
    #[error("cannot set up the replication stage: {}", os_error_text(.0))]
    System(#[from] io::Error),
    /// A link cannot be opened.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A stage whose links are open and whose thread has not started.
pub(crate) struct PreparedStage {
    settings: ReplicationSettings,
    poll: Poll,
    links: Links,
    waker: Arc<Waker>,
    requests: Receiver<StageRequest>,
    alive: Sender<Infallible>,
    replication: Replication,
}

impl PreparedStage {
    /// Opens the links in the calling thread's network namespace.
    pub(crate) fn open(settings: ReplicationSettings) -> Result<Self, StageError> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), STAGE)?);
        let links = Links::open(&settings.links, poll.registry(), LINKS)?;
        let (sender, requests) = bounded(STAGE_REQUESTS);
        let (alive, ended) = bounded(0);
        let replication = Replication { requests: sender, waker: waker.clone(), ended };
        Ok(Self { settings, poll, links, waker, requests, alive, replication })
    }

    /// The settings that the stage was opened with.
    pub(crate) fn settings(&self) -> &ReplicationSettings {
        &self.settings
    }

    /// The longest datagram that every link carries, in bytes.
    pub(crate) fn datagram_bytes(&self) -> usize {
        self.links.datagram_bytes()
    }

    /// The waker that makes the stage read its batches and requests.
    pub(crate) fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    /// The handle through which other threads send requests to the stage.
    pub(crate) fn replication(&self) -> Replication {
        self.replication.clone()
    }

    /// Creates the stage for the workers that `receivers` receive from, one stream for each worker. `metered` measures
    /// the processor time of its steps.
    pub(crate) fn into_stage(self, receivers: Vec<DeltaReceiver>, stop: Arc<AtomicBool>, metered: bool) -> Stage {
        let started = Instant::now();
        let takeover = self.settings.takeover;
        let streams = u16::try_from(receivers.len()).unwrap_or(u16::MAX);
        let sealed = self.settings.node.key.is_some();
        let config = ctflow_replicate::Config { streams, datagram_bytes: self.datagram_bytes(), ..self.settings.node };
        let protocol = Protocol::new(config, Time { wall_ms: now_ms(), mono_ms: 0 });
        let pending = receivers.iter().map(|_| PendingRequests::default()).collect();
        let host = StageHost {
            links: self.links,
            replicas: HashMap::new(),
            replica_flows_max: self.settings.replica_flows_max,
            hot: takeover.hot,
            replica_dropped: false,
            dropped_changes: Changes::default(),
            receivers,
            pending,
            now: started,
            now_us: now_us(),
        };
        Stage {
            poll: self.poll,
            protocol,
            host,
            requests: self.requests,
            _alive: self.alive,
            sealed,
            deferred: 0,
            inject_queue: takeover.hot.then(|| InjectQueue::new(takeover.purge_after, takeover.active_active, started)),
            split_brain: SplitBrain::new(takeover.active_active),
            stop,
            started,
            readable: Vec::new(),
            next_link_tick: started,
            buffer: vec![0; LINK_DATAGRAM_MAX].into_boxed_slice(),
            metered,
            meter: Meter::default(),
            cpu: StageCpu::default(),
        }
    }
}

/// The requests to one worker that wait until its channel has room.
#[derive(Debug, Default)]
struct PendingRequests {
    /// The buckets that the worker shall send.
    buckets: BucketSet,
    /// The number of the comparison that the worker shall send digests for.
    digests: Option<u64>,
}

/// The links, replicas and workers that the protocol's state machine acts on.
struct StageHost {
    links: Links,
    replicas: HashMap<ReplicaId, Replica>,
    replica_flows_max: u32,
    /// Hot mode: the replicas' flows go into the kernel at once.
    hot: bool,
    /// A replica was dropped, so the kernel may hold flows of it.
    replica_dropped: bool,
    /// The counts of changes of the replicas that were dropped.
    dropped_changes: Changes,
    /// The end of each worker's channel, by stream.
    receivers: Vec<DeltaReceiver>,
    /// The requests that wait for each worker, by stream.
    pending: Vec<PendingRequests>,
    /// The time of this round.
    now: Instant,
    /// The time of this round, in microseconds since 1970.
    now_us: u64,
}

/// The replication thread's state.
pub(crate) struct Stage {
    poll: Poll,
    protocol: Protocol,
    host: StageHost,
    requests: Receiver<StageRequest>,
    /// Dropped with the stage: the other end reports that to threads that wait for an answer.
    _alive: Sender<Infallible>,
    sealed: bool,
    /// How often batches waited because a window was closed.
    deferred: u64,
    /// The queue of flows for the kernel, in hot mode.
    inject_queue: Option<InjectQueue>,
    split_brain: SplitBrain,
    stop: Arc<AtomicBool>,
    started: Instant,
    /// The tokens of links that may have more datagrams to read.
    readable: Vec<Token>,
    next_link_tick: Instant,
    buffer: Box<[u8]>,
    metered: bool,
    meter: Meter,
    cpu: StageCpu,
}

impl Stage {
    /// Runs until the stop flag is set, then sends the remaining batches and reports the stop to the peers.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        self.meter = Meter::new(self.metered); // on the thread that it measures
        while !self.stop.load(Ordering::Relaxed) {
            let now = self.update_time();
            let busy = self.run_step(now);
            let timeout = if busy || !self.readable.is_empty() { Duration::ZERO } else { self.poll_timeout() };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(%error, "replication ends: it cannot wait for events on its sockets");
                    return;
                }
                Ok(()) | Err(_) => {}
            }
            for token in events.iter().map(mio::event::Event::token).filter(|token| *token != STAGE) {
                if !self.readable.contains(&token) {
                    self.readable.push(token);
                }
            }
            self.meter.lap();
            self.receive_datagrams();
            self.cpu.receive_ns += self.meter.lap();
        }
        let now = self.update_time();
        self.send_batches(now);
        self.protocol.stop(&mut self.host);
        self.host.links.flush();
    }

    /// Reads the clocks and returns the time of this round.
    fn update_time(&mut self) -> Time {
        self.host.now = Instant::now();
        self.host.now_us = now_us();
        let mono = self.host.now.duration_since(self.started).as_millis();
        Time { wall_ms: self.host.now_us / 1_000, mono_ms: u64::try_from(mono).unwrap_or(u64::MAX) }
    }

    /// Runs every step of a round except receiving. Returns whether a worker may have more batches.
    fn run_step(&mut self, now: Time) -> bool {
        self.handle_requests(now);
        self.meter.lap();
        let more = self.send_batches(now);
        self.cpu.seal_ns += self.meter.lap();
        self.protocol.tick(now, &mut self.host);
        if self.host.now >= self.next_link_tick {
            self.next_link_tick = self.host.now + LINK_TICK;
            if let Some(link) = self.host.links.tick(self.poll.registry(), self.host.now) {
                tracing::warn!(local = %link.local, "the node now replicates over this link");
            }
        }
        if let Some(queue) = &mut self.inject_queue {
            if std::mem::take(&mut self.host.replica_dropped) {
                queue.requeue_all(&mut self.host.replicas, self.host.now);
            }
            queue.send_work(&self.protocol, &mut self.host.replicas, self.host.now);
        }
        self.split_brain.check(&self.protocol, self.host.now);
        self.host.send_worker_requests();
        self.meter.lap();
        self.host.links.flush();
        self.cpu.send_ns += self.meter.lap();
        more
    }

    /// How long the loop may wait for events before a timer is due.
    fn poll_timeout(&self) -> Duration {
        let now = self.host.now.duration_since(self.started);
        let timer = Duration::from_millis(self.protocol.deadline()).saturating_sub(now);
        let link = self.next_link_tick.saturating_duration_since(self.host.now);
        let waiting = self.host.pending.iter().any(|pending| !pending.is_empty());
        timer.min(link).min(if waiting { STAGE_RETRY } else { Duration::MAX })
    }

    /// Sends the workers' batches while the windows are open. Returns whether there may be more.
    fn send_batches(&mut self, now: Time) -> bool {
        let mut more = false;
        for index in 0..self.host.receivers.len() {
            let stream = u16::try_from(index).unwrap_or(u16::MAX);
            let mut sent = 0;
            while sent < STAGE_BATCHES_PER_ROUND {
                let Some(receiver) = self.host.receivers.get(index) else { break };
                // While batches stay in the channel the worker drains its shard no further, and in the shard a flow's
                // newer state replaces the older one.
                if !self.protocol.is_window_open(now, stream) {
                    self.deferred += u64::from(!receiver.batches.is_empty());
                    break;
                }
                let Ok(payload) = receiver.batches.try_recv() else { break };
                sent += 1;
                self.protocol.send_batch(now, payload, &mut self.host);
            }
            if sent > 0 {
                self.host.receivers.get(index).into_iter().for_each(DeltaReceiver::wake_if_starved);
            }
            more |= sent == STAGE_BATCHES_PER_ROUND;
        }
        more
    }

    /// Passes the datagrams of the links to the state machine.
    fn receive_datagrams(&mut self) {
        let now = self.update_time();
        for token in std::mem::take(&mut self.readable) {
            let Self { protocol, host, poll, buffer, readable, .. } = self;
            for count in 0..=LINK_DATAGRAMS_PER_ROUND {
                if count == LINK_DATAGRAMS_PER_ROUND {
                    readable.push(token); // the socket may have more, and mio reports it only once
                    break;
                }
                let Some((origin, bytes)) = host.links.receive(token, poll.registry(), host.now, buffer) else {
                    break;
                };
                let datagram = buffer.get_mut(..bytes).unwrap_or_default();
                let from = Address { peer: origin.address.into(), link: origin.link };
                // Only a genuine datagram, which is a peer's, counts for the health of its link.
                if protocol.receive(now, from, datagram, host) {
                    host.links.note_genuine(origin, host.now);
                }
            }
        }
    }

    /// Carries out the requests of other threads.
    fn handle_requests(&mut self, now: Time) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                StageRequest::Status(reply) => reply.send(self.status(now)),
                StageRequest::Lag(reply) => {
                    let mut lag = Lag::default();
                    self.host.replicas.values().for_each(|replica| lag.merge(replica.lag()));
                    reply.send(lag);
                }
                StageRequest::EncodeBucket(id, bucket, reply) => {
                    let mut entries = Vec::new();
                    if let Some(replica) = self.host.replicas.get(&id) {
                        replica.encode_bucket(bucket, id.stream, &mut entries);
                    }
                    reply.send(entries);
                }
                StageRequest::BulkSend => self.protocol.bulk_send(&mut self.host),
                StageRequest::RequestAll => self.protocol.request_from_all(now, &mut self.host),
                StageRequest::Verify(number) => self.protocol.verify(now, number, &mut self.host),
                StageRequest::FlushExternal => self.protocol.flush_external(now, &mut self.host),
                StageRequest::FlushAbsent => self.protocol.flush_absent(now, &mut self.host),
                StageRequest::SetRole(role) => self.protocol.set_role(now, role),
                StageRequest::NextWork(reply) => {
                    if let Some(queue) = &mut self.inject_queue {
                        queue.set_waiting(reply);
                    }
                }
                StageRequest::RequeueAll => {
                    let (replicas, now) = (&mut self.host.replicas, self.host.now);
                    self.inject_queue.iter_mut().for_each(|queue| queue.requeue_all(replicas, now));
                }
            }
        }
    }

    /// Collects the status of the state machine, links and replicas.
    fn status(&self, now: Time) -> ReplicationStatus {
        let replica = |(id, replica): (&ReplicaId, &Replica)| {
            let (flows, expectations) = replica.count();
            ReplicaStatus {
                id: *id,
                flows: flows.into(),
                expectations: expectations as u64,
                flows_max: self.host.replica_flows_max,
                lag: replica.lag().summary(),
                bytes: replica.bytes(),
                is_full: replica.is_full(),
            }
        };
        let node = self.protocol.status(now);
        let peer = |peer: &PeerStatus| {
            let mut lag = Lag::default();
            let replicas = self.host.replicas.iter().filter(|(id, _)| id.node == peer.node);
            replicas.for_each(|(_, replica)| lag.merge(replica.lag()));
            let address = to_origin(peer.at).and_then(|origin| self.host.links.address(origin));
            PeerReport { address, lag: lag.summary() }
        };
        let mut changes = self.host.dropped_changes;
        self.host.replicas.values().for_each(|replica| changes += replica.changes());
        ReplicationStatus {
            peers: node.peers.iter().map(peer).collect(),
            changes,
            deferred: self.deferred,
            split_brain: self.split_brain.peer_names(),
            hot_in_sync: self.inject_queue.as_ref().is_some_and(|queue| queue.is_in_sync(&self.host.replicas)),
            sealed: self.sealed,
            cpu: self.cpu,
            node,
            links: self.host.links.report(self.host.now),
            replicas: self.host.replicas.iter().map(replica).collect(),
        }
    }
}

impl PendingRequests {
    /// Whether no request waits.
    fn is_empty(&self) -> bool {
        self.buckets.is_empty() && self.digests.is_none()
    }
}

impl StageHost {
    /// Sends the pending requests to the workers. A request to a worker without room stays pending.
    fn send_worker_requests(&mut self) {
        for (pending, receiver) in self.pending.iter_mut().zip(&self.receivers) {
            if !pending.buckets.is_empty()
                && receiver.worker.try_request(WorkerRequest::SendBuckets(pending.buckets)).is_ok()
            {
                pending.buckets = BucketSet::EMPTY;
            }
            if let Some(number) = pending.digests
                && receiver.worker.try_request(WorkerRequest::SendDigests(number)).is_ok()
            {
                pending.digests = None;
            }
        }
    }
}

/// Converts the protocol's address into the link's.
fn to_origin(address: Address) -> Option<Origin> {
    Some(Origin { link: address.link, address: u16::try_from(address.peer).ok()? })
}

impl Host for StageHost {
    type Replica = Replica;

    fn send(&mut self, to: Destination, class: DatagramClass, datagram: &[u8]) {
        match to {
            Destination::All => self.links.send_to_all(class, datagram, self.now),
            Destination::Peer { at, .. } | Destination::Address(at) => {
                to_origin(at).into_iter().for_each(|at| self.links.send_to(at, datagram));
            }
        }
    }

    fn replica(&mut self, id: ReplicaId) -> &mut Replica {
        let flows_max = self.replica_flows_max;
        let hot = self.hot;
        let new = || if hot { Replica::hot(flows_max) } else { Replica::new(flows_max) };
        let replica = self.replicas.entry(id).or_insert_with(new);
        replica.set_time(self.now_us);
        replica
    }

    fn drop_replica(&mut self, id: ReplicaId) {
        if let Some(replica) = self.replicas.remove(&id) {
            self.dropped_changes += replica.changes();
            self.replica_dropped = true;
        }
    }

    fn schedule_buckets(&mut self, stream: u16, buckets: &BucketSet) {
        if let Some(pending) = self.pending.get_mut(usize::from(stream)) {
            pending.buckets = pending.buckets.union(buckets);
        }
    }

    fn schedule_digests(&mut self, stream: u16, number: u64) {
        if let Some(pending) = self.pending.get_mut(usize::from(stream)) {
            pending.digests = Some(number);
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Live { .. }
            | Note::Reconnected { .. }
            | Note::InSync { .. }
            | Note::Stopped { .. }
            | Note::Verdict { .. } => {
                tracing::info!("{note}");
            }
            _ => match note.origin_address().and_then(to_origin) {
                // Links are counted from 1 wherever operators see them.
                Some(from) => match self.links.address(from) {
                    Some(address) => tracing::warn!("{address} on link {}: {note}", u16::from(from.link) + 1),
                    None => tracing::warn!("link {}: {note}", u16::from(from.link) + 1),
                },
                None => tracing::warn!("{note}"),
            },
        }
    }
}
