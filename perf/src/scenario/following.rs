//! One run of a program that prints events, from its subscription to its last line.

use std::time::Duration;

use crate::failure::Failure;
use crate::lines::Tally;
use crate::process::Process;
use crate::program::Program;

/// The events of one run, and the CPU time of printing them.
#[derive(Debug)]
pub(super) struct Following {
    cpu: Duration,
    /// The events that were caused.
    happened: Tally,
    /// The events that the program printed.
    printed: Tally,
}

impl Following {
    /// Starts the program, calls `cause` once it has subscribed, and waits until it has printed all events. `cause`
    /// returns the events that it caused.
    ///
    /// # Errors
    /// When the program does not subscribe or fails, or `cause` fails.
    pub(super) fn run(
        program: &Program,
        arguments: &[&str],
        cause: impl FnOnce() -> Result<Tally, Failure>,
    ) -> Result<Self, Failure> {
        let mut process = Process::start(program, arguments)?;
        process.await_subscription()?;
        let before = process.cpu()?; // the cost of starting is excluded
        let happened = cause()?;
        process.await_quiet()?;
        let cpu = process.cpu()?.saturating_sub(before);
        Ok(Self { cpu, happened, printed: Tally::of(&process.stop()?) })
    }

    /// The CPU time for each printed event, in nanoseconds.
    pub(super) fn cpu_per_event_ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.printed.events().max(1) as f64
    }

    /// The number of printed events.
    pub(super) fn printed(&self) -> f64 {
        self.printed.events() as f64
    }

    /// The number of events that were lost or printed twice.
    pub(super) fn missing(&self) -> f64 {
        self.happened.count_differing(&self.printed) as f64
    }
}
