//! Progress on standard error: a bar for work that takes longer than a second, a line that says what is done. On a terminal,
//! never in a pipe.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is done sooner needs no bar.
const BAR_DELAY: Duration = Duration::from_secs(1);

/// How often the live line shows that it lives.
const SPINNER_INTERVAL: Duration = Duration::from_millis(200);

/// What is done now, as one live line.
pub(super) struct Live {
    bar: ProgressBar,
    step: String,
}

impl Live {
    pub(super) fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
        let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(SPINNER_INTERVAL);
        Self { bar, step: String::new() }
    }

    /// What is done from here on.
    pub(super) fn start_step(&mut self, step: impl Into<String>) {
        self.step = step.into();
        self.bar.set_message(self.step.clone());
    }

    /// How it goes.
    pub(super) fn update(&self, how: impl Display) {
        self.bar.set_message(format!("{}: {how}", self.step));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// How far some work is.
pub(super) struct Progress {
    bar: ProgressBar,
    /// When the bar is to appear; never, or no more, if nothing.
    due: Option<Instant>,
}

impl Progress {
    /// Of work with about `total` steps; `unit` is what is counted.
    pub(super) fn of(total: u64, unit: &'static str) -> Self {
        let template = format!("[{{bar:30}}] {{pos}} of {{len}} {unit}, {{eta}} left");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.progress_chars("=> "); // a console may have no others
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()).with_style(style);
        // Asked once: a step is much less work than asking.
        let due = can_redraw().then(|| Instant::now() + BAR_DELAY);
        Self { bar, due }
    }

    /// No bar, however long it takes.
    pub(super) fn none() -> Self {
        Self { bar: ProgressBar::hidden(), due: None }
    }

    /// Of work that prints a line a step: on a terminal they tell as much, and a bar would stand in their midst.
    pub(super) fn beside_lines(total: u64, unit: &'static str) -> Self {
        let mut progress = Self::of(total, unit);
        progress.due.take_if(|_| io::stdout().is_terminal());
        progress
    }

    /// Some more steps are done.
    pub(super) fn add(&mut self, steps: u64) {
        self.bar.inc(steps);
        if self.due.is_some_and(|due| Instant::now() > due) {
            self.due = None;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

/// Whether there is somebody to draw for, and what was drawn can be drawn over.
fn can_redraw() -> bool {
    io::stderr().is_terminal() && env::var_os("TERM").is_some_and(|kind| kind != "dumb")
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
