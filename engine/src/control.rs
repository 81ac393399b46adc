//! The control thread: it keeps the shards in agreement with the kernel's table.
//!
//! It waits in one mio loop for reports of the workers and for parts of the dump that it reads for them. A dump is read
//! once, whoever needs it: each message goes to the shard that owns its flow, in batches, and only to shards that are
//! being resynchronised. When a worker's channel is full the dump waits; the kernel composes the next part only when the
//! last one was taken, so nothing piles up.
//!
//! ```text
//! a shard:   Wanted ── begin ──► Beginning ── its word ──► Marking ── dump read ──► Sweeping ── Resynced ──► InSync
//!              ▲                                              │ dump failed             │ again               │ Lost
//!              └──────────────────────────────────────────────┴─────────────────────────┴─────────────────────┘
//! ```
//!
//! The dump begins only when every such worker has said that it marks: a flow that one took in before, and that the dump
//! was too early for, would be purged.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::record::{Record, Subject};
use ctflow_parser::request::Table;
use ctflow_parser::uapi;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::kernel::KernelError;
use crate::kernel::dump::{Dump, Progress};
use crate::limits::{RESYNC_BATCH_BYTES, RESYNC_INTERVAL_MIN, RESYNC_PARTS_PER_TURN, RESYNC_RETRY};
use crate::shard::shard_of;
use crate::worker::{Command, Report};

/// Reports of the workers.
pub(crate) const REPORTS: Token = Token(0);
/// The dump's socket.
const DUMP: Token = Token(1);

/// Where a shard's resync stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Wanted,
    /// Told to mark, and yet to say that it does.
    Beginning,
    Marking,
    Sweeping,
    InSync,
    /// Its worker has ended.
    Gone,
}

/// The control thread's end of one worker.
#[derive(Debug)]
pub(crate) struct Lane {
    commands: Sender<Command>,
    wake: UnixStream,
    standing: Standing,
    /// Messages of the dump that are not sent yet.
    batch: Vec<u8>,
}

impl Lane {
    pub(crate) fn new(commands: Sender<Command>, wake: UnixStream) -> Self {
        Self { commands, wake, standing: Standing::Wanted, batch: Vec::new() }
    }

    /// Wakes the worker, whether for a command or to see that it is time to stop.
    pub(crate) fn wake(&self) {
        // A full pipe means that it has been woken already.
        let _ = (&self.wake).write(&[0]);
    }

    /// Sends `command` if there is room; gives it back if not. To a worker that has ended nothing needs to be sent.
    fn try_send(&self, command: Command) -> Result<(), Command> {
        let result = self.commands.try_send(command);
        self.wake();
        match result {
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(command)) => Err(command),
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
}

/// The control thread's state.
pub(crate) struct Control {
    poll: Poll,
    lanes: Vec<Lane>,
    reports: Receiver<Report>,
    stop: Arc<AtomicBool>,
    dump: Option<Dump>,
    /// The dump's last part has been read.
    dump_read: bool,
    /// When the next dump may begin.
    not_before: Instant,
}

impl Control {
    pub(crate) fn new(poll: Poll, lanes: Vec<Lane>, reports: Receiver<Report>, stop: Arc<AtomicBool>) -> Self {
        Self { poll, lanes, reports, stop, dump: None, dump_read: false, not_before: Instant::now() }
    }

    /// Runs until told to stop, then sees the workers stop.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(16);
        while !self.stop.load(Ordering::Relaxed) {
            self.hear();
            self.begin_if_wanted();
            self.dump_if_marking();
            let again = self.pump();
            match self.poll.poll(&mut events, self.patience(again)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(%error, "the control thread cannot wait for events and ends");
                    break;
                }
                Ok(()) | Err(_) => {}
            }
        }
        self.lanes.iter().for_each(Lane::wake);
    }

    /// How long to wait for a report or a part of the dump.
    fn patience(&self, again: Option<Duration>) -> Option<Duration> {
        let wanted = self.dump.is_none() && self.is_any(Standing::Wanted);
        again.or_else(|| wanted.then(|| self.not_before.saturating_duration_since(Instant::now()).max(RESYNC_RETRY)))
    }

    fn is_any(&self, standing: Standing) -> bool {
        self.lanes.iter().any(|lane| lane.standing == standing)
    }

    fn hear(&mut self) {
        for report in self.reports.try_iter() {
            let (worker, standing) = match report {
                Report::Lost(worker) => (worker, Standing::Wanted),
                Report::Marking(worker) => (worker, Standing::Marking),
                Report::Resynced { worker, again: true } => (worker, Standing::Wanted),
                Report::Resynced { worker, again: false } => (worker, Standing::InSync),
                Report::Ended(worker) => (worker, Standing::Gone),
            };
            let Some(lane) = self.lanes.get_mut(worker as usize) else { continue };
            // A loss during its resync is not mended by that resync.
            let overtaken = lane.standing == Standing::Wanted && standing != Standing::Gone;
            if lane.standing != Standing::Gone && !overtaken {
                lane.standing = standing;
            }
        }
    }

    fn begin_if_wanted(&mut self) {
        if self.dump.is_some() || Instant::now() < self.not_before {
            return;
        }
        let wanted = self.lanes.iter_mut().filter(|lane| lane.standing == Standing::Wanted);
        for lane in wanted {
            // A worker that still has its channel full of the last resync waits for the next turn.
            if lane.try_send(Command::BeginResync).is_ok() {
                lane.standing = Standing::Beginning;
            }
        }
    }

    /// Starts the dump once all who shall be resynchronised by it are marking.
    fn dump_if_marking(&mut self) {
        if self.dump.is_some() || self.is_any(Standing::Beginning) || !self.is_any(Standing::Marking) {
            return;
        }
        match self.start_dump() {
            Ok(dump) => {
                self.dump = Some(dump);
                self.dump_read = false;
            }
            Err(error) => self.abandon(&error),
        }
    }

    fn start_dump(&self) -> Result<Dump, KernelError> {
        let dump = Dump::start(Table::Conntrack, &DumpFilter::default(), false)?;
        let fd = dump.as_fd().as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), DUMP, Interest::READABLE)
            .map_err(|source| KernelError::Transport { operation: "wait for the dump", source })?;
        Ok(dump)
    }

    /// Reads on in the dump; gives how soon to come back where that is not up to the dump's socket.
    fn pump(&mut self) -> Option<Duration> {
        let mut dump = self.dump.take()?;
        match self.pump_from(&mut dump) {
            Ok(again) => {
                if self.dump_read && self.flush() {
                    self.finish();
                } else {
                    self.dump = Some(dump);
                }
                again
            }
            Err(error) => {
                self.abandon(&error);
                None
            }
        }
    }

    fn pump_from(&mut self, dump: &mut Dump) -> Result<Option<Duration>, KernelError> {
        for _ in 0..RESYNC_PARTS_PER_TURN {
            if !self.flush_large() {
                return Ok(Some(RESYNC_RETRY));
            }
            if self.dump_read {
                return Ok(if self.flush() { None } else { Some(RESYNC_RETRY) });
            }
            let lanes = &mut self.lanes;
            match dump.try_read(|record| route(lanes, record))? {
                Progress::More => {}
                Progress::NotYet => return Ok(None),
                Progress::Done => self.dump_read = true,
            }
        }
        Ok(Some(Duration::ZERO))
    }

    /// Sends the batches that are large enough; whether all had room.
    fn flush_large(&mut self) -> bool {
        self.lanes.iter_mut().filter(|lane| lane.batch.len() >= RESYNC_BATCH_BYTES).all(Lane::try_flush)
    }

    /// Sends what is left; whether all of it had room.
    fn flush(&mut self) -> bool {
        self.lanes.iter_mut().all(Lane::try_flush)
    }

    /// The dump is read and sent: let the workers purge. One whose channel is full gets another resync.
    fn finish(&mut self) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.standing == Standing::Marking) {
            let sent = lane.try_send(Command::EndDump).is_ok();
            lane.standing = if sent { Standing::Sweeping } else { Standing::Wanted };
        }
        self.not_before = Instant::now() + RESYNC_INTERVAL_MIN;
    }

    fn abandon(&mut self, error: &KernelError) {
        tracing::error!(%error, retry = ?RESYNC_INTERVAL_MIN, "the resync with the kernel's table broke off");
        for lane in self.lanes.iter_mut().filter(|lane| lane.standing == Standing::Marking) {
            lane.batch.clear();
            // Where the command has no room, the next resync's beginning does the same.
            let _ = lane.try_send(Command::AbandonResync);
            lane.standing = Standing::Wanted;
        }
        self.not_before = Instant::now() + RESYNC_INTERVAL_MIN;
    }
}

/// Puts a message of the dump into the batch of the shard that owns its flow.
fn route(lanes: &mut [Lane], record: &Record<'_>) {
    if record.subject() != Subject::Flow {
        return;
    }
    let id = record.attrs().flatten().find(|attr| attr.kind == uapi::CTA_ID).and_then(|attr| attr.be32().ok());
    let shards = u32::try_from(lanes.len()).unwrap_or(u32::MAX);
    let Some(lane) = id.and_then(|id| lanes.get_mut(shard_of(id, shards) as usize)) else { return };
    if lane.standing == Standing::Marking {
        lane.batch.extend_from_slice(record.bytes());
        lane.batch.resize(lane.batch.len().next_multiple_of(4), 0);
    }
}
