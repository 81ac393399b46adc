//! The digest of each bucket: a sum over its entries' checks, kept as they come, change and go.

use ctflow_replicate::buckets::{BUCKETS, spread};

/// A digest for each bucket of flows, and the one of the expectations.
#[derive(Debug)]
pub(super) struct Digests(Box<[u64]>);

impl Digests {
    /// Those of nothing.
    pub(super) fn new() -> Self {
        Self(vec![0; usize::from(BUCKETS) + 1].into_boxed_slice())
    }

    /// The digest of `bucket`.
    pub(super) fn get(&self, bucket: u16) -> u64 {
        self.0.get(usize::from(bucket)).copied().unwrap_or_default()
    }

    /// An entry of `bucket` that had the check `before` has `after`; `None` where it is not there.
    #[inline]
    pub(super) fn replace_check(&mut self, bucket: u16, before: Option<u32>, after: Option<u32>) {
        if let Some(digest) = self.0.get_mut(usize::from(bucket)) {
            *digest = digest.wrapping_sub(before.map_or(0, spread)).wrapping_add(after.map_or(0, spread));
        }
    }

    /// Entries of `bucket` are gone whose digest alone is `digest`.
    pub(super) fn subtract(&mut self, bucket: u16, digest: u64) {
        if let Some(kept) = self.0.get_mut(usize::from(bucket)) {
            *kept = kept.wrapping_sub(digest);
        }
    }

    /// All of them, by bucket.
    pub(super) fn all(&self) -> &[u64] {
        &self.0
    }

    /// Nothing is there any more.
    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }
}
