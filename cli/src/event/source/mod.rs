//! Where events come from.
//!
//! | source | a round is | it ends | it loses events |
//! |---|---|---|---|
//! | [`kernel`] | what is queued when it wakes up | after a signal, once the queue is empty | where the socket buffer was full |
//! | [`daemon`] | one frame of its answer | with the answer, or at a signal | where the daemon or this program was too slow |
//! | [`pcap`] | one packet | with the file | never |
//!
//! To add a source: write its file with its [`Source`], and add it to [`open`].

mod daemon;
mod kernel;
mod pcap;

use std::rc::Rc;

use super::interruption::Interruption;
use crate::failure::Failure;
use crate::flags::plan::Events;

use daemon::Daemon;
use kernel::Kernel;
use pcap::Pcap;

/// Netlink messages of a source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// The time at which they were received, in nanoseconds since 1970; `None` for now.
    pub(crate) time_ns: Option<u64>,
    /// The messages.
    pub(crate) bytes: &'a [u8],
}

/// Events that a source lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Their number.
    pub(crate) count: u64,
    /// Why they were lost, and what to do about it.
    pub(crate) reason: String,
}

/// What follows a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next round has frames without waiting for them.
    More,
    /// The next round may wait.
    Wait,
    /// The [`Interruption`] of the source ended the wait. The caller checks what it was.
    Interrupted,
    /// Nothing: the source has ended.
    End,
}

/// The end of a round, whose frames have been passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    /// The events that were lost among or after those of this round.
    pub(crate) loss: Option<Loss>,
    /// What follows.
    pub(crate) next: Next,
}

/// A source of events.
pub(crate) trait Source {
    /// Returns what ends a wait of this source. `None` for a source that never waits since all its events exist
    /// already, as in a file: it loses none, and whoever reads its events may read as slowly as they like.
    fn interruption(&self) -> Option<Rc<Interruption>>;

    /// Returns lines for standard error: what the operator should know before the first event.
    fn notices(&self, _banner: &str) -> Vec<String> {
        Vec::new()
    }

    /// Waits for events if none are there, until they come or the interruption does, and passes their frames to
    /// `receive`, in their order. Events that the command does not select may be among them.
    ///
    /// # Errors
    /// The source cannot be read any further.
    fn next_round(&mut self, receive: &mut dyn FnMut(Frame<'_>)) -> Result<Round, Failure>;

    /// Stops new events. From here on a round does not wait, and [`Next::End`] follows the last queued event.
    ///
    /// # Errors
    /// The source does not stop.
    fn stop(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Stops new events, and removes and counts those that have arrived and will not be read.
    ///
    /// # Errors
    /// The source cannot be read any further.
    fn count_unread(&mut self) -> Result<u64, Failure> {
        Ok(0)
    }
}

/// Opens the source that `plan` names.
///
/// # Errors
/// The source cannot be opened or reached, or signals cannot be caught.
pub(crate) fn open(plan: &Events) -> Result<Box<dyn Source>, Failure> {
    if let Some(path) = &plan.read {
        return Ok(Box::new(Pcap::open(path, plan.sink.file())?));
    }
    if let Some(reach) = &plan.daemon {
        return Ok(Box::new(Daemon::open(reach, plan.subject)?));
    }
    Ok(Box::new(Kernel::open(plan)?))
}
