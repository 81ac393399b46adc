//! The links to other nodes: up to four, of which one carries the deltas.
//!
//! ```text
//!  send ──► active link ──► queue ──► sendmmsg | stream          receive ◄── every link
//!  control messages go over every other link too, twice a second: whether they arrive is how a link's health is known
//! ```
//!
//! A link is healthy while something genuine came over it in the last [`LINK_SILENCE_MAX`]. The first healthy one in the
//! order of the settings is active; an earlier one becomes active again when it has been healthy for
//! [`LINK_RECOVERY_MIN`]. Where none is, the last one stays. Each node chooses for itself: receiving goes on over all of them.
//!
//! Nothing here is reliable, or has to be: what a full queue or a full socket refuses is counted and dropped, and the
//! protocol asks for it again.

mod address;
mod datagram;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Registry, Token};
use thiserror::Error;

use self::address::Addresses;
use self::datagram::Datagrams;
use self::stream::Streams;
use crate::limits::{LINK_KEEPALIVE_INTERVAL, LINK_RECOVERY_MIN, LINK_SILENCE_MAX, LINK_TOKENS};

/// How a link carries datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP, a datagram to each peer.
    Udp,
    /// UDP, a datagram to all of a group.
    Multicast,
    /// TCP: each node dials, and sends over what it dialled.
    Tcp,
}

/// One link as the operator wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// How it carries datagrams.
    pub transport: Transport,
    /// What is bound. Of multicast, the port and, unless it is unspecified, the address of the interface.
    pub local: SocketAddr,
    /// Where the peers are; of multicast, the one group.
    pub peers: Vec<SocketAddr>,
    /// The network interface, and no other. Multicast needs it.
    pub interface: Option<String>,
}

/// A link that cannot be opened. One line for the operator.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The system refused.
    #[error("link {number} ({local}): cannot {operation}: {source}")]
    System {
        /// Which, from 1.
        number: usize,
        /// Its own address.
        local: SocketAddr,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The settings contradict each other.
    #[error("link {number} ({local}): {problem}")]
    Settings {
        /// Which, from 1.
        number: usize,
        /// Its own address.
        local: SocketAddr,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// Where a datagram came from: a link, and an address that the link knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The link, from 0.
    pub link: u8,
    /// The address, by its place in the link's table.
    pub address: u16,
}

/// What a link has carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Datagrams that could not be sent.
    pub send_errors: u64,
    /// Datagrams received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Times that receiving failed, and datagrams that were too long.
    pub receive_errors: u64,
}

/// A link for those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// As it was set.
    pub settings: LinkSettings,
    /// Whether it carries the deltas.
    pub active: bool,
    /// Whether something genuine came over it lately.
    pub healthy: bool,
    /// What it has carried.
    pub traffic: Traffic,
    /// For TCP: connections that were dialled and stand, and that were accepted.
    pub connections: Option<(usize, usize)>,
}

#[derive(Debug)]
enum Carrier {
    Datagrams(Datagrams),
    Streams(Streams),
}

#[derive(Debug)]
struct Link {
    settings: LinkSettings,
    carrier: Carrier,
    addresses: Addresses,
    traffic: Traffic,
    /// When something genuine came last, and since when without a silence.
    genuine: Option<(Instant, Instant)>,
    /// When a control message went over it last while another was active.
    probed_at: Instant,
}

impl Link {
    fn is_healthy(&self, now: Instant) -> bool {
        self.genuine.is_some_and(|(last, _)| now.duration_since(last) < LINK_SILENCE_MAX)
    }

    fn has_passed_trial(&self, now: Instant) -> bool {
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
    /// Opens every link in the calling thread's network namespace, and registers it for reading. Uses
    /// [`LINK_TOKENS`] tokens a link, from `first_token` on.
    ///
    /// # Errors
    /// [`LinkError`] of the first link that cannot be opened.
    pub fn open(settings: &[LinkSettings], registry: &Registry, first_token: usize) -> Result<Self, LinkError> {
        let mut links = Vec::new();
        for (number, one) in (1..).zip(settings) {
            let place = (number - 1) * LINK_TOKENS + first_token;
            links.push(open_link(number, one, registry, place)?);
        }
        Ok(Self { links, active: 0, first_token })
    }

    /// Bytes that a datagram may have so that no link has to cut it.
    #[must_use]
    pub fn datagram_bytes(&self) -> usize {
        self.links.iter().map(|link| link.carrier.datagram_bytes()).min().unwrap_or(crate::limits::LINK_DATAGRAM_MIN)
    }

    /// Queues a datagram for all peers.
    pub fn send_to_all(&mut self, datagram: &[u8], now: Instant) {
        let (active, control) = (self.active, is_control(datagram));
        for (index, link) in self.links.iter_mut().enumerate() {
            let witness = control && now.duration_since(link.probed_at) >= LINK_KEEPALIVE_INTERVAL;
            if index == active || witness {
                link.probed_at = if control { now } else { link.probed_at };
                link.carrier.send_to_all(datagram, &mut link.addresses, &mut link.traffic);
            }
        }
    }

    /// Queues a datagram for the peer that was heard at `origin`, over the link it was heard on.
    pub fn send_to(&mut self, origin: Origin, datagram: &[u8]) {
        if let Some(link) = self.links.get_mut(usize::from(origin.link)) {
            link.carrier.send_to(origin.address, datagram, &mut link.addresses, &mut link.traffic);
        }
    }

    /// Sends what is queued, as far as the sockets take it.
    pub fn flush(&mut self) {
        for link in &mut self.links {
            link.carrier.flush(&mut link.addresses, &mut link.traffic);
        }
    }

    /// Whether `token` is one of a link.
    #[must_use]
    pub fn is_token(&self, token: Token) -> bool {
        (self.first_token..self.first_token + self.links.len() * LINK_TOKENS).contains(&token.0)
    }

    /// Takes the next datagram that came to the link of `token` into `buffer`; gives where it is from and its length, or
    /// `None` when there is none for now. Tell [`Links::note_genuine`] if it was genuine.
    pub fn receive(
        &mut self,
        token: Token,
        registry: &Registry,
        now: Instant,
        buffer: &mut [u8],
    ) -> Option<(Origin, usize)> {
        let place = token.0.saturating_sub(self.first_token);
        let (index, part) = (place / LINK_TOKENS, place % LINK_TOKENS);
        let link = self.links.get_mut(index)?;
        let taken = match &mut link.carrier {
            Carrier::Datagrams(datagrams) => datagrams.receive(&mut link.addresses, buffer),
            Carrier::Streams(streams) => streams.receive(part, registry, now, &mut link.addresses, buffer),
        };
        match taken {
            Ok(Some((address, bytes))) => {
                link.traffic.received += 1;
                link.traffic.received_bytes += bytes as u64;
                Some((Origin { link: u8::try_from(index).unwrap_or(u8::MAX), address }, bytes))
            }
            Ok(None) => None,
            Err(_) => {
                link.traffic.receive_errors += 1; // a link that stays broken is not heard over
                None
            }
        }
    }

    /// What came from `origin` was genuine.
    pub fn note_genuine(&mut self, origin: Origin, now: Instant) {
        let Some(link) = self.links.get_mut(usize::from(origin.link)) else { return };
        let since = link.genuine.filter(|(last, _)| now.duration_since(*last) < LINK_SILENCE_MAX);
        link.genuine = Some((now, since.map_or(now, |(_, since)| since)));
        if let (Carrier::Streams(streams), Some(address)) = (&mut link.carrier, link.addresses.get(origin.address)) {
            streams.note_genuine(address, now);
        }
    }

    /// Chooses the active link anew, and has broken connections dialled again; gives the link that has become active.
    pub fn tick(&mut self, registry: &Registry, now: Instant) -> Option<&LinkSettings> {
        for link in &mut self.links {
            if let Carrier::Streams(streams) = &mut link.carrier {
                streams.tick(registry, now);
            }
        }
        let healthy = |index: usize| self.links.get(index).is_some_and(|link| link.is_healthy(now));
        let proven = |index: &usize| self.links.get(*index).is_some_and(|link| link.has_passed_trial(now));
        let earlier = (0..self.active).find(proven);
        let other = || (0..self.links.len()).find(|index| healthy(*index));
        let best = earlier.or_else(|| if healthy(self.active) { None } else { other() });
        let changed = best.filter(|best| *best != self.active)?;
        self.active = changed;
        self.links.get(changed).map(|link| &link.settings)
    }

    /// How each link is.
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

    /// The address behind an origin, for the log.
    #[must_use]
    pub fn address(&self, origin: Origin) -> Option<SocketAddr> {
        self.links.get(usize::from(origin.link))?.addresses.get(origin.address)
    }
}

impl Carrier {
    fn datagram_bytes(&self) -> usize {
        match self {
            Self::Datagrams(datagrams) => datagrams.datagram_bytes(),
            Self::Streams(_) => stream::DATAGRAM_BYTES,
        }
    }

    fn send_to_all(&mut self, datagram: &[u8], addresses: &mut Addresses, traffic: &mut Traffic) {
        match self {
            Self::Datagrams(datagrams) => datagrams.send_to_all(datagram, addresses, traffic),
            Self::Streams(streams) => streams.send_to_all(datagram, traffic),
        }
    }

    fn send_to(&mut self, address: u16, datagram: &[u8], addresses: &mut Addresses, traffic: &mut Traffic) {
        match self {
            Self::Datagrams(datagrams) => datagrams.send_to(address, datagram, addresses, traffic),
            // A connection that was accepted tells no dialled one: all hear it, and the addressee knows itself.
            Self::Streams(streams) => streams.send_to_all(datagram, traffic),
        }
    }

    fn flush(&mut self, addresses: &mut Addresses, traffic: &mut Traffic) {
        match self {
            Self::Datagrams(datagrams) => datagrams.flush(addresses, traffic),
            Self::Streams(streams) => streams.flush(traffic),
        }
    }
}

fn open_link(number: usize, settings: &LinkSettings, registry: &Registry, token: usize) -> Result<Link, LinkError> {
    let addresses = Addresses::with_peers(&settings.peers);
    let local = settings.local;
    let wrong = |problem: &str| LinkError::Settings { number, local, problem: problem.to_owned() };
    if settings.peers.is_empty() {
        return Err(wrong("it has no peers: set `peers`"));
    }
    if settings.peers.iter().any(|peer| peer.is_ipv4() != local.is_ipv4()) {
        return Err(wrong("its addresses are of both families: use one"));
    }
    let system = |(operation, source)| LinkError::System { number, local, operation, source };
    let carrier = match settings.transport {
        Transport::Tcp => Carrier::Streams(Streams::open(settings, registry, token).map_err(system)?),
        Transport::Udp => Carrier::Datagrams(Datagrams::open(settings, registry, token).map_err(system)?),
        Transport::Multicast => {
            let [group] = settings.peers[..] else { return Err(wrong("multicast has one group in `peers`")) };
            if !group.ip().is_multicast() {
                return Err(wrong("its group is no multicast address: use 224.0.0.0/4 or ff00::/8"));
            }
            if settings.interface.is_none() {
                return Err(wrong("multicast needs its `interface`"));
            }
            Carrier::Datagrams(Datagrams::open(settings, registry, token).map_err(system)?)
        }
    };
    let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap_or_else(Instant::now);
    let (traffic, settings) = (Traffic::default(), settings.clone());
    Ok(Link { settings, carrier, addresses, traffic, genuine: None, probed_at: long_ago })
}

/// Whether a datagram is a control message.
fn is_control(datagram: &[u8]) -> bool {
    datagram.get(3).is_some_and(|kind| kind & 0x7f == 2)
}
