//! What replicas are still to be told of a shard, and what they have been told.
//!
//! ```text
//!             event ──► flow ──► young ── least age of its protocol ──► dirty ── drain ──► outbox: items in batches
//! its end, if told of, ──► ends ────────────────────────────────────────────────► first
//!            a bucket that replicas lack, or that fell out of the bounds here ──► last: begin, its flows, end
//! ```
//!
//! Where all flows must be of some age, drains pause in between: see [`ReplicationFilter::batch_delay_ms`].
//!
//! Between two drains a flow is told at most once, as it is then; one that ends before it was told is never told at all.
//! What is told is checked: a flow that changed in nothing that replicas hold is not told again, and a bucket's digest
//! is what a replica's must be once it has come to this place in the stream.
//!
//! Whatever does not fit the bounds makes its bucket stale, and a stale bucket is told whole when there is room. So a
//! replication stage that is slow, or stands still, costs no memory and no event.

use std::collections::VecDeque;
use std::sync::Arc;

use ctflow_parser::compact::{Address, V4, V6};
use ctflow_parser::tuple::FlowKey;
use ctflow_replicate::buckets::{BUCKETS, BucketSet, EXPECTATIONS, bucket_of};
use ctflow_replicate::entry;

use super::digests::Digests;
use super::expectations::Expectations;
use super::outbox::Outbox;
use super::table::{DIRTY, SENT, Slot, Table, YOUNG};
use crate::filter::ReplicationFilter;
use crate::limits::{LEDGER_DIRTY_MAX, LEDGER_ENDS_MAX, LEDGER_YOUNG_MAX};

/// A flow that waits for its least age.
#[derive(Debug, Clone, Copy)]
struct Young {
    due_ms: u64,
    index: u32,
    id: u32,
    v6: bool,
}

impl Young {
    /// How long it is still to wait.
    fn remaining_ms(&self, least_ms: u32, now_ms: u64) -> u64 {
        remaining_ms(self.due_ms, now_ms, least_ms)
    }
}

/// A flow that is gone and that replicas hold.
#[derive(Debug, Clone, Copy)]
struct FlowEnd {
    key: FlowKey,
    id: u32,
    changed_ms: u64,
}

/// The bookkeeping of one shard.
#[derive(Debug)]
pub(super) struct Ledger {
    filter: Arc<ReplicationFilter>,
    /// Whether it selects every flow, which is not asked of each.
    selects_all: bool,
    /// Before then, in milliseconds since 1970, changes and ends wait.
    paused_until_ms: u64,
    dirty: [VecDeque<u32>; 2],
    /// By least age, each in the order of its flows' coming.
    young: Vec<(u32, VecDeque<Young>)>,
    ends: VecDeque<FlowEnd>,
    stale_buckets: BucketSet,
    /// The number of digests that are to be told.
    digests_requested: Option<u64>,
    digests: Digests,
    scratch: Vec<u8>,
    /// Changes of flows that are not to be told.
    pub(super) filtered: u64,
    /// Changes that were not told because a later one of the flow is.
    pub(super) conflated: u64,
    /// Flows that could not be told: see [`entry::NotEncodable`].
    pub(super) unencodable: u64,
}

impl Ledger {
    pub(super) fn new(choice: Arc<ReplicationFilter>) -> Self {
        Self {
            selects_all: choice.selects_all(),
            filter: choice,
            paused_until_ms: 0,
            dirty: [VecDeque::new(), VecDeque::new()],
            young: Vec::new(),
            ends: VecDeque::new(),
            stale_buckets: BucketSet::default(),
            digests_requested: None,
            digests: Digests::new(),
            scratch: Vec::new(),
            filtered: 0,
            conflated: 0,
            unencodable: 0,
        }
    }

    /// Another choice holds: every bucket of flows is told by it.
    pub(super) fn set_filter(&mut self, choice: Arc<ReplicationFilter>) {
        self.selects_all = choice.selects_all();
        self.filter = choice;
        self.stale_buckets = self.stale_buckets.union(&(0..BUCKETS).collect());
    }

    /// These buckets are to be told whole.
    pub(super) fn queue_buckets(&mut self, buckets: &BucketSet) {
        self.stale_buckets = self.stale_buckets.union(buckets);
    }

    /// All digests are to be told, under `number`.
    pub(super) fn queue_digests(&mut self, number: u64) {
        self.digests_requested = Some(number);
    }

    /// The flow at `index` is new, or has changed.
    #[inline]
    pub(super) fn on_flow_changed<A: Address>(&mut self, table: &mut Table<A>, index: u32, now_ms: u64) {
        let Some(slot) = table.slot_mut(index) else { return };
        if slot.has(DIRTY | YOUNG) {
            self.conflated += 1;
            return;
        }
        let least = self.filter.least_age_ms(slot.flow.proto);
        if least > 0 && !slot.has(SENT) && self.queue_young::<A>(least, index, slot.flow.id, now_ms) {
            return slot.set(YOUNG);
        }
        self.mark_dirty(slot, index);
    }

    #[inline]
    fn mark_dirty<A: Address>(&mut self, slot: &mut Slot<A>, index: u32) {
        let dirty = &mut self.dirty[family_index::<A>()];
        if dirty.len() < LEDGER_DIRTY_MAX {
            slot.set(DIRTY);
            dirty.push_back(index);
        } else {
            self.stale_buckets.insert(bucket_of(slot.flow.id));
        }
    }

    /// Has a flow wait; whether there is room for it.
    fn queue_young<A: Address>(&mut self, least_ms: u32, index: u32, id: u32, now_ms: u64) -> bool {
        let place = self.young.iter().position(|(age, _)| *age == least_ms).unwrap_or_else(|| {
            self.young.push((least_ms, VecDeque::new()));
            self.young.len() - 1
        });
        let Some((_, queue)) = self.young.get_mut(place) else { return false };
        let room = queue.len() < LEDGER_YOUNG_MAX;
        if room {
            queue.push_back(Young {
                due_ms: now_ms.saturating_add(least_ms.into()),
                index,
                id,
                v6: family_index::<A>() == 1,
            });
        }
        room
    }

    /// The flow that `slot` was is gone.
    #[inline]
    pub(super) fn on_flow_ended<A: Address>(&mut self, slot: &Slot<A>, now_ms: u64) {
        self.conflated += u64::from(slot.has(DIRTY | YOUNG));
        if !slot.has(SENT) {
            return;
        }
        let id = slot.flow.id;
        self.digests.replace_check(bucket_of(id), Some(slot.check), None);
        if self.ends.len() < LEDGER_ENDS_MAX {
            self.ends.push_back(FlowEnd { key: slot.flow.key(), id, changed_ms: now_ms });
        } else {
            self.stale_buckets.insert(bucket_of(id));
        }
    }

    /// In how many milliseconds there is something to tell: changes after the pause, the next flow when it is old enough,
    /// and what was asked for at once.
    pub(super) fn pending_in_ms(&self, now_ms: u64) -> Option<u64> {
        if self.digests_requested.is_some() || !self.stale_buckets.is_empty() {
            return Some(0);
        }
        let grown = self
            .young
            .iter()
            .filter_map(|(least_ms, queue)| Some(queue.front()?.remaining_ms(*least_ms, now_ms)))
            .min();
        let first = if self.has_changes() { Some(0) } else { grown };
        let pause_ms = remaining_ms(self.paused_until_ms, now_ms, self.filter.batch_delay_ms());
        first.map(|in_ms| in_ms.max(pause_ms))
    }

    fn has_changes(&self) -> bool {
        !self.ends.is_empty() || self.dirty.iter().any(|dirty| !dirty.is_empty())
    }

    /// Changes wait no longer.
    pub(super) fn cancel_pause(&mut self) {
        self.paused_until_ms = 0;
    }

    /// Tells what there is to tell, as far as the outbox has room for it: ends, changes, stale buckets, and digests when
    /// nothing else is left.
    pub(super) fn drain(
        &mut self,
        v4: &mut Table<V4>,
        v6: &mut Table<V6>,
        expectations: &mut Expectations,
        now_ms: u64,
        outbox: &mut Outbox,
    ) {
        self.promote_aged_flows(v4, v6, now_ms);
        self.send_ends(outbox);
        self.send_dirty(v4, outbox);
        self.send_dirty(v6, outbox);
        if outbox.has_room() {
            expectations.send_changed(&mut self.digests, outbox);
        }
        if expectations.take_overflowed() {
            self.stale_buckets.insert(EXPECTATIONS);
        }
        while outbox.has_room() {
            let Some(bucket) = self.stale_buckets.iter().next() else { break };
            self.stale_buckets.remove(bucket);
            self.send_bucket(bucket, v4, v6, expectations, outbox);
        }
        if !self.has_changes() {
            self.paused_until_ms = now_ms.saturating_add(self.filter.batch_delay_ms().into());
        }
        if outbox.has_room()
            && let Some(number) = self.digests_requested.take()
        {
            outbox.write_digests(number, self.digests.all());
        }
    }

    /// Flows that have reached their least age become dirty.
    fn promote_aged_flows(&mut self, v4: &mut Table<V4>, v6: &mut Table<V6>, now_ms: u64) {
        let mut young = std::mem::take(&mut self.young);
        for (least_ms, queue) in &mut young {
            while let Some(one) = queue.pop_front_if(|one| one.remaining_ms(*least_ms, now_ms) == 0) {
                if one.v6 { self.promote_flow(v6, &one) } else { self.promote_flow(v4, &one) }
            }
        }
        self.young = young;
    }

    /// Its place may be another flow's by now.
    fn promote_flow<A: Address>(&mut self, table: &mut Table<A>, young: &Young) {
        if let Some(slot) = table.slot_mut(young.index)
            && slot.flow.id == young.id
            && slot.has(YOUNG)
        {
            slot.clear(YOUNG);
            self.mark_dirty(slot, young.index);
        }
    }

    fn send_ends(&mut self, outbox: &mut Outbox) {
        while outbox.has_room()
            && let Some(end) = self.ends.pop_front()
        {
            outbox.write_flow_end(&end.key, end.id, end.changed_ms);
        }
    }

    fn send_dirty<A: Address>(&mut self, table: &mut Table<A>, outbox: &mut Outbox) {
        while outbox.has_room()
            && let Some(index) = self.dirty[family_index::<A>()].pop_front()
        {
            if table.slot(index).is_some_and(|slot| slot.has(DIRTY)) {
                self.send_flow(table, index, SendUnchanged::No, outbox);
            }
        }
    }

    fn send_bucket(
        &mut self,
        bucket: u16,
        v4: &mut Table<V4>,
        v6: &mut Table<V6>,
        expectations: &mut Expectations,
        outbox: &mut Outbox,
    ) {
        outbox.write_bucket_begin(bucket);
        if bucket == EXPECTATIONS {
            expectations.send_all(&mut self.digests, outbox);
        } else {
            self.send_bucket_family(bucket, v4, outbox);
            self.send_bucket_family(bucket, v6, outbox);
        }
        outbox.write_bucket_end(bucket);
    }

    fn send_bucket_family<A: Address>(&mut self, bucket: u16, table: &mut Table<A>, outbox: &mut Outbox) {
        let indices: Vec<_> = table.bucket_indices(bucket).collect();
        for index in indices {
            if table.slot(index).is_some_and(|slot| !slot.has(YOUNG)) {
                self.send_flow(table, index, SendUnchanged::Yes, outbox);
            }
        }
    }

    /// Tells a flow as it is; or its end, where it is not among those to be replicated any more.
    fn send_flow<A: Address>(&mut self, table: &mut Table<A>, index: u32, repeat: SendUnchanged, outbox: &mut Outbox) {
        self.scratch.clear();
        match table.flow_without_extra(index).filter(|_| self.selects_all) {
            Some(flow) => entry::encode_compact(flow, &mut self.scratch),
            None => {
                let Some(view) = table.view(index) else { return };
                let selected = self.filter.selects(&view);
                if !selected || entry::encode_flow(&view, &mut self.scratch).is_err() {
                    self.unencodable += u64::from(selected);
                    self.filtered += u64::from(!selected && repeat == SendUnchanged::No);
                    return self.retract_flow(table, index, outbox);
                }
            }
        }
        let check = entry::entry_check(&self.scratch);
        let Some(slot) = table.slot_mut(index) else { return };
        let known = slot.has(SENT).then_some(slot.check);
        slot.clear(DIRTY);
        slot.set(SENT);
        slot.check = check;
        if known == Some(check) && repeat == SendUnchanged::No {
            return;
        }
        let (id, changed) = (slot.flow.id, slot.changed);
        self.digests.replace_check(bucket_of(id), known, Some(check));
        outbox.write_flow(A::FAMILY, &self.scratch, changed.time_ms(outbox.now_ms()));
    }

    fn retract_flow<A: Address>(&mut self, table: &mut Table<A>, index: u32, outbox: &mut Outbox) {
        let Some(slot) = table.slot_mut(index) else { return };
        slot.clear(DIRTY);
        if !slot.has(SENT) {
            return;
        }
        slot.clear(SENT);
        let (key, id, check, changed) = (slot.flow.key(), slot.flow.id, slot.check, slot.changed);
        self.digests.replace_check(bucket_of(id), Some(check), None);
        outbox.write_flow_end(&key, id, changed.time_ms(outbox.now_ms()));
    }
}

/// What is left of a wait that was `whole_ms` long. Nothing is left of one that seems longer now than it ever was: it was
/// begun before the clock was set back.
fn remaining_ms(until_ms: u64, now_ms: u64, whole_ms: u32) -> u64 {
    let left_ms = until_ms.saturating_sub(now_ms);
    if left_ms <= whole_ms.into() { left_ms } else { 0 }
}

/// Whether to tell a flow that replicas know just so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendUnchanged {
    No,
    Yes,
}

fn family_index<A: Address>() -> usize {
    usize::from(A::FAMILY != ctflow_parser::uapi::AF_INET)
}
