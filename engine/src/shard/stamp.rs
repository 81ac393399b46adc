//! Times in four bytes: what a flow can afford to remember.

/// Hundredths of a second since 250 days before the daemon began, which is as far back as a peer's flows are told apart by
/// age; 247 days ahead the last one holds for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u32);

/// What a stamp counts, in milliseconds.
const UNIT_MS: u64 = 10;
/// 250 days.
const PAST_MS: u64 = 250 * 24 * 3_600 * 1_000;

/// Turns times into stamps and back. All shards and replicas of a daemon share one.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base_ms: u64,
}

impl Clock {
    /// A clock of a daemon that begins at `now_ms`, milliseconds since 1970.
    #[must_use]
    pub fn starting_at(now_ms: u64) -> Self {
        Self { base_ms: now_ms.saturating_sub(PAST_MS) }
    }

    /// The stamp of a time, or the nearest there is.
    #[must_use]
    pub fn stamp(self, time_ms: u64) -> Stamp {
        Stamp(u32::try_from(time_ms.saturating_sub(self.base_ms) / UNIT_MS).unwrap_or(u32::MAX))
    }

    /// The time of a stamp, in milliseconds since 1970, to the hundredth of a second below.
    #[must_use]
    pub fn time_ms(self, stamp: Stamp) -> u64 {
        self.base_ms.saturating_add(u64::from(stamp.0) * UNIT_MS)
    }
}

impl Stamp {
    /// How long it is from an earlier stamp to this one, in milliseconds; 0 if it is a later one.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> u64 {
        u64::from(self.0.saturating_sub(earlier.0)) * UNIT_MS
    }

    /// The stamp so many milliseconds later.
    #[must_use]
    pub fn plus_ms(self, milliseconds: u32) -> Self {
        Self(self.0.saturating_add(milliseconds.div_ceil(10)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_comes_back_to_the_hundredth_and_what_is_out_of_reach_as_near_as_can_be() {
        let now = 1_800_000_000_000;
        let clock = Clock::starting_at(now);
        for time in [now, now + 12_345, now - PAST_MS, now + 200 * 24 * 3_600 * 1_000] {
            assert_eq!(clock.time_ms(clock.stamp(time)), time / 10 * 10, "{time}");
        }
        assert_eq!(clock.time_ms(clock.stamp(5)), now - PAST_MS);
        assert_eq!(clock.stamp(u64::MAX), clock.stamp(u64::MAX - 1));
        let (early, late) = (clock.stamp(now), clock.stamp(now + 1_500));
        assert_eq!((late.since_ms(early), early.since_ms(late)), (1_500, 0));
        assert_eq!(early.plus_ms(1_500), late);
    }
}
