//! What the benchmark does now, as one live line: on a terminal, never in a pipe.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The live line.
pub(super) struct Progress {
    bar: ProgressBar,
    step: String,
}

impl Progress {
    pub(super) fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
        let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, step: String::new() }
    }

    /// What is done from here on.
    pub(super) fn step(&mut self, step: impl Into<String>) {
        self.step = step.into();
        self.bar.set_message(self.step.clone());
    }

    /// How it goes.
    pub(super) fn rate(&mut self, events_per_second: f64, lost: u64) {
        self.bar.set_message(format!("{}: {events_per_second:.0} events/s, {lost} lost", self.step));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
