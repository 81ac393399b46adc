//! A client's request being carried out, a turn at a time.
//!
//! Nothing here waits. A job asks other threads by [`Question`]s, whose answers wake the server, and comes to its next turn
//! then; what it has to say goes to the client's [`Out`], and while that is full nothing more is fetched.

use std::time::{Duration, Instant};

use super::background::Errand;
use super::context::{Query, World};
use super::dump::Dump;
use super::events::Following;
use super::failure::Failure;
use super::order::{Ordering, Wanted};
use super::out::Out;
use super::request::Request;
use super::status::Reporting;
use super::steps::Steps;
use super::verify::Verifying;
use crate::limits::SERVER_RETRY;
use crate::reply::{self, Awaited, Reply};

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is more to say as soon as there is room for it.
    More,
    /// An answer is awaited, which wakes the server.
    Wait,
    /// To be continued after this.
    Again(Duration),
    /// The last word but the frame that says so.
    Done,
}

/// A request under way.
pub(super) trait Job: Send {
    /// Goes on with it. Called when there is room for more, after anything that may have brought it further.
    ///
    /// # Errors
    /// It failed, and is over.
    fn turn(&mut self, world: &mut World, out: &mut Out) -> Result<Turn, Failure>;
}

/// Begins what was requested.
///
/// # Errors
/// It cannot be begun.
pub(super) fn begin(request: Request, world: &mut World) -> Result<Box<dyn Job>, Failure> {
    Ok(match request {
        Request::Status => Box::new(Reporting::new(world)),
        Request::Dump(cache, of) => Box::new(Dump::new(cache, of, world)),
        Request::Events(of) => Box::new(Following::new(of, world)),
        Request::Flush { internal, external } => Box::new(Steps::flush(internal, external, world)),
        Request::FlushKernel { flows, expectations } => Box::new(Errand::flush_kernel(flows, expectations, world)?),
        Request::KernelResync => Box::new(Steps::kernel_resync()),
        Request::Commit(what) => Box::new(Errand::commit(what, world)?),
        Request::Role(role) => Box::new(Errand::role(role, world)?),
        Request::ScheduleFlush => Box::new(Steps::schedule_flush(world)),
        Request::Bulk => Box::new(Steps::bulk(world)?),
        Request::PeerResync => Box::new(Steps::peer_resync(world)?),
        Request::Verify => Box::new(Verifying::new(world)?),
        Request::Reload => Box::new(Ordering::new(Wanted::Reload, world)),
        Request::Stop => Box::new(Ordering::new(Wanted::Stop, world)),
    })
}

/// Something asked of another thread.
#[derive(Debug)]
pub(super) struct Question<T> {
    /// There was no room for it yet.
    unsent: Option<Query>,
    awaited: Awaited<T>,
    until: Instant,
}

/// Whether a question is answered.
#[derive(Debug)]
pub(super) enum Polled<T> {
    Answer(T),
    /// What to do until then.
    Not(Turn),
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// Who was asked has ended.
    Gone,
    /// It took too long.
    Late,
}

impl<T> Question<T> {
    /// One that `query` asks, given the way back.
    pub(super) fn new(longest: Duration, world: &World, query: impl FnOnce(Reply<T>) -> Query) -> Self {
        let (reply, awaited) = reply::channel(Some(world.waker.clone()));
        Self { unsent: Some(query(reply)), awaited, until: world.now + longest }
    }

    /// One that has been asked already.
    pub(super) fn asked(awaited: Awaited<T>, longest: Duration, now: Instant) -> Self {
        Self { unsent: None, awaited, until: now + longest }
    }

    /// Asks, if that is still to be done, and looks for the answer.
    ///
    /// # Errors
    /// There will be none.
    pub(super) fn poll(&mut self, world: &World) -> Result<Polled<T>, Unanswered> {
        if let Some(query) = self.unsent.take() {
            self.unsent = world.send(query).err();
        }
        match self.awaited.poll() {
            Ok(Some(answer)) => Ok(Polled::Answer(answer)),
            Err(reply::NoAnswer) => Err(Unanswered::Gone),
            Ok(None) if world.now >= self.until => Err(Unanswered::Late),
            Ok(None) if self.unsent.is_some() => Ok(Polled::Not(Turn::Again(SERVER_RETRY))),
            Ok(None) => Ok(Polled::Not(Turn::Wait)),
        }
    }
}

/// What a client is told of a worker that does not answer.
pub(super) fn worker_silent(worker: usize, why: Unanswered) -> Failure {
    Failure::new(match why {
        Unanswered::Gone => format!("worker {worker} has ended: see the daemon's log"),
        Unanswered::Late => format!("worker {worker} does not answer: see the daemon's log"),
    })
}

/// What a client is told of a replication stage that does not answer.
pub(super) fn stage_silent(_: Unanswered) -> Failure {
    Failure::new("the replication stage does not answer: see the daemon's log")
}

/// What a client is told who wants something of peers where there can be none.
pub(super) fn no_peers() -> Failure {
    Failure::new("this daemon replicates to nobody: configure a [[link]]")
}
