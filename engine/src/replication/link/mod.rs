//! The links to other nodes: up to four, of which one is active and carries the deltas.
//!
//! ```text
//! send ──► active link ──► queue ──► sendmmsg | stream          receive ◄── every link
//! control messages are also sent over every other link, twice a second, as keepalives
//! ```
//!
//! A received datagram is genuine if the protocol could open it, so that it is a peer's. A link is healthy if a genuine
//! datagram arrived over it within the last [`LINK_SILENCE_MAX`]. When the active link is not healthy, the first
//! healthy link in the order of the settings becomes active; if none is healthy, the active link stays. An earlier link
//! becomes active again when it has been healthy for [`LINK_RECOVERY_MIN`]. Each node chooses its active link by
//! itself, and receives over all links.
//!
//! Links are not reliable. A datagram that a full queue or a full socket refuses is counted and dropped, and the
//! protocol requests its content again.

mod address;
mod datagram;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ctflow_replicate::DatagramClass;
use mio::{Registry, Token};
use thiserror::Error;

use self::address::Addresses;
use self::datagram::Datagrams;
use self::stream::Streams;
use crate::limits::{LINK_KEEPALIVE_INTERVAL, LINK_RECOVERY_MIN, LINK_SILENCE_MAX, LINK_TOKENS};
use crate::os_error::os_error_text;

/// How a link carries datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP: each datagram is sent to every peer.
    Udp,
    /// UDP: each datagram is sent once, to a multicast group.
    Multicast,
    /// TCP: each node connects to its peers, and sends over the connections that it opened.
    Tcp,
}

/// The settings of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// How the link carries datagrams.
    pub transport: Transport,
    /// The address and port of this node. A multicast link binds the port, with the group's address.
    pub local: SocketAddr,
    /// The addresses of the peers; with multicast, the one group.
    pub peers: Vec<SocketAddr>,
    /// The network interface that the link is bound to; `None` for any. Multicast needs one.
    pub interface: Option<String>,
}

/// A link that cannot be opened. The message is one line for the operator.
#[derive(Debug, Error)]
pub enum LinkError {
    /// A system call failed.
    #[error("link {number} ({local}): cannot {operation}: {}{}", os_error_text(.source), bind_hint(.source))]
    System {
        /// The link's number, from 1.
        number: usize,
        /// The link's own address.
        local: SocketAddr,
        /// The operation that failed, as a verb phrase.
        operation: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The settings contradict each other.
    #[error("link {number} ({local}): {problem}")]
    Settings {
        /// The link's number, from 1.
        number: usize,
        /// The link's own address.
        local: SocketAddr,
        /// The problem, and what to do about it.
        problem: String,
    },
}

/// What to do about an address or interface that cannot be used; empty for other errors.
fn bind_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "; another program has this port: `ss -nlp` lists it, or choose another port",
        Some(libc::EADDRNOTAVAIL) => "; no interface has this address: correct [[link]] local, or add the address",
        Some(libc::ENODEV) => "; there is no such interface: correct [[link]] interface",
        _ => "",
    }
}

/// The origin of a received datagram: the link, and the sender's number on that link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The link's index, from 0.
    pub link: u8,
    /// The index of the sender's address in the link's table.
    pub address: u16,
}

/// Counts of the datagrams of one link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes of the datagrams sent.
    pub sent_bytes: u64,
    /// Datagrams that could not be sent.
    pub send_errors: u64,
    /// Datagrams received.
    pub received: u64,
    /// Bytes of the datagrams received.
    pub received_bytes: u64,
    /// Failed receive calls, and received datagrams that were too long.
    pub receive_errors: u64,
}

/// The status of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// The link's settings.
    pub settings: LinkSettings,
    /// Whether the link is active: whether it carries the deltas.
    pub active: bool,
    /// Whether a genuine datagram arrived over the link within the last [`LINK_SILENCE_MAX`].
    pub healthy: bool,
    /// The link's counts.
    pub traffic: Traffic,
    /// For TCP: the number of connections that this node opened and that are established, and of accepted connections.
    pub connections: Option<(usize, usize)>,
}

/// The sockets of a link.
#[derive(Debug)]
enum Carrier {
    Datagrams(Datagrams),
    Streams(Streams),
}

/// One open link.
#[derive(Debug)]
struct Link {
    settings: LinkSettings,
    carrier: Carrier,
    addresses: Addresses,
    traffic: Traffic,
    /// When the last genuine datagram arrived, and when the first one did since the last silence.
    genuine: Option<(Instant, Instant)>,
    /// When the last control message was sent over this link.
    keepalive_sent: Instant,
}

impl Link {
    /// Whether a genuine datagram arrived within the last [`LINK_SILENCE_MAX`].
    fn is_healthy(&self, now: Instant) -> bool {
        self.genuine.is_some_and(|(last, _)| now.duration_since(last) < LINK_SILENCE_MAX)
    }

    /// Whether the link has been healthy for [`LINK_RECOVERY_MIN`].
    fn has_recovered(&self, now: Instant) -> bool {
        self.is_healthy(now) && self.genuine.is_some_and(|(_, since)| now.duration_since(since) >= LINK_RECOVERY_MIN)
    }
}

/// All links of a node.
#[derive(Debug)]
pub struct Links {
    links: Vec<Link>,
    active: usize,
    first_token: usize,
}

impl Links {
    /// Opens all links in the calling thread's network namespace, and registers them for reading. Each link uses
    /// [`LINK_TOKENS`] tokens, from `first_token` on.
    ///
    /// # Errors
    /// The [`LinkError`] of the first link that cannot be opened.
    pub fn open(settings: &[LinkSettings], registry: &Registry, first_token: usize) -> Result<Self, LinkError> {
        let mut links = Vec::new();
        for (number, one) in (1..).zip(settings) {
            let token = (number - 1) * LINK_TOKENS + first_token;
            links.push(open_link(number, one, registry, token)?);
        }
        Ok(Self { links, active: 0, first_token })
    }

    /// The longest datagram in bytes that every link can carry without fragmentation.
    #[must_use]
    pub fn datagram_bytes(&self) -> usize {
        self.links.iter().map(|link| link.carrier.datagram_bytes()).min().unwrap_or(crate::limits::LINK_DATAGRAM_MIN)
    }

    /// Queues a datagram for all peers: over the active link, and for a control message also over every other link
    /// whose keepalive is due.
    pub fn send_to_all(&mut self, class: DatagramClass, datagram: &[u8], now: Instant) {
        let (active, control) = (self.active, class == DatagramClass::Control);
        for (index, link) in self.links.iter_mut().enumerate() {
            let is_keepalive = control && now.duration_since(link.keepalive_sent) >= LINK_KEEPALIVE_INTERVAL;
            if index == active || is_keepalive {
                link.keepalive_sent = if control { now } else { link.keepalive_sent };
                link.carrier.send_to_all(datagram, &mut link.addresses, &mut link.traffic);
            }
        }
    }

    /// Queues a datagram for the sender at `origin`, over the link of `origin`.
    pub fn send_to(&mut self, origin: Origin, datagram: &[u8]) {
        if let Some(link) = self.links.get_mut(usize::from(origin.link)) {
            link.carrier.send_to(origin.address, datagram, &mut link.addresses, &mut link.traffic);
        }
    }

    /// Sends the queued datagrams, as far as the sockets accept them.
    pub fn flush(&mut self) {
        for link in &mut self.links {
            link.carrier.flush(&mut link.addresses, &mut link.traffic);
        }
    }

    /// Whether `token` belongs to a link.
    #[must_use]
    pub fn is_token(&self, token: Token) -> bool {
        (self.first_token..self.first_token + self.links.len() * LINK_TOKENS).contains(&token.0)
    }

    /// Reads the next datagram of the link of `token` into `buffer`; returns its origin and its length in bytes, or
    /// `None` where none has arrived. The caller must call [`Links::note_genuine`] if the datagram is genuine.
    pub fn receive(
        &mut self,
        token: Token,
        registry: &Registry,
        now: Instant,
        buffer: &mut [u8],
    ) -> Option<(Origin, usize)> {
        let offset = token.0.saturating_sub(self.first_token);
        let (index, part) = (offset / LINK_TOKENS, offset % LINK_TOKENS);
        let link = self.links.get_mut(index)?;
        let received = match &mut link.carrier {
            Carrier::Datagrams(datagrams) => datagrams.receive(&mut link.addresses, buffer),
            Carrier::Streams(streams) => streams.receive(part, registry, now, &mut link.addresses, buffer),
        };
        match received {
            Ok(Some((address, bytes))) => {
                link.traffic.received += 1;
                link.traffic.received_bytes += bytes as u64;
                Some((Origin { link: u8::try_from(index).unwrap_or(u8::MAX), address }, bytes))
            }
            Ok(None) => None,
            Err(_) => {
                link.traffic.receive_errors += 1; // a link that stays broken becomes unhealthy
                None
            }
        }
    }

    /// Notes that the datagram from `origin` was genuine.
    pub fn note_genuine(&mut self, origin: Origin, now: Instant) {
        let Some(link) = self.links.get_mut(usize::from(origin.link)) else { return };
        let since = link.genuine.filter(|(last, _)| now.duration_since(*last) < LINK_SILENCE_MAX);
        link.genuine = Some((now, since.map_or(now, |(_, since)| since)));
        if let (Carrier::Streams(streams), Some(address)) = (&mut link.carrier, link.addresses.get(origin.address)) {
            streams.note_genuine(address, now);
        }
    }

    /// Chooses the active link, and reopens broken connections; returns the settings of a link that has become active.
    pub fn tick(&mut self, registry: &Registry, now: Instant) -> Option<&LinkSettings> {
        for link in &mut self.links {
            if let Carrier::Streams(streams) = &mut link.carrier {
                streams.tick(registry, now);
            }
        }
        let healthy = |index: usize| self.links.get(index).is_some_and(|link| link.is_healthy(now));
        let recovered = |index: &usize| self.links.get(*index).is_some_and(|link| link.has_recovered(now));
        // An earlier link must have been healthy for LINK_RECOVERY_MIN, so that a link that fails again and again is
        // not chosen each time it recovers.
        let earlier = (0..self.active).find(recovered);
        let other = || (0..self.links.len()).find(|index| healthy(*index));
        let best = earlier.or_else(|| if healthy(self.active) { None } else { other() });
        let changed = best.filter(|best| *best != self.active)?;
        self.active = changed;
        self.links.get(changed).map(|link| &link.settings)
    }

    /// The status of each link.
    #[must_use]
    pub fn report(&self, now: Instant) -> Vec<LinkReport> {
        let report = |(index, link): (usize, &Link)| LinkReport {
            settings: link.settings.clone(),
            active: index == self.active,
            healthy: link.is_healthy(now),
            traffic: link.traffic,
            connections: match &link.carrier {
                Carrier::Datagrams(_) => None,
                Carrier::Streams(streams) => Some(streams.connections()),
            },
        };
        self.links.iter().enumerate().map(report).collect()
    }

    /// The sender's address of an origin, for the log.
    #[must_use]
    pub fn address(&self, origin: Origin) -> Option<SocketAddr> {
        self.links.get(usize::from(origin.link))?.addresses.get(origin.address)
    }
}

impl Carrier {
    /// The longest datagram in bytes that the link carries without fragmentation.
    fn datagram_bytes(&self) -> usize {
        match self {
            Self::Datagrams(datagrams) => datagrams.datagram_bytes(),
            Self::Streams(_) => stream::DATAGRAM_BYTES,
        }
    }

    /// Queues a datagram for all peers of the link.
    fn send_to_all(&mut self, datagram: &[u8], addresses: &mut Addresses, traffic: &mut Traffic) {
        match self {
            Self::Datagrams(datagrams) => datagrams.send_to_all(datagram, addresses, traffic),
            Self::Streams(streams) => streams.send_to_all(datagram, traffic),
        }
    }

    /// Queues a datagram for the sender with the number `address`.
    fn send_to(&mut self, address: u16, datagram: &[u8], addresses: &mut Addresses, traffic: &mut Traffic) {
        match self {
            Self::Datagrams(datagrams) => datagrams.send_to(address, datagram, addresses, traffic),
            // An accepted connection does not show which opened connection leads back to its peer. So all peers receive
            // the datagram, which names its addressee.
            Self::Streams(streams) => streams.send_to_all(datagram, traffic),
        }
    }

    /// Sends the queued datagrams.
    fn flush(&mut self, addresses: &mut Addresses, traffic: &mut Traffic) {
        match self {
            Self::Datagrams(datagrams) => datagrams.flush(addresses, traffic),
            Self::Streams(streams) => streams.flush(traffic),
        }
    }
}

/// Checks the settings of a link and opens it.
fn open_link(number: usize, settings: &LinkSettings, registry: &Registry, token: usize) -> Result<Link, LinkError> {
    let addresses = Addresses::with_peers(&settings.peers);
    let local = settings.local;
    let wrong = |problem: &str| LinkError::Settings { number, local, problem: problem.to_owned() };
    if settings.peers.is_empty() {
        return Err(wrong("it has no peers: set `peers`"));
    }
    if settings.peers.iter().any(|peer| peer.is_ipv4() != local.is_ipv4()) {
        return Err(wrong("it mixes IPv4 and IPv6 addresses: use one family"));
    }
    let system = |(operation, source)| LinkError::System { number, local, operation, source };
    let carrier = match settings.transport {
        Transport::Tcp => Carrier::Streams(Streams::open(settings, registry, token).map_err(system)?),
        Transport::Udp => Carrier::Datagrams(Datagrams::open(settings, registry, token).map_err(system)?),
        Transport::Multicast => {
            let [group] = settings.peers[..] else { return Err(wrong("multicast needs exactly one group in `peers`")) };
            if !group.ip().is_multicast() {
                return Err(wrong("its group is not a multicast address: use 224.0.0.0/4 or ff00::/8"));
            }
            if settings.interface.is_none() {
                return Err(wrong("multicast needs its `interface`"));
            }
            Carrier::Datagrams(Datagrams::open(settings, registry, token).map_err(system)?)
        }
    };
    let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap_or_else(Instant::now);
    let (traffic, settings) = (Traffic::default(), settings.clone());
    Ok(Link { settings, carrier, addresses, traffic, genuine: None, keepalive_sent: long_ago })
}
