//! The wall clock, read once for a batch of records.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns nanoseconds since 1970; 0 on a machine whose clock is set to a time before that.
pub(crate) fn now_ns() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
