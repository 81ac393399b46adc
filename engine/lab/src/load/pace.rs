//! A steady rate, kept in small steps: how many events to cause at once, and when the next are due.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// The greatest delay that is caught up with. Events that are later are skipped, since they would come as a burst.
const LATE_MAX: Duration = Duration::from_millis(20);
/// The least number of steps a second.
const STEPS: u32 = 1_000;

/// The rate of sender `index` of `senders`; the rates of all senders sum up to `all`. `None` is a rate of 0.
pub(super) fn rate_share(all: NonZeroU32, index: usize, senders: u32) -> Option<NonZeroU32> {
    let (all, senders) = (all.get(), senders.max(1));
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    NonZeroU32::new(all / senders + u32::from(index < all % senders))
}

/// Paces events at a steady rate.
#[derive(Debug)]
pub struct Pace {
    per_second: NonZeroU32,
    started: Instant,
    done: u64,
}

impl Pace {
    /// Starts at `now`, with the first event due at once.
    #[must_use]
    pub fn new(per_second: NonZeroU32, now: Instant) -> Self {
        Self { per_second, started: now, done: 0 }
    }

    /// The number of events to cause in one step, from 1 to `max`.
    #[must_use]
    pub fn step_size(&self, max: u32) -> u32 {
        (self.per_second.get() / STEPS).clamp(1, max)
    }

    /// Records that `count` events were caused. Returns how long to wait until the next is due, or how many to skip.
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
        let skipped = late.as_nanos() * u128::from(self.per_second.get()) / 1_000_000_000;
        (self.started, self.done) = (now, 0);
        Next::Now { skipped: u64::try_from(skipped).unwrap_or(u64::MAX) }
    }

    /// The time that `count` events take at this rate.
    fn nanoseconds(&self, count: u64) -> u64 {
        let time = u128::from(count) * 1_000_000_000 / u128::from(self.per_second.get());
        u64::try_from(time).unwrap_or(u64::MAX)
    }
}

/// When the next event is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The event is due after this time.
    Wait(Duration),
    /// The event is due now.
    Now {
        /// The number of earlier events that are skipped, since they are too late.
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
