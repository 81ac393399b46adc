//! One pinned thread that owns a shard. It receives events, applies them to the shard, and runs the control thread's
//! commands between batches of events.
//!
//! ```text
//! loop:  receive_events       read a batch of events from the socket and apply it to the shard
//!     ── forward_to_watchers  send the batch, and the count of lost events, to clients that follow events
//!     ── handle_losses        request a resync after lost, malformed or refused events
//!     ── run_commands         commands of the control thread: start a resync, apply dumped flows, end or abandon it
//!     ── start_marking        start a resync's marks once the events queued before its request are applied
//!     ── sweep                purge a slice of the flows that a finished dump did not confirm
//!     ── handle_unreported    send due sequence-adjustment refreshes; request a resync for moved flows
//!     ── send_deltas          answer requests, then send changed flows to the replication stage
//!     ── publish_counts       store the counters where other threads read them
//! ```
//!
//! No step waits for another thread. Commands arrive through a bounded channel that the control thread fills. The
//! protocol between the two threads bounds the number of a worker's reports (see `Report`).

pub(crate) mod channel;
pub mod intake;
pub(crate) mod kernel_resync;
pub(crate) mod meter;
mod seqadj_refresh;
pub mod threads;
pub(crate) mod unreported;
pub(crate) mod watch;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use ctflow_parser::error::ParseError;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::Subject;

use crate::capture::listener::{ListenError, Listener, Patience, Round};
use crate::capture::steer::Filter;
use crate::clock::now_ms;
use crate::kernel::commit::is_held;
use crate::limits::{REQUESTS_PER_ROUND, RESYNC_BATCHES_PER_ROUND, SWEEP_SLICE};
use crate::metrics::{Counts, SharedCounters};
use crate::shard::{Applied, Shard, Swept};
use crate::worker::channel::{DeltaSender, OnLoss, WorkerRequest};
use crate::worker::intake::{Intake, count_applied};
use crate::worker::meter::Meter;
use crate::worker::unreported::Unreported;
use crate::worker::watch::Watcher;

/// A command of the control thread to a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Start marking the flows that events and the dump confirm, and report it. The number identifies the resync.
    BeginResync(u32),
    /// Consecutive messages of the dump whose flows belong to this shard, each padded to four bytes.
    Dumped(Vec<u8>),
    /// The whole dump has been sent: purge the flows that it did not confirm.
    EndDump,
    /// The dump failed: drop the marks and purge nothing.
    AbandonResync,
}

/// A report of a worker to the control thread. A worker sends each kind at most once per resync, so few are queued at
/// once: see [`REPORTS_PER_WORKER`](crate::limits::REPORTS_PER_WORKER).
#[derive(Debug)]
pub(crate) enum Report {
    /// The shard of this worker needs a resync: events were lost or malformed, flows were refused, or flows whose NAT
    /// address moved have to be compared with the kernel.
    ResyncNeeded(u32),
    /// The worker marks the flows that events confirm: the dump may start.
    Marking {
        /// The worker's index.
        worker: u32,
        /// The resync's number.
        resync: u32,
    },
    /// A resync is complete, or has to be repeated.
    Resynced {
        /// The worker's index.
        worker: u32,
        /// The resync's number.
        resync: u32,
        /// Whether it has to be repeated: more flows ended during the dump than the shard can remember.
        again: bool,
    },
    /// The worker of this index has ended or could not start. Its error is in the log.
    Ended(u32),
}

/// Sends a worker's reports to the control thread.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) sender: Sender<Report>,
    pub(crate) waker: Arc<mio::Waker>,
}

impl Reporter {
    /// Sends `report` and wakes the control thread.
    pub(crate) fn send_report(&self, report: Report) {
        // Neither call fails while the control thread runs. After it has ended, no thread needs the report.
        let _ = self.sender.try_send(report);
        let _ = self.waker.wake();
    }
}

/// How the flows in a shard relate to the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyncState {
    /// The shard's flows match the kernel's.
    InSync,
    /// Events were lost since the last resync started, or no resync has started yet.
    Stale,
    /// A resync is under way that repairs every loss so far.
    Resyncing,
}

/// A worker: its socket, its shard, and its channels to the other threads.
pub(crate) struct Worker {
    /// The worker's number, from 0.
    pub(crate) index: u32,
    /// The event socket and its back end.
    pub(crate) listener: Listener,
    /// The flows that this worker alone owns.
    pub(crate) shard: Shard,
    /// The filter that the kernel applies to this socket's events. Dumped flows that it excludes are skipped.
    pub(crate) filter: Filter,
    /// Whether the node runs in hot mode: the kernel then also holds peers' flows, which are not this node's.
    pub(crate) hot: bool,
    /// Commands of the control thread.
    pub(crate) commands: Receiver<Command>,
    /// Requests of the replication stage, the control server and the takeover.
    pub(crate) requests: Receiver<WorkerRequest>,
    /// Sends changed flows to the replication stage; `None` without peers.
    pub(crate) delta_sender: Option<DeltaSender>,
    /// Finds changes that the kernel sends no event for; `None` without peers.
    pub(crate) unreported: Option<Unreported>,
    /// Becomes readable when a command or a request is queued, or when the worker has to stop.
    pub(crate) wake: UnixStream,
    /// Reports to the control thread.
    pub(crate) reporter: Reporter,
    /// The counters as other threads read them.
    pub(crate) shared_counters: Arc<SharedCounters>,
    /// Set when the worker has to stop.
    pub(crate) stop: Arc<AtomicBool>,
    /// The counters as this worker counts them.
    pub(crate) counts: Counts,
    /// The number of the resync under way, or of the last one.
    pub(crate) resync: u32,
    /// `Some` when a resync was requested and has not started: the number of events, at most, to receive before it may.
    pub(crate) backlog: Option<u64>,
    /// Whether this worker has reported that it needs a resync, and none was started since.
    pub(crate) resync_requested: bool,
    /// The error of the first malformed message of this round.
    pub(crate) malformed: Option<ParseError>,
    /// Whether the shard has refused flows and has had no room since.
    pub(crate) full: bool,
    /// The number of flows refused before this round.
    pub(crate) refused_before: u64,
    /// How the shard's flows relate to the kernel's.
    pub(crate) sync_state: SyncState,
    /// Clients that follow the events received here.
    pub(crate) watchers: Vec<Watcher>,
    /// Measures the processor time of each step, if the engine is metered.
    pub(crate) meter: Meter,
}

impl Worker {
    /// Runs until the stop flag is set or the socket fails. Events queued at the stop are still received and sent.
    pub(crate) fn run(mut self) -> Result<(), ListenError> {
        self.shard.set_time(now_ms());
        let result = self.run_rounds().and_then(|()| self.finish());
        if let Err(error) = &result {
            tracing::error!(worker = self.index, %error, "worker ended");
        }
        self.publish_counts();
        result
    }

    /// Runs the loop until the stop flag is set.
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

    /// Sends due sequence-adjustment refreshes, and requests a resync when flows whose NAT address moved have to be
    /// compared with the kernel.
    fn handle_unreported(&mut self) {
        if self.unreported.as_mut().is_some_and(Unreported::run_due) && !self.resync_requested {
            // Unlike `request_resync`, this leaves the state as it is: no event was lost.
            self.resync_requested = true;
            self.reporter.send_report(Report::ResyncNeeded(self.index));
        }
    }

    /// Leaves the multicast groups, receives the events that are still queued, and sends the changes they cause.
    fn finish(&mut self) -> Result<(), ListenError> {
        self.listener.leave_groups()?;
        loop {
            let round = self.receive_round(Patience::None)?;
            self.counts.events_lost += round.lost;
            self.forward_to_watchers(round.lost);
            if round.received.drained {
                self.send_deltas();
                self.shard.cancel_batch_delay();
                while self.pending_in() == Some(Duration::ZERO) {
                    self.send_deltas();
                }
                return Ok(());
            }
        }
    }

    /// How long until the shard has changes to send; `None` without any. It is `None` as well while batches wait for
    /// room in the stage's channel, because the stage then wakes this worker.
    fn pending_in(&self) -> Option<Duration> {
        self.delta_sender.as_ref().filter(|delta_sender| delta_sender.has_sent_all())?;
        self.shard.pending_in_ms().map(Duration::from_millis)
    }

    /// Receives a batch of events into the shard, waiting only if no other work is pending. Returns the number of
    /// events lost.
    fn receive_events(&mut self) -> Result<u64, ListenError> {
        let pending = self.pending_in();
        // Work that the rest of the loop can do now. A requested resync counts, because it starts once the queue is
        // empty.
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

    /// Receives once with `patience`, applies the events to the shard, and counts them.
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
        if let Some(backlog) = &mut self.backlog {
            // An empty queue proves that every event queued before the request has been applied.
            let received = u64::try_from(round.received.datagrams + round.received.truncated).unwrap_or(u64::MAX);
            *backlog = if round.received.drained { 0 } else { backlog.saturating_sub(received) };
        }
        Ok(round)
    }

    /// Reads and drops the bytes that woke this worker: the channels and the stop flag hold the reason. An end of the
    /// stream means that every other holder of the wake socket has ended, so no thread is left to stop this worker: it
    /// stops itself.
    fn drain_wake_bytes(&self) {
        let mut bytes = [0; 64];
        loop {
            match (&self.wake).read(&mut bytes) {
                Ok(0) => return self.stop.store(true, Ordering::Relaxed),
                Ok(_) => {}
                Err(_) => return, // the socket is empty: it does not block
            }
        }
    }

    /// Sends this round's events to the watchers, and the number of events lost in it.
    fn forward_to_watchers(&mut self, lost: u64) {
        for watcher in &mut self.watchers {
            watcher.count_lost(lost);
            watcher.flush();
        }
    }

    /// Counts and logs the events of this round that did not reach the shard, and requests a resync to repair the loss.
    fn handle_losses(&mut self, lost: u64) {
        let worker = self.index;
        if lost > 0 {
            self.counts.events_lost += lost;
            let buffer = self.listener.buffer();
            tracing::warn!(
                worker,
                "{lost} events lost: raise [engine] buffer_bytes_max ({buffer}); comparing the cache with the kernel"
            );
            self.request_resync();
        }
        if let Some(error) = self.malformed.take() {
            tracing::warn!(worker, %error, "events not understood, resynchronising with the kernel");
            self.request_resync();
        }
        self.handle_refused_flows();
    }

    /// Logs when a full shard starts to refuse flows, and requests a resync when it has room again.
    fn handle_refused_flows(&mut self) {
        let room = self.shard.has_room();
        if self.full && room {
            self.full = false;
            self.request_resync();
        } else if !self.full && !room && self.counts.flows_refused > self.refused_before {
            self.full = true;
            tracing::warn!(
                worker = self.index,
                "the internal cache is full and refuses flows: raise [engine] flows_max"
            );
        }
        self.refused_before = self.counts.flows_refused;
    }

    /// Starts marking once the events queued at the resync's request have been applied. A queued event may be older
    /// than a loss: the flow that it reports as new may have ended in a lost event, so it must not count as confirmed.
    fn start_marking(&mut self) {
        if self.backlog == Some(0) && self.resync_hold_left().is_none() {
            self.backlog = None;
            self.sync_state =
                if self.sync_state == SyncState::InSync { SyncState::InSync } else { SyncState::Resyncing };
            self.shard.start_resync();
            self.reporter.send_report(Report::Marking { worker: self.index, resync: self.resync });
        }
    }

    /// How long a resync that is ready to start has to wait, because flows whose NAT address moved are kept for so
    /// long.
    fn resync_hold_left(&self) -> Option<Duration> {
        self.unreported.as_ref().filter(|_| self.backlog == Some(0)).and_then(Unreported::resync_hold_left)
    }

    /// Marks the flows stale, and reports that this worker needs a resync unless it has already done so.
    fn request_resync(&mut self) {
        self.sync_state = SyncState::Stale;
        if !self.resync_requested {
            self.resync_requested = true;
            self.counts.resyncs_requested += 1;
            self.reporter.send_report(Report::ResyncNeeded(self.index));
        }
    }

    /// Runs at most [`RESYNC_BATCHES_PER_ROUND`] commands of the control thread.
    fn run_commands(&mut self) {
        for _ in 0..RESYNC_BATCHES_PER_ROUND {
            let Ok(command) = self.commands.try_recv() else { break };
            match command {
                Command::BeginResync(resync) => {
                    self.resync_requested = false;
                    self.resync = resync;
                    // Where the kernel cannot report the queue's length, marking starts at the next empty queue.
                    self.backlog = Some(self.listener.queued_at_most().unwrap_or(u64::MAX));
                }
                Command::Dumped(messages) => self.apply_dumped(&messages),
                Command::EndDump => self.shard.finish_dump(),
                Command::AbandonResync => self.shard.abandon_resync(),
            }
        }
    }

    /// Applies messages of a dump to the shard: flows that the socket's filter passes, and expectations.
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
                // A peer's flow, committed in hot mode and without a packet since.
                Ok(flow) if self.hot && is_held(flow.timeout.unwrap_or(0)) => continue,
                Ok(flow) => shard.apply_dumped(&flow),
                Err(_) => Applied::NotAFlow,
            };
            counts.resync_created += u64::from(applied == Applied::Created);
            count_applied(counts, applied);
        }
    }

    /// After a dump, checks the next [`SWEEP_SLICE`] slots and purges unconfirmed flows. Reports the end of the resync
    /// after the last slice.
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

    /// Answers at most [`REQUESTS_PER_ROUND`] requests, then sends the shard's changed flows to the replication stage.
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
                    // A client that has gone is noticed only here, so each new watcher removes the dead ones.
                    self.watchers.retain(Watcher::is_watched);
                    watcher.send_start();
                    self.watchers.push(watcher);
                }
                WorkerRequest::EncodeBucket(bucket, reply) => {
                    let mut entries = Vec::new();
                    let stream = u16::try_from(self.index).unwrap_or(u16::MAX);
                    self.shard.set_time(now_ms());
                    self.shard.encode_bucket(bucket, stream, &mut entries);
                    reply.send(entries);
                }
                WorkerRequest::ResolveConflicts(versions, on_loss, reply) => {
                    let resolve = |version| match on_loss {
                        OnLoss::Keep => self.shard.compare_with_peer(version),
                        OnLoss::Evict => self.shard.evict_unless_newer(version),
                    };
                    reply.send(versions.iter().map(resolve).collect());
                }
            }
        }
        let now_ms = now_ms();
        self.shard.set_time(now_ms);
        if let Some(delta_sender) = &mut self.delta_sender {
            self.meter.lap();
            delta_sender.set_time(now_ms);
            self.counts.unencodable += delta_sender.send_deltas(&mut self.shard);
            self.counts.delta_cpu_ns += self.meter.lap();
        }
    }

    /// Stores the counters where other threads read them.
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
