//! Access of other threads to a running engine. It keeps no thread running: a request to a thread that has ended is
//! dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::kernel::batch::Batch;
use crate::metrics::{Counts, SharedCounters};
use crate::replication::Replication;
use crate::worker::channel::WorkerHandle;
use crate::worker::kernel_resync::ResyncRequests;

/// The channels to an engine's threads, and the engine's constants.
#[derive(Clone)]
pub(crate) struct Access {
    /// A handle for requests to each worker, in the order of their indices.
    pub(crate) workers: Arc<[WorkerHandle]>,
    /// The counters of each worker.
    pub(crate) shared_counters: Arc<[Arc<SharedCounters>]>,
    /// The replication stage; `None` without peers.
    pub(crate) replication: Option<Replication>,
    /// Commits replicas to the kernel, one commit at a time. The workers' sockets filter out the events that it causes.
    pub(crate) committer: Arc<Mutex<Batch>>,
    /// Requests a kernel resync of all shards.
    pub(crate) resync_requests: ResyncRequests,
    /// The name of the workers' receive back end.
    pub(crate) backend: &'static str,
    /// The number of flows of each address family that a shard may hold.
    pub(crate) flows_max: u32,
    /// When the engine started.
    pub(crate) started: Instant,
}

impl Access {
    /// Waits until no other commit runs, and locks the socket that commits replicas to the kernel.
    pub(crate) fn committer(&self) -> MutexGuard<'_, Batch> {
        self.committer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts of each worker so far, in the order of their indices.
    pub(crate) fn by_worker(&self) -> impl Iterator<Item = Counts> {
        self.shared_counters.iter().map(|counters| counters.read())
    }

    /// The sums of all workers' counts so far.
    pub(crate) fn totals(&self) -> Counts {
        let mut totals = Counts::default();
        self.by_worker().for_each(|counts| totals += counts);
        totals
    }
}
