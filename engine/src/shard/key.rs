//! Which shard owns a flow, and how its id selects a bucket.
//!
//! The kernel's id of a flow is a keyed hash, so it is used as one. The steering program in the socket uses the id
//! modulo the number of shards, so all ids of a shard have equal low bits. [`spread`] mixes the bits before a table
//! uses them. Replication computes buckets with the same function.

pub use ctflow_replicate::buckets::spread;

/// The index of the shard that owns the flow `id` among `shards` shards; 0 where `shards` is 0. The steering program
/// computes the same.
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
