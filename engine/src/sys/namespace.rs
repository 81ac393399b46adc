//! Private namespaces: a network of one's own, without root where user namespaces are allowed.
//!
//! A network namespace belongs to a thread and is inherited by the threads and processes that it starts. Making one
//! takes `CAP_SYS_ADMIN`. Whoever lacks it first makes a user namespace, in which it is root (and nowhere else); the
//! kernel grants that to a process that has a single thread only, so it happens early, or between `fork` and `exec`.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Who the caller is outside, as the kernel wants it told: `0 <id> 1` maps it to root inside.
#[derive(Debug)]
struct IdMaps {
    user: String,
    group: String,
}

impl IdMaps {
    fn of_caller() -> Self {
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        Self { user: format!("0 {user} 1"), group: format!("0 {group} 1") }
    }

    /// Allocates nothing: it also runs between `fork` and `exec`.
    fn write(&self) -> Result<(), Errno> {
        write_whole(c"/proc/self/setgroups", b"deny")?; // the kernel's condition for a group map without privilege
        write_whole(c"/proc/self/uid_map", self.user.as_bytes())?;
        write_whole(c"/proc/self/gid_map", self.group.as_bytes())
    }
}

fn write_whole(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let written = rustix::io::write(file, text)?;
    if written == text.len() { Ok(()) } else { Err(Errno::IO) }
}

/// Gives the calling thread a network namespace of its own; threads that it starts later share it.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` in the current user namespace.
pub fn enter_network() -> io::Result<()> {
    Ok(unshare_network(UnshareFlags::empty())?)
}

/// Gives the caller a network namespace of its own: the calling thread if it is privileged; else the process, together
/// with a user namespace in which it is root.
///
/// # Errors
/// `EPERM`, `EACCES` or `ENOSPC` where user namespaces are forbidden; `EINVAL` when an unprivileged process has several
/// threads.
pub fn enter_private_network() -> io::Result<()> {
    Ok(enter_with(&IdMaps::of_caller())?)
}

/// Has `command` start in a private network, as [`enter_private_network`] does for the caller, and end with the thread
/// that starts it. Where namespaces are forbidden, `spawn` returns that error.
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

/// The calling thread's network namespace. It lives as long as the descriptor does.
///
/// # Errors
/// `ENOENT` without `/proc`.
pub fn current() -> io::Result<OwnedFd> {
    Ok(open(c"/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn enter_with(maps: &IdMaps) -> Result<(), Errno> {
    match unshare_network(UnshareFlags::empty()) {
        Err(Errno::PERM) => {
            unshare_network(UnshareFlags::NEWUSER)?;
            maps.write()
        }
        other => other,
    }
}

fn unshare_network(with: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: unsharing must not split a descriptor table that threads believe they share; the callers, all in this
    // file, add NEWUSER to NEWNET or nothing, never FILES.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | with) }
}
