//! Private test networks on the running kernel: real namespaces, real packets, real NAT, without root and without
//! external programs.
//!
//! [`Lab::enter`] moves the calling thread into a network of its own, in which it is root. There the thread creates
//! links ([`link`]) and rules ([`nft`](ctflow_engine::netlink::nft)), changes settings ([`sysctl`]), starts [`Host`]s (threads that live
//! in further namespaces), and sends [`traffic`] or [`load`]. [`topology::Firewall`] combines these: a client, a
//! firewall and a server. [`gateways::Gateways`] has two firewalls for failover; [`backups::Backups`] adds hosts that
//! only receive replicas. A network disappears with its last thread and descriptor. Nothing here touches the machine's
//! own network.
//!
//! `ctflow demo`, the benches and the kernel tests of all crates use the lab; the tests enter it through
//! [`isolated!`](macro@crate::isolated).
//!
//! ```no_run
//! use ctflow_lab::{Lab, topology::{Firewall, SERVER}, traffic::tcp_exchange};
//!
//! let lab = Lab::enter()?; // first in `main`: an unprivileged process must still have a single thread
//! let firewall = Firewall::build(&lab)?;
//! firewall.client.run(|| tcp_exchange((SERVER, 443).into(), b"hello"))?;
//! # Ok::<(), ctflow_lab::LabError>(())
//! ```

pub mod backups;
pub mod drain;
mod error;
pub mod gateways;
pub mod isolated;
pub mod link;
pub mod load;
pub mod sysctl;
pub mod topology;
pub mod traffic;

use std::cell::Cell;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

pub use error::{Forbidden, LabError};

use ctflow_engine::sys::namespace;

thread_local! {
    /// Whether this thread has entered a namespace that this module made.
    static PRIVATE: Cell<bool> = const { Cell::new(false) };
}

/// Proof that the calling thread's network is private. Builders require it, so that they cannot change the machine's
/// own network.
#[derive(Debug)]
pub struct Lab {
    /// Makes the type neither `Send` nor `Sync`: the proof holds for one thread, as does its namespace.
    thread: PhantomData<*const ()>,
}

impl Lab {
    /// Moves the calling thread into a private network, unless it is in one already. Threads that it starts afterwards
    /// share the network.
    ///
    /// Root, also of a user namespace, may call this at any time. An unprivileged process enters a new user namespace
    /// as well, and must still have a single thread.
    ///
    /// # Errors
    /// [`LabError::Forbidden`] where user namespaces are forbidden, [`LabError::SeveralThreads`] when an unprivileged
    /// process has several threads.
    pub fn enter() -> Result<Self, LabError> {
        if !PRIVATE.get() {
            namespace::enter_private_network().map_err(LabError::enter_failed)?;
            prepare_namespace()?;
        }
        Ok(Self { thread: PhantomData })
    }

    /// Starts a host in a network namespace of its own, whose only link is the loopback link.
    ///
    /// # Errors
    /// [`LabError::System`] when a limit on threads or namespaces is reached.
    pub fn start_host(&self, name: &str) -> Result<Host, LabError> {
        Host::start(name)
    }
}

/// Marks the calling thread's namespace as private, disables duplicate address detection, and switches `lo` on.
fn prepare_namespace() -> Result<(), LabError> {
    PRIVATE.set(true);
    // The kernel would test each link-local address for duplicates for a second, and forward nothing to the link until
    // then. A kernel without IPv6 has neither the setting nor the wait, so an error is ignored.
    let _ = sysctl::write("net/ipv6/conf/default/accept_dad", "0");
    link::Links::open()?.up("lo")
}

/// Checks whether [`Lab::enter`] would succeed, by trying it in a child process. The caller keeps its namespaces, and
/// may have several threads.
///
/// # Errors
/// [`LabError::Forbidden`] where user namespaces are forbidden.
pub fn probe() -> Result<(), LabError> {
    // The child enters its namespaces before it executes the program. The path leads through a file, so that executing
    // it always fails with ENOTDIR: that error proves that entering succeeded.
    let mut command = Command::new("/proc/version/none");
    match namespace::start_in_private_network(&mut command).spawn() {
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => Ok(()),
        Err(error) => Err(LabError::enter_failed(error)),
        // Cannot happen; it would mean success, too.
        Ok(mut child) => child.wait().map(drop).map_err(LabError::enter_failed),
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A machine of the lab: a thread in a network namespace of its own that runs jobs there.
///
/// A socket keeps the namespace that it was opened in, and a thread inherits the namespace of the thread that starts
/// it: a server started within [`Host::run`] belongs to this host. The host's thread ends when the host is dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: OwnedFd,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    fn start(name: &str) -> Result<Self, LabError> {
        let failed = |error| LabError::system(format!("start the thread of host {name}"), error);
        let (jobs, received_jobs) = bounded(1); // `run` waits for its result, so one slot suffices
        let (report, ready) = bounded(1);
        let work = move || run_host_thread(&report, &received_jobs);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work).map_err(failed)?;
        let namespace = ready.recv().map_err(|_| failed(std::io::ErrorKind::BrokenPipe.into()))??;
        Ok(Self { name: name.to_owned(), namespace, jobs: Some(jobs), thread: Some(thread) })
    }

    /// The name that the host was started with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's network namespace, for moving links into it.
    #[must_use]
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Runs `work` on this host, waits, and returns its result. A panic in `work` continues in the caller.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (report, result) = bounded(1);
        let job: Job = Box::new(move || {
            // The caller resumes the panic, so nothing reads a value that the panic left inconsistent.
            let _ = report.send(catch_unwind(AssertUnwindSafe(work)));
        });
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        match result.recv() {
            Ok(Ok(value)) if sent => value,
            Ok(Err(panic)) => resume_unwind(panic),
            _ => unreachable!("a host's thread runs every job until the host is dropped"),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // jobs catch their own panics
        }
    }
}

/// The body of a host's thread: enters a namespace, reports its descriptor, and runs jobs until the channel is closed.
fn run_host_thread(report: &Sender<Result<OwnedFd, LabError>>, jobs: &Receiver<Job>) {
    let ready = namespace::enter_network()
        .map_err(LabError::enter_failed)
        .and_then(|()| prepare_namespace())
        .and_then(|()| namespace::current().map_err(|error| LabError::system("open the namespace of a host", error)));
    let _ = report.send(ready); // on failure `start` drops its end of `jobs`, which ends the loop
    for job in jobs {
        job();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_its_own_namespace_and_returns_results_and_panics() {
        crate::isolated!({
            let lab = Lab::enter().unwrap();
            let host = lab.start_host("alone").unwrap();
            assert_eq!(host.run(|| sysctl::write("net/ipv4/ip_default_ttl", "7").map(|()| 1)).unwrap(), 1);
            assert_eq!(host.run(|| sysctl::read("net/ipv4/ip_default_ttl")).unwrap(), 7);
            assert_eq!(sysctl::read("net/ipv4/ip_default_ttl").unwrap(), 64);
            let caught = catch_unwind(AssertUnwindSafe(|| host.run(|| panic!("on purpose"))));
            assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"on purpose"));
            assert_eq!(host.run(|| 2), 2);
        });
    }

    #[test]
    fn probe_checks_enter_and_keeps_the_namespace() {
        crate::isolated!({
            let namespace = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            let before = namespace();
            probe().unwrap();
            assert_eq!(namespace(), before);
        });
    }

    #[test]
    fn entering_twice_stays_in_the_same_network() {
        crate::isolated!({
            let first = Lab::enter().and_then(|_| sysctl::write("net/ipv4/ip_default_ttl", "9"));
            first.unwrap();
            Lab::enter().unwrap();
            assert_eq!(sysctl::read("net/ipv4/ip_default_ttl").unwrap(), 9);
        });
    }
}
