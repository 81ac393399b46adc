//! The flows of one family in one shard.
//!
//! ```text
//! spread(id) ── 8 bits ──► one of 256 small tables ── index ──► slab: 64 B a flow (IPv4)             extras: by index,
//!                          4 B + 1 B a slot, each growing       flow 52 with epoch and flags │ check,      only where there
//!                          by itself; a bucket                  one cache line               │ 2 stamps    are any
//! ```
//!
//! The index holds no flow, so its empty slots cost 5 bytes and not 70; and one table's growth moves four thousand
//! indices of a million flows, not all of them. The small tables are the buckets that replication speaks of, so one is
//! walked without looking at any other flow.
//!
//! A table is used in two ways: a shard's is merged into from events and dumps ([`Table::upsert`]), a replica's is told
//! whole flows ([`Table::replace`]).

use ctflow_parser::compact::{Address, Flow, Key, V4, V6};
use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::FlowKey;
use hashbrown::{HashMap, HashTable};

use super::extra::Extra;
use super::key::spread;
use super::slab::Slab;
use super::stamp::{Seconds, Stamp};
use super::{Applied, Generation, Origin};
use crate::limits::TABLES_PER_SHARD;

/// A flow and what the cache knows of it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))] // of one cache line, for looking a flow up should cost one miss
pub(super) struct Slot<A> {
    /// What it keeps for its keeper are the epoch, which is the resync that last confirmed the flow or the one under way when an
    /// event did (in a replica, the bucket's mark), and the flags.
    pub(super) flow: Flow<A>,
    /// Of what was last told of the flow to replicas, or in a replica, of what was told.
    pub(super) check: u32,
    /// When it came here.
    pub(super) since: Seconds,
    /// When it last changed, on its source.
    pub(super) changed: Stamp,
}

const _: () = assert!(size_of::<Slot<V4>>() == 64);
const _: () = assert!(size_of::<Slot<V6>>() == 128);

/// The place is in use.
const LIVE: u8 = 1;
/// There is an [`Extra`] beside it.
const EXTRA: u8 = 2;
/// An event of this epoch told of the flow: its status and timeout, which every event carries.
const FROM_EVENT: u8 = 4;
/// One told its mark.
const MARK_FROM_EVENT: u8 = 8;
/// One told its tracker's state.
const PROTO_FROM_EVENT: u8 = 16;
/// It is among those to be told to replicas; in a replica, to be put into the kernel.
pub(super) const DIRTY: u8 = 32;
/// It waits for its protocol's least age before it is told.
pub(super) const YOUNG: u8 = 64;
/// Replicas have been told of it; in a replica, it was handed over to be put into the kernel.
pub(super) const SENT: u8 = 128;

impl<A: Address> Slot<A> {
    #[inline]
    fn generation(&self) -> Generation {
        self.flow.owner_bytes[0]
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub(super) fn has(&self, flags: u8) -> bool {
        self.flow.owner_bytes[1] & flags != 0
    }

    #[inline]
    pub(super) fn set(&mut self, flags: u8) {
        self.flow.owner_bytes[1] |= flags;
    }

    #[inline]
    pub(super) fn clear(&mut self, flags: u8) {
        self.flow.owner_bytes[1] &= !flags;
    }

    /// Notes that the flow is spoken of in `epoch`.
    #[inline]
    fn confirm(&mut self, epoch: Generation) {
        if self.generation() != epoch {
            self.flow.owner_bytes[0] = epoch;
            self.clear(FROM_EVENT | MARK_FROM_EVENT | PROTO_FROM_EVENT);
        }
    }

    /// Notes that an event speaks of it in `epoch`, and of what.
    #[inline]
    fn confirm_by_event(&mut self, view: &FlowView<'_>, epoch: Generation) {
        self.confirm(epoch);
        let mark = if view.mark.is_some() { MARK_FROM_EVENT } else { 0 };
        let proto = if view.proto.is_some() { PROTO_FROM_EVENT } else { 0 };
        self.set(FROM_EVENT | mark | proto);
    }

    /// Notes that a dump speaks of it in `epoch`, and gives what of its words to believe.
    ///
    /// A dump is read in slices, so what it says of a flow can be older than what events have said since: it fills in
    /// what they left out and rolls nothing back.
    fn confirm_by_dump<'a>(&mut self, view: &FlowView<'a>, epoch: Generation) -> FlowView<'a> {
        self.confirm(epoch);
        let unless = |told: u8| !self.has(told);
        FlowView {
            status: view.status.filter(|_| unless(FROM_EVENT)),
            timeout: view.timeout.filter(|_| unless(FROM_EVENT)),
            mark: view.mark.filter(|_| unless(MARK_FROM_EVENT)),
            proto: view.proto.filter(|_| unless(PROTO_FROM_EVENT)),
            ..*view
        }
    }
}

/// How an event or a dump speaks of a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ApplyContext {
    pub(crate) generation: Generation,
    pub(crate) origin: Origin,
    pub(crate) now_ms: u64,
}

/// How a source told of a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryMeta {
    pub(crate) check: u32,
    /// The mark of the flow's bucket.
    pub(crate) generation: Generation,
    /// When it was told, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// When it changed, likewise.
    pub(crate) changed_ms: u64,
}

/// The flows of one family.
#[derive(Debug)]
pub(crate) struct Table<A> {
    buckets: Vec<HashTable<u32>>,
    slab: Slab<Slot<A>>,
    extras: HashMap<u32, Extra>,
    count: u32,
    flows_max: u32,
}

impl<A: Address> Table<A> {
    /// An empty table that holds at most `bound` flows.
    pub(crate) fn new(bound: u32) -> Self {
        let tables = (0..TABLES_PER_SHARD).map(|_| HashTable::new()).collect();
        Self { buckets: tables, slab: Slab::new(), extras: HashMap::new(), count: 0, flows_max: bound }
    }

    /// Flows held.
    pub(crate) fn len(&self) -> u32 {
        self.count
    }

    /// Flows that it may hold.
    pub(crate) fn flows_max(&self) -> u32 {
        self.flows_max
    }

    /// Bytes of memory taken. The index is reckoned from the most flows that were ever here, who are spread evenly over
    /// the small tables; looking at each of these would be too much for every round.
    pub(crate) fn bytes(&self) -> usize {
        let each = (self.slab.index_end() as usize).div_ceil(TABLES_PER_SHARD);
        let places = if each == 0 { 0 } else { (each * 8).div_ceil(7).next_power_of_two() };
        self.slab.bytes() + TABLES_PER_SHARD * places * (size_of::<u32>() + 1) + self.extras.allocation_size()
    }

    /// Whether a tenth of the bound is free.
    pub(crate) fn has_room(&self) -> bool {
        self.count <= self.flows_max - self.flows_max / 10
    }

    #[inline]
    fn find(&self, id: u32, key: &Key<A>) -> Option<u32> {
        let hash = spread(id);
        self.buckets.get(bucket_of_hash(hash))?.find(hash, matches_flow(&self.slab, id, key)).copied()
    }

    /// Where the index of what is probably the flow with that id stands, which is not read here. See `approach`.
    #[inline]
    pub(super) fn probable_index(&self, id: u32) -> Option<&u32> {
        let hash = spread(id);
        self.buckets.get(bucket_of_hash(hash))?.find(hash, |_| true)
    }

    /// What is at a place, in use or not.
    #[inline]
    pub(super) fn raw_slot(&self, index: u32) -> Option<&Slot<A>> {
        self.slab.get(index)
    }

    /// The flow that `key` and `id` name, complete.
    pub(crate) fn get(&self, key: &FlowKey, id: u32) -> Option<FlowView<'_>> {
        self.view(self.find(id, &Key::of(key)?)?)
    }

    /// The flow at a place, complete.
    pub(super) fn view(&self, index: u32) -> Option<FlowView<'_>> {
        let slot = self.slot(index)?;
        let view = slot.flow.view();
        Some(if slot.has(EXTRA) { self.extras.get(&index).map_or(view, |extra| extra.add_to(view)) } else { view })
    }

    /// The flow at a place, if there is nothing of it besides.
    #[inline]
    pub(super) fn flow_without_extra(&self, index: u32) -> Option<&Flow<A>> {
        self.slot(index).filter(|slot| !slot.has(EXTRA)).map(|slot| &slot.flow)
    }

    /// Creates the flow, or merges what the view says into it; gives its place, too.
    #[inline]
    pub(crate) fn upsert(
        &mut self,
        key: &Key<A>,
        id: u32,
        view: &FlowView<'_>,
        heard: ApplyContext,
    ) -> (Applied, Option<u32>) {
        let Some(index) = self.find(id, key) else { return self.create(id, view, heard) };
        let Some(slot) = self.slab.get_mut(index) else { return (Applied::NotAFlow, None) };
        let believed;
        let view = match heard.origin {
            Origin::Event => {
                slot.confirm_by_event(view, heard.generation);
                view
            }
            Origin::Dump => {
                believed = slot.confirm_by_dump(view, heard.generation);
                &believed
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
        slot.changed = Stamp::of(heard.now_ms);
        (Applied::Updated, Some(index))
    }

    fn create(&mut self, id: u32, view: &FlowView<'_>, heard: ApplyContext) -> (Applied, Option<u32>) {
        let Some(flow) = Flow::new(view) else { return (Applied::NotAFlow, None) };
        let mut slot =
            Slot { flow, since: Seconds::of(heard.now_ms), changed: Stamp::of(heard.now_ms), ..Slot::default() };
        match heard.origin {
            Origin::Event => slot.confirm_by_event(view, heard.generation),
            Origin::Dump => slot.confirm(heard.generation),
        }
        match self.insert(id, slot, view) {
            Some(index) => (Applied::Created, Some(index)),
            None => (Applied::Full, None),
        }
    }

    /// Takes a place for a flow that is not here; `None` when there is none.
    fn insert(&mut self, id: u32, mut slot: Slot<A>, view: &FlowView<'_>) -> Option<u32> {
        let extra = Extra::is_needed_for(view);
        slot.set(if extra { LIVE | EXTRA } else { LIVE });
        let index = self.slab.insert(slot, self.flows_max)?;
        if extra {
            self.extras.entry(index).or_default().merge(view);
        }
        let slab = &self.slab;
        let rehash = |index: &u32| slab.get(*index).map_or(0, |slot| spread(slot.flow.id));
        let hash = spread(id);
        if let Some(table) = self.buckets.get_mut(bucket_of_hash(hash)) {
            table.insert_unique(hash, index, rehash);
        }
        self.count += 1;
        Some(index)
    }

    /// Puts a whole flow in, in place of what was here of it; gives its place, and the check of what was here.
    ///
    /// # Errors
    /// [`Applied::Full`] or [`Applied::NotAFlow`].
    pub(crate) fn replace(&mut self, view: &FlowView<'_>, told: EntryMeta) -> Result<(u32, Option<u32>), Applied> {
        let (key, id) = view.key().zip(view.id).ok_or(Applied::NotAFlow)?;
        let key = Key::of(&key).ok_or(Applied::NotAFlow)?;
        let mut flow = Flow::new(view).ok_or(Applied::NotAFlow)?;
        flow.owner_bytes = [told.generation, 0];
        let (since, changed) = (Seconds::of(told.now_ms), Stamp::of(told.changed_ms));
        let new = Slot { flow, check: told.check, since, changed };
        let Some(index) = self.find(id, &key) else {
            return self.insert(id, new, view).map(|index| (index, None)).ok_or(Applied::Full);
        };
        let Some(slot) = self.slab.get_mut(index) else { return Err(Applied::NotAFlow) };
        let before = *slot;
        *slot = Slot { since: before.since, ..new };
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

    /// Removes the flow; gives what was kept of it.
    #[inline]
    pub(crate) fn remove(&mut self, key: &Key<A>, id: u32) -> Option<Slot<A>> {
        let hash = spread(id);
        let table = self.buckets.get_mut(bucket_of_hash(hash))?;
        let (index, _) = table.find_entry(hash, matches_flow(&self.slab, id, key)).ok()?.remove();
        self.free_slot(index)
    }

    pub(super) fn remove_index(&mut self, index: u32) -> Option<Slot<A>> {
        let hash = spread(self.slab.get(index)?.flow.id);
        let table = self.buckets.get_mut(bucket_of_hash(hash))?;
        table.find_entry(hash, |&found| found == index).ok()?.remove();
        self.free_slot(index)
    }

    /// Gives a place back that no table names any more; gives what was kept there.
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

    /// The flow that `key` and `id` name.
    pub(super) fn find_slot(&self, key: &Key<A>, id: u32) -> Option<&Slot<A>> {
        self.slot(self.find(id, key)?)
    }

    /// The flow at a place, if there is one.
    #[inline]
    pub(super) fn slot(&self, index: u32) -> Option<&Slot<A>> {
        self.slab.get(index).filter(|slot| slot.has(LIVE))
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<A>> {
        self.slab.get_mut(index).filter(|slot| slot.has(LIVE))
    }

    /// The places of the flows in `bucket`.
    pub(super) fn bucket_indices(&self, bucket: u16) -> impl Iterator<Item = u32> {
        self.buckets.get(usize::from(bucket)).into_iter().flat_map(|table| table.iter().copied())
    }

    /// Removes the flows of `bucket` that `mark` does not confirm, each told to `purged`.
    pub(crate) fn purge_bucket(&mut self, bucket: u16, mark: Generation, mut purged: impl FnMut(&Slot<A>)) {
        let unconfirmed = |index: &u32| self.slab.get(*index).is_some_and(|slot| slot.generation() != mark);
        let unconfirmed: Vec<_> = self.bucket_indices(bucket).filter(unconfirmed).collect();
        unconfirmed.into_iter().filter_map(|index| self.remove_index(index)).for_each(|slot| purged(&slot));
    }

    /// Looks at up to `slice` places from `from` on and removes the flows that `epoch` did not confirm, each told to
    /// `purged`; gives where to go on, or `None` at the end.
    pub(crate) fn sweep(
        &mut self,
        from: u32,
        slice: u32,
        epoch: Generation,
        mut purged: impl FnMut(&Slot<A>),
    ) -> Option<u32> {
        let end = self.slab.index_end().min(from.saturating_add(slice));
        for index in from..end {
            if self.slot(index).is_some_and(|slot| slot.generation() != epoch) {
                self.remove_index(index).as_ref().into_iter().for_each(&mut purged);
            }
        }
        (end < self.slab.index_end()).then_some(end)
    }

    /// All flows, complete, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = FlowView<'_>> {
        (0..self.slab.index_end()).filter_map(|index| self.view(index))
    }
}

/// Whether it is the flow that `id` and `key` name which is kept at a place.
#[inline]
fn matches_flow<'s, A: Address>(slab: &'s Slab<Slot<A>>, id: u32, key: &'s Key<A>) -> impl Fn(&u32) -> bool + 's {
    move |index| slab.get(*index).is_some_and(|slot| slot.flow.id == id && slot.flow.has_key(key))
}

/// Which small table: bits that neither hashbrown's buckets (the low ones) nor its tags (the top 7) use.
#[inline]
fn bucket_of_hash(hash: u64) -> usize {
    const _: () = assert!(TABLES_PER_SHARD == 256);
    usize::from(hash.to_le_bytes()[5])
}
