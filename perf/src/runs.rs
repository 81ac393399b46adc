//! Two contestants in turns, so that what else the machine does meets both alike.

use crate::failure::Failure;
use crate::statistics::Summary;

/// What was measured of each contestant, a value a round.
#[derive(Debug)]
pub(crate) struct Runs<T> {
    /// Of ctflow.
    pub(crate) ours: Vec<T>,
    /// Of what it is compared with.
    pub(crate) reference: Vec<T>,
}

impl<T> Runs<T> {
    /// Measures the one, the other, the one, the other …, `rounds` times each.
    ///
    /// # Errors
    /// The first that `run` fails with.
    pub(crate) fn alternate<C: ?Sized>(
        what: &str,
        rounds: usize,
        [ours, peer]: [&C; 2],
        mut run: impl FnMut(&C) -> Result<T, Failure>,
    ) -> Result<Self, Failure> {
        let mut runs = Self { ours: Vec::with_capacity(rounds), reference: Vec::with_capacity(rounds) };
        for round in 1..=rounds {
            eprintln!("{what}: round {round} of {rounds}");
            runs.ours.push(run(ours)?);
            runs.reference.push(run(peer)?);
        }
        Ok(runs)
    }

    /// One figure of both.
    pub(crate) fn summaries(&self, figure: impl Fn(&T) -> f64) -> [Summary; 2] {
        [&self.ours, &self.reference].map(|runs| Summary::of(runs.iter().map(&figure)))
    }
}
