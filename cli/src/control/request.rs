//! What is asked of the daemon, and how it is written: one line of JSON.

use ctflow_replicate::Role;
use serde_json::json;

use crate::output::Subject;

/// Version of the control socket's protocol.
const VERSION: u32 = 1;

/// What is asked of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// How it is.
    Status,
    /// The entries of a cache.
    Dump(Cache, Subject),
    /// The kernel's events, as its workers receive them.
    Events(Subject),
    /// Empty caches.
    Flush(Flushed),
    /// Delete from the kernel's tables what the filter accepts; both where none is named.
    FlushKernel(Option<Subject>),
    /// Compare the internal cache with the kernel's table.
    KernelResync,
    /// Tell the peers everything again.
    Bulk,
    /// Ask the peers to do so.
    PeerResync,
    /// Compare with the peers' replicas.
    Verify,
    /// Put the external cache into the kernel; both kinds where none is named.
    Commit(Option<Subject>),
    /// Change sides.
    Role(Role),
    /// Flush the kernel's table in a while.
    ScheduleFlush,
    /// End.
    Stop,
}

/// A cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    /// This node's own flows.
    Internal,
    /// Its peers'.
    External,
}

/// Which caches are emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// This node's own flows.
    Internal,
    /// Its peers'.
    External,
    /// Both.
    All,
}

impl Request {
    /// The line that asks it, with its end.
    pub(crate) fn to_line(self) -> String {
        let version = VERSION;
        let document = match self {
            Self::Status => json!({"version": version, "do": "status"}),
            Self::Dump(cache, of) => {
                json!({"version": version, "do": "dump", "cache": cache.name(), "of": subject_name(of)})
            }
            Self::Events(of) => json!({"version": version, "do": "events", "of": subject_name(of)}),
            Self::Flush(cache) => json!({"version": version, "do": "flush", "cache": cache.name()}),
            Self::FlushKernel(of) => json!({"version": version, "do": "flush-kernel", "of": subject_or_all(of)}),
            Self::KernelResync => json!({"version": version, "do": "kernel-resync"}),
            Self::Bulk => json!({"version": version, "do": "bulk"}),
            Self::PeerResync => json!({"version": version, "do": "peer-resync"}),
            Self::Verify => json!({"version": version, "do": "verify"}),
            Self::Commit(of) => json!({"version": version, "do": "commit", "of": subject_or_all(of)}),
            Self::Role(role) => json!({"version": version, "do": "role", "role": role.to_string()}),
            Self::ScheduleFlush => json!({"version": version, "do": "schedule-flush"}),
            Self::Stop => json!({"version": version, "do": "stop"}),
        };
        format!("{document}\n")
    }
}

impl Cache {
    fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

impl Flushed {
    fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
            Self::All => "all",
        }
    }
}

fn subject_name(of: Subject) -> &'static str {
    match of {
        Subject::Flows => "flows",
        Subject::Expectations => "expectations",
    }
}

fn subject_or_all(of: Option<Subject>) -> &'static str {
    of.map_or("all", subject_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_line_of_json() {
        let line = Request::Dump(Cache::External, Subject::Flows).to_line();
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read, json!({"version": 1, "do": "dump", "cache": "external", "of": "flows"}));
        assert!(line.ends_with("}\n") && line.lines().count() == 1);
        assert!(Request::FlushKernel(None).to_line().contains(r#""of":"all""#));
    }
}
