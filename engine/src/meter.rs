//! Where a thread's processor time goes, while somebody measures: a lap for each step of its loop.
//!
//! A lap is a system call, so a meter is off unless [`Settings::metered`](crate::engine::Settings::metered) says otherwise; then a
//! lap is nothing.

use rustix::time::{ClockId, clock_gettime};

/// Parts the calling thread's time on a processor into laps.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Nanoseconds at the last lap; none where nothing is measured.
    last_ns: Option<u64>,
}

impl Meter {
    /// On the thread that it measures.
    pub(crate) fn new(on: bool) -> Self {
        Self { last_ns: on.then(cpu_ns) }
    }

    /// Whether it measures.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.last_ns.is_some()
    }

    /// Nanoseconds on a processor since the last lap; 0 where nothing is measured.
    #[inline]
    pub(crate) fn lap(&mut self) -> u64 {
        let Some(last) = &mut self.last_ns else { return 0 };
        let now = cpu_ns();
        now.saturating_sub(std::mem::replace(last, now))
    }
}

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
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(50) {
            black_box(began);
        }
        let at_work = meter.lap();
        assert!(asleep < 20_000_000 && at_work > asleep, "{asleep} ns, {at_work} ns");
        assert_eq!(Meter::new(false).lap(), 0);
    }
}
