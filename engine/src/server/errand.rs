//! What blocks, and is therefore done on a thread of its own: emptying the kernel's tables, and filling them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread;

use ctflow_parser::request;
use ctflow_parser::uapi::AF_UNSPEC;
use serde::Serialize;

use super::failure::Failure;
use super::job::{Job, Polled, Question, Turn, Unanswered, no_peers};
use super::out::Out;
use super::world::World;
use crate::kernel::KernelError;
use crate::kernel::commit::Lifetime;
use crate::kernel::request::Requester;
use crate::limits::{SERVER_ANSWER_MAX, SERVER_COMMIT_MAX, SERVER_ERRANDS};
use crate::replication::{self, CommitError, Committed, What};
use crate::reply;

/// A client that waits for the replicas to be in the kernel.
pub(super) struct Committing {
    question: Question<Result<Committed, CommitError>>,
}

/// What a client is told of a commit.
#[derive(Debug, Serialize)]
struct Report {
    created: u64,
    updated: u64,
    expectations: u64,
    failed: u64,
    refused: BTreeMap<String, u64>,
    unknown_buckets: u64,
    took_ms: u64,
}

impl Committing {
    /// Begins. It goes on whatever becomes of the client.
    ///
    /// # Errors
    /// There is nothing to commit, another commit is under way, or there is no thread for it.
    pub(super) fn new(what: What, world: &World) -> Result<Self, Failure> {
        let replication = world.access.replication.clone().ok_or_else(no_peers)?;
        let committer = world.access.committer.clone();
        if committer.try_lock().is_err() {
            return Err(Failure::new("a commit is under way: try again when it is done"));
        }
        let (reply, awaited) = reply::ends(Some(world.waker.clone()));
        let body = move || {
            let mut batch = committer.lock().unwrap_or_else(PoisonError::into_inner);
            let done = replication::commit(&replication, &mut batch, what, Lifetime::Left);
            if let Ok(done) = &done {
                tracing::info!(
                    created = done.created,
                    updated = done.updated,
                    expectations = done.expectations,
                    failed = done.failed(),
                    took = ?done.took,
                    "committed"
                );
                done.refused.iter().for_each(|(why, count)| tracing::warn!(count, "not committed: {why}"));
            }
            reply.tell(done);
        };
        thread::Builder::new()
            .name("ctflow-commit".to_owned())
            .spawn(body)
            .map_err(|error| Failure::new(format!("cannot commit: no thread: {error}")))?;
        Ok(Self { question: Question::asked(awaited, SERVER_COMMIT_MAX, world.now) })
    }
}

impl Job for Committing {
    fn turn(&mut self, world: &mut World, out: &mut Out) -> Result<Turn, Failure> {
        match self.question.poll(world) {
            Ok(Polled::Answer(Ok(done))) => {
                out.json(&Report {
                    created: done.created,
                    updated: done.updated,
                    expectations: done.expectations,
                    failed: done.failed(),
                    unknown_buckets: done.unknown_buckets,
                    took_ms: u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX),
                    refused: done.refused,
                })?;
                Ok(Turn::Done)
            }
            Ok(Polled::Answer(Err(error))) => Err(Failure::new(format!("the commit broke off: {error}"))),
            Ok(Polled::Not(turn)) => Ok(turn),
            Err(Unanswered::Late) => Err(Failure::new("the commit is not done yet, and goes on: see the daemon's log")),
            Err(Unanswered::Gone) => Err(Failure::new("the commit ended without a word: see the daemon's log")),
        }
    }
}

/// A client that waits for the kernel's tables to be empty.
pub(super) struct KernelFlush {
    question: Question<Result<(), KernelError>>,
}

impl KernelFlush {
    /// Begins. The kernel works on it whatever becomes of the client.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) fn new(flows: bool, expectations: bool, world: &World) -> Result<Self, Failure> {
        if Arc::strong_count(&world.errands) > SERVER_ERRANDS {
            return Err(Failure::new("too many flushes are under way: try again when they are done"));
        }
        let (reply, awaited) = reply::ends(Some(world.waker.clone()));
        let (errand, flushes) = (world.errands.clone(), world.flushes.clone());
        let body = move || {
            let _errand = errand;
            reply.tell(flush(flows, expectations, &flushes));
        };
        thread::Builder::new()
            .name("ctflow-flush".to_owned())
            .spawn(body)
            .map_err(|error| Failure::new(format!("cannot flush: no thread: {error}")))?;
        let question = Question::asked(awaited, SERVER_ANSWER_MAX, world.now);
        Ok(Self { question })
    }
}

/// Expectations first: those of a flow that ends go with it.
fn flush(flows: bool, expectations: bool, flushes: &AtomicU64) -> Result<(), KernelError> {
    let mut requester = Requester::open()?;
    if expectations {
        requester.ask("empty the expectation table", request::flush_expect, |_| {})?;
        flushes.fetch_add(1, Ordering::Relaxed);
    }
    if flows {
        requester.ask("empty the flow table", |writer, seq| request::flush(writer, seq, AF_UNSPEC), |_| {})?;
        flushes.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

impl Job for KernelFlush {
    fn turn(&mut self, world: &mut World, _: &mut Out) -> Result<Turn, Failure> {
        match self.question.poll(world) {
            Ok(Polled::Answer(Ok(()))) => Ok(Turn::Done),
            Ok(Polled::Answer(Err(error))) => Err(Failure::new(error.to_string())),
            Ok(Polled::Not(turn)) => Ok(turn),
            Err(Unanswered::Late) => Err(Failure::new("the kernel is not done yet, and goes on with it")),
            Err(Unanswered::Gone) => Err(Failure::new("the flush ended without a word: see the daemon's log")),
        }
    }
}
