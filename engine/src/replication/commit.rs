//! The replicas into this node's kernel: what a takeover begins with.
//!
//! ```text
//! first   flows that stand alone, bucket by bucket     create ── exists already ──► update
//! then    flows of a master, which is there by now     (batches of requests)
//! last    expectations, whose masters are there, too
//! ```
//!
//! What the kernel refuses is counted by its reason, and the rest goes on. The changes are made by a socket whose port the
//! event sockets leave out: what comes from peers is not told to them as news. The internal cache has it after the next
//! kernel resync, or with the flow's first event.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::request::{self, FlowChange, IfExists};
use ctflow_parser::uapi;
use ctflow_parser::write::Writer;
use ctflow_replicate::ReplicaId;
use ctflow_replicate::buckets::{BUCKETS, EXPECTATIONS};
use ctflow_replicate::entry;
use rustix::io::Errno;

use super::{NoAnswer, Replication};
use crate::kernel::KernelError;
use crate::kernel::batch::{Batch, Refused};
use crate::kernel::commit::{Lifetime, commit};
use crate::limits::{COMMIT_REASONS, COMMIT_RELATED_BYTES};
use crate::server::frame::{Entries, EntryHead};
use crate::worker::now_ms;

/// What is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct What {
    /// Flows.
    pub flows: bool,
    /// Expectations.
    pub expectations: bool,
}

/// What became of a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// Flows that were made.
    pub created: u64,
    /// Flows that were there, and are now as their source said.
    pub updated: u64,
    /// Expectations that were made, or were there.
    pub expectations: u64,
    /// What the kernel refused, by its words.
    pub refused: BTreeMap<String, u64>,
    /// Buckets of the replicas that were not known, so that flows may be missing.
    pub unknown_buckets: u64,
    /// How long it took.
    pub took: Duration,
}

impl Committed {
    /// How many entries were refused.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.refused.values().sum()
    }
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

/// Puts what the replicas hold into the kernel, by `batch`.
///
/// # Errors
/// [`CommitError`]; what was done until then stays.
pub(crate) fn run(
    replication: &Replication,
    batch: &mut Batch,
    what: What,
    lifetime: Lifetime,
) -> Result<Committed, CommitError> {
    let began = Instant::now();
    let status = replication.status()?;
    let unknown =
        status.node.peers.iter().flat_map(|peer| &peer.received).map(|stream| u64::from(stream.unknown)).sum();
    let mut committer = Committer {
        batch,
        lifetime,
        now_ms: now_ms(),
        done: Committed { unknown_buckets: unknown, ..Committed::default() },
        related: Vec::new(),
    };
    let mut replicas: Vec<ReplicaId> = status.replicas.iter().map(|replica| replica.id).collect();
    replicas.sort_unstable();
    if what.flows {
        for (id, bucket) in replicas.iter().flat_map(|id| (0..BUCKETS).map(move |bucket| (*id, bucket))) {
            committer.bucket(&replication.show(id, bucket)?)?;
        }
        committer.related()?;
    }
    if what.expectations {
        for id in replicas {
            committer.expectations(&replication.show(id, EXPECTATIONS)?)?;
        }
    }
    Ok(Committed { took: began.elapsed(), ..committer.done })
}

struct Committer<'b> {
    batch: &'b mut Batch,
    lifetime: Lifetime,
    now_ms: u64,
    done: Committed,
    /// Flows with a master, with their heads: few, and their masters come first.
    related: Vec<u8>,
}

/// A flow to commit: when it was told, and how.
type Told<'a> = (EntryHead, FlowView<'a>);

impl Committer<'_> {
    /// Commits the flows of a bucket that stand alone, and keeps the others for later.
    fn bucket(&mut self, shown: &[u8]) -> Result<(), CommitError> {
        let mut alone = Vec::new();
        for (head, bytes) in Entries::new(shown).flatten() {
            match entry::decode_flow(head.family, bytes) {
                Ok(flow) if flow.master.is_none() => alone.push((head, flow)),
                Ok(_) if self.related.len() < COMMIT_RELATED_BYTES => keep(&head, bytes, &mut self.related),
                Ok(_) => self.done.refuse(&"too many flows of others at once"),
                Err(error) => self.done.refuse(&error),
            }
        }
        self.flows(&alone)
    }

    fn related(&mut self) -> Result<(), CommitError> {
        let related = std::mem::take(&mut self.related);
        let decoded = |(head, bytes): (EntryHead, _)| Some((head, entry::decode_flow(head.family, bytes).ok()?));
        let flows: Vec<_> = Entries::new(&related).flatten().filter_map(decoded).collect();
        self.flows(&flows)
    }

    /// Makes these flows, and makes those that are there as they were told.
    fn flows(&mut self, flows: &[Told<'_>]) -> Result<(), CommitError> {
        let mut refused = Vec::new();
        for (tag, told) in (0u64..).zip(flows) {
            let Some(change) = self.change(told) else { continue };
            let write = |writer: &mut Writer<'_>, seq| request::create(writer, seq, &change, IfExists::Refuse);
            self.batch.add(tag, write, &mut |one| refused.push(one))?;
        }
        let sent = self.batch.finish(&mut |one| refused.push(one))?;
        self.done.created += sent.carried_out();
        let mut again = Vec::new();
        for Refused { tag, error } in refused {
            let told = usize::try_from(tag).ok().and_then(|index| flows.get(index));
            match told.filter(|_| error.errno() == Some(Errno::EXIST.raw_os_error())) {
                Some(told) => again.push(told),
                None => self.done.refuse(&error),
            }
        }
        self.update(&again)
    }

    fn update(&mut self, flows: &[&Told<'_>]) -> Result<(), CommitError> {
        let mut refused = Vec::new();
        for told in flows {
            let Some(change) = self.change(told) else { continue };
            let change = of_existing(change);
            let write = |writer: &mut Writer<'_>, seq| request::update(writer, seq, &change);
            self.batch.add(0, write, &mut |one| refused.push(one))?;
        }
        let sent = self.batch.finish(&mut |one| refused.push(one))?;
        self.done.updated += sent.carried_out();
        refused.into_iter().for_each(|one| self.done.refuse(&one.error));
        Ok(())
    }

    fn change<'a>(&self, (head, flow): &Told<'a>) -> Option<FlowChange<'a>> {
        let age_s = self.now_ms.saturating_sub(head.changed_ms) / 1_000;
        commit(flow, self.lifetime.of(flow.timeout.unwrap_or(0), age_s))
    }

    fn expectations(&mut self, shown: &[u8]) -> Result<(), CommitError> {
        let mut refused = Vec::new();
        for (_, bytes) in Entries::new(shown).flatten() {
            match entry::decode_expect(bytes) {
                Ok(expect) => {
                    let expect = ExpectView { id: None, ..expect };
                    let write = |writer: &mut Writer<'_>, seq| request::create_expect(writer, seq, &expect);
                    self.batch.add(0, write, &mut |one| refused.push(one))?;
                }
                Err(error) => self.done.refuse(&error),
            }
        }
        let sent = self.batch.finish(&mut |one| refused.push(one))?;
        self.done.expectations += sent.carried_out();
        for one in refused {
            if one.error.errno() == Some(Errno::EXIST.raw_os_error()) {
                self.done.expectations += 1; // it is awaited already
            } else {
                self.done.refuse(&one.error);
            }
        }
        Ok(())
    }
}

impl Committed {
    /// Counts a refusal by its words; past so many different ones, as one of the others.
    fn refuse(&mut self, reason: &dyn ToString) {
        let mut reason = reason.to_string();
        if self.refused.len() >= COMMIT_REASONS && !self.refused.contains_key(&reason) {
            reason = "other reasons".to_owned();
        }
        *self.refused.entry(reason).or_default() += 1;
    }
}

fn keep(head: &EntryHead, bytes: &[u8], related: &mut Vec<u8>) {
    related.extend_from_slice(&head.encode(u16::try_from(bytes.len()).unwrap_or(0)));
    related.extend_from_slice(bytes);
}

/// What of a request may be said of a flow that is there: not how it is translated, nor whose it is. That it is another's
/// must still show in its status.
fn of_existing(change: FlowChange<'_>) -> FlowChange<'_> {
    let expected = if change.flow.master.is_some() { uapi::IPS_EXPECTED } else { 0 };
    let flow = FlowView {
        status: change.flow.status.map(|status| status | expected),
        master: None,
        helper: None,
        seqadj_orig: None,
        seqadj_reply: None,
        synproxy: None,
        ..change.flow
    };
    FlowChange { flow, nat_src: None, nat_dst: None, ..change }
}
