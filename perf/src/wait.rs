//! Bounded waits. SIGINT and SIGTERM end a wait early, so that measured processes are always ended, too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::failure::Failure;

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Installs handlers of SIGINT and SIGTERM that end the current wait instead of the process.
///
/// # Errors
/// When a handler cannot be installed.
pub(crate) fn catch_signals() -> Result<(), Failure> {
    for signal in [SIGINT, SIGTERM] {
        let registered = signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED));
        registered.map_err(Failure::system("handle signals"))?;
    }
    Ok(())
}

/// The deadline of one wait.
#[derive(Debug)]
pub(crate) struct Deadline {
    what: String,
    timeout: Duration,
    started: Instant,
}

impl Deadline {
    /// Starts a wait of at most `timeout` for `what`, a noun phrase.
    pub(crate) fn new(what: impl Into<String>, timeout: Duration) -> Self {
        Self { what: what.into(), timeout, started: Instant::now() }
    }

    /// Fails when the deadline has passed or a signal has arrived.
    ///
    /// # Errors
    /// [`Failure::TimedOut`], [`Failure::Interrupted`].
    pub(crate) fn check(&self) -> Result<(), Failure> {
        check_interrupted()?;
        if self.started.elapsed() < self.timeout {
            return Ok(());
        }
        Err(Failure::TimedOut { what: self.what.clone(), timeout: self.timeout })
    }

    /// Calls `ready` repeatedly, `pause` apart, until it returns `true`.
    ///
    /// # Errors
    /// The error of [`Deadline::check`] or of `ready`.
    pub(crate) fn poll(
        &self,
        pause: Duration,
        mut ready: impl FnMut() -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        loop {
            check_interrupted()?; // first: a signal to the process group has also ended the awaited process
            if ready()? {
                return Ok(());
            }
            self.check()?;
            thread::sleep(pause);
        }
    }
}

/// Fails when SIGINT or SIGTERM has arrived.
fn check_interrupted() -> Result<(), Failure> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_ready_or_names_what_did_not_come() {
        let mut calls = 0;
        let wait = Deadline::new("godot", Duration::from_millis(20));
        let ready = || {
            calls += 1;
            Ok(calls == 3)
        };
        wait.poll(Duration::ZERO, ready).unwrap();
        let failure = wait.poll(Duration::from_millis(1), || Ok(false)).unwrap_err();
        assert_eq!(failure.to_string(), "waited 20ms in vain for godot");
    }
}
