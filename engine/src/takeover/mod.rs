//! The role of this node, and the steps of a change of role.
//!
//! | role | steps in order |
//! |---|---|
//! | primary | store the role and send it to the peers; cancel a scheduled purge; commit all replicas; end the isolation (before the commit, where hot mode has injected everything already); resync the internal cache with the kernel's table; empty the replicas of peers that are not live, because their flows are this node's now |
//! | backup | store the role and send it to the peers; isolate the node, where that is configured ([`Isolation`]); schedule a purge, which deletes from the kernel the flows that this node tracked itself |
//! | fault | the same as backup |
//!
//! Setting the current role again does nothing if the change to it was complete, except `primary` with `active_active`,
//! which commits again. A takeover that cannot be complete is carried out all the same, and reports what is missing. The
//! role is stored in a file next to the control socket. A restarted daemon has the role that is stored there; as backup
//! or fault it schedules the purge again.

mod commit;
mod hot;
mod inject;
pub(crate) mod isolate;
mod report;
mod role;
mod schedule;
pub(crate) mod settings;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ctflow_replicate::Role;

pub use self::commit::{CommitError, CommitScope, Committed};
pub(crate) use self::commit::{Progress, run as commit};
pub(crate) use self::hot::run as run_hot;
pub use self::inject::Tally;
pub(crate) use self::isolate::Isolator;
pub use self::isolate::{Isolation, Service};
pub use self::report::{CommitReport, RoleChange};
pub(crate) use self::role::change_role;
pub(crate) use self::schedule::{flush_later, flush_now};
pub use self::settings::Settings;

use self::schedule::Scheduled;
use crate::netlink::NetlinkError;
use crate::replication::filter::ReplicationFilter;

/// The role of this node, and what a change of role works on.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(crate) settings: Settings,
    /// `None` on a node without peers.
    pub(crate) isolator: Option<Isolator>,
    state: Mutex<State>,
    /// Whether a [`KernelLock`] exists.
    busy: Mutex<bool>,
    /// Notified when the [`KernelLock`] is dropped.
    free: Condvar,
    /// The outcomes of hot mode's injections since the start.
    pub(crate) tally: Mutex<Tally>,
}

/// The role and what belongs to it.
#[derive(Debug)]
struct State {
    role: Role,
    /// Whether the change to the role was complete, so that setting it again does nothing.
    complete: bool,
    /// The file that stores the role.
    file: Option<PathBuf>,
    purge: Option<Scheduled>,
    /// Which flows are replicated; a purge deletes the same flows.
    filter: Arc<ReplicationFilter>,
}

/// The right to commit, purge or change the role. Only one exists at a time; dropping it releases the right.
#[derive(Debug)]
pub(crate) struct KernelLock(Arc<Takeover>);

impl Drop for KernelLock {
    fn drop(&mut self) {
        *lock(&self.0.busy) = false;
        self.0.free.notify_one();
    }
}

impl Default for Takeover {
    /// The takeover of a node without peers.
    fn default() -> Self {
        Self::new(Settings::default(), None, Arc::default(), None)
    }
}

impl Takeover {
    /// Loads the role from `file`, where the file exists.
    pub(crate) fn new(
        settings: Settings,
        isolator: Option<Isolator>,
        filter: Arc<ReplicationFilter>,
        file: Option<PathBuf>,
    ) -> Self {
        let (role, complete) = file.as_deref().and_then(role::load_role).unwrap_or((Role::None, true));
        let state = State { role, complete, file, purge: None, filter };
        let (busy, free, tally) = (Mutex::new(false), Condvar::new(), Mutex::default());
        Self { settings, isolator, state: Mutex::new(state), busy, free, tally }
    }

    /// Isolates the node, if isolation is configured and the role is backup or fault.
    ///
    /// # Errors
    /// The kernel refused the nftables table.
    pub(crate) fn isolate(&self) -> Result<(), NetlinkError> {
        match &self.isolator {
            Some(isolator) if self.is_standby() => isolator.isolate(),
            _ => Ok(()),
        }
    }

    /// Whether the role is backup or fault.
    pub(crate) fn is_standby(&self) -> bool {
        matches!(self.role(), Role::Backup | Role::Fault)
    }

    /// Ends the isolation.
    ///
    /// # Errors
    /// The kernel refused to remove the nftables table.
    pub(crate) fn admit(&self) -> Result<(), NetlinkError> {
        self.isolator.as_ref().map_or(Ok(()), Isolator::admit)
    }

    /// Whether the node is isolated now.
    pub(crate) fn is_isolated(&self) -> bool {
        self.isolator.as_ref().is_some_and(Isolator::is_isolated)
    }

    /// The node's role.
    pub(crate) fn role(&self) -> Role {
        self.state().role
    }

    /// Sets which flows are replicated from now on.
    pub(crate) fn set_filter(&self, filter: Arc<ReplicationFilter>) {
        self.state().filter = filter;
    }

    /// Returns the right to commit, purge or change the role; `None` while another thread has it.
    pub(crate) fn try_lock_kernel(self: &Arc<Self>) -> Option<KernelLock> {
        self.lock_kernel_within(Duration::ZERO)
    }

    /// Waits up to `patience` for the right to commit, purge or change the role.
    pub(crate) fn lock_kernel_within(self: &Arc<Self>, patience: Duration) -> Option<KernelLock> {
        let waited = self.free.wait_timeout_while(lock(&self.busy), patience, |busy| *busy);
        let (mut busy, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!std::mem::replace(&mut *busy, true)).then(|| KernelLock(self.clone()))
    }

    /// Cancels the scheduled purge, if there is one.
    pub(crate) fn cancel_purge(&self) {
        self.state().purge = None;
    }

    /// Locks the role's state.
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Locks a mutex, also after a panic of another thread: its data are valid at every moment.
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
            let lock = patient.lock_kernel_within(Duration::from_secs(60));
            end.send(()).unwrap();
            lock.is_some()
        });
        assert!(ended.recv_timeout(Duration::from_millis(50)).is_err());
        drop(first);
        assert!(next.join().unwrap());
        assert!(takeover.try_lock_kernel().is_some());
    }
}
