//! What replicas are still to be told of a shard, and what they have been told.
//!
//! ```text
//!             event ──► flow ──► young ── least age of its protocol ──► dirty ── drain ──► outbox: items in batches
//! its end, if told of, ──► ends ────────────────────────────────────────────────► first
//!            a bucket that replicas lack, or that fell out of the bounds here ──► last: begin, its flows, end
//! ```
//!
//! Where all flows must be of some age, drains pause in between: see [`Choice::pause_ms`].
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
use super::table::{DIRTY, PUBLISHED, Slot, Table, YOUNG};
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
    fn left_ms(&self, least_ms: u32, now_ms: u64) -> u64 {
        left_ms(self.due_ms, now_ms, least_ms)
    }
}

/// A flow that is gone and that replicas hold.
#[derive(Debug, Clone, Copy)]
struct End {
    key: FlowKey,
    id: u32,
    changed_ms: u64,
}

/// The bookkeeping of one shard.
#[derive(Debug)]
pub(super) struct Ledger {
    choice: Arc<ReplicationFilter>,
    /// Whether it selects every flow, which is not asked of each.
    selects_all: bool,
    /// Before then, in milliseconds since 1970, changes and ends wait.
    paused_until_ms: u64,
    dirty: [VecDeque<u32>; 2],
    /// By least age, each in the order of its flows' coming.
    young: Vec<(u32, VecDeque<Young>)>,
    ends: VecDeque<End>,
    stale: BucketSet,
    /// The number of digests that are to be told.
    digests_wanted: Option<u64>,
    digests: Digests,
    scratch: Vec<u8>,
    /// Changes of flows that are not to be told.
    pub(super) filtered: u64,
    /// Changes that were not told because a later one of the flow is.
    pub(super) conflated: u64,
    /// Flows that could not be told: see [`entry::NotEncodable`].
    pub(super) untellable: u64,
}

impl Ledger {
    pub(super) fn new(choice: Arc<ReplicationFilter>) -> Self {
        Self {
            selects_all: choice.selects_all(),
            choice,
            paused_until_ms: 0,
            dirty: [VecDeque::new(), VecDeque::new()],
            young: Vec::new(),
            ends: VecDeque::new(),
            stale: BucketSet::default(),
            digests_wanted: None,
            digests: Digests::new(),
            scratch: Vec::new(),
            filtered: 0,
            conflated: 0,
            untellable: 0,
        }
    }

    /// Another choice holds: every bucket of flows is told by it.
    pub(super) fn choose(&mut self, choice: Arc<ReplicationFilter>) {
        self.selects_all = choice.selects_all();
        self.choice = choice;
        self.stale = self.stale.union(&(0..BUCKETS).collect());
    }

    /// These buckets are to be told whole.
    pub(super) fn want_buckets(&mut self, buckets: &BucketSet) {
        self.stale = self.stale.union(buckets);
    }

    /// All digests are to be told, under `number`.
    pub(super) fn want_digests(&mut self, number: u64) {
        self.digests_wanted = Some(number);
    }

    /// The flow at `index` is new, or has changed.
    #[inline]
    pub(super) fn changed<A: Address>(&mut self, table: &mut Table<A>, index: u32, now_ms: u64) {
        let Some(slot) = table.slot_mut(index) else { return };
        if slot.has(DIRTY | YOUNG) {
            self.conflated += 1;
            return;
        }
        let least = self.choice.least_age_ms(slot.flow.proto);
        if least > 0 && !slot.has(PUBLISHED) && self.wait::<A>(least, index, slot.flow.id, now_ms) {
            return slot.set(YOUNG);
        }
        self.mark_dirty(slot, index);
    }

    #[inline]
    fn mark_dirty<A: Address>(&mut self, slot: &mut Slot<A>, index: u32) {
        let dirty = &mut self.dirty[family::<A>()];
        if dirty.len() < LEDGER_DIRTY_MAX {
            slot.set(DIRTY);
            dirty.push_back(index);
        } else {
            self.stale.insert(bucket_of(slot.flow.id));
        }
    }

    /// Has a flow wait; whether there is room for it.
    fn wait<A: Address>(&mut self, least_ms: u32, index: u32, id: u32, now_ms: u64) -> bool {
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
                v6: family::<A>() == 1,
            });
        }
        room
    }

    /// The flow that `slot` was is gone.
    #[inline]
    pub(super) fn ended<A: Address>(&mut self, slot: &Slot<A>, now_ms: u64) {
        self.conflated += u64::from(slot.has(DIRTY | YOUNG));
        if !slot.has(PUBLISHED) {
            return;
        }
        let id = slot.flow.id;
        self.digests.change(bucket_of(id), Some(slot.check), None);
        if self.ends.len() < LEDGER_ENDS_MAX {
            self.ends.push_back(End { key: slot.flow.key(), id, changed_ms: now_ms });
        } else {
            self.stale.insert(bucket_of(id));
        }
    }

    /// In how many milliseconds there is something to tell: changes after the pause, the next flow when it is old enough,
    /// and what was asked for at once.
    pub(super) fn news_in_ms(&self, now_ms: u64) -> Option<u64> {
        if self.digests_wanted.is_some() || !self.stale.is_empty() {
            return Some(0);
        }
        let grown =
            self.young.iter().filter_map(|(least_ms, queue)| Some(queue.front()?.left_ms(*least_ms, now_ms))).min();
        let first = if self.has_changes() { Some(0) } else { grown };
        let pause_ms = left_ms(self.paused_until_ms, now_ms, self.choice.batch_delay_ms());
        first.map(|in_ms| in_ms.max(pause_ms))
    }

    fn has_changes(&self) -> bool {
        !self.ends.is_empty() || self.dirty.iter().any(|dirty| !dirty.is_empty())
    }

    /// Changes wait no longer.
    pub(super) fn end_pause(&mut self) {
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
        self.grow_up(v4, v6, now_ms);
        self.tell_ends(outbox);
        self.tell_dirty(v4, outbox);
        self.tell_dirty(v6, outbox);
        if outbox.has_room() {
            expectations.tell(&mut self.digests, outbox);
        }
        if expectations.take_stale() {
            self.stale.insert(EXPECTATIONS);
        }
        while outbox.has_room() {
            let Some(bucket) = self.stale.iter().next() else { break };
            self.stale.remove(bucket);
            self.tell_bucket(bucket, v4, v6, expectations, outbox);
        }
        if !self.has_changes() {
            self.paused_until_ms = now_ms.saturating_add(self.choice.batch_delay_ms().into());
        }
        if outbox.has_room()
            && let Some(number) = self.digests_wanted.take()
        {
            outbox.digests(number, self.digests.all());
        }
    }

    /// Flows that have reached their least age become dirty.
    fn grow_up(&mut self, v4: &mut Table<V4>, v6: &mut Table<V6>, now_ms: u64) {
        let mut young = std::mem::take(&mut self.young);
        for (least_ms, queue) in &mut young {
            while let Some(one) = queue.pop_front_if(|one| one.left_ms(*least_ms, now_ms) == 0) {
                if one.v6 { self.grown(v6, &one) } else { self.grown(v4, &one) }
            }
        }
        self.young = young;
    }

    /// Its place may be another flow's by now.
    fn grown<A: Address>(&mut self, table: &mut Table<A>, young: &Young) {
        if let Some(slot) = table.slot_mut(young.index)
            && slot.flow.id == young.id
            && slot.has(YOUNG)
        {
            slot.clear(YOUNG);
            self.mark_dirty(slot, young.index);
        }
    }

    fn tell_ends(&mut self, outbox: &mut Outbox) {
        while outbox.has_room()
            && let Some(end) = self.ends.pop_front()
        {
            outbox.flow_end(&end.key, end.id, end.changed_ms);
        }
    }

    fn tell_dirty<A: Address>(&mut self, table: &mut Table<A>, outbox: &mut Outbox) {
        while outbox.has_room()
            && let Some(index) = self.dirty[family::<A>()].pop_front()
        {
            if table.slot(index).is_some_and(|slot| slot.has(DIRTY)) {
                self.tell_flow(table, index, Repeat::No, outbox);
            }
        }
    }

    fn tell_bucket(
        &mut self,
        bucket: u16,
        v4: &mut Table<V4>,
        v6: &mut Table<V6>,
        expectations: &mut Expectations,
        outbox: &mut Outbox,
    ) {
        outbox.begin(bucket);
        if bucket == EXPECTATIONS {
            expectations.tell_all(&mut self.digests, outbox);
        } else {
            self.tell_bucket_of(bucket, v4, outbox);
            self.tell_bucket_of(bucket, v6, outbox);
        }
        outbox.end(bucket);
    }

    fn tell_bucket_of<A: Address>(&mut self, bucket: u16, table: &mut Table<A>, outbox: &mut Outbox) {
        let indices: Vec<_> = table.bucket(bucket).collect();
        for index in indices {
            if table.slot(index).is_some_and(|slot| !slot.has(YOUNG)) {
                self.tell_flow(table, index, Repeat::Yes, outbox);
            }
        }
    }

    /// Tells a flow as it is; or its end, where it is not among those to be replicated any more.
    fn tell_flow<A: Address>(&mut self, table: &mut Table<A>, index: u32, repeat: Repeat, outbox: &mut Outbox) {
        self.scratch.clear();
        match table.plain(index).filter(|_| self.selects_all) {
            Some(flow) => entry::encode_compact(flow, &mut self.scratch),
            None => {
                let Some(view) = table.view(index) else { return };
                let selected = self.choice.selects(&view);
                if !selected || entry::encode_flow(&view, &mut self.scratch).is_err() {
                    self.untellable += u64::from(selected);
                    self.filtered += u64::from(!selected && repeat == Repeat::No);
                    return self.retract(table, index, outbox);
                }
            }
        }
        let check = entry::entry_check(&self.scratch);
        let Some(slot) = table.slot_mut(index) else { return };
        let known = slot.has(PUBLISHED).then_some(slot.check);
        slot.clear(DIRTY);
        slot.set(PUBLISHED);
        slot.check = check;
        if known == Some(check) && repeat == Repeat::No {
            return;
        }
        let (id, changed) = (slot.flow.id, slot.changed);
        self.digests.change(bucket_of(id), known, Some(check));
        outbox.flow(A::FAMILY, &self.scratch, changed.time_ms(outbox.now_ms()));
    }

    fn retract<A: Address>(&mut self, table: &mut Table<A>, index: u32, outbox: &mut Outbox) {
        let Some(slot) = table.slot_mut(index) else { return };
        slot.clear(DIRTY);
        if !slot.has(PUBLISHED) {
            return;
        }
        slot.clear(PUBLISHED);
        let (key, id, check, changed) = (slot.flow.key(), slot.flow.id, slot.check, slot.changed);
        self.digests.change(bucket_of(id), Some(check), None);
        outbox.flow_end(&key, id, changed.time_ms(outbox.now_ms()));
    }
}

/// What is left of a wait that was `whole_ms` long. Nothing is left of one that seems longer now than it ever was: it was
/// begun before the clock was set back.
fn left_ms(until_ms: u64, now_ms: u64, whole_ms: u32) -> u64 {
    let left_ms = until_ms.saturating_sub(now_ms);
    if left_ms <= whole_ms.into() { left_ms } else { 0 }
}

/// Whether to tell a flow that replicas know just so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    No,
    Yes,
}

fn family<A: Address>() -> usize {
    usize::from(A::FAMILY != ctflow_parser::uapi::AF_INET)
}
