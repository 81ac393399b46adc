//! Decides how long to wait for the next batch: it keeps latency low at low rates, and cost low at high rates.
//!
//! A reader woken by every event spends more on waking than on the events. So the last batch decides how to wait for
//! the next:
//!
//! ```text
//!  no event ─────────────────────► until any        no wake-up to save, and the first event is received at once
//!  few events (under 8 a ms) ────► until any        a wake-up each, some 4 % of a core at most
//!  many events ──────────────────► pile up for 1 ms, or until a quarter of the socket buffer is full
//!  so many that this is < 50 µs ─► until any        a timer that short is late anyway
//!  some events left in the queue ► do not wait
//! ```
//!
//! This module reads no clock and remembers no earlier batch: the elapsed time is an argument. The end of a burst costs
//! one wait of a millisecond, before the reader sleeps until the next event.

use std::time::Duration;

use crate::capture::receive::{Received, Wait};
use crate::limits::{BUSY_EVENTS, PILE_UP_FRACTION, WAIT_MAX, WAIT_MIN};

/// Decides how a reader waits for the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    capacity: usize,
}

impl Pace {
    /// A pace for a socket whose buffer holds `capacity` events ([`crate::capture::socket::EventSocket::capacity`]).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity }
    }

    /// The wait after a receive that returned `received`, `elapsed` after the return of the receive before it.
    #[must_use]
    pub fn next_wait(&self, received: &Received, elapsed: Duration) -> Wait {
        let count = received.datagrams + received.truncated;
        if !received.drained && count > 0 {
            return Wait::None;
        }
        let time = self.fill_time(count, elapsed).min(WAIT_MAX);
        if time < WAIT_MIN || is_calm(count, elapsed) { Wait::UntilAny } else { Wait::AtMost(time) }
    }

    /// How long `count` events per `elapsed` take to fill the part of the buffer in which they may pile up.
    fn fill_time(&self, count: usize, elapsed: Duration) -> Duration {
        let room = (self.capacity / PILE_UP_FRACTION) as u128;
        let nanoseconds = elapsed.as_nanos().saturating_mul(room).checked_div(count as u128);
        nanoseconds.and_then(|time| u64::try_from(time).ok()).map_or(Duration::MAX, Duration::from_nanos)
    }
}

/// Whether the rate of `count` events per `elapsed` is so low that a wake-up for each event is affordable.
fn is_calm(count: usize, elapsed: Duration) -> bool {
    (count as u128).saturating_mul(WAIT_MAX.as_nanos()) < elapsed.as_nanos().saturating_mul(BUSY_EVENTS as u128)
        || count == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn next(capacity: usize, count: usize, elapsed: Duration) -> Wait {
        let received = Received { datagrams: count, drained: true, ..Received::default() };
        Pace::new(capacity).next_wait(&received, elapsed)
    }

    #[test]
    fn idle_and_calm_wake_with_the_first_event() {
        assert_eq!(next(10_000, 0, Duration::ZERO), Wait::UntilAny);
        assert_eq!(next(10_000, 0, MILLISECOND), Wait::UntilAny);
        assert_eq!(next(10_000, BUSY_EVENTS - 1, MILLISECOND), Wait::UntilAny);
    }

    #[test]
    fn busy_piles_up_for_a_millisecond() {
        assert_eq!(next(10_000, BUSY_EVENTS, MILLISECOND), Wait::AtMost(WAIT_MAX));
        assert_eq!(next(10_000, 1, Duration::from_micros(5)), Wait::AtMost(WAIT_MAX));
    }

    #[test]
    fn a_small_buffer_is_read_before_a_quarter_of_it_is_full() {
        assert_eq!(next(400, 200, MILLISECOND), Wait::AtMost(Duration::from_micros(500)));
        assert_eq!(next(400, 20_000, MILLISECOND), Wait::UntilAny);
    }

    #[test]
    fn datagrams_left_behind_are_read_at_once() {
        let received = Received { datagrams: 4_096, drained: false, ..Received::default() };
        assert_eq!(Pace::new(10_000).next_wait(&received, MILLISECOND), Wait::None);
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_longest_or_fills_more_than_a_quarter(
            capacity in 1..1_000_000_usize, count in 0..1_000_000_usize, elapsed in 0..10_000_000_000_u64,
        ) {
            if let Wait::AtMost(time) = next(capacity, count, Duration::from_nanos(elapsed)) {
                prop_assert!(time <= WAIT_MAX && time >= WAIT_MIN);
                let arriving = count as u128 * time.as_nanos() / u128::from(elapsed.max(1));
                prop_assert!(arriving <= (capacity / PILE_UP_FRACTION) as u128);
            }
        }
    }
}
