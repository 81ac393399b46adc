//! The server's thread.
//!
//! ```text
//! loop:  accept ──► serve each client: read its request, run its job, write ──► wait
//!        while there is room                                                    for clients, answers, timers
//! ```

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use super::client::{Client, Served};
use super::context::ServerContext;
use super::failure::Failure;
use super::out::OutBuffer;
use super::socket::ControlSocket;
use crate::limits::{SERVER_BACKLOG, SERVER_CLIENTS, SERVER_REFUSAL_LOG_INTERVAL, SERVER_SHUTDOWN_MAX};
use crate::os_error::os_error_text;

/// The token of the waker: another thread has answered, or the server shall stop.
pub(super) const WAKE: Token = Token(0);
/// The token of the listening socket.
const LISTENER: Token = Token(1);
/// The token of the client in slot 0; the other slots follow.
const FIRST_CLIENT: usize = 2;

/// How long to wait after a failed accept, which usually means that descriptors ran out.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// How often the clients are served while the server stops.
const FAREWELL_CHECK: Duration = Duration::from_millis(10);

/// The server's state.
pub(super) struct ServerLoop {
    pub(super) poll: Poll,
    listener: UnixListener,
    /// Removes the socket's file when dropped.
    _socket: ControlSocket,
    /// The clients by slot.
    clients: Vec<Option<Client>>,
    context: ServerContext,
    stop: Arc<AtomicBool>,
    /// The time of the next accept; `None` while no connection waits.
    accept_at: Option<Instant>,
    refused_users: RefusedUsers,
}

/// Connections of other users that were refused, for the log.
#[derive(Debug, Default)]
struct RefusedUsers {
    /// The time of the last line in the log.
    last_logged: Option<Instant>,
    /// Refusals since that line.
    count: u64,
}

impl ServerLoop {
    /// Registers the listening socket for events.
    ///
    /// # Errors
    /// The system refused a descriptor.
    pub(super) fn new(
        poll: Poll,
        socket: ControlSocket,
        context: ServerContext,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let mut listener = UnixListener::from_std(socket.listener()?);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let clients = (0..SERVER_CLIENTS).map(|_| None).collect();
        let accept_at = Some(context.now);
        Ok(Self {
            poll,
            listener,
            _socket: socket,
            clients,
            context,
            stop,
            accept_at,
            refused_users: RefusedUsers::default(),
        })
    }

    /// Runs until the stop flag is set, then finishes the clients.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(2 * SERVER_CLIENTS);
        while !self.stop.load(Ordering::Relaxed) {
            self.context.now = Instant::now();
            self.accept_clients();
            let timeout = self.serve_clients();
            if let Err(error) = self.wait_for_events(&mut events, timeout) {
                tracing::error!(
                    error = os_error_text(&error),
                    "the control server ends: it cannot wait for events on its sockets"
                );
                return;
            }
        }
        self.finish_clients(&mut events);
    }

    /// Sends complete answers, fails all other requests, and waits up to [`SERVER_SHUTDOWN_MAX`] for clients to read.
    fn finish_clients(&mut self, events: &mut Events) {
        let deadline = Instant::now() + SERVER_SHUTDOWN_MAX;
        self.serve_clients();
        self.clients.iter_mut().flatten().for_each(Client::fail_unfinished);
        while self.context.clients > 0 && Instant::now() < deadline {
            self.context.now = Instant::now();
            self.serve_clients();
            if self.wait_for_events(events, Some(FAREWELL_CHECK)).is_err() {
                return;
            }
        }
    }

    /// Waits for events, at most `timeout`, and marks clients that hung up and connections that wait.
    fn wait_for_events(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        for event in events.iter() {
            let slot = event.token().0.checked_sub(FIRST_CLIENT);
            if let Some(Some(client)) = slot.and_then(|slot| self.clients.get_mut(slot)) {
                client.hung_up |= event.is_write_closed();
            } else if event.token() == LISTENER {
                self.accept_at = Some(self.accept_at.unwrap_or_else(Instant::now));
            }
        }
        Ok(())
    }

    /// Serves every client. Returns how long the loop may wait for events; `None` without a limit.
    fn serve_clients(&mut self) -> Option<Duration> {
        let mut timeout = self.accept_delay();
        for slot in 0..self.clients.len() {
            let Some(Some(client)) = self.clients.get_mut(slot) else { continue };
            match client.serve(&mut self.context) {
                Served::Continue(time) => timeout = Some(timeout.map_or(time, |other| other.min(time))),
                Served::Close => {
                    self.close_client(slot);
                    timeout = self.accept_delay().or(timeout); // a waiting connection can have the free slot
                }
            }
        }
        timeout
    }

    /// How soon the next connection can be accepted; `None` while no connection waits or no slot is free.
    fn accept_delay(&self) -> Option<Duration> {
        let when = self.accept_at.filter(|_| self.context.clients < SERVER_CLIENTS);
        when.map(|when| when.saturating_duration_since(self.context.now))
    }

    /// Closes the connection of a slot and frees the slot.
    fn close_client(&mut self, slot: usize) {
        if let Some(mut client) = self.clients.get_mut(slot).and_then(Option::take) {
            let _ = self.poll.registry().deregister(&mut client.stream); // closing it does the same
            self.context.clients -= 1;
        }
    }

    /// Accepts waiting connections while slots are free. Connections of other users take no slot; at most
    /// [`SERVER_BACKLOG`] of them are refused before the clients are served again.
    fn accept_clients(&mut self) {
        for _ in 0..SERVER_BACKLOG {
            if self.accept_delay() != Some(Duration::ZERO) {
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.add_client(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.accept_at = None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(error = os_error_text(&error), retry = ?ACCEPT_RETRY, "cannot accept a control connection");
                    self.accept_at = Some(self.context.now + ACCEPT_RETRY);
                }
            }
        }
    }

    /// Gives the connection a slot, or refuses it if its user may not use the daemon.
    fn add_client(&mut self, mut stream: UnixStream) {
        if let Err(uid) = check_peer_user(&stream) {
            return self.refuse_user(stream, uid);
        }
        let free = self.clients.iter_mut().enumerate().find(|(_, slot)| slot.is_none());
        let Some((index, slot)) = free else { return }; // the caller accepts only while a slot is free
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self.poll.registry().register(&mut stream, Token(FIRST_CLIENT + index), interest) {
            Ok(()) => {
                *slot = Some(Client::new(stream, self.context.now));
                self.context.clients += 1;
            }
            Err(error) => tracing::warn!(error = os_error_text(&error), "cannot serve a control connection"),
        }
    }

    /// Sends the reason to the other user, and logs the refusals at intervals.
    fn refuse_user(&mut self, mut stream: UnixStream, uid: Option<u32>) {
        let who = uid.map_or("an unknown user".to_owned(), |uid| format!("uid {uid}"));
        let mut out = OutBuffer::default();
        let own = geteuid().as_raw();
        let error = format!("{who} may not use this daemon: run as root or as the daemon's user (uid {own})");
        out.push_failure(&Failure::new(error));
        let _ = out.write(&mut stream); // the buffer of a new connection has room for this
        self.refused_users.count += 1;
        let due = |last: Instant| self.context.now.saturating_duration_since(last) >= SERVER_REFUSAL_LOG_INTERVAL;
        if self.refused_users.last_logged.is_none_or(due) {
            let refused = std::mem::take(&mut self.refused_users.count);
            tracing::warn!(refused, "refused control connections of other users, the last one of {who}");
            self.refused_users.last_logged = Some(self.context.now);
        }
    }
}

/// Checks that the other end of the connection belongs to root or to this process's own user.
///
/// # Errors
/// The uid of another user; `None` where the kernel does not report it.
fn check_peer_user(stream: &UnixStream) -> Result<(), Option<u32>> {
    let uid = socket_peercred(stream.as_fd()).map_err(|_| None)?.uid;
    if uid.is_root() || uid == geteuid() { Ok(()) } else { Err(Some(uid.as_raw())) }
}
