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
use super::context::World;
use super::failure::Failure;
use super::out::Out;
use super::socket::ControlSocket;
use crate::limits::{SERVER_BACKLOG, SERVER_CLIENTS, SERVER_REFUSAL_LOG_INTERVAL, SERVER_SHUTDOWN_MAX};

/// Answers of other threads, or the end.
pub(super) const WAKE: Token = Token(0);
const LISTENER: Token = Token(1);
/// Clients, by their place.
const CLIENTS: usize = 2;

/// How long to leave connections waiting when none can be accepted, as a rule for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// How often a client is looked at that still has to read its farewell.
const FAREWELL_LOOK: Duration = Duration::from_millis(10);

/// The server's state.
pub(super) struct Serving {
    pub(super) poll: Poll,
    listener: UnixListener,
    /// Removed when this goes.
    _socket: ControlSocket,
    clients: Vec<Option<Client>>,
    world: World,
    stop: Arc<AtomicBool>,
    /// When the next connections are accepted; nothing while none wait.
    accept: Option<Instant>,
    strangers: Strangers,
}

/// Those who were refused since it was said last.
#[derive(Debug, Default)]
struct Strangers {
    said: Option<Instant>,
    count: u64,
}

impl Serving {
    /// Has the listener watched.
    ///
    /// # Errors
    /// The system's, as a rule for want of descriptors.
    pub(super) fn new(poll: Poll, socket: ControlSocket, world: World, stop: Arc<AtomicBool>) -> io::Result<Self> {
        let mut listener = UnixListener::from_std(socket.listener()?);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let clients = (0..SERVER_CLIENTS).map(|_| None).collect();
        let (accept, strangers) = (Some(world.now), Strangers::default());
        Ok(Self { poll, listener, _socket: socket, clients, world, stop, accept, strangers })
    }

    /// Runs until told to stop; then says what is left to say.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(2 * SERVER_CLIENTS);
        while !self.stop.load(Ordering::Relaxed) {
            self.world.now = Instant::now();
            self.accept();
            let patience = self.serve();
            if let Err(error) = self.wait(&mut events, patience) {
                tracing::error!(%error, "the control server cannot wait for events: it ends");
                return;
            }
        }
        self.farewell(&mut events);
    }

    /// What was answered goes out; what was not, is told so.
    fn farewell(&mut self, events: &mut Events) {
        let until = Instant::now() + SERVER_SHUTDOWN_MAX;
        self.serve();
        self.clients.iter_mut().flatten().for_each(Client::say_goodbye);
        while self.world.clients > 0 && Instant::now() < until {
            self.world.now = Instant::now();
            self.serve();
            if self.wait(events, Some(FAREWELL_LOOK)).is_err() {
                return;
            }
        }
    }

    /// Waits, no longer than this, and notes who has something.
    fn wait(&mut self, events: &mut Events, patience: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, patience) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        for event in events.iter() {
            let place = event.token().0.checked_sub(CLIENTS);
            if let Some(Some(client)) = place.and_then(|place| self.clients.get_mut(place)) {
                client.hung_up |= event.is_write_closed();
            } else if event.token() == LISTENER {
                self.accept = Some(self.accept.unwrap_or_else(Instant::now));
            }
        }
        Ok(())
    }

    /// Serves every client; gives how long nothing else is to be done, if that is bounded.
    fn serve(&mut self) -> Option<Duration> {
        let mut patience = self.accept_in();
        for place in 0..self.clients.len() {
            let Some(Some(client)) = self.clients.get_mut(place) else { continue };
            match client.serve(&mut self.world) {
                Served::GoesOn(time) => patience = Some(patience.map_or(time, |other| other.min(time))),
                Served::Ended => {
                    self.close(place);
                    patience = self.accept_in().or(patience); // one who waited may come in
                }
            }
        }
        patience
    }

    /// How soon connections can be accepted.
    fn accept_in(&self) -> Option<Duration> {
        let when = self.accept.filter(|_| self.world.clients < SERVER_CLIENTS);
        when.map(|when| when.saturating_duration_since(self.world.now))
    }

    fn close(&mut self, place: usize) {
        if let Some(mut client) = self.clients.get_mut(place).and_then(Option::take) {
            let _ = self.poll.registry().deregister(&mut client.stream); // closing it does the same
            self.world.clients -= 1;
        }
    }

    /// Lets in who waits, as far as there is room. Those who may not come in take none, and are as many as the queue holds
    /// before others get their turn.
    fn accept(&mut self) {
        for _ in 0..SERVER_BACKLOG {
            if self.accept_in() != Some(Duration::ZERO) {
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.accept = None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, retry = ?ACCEPT_RETRY, "cannot accept a control connection");
                    self.accept = Some(self.world.now + ACCEPT_RETRY);
                }
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream) {
        if let Err(uid) = is_trusted(&stream) {
            return self.refuse(stream, uid);
        }
        let free = self.clients.iter_mut().enumerate().find(|(_, slot)| slot.is_none());
        let Some((place, slot)) = free else { return }; // nobody is let in while there is none
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self.poll.registry().register(&mut stream, Token(CLIENTS + place), interest) {
            Ok(()) => {
                *slot = Some(Client::new(stream, self.world.now));
                self.world.clients += 1;
            }
            Err(error) => tracing::warn!(%error, "cannot serve a control connection"),
        }
    }

    /// Tells a stranger why, if it is there to hear it.
    fn refuse(&mut self, mut stream: UnixStream, uid: Option<u32>) {
        let who = uid.map_or("an unknown user".to_owned(), |uid| format!("uid {uid}"));
        let mut out = Out::default();
        let own = geteuid().as_raw();
        out.failed(&Failure::new(format!("{who} may not ask this daemon: be root, or its own user (uid {own})")));
        let _ = out.write(&mut stream); // a new connection takes so little at once
        self.strangers.count += 1;
        let due = |said: Instant| self.world.now.saturating_duration_since(said) >= SERVER_REFUSAL_LOG_INTERVAL;
        if self.strangers.said.is_none_or(due) {
            let refused = std::mem::take(&mut self.strangers.count);
            tracing::warn!(refused, "control connections of other users refused, the last one of {who}");
            self.strangers.said = Some(self.world.now);
        }
    }
}

/// Whether the other end is root's or this process's own user's.
///
/// # Errors
/// Whose it is, where that is known.
fn is_trusted(stream: &UnixStream) -> Result<(), Option<u32>> {
    let uid = socket_peercred(stream.as_fd()).map_err(|_| None)?.uid;
    if uid.is_root() || uid == geteuid() { Ok(()) } else { Err(Some(uid.as_raw())) }
}
