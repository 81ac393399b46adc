//! Memory for events in the kernel: the socket buffer, and the filter program that decides which events go into it.

use ctflow_engine::limits::{EVENT_BUFFER_BYTES, SOCKET_BUFFER_BYTES};
use indicatif::HumanCount;
use serde_json::{Value, json};

use crate::command::doctor::facts::{Buffers, Facts, Refusal};
use crate::command::doctor::finding::Finding;

/// The rate at which a buffer's duration is stated, in events a second: that of a busy firewall.
const RATE: u64 = 100_000;

/// Reports the size of the socket buffer that results from the default request, and how long a stall it covers.
pub(super) fn size(facts: &Facts) -> Finding {
    let Buffers { unforced, forced } = match &facts.socket {
        Ok(buffers) => *buffers,
        Err(refusal) => return Finding::note("buffer", format!("not measured: {}", refusal.reason())),
    };
    let effective = forced.unwrap_or(unforced);
    let found = format!("{} bytes hold {}", HumanCount(effective as u64), describe_capacity(effective));
    let finding = match (forced, facts.settings.rmem_max) {
        (Some(_), _) => {
            Finding::ok("buffer", format!("{found}; without CAP_NET_ADMIN {} events", HumanCount(events(unforced))))
        }
        (None, _) if unforced >= 2 * SOCKET_BUFFER_BYTES => Finding::ok("buffer", found),
        (None, rmem_max) => limited_finding(&found, rmem_max),
    };
    finding.value(value(facts, effective, unforced))
}

/// Returns the finding for a buffer that `net.core.rmem_max` limits.
fn limited_finding(found: &str, rmem_max: Option<u64>) -> Finding {
    let limit = rmem_max.map(|bytes| format!("={bytes}")).unwrap_or_default();
    let found = format!("{found}: limited by net.core.rmem_max{limit}, which the kernel doubles");
    let mend = format!("sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES}  # on the host, or run there as root");
    Finding::warning("buffer", found).mend(mend)
}

/// Returns how many events fit a buffer.
fn events(bytes: usize) -> u64 {
    (bytes / EVENT_BUFFER_BYTES) as u64
}

/// Returns how many events fit a buffer, and how long it lasts at [`RATE`], as text.
fn describe_capacity(bytes: usize) -> String {
    let events = events(bytes);
    format!("{} events, {} ms at {}/s", HumanCount(events), stall_ms(events), HumanCount(RATE))
}

/// Returns the time in which this many events arrive at [`RATE`], in milliseconds.
fn stall_ms(events: u64) -> u64 {
    events.saturating_mul(1_000) / RATE
}

/// Returns the finding's values.
fn value(facts: &Facts, effective: usize, unforced: usize) -> Value {
    json!({
        "asked_bytes": SOCKET_BUFFER_BYTES,
        "effective_bytes": effective,
        "events": events(effective),
        "stall_ms": stall_ms(events(effective)),
        "unprivileged_bytes": unforced,
        "unprivileged_events": events(unforced),
        "rmem_max": facts.settings.rmem_max,
    })
}

/// Checks whether the kernel accepts the longest program that distributes and filters events.
pub(super) fn filter(facts: &Facts) -> Finding {
    let finding = match &facts.filter {
        Ok(instructions) => {
            Finding::ok("filter", format!("the longest filter program is accepted ({instructions} instructions)"))
        }
        Err(refusal) => refused(refusal, facts.settings.optmem_max),
    };
    finding.value(json!({ "instructions": facts.filter.as_ref().ok(), "optmem_max": facts.settings.optmem_max }))
}

/// Returns the finding for a refused program. It is a warning, because one worker without a filter needs no program.
fn refused(refusal: &Refusal, optmem_max: Option<u64>) -> Finding {
    let finding = Finding::warning("filter", format!("the longest filter program is refused: {}", refusal.reason()));
    match (refusal.errno, optmem_max) {
        (Some(rustix::io::Errno::NOMEM), Some(bytes)) => {
            finding.mend(format!("sysctl -w net.core.optmem_max={}", bytes.saturating_mul(2).max(131_072)))
        }
        _ => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::facts::Settings;
    use crate::command::doctor::finding::Level;
    use rustix::io::Errno;

    fn with(buffers: Buffers, rmem_max: u64) -> Finding {
        let settings = Settings { rmem_max: Some(rmem_max), ..Facts::healthy().settings };
        size(&Facts { socket: Ok(buffers), settings, ..Facts::healthy() })
    }

    #[test]
    fn a_forced_buffer_also_reports_the_unprivileged_size() {
        let finding = with(Buffers { unforced: 425_984, forced: Some(16_777_216) }, 212_992);
        let found = "16,777,216 bytes hold 13,107 events, 131 ms at 100,000/s; without CAP_NET_ADMIN 332 events";
        assert_eq!((finding.level, finding.found.as_str(), finding.mend), (Level::Ok, found, None));
    }

    #[test]
    fn a_limited_buffer_is_a_warning_with_its_command() {
        let finding = with(Buffers { unforced: 425_984, forced: None }, 212_992);
        assert_eq!(finding.level, Level::Warning);
        let found = "425,984 bytes hold 332 events, 3 ms at 100,000/s: limited by net.core.rmem_max=212992, which the kernel doubles";
        assert_eq!(finding.found, found);
        let mend = "sysctl -w net.core.rmem_max=8388608  # on the host, or run there as root";
        assert_eq!(finding.mend.as_deref(), Some(mend));
        assert_eq!((&finding.value["events"], &finding.value["stall_ms"]), (&json!(332), &json!(3)));
    }

    #[test]
    fn a_generous_limit_is_ok() {
        assert_eq!(with(Buffers { unforced: 16_777_216, forced: None }, 8_388_608).level, Level::Ok);
    }

    #[test]
    fn without_a_socket_there_is_nothing_to_measure() {
        let finding = size(&Facts { socket: Err(Refusal::with(Errno::AFNOSUPPORT)), ..Facts::healthy() });
        assert_eq!((finding.level, finding.mend), (Level::Note, None));
    }

    #[test]
    fn a_refused_filter_needs_more_option_memory() {
        let settings = Settings { optmem_max: Some(4_096), ..Facts::healthy().settings };
        let refusal = Err(Refusal::with(Errno::NOMEM));
        let finding = filter(&Facts { filter: refusal, settings, ..Facts::healthy() });
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.mend.as_deref(), Some("sysctl -w net.core.optmem_max=131072"));
        let finding = filter(&Facts { filter: Err(Refusal::with(Errno::INVAL)), ..Facts::healthy() });
        assert_eq!((finding.level, finding.mend), (Level::Warning, None));
    }
}
