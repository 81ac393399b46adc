//! The flows of one family in one shard.
//!
//! ```text
//! spread(id) ── 8 bits ──► one of 256 buckets ── index ──► slab: 64 B a flow (IPv4)                 extras: by index,
//!                          4 B + 1 B an entry,             flow 52 B with generation and flags,     only for flows
//!                          each grows by itself            check, 2 times: one cache line           that have any
//! ```
//!
//! A bucket is a small hash table of slab indices. It holds no flow, so an empty entry costs 5 bytes and not 70. With a
//! million flows, a bucket that grows moves four thousand indices and not a million. Replication uses the same buckets,
//! so it can walk one of them without reading any other flow.
//!
//! A table is used in two ways: a shard merges events and dumps into its tables ([`Table::upsert`]); a replica stores
//! whole flows in its tables ([`Table::replace`]).

use ctflow_parser::compact::{Address, Flow, Key, V4, V6};
use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::FlowKey;
use hashbrown::{HashMap, HashTable};

use super::extra::Extra;
use super::key::spread;
use super::slab::Slab;
use super::stamp::{Seconds, Stamp};
use super::{Applied, Generation, Origin};
use crate::limits::BUCKETS_PER_TABLE;

/// A flow, and what the cache records about it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))] // one cache line for IPv4, so that a lookup costs one miss
pub(super) struct Slot<A> {
    /// The flow. Its first owner byte is the generation: the number of the resync that confirmed the flow last (in a
    /// replica, the number of the bucket's resync). The second owner byte holds the flags below.
    pub(super) flow: Flow<A>,
    /// The check of the entry that was last sent to replicas; in a replica, of the entry that was received.
    pub(super) check: u32,
    /// When the flow was added to this table.
    pub(super) since: Seconds,
    /// When the flow last changed at the node that tracks it.
    pub(super) changed: Stamp,
}

const _: () = assert!(size_of::<Slot<V4>>() == 64);
const _: () = assert!(size_of::<Slot<V6>>() == 128);

/// Flag: the slot is in use.
const LIVE: u8 = 1;
/// Flag: the flow has an [`Extra`].
const EXTRA: u8 = 2;
/// Flag: an event of this generation carried the flow, and with it the status and timeout, which every event has.
const FROM_EVENT: u8 = 4;
/// Flag: an event of this generation carried the mark.
const MARK_FROM_EVENT: u8 = 8;
/// Flag: an event of this generation carried the tracker's state.
const PROTO_FROM_EVENT: u8 = 16;
/// Flag: the flow is queued to be sent to replicas; in a replica, to be injected into the kernel.
pub(super) const DIRTY: u8 = 32;
/// Flag: the flow waits for its protocol's least age before it is sent.
pub(super) const YOUNG: u8 = 64;
/// Flag: the flow was sent to replicas; in a replica, it was passed to the hot thread.
pub(super) const SENT: u8 = 128;

impl<A: Address> Slot<A> {
    /// The number of the resync that confirmed the flow last.
    #[inline]
    fn generation(&self) -> Generation {
        self.flow.owner_bytes[0]
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub(super) fn has(&self, flags: u8) -> bool {
        self.flow.owner_bytes[1] & flags != 0
    }

    /// Sets all of `flags`.
    #[inline]
    pub(super) fn set(&mut self, flags: u8) {
        self.flow.owner_bytes[1] |= flags;
    }

    /// Clears all of `flags`.
    #[inline]
    pub(super) fn clear(&mut self, flags: u8) {
        self.flow.owner_bytes[1] &= !flags;
    }

    /// Marks the flow as confirmed in `generation`.
    #[inline]
    fn confirm(&mut self, generation: Generation) {
        if self.generation() != generation {
            self.flow.owner_bytes[0] = generation;
            // What events of an earlier generation carried may be older than this generation's dump.
            self.clear(FROM_EVENT | MARK_FROM_EVENT | PROTO_FROM_EVENT);
        }
    }

    /// Marks the flow as confirmed by an event, and records which fields the event carried.
    #[inline]
    fn confirm_by_event(&mut self, view: &FlowView<'_>, generation: Generation) {
        self.confirm(generation);
        let mark = if view.mark.is_some() { MARK_FROM_EVENT } else { 0 };
        let proto = if view.proto.is_some() { PROTO_FROM_EVENT } else { 0 };
        self.set(FROM_EVENT | mark | proto);
    }

    /// Marks the flow as confirmed by a dump, and returns the view without the fields that events have carried since
    /// the resync started.
    ///
    /// A dump is read in slices, so its state of a flow can be older than that of an event that arrived meanwhile. It
    /// adds the fields that the events left out, and overwrites none of theirs.
    fn confirm_by_dump<'a>(&mut self, view: &FlowView<'a>, generation: Generation) -> FlowView<'a> {
        self.confirm(generation);
        let unless = |flag: u8| !self.has(flag);
        let FlowView {
            status,
            timeout,
            mark,
            proto,
            // The same in events and dumps: they identify the flow.
            family: _,
            orig: _,
            zone: _,
            id: _,
            reply: _, // the kernel sets it before the first event
            // Not kept.
            use_count: _,
            secmark: _,
            counters_orig: _,
            counters_reply: _,
            start_ns: _,
            stop_ns: _,
            event_ns: _,
            rare: _, // the dump's: no flag is left to record that an event carried newer ones
        } = view;
        FlowView {
            status: status.filter(|_| unless(FROM_EVENT)),
            timeout: timeout.filter(|_| unless(FROM_EVENT)),
            mark: mark.filter(|_| unless(MARK_FROM_EVENT)),
            proto: proto.filter(|_| unless(PROTO_FROM_EVENT)),
            ..*view
        }
    }
}

/// How a flow is applied to a shard's table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ApplyContext {
    /// The number of the current resync, or of the last one.
    pub(crate) generation: Generation,
    /// Whether an event or a dump carried the flow.
    pub(crate) origin: Origin,
    /// The current time, in milliseconds since 1970.
    pub(crate) now_ms: u64,
}

/// What a replica stores with an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryMeta {
    /// The check of the encoded entry.
    pub(crate) check: u32,
    /// The number of the resync of the entry's bucket.
    pub(crate) generation: Generation,
    /// When the entry was received, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// When the entry changed at its source, in milliseconds since 1970.
    pub(crate) changed_ms: u64,
}

/// The flows of one family.
#[derive(Debug)]
pub(crate) struct Table<A> {
    /// Indices into the slab, in the bucket that the flow's id selects.
    buckets: Vec<HashTable<u32>>,
    slab: Slab<Slot<A>>,
    /// The rare attributes of flows, by slab index.
    extras: HashMap<u32, Extra>,
    count: u32,
    flows_max: u32,
}

impl<A: Address> Table<A> {
    /// An empty table that holds at most `flows_max` flows.
    pub(crate) fn new(flows_max: u32) -> Self {
        let buckets = (0..BUCKETS_PER_TABLE).map(|_| HashTable::new()).collect();
        Self { buckets, slab: Slab::new(), extras: HashMap::new(), count: 0, flows_max }
    }

    /// The number of flows held.
    pub(crate) fn len(&self) -> u32 {
        self.count
    }

    /// The number of flows that the table may hold.
    pub(crate) fn flows_max(&self) -> u32 {
        self.flows_max
    }

    /// Bytes of memory that the table takes. The size of the buckets is estimated from the most flows that were ever
    /// held, which are spread evenly over them: to read each bucket's size would take too long for every round of a
    /// worker.
    pub(crate) fn bytes(&self) -> usize {
        let each = (self.slab.index_end() as usize).div_ceil(BUCKETS_PER_TABLE);
        // hashbrown fills seven eighths of its entries and has a power of two of them.
        let entries = if each == 0 { 0 } else { (each * 8).div_ceil(7).next_power_of_two() };
        self.slab.bytes() + BUCKETS_PER_TABLE * entries * (size_of::<u32>() + 1) + self.extras.allocation_size()
    }

    /// Whether a tenth of the maximum is free.
    pub(crate) fn has_room(&self) -> bool {
        self.count <= self.flows_max - self.flows_max / 10
    }

    /// The slab index of the flow with this id and key.
    #[inline]
    fn find(&self, id: u32, key: &Key<A>) -> Option<u32> {
        let hash = spread(id);
        self.buckets.get(bucket_of_hash(hash))?.find(hash, matches_flow(&self.slab, id, key)).copied()
    }

    /// A reference to the slab index of what is probably the flow with this id, for `prefetch`. The index itself is not
    /// read, so that the caller decides when to wait for the memory.
    #[inline]
    pub(super) fn probable_index(&self, id: u32) -> Option<&u32> {
        let hash = spread(id);
        // The tag of hashbrown is 7 bits of the hash, so the first match is nearly always the flow itself.
        self.buckets.get(bucket_of_hash(hash))?.find(hash, |_| true)
    }

    /// The slot at `index`, in use or not.
    #[inline]
    pub(super) fn raw_slot(&self, index: u32) -> Option<&Slot<A>> {
        self.slab.get(index)
    }

    /// The flow with this key and id, with its rare attributes.
    pub(crate) fn get(&self, key: &FlowKey, id: u32) -> Option<FlowView<'_>> {
        self.view(self.find(id, &Key::of(key)?)?)
    }

    /// The flow at `index`, with its rare attributes.
    pub(super) fn view(&self, index: u32) -> Option<FlowView<'_>> {
        let slot = self.slot(index)?;
        let view = slot.flow.view();
        Some(if slot.has(EXTRA) { self.extras.get(&index).map_or(view, |extra| extra.add_to(view)) } else { view })
    }

    /// The flow at `index`, if it has no rare attributes.
    #[inline]
    pub(super) fn flow_without_extra(&self, index: u32) -> Option<&Flow<A>> {
        self.slot(index).filter(|slot| !slot.has(EXTRA)).map(|slot| &slot.flow)
    }

    /// Creates the flow, or merges the view into it; returns what changed, and the flow's index where it has one.
    #[inline]
    pub(crate) fn upsert(
        &mut self,
        key: &Key<A>,
        id: u32,
        view: &FlowView<'_>,
        context: ApplyContext,
    ) -> (Applied, Option<u32>) {
        let Some(index) = self.find(id, key) else { return self.create(id, view, context) };
        let Some(slot) = self.slab.get_mut(index) else { return (Applied::NotAFlow, None) };
        let dumped;
        let view = match context.origin {
            Origin::Event => {
                slot.confirm_by_event(view, context.generation);
                view
            }
            Origin::Dump => {
                dumped = slot.confirm_by_dump(view, context.generation);
                &dumped
            }
        };
        let mut changed = slot.flow.merge(view);
        if slot.has(EXTRA) || Extra::is_needed_for(view) {
            slot.set(EXTRA);
            changed |= self.extras.entry(index).or_default().merge(view);
        }
        if !changed {
            return (Applied::Unchanged, Some(index));
        }
        slot.changed = Stamp::of(context.now_ms);
        (Applied::Updated, Some(index))
    }

    /// Creates a flow that the table does not hold.
    fn create(&mut self, id: u32, view: &FlowView<'_>, context: ApplyContext) -> (Applied, Option<u32>) {
        let Some(flow) = Flow::new(view) else { return (Applied::NotAFlow, None) };
        let (since, changed) = (Seconds::of(context.now_ms), Stamp::of(context.now_ms));
        let mut slot = Slot { flow, since, changed, ..Slot::default() };
        match context.origin {
            Origin::Event => slot.confirm_by_event(view, context.generation),
            Origin::Dump => slot.confirm(context.generation),
        }
        match self.insert(id, slot, view) {
            Some(index) => (Applied::Created, Some(index)),
            None => (Applied::Full, None),
        }
    }

    /// Inserts a flow that the table does not hold; returns its index, or `None` where the table is full.
    fn insert(&mut self, id: u32, mut slot: Slot<A>, view: &FlowView<'_>) -> Option<u32> {
        let has_extra = Extra::is_needed_for(view);
        slot.set(if has_extra { LIVE | EXTRA } else { LIVE });
        let index = self.slab.insert(slot, self.flows_max)?;
        if has_extra {
            self.extras.entry(index).or_default().merge(view);
        }
        let slab = &self.slab;
        let rehash = |index: &u32| slab.get(*index).map_or(0, |slot| spread(slot.flow.id));
        let hash = spread(id);
        if let Some(bucket) = self.buckets.get_mut(bucket_of_hash(hash)) {
            bucket.insert_unique(hash, index, rehash);
        }
        self.count += 1;
        Some(index)
    }

    /// Stores a whole flow, in place of the state that was held of it; returns its index, and the check of the entry
    /// that it replaced.
    ///
    /// # Errors
    /// [`Applied::Full`] where the flow is new and the table is full; [`Applied::NotAFlow`] where the view has no
    /// complete tuples or no id.
    pub(crate) fn replace(&mut self, view: &FlowView<'_>, meta: EntryMeta) -> Result<(u32, Option<u32>), Applied> {
        let (key, id) = view.key().zip(view.id).ok_or(Applied::NotAFlow)?;
        let key = Key::of(&key).ok_or(Applied::NotAFlow)?;
        let mut flow = Flow::new(view).ok_or(Applied::NotAFlow)?;
        flow.owner_bytes = [meta.generation, 0];
        let (since, changed) = (Seconds::of(meta.now_ms), Stamp::of(meta.changed_ms));
        let new = Slot { flow, check: meta.check, since, changed };
        let Some(index) = self.find(id, &key) else {
            return self.insert(id, new, view).map(|index| (index, None)).ok_or(Applied::Full);
        };
        let Some(slot) = self.slab.get_mut(index) else { return Err(Applied::NotAFlow) };
        let before = *slot;
        *slot = Slot { since: before.since, ..new };
        // Whether the flow is queued for the kernel, or was injected, does not depend on its state.
        slot.set(LIVE | before.flow.owner_bytes[1] & (DIRTY | SENT));
        if before.has(EXTRA) {
            self.extras.remove(&index);
        }
        if Extra::is_needed_for(view) {
            slot.set(EXTRA);
            self.extras.entry(index).or_default().merge(view);
        }
        Ok((index, Some(before.check)))
    }

    /// Removes the flow with this key and id; returns its slot, or `None` where the table does not hold it.
    #[inline]
    pub(crate) fn remove(&mut self, key: &Key<A>, id: u32) -> Option<Slot<A>> {
        let hash = spread(id);
        let bucket = self.buckets.get_mut(bucket_of_hash(hash))?;
        let (index, _) = bucket.find_entry(hash, matches_flow(&self.slab, id, key)).ok()?.remove();
        self.free_slot(index)
    }

    /// Removes the flow at `index`; returns its slot.
    pub(super) fn remove_index(&mut self, index: u32) -> Option<Slot<A>> {
        let hash = spread(self.slab.get(index)?.flow.id);
        let bucket = self.buckets.get_mut(bucket_of_hash(hash))?;
        bucket.find_entry(hash, |&found| found == index).ok()?.remove();
        self.free_slot(index)
    }

    /// Frees the slot at `index`, which no bucket refers to any more; returns its content.
    #[inline]
    fn free_slot(&mut self, index: u32) -> Option<Slot<A>> {
        let slot = *self.slab.get(index)?;
        if slot.has(EXTRA) {
            self.extras.remove(&index);
        }
        self.slab.remove(index);
        self.count -= 1;
        Some(slot)
    }

    /// The slot of the flow with this key and id.
    pub(super) fn find_slot(&self, key: &Key<A>, id: u32) -> Option<&Slot<A>> {
        self.slot(self.find(id, key)?)
    }

    /// The slot at `index`, if it is in use.
    #[inline]
    pub(super) fn slot(&self, index: u32) -> Option<&Slot<A>> {
        self.slab.get(index).filter(|slot| slot.has(LIVE))
    }

    /// The slot at `index` for changes, if it is in use.
    #[inline]
    pub(super) fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<A>> {
        self.slab.get_mut(index).filter(|slot| slot.has(LIVE))
    }

    /// The slab indices of the flows in `bucket`, in no order.
    pub(super) fn bucket_indices(&self, bucket: u16) -> impl Iterator<Item = u32> {
        self.buckets.get(usize::from(bucket)).into_iter().flat_map(|bucket| bucket.iter().copied())
    }

    /// Removes the flows of `bucket` that were not confirmed in `generation`, and calls `purged` with each of them.
    pub(crate) fn purge_bucket(&mut self, bucket: u16, generation: Generation, mut purged: impl FnMut(&Slot<A>)) {
        let unconfirmed = |index: &u32| self.slab.get(*index).is_some_and(|slot| slot.generation() != generation);
        let unconfirmed: Vec<_> = self.bucket_indices(bucket).filter(unconfirmed).collect();
        unconfirmed.into_iter().filter_map(|index| self.remove_index(index)).for_each(|slot| purged(&slot));
    }

    /// Removes the flows among the `slice` slots from `from` on that were not confirmed in `generation`, and calls
    /// `purged` with each of them. Returns the index to continue from, or `None` at the end.
    pub(crate) fn sweep(
        &mut self,
        from: u32,
        slice: u32,
        generation: Generation,
        mut purged: impl FnMut(&Slot<A>),
    ) -> Option<u32> {
        let end = self.slab.index_end().min(from.saturating_add(slice));
        for index in from..end {
            if self.slot(index).is_some_and(|slot| slot.generation() != generation) {
                self.remove_index(index).as_ref().into_iter().for_each(&mut purged);
            }
        }
        (end < self.slab.index_end()).then_some(end)
    }

    /// All flows with their rare attributes, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = FlowView<'_>> {
        (0..self.slab.index_end()).filter_map(|index| self.view(index))
    }
}

/// A predicate on slab indices: whether the slot holds the flow with this id and key.
#[inline]
fn matches_flow<'s, A: Address>(slab: &'s Slab<Slot<A>>, id: u32, key: &'s Key<A>) -> impl Fn(&u32) -> bool + 's {
    move |index| slab.get(*index).is_some_and(|slot| slot.flow.id == id && slot.flow.has_key(key))
}

/// The bucket of a hash. It is chosen by bits that hashbrown uses neither to find an entry (the low bits) nor for its
/// tag (the top 7 bits).
#[inline]
fn bucket_of_hash(hash: u64) -> usize {
    const _: () = assert!(BUCKETS_PER_TABLE == 256);
    usize::from(hash.to_le_bytes()[5])
}
