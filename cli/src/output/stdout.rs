//! Standard output in large writes: lines gather in one buffer, which is written when it is large or the caller is idle.
//!
//! A reader may be slow, or stuck, and a signal has to be heard all the same: so [`StdoutBuffer::flush_until`] writes to a pipe only what
//! fits it at once, and waits for room and for the signal together.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;

/// From this many bytes on the buffer is written. A pipe takes 64 KiB at once; larger writes to files gain nothing.
const LARGE_BYTES: usize = 64 * 1024;
/// What a pipe that has room at all takes without blocking: `PIPE_BUF` of Linux.
const CERTAIN_BYTES: usize = 4096;

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlushOutcome {
    /// Everything is written.
    All,
    /// The bell rang or the reader was too slow; something is left.
    Unwritten,
}

enum WriteStep {
    All,
    Some(usize),
    Nothing,
}

/// Gathers lines for standard output.
#[derive(Debug)]
pub(crate) struct StdoutBuffer {
    /// Where lines are appended.
    pub(crate) lines: Vec<u8>,
    stdout: File,
    has_reader: bool,
}

impl StdoutBuffer {
    /// Writes past the standard library's own buffer, which would look for line ends in every write.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(crate) fn open() -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let has_reader = has_reader(&stdout);
        Ok(Self { lines: Vec::with_capacity(2 * LARGE_BYTES), stdout, has_reader })
    }

    /// Writes the lines if there are many.
    ///
    /// # Errors
    /// That of the write; the lines are then lost, as a full disk loses them.
    #[inline]
    pub(crate) fn flush_if_large(&mut self) -> io::Result<()> {
        if self.lines.len() < LARGE_BYTES { Ok(()) } else { self.flush() }
    }

    /// Writes the lines, waiting for as long as the reader takes.
    ///
    /// # Errors
    /// As [`StdoutBuffer::flush_if_large`].
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            match self.write_some(written, None, None) {
                Ok(WriteStep::All) => break Ok(()),
                Ok(WriteStep::Some(bytes)) => written += bytes,
                Ok(WriteStep::Nothing) => {} // without a bound and a bell the wait goes on
                Err(error) => break Err(error),
            }
        };
        self.lines.clear();
        result
    }

    /// Writes the lines until all are, `bell` is readable, or the reader has taken nothing for `patience`; what is not
    /// written stays.
    ///
    /// # Errors
    /// That of the write; what was not written stays.
    pub(crate) fn flush_until(&mut self, bell: BorrowedFd<'_>, patience: Option<Duration>) -> io::Result<FlushOutcome> {
        let mut written = 0;
        let result = loop {
            match self.write_some(written, Some(bell), patience) {
                Ok(WriteStep::All) => break Ok(FlushOutcome::All),
                Ok(WriteStep::Some(bytes)) => written += bytes,
                Ok(WriteStep::Nothing) => break Ok(FlushOutcome::Unwritten),
                Err(error) => break Err(error),
            }
        };
        let whole = matches!(result, Ok(FlushOutcome::All));
        self.lines.drain(..if whole { self.lines.len() } else { written });
        result
    }

    /// Whether there is enough to write.
    #[inline]
    pub(crate) fn is_large(&self) -> bool {
        self.lines.len() >= LARGE_BYTES
    }

    /// Writes some of what follows the first `written` bytes.
    fn write_some(
        &self,
        written: usize,
        bell: Option<BorrowedFd<'_>>,
        patience: Option<Duration>,
    ) -> io::Result<WriteStep> {
        let rest = self.lines.get(written..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(WriteStep::All);
        }
        let chunk = if self.has_reader() {
            if !self.wait_writable(bell, patience)? {
                return Ok(WriteStep::Nothing);
            }
            rest.get(..CERTAIN_BYTES).unwrap_or(rest)
        } else {
            rest
        };
        match rustix::io::write(&self.stdout, chunk) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => Ok(WriteStep::Some(bytes)),
            Err(Errno::INTR | Errno::AGAIN) => Ok(WriteStep::Some(0)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for room; false when the bell rang or the time was up first.
    fn wait_writable(&self, bell: Option<BorrowedFd<'_>>, patience: Option<Duration>) -> io::Result<bool> {
        let stdout = PollFd::new(&self.stdout, PollFlags::OUT);
        let bell = bell.map(|bell| PollFd::from_borrowed_fd(bell, PollFlags::IN));
        let mut fds: Vec<_> = [stdout].into_iter().chain(bell).collect();
        let patience = patience.and_then(|time| Timespec::try_from(time).ok());
        loop {
            match poll(&mut fds, patience.as_ref()) {
                Err(Errno::INTR) => {} // the bell says whether the signal was for us
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(fds.first().is_some_and(|stdout| !stdout.revents().is_empty())),
            }
        }
    }

    /// Whether someone reads the other end and may go away: a pipe or a socket. A file is always there, and a terminal
    /// that goes away sends SIGHUP.
    pub(crate) fn has_reader(&self) -> bool {
        self.has_reader
    }
}

fn has_reader(stdout: &File) -> bool {
    let kind = rustix::fs::fstat(stdout).map(|stat| FileType::from_raw_mode(stat.st_mode));
    matches!(kind, Ok(FileType::Fifo | FileType::Socket)) && !stdout.is_terminal()
}

impl AsFd for StdoutBuffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }
}
