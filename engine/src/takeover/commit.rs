//! Commit: inject the external cache (all replicas) into this node's kernel. A takeover starts with it.
//!
//! ```text
//! first   flows without a master, bucket by bucket; the stage encodes the next buckets while the kernel creates these
//! then    flows with a master, which exists by now
//! last    expectations, whose masters exist by now, too
//! ```
//!
//! A committed flow enters the internal cache at the next kernel resync, or with its first event.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ctflow_replicate::ReplicaId;
use ctflow_replicate::buckets::{BUCKETS, EXPECTATIONS};
use ctflow_replicate::entry;

use super::inject::{Conflict, Injector, PeerFlow, Tally};
use crate::access::Access;
use crate::kernel::KernelError;
use crate::kernel::commit::CommitRules;
use crate::limits::{COMMIT_BUCKETS_AHEAD, COMMIT_RELATED_BYTES};
use crate::replication::{NoAnswer, Replication};
use crate::reply::Awaited;
use crate::shard::entries::{Entries, EntryHead};
use crate::worker::channel::OnLoss;

/// Which entries a commit injects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitScope {
    /// Whether flows are committed.
    pub flows: bool,
    /// Whether expectations are committed.
    pub expectations: bool,
}

/// The result of a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The outcomes of the entries.
    pub tally: Tally,
    /// Buckets that were unknown when the commit started; their flows may be missing.
    pub unknown_buckets: u64,
    /// The time that the commit took.
    pub took: Duration,
}

/// The progress of a commit, which other threads read while it runs.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Flows handled so far.
    pub(crate) done: AtomicU64,
    /// Flows and expectations in the replicas when the commit started.
    pub(crate) total: AtomicU64,
}

/// A commit stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The stage did not answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// A whole batch failed: it could not be sent, nothing is permitted, or answers were lost.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Injects the entries of all replicas into the kernel. Of two versions of a flow the newest wins.
///
/// # Errors
/// [`CommitError`]. The kernel keeps what was committed until then.
pub(crate) fn run(
    access: &Access,
    scope: CommitScope,
    rules: CommitRules,
    progress: &Arc<Progress>,
) -> Result<Committed, CommitError> {
    let started = Instant::now();
    let Some(replication) = &access.replication else { return Ok(Committed::default()) };
    let mut batch = access.committer();
    let status = replication.status()?;
    let entries = status.replicas.iter().map(|replica| replica.flows + replica.expectations).sum();
    progress.total.store(entries, Ordering::Relaxed);
    let mut tally = Tally::default();
    let conflict = Conflict::NewestWins(OnLoss::Keep);
    let injector = Injector { batch: &mut batch, workers: &access.workers, rules, conflict, tally: &mut tally };
    let mut committer = Committer { injector, related: Vec::new(), progress };
    let mut replicas: Vec<ReplicaId> = status.replicas.iter().map(|replica| replica.id).collect();
    replicas.sort_unstable();
    if scope.flows {
        for entries in
            BucketWalk::new(replication, replicas.iter().flat_map(|id| (0..BUCKETS).map(move |bucket| (*id, bucket))))
        {
            committer.commit_bucket(&entries?)?;
        }
        committer.commit_related()?;
    }
    if scope.expectations {
        for entries in BucketWalk::new(replication, replicas.iter().map(|id| (*id, EXPECTATIONS))) {
            committer.injector.inject_expectations(&entries?)?;
        }
    }
    Ok(Committed { tally, unknown_buckets: status.unknown_buckets(), took: started.elapsed() })
}

/// An iterator over encoded buckets of replicas. It requests the next [`COMMIT_BUCKETS_AHEAD`] buckets before it waits
/// for one, so that the stage encodes while the kernel works.
struct BucketWalk<'r, P> {
    replication: &'r Replication,
    /// The buckets that are not requested yet.
    buckets: P,
    /// The requested buckets, in order.
    prefetched: VecDeque<Result<Awaited<Vec<u8>>, NoAnswer>>,
}

impl<'r, P: Iterator<Item = (ReplicaId, u16)>> BucketWalk<'r, P> {
    /// Walks over `buckets` in their order.
    fn new(replication: &'r Replication, buckets: P) -> Self {
        Self { replication, buckets, prefetched: VecDeque::with_capacity(COMMIT_BUCKETS_AHEAD) }
    }
}

impl<P: Iterator<Item = (ReplicaId, u16)>> Iterator for BucketWalk<'_, P> {
    type Item = Result<Vec<u8>, NoAnswer>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.prefetched.len() <= COMMIT_BUCKETS_AHEAD {
            let Some((id, bucket)) = self.buckets.next() else { break };
            self.prefetched.push_back(self.replication.request_bucket(id, bucket));
        }
        let awaited = self.prefetched.pop_front()?;
        Some(awaited.and_then(|awaited| Replication::await_bucket(&awaited)))
    }
}

/// The state of a commit.
struct Committer<'c> {
    injector: Injector<'c>,
    /// The flows with a master, each with its head. They are few, and wait until all masters exist.
    related: Vec<u8>,
    progress: &'c Progress,
}

impl Committer<'_> {
    /// Commits the flows of a bucket that have no master, and keeps the others in `related`.
    fn commit_bucket(&mut self, entries: &[u8]) -> Result<(), CommitError> {
        let mut alone = Vec::new();
        for (head, bytes) in Entries::new(entries).flatten() {
            match entry::decode_flow(head.family, bytes) {
                Ok(flow) if flow.rare.master.is_none() => alone.push(PeerFlow { head, flow, bytes }),
                Ok(_) if self.related.len() < COMMIT_RELATED_BYTES => append_entry(&head, bytes, &mut self.related),
                Ok(_) => self.injector.tally.count_refusal(&"more than 64 MiB of flows with a master"),
                Err(error) => self.injector.tally.count_refusal(&error),
            }
        }
        self.commit_flows(&alone)
    }

    /// Commits the flows with a master.
    fn commit_related(&mut self) -> Result<(), CommitError> {
        let related = std::mem::take(&mut self.related);
        self.commit_flows(&decode_flows(&related))
    }

    /// Injects flows and counts those whose master does not exist as refused.
    fn commit_flows(&mut self, flows: &[PeerFlow<'_>]) -> Result<(), CommitError> {
        for (_, error) in self.injector.inject_flows(flows)? {
            self.injector.tally.count_refusal(&error);
        }
        self.progress.done.fetch_add(flows.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Decodes the flows of `entries`, in the format of the control socket. Flows that do not parse are left out.
pub(super) fn decode_flows(entries: &[u8]) -> Vec<PeerFlow<'_>> {
    let decode = |(head, bytes)| Some(PeerFlow { head, flow: entry::decode_flow(head.family, bytes).ok()?, bytes });
    Entries::new(entries).flatten().filter_map(|(head, bytes): (EntryHead, _)| decode((head, bytes))).collect()
}

/// Appends an entry with its head to `entries`.
pub(super) fn append_entry(head: &EntryHead, bytes: &[u8], entries: &mut Vec<u8>) {
    entries.extend_from_slice(&head.encode(u16::try_from(bytes.len()).unwrap_or(0)));
    entries.extend_from_slice(bytes);
}
