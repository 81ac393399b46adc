//! A link over UDP, to each peer or to a multicast group.
//!
//! Datagrams to send are queued in one buffer and sent with one system call a round. They are received one by one: a
//! datagram holds some thirty deltas, so the system call is a small part of their cost.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, netdevice, sendmmsg, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::address::Addresses;
use super::{LinkSettings, Traffic, Transport};
use crate::limits::{LINK_BUFFER_BYTES, LINK_DATAGRAM_MAX, LINK_DATAGRAM_MIN, LINK_QUEUE_BYTES, LINK_SEND_BATCH};

/// A UDP socket, and the datagrams queued for it.
#[derive(Debug)]
pub(super) struct Datagrams {
    socket: UdpSocket,
    is_group: bool,
    /// The longest datagram in bytes that needs no fragmentation.
    datagram_bytes: usize,
    /// The bytes of the queued datagrams.
    queue: Vec<u8>,
    /// For each queued datagram: its end in `queue`, and the receiver.
    queued: Vec<(usize, SocketAddr)>,
}

impl Datagrams {
    /// Opens the socket and registers it for reading under `token`.
    ///
    /// # Errors
    /// The operation that failed, as a verb phrase, and the system's error.
    pub(super) fn open(
        settings: &LinkSettings,
        registry: &Registry,
        token: usize,
    ) -> Result<Self, (&'static str, io::Error)> {
        let socket = open_socket(settings)?;
        let datagram_bytes = datagram_bytes(settings);
        registry
            .register(&mut SourceFd(&socket.as_raw_fd()), Token(token), Interest::READABLE)
            .map_err(|error| ("poll its socket", error))?;
        let is_group = settings.transport == Transport::Multicast;
        Ok(Self { socket, is_group, datagram_bytes, queue: Vec::new(), queued: Vec::new() })
    }

    /// The longest datagram in bytes that needs no fragmentation.
    pub(super) fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    /// Queues a datagram for every peer, or for the group.
    pub(super) fn send_to_all(&mut self, datagram: &[u8], addresses: &mut Addresses, traffic: &mut Traffic) {
        for peer in addresses.peers() {
            self.queue(peer, datagram, traffic);
        }
    }

    /// Queues a datagram for the sender with the number `address`.
    pub(super) fn send_to(&mut self, address: u16, datagram: &[u8], addresses: &mut Addresses, traffic: &mut Traffic) {
        // A socket bound to the group receives nothing that is sent to its node alone. So a datagram for one peer is
        // sent to the group, and the others ignore it.
        let to = if self.is_group { addresses.peers().next() } else { addresses.get(address) };
        match to {
            Some(address) => self.queue(address, datagram, traffic),
            None => traffic.send_errors += 1,
        }
    }

    /// Queues a datagram; where the queue is full, sends it before.
    fn queue(&mut self, address: SocketAddr, datagram: &[u8], traffic: &mut Traffic) {
        if self.queue.len() + datagram.len() > LINK_QUEUE_BYTES {
            self.send_queued(traffic);
        }
        self.queue.extend_from_slice(datagram);
        self.queued.push((self.queue.len(), address));
        if self.queued.len() >= LINK_SEND_BATCH {
            self.send_queued(traffic);
        }
    }

    /// Sends the queued datagrams.
    pub(super) fn flush(&mut self, _: &mut Addresses, traffic: &mut Traffic) {
        self.send_queued(traffic);
    }

    /// Sends the queued datagrams and empties the queue. A datagram that the socket refuses is dropped and counted;
    /// those behind it are still sent, unless the socket is full.
    fn send_queued(&mut self, traffic: &mut Traffic) {
        let mut from = 0;
        while from < self.queued.len() {
            match self.send_from(from) {
                Ok(0) => break,
                Ok(sent) => {
                    traffic.sent += sent as u64;
                    traffic.sent_bytes += self.bytes_of(from, sent) as u64;
                    from += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A full socket refuses all others, too; an unreachable peer refuses only its own datagrams.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    traffic.send_errors += 1;
                    from += 1;
                }
            }
        }
        traffic.send_errors += (self.queued.len() - from.min(self.queued.len())) as u64;
        self.queued.clear();
        self.queue.clear();
    }

    /// The start of a queued datagram in `queue`.
    fn start_of(&self, index: usize) -> usize {
        index.checked_sub(1).and_then(|before| self.queued.get(before)).map_or(0, |(end, _)| *end)
    }

    /// The bytes of `count` queued datagrams from `from` on.
    fn bytes_of(&self, from: usize, count: usize) -> usize {
        self.start_of(from + count) - self.start_of(from)
    }

    /// Sends the queued datagrams from `from` on with one system call; returns how many were sent.
    fn send_from(&self, from: usize) -> io::Result<usize> {
        let rest = self.queued.iter().enumerate().skip(from);
        let addresses: Vec<SocketAddrAny> = rest.clone().map(|(_, (_, address))| (*address).into()).collect();
        let slices: Vec<[IoSlice<'_>; 1]> = rest
            .map(|(index, (end, _))| [IoSlice::new(self.queue.get(self.start_of(index)..*end).unwrap_or_default())])
            .collect();
        let mut controls: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let parts = addresses.iter().zip(&slices).zip(&mut controls);
        let mut messages: Vec<_> =
            parts.map(|((address, slice), control)| MMsgHdr::new_with_addr(address, slice, control)).collect();
        Ok(sendmmsg(&self.socket, &mut messages, SendFlags::DONTWAIT)?)
    }

    /// Reads the next datagram into `buffer`; returns its sender's number and its length, or `None` where none has
    /// arrived.
    pub(super) fn receive(&mut self, addresses: &mut Addresses, buffer: &mut [u8]) -> io::Result<Option<(u16, usize)>> {
        loop {
            match self.socket.recv_from(buffer) {
                Ok((bytes, from)) => return Ok(Some((addresses.number_of(from), bytes))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // An earlier datagram reached a host on which no peer listens.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Opens and binds the socket of a link.
fn open_socket(settings: &LinkSettings) -> Result<UdpSocket, (&'static str, io::Error)> {
    let local = settings.local;
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP));
    let socket = socket.map_err(|error| ("open a socket", error))?;
    socket.set_nonblocking(true).map_err(|error| ("open a socket", error))?;
    if let Some(interface) = &settings.interface {
        socket.bind_device(Some(interface.as_bytes())).map_err(|error| ("bind to its interface", error))?;
    }
    // The system grants as much as it allows. The protocol requests again what does not fit.
    let _ = socket.set_recv_buffer_size(LINK_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(LINK_BUFFER_BYTES);
    let bind_to = match (settings.transport, settings.peers.first()) {
        (Transport::Multicast, Some(group)) => {
            socket.set_reuse_address(true).map_err(|error| ("share the group's port", error))?;
            join(&socket, settings, group.ip()).map_err(|error| ("join the group", error))?;
            SocketAddr::new(group.ip(), local.port())
        }
        _ => local,
    };
    socket.bind(&bind_to.into()).map_err(|error| ("bind", error))?;
    Ok(socket.into())
}

/// Joins the group on the link's interface, and restricts sending to that interface and to the local network (TTL 1).
fn join(socket: &Socket, settings: &LinkSettings, group: IpAddr) -> io::Result<()> {
    let name = settings.interface.as_deref().unwrap_or_default();
    let index = netdevice::name_to_index(socket, name)?;
    match group {
        IpAddr::V4(group) => {
            socket.join_multicast_v4_n(&group, &socket2::InterfaceIndexOrAddress::Index(index))?;
            sockopt::set_ip_multicast_if_with_ifindex(socket, &group, &Ipv4Addr::UNSPECIFIED, index)?;
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_ttl_v4(1)
        }
        IpAddr::V6(group) => {
            socket.join_multicast_v6(&group, index)?;
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_hops_v6(1)
        }
    }
}

/// The longest datagram in bytes that fits the smallest MTU of the current routes to the peers.
fn datagram_bytes(settings: &LinkSettings) -> usize {
    let headers = if settings.local.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let fits = settings.peers.iter().map(|peer| mtu(settings, *peer).map_or(0, |mtu| mtu.saturating_sub(headers)));
    fits.min().unwrap_or(0).clamp(LINK_DATAGRAM_MIN, LINK_DATAGRAM_MAX)
}

/// The MTU of the route to `peer`.
fn mtu(settings: &LinkSettings, peer: SocketAddr) -> io::Result<usize> {
    let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(interface) = &settings.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.connect(&peer.into())?;
    let mtu = if peer.is_ipv4() { sockopt::ip_mtu(&socket) } else { sockopt::ipv6_mtu(&socket) }?;
    Ok(mtu as usize)
}
