//! The engine's threads, and the processor time that each uses. It is read from outside, so that measuring slows no
//! thread.

use std::fs;
use std::io;
use std::ops::AddAssign;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;
use rustix::thread::Pid;

use crate::sys::clock::thread_cpu;

/// The purpose of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Duty {
    /// The worker of this number, from 0: receives events and applies them to its shard.
    Worker(u32),
    /// The control thread: keeps the shards in sync with the kernel.
    Control,
    /// The replication stage: sends deltas to peers, and receives theirs.
    Stage,
    /// The hot thread: injects peers' flows into the kernel as they arrive.
    Hot,
}

/// A thread of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// Its purpose.
    pub duty: Duty,
    id: Pid,
}

/// The processor time and wake-ups of a thread since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a processor, in user and kernel mode.
    pub cpu: Duration,
    /// How often it waited and was woken: the kernel's count of voluntary context switches.
    pub wakeups: u64,
}

impl Thread {
    /// Its usage so far; zero if it has ended.
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
    /// The difference between `earlier` and this usage.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(earlier.cpu), wakeups: self.wakeups.saturating_sub(earlier.wakeups) }
    }
}

/// Starts a thread named `name` in the caller's network namespace. Returns its join handle, and the [`Thread`] to
/// measure it by.
///
/// # Errors
/// When the system refuses another thread.
pub fn start<T: Send + 'static>(
    name: String,
    duty: Duty,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<(JoinHandle<T>, Thread)> {
    let (id_sender, id_receiver) = bounded(1);
    let handle = thread::Builder::new().name(name).spawn(move || {
        let _ = id_sender.send(rustix::thread::gettid()); // the channel has room for the id
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
        let used = thread.usage().since(&before);
        assert!((5..=40).contains(&used.wakeups), "{used:?}");
        assert!(used.cpu < Duration::from_millis(20), "{used:?}");
        drop(wake_sender);
        handle.join().unwrap();
        assert_eq!(thread.usage(), Usage::default());
    }
}
