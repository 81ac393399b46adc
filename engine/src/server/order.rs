//! Orders: requests that only the daemon as a whole can carry out. The server passes them to its owner and sends the
//! owner's answer to the client.

use serde::Serialize;

use super::context::ServerContext;
use super::failure::Failure;
use super::job::{Job, PendingQuery, Polled, Step};
use super::out::OutBuffer;
use crate::limits::SERVER_ANSWER_MAX;
use crate::reply::{self, Reply};

/// What the daemon shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKind {
    /// Read the configuration again.
    Reload,
    /// Stop the daemon.
    Stop,
}

/// An order of a client.
#[derive(Debug)]
pub struct Order {
    /// What the daemon shall do.
    pub kind: OrderKind,
    /// Answers the waiting client. Dropping it reports to the client that the daemon did not answer.
    pub answer: Answer,
}

/// The channel of the answer to an order. Each method sends one answer.
#[derive(Debug)]
pub struct Answer(Reply<Outcome>);

/// A key of the configuration that keeps its old value until a restart, although the file has another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unchanged {
    /// The key, with its section.
    pub key: String,
    /// Why the reload did not change it.
    pub why: String,
}

/// The answer to an order.
#[derive(Debug)]
enum Outcome {
    /// The order was carried out.
    Done,
    /// The configuration was read; these keys kept their values.
    Reloaded(Vec<Unchanged>),
    /// The order failed with this error.
    Failed(String),
}

/// The document that answers a reload.
#[derive(Debug, Serialize)]
struct Reloaded {
    unchanged: Vec<Unchanged>,
}

impl Answer {
    /// Reports that the order was carried out. For [`OrderKind::Stop`]: only the end of the process is left to do.
    pub fn done(self) {
        self.0.send(Outcome::Done);
    }

    /// Reports that the configuration was read again, and which keys kept their values.
    pub fn reloaded(self, unchanged: Vec<Unchanged>) {
        self.0.send(Outcome::Reloaded(unchanged));
    }

    /// Reports that the order failed. `error` is one line: what happened, and what to do.
    pub fn failed(self, error: impl Into<String>) {
        self.0.send(Outcome::Failed(error.into()));
    }
}

/// The job of an order: waits for the owner's answer.
pub(super) struct OrderJob {
    query: PendingQuery<Outcome>,
}

impl OrderJob {
    /// Passes the order to the owner.
    pub(super) fn new(kind: OrderKind, context: &mut ServerContext) -> Self {
        let (reply, awaited) = reply::channel(Some(context.waker.clone()));
        (context.on_order)(Order { kind, answer: Answer(reply) });
        Self { query: PendingQuery::sent(awaited, SERVER_ANSWER_MAX, context.now) }
    }
}

impl Job for OrderJob {
    fn advance(&mut self, context: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        let no_answer = || Failure::new("the daemon did not answer: see its log");
        match self.query.poll(context).map_err(|_| no_answer())? {
            Polled::Ready(Outcome::Done) => Ok(Step::Done),
            Polled::Ready(Outcome::Reloaded(unchanged)) => {
                out.push_json(&Reloaded { unchanged })?;
                Ok(Step::Done)
            }
            Polled::Ready(Outcome::Failed(error)) => Err(Failure::new(error)),
            Polled::Pending(step) => Ok(step),
        }
    }
}
