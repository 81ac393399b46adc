//! Notifications to systemd (sd_notify(3)): ready, reloading, stopping, and the watchdog's.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager that started the daemon, if it has a notification socket.
pub(super) struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl ServiceManager {
    /// Returns the manager whose socket `NOTIFY_SOCKET` names. A name that starts with `@` is in the abstract
    /// namespace.
    pub(super) fn from_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                _ => SocketAddr::from_pathname(&name),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        Self { socket }
    }

    /// Returns half of the watchdog's timeout (`WATCHDOG_USEC`), if a watchdog watches this process (`WATCHDOG_PID`).
    pub(super) fn watchdog_interval() -> Option<Duration> {
        let is_ours = env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let time = env::var("WATCHDOG_USEC").ok()?.parse().ok().map(Duration::from_micros);
        time.filter(|time| is_ours && !time.is_zero()).map(|time| time / 2)
    }

    /// Sends a state such as `READY=1`. Errors are ignored: without the manager the daemon runs on.
    pub(super) fn notify(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_sent_to_the_named_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager {
            socket: Some((UnixDatagram::unbound().unwrap(), SocketAddr::from_pathname(&path).unwrap())),
        };
        manager.notify("READY=1");
        let mut buffer = [0; 20];
        let bytes = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..bytes], b"READY=1");
        ServiceManager { socket: None }.notify("READY=1");
    }
}
