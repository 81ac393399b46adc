//! Standard output in large writes: lines gather in one buffer, which is written when it is large or the caller is idle.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

/// From this many bytes on the buffer is written. A pipe takes 64 KiB at once; larger writes to files gain nothing.
const LARGE_BYTES: usize = 64 * 1024;

/// Gathers lines for standard output.
#[derive(Debug)]
pub(crate) struct Sink {
    /// Where lines are appended.
    pub(crate) lines: Vec<u8>,
    stdout: File,
}

impl Sink {
    /// Writes past the standard library's own buffer, which would look for line ends in every write.
    ///
    /// # Errors
    /// When standard output was closed before the program began.
    pub(crate) fn stdout() -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { lines: Vec::with_capacity(2 * LARGE_BYTES), stdout })
    }

    /// Writes the lines if there are many.
    ///
    /// # Errors
    /// That of the write; the lines are then lost, as a full disk loses them.
    #[inline]
    pub(crate) fn flush_if_large(&mut self) -> io::Result<()> {
        if self.lines.len() < LARGE_BYTES { Ok(()) } else { self.flush() }
    }

    /// Writes the lines.
    ///
    /// # Errors
    /// As [`Sink::flush_if_large`].
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let result = self.stdout.write_all(&self.lines);
        self.lines.clear();
        result
    }

    /// Whether someone reads the other end and may go away: a pipe or a socket. A file is always there, and a terminal
    /// that goes away sends SIGHUP.
    pub(crate) fn has_reader(&self) -> bool {
        let kind = rustix::fs::fstat(&self.stdout).map(|stat| FileType::from_raw_mode(stat.st_mode));
        matches!(kind, Ok(FileType::Fifo | FileType::Socket)) && !self.stdout.is_terminal()
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }
}
