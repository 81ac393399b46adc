//! The control thread: it keeps the shards in agreement with the kernel's table.
//!
//! It waits in one mio loop for reports of the workers and for parts of the dump that it reads for them. A dump is read
//! once, whoever needs it: each message goes to the shard that owns its flow, in batches, and only to shards that are
//! being resynchronised. When a worker's channel is full the dump waits; the kernel composes the next part only when the
//! last one was taken, so nothing piles up.
//!
//! ```text
//! a shard:  Idle ── wanted: begin ──► Beginning ── its word ──► Marking ── dump read ──► Sweeping ── its word ──► Idle
//!            ▲                                                    │ dump failed: wanted again                     ▲
//!            └────────────────────────────────────────────────────┘                                               │
//!           wanted: at the start; by a loss, whenever it comes; when a resync has to be done again; by disagreement;
//!                   by an operator
//! ```
//!
//! The dump begins only when every worker concerned has said that it marks: a flow that one took in before, and that the
//! dump was too early for, would be purged. Resyncs are numbered, so that the end of one is not taken for that of the
//! next. A loss during a resync does not stop it: what it does not confirm is gone all the same; another one follows.
//!
//! Flows that the kernel tells nothing about (`nf_conntrack_events` was 0 when they began, say) end in silence. So the
//! number of flows held is compared with the kernel's own now and then, and everything resynchronised when more are held
//! than there are, or a long time has passed.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::record::{Record, Subject};
use ctflow_parser::request::{self, Table};
use ctflow_parser::uapi;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::kernel::KernelError;
use crate::kernel::dump::{Dump, Progress};
use crate::kernel::request::Requester;
use crate::limits::{
    RECONCILE_CHECK, RECONCILE_CHECKS, RECONCILE_INTERVAL, RECONCILE_SLACK, RESYNC_BATCH_BYTES, RESYNC_INTERVAL_MIN,
    RESYNC_PARTS_PER_TURN, RESYNC_RETRY, RESYNC_WISHES,
};
use crate::metrics::Published;
use crate::reply::Reply;
use crate::shard::shard_of;
use crate::worker::{Command, Report};

/// Reports of the workers.
pub(crate) const REPORTS: Token = Token(0);
/// The dump's socket.
const DUMP: Token = Token(1);

/// A worker has ended: its flows cannot be resynchronised any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkerEnded;

/// An operator's wish that all shards be resynchronised; answered when all are.
pub(crate) type Wish = Reply<Result<(), WorkerEnded>>;

/// Makes such wishes known to the control thread.
#[derive(Debug, Clone)]
pub(crate) struct Wishes {
    sender: Sender<Wish>,
    waker: Arc<mio::Waker>,
}

impl Wishes {
    /// The two ends; `waker` wakes the control thread.
    pub(crate) fn ends(waker: Arc<mio::Waker>) -> (Self, Receiver<Wish>) {
        let (sender, wishes) = bounded(RESYNC_WISHES);
        (Self { sender, waker }, wishes)
    }

    /// Asks for a resync of all shards that begins after this, if there is room.
    ///
    /// # Errors
    /// The wish, where there is none. A control thread that has ended is asked in vain.
    pub(crate) fn try_wish(&self, wish: Wish) -> Result<(), Wish> {
        let result = self.sender.try_send(wish);
        let _ = self.waker.wake(); // fails only where the control thread is gone
        match result {
            Err(TrySendError::Full(wish)) => Err(wish),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}

/// A wish, and the resync of each lane that has to be complete for it.
struct Pending {
    wish: Wish,
    resyncs: Vec<u32>,
}

/// Where a shard's resync stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Idle,
    /// Told to mark, and yet to say that it does.
    Beginning,
    Marking,
    Sweeping,
    /// Its worker has ended.
    Gone,
}

/// The control thread's end of one worker.
#[derive(Debug)]
pub(crate) struct Lane {
    commands: Sender<Command>,
    wake: Arc<UnixStream>,
    published: Arc<Published>,
    standing: Standing,
    /// A resync has to begin, as soon as none is under way here.
    wanted: bool,
    /// The number of the last resync that began.
    resync: u32,
    /// The number of the last resync that was complete.
    complete: u32,
    /// Messages of the dump that are not sent yet.
    batch: Vec<u8>,
}

impl Lane {
    pub(crate) fn new(commands: Sender<Command>, wake: Arc<UnixStream>, published: Arc<Published>) -> Self {
        let (standing, batch) = (Standing::Idle, Vec::new());
        Self { commands, wake, published, standing, wanted: true, resync: 0, complete: 0, batch }
    }

    /// Wakes the worker, whether for a command or to see that it is time to stop.
    fn wake(&self) {
        // A full pipe means that it has been woken already.
        let _ = (&*self.wake).write(&[0]);
    }

    /// Sends `command` if there is room, and gives it back if not. A worker that has ended is noted, and needs nothing.
    fn try_send(&mut self, command: Command) -> Result<(), Command> {
        let result = self.commands.try_send(command);
        self.wake();
        match result {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(command)) => Err(command),
            Err(TrySendError::Disconnected(_)) => {
                self.standing = Standing::Gone;
                Ok(())
            }
        }
    }

    /// Sends the batch; whether there was room.
    fn try_flush(&mut self) -> bool {
        if self.batch.is_empty() {
            return true;
        }
        let batch = std::mem::take(&mut self.batch);
        match self.try_send(Command::Dumped(batch)) {
            Err(Command::Dumped(batch)) => {
                self.batch = batch;
                false
            }
            _ => true,
        }
    }

    fn hear(&mut self, report: &Report) {
        match *report {
            Report::Ended(_) => self.standing = Standing::Gone,
            Report::Wanted(_) => self.wanted = true,
            Report::Marking { resync, .. } if self.standing == Standing::Beginning && resync == self.resync => {
                self.standing = Standing::Marking;
            }
            Report::Resynced { resync, again, .. } if self.standing == Standing::Sweeping && resync == self.resync => {
                self.standing = Standing::Idle;
                self.wanted |= again;
                self.complete = if again { self.complete } else { resync };
            }
            Report::Marking { .. } | Report::Resynced { .. } => {} // of a resync that was overtaken
        }
    }

    /// Whether resync number `resync` is complete, or a later one. Numbers wrap: the nearer way round counts.
    fn has_completed(&self, resync: u32) -> bool {
        self.complete.wrapping_sub(resync) <= u32::MAX / 2
    }

    /// Begins a resync; where the channel is full, a later turn does.
    fn begin(&mut self) {
        let resync = self.resync.wrapping_add(1);
        self.batch.clear();
        if self.try_send(Command::BeginResync(resync)).is_ok() && self.standing == Standing::Idle {
            (self.standing, self.resync, self.wanted) = (Standing::Beginning, resync, false);
        }
    }

    /// The dump is read and sent: lets the worker purge. Where the channel is full, a later turn does.
    fn end_dump(&mut self) {
        if self.try_send(Command::EndDump).is_ok() && self.standing == Standing::Marking {
            self.standing = Standing::Sweeping;
        }
    }

    /// The dump broke off.
    fn abandon(&mut self) {
        self.batch.clear();
        // Where the command has no room, the beginning of the next resync does the same.
        let _ = self.try_send(Command::AbandonResync);
        if self.standing == Standing::Marking {
            (self.standing, self.wanted) = (Standing::Idle, true);
        }
    }
}

/// The dump that a resync reads.
#[derive(Debug)]
enum Dumping {
    No,
    Reading(Table, Dump),
    /// It has been read; the last batches and the word of its end are still to be sent.
    Ending,
}

/// The control thread's state. When it goes, for whatever reason, the workers are told to stop: nobody would
/// resynchronise them.
pub(crate) struct Control {
    poll: Poll,
    lanes: Vec<Lane>,
    reports: Receiver<Report>,
    stop: Arc<AtomicBool>,
    dumping: Dumping,
    /// When the next dump may begin.
    not_before: Instant,
    reconcile: Reconcile,
    wishes: Receiver<Wish>,
    pending: Vec<Pending>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.lanes.iter().for_each(Lane::wake);
    }
}

impl Control {
    pub(crate) fn new(
        poll: Poll,
        lanes: Vec<Lane>,
        reports: Receiver<Report>,
        wishes: Receiver<Wish>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let now = Instant::now();
        let (reconcile, pending) = (Reconcile::new(now), Vec::new());
        Self { poll, lanes, reports, stop, dumping: Dumping::No, not_before: now, reconcile, wishes, pending }
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(16);
        while !self.stop.load(Ordering::Relaxed) {
            self.hear();
            self.heed();
            self.look();
            self.begin();
            self.start_dump_if_marking();
            let again = self.pump();
            match self.poll.poll(&mut events, Some(self.patience(again))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(%error, "the control thread cannot wait for events: the capture ends");
                    return;
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// How long to wait for a report or a part of the dump.
    fn patience(&self, again: Option<Duration>) -> Duration {
        let now = Instant::now();
        let wanted = self.is_idle() && self.lanes.iter().any(|lane| lane.wanted && lane.standing == Standing::Idle);
        let begin = wanted.then(|| self.not_before.saturating_duration_since(now).max(RESYNC_RETRY));
        let look = self.reconcile.next.saturating_duration_since(now);
        again.or(begin).map_or(look, |time| time.min(look))
    }

    fn is_idle(&self) -> bool {
        matches!(self.dumping, Dumping::No)
    }

    fn is_any(&self, standing: Standing) -> bool {
        self.lanes.iter().any(|lane| lane.standing == standing)
    }

    fn hear(&mut self) {
        for report in self.reports.try_iter() {
            let (Report::Wanted(worker)
            | Report::Ended(worker)
            | Report::Marking { worker, .. }
            | Report::Resynced { worker, .. }) = report;
            if let Some(lane) = self.lanes.get_mut(worker as usize) {
                lane.hear(&report);
            }
        }
    }

    /// Takes in what operators want, and answers what has come true.
    fn heed(&mut self) {
        while self.pending.len() < RESYNC_WISHES {
            let Ok(wish) = self.wishes.try_recv() else { break };
            // A resync that is under way may have read past what this one is meant to see.
            self.lanes.iter_mut().for_each(|lane| lane.wanted = true);
            let resyncs = self.lanes.iter().map(|lane| lane.resync.wrapping_add(1)).collect();
            self.pending.push(Pending { wish, resyncs });
        }
        let lanes = &self.lanes;
        let has_ended = lanes.iter().any(|lane| lane.standing == Standing::Gone);
        let is_over = |pending: &mut Pending| {
            has_ended || lanes.iter().zip(&pending.resyncs).all(|(lane, resync)| lane.has_completed(*resync))
        };
        for Pending { wish, .. } in self.pending.extract_if(.., is_over) {
            wish.tell(if has_ended { Err(WorkerEnded) } else { Ok(()) });
        }
    }

    /// Looks now and then whether what is held agrees with what there is.
    fn look(&mut self) {
        let settled = self.lanes.iter().all(|lane| !lane.wanted && lane.standing == Standing::Idle);
        if self.reconcile.is_due(Instant::now()) && settled {
            let held = self.lanes.iter().map(|lane| lane.published.read().flows).sum();
            if self.reconcile.disagrees(held) {
                self.lanes.iter_mut().for_each(|lane| lane.wanted = true);
            }
        }
    }

    fn begin(&mut self) {
        if self.is_idle() && !self.is_any(Standing::Beginning) && Instant::now() >= self.not_before {
            let wanted = self.lanes.iter_mut().filter(|lane| lane.wanted && lane.standing == Standing::Idle);
            wanted.for_each(Lane::begin);
        }
    }

    /// Starts the dump once all who shall be resynchronised by it are marking.
    fn start_dump_if_marking(&mut self) {
        if !self.is_idle() || self.is_any(Standing::Beginning) || !self.is_any(Standing::Marking) {
            return;
        }
        self.read(Table::Conntrack);
    }

    /// Has a table dumped.
    fn read(&mut self, table: Table) {
        match self.start_dump(table) {
            Ok(dump) => self.dumping = Dumping::Reading(table, dump),
            Err(error) => self.abandon(&error),
        }
    }

    fn start_dump(&self, table: Table) -> Result<Dump, KernelError> {
        let dump = Dump::start(table, &DumpFilter::default(), false)?;
        let fd = dump.as_fd().as_raw_fd();
        let registered = self.poll.registry().register(&mut SourceFd(&fd), DUMP, Interest::READABLE);
        registered.map_err(|source| KernelError::Transport { operation: "wait for the dump", source })?;
        Ok(dump)
    }

    /// Goes on with the dump; gives how soon to come back where that is not up to the dump's socket.
    fn pump(&mut self) -> Option<Duration> {
        match &mut self.dumping {
            Dumping::No => None,
            Dumping::Reading(table, dump) => match pump_from(dump, &mut self.lanes) {
                Ok(Pumped::Later(time)) => time,
                Ok(Pumped::Read) if *table == Table::Conntrack => {
                    self.read(Table::Expect);
                    Some(Duration::ZERO)
                }
                Ok(Pumped::Read) => {
                    self.dumping = Dumping::Ending;
                    self.end()
                }
                Err(error) => {
                    self.abandon(&error);
                    None
                }
            },
            Dumping::Ending => self.end(),
        }
    }

    /// Sends what is left of the dump and the word of its end; how soon to try again where there was no room.
    fn end(&mut self) -> Option<Duration> {
        for lane in self.lanes.iter_mut().filter(|lane| lane.standing == Standing::Marking) {
            if lane.try_flush() {
                lane.end_dump();
            }
        }
        if self.is_any(Standing::Marking) {
            return Some(RESYNC_RETRY);
        }
        self.dumping = Dumping::No;
        self.not_before = Instant::now() + RESYNC_INTERVAL_MIN;
        self.reconcile.resynced(Instant::now());
        None
    }

    fn abandon(&mut self, error: &KernelError) {
        tracing::error!(%error, retry = ?RESYNC_INTERVAL_MIN, "the resync with the kernel's table broke off");
        self.lanes.iter_mut().filter(|lane| lane.standing == Standing::Marking).for_each(Lane::abandon);
        self.dumping = Dumping::No;
        self.not_before = Instant::now() + RESYNC_INTERVAL_MIN;
    }
}

/// How far a turn of reading came.
enum Pumped {
    /// To be continued: when the dump's socket is readable, or so soon.
    Later(Option<Duration>),
    /// To the end.
    Read,
}

/// Reads parts of the dump into the lanes' batches while these have room.
fn pump_from(dump: &mut Dump, lanes: &mut [Lane]) -> Result<Pumped, KernelError> {
    for _ in 0..RESYNC_PARTS_PER_TURN {
        if !lanes.iter().any(|lane| lane.standing == Standing::Marking) {
            return Ok(Pumped::Read); // nobody is left to read for
        }
        if !lanes.iter_mut().filter(|lane| lane.batch.len() >= RESYNC_BATCH_BYTES).all(Lane::try_flush) {
            return Ok(Pumped::Later(Some(RESYNC_RETRY)));
        }
        match dump.try_read(|record| route(lanes, record))? {
            Progress::More => {}
            Progress::NotYet => return Ok(Pumped::Later(None)),
            Progress::Done => return Ok(Pumped::Read),
        }
    }
    Ok(Pumped::Later(Some(Duration::ZERO)))
}

/// Puts a message of the dump into the batch of the shard that owns its flow.
fn route(lanes: &mut [Lane], record: &Record<'_>) {
    let shards = u32::try_from(lanes.len()).unwrap_or(u32::MAX);
    let id = || record.attrs().flatten().find(|attr| attr.kind == uapi::CTA_ID).and_then(|attr| attr.be32().ok());
    let shard = match record.subject() {
        Subject::Flow => id().map(|id| shard_of(id, shards)),
        Subject::Expect => Some(0), // the steering program's choice
        _ => None,
    };
    let Some(lane) = shard.and_then(|shard| lanes.get_mut(shard as usize)) else { return };
    if lane.standing == Standing::Marking {
        lane.batch.extend_from_slice(record.bytes());
        lane.batch.resize(lane.batch.len().next_multiple_of(4), 0);
    }
}

/// When to look for disagreement, and what was found.
#[derive(Debug)]
struct Reconcile {
    next: Instant,
    /// When everything is resynchronised whatever the numbers say.
    at_latest: Instant,
    /// Looks in a row that found more flows held than there are.
    excesses: u32,
}

impl Reconcile {
    fn new(now: Instant) -> Self {
        Self { next: now + RECONCILE_CHECK, at_latest: now + RECONCILE_INTERVAL, excesses: 0 }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + RECONCILE_CHECK;
        }
        due
    }

    /// Whether `held` flows are too many too often, or it is time anyway. A moment's excess is events on their way.
    fn disagrees(&mut self, held: u64) -> bool {
        if Instant::now() >= self.at_latest {
            return true;
        }
        let excess = flow_count().is_ok_and(|count| held > count + (count / RECONCILE_SLACK).max(RECONCILE_SLACK));
        self.excesses = if excess { self.excesses + 1 } else { 0 };
        self.excesses >= RECONCILE_CHECKS
    }

    fn resynced(&mut self, now: Instant) {
        *self = Self::new(now);
    }
}

/// The kernel's own count.
fn flow_count() -> Result<u64, KernelError> {
    let mut entries = None;
    let take = |record: &Record<'_>| entries = record.global_stats().ok().and_then(|stats| stats.entries);
    Requester::open()?.ask("count the flows", request::global_stats, take)?;
    Ok(u64::from(entries.unwrap_or(u32::MAX)))
}
