//! Where a shard stands in its resync with the kernel, and which dumped flows not to believe.
//!
//! ```text
//! Idle ── begin ──► Marking: events and dumped flows confirm what they name ── end of dump ──► Sweeping ──► Idle
//!                   flows destroyed meanwhile are kept in mind                                 unconfirmed: purged
//! ```
//!
//! The dump is no snapshot: it is read in slices while events arrive, and a slice was composed before it is read. A flow
//! in it may have ended since, and its DESTROY be read already; taken in, it would stay for ever. So the flows that end
//! while the dump is read are kept in mind, and a dumped flow among them is passed over; likewise expectations.

use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::FlowKey;
use hashbrown::HashSet;

use crate::limits::RESYNC_DESTROYED_MAX;

/// The state of one shard's resync.
#[derive(Debug)]
pub(super) enum Resync {
    /// None is under way.
    Idle,
    /// The dump is being read.
    Marking {
        /// Flows that ended meanwhile.
        destroyed: HashSet<(FlowKey, u32)>,
        /// Expectations that did, by id.
        destroyed_expectations: HashSet<u32>,
        /// There were more of them than are kept.
        overflowed: bool,
    },
    /// Unconfirmed flows are being purged.
    Sweeping {
        /// Where to go on among the IPv4 flows; `None` when done.
        v4_from: Option<u32>,
        /// Likewise for IPv6.
        v6_from: Option<u32>,
        /// Another resync has to follow.
        repeat_needed: bool,
    },
}

impl Resync {
    pub(super) fn marking() -> Self {
        Self::Marking { destroyed: HashSet::new(), destroyed_expectations: HashSet::new(), overflowed: false }
    }

    #[inline]
    pub(super) fn note_destroyed(&mut self, flow: &FlowView<'_>, id: u32) {
        let Self::Marking { destroyed, overflowed, .. } = self else { return };
        if destroyed.len() < RESYNC_DESTROYED_MAX {
            destroyed.extend(flow.key().map(|key| (key, id)));
        } else {
            *overflowed = true;
        }
    }

    pub(super) fn was_destroyed(&self, key: &FlowKey, id: u32) -> bool {
        match self {
            Self::Marking { destroyed, .. } => destroyed.contains(&(*key, id)),
            Self::Idle | Self::Sweeping { .. } => false,
        }
    }

    pub(super) fn note_expectation_destroyed(&mut self, id: u32) {
        let Self::Marking { destroyed_expectations: fulfilled, overflowed, .. } = self else { return };
        if fulfilled.len() < RESYNC_DESTROYED_MAX {
            fulfilled.insert(id);
        } else {
            *overflowed = true;
        }
    }

    pub(super) fn was_expectation_destroyed(&self, id: u32) -> bool {
        matches!(self, Self::Marking { destroyed_expectations, .. } if destroyed_expectations.contains(&id))
    }

    pub(super) fn start_sweep(&mut self) {
        if let Self::Marking { overflowed, .. } = self {
            *self = Self::Sweeping { v4_from: Some(0), v6_from: Some(0), repeat_needed: *overflowed };
        }
    }
}
