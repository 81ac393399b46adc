//! Standard output in large writes: lines collect in one buffer, which is written when it is large or the caller is
//! idle.
//!
//! Even with a slow or stuck reader, a signal must end the program. [`StdoutBuffer::flush_until`] therefore writes
//! only as much to a pipe as fits without blocking, and waits for room and for the signal at the same time.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;

/// The buffer is written when it has this many bytes. A pipe holds 64 KiB; larger writes to files are not faster.
const LARGE_BYTES: usize = 64 * 1024;
/// The bytes that a pipe reported as writable accepts without blocking: `PIPE_BUF` of Linux.
const CERTAIN_BYTES: usize = 4096;

/// The result of one write.
enum WriteStep {
    /// Nothing was left to write.
    All,
    /// So many bytes were written.
    Some(usize),
    /// Nothing was written: the interrupt came, or the time was over.
    Nothing,
}

/// Collects lines for standard output.
#[derive(Debug)]
pub(crate) struct StdoutBuffer {
    /// Where lines are appended.
    pub(crate) lines: Vec<u8>,
    stdout: File,
    /// Whether standard output is a pipe or a socket.
    has_reader: bool,
}

impl StdoutBuffer {
    /// Duplicates standard output's descriptor. The standard library's own buffer is bypassed, because it searches
    /// every write for line ends.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub(crate) fn open() -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let has_reader = has_reader(&stdout);
        Ok(Self { lines: Vec::with_capacity(2 * LARGE_BYTES), stdout, has_reader })
    }

    /// Writes the lines if they fill at least 64 KiB.
    ///
    /// # Errors
    /// The system's error of the write. The buffered lines are then dropped.
    #[inline]
    pub(crate) fn flush_if_large(&mut self) -> io::Result<()> {
        if self.lines.len() < LARGE_BYTES { Ok(()) } else { self.flush() }
    }

    /// Writes all lines, and waits for the reader without a time limit.
    ///
    /// # Errors
    /// The system's error of the write. The buffered lines are then dropped.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            match self.write_some(written, None, None) {
                Ok(WriteStep::All) => break Ok(()),
                Ok(WriteStep::Some(bytes)) => written += bytes,
                Ok(WriteStep::Nothing) => {} // cannot happen: this wait has no time limit and no interrupt
                Err(error) => break Err(error),
            }
        };
        self.lines.clear();
        result
    }

    /// Writes the lines until all are written, `interrupt` is readable, or the reader has read nothing for
    /// `patience`. Unwritten lines stay in the buffer.
    ///
    /// # Errors
    /// The system's error of the write. Unwritten lines stay in the buffer.
    pub(crate) fn flush_until(
        &mut self,
        interrupt: Option<BorrowedFd<'_>>,
        patience: Option<Duration>,
    ) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            match self.write_some(written, interrupt, patience) {
                Ok(WriteStep::Some(bytes)) => written += bytes,
                Ok(WriteStep::All | WriteStep::Nothing) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.lines.drain(..written);
        result
    }

    /// Whether the lines fill at least 64 KiB.
    #[inline]
    pub(crate) fn is_large(&self) -> bool {
        self.lines.len() >= LARGE_BYTES
    }

    /// Writes some of the bytes after the first `written` ones. A pipe gets at most `PIPE_BUF` bytes, which do not
    /// block once it has been polled as writable.
    fn write_some(
        &self,
        written: usize,
        interrupt: Option<BorrowedFd<'_>>,
        patience: Option<Duration>,
    ) -> io::Result<WriteStep> {
        let rest = self.lines.get(written..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(WriteStep::All);
        }
        let chunk = if self.has_reader {
            if !self.wait_writable(interrupt, patience)? {
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

    /// Waits until standard output is writable. Returns false if the interrupt came first or the time was over.
    fn wait_writable(&self, interrupt: Option<BorrowedFd<'_>>, patience: Option<Duration>) -> io::Result<bool> {
        let stdout = PollFd::new(&self.stdout, PollFlags::OUT);
        let interrupt = interrupt.map(|interrupt| PollFd::from_borrowed_fd(interrupt, PollFlags::IN));
        let mut fds: Vec<_> = [stdout].into_iter().chain(interrupt).collect();
        let patience = patience.and_then(|time| Timespec::try_from(time).ok());
        loop {
            match poll(&mut fds, patience.as_ref()) {
                Err(Errno::INTR) => {} // if the signal concerns this program, `interrupt` is readable
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(fds.first().is_some_and(|stdout| !stdout.revents().is_empty())),
            }
        }
    }
}

/// Opens standard output if it has a reader that may exit: `poll` then reports a hang-up.
///
/// # Errors
/// The process has no file descriptor left.
pub(crate) fn open_if_it_has_a_reader() -> io::Result<Option<OwnedFd>> {
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Ok(has_reader(&stdout).then(|| stdout.into()))
}

/// Whether `stdout` is a pipe or a socket, whose reader may exit. A file has no reader, and a terminal that closes
/// sends SIGHUP.
fn has_reader(stdout: &File) -> bool {
    let kind = rustix::fs::fstat(stdout).map(|stat| FileType::from_raw_mode(stat.st_mode));
    matches!(kind, Ok(FileType::Fifo | FileType::Socket)) && !stdout.is_terminal()
}
