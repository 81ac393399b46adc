//! Requests that run a few actions one after the other.

use std::collections::VecDeque;

use super::context::{Query, ServerContext};
use super::failure::Failure;
use super::job::{Job, PendingQuery, Polled, QueryError, Step, no_peers_error, stage_error};
use super::out::OutBuffer;
use crate::limits::{SERVER_ANSWER_MAX, SERVER_POLL_INTERVAL, SERVER_RETRY, STAGE_ANSWER_MAX};
use crate::replication::{ReplicationStatus, StageRequest};
use crate::takeover;
use crate::worker::kernel_resync::WorkerEnded;

/// One action of a request.
#[derive(Debug)]
enum Action {
    /// Send a request to the replication stage.
    Send(StageRequest),
    /// Wait until the stage has carried out the requests sent before.
    AwaitStage,
    /// Wait until the shards have started to send every bucket that was requested from them.
    AwaitBuckets,
    /// Run a kernel resync of all shards and wait for its end.
    KernelResync,
}

/// The query whose answer the sequence waits for.
enum Awaiting {
    /// The status of the replication stage.
    Stage(PendingQuery<ReplicationStatus>),
    /// The end of a kernel resync.
    KernelResync(PendingQuery<Result<(), WorkerEnded>>),
}

/// The job of a request that runs several actions.
pub(super) struct ActionSequence {
    /// The actions that are not complete, in order.
    actions: VecDeque<Action>,
    /// The query of the current action.
    waiting: Option<Awaiting>,
}

impl ActionSequence {
    /// The job that runs these actions in order.
    fn new(actions: impl IntoIterator<Item = Action>) -> Self {
        Self { actions: actions.into_iter().collect(), waiting: None }
    }

    /// Flushes caches and cancels a scheduled flush of the kernel. Without peers the external cache is always empty.
    pub(super) fn flush(internal: bool, external: bool, context: &ServerContext) -> Self {
        context.takeover.cancel_purge();
        let external = external && context.access.replication.is_some();
        let outside = external.then_some([Action::Send(StageRequest::FlushExternal), Action::AwaitStage]);
        Self::new(outside.into_iter().flatten().chain(internal.then_some(Action::KernelResync)))
    }

    /// Runs a kernel resync.
    pub(super) fn kernel_resync() -> Self {
        Self::new([Action::KernelResync])
    }

    /// Schedules a flush of the kernel's table. The request is complete once the flush is scheduled.
    pub(super) fn schedule_flush(context: &ServerContext) -> Self {
        takeover::flush_later(&context.access, &context.takeover, context.takeover.settings.purge_after);
        Self::new([])
    }

    /// Sends the whole internal cache to the peers. The request is complete once every bucket is on its way.
    ///
    /// # Errors
    /// The daemon has no peers.
    pub(super) fn bulk(context: &ServerContext) -> Result<Self, Failure> {
        context.access.replication.as_ref().ok_or_else(no_peers_error)?;
        Ok(Self::new([Action::Send(StageRequest::BulkSend), Action::AwaitBuckets]))
    }

    /// Requests everything from the peers. The request is complete once the stage has sent the requests.
    ///
    /// # Errors
    /// The daemon has no peers.
    pub(super) fn peer_resync(context: &ServerContext) -> Result<Self, Failure> {
        context.access.replication.as_ref().ok_or_else(no_peers_error)?;
        Ok(Self::new([Action::Send(StageRequest::RequestAll), Action::AwaitStage]))
    }

    /// Starts the next action. Returns the step to continue with, or `None` when every action is complete.
    fn start_next(&mut self, context: &ServerContext) -> Option<Step> {
        match self.actions.pop_front()? {
            Action::Send(request) => match context.send_query(Query::Stage(request)) {
                Ok(()) => {}
                Err(Query::Stage(request)) => {
                    self.actions.push_front(Action::Send(request));
                    return Some(Step::Again(SERVER_RETRY));
                }
                Err(_) => {} // impossible: the error is the query that was passed
            },
            // The stage carries out requests in order: an answer to this one means that the earlier ones are done.
            action @ (Action::AwaitStage | Action::AwaitBuckets) => {
                self.actions.push_front(action);
                let status = |reply| Query::Stage(StageRequest::Status(reply));
                self.waiting = Some(Awaiting::Stage(PendingQuery::new(STAGE_ANSWER_MAX, context, status)));
            }
            Action::KernelResync => {
                self.waiting =
                    Some(Awaiting::KernelResync(PendingQuery::new(SERVER_ANSWER_MAX, context, Query::Control)));
            }
        }
        Some(Step::More)
    }

    /// Polls the current action's query. Returns `Ok(Ok(()))` when the action is complete, else the step to return
    /// meanwhile.
    ///
    /// # Errors
    /// A queried thread has ended or does not answer.
    fn poll_waiting(&mut self, context: &ServerContext) -> Result<Result<(), Step>, Failure> {
        match &mut self.waiting {
            None => return Ok(Ok(())),
            Some(Awaiting::Stage(query)) => match query.poll(context).map_err(stage_error)? {
                Polled::Pending(step) => return Ok(Err(step)),
                Polled::Ready(status) => {
                    let scheduled =
                        status.node.streams.iter().any(|stream| stream.scheduled.is_some_and(|buckets| buckets > 0));
                    if matches!(self.actions.front(), Some(Action::AwaitBuckets)) && scheduled {
                        self.waiting = None;
                        return Ok(Err(Step::Again(SERVER_POLL_INTERVAL)));
                    }
                    self.actions.pop_front();
                }
            },
            Some(Awaiting::KernelResync(query)) => match query.poll(context).map_err(resync_error)? {
                Polled::Pending(step) => return Ok(Err(step)),
                Polled::Ready(Err(WorkerEnded)) => {
                    return Err(Failure::new("a worker has ended: see the daemon's log"));
                }
                Polled::Ready(Ok(())) => {}
            },
        }
        self.waiting = None;
        Ok(Ok(()))
    }
}

/// The failure of a request because a kernel resync did not complete.
fn resync_error(why: QueryError) -> Failure {
    Failure::new(match why {
        QueryError::Ended => "the control thread has ended: see the daemon's log",
        QueryError::TimedOut => "the kernel resync takes longer than a minute and continues: see the daemon's log",
    })
}

impl Job for ActionSequence {
    fn advance(&mut self, context: &mut ServerContext, _: &mut OutBuffer) -> Result<Step, Failure> {
        loop {
            if let Err(step) = self.poll_waiting(context)? {
                return Ok(step);
            }
            match self.start_next(context) {
                None => return Ok(Step::Done),
                Some(Step::More) => {}
                Some(step) => return Ok(step),
            }
        }
    }
}
