//! Requests to the daemon, and their encoding: one line of JSON. `CONTROL.md` specifies it.

use ctflow_replicate::Role;
use serde_json::json;

use crate::output::Subject;

/// Version of the control socket's protocol.
const VERSION: u32 = 1;

/// A request to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Return the daemon's status.
    Status,
    /// List the entries of a cache.
    Dump(Cache, Subject),
    /// Send the kernel's events as the workers receive them.
    Events(Subject),
    /// Empty caches.
    Flush(Flushed),
    /// Delete the entries that the replication filter accepts from the kernel's tables; from both where none is named.
    FlushKernel(Option<Subject>),
    /// Compare the internal cache with the kernel's table.
    KernelResync,
    /// Send the whole internal cache to the peers.
    Bulk,
    /// Request a bulk send from the peers.
    PeerResync,
    /// Compare the internal cache with the peers' replicas.
    Verify,
    /// Commit the external cache into the kernel; flows and expectations where none is named.
    Commit(Option<Subject>),
    /// Change the node's role.
    Role(Role),
    /// Schedule a flush of the kernel's table.
    ScheduleFlush,
    /// Stop the daemon.
    Stop,
}

/// One of the daemon's caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    /// The flows that this node handles.
    Internal,
    /// The flows learned from peers.
    External,
}

/// Which caches to empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// The internal cache.
    Internal,
    /// The external cache.
    External,
    /// Both caches.
    All,
}

impl Request {
    /// Returns the line that encodes the request, with its line end.
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
    /// Returns the cache's name in requests.
    fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

impl Flushed {
    /// Returns the name in requests.
    fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
            Self::All => "all",
        }
    }
}

/// Returns the subject's name in requests.
fn subject_name(of: Subject) -> &'static str {
    match of {
        Subject::Flows => "flows",
        Subject::Expectations => "expectations",
    }
}

/// Returns the subject's name in requests, or `all`.
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
