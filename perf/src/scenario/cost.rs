//! What one run cost, its text apart: that can be hundreds of megabytes.

use std::time::Duration;

use crate::process::Exited;

const KIB: f64 = 1024.0;

/// What was measured of one run.
#[derive(Debug)]
pub(super) struct Cost {
    wall: Duration,
    cpu: Duration,
    peak_bytes: u64,
}

impl Cost {
    /// Of a process that has ended.
    pub(super) fn of(ended: &Exited) -> Self {
        Self { wall: ended.wall, cpu: ended.cpu, peak_bytes: ended.peak_bytes }
    }

    /// From start to end.
    pub(super) fn wall_ms(&self) -> f64 {
        milliseconds(self.wall)
    }

    /// User and system time.
    pub(super) fn cpu_ms(&self) -> f64 {
        milliseconds(self.cpu)
    }

    /// The most memory it had.
    pub(super) fn peak_kib(&self) -> f64 {
        self.peak_bytes as f64 / KIB
    }
}

/// Any time, for the same columns.
pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
