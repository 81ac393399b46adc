//! Traffic is kept away from a node that waits: rules of a table of its own, which is there only then.
//!
//! | chain | what passes |
//! |---|---|
//! | input | what comes over the loopback link, over a spared link or by a replication link; VRRP; group membership and neighbour discovery; the services that the operator names; answers to what this node itself asked, and ICMP's word on its own flows |
//! | forward | nothing |
//! | output | everything but the kernel's own word on packets of flows: with nothing let in, nothing else is an answer |
//!
//! A packet that passes still meets the operator's rules: nothing is opened that they close. The table is the daemon's own: it
//! is removed when the node becomes primary, nobody else can flush it, and it goes with the daemon, however that ends. Where
//! the kernel has no such tables (before 5.12), what a daemon that died has left behind goes with the next one's start.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ctflow_parser::uapi::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use crate::link::{LinkSettings, Transport};
use crate::netlink::NetlinkError;
use crate::nft::{Chain, Hook, Loader, Rule, Ruleset, State as Tracked};

/// The table's name; its family is `inet`.
pub(super) const TABLE: &str = "ctflow-isolate";

const LOOPBACK: &str = "lo";
const IPPROTO_IGMP: u8 = 2;
/// VRRP's authentication header, where it is used.
const IPPROTO_AH: u8 = 51;
const IPPROTO_VRRP: u8 = 112;
/// Membership of groups, routers, neighbours (RFC 2710, RFC 4861).
const ICMPV6_CONTROL: (u8, u8) = (130, 137);

/// What reaches a node that waits, beside what it cannot do without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Isolation {
    /// Services of this node, or protocols; [`ISOLATION_ENTRIES`](crate::limits::ISOLATION_ENTRIES) at most.
    pub accept: Vec<Service>,
    /// Links on which nothing is kept away; as many at most.
    pub spared_links: Vec<String>,
}

/// A service: a protocol, and its port where it has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The layer-4 protocol.
    pub protocol: u8,
    /// The destination's port.
    pub port: Option<u16>,
}

/// Puts the table there, and takes it away.
#[derive(Debug)]
pub(crate) struct Isolator {
    loader: Loader,
    /// None where nothing is kept away: then only what another daemon left is removed.
    ruleset: Option<Ruleset>,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Isolated,
    /// The daemon ends: whoever changes its role meanwhile isolates nothing any more.
    Ended,
}

impl Isolator {
    /// Opens the calling thread's network namespace, and removes what a daemon has left there.
    ///
    /// # Errors
    /// Without nf_tables or rights, where traffic is to be kept away.
    pub(crate) fn open(isolation: Option<&Isolation>, links: &[LinkSettings]) -> Result<Self, NetlinkError> {
        let loader = Loader::open()?;
        let ruleset = isolation.map(|isolation| ruleset(isolation, links));
        let removed = loader.remove(TABLE);
        if ruleset.is_some() {
            removed?; // otherwise there is no nf_tables, and so no table
        }
        Ok(Self { loader, ruleset, state: Mutex::new(State::Open) })
    }

    /// Keeps traffic away, if that is wished.
    pub(crate) fn isolate(&self) -> Result<(), NetlinkError> {
        let mut state = self.state();
        if let Some(ruleset) = &self.ruleset
            && *state == State::Open
        {
            self.loader.load_owned(ruleset)?;
            *state = State::Isolated;
            tracing::info!(table = TABLE, "traffic is kept away");
        }
        Ok(())
    }

    /// Lets it come.
    pub(crate) fn admit(&self) -> Result<(), NetlinkError> {
        let mut state = self.state();
        if *state == State::Isolated {
            self.loader.remove(TABLE)?;
            *state = State::Open;
            tracing::info!(table = TABLE, "traffic may come");
        }
        Ok(())
    }

    /// Lets it come, whatever comes; the daemon ends.
    pub(crate) fn shut_down(&self) {
        if let Err(error) = self.admit() {
            tracing::error!(%error, "traffic may be kept away until nft delete table inet {TABLE}");
        }
        *self.state() = State::Ended;
    }

    /// Whether it is kept away.
    pub(crate) fn is_isolated(&self) -> bool {
        *self.state() == State::Isolated
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Isolator {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn ruleset(isolation: &Isolation, links: &[LinkSettings]) -> Ruleset {
    let plain = [
        Rule::new().input(LOOPBACK),
        Rule::new().protocol(IPPROTO_VRRP),
        Rule::new().protocol(IPPROTO_AH),
        Rule::new().protocol(IPPROTO_IGMP),
        Rule::new().icmpv6_type(ICMPV6_CONTROL.0, ICMPV6_CONTROL.1),
        Rule::new().state(&[Tracked::Established]).reply(),
        Rule::new().protocol(IPPROTO_ICMP).state(&[Tracked::Related]),
        Rule::new().protocol(IPPROTO_ICMPV6).state(&[Tracked::Related]),
    ];
    let spared = isolation.spared_links.iter().map(|link| Rule::new().input(link));
    let services = isolation.accept.iter().map(|service| match service.port {
        Some(port) => Rule::new().destination_port(service.protocol, port),
        None => Rule::new().protocol(service.protocol),
    });
    let accepted = plain.into_iter().chain(spared).chain(links.iter().flat_map(link_rules)).chain(services);
    let input = accepted.fold(Chain::filter("input", Hook::Input), |chain, rule| chain.rule(rule.accept()));
    let unreachable = |protocol| Rule::new().protocol(protocol).state(&[Tracked::Related]).drop();
    Ruleset::new(TABLE)
        .chain(input.rule(Rule::new().drop()))
        .chain(Chain::filter("forward", Hook::Forward).rule(Rule::new().drop()))
        .chain(Chain::filter("output", Hook::Output).rule(unreachable(IPPROTO_ICMP)).rule(unreachable(IPPROTO_ICMPV6)))
}

/// What comes by a link. Who sends to its port is for its seal to say.
fn link_rules(link: &LinkSettings) -> Vec<Rule> {
    let of = || link.interface.iter().fold(Rule::new(), |rule, name| rule.input(name));
    match link.transport {
        Transport::Udp => vec![of().destination_port(IPPROTO_UDP, link.local.port())],
        Transport::Multicast => {
            link.peers.iter().map(|group| of().destination_port(IPPROTO_UDP, group.port())).collect()
        }
        Transport::Tcp => {
            let accepted = of().destination_port(IPPROTO_TCP, link.local.port());
            let dialled = link.peers.iter().map(|peer| of().source(peer.ip()).source_port(IPPROTO_TCP, peer.port()));
            std::iter::once(accepted).chain(dialled).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::limits::{ISOLATION_ENTRIES, LINK_PEERS};

    #[test]
    fn the_largest_configurable_ruleset_loads() {
        crate::isolated!({
            let _lab = Lab::enter().unwrap();
            let entries = u16::try_from(ISOLATION_ENTRIES).unwrap();
            let isolation = Isolation {
                accept: (1..=entries).map(|port| Service { protocol: IPPROTO_TCP, port: Some(port) }).collect(),
                spared_links: (1..=entries).map(|number| format!("link{number}")).collect(),
            };
            let peer = |port| std::net::SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2], port));
            let peers = (1..=u16::try_from(LINK_PEERS).unwrap()).map(peer).collect();
            let link = LinkSettings {
                transport: Transport::Tcp,
                local: ([192, 0, 2, 1], 3780).into(),
                peers,
                interface: Some("sync".into()),
            };
            let isolator = Isolator::open(Some(&isolation), &[link.clone(), link.clone(), link.clone(), link]).unwrap();
            isolator.isolate().unwrap();
            assert!(isolator.is_isolated());
            isolator.admit().unwrap();
            assert!(!isolator.is_isolated());
        });
    }
}
