//! The parts a shard's entries are compared and told again by, and sets of them.

/// Buckets of flows in a shard.
pub const BUCKETS: u16 = 256;

/// The bucket of all expectations; they are in stream 0 alone.
pub const EXPECTATIONS: u16 = 256;

/// All buckets there are.
pub(crate) const BUCKETS_ALL: usize = 257;

/// A number spread over 64 bits: one multiplication, and the well-mixed high half folded into the low one.
#[inline]
#[must_use]
pub fn spread(number: u32) -> u64 {
    let product = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15); // 2^64 / golden ratio, odd
    product ^ product >> 32
}

/// The bucket of the flow with this id: bits 40 to 47 of it spread.
#[inline]
#[must_use]
pub fn bucket_of(id: u32) -> u16 {
    let [_, _, bucket, ..] = spread(id).to_be_bytes();
    bucket.into()
}

/// A set of buckets, the one of the expectations included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketSet {
    flows: [u64; 4],
    expectations: bool,
}

impl BucketSet {
    /// No bucket.
    pub const EMPTY: Self = Self { flows: [0; 4], expectations: false };

    /// Every bucket that the stream of this number has.
    #[must_use]
    pub fn all_of(stream: u16) -> Self {
        Self { flows: [u64::MAX; 4], expectations: stream == 0 }
    }

    /// The set with these buckets of flows, bit *b* of byte *b*/8, and with or without the expectations.
    #[must_use]
    pub fn from_wire(bytes: [u8; 32], expectations: bool) -> Self {
        let mut flows = [0; 4];
        for (word, bytes) in flows.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self { flows, expectations }
    }

    /// The buckets of flows as on the wire.
    #[must_use]
    pub fn to_wire(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.flows) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }

    /// Whether `bucket` is in it; no bucket past 256 ever is.
    #[must_use]
    #[inline]
    pub fn contains(&self, bucket: u16) -> bool {
        match self.flows.get(usize::from(bucket / 64)) {
            Some(word) => word >> (bucket % 64) & 1 == 1,
            None => bucket == EXPECTATIONS && self.expectations,
        }
    }

    /// Puts `bucket` in; one past 256 is passed over.
    #[inline]
    pub fn insert(&mut self, bucket: u16) {
        match self.flows.get_mut(usize::from(bucket / 64)) {
            Some(word) => *word |= 1 << (bucket % 64),
            None => self.expectations |= bucket == EXPECTATIONS,
        }
    }

    /// Takes `bucket` out.
    #[inline]
    pub fn remove(&mut self, bucket: u16) {
        match self.flows.get_mut(usize::from(bucket / 64)) {
            Some(word) => *word &= !(1 << (bucket % 64)),
            None => self.expectations &= bucket != EXPECTATIONS,
        }
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.merge(other, |a, b| a | b, self.expectations || other.expectations)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.merge(other, |a, b| a & b, self.expectations && other.expectations)
    }

    /// What is in this one only.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.merge(other, |a, b| a & !b, self.expectations && !other.expectations)
    }

    fn merge(&self, other: &Self, bits: fn(u64, u64) -> u64, expectations: bool) -> Self {
        let mut flows = self.flows;
        for (word, other) in flows.iter_mut().zip(other.flows) {
            *word = bits(*word, other);
        }
        Self { flows, expectations }
    }

    /// Whether the expectations are in it.
    #[must_use]
    pub fn has_expectations(&self) -> bool {
        self.expectations
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// How many are in it.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.flows.iter().map(|word| word.count_ones()).sum::<u32>() + u32::from(self.expectations)
    }

    /// Its buckets, ascending.
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
