//! A client's request being carried out, a turn at a time.
//!
//! Nothing here waits. A job asks other threads by [`PendingQuery`]s, whose answers wake the server, and comes to its next turn
//! then; what it has to say goes to the client's [`OutBuffer`], and while that is full nothing more is fetched.

use std::time::{Duration, Instant};

use super::background::BackgroundJob;
use super::context::{Query, ServerContext};
use super::dump::DumpJob;
use super::events::EventsJob;
use super::failure::Failure;
use super::order::{OrderJob, OrderKind};
use super::out::OutBuffer;
use super::request::Request;
use super::status::StatusJob;
use super::steps::ActionSequence;
use super::verify::VerifyJob;
use crate::limits::SERVER_RETRY;
use crate::reply::{self, Awaited, Reply};

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
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
    fn advance(&mut self, world: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure>;
}

/// Begins what was requested.
///
/// # Errors
/// It cannot be begun.
pub(super) fn start_job(request: Request, world: &mut ServerContext) -> Result<Box<dyn Job>, Failure> {
    Ok(match request {
        Request::Status => Box::new(StatusJob::new(world)),
        Request::Dump(cache, of) => Box::new(DumpJob::new(cache, of, world)),
        Request::Events(of) => Box::new(EventsJob::new(of, world)),
        Request::Flush { internal, external } => Box::new(ActionSequence::flush(internal, external, world)),
        Request::FlushKernel { flows, expectations } => {
            Box::new(BackgroundJob::flush_kernel(flows, expectations, world)?)
        }
        Request::KernelResync => Box::new(ActionSequence::kernel_resync()),
        Request::Commit(what) => Box::new(BackgroundJob::commit(what, world)?),
        Request::Role(role) => Box::new(BackgroundJob::role(role, world)?),
        Request::ScheduleFlush => Box::new(ActionSequence::schedule_flush(world)),
        Request::Bulk => Box::new(ActionSequence::bulk(world)?),
        Request::PeerResync => Box::new(ActionSequence::peer_resync(world)?),
        Request::Verify => Box::new(VerifyJob::new(world)?),
        Request::Reload => Box::new(OrderJob::new(OrderKind::Reload, world)),
        Request::Stop => Box::new(OrderJob::new(OrderKind::Stop, world)),
    })
}

/// Something asked of another thread.
#[derive(Debug)]
pub(super) struct PendingQuery<T> {
    /// There was no room for it yet.
    unsent: Option<Query>,
    awaited: Awaited<T>,
    deadline: Instant,
}

/// Whether a question is answered.
#[derive(Debug)]
pub(super) enum Polled<T> {
    Ready(T),
    /// What to do until then.
    Pending(Step),
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryError {
    /// Who was asked has ended.
    Ended,
    /// It took too long.
    TimedOut,
}

impl<T> PendingQuery<T> {
    /// One that `query` asks, given the way back.
    pub(super) fn new(longest: Duration, world: &ServerContext, query: impl FnOnce(Reply<T>) -> Query) -> Self {
        let (reply, awaited) = reply::channel(Some(world.waker.clone()));
        Self { unsent: Some(query(reply)), awaited, deadline: world.now + longest }
    }

    /// One that has been asked already.
    pub(super) fn sent(awaited: Awaited<T>, longest: Duration, now: Instant) -> Self {
        Self { unsent: None, awaited, deadline: now + longest }
    }

    /// Asks, if that is still to be done, and looks for the answer.
    ///
    /// # Errors
    /// There will be none.
    pub(super) fn poll(&mut self, world: &ServerContext) -> Result<Polled<T>, QueryError> {
        if let Some(query) = self.unsent.take() {
            self.unsent = world.send_query(query).err();
        }
        match self.awaited.poll() {
            Ok(Some(answer)) => Ok(Polled::Ready(answer)),
            Err(reply::NoAnswer) => Err(QueryError::Ended),
            Ok(None) if world.now >= self.deadline => Err(QueryError::TimedOut),
            Ok(None) if self.unsent.is_some() => Ok(Polled::Pending(Step::Again(SERVER_RETRY))),
            Ok(None) => Ok(Polled::Pending(Step::Wait)),
        }
    }
}

/// What a client is told of a worker that does not answer.
pub(super) fn worker_error(worker: usize, why: QueryError) -> Failure {
    Failure::new(match why {
        QueryError::Ended => format!("worker {worker} has ended: see the daemon's log"),
        QueryError::TimedOut => format!("worker {worker} does not answer: see the daemon's log"),
    })
}

/// What a client is told of a replication stage that does not answer.
pub(super) fn stage_error(_: QueryError) -> Failure {
    Failure::new("the replication stage does not answer: see the daemon's log")
}

/// What a client is told who wants something of peers where there can be none.
pub(super) fn no_peers_error() -> Failure {
    Failure::new("this daemon replicates to nobody: configure a [[link]]")
}
