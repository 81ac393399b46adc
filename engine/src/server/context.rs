//! What all clients' requests act on.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::order::Order;
use super::verify::Verification;
use crate::access::Access;
use crate::kernel_resync::ResyncRequest;
use crate::replication::StageRequest;
use crate::worker_channel::WorkerRequest;

/// The engine as the server sees it, and what its clients share.
pub(super) struct ServerContext {
    pub(super) access: Access,
    /// Wakes the server: given to everybody who is to answer it.
    pub(super) waker: Arc<mio::Waker>,
    /// Takes what the daemon as a whole is to do.
    pub(super) on_order: Box<dyn FnMut(Order) + Send>,
    /// The comparison with the peers that is under way, or was last.
    pub(super) verification: Verification,
    /// Alive as often as threads run errands, and once more here.
    pub(super) background_jobs: Arc<()>,
    /// Times that a table of the kernel was emptied for a client.
    pub(super) flushes: Arc<AtomicU64>,
    /// Since when somebody who asked whether this node may take over was told to wait.
    pub(super) waiting_since: Option<Instant>,
    /// Clients that are served.
    pub(super) clients: usize,
    /// The time of this turn.
    pub(super) now: Instant,
}

/// Something for another thread.
#[derive(Debug)]
pub(super) enum Query {
    /// For a worker.
    Worker(usize, WorkerRequest),
    /// For the replication stage.
    Stage(StageRequest),
    /// For the control thread.
    Control(ResyncRequest),
}

impl ServerContext {
    /// Hands a query over, if there is room. One for somebody who is not there comes to nothing.
    ///
    /// # Errors
    /// The query, where there is none.
    pub(super) fn send_query(&self, query: Query) -> Result<(), Query> {
        match query {
            Query::Worker(worker, ask) => match self.access.workers.get(worker) {
                Some(asker) => asker.try_request(ask).map_err(|ask| Query::Worker(worker, ask)),
                None => Ok(()),
            },
            Query::Stage(request) => match &self.access.replication {
                Some(replication) => replication.try_send_request(request).map_err(Query::Stage),
                None => Ok(()),
            },
            Query::Control(wish) => self.access.resync_requests.try_request(wish).map_err(Query::Control),
        }
    }
}
