//! Bounded waits, which SIGINT and SIGTERM end early, so that measured processes are always ended as well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::failure::Failure;

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on SIGINT and SIGTERM end a wait instead of the process.
///
/// # Errors
/// When the system refuses a handler.
pub(crate) fn catch_signals() -> Result<(), Failure> {
    for signal in [SIGINT, SIGTERM] {
        let registered = signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED));
        registered.map_err(Failure::system("handle signals"))?;
    }
    Ok(())
}

/// The end of one wait.
#[derive(Debug)]
pub(crate) struct Deadline {
    what: String,
    longest: Duration,
    started: Instant,
}

impl Deadline {
    /// A wait for `what`, from now on.
    pub(crate) fn new(what: impl Into<String>, longest: Duration) -> Self {
        Self { what: what.into(), longest, started: Instant::now() }
    }

    /// Fails when the wait is over.
    ///
    /// # Errors
    /// [`Failure::TimedOut`], [`Failure::Interrupted`].
    pub(crate) fn check(&self) -> Result<(), Failure> {
        check_interrupted()?;
        if self.started.elapsed() < self.longest {
            return Ok(());
        }
        Err(Failure::TimedOut { what: self.what.clone(), longest: self.longest })
    }

    /// Asks `ready` again and again, `pause` apart, until it says so.
    ///
    /// # Errors
    /// As [`Deadline::check`], and what `ready` fails with.
    pub(crate) fn poll(
        &self,
        pause: Duration,
        mut ready: impl FnMut() -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        loop {
            check_interrupted()?; // first: a signal to the whole process group has ended what is waited for, too
            if ready()? {
                return Ok(());
            }
            self.check()?;
            thread::sleep(pause);
        }
    }
}

fn check_interrupted() -> Result<(), Failure> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_ready_or_names_what_did_not_come() {
        let mut asked = 0;
        let wait = Deadline::new("godot", Duration::from_millis(20));
        let ready = || {
            asked += 1;
            Ok(asked == 3)
        };
        wait.poll(Duration::ZERO, ready).unwrap();
        let failure = wait.poll(Duration::from_millis(1), || Ok(false)).unwrap_err();
        assert_eq!(failure.to_string(), "waited 20ms in vain for godot");
    }
}
