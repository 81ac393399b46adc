//! Time as the caller gives it, and epochs.

use std::fmt;

/// The moment of a call. The caller reads its clocks once and passes both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Milliseconds since 1970 by the node's clock; may be set back.
    pub wall_ms: u64,
    /// Milliseconds since any moment, never set back.
    pub mono_ms: u64,
}

/// One run of a node's daemon; a later run is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// Bits of an epoch that are random, so that two runs begun in one millisecond differ.
const RANDOM_BITS: u32 = 20;

impl Epoch {
    /// No epoch: not known.
    pub const NONE: Self = Self(0);

    /// The epoch that begins `wall_ms` milliseconds after 1970; of `random` 20 bits count.
    #[must_use]
    pub fn new(wall_ms: u64, random: u32) -> Self {
        Self(wall_ms << RANDOM_BITS | u64::from(random) & ((1 << RANDOM_BITS) - 1))
    }

    /// The least epoch above `other` with this one's random bits.
    #[must_use]
    pub fn above(self, other: Self) -> Self {
        let random = self.0 & ((1 << RANDOM_BITS) - 1);
        Self(((other.0 >> RANDOM_BITS).saturating_add(1) << RANDOM_BITS) | random)
    }

    /// Milliseconds since 1970 at which it began, by its node's clock.
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
