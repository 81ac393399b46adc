//! The control thread: it keeps the shards in sync with the kernel's table by kernel resyncs.
//!
//! One mio loop waits for reports of the workers and for parts of the dump that the thread reads for them. One dump
//! serves every shard that needs it: each message goes in a batch to the shard that owns its flow, and only to shards
//! that are being resynchronised. When a worker's channel is full, reading the dump pauses. The kernel composes the
//! next part only after the last one was read, so no data piles up.
//!
//! ```text
//! a shard:  Idle ── BeginResync ──► Starting ── Marking ──► Marking ── EndDump ──► Sweeping ── Resynced ──► Idle
//!            ▲      sent                        reported       │       sent                    reported
//!            └─────────────────────────────────────────────────┘ dump failed: a resync is needed again
//!
//! a resync is needed: at the start; after a loss, at any time; when a resync has to be repeated; when more flows are
//!                     held than the kernel has; when an operator requests it
//! ```
//!
//! The dump starts only after every worker that takes part has reported that it marks. Otherwise the resync would purge
//! a flow that a worker added before it marked, and that was too new for the dump. Resyncs are numbered, so that a late
//! report of one resync is not mistaken for a report of the next. A loss during a resync does not stop it, because the
//! flows that it does not confirm have ended in any case. Another resync follows.
//!
//! The kernel sends no events for some flows, for example those that started while `nf_conntrack_events` was 0, so
//! their end is not reported. Therefore the control thread compares the number of flows held with the kernel's own
//! count every few seconds. It resynchronises all shards when too many are held, or when the last resync is long ago.

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
use crate::os_error::os_error_text;
use crate::reply::Reply;
use crate::shard::shard_of;
use crate::worker::{Command, Report};

/// The poll token of the workers' reports and of resync requests.
pub(crate) const REPORTS: Token = Token(0);
/// The poll token of the dump's socket.
const DUMP: Token = Token(1);

/// A worker has ended, so its flows cannot be resynchronised any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkerEnded;

/// A request to resynchronise all shards. The control thread replies when all of them are in sync.
pub(crate) type ResyncRequest = Reply<Result<(), WorkerEnded>>;

/// Sends resync requests to the control thread.
#[derive(Debug, Clone)]
pub(crate) struct ResyncRequests {
    sender: Sender<ResyncRequest>,
    waker: Arc<mio::Waker>,
}

impl ResyncRequests {
    /// Creates the channel for resync requests. `waker` wakes the control thread.
    pub(crate) fn channel(waker: Arc<mio::Waker>) -> (Self, Receiver<ResyncRequest>) {
        let (sender, receiver) = bounded(RESYNC_REQUESTS);
        (Self { sender, waker }, receiver)
    }

    /// Requests a resync of all shards that starts after this call.
    ///
    /// # Errors
    /// The request itself when the channel is full. A control thread that has ended is no error: the request is
    /// dropped.
    pub(crate) fn try_request(&self, request: ResyncRequest) -> Result<(), ResyncRequest> {
        let result = self.sender.try_send(request);
        let _ = self.waker.wake(); // fails only when the control thread has ended
        match result {
            Err(TrySendError::Full(request)) => Err(request),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}

/// A resync request that is not answered yet.
struct PendingRequest {
    request: ResyncRequest,
    /// For each worker, the number of the resync that must be complete before the answer.
    resyncs: Vec<u32>,
}

/// The state of a shard's resync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResyncState {
    /// No resync is under way.
    Idle,
    /// The command to mark was sent, and the worker has not reported yet that it marks.
    Starting,
    /// The worker marks confirmed flows, and the dump is read or about to be.
    Marking,
    /// The whole dump was sent, and the worker purges what it did not confirm.
    Sweeping,
    /// The worker has ended.
    WorkerEnded,
}

/// The control thread's channel to one worker, with the state of that worker's resync.
#[derive(Debug)]
pub(crate) struct WorkerChannel {
    commands: Sender<Command>,
    /// Wakes the worker by a byte written to it.
    wake: Arc<UnixStream>,
    shared_counters: Arc<SharedCounters>,
    state: ResyncState,
    /// Whether a resync has to start as soon as none is under way for this shard.
    resync_needed: bool,
    /// The number of the last resync that was started.
    resync: u32,
    /// The number of the last resync that was completed.
    completed: u32,
    /// Dumped messages for this shard that are not sent yet.
    dump_batch: Vec<u8>,
}

impl WorkerChannel {
    /// A channel whose shard needs its first resync.
    pub(crate) fn new(commands: Sender<Command>, wake: Arc<UnixStream>, shared_counters: Arc<SharedCounters>) -> Self {
        let (state, dump_batch) = (ResyncState::Idle, Vec::new());
        Self { commands, wake, shared_counters, state, resync_needed: true, resync: 0, completed: 0, dump_batch }
    }

    /// Wakes the worker, for a queued command or to check the stop flag.
    fn wake(&self) {
        // The write fails when the socket is full: then the worker is being woken already.
        let _ = (&*self.wake).write(&[0]);
    }

    /// Sends `command`, or returns it as the error when the channel is full. A worker that has ended is recorded as
    /// such, and its command is dropped.
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

    /// Sends the batch of dumped messages. Returns whether the channel had room for it.
    fn try_send_batch(&mut self) -> bool {
        if self.dump_batch.is_empty() {
            return true;
        }
        let batch = std::mem::take(&mut self.dump_batch);
        match self.try_send(Command::Dumped(batch)) {
            Err(Command::Dumped(batch)) => {
                self.dump_batch = batch;
                false
            }
            _ => true,
        }
    }

    /// Applies a report of this worker to the state of its resync.
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
            Report::Marking { .. } | Report::Resynced { .. } => {} // of an earlier, abandoned resync
        }
    }

    /// Whether resync number `resync`, or a later one, is complete. Numbers wrap, so a difference of up to half their
    /// range counts as later.
    fn has_completed(&self, resync: u32) -> bool {
        self.completed.wrapping_sub(resync) <= u32::MAX / 2
    }

    /// Sends the command that starts a resync. When the channel is full, a later round of the loop retries.
    fn start_resync(&mut self) {
        let resync = self.resync.wrapping_add(1);
        self.dump_batch.clear();
        if self.try_send(Command::BeginResync(resync)).is_ok() && self.state == ResyncState::Idle {
            (self.state, self.resync, self.resync_needed) = (ResyncState::Starting, resync, false);
        }
    }

    /// Sends the end of the dump, which lets the worker purge. When the channel is full, a later round of the loop
    /// retries.
    fn end_dump(&mut self) {
        if self.try_send(Command::EndDump).is_ok() && self.state == ResyncState::Marking {
            self.state = ResyncState::Sweeping;
        }
    }

    /// Abandons this shard's resync after the dump failed, so that the next one starts anew.
    fn abandon_resync(&mut self) {
        self.dump_batch.clear();
        // If the channel is full, the start of the next resync resets the marks as well.
        let _ = self.try_send(Command::AbandonResync);
        if self.state == ResyncState::Marking {
            (self.state, self.resync_needed) = (ResyncState::Idle, true);
        }
    }
}

/// The state of the dump that a resync reads.
#[derive(Debug)]
enum DumpState {
    /// No dump is under way.
    Idle,
    /// This table is being read.
    Reading(Table, Dump),
    /// Both tables have been read; the last batches and the end of the dump have to be sent.
    SendingRest,
}

/// The control thread's state. Dropping it stops the workers, because no thread would resynchronise them any more.
pub(crate) struct ResyncCoordinator {
    poll: Poll,
    /// One channel for each worker, in the order of their indices.
    channels: Vec<WorkerChannel>,
    reports: Receiver<Report>,
    stop: Arc<AtomicBool>,
    dump_state: DumpState,
    /// The earliest time at which the next resync may start.
    next_dump_at: Instant,
    reconcile: Reconcile,
    requests: Receiver<ResyncRequest>,
    /// Requests that wait for their resyncs to complete.
    pending: Vec<PendingRequest>,
}

impl Drop for ResyncCoordinator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.channels.iter().for_each(WorkerChannel::wake);
    }
}

impl ResyncCoordinator {
    /// A coordinator that starts the workers' first resyncs as soon as it runs. `poll` has the waker of [`REPORTS`].
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

    /// Runs until the stop flag is set, or until it cannot wait for events any more.
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
                    tracing::error!(
                        error = os_error_text(&error),
                        "the control thread cannot wait for events, so the engine stops"
                    );
                    return;
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// How long to wait for reports, requests and parts of the dump. `again` is the time until the dump needs a retry.
    fn poll_timeout(&self, again: Option<Duration>) -> Duration {
        let now = Instant::now();
        let needed = self.is_dump_idle()
            && self.channels.iter().any(|channel| channel.resync_needed && channel.state == ResyncState::Idle);
        let start = needed.then(|| self.next_dump_at.saturating_duration_since(now).max(RESYNC_RETRY));
        let check = self.reconcile.next_check.saturating_duration_since(now);
        again.or(start).map_or(check, |time| time.min(check))
    }

    /// Whether no dump is under way.
    fn is_dump_idle(&self) -> bool {
        matches!(self.dump_state, DumpState::Idle)
    }

    /// Whether the resync of any shard is in `state`.
    fn any_in_state(&self, state: ResyncState) -> bool {
        self.channels.iter().any(|channel| channel.state == state)
    }

    /// Reads the queued reports of the workers.
    fn read_reports(&mut self) {
        for report in self.reports.try_iter() {
            let (Report::ResyncNeeded(worker)
            | Report::Ended(worker)
            | Report::Marking { worker, .. }
            | Report::Resynced { worker, .. }) = report;
            if let Some(channel) = self.channels.get_mut(worker as usize) {
                channel.on_report(&report);
            }
        }
    }

    /// Accepts queued resync requests, and answers those whose resyncs are complete.
    fn handle_requests(&mut self) {
        while self.pending.len() < RESYNC_REQUESTS {
            let Ok(request) = self.requests.try_recv() else { break };
            // A resync under way does not answer the request: it may already have read past the change that it is for.
            self.channels.iter_mut().for_each(|channel| channel.resync_needed = true);
            let resyncs = self.channels.iter().map(|channel| channel.resync.wrapping_add(1)).collect();
            self.pending.push(PendingRequest { request, resyncs });
        }
        let channels = &self.channels;
        let has_ended = channels.iter().any(|channel| channel.state == ResyncState::WorkerEnded);
        let is_over = |pending: &mut PendingRequest| {
            has_ended || channels.iter().zip(&pending.resyncs).all(|(channel, resync)| channel.has_completed(*resync))
        };
        for PendingRequest { request, .. } in self.pending.extract_if(.., is_over) {
            request.send(if has_ended { Err(WorkerEnded) } else { Ok(()) });
        }
    }

    /// Compares the number of flows held with the kernel's count when that is due, and resynchronises all shards if too
    /// many are held. Skips the comparison while a resync is needed or under way, because that corrects the number
    /// anyway.
    fn check_flow_count(&mut self) {
        let settled = self.channels.iter().all(|channel| !channel.resync_needed && channel.state == ResyncState::Idle);
        if self.reconcile.is_due(Instant::now()) && settled {
            let held = self.channels.iter().map(|channel| channel.shared_counters.read().flows).sum();
            if self.reconcile.needs_resync(held) {
                self.channels.iter_mut().for_each(|channel| channel.resync_needed = true);
            }
        }
    }

    /// Starts the resyncs that are needed, all at once so that one dump serves them, and not while a dump is under way.
    fn start_resyncs(&mut self) {
        if self.is_dump_idle() && !self.any_in_state(ResyncState::Starting) && Instant::now() >= self.next_dump_at {
            let needing =
                self.channels.iter_mut().filter(|channel| channel.resync_needed && channel.state == ResyncState::Idle);
            needing.for_each(WorkerChannel::start_resync);
        }
    }

    /// Starts the dump once every worker that takes part in it marks.
    fn start_dump_if_marking(&mut self) {
        if !self.is_dump_idle() || self.any_in_state(ResyncState::Starting) || !self.any_in_state(ResyncState::Marking)
        {
            return;
        }
        self.read_table(Table::Conntrack);
    }

    /// Starts to read the dump of `table`, or abandons the resync if that fails.
    fn read_table(&mut self, table: Table) {
        match self.start_dump(table) {
            Ok(dump) => self.dump_state = DumpState::Reading(table, dump),
            Err(error) => self.abandon_resync(&error),
        }
    }

    /// Requests a dump of `table` and registers its socket with the poll.
    fn start_dump(&self, table: Table) -> Result<Dump, KernelError> {
        let dump = Dump::start(table, &DumpFilter::default(), false)?;
        let fd = dump.as_fd().as_raw_fd();
        let registered = self.poll.registry().register(&mut SourceFd(&fd), DUMP, Interest::READABLE);
        registered.map_err(|source| KernelError::Transport { operation: "wait for the dump", source })?;
        Ok(dump)
    }

    /// Reads more of the dump and sends its parts. Returns the time until the next call, or `None` when the dump's
    /// socket wakes the thread.
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

    /// Sends the rest of the dump and its end to each marking worker. Returns the time until a retry when a channel was
    /// full.
    fn finish_dump(&mut self) -> Option<Duration> {
        for channel in self.channels.iter_mut().filter(|channel| channel.state == ResyncState::Marking) {
            if channel.try_send_batch() {
                channel.end_dump();
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

    /// Abandons the resyncs that wait for the dump, and retries them after [`RESYNC_INTERVAL_MIN`].
    fn abandon_resync(&mut self, error: &KernelError) {
        tracing::error!(%error, retry = ?RESYNC_INTERVAL_MIN, "the resync with the kernel's table failed");
        self.channels
            .iter_mut()
            .filter(|channel| channel.state == ResyncState::Marking)
            .for_each(WorkerChannel::abandon_resync);
        self.dump_state = DumpState::Idle;
        self.next_dump_at = Instant::now() + RESYNC_INTERVAL_MIN;
    }
}

/// The outcome of one round of reading a dump.
enum ReadOutcome {
    /// The dump goes on: after this time, or when its socket is readable if `None`.
    Later(Option<Duration>),
    /// The whole table was read, or no worker needs the dump any more.
    Complete,
}

/// Reads at most [`RESYNC_PARTS_PER_ROUND`] parts of the dump into the workers' batches, while the channels have room.
fn read_dump_parts(dump: &mut Dump, channels: &mut [WorkerChannel]) -> Result<ReadOutcome, KernelError> {
    for _ in 0..RESYNC_PARTS_PER_ROUND {
        if !channels.iter().any(|channel| channel.state == ResyncState::Marking) {
            return Ok(ReadOutcome::Complete); // no worker needs the dump any more
        }
        if !channels
            .iter_mut()
            .filter(|channel| channel.dump_batch.len() >= RESYNC_BATCH_BYTES)
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

/// Appends a dumped message to the batch of the worker that owns its flow, if that worker marks. Expectations belong to
/// worker 0.
fn route_to_worker(channels: &mut [WorkerChannel], record: &Record<'_>) {
    let shards = u32::try_from(channels.len()).unwrap_or(u32::MAX);
    let id = || record.attrs().flatten().find(|attr| attr.kind == uapi::CTA_ID).and_then(|attr| attr.be32().ok());
    let shard = match record.subject() {
        Subject::Flow => id().map(|id| shard_of(id, shards)),
        Subject::Expect => Some(0), // as the steering program assigns them (`steer.rs`)
        _ => None,
    };
    let Some(channel) = shard.and_then(|shard| channels.get_mut(shard as usize)) else { return };
    if channel.state == ResyncState::Marking {
        channel.dump_batch.extend_from_slice(record.bytes());
        channel.dump_batch.resize(channel.dump_batch.len().next_multiple_of(4), 0);
    }
}

/// Decides when the number of flows held differs so much from the kernel's that all shards have to be resynchronised.
#[derive(Debug)]
struct Reconcile {
    /// When to compare the numbers next.
    next_check: Instant,
    /// When to resynchronise whatever the numbers are.
    resync_at: Instant,
    /// Comparisons in a row that found too many flows held.
    excesses: u32,
}

impl Reconcile {
    /// Times counted from `now`, the end of the last resync.
    fn new(now: Instant) -> Self {
        Self { next_check: now + RECONCILE_CHECK, resync_at: now + RECONCILE_INTERVAL, excesses: 0 }
    }

    /// Whether a comparison is due, which schedules the next one.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next_check;
        if due {
            self.next_check = now + RECONCILE_CHECK;
        }
        due
    }

    /// Whether all shards need a resync: [`RECONCILE_CHECKS`] comparisons in a row found too many flows held, or the
    /// last resync is [`RECONCILE_INTERVAL`] ago. A single excess may be DESTROY events that are still queued.
    fn needs_resync(&mut self, held: u64) -> bool {
        if Instant::now() >= self.resync_at {
            return true;
        }
        let excess =
            kernel_flow_count().is_ok_and(|count| held > count + (count / RECONCILE_SLACK).max(RECONCILE_SLACK));
        self.excesses = if excess { self.excesses + 1 } else { 0 };
        self.excesses >= RECONCILE_CHECKS
    }

    /// Starts anew after a resync.
    fn restart(&mut self, now: Instant) {
        *self = Self::new(now);
    }
}

/// The kernel's own count of its flows.
fn kernel_flow_count() -> Result<u64, KernelError> {
    let mut entries = None;
    let read_entries = |record: &Record<'_>| entries = record.global_stats().ok().and_then(|stats| stats.entries);
    Requester::open()?.request("count the flows", request::global_stats, read_entries)?;
    Ok(u64::from(entries.unwrap_or(u32::MAX)))
}
