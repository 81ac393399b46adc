//! Changes that replicas need and that the kernel's events do not report: how a helper adjusts a flow's sequence
//! numbers ([`seqadj_refresh`](crate::worker::seqadj_refresh)), and that a masqueraded flow's NAT address moved to the other
//! firewall ([`local`](crate::kernel::local)).
//!
//! The kernel deletes masqueraded flows when their address is removed, as on failback. Such a flow has not ended: the
//! peer may not have committed it yet. So its DESTROY event is ignored, the flow stays in the shard and in the replicas
//! for [`MOVED_FLOW_KEEP`], and no resync starts in the first [`MOVED_RESYNC_HOLD`]. The next resync purges it.

use std::time::{Duration, Instant};

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::uapi::IPS_SRC_NAT;

use crate::kernel::KernelError;
use crate::kernel::local::LocalAddresses;
use crate::limits::{MOVED_FLOW_KEEP, MOVED_RESYNC_HOLD};
use crate::worker::seqadj_refresh::SeqadjRefreshes;

/// One worker's search for changes that the kernel sends no event for.
#[derive(Debug)]
pub(crate) struct Unreported {
    /// Sequence-adjustment refreshes; `Some` in the one worker that receives expectations.
    refreshes: Option<SeqadjRefreshes>,
    /// Which NAT addresses are this host's.
    local_addresses: LocalAddresses,
    /// When the NAT address of the first flow that is still kept moved; `None` without such flows.
    moved_since: Option<Instant>,
}

impl Unreported {
    /// Opens its socket, if it has to refresh sequence adjustments, in the calling thread's network namespace, which
    /// must be the worker's. `receives_expectations` is whether the worker receives the events of expectations.
    ///
    /// # Errors
    /// [`KernelError::Open`] when the socket cannot be opened.
    pub(crate) fn open(receives_expectations: bool) -> Result<Self, KernelError> {
        let refreshes = receives_expectations.then(SeqadjRefreshes::open).transpose()?;
        Ok(Self { refreshes, local_addresses: LocalAddresses::default(), moved_since: None })
    }

    /// Starts a round of events: [`LocalAddresses::has_left`] queries the kernel anew, because an address may have been
    /// removed since the last round.
    pub(crate) fn begin_round(&mut self) {
        self.local_addresses.recheck_left();
    }

    /// Handles the NEW event of an expectation.
    pub(crate) fn on_expectation(&mut self, expectation: &ExpectView<'_>) {
        self.refreshes.iter_mut().for_each(|refreshes| refreshes.on_expectation(expectation));
    }

    /// Handles the NEW or UPDATE event of a flow: remembers whether its masquerade address is this host's.
    pub(crate) fn on_flow(&mut self, flow: &FlowView<'_>) {
        if let Some(reply) = flow.reply.filter(|_| has_source_nat(flow)) {
            self.local_addresses.observe(reply.dst);
        }
    }

    /// Whether the flow of this DESTROY event was deleted before its timeout because its NAT address was removed from
    /// this host, so that the flow continues on another firewall.
    pub(crate) fn has_moved(&mut self, flow: &FlowView<'_>) -> bool {
        let early = has_source_nat(flow) && flow.timeout.unwrap_or(0) > 0;
        let moved = early && flow.reply.is_some_and(|reply| self.local_addresses.has_left(reply.dst));
        if moved {
            self.moved_since.get_or_insert_with(Instant::now);
        }
        moved
    }

    /// Stops keeping flows whose NAT address moved: this firewall has its addresses again, so a flow that is missing
    /// from its kernel exists nowhere.
    pub(crate) fn forget_moved(&mut self) {
        self.moved_since = None;
    }

    /// How long no resync may start, because of flows whose NAT address moved; `None` when one may.
    pub(crate) fn resync_hold_left(&self) -> Option<Duration> {
        let left = MOVED_RESYNC_HOLD.saturating_sub(self.moved_since?.elapsed());
        (!left.is_zero()).then_some(left)
    }

    /// How long until [`Unreported::run_due`] has a refresh to send; `None` without any.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        self.refreshes.as_ref().and_then(SeqadjRefreshes::due_in)
    }

    /// Sends the refreshes that are due. Returns whether flows whose NAT address moved have been kept for
    /// [`MOVED_FLOW_KEEP`], so that a resync has to compare them with the kernel.
    pub(crate) fn run_due(&mut self) -> bool {
        self.refreshes.iter_mut().for_each(SeqadjRefreshes::send_due);
        self.moved_since.take_if(|since| since.elapsed() >= MOVED_FLOW_KEEP).is_some()
    }
}

/// Whether the flow's source address is translated.
fn has_source_nat(flow: &FlowView<'_>) -> bool {
    flow.status.unwrap_or(0) & IPS_SRC_NAT != 0
}
