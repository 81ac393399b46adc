//! The channels of a worker: batches of deltas to the replication stage, and requests from the stage and other threads.
//!
//! ```text
//!  worker ── batches, bounded ──► stage          stage, server ── requests, bounded ──► worker
//!     └ wakes the stage                              └ wakes the worker
//! ```
//!
//! No side waits for the other. A worker whose channel is full keeps its batches, drains its shard no further, and sets
//! the `starved` flag. The stage wakes it when the channel has room. A stage whose channel is full keeps its request
//! and retries.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ctflow_replicate::Payload;
use ctflow_replicate::buckets::BucketSet;

use crate::limits::{REQUESTS_PER_WORKER, STAGE_BATCHES, WORKER_ANSWER_MAX};
use crate::replication::filter::ReplicationFilter;
use crate::reply::{self, Reply};
use crate::shard::{Newer, Outbox, PeerVersion, Shard};
use crate::worker::watch::Watcher;

/// A request to a worker.
#[derive(Debug)]
pub(crate) enum WorkerRequest {
    /// Send every flow of these buckets.
    SendBuckets(BucketSet),
    /// Send the digests of all buckets, under this number.
    SendDigests(u64),
    /// Replicate the flows that this filter selects from now on, and withdraw the others from replicas.
    SetFilter(Arc<ReplicationFilter>),
    /// Keep flows whose NAT address moved no longer than until the next resync.
    ForgetMoved(Reply<()>),
    /// Encode a bucket's entries in the control socket's format.
    EncodeBucket(u16, Reply<Vec<u8>>),
    /// Forward the events received from now on to this watcher.
    AddWatcher(Watcher),
    /// Compare each of these peer versions of a flow with the shard's, and reply which is newer.
    ResolveConflicts(Vec<PeerVersion>, OnLoss, Reply<Vec<Newer>>),
}

/// What happens to the shard's flow when the peer's version is at least as new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnLoss {
    /// The flow stays in the shard.
    Keep,
    /// The flow leaves the shard, because it now belongs to the peer.
    Evict,
}

/// The worker's end of its delta channel.
#[derive(Debug)]
pub(crate) struct DeltaSender {
    /// Batches that the channel has no room for yet.
    outbox: Outbox,
    batches: Sender<Payload>,
    /// Wakes the stage.
    waker: Arc<mio::Waker>,
    /// Whether the worker waits for room in the channel.
    starved: Arc<AtomicBool>,
}

/// The replication stage's end of one worker's delta channel.
#[derive(Debug, Clone)]
pub(crate) struct DeltaReceiver {
    /// The batches that the worker has sent.
    pub(crate) batches: Receiver<Payload>,
    /// Whether the worker waits for room in the channel.
    starved: Arc<AtomicBool>,
    /// Sends requests to the worker.
    pub(crate) worker: WorkerHandle,
}

/// Sends requests to one worker and wakes it.
#[derive(Debug, Clone)]
pub(crate) struct WorkerHandle {
    requests: Sender<WorkerRequest>,
    wake: Arc<UnixStream>,
}

/// Creates a worker's request channel: the handle for other threads, and the worker's end. A byte written to `wake`
/// wakes the worker.
pub(crate) fn request_channel(wake: Arc<UnixStream>) -> (WorkerHandle, Receiver<WorkerRequest>) {
    let (requests, receiver) = bounded(REQUESTS_PER_WORKER);
    (WorkerHandle { requests, wake }, receiver)
}

/// Creates the delta channel of stream `stream`, whose batches have at most `datagram_bytes` bytes. `waker` wakes the
/// stage; `worker` reaches the worker that sends.
pub(crate) fn delta_channel(
    stream: u16,
    datagram_bytes: usize,
    waker: Arc<mio::Waker>,
    worker: WorkerHandle,
) -> (DeltaSender, DeltaReceiver) {
    let (sender, batches) = bounded(STAGE_BATCHES);
    let starved = Arc::<AtomicBool>::default();
    let outbox = Outbox::new(stream, datagram_bytes);
    let delta_sender = DeltaSender { outbox, batches: sender, waker, starved: starved.clone() };
    (delta_sender, DeltaReceiver { batches, starved, worker })
}

impl DeltaSender {
    /// Sets the time of the batches started from now on, in milliseconds since 1970.
    pub(crate) fn set_time(&mut self, now_ms: u64) {
        self.outbox.set_time(now_ms);
    }

    /// Whether every batch has been passed to the channel, so that the shard may be drained again.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Sends the shard's changed flows, at most one outbox and as far as the channel has room, so that events are not
    /// kept waiting. Returns the number of items that cannot be encoded in any batch.
    pub(crate) fn send_deltas(&mut self, shard: &mut Shard) -> u64 {
        let mut sent = self.send_batches();
        if self.outbox.is_empty() && shard.has_pending() {
            shard.drain(&mut self.outbox);
            self.outbox.close();
            sent += self.send_batches();
        }
        if sent > 0 {
            let _ = self.waker.wake(); // fails only when the stage has ended
        }
        self.outbox.take_unencodable()
    }

    /// Sends batches of the outbox as far as the channel has room. Returns their number.
    fn send_batches(&mut self) -> usize {
        let mut sent = 0;
        while let Some(payload) = self.outbox.pop() {
            match self.batches.try_send(payload) {
                Ok(()) => sent += 1,
                Err(TrySendError::Full(payload)) => {
                    self.outbox.push_front(payload);
                    // The flag is set before a second attempt. If the stage emptied the channel before it could see the
                    // flag, it wakes no worker, and only the second attempt finds the room.
                    if self.starved.swap(true, Ordering::AcqRel) {
                        break;
                    }
                }
                Err(TrySendError::Disconnected(_)) => {} // the stage has ended: the batch is dropped
            }
        }
        sent
    }
}

impl DeltaReceiver {
    /// Wakes the worker if it waits for room in the channel.
    pub(crate) fn wake_if_starved(&self) {
        if self.starved.swap(false, Ordering::AcqRel) {
            self.worker.wake();
        }
    }
}

impl WorkerHandle {
    /// Queues `request` and wakes the worker.
    ///
    /// # Errors
    /// The request itself when the channel is full. A worker that has ended is no error: the request is dropped.
    pub(crate) fn try_request(&self, request: WorkerRequest) -> Result<(), WorkerRequest> {
        let result = self.requests.try_send(request);
        self.wake();
        match result {
            Err(TrySendError::Full(request)) => Err(request),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Sends a request and waits for its answer. Returns `None` when the worker has ended, or does not answer within
    /// [`WORKER_ANSWER_MAX`].
    pub(crate) fn request_and_wait<T>(&self, request: impl FnOnce(Reply<T>) -> WorkerRequest) -> Option<T> {
        let (reply, answer) = reply::channel(None);
        self.requests.send_timeout(request(reply), WORKER_ANSWER_MAX).ok()?;
        self.wake();
        answer.wait(WORKER_ANSWER_MAX).ok()
    }

    /// Wakes the worker.
    pub(crate) fn wake(&self) {
        let _ = (&*self.wake).write(&[0]); // fails when the socket is full: the worker is being woken already
    }
}
