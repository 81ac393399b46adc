//! What blocks, and is therefore done on a thread of its own: emptying the kernel's tables, filling them, changing sides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ctflow_parser::request;
use ctflow_replicate::Role;
use serde::Serialize;

use super::context::ServerContext;
use super::failure::Failure;
use super::job::{Job, PendingQuery, Polled, QueryError, Step, no_peers_error};
use super::out::OutBuffer;
use crate::access::Access;
use crate::kernel::KernelError;
use crate::kernel::request::Requester;
use crate::limits::{SERVER_ANSWER_MAX, SERVER_BACKGROUND_JOBS, SERVER_COMMIT_MAX, SERVER_PROGRESS_INTERVAL};
use crate::replication::{self, CommitScope, Progress};
use crate::reply;
use crate::takeover::{self, CommitReport};

/// What an errand came to: a document, or nothing but its end.
type Outcome = Result<Option<serde_json::Value>, Failure>;

/// What a client is told while it waits.
#[derive(Debug, Serialize)]
struct Underway {
    progress: u64,
    of: u64,
}

/// A client that waits for a thread.
pub(super) struct BackgroundJob {
    query: PendingQuery<Outcome>,
    what: &'static str,
    /// How far it is, and what was said of that last.
    progress: Option<(Arc<Progress>, u64)>,
}

impl BackgroundJob {
    /// Begins `work`, which goes on whatever becomes of the client. `what` is a noun for it.
    fn start(
        what: &'static str,
        longest: Duration,
        progress: Option<Arc<Progress>>,
        world: &ServerContext,
        work: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Result<Self, Failure> {
        if Arc::strong_count(&world.background_jobs) > SERVER_BACKGROUND_JOBS {
            return Err(Failure::new("too much is under way: try again when it is done"));
        }
        let (reply, awaited) = reply::channel(Some(world.waker.clone()));
        let errand = world.background_jobs.clone();
        let body = move || {
            let _errand = errand;
            reply.send(work());
        };
        thread::Builder::new()
            .name("ctflow-errand".to_owned())
            .spawn(body)
            .map_err(|error| Failure::new(format!("no thread for the {what}: {error}")))?;
        let question = PendingQuery::sent(awaited, longest, world.now);
        Ok(Self { query: question, what, progress: progress.map(|progress| (progress, 0)) })
    }

    /// The replicas into the kernel.
    ///
    /// # Errors
    /// There is nothing to commit, or another commit or a change of roles is under way.
    pub(super) fn commit(what: CommitScope, world: &ServerContext) -> Result<Self, Failure> {
        world.access.replication.as_ref().ok_or_else(no_peers_error)?;
        let turn = world.access.takeover.try_lock_kernel().ok_or_else(busy_error)?;
        let (access, progress) = (world.access.clone(), Arc::<Progress>::default());
        let seen = progress.clone();
        Self::start("commit", SERVER_COMMIT_MAX, Some(seen), world, move || {
            let _turn = turn;
            access.takeover.cancel_purge();
            let done = replication::commit(&access, what, access.takeover.settings.rules, &progress)
                .map_err(|error| Failure::new(format!("the commit broke off: {error}")))?;
            let (tally, took) = (&done.tally, done.took);
            tracing::info!(
                created = tally.created,
                updated = tally.updated,
                failed = tally.failed(),
                ?took,
                "committed"
            );
            tally.refused.iter().for_each(|(why, count)| tracing::warn!(count, "not committed: {why}"));
            to_document(&CommitReport::from(done))
        })
    }

    /// A change of roles, when what else changes the kernel is done: whoever tells the node its side tells it once.
    ///
    /// # Errors
    /// There are no peers.
    pub(super) fn role(role: Role, world: &ServerContext) -> Result<Self, Failure> {
        world.access.replication.as_ref().ok_or_else(no_peers_error)?;
        let (access, progress) = (world.access.clone(), Arc::<Progress>::default());
        let seen = progress.clone();
        Self::start("change of roles", SERVER_COMMIT_MAX, Some(seen), world, move || {
            let turn = access.takeover.lock_kernel_within(SERVER_COMMIT_MAX).ok_or_else(busy_error)?;
            to_document(&takeover::change_role(&access, &turn, role, &progress))
        })
    }

    /// The kernel's tables emptied.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) fn flush_kernel(flows: bool, expectations: bool, world: &ServerContext) -> Result<Self, Failure> {
        let (access, flushes) = (world.access.clone(), world.flushes.clone());
        Self::start("flush", SERVER_ANSWER_MAX, None, world, move || {
            let flushed = flush_tables(&access, flows, expectations, &flushes);
            flushed.map(|()| None).map_err(|error| Failure::new(error.to_string()))
        })
    }
}

fn busy_error() -> Failure {
    Failure::new("a commit or a change of roles is under way: try again when it is done")
}

fn to_document(of: &impl Serialize) -> Outcome {
    serde_json::to_value(of).map(Some).map_err(|error| Failure::new(error.to_string()))
}

/// Expectations first: those of a flow that ends go with it.
fn flush_tables(access: &Access, flows: bool, expectations: bool, flushes: &AtomicU64) -> Result<(), KernelError> {
    if expectations {
        Requester::open()?.request("empty the expectation table", request::flush_expect, |_| {})?;
        flushes.fetch_add(1, Ordering::Relaxed);
    }
    if flows {
        takeover::flush_now(access)?;
        flushes.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

impl Job for BackgroundJob {
    fn advance(&mut self, world: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        let what = self.what;
        match self.query.poll(world) {
            Ok(Polled::Ready(outcome)) => {
                if let Some(document) = outcome? {
                    out.push_json(&document)?;
                }
                Ok(Step::Done)
            }
            Ok(Polled::Pending(turn)) => match &mut self.progress {
                None => Ok(turn),
                Some((progress, said)) => {
                    let (done, of) = (progress.done.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
                    if done != *said {
                        *said = done;
                        out.push_json(&Underway { progress: done, of })?;
                    }
                    Ok(Step::Again(SERVER_PROGRESS_INTERVAL))
                }
            },
            Err(QueryError::TimedOut) => {
                Err(Failure::new(format!("the {what} is not done yet, and goes on: see the daemon's log")))
            }
            Err(QueryError::Ended) => {
                Err(Failure::new(format!("the {what} ended without a word: see the daemon's log")))
            }
        }
    }
}
