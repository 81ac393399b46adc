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
use super::commit::{decoded, keep};
use super::inject::{Injector, Tally, Told, Word};
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
pub(crate) struct Work {
    handed: Pending,
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
pub(super) struct Giver {
    /// Who waits for work.
    waiting: Option<Reply<Work>>,
    /// When everything was begun to be put in once more.
    since: Instant,
    /// The sweep that follows when that is done.
    sweep: Option<Sweep>,
    /// When a peer was live last.
    live: Instant,
    /// Everything that was held was purged, since no peer is live.
    withdrawn: bool,
    /// How long no peer may be live before that.
    patience: Duration,
    /// A primary takes what peers tell, too.
    shared: bool,
    looked: Instant,
}

impl Giver {
    pub(super) fn new(patience: Duration, shared: bool, now: Instant) -> Self {
        let sweep = Some(Sweep::UnconfirmedSince(now));
        Self { waiting: None, since: now, sweep, live: now, withdrawn: false, patience, shared, looked: now }
    }

    /// Whether everything that is known of peers is in the kernel, or was refused.
    pub(super) fn is_done(&self, replicas: &HashMap<ReplicaId, Replica>) -> bool {
        self.waiting.is_some() && !self.withdrawn && replicas.values().all(Replica::is_drained)
    }

    /// Somebody asks for work.
    pub(super) fn ask(&mut self, waiting: Reply<Work>) {
        self.waiting = Some(waiting);
    }

    /// Everything is put in once more, and what is held and was not is purged.
    pub(super) fn confirm(&mut self, replicas: &mut HashMap<ReplicaId, Replica>, now: Instant) {
        replicas.values_mut().for_each(Replica::requeue_all);
        (self.since, self.sweep) = (now, Some(Sweep::UnconfirmedSince(now)));
    }

    /// Gives what there is to do to whoever waits for it.
    pub(super) fn turn(&mut self, node: &Node, replicas: &mut HashMap<ReplicaId, Replica>, now: Instant) {
        if now.duration_since(self.looked) >= HOT_CHECK_INTERVAL {
            self.looked = now;
            self.look(node, replicas, now);
        }
        if replicas.values_mut().any(Replica::take_ends_lost) {
            self.confirm(replicas, now);
        }
        // What peers still tell a primary is older than what it knows, whatever they think of it: a firewall that comes back
        // takes the flows that it finds in its kernel for new. It is put in when this node steps back.
        if node.role() == Role::Primary && !self.shared {
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
            waiting.send(Work { handed, role: node.role(), sweep });
        }
    }

    fn look(&mut self, node: &Node, replicas: &mut HashMap<ReplicaId, Replica>, now: Instant) {
        if node.has_live_peer() {
            self.live = now;
            if std::mem::take(&mut self.withdrawn) {
                self.confirm(replicas, now);
            }
        } else if !self.withdrawn && node.role() != Role::Primary && now.duration_since(self.live) >= self.patience {
            tracing::warn!(
                "no peer is live: what is held for peers leaves the kernel, and stays in the external cache"
            );
            (self.withdrawn, self.sweep) = (true, Some(Sweep::All));
        }
        if now.duration_since(self.since) >= HOT_CONFIRM_INTERVAL && !self.withdrawn {
            self.confirm(replicas, now);
        }
    }
}

/// The thread's side: does what the stage has, until that ends.
pub(crate) fn run(access: &Access, replication: &Replication) {
    let takeover = &access.takeover;
    let rules = CommitRules { lifetime: Lifetime::Held, ..takeover.settings.rules };
    let mut hot = Hot { access, rules, orphans: Vec::new() };
    while let Ok(work) = replication.work() {
        let mut done = Tally::default();
        if let Err(error) = hot.inject(&work, &mut done) {
            tracing::error!(%error, retry = ?HOT_RETRY, "replicas do not get into the kernel");
            thread::sleep(HOT_RETRY);
            let _ = replication.hand_again(); // who has ended gives no more work either
        }
        *takeover.tally.lock().unwrap_or_else(PoisonError::into_inner) += done;
    }
}

struct Hot<'h> {
    access: &'h Access,
    rules: CommitRules,
    /// Flows whose masters were not there when they came, with their heads.
    orphans: Vec<u8>,
}

impl Hot<'_> {
    fn inject(&mut self, work: &Work, tally: &mut Tally) -> Result<(), KernelError> {
        let mut batch = self.access.committer();
        // A backup has no traffic, so it takes its peers' word; who may have some, only what is newer than its own.
        let word = match work.role {
            Role::Backup | Role::Fault => Word::Theirs,
            Role::Primary | Role::None => Word::Newer(OnLoss::Evict),
        };
        let askers = &self.access.workers;
        let mut injector = Injector { batch: &mut batch, askers, rules: self.rules, word, tally };
        injector.end(&work.handed.ends)?;
        let flows = decoded(&work.handed.flows);
        for (index, error) in injector.put(&flows)? {
            match flows.get(index) {
                Some(Told { head, bytes, .. }) if self.orphans.len() < COMMIT_RELATED_BYTES => {
                    keep(head, bytes, &mut self.orphans);
                }
                _ => injector.tally.refuse(&error),
            }
        }
        if work.handed.count < INJECT_FLOWS {
            // Everything that was told has come: a master that is not there now will not be.
            let orphans = std::mem::take(&mut self.orphans);
            for (_, error) in injector.put(&decoded(&orphans))? {
                injector.tally.refuse(&error);
            }
        }
        injector.expect(&work.handed.expectations)?;
        if let Some(sweep) = work.sweep {
            let purged = purge(&mut batch, |flow| is_chosen(sweep, flow.timeout.unwrap_or(0)))?;
            tally.purged += purged;
            if purged > 0 {
                tracing::info!(purged, "flows that were held for peers, and are no more, left the kernel");
            }
        }
        Ok(())
    }
}

fn is_chosen(sweep: Sweep, timeout_s: u32) -> bool {
    let unconfirmed = |since: Instant| u64::from(unconfirmed_s(timeout_s)) > since.elapsed().as_secs() + HOT_SLACK_S;
    is_held(timeout_s)
        && match sweep {
            Sweep::All => true,
            Sweep::UnconfirmedSince(since) => unconfirmed(since),
        }
}
