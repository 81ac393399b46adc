//! What only the daemon as a whole can do: it is handed to the owner of the server, who answers when it is done.

use serde::Serialize;

use super::context::ServerContext;
use super::failure::Failure;
use super::job::{Job, PendingQuery, Polled, Step};
use super::out::OutBuffer;
use crate::limits::SERVER_ANSWER_MAX;
use crate::reply::{self, Reply};

/// What a client wants of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKind {
    /// Read the configuration again.
    Reload,
    /// End.
    Stop,
}

/// A client's wish, and the way to answer it.
#[derive(Debug)]
pub struct Order {
    /// What is wanted.
    pub kind: OrderKind,
    /// Answers the client, who waits. Dropped, it tells the client that the daemon did not answer.
    pub answer: Answer,
}

/// The way to answer an order.
#[derive(Debug)]
pub struct Answer(Reply<Outcome>);

/// A key of the configuration that is not as the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unchanged {
    /// The key, with its section.
    pub key: String,
    /// Why it stays as it was.
    pub why: String,
}

/// What became of an order.
#[derive(Debug)]
enum Outcome {
    Done,
    Reloaded(Vec<Unchanged>),
    Failed(String),
}

/// What a client is told of a reload.
#[derive(Debug, Serialize)]
struct Reloaded {
    unchanged: Vec<Unchanged>,
}

impl Answer {
    /// It is done. For [`OrderKind::Stop`]: nothing but the end of the process is left to do.
    pub fn done(self) {
        self.0.send(Outcome::Done);
    }

    /// The configuration was read again, and this of it could not be taken over.
    pub fn reloaded(self, unchanged: Vec<Unchanged>) {
        self.0.send(Outcome::Reloaded(unchanged));
    }

    /// It failed: one line that says why.
    pub fn failed(self, error: impl Into<String>) {
        self.0.send(Outcome::Failed(error.into()));
    }
}

/// Waits for the owner's answer.
pub(super) struct OrderJob {
    query: PendingQuery<Outcome>,
}

impl OrderJob {
    /// Hands the order over.
    pub(super) fn new(wanted: OrderKind, world: &mut ServerContext) -> Self {
        let (reply, awaited) = reply::channel(Some(world.waker.clone()));
        (world.on_order)(Order { kind: wanted, answer: Answer(reply) });
        Self { query: PendingQuery::sent(awaited, SERVER_ANSWER_MAX, world.now) }
    }
}

impl Job for OrderJob {
    fn advance(&mut self, world: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        let silent = || Failure::new("the daemon did not answer: see its log");
        match self.query.poll(world).map_err(|_| silent())? {
            Polled::Ready(Outcome::Done) => Ok(Step::Done),
            Polled::Ready(Outcome::Reloaded(unchanged)) => {
                out.push_json(&Reloaded { unchanged })?;
                Ok(Step::Done)
            }
            Polled::Ready(Outcome::Failed(error)) => Err(Failure::new(error)),
            Polled::Pending(turn) => Ok(turn),
        }
    }
}
