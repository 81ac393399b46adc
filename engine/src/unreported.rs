//! What events do not say, and replicas must know: how a helper adjusts a flow's sequence numbers ([`renewal`](crate::renewal)),
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
use crate::limits::{MOVED_HELD, MOVED_KEPT};
use crate::seqadj_refresh::Renewals;

/// What one worker finds out besides.
#[derive(Debug)]
pub(crate) struct Untold {
    /// Of the worker that hears of expectations.
    renewals: Option<Renewals>,
    local: LocalAddresses,
    /// When the first flow moved that is still held.
    moved: Option<Instant>,
}

impl Untold {
    /// In the calling thread's network namespace, which must be the worker's.
    ///
    /// # Errors
    /// [`KernelError::Open`].
    pub(crate) fn open(hears_of_expectations: bool) -> Result<Self, KernelError> {
        let renewals = hears_of_expectations.then(Renewals::open).transpose()?;
        Ok(Self { renewals, local: LocalAddresses::default(), moved: None })
    }

    /// Events come that happened after this.
    pub(crate) fn begin_round(&mut self) {
        self.local.forget();
    }

    /// An expectation is new.
    pub(crate) fn note(&mut self, expectation: &ExpectView<'_>) {
        self.renewals.iter_mut().for_each(|renewals| renewals.note(expectation));
    }

    /// A flow is there.
    pub(crate) fn see(&mut self, flow: &FlowView<'_>) {
        if let Some(reply) = flow.reply.filter(|_| is_hidden(flow)) {
            self.local.see(reply.dst);
        }
    }

    /// Whether this flow, which the kernel says has ended, did so before its time and because the address behind which it was
    /// hidden has left.
    pub(crate) fn has_moved(&mut self, flow: &FlowView<'_>) -> bool {
        let early = is_hidden(flow) && flow.timeout.unwrap_or(0) > 0;
        let moved = early && flow.reply.is_some_and(|reply| self.local.has_left(reply.dst));
        if moved {
            self.moved.get_or_insert_with(Instant::now);
        }
        moved
    }

    /// This firewall has its addresses again: what is not in its kernel is nowhere.
    pub(crate) fn forget_moved(&mut self) {
        self.moved = None;
    }

    /// For how long no resync may begin.
    pub(crate) fn holds(&self) -> Option<Duration> {
        let left = MOVED_HELD.saturating_sub(self.moved?.elapsed());
        (!left.is_zero()).then_some(left)
    }

    /// In what time there is something to do.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        self.renewals.as_ref().and_then(Renewals::due_in)
    }

    /// Does what is due; whether it is time to compare with the kernel what has moved.
    pub(crate) fn act(&mut self) -> bool {
        self.renewals.iter_mut().for_each(Renewals::renew);
        self.moved.take_if(|since| since.elapsed() >= MOVED_KEPT).is_some()
    }
}

/// Whether its source is translated.
fn is_hidden(flow: &FlowView<'_>) -> bool {
    flow.status.unwrap_or(0) & IPS_SRC_NAT != 0
}
