//! The changes of a shard that are still to be sent to replicas, and a digest of what was sent.
//!
//! ```text
//! flow created or updated ──► young ── least age reached ──► dirty ─────┐
//! flow ended that replicas hold ──► ends ───────────────────────────────┼── drain ──► outbox: items in batches
//! bucket requested by a replica, or with a change that did not fit ─────┘
//! ```
//!
//! One drain writes, in this order: ends, dirty flows, expectations, whole buckets (begin, flows, end), digests. Where
//! every protocol has a least age, drains are spaced: see [`ReplicationFilter::batch_delay_ms`].
//!
//! Between two drains a flow is sent at most once, in its newest state. A flow that ends before it was sent is never
//! sent. A flow whose encoded entry is the one that replicas already hold is not sent again: the checks of the two are
//! compared. The digest of a bucket is the digest that a replica computes after it applied the stream up to that point.
//!
//! Every queue is bounded. A change that does not fit makes its bucket stale, and a stale bucket is sent whole when the
//! outbox has room. So a replication stage that is slow or stuck costs no further memory, loses no
//! change, and never makes the worker miss an event.

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
use crate::limits::{LEDGER_DIRTY_MAX, LEDGER_ENDS_MAX, LEDGER_YOUNG_MAX};
use crate::replication::filter::ReplicationFilter;

/// A flow that waits for its least age.
#[derive(Debug, Clone, Copy)]
struct Young {
    /// When the flow reaches its least age, in milliseconds since 1970.
    due_ms: u64,
    /// The flow's slot in its table.
    index: u32,
    /// The flow's kernel id, because another flow may have the slot by then.
    id: u32,
    /// Whether the flow is in the IPv6 table.
    v6: bool,
}

impl Young {
    /// The milliseconds until the flow reaches its least age of `least_ms`; 0 when it has.
    fn remaining_ms(&self, least_ms: u32, now_ms: u64) -> u64 {
        remaining_ms(self.due_ms, now_ms, least_ms)
    }
}

/// The end of a flow that replicas hold.
#[derive(Debug, Clone, Copy)]
struct FlowEnd {
    key: FlowKey,
    id: u32,
    /// When the flow ended, in milliseconds since 1970.
    changed_ms: u64,
}

/// The changes of one shard that are to be sent to replicas.
#[derive(Debug)]
pub(super) struct Ledger {
    filter: Arc<ReplicationFilter>,
    /// Whether the filter selects every flow, computed once and not for each flow.
    selects_all: bool,
    /// The end of the batch delay, in milliseconds since 1970. Changes and ends wait until then.
    delayed_until_ms: u64,
    /// The slots of changed flows, for IPv4 and IPv6, in the order of the changes.
    dirty: [VecDeque<u32>; 2],
    /// A queue for each least age in milliseconds, in the order in which they were queued.
    young: Vec<(u32, VecDeque<Young>)>,
    ends: VecDeque<FlowEnd>,
    /// Buckets that are to be sent whole.
    stale_buckets: BucketSet,
    /// The number under which the digests are to be sent; `None` when no replica requested them.
    digests_requested: Option<u64>,
    /// The digest of each bucket, as replicas have it after they applied everything sent so far and the queued ends.
    digests: Digests,
    /// The buffer that entries are encoded into.
    scratch: Vec<u8>,
    /// Changes of flows that the filter does not select.
    pub(super) filtered: u64,
    /// Changes that were not sent because a later change of the same flow replaced them.
    pub(super) conflated: u64,
}

impl Ledger {
    /// An empty ledger.
    pub(super) fn new(filter: Arc<ReplicationFilter>) -> Self {
        Self {
            selects_all: filter.selects_all(),
            filter,
            delayed_until_ms: 0,
            dirty: [VecDeque::new(), VecDeque::new()],
            young: Vec::new(),
            ends: VecDeque::new(),
            stale_buckets: BucketSet::default(),
            digests_requested: None,
            digests: Digests::new(),
            scratch: Vec::new(),
            filtered: 0,
            conflated: 0,
        }
    }

    /// Replaces the filter, and queues every bucket of flows, so that replicas receive what the new filter selects.
    pub(super) fn set_filter(&mut self, filter: Arc<ReplicationFilter>) {
        self.selects_all = filter.selects_all();
        self.filter = filter;
        self.stale_buckets = self.stale_buckets.union(&(0..BUCKETS).collect());
    }

    /// Queues these buckets to be sent whole.
    pub(super) fn queue_buckets(&mut self, buckets: &BucketSet) {
        self.stale_buckets = self.stale_buckets.union(buckets);
    }

    /// Queues all digests to be sent under `number`. A request that was not served yet is replaced.
    pub(super) fn queue_digests(&mut self, number: u64) {
        self.digests_requested = Some(number);
    }

    /// Queues the flow at `index`, which was created or has changed.
    #[inline]
    pub(super) fn on_flow_changed<A: Address>(&mut self, table: &mut Table<A>, index: u32, now_ms: u64) {
        let Some(slot) = table.slot_mut(index) else { return };
        if slot.has(DIRTY | YOUNG) {
            // It is queued already, and is encoded only when it is sent: that entry will have this change, too.
            self.conflated += 1;
            return;
        }
        let least_ms = self.filter.least_age_ms(slot.flow.proto);
        // Replicas that hold the flow would keep its old state if its changes waited. A flow that finds its young queue
        // full is sent early: that costs a replica an entry, whereas dropping the flow would lose it.
        if least_ms > 0 && !slot.has(SENT) && self.queue_young::<A>(least_ms, index, slot.flow.id, now_ms) {
            return slot.set(YOUNG);
        }
        self.mark_dirty(slot, index);
    }

    /// Queues a flow to be sent by the next drain; where the queue is full, makes its bucket stale instead.
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

    /// Queues a flow until it is `least_ms` old; returns whether the queue had room.
    fn queue_young<A: Address>(&mut self, least_ms: u32, index: u32, id: u32, now_ms: u64) -> bool {
        // One queue for each least age: within it flows come due in the order in which they were queued, so only the
        // front has to be checked.
        let position = self.young.iter().position(|(age, _)| *age == least_ms).unwrap_or_else(|| {
            self.young.push((least_ms, VecDeque::new()));
            self.young.len() - 1
        });
        let Some((_, queue)) = self.young.get_mut(position) else { return false };
        let has_room = queue.len() < LEDGER_YOUNG_MAX;
        if has_room {
            queue.push_back(Young {
                due_ms: now_ms.saturating_add(least_ms.into()),
                index,
                id,
                v6: family_index::<A>() == 1,
            });
        }
        has_room
    }

    /// Queues the end of the flow that was in `slot` and is already removed from its table.
    #[inline]
    pub(super) fn on_flow_ended<A: Address>(&mut self, slot: &Slot<A>, now_ms: u64) {
        self.conflated += u64::from(slot.has(DIRTY | YOUNG));
        if !slot.has(SENT) {
            return; // no replica holds it
        }
        let id = slot.flow.id;
        // The digest changes now, although the end is sent later: digests are sent only when no end is left in the
        // queue.
        self.digests.replace_check(bucket_of(id), Some(slot.check), None);
        if self.ends.len() < LEDGER_ENDS_MAX {
            self.ends.push_back(FlowEnd { key: slot.flow.key(), id, changed_ms: now_ms });
        } else {
            // At the end of a bucket that is sent whole, a replica purges the entries that were not in it.
            self.stale_buckets.insert(bucket_of(id));
        }
    }

    /// In how many milliseconds there is something to send: requested buckets and digests at once, changes after the
    /// batch delay, the first young flow when it has reached its least age. `None` where nothing is queued.
    pub(super) fn pending_in_ms(&self, now_ms: u64) -> Option<u64> {
        if self.digests_requested.is_some() || !self.stale_buckets.is_empty() {
            return Some(0);
        }
        let first_young_ms = self
            .young
            .iter()
            .filter_map(|(least_ms, queue)| Some(queue.front()?.remaining_ms(*least_ms, now_ms)))
            .min();
        let first_ms = if self.has_changes() { Some(0) } else { first_young_ms };
        let delay_ms = remaining_ms(self.delayed_until_ms, now_ms, self.filter.batch_delay_ms());
        first_ms.map(|in_ms| in_ms.max(delay_ms))
    }

    /// Whether ends or dirty flows are queued.
    fn has_changes(&self) -> bool {
        !self.ends.is_empty() || self.dirty.iter().any(|dirty| !dirty.is_empty())
    }

    /// Ends the current batch delay.
    pub(super) fn cancel_batch_delay(&mut self) {
        self.delayed_until_ms = 0;
    }

    /// Writes what is queued to `outbox`, as far as that has room: ends, dirty flows, expectations, stale buckets, and
    /// the digests when nothing else is left.
    pub(super) fn drain(
        &mut self,
        v4: &mut Table<V4>,
        v6: &mut Table<V6>,
        expectations: &mut Expectations,
        now_ms: u64,
        outbox: &mut Outbox,
    ) {
        self.promote_aged_flows(v4, v6, now_ms);
        // Ends go first, so that a replica frees room before it receives new flows, and receives the end of an old flow
        // before a new flow with the same tuple.
        self.send_ends(outbox);
        self.send_dirty(v4, outbox);
        self.send_dirty(v6, outbox);
        if outbox.has_room() {
            expectations.send_changed(&mut self.digests, outbox);
        }
        if expectations.take_overflowed() {
            // Ends of expectations were dropped: replicas find out by receiving all expectations.
            self.stale_buckets.insert(EXPECTATIONS);
        }
        while outbox.has_room() {
            let Some(bucket) = self.stale_buckets.iter().next() else { break };
            // The outbox accepts a bucket as a whole, past its bound if need be, so the bucket is up to date
            // afterwards.
            self.stale_buckets.remove(bucket);
            self.send_bucket(bucket, v4, v6, expectations, outbox);
        }
        // The next batch delay starts only when everything was sent: changes that are left have waited already.
        if !self.has_changes() {
            self.delayed_until_ms = now_ms.saturating_add(self.filter.batch_delay_ms().into());
        }
        // While the outbox is full something may be left in a queue that the digests already account for; a replica
        // would compare its own digests too early.
        if outbox.has_room()
            && let Some(number) = self.digests_requested.take()
        {
            outbox.write_digests(number, self.digests.all());
        }
    }

    /// Marks the flows dirty that have reached their least age.
    fn promote_aged_flows(&mut self, v4: &mut Table<V4>, v6: &mut Table<V6>, now_ms: u64) {
        let mut queues = std::mem::take(&mut self.young);
        for (least_ms, queue) in &mut queues {
            while let Some(young) = queue.pop_front_if(|young| young.remaining_ms(*least_ms, now_ms) == 0) {
                if young.v6 { self.promote_flow(v6, &young) } else { self.promote_flow(v4, &young) }
            }
        }
        self.young = queues;
    }

    /// Marks one flow dirty that has reached its least age, if it still exists.
    fn promote_flow<A: Address>(&mut self, table: &mut Table<A>, young: &Young) {
        // The flow may have ended, and its slot may hold another flow by now.
        if let Some(slot) = table.slot_mut(young.index)
            && slot.flow.id == young.id
            && slot.has(YOUNG)
        {
            slot.clear(YOUNG);
            self.mark_dirty(slot, young.index);
        }
    }

    /// Writes the queued ends, as far as the outbox has room.
    fn send_ends(&mut self, outbox: &mut Outbox) {
        while outbox.has_room()
            && let Some(end) = self.ends.pop_front()
        {
            outbox.write_flow_end(&end.key, end.id, end.changed_ms);
        }
    }

    /// Writes the dirty flows of one family, as far as the outbox has room.
    fn send_dirty<A: Address>(&mut self, table: &mut Table<A>, outbox: &mut Outbox) {
        while outbox.has_room()
            && let Some(index) = self.dirty[family_index::<A>()].pop_front()
        {
            // Without the flag the flow has ended, or it was sent with its bucket, or by an earlier entry of the queue
            // for the same slot.
            if table.slot(index).is_some_and(|slot| slot.has(DIRTY)) {
                self.send_flow(table, index, SendUnchanged::No, outbox);
            }
        }
    }

    /// Writes a whole bucket: its begin, all its entries, its end.
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

    /// Writes the flows of one family in a bucket, without those that wait for their least age.
    fn send_bucket_family<A: Address>(&mut self, bucket: u16, table: &mut Table<A>, outbox: &mut Outbox) {
        let indices: Vec<_> = table.bucket_indices(bucket).collect();
        for index in indices {
            if table.slot(index).is_some_and(|slot| !slot.has(YOUNG)) {
                self.send_flow(table, index, SendUnchanged::Yes, outbox);
            }
        }
    }

    /// Writes the current state of a flow; or its end, where replicas hold it and the filter does not select it any
    /// more.
    fn send_flow<A: Address>(
        &mut self,
        table: &mut Table<A>,
        index: u32,
        unchanged: SendUnchanged,
        outbox: &mut Outbox,
    ) {
        self.scratch.clear();
        // A flow without rare attributes that needs no filter is encoded from its record; building a view costs more.
        match table.flow_without_extra(index).filter(|_| self.selects_all) {
            Some(flow) => entry::encode_compact(flow, &mut self.scratch),
            None => {
                let Some(view) = table.view(index) else { return };
                // The filter is applied here and not to each change: what counts is the state that would be sent.
                let selected = self.filter.selects(&view);
                let is_encoded = selected && entry::encode_flow(&view, &mut self.scratch).is_ok();
                if !is_encoded {
                    if selected {
                        outbox.count_unencodable();
                    }
                    // In a bucket that is sent whole the flow need not have changed.
                    self.filtered += u64::from(!selected && unchanged == SendUnchanged::No);
                    return self.retract_flow(table, index, outbox);
                }
            }
        }
        let check = entry::entry_check(&self.scratch);
        let Some(slot) = table.slot_mut(index) else { return };
        let sent_before = slot.has(SENT).then_some(slot.check);
        slot.clear(DIRTY);
        slot.set(SENT);
        slot.check = check;
        if sent_before == Some(check) && unchanged == SendUnchanged::No {
            return; // replicas hold this very entry
        }
        let (id, changed) = (slot.flow.id, slot.changed);
        self.digests.replace_check(bucket_of(id), sent_before, Some(check));
        outbox.write_flow(A::FAMILY, &self.scratch, changed.time_ms(outbox.now_ms()));
    }

    /// Writes the end of a flow that goes on here and that replicas are not to hold any more.
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

/// The milliseconds until `until_ms`, at the end of a wait of `whole_ms`. The result is 0 where more than the whole
/// wait seems to be left: the clock was set back since the wait started, and nothing may wait for it to catch up.
fn remaining_ms(until_ms: u64, now_ms: u64, whole_ms: u32) -> u64 {
    let remaining_ms = until_ms.saturating_sub(now_ms);
    if remaining_ms <= whole_ms.into() { remaining_ms } else { 0 }
}

/// Whether to send a flow whose entry replicas already hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendUnchanged {
    /// No: the flow is sent for its change.
    No,
    /// Yes: the flow is sent as part of its bucket, which must be complete.
    Yes,
}

/// The index of a family's queue: 0 for IPv4, 1 for IPv6.
fn family_index<A: Address>() -> usize {
    usize::from(A::FAMILY != ctflow_parser::uapi::AF_INET)
}
