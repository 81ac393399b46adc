//! Jobs: a client's request is carried out step by step.
//!
//! No step waits. A job sends [`PendingQuery`]s to other threads, whose answers wake the server, which runs the job's
//! next step. A job appends its output to the client's [`OutBuffer`], and fetches no more while that is full.

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

/// The result of a step: when the next step is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The job has more output, as soon as the client's buffer has room.
    More,
    /// The job waits for an answer, which wakes the server.
    Wait,
    /// The next step is due after this time.
    Again(Duration),
    /// The job is complete; the client sends the final frame.
    Done,
}

/// A request that is being carried out.
pub(super) trait Job: Send {
    /// Runs the next step. The server calls it whenever the buffer has room and anything has happened that may let the
    /// job continue.
    ///
    /// # Errors
    /// The job has failed and ends.
    fn advance(&mut self, context: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure>;
}

/// Starts the job of a request.
///
/// # Errors
/// The job cannot start.
pub(super) fn start_job(request: Request, context: &mut ServerContext) -> Result<Box<dyn Job>, Failure> {
    Ok(match request {
        Request::Status => Box::new(StatusJob::new(context)),
        Request::Dump(cache, of) => Box::new(DumpJob::new(cache, of, context)),
        Request::Events(of) => Box::new(EventsJob::new(of, context)),
        Request::Flush { internal, external } => Box::new(ActionSequence::flush(internal, external, context)),
        Request::FlushKernel { flows, expectations } => {
            Box::new(BackgroundJob::flush_kernel(flows, expectations, context)?)
        }
        Request::KernelResync => Box::new(ActionSequence::kernel_resync()),
        Request::Commit(what) => Box::new(BackgroundJob::commit(what, context)?),
        Request::Role(role) => Box::new(BackgroundJob::role(role, context)?),
        Request::ScheduleFlush => Box::new(ActionSequence::schedule_flush(context)),
        Request::Bulk => Box::new(ActionSequence::bulk(context)?),
        Request::PeerResync => Box::new(ActionSequence::peer_resync(context)?),
        Request::Verify => Box::new(VerifyJob::new(context)?),
        Request::Reload => Box::new(OrderJob::new(OrderKind::Reload, context)),
        Request::Stop => Box::new(OrderJob::new(OrderKind::Stop, context)),
    })
}

/// A query to another thread, and its answer.
#[derive(Debug)]
pub(super) struct PendingQuery<T> {
    /// The query, while the thread's channel has no room for it.
    unsent: Option<Query>,
    /// The channel of the answer.
    awaited: Awaited<T>,
    /// The time when the query fails without an answer.
    deadline: Instant,
}

/// The state of a query.
#[derive(Debug)]
pub(super) enum Polled<T> {
    /// The answer.
    Ready(T),
    /// There is no answer yet; the step to return until there is one.
    Pending(Step),
}

/// Why a query will have no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryError {
    /// The queried thread has ended.
    Ended,
    /// The answer did not arrive in time.
    TimedOut,
}

impl<T> PendingQuery<T> {
    /// Creates a query that fails after `longest`. `query` receives the channel of the answer.
    pub(super) fn new(longest: Duration, context: &ServerContext, query: impl FnOnce(Reply<T>) -> Query) -> Self {
        let (reply, awaited) = reply::channel(Some(context.waker.clone()));
        Self { unsent: Some(query(reply)), awaited, deadline: context.now + longest }
    }

    /// A query that was sent already, and fails `longest` after `now`.
    pub(super) fn sent(awaited: Awaited<T>, longest: Duration, now: Instant) -> Self {
        Self { unsent: None, awaited, deadline: now + longest }
    }

    /// Sends the query if it is not sent yet, and returns the answer if it has arrived.
    ///
    /// # Errors
    /// There will be no answer.
    pub(super) fn poll(&mut self, context: &ServerContext) -> Result<Polled<T>, QueryError> {
        if let Some(query) = self.unsent.take() {
            self.unsent = context.send_query(query).err();
        }
        match self.awaited.poll() {
            Ok(Some(answer)) => Ok(Polled::Ready(answer)),
            Err(reply::NoAnswer) => Err(QueryError::Ended),
            Ok(None) if context.now >= self.deadline => Err(QueryError::TimedOut),
            Ok(None) if self.unsent.is_some() => Ok(Polled::Pending(Step::Again(SERVER_RETRY))),
            Ok(None) => Ok(Polled::Pending(Step::Wait)),
        }
    }
}

/// The failure of a request because a worker does not answer.
pub(super) fn worker_error(worker: usize, why: QueryError) -> Failure {
    Failure::new(match why {
        QueryError::Ended => format!("worker {worker} has ended: see the daemon's log"),
        QueryError::TimedOut => format!("worker {worker} does not answer: see the daemon's log"),
    })
}

/// The failure of a request because the replication stage does not answer.
pub(super) fn stage_error(_: QueryError) -> Failure {
    Failure::new("the replication thread does not answer: see the daemon's log")
}

/// The failure of a request that needs peers, on a daemon without replication.
pub(super) fn no_peers_error() -> Failure {
    Failure::new("this daemon has no peers: configure a [[link]]")
}
