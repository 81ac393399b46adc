//! Refreshes of sequence adjustments: empty updates of flows, after which the kernel sends their events in full.
//!
//! A helper that rewrites addresses in a payload (FTP's `PORT` behind masquerade) changes the payload's length. From
//! then on the kernel adjusts the flow's sequence numbers. A replica needs the offsets, or the connection breaks at
//! takeover. But the kernel sends no event for a changed adjustment (Linux 6.18, `nf_ct_seqadj_set`). It does send one
//! just before, for the expectation that the helper creates. So a little later worker 0, which receives the events of
//! expectations, requests an update of the master flow that changes nothing. The kernel then sends an event of that
//! flow, adjustments included, which reaches the worker that owns the flow.
//!
//! A helper that rewrites without creating an expectation (as SIP over TCP does) is not covered: the adjustment arrives
//! with the flow's next event.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::request::{self, FlowChange};
use ctflow_parser::tuple::Tuple;
use ctflow_parser::uapi::IPPROTO_TCP;

use crate::kernel::KernelError;
use crate::kernel::batch::Batch;
use crate::limits::{SEQADJ_REFRESH_DELAY, SEQADJ_REFRESHES};

/// A flow whose sequence adjustments have to be refreshed.
#[derive(Debug, Clone, Copy)]
struct SeqadjRefresh {
    orig: Tuple,
    zone: Option<u16>,
    /// When to send the update.
    due: Instant,
}

/// The refreshes that wait, and the socket to send them by.
#[derive(Debug)]
pub(crate) struct SeqadjRefreshes {
    batch: Batch,
    /// In the order of their due times.
    waiting: VecDeque<SeqadjRefresh>,
}

impl SeqadjRefreshes {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`KernelError::Open`] when the socket cannot be opened.
    pub(crate) fn open() -> Result<Self, KernelError> {
        Ok(Self { batch: Batch::open("refresh a flow's sequence adjustment")?, waiting: VecDeque::new() })
    }

    /// Schedules a refresh of a new expectation's master flow, if that is a TCP flow and not the last one scheduled.
    /// When [`SEQADJ_REFRESHES`] wait already, none is scheduled, and the next resync brings the adjustment.
    pub(crate) fn on_expectation(&mut self, expectation: &ExpectView<'_>) {
        let Some(orig) = expectation.master.filter(|master| master.proto == IPPROTO_TCP) else { return };
        let zone = expectation.zone.filter(|zone| *zone != 0);
        let queued = self.waiting.back().is_some_and(|last| last.orig == orig && last.zone == zone);
        if !queued && self.waiting.len() < SEQADJ_REFRESHES {
            self.waiting.push_back(SeqadjRefresh { orig, zone, due: Instant::now() + SEQADJ_REFRESH_DELAY });
        }
    }

    /// How long until the next refresh is due; `None` when none waits.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        self.waiting.front().map(|next| next.due.saturating_duration_since(Instant::now()))
    }

    /// Sends the refreshes that are due.
    pub(crate) fn send_due(&mut self) {
        if self.due_in().is_none_or(|time| !time.is_zero()) {
            return;
        }
        let now = Instant::now();
        let due = self.waiting.iter().take_while(|refresh| refresh.due <= now).count();
        // The kernel refuses an update of a flow that has ended since, which needs no handling.
        let mut send = || {
            for SeqadjRefresh { orig, zone, .. } in self.waiting.drain(..due) {
                let flow = FlowView { family: orig.family(), orig: Some(orig), zone, ..FlowView::default() };
                let change = FlowChange { flow, ..FlowChange::default() };
                self.batch.add(0, |writer, seq| request::update(writer, seq, &change), &mut |_| {})?;
            }
            self.batch.finish(&mut |_| {})
        };
        if let Err(error) = send() {
            tracing::warn!(%error, "sequence adjustments by conntrack helpers may be missing on peers");
        }
    }
}
