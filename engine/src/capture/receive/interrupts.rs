//! Interrupts: the descriptors other than the socket that end a wait, and the `poll` that two of the back ends wait by.
//!
//! A receive call only reports *that* a descriptor is ready. The caller knows what its descriptors mean, and checks
//! them itself. Readiness is level-triggered: until the caller has handled it, every receive call returns at once.

use std::array;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use thiserror::Error;

use super::Wait;
use crate::limits::INTERRUPTS;
use crate::os_error::os_error_text;

/// The conditions of a descriptor that end a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Data to read, an error, or a hang-up.
    Readable,
    /// Only an error or a hang-up, for output whose reader may go away.
    HangUp,
}

impl Interest {
    /// The `poll` events of this interest.
    fn events(self) -> PollFlags {
        match self {
            Self::Readable => PollFlags::IN,
            Self::HangUp => PollFlags::empty(), // `poll` always reports errors and hang-ups
        }
    }
}

/// A descriptor that cannot be watched.
#[derive(Debug, Error)]
pub enum InterruptError {
    /// More than [`INTERRUPTS`] descriptors, which is a bug in the program.
    #[error("cannot watch more than {INTERRUPTS} descriptors")]
    TooMany,
    /// The descriptor cannot be duplicated, usually because of the descriptor limit.
    #[error("cannot duplicate a watched descriptor: {}; raise the limit on open files (RLIMIT_NOFILE)", os_error_text(.0))]
    Duplicate(#[source] io::Error),
}

/// The descriptors, at most [`INTERRUPTS`], that end a wait. It holds duplicates of them, so that it never polls a
/// number that was closed and reused.
#[derive(Debug, Default)]
pub struct Interrupts {
    watched: Vec<(OwnedFd, PollFlags)>,
}

impl Interrupts {
    /// An empty set: only the socket or a signal ends a wait.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a descriptor.
    ///
    /// # Errors
    /// [`InterruptError`] when the set is full or no descriptor is left.
    pub fn watch(&mut self, fd: &impl AsFd, interest: Interest) -> Result<(), InterruptError> {
        if self.watched.len() == INTERRUPTS {
            return Err(InterruptError::TooMany);
        }
        let fd = fd.as_fd().try_clone_to_owned().map_err(InterruptError::Duplicate)?;
        self.watched.push((fd, interest.events()));
        Ok(())
    }

    /// The duplicated descriptors, with the events to poll for.
    pub(super) fn into_watched(self) -> Vec<(OwnedFd, PollFlags)> {
        self.watched
    }

    /// Waits for these descriptors and, where `wait` includes it, for `socket`. Returns whether one of these
    /// descriptors is ready or a signal arrived.
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

    /// The poll set: the socket, then the watched descriptors, then unused entries. It is built on the stack for each
    /// wait.
    fn poll_set<'fd>(&'fd self, socket: BorrowedFd<'fd>) -> [PollFd<'fd>; 1 + INTERRUPTS] {
        array::from_fn(|entry| match entry.checked_sub(1).and_then(|index| self.watched.get(index)) {
            Some((fd, events)) => PollFd::new(fd, *events),
            None => PollFd::from_borrowed_fd(socket, PollFlags::IN),
        })
    }
}

/// Polls `set`, for at most `time` if given. Returns whether any descriptor but the first `ignored` is ready, or a
/// signal arrived.
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
