//! The pipeline's threads, and what each costs: seen from outside, so that a thread is not slowed by being looked at.

use std::fs;
use std::io;
use std::ops::AddAssign;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;
use rustix::thread::Pid;

use crate::sys::clock::thread_cpu;

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Duty {
    /// Takes events into its shard; numbered from 0.
    Worker(u32),
    /// Keeps the shards true to the kernel.
    Control,
    /// Tells peers, and hears them.
    Stage,
    /// Puts what peers tell into the kernel as it comes.
    Hot,
}

/// A thread of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// What it is for.
    pub duty: Duty,
    id: Pid,
}

/// What a thread has taken since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a processor, in user and kernel mode.
    pub cpu: Duration,
    /// Times that it waited and was woken.
    pub wakeups: u64,
}

impl Thread {
    /// What it has taken so far; nothing of one that has ended.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let Ok(cpu) = thread_cpu(self.id) else { return Usage::default() };
        let path = format!("/proc/self/task/{}/status", self.id.as_raw_nonzero());
        let status = fs::read_to_string(path).unwrap_or_default();
        let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        Usage { cpu, wakeups: switches.and_then(|number| number.trim().parse().ok()).unwrap_or(0) }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.wakeups += other.wakeups;
    }
}

impl Usage {
    /// What was taken between `earlier` and now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(earlier.cpu), wakeups: self.wakeups.saturating_sub(earlier.wakeups) }
    }
}

/// Starts a thread in the caller's network namespace, and says which it is.
///
/// # Errors
/// When the system has no thread left.
pub fn start<T: Send + 'static>(
    name: String,
    duty: Duty,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<(JoinHandle<T>, Thread)> {
    let (id_sender, id_receiver) = bounded(1);
    let handle = thread::Builder::new().name(name).spawn(move || {
        let _ = id_sender.send(rustix::thread::gettid()); // there is room for one
        body()
    })?;
    let id = id_receiver.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    Ok((handle, Thread { duty, id }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_is_woken_and_costs_next_to_nothing() {
        let (wake_sender, wakes) = bounded::<()>(0);
        let (handle, thread) = start("sleeper".to_owned(), Duty::Control, move || for () in wakes {}).unwrap();
        let before = thread.usage();
        for _ in 0..10 {
            wake_sender.send(()).unwrap();
            thread::sleep(Duration::from_millis(2)); // until it waits again
        }
        let taken = thread.usage().since(&before);
        assert!((5..=40).contains(&taken.wakeups), "{taken:?}");
        assert!(taken.cpu < Duration::from_millis(20), "{taken:?}");
        drop(wake_sender);
        handle.join().unwrap();
        assert_eq!(thread.usage(), Usage::default());
    }
}
