//! Code that the benches share: events recorded from a kernel, and a count of the allocations of a stage.
//!
//! `parser/fixtures/events.nl` holds the events of TCP and UDP exchanges over IPv4 with NAT and over IPv6, one message
//! after the other, as `cargo run -p ctflow-engine --example record` recorded them.

pub mod pair;

use std::net::{IpAddr, Ipv4Addr};

use ctflow_parser::flow::FlowView;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::Record;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

/// The recorded events, one message after the other.
pub const EVENTS: &[u8] = include_bytes!("../../parser/fixtures/events.nl");

/// The recorded events, each as a datagram.
#[must_use]
pub fn frames() -> Vec<&'static [u8]> {
    records(EVENTS).map(|record| record.bytes()).collect()
}

/// Iterates over the records in `messages`.
pub fn records(messages: &[u8]) -> impl Iterator<Item = Record<'_>> {
    Messages::new(messages).filter_map(|message| match message {
        Ok(Message::Record(record)) => Some(record),
        _ => None,
    })
}

/// The events of many flows as datagrams, one after the other in memory: copies of the recorded IPv4 flows of TCP and
/// UDP, with other addresses and ids. Flows overlap as on a busy firewall: about `alive` of them exist at a time.
pub struct MultipliedEvents {
    bytes: Vec<u8>,
    /// The begin and end of each datagram in `bytes`.
    ranges: Vec<(usize, usize)>,
}

impl MultipliedEvents {
    /// Makes all events of `flows` flows, of which about `alive` exist at a time.
    #[must_use]
    pub fn new(flows: u32, alive: u32) -> Self {
        let recorded = recorded_flows();
        // A flow's next event follows after one event of every other flow that is alive.
        let mut order: Vec<(u64, u32, usize)> = Vec::new();
        for flow in 0..flows {
            let events = recorded.get(flow as usize % recorded.len().max(1)).map_or(0, Vec::len);
            let step = u64::from(alive) / events.max(1) as u64;
            order.extend((0..events).map(|event| (u64::from(flow) + event as u64 * step, flow, event)));
        }
        order.sort_unstable();
        let mut multiplied = Self { bytes: Vec::new(), ranges: Vec::with_capacity(order.len()) };
        for (_, flow, event) in order {
            let events = recorded.get(flow as usize % recorded.len().max(1));
            if let Some(message) = events.and_then(|events| events.get(event)) {
                let begin = multiplied.bytes.len();
                multiplied.bytes.extend_from_slice(message);
                let end = multiplied.bytes.len();
                set_flow_identity(multiplied.bytes.get_mut(begin..end).unwrap_or_default(), flow);
                multiplied.ranges.push((begin, end));
            }
        }
        multiplied
    }

    /// The number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The datagrams, in order.
    #[must_use]
    pub fn datagrams(&self) -> Vec<&[u8]> {
        self.ranges.iter().map(|(begin, end)| self.bytes.get(*begin..*end).unwrap_or_default()).collect()
    }
}

/// The events of each recorded IPv4 flow, from NEW to DESTROY.
fn recorded_flows() -> Vec<Vec<&'static [u8]>> {
    let mut recorded: Vec<(u32, Vec<&'static [u8]>)> = Vec::new();
    for record in records(EVENTS).filter(|record| record.family() == uapi::AF_INET) {
        let Some(id) = record.flow_id() else { continue };
        match recorded.iter_mut().find(|(known, _)| *known == id) {
            Some((_, events)) => events.push(record.bytes()),
            None => recorded.push((id, vec![record.bytes()])),
        }
    }
    recorded.into_iter().map(|(_, events)| events).collect()
}

/// Replaces the client's address and the id in an event by those of flow number `flow`.
fn set_flow_identity(message: &mut [u8], flow: u32) {
    /// The length of `nlmsghdr` and `nfgenmsg`.
    const TOP: usize = 20;
    /// The offsets of the addresses in a tuple attribute, in the order in which the kernel writes it.
    const SRC: usize = 12;
    const DST: usize = 20;
    let mut at = TOP;
    while let Some([l0, l1, k0, k1]) = message.get(at..).and_then(|rest| rest.first_chunk()).copied() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let offset = match u16::from_ne_bytes([k0, k1]) & uapi::NLA_TYPE_MASK {
            uapi::CTA_TUPLE_ORIG => Some((at + SRC, (0x0a00_0000 | flow).to_be_bytes())),
            uapi::CTA_TUPLE_REPLY => Some((at + DST, (0x0a00_0000 | flow).to_be_bytes())),
            uapi::CTA_ID => Some((at + 4, flow.wrapping_mul(0x9e37_79b1).to_be_bytes())),
            _ => None,
        };
        if let Some((offset, value)) = offset
            && let Some(bytes) = message.get_mut(offset..offset + 4)
        {
            bytes.copy_from_slice(&value);
        }
        at += length.next_multiple_of(4).max(4);
    }
}

/// Runs `stage` once over `count` items and prints its allocations and bytes allocated for each item.
pub fn report_allocations(name: &str, count: usize, stage: impl FnOnce()) {
    let info = allocation_counter::measure(stage);
    let each = |total: u64| total as f64 / count.max(1) as f64;
    println!("{name}: {:.3} allocations, {:.1} bytes each", each(info.count_total), each(info.bytes_total));
}

/// A UDP flow from `port`, with what the kernel requires to create it.
#[must_use]
pub fn udp_flow(port: u16) -> FlowView<'static> {
    let (src, dst) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
    let tuple = |src, dst, (from, to)| {
        let l4 = L4::Ports { src: from, dst: to };
        Some(Tuple { src, dst, proto: uapi::IPPROTO_UDP, l4, zone: None })
    };
    FlowView {
        family: uapi::AF_INET,
        orig: tuple(src, dst, (port, 53)),
        reply: tuple(dst, src, (53, port)),
        timeout: Some(600),
        ..FlowView::default()
    }
}
