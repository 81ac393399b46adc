//! The wall clock, for times that other nodes and operators read. Intervals are measured by `Instant`.

use std::time::SystemTime;

/// The wall clock in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    now_us() / 1_000
}

/// The wall clock in microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}
