//! Buckets, the parts in which a shard's entries are compared and sent again, and sets of buckets.

/// The number of buckets for flows in a shard.
pub const BUCKETS: u16 = 256;

/// The bucket of all expectations; only stream 0 has it.
pub const EXPECTATIONS: u16 = 256;

/// The number of all buckets, that of the expectations included.
pub(crate) const BUCKETS_ALL: usize = 257;

/// Hashes a number to 64 bits: one multiplication, then the well-mixed high half is folded into the low one.
#[inline]
#[must_use]
pub fn spread(number: u32) -> u64 {
    let product = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15); // 2^64 / golden ratio, odd
    product ^ product >> 32
}

/// The bucket of the flow with this id: bits 40 to 47 of `spread(id)`.
#[inline]
#[must_use]
pub fn bucket_of(id: u32) -> u16 {
    let [_, _, bucket, ..] = spread(id).to_be_bytes();
    bucket.into()
}

/// A set of buckets, which may include that of the expectations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketSet {
    flows: [u64; 4],
    expectations: bool,
}

impl BucketSet {
    /// The empty set.
    pub const EMPTY: Self = Self { flows: [0; 4], expectations: false };

    /// All buckets of the stream of this number.
    #[must_use]
    pub fn all_of(stream: u16) -> Self {
        Self { flows: [u64::MAX; 4], expectations: stream == 0 }
    }

    /// Decodes a set: the buckets of flows, bit *b* of byte *b*/8 for bucket *b*, and whether the expectations are in
    /// it.
    #[must_use]
    pub fn from_wire(bytes: [u8; 32], expectations: bool) -> Self {
        let mut flows = [0; 4];
        for (word, bytes) in flows.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self { flows, expectations }
    }

    /// Encodes the buckets of flows: bit *b* of byte *b*/8 for bucket *b*.
    #[must_use]
    pub fn to_wire(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.flows) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }

    /// Whether `bucket` is in the set; a number past 256 never is.
    #[must_use]
    #[inline]
    pub fn contains(&self, bucket: u16) -> bool {
        match self.flows.get(usize::from(bucket / 64)) {
            Some(word) => word >> (bucket % 64) & 1 == 1,
            None => bucket == EXPECTATIONS && self.expectations,
        }
    }

    /// Inserts `bucket`; a number past 256 is ignored.
    #[inline]
    pub fn insert(&mut self, bucket: u16) {
        match self.flows.get_mut(usize::from(bucket / 64)) {
            Some(word) => *word |= 1 << (bucket % 64),
            None => self.expectations |= bucket == EXPECTATIONS,
        }
    }

    /// Removes `bucket`.
    #[inline]
    pub fn remove(&mut self, bucket: u16) {
        match self.flows.get_mut(usize::from(bucket / 64)) {
            Some(word) => *word &= !(1 << (bucket % 64)),
            None => self.expectations &= bucket != EXPECTATIONS,
        }
    }

    /// The buckets that are in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.merge(other, |a, b| a | b, self.expectations || other.expectations)
    }

    /// The buckets that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.merge(other, |a, b| a & b, self.expectations && other.expectations)
    }

    /// The buckets that are in this set and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.merge(other, |a, b| a & !b, self.expectations && !other.expectations)
    }

    /// Combines the flow buckets of two sets bit by bit with `bits`; `expectations` is whether the result has the
    /// expectations.
    fn merge(&self, other: &Self, bits: fn(u64, u64) -> u64, expectations: bool) -> Self {
        let mut flows = self.flows;
        for (word, other) in flows.iter_mut().zip(other.flows) {
            *word = bits(*word, other);
        }
        Self { flows, expectations }
    }

    /// Whether the set includes the expectations.
    #[must_use]
    pub fn has_expectations(&self) -> bool {
        self.expectations
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// The number of buckets in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.flows.iter().map(|word| word.count_ones()).sum::<u32>() + u32::from(self.expectations)
    }

    /// Iterates over the buckets in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + use<> {
        let set = *self;
        let words = (0u16..).zip(set.flows);
        let flows = words.flat_map(|(index, mut word)| {
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                word &= word.checked_sub(1)?;
                Some(index * 64 + u16::try_from(bit).unwrap_or(0))
            })
        });
        flows.chain(set.expectations.then_some(EXPECTATIONS))
    }
}

impl FromIterator<u16> for BucketSet {
    fn from_iter<T: IntoIterator<Item = u16>>(buckets: T) -> Self {
        let mut set = Self::EMPTY;
        buckets.into_iter().for_each(|bucket| set.insert(bucket));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_set_is_a_set(a: BTreeSet<u16>, b in prop::collection::btree_set(0u16..257, 0..64)) {
            let a: BTreeSet<u16> = a.into_iter().map(|bucket| bucket % 257).collect();
            let (one, other) = (a.iter().copied().collect::<BucketSet>(), b.iter().copied().collect::<BucketSet>());
            let listed = |set: BucketSet| set.iter().collect::<BTreeSet<_>>();
            prop_assert_eq!(listed(one), a.clone());
            prop_assert_eq!(listed(one.union(&other)), &a | &b);
            prop_assert_eq!(listed(one.intersection(&other)), &a & &b);
            prop_assert_eq!(listed(one.without(&other)), &a - &b);
            prop_assert_eq!(one.count() as usize, a.len());
            prop_assert_eq!(BucketSet::from_wire(one.to_wire(), one.has_expectations()), one);
            let mut emptied = one;
            a.iter().for_each(|bucket| emptied.remove(*bucket));
            prop_assert!(emptied.is_empty() && a.iter().all(|bucket| one.contains(*bucket) && !emptied.contains(*bucket)));
        }
    }

    #[test]
    fn bit_b_of_byte_b_over_8_is_bucket_b() {
        let set: BucketSet = [0, 9, 255].into_iter().collect();
        let bytes = set.to_wire();
        assert_eq!((bytes[0], bytes[1], bytes[31]), (1, 2, 0x80));
    }

    #[test]
    fn what_is_no_bucket_is_never_in_a_set() {
        let mut set = BucketSet::all_of(0);
        set.insert(257);
        assert!(!set.contains(257) && set.count() == 257 && BucketSet::all_of(1).count() == 256);
    }

    #[test]
    fn a_bucket_is_bits_40_to_47_of_the_spread_id() {
        for id in [0, 1, 77, u32::MAX] {
            assert_eq!(u64::from(bucket_of(id)), spread(id) >> 40 & 0xff);
        }
    }
}
