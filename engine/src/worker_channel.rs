//! What passes between a worker and the replication stage: batches one way, what to tell the other; and what others ask
//! of a worker.
//!
//! ```text
//!  worker ── batches, bounded ──► stage          stage ── what to tell, bounded ──► worker
//!     └ wakes the stage                             └ wakes the worker
//! ```
//!
//! Neither waits for the other. A worker whose channel is full keeps its batches, drains its shard no further, and notes
//! that it starves; the stage wakes it when there is room. A stage whose channel is full keeps what it wanted told.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ctflow_replicate::batch::Payload;
use ctflow_replicate::buckets::BucketSet;

use crate::filter::ReplicationFilter;
use crate::limits::{REQUESTS_PER_WORKER, STAGE_BATCHES, WORKER_ANSWER_MAX};
use crate::reply::{self, Reply};
use crate::shard::{Newer, Outbox, PeerVersion, Shard};
use crate::watch::Watcher;

/// What a worker is asked for.
#[derive(Debug)]
pub(crate) enum WorkerRequest {
    /// Tell these buckets whole.
    SendBuckets(BucketSet),
    /// Tell all digests, under this number.
    SendDigests(u64),
    /// Tell what this selects from here on, and take back what it does not.
    SetFilter(Arc<ReplicationFilter>),
    /// Keep what has moved away no longer than the next resync.
    ForgetMoved(Reply<()>),
    /// Show a bucket, in the form of the control socket.
    ListBucket(u16, Reply<Vec<u8>>),
    /// Hand on what is received from here on.
    AddWatcher(Watcher),
    /// Say of each of these flows who is right.
    ResolveConflicts(Vec<PeerVersion>, OnLoss, Reply<Vec<Newer>>),
}

/// What becomes of a flow that a peer's claim is right about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnLoss {
    /// It stays in the shard.
    Keep,
    /// It leaves the shard: it is the peer's.
    Evict,
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct DeltaSender {
    outbox: Outbox,
    batches: Sender<Payload>,
    waker: Arc<mio::Waker>,
    starved: Arc<AtomicBool>,
}

/// The stage's end, and what others ask a worker by.
#[derive(Debug, Clone)]
pub(crate) struct DeltaReceiver {
    pub(crate) batches: Receiver<Payload>,
    starved: Arc<AtomicBool>,
    pub(crate) worker: WorkerHandle,
}

/// Asks one worker.
#[derive(Debug, Clone)]
pub(crate) struct WorkerHandle {
    requests: Sender<WorkerRequest>,
    wake: Arc<UnixStream>,
}

/// What a worker is asked by, and its end of that; `wake` wakes the worker.
pub(crate) fn request_channel(wake: Arc<UnixStream>) -> (WorkerHandle, Receiver<WorkerRequest>) {
    let (requests, receiver) = bounded(REQUESTS_PER_WORKER);
    (WorkerHandle { requests, wake }, receiver)
}

/// The two ends of stream `stream` for the worker that `asker` asks. `waker` wakes the stage.
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
    /// Batches that are begun from here on are as of `now_ms`, milliseconds since 1970.
    pub(crate) fn set_time(&mut self, now_ms: u64) {
        self.outbox.set_time(now_ms);
    }

    /// Whether all that was told is on its way: the shard may tell more.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Hands on what the shard has to tell, one outbox of it at most and as far as the stage takes it: events come first.
    /// Gives how many items no batch can hold.
    pub(crate) fn send_deltas(&mut self, shard: &mut Shard) -> u64 {
        let mut sent = self.send_batches();
        if self.outbox.is_empty() && shard.has_pending() {
            shard.drain(&mut self.outbox);
            self.outbox.close();
            sent += self.send_batches();
        }
        if sent > 0 {
            let _ = self.waker.wake(); // fails only where the stage is gone
        }
        self.outbox.take_unencodable()
    }

    /// Hands on what the channel has room for; gives how many batches.
    fn send_batches(&mut self) -> usize {
        let mut sent = 0;
        while let Some(payload) = self.outbox.pop() {
            match self.batches.try_send(payload) {
                Ok(()) => sent += 1,
                Err(TrySendError::Full(payload)) => {
                    self.outbox.push_front(payload);
                    // Said before looking once more: the stage may have emptied the channel just before, and would wake
                    // nobody.
                    if self.starved.swap(true, Ordering::AcqRel) {
                        break;
                    }
                }
                Err(TrySendError::Disconnected(_)) => {} // nobody is left to tell
            }
        }
        sent
    }
}

impl DeltaReceiver {
    /// Wakes the worker if it waits for room.
    pub(crate) fn wake_if_starved(&self) {
        if self.starved.swap(false, Ordering::AcqRel) {
            self.worker.wake();
        }
    }
}

impl WorkerHandle {
    /// Asks, if there is room.
    ///
    /// # Errors
    /// What was asked, where there is none. A worker that has ended is asked in vain.
    pub(crate) fn try_request(&self, request: WorkerRequest) -> Result<(), WorkerRequest> {
        let result = self.requests.try_send(request);
        self.wake();
        match result {
            Err(TrySendError::Full(request)) => Err(request),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Asks, and waits for the answer; none comes from a worker that has ended, or does nothing for [`WORKER_ANSWER_MAX`].
    pub(crate) fn request_and_wait<T>(&self, request: impl FnOnce(Reply<T>) -> WorkerRequest) -> Option<T> {
        let (reply, answer) = reply::channel(None);
        self.requests.send_timeout(request(reply), WORKER_ANSWER_MAX).ok()?;
        self.wake();
        answer.wait(WORKER_ANSWER_MAX).ok()
    }

    /// Wakes the worker.
    pub(crate) fn wake(&self) {
        let _ = (&*self.wake).write(&[0]); // a full pipe means that it has been woken already
    }
}
