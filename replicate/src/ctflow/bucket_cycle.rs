//! A schedule that visits each bucket once in a period, evenly spaced. Alarm mode sends and sweeps the buckets by it.

use crate::model::buckets::BUCKETS_ALL;

const STEPS: u64 = BUCKETS_ALL as u64;

/// An endless cycle over all buckets.
#[derive(Debug)]
pub(crate) struct BucketCycle {
    period_ms: u64,
    started_ms: u64,
    /// Visits to buckets since `started_ms`.
    done: u64,
}

impl BucketCycle {
    pub(crate) fn new(period_ms: u64, now_ms: u64) -> Self {
        Self { period_ms: period_ms.max(1), started_ms: now_ms, done: 0 }
    }

    /// Returns the buckets that are due, each at most once: after a pause of more than a period, missed visits are
    /// skipped.
    pub(crate) fn due_buckets(&mut self, now_ms: u64) -> impl Iterator<Item = u16> + use<> {
        let elapsed = now_ms.saturating_sub(self.started_ms);
        let reached = elapsed.saturating_mul(STEPS) / self.period_ms;
        let from = self.done.max(reached.saturating_sub(STEPS));
        self.done = reached.max(self.done);
        (from..self.done).map(|step| u16::try_from(step % STEPS).unwrap_or(0))
    }

    /// The time when the next bucket is due, in monotonic milliseconds.
    pub(crate) fn next_due_ms(&self) -> u64 {
        self.started_ms.saturating_add((self.done + 1).saturating_mul(self.period_ms).div_ceil(STEPS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_is_due_once_in_a_period() {
        let mut round = BucketCycle::new(1_000, 50);
        let mut seen = Vec::new();
        let mut now = 50;
        while seen.len() < BUCKETS_ALL {
            now = round.next_due_ms();
            seen.extend(round.due_buckets(now));
        }
        assert_eq!((now, seen), (1_050, (0..257).collect()));
        assert_eq!(round.due_buckets(1_000_000).count(), BUCKETS_ALL, "after a long pause each bucket is due once");
    }
}
