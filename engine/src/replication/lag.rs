//! A histogram of the time that changes take from their source to a replica, in about two thousand bytes.
//!
//! It counts microseconds by powers of two, each split into eight slots, so that a quantile is exact to an eighth of
//! its value. The source reports the time of a change in whole milliseconds, so a counted time is up to one millisecond
//! longer than the real one.

use std::time::Duration;

/// Slots of each power of two.
const SLOTS_PER_POWER: u64 = 8;
/// Slots of the histogram: from 0 to some hours.
const SLOTS: usize = 8 * 34;

/// A histogram of times.
#[derive(Debug, Clone)]
pub struct Lag {
    /// How many times fell into each slot.
    counts: Box<[u64]>,
    /// The longest time.
    max: Duration,
}

/// The count, quantiles and maximum of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LagSummary {
    /// How many times were counted.
    pub count: u64,
    /// The time that half of them did not exceed.
    pub p50: Duration,
    /// The time that 99 of 100 did not exceed.
    pub p99: Duration,
    /// The time that 999 of 1,000 did not exceed.
    pub p999: Duration,
    /// The longest time.
    pub max: Duration,
}

impl Default for Lag {
    fn default() -> Self {
        Self { counts: vec![0; SLOTS].into_boxed_slice(), max: Duration::ZERO }
    }
}

impl Lag {
    /// Counts one time.
    #[inline]
    pub fn add(&mut self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(slot_of(microseconds).min(SLOTS - 1)) {
            *count += 1;
        }
        self.max = self.max.max(time);
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
        self.max = self.max.max(other.max);
    }

    /// Returns the times counted since the snapshot `earlier`. Its maximum is exact to an eighth, too.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().zip(&earlier.counts).map(|(now, then)| now.saturating_sub(*then));
        let counts: Box<[u64]> = counts.collect();
        let max = counts.iter().rposition(|count| *count > 0).map_or(Duration::ZERO, slot_max);
        Self { counts, max: max.min(self.max) }
    }

    /// Iterates over the slots that are not empty, shortest first: the longest time of the slot, and its count.
    pub fn distribution(&self) -> impl Iterator<Item = (Duration, u64)> {
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(slot, count)| (slot_max(slot).min(self.max), *count))
    }

    /// Returns the count, quantiles and maximum.
    #[must_use]
    pub fn summary(&self) -> LagSummary {
        let count = self.counts.iter().sum();
        let quantile = |of_thousand: u64| self.quantile(count, of_thousand).min(self.max);
        LagSummary { count, p50: quantile(500), p99: quantile(990), p999: quantile(999), max: self.max }
    }

    /// The time that `of_thousand` of 1,000 of the `count` times did not exceed.
    fn quantile(&self, count: u64, of_thousand: u64) -> Duration {
        let rank = (count * of_thousand).div_ceil(1_000);
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        at.map_or(Duration::ZERO, slot_max)
    }
}

/// The slot of a time: one slot for each microsecond below 8, then eight slots for each power of two.
fn slot_of(microseconds: u64) -> usize {
    let Some(power) = microseconds.checked_ilog2().and_then(|log| log.checked_sub(3)) else {
        return usize::try_from(microseconds).unwrap_or(usize::MAX);
    };
    let part = (microseconds >> power) - SLOTS_PER_POWER;
    usize::try_from((u64::from(power) + 1) * SLOTS_PER_POWER + part).unwrap_or(usize::MAX)
}

/// The longest time that falls into a slot.
fn slot_max(slot: usize) -> Duration {
    let slot = slot as u64;
    if slot < SLOTS_PER_POWER {
        return Duration::from_micros(slot);
    }
    let (power, part) = (slot / SLOTS_PER_POWER, slot % SLOTS_PER_POWER);
    Duration::from_micros(((SLOTS_PER_POWER + part + 1) << (power - 1)) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_in_the_slot_that_ends_at_or_above_it() {
        for time in (0..5_000).chain([100_000, 1_000_000, 10_000_000_000]) {
            let (at, duration) = (slot_of(time), Duration::from_micros(time));
            assert!(slot_max(at) >= duration, "{time} {at}");
            assert!(at == 0 || slot_max(at - 1) < duration, "{time} {at}");
            assert!(at < SLOTS, "{time} {at}");
        }
    }

    #[test]
    fn quantiles_are_right_to_an_eighth() {
        let of = Duration::from_micros;
        let mut lag = Lag::default();
        assert_eq!(lag.summary(), LagSummary::default());
        (1..=1_000).for_each(|time| lag.add(of(time)));
        let summary = lag.summary();
        assert_eq!((summary.count, summary.max), (1_000, of(1_000)));
        assert!(
            (of(500)..=of(563)).contains(&summary.p50) && (of(990)..=of(1_000)).contains(&summary.p99),
            "{summary:?}"
        );
    }

    #[test]
    fn since_counts_only_times_after_the_earlier_snapshot() {
        let mut lag = Lag::default();
        lag.add(Duration::from_secs(9));
        let before = lag.clone();
        assert_eq!(lag.since(&before).summary(), LagSummary::default());
        lag.add(Duration::from_micros(5));
        let since = lag.since(&before);
        assert_eq!(since.distribution().collect::<Vec<_>>(), [(Duration::from_micros(5), 1)]);
        assert_eq!((since.summary().count, since.summary().max), (1, Duration::from_micros(5)));
    }
}
