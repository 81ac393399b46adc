//! Private test networks on this very kernel: real namespaces, real packets, real NAT; without root, without programs.
//!
//! [`Lab::enter`] gives the calling thread a network of its own, in which it is root. There it builds links
//! ([`link`]), rules ([`nft`](crate::nft)) and settings ([`sysctl`]), starts [`Host`]s (threads that live in further namespaces),
//! and lets [`traffic`] flow, or [`load`]. [`topology::Firewall`] puts these together: client, firewall, server;
//! [`gateways::Gateways`] has two firewalls, [`backups::Backups`] gives one more that take over nothing. Everything is gone
//! when its last thread and descriptor are. Nothing here ever touches the machine's own network.
//!
//! `ctflow demo`, the benches and the kernel tests of all crates run on it; the latter through
//! [`isolated!`](crate::isolated).
//!
//! ```no_run
//! use ctflow_engine::lab::{Lab, topology::{Firewall, SERVER}, traffic::tcp_exchange};
//!
//! let lab = Lab::enter()?; // first thing in `main`: an unprivileged process must still have a single thread
//! let firewall = Firewall::build(&lab)?;
//! firewall.client.run(|| tcp_exchange((SERVER, 443).into(), b"hello"))?;
//! # Ok::<(), ctflow_engine::lab::LabError>(())
//! ```

pub mod backups;
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

use crate::sys::namespace;

thread_local! {
    /// Whether this thread has entered a namespace that this module made.
    static PRIVATE: Cell<bool> = const { Cell::new(false) };
}

/// Proof that the calling thread's network is private: what is built with it cannot land in the machine's own.
#[derive(Debug)]
pub struct Lab {
    /// A namespace belongs to a thread, and so does the proof.
    thread: PhantomData<*const ()>,
}

impl Lab {
    /// Makes the calling thread's network private, if it is not yet; threads that it starts afterwards share it.
    ///
    /// Root, and whoever is already root of a user namespace, may call it anywhere. An unprivileged process gets a user
    /// namespace as well, and must still have a single thread.
    ///
    /// # Errors
    /// [`LabError::Forbidden`] where user namespaces are, [`LabError::SeveralThreads`] when called too late.
    pub fn enter() -> Result<Self, LabError> {
        if !PRIVATE.get() {
            namespace::enter_private_network().map_err(LabError::enter_failed)?;
            prepare_namespace()?;
        }
        Ok(Self { thread: PhantomData })
    }

    /// Starts a host in a network namespace of its own, with nothing in it but the loopback link.
    ///
    /// # Errors
    /// [`LabError::System`] when a limit on threads or namespaces is reached.
    pub fn start_host(&self, name: &str) -> Result<Host, LabError> {
        Host::start(name)
    }
}

/// Marks the calling thread's namespace as private and makes it fit for use.
fn prepare_namespace() -> Result<(), LabError> {
    PRIVATE.set(true);
    // A link's own IPv6 address would be tested for duplicates for a second, and nothing forwarded to it meanwhile.
    // Without IPv6 there is no such setting and no such wait.
    let _ = sysctl::write("net/ipv6/conf/default/accept_dad", "0");
    link::Links::open()?.up("lo")
}

/// Whether [`Lab::enter`] would be granted, tried in a child process: the caller stays where it is, threads and all.
///
/// # Errors
/// [`LabError::Forbidden`] where user namespaces are.
pub fn probe() -> Result<(), LabError> {
    // The child enters its namespaces before it becomes another program, and there is none below a file.
    let mut command = Command::new("/proc/version/none");
    match namespace::start_in_private_network(&mut command).spawn() {
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => Ok(()),
        Err(error) => Err(LabError::enter_failed(error)),
        Ok(mut child) => child.wait().map(drop).map_err(LabError::enter_failed), // cannot be, and would be a yes as well
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A machine of the lab: a thread that lives in its own network namespace and does what it is told there.
///
/// Sockets keep the namespace they were made in, and threads inherit that of the thread that starts them: a server
/// started within [`Host::run`] belongs to this host. The thread ends when the host is dropped.
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
        let (jobs, to_do) = bounded(1); // `run` waits for its answer: there is never a second job
        let (report, ready) = bounded(1);
        let work = move || run_host_thread(&report, &to_do);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work).map_err(failed)?;
        let namespace = ready.recv().map_err(|_| failed(std::io::ErrorKind::BrokenPipe.into()))??;
        Ok(Self { name: name.to_owned(), namespace, jobs: Some(jobs), thread: Some(thread) })
    }

    /// The name it was started with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace, for moving links into it.
    #[must_use]
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Runs `work` on this host and waits for what it returns. A panic in it continues in the caller.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (report, result) = bounded(1);
        let job: Job = Box::new(move || {
            // Whoever gets the result decides about the panic, so nothing broken is looked at here.
            let _ = report.send(catch_unwind(AssertUnwindSafe(work)));
        });
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        match result.recv() {
            Ok(Ok(value)) if sent => value,
            Ok(Err(panic)) => resume_unwind(panic),
            _ => unreachable!("a host's thread does every job until the host is dropped"),
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

/// A host's thread: enters its namespace, reports it, then does what it is told until nobody can tell it anything.
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
            let caught = catch_unwind(AssertUnwindSafe(|| host.run(|| panic!("as told"))));
            assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"as told"));
            assert_eq!(host.run(|| 2), 2);
        });
    }

    #[test]
    fn probe_checks_enter_and_keeps_the_namespace() {
        crate::isolated!({
            let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            let before = here();
            probe().unwrap();
            assert_eq!(here(), before);
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
