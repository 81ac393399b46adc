//! Replicas into the kernel as they come: what leaves a takeover nothing to commit.
//!
//! ```text
//! stage: Giver ── work, when the thread asks for it ──► thread ── batches ──► kernel
//!          ▲ what has changed since, conflated            └ done: asks for more
//! ```
//!
//! The thread is as slow as the kernel, and the stage does not wait for it: meanwhile changes pile up in the replicas, where
//! each flow has one.
//!
//! A flow that is put in is **held**: it has a timeout longer than any the kernel gives, so that it does not end here while
//! its source sees its packets, and so that it shows whose it is ([`is_held`]). The first
//! packet here, or a commit, gives it a timeout of the usual kind, and it is this node's.
//!
//! What is held and should not be (this daemon, or a peer, was restarted; an end did not fit the bounds) is found by its
//! timeout, too: everything is put in once more, and what was not confirmed by that is purged. Likewise everything that is
//! held is purged when no peer has been heard for so long that its flows cannot be believed any more; the replicas stay,
//! and a takeover commits them.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use ctflow_replicate::{Node, ReplicaId, Role};

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
use crate::worker_channel::OnLoss;

/// What the thread is to do next.
#[derive(Debug)]
pub(crate) struct HotWork {
    pending: Pending,
    role: Role,
    sweep: Option<Sweep>,
}

/// Which held flows are purged.
#[derive(Debug, Clone, Copy)]
enum Sweep {
    /// Those that were not put in since.
    UnconfirmedSince(Instant),
    /// All of them.
    All,
}

/// The stage's side.
#[derive(Debug)]
pub(super) struct InjectQueue {
    /// Who waits for work.
    waiting: Option<Reply<HotWork>>,
    /// When everything was begun to be put in once more.
    confirm_started: Instant,
    /// The sweep that follows when that is done.
    sweep: Option<Sweep>,
    /// When a peer was live last.
    last_live: Instant,
    /// Everything that was held was purged, since no peer is live.
    withdrawn: bool,
    /// How long no peer may be live before that.
    purge_after: Duration,
    /// A primary takes what peers tell, too.
    active_active: bool,
    last_check: Instant,
}

impl InjectQueue {
    pub(super) fn new(patience: Duration, shared: bool, now: Instant) -> Self {
        let sweep = Some(Sweep::UnconfirmedSince(now));
        Self {
            waiting: None,
            confirm_started: now,
            sweep,
            last_live: now,
            withdrawn: false,
            purge_after: patience,
            active_active: shared,
            last_check: now,
        }
    }

    /// Whether everything that is known of peers is in the kernel, or was refused.
    pub(super) fn is_in_sync(&self, replicas: &HashMap<ReplicaId, Replica>) -> bool {
        self.waiting.is_some() && !self.withdrawn && replicas.values().all(Replica::is_drained)
    }

    /// Somebody asks for work.
    pub(super) fn set_waiting(&mut self, waiting: Reply<HotWork>) {
        self.waiting = Some(waiting);
    }

    /// Everything is put in once more, and what is held and was not is purged.
    pub(super) fn requeue_all(&mut self, replicas: &mut HashMap<ReplicaId, Replica>, now: Instant) {
        replicas.values_mut().for_each(Replica::requeue_all);
        (self.confirm_started, self.sweep) = (now, Some(Sweep::UnconfirmedSince(now)));
    }

    /// Gives what there is to do to whoever waits for it.
    pub(super) fn send_work(&mut self, node: &Node, replicas: &mut HashMap<ReplicaId, Replica>, now: Instant) {
        if now.duration_since(self.last_check) >= HOT_CHECK_INTERVAL {
            self.last_check = now;
            self.check_peers(node, replicas, now);
        }
        if replicas.values_mut().any(Replica::take_ends_lost) {
            self.requeue_all(replicas, now);
        }
        // What peers still tell a primary is older than what it knows, whatever they think of it: a firewall that comes back
        // takes the flows that it finds in its kernel for new. It is put in when this node steps back.
        if node.role() == Role::Primary && !self.active_active {
            return;
        }
        let Some(waiting) = self.waiting.take() else { return };
        let mut handed = Pending::default();
        for (id, replica) in replicas.iter_mut().filter(|_| !self.withdrawn) {
            replica.drain_pending(id.stream, INJECT_FLOWS, &mut handed);
        }
        let sweep = match self.sweep {
            Some(Sweep::All) => self.sweep.take(),
            Some(Sweep::UnconfirmedSince(_)) if handed.is_empty() && node.is_in_sync() => self.sweep.take(),
            _ => None,
        };
        if handed.is_empty() && sweep.is_none() {
            self.waiting = Some(waiting);
        } else {
            waiting.send(HotWork { pending: handed, role: node.role(), sweep });
        }
    }

    fn check_peers(&mut self, node: &Node, replicas: &mut HashMap<ReplicaId, Replica>, now: Instant) {
        if node.has_live_peer() {
            self.last_live = now;
            if std::mem::take(&mut self.withdrawn) {
                self.requeue_all(replicas, now);
            }
        } else if !self.withdrawn
            && node.role() != Role::Primary
            && now.duration_since(self.last_live) >= self.purge_after
        {
            tracing::warn!(
                "no peer is live: what is held for peers leaves the kernel, and stays in the external cache"
            );
            (self.withdrawn, self.sweep) = (true, Some(Sweep::All));
        }
        if now.duration_since(self.confirm_started) >= HOT_CONFIRM_INTERVAL && !self.withdrawn {
            self.requeue_all(replicas, now);
        }
    }
}

/// The thread's side: does what the stage has, until that ends.
pub(crate) fn run(access: &Access, replication: &Replication) {
    let takeover = &access.takeover;
    let rules = CommitRules { lifetime: Lifetime::Held, ..takeover.settings.rules };
    let mut hot = HotThread { access, rules, orphans: Vec::new() };
    while let Ok(work) = replication.next_work() {
        let mut done = Tally::default();
        if let Err(error) = hot.inject_work(&work, &mut done) {
            tracing::error!(%error, retry = ?HOT_RETRY, "replicas do not get into the kernel");
            thread::sleep(HOT_RETRY);
            let _ = replication.requeue_all(); // who has ended gives no more work either
        }
        *takeover.tally.lock().unwrap_or_else(PoisonError::into_inner) += done;
    }
}

struct HotThread<'h> {
    access: &'h Access,
    rules: CommitRules,
    /// Flows whose masters were not there when they came, with their heads.
    orphans: Vec<u8>,
}

impl HotThread<'_> {
    fn inject_work(&mut self, work: &HotWork, tally: &mut Tally) -> Result<(), KernelError> {
        let mut batch = self.access.committer();
        // A backup has no traffic, so it takes its peers' word; who may have some, only what is newer than its own.
        let word = match work.role {
            Role::Backup | Role::Fault => Conflict::PeerWins,
            Role::Primary | Role::None => Conflict::NewestWins(OnLoss::Evict),
        };
        let askers = &self.access.workers;
        let mut injector = Injector { batch: &mut batch, workers: askers, rules: self.rules, conflict: word, tally };
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
            // Everything that was told has come: a master that is not there now will not be.
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
                tracing::info!(purged, "flows that were held for peers, and are no more, left the kernel");
            }
        }
        Ok(())
    }
}

fn is_swept(sweep: Sweep, timeout_s: u32) -> bool {
    let unconfirmed = |since: Instant| u64::from(unconfirmed_s(timeout_s)) > since.elapsed().as_secs() + HOT_SLACK_S;
    is_held(timeout_s)
        && match sweep {
            Sweep::All => true,
            Sweep::UnconfirmedSince(since) => unconfirmed(since),
        }
}
