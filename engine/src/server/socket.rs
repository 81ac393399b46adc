//! The control socket's file: only its owner may connect, and one daemon at a time serves it.
//!
//! A daemon locks `PATH.lock` while it serves a path. The lock ends with its process. So the socket of a crashed daemon
//! is not mistaken for a running one, and the socket of a daemon that is just starting is not removed.

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
use crate::os_error::os_error_text;

/// The control socket cannot be served. The message is one line for the operator.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Another daemon serves the path.
    #[error("another daemon serves {}: stop it, or configure another socket", .0.display())]
    AlreadyServed(PathBuf),
    /// The path is a file that is not a socket, and that the daemon must not remove.
    #[error("{} exists and is not a socket: remove it, or configure another socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused an operation, usually because the directory does not exist or is not writable.
    #[error("cannot {operation} {}: {}", .path.display(), os_error_text(.source))]
    System {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The system refused a descriptor or a thread, usually because of a limit.
    #[error("cannot start the control server: {}", os_error_text(.0))]
    Start(#[source] io::Error),
}

impl ServerError {
    /// Creates the error of a failed operation on `path`.
    fn system(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { operation, path: path.into(), source }
    }
}

/// A bound socket that clients can connect to, and that no server serves yet. Dropping it removes the file.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file. On drop they show whether the path is still this socket.
    identity: Option<(u64, u64)>,
    _lock: File,
}

impl ControlSocket {
    /// Creates the socket at `path`, with mode 0600 from the start. A socket that no daemon serves is replaced.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        let lock = lock_path(path)?;
        remove_stale(path)?;
        let listener = bind_listener(path).map_err(ServerError::system("create the control socket", path))?;
        let identity = fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()));
        Ok(Self { listener, path: path.into(), identity, _lock: lock })
    }

    /// Duplicates the listening socket for the event loop.
    ///
    /// # Errors
    /// The system refused a descriptor.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// The path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let current = fs::symlink_metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
        if current.is_some() && current == self.identity {
            let _ = fs::remove_file(&self.path); // if it fails (read-only directory), the next daemon removes the file
        }
    }
}

/// Locks `path` for this process.
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

/// Removes the socket that a crashed daemon left.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(ServerError::NotASocket(path.into())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ServerError::system("check", path)(error)),
    }
    if has_listener(path) {
        return Err(ServerError::AlreadyServed(path.into()));
    }
    fs::remove_file(path).map_err(ServerError::system("remove", path))
}

/// Whether a process listens on the socket, perhaps without a lock. The connection does not wait: a full queue also
/// means that a process listens.
fn has_listener(path: &Path) -> bool {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    let no_listener = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
    !connect().is_err_and(|error: io::Error| no_listener.contains(&error.kind()))
}

/// Binds a listening socket with mode 0600: the mode of an unbound socket becomes the mode of its file.
fn bind_listener(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    fchmod(socket.as_fd(), Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(i32::try_from(SERVER_BACKLOG).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}
