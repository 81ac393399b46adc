//! Flows that the kernel is asked to tell anew, since it does not by itself what has become of them.
//!
//! A helper that rewrites addresses in what it reads (FTP's `PORT` behind masquerade) changes the length of it, and from
//! there on the kernel adjusts the flow's sequence numbers. A replica must know by how much, or the connection breaks when
//! it is taken over. But no event tells it (Linux 6.18, `nf_ct_seqadj_set`). What is told is that the helper expects
//! something, just before: so a little later worker 0, which hears of expectations, asks the kernel to change nothing of
//! their master flow, upon which the kernel tells of it to everybody, adjustments included, and the event finds its way to
//! the worker whose flow it is.
//!
//! What a helper rewrites without expecting anything (SIP by TCP does) is known with the next event of its flow.

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

/// A flow that is to be told anew.
#[derive(Debug, Clone, Copy)]
struct SeqadjRefresh {
    orig: Tuple,
    zone: Option<u16>,
    due: Instant,
}

/// What is to be told anew, and when.
#[derive(Debug)]
pub(crate) struct SeqadjRefreshes {
    batch: Batch,
    waiting: VecDeque<SeqadjRefresh>,
}

impl SeqadjRefreshes {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`KernelError::Open`].
    pub(crate) fn open() -> Result<Self, KernelError> {
        Ok(Self { batch: Batch::open("tell a flow anew")?, waiting: VecDeque::new() })
    }

    /// An expectation is new: what it is of may have been adjusted. Where too many wait, the next resync will tell.
    pub(crate) fn on_expectation(&mut self, expectation: &ExpectView<'_>) {
        let Some(orig) = expectation.master.filter(|master| master.proto == IPPROTO_TCP) else { return };
        let zone = expectation.zone.filter(|zone| *zone != 0);
        let queued = self.waiting.back().is_some_and(|last| last.orig == orig && last.zone == zone);
        if !queued && self.waiting.len() < SEQADJ_REFRESHES {
            self.waiting.push_back(SeqadjRefresh { orig, zone, due: Instant::now() + SEQADJ_REFRESH_DELAY });
        }
    }

    /// In what time the next is due.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        self.waiting.front().map(|next| next.due.saturating_duration_since(Instant::now()))
    }

    /// Asks for those that are due.
    pub(crate) fn send_due(&mut self) {
        if self.due_in().is_none_or(|time| !time.is_zero()) {
            return;
        }
        let now = Instant::now();
        let due = self.waiting.iter().take_while(|renewal| renewal.due <= now).count();
        // Who is refused has ended meanwhile.
        let mut send = || {
            for SeqadjRefresh { orig, zone, .. } in self.waiting.drain(..due) {
                let flow = FlowView { family: orig.family(), orig: Some(orig), zone, ..FlowView::default() };
                let change = FlowChange { flow, ..FlowChange::default() };
                self.batch.add(0, |writer, seq| request::update(writer, seq, &change), &mut |_| {})?;
            }
            self.batch.finish(&mut |_| {})
        };
        if let Err(error) = send() {
            tracing::warn!(%error, "sequence adjustments of helpers may be missing in the replicas");
        }
    }
}
