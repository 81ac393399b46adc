//! Flushes of the kernel's table of flows, now or later.
//!
//! A flush deletes the flows that the replication filter selects, because the replicas have the same flows. Other
//! flows, such as the firewall's own connections, stay. In hot mode the flows that are held for peers stay, too.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, TryRecvError, bounded};
use ctflow_parser::request;
use ctflow_parser::uapi::AF_UNSPEC;

use super::Takeover;
use crate::access::Access;
use crate::kernel::KernelError;
use crate::kernel::batch::Batch;
use crate::kernel::commit::is_held;
use crate::kernel::purge::purge;
use crate::kernel::request::Requester;
use crate::limits::SERVER_COMMIT_MAX;
use crate::os_error::os_error_text;
use crate::reply;

/// A scheduled flush. Dropping it cancels the flush.
#[derive(Debug)]
pub(super) struct Scheduled {
    _cancel: Sender<()>,
}

/// Schedules a flush of the kernel's table, and cancels the one that was scheduled before.
pub(crate) fn flush_later(access: &Access, takeover: &Arc<Takeover>, after: Duration) {
    let (cancel, cancelled) = bounded(0);
    let (resync_requests, for_thread) = (access.resync_requests.clone(), takeover.clone());
    let body = move || {
        if cancelled.recv_timeout(after) != Err(RecvTimeoutError::Timeout) {
            return; // cancelled: the other end was dropped
        }
        // Under the lock a takeover either waits for the flush, or has cancelled it: what it committed is not flushed.
        let lock = for_thread.lock_kernel_within(SERVER_COMMIT_MAX);
        if cancelled.try_recv() != Err(TryRecvError::Empty) {
            return;
        }
        if lock.is_none() {
            tracing::error!("the scheduled flush of the kernel's table failed: a commit did not end in time");
            return;
        }
        match flush_now(&for_thread) {
            Ok(purged) => {
                match purged {
                    Some(count) => tracing::info!("deleted {count} flows of this node from the kernel, as scheduled"),
                    None => tracing::info!("emptied the kernel's table, as scheduled"),
                }
                // Flows that peers have taken over, or that moved, are no longer this node's, and no event reports
                // that.
                let (resync, _) = reply::channel(None);
                let _ = resync_requests.try_request(resync); // if the queue is full, a resync is due anyway
            }
            Err(error) => tracing::error!(%error, "the scheduled flush of the kernel's table failed"),
        }
    };
    let thread = thread::Builder::new().name("ctflow-purge".to_owned()).spawn(body);
    match thread {
        Ok(_) => {
            tracing::info!("the flows that this node tracked are deleted from the kernel in {} s", after.as_secs());
            takeover.state().purge = Some(Scheduled { _cancel: cancel });
        }
        Err(error) => tracing::error!(
            error = os_error_text(&error),
            "the flows that this node tracked stay in the kernel: cannot start a thread"
        ),
    }
}

/// Flushes the kernel's table of flows. Returns the number of deleted flows; `None` where the kernel emptied its table
/// at once and does not report it.
///
/// # Errors
/// The kernel refused the flush, a dump or all deletions.
pub(crate) fn flush_now(takeover: &Takeover) -> Result<Option<u64>, KernelError> {
    let filter = takeover.state().filter.clone();
    let hot = takeover.settings.hot;
    if !hot && filter.selects_all() {
        let mut requester = Requester::open()?;
        requester.request("empty the flow table", |writer, seq| request::flush(writer, seq, AF_UNSPEC), |_| {})?;
        return Ok(None);
    }
    // The committer's socket would be wrong here: the workers must receive the events of these deletions.
    let mut batch = Batch::open("delete a flow")?;
    purge(&mut batch, |flow| filter.selects(flow) && !(hot && is_held(flow.timeout.unwrap_or(0)))).map(Some)
}
