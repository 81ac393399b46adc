//! The state of a shard's resync with the kernel, and which dumped entries to ignore.
//!
//! ```text
//! Idle ── start ──► Marking: events and dumped flows confirm flows ── end of dump ──► Sweeping: unconfirmed ──► Idle
//!                   flows destroyed meanwhile are recorded                            flows are purged
//! ```
//!
//! A dump is no snapshot. It is read in slices while events arrive, and the kernel composes a slice before it is read.
//! A flow in it may have ended since, and its DESTROY may have been read already: if the dumped flow were applied, it
//! would stay in the shard for ever. So the shard records the flows and expectations that end while the dump is read,
//! and ignores them in the dump.

use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::FlowKey;
use hashbrown::HashSet;

use crate::limits::RESYNC_DESTROYED_MAX;

/// The state of one shard's resync.
#[derive(Debug)]
pub(super) enum Resync {
    /// No resync is running.
    Idle,
    /// The dump is being read.
    Marking {
        /// Flows that ended since the resync started, by key and id.
        destroyed: HashSet<(FlowKey, u32)>,
        /// Expectations that ended since the resync started, by id.
        destroyed_expectations: HashSet<u32>,
        /// Whether more entries ended than may be recorded.
        overflowed: bool,
    },
    /// Unconfirmed flows are being purged.
    Sweeping {
        /// The next IPv4 slot to sweep; `None` when all are swept.
        v4_from: Option<u32>,
        /// The next IPv6 slot to sweep; `None` when all are swept.
        v6_from: Option<u32>,
        /// Whether another resync must follow, because an ended flow may have come back from the dump.
        repeat_needed: bool,
    },
}

impl Resync {
    /// The state at the start of a resync.
    pub(super) fn marking() -> Self {
        Self::Marking { destroyed: HashSet::new(), destroyed_expectations: HashSet::new(), overflowed: false }
    }

    /// Records that a flow ended, if the dump is being read.
    #[inline]
    pub(super) fn note_destroyed(&mut self, flow: &FlowView<'_>, id: u32) {
        let Self::Marking { destroyed, overflowed, .. } = self else { return };
        if destroyed.len() < RESYNC_DESTROYED_MAX {
            destroyed.extend(flow.key().map(|key| (key, id)));
        } else {
            *overflowed = true;
        }
    }

    /// Whether the flow ended since the resync started.
    pub(super) fn was_destroyed(&self, key: &FlowKey, id: u32) -> bool {
        match self {
            Self::Marking { destroyed, .. } => destroyed.contains(&(*key, id)),
            Self::Idle | Self::Sweeping { .. } => false,
        }
    }

    /// Records that an expectation ended, if the dump is being read.
    pub(super) fn note_expectation_destroyed(&mut self, id: u32) {
        let Self::Marking { destroyed_expectations, overflowed, .. } = self else { return };
        if destroyed_expectations.len() < RESYNC_DESTROYED_MAX {
            destroyed_expectations.insert(id);
        } else {
            *overflowed = true;
        }
    }

    /// Whether the expectation ended since the resync started.
    pub(super) fn was_expectation_destroyed(&self, id: u32) -> bool {
        matches!(self, Self::Marking { destroyed_expectations, .. } if destroyed_expectations.contains(&id))
    }

    /// Starts to sweep, after the dump was read. Without a running dump this does nothing.
    pub(super) fn start_sweep(&mut self) {
        if let Self::Marking { overflowed, .. } = self {
            *self = Self::Sweeping { v4_from: Some(0), v6_from: Some(0), repeat_needed: *overflowed };
        }
    }
}
