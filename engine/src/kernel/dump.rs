//! Dumps of a kernel table in constant memory: one buffer, whatever the table's size.
//!
//! Each time the reader has read a part, the kernel composes the next one, as large as the reader's buffer and at most
//! 32 KiB. So a dump advances at the reader's pace and can be read in slices, between other work. A dump is no
//! snapshot: flows are created and destroyed while it is read.
//!
//! A kernel that does not support a filter either refuses it, and [`Dump`] then requests everything, or ignores it. In
//! both cases the caller must filter the records itself; the kernel's filter only saves work.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crossbeam_channel::{Receiver, Sender, bounded};
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::Record;
use ctflow_parser::request::{self, REQUEST_BYTES, Table};
use ctflow_parser::write::{Full, Writer};
use rustix::io::Errno;

use super::KernelError;
use crate::limits::{DUMP_BUFFER_BYTES, DUMP_PARTS_AHEAD};
use crate::sys::netlink::{NetlinkSocket, Protocol};

/// The progress of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More parts are left to read.
    More,
    /// The next part is not ready yet; only [`Dump::try_read`] returns this.
    NotYet,
    /// The part was the last one.
    Done,
}

/// A dump in progress.
#[derive(Debug)]
pub struct Dump {
    socket: NetlinkSocket,
    buffer: Box<[u8]>,
    /// What the dump does, as a verb phrase for the errors.
    operation: &'static str,
    /// The request to repeat without its filter if the kernel refuses it; `None` without a filter, and once the kernel
    /// has accepted it.
    filtered: Option<(Table, DumpFilter, bool)>,
}

impl Dump {
    /// Requests a dump of `table`. With `zero` the kernel resets the counters that it reports (conntrack table only).
    ///
    /// # Errors
    /// [`KernelError::Open`] or [`KernelError::Transport`]. If the kernel refuses the request, the first read returns
    /// that.
    pub fn start(table: Table, filter: &DumpFilter, zero: bool) -> Result<Self, KernelError> {
        let operation = match table {
            Table::Conntrack => "list the conntrack table",
            Table::Expect => "list the expectation table",
            Table::Dying => "list dying flows",
            Table::Unconfirmed => "list unconfirmed flows",
        };
        let mut dump = Self::open_and_send(operation, |writer| request::dump(writer, 0, table, filter, zero))?;
        dump.filtered = Some((table, *filter, zero)).filter(|_| *filter != unfiltered(filter));
        Ok(dump)
    }

    /// Requests the counters of `table`: one record for each CPU.
    ///
    /// # Errors
    /// As [`Dump::start`].
    pub fn cpu_stats(table: Table) -> Result<Self, KernelError> {
        Self::open_and_send("read the statistics", |writer| request::cpu_stats(writer, 0, table))
    }

    /// Opens a socket and sends the request that `write` writes.
    fn open_and_send(
        operation: &'static str,
        write: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>,
    ) -> Result<Self, KernelError> {
        let socket = NetlinkSocket::open(Protocol::Netfilter).map_err(KernelError::Open)?;
        // Where a kernel does not know these options, its refusals have no text.
        let _ = socket.set_extended_ack().and_then(|()| socket.set_capped_ack());
        let dump = Self { socket, buffer: vec![0; DUMP_BUFFER_BYTES].into_boxed_slice(), operation, filtered: None };
        dump.send(write)?;
        Ok(dump)
    }

    /// Sends the request that `write` writes.
    fn send(&self, write: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>) -> Result<(), KernelError> {
        let mut buffer = [0; REQUEST_BYTES];
        let mut writer = Writer::new(&mut buffer);
        write(&mut writer).map_err(|source| KernelError::TooLong { operation: self.operation, source })?;
        self.socket.send(writer.bytes()).map_err(|source| self.transport(source))
    }

    /// Waits for the next part, and calls `each` with its records.
    ///
    /// # Errors
    /// The kernel's refusal, an error of the socket, or an answer that does not parse.
    pub fn read(&mut self, each: impl FnMut(&Record<'_>)) -> Result<Progress, KernelError> {
        let (length, progress) = self.receive()?;
        self.pass_records(length, each)?;
        Ok(progress)
    }

    /// Reads the next part as [`Dump::read`] does, if it is ready.
    ///
    /// # Errors
    /// As [`Dump::read`].
    pub fn try_read(&mut self, each: impl FnMut(&Record<'_>)) -> Result<Progress, KernelError> {
        let Some(length) = self.socket.try_receive(&mut self.buffer).map_err(|error| self.transport(error))? else {
            return Ok(Progress::NotYet);
        };
        let progress = self.check_part(length)?;
        self.pass_records(length, each)?;
        Ok(progress)
    }

    /// Reads all parts that are left, and calls `each` with their records.
    ///
    /// # Errors
    /// As [`Dump::read`].
    pub fn read_all(&mut self, mut each: impl FnMut(&Record<'_>)) -> Result<(), KernelError> {
        while self.read(&mut each)? != Progress::Done {}
        Ok(())
    }

    /// Continues the dump on a thread of its own, so that the kernel composes the next parts while the caller processes
    /// one.
    ///
    /// # Errors
    /// [`KernelError::Transport`] when no thread can be started.
    pub fn read_ahead(self) -> Result<ReadAhead, KernelError> {
        ReadAhead::start(self)
    }

    /// Waits for the next part and reads it into the buffer; returns its length in bytes, and the progress.
    fn receive(&mut self) -> Result<(usize, Progress), KernelError> {
        loop {
            match self.socket.receive(&mut self.buffer) {
                Ok(length) => return self.check_part(length).map(|progress| (length, progress)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.transport(error)),
            }
        }
    }

    /// Checks the part in the buffer for the end of the dump, and for a refusal.
    fn check_part(&mut self, length: usize) -> Result<Progress, KernelError> {
        let operation = self.operation;
        let frame = self.buffer.get(..length).ok_or(KernelError::Cut { operation, bytes: length })?;
        let mut progress = Progress::More;
        let mut refusal = None;
        for message in Messages::new(frame) {
            match message.map_err(|source| KernelError::Malformed { operation, source })? {
                Message::Done { errno: 0 } => progress = Progress::Done,
                Message::Done { errno } => {
                    let source = io::Error::from_raw_os_error(errno);
                    refusal = Some(KernelError::Refused { operation, source, kernel_text: None });
                }
                Message::Ack(ack) if ack.errno != 0 => refusal = Some(KernelError::refused(operation, &ack)),
                Message::Record(_) | Message::Ack(_) | Message::Other => {}
            }
        }
        match refusal {
            Some(error) => self.retry_unfiltered(error),
            None => {
                self.filtered = None; // the kernel has accepted the filter, or ignores it
                Ok(progress)
            }
        }
    }

    /// Calls `each` with the records of the part in the buffer.
    fn pass_records(&self, length: usize, each: impl FnMut(&Record<'_>)) -> Result<(), KernelError> {
        records(self.operation, self.buffer.get(..length).unwrap_or_default(), each)
    }

    /// After a filtered dump was refused because the kernel does not support the filter: requests everything of the
    /// family instead.
    fn retry_unfiltered(&mut self, refusal: KernelError) -> Result<Progress, KernelError> {
        let unsupported =
            matches!(refusal.errno().map(Errno::from_raw_os_error), Some(Errno::INVAL | Errno::OPNOTSUPP));
        let Some((table, filter, zero)) = self.filtered.take().filter(|_| unsupported) else { return Err(refusal) };
        tracing::debug!("{refusal}; listing all entries instead");
        self.send(|writer| request::dump(writer, 0, table, &unfiltered(&filter), zero))?;
        Ok(Progress::More)
    }

    /// An error of the socket.
    fn transport(&self, source: io::Error) -> KernelError {
        KernelError::Transport { operation: self.operation, source }
    }
}

impl AsFd for Dump {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Calls `each` with the records of one part.
fn records(operation: &'static str, frame: &[u8], mut each: impl FnMut(&Record<'_>)) -> Result<(), KernelError> {
    for message in Messages::new(frame) {
        if let Message::Record(record) = message.map_err(|source| KernelError::Malformed { operation, source })? {
            each(&record);
        }
    }
    Ok(())
}

/// One part of a dump.
#[derive(Debug)]
struct Part {
    buffer: Box<[u8]>,
    length: usize,
    progress: Progress,
}

/// A dump that a thread of its own reads, up to [`DUMP_PARTS_AHEAD`] parts ahead. The kernel takes longer to compose a
/// part than the caller to parse and print one, so the caller's work adds no time.
#[derive(Debug)]
pub struct ReadAhead {
    operation: &'static str,
    parts: Receiver<Result<Part, KernelError>>,
    /// Returns the buffers of parts that were processed to the thread.
    emptied: Sender<Box<[u8]>>,
}

impl ReadAhead {
    /// Starts the thread.
    fn start(dump: Dump) -> Result<Self, KernelError> {
        let operation = dump.operation;
        let (sender, parts) = bounded(DUMP_PARTS_AHEAD);
        let (emptied, empty) = bounded(DUMP_PARTS_AHEAD);
        for _ in 0..DUMP_PARTS_AHEAD {
            // The channel has room for exactly these.
            let _ = emptied.try_send(vec![0; DUMP_BUFFER_BYTES].into_boxed_slice());
        }
        let body = move || fill(dump, &empty, &sender);
        // The thread ends with the dump, or when the reader is dropped. It never waits for the kernel for long, so
        // nothing has to join it.
        let thread = std::thread::Builder::new().name("ctflow-dump".to_owned()).spawn(body);
        thread.map_err(|source| KernelError::Transport { operation, source })?;
        Ok(Self { operation, parts, emptied })
    }

    /// Waits for the next part from the thread, and calls `each` with its records.
    ///
    /// # Errors
    /// As [`Dump::read`].
    pub fn read(&mut self, each: impl FnMut(&Record<'_>)) -> Result<Progress, KernelError> {
        let thread_died = || KernelError::Transport {
            operation: self.operation,
            source: io::Error::other("the thread that reads the dump has died"),
        };
        let part = self.parts.recv().map_err(|_| thread_died())?;
        let Part { buffer, length, progress } = part?;
        records(self.operation, buffer.get(..length).unwrap_or_default(), each)?;
        // This fails only when the thread has read the last part and ended.
        let _ = self.emptied.try_send(buffer);
        Ok(progress)
    }
}

/// The body of the thread: reads a part into each empty buffer, until the last part.
fn fill(mut dump: Dump, empty: &Receiver<Box<[u8]>>, parts: &Sender<Result<Part, KernelError>>) {
    for buffer in empty {
        let part = dump.receive().map(|(length, progress)| {
            let buffer = std::mem::replace(&mut dump.buffer, buffer);
            Part { buffer, length, progress }
        });
        let last = !matches!(part, Ok(Part { progress: Progress::More, .. }));
        if parts.send(part).is_err() || last {
            return;
        }
    }
}

/// The part of `filter` that every kernel supports.
fn unfiltered(filter: &DumpFilter) -> DumpFilter {
    DumpFilter { family: filter.family, mark: filter.mark, ..DumpFilter::default() }
}
