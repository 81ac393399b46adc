//! What only the daemon as a whole can do: it is handed to the owner of the server, who answers when it is done.

use serde::Serialize;

use super::context::World;
use super::failure::Failure;
use super::job::{Job, Polled, Question, Turn};
use super::out::Out;
use crate::limits::SERVER_ANSWER_MAX;
use crate::reply::{self, Reply};

/// What a client wants of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Read the configuration again.
    Reload,
    /// End.
    Stop,
}

/// A client's wish, and the way to answer it.
#[derive(Debug)]
pub struct Order {
    /// What is wanted.
    pub wanted: Wanted,
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
    /// It is done. For [`Wanted::Stop`]: nothing but the end of the process is left to do.
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
pub(super) struct Ordering {
    question: Question<Outcome>,
}

impl Ordering {
    /// Hands the order over.
    pub(super) fn new(wanted: Wanted, world: &mut World) -> Self {
        let (reply, awaited) = reply::channel(Some(world.waker.clone()));
        (world.orders)(Order { wanted, answer: Answer(reply) });
        Self { question: Question::asked(awaited, SERVER_ANSWER_MAX, world.now) }
    }
}

impl Job for Ordering {
    fn turn(&mut self, world: &mut World, out: &mut Out) -> Result<Turn, Failure> {
        let silent = || Failure::new("the daemon did not answer: see its log");
        match self.question.poll(world).map_err(|_| silent())? {
            Polled::Answer(Outcome::Done) => Ok(Turn::Done),
            Polled::Answer(Outcome::Reloaded(unchanged)) => {
                out.json(&Reloaded { unchanged })?;
                Ok(Turn::Done)
            }
            Polled::Answer(Outcome::Failed(error)) => Err(Failure::new(error)),
            Polled::Not(turn) => Ok(turn),
        }
    }
}
