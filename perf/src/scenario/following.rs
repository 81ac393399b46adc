//! One run of a program that follows events, from its subscription to its last line.

use std::time::Duration;

use crate::failure::Failure;
use crate::lines::Tally;
use crate::process::Process;
use crate::program::Program;

/// What it printed and what that cost.
#[derive(Debug)]
pub(super) struct Following {
    cpu: Duration,
    /// The events that happened.
    happened: Tally,
    /// The events that it printed.
    printed: Tally,
}

impl Following {
    /// Starts the program, has `cause` happen once it is subscribed, and waits until all is printed. `cause` returns
    /// the events that it made.
    ///
    /// # Errors
    /// When the program does not follow, or `cause` fails.
    pub(super) fn run(
        program: &Program,
        arguments: &[&str],
        cause: impl FnOnce() -> Result<Tally, Failure>,
    ) -> Result<Self, Failure> {
        let mut process = Process::start(program, arguments)?;
        process.await_subscription()?;
        let before = process.cpu()?; // starting up is not following
        let happened = cause()?;
        process.await_quiet()?;
        let cpu = process.cpu()?.saturating_sub(before);
        Ok(Self { cpu, happened, printed: Tally::of(&process.stop()?) })
    }

    /// CPU time for each event printed, in nanoseconds.
    pub(super) fn cpu_per_event_ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.printed.events().max(1) as f64
    }

    /// Events printed.
    pub(super) fn printed(&self) -> f64 {
        self.printed.events() as f64
    }

    /// How far the printed events are from those that happened: lost, or printed twice.
    pub(super) fn missing(&self) -> f64 {
        self.happened.count_differing(&self.printed) as f64
    }
}
