//! A progress bar on standard error for work that takes longer than a second: on a terminal, never in a pipe.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is done sooner needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far some work is.
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// Of work with about `total` steps; `unit` is what is counted.
    pub(super) fn of(total: u64, unit: &'static str) -> Self {
        let template = format!("{{bar:30}} {{pos}} of {{len}} {unit}, {{eta}} left");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()).with_style(style);
        Self { bar, started: Instant::now() }
    }

    /// Some more steps are done.
    pub(super) fn add(&mut self, steps: u64) {
        self.bar.inc(steps);
        if self.bar.is_hidden() && self.started.elapsed() > PATIENCE {
            // Draws nothing where standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
