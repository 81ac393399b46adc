//! The stage's side of hot mode: what the hot thread injects into the kernel next.
//!
//! Changes wait in the replicas, one for each flow, until the hot thread requests work, so that no queue overflows.
//! [`takeover::hot`](crate::takeover) has the thread, and what a held flow is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ctflow_replicate::{Protocol, ReplicaId, Role};

use crate::limits::{HOT_CHECK_INTERVAL, HOT_CONFIRM_INTERVAL, INJECT_FLOWS};
use crate::reply::Reply;
use crate::shard::handover::Pending;
use crate::shard::replica::Replica;

/// The next work of the hot thread.
#[derive(Debug)]
pub(crate) struct HotWork {
    /// The flows, ends and expectations to inject.
    pub(crate) pending: Pending,
    /// This node's role.
    pub(crate) role: Role,
    /// The held flows to purge afterwards.
    pub(crate) sweep: Option<Sweep>,
}

/// Which held flows are purged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sweep {
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
