//! What ends a wait for events: SIGINT, SIGTERM, and the reader of standard output going away.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ctflow_engine::capture::receive::{Interest, InterruptError, Interrupts};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::failure::Failure;
use crate::output::stdout;

/// Signals and the reader of standard output. While it exists, SIGINT and SIGTERM do not end the program.
#[derive(Debug)]
pub(crate) struct Interruption {
    /// Has a byte for each signal.
    signals: UnixStream,
    /// Standard output, if it has a reader that may go away.
    stdout: Option<OwnedFd>,
}

impl Interruption {
    /// Catches SIGINT and SIGTERM from here on.
    ///
    /// # Errors
    /// No descriptor is left, or a handler cannot be registered.
    pub(crate) fn open() -> Result<Self, Failure> {
        let stdout = stdout::open_if_it_has_a_reader()?;
        Ok(Self { signals: open_signal_pipe().map_err(Failure::Signals)?, stdout })
    }

    /// An interruption that each byte of `signals` is a signal for.
    #[cfg(test)]
    pub(super) fn by_bytes_of(signals: UnixStream) -> Self {
        Self { signals, stdout: None }
    }

    /// Returns the descriptor that is readable after a signal.
    pub(crate) fn signals(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// Returns these descriptors for a receive back end.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn to_interrupts(&self) -> Result<Interrupts, InterruptError> {
        let mut interrupts = Interrupts::new();
        interrupts.watch(&self.signals, Interest::Readable)?;
        if let Some(stdout) = &self.stdout {
            interrupts.watch(stdout, Interest::HangUp)?;
        }
        Ok(interrupts)
    }

    /// Removes one signal from those that have arrived. Returns whether there was one.
    ///
    /// # Errors
    /// There was none, and the reader of standard output has gone.
    pub(crate) fn consume_signal(&self) -> Result<bool, Failure> {
        let mut byte = [0];
        if (&self.signals).read(&mut byte).is_ok_and(|count| count > 0) {
            return Ok(true);
        }
        let Some(stdout) = &self.stdout else { return Ok(false) };
        let mut fds = [PollFd::new(stdout, PollFlags::empty())];
        match poll(&mut fds, Some(&Timespec::default())) {
            Ok(ready) if ready > 0 => Err(reader_has_gone()),
            _ => Ok(false),
        }
    }

    /// Waits until `source` is readable. Returns false if a signal arrived first, which stays in the pipe.
    ///
    /// # Errors
    /// The reader of standard output has gone, or waiting failed.
    pub(crate) fn wait_for(&self, source: &impl AsFd) -> Result<bool, Failure> {
        loop {
            let mut fds = vec![PollFd::new(source, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            fds.extend(self.stdout.as_ref().map(|stdout| PollFd::new(stdout, PollFlags::empty())));
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue, // the pipe is readable if it was one of our signals
                Err(errno) => return Err(Failure::Signals(errno.into())),
                Ok(_) => {}
            }
            let is_ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
            match (is_ready(1), is_ready(2), is_ready(0)) {
                (true, ..) => return Ok(false),
                (_, true, _) => return Err(reader_has_gone()),
                (_, _, true) => return Ok(true),
                _ => {}
            }
        }
    }
}

/// The error that a write would have now.
fn reader_has_gone() -> Failure {
    io::Error::from(io::ErrorKind::BrokenPipe).into()
}

/// Returns a socket that becomes readable on SIGINT and SIGTERM.
///
/// # Errors
/// A descriptor cannot be created, or a handler cannot be registered.
fn open_signal_pipe() -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}
