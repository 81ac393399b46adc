//! What of a replica is still to be put into this node's kernel, where replicas go there at once.
//!
//! ```text
//! told ──► dirty ──┐
//! ended ─► ends ───┼── hand ──► so many entries ──► the thread that injects them
//!          walk ───┘            bucket by bucket, after anything that did not fit, or to confirm all there is
//! ```
//!
//! A flow that changes twice between two calls is handed over once, as it is then; one that ends before it was handed
//! over, never. What does not fit the bounds is made good by a walk over all buckets; an end that does not is seen when
//! the kernel's table is swept after it, for which [`Handover::take_ends_lost`] asks.

use std::collections::VecDeque;

use ctflow_parser::compact::{Address, V4, V6};
use ctflow_parser::tuple::FlowKey;
use ctflow_replicate::buckets::BUCKETS;

use super::encode_entries::EntryEncoder;
use super::expectations::Expectations;
use super::table::{DIRTY, SENT, Slot, Table};
use crate::limits::{LEDGER_DIRTY_MAX, LEDGER_ENDS_MAX};

/// What is handed over in one go.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Flows that ended.
    pub(crate) ends: Vec<FlowKey>,
    /// Flows, in the form of the control socket.
    pub(crate) flows: Vec<u8>,
    /// Expectations, likewise.
    pub(crate) expectations: Vec<u8>,
    /// How many flows there are in `flows`.
    pub(crate) count: usize,
}

impl Pending {
    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.flows.is_empty() && self.expectations.is_empty()
    }
}

/// The bookkeeping of one replica.
#[derive(Debug)]
pub(super) struct Handover {
    dirty: [VecDeque<u32>; 2],
    ends: VecDeque<FlowKey>,
    /// Expectations have come.
    expectations_changed: bool,
    /// The next bucket of a walk; past the last one there is none.
    next_bucket: u16,
    ends_lost: bool,
}

impl Handover {
    pub(super) fn new() -> Self {
        Self {
            dirty: Default::default(),
            ends: VecDeque::new(),
            expectations_changed: false,
            next_bucket: BUCKETS,
            ends_lost: false,
        }
    }

    /// The flow at `index` is new, or was told again.
    pub(super) fn on_flow_changed<A: Address>(&mut self, table: &mut Table<A>, index: u32) {
        let Some(slot) = table.slot_mut(index).filter(|slot| !slot.has(DIRTY)) else { return };
        let dirty = &mut self.dirty[family_index::<A>()];
        if dirty.len() < LEDGER_DIRTY_MAX {
            slot.set(DIRTY);
            dirty.push_back(index);
        } else {
            self.next_bucket = 0;
        }
    }

    /// A flow is gone from the replica.
    pub(super) fn on_flow_ended<A: Address>(&mut self, slot: &Slot<A>) {
        let Some(key) = slot.flow.view().key().filter(|_| slot.has(SENT)) else { return };
        if self.ends.len() < LEDGER_ENDS_MAX {
            self.ends.push_back(key);
        } else {
            self.ends_lost = true;
        }
    }

    /// An expectation has come.
    pub(super) fn on_expectation_changed(&mut self) {
        self.expectations_changed = true;
    }

    /// Hands over everything there is once more.
    pub(super) fn requeue_all(&mut self) {
        (self.next_bucket, self.expectations_changed) = (0, true);
    }

    /// Whether nothing is left to hand over.
    pub(super) fn is_empty(&self) -> bool {
        let done = self.dirty.iter().all(VecDeque::is_empty) && self.next_bucket >= BUCKETS;
        done && self.ends.is_empty() && !self.expectations_changed
    }

    /// Whether an end was lost; says so once.
    pub(super) fn take_ends_lost(&mut self) -> bool {
        std::mem::take(&mut self.ends_lost)
    }

    /// Hands over up to about `limit` flows and as many ends: a bucket of a walk is handed over whole.
    pub(super) fn drain_pending(
        &mut self,
        v4: &mut Table<V4>,
        v6: &mut Table<V6>,
        expectations: &Expectations,
        (stream, now_ms): (u16, u64),
        limit: usize,
        handed: &mut Pending,
    ) {
        let ends = limit.saturating_sub(handed.ends.len()).min(self.ends.len());
        handed.ends.extend(self.ends.drain(..ends));
        let mut show = EntryEncoder { stream, now_ms, out: &mut handed.flows };
        let [dirty4, dirty6] = &mut self.dirty;
        handed.count += drain_dirty(dirty4, v4, &mut show, limit.saturating_sub(handed.count));
        handed.count += drain_dirty(dirty6, v6, &mut show, limit.saturating_sub(handed.count));
        while handed.count < limit && self.next_bucket < BUCKETS {
            handed.count +=
                drain_bucket(self.next_bucket, v4, &mut show) + drain_bucket(self.next_bucket, v6, &mut show);
            self.next_bucket += 1;
        }
        // They belong to flows, which go before them.
        if self.dirty.iter().all(VecDeque::is_empty)
            && self.next_bucket >= BUCKETS
            && std::mem::take(&mut self.expectations_changed)
        {
            EntryEncoder { stream, now_ms, out: &mut handed.expectations }.encode_expectations(expectations);
        }
    }
}

fn family_index<A: Address>() -> usize {
    usize::from(A::FAMILY != V4::FAMILY)
}

fn drain_dirty<A: Address>(
    dirty: &mut VecDeque<u32>,
    table: &mut Table<A>,
    show: &mut EntryEncoder<'_>,
    limit: usize,
) -> usize {
    let mut count = 0;
    while count < limit {
        let Some(index) = dirty.pop_front() else { break };
        // The place may be another flow's by now, or have been handed over as that.
        let Some(slot) = table.slot_mut(index).filter(|slot| slot.has(DIRTY)) else { continue };
        slot.clear(DIRTY);
        slot.set(SENT);
        show.encode_flow(table, index);
        count += 1;
    }
    count
}

fn drain_bucket<A: Address>(bucket: u16, table: &mut Table<A>, show: &mut EntryEncoder<'_>) -> usize {
    let places: Vec<u32> = table.bucket_indices(bucket).collect();
    for index in &places {
        table.slot_mut(*index).into_iter().for_each(|slot| slot.set(SENT));
        show.encode_flow(table, *index);
    }
    places.len()
}
