//! The search for the highest rate that is held, by bisection. It has neither a clock nor a load of its own.
//!
//! ```text
//! full speed ── held ──────────────────────────────────────────────────► found: the load is the limit
//!      └ not held ─► half of it ─► … between the highest rate held and the lowest not held ─► found, to the tolerance
//! ```

/// The search ends when the lowest rate not held exceeds the highest held by at most this fraction of the former.
pub(super) const TOLERANCE: f64 = 0.02;
/// The most trials of a search: enough to find a thousandth of the first rate to the tolerance.
const TRIALS: u32 = 16;

/// The next step of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Next {
    /// Try as much load as this machine makes.
    Unlimited,
    /// Try this many events a second.
    Rate(f64),
    /// The search has ended with this result.
    Found(Found),
}

/// The highest rate that was held.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Found {
    /// All that this machine's load can make, in events a second. A higher rate may be possible.
    All(f64),
    /// This many events a second. A slightly higher rate was not held.
    Limit(f64),
    /// No rate that was tried was held.
    None,
}

/// A search in progress.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Search {
    /// The highest rate held, in events a second.
    held: Option<f64>,
    /// The lowest rate not held, in events a second.
    not_held: Option<f64>,
    /// The number of trials so far.
    trials: u32,
}

impl Search {
    /// Returns the next step.
    pub(super) fn next(&self) -> Next {
        match (self.held, self.not_held) {
            (None, None) => Next::Unlimited,
            (Some(held), None) => Next::Found(Found::All(held)),
            (held, Some(not_held)) => {
                let low = held.unwrap_or(0.0);
                if not_held - low <= TOLERANCE * not_held || self.trials >= TRIALS {
                    Next::Found(held.map_or(Found::None, Found::Limit))
                } else {
                    Next::Rate(f64::midpoint(low, not_held))
                }
            }
        }
    }

    /// Records a trial: the rate of events that the load made in fact, and whether the rate was held.
    pub(super) fn record(&mut self, rate: f64, held: bool) {
        self.trials += 1;
        if held {
            self.held = Some(self.held.map_or(rate, |best| best.max(rate)));
        } else {
            // A rate below one that was held may lose events by chance. The limit is then assumed to be below both.
            self.not_held = Some(self.not_held.map_or(rate, |worst| worst.min(rate)));
            self.held = self.held.filter(|held| *held < rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Searches on a machine that makes `most` and holds `limit` events a second. Returns the result and the trials.
    fn search(most: f64, limit: f64) -> (Found, u32) {
        let mut search = Search::default();
        loop {
            match search.next() {
                Next::Unlimited => search.record(most, most <= limit),
                Next::Rate(rate) => search.record(rate, rate <= limit),
                Next::Found(found) => return (found, search.trials),
            }
        }
    }

    #[test]
    fn a_rate_held_at_full_speed_takes_one_trial() {
        assert_eq!(search(100_000.0, 200_000.0), (Found::All(100_000.0), 1));
    }

    #[test]
    fn the_search_ends_even_if_no_rate_is_held() {
        let (found, trials) = search(100_000.0, 0.0);
        assert_eq!(found, Found::None);
        assert!(trials <= TRIALS);
    }

    #[test]
    fn a_loss_by_chance_below_a_rate_that_was_held_lowers_the_result() {
        let mut search = Search::default();
        search.record(100.0, false);
        search.record(50.0, true);
        search.record(75.0, true);
        search.record(60.0, false);
        assert_eq!(search.next(), Next::Rate(30.0));
    }

    proptest! {
        #[test]
        fn the_limit_is_found_within_the_tolerance(most in 1_000.0..5e6_f64, share in 0.001..1.0_f64) {
            let limit = most * share;
            let (found, trials) = search(most, limit);
            prop_assert!(trials <= TRIALS);
            let Found::Limit(rate) = found else { return Err(TestCaseError::fail(format!("{found:?}"))) };
            prop_assert!(rate <= limit && limit - rate <= 2.0 * TOLERANCE * limit, "{rate} of {limit}, {trials}");
        }
    }
}
