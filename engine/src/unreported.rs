//! What events do not say, and replicas must know: how a helper adjusts a flow's sequence numbers ([`renewal`](crate::seqadj_refresh)),
//! and that a flow has not ended but moved away with its address ([`local`](crate::kernel::local)).
//!
//! A flow that has moved stays in its shard, and with the peers, while the other firewall takes over: no resync begins for so
//! long. The next one finds that it is not there.

use std::time::{Duration, Instant};

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::uapi::IPS_SRC_NAT;

use crate::kernel::KernelError;
use crate::kernel::local::LocalAddresses;
use crate::limits::{MOVED_FLOW_KEEP, MOVED_RESYNC_HOLD};
use crate::seqadj_refresh::SeqadjRefreshes;

/// What one worker finds out besides.
#[derive(Debug)]
pub(crate) struct Unreported {
    /// Of the worker that hears of expectations.
    refreshes: Option<SeqadjRefreshes>,
    local_addresses: LocalAddresses,
    /// When the first flow moved that is still held.
    moved_since: Option<Instant>,
}

impl Unreported {
    /// In the calling thread's network namespace, which must be the worker's.
    ///
    /// # Errors
    /// [`KernelError::Open`].
    pub(crate) fn open(receives_expectations: bool) -> Result<Self, KernelError> {
        let refreshes = receives_expectations.then(SeqadjRefreshes::open).transpose()?;
        Ok(Self { refreshes, local_addresses: LocalAddresses::default(), moved_since: None })
    }

    /// Events come that happened after this.
    pub(crate) fn begin_round(&mut self) {
        self.local_addresses.recheck_left();
    }

    /// An expectation is new.
    pub(crate) fn on_expectation(&mut self, expectation: &ExpectView<'_>) {
        self.refreshes.iter_mut().for_each(|renewals| renewals.on_expectation(expectation));
    }

    /// A flow is there.
    pub(crate) fn on_flow(&mut self, flow: &FlowView<'_>) {
        if let Some(reply) = flow.reply.filter(|_| has_source_nat(flow)) {
            self.local_addresses.observe(reply.dst);
        }
    }

    /// Whether this flow, which the kernel says has ended, did so before its time and because the address behind which it was
    /// hidden has left.
    pub(crate) fn has_moved(&mut self, flow: &FlowView<'_>) -> bool {
        let early = has_source_nat(flow) && flow.timeout.unwrap_or(0) > 0;
        let moved = early && flow.reply.is_some_and(|reply| self.local_addresses.has_left(reply.dst));
        if moved {
            self.moved_since.get_or_insert_with(Instant::now);
        }
        moved
    }

    /// This firewall has its addresses again: what is not in its kernel is nowhere.
    pub(crate) fn forget_moved(&mut self) {
        self.moved_since = None;
    }

    /// For how long no resync may begin.
    pub(crate) fn resync_hold_left(&self) -> Option<Duration> {
        let left = MOVED_RESYNC_HOLD.saturating_sub(self.moved_since?.elapsed());
        (!left.is_zero()).then_some(left)
    }

    /// In what time there is something to do.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        self.refreshes.as_ref().and_then(SeqadjRefreshes::due_in)
    }

    /// Does what is due; whether it is time to compare with the kernel what has moved.
    pub(crate) fn run_due(&mut self) -> bool {
        self.refreshes.iter_mut().for_each(SeqadjRefreshes::send_due);
        self.moved_since.take_if(|since| since.elapsed() >= MOVED_FLOW_KEEP).is_some()
    }
}

/// Whether its source is translated.
fn has_source_nat(flow: &FlowView<'_>) -> bool {
    flow.status.unwrap_or(0) & IPS_SRC_NAT != 0
}
