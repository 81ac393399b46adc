//! One pinned thread that owns a shard: it takes events, applies them, and obeys the control thread between batches.
//!
//! ```text
//! loop:  take ──► settle ──► obey ──► sweep ──► publish
//!        events   losses     resync   purge a   counts
//!        to shard noticed    commands slice
//! ```
//!
//! Nothing here waits for another thread: commands come through a bounded channel that the control thread fills, and
//! what a worker reports is bounded by the protocol between the two (see [`Report`]).

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::{Event, Record, Subject};

use crate::limits::{RESYNC_BATCHES_PER_ROUND, SWEEP_SLICE};
use crate::listener::{ListenError, Listener, Patience};
use crate::metrics::{Counts, Published};
use crate::shard::{Applied, Shard, Swept};

/// What the control thread asks of a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// A dump begins: mark what it and the events confirm.
    BeginResync,
    /// Messages of the dump that are this shard's, one after the other, each padded to four bytes.
    Dumped(Vec<u8>),
    /// The dump has been read to its end: purge what was not confirmed.
    EndDump,
    /// The dump broke off: forget the marks.
    AbandonResync,
}

/// What a worker tells the control thread. Each is told once a resync at most, so few are under way at once: see
/// [`crate::limits::REPORTS_PER_WORKER`].
#[derive(Debug)]
pub(crate) enum Report {
    /// Events were lost: the shard has to be resynchronised.
    Lost(u32),
    /// From here on what events confirm is marked: the dump may begin.
    Marking(u32),
    /// A resync is complete, or, with `again`, has to be done once more.
    Resynced {
        /// The worker.
        worker: u32,
        /// Too much happened during the dump.
        again: bool,
    },
    /// The worker has ended; its error is in the log.
    Ended(u32),
}

/// The worker's end of its reports to the control thread.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) sender: Sender<Report>,
    pub(crate) waker: Arc<mio::Waker>,
}

impl Reporter {
    fn tell(&self, report: Report) {
        // Neither can fail while the control thread runs, and when it has ended there is no one to tell.
        let _ = self.sender.try_send(report);
        let _ = self.waker.wake();
    }
}

/// What a worker is made of.
pub(crate) struct Worker {
    pub(crate) index: u32,
    pub(crate) listener: Listener,
    pub(crate) shard: Shard,
    pub(crate) commands: Receiver<Command>,
    /// Becomes readable when there is a command, or it is time to stop.
    pub(crate) wake: UnixStream,
    pub(crate) reporter: Reporter,
    pub(crate) published: Arc<Published>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) counts: Counts,
    /// A loss has been reported and no resync has begun since.
    pub(crate) loss_reported: bool,
}

impl Worker {
    /// Runs until told to stop, or until the socket fails.
    pub(crate) fn run(mut self) -> Result<(), ListenError> {
        let result = self.work();
        if let Err(error) = &result {
            tracing::error!(worker = self.index, %error, "worker ended");
        }
        self.publish();
        self.reporter.tell(Report::Ended(self.index));
        result
    }

    fn work(&mut self) -> Result<(), ListenError> {
        while !self.stop.load(Ordering::Relaxed) {
            let lost = self.take()?;
            self.settle(lost);
            self.obey();
            self.sweep();
            self.publish();
        }
        Ok(())
    }

    /// Takes a batch of events into the shard; gives how many were lost.
    fn take(&mut self) -> Result<u64, ListenError> {
        let busy = self.shard.is_sweeping() || !self.commands.is_empty();
        let patience = if busy { Patience::None } else { Patience::Paced };
        let (shard, counts) = (&mut self.shard, &mut self.counts);
        let round = self.listener.round(patience, &mut |frame| apply_frame(shard, counts, frame))?;
        counts.rounds += 1;
        counts.bytes += round.taken.bytes;
        if round.taken.interrupted {
            self.drain_wake();
        }
        Ok(round.lost)
    }

    /// Takes the bytes that woke this worker; what they are for shows in the channel and the flag.
    fn drain_wake(&self) {
        let mut bytes = [0; 64];
        while (&self.wake).read(&mut bytes).is_ok_and(|count| count > 0) {}
    }

    fn settle(&mut self, lost: u64) {
        if lost == 0 {
            return;
        }
        self.counts.events_lost += lost;
        let after = self.counts.events();
        let buffer = self.listener.buffer();
        tracing::warn!(worker = self.index, lost, after, "events lost, resynchronising: {buffer}");
        if !self.loss_reported {
            self.loss_reported = true;
            self.reporter.tell(Report::Lost(self.index));
        }
    }

    fn obey(&mut self) {
        for command in self.commands.try_iter().take(RESYNC_BATCHES_PER_ROUND) {
            match command {
                Command::BeginResync => {
                    self.loss_reported = false;
                    self.shard.begin_resync();
                    self.reporter.tell(Report::Marking(self.index));
                }
                Command::Dumped(messages) => apply_dumped(&mut self.shard, &mut self.counts, &messages),
                Command::EndDump => self.shard.end_dump(),
                Command::AbandonResync => self.shard.abandon_resync(),
            }
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
            Swept::Again => true,
        };
        self.counts.resyncs += 1;
        self.reporter.tell(Report::Resynced { worker: self.index, again });
    }

    fn publish(&mut self) {
        self.counts.flows = u64::from(self.shard.len());
        self.published.publish(&self.counts);
    }
}

/// Takes in every message of one datagram.
#[inline]
fn apply_frame(shard: &mut Shard, counts: &mut Counts, frame: &[u8]) {
    for message in Messages::new(frame) {
        match message {
            Ok(Message::Record(record)) => apply_record(shard, counts, &record),
            Ok(Message::Ack(_) | Message::Done { .. } | Message::Other) => {}
            Err(_) => counts.malformed += 1,
        }
    }
}

#[inline]
fn apply_record(shard: &mut Shard, counts: &mut Counts, record: &Record<'_>) {
    match record.subject() {
        Subject::Flow => {}
        Subject::Expect => {
            counts.events_expect += 1;
            return;
        }
        _ => return,
    }
    let event = record.event();
    match event {
        Event::New => counts.events_new += 1,
        Event::Update => counts.events_update += 1,
        Event::Destroy => counts.events_destroy += 1,
    }
    let applied = record.flow().map_or(Applied::NotAFlow, |flow| shard.apply(event, &flow));
    note(counts, applied);
}

fn apply_dumped(shard: &mut Shard, counts: &mut Counts, messages: &[u8]) {
    for message in Messages::new(messages) {
        let Ok(Message::Record(record)) = message else { continue };
        let applied = record.flow().map_or(Applied::NotAFlow, |flow| shard.apply_dumped(&flow));
        counts.resync_created += u64::from(applied == Applied::Created);
        note(counts, applied);
    }
}

#[inline]
fn note(counts: &mut Counts, applied: Applied) {
    match applied {
        Applied::Full => counts.flows_refused += 1,
        Applied::NotAFlow => counts.malformed += 1,
        Applied::Created | Applied::Updated | Applied::Unchanged | Applied::Destroyed | Applied::Unknown => {}
    }
}
