//! What the benches share: events recorded from a kernel, and a count of what a stage allocates.
//!
//! `parser/fixtures/events.nl` holds the events of TCP and UDP exchanges over IPv4 with NAT and over IPv6, one message
//! after the other, as `cargo run -p ctflow-engine --example record` recorded them.

use std::net::{IpAddr, Ipv4Addr};

use ctflow_parser::flow::FlowView;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::Record;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

/// The recorded events, one message after the other.
pub const EVENTS: &[u8] = include_bytes!("../../parser/fixtures/events.nl");

/// Each recorded event as the datagram that it was.
#[must_use]
pub fn frames() -> Vec<&'static [u8]> {
    records(EVENTS).map(|record| record.bytes()).collect()
}

/// The records of some messages.
pub fn records(messages: &[u8]) -> impl Iterator<Item = Record<'_>> {
    Messages::new(messages).filter_map(|message| match message {
        Ok(Message::Record(record)) => Some(record),
        _ => None,
    })
}

/// Runs `stage` over `count` items once and prints what it allocated for each.
pub fn report_allocations(name: &str, count: usize, stage: impl FnOnce()) {
    let info = allocation_counter::measure(stage);
    let each = |total: u64| total as f64 / count.max(1) as f64;
    println!("{name}: {:.3} allocations, {:.1} bytes each", each(info.count_total), each(info.bytes_total));
}

/// A UDP flow from `port`, as the kernel takes it for creation.
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
