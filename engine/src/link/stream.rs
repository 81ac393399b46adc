//! A link over TCP. Each node dials its peers and sends over what it dialled; what it accepted it only reads. A datagram
//! is preceded by its length, two bytes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::address::Addresses;
use super::{LinkSettings, Traffic};
use crate::limits::{
    LINK_ACCEPTED_MAX, LINK_ACCEPTED_SILENCE_MAX, LINK_DATAGRAM_MAX, LINK_DIAL_INTERVAL, LINK_QUEUE_BYTES,
    LINK_STALLED_MAX, LINK_TOKENS,
};

/// The longest datagram sent: what fills a few segments, so that one that is lost delays little.
pub(super) const DATAGRAM_BYTES: usize = 8 * 1_024;
/// The longest datagram read, and the bytes kept of a connection.
const READ_BYTES: usize = 2 * (2 + LINK_DATAGRAM_MAX);
/// Within a link's tokens: the listener's, then the connections'.
const LISTENER: usize = 0;

/// A connection that was dialled.
#[derive(Debug)]
struct Dialled {
    peer: SocketAddr,
    stream: Option<TcpStream>,
    token: Token,
    /// Whether the connection stands.
    connected: bool,
    /// What the socket has not taken yet. Whole datagrams are dropped where it would grow past its bound.
    unsent: VecDeque<u8>,
    dialled_at: Option<Instant>,
}

/// A connection that was accepted.
#[derive(Debug)]
struct Accepted {
    stream: TcpStream,
    from: SocketAddr,
    buffer: Vec<u8>,
    /// What of it was handed over.
    consumed: usize,
    /// When it was accepted, or something genuine came over it last.
    last_genuine: Instant,
    /// Something genuine came over it.
    proven: bool,
}

/// A listener and its connections.
#[derive(Debug)]
pub(super) struct Streams {
    listener: TcpListener,
    first_token: usize,
    dialled: Vec<Dialled>,
    accepted: Vec<Option<Accepted>>,
    interface: Option<String>,
}

impl Streams {
    pub(super) fn open(
        settings: &LinkSettings,
        registry: &Registry,
        token: usize,
    ) -> Result<Self, (&'static str, io::Error)> {
        let socket = socket(settings.local, settings.interface.as_deref()).map_err(|error| ("open a socket", error))?;
        socket.set_reuse_address(true).map_err(|error| ("open a socket", error))?;
        socket.bind(&settings.local.into()).map_err(|error| ("bind", error))?;
        socket.listen(8).map_err(|error| ("listen", error))?;
        let mut listener = TcpListener::from_std(socket.into());
        registry
            .register(&mut listener, Token(token + LISTENER), Interest::READABLE)
            .map_err(|error| ("wait for it", error))?;
        let dialled = |(index, peer): (usize, &SocketAddr)| Dialled {
            peer: *peer,
            stream: None,
            token: Token(token + 1 + LINK_ACCEPTED_MAX + index),
            connected: false,
            unsent: VecDeque::new(),
            dialled_at: None,
        };
        // Peers past the tokens are not dialled: the settings bound them.
        let dialled =
            settings.peers.iter().take(LINK_TOKENS - 1 - LINK_ACCEPTED_MAX).enumerate().map(dialled).collect();
        let accepted = (0..LINK_ACCEPTED_MAX).map(|_| None).collect();
        Ok(Self { listener, first_token: token, dialled, accepted, interface: settings.interface.clone() })
    }

    /// Connections that were dialled and stand, and that were accepted.
    pub(super) fn connections(&self) -> (usize, usize) {
        (self.dialled.iter().filter(|one| one.connected).count(), self.accepted.iter().flatten().count())
    }

    pub(super) fn send_to_all(&mut self, datagram: &[u8], traffic: &mut Traffic) {
        for one in &mut self.dialled {
            one.queue(datagram, traffic);
        }
    }

    pub(super) fn flush(&mut self, traffic: &mut Traffic) {
        for one in &mut self.dialled {
            one.write(traffic);
        }
    }

    /// Dials what does not stand, and closes connections that brought nothing genuine for long: strangers', and those of
    /// peers that have gone without a word.
    pub(super) fn tick(&mut self, registry: &Registry, now: Instant) {
        let interface = self.interface.as_deref();
        for one in &mut self.dialled {
            let waited = one.dialled_at.map_or(Duration::MAX, |last| now.duration_since(last));
            if one.stream.is_some() && (one.connected || waited < LINK_STALLED_MAX) {
                continue;
            }
            if waited >= LINK_DIAL_INTERVAL {
                one.dialled_at = Some(now);
                one.dial(registry, interface);
            }
        }
        for place in &mut self.accepted {
            if place.as_ref().is_some_and(|one| now.duration_since(one.last_genuine) >= LINK_ACCEPTED_SILENCE_MAX) {
                *place = None;
            }
        }
    }

    /// The next datagram of the connection that `part` of the link's tokens is: its sender's number, and its length.
    pub(super) fn receive(
        &mut self,
        part: usize,
        registry: &Registry,
        now: Instant,
        addresses: &mut Addresses,
        buffer: &mut [u8],
    ) -> io::Result<Option<(u16, usize)>> {
        let Some(connection) = part.checked_sub(1) else {
            return self.accept(registry, now).map(|()| None);
        };
        if let Some(place) = self.accepted.get_mut(connection) {
            let Some(one) = place else { return Ok(None) };
            let taken = one.receive(buffer);
            let number = addresses.number_of(one.from);
            if taken.is_err() {
                *place = None;
            }
            return taken.map(|bytes| bytes.map(|bytes| (number, bytes)));
        }
        if let Some(one) = self.dialled.get_mut(connection - LINK_ACCEPTED_MAX) {
            one.on_ready();
        }
        Ok(None)
    }

    /// Something genuine came over the connection from `address`.
    pub(super) fn note_genuine(&mut self, address: SocketAddr, now: Instant) {
        for one in self.accepted.iter_mut().flatten().filter(|one| one.from == address) {
            (one.proven, one.last_genuine) = (true, now);
        }
    }

    fn accept(&mut self, registry: &Registry, now: Instant) -> io::Result<()> {
        loop {
            let (mut stream, from) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            // Where all places are taken, one that has proven nothing gives way: a stranger keeps no peer out.
            let free = self.accepted.iter().position(Option::is_none);
            let unproven = || self.accepted.iter().position(|one| one.as_ref().is_some_and(|one| !one.proven));
            let Some(place) = free.or_else(unproven) else { continue };
            if let Some(slot) = self.accepted.get_mut(place) {
                *slot = None; // closes it, and gives its token back
                registry.register(&mut stream, Token(self.first_token + 1 + place), Interest::READABLE)?;
                *slot =
                    Some(Accepted { stream, from, buffer: Vec::new(), consumed: 0, last_genuine: now, proven: false });
            }
        }
    }
}

impl Dialled {
    fn dial(&mut self, registry: &Registry, interface: Option<&str>) {
        // What fails is tried again: a peer that is down is no error.
        let dialled = (|| -> io::Result<TcpStream> {
            let socket = socket(self.peer, interface)?;
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_user_timeout(Some(LINK_STALLED_MAX))?;
            match socket.connect(&self.peer.into()) {
                Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                    return Err(error);
                }
                _ => {}
            }
            let mut stream = TcpStream::from_std(socket.into());
            registry.register(&mut stream, self.token, Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        })();
        self.unsent.clear(); // the beginning of what the last connection did not take is worth nothing
        self.stream = dialled.ok();
        self.connected = false;
    }

    /// Something happened: it stands now, takes more, or is closed.
    fn on_ready(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let failed = !matches!(stream.take_error(), Ok(None));
        // The peer never writes on it, so what can be read is its end.
        let ended = match stream.read(&mut [0; 64]) {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected),
        };
        if failed || ended {
            self.close();
        } else {
            self.connected = stream.peer_addr().is_ok();
        }
    }

    fn close(&mut self) {
        (self.stream, self.connected) = (None, false);
        self.unsent.clear();
    }

    fn queue(&mut self, datagram: &[u8], traffic: &mut Traffic) {
        let length = u16::try_from(datagram.len()).ok().filter(|_| self.connected);
        let Some(length) = length.filter(|_| self.unsent.len() + datagram.len() + 2 <= LINK_QUEUE_BYTES) else {
            traffic.send_errors += 1;
            return;
        };
        self.unsent.extend(length.to_be_bytes());
        self.unsent.extend(datagram);
        traffic.sent += 1;
        traffic.sent_bytes += datagram.len() as u64;
    }

    fn write(&mut self, traffic: &mut Traffic) {
        while let (Some(stream), false) = (&mut self.stream, self.unsent.is_empty()) {
            match stream.write(self.unsent.as_slices().0) {
                Ok(bytes) => {
                    self.unsent.drain(..bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    traffic.send_errors += 1;
                    return self.close();
                }
            }
        }
    }
}

impl Accepted {
    /// Takes the next datagram into `out`; `None` when it has not come whole.
    fn receive(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            if let Some(bytes) = self.pop_datagram(out)? {
                return Ok(Some(bytes));
            }
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
            let held = self.buffer.len();
            self.buffer.resize(READ_BYTES, 0);
            let result = self.stream.read(self.buffer.get_mut(held..).unwrap_or_default());
            self.buffer.truncate(held + result.as_ref().map_or(0, |bytes| *bytes));
            match result {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn pop_datagram(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        let rest = self.buffer.get(self.consumed..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some(datagram) = rest.get(..length) else { return Ok(None) };
        let place = out.get_mut(..length).ok_or(io::ErrorKind::InvalidData)?;
        place.copy_from_slice(datagram);
        self.consumed += 2 + length;
        Ok(Some(length))
    }
}

fn socket(address: SocketAddr, interface: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(socket)
}
