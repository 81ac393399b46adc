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
    RESYNC_PARTS_PER_ROUND, RESYNC_REQUESTS, RESYNC_RETRY,
};
use crate::metrics::SharedCounters;
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
pub(crate) type ResyncRequest = Reply<Result<(), WorkerEnded>>;

/// Makes such wishes known to the control thread.
#[derive(Debug, Clone)]
pub(crate) struct ResyncRequests {
    sender: Sender<ResyncRequest>,
    waker: Arc<mio::Waker>,
}

impl ResyncRequests {
    /// The two ends; `waker` wakes the control thread.
    pub(crate) fn channel(waker: Arc<mio::Waker>) -> (Self, Receiver<ResyncRequest>) {
        let (sender, receiver) = bounded(RESYNC_REQUESTS);
        (Self { sender, waker }, receiver)
    }

    /// Asks for a resync of all shards that begins after this, if there is room.
    ///
    /// # Errors
    /// The wish, where there is none. A control thread that has ended is asked in vain.
    pub(crate) fn try_request(&self, request: ResyncRequest) -> Result<(), ResyncRequest> {
        let result = self.sender.try_send(request);
        let _ = self.waker.wake(); // fails only where the control thread is gone
        match result {
            Err(TrySendError::Full(request)) => Err(request),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}

/// A wish, and the resync of each lane that has to be complete for it.
struct PendingRequest {
    request: ResyncRequest,
    resyncs: Vec<u32>,
}

/// Where a shard's resync stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResyncState {
    Idle,
    /// Told to mark, and yet to say that it does.
    Starting,
    Marking,
    Sweeping,
    /// Its worker has ended.
    WorkerEnded,
}

/// The control thread's end of one worker.
#[derive(Debug)]
pub(crate) struct WorkerChannel {
    commands: Sender<Command>,
    wake: Arc<UnixStream>,
    shared_counters: Arc<SharedCounters>,
    state: ResyncState,
    /// A resync has to begin, as soon as none is under way here.
    resync_needed: bool,
    /// The number of the last resync that began.
    resync: u32,
    /// The number of the last resync that was complete.
    completed: u32,
    /// Messages of the dump that are not sent yet.
    dump_batch: Vec<u8>,
}

impl WorkerChannel {
    pub(crate) fn new(commands: Sender<Command>, wake: Arc<UnixStream>, shared_counters: Arc<SharedCounters>) -> Self {
        let (state, batch) = (ResyncState::Idle, Vec::new());
        Self { commands, wake, shared_counters, state, resync_needed: true, resync: 0, completed: 0, dump_batch: batch }
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
                self.state = ResyncState::WorkerEnded;
                Ok(())
            }
        }
    }

    /// Sends the batch; whether there was room.
    fn try_send_batch(&mut self) -> bool {
        if self.dump_batch.is_empty() {
            return true;
        }
        let dump_batch = std::mem::take(&mut self.dump_batch);
        match self.try_send(Command::Dumped(dump_batch)) {
            Err(Command::Dumped(batch)) => {
                self.dump_batch = batch;
                false
            }
            _ => true,
        }
    }

    fn on_report(&mut self, report: &Report) {
        match *report {
            Report::Ended(_) => self.state = ResyncState::WorkerEnded,
            Report::ResyncNeeded(_) => self.resync_needed = true,
            Report::Marking { resync, .. } if self.state == ResyncState::Starting && resync == self.resync => {
                self.state = ResyncState::Marking;
            }
            Report::Resynced { resync, again, .. } if self.state == ResyncState::Sweeping && resync == self.resync => {
                self.state = ResyncState::Idle;
                self.resync_needed |= again;
                self.completed = if again { self.completed } else { resync };
            }
            Report::Marking { .. } | Report::Resynced { .. } => {} // of a resync that was overtaken
        }
    }

    /// Whether resync number `resync` is complete, or a later one. Numbers wrap: the nearer way round counts.
    fn has_completed(&self, resync: u32) -> bool {
        self.completed.wrapping_sub(resync) <= u32::MAX / 2
    }

    /// Begins a resync; where the channel is full, a later turn does.
    fn start_resync(&mut self) {
        let resync = self.resync.wrapping_add(1);
        self.dump_batch.clear();
        if self.try_send(Command::BeginResync(resync)).is_ok() && self.state == ResyncState::Idle {
            (self.state, self.resync, self.resync_needed) = (ResyncState::Starting, resync, false);
        }
    }

    /// The dump is read and sent: lets the worker purge. Where the channel is full, a later turn does.
    fn end_dump(&mut self) {
        if self.try_send(Command::EndDump).is_ok() && self.state == ResyncState::Marking {
            self.state = ResyncState::Sweeping;
        }
    }

    /// The dump broke off.
    fn abandon_resync(&mut self) {
        self.dump_batch.clear();
        // Where the command has no room, the beginning of the next resync does the same.
        let _ = self.try_send(Command::AbandonResync);
        if self.state == ResyncState::Marking {
            (self.state, self.resync_needed) = (ResyncState::Idle, true);
        }
    }
}

/// The dump that a resync reads.
#[derive(Debug)]
enum DumpState {
    Idle,
    Reading(Table, Dump),
    /// It has been read; the last batches and the word of its end are still to be sent.
    SendingRest,
}

/// The control thread's state. When it goes, for whatever reason, the workers are told to stop: nobody would
/// resynchronise them.
pub(crate) struct ResyncCoordinator {
    poll: Poll,
    channels: Vec<WorkerChannel>,
    reports: Receiver<Report>,
    stop: Arc<AtomicBool>,
    dump_state: DumpState,
    /// When the next dump may begin.
    next_dump_at: Instant,
    reconcile: Reconcile,
    requests: Receiver<ResyncRequest>,
    pending: Vec<PendingRequest>,
}

impl Drop for ResyncCoordinator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.channels.iter().for_each(WorkerChannel::wake);
    }
}

impl ResyncCoordinator {
    pub(crate) fn new(
        poll: Poll,
        channels: Vec<WorkerChannel>,
        reports: Receiver<Report>,
        requests: Receiver<ResyncRequest>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let now = Instant::now();
        let (reconcile, pending) = (Reconcile::new(now), Vec::new());
        Self {
            poll,
            channels,
            reports,
            stop,
            dump_state: DumpState::Idle,
            next_dump_at: now,
            reconcile,
            requests,
            pending,
        }
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(16);
        while !self.stop.load(Ordering::Relaxed) {
            self.read_reports();
            self.handle_requests();
            self.check_flow_count();
            self.start_resyncs();
            self.start_dump_if_marking();
            let again = self.advance_dump();
            match self.poll.poll(&mut events, Some(self.poll_timeout(again))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(%error, "the control thread cannot wait for events: the capture ends");
                    return;
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// How long to wait for a report or a part of the dump.
    fn poll_timeout(&self, again: Option<Duration>) -> Duration {
        let now = Instant::now();
        let needed = self.is_dump_idle()
            && self.channels.iter().any(|lane| lane.resync_needed && lane.state == ResyncState::Idle);
        let start = needed.then(|| self.next_dump_at.saturating_duration_since(now).max(RESYNC_RETRY));
        let check = self.reconcile.next_check.saturating_duration_since(now);
        again.or(start).map_or(check, |time| time.min(check))
    }

    fn is_dump_idle(&self) -> bool {
        matches!(self.dump_state, DumpState::Idle)
    }

    fn any_in_state(&self, state: ResyncState) -> bool {
        self.channels.iter().any(|lane| lane.state == state)
    }

    fn read_reports(&mut self) {
        for report in self.reports.try_iter() {
            let (Report::ResyncNeeded(worker)
            | Report::Ended(worker)
            | Report::Marking { worker, .. }
            | Report::Resynced { worker, .. }) = report;
            if let Some(lane) = self.channels.get_mut(worker as usize) {
                lane.on_report(&report);
            }
        }
    }

    /// Takes in what operators want, and answers what has come true.
    fn handle_requests(&mut self) {
        while self.pending.len() < RESYNC_REQUESTS {
            let Ok(request) = self.requests.try_recv() else { break };
            // A resync that is under way may have read past what this one is meant to see.
            self.channels.iter_mut().for_each(|lane| lane.resync_needed = true);
            let resyncs = self.channels.iter().map(|lane| lane.resync.wrapping_add(1)).collect();
            self.pending.push(PendingRequest { request, resyncs });
        }
        let channels = &self.channels;
        let has_ended = channels.iter().any(|lane| lane.state == ResyncState::WorkerEnded);
        let is_over = |pending: &mut PendingRequest| {
            has_ended || channels.iter().zip(&pending.resyncs).all(|(lane, resync)| lane.has_completed(*resync))
        };
        for PendingRequest { request: wish, .. } in self.pending.extract_if(.., is_over) {
            wish.send(if has_ended { Err(WorkerEnded) } else { Ok(()) });
        }
    }

    /// Looks now and then whether what is held agrees with what there is.
    fn check_flow_count(&mut self) {
        let settled = self.channels.iter().all(|lane| !lane.resync_needed && lane.state == ResyncState::Idle);
        if self.reconcile.is_due(Instant::now()) && settled {
            let held = self.channels.iter().map(|lane| lane.shared_counters.read().flows).sum();
            if self.reconcile.needs_resync(held) {
                self.channels.iter_mut().for_each(|lane| lane.resync_needed = true);
            }
        }
    }

    fn start_resyncs(&mut self) {
        if self.is_dump_idle() && !self.any_in_state(ResyncState::Starting) && Instant::now() >= self.next_dump_at {
            let wanted = self.channels.iter_mut().filter(|lane| lane.resync_needed && lane.state == ResyncState::Idle);
            wanted.for_each(WorkerChannel::start_resync);
        }
    }

    /// Starts the dump once all who shall be resynchronised by it are marking.
    fn start_dump_if_marking(&mut self) {
        if !self.is_dump_idle() || self.any_in_state(ResyncState::Starting) || !self.any_in_state(ResyncState::Marking)
        {
            return;
        }
        self.read_table(Table::Conntrack);
    }

    /// Has a table dumped.
    fn read_table(&mut self, table: Table) {
        match self.start_dump(table) {
            Ok(dump) => self.dump_state = DumpState::Reading(table, dump),
            Err(error) => self.abandon_resync(&error),
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
    fn advance_dump(&mut self) -> Option<Duration> {
        match &mut self.dump_state {
            DumpState::Idle => None,
            DumpState::Reading(table, dump) => match read_dump_parts(dump, &mut self.channels) {
                Ok(ReadOutcome::Later(time)) => time,
                Ok(ReadOutcome::Complete) if *table == Table::Conntrack => {
                    self.read_table(Table::Expect);
                    Some(Duration::ZERO)
                }
                Ok(ReadOutcome::Complete) => {
                    self.dump_state = DumpState::SendingRest;
                    self.finish_dump()
                }
                Err(error) => {
                    self.abandon_resync(&error);
                    None
                }
            },
            DumpState::SendingRest => self.finish_dump(),
        }
    }

    /// Sends what is left of the dump and the word of its end; how soon to try again where there was no room.
    fn finish_dump(&mut self) -> Option<Duration> {
        for lane in self.channels.iter_mut().filter(|lane| lane.state == ResyncState::Marking) {
            if lane.try_send_batch() {
                lane.end_dump();
            }
        }
        if self.any_in_state(ResyncState::Marking) {
            return Some(RESYNC_RETRY);
        }
        self.dump_state = DumpState::Idle;
        self.next_dump_at = Instant::now() + RESYNC_INTERVAL_MIN;
        self.reconcile.restart(Instant::now());
        None
    }

    fn abandon_resync(&mut self, error: &KernelError) {
        tracing::error!(%error, retry = ?RESYNC_INTERVAL_MIN, "the resync with the kernel's table broke off");
        self.channels
            .iter_mut()
            .filter(|lane| lane.state == ResyncState::Marking)
            .for_each(WorkerChannel::abandon_resync);
        self.dump_state = DumpState::Idle;
        self.next_dump_at = Instant::now() + RESYNC_INTERVAL_MIN;
    }
}

/// How far a turn of reading came.
enum ReadOutcome {
    /// To be continued: when the dump's socket is readable, or so soon.
    Later(Option<Duration>),
    /// To the end.
    Complete,
}

/// Reads parts of the dump into the lanes' batches while these have room.
fn read_dump_parts(dump: &mut Dump, channels: &mut [WorkerChannel]) -> Result<ReadOutcome, KernelError> {
    for _ in 0..RESYNC_PARTS_PER_ROUND {
        if !channels.iter().any(|lane| lane.state == ResyncState::Marking) {
            return Ok(ReadOutcome::Complete); // nobody is left to read for
        }
        if !channels
            .iter_mut()
            .filter(|lane| lane.dump_batch.len() >= RESYNC_BATCH_BYTES)
            .all(WorkerChannel::try_send_batch)
        {
            return Ok(ReadOutcome::Later(Some(RESYNC_RETRY)));
        }
        match dump.try_read(|record| route_to_worker(channels, record))? {
            Progress::More => {}
            Progress::NotYet => return Ok(ReadOutcome::Later(None)),
            Progress::Done => return Ok(ReadOutcome::Complete),
        }
    }
    Ok(ReadOutcome::Later(Some(Duration::ZERO)))
}

/// Puts a message of the dump into the batch of the shard that owns its flow.
fn route_to_worker(channels: &mut [WorkerChannel], record: &Record<'_>) {
    let shards = u32::try_from(channels.len()).unwrap_or(u32::MAX);
    let id = || record.attrs().flatten().find(|attr| attr.kind == uapi::CTA_ID).and_then(|attr| attr.be32().ok());
    let shard = match record.subject() {
        Subject::Flow => id().map(|id| shard_of(id, shards)),
        Subject::Expect => Some(0), // the steering program's choice
        _ => None,
    };
    let Some(lane) = shard.and_then(|shard| channels.get_mut(shard as usize)) else { return };
    if lane.state == ResyncState::Marking {
        lane.dump_batch.extend_from_slice(record.bytes());
        lane.dump_batch.resize(lane.dump_batch.len().next_multiple_of(4), 0);
    }
}

/// When to look for disagreement, and what was found.
#[derive(Debug)]
struct Reconcile {
    next_check: Instant,
    /// When everything is resynchronised whatever the numbers say.
    resync_at: Instant,
    /// Looks in a row that found more flows held than there are.
    excesses: u32,
}

impl Reconcile {
    fn new(now: Instant) -> Self {
        Self { next_check: now + RECONCILE_CHECK, resync_at: now + RECONCILE_INTERVAL, excesses: 0 }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next_check;
        if due {
            self.next_check = now + RECONCILE_CHECK;
        }
        due
    }

    /// Whether `held` flows are too many too often, or it is time anyway. A moment's excess is events on their way.
    fn needs_resync(&mut self, held: u64) -> bool {
        if Instant::now() >= self.resync_at {
            return true;
        }
        let excess =
            kernel_flow_count().is_ok_and(|count| held > count + (count / RECONCILE_SLACK).max(RECONCILE_SLACK));
        self.excesses = if excess { self.excesses + 1 } else { 0 };
        self.excesses >= RECONCILE_CHECKS
    }

    fn restart(&mut self, now: Instant) {
        *self = Self::new(now);
    }
}

/// The kernel's own count.
fn kernel_flow_count() -> Result<u64, KernelError> {
    let mut entries = None;
    let read_entries = |record: &Record<'_>| entries = record.global_stats().ok().and_then(|stats| stats.entries);
    Requester::open()?.request("count the flows", request::global_stats, read_entries)?;
    Ok(u64::from(entries.unwrap_or(u32::MAX)))
}
