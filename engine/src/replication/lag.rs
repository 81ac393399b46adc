//! How long changes take from their source to a replica, in a few hundred bytes.
//!
//! Counts by powers of two, each parted in eight: a quantile is right to an eighth of itself.

/// Parts of a power of two.
const PARTS: u64 = 8;
/// From 0 to some hours.
const PLACES: usize = 8 * 24;

/// Counted times.
#[derive(Debug, Clone)]
pub struct Lag {
    counts: Box<[u64]>,
    max_ms: u64,
}

/// What matters of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LagSummary {
    /// Changes.
    pub count: u64,
    /// Half of them took no longer, in milliseconds; likewise the others.
    pub p50_ms: u64,
    /// 99 of 100.
    pub p99_ms: u64,
    /// 999 of 1,000.
    pub p999_ms: u64,
    /// All of them.
    pub max_ms: u64,
}

impl Default for Lag {
    fn default() -> Self {
        Self { counts: vec![0; PLACES].into_boxed_slice(), max_ms: 0 }
    }
}

impl Lag {
    /// Counts one that took so many milliseconds.
    #[inline]
    pub fn add(&mut self, milliseconds: u64) {
        let place = place(milliseconds).min(PLACES - 1);
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.max_ms = self.max_ms.max(milliseconds);
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
        self.max_ms = self.max_ms.max(other.max_ms);
    }

    /// What matters.
    #[must_use]
    pub fn summary(&self) -> LagSummary {
        let count = self.counts.iter().sum();
        let quantile = |of_thousand: u64| self.quantile(count, of_thousand).min(self.max_ms);
        LagSummary { count, p50_ms: quantile(500), p99_ms: quantile(990), p999_ms: quantile(999), max_ms: self.max_ms }
    }

    fn quantile(&self, count: u64, of_thousand: u64) -> u64 {
        let wanted = (count * of_thousand).div_ceil(1_000);
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        at.map_or(0, greatest)
    }
}

/// The place of a time: below 8 each its own, then eight to a power of two.
fn place(milliseconds: u64) -> usize {
    let Some(power) = milliseconds.checked_ilog2().and_then(|log| log.checked_sub(3)) else {
        return usize::try_from(milliseconds).unwrap_or(usize::MAX);
    };
    let part = (milliseconds >> power) - PARTS;
    usize::try_from((u64::from(power) + 1) * PARTS + part).unwrap_or(usize::MAX)
}

/// The greatest time of a place.
fn greatest(place: usize) -> u64 {
    let place = place as u64;
    if place < PARTS {
        return place;
    }
    let (power, part) = (place / PARTS, place % PARTS);
    ((PARTS + part + 1) << (power - 1)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_place_that_ends_at_or_above_it() {
        for time in (0..5_000).chain([100_000, 1_000_000, 3_000_000]) {
            let at = place(time);
            assert!(greatest(at) >= time, "{time} {at}");
            assert!(at == 0 || greatest(at - 1) < time, "{time} {at}");
        }
    }

    #[test]
    fn quantiles_are_right_to_an_eighth() {
        let mut lag = Lag::default();
        assert_eq!(lag.summary(), LagSummary::default());
        (1..=1_000).for_each(|time| lag.add(time));
        let summary = lag.summary();
        assert_eq!((summary.count, summary.max_ms), (1_000, 1_000));
        assert!((500..=563).contains(&summary.p50_ms) && (990..=1_000).contains(&summary.p99_ms), "{summary:?}");
    }
}
