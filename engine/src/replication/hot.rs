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

use std::collections::HashMap;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use ctflow_replicate::{Protocol, ReplicaId, Role};

use super::Replication;
use super::commit::{append_entry, decode_flows};
use super::inject::{Conflict, Injector, PeerFlow, Tally};
use crate::access::Access;
use crate::kernel::KernelError;
use crate::kernel::commit::{CommitRules, Lifetime, is_held, unconfirmed_s};
use crate::kernel::purge::purge;
use crate::limits::{
    COMMIT_RELATED_BYTES, HOT_CHECK_INTERVAL, HOT_CONFIRM_INTERVAL, HOT_RETRY, HOT_SLACK_S, INJECT_FLOWS,
};
use crate::reply::Reply;
use crate::shard::handover::Pending;
use crate::shard::replica::Replica;
use crate::worker::channel::OnLoss;

/// The next work of the hot thread.
#[derive(Debug)]
pub(crate) struct HotWork {
    /// The flows, ends and expectations to inject.
    pending: Pending,
    /// This node's role.
    role: Role,
    /// The held flows to purge afterwards.
    sweep: Option<Sweep>,
}

/// Which held flows are purged.
#[derive(Debug, Clone, Copy)]
enum Sweep {
    /// The held flows that were not injected since this time.
    UnconfirmedSince(Instant),
    /// All held flows.
    All,
}

/// The stage's side of hot mode: collects the work of the hot thread.
#[derive(Debug)]
pub(super) struct InjectQueue {
    /// The hot thread's open request for work.
    waiting: Option<Reply<HotWork>>,
    /// The start of the last injection of every flow.
    confirm_started: Instant,
    /// The sweep that is due once that injection is complete.
    sweep: Option<Sweep>,
    /// The last time that a peer was live.
    last_live: Instant,
    /// All held flows were purged, because no peer was live for `purge_after`.
    withdrawn: bool,
    /// The time without a live peer after which all held flows are purged.
    purge_after: Duration,
    /// Two nodes may be primary together, so a primary injects its peers' flows, too.
    active_active: bool,
    last_check: Instant,
}

impl InjectQueue {
    /// The queue at the start: everything is injected once, and then held flows of an earlier run are purged.
    pub(super) fn new(purge_after: Duration, active_active: bool, now: Instant) -> Self {
        let sweep = Some(Sweep::UnconfirmedSince(now));
        Self {
            waiting: None,
            confirm_started: now,
            sweep,
            last_live: now,
            withdrawn: false,
            purge_after,
            active_active,
            last_check: now,
        }
    }

    /// Whether the kernel has, or refused, every flow of the replicas. The hot thread's open request shows that it has
    /// done its last work.
    pub(super) fn is_in_sync(&self, replicas: &HashMap<ReplicaId, Replica>) -> bool {
        self.waiting.is_some() && !self.withdrawn && replicas.values().all(Replica::is_drained)
    }

    /// Stores the hot thread's request for work.
    pub(super) fn set_waiting(&mut self, waiting: Reply<HotWork>) {
        self.waiting = Some(waiting);
    }

    /// Queues every flow of the replicas once more, and schedules a purge of the held flows that this does not confirm.
    pub(super) fn requeue_all(&mut self, replicas: &mut HashMap<ReplicaId, Replica>, now: Instant) {
        replicas.values_mut().for_each(Replica::requeue_all);
        (self.confirm_started, self.sweep) = (now, Some(Sweep::UnconfirmedSince(now)));
    }

    /// Answers the hot thread's request once there is work.
    pub(super) fn send_work(&mut self, protocol: &Protocol, replicas: &mut HashMap<ReplicaId, Replica>, now: Instant) {
        if now.duration_since(self.last_check) >= HOT_CHECK_INTERVAL {
            self.last_check = now;
            self.check_peers(protocol, replicas, now);
        }
        if replicas.values_mut().any(Replica::take_ends_lost) {
            self.requeue_all(replicas, now);
        }
        // A primary's own state is newer than its peers', whatever times they send: a firewall that returns takes the
        // flows in its kernel for new ones. Their flows wait in the replicas and are injected when this node becomes
        // backup.
        if protocol.role() == Role::Primary && !self.active_active {
            return;
        }
        let Some(waiting) = self.waiting.take() else { return };
        let mut pending = Pending::default();
        for (id, replica) in replicas.iter_mut().filter(|_| !self.withdrawn) {
            replica.drain_pending(id.stream, INJECT_FLOWS, &mut pending);
        }
        // A sweep before every bucket of every live peer is known and injected would purge flows that still exist.
        let sweep = match self.sweep {
            Some(Sweep::All) => self.sweep.take(),
            Some(Sweep::UnconfirmedSince(_)) if pending.is_empty() && protocol.is_in_sync() => self.sweep.take(),
            _ => None,
        };
        if pending.is_empty() && sweep.is_none() {
            self.waiting = Some(waiting);
        } else {
            waiting.send(HotWork { pending, role: protocol.role(), sweep });
        }
    }

    /// Purges the held flows when no peer was live for too long, and injects them again when one is. Repeats the
    /// injection of every flow each [`HOT_CONFIRM_INTERVAL`], so that held flows keep their long timeout.
    fn check_peers(&mut self, protocol: &Protocol, replicas: &mut HashMap<ReplicaId, Replica>, now: Instant) {
        if protocol.has_live_peer() {
            self.last_live = now;
            if std::mem::take(&mut self.withdrawn) {
                self.requeue_all(replicas, now);
            }
        } else if !self.withdrawn
            && protocol.role() != Role::Primary
            && now.duration_since(self.last_live) >= self.purge_after
        {
            tracing::warn!(
                "no peer is live: the flows held for peers are deleted from the kernel and stay in the external cache"
            );
            (self.withdrawn, self.sweep) = (true, Some(Sweep::All));
        }
        if now.duration_since(self.confirm_started) >= HOT_CONFIRM_INTERVAL && !self.withdrawn {
            self.requeue_all(replicas, now);
        }
    }
}

/// Runs the hot thread: carries out the stage's work until the stage ends.
pub(crate) fn run(access: &Access, replication: &Replication) {
    let takeover = &access.takeover;
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
