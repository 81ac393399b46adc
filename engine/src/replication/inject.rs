//! What peers told, into this node's kernel: the one place where replicas become flows that packets meet.
//!
//! ```text
//! put   create ── exists already ──► whose word counts? ── theirs ──────────────────────────► update
//!                                      └─ the newer one: look at it ── held for a peer ─────►   │
//!                                                          └─ this node's: ask its worker ──►   └ or keep it as it is
//! end   delete                           likewise: only what is held for a peer
//! ```
//!
//! All of it goes in batches. What the kernel refuses is counted by its reason, and the rest goes on. The changes are made
//! by a socket whose port the event sockets leave out: what came from peers is not told to them as news.

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

use crate::kernel::KernelError;
use crate::kernel::batch::{Batch, Refused};
use crate::kernel::commit::{CommitRules, commit_request, for_existing_flow, is_held};
use crate::limits::COMMIT_REASONS;
use crate::server::frame::{Entries, EntryHead};
use crate::shard::{Newer, PeerVersion, shard_of};
use crate::worker::now_ms;
use crate::worker_channel::{OnLoss, WorkerHandle, WorkerRequest};

/// Whose word counts of a flow that is in this kernel already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    /// The peer's: no traffic is here.
    PeerWins,
    /// That of the node where it changed last. A flow that is held for a peer did not change here.
    NewestWins(OnLoss),
}

/// A flow as a peer told it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerFlow<'a> {
    pub(super) head: EntryHead,
    pub(super) flow: FlowView<'a>,
    /// As it was told.
    pub(super) bytes: &'a [u8],
}

/// What became of what was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Flows that were made.
    pub created: u64,
    /// Flows that were there, and are now as their source said.
    pub updated: u64,
    /// Flows that were there, and are newer here than their source said.
    pub kept: u64,
    /// Flows that were there, and are gone as their source said.
    pub ended: u64,
    /// Flows that were held for a peer and that nobody confirmed.
    pub purged: u64,
    /// Expectations that were made, or were there.
    pub expectations: u64,
    /// What the kernel refused, by its words.
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
    /// How many entries were refused.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Counts a refusal by its words; past so many different ones, as one of the others.
    pub(super) fn count_refusal(&mut self, reason: &dyn ToString) {
        self.count_refusals(reason.to_string(), 1);
    }

    fn count_refusals(&mut self, mut reason: String, count: u64) {
        if self.refused.len() >= COMMIT_REASONS && !self.refused.contains_key(&reason) {
            reason = "other reasons".to_owned();
        }
        *self.refused.entry(reason).or_default() += count;
    }
}

/// Puts flows into the kernel, and takes them out.
pub(super) struct Injector<'i> {
    pub(super) batch: &'i mut Batch,
    /// The workers: each knows when its flows changed.
    pub(super) workers: &'i [WorkerHandle],
    pub(super) rules: CommitRules,
    pub(super) conflict: Conflict,
    pub(super) tally: &'i mut Tally,
}

/// A flow of this kernel, as far as it matters whose it is.
#[derive(Debug, Clone, Copy)]
struct KernelFlow {
    id: u32,
    held: bool,
}

impl Injector<'_> {
    /// Makes these flows, and makes those that are there as they were told. Gives those whose master is not there, with the
    /// kernel's word: they are not counted.
    ///
    /// # Errors
    /// What concerns all requests; likewise for what follows.
    pub(super) fn inject_flows(&mut self, flows: &[PeerFlow<'_>]) -> Result<Vec<(usize, KernelError)>, KernelError> {
        let all: Vec<usize> = (0..flows.len()).collect();
        let (mut orphans, mut there) = (Vec::new(), Vec::new());
        for Refused { tag, error } in self.create_flows(flows, &all)? {
            let Some((index, told)) = flow_of_tag(tag, flows) else { continue };
            match error.errno() {
                errno if errno == Some(Errno::EXIST.raw_os_error()) => there.push(index),
                errno if errno == Some(Errno::NOENT.raw_os_error()) && told.flow.master.is_some() => {
                    orphans.push((index, error));
                }
                _ => self.tally.count_refusal(&error),
            }
        }
        if let Conflict::NewestWins(yielding) = self.conflict {
            there = self.select_outdated(flows, there, yielding)?;
        }
        let gone = self.update_flows(flows, &there)?;
        for Refused { error, .. } in self.create_flows(flows, &gone)? {
            // Gone, and there again: a packet has begun it anew.
            if error.errno() == Some(Errno::EXIST.raw_os_error()) && self.conflict != Conflict::PeerWins {
                self.tally.kept += 1;
            } else {
                self.tally.count_refusal(&error);
            }
        }
        Ok(orphans)
    }

    /// Ends these flows, where they are.
    pub(super) fn delete_flows(&mut self, keys: &[FlowKey]) -> Result<(), KernelError> {
        let ids: Vec<Option<u32>> = match self.conflict {
            Conflict::PeerWins => vec![None; keys.len()],
            Conflict::NewestWins(_) => {
                self.query_kernel(keys)?.iter().map(|here| here.filter(|here| here.held).map(|h| h.id)).collect()
            }
        };
        for (key, id) in keys.iter().zip(ids) {
            if self.conflict != Conflict::PeerWins && id.is_none() {
                continue; // it is gone already, or it is this node's
            }
            let which = Selector::Orig(key.orig);
            let write = |writer: &mut Writer<'_>, seq| request::delete(writer, seq, &which, key.named_zone(), id);
            self.batch.add(0, write, &mut |_| {})?; // who is refused is gone already
        }
        self.tally.ended += self.batch.finish(&mut |_| {})?.carried_out();
        Ok(())
    }

    /// Makes the expectations of `shown`, the entries of a bucket.
    pub(super) fn inject_expectations(&mut self, shown: &[u8]) -> Result<(), KernelError> {
        let mut refused = Vec::new();
        for (_, bytes) in Entries::new(shown).flatten() {
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
                self.tally.expectations += 1; // it is awaited already
            } else {
                self.tally.count_refusal(&one.error);
            }
        }
        Ok(())
    }

    fn create_flows(&mut self, flows: &[PeerFlow<'_>], which: &[usize]) -> Result<Vec<Refused>, KernelError> {
        let mut refused = Vec::new();
        for (tag, told) in which.iter().filter_map(|index| Some((*index as u64, flows.get(*index)?))) {
            let Some(change) = self.flow_change(told) else { continue };
            let write = |writer: &mut Writer<'_>, seq| request::create(writer, seq, &change, IfExists::Refuse);
            self.batch.add(tag, write, &mut |one| refused.push(one))?;
        }
        self.tally.created += self.batch.finish(&mut |one| refused.push(one))?.carried_out();
        Ok(refused)
    }

    /// Makes flows that are there as they were told; gives those that are not any more.
    fn update_flows(&mut self, flows: &[PeerFlow<'_>], which: &[usize]) -> Result<Vec<usize>, KernelError> {
        let mut refused = Vec::new();
        for (tag, told) in which.iter().filter_map(|index| Some((*index as u64, flows.get(*index)?))) {
            let Some(change) = self.flow_change(told) else { continue };
            let change = for_existing_flow(change);
            let write = |writer: &mut Writer<'_>, seq| request::update(writer, seq, &change);
            self.batch.add(tag, write, &mut |one| refused.push(one))?;
        }
        self.tally.updated += self.batch.finish(&mut |one| refused.push(one))?.carried_out();
        let mut gone = Vec::new();
        for Refused { tag, error } in refused {
            match (flow_of_tag(tag, flows), error.errno().map(Errno::from_raw_os_error)) {
                (Some((index, _)), Some(Errno::NOENT)) => gone.push(index),
                // It has seen packets here since it was looked at, which its status cannot be made to forget.
                (_, Some(Errno::BUSY)) if self.conflict != Conflict::PeerWins => self.tally.kept += 1,
                _ => self.tally.count_refusal(&error),
            }
        }
        Ok(gone)
    }

    /// Those of the flows `there` that are older here than their source said.
    fn select_outdated(
        &mut self,
        flows: &[PeerFlow<'_>],
        there: Vec<usize>,
        yielding: OnLoss,
    ) -> Result<Vec<usize>, KernelError> {
        let keyed = |index: usize| flows.get(index).and_then(|told| Some((index, told, told.flow.key()?)));
        let keyed: Vec<_> = there.into_iter().filter_map(keyed).collect();
        let keys: Vec<FlowKey> = keyed.iter().map(|(_, _, key)| *key).collect();
        let mut older = Vec::new();
        let mut claims: Vec<Vec<(usize, PeerVersion)>> = vec![Vec::new(); self.workers.len()];
        for ((index, told, key), here) in keyed.into_iter().zip(self.query_kernel(&keys)?) {
            match here {
                Some(KernelFlow { id, held: false }) => {
                    let claim = PeerVersion { key, id, changed_ms: told.head.changed_ms };
                    let worker = shard_of(id, u32::try_from(self.workers.len()).unwrap_or(u32::MAX));
                    claims.get_mut(worker as usize).into_iter().for_each(|claims| claims.push((index, claim)));
                }
                Some(KernelFlow { held: true, .. }) | None => older.push(index),
            }
        }
        for (asker, claims) in self.workers.iter().zip(claims).filter(|(_, claims)| !claims.is_empty()) {
            let asked = claims.iter().map(|(_, claim)| *claim).collect();
            let verdicts = asker.request_and_wait(|reply| WorkerRequest::ResolveConflicts(asked, yielding, reply));
            // A worker that does not answer knows no better than one that has not heard of the flow.
            let verdicts = verdicts.unwrap_or_else(|| vec![Newer::Unknown; claims.len()]);
            for ((index, _), verdict) in claims.into_iter().zip(verdicts) {
                match (verdict, yielding) {
                    // Packets keep it alive here, and nothing changed in it: nobody knows it better.
                    (Newer::Local, _) | (Newer::Unknown, OnLoss::Evict) => self.tally.kept += 1,
                    (Newer::Peer, _) | (Newer::Unknown, OnLoss::Keep) => older.push(index),
                }
            }
        }
        Ok(older)
    }

    /// What this kernel has of these flows.
    fn query_kernel(&mut self, keys: &[FlowKey]) -> Result<Vec<Option<KernelFlow>>, KernelError> {
        let mut found = vec![None; keys.len()];
        let mut note = |tag: u64, record: &Record<'_>| {
            let place = usize::try_from(tag).ok().and_then(|tag| found.get_mut(tag));
            if let (Some(place), Ok(FlowView { id: Some(id), timeout, .. })) = (place, record.flow()) {
                *place = Some(KernelFlow { id, held: is_held(timeout.unwrap_or(0)) });
            }
        };
        for (tag, key) in (0u64..).zip(keys) {
            let which = Selector::Orig(key.orig);
            self.batch.add_query(tag, |writer, seq| request::get(writer, seq, &which, key.named_zone()), &mut note)?;
        }
        self.batch.finish_queries(&mut note)?;
        Ok(found)
    }

    fn flow_change<'a>(&self, told: &PeerFlow<'a>) -> Option<FlowChange<'a>> {
        let age_s = now_ms().saturating_sub(told.head.changed_ms) / 1_000;
        commit_request(&told.flow, age_s, self.rules)
    }
}

fn flow_of_tag<'f, 'a>(tag: u64, flows: &'f [PeerFlow<'a>]) -> Option<(usize, &'f PeerFlow<'a>)> {
    let index = usize::try_from(tag).ok()?;
    Some((index, flows.get(index)?))
}
