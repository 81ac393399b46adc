//! Progress on standard error: a bar for work that takes longer than a second, a line that shows the current step. On a
//! terminal, never in a pipe.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar appears after this time, so that short work shows none.
const BAR_DELAY: Duration = Duration::from_secs(1);

/// Time between two turns of the live line's spinner.
const SPINNER_INTERVAL: Duration = Duration::from_millis(200);

/// One line on standard error that shows the current step.
pub(super) struct Live {
    bar: ProgressBar,
    /// The current step's name.
    step: String,
}

impl Live {
    /// Creates a line with no step yet. It starts a thread that turns the spinner.
    pub(super) fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
        let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(SPINNER_INTERVAL);
        Self { bar, step: String::new() }
    }

    /// Starts a step.
    pub(super) fn start_step(&mut self, step: impl Into<String>) {
        self.step = step.into();
        self.bar.set_message(self.step.clone());
    }

    /// Shows the state of the current step.
    pub(super) fn update(&self, state: impl Display) {
        self.bar.set_message(format!("{}: {state}", self.step));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A progress bar.
pub(super) struct Progress {
    bar: ProgressBar,
    /// When the bar is to appear; `None` if it never does, or has appeared.
    due: Option<Instant>,
}

impl Progress {
    /// Creates a bar for about `total` steps. `unit` names what is counted, in the plural.
    pub(super) fn of(total: u64, unit: &'static str) -> Self {
        let template = format!("[{{bar:30}}] {{pos}} of {{len}} {unit}, {{eta}} left");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.progress_chars("=> "); // ASCII, because a console may have no other characters
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()).with_style(style);
        // Checked once: a check costs much more than a step.
        let due = can_redraw().then(|| Instant::now() + BAR_DELAY);
        Self { bar, due }
    }

    /// Creates one that never shows a bar.
    pub(super) fn none() -> Self {
        Self { bar: ProgressBar::hidden(), due: None }
    }

    /// Creates a bar for work that prints a line for each step. If the lines go to a terminal, no bar appears between
    /// them.
    pub(super) fn beside_lines(total: u64, unit: &'static str) -> Self {
        let mut progress = Self::of(total, unit);
        progress.due.take_if(|_| io::stdout().is_terminal());
        progress
    }

    /// Adds `steps` to the steps done.
    pub(super) fn add(&mut self, steps: u64) {
        self.bar.inc(steps);
        if self.due.is_some_and(|due| Instant::now() > due) {
            self.due = None;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

/// Returns whether standard error is a terminal that can overwrite a line.
fn can_redraw() -> bool {
    io::stderr().is_terminal() && env::var_os("TERM").is_some_and(|kind| kind != "dumb")
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
