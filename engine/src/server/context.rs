//! The context that the requests of all clients share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::order::Order;
use super::verify::Verification;
use crate::access::Access;
use crate::replication::StageRequest;
use crate::takeover::Takeover;
use crate::worker::channel::WorkerRequest;
use crate::worker::kernel_resync::ResyncRequest;

/// The engine, and the state that the server's clients share.
pub(super) struct ServerContext {
    /// The handles of the engine's threads.
    pub(super) access: Access,
    /// This node's role, and what follows from it.
    pub(super) takeover: Arc<Takeover>,
    /// Wakes the server. Every thread that answers a query wakes it.
    pub(super) waker: Arc<mio::Waker>,
    /// Receives the orders for the daemon as a whole.
    pub(super) on_order: Box<dyn FnMut(Order) + Send>,
    /// The current or the last comparison with the peers.
    pub(super) verification: Verification,
    /// Counts the threads of background jobs: each holds a clone, and this is one more.
    pub(super) background_jobs: Arc<()>,
    /// How often a table of the kernel was emptied for a client.
    pub(super) flushes: Arc<AtomicU64>,
    /// Since when the gate of the status is closed, as far as clients have requested the status.
    pub(super) waiting_since: Option<Instant>,
    /// The number of connected clients.
    pub(super) clients: usize,
    /// The time of this round of the server's loop.
    pub(super) now: Instant,
}

/// A request to another thread of the engine.
#[derive(Debug)]
pub(super) enum Query {
    /// To the worker of this index.
    Worker(usize, WorkerRequest),
    /// To the replication stage.
    Stage(StageRequest),
    /// To the control thread.
    Control(ResyncRequest),
}

impl ServerContext {
    /// Sends a query. A query to a thread that does not exist is dropped, which its reply reports.
    ///
    /// # Errors
    /// The query, when the thread's channel is full.
    pub(super) fn send_query(&self, query: Query) -> Result<(), Query> {
        match query {
            Query::Worker(index, request) => match self.access.workers.get(index) {
                Some(worker) => worker.try_request(request).map_err(|request| Query::Worker(index, request)),
                None => Ok(()),
            },
            Query::Stage(request) => match &self.access.replication {
                Some(replication) => replication.try_send_request(request).map_err(Query::Stage),
                None => Ok(()),
            },
            Query::Control(request) => self.access.resync_requests.try_request(request).map_err(Query::Control),
        }
    }
}
