//! Prefetching: flows that are about to be looked up are fetched together, so that they wait for memory together.
//!
//! A lookup reads its small table's tags, an index, and a flow, each from a place that no cache has when there are many flows,
//! and each only when the one before is there. Asked for one after the other without waiting in between, the flows of a batch
//! overlap: first all indices, then all flows.

use ctflow_parser::compact::{Address, V4, V6};
use ctflow_parser::uapi;

use super::table::Table;
use crate::sys::prefetch::prefetch;

/// Flows fetched together: more than a processor waits for at once, and few enough to be in its nearest cache still when they
/// are looked up.
const TOGETHER: usize = 32;

/// Fetches what are probably the flows with these families and ids.
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

#[derive(Default)]
struct Ids {
    ids: [u32; TOGETHER],
    count: usize,
}

impl Ids {
    #[inline]
    fn add<A: Address>(&mut self, table: &Table<A>, id: u32) {
        if self.count == TOGETHER {
            self.fetch(table);
        }
        if let Some(place) = self.ids.get_mut(self.count) {
            *place = id;
            self.count += 1;
        }
    }

    fn fetch<A: Address>(&mut self, table: &Table<A>) {
        let ids = self.ids.get(..std::mem::take(&mut self.count)).unwrap_or_default();
        let mut places = [None; TOGETHER];
        for (place, id) in places.iter_mut().zip(ids) {
            *place = table.probable_index(*id);
            if let Some(place) = *place {
                prefetch(place);
            }
        }
        places.iter().flatten().filter_map(|index| table.raw_slot(**index)).for_each(prefetch);
    }
}
