//! The two programs in turns, so that what else the machine does meets both alike.

use crate::failure::Failure;
use crate::program::{Program, Programs};
use crate::statistics::Summary;

/// What was measured of each program, a value a round.
#[derive(Debug)]
pub(crate) struct Runs<T> {
    /// Of ctflow.
    pub(crate) ours: Vec<T>,
    /// Of the peer.
    pub(crate) peer: Vec<T>,
}

impl<T> Runs<T> {
    /// Measures ctflow, the peer, ctflow, the peer …, `rounds` times each.
    ///
    /// # Errors
    /// The first that `run` fails with.
    pub(crate) fn alternate(
        what: &str,
        rounds: usize,
        programs: &Programs,
        mut run: impl FnMut(&Program) -> Result<T, Failure>,
    ) -> Result<Self, Failure> {
        let mut runs = Self { ours: Vec::with_capacity(rounds), peer: Vec::with_capacity(rounds) };
        for round in 1..=rounds {
            eprintln!("{what}: round {round} of {rounds}");
            runs.ours.push(run(&programs.ours)?);
            runs.peer.push(run(&programs.peer)?);
        }
        Ok(runs)
    }

    /// One figure of both.
    pub(crate) fn summaries(&self, figure: impl Fn(&T) -> f64) -> [Summary; 2] {
        [&self.ours, &self.peer].map(|runs| Summary::of(runs.iter().map(&figure)))
    }
}
