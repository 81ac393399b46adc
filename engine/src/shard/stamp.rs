//! Times in four bytes, small enough to be stored with every flow.

/// A time in milliseconds, of which only the low 32 bits are kept. It is decoded relative to the current time: up to 49
/// days back, and up to an hour ahead, which is how far the clocks of nodes may differ. An older time decodes to a
/// later one than it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp(u32);

/// How far ahead of the current time a stamp may be, in milliseconds.
const AHEAD_MAX_MS: u32 = 3_600_000;

impl Stamp {
    /// The stamp of a time given in milliseconds since 1970.
    #[allow(clippy::cast_possible_truncation)] // the low half is the stamp
    pub(super) fn of(time_ms: u64) -> Self {
        Self(time_ms as u32)
    }

    /// The time of the stamp, decoded relative to `now_ms`; both in milliseconds since 1970.
    pub(super) fn time_ms(self, now_ms: u64) -> u64 {
        let back = Self::of(now_ms).0.wrapping_sub(self.0);
        let ahead = self.0.wrapping_sub(Self::of(now_ms).0);
        if ahead <= AHEAD_MAX_MS { now_ms.saturating_add(ahead.into()) } else { now_ms.saturating_sub(back.into()) }
    }
}

/// A time in whole seconds since 1970, until 2106.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seconds(u32);

impl Seconds {
    /// The second of a time given in milliseconds since 1970; later times than 2106 saturate.
    pub(super) fn of(time_ms: u64) -> Self {
        Self(u32::try_from(time_ms / 1_000).unwrap_or(u32::MAX))
    }

    /// The start of the second, in milliseconds since 1970.
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
