//! What besides the socket ends a wait, and the `poll` that two of the back ends wait by.
//!
//! A receive only reports *that* something is ready; the caller, who knows what its descriptors mean, looks at them itself.
//! Readiness is level-triggered: until the caller has dealt with it, every receive returns at once.

use std::array;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use thiserror::Error;

use super::Wait;
use crate::limits::INTERRUPTS;

/// What about a descriptor is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read, an error, or a hang-up.
    Readable,
    /// Only an error or a hang-up: the reader of our output has gone.
    HangUp,
}

impl Interest {
    fn events(self) -> PollFlags {
        match self {
            Self::Readable => PollFlags::IN,
            Self::HangUp => PollFlags::empty(), // errors and hang-ups are reported unasked
        }
    }
}

/// A descriptor that cannot be watched.
#[derive(Debug, Error)]
pub enum InterruptError {
    /// More than [`INTERRUPTS`]: a mistake of the program's.
    #[error("cannot watch more than {INTERRUPTS} descriptors")]
    TooMany,
    /// The descriptor limit, as a rule.
    #[error("cannot duplicate a watched descriptor: {0}; raise the limit on open files (RLIMIT_NOFILE)")]
    Duplicate(#[source] io::Error),
}

/// The few descriptors, at most [`INTERRUPTS`], that wake a receive. It has descriptors of its own for the same open
/// files, so that it never names one that was closed and used again.
#[derive(Debug, Default)]
pub struct Interrupts {
    watched: Vec<(OwnedFd, PollFlags)>,
}

impl Interrupts {
    /// None: only the socket (or a signal) wakes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches one more.
    ///
    /// # Errors
    /// [`InterruptError`]: too many, or no descriptor left.
    pub fn watch(&mut self, fd: &impl AsFd, interest: Interest) -> Result<(), InterruptError> {
        if self.watched.len() == INTERRUPTS {
            return Err(InterruptError::TooMany);
        }
        let fd = fd.as_fd().try_clone_to_owned().map_err(InterruptError::Duplicate)?;
        self.watched.push((fd, interest.events()));
        Ok(())
    }

    pub(super) fn into_watched(self) -> Vec<(OwnedFd, PollFlags)> {
        self.watched
    }

    /// Waits on these and, where its readiness matters, on `socket`. Tells whether one of these is ready or a signal came.
    pub(super) fn wait(&self, socket: BorrowedFd<'_>, wait: Wait) -> Result<bool, Errno> {
        let mut set = self.poll_set(socket);
        let (all, watched) = (..=self.watched.len(), 1..=self.watched.len());
        match wait {
            Wait::UntilAny => poll_any(set.get_mut(all), 1, None),
            Wait::AnyWithin(time) => poll_any(set.get_mut(all), 1, Some(time)),
            Wait::AtMost(time) => poll_any(set.get_mut(watched), 0, Some(time)),
            Wait::None if self.watched.is_empty() => Ok(false),
            Wait::None => poll_any(set.get_mut(watched), 0, Some(Duration::ZERO)),
        }
    }

    /// The socket, then what is watched, then places that are not used: built on the stack for each wait.
    fn poll_set<'fd>(&'fd self, socket: BorrowedFd<'fd>) -> [PollFd<'fd>; 1 + INTERRUPTS] {
        array::from_fn(|place| match place.checked_sub(1).and_then(|index| self.watched.get(index)) {
            Some((fd, events)) => PollFd::new(fd, *events),
            None => PollFd::from_borrowed_fd(socket, PollFlags::IN),
        })
    }
}

/// Waits on `set`; tells whether any but its first `ignored` is ready, or a signal came.
fn poll_any(set: Option<&mut [PollFd<'_>]>, ignored: usize, time: Option<Duration>) -> Result<bool, Errno> {
    let set = set.unwrap_or_default();
    let time = time.and_then(|time| Timespec::try_from(time).ok());
    match poll(set, time.as_ref()) {
        Ok(0) => Ok(false),
        Ok(_) => Ok(set.iter().skip(ignored).any(|fd| !fd.revents().is_empty())),
        Err(Errno::INTR) => Ok(true),
        Err(errno) => Err(errno),
    }
}
