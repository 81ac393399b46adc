//! The flows of one family in one shard.
//!
//! ```text
//! spread(id) ── 8 bits ──► one of 256 small tables ── index ──► slab: 56 B a flow (IPv4)    extras: by index,
//!                          4 B + 1 B a slot, each growing       flow 52 │ epoch │ told      only where there are any
//!                          by itself
//! ```
//!
//! The index holds no flow, so its empty slots cost 5 bytes and not 60; and one table's growth moves four thousand
//! indices of a million flows, not all of them.

use ctflow_parser::compact::{Address, Flow, Key};
use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::FlowKey;
use hashbrown::{HashMap, HashTable};

use super::extra::Extra;
use super::key::spread;
use super::slab::Slab;
use super::{Applied, Epoch, Origin};
use crate::limits::TABLES_PER_SHARD;

/// A flow and what the cache knows of it.
#[derive(Debug, Clone, Copy, Default)]
struct Slot<A> {
    flow: Flow<A>,
    /// The resync that last confirmed it, or the one under way when an event did.
    epoch: Epoch,
    /// What events have told of the flow in this epoch: `TOLD_*`.
    told: u8,
    live: bool,
    extra: bool,
}

/// An event told of the flow: its status and timeout, which every event carries.
const TOLD: u8 = 1;
/// One told its mark.
const TOLD_MARK: u8 = 2;
/// One told its tracker's state.
const TOLD_PROTO: u8 = 4;

impl<A: Address> Slot<A> {
    /// Notes that `origin` speaks of the flow in `epoch`, and gives what of its words to believe.
    ///
    /// A dump is read in slices, so what it says of a flow can be older than what events have said since: it fills in
    /// what they left out and rolls nothing back.
    #[inline]
    fn hear<'a>(&mut self, view: &FlowView<'a>, epoch: Epoch, origin: Origin) -> FlowView<'a> {
        if self.epoch != epoch {
            (self.epoch, self.told) = (epoch, 0);
        }
        if origin == Origin::Event {
            self.told |= TOLD;
            self.told |= if view.mark.is_some() { TOLD_MARK } else { 0 };
            self.told |= if view.proto.is_some() { TOLD_PROTO } else { 0 };
            return *view;
        }
        let unless = |told: u8| self.told & told == 0;
        FlowView {
            status: view.status.filter(|_| unless(TOLD)),
            timeout: view.timeout.filter(|_| unless(TOLD)),
            mark: view.mark.filter(|_| unless(TOLD_MARK)),
            proto: view.proto.filter(|_| unless(TOLD_PROTO)),
            ..*view
        }
    }
}

/// The flows of one family.
#[derive(Debug)]
pub(crate) struct Table<A> {
    tables: Vec<HashTable<u32>>,
    slab: Slab<Slot<A>>,
    extras: HashMap<u32, Extra>,
    count: u32,
    bound: u32,
}

impl<A: Address> Table<A> {
    /// An empty table that holds at most `bound` flows.
    pub(crate) fn new(bound: u32) -> Self {
        let tables = (0..TABLES_PER_SHARD).map(|_| HashTable::new()).collect();
        Self { tables, slab: Slab::new(), extras: HashMap::new(), count: 0, bound }
    }

    /// Flows held.
    pub(crate) fn len(&self) -> u32 {
        self.count
    }

    /// Whether a tenth of the bound is free.
    pub(crate) fn has_room(&self) -> bool {
        self.count <= self.bound - self.bound / 10
    }

    #[inline]
    fn find(&self, id: u32, key: &Key<A>) -> Option<u32> {
        let same = |index: &u32| self.slab.get(*index).is_some_and(|slot| slot.flow.id == id && slot.flow.is(key));
        let hash = spread(id);
        self.tables.get(table_of(hash))?.find(hash, same).copied()
    }

    /// The flow that `key` and `id` name, complete.
    pub(crate) fn get(&self, key: &FlowKey, id: u32) -> Option<FlowView<'_>> {
        self.view(self.find(id, &Key::of(key)?)?)
    }

    fn view(&self, index: u32) -> Option<FlowView<'_>> {
        let slot = self.slab.get(index).filter(|slot| slot.live)?;
        let view = slot.flow.view();
        Some(if slot.extra { self.extras.get(&index).map_or(view, |extra| extra.complete(view)) } else { view })
    }

    /// Creates the flow, or merges what the view says into it.
    #[inline]
    pub(crate) fn upsert(
        &mut self,
        key: &Key<A>,
        id: u32,
        view: &FlowView<'_>,
        epoch: Epoch,
        origin: Origin,
    ) -> Applied {
        let Some(index) = self.find(id, key) else { return self.create(id, view, epoch, origin) };
        let Some(slot) = self.slab.get_mut(index) else { return Applied::NotAFlow };
        let view = &slot.hear(view, epoch, origin);
        let mut changed = slot.flow.merge(view);
        if Extra::is_in(view) {
            slot.extra = true;
            changed |= self.extras.entry(index).or_default().merge(view);
        }
        if changed { Applied::Updated } else { Applied::Unchanged }
    }

    fn create(&mut self, id: u32, view: &FlowView<'_>, epoch: Epoch, origin: Origin) -> Applied {
        let Some(flow) = Flow::new(view) else { return Applied::NotAFlow };
        let extra = Extra::is_in(view);
        let mut slot = Slot { flow, epoch, told: 0, live: true, extra };
        slot.hear(view, epoch, origin);
        let Some(index) = self.slab.insert(slot, self.bound) else { return Applied::Full };
        if extra {
            self.extras.entry(index).or_default().merge(view);
        }
        let slab = &self.slab;
        let rehash = |index: &u32| slab.get(*index).map_or(0, |slot| spread(slot.flow.id));
        let hash = spread(id);
        if let Some(table) = self.tables.get_mut(table_of(hash)) {
            table.insert_unique(hash, index, rehash);
        }
        self.count += 1;
        Applied::Created
    }

    /// Removes the flow; tells whether it was there.
    #[inline]
    pub(crate) fn remove(&mut self, key: &Key<A>, id: u32) -> bool {
        match self.find(id, key) {
            Some(index) => self.remove_index(index),
            None => false,
        }
    }

    fn remove_index(&mut self, index: u32) -> bool {
        let Some(&Slot { flow, extra, .. }) = self.slab.get(index) else { return false };
        let hash = spread(flow.id);
        let Some(table) = self.tables.get_mut(table_of(hash)) else { return false };
        let Ok(entry) = table.find_entry(hash, |&found| found == index) else { return false };
        entry.remove();
        if extra {
            self.extras.remove(&index);
        }
        self.slab.remove(index);
        self.count -= 1;
        true
    }

    /// Looks at up to `slice` places from `from` on and removes the flows that `epoch` did not confirm, each told to
    /// `purged`; gives where to go on, or `None` at the end.
    pub(crate) fn sweep(
        &mut self,
        from: u32,
        slice: u32,
        epoch: Epoch,
        mut purged: impl FnMut(FlowView<'_>),
    ) -> Option<u32> {
        let end = self.slab.end().min(from.saturating_add(slice));
        for index in from..end {
            if self.slab.get(index).is_some_and(|slot| slot.live && slot.epoch != epoch) {
                self.view(index).into_iter().for_each(&mut purged);
                self.remove_index(index);
            }
        }
        (end < self.slab.end()).then_some(end)
    }

    /// All flows, complete, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = FlowView<'_>> {
        (0..self.slab.end()).filter_map(|index| self.view(index))
    }
}

/// Which small table: bits that neither hashbrown's buckets (the low ones) nor its tags (the top 7) use.
#[inline]
fn table_of(hash: u64) -> usize {
    const _: () = assert!(TABLES_PER_SHARD == 256);
    usize::from(hash.to_le_bytes()[5])
}
