//! Which side this node is on, and what it does when that changes.
//!
//! | role | in order |
//! |---|---|
//! | primary | a scheduled purge is dropped; peers are told; the replicas go into the kernel; what kept traffic away goes, before that where hot mode has put everything there; the internal cache is compared with the kernel's table; replicas of peers that are gone are emptied: their flows are this node's |
//! | backup | peers are told; traffic is kept away, where that is wished ([`Isolation`]); a purge is scheduled: what this node tracked for itself leaves the kernel |
//! | fault | as backup |
//!
//! A role that is taken again is not taken twice, but that of primary where both nodes are. A takeover that cannot be complete happens all the same, and says what is
//! missing. The role is kept in a file beside the control socket: a daemon that comes back is on the side that it was on, and
//! goes on with what it had begun: a backup's purge is scheduled anew.

mod isolate;
mod report;
mod role;
mod schedule;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ctflow_replicate::Role;

pub(crate) use self::isolate::Isolator;
pub use self::isolate::{Isolation, Service};
pub use self::report::{CommitReport, RoleChange};
pub(crate) use self::role::change_role;
pub(crate) use self::schedule::{flush_later, flush_now};

use self::schedule::Scheduled;
use crate::filter::ReplicationFilter;
use crate::kernel::commit::CommitRules;
use crate::netlink::NetlinkError;
use crate::replication::Tally;

/// How a node takes over, and steps back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How replicated flows live in this kernel.
    pub rules: CommitRules,
    /// Replicas go into the kernel as they come.
    pub hot: bool,
    /// From stepping back to the purge of what this node tracked; in hot mode also from the last word of any peer to the
    /// purge of what is held for it.
    pub purge_after: Duration,
    /// How long a takeover may be held up for the external cache to be in sync.
    pub ready_within: Duration,
    /// Two nodes may be primary together.
    pub active_active: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: CommitRules::default(),
            hot: false,
            purge_after: Duration::from_secs(60),
            ready_within: Duration::from_secs(30),
            active_active: false,
        }
    }
}

/// The side that this node is on.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(crate) settings: Settings,
    /// Where there are peers.
    pub(crate) isolator: Option<Isolator>,
    state: Mutex<State>,
    /// Somebody changes the kernel for peers, or the role.
    busy: Mutex<bool>,
    /// Nobody does any more.
    free: Condvar,
    /// What became of what peers told, in hot mode.
    pub(crate) tally: Mutex<Tally>,
}

#[derive(Debug)]
struct State {
    role: Role,
    /// The role was taken completely: there is nothing to do when it is taken again.
    complete: bool,
    /// Where the role is kept.
    file: Option<PathBuf>,
    purge: Option<Scheduled>,
    /// What is replicated, and purged.
    filter: Arc<ReplicationFilter>,
}

/// Nobody else changes the kernel for peers, or the role, while it is there.
#[derive(Debug)]
pub(crate) struct KernelLock(Arc<Takeover>);

impl Drop for KernelLock {
    fn drop(&mut self) {
        *lock(&self.0.busy) = false;
        self.0.free.notify_one();
    }
}

impl Default for Takeover {
    /// One of a node without peers.
    fn default() -> Self {
        Self::new(Settings::default(), None, Arc::default(), None)
    }
}

impl Takeover {
    /// One whose role is kept in `file`, and was there already if there was one.
    pub(crate) fn new(
        settings: Settings,
        isolator: Option<Isolator>,
        choice: Arc<ReplicationFilter>,
        file: Option<PathBuf>,
    ) -> Self {
        let (role, complete) = file.as_deref().and_then(role::load_role).unwrap_or((Role::None, true));
        let state = State { role, complete, file, purge: None, filter: choice };
        let (busy, free, tally) = (Mutex::new(false), Condvar::new(), Mutex::default());
        Self { settings, isolator, state: Mutex::new(state), busy, free, tally }
    }

    /// Traffic is kept away, where that is wished and the role is to wait.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn isolate(&self) -> Result<(), NetlinkError> {
        match &self.isolator {
            Some(isolator) if self.is_standby() => isolator.isolate(),
            _ => Ok(()),
        }
    }

    /// Whether the role is to wait.
    pub(crate) fn is_standby(&self) -> bool {
        matches!(self.role(), Role::Backup | Role::Fault)
    }

    /// Traffic may come.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn admit(&self) -> Result<(), NetlinkError> {
        self.isolator.as_ref().map_or(Ok(()), Isolator::admit)
    }

    /// Whether traffic is kept away.
    pub(crate) fn is_isolated(&self) -> bool {
        self.isolator.as_ref().is_some_and(Isolator::is_isolated)
    }

    /// The role.
    pub(crate) fn role(&self) -> Role {
        self.state().role
    }

    /// What is replicated from here on.
    pub(crate) fn set_filter(&self, choice: Arc<ReplicationFilter>) {
        self.state().filter = choice;
    }

    /// The right to change the kernel for peers, or the role; nothing while somebody else does.
    pub(crate) fn try_lock_kernel(self: &Arc<Self>) -> Option<KernelLock> {
        self.lock_kernel_within(Duration::ZERO)
    }

    /// The same, as soon as nobody else does; nothing if that takes longer than `patience`.
    pub(crate) fn lock_kernel_within(self: &Arc<Self>, patience: Duration) -> Option<KernelLock> {
        let waited = self.free.wait_timeout_while(lock(&self.busy), patience, |busy| *busy);
        let (mut busy, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!std::mem::replace(&mut *busy, true)).then(|| KernelLock(self.clone()))
    }

    /// What was scheduled does not happen.
    pub(crate) fn cancel_purge(&self) {
        self.state().purge = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_lock_has_one_holder_and_passes_to_a_waiter() {
        let takeover = Arc::new(Takeover::default());
        let first = takeover.try_lock_kernel().unwrap();
        assert!(takeover.try_lock_kernel().is_none());
        let (end, ended) = std::sync::mpsc::channel();
        let patient = takeover.clone();
        let next = std::thread::spawn(move || {
            let turn = patient.lock_kernel_within(Duration::from_secs(60));
            end.send(()).unwrap();
            turn.is_some()
        });
        assert!(ended.recv_timeout(Duration::from_millis(50)).is_err());
        drop(first);
        assert!(next.join().unwrap());
        assert!(takeover.try_lock_kernel().is_some());
    }
}
