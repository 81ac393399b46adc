//! Requests that are a few things done one after the other.

use std::collections::VecDeque;

use super::context::{Query, World};
use super::failure::Failure;
use super::job::{Job, Polled, Question, Turn, Unanswered, no_peers, stage_silent};
use super::out::Out;
use crate::kernel_resync::WorkerEnded;
use crate::limits::{SERVER_ANSWER_MAX, SERVER_POLL_INTERVAL, SERVER_RETRY, STAGE_ANSWER_MAX};
use crate::replication::{ReplicationStatus, Request};
use crate::takeover;

/// One of them.
#[derive(Debug)]
enum Step {
    /// Tell the replication stage to do something.
    Tell(Request),
    /// Wait until it has done what it was told before.
    Obeyed,
    /// Wait until the shards have begun to tell every bucket that was asked of them.
    OnItsWay,
    /// Have all shards resynchronised with the kernel's table.
    Resync,
}

/// What is being waited for.
enum Waiting {
    For(Question<ReplicationStatus>),
    ForResync(Question<Result<(), WorkerEnded>>),
}

/// A request of several steps.
pub(super) struct Steps {
    steps: VecDeque<Step>,
    waiting: Option<Waiting>,
}

impl Steps {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), waiting: None }
    }

    /// Empties caches, and takes back a flush of the kernel that is scheduled. Without peers there is nothing in the external one.
    pub(super) fn flush(internal: bool, external: bool, world: &World) -> Self {
        world.access.takeover.cancel_purge();
        let external = external && world.access.replication.is_some();
        let outside = external.then_some([Step::Tell(Request::FlushExternal), Step::Obeyed]);
        Self::new(outside.into_iter().flatten().chain(internal.then_some(Step::Resync)))
    }

    pub(super) fn kernel_resync() -> Self {
        Self::new([Step::Resync])
    }

    /// Has the kernel's table emptied in a while: that is on its way when this is done.
    pub(super) fn schedule_flush(world: &World) -> Self {
        takeover::flush_later(&world.access, world.access.takeover.settings.purge_after);
        Self::new([])
    }

    pub(super) fn bulk(world: &World) -> Result<Self, Failure> {
        world.access.replication.as_ref().ok_or_else(no_peers)?;
        Ok(Self::new([Step::Tell(Request::Bulk), Step::OnItsWay]))
    }

    pub(super) fn peer_resync(world: &World) -> Result<Self, Failure> {
        world.access.replication.as_ref().ok_or_else(no_peers)?;
        Ok(Self::new([Step::Tell(Request::AskAll), Step::Obeyed]))
    }

    /// Takes the next step; what to do then, or nothing where it was the last.
    fn step(&mut self, world: &World) -> Option<Turn> {
        match self.steps.pop_front()? {
            Step::Tell(request) => match world.send(Query::Stage(request)) {
                Ok(()) => {}
                Err(Query::Stage(request)) => {
                    self.steps.push_front(Step::Tell(request));
                    return Some(Turn::Again(SERVER_RETRY));
                }
                Err(_) => {} // it gives back what it was given
            },
            // Requests are answered in their order.
            step @ (Step::Obeyed | Step::OnItsWay) => {
                self.steps.push_front(step);
                let status = |reply| Query::Stage(Request::Status(reply));
                self.waiting = Some(Waiting::For(Question::new(STAGE_ANSWER_MAX, world, status)));
            }
            Step::Resync => {
                self.waiting = Some(Waiting::ForResync(Question::new(SERVER_ANSWER_MAX, world, Query::Control)));
            }
        }
        Some(Turn::More)
    }

    /// Whether what was waited for has come true; else what to do until then.
    fn wait(&mut self, world: &World) -> Result<Result<(), Turn>, Failure> {
        match &mut self.waiting {
            None => return Ok(Ok(())),
            Some(Waiting::For(question)) => match question.poll(world).map_err(stage_silent)? {
                Polled::Not(turn) => return Ok(Err(turn)),
                Polled::Answer(status) => {
                    let asked = status.node.streams.iter().any(|stream| stream.scheduled > 0);
                    if matches!(self.steps.front(), Some(Step::OnItsWay)) && asked {
                        self.waiting = None;
                        return Ok(Err(Turn::Again(SERVER_POLL_INTERVAL)));
                    }
                    self.steps.pop_front();
                }
            },
            Some(Waiting::ForResync(question)) => match question.poll(world).map_err(not_resynced)? {
                Polled::Not(turn) => return Ok(Err(turn)),
                Polled::Answer(Err(WorkerEnded)) => {
                    return Err(Failure::new("a worker has ended: see the daemon's log"));
                }
                Polled::Answer(Ok(())) => {}
            },
        }
        self.waiting = None;
        Ok(Ok(()))
    }
}

fn not_resynced(why: Unanswered) -> Failure {
    Failure::new(match why {
        Unanswered::Gone => "the control thread has ended: see the daemon's log",
        Unanswered::Late => "the resync is not complete yet, and goes on: see the daemon's log",
    })
}

impl Job for Steps {
    fn turn(&mut self, world: &mut World, _: &mut Out) -> Result<Turn, Failure> {
        loop {
            if let Err(turn) = self.wait(world)? {
                return Ok(turn);
            }
            match self.step(world) {
                None => return Ok(Turn::Done),
                Some(Turn::More) => {}
                Some(turn) => return Ok(turn),
            }
        }
    }
}
