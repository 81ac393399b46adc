//! A link over TCP. Each node connects to its peers and sends over the connections that it opened (dialled); it only
//! reads from the connections that it accepted. Each datagram is preceded by its length in two bytes.

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
    LINK_ACCEPTED_MAX, LINK_ACCEPTED_SILENCE_MAX, LINK_DATAGRAM_MAX, LINK_DIAL_INTERVAL, LINK_PEERS, LINK_QUEUE_BYTES,
    LINK_STALLED_MAX,
};

/// The longest datagram sent, in bytes. It fills a few segments, so that a lost segment delays few deltas.
pub(super) const DATAGRAM_BYTES: usize = 8 * 1_024;
/// The bytes buffered of a connection: two of the longest datagrams that are accepted.
const READ_BYTES: usize = 2 * (2 + LINK_DATAGRAM_MAX);
/// The listener's offset within a link's tokens. The tokens of accepted connections follow, then those of dialled ones.
const LISTENER: usize = 0;

/// A connection that this node opens to a peer.
#[derive(Debug)]
struct Dialled {
    peer: SocketAddr,
    /// The connection, established or not; `None` where none is open.
    stream: Option<TcpStream>,
    token: Token,
    /// Whether the connection is established.
    connected: bool,
    /// Bytes that the socket has not accepted yet. A datagram that would exceed [`LINK_QUEUE_BYTES`] is dropped as a
    /// whole.
    unsent: VecDeque<u8>,
    /// When the connection was last opened.
    dialled_at: Option<Instant>,
}

/// A connection that this node accepted.
#[derive(Debug)]
struct Accepted {
    stream: TcpStream,
    from: SocketAddr,
    /// Bytes that were read from the socket.
    buffer: Vec<u8>,
    /// How many bytes at the front of `buffer` were returned as datagrams.
    consumed: usize,
    /// When the last genuine datagram arrived; before the first one, when the connection was accepted.
    last_genuine: Instant,
    /// Whether a genuine datagram has arrived, so that the sender is a peer.
    proven: bool,
}

/// The listener and the connections of a link.
#[derive(Debug)]
pub(super) struct Streams {
    listener: TcpListener,
    first_token: usize,
    /// One connection for each configured peer.
    dialled: Vec<Dialled>,
    /// [`LINK_ACCEPTED_MAX`] slots for accepted connections.
    accepted: Vec<Option<Accepted>>,
    interface: Option<String>,
}

impl Streams {
    /// Opens the listener and registers it. The connections to the peers are opened by [`Streams::tick`].
    ///
    /// # Errors
    /// The operation that failed, as a verb phrase, and the system's error.
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
            .map_err(|error| ("poll its socket", error))?;
        let dialled = |(index, peer): (usize, &SocketAddr)| Dialled {
            peer: *peer,
            stream: None,
            token: Token(token + 1 + LINK_ACCEPTED_MAX + index),
            connected: false,
            unsent: VecDeque::new(),
            dialled_at: None,
        };
        // There is a token for each peer: the settings allow no more peers than that.
        let dialled = settings.peers.iter().take(LINK_PEERS).enumerate().map(dialled).collect();
        let accepted = (0..LINK_ACCEPTED_MAX).map(|_| None).collect();
        Ok(Self { listener, first_token: token, dialled, accepted, interface: settings.interface.clone() })
    }

    /// The number of established connections that this node opened, and of accepted connections.
    pub(super) fn connections(&self) -> (usize, usize) {
        (self.dialled.iter().filter(|dialled| dialled.connected).count(), self.accepted.iter().flatten().count())
    }

    /// Queues a datagram for every peer.
    pub(super) fn send_to_all(&mut self, datagram: &[u8], traffic: &mut Traffic) {
        for dialled in &mut self.dialled {
            dialled.queue(datagram, traffic);
        }
    }

    /// Sends the queued datagrams, as far as the sockets accept them.
    pub(super) fn flush(&mut self, traffic: &mut Traffic) {
        for dialled in &mut self.dialled {
            dialled.write(traffic);
        }
    }

    /// Opens connections that are broken or were not established in time, and closes accepted connections without a
    /// genuine datagram for [`LINK_ACCEPTED_SILENCE_MAX`]: those of unproven senders, and those of peers that vanished.
    pub(super) fn tick(&mut self, registry: &Registry, now: Instant) {
        let interface = self.interface.as_deref();
        for dialled in &mut self.dialled {
            let waited = dialled.dialled_at.map_or(Duration::MAX, |last| now.duration_since(last));
            if dialled.stream.is_some() && (dialled.connected || waited < LINK_STALLED_MAX) {
                continue;
            }
            if waited >= LINK_DIAL_INTERVAL {
                dialled.dialled_at = Some(now);
                dialled.dial(registry, interface);
            }
        }
        let is_silent = |accepted: &Accepted| now.duration_since(accepted.last_genuine) >= LINK_ACCEPTED_SILENCE_MAX;
        for slot in &mut self.accepted {
            if slot.as_ref().is_some_and(is_silent) {
                *slot = None;
            }
        }
    }

    /// Handles readiness of the socket at the offset `part` within the link's tokens: accepts connections, or reads the
    /// next datagram into `buffer`. Returns the datagram's sender number and length, or `None` where none has arrived.
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
        if let Some(slot) = self.accepted.get_mut(connection) {
            let Some(accepted) = slot else { return Ok(None) };
            let received = accepted.receive(buffer);
            let number = addresses.number_of(accepted.from);
            if received.is_err() {
                *slot = None;
            }
            return received.map(|bytes| bytes.map(|bytes| (number, bytes)));
        }
        if let Some(dialled) = self.dialled.get_mut(connection - LINK_ACCEPTED_MAX) {
            dialled.on_ready();
        }
        Ok(None)
    }

    /// Notes that a genuine datagram arrived over the connection from `address`.
    pub(super) fn note_genuine(&mut self, address: SocketAddr, now: Instant) {
        for accepted in self.accepted.iter_mut().flatten().filter(|accepted| accepted.from == address) {
            (accepted.proven, accepted.last_genuine) = (true, now);
        }
    }

    /// Accepts all connections that wait.
    fn accept(&mut self, registry: &Registry, now: Instant) -> io::Result<()> {
        loop {
            let (mut stream, from) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            // Where all slots are in use, the new connection replaces one that is not proven, so that unknown senders
            // cannot keep a peer out.
            let free = self.accepted.iter().position(Option::is_none);
            let is_unproven = |slot: &Option<Accepted>| slot.as_ref().is_some_and(|accepted| !accepted.proven);
            let unproven = || self.accepted.iter().position(is_unproven);
            let Some(index) = free.or_else(unproven) else { continue };
            if let Some(slot) = self.accepted.get_mut(index) {
                *slot = None; // closes the old connection, so that its token is free
                registry.register(&mut stream, Token(self.first_token + 1 + index), Interest::READABLE)?;
                *slot =
                    Some(Accepted { stream, from, buffer: Vec::new(), consumed: 0, last_genuine: now, proven: false });
            }
        }
    }
}

impl Dialled {
    /// Opens a new connection to the peer, in place of the old one.
    fn dial(&mut self, registry: &Registry, interface: Option<&str>) {
        // An error is not reported: the peer may be down, and the connection is opened again later.
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
        self.unsent.clear(); // it may start in the middle of a datagram that the old connection sent a part of
        self.stream = dialled.ok();
        self.connected = false;
    }

    /// Handles readiness of the socket: notes whether the connection is established, and closes it when it failed or
    /// ended.
    fn on_ready(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let failed = !matches!(stream.take_error(), Ok(None));
        // The peer never writes to this connection, so anything readable is its end.
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

    /// Closes the connection and drops the queued bytes.
    fn close(&mut self) {
        (self.stream, self.connected) = (None, false);
        self.unsent.clear();
    }

    /// Queues a datagram; drops and counts it where the connection is not established or the queue is full.
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

    /// Writes the queued bytes, as far as the socket accepts them.
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
    /// Reads the next datagram into `out`; returns its length in bytes, or `None` where it has not arrived completely.
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

    /// Copies the first complete datagram of the buffer into `out` and marks it as consumed.
    fn pop_datagram(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        let rest = self.buffer.get(self.consumed..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some(datagram) = rest.get(..length) else { return Ok(None) };
        let target = out.get_mut(..length).ok_or(io::ErrorKind::InvalidData)?;
        target.copy_from_slice(datagram);
        self.consumed += 2 + length;
        Ok(Some(length))
    }
}

/// Opens a non-blocking TCP socket, bound to the link's interface if it has one.
fn socket(address: SocketAddr, interface: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(socket)
}
