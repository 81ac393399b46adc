//! Requests that are a few things done one after the other.

use std::collections::VecDeque;

use super::context::{Query, ServerContext};
use super::failure::Failure;
use super::job::{Job, PendingQuery, Polled, QueryError, Step, no_peers_error, stage_error};
use super::out::OutBuffer;
use crate::kernel_resync::WorkerEnded;
use crate::limits::{SERVER_ANSWER_MAX, SERVER_POLL_INTERVAL, SERVER_RETRY, STAGE_ANSWER_MAX};
use crate::replication::{ReplicationStatus, StageRequest};
use crate::takeover;

/// One of them.
#[derive(Debug)]
enum Action {
    /// Tell the replication stage to do something.
    Send(StageRequest),
    /// Wait until it has done what it was told before.
    AwaitStage,
    /// Wait until the shards have begun to tell every bucket that was asked of them.
    AwaitBuckets,
    /// Have all shards resynchronised with the kernel's table.
    KernelResync,
}

/// What is being waited for.
enum Awaiting {
    Stage(PendingQuery<ReplicationStatus>),
    KernelResync(PendingQuery<Result<(), WorkerEnded>>),
}

/// A request of several steps.
pub(super) struct ActionSequence {
    actions: VecDeque<Action>,
    waiting: Option<Awaiting>,
}

impl ActionSequence {
    fn new(steps: impl IntoIterator<Item = Action>) -> Self {
        Self { actions: steps.into_iter().collect(), waiting: None }
    }

    /// Empties caches, and takes back a flush of the kernel that is scheduled. Without peers there is nothing in the external one.
    pub(super) fn flush(internal: bool, external: bool, world: &ServerContext) -> Self {
        world.access.takeover.cancel_purge();
        let external = external && world.access.replication.is_some();
        let outside = external.then_some([Action::Send(StageRequest::FlushExternal), Action::AwaitStage]);
        Self::new(outside.into_iter().flatten().chain(internal.then_some(Action::KernelResync)))
    }

    pub(super) fn kernel_resync() -> Self {
        Self::new([Action::KernelResync])
    }

    /// Has the kernel's table emptied in a while: that is on its way when this is done.
    pub(super) fn schedule_flush(world: &ServerContext) -> Self {
        takeover::flush_later(&world.access, world.access.takeover.settings.purge_after);
        Self::new([])
    }

    pub(super) fn bulk(world: &ServerContext) -> Result<Self, Failure> {
        world.access.replication.as_ref().ok_or_else(no_peers_error)?;
        Ok(Self::new([Action::Send(StageRequest::BulkSend), Action::AwaitBuckets]))
    }

    pub(super) fn peer_resync(world: &ServerContext) -> Result<Self, Failure> {
        world.access.replication.as_ref().ok_or_else(no_peers_error)?;
        Ok(Self::new([Action::Send(StageRequest::RequestAll), Action::AwaitStage]))
    }

    /// Takes the next step; what to do then, or nothing where it was the last.
    fn start_next(&mut self, world: &ServerContext) -> Option<Step> {
        match self.actions.pop_front()? {
            Action::Send(request) => match world.send_query(Query::Stage(request)) {
                Ok(()) => {}
                Err(Query::Stage(request)) => {
                    self.actions.push_front(Action::Send(request));
                    return Some(Step::Again(SERVER_RETRY));
                }
                Err(_) => {} // it gives back what it was given
            },
            // Requests are answered in their order.
            step @ (Action::AwaitStage | Action::AwaitBuckets) => {
                self.actions.push_front(step);
                let status = |reply| Query::Stage(StageRequest::Status(reply));
                self.waiting = Some(Awaiting::Stage(PendingQuery::new(STAGE_ANSWER_MAX, world, status)));
            }
            Action::KernelResync => {
                self.waiting =
                    Some(Awaiting::KernelResync(PendingQuery::new(SERVER_ANSWER_MAX, world, Query::Control)));
            }
        }
        Some(Step::More)
    }

    /// Whether what was waited for has come true; else what to do until then.
    fn poll_waiting(&mut self, world: &ServerContext) -> Result<Result<(), Step>, Failure> {
        match &mut self.waiting {
            None => return Ok(Ok(())),
            Some(Awaiting::Stage(question)) => match question.poll(world).map_err(stage_error)? {
                Polled::Pending(turn) => return Ok(Err(turn)),
                Polled::Ready(status) => {
                    let asked = status.node.streams.iter().any(|stream| stream.scheduled > 0);
                    if matches!(self.actions.front(), Some(Action::AwaitBuckets)) && asked {
                        self.waiting = None;
                        return Ok(Err(Step::Again(SERVER_POLL_INTERVAL)));
                    }
                    self.actions.pop_front();
                }
            },
            Some(Awaiting::KernelResync(question)) => match question.poll(world).map_err(resync_error)? {
                Polled::Pending(turn) => return Ok(Err(turn)),
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

fn resync_error(why: QueryError) -> Failure {
    Failure::new(match why {
        QueryError::Ended => "the control thread has ended: see the daemon's log",
        QueryError::TimedOut => "the resync is not complete yet, and goes on: see the daemon's log",
    })
}

impl Job for ActionSequence {
    fn advance(&mut self, world: &mut ServerContext, _: &mut OutBuffer) -> Result<Step, Failure> {
        loop {
            if let Err(turn) = self.poll_waiting(world)? {
                return Ok(turn);
            }
            match self.start_next(world) {
                None => return Ok(Step::Done),
                Some(Step::More) => {}
                Some(turn) => return Ok(turn),
            }
        }
    }
}
