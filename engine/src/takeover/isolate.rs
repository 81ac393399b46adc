//! Isolation: an nftables table blocks traffic from a backup. The table exists only while the node is isolated.
//!
//! | chain | accepted packets |
//! |---|---|
//! | input | packets from the loopback interface, from a spared interface, or of a replication link; VRRP; group membership and neighbour discovery; the services that the operator configures; replies to this node's own flows, and ICMP errors about them |
//! | forward | none |
//! | output | all packets except the kernel's own ICMP errors about flows: the blocked input leaves no other reply to send |
//!
//! An accepted packet still passes the operator's own rules: the table opens nothing that they close. The daemon's
//! socket owns the table: no other process can flush it, and the kernel removes it when the daemon ends in any way. The
//! daemon removes it when the node becomes primary. Kernels before 5.12 have no owned tables; there a starting daemon
//! removes the table that a dead one left.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ctflow_parser::uapi::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use crate::netlink::NetlinkError;
use crate::netlink::nft::{Chain, Hook, Loader, Rule, Ruleset, State as Tracked};
use crate::replication::link::{LinkSettings, Transport};

/// The table's name; its family is `inet`.
pub(super) const TABLE: &str = "ctflow-isolate";

/// The loopback interface.
const LOOPBACK: &str = "lo";
/// IGMP (RFC 3376).
const IPPROTO_IGMP: u8 = 2;
/// The IPsec authentication header, which VRRP version 2 may use.
const IPPROTO_AH: u8 = 51;
/// VRRP (RFC 5798).
const IPPROTO_VRRP: u8 = 112;
/// The first and last ICMPv6 type of group membership, router and neighbour discovery (RFC 2710, RFC 4861).
const ICMPV6_CONTROL: (u8, u8) = (130, 137);

/// The packets that an isolated node accepts in addition to those that it always needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Isolation {
    /// Services of this node, or whole protocols; at most [`ISOLATION_ENTRIES`](crate::limits::ISOLATION_ENTRIES).
    pub accept: Vec<Service>,
    /// Interfaces whose packets are accepted; at most [`ISOLATION_ENTRIES`](crate::limits::ISOLATION_ENTRIES).
    pub spared_links: Vec<String>,
}

/// A service: a protocol and, where the protocol has ports, a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The layer-4 protocol's number.
    pub protocol: u8,
    /// The destination port; `None` for every packet of the protocol.
    pub port: Option<u16>,
}

/// Loads and removes the table.
#[derive(Debug)]
pub(crate) struct Isolator {
    loader: Loader,
    /// The table's rules; `None` where isolation is not configured. Then only the table of a dead daemon is removed.
    ruleset: Option<Ruleset>,
    state: Mutex<State>,
}

/// Whether the table is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The table is not loaded.
    Open,
    /// The table is loaded.
    Isolated,
    /// The daemon ends, and a change of role during its end does not load the table.
    Ended,
}

impl Isolator {
    /// Opens an nftables socket in the calling thread's network namespace, and removes the table that a dead daemon
    /// left.
    ///
    /// # Errors
    /// The socket cannot be opened; or isolation is configured, and nf_tables or CAP_NET_ADMIN is missing.
    pub(crate) fn open(isolation: Option<&Isolation>, links: &[LinkSettings]) -> Result<Self, NetlinkError> {
        let loader = Loader::open()?;
        let ruleset = isolation.map(|isolation| ruleset(isolation, links));
        let removed = loader.remove(TABLE);
        if ruleset.is_some() {
            removed?; // without isolation the removal may fail: a kernel without nf_tables has no table
        }
        Ok(Self { loader, ruleset, state: Mutex::new(State::Open) })
    }

    /// Isolates the node, if isolation is configured.
    pub(crate) fn isolate(&self) -> Result<(), NetlinkError> {
        let mut state = self.state();
        if let Some(ruleset) = &self.ruleset
            && *state == State::Open
        {
            self.loader.load_owned(ruleset)?;
            *state = State::Isolated;
            tracing::info!(table = TABLE, "isolated: this table blocks traffic");
        }
        Ok(())
    }

    /// Ends the isolation.
    pub(crate) fn admit(&self) -> Result<(), NetlinkError> {
        let mut state = self.state();
        if *state == State::Isolated {
            self.loader.remove(TABLE)?;
            *state = State::Open;
            tracing::info!(table = TABLE, "isolation ended: traffic is accepted");
        }
        Ok(())
    }

    /// Ends the isolation for good, because the daemon ends.
    pub(crate) fn shut_down(&self) {
        if let Err(error) = self.admit() {
            tracing::error!(%error, "cannot end the isolation: if traffic is blocked, nft delete table inet {TABLE}");
        }
        *self.state() = State::Ended;
    }

    /// Whether the node is isolated now.
    pub(crate) fn is_isolated(&self) -> bool {
        *self.state() == State::Isolated
    }

    /// Locks the state, also after a panic of another thread.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Isolator {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// The rules of the table.
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

/// The rules that accept the packets of a replication link. Packets to the link's port are accepted from any address:
/// only the seal of a datagram proves its sender.
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
    use crate::limits::{ISOLATION_ENTRIES, LINK_PEERS};
    use ctflow_lab::Lab;

    #[test]
    fn the_largest_configurable_ruleset_loads() {
        ctflow_lab::isolated!({
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
