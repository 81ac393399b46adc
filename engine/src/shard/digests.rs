//! The digest of each bucket: the sum of `spread(check)` over its entries, updated with every change.

use ctflow_replicate::buckets::{BUCKETS, spread};

/// The digests of all buckets of flows, and that of the expectations.
#[derive(Debug)]
pub(super) struct Digests(Box<[u64]>);

impl Digests {
    /// The digests of empty buckets, which are 0.
    pub(super) fn new() -> Self {
        Self(vec![0; usize::from(BUCKETS) + 1].into_boxed_slice())
    }

    /// The digest of `bucket`; 0 for a bucket that does not exist.
    pub(super) fn get(&self, bucket: u16) -> u64 {
        self.0.get(usize::from(bucket)).copied().unwrap_or_default()
    }

    /// Replaces the check `before` of an entry of `bucket` by `after`. `before` is `None` for a new entry, `after` for
    /// one that is removed.
    #[inline]
    pub(super) fn replace_check(&mut self, bucket: u16, before: Option<u32>, after: Option<u32>) {
        if let Some(digest) = self.0.get_mut(usize::from(bucket)) {
            *digest = digest.wrapping_sub(before.map_or(0, spread)).wrapping_add(after.map_or(0, spread));
        }
    }

    /// Subtracts the digest of entries that were removed from `bucket`.
    pub(super) fn subtract(&mut self, bucket: u16, digest: u64) {
        if let Some(kept) = self.0.get_mut(usize::from(bucket)) {
            *kept = kept.wrapping_sub(digest);
        }
    }

    /// All digests, by bucket number.
    pub(super) fn all(&self) -> &[u64] {
        &self.0
    }

    /// Resets all digests to those of empty buckets.
    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }
}
