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

use crate::filter::Choice;
use crate::limits::{ASKS_PER_WORKER, STAGE_BATCHES, WORKER_ANSWER_MAX};
use crate::reply::{self, Reply};
use crate::shard::{Claim, Outbox, Shard, Verdict};
use crate::watch::Watcher;

/// What a worker is asked for.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Tell these buckets whole.
    Buckets(BucketSet),
    /// Tell all digests, under this number.
    Digests(u64),
    /// Tell what this selects from here on, and take back what it does not.
    Choice(Arc<Choice>),
    /// Keep what has moved away no longer than the next resync.
    ForgetMoved(Reply<()>),
    /// Show a bucket, in the form of the control socket.
    Show(u16, Reply<Vec<u8>>),
    /// Hand on what is received from here on.
    Watch(Watcher),
    /// Say of each of these flows who is right.
    Judge(Vec<Claim>, Yielding, Reply<Vec<Verdict>>),
}

/// What becomes of a flow that a peer's claim is right about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Yielding {
    /// It stays in the shard.
    InWord,
    /// It leaves the shard: it is the peer's.
    InDeed,
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct Teller {
    outbox: Outbox,
    batches: Sender<Payload>,
    waker: Arc<mio::Waker>,
    starved: Arc<AtomicBool>,
}

/// The stage's end, and what others ask a worker by.
#[derive(Debug, Clone)]
pub(crate) struct Hearer {
    pub(crate) batches: Receiver<Payload>,
    starved: Arc<AtomicBool>,
    pub(crate) asker: Asker,
}

/// Asks one worker.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    asks: Sender<Ask>,
    wake: Arc<UnixStream>,
}

/// What a worker is asked by, and its end of that; `wake` wakes the worker.
pub(crate) fn asks(wake: Arc<UnixStream>) -> (Asker, Receiver<Ask>) {
    let (asks, asked) = bounded(ASKS_PER_WORKER);
    (Asker { asks, wake }, asked)
}

/// The two ends of stream `stream` for the worker that `asker` asks. `waker` wakes the stage.
pub(crate) fn ends(stream: u16, datagram_bytes: usize, waker: Arc<mio::Waker>, asker: Asker) -> (Teller, Hearer) {
    let (sender, batches) = bounded(STAGE_BATCHES);
    let starved = Arc::<AtomicBool>::default();
    let outbox = Outbox::new(stream, datagram_bytes);
    let teller = Teller { outbox, batches: sender, waker, starved: starved.clone() };
    (teller, Hearer { batches, starved, asker })
}

impl Teller {
    /// Batches that are begun from here on are as of `now_ms`, milliseconds since 1970.
    pub(crate) fn set_time(&mut self, now_ms: u64) {
        self.outbox.set_time(now_ms);
    }

    /// Whether all that was told is on its way: the shard may tell more.
    pub(crate) fn is_free(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Hands on what the shard has to tell, one outbox of it at most and as far as the stage takes it: events come first.
    /// Gives how many items no batch can hold.
    pub(crate) fn tell(&mut self, shard: &mut Shard) -> u64 {
        let mut handed = self.hand_on();
        if self.outbox.is_empty() && shard.has_news() {
            shard.drain(&mut self.outbox);
            self.outbox.close();
            handed += self.hand_on();
        }
        if handed > 0 {
            let _ = self.waker.wake(); // fails only where the stage is gone
        }
        self.outbox.take_untellable()
    }

    /// Hands on what the channel has room for; gives how many batches.
    fn hand_on(&mut self) -> usize {
        let mut handed = 0;
        while let Some(payload) = self.outbox.pop() {
            match self.batches.try_send(payload) {
                Ok(()) => handed += 1,
                Err(TrySendError::Full(payload)) => {
                    self.outbox.put_back(payload);
                    // Said before looking once more: the stage may have emptied the channel just before, and would wake
                    // nobody.
                    if self.starved.swap(true, Ordering::AcqRel) {
                        break;
                    }
                }
                Err(TrySendError::Disconnected(_)) => {} // nobody is left to tell
            }
        }
        handed
    }
}

impl Hearer {
    /// Wakes the worker if it waits for room.
    pub(crate) fn feed(&self) {
        if self.starved.swap(false, Ordering::AcqRel) {
            self.asker.wake();
        }
    }
}

impl Asker {
    /// Asks, if there is room.
    ///
    /// # Errors
    /// What was asked, where there is none. A worker that has ended is asked in vain.
    pub(crate) fn try_ask(&self, ask: Ask) -> Result<(), Ask> {
        let result = self.asks.try_send(ask);
        self.wake();
        match result {
            Err(TrySendError::Full(ask)) => Err(ask),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Asks, and waits for the answer; none comes from a worker that has ended, or does nothing for [`WORKER_ANSWER_MAX`].
    pub(crate) fn answer<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Option<T> {
        let (reply, answer) = reply::ends(None);
        self.asks.send_timeout(ask(reply), WORKER_ANSWER_MAX).ok()?;
        self.wake();
        answer.wait(WORKER_ANSWER_MAX).ok()
    }

    /// Wakes the worker.
    pub(crate) fn wake(&self) {
        let _ = (&*self.wake).write(&[0]); // a full pipe means that it has been woken already
    }
}
