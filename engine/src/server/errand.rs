//! What blocks, and is therefore done on a thread of its own: emptying the kernel's tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use ctflow_parser::request;
use ctflow_parser::uapi::AF_UNSPEC;

use super::failure::Failure;
use super::job::{Job, Polled, Question, Turn, Unanswered};
use super::out::Out;
use super::world::World;
use crate::kernel::KernelError;
use crate::kernel::request::Requester;
use crate::limits::{SERVER_ANSWER_MAX, SERVER_ERRANDS};
use crate::reply;

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
