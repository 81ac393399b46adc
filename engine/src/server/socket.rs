//! The socket's place in the file system: nobody but its owner may connect, and one daemon at a time serves it.
//!
//! Whether another daemon serves a path is told by a lock on `PATH.lock`, which ends with its process, so what a crashed
//! one left behind is neither taken for a daemon nor removed under one that is just starting.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

use crate::limits::SERVER_BACKLOG;

/// A control socket that cannot be served. One line for the operator.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Somebody else does.
    #[error("another daemon serves {}: stop it, or name another socket", .0.display())]
    AlreadyServed(PathBuf),
    /// What is there is not to be removed.
    #[error("{} is there and is no socket: remove it, or name another socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused; as a rule the folder is not there, or not ours.
    #[error("cannot {operation} {}: {source}", .path.display())]
    System {
        /// What was tried.
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Descriptors or threads, as a rule their limit.
    #[error("cannot start the control server: {0}")]
    Start(#[source] io::Error),
}

impl ServerError {
    fn system(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { operation, path: path.into(), source }
    }
}

/// A socket that clients can connect to, and that nobody serves yet. Dropping it removes it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: what is there under the name may be another's by then.
    identity: Option<(u64, u64)>,
    _lock: File,
}

impl ControlSocket {
    /// Makes the socket at `path`, with mode 0600 from its first moment on, in place of one that nobody serves.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        let lock = lock_path(path)?;
        remove_stale(path)?;
        let listener = bind_listener(path).map_err(ServerError::system("make the control socket", path))?;
        let identity = fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()));
        Ok(Self { listener, path: path.into(), identity, _lock: lock })
    }

    /// A descriptor of its own for the event loop.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
        if there.is_some() && there == self.identity {
            let _ = fs::remove_file(&self.path); // the folder may be read-only by now; the next daemon removes it
        }
    }
}

/// Makes this process the one that serves `path`.
fn lock_path(path: &Path) -> Result<File, ServerError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0); // its bits are few
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(&name);
    let file = file.map_err(ServerError::system("open", &name))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN) => Err(ServerError::AlreadyServed(path.into())),
        Err(errno) => Err(ServerError::system("lock", &name)(errno.into())),
    }
}

/// Removes what a daemon left behind that ended without a word.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(ServerError::NotASocket(path.into())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ServerError::system("look at", path)(error)),
    }
    if has_listener(path) {
        return Err(ServerError::AlreadyServed(path.into()));
    }
    fs::remove_file(path).map_err(ServerError::system("remove", path))
}

/// Whether somebody listens, who may have no lock. A full queue does not keep us waiting, and means that somebody does.
fn has_listener(path: &Path) -> bool {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    let nobody = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
    !connect().is_err_and(|error: io::Error| nobody.contains(&error.kind()))
}

/// The mode of a socket that is not bound yet becomes that of its file.
fn bind_listener(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    fchmod(socket.as_fd(), Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(i32::try_from(SERVER_BACKLOG).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}
