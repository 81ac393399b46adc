//! Where a flow lives: which shard, and where in the shard's tables.
//!
//! The kernel's id of a flow is a keyed hash already, so it is used as one. The steering program in the socket takes it
//! modulo the number of shards, so within a shard all ids are alike in their low bits; [`spread`] mixes them before a
//! table sees them. It is the one that replication tells buckets by.

pub use ctflow_replicate::buckets::spread;

/// The shard that owns the flow `id` when `shards` share them; the same arithmetic as the steering program's.
#[must_use]
pub fn shard_of(id: u32, shards: u32) -> u32 {
    id.checked_rem(shards).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_shard_spread_evenly_over_low_and_high_bits() {
        let counts = |pick: fn(u64) -> u64| {
            let mut counts = [0u32; 256];
            for id in (0..256 * 64).map(|n| n * 8 + 3) {
                counts[usize::try_from(pick(spread(id)) & 0xff).unwrap()] += 1;
            }
            counts
        };
        for counts in [counts(|hash| hash), counts(|hash| hash >> 40)] {
            assert!(counts.iter().all(|count| (16..256).contains(count)), "{counts:?}");
        }
    }
}
