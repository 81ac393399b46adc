//! A client that follows the events that the workers receive.

use crossbeam_channel::TryRecvError;
use serde::Serialize;

use super::context::{Query, ServerContext};
use super::failure::Failure;
use super::frame::Kind;
use super::job::{Job, QueryError, Step, worker_error};
use super::out::OutBuffer;
use super::request::Table;
use crate::limits::SERVER_RETRY;
use crate::worker::channel::{WorkerHandle, WorkerRequest};
use crate::worker::watch::{self, Chunk, WatchReceiver};

/// The watch of one worker.
struct WorkerWatch {
    /// The request for the watch, while the worker's channel has no room for it.
    unsent: Option<Query>,
    /// The channel of the worker's events.
    watch: WatchReceiver,
    /// Whether the worker has started to copy its events.
    started: bool,
}

/// The document that reports that every worker copies its events from now on.
#[derive(Debug, Serialize)]
struct Started {
    workers: usize,
}

/// The job of a client that follows events.
pub(super) struct EventsJob {
    workers: Vec<WorkerWatch>,
    /// Whether every worker has started, and the client has received the document that reports it.
    started: bool,
}

impl EventsJob {
    /// Creates a watch of every worker.
    pub(super) fn new(of: Table, context: &ServerContext) -> Self {
        let watch = |worker| {
            let (watcher, watch) = watch::watch_channel(of.subject(), context.waker.clone());
            WorkerWatch {
                unsent: Some(Query::Worker(worker, WorkerRequest::AddWatcher(watcher))),
                watch,
                started: false,
            }
        };
        Self { workers: (0..context.access.workers.len()).map(watch).collect(), started: false }
    }

    /// Sends the requests for watches. Returns whether every worker has started; the client receives the document about
    /// that before any event.
    fn start_watching(&mut self, context: &ServerContext, out: &mut OutBuffer) -> Result<bool, Failure> {
        for (number, worker) in self.workers.iter_mut().enumerate().filter(|(_, worker)| !worker.started) {
            if let Some(query) = worker.unsent.take() {
                worker.unsent = context.send_query(query).err();
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
    /// The next chunk of the worker's events, if there is one. The first chunk only reports the start.
    fn pop_chunk(&self, number: usize) -> Result<Option<Chunk>, Failure> {
        match self.watch.chunks.try_recv() {
            Ok(chunk) => Ok(Some(chunk)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(worker_error(number, QueryError::Ended)),
        }
    }
}

/// Appends a chunk to the output: first the count of lost messages, then the messages.
fn write_chunk(chunk: &Chunk, out: &mut OutBuffer) {
    if chunk.lost > 0 {
        out.push_frame(Kind::Lost, &chunk.lost.to_be_bytes());
    }
    if !chunk.messages.is_empty() {
        out.push_frame(Kind::Messages, &chunk.messages);
    }
}

impl Job for EventsJob {
    fn advance(&mut self, context: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        if !self.started && !self.start_watching(context, out)? {
            let unsent = self.workers.iter().any(|worker| worker.unsent.is_some());
            return Ok(if unsent { Step::Again(SERVER_RETRY) } else { Step::Wait });
        }
        loop {
            let mut progressed = false;
            for (number, worker) in self.workers.iter().enumerate() {
                if !out.has_room() {
                    return Ok(Step::More);
                }
                if let Some(chunk) = worker.pop_chunk(number)? {
                    write_chunk(&chunk, out);
                    if worker.watch.take_starved() {
                        context.access.workers.get(number).into_iter().for_each(WorkerHandle::wake);
                    }
                    progressed = true;
                }
            }
            if !progressed {
                return Ok(Step::Wait);
            }
        }
    }
}
