//! A link over TCP. Each node dials its peers and sends over what it dialled; what it accepted it only reads. A datagram
//! is preceded by its length, two bytes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::address::Addresses;
use super::{LinkSettings, Traffic};
use crate::limits::{
    LINK_ACCEPTED_MAX, LINK_DATAGRAMS_PER_TURN, LINK_DIAL_INTERVAL, LINK_QUEUE_BYTES, LINK_TOKENS, LINK_UNPROVEN_MAX,
};

/// The longest datagram sent: what fills a few segments, so that one that is lost delays little.
pub(super) const DATAGRAM_BYTES: usize = 8 * 1_024;
/// The longest datagram read, and the bytes kept of a connection.
const READ_BYTES: usize = 2 * (2 + 65_535);
/// Within a link's tokens: the listener's, then the connections'.
const LISTENER: usize = 0;

/// A connection that was dialled.
#[derive(Debug)]
struct Dialled {
    peer: SocketAddr,
    stream: Option<TcpStream>,
    token: Token,
    /// Whether the connection stands.
    open: bool,
    /// What the socket has not taken yet. Whole datagrams are dropped where it would grow past its bound.
    unsent: VecDeque<u8>,
    dialled: Option<Instant>,
}

/// A connection that was accepted.
#[derive(Debug)]
struct Accepted {
    stream: TcpStream,
    from: SocketAddr,
    buffer: Vec<u8>,
    since: Instant,
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
            open: false,
            unsent: VecDeque::new(),
            dialled: None,
        };
        // Peers past the tokens are not dialled: the settings bound them.
        let dialled =
            settings.peers.iter().take(LINK_TOKENS - 1 - LINK_ACCEPTED_MAX).enumerate().map(dialled).collect();
        let accepted = (0..LINK_ACCEPTED_MAX).map(|_| None).collect();
        Ok(Self { listener, first_token: token, dialled, accepted, interface: settings.interface.clone() })
    }

    /// Connections that were dialled and stand, and that were accepted.
    pub(super) fn connections(&self) -> (usize, usize) {
        (self.dialled.iter().filter(|one| one.open).count(), self.accepted.iter().flatten().count())
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

    /// Dials what does not stand, and closes connections that have proven nothing.
    pub(super) fn tick(&mut self, registry: &Registry, now: Instant, _: &[SocketAddr]) {
        let interface = self.interface.as_deref();
        for one in self.dialled.iter_mut().filter(|one| one.stream.is_none()) {
            if one.dialled.is_none_or(|last| now.duration_since(last) >= LINK_DIAL_INTERVAL) {
                one.dialled = Some(now);
                one.dial(registry, interface);
            }
        }
        for place in &mut self.accepted {
            let is_idle = |one: &Accepted| !one.proven && now.duration_since(one.since) >= LINK_UNPROVEN_MAX;
            if place.as_ref().is_some_and(is_idle) {
                *place = None;
            }
        }
    }

    /// Whether there may be more.
    pub(super) fn receive(
        &mut self,
        part: usize,
        registry: &Registry,
        now: Instant,
        addresses: &mut Addresses,
        sink: &mut dyn FnMut(u16, &mut [u8]) -> bool,
    ) -> io::Result<bool> {
        if part == LISTENER {
            self.accept(registry, now)?;
            return Ok(false);
        }
        if let Some(place) = self.accepted.get_mut(part - 1) {
            let Some(one) = place else { return Ok(false) };
            let number = addresses.number(one.from);
            let result = one.read(|datagram| sink(number, datagram));
            if !matches!(result, Ok(true | false)) {
                *place = None;
            }
            return result;
        }
        if let Some(one) = self.dialled.get_mut(part - 1 - LINK_ACCEPTED_MAX) {
            one.look();
        }
        Ok(false)
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
                *slot = Some(Accepted { stream, from, buffer: Vec::new(), since: now, proven: false });
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
        self.open = false;
    }

    /// Something happened: it stands now, takes more, or is closed.
    fn look(&mut self) {
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
            self.open = stream.peer_addr().is_ok();
        }
    }

    fn close(&mut self) {
        (self.stream, self.open) = (None, false);
        self.unsent.clear();
    }

    fn queue(&mut self, datagram: &[u8], traffic: &mut Traffic) {
        let length = u16::try_from(datagram.len()).ok().filter(|_| self.open);
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
    /// Whether there may be more.
    fn read(&mut self, mut sink: impl FnMut(&mut [u8]) -> bool) -> io::Result<bool> {
        for _ in 0..LINK_DATAGRAMS_PER_TURN / 8 {
            let held = self.buffer.len();
            self.buffer.resize(READ_BYTES, 0);
            let result = self.stream.read(self.buffer.get_mut(held..).unwrap_or_default());
            self.buffer.truncate(held + result.as_ref().map_or(0, |bytes| *bytes));
            match result {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => self.hand_over(&mut sink),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Hands over every whole datagram in the buffer, and keeps what follows.
    fn hand_over(&mut self, sink: &mut impl FnMut(&mut [u8]) -> bool) {
        let mut start = 0;
        while let Some((length, rest)) = self.buffer.get_mut(start..).and_then(|rest| rest.split_first_chunk_mut::<2>())
        {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some(datagram) = rest.get_mut(..length) else { break };
            self.proven |= sink(datagram);
            start += 2 + length;
        }
        self.buffer.drain(..start);
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
