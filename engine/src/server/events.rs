//! The events that the workers receive, as they come.

use crossbeam_channel::TryRecvError;
use serde::Serialize;

use super::context::{Query, World};
use super::failure::Failure;
use super::frame::Kind;
use super::job::{Job, Turn, Unanswered, worker_silent};
use super::out::Out;
use super::request::Of;
use crate::limits::SERVER_RETRY;
use crate::watch::{self, Chunk, WatchReceiver};
use crate::worker_channel::{WorkerHandle, WorkerRequest};

/// One worker being watched.
struct Watched {
    /// It had no room for the wish yet.
    unsent: Option<Query>,
    watch: WatchReceiver,
    begun: bool,
}

/// Said once every worker hands on what it receives.
#[derive(Debug, Serialize)]
struct Begun {
    workers: usize,
}

/// A client that follows events.
pub(super) struct Following {
    workers: Vec<Watched>,
    begun: bool,
}

impl Following {
    pub(super) fn new(of: Of, world: &World) -> Self {
        let watched = |worker| {
            let (watcher, watch) = watch::watch_channel(of.subject(), world.waker.clone());
            Watched { unsent: Some(Query::Worker(worker, WorkerRequest::AddWatcher(watcher))), watch, begun: false }
        };
        Self { workers: (0..world.access.workers.len()).map(watched).collect(), begun: false }
    }

    /// Whether every worker watches; the client hears of that before any event.
    fn begin(&mut self, world: &World, out: &mut Out) -> Result<bool, Failure> {
        for (number, worker) in self.workers.iter_mut().enumerate().filter(|(_, worker)| !worker.begun) {
            if let Some(query) = worker.unsent.take() {
                worker.unsent = world.send(query).err();
            }
            worker.begun = worker.take(number)?.is_some();
        }
        self.begun = self.workers.iter().all(|worker| worker.begun);
        if self.begun {
            out.json(&Begun { workers: self.workers.len() })?;
        }
        Ok(self.begun)
    }
}

impl Watched {
    fn take(&self, number: usize) -> Result<Option<Chunk>, Failure> {
        match self.watch.chunks.try_recv() {
            Ok(chunk) => Ok(Some(chunk)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(worker_silent(number, Unanswered::Gone)),
        }
    }
}

fn tell(chunk: &Chunk, out: &mut Out) {
    if chunk.lost > 0 {
        out.frame(Kind::Lost, &chunk.lost.to_be_bytes());
    }
    if !chunk.messages.is_empty() {
        out.frame(Kind::Messages, &chunk.messages);
    }
}

impl Job for Following {
    fn turn(&mut self, world: &mut World, out: &mut Out) -> Result<Turn, Failure> {
        if !self.begun && !self.begin(world, out)? {
            let unsent = self.workers.iter().any(|worker| worker.unsent.is_some());
            return Ok(if unsent { Turn::Again(SERVER_RETRY) } else { Turn::Wait });
        }
        loop {
            let mut took = false;
            for (number, worker) in self.workers.iter().enumerate() {
                if !out.has_room() {
                    return Ok(Turn::More);
                }
                if let Some(chunk) = worker.take(number)? {
                    tell(&chunk, out);
                    if worker.watch.take_starved() {
                        world.access.workers.get(number).into_iter().for_each(WorkerHandle::wake);
                    }
                    took = true;
                }
            }
            if !took {
                return Ok(Turn::Wait);
            }
        }
    }
}
