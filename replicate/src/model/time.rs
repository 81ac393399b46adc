//! The time that the caller passes, and epochs.

use std::fmt;

/// The time of a call. The caller reads both clocks once and passes their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// The wall clock, in milliseconds since 1970; it may be set back.
    pub wall_ms: u64,
    /// The monotonic clock, in milliseconds since an arbitrary start.
    pub mono_ms: u64,
}

/// The number of one run of a node's daemon; a later run has a greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// The number of random bits in an epoch, so that two runs started in one millisecond differ.
const RANDOM_BITS: u32 = 20;

impl Epoch {
    /// No epoch, or an unknown one.
    pub const NONE: Self = Self(0);

    /// The epoch of a run started `wall_ms` milliseconds after 1970, with the lowest 20 bits of `random`.
    #[must_use]
    pub fn new(wall_ms: u64, random: u32) -> Self {
        Self(wall_ms << RANDOM_BITS | u64::from(random) & ((1 << RANDOM_BITS) - 1))
    }

    /// An epoch one millisecond above `other`, with the random bits of this one.
    #[must_use]
    pub fn above(self, other: Self) -> Self {
        let random = self.0 & ((1 << RANDOM_BITS) - 1);
        Self(((other.0 >> RANDOM_BITS).saturating_add(1) << RANDOM_BITS) | random)
    }

    /// The start of the run, in milliseconds since 1970 by its node's clock.
    #[must_use]
    pub fn started_ms(self) -> u64 {
        self.0 >> RANDOM_BITS
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_epoch_is_above_and_keeps_its_random_bits() {
        let (low, high) = (Epoch::new(1_000, 0xfffff), Epoch::new(2_000, 7));
        let raised = low.above(high);
        assert!(raised > high && raised.started_ms() == 2_001 && raised.0 & 0xfffff == 0xfffff);
    }
}
