//! Summaries of one figure over several rounds.

/// The minimum, median and maximum of a figure over all rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The minimum.
    pub(crate) min: f64,
    /// The median; for an even number of rounds, the mean of the middle two.
    pub(crate) median: f64,
    /// The maximum.
    pub(crate) max: f64,
}

impl Summary {
    /// Summarizes `samples`. Without samples all values are 0.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let last = sorted.len().saturating_sub(1);
        Self { min: at(0), median: f64::midpoint(at(last / 2), at(last.div_ceil(2))), max: at(last) }
    }

    /// The ratio of this median to the other's; `None` where the other's is 0.
    pub(crate) fn ratio_to(&self, other: &Self) -> Option<f64> {
        (other.median > 0.0).then(|| self.median / other.median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_odd_and_even_rounds() {
        assert_eq!(Summary::of([3.0, 1.0, 2.0]), Summary { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Summary::of([4.0, 1.0, 2.0, 3.0]), Summary { min: 1.0, median: 2.5, max: 4.0 });
        assert_eq!(Summary::of([5.0]), Summary { min: 5.0, median: 5.0, max: 5.0 });
        assert_eq!(Summary::of([]), Summary { min: 0.0, median: 0.0, max: 0.0 });
    }

    #[test]
    fn nothing_is_a_multiple_of_zero() {
        let of = |value| Summary::of([value]);
        assert_eq!(of(1.0).ratio_to(&of(4.0)), Some(0.25));
        assert_eq!(of(1.0).ratio_to(&of(0.0)), None);
    }
}
