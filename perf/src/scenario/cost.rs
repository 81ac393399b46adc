//! The cost of one run without its output, which can be hundreds of megabytes.

use std::time::Duration;

use crate::process::Exited;

const KIB: f64 = 1024.0;

/// The measurements of one run.
#[derive(Debug)]
pub(super) struct Cost {
    wall: Duration,
    cpu: Duration,
    peak_bytes: u64,
}

impl Cost {
    /// The cost of a process that has ended.
    pub(super) fn of(ended: &Exited) -> Self {
        Self { wall: ended.wall, cpu: ended.cpu, peak_bytes: ended.peak_bytes }
    }

    /// The time from start to end, in milliseconds.
    pub(super) fn wall_ms(&self) -> f64 {
        milliseconds(self.wall)
    }

    /// User and system time, in milliseconds.
    pub(super) fn cpu_ms(&self) -> f64 {
        milliseconds(self.cpu)
    }

    /// The peak of resident memory, in KiB.
    pub(super) fn peak_kib(&self) -> f64 {
        self.peak_bytes as f64 / KIB
    }
}

/// Converts a duration to milliseconds.
pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
