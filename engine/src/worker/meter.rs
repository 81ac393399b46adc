//! Measures the processor time of each step of a thread's loop, as laps.
//!
//! A lap costs a system call, so a meter is off unless [`Settings::metered`](crate::engine::Settings::metered) turns it
//! on. While it is off, a lap costs nothing.

use rustix::time::{ClockId, clock_gettime};

/// Divides the calling thread's processor time into laps.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// The thread's processor time at the last lap, in nanoseconds; `None` while the meter is off.
    last_ns: Option<u64>,
}

impl Meter {
    /// A meter of the calling thread, which measures if `on`.
    pub(crate) fn new(on: bool) -> Self {
        Self { last_ns: on.then(cpu_ns) }
    }

    /// Whether it measures.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.last_ns.is_some()
    }

    /// The thread's processor time since the last lap, in nanoseconds; 0 while the meter is off.
    #[inline]
    pub(crate) fn lap(&mut self) -> u64 {
        let Some(last) = &mut self.last_ns else { return 0 };
        let now = cpu_ns();
        now.saturating_sub(std::mem::replace(last, now))
    }
}

/// The calling thread's processor time so far, in nanoseconds.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_lap_is_time_at_work_and_not_asleep() {
        let mut meter = Meter::new(true);
        std::thread::sleep(Duration::from_millis(50));
        let asleep = meter.lap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            black_box(start);
        }
        let at_work = meter.lap();
        assert!(asleep < 20_000_000 && at_work > asleep, "{asleep} ns, {at_work} ns");
        assert_eq!(Meter::new(false).lap(), 0);
    }
}
