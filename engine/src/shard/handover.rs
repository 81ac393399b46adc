//! The entries of a replica that are still to be injected into this node's kernel (hot mode).
//!
//! ```text
//! flow created or updated ──► dirty ──┐
//! flow ended ──► ends ────────────────┼── drain_pending ──► Pending ──► the thread that injects
//! all buckets, one by one ────────────┘
//! ```
//!
//! A flow that changes twice between two drains is passed once, in its newest state. A flow that ends before it was
//! passed is never passed.
//!
//! Every queue is bounded. Where a change does not fit, all buckets are passed once more. Where an end does not fit,
//! the caller learns it from [`Handover::take_ends_lost`] and sweeps the kernel's table.

use std::collections::VecDeque;

use ctflow_parser::compact::{Address, V4, V6};
use ctflow_parser::tuple::FlowKey;
use ctflow_replicate::buckets::BUCKETS;

use super::entries::EntryEncoder;
use super::expectations::Expectations;
use super::table::{DIRTY, SENT, Slot, Table};
use crate::limits::{LEDGER_DIRTY_MAX, LEDGER_ENDS_MAX};

/// Changes of replicas to inject, in one round of the hot thread.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// The keys of flows that ended, which are to be deleted.
    pub(crate) ends: Vec<FlowKey>,
    /// Flows to create or update, in the form of the control socket.
    pub(crate) flows: Vec<u8>,
    /// Expectations to create, in the form of the control socket.
    pub(crate) expectations: Vec<u8>,
    /// The number of flows in `flows`.
    pub(crate) count: usize,
}

impl Pending {
    /// Whether there is nothing to inject.
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.flows.is_empty() && self.expectations.is_empty()
    }
}

/// The changes of one replica that are to be injected into the kernel.
#[derive(Debug)]
pub(super) struct Handover {
    /// The slots of changed flows, for IPv4 and IPv6, in the order of the changes.
    dirty: [VecDeque<u32>; 2],
    /// The keys of flows that ended after they were passed.
    ends: VecDeque<FlowKey>,
    /// Whether an expectation was created or changed since expectations were passed last.
    expectations_changed: bool,
    /// The next bucket to pass whole; [`BUCKETS`] where none is.
    next_bucket: u16,
    /// Whether an end was dropped because the queue was full.
    ends_lost: bool,
}

impl Handover {
    /// A handover with nothing queued.
    pub(super) fn new() -> Self {
        Self {
            dirty: Default::default(),
            ends: VecDeque::new(),
            expectations_changed: false,
            next_bucket: BUCKETS,
            ends_lost: false,
        }
    }

    /// Queues the flow at `index`, which was created or received again.
    pub(super) fn on_flow_changed<A: Address>(&mut self, table: &mut Table<A>, index: u32) {
        let Some(slot) = table.slot_mut(index).filter(|slot| !slot.has(DIRTY)) else { return };
        let dirty = &mut self.dirty[family_index::<A>()];
        if dirty.len() < LEDGER_DIRTY_MAX {
            slot.set(DIRTY);
            dirty.push_back(index);
        } else {
            self.next_bucket = 0; // pass every bucket, and this flow with its own
        }
    }

    /// Queues the end of the flow that was in `slot` and is already removed from the replica.
    pub(super) fn on_flow_ended<A: Address>(&mut self, slot: &Slot<A>) {
        // This replica has not put the flow into the kernel. One that an earlier replica has put there is found by a sweep.
        let Some(key) = slot.flow.view().key().filter(|_| slot.has(SENT)) else { return };
        if self.ends.len() < LEDGER_ENDS_MAX {
            self.ends.push_back(key);
        } else {
            self.ends_lost = true;
        }
    }

    /// Notes that an expectation was created or changed.
    pub(super) fn on_expectation_changed(&mut self) {
        self.expectations_changed = true;
    }

    /// Queues all flows and expectations of the replica once more.
    pub(super) fn requeue_all(&mut self) {
        (self.next_bucket, self.expectations_changed) = (0, true);
    }

    /// Whether nothing is queued.
    pub(super) fn is_empty(&self) -> bool {
        let no_flows = self.dirty.iter().all(VecDeque::is_empty) && self.next_bucket >= BUCKETS;
        no_flows && self.ends.is_empty() && !self.expectations_changed
    }

    /// Whether an end was dropped since the last call.
    pub(super) fn take_ends_lost(&mut self) -> bool {
        std::mem::take(&mut self.ends_lost)
    }

    /// Moves queued changes to `pending`, until it has `limit` ends and about `limit` flows of the entries of `stream`:
    /// a bucket is passed whole, past the limit if need be.
    pub(super) fn drain_pending(
        &mut self,
        v4: &mut Table<V4>,
        v6: &mut Table<V6>,
        expectations: &Expectations,
        (stream, now_ms): (u16, u64),
        limit: usize,
        pending: &mut Pending,
    ) {
        let ends = limit.saturating_sub(pending.ends.len()).min(self.ends.len());
        pending.ends.extend(self.ends.drain(..ends));
        let mut encoder = EntryEncoder { stream, now_ms, out: &mut pending.flows };
        let [dirty4, dirty6] = &mut self.dirty;
        pending.count += drain_dirty(dirty4, v4, &mut encoder, limit.saturating_sub(pending.count));
        pending.count += drain_dirty(dirty6, v6, &mut encoder, limit.saturating_sub(pending.count));
        while pending.count < limit && self.next_bucket < BUCKETS {
            pending.count +=
                drain_bucket(self.next_bucket, v4, &mut encoder) + drain_bucket(self.next_bucket, v6, &mut encoder);
            self.next_bucket += 1;
        }
        // The kernel accepts an expectation only when its master flow exists, so all flows are passed before.
        if self.dirty.iter().all(VecDeque::is_empty)
            && self.next_bucket >= BUCKETS
            && std::mem::take(&mut self.expectations_changed)
        {
            EntryEncoder { stream, now_ms, out: &mut pending.expectations }.encode_expectations(expectations);
        }
    }
}

/// The index of a family's queue: 0 for IPv4, 1 for IPv6.
fn family_index<A: Address>() -> usize {
    usize::from(A::FAMILY != V4::FAMILY)
}

/// Encodes up to `limit` dirty flows; returns how many.
fn drain_dirty<A: Address>(
    dirty: &mut VecDeque<u32>,
    table: &mut Table<A>,
    encoder: &mut EntryEncoder<'_>,
    limit: usize,
) -> usize {
    let mut count = 0;
    while count < limit {
        let Some(index) = dirty.pop_front() else { break };
        // Without the flag the flow has ended, or an earlier entry of the queue for the same slot has passed what is
        // there.
        let Some(slot) = table.slot_mut(index).filter(|slot| slot.has(DIRTY)) else { continue };
        slot.clear(DIRTY);
        slot.set(SENT);
        encoder.encode_flow(table, index);
        count += 1;
    }
    count
}

/// Encodes the flows of one family in a bucket; returns how many.
fn drain_bucket<A: Address>(bucket: u16, table: &mut Table<A>, encoder: &mut EntryEncoder<'_>) -> usize {
    let indices: Vec<u32> = table.bucket_indices(bucket).collect();
    for index in &indices {
        table.slot_mut(*index).into_iter().for_each(|slot| slot.set(SENT));
        encoder.encode_flow(table, *index);
    }
    indices.len()
}
