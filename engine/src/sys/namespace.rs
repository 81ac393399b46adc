//! Private networks in network namespaces, without root where the system allows user namespaces.
//!
//! A network namespace belongs to a thread, and the threads and processes that it starts inherit it. Creating one needs
//! `CAP_SYS_ADMIN`. A process without it first creates a user namespace, inside which it is root. The kernel allows
//! that only to a process with a single thread, so it is done early, or between `fork` and `exec`.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The caller's user and group id outside, in the format of the kernel's id maps: `0 <id> 1` maps it to root inside.
#[derive(Debug)]
struct IdMaps {
    user: String,
    group: String,
}

impl IdMaps {
    /// The maps of the calling process's effective ids.
    fn of_caller() -> Self {
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        Self { user: format!("0 {user} 1"), group: format!("0 {group} 1") }
    }

    /// Writes the maps of the current user namespace. It allocates nothing, because it also runs between `fork` and
    /// `exec`.
    fn write(&self) -> Result<(), Errno> {
        write_whole(c"/proc/self/setgroups", b"deny")?; // without it the kernel refuses an unprivileged group map
        write_whole(c"/proc/self/uid_map", self.user.as_bytes())?;
        write_whole(c"/proc/self/gid_map", self.group.as_bytes())
    }
}

/// Writes `text` to `path` with one call, as these files require.
fn write_whole(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let written = rustix::io::write(file, text)?;
    if written == text.len() { Ok(()) } else { Err(Errno::IO) }
}

/// Moves the calling thread to a new network namespace. Threads that it starts later share it.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` in the current user namespace.
pub fn enter_network() -> io::Result<()> {
    Ok(unshare_network(UnshareFlags::empty())?)
}

/// Moves the caller to a new network namespace: the calling thread if it is privileged; otherwise the process, which
/// gets a user namespace as well, in which it is root.
///
/// # Errors
/// `EPERM`, `EACCES` or `ENOSPC` where user namespaces are forbidden; `EINVAL` when an unprivileged process has several
/// threads.
pub fn enter_private_network() -> io::Result<()> {
    Ok(enter_with(&IdMaps::of_caller())?)
}

/// Makes `command` start in a private network, as [`enter_private_network`] does for the caller, and be killed when the
/// thread that starts it ends. Where namespaces are forbidden, `spawn` returns that error.
pub fn start_in_private_network(command: &mut Command) -> &mut Command {
    let maps = IdMaps::of_caller();
    let enter = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(enter_with(&maps)?)
    };
    // SAFETY: only what is async-signal-safe may run between fork and exec; `enter` makes system calls on strings that
    // were built before, and neither allocates nor takes a lock (an `io::Error` made of an `Errno` holds a number).
    unsafe { command.pre_exec(enter) }
}

/// A descriptor of the calling thread's network namespace, which exists at least as long as the descriptor.
///
/// # Errors
/// `ENOENT` without `/proc`.
pub fn current() -> io::Result<OwnedFd> {
    Ok(open(c"/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Enters a new network namespace, with a user namespace if that is needed.
fn enter_with(maps: &IdMaps) -> Result<(), Errno> {
    match unshare_network(UnshareFlags::empty()) {
        Err(Errno::PERM) => {
            unshare_network(UnshareFlags::NEWUSER)?;
            maps.write()
        }
        other => other,
    }
}

/// Enters a new network namespace, and the namespaces of the flags in `with`.
fn unshare_network(with: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: unsharing must not split a descriptor table that threads believe they share; the callers, all in this
    // file, add NEWUSER to NEWNET or nothing, never FILES.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | with) }
}
