//! The reports of a commit and of a change of role, as clients of the control socket receive them. `CONTROL.md` lists
//! their keys.

use std::collections::BTreeMap;
use std::time::Duration;

use ctflow_replicate::Role;
use serde::Serialize;

use super::commit::Committed;

/// The report of a commit, alone or as part of a change of role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommitReport {
    /// Flows created in the kernel.
    pub created: u64,
    /// Flows that existed and were updated to the source's state.
    pub updated: u64,
    /// Flows that existed and were kept, because they are newer here.
    pub kept: u64,
    /// Expectations created or existing already.
    pub expectations: u64,
    /// Entries that the kernel refused.
    pub failed: u64,
    /// The refused entries by reason.
    pub refused: BTreeMap<String, u64>,
    /// Buckets of the replicas that were unknown; their flows may be missing.
    pub unknown_buckets: u64,
    /// The time that the commit took, in milliseconds.
    pub took_ms: u64,
}

impl From<Committed> for CommitReport {
    fn from(done: Committed) -> Self {
        let failed = done.tally.failed();
        Self {
            created: done.tally.created,
            updated: done.tally.updated,
            kept: done.tally.kept,
            expectations: done.tally.expectations,
            failed,
            refused: done.tally.refused,
            unknown_buckets: done.unknown_buckets,
            took_ms: milliseconds(done.took),
        }
    }
}

/// The report of a change of role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoleChange {
    /// The new role.
    pub role: String,
    /// The previous role.
    pub before: String,
    /// The node had the role already, completely: nothing was done.
    pub already: bool,
    /// The commit's report; `None` unless the new role is primary and the commit ran to its end.
    pub committed: Option<CommitReport>,
    /// Flows in the internal cache after the kernel resync; `None` without one.
    pub internal_flows: Option<u64>,
    /// The time until the scheduled purge, in milliseconds; `None` unless the new role is backup or fault.
    pub purge_in_ms: Option<u64>,
    /// What the change could not do, one line each.
    pub missing: Vec<String>,
    /// The time that the change took, in milliseconds.
    pub took_ms: u64,
}

impl RoleChange {
    /// The report of a change that has not done anything yet.
    pub(super) fn new(role: Role, before: Role) -> Self {
        Self {
            role: role.to_string(),
            before: before.to_string(),
            already: false,
            committed: None,
            internal_flows: None,
            purge_in_ms: None,
            missing: Vec::new(),
            took_ms: 0,
        }
    }
}

/// A time in whole milliseconds.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
