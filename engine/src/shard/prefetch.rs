//! Prefetching: the flows of a batch of events are loaded into the processor's cache together, before they are looked
//! up.
//!
//! A lookup reads the tags of a bucket, an index, and a flow. With many flows no cache has any of the three, and each
//! load waits for the one before. Prefetching issues the loads of a whole batch without waiting in between, first of
//! all indices, then of all flows, so that their waits overlap.

use ctflow_parser::compact::{Address, V4, V6};
use ctflow_parser::uapi;

use super::table::Table;
use crate::sys::prefetch::prefetch;

/// The number of flows prefetched together: more than the loads that a processor has in flight at once, and few enough
/// to be in its first-level cache still when they are looked up.
const TOGETHER: usize = 32;

/// Prefetches what are probably the flows with these families and ids: only the bucket's 7-bit tag is compared, not the
/// flow. A wrong one costs time only.
pub(super) fn prefetch_flows(v4: &Table<V4>, v6: &Table<V6>, flows: impl Iterator<Item = (u8, u32)>) {
    let (mut of_v4, mut of_v6) = (Ids::default(), Ids::default());
    for (family, id) in flows {
        match family {
            uapi::AF_INET => of_v4.add(v4, id),
            _ => of_v6.add(v6, id),
        }
    }
    of_v4.fetch(v4);
    of_v6.fetch(v6);
}

/// The ids of one family that are prefetched together.
#[derive(Default)]
struct Ids {
    ids: [u32; TOGETHER],
    count: usize,
}

impl Ids {
    /// Adds an id; where the batch is full, prefetches it before.
    #[inline]
    fn add<A: Address>(&mut self, table: &Table<A>, id: u32) {
        if self.count == TOGETHER {
            self.fetch(table);
        }
        if let Some(free) = self.ids.get_mut(self.count) {
            *free = id;
            self.count += 1;
        }
    }

    /// Prefetches the batch, and empties it.
    fn fetch<A: Address>(&mut self, table: &Table<A>) {
        let ids = self.ids.get(..std::mem::take(&mut self.count)).unwrap_or_default();
        let mut indices = [None; TOGETHER];
        for (found, id) in indices.iter_mut().zip(ids) {
            *found = table.probable_index(*id);
            if let Some(index) = *found {
                prefetch(index);
            }
        }
        // Only now are the indices read: the loads of all of them are under way by then.
        indices.iter().flatten().filter_map(|index| table.raw_slot(**index)).for_each(prefetch);
    }
}
