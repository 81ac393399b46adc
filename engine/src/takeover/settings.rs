//! How takeovers go.

use std::time::Duration;

use crate::kernel::commit::CommitRules;

/// The configuration of takeovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The timeouts and TCP windows of committed flows.
    pub rules: CommitRules,
    /// Hot mode: replicated flows go into the kernel at once.
    pub hot: bool,
    /// The time from becoming backup to the purge of this node's own flows. In hot mode also the time without a live
    /// peer after which the flows held for peers are purged.
    pub purge_after: Duration,
    /// How long the gate may stay closed while the caches are not in sync.
    pub ready_within: Duration,
    /// Whether two nodes may be primary at the same time.
    pub active_active: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: CommitRules::default(),
            hot: false,
            purge_after: Duration::from_secs(60),
            ready_within: Duration::from_secs(30),
            active_active: false,
        }
    }
}
