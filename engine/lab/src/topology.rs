//! A client, a firewall and a server: three network namespaces in a row, with addresses from the documentation's
//! ranges.
//!
//! ```text
//!   client                          firewall (the calling thread)                       server
//!   192.0.2.2       eth0 ── lan0    192.0.2.1      198.51.100.1     wan0 ── eth0    198.51.100.10
//!   2001:db8:1::2                   2001:db8:1::1  2001:db8:2::1                    2001:db8:2::10
//!                                   198.18.0.0/15 via 198.51.100.254 ──► a hardware address that no link has
//! ```
//!
//! The firewall tracks and forwards. It masquerades the client behind its own address towards the server's network, and
//! redirects TCP to 192.0.2.1:9000 to the server's port 443. IPv6 is not translated.
//!
//! A flood goes to 198.18.0.0/15. Its packets leave by `wan0`, so that the kernel confirms their flows like any others.
//! The link at the far end of the cable drops them, since they carry another hardware address. No host answers, so each
//! packet is one flow and costs only its path through the firewall. These flows are not translated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use ctflow_parser::uapi::IPPROTO_TCP;

use super::error::LabError;
use super::link::Links;
use super::traffic::Echo;
use super::{Host, Lab, sysctl};
use ctflow_engine::netlink::nft::{Chain, Hook, Rule, Ruleset, State};

/// The client's address.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// The client's IPv6 address.
pub const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2));
/// The firewall's address on the client's side.
pub const FIREWALL_INSIDE: IpAddr = IpAddr::V4(INSIDE_V4);
/// The firewall's IPv6 address on the client's side.
pub const FIREWALL_INSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
/// The firewall's address on the server's side. Masquerading replaces the client's address by it.
pub const FIREWALL_OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// The firewall's IPv6 address on the server's side.
pub const FIREWALL_OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1));
/// The server's address.
pub const SERVER: IpAddr = IpAddr::V4(SERVER_V4);
/// The server's IPv6 address.
pub const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10));
/// The firewall's address and port that it redirects to the server's port 443.
pub const REDIRECTED: SocketAddr = SocketAddr::new(FIREWALL_INSIDE, 9000);
/// The firewall's link to the client.
pub const INSIDE_LINK: &str = "lan0";
/// The firewall's link to the server.
pub const OUTSIDE_LINK: &str = "wan0";
/// Ports on which the server echoes, by TCP and UDP, IPv4 and IPv6.
pub const SERVER_PORTS: [u16; 3] = [53, 80, 443];

const INSIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
pub(super) const HOST_LINK: &str = "eth0";
pub(super) const PREFIX: u8 = 24;
pub(super) const PREFIX6: u8 = 64;
/// The network of a flood's destinations, reserved for benchmarks (RFC 2544).
pub(super) const FLOOD_NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const FLOOD_PREFIX: u8 = 15;
/// TCP's least retransmission timeout, in microseconds: above the 40 ms by which an acknowledgement may be delayed.
const RETRANSMIT_US: &str = "60000";
/// A gateway address on the server's side that no host has.
const UNUSED_OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
/// A gateway address on the client's side that no host has, for routes to destinations that must not answer.
pub(super) const UNUSED_INSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// A locally administered hardware address that no link has.
pub(super) const UNUSED_HARDWARE: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];

/// The network in this module's diagram. The calling thread's namespace is the firewall.
#[derive(Debug)]
pub struct Firewall {
    /// The host on the inside.
    pub client: Host,
    /// The host on the outside.
    pub server: Host,
    /// The echo server on the server.
    pub echo: Echo,
}

impl Firewall {
    /// Builds the network around the calling thread's namespace, with the server's ports open and tracking enabled,
    /// including the counters and timestamps of flows.
    ///
    /// # Errors
    /// [`LabError`] naming the first step that failed.
    pub fn build(lab: &Lab) -> Result<Self, LabError> {
        let (client, server) = (lab.start_host("client")?, lab.start_host("server")?);
        connect_host(INSIDE_LINK, &[(FIREWALL_INSIDE, PREFIX), (FIREWALL_INSIDE6, PREFIX6)], &client)?;
        connect_host(OUTSIDE_LINK, &[(FIREWALL_OUTSIDE, PREFIX), (FIREWALL_OUTSIDE6, PREFIX6)], &server)?;
        client.run(|| {
            reuse_ports()?;
            configure_host(&[(CLIENT, PREFIX), (CLIENT6, PREFIX6)], &[FIREWALL_INSIDE, FIREWALL_INSIDE6])
        })?;
        server
            .run(|| configure_host(&[(SERVER, PREFIX), (SERVER6, PREFIX6)], &[FIREWALL_OUTSIDE, FIREWALL_OUTSIDE6]))?;
        let links = Links::open()?;
        [INSIDE_LINK, OUTSIDE_LINK].iter().try_for_each(|link| links.await_carrier(link))?;
        route_floods()?;
        firewall_rules().apply()?; // first: a tracking module's settings appear with its first rule
        enable_tracking()?;
        let echo = Echo::start(&server, &server_addresses())?;
        Ok(Self { client, server, echo })
    }
}

/// The port of FTP's control connections.
pub const FTP_PORT: u16 = 21;

/// Assigns the FTP helper to control connections in the calling thread's namespace, so that the kernel expects their
/// data connections.
///
/// # Errors
/// [`LabError::Netlink`] where the kernel has no such helper.
pub fn enable_ftp_helper() -> Result<(), LabError> {
    let rule = Rule::new().destination_port(IPPROTO_TCP, FTP_PORT).set_helper("ftp");
    let ruleset = Ruleset::new("ctflow-lab-ftp").helper("ftp", IPPROTO_TCP);
    Ok(ruleset.chain(Chain::filter("prerouting", Hook::Prerouting).rule(rule)).apply()?)
}

/// All addresses and ports of the echo server.
#[must_use]
pub fn server_addresses() -> Vec<SocketAddr> {
    let on = |address| SERVER_PORTS.map(|port| SocketAddr::new(address, port));
    [on(SERVER), on(SERVER6)].concat()
}

/// Shortens the timeouts of closed and idle flows in the calling thread's namespace to 1 to 3 seconds, so that a
/// demonstration shows them expire.
///
/// # Errors
/// [`LabError::System`] when a setting cannot be written.
pub fn shorten_timeouts() -> Result<(), LabError> {
    let timeouts =
        [("tcp_timeout_time_wait", "2"), ("tcp_timeout_close", "1"), ("udp_timeout", "2"), ("udp_timeout_stream", "3")];
    timeouts
        .iter()
        .try_for_each(|(name, seconds)| sysctl::write(&format!("net/netfilter/nf_conntrack_{name}"), seconds))
}

/// Connects the firewall (the calling thread) to `host` by a cable, and adds `addresses` to the firewall's end. The
/// host's end gets none.
fn connect_host(link: &str, addresses: &[(IpAddr, u8)], host: &Host) -> Result<(), LabError> {
    let links = Links::open()?;
    links.create_veth(link, HOST_LINK, host.namespace())?;
    links.up(link)?;
    addresses.iter().try_for_each(|(address, prefix)| links.add_address(link, *address, *prefix))
}

/// Configures a host, on its own thread: its end of the cable, its addresses, and default routes via `gateways`.
pub(super) fn configure_host(addresses: &[(IpAddr, u8)], gateways: &[IpAddr]) -> Result<(), LabError> {
    let links = Links::open()?;
    links.up(HOST_LINK)?;
    set_steady_retransmits()?;
    addresses.iter().try_for_each(|(address, prefix)| links.add_address(HOST_LINK, *address, *prefix))?;
    gateways.iter().try_for_each(|gateway| match gateway {
        IpAddr::V4(_) => links.add_route(Ipv4Addr::UNSPECIFIED.into(), 0, *gateway),
        IpAddr::V6(_) => links.add_route(Ipv6Addr::UNSPECIFIED.into(), 0, *gateway),
    })
}

/// Configures a host's TCP, on its own thread, to retransmit thin streams at a constant interval without back-off. From
/// Linux 6.11 on the interval is also short, since round trips in a lab take at most a few milliseconds. Thus a stream
/// resumes soon after its path is restored.
fn set_steady_retransmits() -> Result<(), LabError> {
    sysctl::write("net/ipv4/tcp_congestion_control", "reno")?; // every kernel has reno; with BBR no stream is thin
    sysctl::write("net/ipv4/tcp_thin_linear_timeouts", "1")?;
    let rto_min = "net/ipv4/tcp_rto_min_us"; // from Linux 6.11 on
    if sysctl::read(rto_min).is_ok() {
        sysctl::write(rto_min, RETRANSMIT_US)?;
    }
    Ok(())
}

/// Widens the client's port range and lets it reuse ports of closed connections, on the client's thread. Thousands of
/// connections a second would otherwise exhaust the ports, since each stays in TIME_WAIT for a minute.
pub(super) fn reuse_ports() -> Result<(), LabError> {
    sysctl::write("net/ipv4/ip_local_port_range", "1024 65535")?;
    sysctl::write("net/ipv4/tcp_tw_reuse", "1")
}

/// Routes floods on the firewall to a hardware address that no link has.
fn route_floods() -> Result<(), LabError> {
    let links = Links::open()?;
    links.add_neighbour(OUTSIDE_LINK, UNUSED_OUTSIDE.into(), UNUSED_HARDWARE)?;
    links.add_route(FLOOD_NETWORK.into(), FLOOD_PREFIX, UNUSED_OUTSIDE.into())
}

/// Enables forwarding on a firewall, and the counters and timestamps of its flows.
pub(super) fn enable_tracking() -> Result<(), LabError> {
    sysctl::write("net/ipv4/ip_forward", "1")?;
    sysctl::write("net/ipv6/conf/all/forwarding", "1")?;
    sysctl::write("net/netfilter/nf_conntrack_acct", "1")?;
    sysctl::write("net/netfilter/nf_conntrack_timestamp", "1")
}

/// The firewall's rules. The kernel tracks flows in a namespace only while a rule there refers to a flow's state.
pub(super) fn firewall_rules() -> Ruleset {
    let known = Rule::new().state(&[State::New, State::Established, State::Related]).accept();
    let https = SocketAddrV4::new(SERVER_V4, 443);
    let port = REDIRECTED.port();
    Ruleset::new("ctflow-lab")
        .chain(Chain::filter("input", Hook::Input).rule(known.clone()))
        .chain(Chain::filter("output", Hook::Output).rule(known.clone()))
        .chain(Chain::filter("forward", Hook::Forward).rule(known))
        .chain(
            Chain::nat("prerouting", Hook::Prerouting)
                .rule(Rule::new().destination(INSIDE_V4, 32).destination_port(IPPROTO_TCP, port).dnat(https)),
        )
        .chain(
            Chain::nat("postrouting", Hook::Postrouting)
                .rule(Rule::new().output(OUTSIDE_LINK).destination(SERVER_V4, PREFIX).masquerade()),
        )
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::traffic::{Flood, TCP_PAYLOAD_BYTES, Traffic, tcp_exchange, udp_exchange};

    fn firewall() -> Firewall {
        Firewall::build(&Lab::enter().unwrap()).unwrap()
    }

    #[test]
    fn packets_cross_the_firewall_by_every_path_and_are_tracked() {
        crate::isolated!({
            let firewall = firewall();
            let exchanges = || {
                tcp_exchange((SERVER, 443).into(), b"masqueraded")?;
                tcp_exchange(REDIRECTED, &[7; TCP_PAYLOAD_BYTES])?;
                tcp_exchange((SERVER6, 443).into(), b"as it is")?;
                udp_exchange((SERVER, 53).into(), b"masqueraded")?;
                udp_exchange((SERVER6, 53).into(), b"as it is")
            };
            assert_eq!(sysctl::flow_count().unwrap(), 0);
            firewall.client.run(exchanges).unwrap();
            let flows = sysctl::flow_count().unwrap();
            assert!((5..=9).contains(&flows), "{flows} flows: five exchanges, and perhaps neighbour discovery");
            assert_eq!(firewall.client.run(sysctl::flow_count).unwrap(), 0, "the client tracks nothing");
        });
    }

    #[test]
    fn the_server_sees_the_firewall_instead_of_the_client() {
        crate::isolated!({
            let firewall = firewall();
            let server = firewall.server.run(|| UdpSocket::bind((SERVER, 7000))).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let client = firewall.client.run(|| UdpSocket::bind((CLIENT, 0))).unwrap();
            client.send_to(b"who am I", (SERVER, 7000)).unwrap();
            assert_eq!(server.recv_from(&mut [0; 8]).unwrap().1.ip(), FIREWALL_OUTSIDE);
        });
    }

    #[test]
    fn a_closed_port_fails_and_says_so() {
        crate::isolated!({
            let error = firewall().client.run(|| tcp_exchange((SERVER, 4444).into(), b"x")).unwrap_err();
            let expected = "cannot exchange 1 bytes with 198.51.100.10:4444 by TCP: Connection refused";
            assert_eq!(error.to_string(), expected);
        });
    }

    #[test]
    fn a_mark_set_on_the_first_packet_is_kept_on_the_next() {
        crate::isolated!({
            let firewall = firewall();
            let chain = Chain::filter("marks", Hook::Forward)
                .rule(Rule::new().state(&[State::Established]).marked(7).drop())
                .rule(Rule::new().destination_port(ctflow_parser::uapi::IPPROTO_UDP, 80).set_mark(7));
            Ruleset::new("marks").chain(chain).apply().unwrap();
            firewall.client.run(|| udp_exchange((SERVER, 53).into(), b"unmarked")).unwrap();
            firewall.client.run(|| udp_exchange((SERVER, 80).into(), b"marked")).unwrap_err();
        });
    }

    #[test]
    fn a_flood_makes_exactly_as_many_flows_as_packets() {
        crate::isolated!({
            let firewall = firewall();
            let mut flood = firewall.client.run(Flood::open).unwrap();
            let paced = 1_000_000.try_into().unwrap();
            let (flood, elapsed) = firewall.client.run(move || {
                let elapsed = flood.send(20_000).and_then(|elapsed| Ok(elapsed + flood.send_paced(10_000, paced)?));
                (flood, elapsed)
            });
            println!("{} flows in {:?}", flood.sent(), elapsed.unwrap());
            assert_eq!(sysctl::flow_count().unwrap(), 30_000);
        });
    }

    #[test]
    fn traffic_keeps_its_pace_and_stops() {
        crate::isolated!({
            let firewall = firewall();
            shorten_timeouts().unwrap();
            let traffic = Traffic {
                tcp: vec![(SERVER, 443).into(), (SERVER6, 80).into(), REDIRECTED],
                udp: vec![(SERVER, 53).into(), (SERVER6, 53).into()],
                tcp_per_second: 50,
                udp_per_second: 100,
                duration: Duration::from_secs(1),
                payload_bytes: 100,
            };
            let running = traffic.clone().start(&firewall.client).unwrap();
            assert!(!running.is_finished());
            let progress = running.finish();
            assert_eq!(progress.failed, 0, "{progress:?}");
            assert!(progress.tcp + progress.skipped >= 45 && progress.tcp <= 51, "{progress:?}");
            assert!(progress.udp + progress.skipped >= 90 && progress.udp <= 101, "{progress:?}");
            let running = Traffic { duration: Duration::from_secs(3600), ..traffic }.start(&firewall.client).unwrap();
            assert!(running.stop().tcp < 50);
        });
    }
}
