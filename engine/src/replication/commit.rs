//! The replicas into this node's kernel: what a takeover begins with.
//!
//! ```text
//! first   flows that stand alone, bucket by bucket; the stage encodes the next while the kernel takes this one
//! then    flows of a master, which is there by now
//! last    expectations, whose masters are there, too
//! ```
//!
//! The internal cache has what was committed after the next kernel resync, or with the flow's first event.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ctflow_replicate::ReplicaId;
use ctflow_replicate::buckets::{BUCKETS, EXPECTATIONS};
use ctflow_replicate::entry;

use super::inject::{Conflict, Injector, PeerFlow, Tally};
use super::{NoAnswer, Replication};
use crate::access::Access;
use crate::kernel::KernelError;
use crate::kernel::commit::CommitRules;
use crate::limits::{COMMIT_BUCKETS_AHEAD, COMMIT_RELATED_BYTES};
use crate::reply::Awaited;
use crate::server::frame::{Entries, EntryHead};
use crate::worker_channel::OnLoss;

/// What is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitScope {
    /// Flows.
    pub flows: bool,
    /// Expectations.
    pub expectations: bool,
}

/// What became of a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// What became of the entries.
    pub tally: Tally,
    /// Buckets of the replicas that were not known, so that flows may be missing.
    pub unknown_buckets: u64,
    /// How long it took.
    pub took: Duration,
}

/// How far a commit is: seen by others while it goes on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Entries that have been seen to.
    pub(crate) done: AtomicU64,
    /// Entries that there were to see to when it began.
    pub(crate) total: AtomicU64,
}

/// A commit that broke off.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The stage has ended.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The kernel could not be asked.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Puts what the replicas hold into the kernel.
///
/// # Errors
/// [`CommitError`]; what was done until then stays.
pub(crate) fn run(
    access: &Access,
    what: CommitScope,
    rules: CommitRules,
    progress: &Arc<Progress>,
) -> Result<Committed, CommitError> {
    let began = Instant::now();
    let Some(replication) = &access.replication else { return Ok(Committed::default()) };
    let mut batch = access.committer();
    let status = replication.status()?;
    let entries = status.replicas.iter().map(|replica| replica.flows + replica.expectations).sum();
    progress.total.store(entries, Ordering::Relaxed);
    let mut tally = Tally::default();
    let word = Conflict::NewestWins(OnLoss::Keep);
    let injector = Injector { batch: &mut batch, workers: &access.workers, rules, conflict: word, tally: &mut tally };
    let mut committer = Committer { injector, related: Vec::new(), progress };
    let mut replicas: Vec<ReplicaId> = status.replicas.iter().map(|replica| replica.id).collect();
    replicas.sort_unstable();
    if what.flows {
        for shown in
            BucketWalk::new(replication, replicas.iter().flat_map(|id| (0..BUCKETS).map(move |place| (*id, place))))
        {
            committer.commit_bucket(&shown?)?;
        }
        committer.commit_related()?;
    }
    if what.expectations {
        for shown in BucketWalk::new(replication, replicas.iter().map(|id| (*id, EXPECTATIONS))) {
            committer.injector.inject_expectations(&shown?)?;
        }
    }
    Ok(Committed { tally, unknown_buckets: status.unknown_buckets(), took: began.elapsed() })
}

/// Buckets of replicas, one after the other, the next ones asked for already.
struct BucketWalk<'r, P> {
    replication: &'r Replication,
    buckets: P,
    prefetched: VecDeque<Result<Awaited<Vec<u8>>, NoAnswer>>,
}

impl<'r, P: Iterator<Item = (ReplicaId, u16)>> BucketWalk<'r, P> {
    fn new(replication: &'r Replication, places: P) -> Self {
        Self { replication, buckets: places, prefetched: VecDeque::with_capacity(COMMIT_BUCKETS_AHEAD) }
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

struct Committer<'c> {
    injector: Injector<'c>,
    /// Flows with a master, with their heads: few, and their masters come first.
    related: Vec<u8>,
    progress: &'c Progress,
}

impl Committer<'_> {
    /// Commits the flows of a bucket that stand alone, and keeps the others for later.
    fn commit_bucket(&mut self, shown: &[u8]) -> Result<(), CommitError> {
        let mut alone = Vec::new();
        for (head, bytes) in Entries::new(shown).flatten() {
            match entry::decode_flow(head.family, bytes) {
                Ok(flow) if flow.master.is_none() => alone.push(PeerFlow { head, flow, bytes }),
                Ok(_) if self.related.len() < COMMIT_RELATED_BYTES => append_entry(&head, bytes, &mut self.related),
                Ok(_) => self.injector.tally.count_refusal(&"too many flows of others at once"),
                Err(error) => self.injector.tally.count_refusal(&error),
            }
        }
        self.commit_flows(&alone)
    }

    fn commit_related(&mut self) -> Result<(), CommitError> {
        let related = std::mem::take(&mut self.related);
        self.commit_flows(&decode_flows(&related))
    }

    fn commit_flows(&mut self, flows: &[PeerFlow<'_>]) -> Result<(), CommitError> {
        for (_, error) in self.injector.inject_flows(flows)? {
            self.injector.tally.count_refusal(&error);
        }
        self.progress.done.fetch_add(flows.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// The flows in the entries of a bucket, but for those that do not parse.
pub(super) fn decode_flows(shown: &[u8]) -> Vec<PeerFlow<'_>> {
    let told = |(head, bytes)| Some(PeerFlow { head, flow: entry::decode_flow(head.family, bytes).ok()?, bytes });
    Entries::new(shown).flatten().filter_map(|(head, bytes): (EntryHead, _)| told((head, bytes))).collect()
}

/// Puts an entry behind others.
pub(super) fn append_entry(head: &EntryHead, bytes: &[u8], related: &mut Vec<u8>) {
    related.extend_from_slice(&head.encode(u16::try_from(bytes.len()).unwrap_or(0)));
    related.extend_from_slice(bytes);
}
