//! Hot mode: replicated flows go into the kernel at once, so that a takeover has almost nothing left to commit.
//!
//! ```text
//! stage: InjectQueue ── work: changes, conflated ──► hot thread ── batches ──► kernel
//!                   ◄── request for the next work ──
//! ```
//!
//! The hot thread is as slow as the kernel, and the stage does not wait for it. Meanwhile changes wait in the replicas,
//! one for each flow.
//!
//! An injected flow is **held**: its timeout is longer than any timeout of the kernel itself ([`is_held`]). So it does
//! not expire here while its packets pass through its source, and its timeout shows that it belongs to a peer. The
//! first packet here, or a commit, sets an ordinary timeout and so makes the flow this node's.
//!
//! Held flows can outlive their source's flow: after a restart of this daemon or a peer, or when an end did not fit the
//! bounds of the queue. To find them, every replicated flow is injected once more, which resets its timeout, and then
//! the held flows with an older timeout are purged. When no peer was live for `[takeover] purge_timeout_s`, all held
//! flows are purged: they may have ended since. The replicas stay, and a takeover commits them.

use std::sync::PoisonError;
use std::thread;
use std::time::Instant;

use ctflow_replicate::Role;

use super::Takeover;
use super::commit::{append_entry, decode_flows};
use super::inject::{Conflict, Injector, PeerFlow, Tally};
use crate::access::Access;
use crate::kernel::KernelError;
use crate::kernel::commit::{CommitRules, Lifetime, is_held, unconfirmed_s};
use crate::kernel::purge::purge;
use crate::limits::{COMMIT_RELATED_BYTES, HOT_RETRY, HOT_SLACK_S, INJECT_FLOWS};
use crate::replication::Replication;
use crate::replication::inject_queue::{HotWork, Sweep};
use crate::worker::channel::OnLoss;

/// Runs the hot thread: carries out the stage's work until the stage ends.
pub(crate) fn run(access: &Access, takeover: &Takeover, replication: &Replication) {
    let rules = CommitRules { lifetime: Lifetime::Held, ..takeover.settings.rules };
    let mut hot = HotThread { access, rules, orphans: Vec::new() };
    while let Ok(work) = replication.next_work() {
        let mut done = Tally::default();
        if let Err(error) = hot.inject_work(&work, &mut done) {
            tracing::error!(%error, retry = ?HOT_RETRY, "hot mode cannot write replicated flows into the kernel");
            thread::sleep(HOT_RETRY);
            let _ = replication.requeue_all(); // a stage that has ended returns no more work either
        }
        *takeover.tally.lock().unwrap_or_else(PoisonError::into_inner) += done;
    }
}

/// The state of the hot thread.
struct HotThread<'h> {
    access: &'h Access,
    rules: CommitRules,
    /// Flows whose master did not exist yet, each with its head.
    orphans: Vec<u8>,
}

impl HotThread<'_> {
    /// Carries out one piece of work.
    fn inject_work(&mut self, work: &HotWork, tally: &mut Tally) -> Result<(), KernelError> {
        let mut batch = self.access.committer();
        // A backup has no traffic, so its peers' versions win. A node that may have traffic accepts only newer
        // versions.
        let conflict = match work.role {
            Role::Backup | Role::Fault => Conflict::PeerWins,
            Role::Primary | Role::None => Conflict::NewestWins(OnLoss::Evict),
        };
        let workers = &self.access.workers;
        let mut injector = Injector { batch: &mut batch, workers, rules: self.rules, conflict, tally };
        injector.delete_flows(&work.pending.ends)?;
        let flows = decode_flows(&work.pending.flows);
        for (index, error) in injector.inject_flows(&flows)? {
            match flows.get(index) {
                Some(PeerFlow { head, bytes, .. }) if self.orphans.len() < COMMIT_RELATED_BYTES => {
                    append_entry(head, bytes, &mut self.orphans);
                }
                _ => injector.tally.count_refusal(&error),
            }
        }
        if work.pending.count < INJECT_FLOWS {
            // Every flow received so far is injected, so a master that does not exist now does not come.
            let orphans = std::mem::take(&mut self.orphans);
            for (_, error) in injector.inject_flows(&decode_flows(&orphans))? {
                injector.tally.count_refusal(&error);
            }
        }
        injector.inject_expectations(&work.pending.expectations)?;
        if let Some(sweep) = work.sweep {
            let purged = purge(&mut batch, |flow| is_swept(sweep, flow.timeout.unwrap_or(0)))?;
            tally.purged += purged;
            if purged > 0 {
                tracing::info!(purged, "deleted flows from the kernel that it held for peers");
            }
        }
        Ok(())
    }
}

/// Whether `sweep` purges a flow that has `timeout_s` seconds left.
fn is_swept(sweep: Sweep, timeout_s: u32) -> bool {
    let unconfirmed = |since: Instant| u64::from(unconfirmed_s(timeout_s)) > since.elapsed().as_secs() + HOT_SLACK_S;
    is_held(timeout_s)
        && match sweep {
            Sweep::All => true,
            Sweep::UnconfirmedSince(since) => unconfirmed(since),
        }
}
