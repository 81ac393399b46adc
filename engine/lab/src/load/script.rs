//! The scripts of a load: a flow's packets, and how long the flow lives.

use std::net::Ipv4Addr;
use std::time::Duration;

use ctflow_parser::uapi::{IPPROTO_TCP, IPPROTO_UDP};

use super::Kind;
use super::packet::{Endpoints, Segment};
use crate::topology::FLOOD_NETWORK;

/// The network of the load's clients.
pub(super) const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
pub(super) const CLIENTS_PREFIX: u8 = 16;
/// The number of clients of one sender. No two senders share a client.
const CLIENTS_PER_SENDER: u32 = (1 << 16) / super::SENDERS;
/// The number of servers: the first addresses of the flood's network.
const SERVERS: u32 = 4_096;
/// The number of ports that a client uses.
const PORTS: u32 = 32_768;
const FIRST_PORT: u32 = 1_024;
/// The timeout of a flow created by ctnetlink, in seconds. It removes the flows of a sender that was killed.
pub(super) const TIMEOUT: u32 = 600;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PSH_ACK: u8 = 0x18;
const FIN_ACK: u8 = 0x11;

/// The host that sends a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Client,
    Server,
}

/// One packet of a script.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) origin: Origin,
    pub(super) segment: Segment,
}

/// How long a flow lives.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lifetime {
    /// The flow ends when it is the oldest and there are more flows than the load keeps alive.
    UntilOldest,
    /// The flow ends after this time.
    For(Duration),
}

/// A flow from its first packet to its last.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) proto: u8,
    pub(super) server_port: u16,
    /// The packets that open the flow; none where a ctnetlink request creates it.
    pub(super) open: &'static [Step],
    /// The packets that close the flow before it is deleted.
    pub(super) close: &'static [Step],
    pub(super) lifetime: Lifetime,
    /// The number of events of the flow: NEW, UPDATEs, DESTROY.
    pub(super) events: u32,
}

/// A script and its share of a load's flows: `weight` of the sum of all weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeightedScript {
    pub(super) script: &'static Script,
    pub(super) weight: u32,
}

const fn udp(origin: Origin, payload: usize) -> Step {
    Step { origin, segment: Segment::Udp { payload } }
}

const fn tcp(origin: Origin, flags: u8, seq: u32, ack: u32, payload: usize) -> Step {
    Step { origin, segment: Segment::Tcp { flags, seq, ack, payload } }
}

static UDP_DATAGRAM: Script = Script {
    proto: IPPROTO_UDP,
    server_port: 9,
    open: &[udp(Origin::Client, 18)],
    close: &[],
    lifetime: Lifetime::UntilOldest,
    events: 2,
};

static DNS_QUERY: Script = Script {
    proto: IPPROTO_UDP,
    server_port: 53,
    open: &[udp(Origin::Client, 30), udp(Origin::Server, 90)],
    close: &[],
    lifetime: Lifetime::For(Duration::from_millis(200)),
    events: 3,
};

/// The client's sequence numbers start at 1,000, the server's at 5,000. Each side sends 64 bytes.
static TCP_CONNECTION: Script = Script {
    proto: IPPROTO_TCP,
    server_port: 443,
    open: &[
        tcp(Origin::Client, SYN, 1_000, 0, 0),
        tcp(Origin::Server, SYN | ACK, 5_000, 1_001, 0),
        tcp(Origin::Client, ACK, 1_001, 5_001, 0),
        tcp(Origin::Client, PSH_ACK, 1_001, 5_001, 64),
        tcp(Origin::Server, PSH_ACK, 5_001, 1_065, 64),
    ],
    close: &[
        tcp(Origin::Client, FIN_ACK, 1_065, 5_065, 0),
        tcp(Origin::Server, FIN_ACK, 5_065, 1_066, 0),
        tcp(Origin::Client, ACK, 1_066, 5_066, 0),
    ],
    lifetime: Lifetime::UntilOldest,
    events: 7,
};

static INSERTED_FLOW: Script =
    Script { proto: IPPROTO_TCP, server_port: 443, open: &[], close: &[], lifetime: Lifetime::UntilOldest, events: 2 };

/// The scripts of a kind of load, with their weights.
pub(super) fn scripts_of(kind: Kind) -> &'static [WeightedScript] {
    match kind {
        Kind::Dns => {
            const {
                &[
                    WeightedScript { script: &DNS_QUERY, weight: 3 },
                    WeightedScript { script: &TCP_CONNECTION, weight: 1 },
                ]
            }
        }
        Kind::Tcp => const { &[WeightedScript { script: &TCP_CONNECTION, weight: 1 }] },
        Kind::Udp => const { &[WeightedScript { script: &UDP_DATAGRAM, weight: 1 }] },
        Kind::Netlink => const { &[WeightedScript { script: &INSERTED_FLOW, weight: 1 }] },
    }
}

/// The endpoints of flow number `number` of sender `sender`, in the original direction. Endpoints repeat after 134
/// million flows, long after the first of them have ended.
pub(super) fn flow_endpoints(sender: u32, number: u32, script: &Script) -> Endpoints {
    let number = number % (CLIENTS_PER_SENDER * PORTS);
    let client = sender * CLIENTS_PER_SENDER + number / PORTS;
    let port = FIRST_PORT + number % PORTS;
    Endpoints {
        src: Ipv4Addr::from_bits(CLIENTS.to_bits() + client),
        dst: Ipv4Addr::from_bits(FLOOD_NETWORK.to_bits() + 1 + number % SERVERS),
        src_port: u16::try_from(port).unwrap_or(u16::MAX),
        dst_port: script.server_port,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::load::SENDERS;

    #[test]
    fn flows_of_all_senders_differ_and_stay_in_their_networks() {
        let mut seen = HashSet::new();
        for sender in [0, 1, SENDERS - 1] {
            for number in (0..100_000).chain([CLIENTS_PER_SENDER * PORTS - 1]) {
                let ends = flow_endpoints(sender, number, &UDP_DATAGRAM);
                assert_eq!((&ends.src.octets()[..2], &ends.dst.octets()[..2]), (&[198, 19][..], &[198, 18][..]));
                assert!(seen.insert((ends.src, ends.src_port)), "{ends:?}");
            }
        }
    }
}
