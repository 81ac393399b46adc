//! Going through all buckets once in a period, evenly: what alarm mode tells and expires.

use crate::buckets::BUCKETS_ALL;

const STEPS: u64 = BUCKETS_ALL as u64;

/// An endless round over the buckets.
#[derive(Debug)]
pub(crate) struct BucketCycle {
    period_ms: u64,
    started_ms: u64,
    /// Buckets gone through since then.
    done: u64,
}

impl BucketCycle {
    pub(crate) fn new(period_ms: u64, now_ms: u64) -> Self {
        Self { period_ms: period_ms.max(1), started_ms: now_ms, done: 0 }
    }

    /// The buckets whose turn has come, each at most once: after a long pause the round goes on from here.
    pub(crate) fn due_buckets(&mut self, now_ms: u64) -> impl Iterator<Item = u16> + use<> {
        let elapsed = now_ms.saturating_sub(self.started_ms);
        let reached = elapsed.saturating_mul(STEPS) / self.period_ms;
        let from = self.done.max(reached.saturating_sub(STEPS));
        self.done = reached.max(self.done);
        (from..self.done).map(|step| u16::try_from(step % STEPS).unwrap_or(0))
    }

    /// When the next bucket's turn comes.
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
        assert_eq!(round.due_buckets(1_000_000).count(), BUCKETS_ALL, "a long pause is one round");
    }
}
