//! What a change of roles came to, as the operator is told. `CONTROL.md` has its keys.

use std::collections::BTreeMap;
use std::time::Duration;

use ctflow_replicate::Role;
use serde::Serialize;

use crate::replication::Committed;

/// A commit's part of it, or a commit alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommitReport {
    /// Flows that were made.
    pub created: u64,
    /// Flows that were there, and are now as their source said.
    pub updated: u64,
    /// Flows that were there, and are newer here.
    pub kept: u64,
    /// Expectations that were made, or were there.
    pub expectations: u64,
    /// Entries that the kernel refused.
    pub failed: u64,
    /// The same by its words.
    pub refused: BTreeMap<String, u64>,
    /// Buckets of the replicas that were not known, so that flows may be missing.
    pub unknown_buckets: u64,
    /// How long it took.
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

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoleChange {
    /// The role that was taken.
    pub role: String,
    /// The one before it.
    pub before: String,
    /// Nothing was to be done.
    pub already: bool,
    /// Of a primary: what became of the replicas.
    pub committed: Option<CommitReport>,
    /// Flows in the internal cache after it was compared with the kernel's table.
    pub internal_flows: Option<u64>,
    /// In so much time what this node tracked for itself leaves the kernel.
    pub purge_in_ms: Option<u64>,
    /// What the change could not do, each with its numbers.
    pub missing: Vec<String>,
    /// How long it took.
    pub took_ms: u64,
}

impl RoleChange {
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

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
