//! Runs of two contestants in turns, so that other work on the machine affects both alike.

use crate::failure::Failure;
use crate::statistics::Summary;

/// The measurements of both contestants, one value a round.
#[derive(Debug)]
pub(crate) struct Runs<T> {
    /// The measurements of ctflow.
    pub(crate) ours: Vec<T>,
    /// The measurements of the program that ctflow is compared with.
    pub(crate) reference: Vec<T>,
}

impl<T> Runs<T> {
    /// Measures both contestants alternately, `rounds` times each, and prints each round's number. `what` names the
    /// work.
    ///
    /// # Errors
    /// The first error of `run`.
    pub(crate) fn alternate<C: ?Sized>(
        what: &str,
        rounds: usize,
        [ours, reference]: [&C; 2],
        mut run: impl FnMut(&C) -> Result<T, Failure>,
    ) -> Result<Self, Failure> {
        let mut runs = Self { ours: Vec::with_capacity(rounds), reference: Vec::with_capacity(rounds) };
        for round in 1..=rounds {
            eprintln!("{what}: round {round} of {rounds}");
            runs.ours.push(run(ours)?);
            runs.reference.push(run(reference)?);
        }
        Ok(runs)
    }

    /// The summaries of one figure, of ctflow and of the reference.
    pub(crate) fn summaries(&self, figure: impl Fn(&T) -> f64) -> [Summary; 2] {
        [&self.ours, &self.reference].map(|runs| Summary::of(runs.iter().map(&figure)))
    }
}
