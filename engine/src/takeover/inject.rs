//! Injection: the peers' flows become flows of this node's kernel. Commit and hot mode both use it.
//!
//! ```text
//! flow   create ── exists already ─┬─ PeerWins ───────────────────────────────────────────────► update
//!                                  └─ NewestWins: query the kernel ─┬─ held for a peer ───────► update
//!                                                                   └─ this node's: request ──► update, or keep it
//!                                                                      a verdict from its worker
//! end    PeerWins: delete · NewestWins: query the kernel, delete only a flow that is held for a peer
//! ```
//!
//! All requests go to the kernel in batches. A request that the kernel refuses is counted by its reason, and the others
//! are carried out. The socket of these requests has a port whose events the event sockets drop, so that changes that
//! came from peers are not sent back to them.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::record::Record;
use ctflow_parser::request::{self, FlowChange, IfExists, Selector};
use ctflow_parser::tuple::FlowKey;
use ctflow_parser::write::Writer;
use ctflow_replicate::entry;
use rustix::io::Errno;

use crate::clock::now_ms;
use crate::kernel::KernelError;
use crate::kernel::batch::{Batch, Refused};
use crate::kernel::commit::{CommitRules, commit_request, for_existing_flow, is_held};
use crate::limits::COMMIT_REASONS;
use crate::shard::entries::{Entries, EntryHead};
use crate::shard::{Newer, PeerVersion, shard_of};
use crate::worker::channel::{OnLoss, WorkerHandle, WorkerRequest};

/// Which version of a flow wins when the kernel has the flow already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    /// The peer's version wins, because this node has no traffic.
    PeerWins,
    /// The version that changed last wins. A flow that is held for a peer has not changed here.
    NewestWins(OnLoss),
}

/// A flow as a peer sent it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerFlow<'a> {
    /// The head of the entry: address family, stream and times.
    pub(super) head: EntryHead,
    /// The decoded flow.
    pub(super) flow: FlowView<'a>,
    /// The encoded flow.
    pub(super) bytes: &'a [u8],
}

/// Counts of the outcomes of injected entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Flows created.
    pub created: u64,
    /// Flows that existed in this kernel and were updated to the source's state.
    pub updated: u64,
    /// Flows that were kept unchanged, because they changed here since.
    pub kept: u64,
    /// Flows deleted because they ended on their source.
    pub ended: u64,
    /// Flows held for a peer and deleted because no peer confirmed them.
    pub purged: u64,
    /// Expectations created or existing already. Not in the status document.
    pub expectations: u64,
    /// Refused entries by reason: the kernel's error, or the error of decoding.
    pub refused: BTreeMap<String, u64>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.created += other.created;
        self.updated += other.updated;
        self.kept += other.kept;
        self.ended += other.ended;
        self.purged += other.purged;
        self.expectations += other.expectations;
        for (reason, count) in other.refused {
            self.count_refusals(reason, count);
        }
    }
}

impl Tally {
    /// The number of refused entries.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Counts a refused entry by its reason. Past [`COMMIT_REASONS`] reasons a new one is counted under "other
    /// reasons".
    pub(super) fn count_refusal(&mut self, reason: &dyn ToString) {
        self.count_refusals(reason.to_string(), 1);
    }

    /// Counts `count` entries refused for the same reason.
    fn count_refusals(&mut self, mut reason: String, count: u64) {
        if self.refused.len() >= COMMIT_REASONS && !self.refused.contains_key(&reason) {
            reason = "other reasons".to_owned();
        }
        *self.refused.entry(reason).or_default() += count;
    }
}

/// Creates, updates and deletes the peers' flows in this kernel.
pub(super) struct Injector<'i> {
    /// The batch whose changes cause no event here.
    pub(super) batch: &'i mut Batch,
    /// The workers, by index. Only the worker that owns a flow knows when the flow changed here.
    pub(super) workers: &'i [WorkerHandle],
    /// The timeouts and TCP windows of injected flows.
    pub(super) rules: CommitRules,
    /// Which version of an existing flow wins.
    pub(super) conflict: Conflict,
    /// Where the outcomes are counted.
    pub(super) tally: &'i mut Tally,
}

/// A flow of this kernel: its id, and whether it is held for a peer.
#[derive(Debug, Clone, Copy)]
struct KernelFlow {
    id: u32,
    held: bool,
}

impl Injector<'_> {
    /// Creates these flows, or updates those that exist and lose the conflict. Returns the index and the kernel's error
    /// of each flow whose master does not exist in the kernel; these are not counted.
    ///
    /// # Errors
    /// An error that concerns all requests, such as a missing capability.
    pub(super) fn inject_flows(&mut self, flows: &[PeerFlow<'_>]) -> Result<Vec<(usize, KernelError)>, KernelError> {
        let all: Vec<usize> = (0..flows.len()).collect();
        let (mut orphans, mut existing) = (Vec::new(), Vec::new());
        for Refused { tag, error } in self.create_flows(flows, &all)? {
            let Some((index, sent)) = flow_of_tag(tag, flows) else { continue };
            match error.errno() {
                errno if errno == Some(Errno::EXIST.raw_os_error()) => existing.push(index),
                errno if errno == Some(Errno::NOENT.raw_os_error()) && sent.flow.rare.master.is_some() => {
                    orphans.push((index, error));
                }
                _ => self.tally.count_refusal(&error),
            }
        }
        if let Conflict::NewestWins(on_loss) = self.conflict {
            existing = self.select_outdated(flows, existing, on_loss)?;
        }
        // A flow may end between its refused creation and its update; then it is created after all.
        let gone = self.update_flows(flows, &existing)?;
        for Refused { error, .. } in self.create_flows(flows, &gone)? {
            // A packet created the flow anew after it ended, so the flow here is newer.
            if error.errno() == Some(Errno::EXIST.raw_os_error()) && self.conflict != Conflict::PeerWins {
                self.tally.kept += 1;
            } else {
                self.tally.count_refusal(&error);
            }
        }
        Ok(orphans)
    }

    /// Deletes these flows from the kernel; with [`Conflict::NewestWins`] only those that are held for a peer.
    ///
    /// # Errors
    /// An error that concerns all requests.
    pub(super) fn delete_flows(&mut self, keys: &[FlowKey]) -> Result<(), KernelError> {
        let ids: Vec<Option<u32>> = match self.conflict {
            Conflict::PeerWins => vec![None; keys.len()],
            Conflict::NewestWins(_) => {
                self.query_kernel(keys)?.iter().map(|flow| flow.filter(|flow| flow.held).map(|f| f.id)).collect()
            }
        };
        for (key, id) in keys.iter().zip(ids) {
            if self.conflict != Conflict::PeerWins && id.is_none() {
                continue; // the flow has ended already, or it is this node's
            }
            let which = Selector::Orig(key.orig);
            let write = |writer: &mut Writer<'_>, seq| request::delete(writer, seq, &which, key.named_zone(), id);
            self.batch.add(0, write, &mut |_| {})?; // a refused deletion means that the flow has ended already
        }
        self.tally.ended += self.batch.finish(&mut |_| {})?.carried_out();
        Ok(())
    }

    /// Creates the expectations of `entries`, which are in the format of the control socket.
    ///
    /// # Errors
    /// An error that concerns all requests.
    pub(super) fn inject_expectations(&mut self, entries: &[u8]) -> Result<(), KernelError> {
        let mut refused = Vec::new();
        for (_, bytes) in Entries::new(entries).flatten() {
            match entry::decode_expect(bytes) {
                Ok(expect) => {
                    let expect = ExpectView { id: None, ..expect };
                    let write = |writer: &mut Writer<'_>, seq| request::create_expect(writer, seq, &expect);
                    self.batch.add(0, write, &mut |one| refused.push(one))?;
                }
                Err(error) => self.tally.count_refusal(&error),
            }
        }
        let sent = self.batch.finish(&mut |one| refused.push(one))?;
        self.tally.expectations += sent.carried_out();
        for one in refused {
            if one.error.errno() == Some(Errno::EXIST.raw_os_error()) {
                self.tally.expectations += 1; // the kernel expects it already
            } else {
                self.tally.count_refusal(&one.error);
            }
        }
        Ok(())
    }

    /// Creates the flows at the indices `which`. Returns the refused requests, each with its flow's index as the tag.
    fn create_flows(&mut self, flows: &[PeerFlow<'_>], which: &[usize]) -> Result<Vec<Refused>, KernelError> {
        let mut refused = Vec::new();
        for (tag, sent) in which.iter().filter_map(|index| Some((*index as u64, flows.get(*index)?))) {
            let Some(change) = self.flow_change(sent) else { continue };
            let write = |writer: &mut Writer<'_>, seq| request::create(writer, seq, &change, IfExists::Refuse);
            self.batch.add(tag, write, &mut |one| refused.push(one))?;
        }
        self.tally.created += self.batch.finish(&mut |one| refused.push(one))?.carried_out();
        Ok(refused)
    }

    /// Updates the flows at the indices `which`. Returns the indices of the flows that no longer exist.
    fn update_flows(&mut self, flows: &[PeerFlow<'_>], which: &[usize]) -> Result<Vec<usize>, KernelError> {
        let mut refused = Vec::new();
        for (tag, sent) in which.iter().filter_map(|index| Some((*index as u64, flows.get(*index)?))) {
            let Some(change) = self.flow_change(sent) else { continue };
            let change = for_existing_flow(change);
            let write = |writer: &mut Writer<'_>, seq| request::update(writer, seq, &change);
            self.batch.add(tag, write, &mut |one| refused.push(one))?;
        }
        self.tally.updated += self.batch.finish(&mut |one| refused.push(one))?.carried_out();
        let mut gone = Vec::new();
        for Refused { tag, error } in refused {
            match (flow_of_tag(tag, flows), error.errno().map(Errno::from_raw_os_error)) {
                (Some((index, _)), Some(Errno::NOENT)) => gone.push(index),
                // The flow has seen packets here since the query. Its status has gained bits that the kernel never
                // clears: a request without them fails with EBUSY.
                (_, Some(Errno::BUSY)) if self.conflict != Conflict::PeerWins => self.tally.kept += 1,
                _ => self.tally.count_refusal(&error),
            }
        }
        Ok(gone)
    }

    /// Returns those of the flows at the indices `existing` that are older here than on their source. `on_loss` is what
    /// the worker does with its copy of such a flow.
    fn select_outdated(
        &mut self,
        flows: &[PeerFlow<'_>],
        existing: Vec<usize>,
        on_loss: OnLoss,
    ) -> Result<Vec<usize>, KernelError> {
        let keyed = |index: usize| flows.get(index).and_then(|sent| Some((index, sent, sent.flow.key()?)));
        let keyed: Vec<_> = existing.into_iter().filter_map(keyed).collect();
        let keys: Vec<FlowKey> = keyed.iter().map(|(_, _, key)| *key).collect();
        let mut outdated = Vec::new();
        let mut versions: Vec<Vec<(usize, PeerVersion)>> = vec![Vec::new(); self.workers.len()];
        for ((index, sent, key), flow) in keyed.into_iter().zip(self.query_kernel(&keys)?) {
            match flow {
                Some(KernelFlow { id, held: false }) => {
                    let version = PeerVersion { key, id, changed_ms: sent.head.changed_ms };
                    let worker = shard_of(id, u32::try_from(self.workers.len()).unwrap_or(u32::MAX));
                    versions.get_mut(worker as usize).into_iter().for_each(|of| of.push((index, version)));
                }
                // A flow that no longer exists counts as outdated: its update fails with ENOENT, and then it is
                // created.
                Some(KernelFlow { held: true, .. }) | None => outdated.push(index),
            }
        }
        for (worker, versions) in self.workers.iter().zip(versions).filter(|(_, versions)| !versions.is_empty()) {
            let request = versions.iter().map(|(_, version)| *version).collect();
            let verdicts = worker.request_and_wait(|reply| WorkerRequest::ResolveConflicts(request, on_loss, reply));
            // A worker that does not answer counts as one that has not received the flow.
            let verdicts = verdicts.unwrap_or_else(|| vec![Newer::Unknown; versions.len()]);
            for ((index, _), verdict) in versions.into_iter().zip(verdicts) {
                match (verdict, on_loss) {
                    // In hot mode a flow that is not held and that no event has reported lives on packets here.
                    (Newer::Local, _) | (Newer::Unknown, OnLoss::Evict) => self.tally.kept += 1,
                    (Newer::Peer, _) | (Newer::Unknown, OnLoss::Keep) => outdated.push(index),
                }
            }
        }
        Ok(outdated)
    }

    /// Queries the kernel for these flows. Returns `None` for a flow that does not exist.
    fn query_kernel(&mut self, keys: &[FlowKey]) -> Result<Vec<Option<KernelFlow>>, KernelError> {
        let mut found = vec![None; keys.len()];
        let mut on_flow = |tag: u64, record: &Record<'_>| {
            let slot = usize::try_from(tag).ok().and_then(|tag| found.get_mut(tag));
            if let (Some(slot), Ok(FlowView { id: Some(id), timeout, .. })) = (slot, record.flow()) {
                *slot = Some(KernelFlow { id, held: is_held(timeout.unwrap_or(0)) });
            }
        };
        for (tag, key) in (0u64..).zip(keys) {
            let which = Selector::Orig(key.orig);
            self.batch.add_query(
                tag,
                |writer, seq| request::get(writer, seq, &which, key.named_zone()),
                &mut on_flow,
            )?;
        }
        self.batch.finish_queries(&mut on_flow)?;
        Ok(found)
    }

    /// The request that creates a flow here by the injector's rules; `None` for a flow without both directions.
    fn flow_change<'a>(&self, sent: &PeerFlow<'a>) -> Option<FlowChange<'a>> {
        let age_s = now_ms().saturating_sub(sent.head.changed_ms) / 1_000;
        commit_request(&sent.flow, age_s, self.rules)
    }
}

/// The flow of a request's tag, which is the flow's index.
fn flow_of_tag<'f, 'a>(tag: u64, flows: &'f [PeerFlow<'a>]) -> Option<(usize, &'f PeerFlow<'a>)> {
    let index = usize::try_from(tag).ok()?;
    Some((index, flows.get(index)?))
}
