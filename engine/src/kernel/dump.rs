//! A kernel table listed in constant memory: one buffer, whatever the table's size.
//!
//! The kernel composes as much as the reader's buffer holds, up to 32 KiB, each time the reader has taken the last part;
//! so a dump is read at the reader's pace and can be read in slices, between other work. It is no snapshot: flows come
//! and go meanwhile.
//!
//! A kernel that cannot filter as asked either refuses ([`Dump`] then asks again for everything) or ignores the filter.
//! Either way the caller filters what comes; the kernel's part is to make that cheap.

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

/// How far a dump has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more to read.
    More,
    /// Nothing is ready to be read now; only [`Dump::try_read`] says so.
    NotYet,
    /// That was the last part.
    Done,
}

/// One listing under way.
#[derive(Debug)]
pub struct Dump {
    socket: NetlinkSocket,
    buffer: Box<[u8]>,
    operation: &'static str,
    /// The filter to do without, should the kernel refuse it.
    filtered: Option<(Table, DumpFilter, bool)>,
}

impl Dump {
    /// Asks for `table`. With `zero` its counters are read and reset at once (conntrack only).
    ///
    /// # Errors
    /// When there is no netfilter socket to be had. What the kernel thinks of the request comes with the first read.
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

    /// Asks for one record a CPU: the counters of `table`.
    ///
    /// # Errors
    /// As [`Dump::start`].
    pub fn cpu_stats(table: Table) -> Result<Self, KernelError> {
        Self::open_and_send("read the statistics", |writer| request::cpu_stats(writer, 0, table))
    }

    fn open_and_send(
        operation: &'static str,
        write: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>,
    ) -> Result<Self, KernelError> {
        let socket = NetlinkSocket::open(Protocol::Netfilter).map_err(KernelError::Open)?;
        // Without these two an old kernel's refusals are merely less wordy.
        let _ = socket.set_extended_ack().and_then(|()| socket.set_capped_ack());
        let dump = Self { socket, buffer: vec![0; DUMP_BUFFER_BYTES].into_boxed_slice(), operation, filtered: None };
        dump.send(write)?;
        Ok(dump)
    }

    fn send(&self, write: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>) -> Result<(), KernelError> {
        let mut buffer = [0; REQUEST_BYTES];
        let mut writer = Writer::new(&mut buffer);
        write(&mut writer).map_err(|source| KernelError::TooLong { operation: self.operation, source })?;
        self.socket.send(writer.bytes()).map_err(|source| self.transport(source))
    }

    /// Reads the next part, waiting for it, and hands its records to `each`.
    ///
    /// # Errors
    /// The kernel's refusal, or bytes that do not parse.
    pub fn read(&mut self, each: impl FnMut(&Record<'_>)) -> Result<Progress, KernelError> {
        let (length, progress) = self.receive()?;
        self.pass_records(length, each)?;
        Ok(progress)
    }

    /// Reads the next part if it is ready, as [`Dump::read`].
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

    /// Reads the rest, waiting for it.
    ///
    /// # Errors
    /// As [`Dump::read`].
    pub fn read_all(&mut self, mut each: impl FnMut(&Record<'_>)) -> Result<(), KernelError> {
        while self.read(&mut each)? != Progress::Done {}
        Ok(())
    }

    /// Reads on a thread of its own, so that the kernel composes the next parts while the caller works on one.
    ///
    /// # Errors
    /// [`KernelError::Transport`] when no thread can be started.
    pub fn read_ahead(self) -> Result<ReadAhead, KernelError> {
        ReadAhead::start(self)
    }

    /// Takes the next part into the buffer; gives its length, and whether it is the last.
    fn receive(&mut self) -> Result<(usize, Progress), KernelError> {
        loop {
            match self.socket.receive(&mut self.buffer) {
                Ok(length) => return self.check_part(length).map(|progress| (length, progress)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.transport(error)),
            }
        }
    }

    /// Looks for the dump's end, and for a refusal, among the messages of the part in the buffer.
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
                    refusal = Some(KernelError::Refused { operation, source, said: None });
                }
                Message::Ack(ack) if ack.errno != 0 => refusal = Some(KernelError::refused(operation, &ack)),
                Message::Record(_) | Message::Ack(_) | Message::Other => {}
            }
        }
        match refusal {
            Some(error) => self.retry_unfiltered(error),
            None => {
                self.filtered = None; // it has answered, so it takes the filter
                Ok(progress)
            }
        }
    }

    fn pass_records(&self, length: usize, each: impl FnMut(&Record<'_>)) -> Result<(), KernelError> {
        records(self.operation, self.buffer.get(..length).unwrap_or_default(), each)
    }

    /// After a refusal of a filtered dump: asks for everything of the family instead.
    fn retry_unfiltered(&mut self, refusal: KernelError) -> Result<Progress, KernelError> {
        let unsupported =
            matches!(refusal.errno().map(Errno::from_raw_os_error), Some(Errno::INVAL | Errno::OPNOTSUPP));
        let Some((table, filter, zero)) = self.filtered.take().filter(|_| unsupported) else { return Err(refusal) };
        tracing::debug!("{refusal}: listing everything instead");
        self.send(|writer| request::dump(writer, 0, table, &unfiltered(&filter), zero))?;
        Ok(Progress::More)
    }

    fn transport(&self, source: io::Error) -> KernelError {
        KernelError::Transport { operation: self.operation, source }
    }
}

impl AsFd for Dump {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Hands the records of one part to `each`.
fn records(operation: &'static str, frame: &[u8], mut each: impl FnMut(&Record<'_>)) -> Result<(), KernelError> {
    for message in Messages::new(frame) {
        if let Message::Record(record) = message.map_err(|source| KernelError::Malformed { operation, source })? {
            each(&record);
        }
    }
    Ok(())
}

/// One part of a dump that has been read.
#[derive(Debug)]
struct Part {
    buffer: Box<[u8]>,
    length: usize,
    progress: Progress,
}

/// A dump that a thread of its own reads, [`DUMP_PARTS_AHEAD`] parts ahead. Composing a part takes the kernel longer than
/// parsing and printing take us, so what is done meanwhile costs no time.
#[derive(Debug)]
pub struct ReadAhead {
    operation: &'static str,
    parts: Receiver<Result<Part, KernelError>>,
    /// Buffers that have been read, for the thread to fill again.
    emptied: Sender<Box<[u8]>>,
}

impl ReadAhead {
    fn start(dump: Dump) -> Result<Self, KernelError> {
        let operation = dump.operation;
        let (sender, parts) = bounded(DUMP_PARTS_AHEAD);
        let (emptied, empty) = bounded(DUMP_PARTS_AHEAD);
        for _ in 0..DUMP_PARTS_AHEAD {
            // There is room: so many are what the channel was made for.
            let _ = emptied.try_send(vec![0; DUMP_BUFFER_BYTES].into_boxed_slice());
        }
        let body = move || fill(dump, &empty, &sender);
        // It ends with the dump, or when the reader is dropped: the kernel never keeps it waiting.
        let thread = std::thread::Builder::new().name("ctflow-dump".to_owned()).spawn(body);
        thread.map_err(|source| KernelError::Transport { operation, source })?;
        Ok(Self { operation, parts, emptied })
    }

    /// Takes the next part, waiting for it, and hands its records to `each`.
    ///
    /// # Errors
    /// As [`Dump::read`].
    pub fn read(&mut self, each: impl FnMut(&Record<'_>)) -> Result<Progress, KernelError> {
        let died = || KernelError::Transport {
            operation: self.operation,
            source: io::Error::other("the thread that reads it has died"),
        };
        let part = self.parts.recv().map_err(|_| died())?;
        let Part { buffer, length, progress } = part?;
        records(self.operation, buffer.get(..length).unwrap_or_default(), each)?;
        // Refused only when the thread has read its last part.
        let _ = self.emptied.try_send(buffer);
        Ok(progress)
    }
}

/// The thread: a part into each empty buffer, until the last one.
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

/// What every kernel can select.
fn unfiltered(filter: &DumpFilter) -> DumpFilter {
    DumpFilter { family: filter.family, mark: filter.mark, ..DumpFilter::default() }
}
