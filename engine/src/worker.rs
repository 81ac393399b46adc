//! One pinned thread that owns a shard: it takes events, applies them, and obeys the control thread between batches.
//!
//! ```text
//! loop:  take ──► show ──► settle ──► obey ──► mark ──► sweep ──► find out ──► tell ──► publish
//!        events   them to losses     resync   begin a  purge a   what no      changes  counts
//!        to shard watchers noticed   commands resync   slice     event says   to the
//!                                                                             replication
//!                                                                             stage
//! ```
//!
//! Nothing here waits for another thread: commands come through a bounded channel that the control thread fills, and
//! what a worker reports is bounded by the protocol between the two (see [`Report`]).

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender};
use ctflow_parser::error::ParseError;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::Subject;

use crate::intake::{Intake, count_applied};
use crate::kernel::commit::is_held;
use crate::limits::{REQUESTS_PER_ROUND, RESYNC_BATCHES_PER_ROUND, SWEEP_SLICE};
use crate::listener::{ListenError, Listener, Patience, Round};
use crate::meter::Meter;
use crate::metrics::{Counts, SharedCounters};
use crate::shard::{Applied, Shard, Swept};
use crate::steer::Filter;
use crate::unreported::Unreported;
use crate::watch::Watcher;
use crate::worker_channel::{DeltaSender, OnLoss, WorkerRequest};

/// What the control thread asks of a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Mark what events and the dump confirm from here on, and say so. The number tells this resync from others.
    BeginResync(u32),
    /// Messages of the dump that are this shard's, one after the other, each padded to four bytes.
    Dumped(Vec<u8>),
    /// The dump has been read to its end: purge what was not confirmed.
    EndDump,
    /// The dump broke off: forget the marks.
    AbandonResync,
}

/// What a worker tells the control thread. Each is told once a resync at most, so few are under way at once: see
/// [`REPORTS_PER_WORKER`](crate::limits::REPORTS_PER_WORKER).
#[derive(Debug)]
pub(crate) enum Report {
    /// Events were lost or not understood, or flows refused: the shard has to be resynchronised.
    ResyncNeeded(u32),
    /// From here on what events confirm is marked: the dump may begin.
    Marking {
        /// The worker.
        worker: u32,
        /// The resync's number.
        resync: u32,
    },
    /// A resync is complete, or, with `again`, has to be done once more.
    Resynced {
        /// The worker.
        worker: u32,
        /// The resync's number.
        resync: u32,
        /// Too much happened during the dump.
        again: bool,
    },
    /// The worker has ended, or could not begin; its error is in the log.
    Ended(u32),
}

/// The worker's end of its reports to the control thread.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) sender: Sender<Report>,
    pub(crate) waker: Arc<mio::Waker>,
}

impl Reporter {
    pub(crate) fn send_report(&self, report: Report) {
        // Neither can fail while the control thread runs, and when it has ended there is no one to tell.
        let _ = self.sender.try_send(report);
        let _ = self.waker.wake();
    }
}

/// What is known of the flows held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyncState {
    /// They are the kernel's.
    InSync,
    /// Something was lost since the last resync began, or none ever did.
    Stale,
    /// A resync is under way that mends all that was lost.
    Resyncing,
}

/// What a worker is made of.
pub(crate) struct Worker {
    pub(crate) index: u32,
    pub(crate) listener: Listener,
    pub(crate) shard: Shard,
    /// What the socket lets through.
    pub(crate) filter: Filter,
    /// Flows that are held for peers are in the kernel, too, and are not this node's.
    pub(crate) hot: bool,
    pub(crate) commands: Receiver<Command>,
    pub(crate) requests: Receiver<WorkerRequest>,
    /// Where there are replicas.
    pub(crate) delta_sender: Option<DeltaSender>,
    /// Where there are replicas: what they must know besides.
    pub(crate) unreported: Option<Unreported>,
    /// Becomes readable when there is a command, or it is time to stop.
    pub(crate) wake: UnixStream,
    pub(crate) reporter: Reporter,
    pub(crate) shared_counters: Arc<SharedCounters>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) counts: Counts,
    /// The number of the resync under way, or of the last one.
    pub(crate) resync: u32,
    /// A resync has been asked for, and so many events at most are still to be taken before it begins.
    pub(crate) backlog: Option<u64>,
    /// That a resync is wanted has been reported, and none has begun since.
    pub(crate) resync_requested: bool,
    /// Why the first message of this round was not understood.
    pub(crate) malformed: Option<ParseError>,
    /// Flows have been refused and there has been no room since.
    pub(crate) full: bool,
    /// Flows refused before this round.
    pub(crate) refused_before: u64,
    /// Whether the flows are known to be the kernel's.
    pub(crate) sync_state: SyncState,
    /// Who wants to see what is received.
    pub(crate) watchers: Vec<Watcher>,
    /// Measures the steps, where they are.
    pub(crate) meter: Meter,
}

impl Worker {
    /// Runs until told to stop, or until the socket fails. What is queued when the stop comes is still taken.
    pub(crate) fn run(mut self) -> Result<(), ListenError> {
        self.shard.set_time(now_ms());
        let result = self.run_rounds().and_then(|()| self.finish());
        if let Err(error) = &result {
            tracing::error!(worker = self.index, %error, "worker ended");
        }
        self.publish_counts();
        result
    }

    fn run_rounds(&mut self) -> Result<(), ListenError> {
        while !self.stop.load(Ordering::Relaxed) {
            let lost = self.receive_events()?;
            self.forward_to_watchers(lost);
            self.handle_losses(lost);
            self.run_commands();
            self.start_marking();
            self.sweep();
            self.handle_unreported();
            self.send_deltas();
            self.publish_counts();
        }
        Ok(())
    }

    /// Sees to what events do not say.
    fn handle_unreported(&mut self) {
        if self.unreported.as_mut().is_some_and(Unreported::run_due) && !self.resync_requested {
            self.resync_requested = true; // nothing is lost, and nothing doubted
            self.reporter.send_report(Report::ResyncNeeded(self.index));
        }
    }

    fn finish(&mut self) -> Result<(), ListenError> {
        self.listener.leave_groups()?;
        loop {
            let round = self.receive_round(Patience::None)?;
            self.counts.events_lost += round.lost;
            self.forward_to_watchers(round.lost);
            if round.received.drained {
                self.send_deltas();
                self.shard.cancel_pause();
                while self.pending_in() == Some(Duration::ZERO) {
                    self.send_deltas();
                }
                return Ok(());
            }
        }
    }

    /// How long until there is something to tell replicas. What the stage has no room for yet it asks for itself.
    fn pending_in(&self) -> Option<Duration> {
        self.delta_sender.as_ref().filter(|teller| teller.has_sent_all())?;
        self.shard.pending_in_ms().map(Duration::from_millis)
    }

    /// Takes a batch of events into the shard; gives how many were lost.
    fn receive_events(&mut self) -> Result<u64, ListenError> {
        let pending = self.pending_in();
        let busy = self.shard.is_sweeping()
            || (self.backlog.is_some() && self.resync_hold_left().is_none())
            || !self.commands.is_empty()
            || !self.requests.is_empty()
            || pending == Some(Duration::ZERO);
        let refresh = self.unreported.as_ref().and_then(Unreported::due_in);
        let patience = match [pending, refresh, self.resync_hold_left()].into_iter().flatten().min() {
            _ if busy => Patience::None,
            Some(time) => Patience::PacedWithin(time),
            None => Patience::Paced,
        };
        let round = self.receive_round(patience)?;
        if round.received.interrupted {
            self.drain_wake_bytes();
        }
        Ok(round.lost)
    }

    fn receive_round(&mut self, patience: Patience) -> Result<Round, ListenError> {
        self.unreported.iter_mut().for_each(Unreported::begin_round);
        let mut intake = Intake::new(&mut self.shard, &mut self.counts);
        intake.with_watchers(&mut self.watchers, self.unreported.as_mut());
        self.meter.lap();
        intake.measure(&mut self.meter);
        let round = self.listener.receive_round(patience, &mut intake)?;
        if let Some(error) = intake.malformed() {
            self.malformed.get_or_insert(error);
        }
        self.counts.receive_cpu_ns += self.meter.lap();
        self.counts.rounds += 1;
        self.counts.bytes += round.received.bytes;
        if let Some(backlog) = &mut self.backlog {
            let received = u64::try_from(round.received.datagrams + round.received.truncated).unwrap_or(u64::MAX);
            *backlog = if round.received.drained { 0 } else { backlog.saturating_sub(received) };
        }
        Ok(round)
    }

    /// Takes the bytes that woke this worker; what they are for shows in the channel and the flag. An end of the stream
    /// means that the control thread is gone: nobody else will say stop.
    fn drain_wake_bytes(&self) {
        let mut bytes = [0; 64];
        loop {
            match (&self.wake).read(&mut bytes) {
                Ok(0) => return self.stop.store(true, Ordering::Relaxed),
                Ok(_) => {}
                Err(_) => return, // nothing more to take
            }
        }
    }

    /// Hands on to those who watch what this round brought, and that so many were lost in it.
    fn forward_to_watchers(&mut self, lost: u64) {
        for watcher in &mut self.watchers {
            watcher.count_lost(lost);
            watcher.flush();
        }
    }

    /// Whatever did not make it into the shard is counted, told, and mended by a resync.
    fn handle_losses(&mut self, lost: u64) {
        let worker = self.index;
        if lost > 0 {
            self.counts.events_lost += lost;
            let (after, buffer) = (self.counts.events(), self.listener.buffer());
            tracing::warn!(worker, lost, after, "events lost, resynchronising: {buffer}");
            self.request_resync();
        }
        if let Some(error) = self.malformed.take() {
            tracing::warn!(worker, %error, "events not understood, resynchronising");
            self.request_resync();
        }
        self.handle_refused_flows();
    }

    /// A full shard is told when it begins to refuse, and resynchronised when there is room again.
    fn handle_refused_flows(&mut self) {
        let room = self.shard.has_room();
        if self.full && room {
            self.full = false;
            self.request_resync();
        } else if !self.full && !room && self.counts.flows_refused > self.refused_before {
            self.full = true;
            tracing::warn!(worker = self.index, "the shard is full and refuses new flows: raise [engine] flows_max");
        }
        self.refused_before = self.counts.flows_refused;
    }

    /// Begins to mark once all is taken that was queued when the resync was asked for. What is queued may be older than a
    /// loss: a flow that it says began may have ended among what was lost, and must not be taken for confirmed.
    fn start_marking(&mut self) {
        if self.backlog == Some(0) && self.resync_hold_left().is_none() {
            self.backlog = None;
            self.sync_state =
                if self.sync_state == SyncState::InSync { SyncState::InSync } else { SyncState::Resyncing };
            self.shard.start_resync();
            self.reporter.send_report(Report::Marking { worker: self.index, resync: self.resync });
        }
    }

    /// How long a resync that could begin has to wait for all that.
    fn resync_hold_left(&self) -> Option<Duration> {
        self.unreported.as_ref().filter(|_| self.backlog == Some(0)).and_then(Unreported::resync_hold_left)
    }

    fn request_resync(&mut self) {
        self.sync_state = SyncState::Stale;
        if !self.resync_requested {
            self.resync_requested = true;
            self.counts.resyncs_requested += 1;
            self.reporter.send_report(Report::ResyncNeeded(self.index));
        }
    }

    fn run_commands(&mut self) {
        for _ in 0..RESYNC_BATCHES_PER_ROUND {
            let Ok(command) = self.commands.try_recv() else { break };
            match command {
                Command::BeginResync(resync) => {
                    self.resync_requested = false;
                    self.resync = resync;
                    self.backlog = Some(self.listener.queued_at_most().unwrap_or(u64::MAX));
                }
                Command::Dumped(messages) => self.apply_dumped(&messages),
                Command::EndDump => self.shard.finish_dump(),
                Command::AbandonResync => self.shard.abandon_resync(),
            }
        }
    }

    fn apply_dumped(&mut self, messages: &[u8]) {
        let (shard, counts) = (&mut self.shard, &mut self.counts);
        for message in Messages::new(messages) {
            let Ok(Message::Record(record)) = message else { continue };
            if record.subject() == Subject::Expect {
                let applied =
                    record.expect().map_or(Applied::NotAFlow, |expect| shard.apply_dumped_expectation(&expect));
                counts.expectations_refused += u64::from(applied == Applied::Full);
                continue;
            }
            let applied = match record.flow() {
                Ok(flow) if !self.filter.passes(&flow) => continue,
                Ok(flow) if self.hot && is_held(flow.timeout.unwrap_or(0)) => continue,
                Ok(flow) => shard.apply_dumped(&flow),
                Err(_) => Applied::NotAFlow,
            };
            counts.resync_created += u64::from(applied == Applied::Created);
            count_applied(counts, applied);
        }
    }

    fn sweep(&mut self) {
        if !self.shard.is_sweeping() {
            return;
        }
        let purged = &mut self.counts.purged;
        let again = match self.shard.sweep(SWEEP_SLICE, |_| *purged += 1) {
            Swept::More => return,
            Swept::Done => false,
            Swept::RepeatResync => true,
        };
        self.counts.resyncs += 1;
        if !again && self.sync_state == SyncState::Resyncing {
            self.sync_state = SyncState::InSync;
        }
        self.reporter.send_report(Report::Resynced { worker: self.index, resync: self.resync, again });
    }

    /// Answers what was asked, then hands on what has changed.
    fn send_deltas(&mut self) {
        for request in self.requests.try_iter().take(REQUESTS_PER_ROUND) {
            match request {
                WorkerRequest::SendBuckets(buckets) => self.shard.queue_buckets(&buckets),
                WorkerRequest::SendDigests(number) => self.shard.queue_digests(number),
                WorkerRequest::SetFilter(filter) => self.shard.set_filter(filter),
                WorkerRequest::ForgetMoved(reply) => {
                    self.unreported.iter_mut().for_each(Unreported::forget_moved);
                    reply.send(());
                }
                WorkerRequest::AddWatcher(mut watcher) => {
                    // Those who have gone leave no trace but this: whoever comes makes room for itself.
                    self.watchers.retain(Watcher::is_watched);
                    watcher.send_start();
                    self.watchers.push(watcher);
                }
                WorkerRequest::ListBucket(bucket, reply) => {
                    let mut entries = Vec::new();
                    let stream = u16::try_from(self.index).unwrap_or(u16::MAX);
                    self.shard.set_time(now_ms());
                    self.shard.encode_bucket(bucket, stream, &mut entries);
                    reply.send(entries);
                }
                WorkerRequest::ResolveConflicts(claims, on_loss, reply) => {
                    let judge = |claim| match on_loss {
                        OnLoss::Keep => self.shard.compare_with_peer(claim),
                        OnLoss::Evict => self.shard.evict_unless_newer(claim),
                    };
                    reply.send(claims.iter().map(judge).collect());
                }
            }
        }
        let now_ms = now_ms();
        self.shard.set_time(now_ms);
        if let Some(teller) = &mut self.delta_sender {
            self.meter.lap();
            teller.set_time(now_ms);
            self.counts.unencodable += teller.send_deltas(&mut self.shard);
            self.counts.delta_cpu_ns += self.meter.lap();
        }
    }

    fn publish_counts(&mut self) {
        self.counts.expectations = self.shard.expectation_count() as u64;
        self.counts.flows = u64::from(self.shard.len());
        self.counts.cache_bytes = self.shard.bytes();
        (self.counts.filtered, self.counts.conflated) = self.shard.suppressed();
        self.counts.full = u64::from(self.full);
        self.counts.buffer_bytes = self.listener.buffer().effective as u64;
        self.counts.resync_pending = u64::from(self.sync_state != SyncState::InSync);
        self.shared_counters.store(&self.counts);
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    now_us() / 1_000
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}
