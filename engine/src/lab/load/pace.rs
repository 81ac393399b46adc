//! When what is due: a steady rate, told in small steps.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// What is late by more is not made good: it would come as a burst.
const LATE_MAX: Duration = Duration::from_millis(20);
/// Steps a second that a rate is told in, at least.
const STEPS: u32 = 1_000;

/// The share of sender `index` among `senders`, which sum up to `all`.
pub(super) fn rate_share(all: NonZeroU32, index: usize, senders: u32) -> Option<NonZeroU32> {
    let (all, senders) = (all.get(), senders.max(1));
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    NonZeroU32::new(all / senders + u32::from(index < all % senders))
}

/// So many things a second.
#[derive(Debug)]
pub struct Pace {
    per_second: NonZeroU32,
    started: Instant,
    done: u64,
}

impl Pace {
    /// From `now` on.
    #[must_use]
    pub fn new(per_second: NonZeroU32, now: Instant) -> Self {
        Self { per_second, started: now, done: 0 }
    }

    /// How many to do at once, at most `most`.
    #[must_use]
    pub fn step_size(&self, most: u32) -> u32 {
        (self.per_second.get() / STEPS).clamp(1, most)
    }

    /// Notes that so many were done, and says how long it is until the next is due, or how many are given up.
    pub fn advance(&mut self, count: u32, now: Instant) -> Next {
        self.done += u64::from(count);
        let due = self.started + Duration::from_nanos(self.nanoseconds(self.done));
        if let Some(early) = due.checked_duration_since(now) {
            return Next::Wait(early);
        }
        let late = now - due;
        if late <= LATE_MAX {
            return Next::Now { skipped: 0 };
        }
        let given_up = late.as_nanos() * u128::from(self.per_second.get()) / 1_000_000_000;
        (self.started, self.done) = (now, 0);
        Next::Now { skipped: u64::try_from(given_up).unwrap_or(u64::MAX) }
    }

    fn nanoseconds(&self, count: u64) -> u64 {
        let time = u128::from(count) * 1_000_000_000 / u128::from(self.per_second.get());
        u64::try_from(time).unwrap_or(u64::MAX)
    }
}

/// When the next is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Then.
    Wait(Duration),
    /// It is due; so many before it are not done any more.
    Now {
        /// These.
        skipped: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_second(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    #[test]
    fn shares_sum_up() {
        let shares = |all, senders| -> u32 {
            (0..senders as usize)
                .filter_map(|index| rate_share(per_second(all), index, senders))
                .map(NonZeroU32::get)
                .sum()
        };
        for (all, senders) in [(1, 4), (10, 3), (1_000_001, 16)] {
            assert_eq!(shares(all, senders), all);
        }
    }

    #[test]
    fn early_steps_wait_and_very_late_ones_are_skipped() {
        let now = Instant::now();
        let mut pace = Pace::new(per_second(10_000), now);
        assert_eq!(pace.step_size(64), 10);
        assert_eq!(pace.advance(10, now), Next::Wait(Duration::from_millis(1)));
        assert_eq!(pace.advance(10, now + Duration::from_millis(12)), Next::Now { skipped: 0 });
        assert_eq!(pace.advance(10, now + Duration::from_millis(103)), Next::Now { skipped: 1_000 });
        assert_eq!(pace.advance(10, now + Duration::from_millis(103)), Next::Wait(Duration::from_millis(1)));
    }
}
