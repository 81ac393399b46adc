//! The highest rate that is held: found by halving, without a clock or a load of its own.
//!
//! ```text
//! as fast as it goes ── held ──────────────────────────────► found: the load is the limit
//!         └ not held ─► half of what came ─► … between the highest held and the lowest not held ─► found: within the tolerance
//! ```

/// The distance between the highest rate held and the lowest not held, of the latter, at which the search ends.
pub(super) const TOLERANCE: f64 = 0.02;
/// No search takes more trials: below a thousandth of what came first nothing is looked for.
const TRIALS: u32 = 16;

/// What to try next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Next {
    /// As much load as this machine makes.
    Unlimited,
    /// So many events a second.
    Rate(f64),
    /// Nothing: this was found.
    Found(Found),
}

/// The highest rate that was held.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Found {
    /// Everything that this machine's load could make, in events a second: more may be possible.
    All(f64),
    /// So many events a second; a little more was not held.
    Limit(f64),
    /// No rate that was tried was held.
    None,
}

/// A search under way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Search {
    held: Option<f64>,
    not_held: Option<f64>,
    trials: u32,
}

impl Search {
    /// What to try next.
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

    /// Takes note of a trial: of `rate` events a second, made in fact, and whether they were held.
    pub(super) fn record(&mut self, rate: f64, held: bool) {
        self.trials += 1;
        if held {
            self.held = Some(self.held.map_or(rate, |best| best.max(rate)));
        } else {
            // Chance may lose at a rate below one that was held: the truth is then assumed below both.
            self.not_held = Some(self.not_held.map_or(rate, |worst| worst.min(rate)));
            self.held = self.held.filter(|held| *held < rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Searches against a machine that makes `most` and holds `limit`; gives the trials, too.
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
