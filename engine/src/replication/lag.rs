//! How long changes take from their source to a replica, in two thousand bytes.
//!
//! Counts microseconds by powers of two, each parted in eight: a quantile is right to an eighth of itself. The source tells
//! when a flow changed to the millisecond, so a time is up to one millisecond more than it was.

use std::time::Duration;

/// Parts of a power of two.
const SLOTS_PER_POWER: u64 = 8;
/// From 0 to some hours.
const SLOTS: usize = 8 * 34;

/// Counted times.
#[derive(Debug, Clone)]
pub struct Lag {
    counts: Box<[u64]>,
    max: Duration,
}

/// What matters of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LagSummary {
    /// Changes.
    pub count: u64,
    /// Half of them took no longer; likewise the others.
    pub p50: Duration,
    /// 99 of 100.
    pub p99: Duration,
    /// 999 of 1,000.
    pub p999: Duration,
    /// All of them.
    pub max: Duration,
}

impl Default for Lag {
    fn default() -> Self {
        Self { counts: vec![0; SLOTS].into_boxed_slice(), max: Duration::ZERO }
    }
}

impl Lag {
    /// Counts one that took so long.
    #[inline]
    pub fn add(&mut self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(slot_of(microseconds).min(SLOTS - 1)) {
            *count += 1;
        }
        self.max = self.max.max(time);
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
        self.max = self.max.max(other.max);
    }

    /// What was counted since `earlier`; the greatest, too, is then right to an eighth.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().zip(&earlier.counts).map(|(now, then)| now.saturating_sub(*then));
        let counts: Box<[u64]> = counts.collect();
        let max = counts.iter().rposition(|count| *count > 0).map_or(Duration::ZERO, slot_max);
        Self { counts, max: max.min(self.max) }
    }

    /// The times that were counted and how often each was, shortest first.
    pub fn distribution(&self) -> impl Iterator<Item = (Duration, u64)> {
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(place, count)| (slot_max(place).min(self.max), *count))
    }

    /// What matters.
    #[must_use]
    pub fn summary(&self) -> LagSummary {
        let count = self.counts.iter().sum();
        let quantile = |of_thousand: u64| self.quantile(count, of_thousand).min(self.max);
        LagSummary { count, p50: quantile(500), p99: quantile(990), p999: quantile(999), max: self.max }
    }

    fn quantile(&self, count: u64, of_thousand: u64) -> Duration {
        let wanted = (count * of_thousand).div_ceil(1_000);
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        at.map_or(Duration::ZERO, slot_max)
    }
}

/// The place of a time: below 8 microseconds each its own, then eight to a power of two.
fn slot_of(microseconds: u64) -> usize {
    let Some(power) = microseconds.checked_ilog2().and_then(|log| log.checked_sub(3)) else {
        return usize::try_from(microseconds).unwrap_or(usize::MAX);
    };
    let part = (microseconds >> power) - SLOTS_PER_POWER;
    usize::try_from((u64::from(power) + 1) * SLOTS_PER_POWER + part).unwrap_or(usize::MAX)
}

/// The greatest time of a place.
fn slot_max(place: usize) -> Duration {
    let place = place as u64;
    if place < SLOTS_PER_POWER {
        return Duration::from_micros(place);
    }
    let (power, part) = (place / SLOTS_PER_POWER, place % SLOTS_PER_POWER);
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
