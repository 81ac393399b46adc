//! The server's thread.
//!
//! ```text
//! loop:  accept ──► serve each client: read its request, take its job further, write ──► wait
//!        while there is room                                                             for clients, answers, timers
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

/// Answers of other threads, or the end.
pub(super) const WAKE: Token = Token(0);
const LISTENER: Token = Token(1);
/// Clients, by their place.
const FIRST_CLIENT: usize = 2;

/// How long to leave connections waiting when none can be accepted, as a rule for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// How often a client is looked at that still has to read its farewell.
const FAREWELL_CHECK: Duration = Duration::from_millis(10);

/// The server's state.
pub(super) struct ServerLoop {
    pub(super) poll: Poll,
    listener: UnixListener,
    /// Removed when this goes.
    _socket: ControlSocket,
    clients: Vec<Option<Client>>,
    context: ServerContext,
    stop: Arc<AtomicBool>,
    /// When the next connections are accepted; nothing while none wait.
    accept_at: Option<Instant>,
    refused_users: RefusedUsers,
}

/// Those who were refused since it was said last.
#[derive(Debug, Default)]
struct RefusedUsers {
    last_logged: Option<Instant>,
    count: u64,
}

impl ServerLoop {
    /// Has the listener watched.
    ///
    /// # Errors
    /// The system's, as a rule for want of descriptors.
    pub(super) fn new(
        poll: Poll,
        socket: ControlSocket,
        world: ServerContext,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let mut listener = UnixListener::from_std(socket.listener()?);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let clients = (0..SERVER_CLIENTS).map(|_| None).collect();
        let (accept, strangers) = (Some(world.now), RefusedUsers::default());
        Ok(Self {
            poll,
            listener,
            _socket: socket,
            clients,
            context: world,
            stop,
            accept_at: accept,
            refused_users: strangers,
        })
    }

    /// Runs until told to stop; then says what is left to say.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(2 * SERVER_CLIENTS);
        while !self.stop.load(Ordering::Relaxed) {
            self.context.now = Instant::now();
            self.accept_clients();
            let patience = self.serve_clients();
            if let Err(error) = self.wait_for_events(&mut events, patience) {
                tracing::error!(%error, "the control server cannot wait for events: it ends");
                return;
            }
        }
        self.finish_clients(&mut events);
    }

    /// What was answered goes out; what was not, is told so.
    fn finish_clients(&mut self, events: &mut Events) {
        let until = Instant::now() + SERVER_SHUTDOWN_MAX;
        self.serve_clients();
        self.clients.iter_mut().flatten().for_each(Client::fail_unfinished);
        while self.context.clients > 0 && Instant::now() < until {
            self.context.now = Instant::now();
            self.serve_clients();
            if self.wait_for_events(events, Some(FAREWELL_CHECK)).is_err() {
                return;
            }
        }
    }

    /// Waits, no longer than this, and notes who has something.
    fn wait_for_events(&mut self, events: &mut Events, patience: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, patience) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        for event in events.iter() {
            let place = event.token().0.checked_sub(FIRST_CLIENT);
            if let Some(Some(client)) = place.and_then(|place| self.clients.get_mut(place)) {
                client.hung_up |= event.is_write_closed();
            } else if event.token() == LISTENER {
                self.accept_at = Some(self.accept_at.unwrap_or_else(Instant::now));
            }
        }
        Ok(())
    }

    /// Serves every client; gives how long nothing else is to be done, if that is bounded.
    fn serve_clients(&mut self) -> Option<Duration> {
        let mut patience = self.accept_delay();
        for place in 0..self.clients.len() {
            let Some(Some(client)) = self.clients.get_mut(place) else { continue };
            match client.serve(&mut self.context) {
                Served::Continue(time) => patience = Some(patience.map_or(time, |other| other.min(time))),
                Served::Close => {
                    self.close_client(place);
                    patience = self.accept_delay().or(patience); // one who waited may come in
                }
            }
        }
        patience
    }

    /// How soon connections can be accepted.
    fn accept_delay(&self) -> Option<Duration> {
        let when = self.accept_at.filter(|_| self.context.clients < SERVER_CLIENTS);
        when.map(|when| when.saturating_duration_since(self.context.now))
    }

    fn close_client(&mut self, place: usize) {
        if let Some(mut client) = self.clients.get_mut(place).and_then(Option::take) {
            let _ = self.poll.registry().deregister(&mut client.stream); // closing it does the same
            self.context.clients -= 1;
        }
    }

    /// Lets in who waits, as far as there is room. Those who may not come in take none, and are as many as the queue holds
    /// before others get their turn.
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
                    tracing::warn!(%error, retry = ?ACCEPT_RETRY, "cannot accept a control connection");
                    self.accept_at = Some(self.context.now + ACCEPT_RETRY);
                }
            }
        }
    }

    fn add_client(&mut self, mut stream: UnixStream) {
        if let Err(uid) = check_peer_user(&stream) {
            return self.refuse_user(stream, uid);
        }
        let free = self.clients.iter_mut().enumerate().find(|(_, slot)| slot.is_none());
        let Some((place, slot)) = free else { return }; // nobody is let in while there is none
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self.poll.registry().register(&mut stream, Token(FIRST_CLIENT + place), interest) {
            Ok(()) => {
                *slot = Some(Client::new(stream, self.context.now));
                self.context.clients += 1;
            }
            Err(error) => tracing::warn!(%error, "cannot serve a control connection"),
        }
    }

    /// Tells a stranger why, if it is there to hear it.
    fn refuse_user(&mut self, mut stream: UnixStream, uid: Option<u32>) {
        let who = uid.map_or("an unknown user".to_owned(), |uid| format!("uid {uid}"));
        let mut out = OutBuffer::default();
        let own = geteuid().as_raw();
        out.push_failure(&Failure::new(format!("{who} may not ask this daemon: be root, or its own user (uid {own})")));
        let _ = out.write(&mut stream); // a new connection takes so little at once
        self.refused_users.count += 1;
        let due = |said: Instant| self.context.now.saturating_duration_since(said) >= SERVER_REFUSAL_LOG_INTERVAL;
        if self.refused_users.last_logged.is_none_or(due) {
            let refused = std::mem::take(&mut self.refused_users.count);
            tracing::warn!(refused, "control connections of other users refused, the last one of {who}");
            self.refused_users.last_logged = Some(self.context.now);
        }
    }
}

/// Whether the other end is root's or this process's own user's.
///
/// # Errors
/// Whose it is, where that is known.
fn check_peer_user(stream: &UnixStream) -> Result<(), Option<u32>> {
    let uid = socket_peercred(stream.as_fd()).map_err(|_| None)?.uid;
    if uid.is_root() || uid == geteuid() { Ok(()) } else { Err(Some(uid.as_raw())) }
}
