//! What other threads reach a running engine by. It keeps no thread running: what has ended is asked in vain.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::kernel::batch::Batch;
use crate::kernel_resync::ResyncRequests;
use crate::metrics::{Counts, SharedCounters};
use crate::replication::Replication;
use crate::takeover::Takeover;
use crate::worker_channel::WorkerHandle;

/// The ways to an engine's threads, and what does not change of it.
#[derive(Clone)]
pub(crate) struct Access {
    /// Asks each worker.
    pub(crate) workers: Arc<[WorkerHandle]>,
    /// What each worker counts.
    pub(crate) shared_counters: Arc<[Arc<SharedCounters>]>,
    /// Where there are peers.
    pub(crate) replication: Option<Replication>,
    /// Puts replicas into the kernel, one commit at a time. Its port is not listened to.
    pub(crate) committer: Arc<Mutex<Batch>>,
    /// The side that this node is on.
    pub(crate) takeover: Arc<Takeover>,
    /// Has all shards resynchronised.
    pub(crate) resync_requests: ResyncRequests,
    /// The name of the back end that the workers receive by.
    pub(crate) backend: &'static str,
    /// Flows of each family that a shard may hold.
    pub(crate) flows_max: u32,
    /// When the engine was started.
    pub(crate) started: Instant,
}

impl Access {
    /// What changes this kernel for peers, as soon as nobody else does.
    pub(crate) fn committer(&self) -> MutexGuard<'_, Batch> {
        self.committer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each worker has counted so far.
    pub(crate) fn by_worker(&self) -> impl Iterator<Item = Counts> {
        self.shared_counters.iter().map(|published| published.read())
    }

    /// What all of them have counted so far.
    pub(crate) fn totals(&self) -> Counts {
        let mut totals = Counts::default();
        self.by_worker().for_each(|counts| totals += counts);
        totals
    }
}
