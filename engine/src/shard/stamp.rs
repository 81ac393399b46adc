//! Times in four bytes: what a flow can afford to remember.

/// A moment to the millisecond, told from others by their distance: up to 49 days back, and an hour ahead, which is how far
/// clocks of nodes may differ. A flow that did not change for longer seems to have changed later than it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp(u32);

/// How far ahead of now a stamp may be.
const AHEAD_MAX_MS: u32 = 3_600_000;

impl Stamp {
    /// The stamp of a time, in milliseconds since 1970.
    #[allow(clippy::cast_possible_truncation)] // the low half is the stamp
    pub(super) fn of(time_ms: u64) -> Self {
        Self(time_ms as u32)
    }

    /// The time that it is the stamp of, seen from `now_ms`; both in milliseconds since 1970.
    pub(super) fn time_ms(self, now_ms: u64) -> u64 {
        let back = Self::of(now_ms).0.wrapping_sub(self.0);
        let ahead = self.0.wrapping_sub(Self::of(now_ms).0);
        if ahead <= AHEAD_MAX_MS { now_ms.saturating_add(ahead.into()) } else { now_ms.saturating_sub(back.into()) }
    }
}

/// A time in whole seconds since 1970, good until 2106.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seconds(u32);

impl Seconds {
    /// The second that a time is in, in milliseconds since 1970.
    pub(super) fn of(time_ms: u64) -> Self {
        Self(u32::try_from(time_ms / 1_000).unwrap_or(u32::MAX))
    }

    /// Its beginning, in milliseconds since 1970.
    pub(super) fn time_ms(self) -> u64 {
        u64::from(self.0) * 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_decodes_to_its_time_within_its_range() {
        let now = 1_800_000_000_000;
        let day = 24 * 3_600 * 1_000;
        for time in [now, now - 1, now - 12_345, now - 49 * day, now + 1, now + 3_600_000] {
            assert_eq!(Stamp::of(time).time_ms(now), time, "{time}");
        }
        assert_eq!(Stamp::of(5).time_ms(2), 5);
        assert_eq!(Seconds::of(now + 999).time_ms(), now);
    }
}
