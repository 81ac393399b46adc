//! Background jobs: work that blocks, on a thread of its own: flushes of the kernel's tables, commits, changes of role.

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
use crate::kernel::KernelError;
use crate::kernel::request::Requester;
use crate::limits::{SERVER_ANSWER_MAX, SERVER_BACKGROUND_JOBS, SERVER_COMMIT_MAX, SERVER_PROGRESS_INTERVAL};
use crate::os_error::os_error_text;
use crate::reply;
use crate::takeover::{self, CommitReport, CommitScope, Progress, Takeover};

/// The result of a background job: a document, or only its end.
type Outcome = Result<Option<serde_json::Value>, Failure>;

/// The progress document that a waiting client receives.
#[derive(Debug, Serialize)]
struct Underway {
    /// Entries done so far.
    progress: u64,
    /// All entries.
    of: u64,
}

/// The job of a client that waits for a background thread.
pub(super) struct BackgroundJob {
    query: PendingQuery<Outcome>,
    /// A noun for the work, for error messages.
    what: &'static str,
    /// The progress of the work, and the last progress sent to the client.
    progress: Option<(Arc<Progress>, u64)>,
}

impl BackgroundJob {
    /// Starts `work` on a thread of its own. It continues when the client disconnects or `longest` has passed. `what`
    /// is a noun for it.
    fn start(
        what: &'static str,
        longest: Duration,
        progress: Option<Arc<Progress>>,
        context: &ServerContext,
        work: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Result<Self, Failure> {
        if Arc::strong_count(&context.background_jobs) > SERVER_BACKGROUND_JOBS {
            return Err(Failure::new("too many requests are running: try again when they are done"));
        }
        let (reply, awaited) = reply::channel(Some(context.waker.clone()));
        let counted = context.background_jobs.clone();
        let body = move || {
            let _counted = counted; // counts this thread until it ends
            reply.send(work());
        };
        thread::Builder::new().name("ctflow-job".to_owned()).spawn(body).map_err(|error| {
            Failure::new(format!("cannot start a thread for the {what}: {}", os_error_text(&error)))
        })?;
        let query = PendingQuery::sent(awaited, longest, context.now);
        Ok(Self { query, what, progress: progress.map(|progress| (progress, 0)) })
    }

    /// Commits the replicas.
    ///
    /// # Errors
    /// The daemon has no peers, or another commit or a change of role is running.
    pub(super) fn commit(scope: CommitScope, context: &ServerContext) -> Result<Self, Failure> {
        context.access.replication.as_ref().ok_or_else(no_peers_error)?;
        let lock = context.takeover.try_lock_kernel().ok_or_else(busy_error)?;
        let (access, takeover) = (context.access.clone(), context.takeover.clone());
        let progress = Arc::<Progress>::default();
        let reported = progress.clone();
        Self::start("commit", SERVER_COMMIT_MAX, Some(reported), context, move || {
            let _lock = lock;
            takeover.cancel_purge();
            let done = takeover::commit(&access, scope, takeover.settings.rules, &progress)
                .map_err(|error| Failure::new(format!("the commit stopped before its end: {error}")))?;
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

    /// Changes the role. Waits for a commit, purge or change of role that is running, because keepalived sends a role
    /// only once.
    ///
    /// # Errors
    /// The daemon has no peers.
    pub(super) fn role(role: Role, context: &ServerContext) -> Result<Self, Failure> {
        context.access.replication.as_ref().ok_or_else(no_peers_error)?;
        let (access, takeover) = (context.access.clone(), context.takeover.clone());
        let progress = Arc::<Progress>::default();
        let reported = progress.clone();
        Self::start("change of role", SERVER_COMMIT_MAX, Some(reported), context, move || {
            let lock = takeover.lock_kernel_within(SERVER_COMMIT_MAX).ok_or_else(busy_error)?;
            to_document(&takeover::change_role(&access, &lock, role, &progress))
        })
    }

    /// Flushes tables of the kernel.
    ///
    /// # Errors
    /// The thread cannot start, or too many are running.
    pub(super) fn flush_kernel(flows: bool, expectations: bool, context: &ServerContext) -> Result<Self, Failure> {
        let (takeover, flushes) = (context.takeover.clone(), context.flushes.clone());
        Self::start("flush", SERVER_ANSWER_MAX, None, context, move || {
            let flushed = flush_tables(&takeover, flows, expectations, &flushes);
            flushed.map(|()| None).map_err(|error| Failure::new(error.to_string()))
        })
    }
}

/// The failure of a request that needs the kernel lock while another thread has it.
fn busy_error() -> Failure {
    Failure::new("a commit or a change of role is running: try again when it is done")
}

/// Encodes a document.
fn to_document(of: &impl Serialize) -> Outcome {
    serde_json::to_value(of).map(Some).map_err(|error| Failure::new(error.to_string()))
}

/// Flushes the tables: expectations first, because the expectations of a deleted flow are deleted with it.
fn flush_tables(takeover: &Takeover, flows: bool, expectations: bool, flushes: &AtomicU64) -> Result<(), KernelError> {
    if expectations {
        Requester::open()?.request("empty the expectation table", request::flush_expect, |_| {})?;
        flushes.fetch_add(1, Ordering::Relaxed);
    }
    if flows {
        takeover::flush_now(takeover)?;
        flushes.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

impl Job for BackgroundJob {
    fn advance(&mut self, context: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        let what = self.what;
        match self.query.poll(context) {
            Ok(Polled::Ready(outcome)) => {
                if let Some(document) = outcome? {
                    out.push_json(&document)?;
                }
                Ok(Step::Done)
            }
            Ok(Polled::Pending(step)) => match &mut self.progress {
                None => Ok(step),
                Some((progress, sent)) => {
                    let (done, of) = (progress.done.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
                    if done != *sent {
                        *sent = done;
                        out.push_json(&Underway { progress: done, of })?;
                    }
                    Ok(Step::Again(SERVER_PROGRESS_INTERVAL))
                }
            },
            Err(QueryError::TimedOut) => {
                Err(Failure::new(format!("the {what} takes longer than expected and continues: see the daemon's log")))
            }
            Err(QueryError::Ended) => {
                Err(Failure::new(format!("the {what} ended without a result: see the daemon's log")))
            }
        }
    }
}
