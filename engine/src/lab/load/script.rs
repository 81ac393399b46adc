//! What the packets of a flow are, and how long it stays.

use std::net::Ipv4Addr;
use std::time::Duration;

use ctflow_parser::uapi::{IPPROTO_TCP, IPPROTO_UDP};

use super::Kind;
use super::packet::{Endpoints, Segment};
use crate::lab::topology::FLOOD_NETWORK;

/// Where clients are.
pub(super) const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
pub(super) const CLIENTS_PREFIX: u8 = 16;
/// Clients that a sender has; no two senders share one.
const CLIENTS_PER_SENDER: u32 = (1 << 16) / super::SENDERS;
/// Servers that are talked to: addresses from the first one on.
const SERVERS: u32 = 4_096;
/// Ports that a client uses.
const PORTS: u32 = 32_768;
const FIRST_PORT: u32 = 1_024;
/// A flow that nothing ends, in seconds; it is gone soon when its sender is killed.
pub(super) const TIMEOUT: u32 = 600;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PSH_ACK: u8 = 0x18;
const FIN_ACK: u8 = 0x11;

/// Whose packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Client,
    Server,
}

/// One packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) origin: Origin,
    pub(super) segment: Segment,
}

/// How long a flow stays.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lifetime {
    /// Until it is the oldest of those that shall be there.
    UntilOldest,
    /// So long.
    For(Duration),
}

/// A flow from beginning to end.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) proto: u8,
    pub(super) server_port: u16,
    /// What opens it; nothing where a request does.
    pub(super) open: &'static [Step],
    /// What closes it, before it is deleted.
    pub(super) close: &'static [Step],
    pub(super) lifetime: Lifetime,
    /// Events from first to last: NEW, UPDATEs, DESTROY.
    pub(super) events: u32,
}

/// A script's share of the flows.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeightedScript {
    pub(super) script: &'static Script,
    pub(super) weight: u32,
}

const fn udp(by: Origin, payload: usize) -> Step {
    Step { origin: by, segment: Segment::Udp { payload } }
}

const fn tcp(by: Origin, flags: u8, seq: u32, ack: u32, payload: usize) -> Step {
    Step { origin: by, segment: Segment::Tcp { flags, seq, ack, payload } }
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

/// The client begins at 1,000, the server at 5,000; each sends 64 bytes.
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

/// The scripts of a kind of load.
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

/// The ends of flow number `number` of sender `sender`, seen from the client. Numbers come again after 134 million flows, when
/// the first are long gone.
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
    use crate::lab::load::SENDERS;

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
