//! Emptying the kernel's table, now or later.
//!
//! What goes is what the operator's filter selects, as it is what replicas hold; what they do not, the firewall's own
//! connections perhaps, is left alone. In hot mode what is held for peers stays, too.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, TryRecvError, bounded};
use ctflow_parser::request;
use ctflow_parser::uapi::AF_UNSPEC;

use crate::access::Access;
use crate::kernel::KernelError;
use crate::kernel::batch::Batch;
use crate::kernel::commit::is_held;
use crate::kernel::purge::purge;
use crate::kernel::request::Requester;
use crate::limits::SERVER_COMMIT_MAX;
use crate::reply;

/// What is scheduled; dropping it cancels it.
#[derive(Debug)]
pub(super) struct Scheduled {
    _cancel: Sender<()>,
}

/// Empties the table of flows after that time, unless that is cancelled; what was scheduled before, is.
pub(crate) fn flush_later(access: &Access, after: Duration) {
    let (cancel, cancelled) = bounded(0);
    let for_thread = access.clone();
    let body = move || {
        if cancelled.recv_timeout(after) != Err(RecvTimeoutError::Timeout) {
            return; // the other end is gone
        }
        // A takeover waits until this is done, or is done and has cancelled it: what it committed is not flushed.
        let turn = for_thread.takeover.lock_kernel_within(SERVER_COMMIT_MAX);
        if cancelled.try_recv() != Err(TryRecvError::Empty) {
            return;
        }
        if turn.is_none() {
            tracing::error!("the kernel's table was not flushed, as scheduled: a commit does not end");
            return;
        }
        match flush_now(&for_thread) {
            Ok(purged) => {
                tracing::info!(purged, "flushed the kernel's table, as scheduled");
                // Flows that peers have taken over, or that moved, are not this node's any more, which no event says.
                let (resync, _) = reply::channel(None);
                let _ = for_thread.resync_requests.try_request(resync); // where many wait, one of them is the same
            }
            Err(error) => tracing::error!(%error, "the kernel's table was not flushed, as scheduled"),
        }
    };
    let thread = thread::Builder::new().name("ctflow-purge".to_owned()).spawn(body);
    match thread {
        Ok(_) => {
            tracing::info!(?after, "the kernel's table will be flushed");
            access.takeover.state().purge = Some(Scheduled { _cancel: cancel });
        }
        Err(error) => tracing::error!(%error, "the kernel's table will not be flushed: no thread"),
    }
}

/// Empties the table of flows; gives how many went, where that is known.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn flush_now(access: &Access) -> Result<Option<u64>, KernelError> {
    let choice = access.takeover.state().filter.clone();
    let hot = access.takeover.settings.hot;
    if !hot && choice.selects_all() {
        let mut requester = Requester::open()?;
        requester.request("empty the flow table", |writer, seq| request::flush(writer, seq, AF_UNSPEC), |_| {})?;
        return Ok(None);
    }
    // Not by the socket whose changes are no news: these are.
    let mut batch = Batch::open("delete a flow")?;
    purge(&mut batch, |flow| choice.selects(flow) && !(hot && is_held(flow.timeout.unwrap_or(0)))).map(Some)
}
