//! The events that the workers receive, as they come.

use crossbeam_channel::TryRecvError;
use serde::Serialize;

use super::context::{Query, ServerContext};
use super::failure::Failure;
use super::frame::Kind;
use super::job::{Job, QueryError, Step, worker_error};
use super::out::OutBuffer;
use super::request::Table;
use crate::limits::SERVER_RETRY;
use crate::watch::{self, Chunk, WatchReceiver};
use crate::worker_channel::{WorkerHandle, WorkerRequest};

/// One worker being watched.
struct WorkerWatch {
    /// It had no room for the wish yet.
    unsent: Option<Query>,
    watch: WatchReceiver,
    started: bool,
}

/// Said once every worker hands on what it receives.
#[derive(Debug, Serialize)]
struct Started {
    workers: usize,
}

/// A client that follows events.
pub(super) struct EventsJob {
    workers: Vec<WorkerWatch>,
    started: bool,
}

impl EventsJob {
    pub(super) fn new(of: Table, world: &ServerContext) -> Self {
        let watched = |worker| {
            let (watcher, watch) = watch::watch_channel(of.subject(), world.waker.clone());
            WorkerWatch {
                unsent: Some(Query::Worker(worker, WorkerRequest::AddWatcher(watcher))),
                watch,
                started: false,
            }
        };
        Self { workers: (0..world.access.workers.len()).map(watched).collect(), started: false }
    }

    /// Whether every worker watches; the client hears of that before any event.
    fn start_watching(&mut self, world: &ServerContext, out: &mut OutBuffer) -> Result<bool, Failure> {
        for (number, worker) in self.workers.iter_mut().enumerate().filter(|(_, worker)| !worker.started) {
            if let Some(query) = worker.unsent.take() {
                worker.unsent = world.send_query(query).err();
            }
            worker.started = worker.pop_chunk(number)?.is_some();
        }
        self.started = self.workers.iter().all(|worker| worker.started);
        if self.started {
            out.push_json(&Started { workers: self.workers.len() })?;
        }
        Ok(self.started)
    }
}

impl WorkerWatch {
    fn pop_chunk(&self, number: usize) -> Result<Option<Chunk>, Failure> {
        match self.watch.chunks.try_recv() {
            Ok(chunk) => Ok(Some(chunk)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(worker_error(number, QueryError::Ended)),
        }
    }
}

fn write_chunk(chunk: &Chunk, out: &mut OutBuffer) {
    if chunk.lost > 0 {
        out.push_frame(Kind::Lost, &chunk.lost.to_be_bytes());
    }
    if !chunk.messages.is_empty() {
        out.push_frame(Kind::Messages, &chunk.messages);
    }
}

impl Job for EventsJob {
    fn advance(&mut self, world: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        if !self.started && !self.start_watching(world, out)? {
            let unsent = self.workers.iter().any(|worker| worker.unsent.is_some());
            return Ok(if unsent { Step::Again(SERVER_RETRY) } else { Step::Wait });
        }
        loop {
            let mut took = false;
            for (number, worker) in self.workers.iter().enumerate() {
                if !out.has_room() {
                    return Ok(Step::More);
                }
                if let Some(chunk) = worker.pop_chunk(number)? {
                    write_chunk(&chunk, out);
                    if worker.watch.take_starved() {
                        world.access.workers.get(number).into_iter().for_each(WorkerHandle::wake);
                    }
                    took = true;
                }
            }
            if !took {
                return Ok(Step::Wait);
            }
        }
    }
}
