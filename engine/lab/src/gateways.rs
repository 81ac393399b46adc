//! Two firewalls side by side, one of which has the addresses: the network for failover.
//!
//! ```text
//!                        ┌─ lan0  one    wan0 ─┐
//!   client ── lan bridge ┤       sync0         ├ wan bridge ── server
//!   192.0.2.2            └─ lan0  other  wan0 ─┘              198.51.100.10
//!                              active: 192.0.2.1, 198.51.100.1, and their IPv6 ones
//! ```
//!
//! Addresses, ports and rules are those of [`topology::Firewall`](super::topology::Firewall). The firewalls have no
//! addresses of their own on either side, so both translate alike. They replicate over the cable between them, with the
//! addresses 203.0.113.1 and 203.0.113.2. Packets that cross that cable are not tracked.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};

use super::error::LabError;
use super::link::Links;
use super::topology::{
    CLIENT, CLIENT6, FIREWALL_INSIDE, FIREWALL_INSIDE6, FIREWALL_OUTSIDE, FIREWALL_OUTSIDE6, HOST_LINK, INSIDE_LINK,
    OUTSIDE_LINK, PREFIX, PREFIX6, SERVER, SERVER6, configure_host, enable_tracking, firewall_rules, reuse_ports,
    server_addresses,
};
use super::traffic::Echo;
use super::{Host, Lab};
use ctflow_engine::netlink::nft::{Chain, Hook, Rule, Ruleset};

/// The name of the link at both ends of the cable between the firewalls.
pub const SYNC_LINK: &str = "sync0";
/// The firewalls' addresses on [`SYNC_LINK`], in the order of [`GatewayId::index`].
pub const SYNC_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2))];

/// One of the two firewalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayId {
    /// The firewall that [`Gateways::build`] makes active.
    First,
    /// The firewall that starts without the addresses.
    Second,
}

impl GatewayId {
    /// The firewall's index: 0 or 1.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }

    /// The name of the firewall's host.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "one",
            Self::Second => "other",
        }
    }

    /// The firewall's hardware address on a side. It is locally administered.
    fn hardware_address(self, side: Side) -> [u8; 6] {
        let number = if self == Self::First { 1 } else { 2 };
        [0x02, 0, 0, 0, side as u8, number]
    }
}

/// A side of the firewalls.
#[derive(Debug, Clone, Copy)]
enum Side {
    Inside = 1,
    Outside = 2,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Inside, Self::Outside];

    fn link(self) -> &'static str {
        match self {
            Self::Inside => INSIDE_LINK,
            Self::Outside => OUTSIDE_LINK,
        }
    }

    /// The bridge's end of a firewall's cable.
    fn firewall_port(self, which: GatewayId) -> String {
        format!("{}-{}", which.name(), self.link())
    }

    /// The bridge's end of the client's or the server's cable.
    fn host_port(self) -> String {
        format!("host-{}", self.link())
    }

    /// The addresses that the active firewall has on this side, with their prefix lengths.
    fn addresses(self) -> [(IpAddr, u8); 2] {
        match self {
            Self::Inside => [(FIREWALL_INSIDE, PREFIX), (FIREWALL_INSIDE6, PREFIX6)],
            Self::Outside => [(FIREWALL_OUTSIDE, PREFIX), (FIREWALL_OUTSIDE6, PREFIX6)],
        }
    }
}

/// The network in this module's diagram.
#[derive(Debug)]
pub struct Gateways {
    /// The host on the inside.
    pub client: Host,
    /// The host on the outside.
    pub server: Host,
    firewalls: [Host; 2],
    /// The host of both bridges.
    switch: Host,
    /// The echo server on the server.
    pub echo: Echo,
}

impl Gateways {
    /// Builds the network with the server's ports open and the first firewall active.
    ///
    /// # Errors
    /// [`LabError`] naming the first step that failed.
    pub fn build(lab: &Lab) -> Result<Self, LabError> {
        let gateways = Self::build_inactive(lab)?;
        gateways.activate(GatewayId::First)?;
        Ok(gateways)
    }

    /// Builds the network with no firewall active, for tests of a program that chooses the active one and sets its
    /// addresses.
    ///
    /// # Errors
    /// [`LabError`] naming the first step that failed.
    pub fn build_inactive(lab: &Lab) -> Result<Self, LabError> {
        let (client, server, switch) =
            (lab.start_host("client")?, lab.start_host("server")?, lab.start_host("switch")?);
        let firewalls = [lab.start_host(GatewayId::First.name())?, lab.start_host(GatewayId::Second.name())?];
        for (side, host) in [(Side::Inside, &client), (Side::Outside, &server)] {
            let bridge = format!("br-{}", side.link());
            let name = bridge.clone();
            switch.run(move || {
                let links = Links::open()?;
                links.create_bridge(&name)?;
                links.up(&name)
            })?;
            connect_to_bridge(&switch, &bridge, side.host_port(), HOST_LINK, host)?;
            for which in [GatewayId::First, GatewayId::Second] {
                let firewall = &firewalls[which.index()];
                connect_to_bridge(&switch, &bridge, side.firewall_port(which), side.link(), firewall)?;
                firewall.run(move || Links::open()?.set_hardware_address(side.link(), which.hardware_address(side)))?;
            }
        }
        let far = clone_namespace(&firewalls[1])?;
        firewalls[0].run(move || Links::open()?.create_veth(SYNC_LINK, SYNC_LINK, far.as_fd()))?;
        for (firewall, address) in firewalls.iter().zip(SYNC_ADDRESSES) {
            firewall.run(move || {
                let links = Links::open()?;
                [INSIDE_LINK, OUTSIDE_LINK, SYNC_LINK].iter().try_for_each(|link| links.up(link))?;
                links.add_address(SYNC_LINK, address, PREFIX)?;
                untracked_sync_rules().apply()?;
                firewall_rules().apply()?;
                enable_tracking()
            })?;
        }
        client.run(|| {
            reuse_ports()?;
            configure_host(&[(CLIENT, PREFIX), (CLIENT6, PREFIX6)], &[FIREWALL_INSIDE, FIREWALL_INSIDE6])
        })?;
        server
            .run(|| configure_host(&[(SERVER, PREFIX), (SERVER6, PREFIX6)], &[FIREWALL_OUTSIDE, FIREWALL_OUTSIDE6]))?;
        firewalls[0].run(|| Links::open()?.await_carrier(SYNC_LINK))?;
        let ports = Side::BOTH.map(|side| {
            [side.host_port(), side.firewall_port(GatewayId::First), side.firewall_port(GatewayId::Second)]
        });
        switch.run(move || {
            let links = Links::open()?;
            ports.as_flattened().iter().try_for_each(|port| links.await_carrier(port))
        })?;
        let echo = Echo::start(&server, &server_addresses())?;
        Ok(Self { client, server, firewalls, switch, echo })
    }

    /// One of the firewalls.
    #[must_use]
    pub fn firewall(&self, which: GatewayId) -> &Host {
        &self.firewalls[which.index()]
    }

    /// Adds the addresses to a firewall, and sets its hardware addresses at the client and the server as VRRP does with
    /// its announcement. The other firewall must not have the addresses any more, or must be cut off.
    ///
    /// # Errors
    /// [`LabError::Netlink`] when the firewall has the addresses already.
    pub fn activate(&self, which: GatewayId) -> Result<(), LabError> {
        self.for_each_address(which, Links::add_address)?;
        for (side, host) in [(Side::Inside, &self.client), (Side::Outside, &self.server)] {
            host.run(move || {
                let links = Links::open()?;
                let mut addresses = side.addresses().into_iter();
                addresses
                    .try_for_each(|(address, _)| links.add_neighbour(HOST_LINK, address, which.hardware_address(side)))
            })?;
        }
        Ok(())
    }

    /// Removes the addresses from a firewall.
    ///
    /// # Errors
    /// [`LabError::Netlink`] when the firewall does not have them.
    pub fn deactivate(&self, which: GatewayId) -> Result<(), LabError> {
        self.for_each_address(which, Links::remove_address)
    }

    /// Pulls all cables of a firewall. It keeps its addresses and announces nothing.
    ///
    /// # Errors
    /// [`LabError::Netlink`] when a link does not exist.
    pub fn cut_off(&self, which: GatewayId) -> Result<(), LabError> {
        self.unplug(which)?;
        self.firewall(which).run(|| Links::open()?.down(SYNC_LINK))
    }

    /// Pulls the cables of a firewall to the client and the server.
    ///
    /// # Errors
    /// [`LabError::Netlink`] when a link does not exist.
    pub fn unplug(&self, which: GatewayId) -> Result<(), LabError> {
        self.for_each_port(which, Links::down)
    }

    /// Puts all cables of a firewall back.
    ///
    /// # Errors
    /// [`LabError::Netlink`] when a link does not exist.
    pub fn reconnect(&self, which: GatewayId) -> Result<(), LabError> {
        self.firewall(which).run(|| Links::open()?.up(SYNC_LINK))?;
        self.for_each_port(which, Links::up)
    }

    /// Calls `work` on a firewall for each of the addresses, with its link and its prefix length.
    fn for_each_address(
        &self,
        which: GatewayId,
        work: fn(&Links, &str, IpAddr, u8) -> Result<(), LabError>,
    ) -> Result<(), LabError> {
        self.firewall(which).run(move || {
            let links = Links::open()?;
            let mut all = Side::BOTH.into_iter().flat_map(|side| side.addresses().map(|address| (side, address)));
            all.try_for_each(|(side, (address, prefix))| work(&links, side.link(), address, prefix))
        })
    }

    /// Calls `work` on the switch for its end of each cable of a firewall.
    fn for_each_port(&self, which: GatewayId, work: fn(&Links, &str) -> Result<(), LabError>) -> Result<(), LabError> {
        let ports = Side::BOTH.map(|side| side.firewall_port(which));
        self.switch.run(move || {
            let links = Links::open()?;
            ports.iter().try_for_each(|port| work(&links, port))
        })
    }
}

/// The rules that exempt the packets of [`SYNC_LINK`] from tracking.
pub(super) fn untracked_sync_rules() -> Ruleset {
    Ruleset::new("ctflow-lab-sync")
        .chain(Chain::raw("in", Hook::Prerouting).rule(Rule::new().input(SYNC_LINK).notrack()))
        .chain(Chain::raw("out", Hook::Output).rule(Rule::new().output(SYNC_LINK).notrack()))
}

/// Connects `host` to a bridge of the switch by a cable. The cable's end on the host is named `link`, its end on the
/// switch `port`.
fn connect_to_bridge(
    switch: &Host,
    bridge: &str,
    port: String,
    link: &'static str,
    host: &Host,
) -> Result<(), LabError> {
    let (namespace, bridge) = (clone_namespace(host)?, bridge.to_owned());
    switch.run(move || {
        let links = Links::open()?;
        links.create_veth(&port, link, namespace.as_fd())?;
        links.join_bridge(&port, &bridge)?;
        links.up(&port)
    })
}

/// Duplicates the descriptor of a host's namespace, so that it can move to another thread.
pub(super) fn clone_namespace(host: &Host) -> Result<OwnedFd, LabError> {
    host.namespace().try_clone_to_owned().map_err(|error| LabError::system("keep a namespace", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysctl;
    use crate::topology::REDIRECTED;
    use crate::traffic::{Streams, Target, tcp_exchange, udp_exchange};

    #[test]
    fn packets_cross_the_firewall_that_has_the_addresses() {
        crate::isolated!({
            let gateways = Gateways::build(&Lab::enter().unwrap()).unwrap();
            let exchanges = || {
                tcp_exchange((SERVER, 443).into(), b"masqueraded")?;
                tcp_exchange(REDIRECTED, b"redirected")?;
                udp_exchange((SERVER6, 53).into(), b"as it is")
            };
            let tracked = |which: GatewayId| gateways.firewall(which).run(|| sysctl::flow_count().unwrap()) >= 3;
            gateways.client.run(exchanges).unwrap();
            assert!(tracked(GatewayId::First) && !tracked(GatewayId::Second));
            gateways.deactivate(GatewayId::First).unwrap();
            gateways.activate(GatewayId::Second).unwrap();
            gateways.client.run(exchanges).unwrap();
            assert!(tracked(GatewayId::Second));
            let targets = [Target::Tcp(REDIRECTED), Target::Udp((SERVER6, 53).into())];
            let streams = Streams::start(&gateways.client, &targets).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(300));
            for stream in streams.finish() {
                assert!(stream.died.is_none() && stream.echoes > 10, "{stream:?}");
            }
            gateways.cut_off(GatewayId::Second).unwrap();
            assert!(gateways.client.run(|| udp_exchange((SERVER, 53).into(), b"lost")).is_err());
        });
    }
}
