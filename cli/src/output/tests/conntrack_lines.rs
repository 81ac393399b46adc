//! Lines captured from conntrack, printed again byte for byte, and a measurement of the time per line.

use std::net::IpAddr;
use std::sync::Arc;

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::{Counters, FlowView, Helper, Labels, RareAttributes};
use ctflow_parser::proto::{DccpInfo, ProtoInfo, SctpInfo, TcpFlags, TcpInfo};
use ctflow_parser::record::Event;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;
use jiff::tz::TimeZone;

use super::super::{Encoding, Format, NS_PER_SECOND, Printer, RecordContext, Requester, Subject};
use crate::labels::LabelMap;

pub(in crate::output) const TEXT: Format =
    Format { encoding: Encoding::Text, extended: false, id: false, timestamp: false, ktimestamp: false, labels: false };
pub(in crate::output) const XML: Format = Format { encoding: Encoding::Xml, ..TEXT };
const SAVE: Format = Format { encoding: Encoding::Save, ..TEXT };
const JSON: Format = Format { encoding: Encoding::Json, ..TEXT };
pub(in crate::output) const LISTED: RecordContext<'static> =
    RecordContext { event: None, now_ns: NOW_NS, requester: None };
/// About the time of the captured listings.
pub(in crate::output) const NOW_NS: u64 = 1_795_197_497 * NS_PER_SECOND;
pub(in crate::output) const START_NS: u64 = 1_795_197_495_756_137_333;

pub(in crate::output) const SEEN: u32 = uapi::IPS_SEEN_REPLY;
pub(in crate::output) const ASSURED: u32 = uapi::IPS_SEEN_REPLY | uapi::IPS_ASSURED;
const SYN_SENT: u8 = 1;
pub(in crate::output) const SYN_RECV: u8 = 2;
pub(in crate::output) const ESTABLISHED: u8 = 3;
pub(in crate::output) const TIME_WAIT: u8 = 7;

pub(in crate::output) fn tuple(proto: u8, src: &str, dst: &str, l4: L4) -> Tuple {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    Tuple { src: address(src), dst: address(dst), proto, l4, zone: None }
}

pub(in crate::output) fn ports(src: u16, dst: u16) -> L4 {
    L4::Ports { src, dst }
}

/// A flow whose reply mirrors its original direction, with the values that every listing has.
pub(in crate::output) fn flow(proto: u8, src: &str, dst: &str, l4: L4, status: u32, timeout: u32) -> FlowView<'static> {
    let mirrored = match l4 {
        L4::Ports { src, dst } => ports(dst, src),
        L4::Icmp { kind, code, id } => L4::Icmp { kind: if kind == 128 { 129 } else { 0 }, code, id },
        L4::None => L4::None,
    };
    let orig = tuple(proto, src, dst, l4);
    FlowView {
        family: orig.family(),
        orig: Some(orig),
        reply: Some(tuple(proto, dst, src, mirrored)),
        status: Some(status),
        timeout: Some(timeout),
        mark: Some(0),
        use_count: Some(1),
        ..FlowView::default()
    }
}

pub(in crate::output) fn in_zone(mut flow: FlowView<'_>, orig: Option<u16>, reply: Option<u16>) -> FlowView<'_> {
    flow.orig = flow.orig.map(|tuple| Tuple { zone: orig, ..tuple });
    flow.reply = flow.reply.map(|tuple| Tuple { zone: reply, ..tuple });
    flow
}

fn tcp_state(state: u8) -> Option<ProtoInfo> {
    Some(ProtoInfo::Tcp(TcpInfo { state: Some(state), ..TcpInfo::default() }))
}

pub(in crate::output) fn tcp(
    client: &str,
    server: &str,
    from: (u16, u16),
    state: u8,
    status: u32,
    timeout: u32,
) -> FlowView<'static> {
    let flow = flow(uapi::IPPROTO_TCP, client, server, ports(from.0, from.1), status, timeout);
    FlowView { proto: tcp_state(state), ..flow }
}

pub(in crate::output) fn counted(flow: FlowView<'_>, orig: (u64, u64), reply: (u64, u64)) -> FlowView<'_> {
    let counters = |(packets, bytes)| Some(Counters { packets, bytes });
    FlowView { counters_orig: counters(orig), counters_reply: counters(reply), ..flow }
}

/// The flow with labels, one for each bit that is set.
pub(in crate::output) fn labelled(flow: FlowView<'_>, bits: u128) -> FlowView<'_> {
    FlowView { rare: RareAttributes { labels: Some(Labels(bits)), ..flow.rare }, ..flow }
}

/// The flow with a helper that has no private data.
pub(in crate::output) fn helped<'a>(flow: FlowView<'a>, name: &'a str) -> FlowView<'a> {
    FlowView { rare: RareAttributes { helper: Some(Helper { name, info: &[] }), ..flow.rare }, ..flow }
}

/// The flow with the values of an event: no reference count, and no mark of 0.
pub(in crate::output) fn as_event(flow: FlowView<'_>) -> FlowView<'_> {
    FlowView { use_count: None, mark: flow.mark.filter(|mark| *mark != 0), ..flow }
}

/// The flow with source and destination translation of the first captured XML.
pub(in crate::output) fn translated() -> FlowView<'static> {
    let flow = counted(tcp("192.0.2.2", "198.51.100.10", (41002, 8080), TIME_WAIT, ASSURED, 119), (7, 373), (5, 272));
    let reply = tuple(uapi::IPPROTO_TCP, "198.51.100.10", "198.51.100.1", ports(8080, 41002));
    FlowView { reply: Some(reply), mark: Some(42), start_ns: Some(START_NS), id: Some(250_147_308), ..flow }
}

/// The label file that was in use for the captures.
pub(in crate::output) fn label_map() -> Option<Arc<LabelMap>> {
    Some(Arc::new(LabelMap::parse("0 vpn\n1 web\n5 a b\n127 big\n")))
}

pub(in crate::output) fn printed(format: Format, flow: &FlowView<'_>, context: &RecordContext<'_>) -> String {
    printed_with(Printer::new(format, Subject::Flows, TimeZone::UTC).with_labels(label_map()), flow, context)
}

pub(in crate::output) fn printed_with(
    mut printer: Printer,
    flow: &FlowView<'_>,
    context: &RecordContext<'_>,
) -> String {
    let mut out = Vec::new();
    printer.print_flow(&mut out, flow, context);
    String::from_utf8(out).unwrap()
}

/// Compares the line of a listed flow with a captured one.
#[track_caller]
fn assert_listed(flow: &FlowView<'_>, captured: &str) {
    assert_eq!(printed(TEXT, flow, &LISTED), format!("{captured}\n"));
}

/// Compares the line of an event with a captured one.
#[track_caller]
fn assert_event(event: Event, flow: &FlowView<'_>, captured: &str) {
    let context = RecordContext { event: Some(event), ..LISTED };
    assert_eq!(printed(TEXT, &as_event(*flow), &context), format!("{captured}\n"));
}

#[test]
fn listed_protocols() {
    let (client, server) = ("192.0.2.2", "198.51.100.10");
    let sctp = flow(uapi::IPPROTO_SCTP, client, server, ports(2905, 2906), 0, 199);
    let sctp = FlowView { proto: Some(ProtoInfo::Sctp(SctpInfo { state: Some(4), ..SctpInfo::default() })), ..sctp };
    assert_listed(
        &sctp,
        "sctp     132 199 ESTABLISHED src=192.0.2.2 dst=198.51.100.10 sport=2905 dport=2906 [UNREPLIED] src=198.51.100.10 dst=192.0.2.2 sport=2906 dport=2905 mark=0 use=1",
    );
    let ping = L4::Icmp { kind: 128, code: 0, id: 9 };
    let icmpv6 = flow(uapi::IPPROTO_ICMPV6, "2001:db8:1::2", "2001:db8:2::10", ping, 0, 29);
    assert_listed(
        &icmpv6,
        "icmpv6   58 29 src=2001:db8:1::2 dst=2001:db8:2::10 type=128 code=0 id=9 [UNREPLIED] src=2001:db8:2::10 dst=2001:db8:1::2 type=129 code=0 id=9 mark=0 use=1",
    );
    let gre = flow(uapi::IPPROTO_GRE, client, server, ports(0x10, 0x20), 0, 59);
    assert_listed(
        &gre,
        "gre      47 59 src=192.0.2.2 dst=198.51.100.10 srckey=0x10 dstkey=0x20 [UNREPLIED] src=198.51.100.10 dst=192.0.2.2 srckey=0x20 dstkey=0x10 mark=0 use=1",
    );
    let udplite = flow(uapi::IPPROTO_UDPLITE, client, server, ports(5353, 53), 0, 29);
    assert_listed(
        &udplite,
        "udplite  136 29 src=192.0.2.2 dst=198.51.100.10 sport=5353 dport=53 [UNREPLIED] src=198.51.100.10 dst=192.0.2.2 sport=53 dport=5353 mark=0 use=1",
    );
    let unknown = flow(200, client, server, L4::None, 0, 59);
    assert_listed(
        &unknown,
        "unknown  200 59 src=192.0.2.2 dst=198.51.100.10 [UNREPLIED] src=198.51.100.10 dst=192.0.2.2 mark=0 use=1",
    );
    let icmp = flow(uapi::IPPROTO_ICMP, "10.1.1.1", "10.2.2.2", L4::Icmp { kind: 8, code: 0, id: 77 }, 0, 99);
    assert_listed(
        &icmp,
        "icmp     1 99 src=10.1.1.1 dst=10.2.2.2 type=8 code=0 id=77 [UNREPLIED] src=10.2.2.2 dst=10.1.1.1 type=0 code=0 id=77 mark=0 use=1",
    );
}

/// A kernel without the DCCP tracker sends no ports and no state; a kernel with it sends DCCP's own states.
#[test]
fn listed_dccp_with_and_without_its_tracker() {
    let lost = flow(uapi::IPPROTO_DCCP, "10.1.1.1", "10.2.2.2", L4::None, 0, 59);
    assert_listed(
        &lost,
        "dccp     33 59 src=10.1.1.1 dst=10.2.2.2 sport=0 dport=0 [UNREPLIED] src=10.2.2.2 dst=10.1.1.1 sport=0 dport=0 mark=0 use=1",
    );
    let dccp = flow(uapi::IPPROTO_DCCP, "10.1.1.1", "10.2.2.2", ports(1, 2), SEEN, 59);
    let state = Some(ProtoInfo::Dccp(DccpInfo { state: Some(3), ..DccpInfo::default() }));
    assert_listed(
        &FlowView { proto: state, ..dccp },
        "dccp     33 59 PARTOPEN src=10.1.1.1 dst=10.2.2.2 sport=1 dport=2 src=10.2.2.2 dst=10.1.1.1 sport=2 dport=1 mark=0 use=1",
    );
}

#[test]
fn listed_helpers_counters_and_times() {
    assert_listed(
        &translated(),
        "tcp      6 119 TIME_WAIT src=192.0.2.2 dst=198.51.100.10 sport=41002 dport=8080 packets=7 bytes=373 src=198.51.100.10 dst=198.51.100.1 sport=8080 dport=41002 packets=5 bytes=272 [ASSURED] mark=42 delta-time=2 use=1",
    );
    let ftp = tcp("192.0.2.2", "198.51.100.10", (36150, 21), ESTABLISHED, ASSURED, 431_999);
    let ftp = FlowView { start_ns: Some(NOW_NS - 1), ..helped(counted(ftp, (5, 274), (4, 276)), "ftp") };
    assert_listed(
        &ftp,
        "tcp      6 431999 ESTABLISHED src=192.0.2.2 dst=198.51.100.10 sport=36150 dport=21 packets=5 bytes=274 src=198.51.100.10 dst=192.0.2.2 sport=21 dport=36150 packets=4 bytes=276 [ASSURED] mark=0 delta-time=1 helper=ftp use=1",
    );
}

#[test]
fn listed_zones() {
    let both = tcp("10.1.1.1", "10.2.2.2", (1000, 80), ESTABLISHED, ASSURED, 3599);
    assert_listed(
        &FlowView { mark: Some(7), zone: Some(7), ..both },
        "tcp      6 3599 ESTABLISHED src=10.1.1.1 dst=10.2.2.2 sport=1000 dport=80 src=10.2.2.2 dst=10.1.1.1 sport=80 dport=1000 [ASSURED] mark=7 zone=7 use=1",
    );
    let orig = in_zone(tcp("10.1.1.1", "10.2.2.2", (1001, 80), ESTABLISHED, ASSURED, 3599), Some(3), None);
    assert_listed(
        &orig,
        "tcp      6 3599 ESTABLISHED src=10.1.1.1 dst=10.2.2.2 sport=1001 dport=80 zone-orig=3 src=10.2.2.2 dst=10.1.1.1 sport=80 dport=1001 [ASSURED] mark=0 use=1",
    );
    let reply = flow(uapi::IPPROTO_UDP, "10.1.1.1", "10.2.2.2", ports(1001, 80), 0, 3599);
    assert_listed(
        &in_zone(reply, None, Some(4)),
        "udp      17 3599 src=10.1.1.1 dst=10.2.2.2 sport=1001 dport=80 [UNREPLIED] src=10.2.2.2 dst=10.1.1.1 sport=80 dport=1001 zone-reply=4 mark=0 use=1",
    );
}

#[test]
fn extended_with_id() {
    let format = Format { extended: true, id: true, ..TEXT };
    let ssh = tcp("2001:db8:1::2", "2001:db8:2::10", (1234, 22), SYN_SENT, 0, 59);
    let ssh = FlowView { id: Some(4_071_944_128), ..ssh };
    assert_eq!(
        printed(format, &ssh, &LISTED),
        "ipv6     10 tcp      6 59 SYN_SENT src=2001:db8:1::2 dst=2001:db8:2::10 sport=1234 dport=22 [UNREPLIED] src=2001:db8:2::10 dst=2001:db8:1::2 sport=22 dport=1234 mark=0 use=1 id=4071944128\n"
    );
    let all = counted(
        in_zone(tcp("10.1.1.1", "10.2.2.2", (1000, 80), ESTABLISHED, ASSURED, 99), Some(3), None),
        (0, 0),
        (0, 0),
    );
    let all = FlowView { id: Some(2_455_206_544), start_ns: Some(NOW_NS), ..all };
    assert_eq!(
        printed(format, &all, &LISTED),
        "ipv4     2 tcp      6 99 ESTABLISHED src=10.1.1.1 dst=10.2.2.2 sport=1000 dport=80 zone-orig=3 packets=0 bytes=0 src=10.2.2.2 dst=10.1.1.1 sport=80 dport=1000 packets=0 bytes=0 [ASSURED] mark=0 delta-time=0 use=1 id=2455206544\n"
    );
}

/// An offloaded flow has no `[ASSURED]`. A flow without a status from the kernel has no status word.
#[test]
fn one_status_word_and_all_other_fields_in_order() {
    let base = tcp("10.1.1.1", "10.2.2.2", (1, 2), ESTABLISHED, ASSURED, 9);
    let shown = |flow: FlowView<'_>| {
        printed(TEXT, &flow, &LISTED).split_off("tcp      6 9 ESTABLISHED src=10.1.1.1 dst=10.2.2.2 sport=1 dport=2 src=10.2.2.2 dst=10.1.1.1 sport=2 dport=1 ".len())
    };
    assert_eq!(shown(FlowView { status: Some(ASSURED | uapi::IPS_OFFLOAD), ..base }), "[OFFLOAD] mark=0 use=1\n");
    let hardware = ASSURED | uapi::IPS_OFFLOAD | uapi::IPS_HW_OFFLOAD;
    assert_eq!(shown(FlowView { status: Some(hardware), ..base }), "[HW_OFFLOAD] mark=0 use=1\n");
    assert_eq!(shown(FlowView { status: None, ..base }), "mark=0 use=1\n");
    let secctx = Some("system_u:object_r:unlabeled_t:s0");
    let secured = FlowView {
        secmark: Some(5),
        zone: Some(1),
        start_ns: Some(NOW_NS - 3 * NS_PER_SECOND),
        rare: RareAttributes { secctx, ..RareAttributes::default() },
        ..base
    };
    assert_eq!(
        shown(helped(secured, "sip")),
        "[ASSURED] mark=0 secmark=5 secctx=system_u:object_r:unlabeled_t:s0 zone=1 delta-time=3 helper=sip use=1\n"
    );
}

#[test]
fn kernel_time_stamps_in_local_time() {
    let format = Format { ktimestamp: true, ..TEXT };
    let listed = FlowView { start_ns: Some(START_NS), ..translated() };
    let context = RecordContext { now_ns: NOW_NS - NS_PER_SECOND, ..LISTED };
    assert_eq!(
        printed(format, &listed, &context),
        "tcp      6 119 TIME_WAIT src=192.0.2.2 dst=198.51.100.10 sport=41002 dport=8080 packets=7 bytes=373 src=198.51.100.10 dst=198.51.100.1 sport=8080 dport=41002 packets=5 bytes=272 [ASSURED] mark=42 delta-time=1 [start=Fri Nov 20 17:58:15 2026] use=1\n"
    );
    let stopped = FlowView { stop_ns: Some(NOW_NS), ..listed };
    let shown = "delta-time=2 [start=Fri Nov 20 17:58:15 2026] [stop=Fri Nov 20 17:58:17 2026] use=1\n";
    assert!(printed(format, &stopped, &context).ends_with(shown));
    let offset = Printer::new(format, Subject::Flows, TimeZone::fixed(jiff::tz::offset(9)));
    assert!(printed_with(offset, &listed, &context).contains("[start=Sat Nov 21 02:58:15 2026]"));
    for never in [FlowView { start_ns: None, ..listed }, FlowView { start_ns: Some(0), ..listed }] {
        assert!(!printed(format, &never, &context).contains("start="));
    }
}

#[test]
fn labels_by_name_in_the_order_of_their_numbers() {
    let format = Format { labels: true, ..TEXT };
    let https = tcp("192.0.2.2", "198.51.100.10", (42001, 443), TIME_WAIT, ASSURED, 119);
    let https = FlowView { start_ns: Some(NOW_NS - 1), ..counted(https, (7, 373), (5, 272)) };
    let labelled = |bits| labelled(https, bits);
    assert_eq!(
        printed(format, &labelled(1 << 127 | 0b11), &LISTED),
        "tcp      6 119 TIME_WAIT src=192.0.2.2 dst=198.51.100.10 sport=42001 dport=443 packets=7 bytes=373 src=198.51.100.10 dst=192.0.2.2 sport=443 dport=42001 packets=5 bytes=272 [ASSURED] mark=0 delta-time=1 use=1 labels=vpn,web,big\n"
    );
    let shown = |bits| printed(format, &labelled(bits), &LISTED).split_off(printed(format, &https, &LISTED).len() - 1);
    let captured = [(0b10_0010, " labels=web,a b\n"), (0b101, " labels=vpn\n"), (0b1100, " labels\n")];
    captured.iter().for_each(|(bits, expected)| assert_eq!(shown(*bits), *expected));
    let id = Format { id: true, ..format };
    let numbered = FlowView { id: Some(84_109_206), ..labelled(0b10) };
    assert!(printed(id, &numbered, &LISTED).ends_with(" use=1 id=84109206 labels=web\n"));
    assert!(!printed(TEXT, &labelled(1), &LISTED).contains("labels"), "`-o labels` is not set");
    for map in [None, Some(Arc::new(LabelMap::default()))] {
        let nameless = Printer::new(format, Subject::Flows, TimeZone::UTC).with_labels(map);
        assert!(
            !printed_with(nameless, &labelled(1), &LISTED).contains("labels"),
            "without a label file there are no labels"
        );
    }
}

#[test]
fn events_with_labels() {
    let udp = flow(uapi::IPPROTO_UDP, "192.0.2.2", "198.51.100.10", ports(42004, 53), SEEN, 29);
    let udp = FlowView { use_count: None, ..labelled(udp, 1) };
    let requester = Some(Requester { port_id: 4_094_818_347, program: Some("conntrack") });
    let context = RecordContext { event: Some(Event::Update), now_ns: NOW_NS, requester };
    assert_eq!(
        printed(Format { labels: true, ..TEXT }, &udp, &context),
        " [UPDATE] udp      17 29 src=192.0.2.2 dst=198.51.100.10 sport=42004 dport=53 src=198.51.100.10 dst=192.0.2.2 sport=53 dport=42004 mark=0 labels=vpn [USERSPACE] portid=4094818347 progname=conntrack\n"
    );
}

#[test]
fn events_with_the_kernels_time_and_without() {
    let format = Format { timestamp: true, ..TEXT };
    let https = |state, status, timeout, event_ns| {
        let flow = tcp("192.0.2.2", "198.51.100.10", (40001, 443), state, status, timeout);
        as_event(FlowView { event_ns, ..flow })
    };
    let context = |event, now_ns| RecordContext { event: Some(event), now_ns, requester: None };
    let stamped = [
        (
            Event::New,
            https(SYN_SENT, 0, 120, Some(1_795_197_460_361_757_000)),
            "[1795197460.361757]\t    [NEW] tcp      6 120 SYN_SENT src=192.0.2.2 dst=198.51.100.10 sport=40001 dport=443 [UNREPLIED] src=198.51.100.10 dst=192.0.2.2 sport=443 dport=40001\n",
        ),
        (
            Event::Update,
            https(SYN_RECV, SEEN, 60, Some(1_795_197_460_361_866_999)),
            "[1795197460.361866]\t [UPDATE] tcp      6 60 SYN_RECV src=192.0.2.2 dst=198.51.100.10 sport=40001 dport=443 src=198.51.100.10 dst=192.0.2.2 sport=443 dport=40001\n",
        ),
        (
            Event::Update,
            https(ESTABLISHED, ASSURED, 432_000, None),
            "[1795197460.000878]\t [UPDATE] tcp      6 432000 ESTABLISHED src=192.0.2.2 dst=198.51.100.10 sport=40001 dport=443 src=198.51.100.10 dst=192.0.2.2 sport=443 dport=40001 [ASSURED]\n",
        ),
    ];
    for (event, flow, captured) in stamped {
        assert_eq!(printed(format, &flow, &context(event, 1_795_197_460_000_878_000)), captured);
    }
    assert!(printed(format, &translated(), &LISTED).starts_with("tcp "), "listings have no time stamp");
}

#[test]
fn events_of_a_request_name_the_program() {
    let requester = |port_id, program| Some(Requester { port_id, program });
    let destroyed = counted(translated(), (0, 0), (0, 0));
    let stop_ns = Some(START_NS + NS_PER_SECOND / 2);
    let destroyed = as_event(FlowView { stop_ns, event_ns: stop_ns, ..destroyed });
    let context = RecordContext {
        event: Some(Event::Destroy),
        now_ns: NOW_NS + 9 * NS_PER_SECOND,
        requester: requester(2_410_594_451, Some("conntrack")),
    };
    assert_eq!(
        printed(TEXT, &destroyed, &context),
        "[DESTROY] tcp      6 119 TIME_WAIT src=192.0.2.2 dst=198.51.100.10 sport=41002 dport=8080 packets=0 bytes=0 src=198.51.100.10 dst=198.51.100.1 sport=8080 dport=41002 packets=0 bytes=0 [ASSURED] mark=42 delta-time=1 [USERSPACE] portid=2410594451 progname=conntrack\n"
    );
    let context = RecordContext { event: Some(Event::New), requester: requester(14970, None), ..LISTED };
    let udp = flow(uapi::IPPROTO_UDP, "10.1.1.1", "10.2.2.2", ports(1001, 80), 0, 100);
    let new = as_event(FlowView { mark: Some(5), zone: Some(7), ..udp });
    assert_eq!(
        printed(TEXT, &new, &context),
        "    [NEW] udp      17 100 src=10.1.1.1 dst=10.2.2.2 sport=1001 dport=80 [UNREPLIED] src=10.2.2.2 dst=10.1.1.1 sport=80 dport=1001 mark=5 zone=7 [USERSPACE] portid=14970\n"
    );
    assert!(!printed(XML, &new, &context).contains("USERSPACE"), "XML has no requester");
}

/// A flow that timed out has no timeout left, and older kernels send no state of it.
#[test]
fn a_destroyed_flow_may_be_little_more_than_its_tuples() {
    let udp = flow(uapi::IPPROTO_UDP, "10.1.1.1", "10.2.2.2", ports(1001, 80), SEEN, 0);
    let udp = FlowView { timeout: None, ..counted(udp, (1, 60), (18_446_744_073_709_551_615, 100_000_000)) };
    assert_event(
        Event::Destroy,
        &udp,
        "[DESTROY] udp      17 src=10.1.1.1 dst=10.2.2.2 sport=1001 dport=80 packets=1 bytes=60 src=10.2.2.2 dst=10.1.1.1 sport=80 dport=1001 packets=18446744073709551615 bytes=100000000",
    );
}

#[test]
fn a_line_is_appended_to_the_buffer() {
    let mut out = Vec::new();
    let mut printer = Printer::new(TEXT, Subject::Flows, TimeZone::UTC);
    printer.print_flow(&mut out, &translated(), &LISTED);
    let first = out.len();
    printer.print_flow(&mut out, &translated(), &LISTED);
    printer.finish(&mut out);
    assert_eq!((out.len(), &out[..first]), (2 * first, &out[first..]));
}

const TRANSLATED_XML: &str = r#"<flow><meta direction="original"><layer3 protonum="2" protoname="ipv4"><src>192.0.2.2</src><dst>198.51.100.10</dst></layer3><layer4 protonum="6" protoname="tcp"><sport>41002</sport><dport>8080</dport></layer4><counters><packets>7</packets><bytes>373</bytes></counters></meta><meta direction="reply"><layer3 protonum="2" protoname="ipv4"><src>198.51.100.10</src><dst>198.51.100.1</dst></layer3><layer4 protonum="6" protoname="tcp"><sport>8080</sport><dport>41002</dport></layer4><counters><packets>5</packets><bytes>272</bytes></counters></meta><meta direction="independent"><state>TIME_WAIT</state><timeout>119</timeout><mark>42</mark><use>1</use><id>250147308</id><assured/><deltatime>2</deltatime></meta></flow>
"#;
const XML_HEAD: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<conntrack>\n";

#[test]
fn xml_has_a_root_with_and_without_records() {
    let mut out = Vec::new();
    Printer::new(XML, Subject::Flows, TimeZone::UTC).finish(&mut out);
    assert_eq!(String::from_utf8(out).unwrap(), format!("{XML_HEAD}</conntrack>\n"));
    let mut out = Vec::new();
    let mut printer = Printer::new(XML, Subject::Flows, TimeZone::UTC);
    printer.print_flow(&mut out, &translated(), &LISTED);
    printer.print_flow(&mut out, &translated(), &LISTED);
    printer.finish(&mut out);
    printer.finish(&mut out);
    let expected = format!("{XML_HEAD}{TRANSLATED_XML}{TRANSLATED_XML}</conntrack>\n");
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn xml_with_labels_and_kernel_time_stamps() {
    let format = Format { ktimestamp: true, labels: true, ..XML };
    let context = RecordContext { now_ns: NOW_NS - NS_PER_SECOND, ..LISTED };
    let captured = TRANSLATED_XML
        .replace("<deltatime>2<", "<timestamp><start>1795197495756137333</start></timestamp><deltatime>1<");
    assert_eq!(printed(format, &translated(), &context), format!("{XML_HEAD}{captured}"));
    let shown = |bits| printed(format, &labelled(translated(), bits), &LISTED);
    let labelled = "<mark>42</mark><labels><label>web</label><label>a b</label></labels><use>1</use>";
    assert!(shown(0b10_0010).contains(labelled));
    assert!(shown(0b1000).contains("<mark>42</mark><labels></labels><use>1</use>"));
    let stopped = FlowView { stop_ns: Some(NOW_NS), ..translated() };
    assert!(printed(format, &stopped, &LISTED).contains("333</start><stop>1795197497000000000</stop></timestamp>"));
}

/// Compares a flow's XML with the expected element.
#[track_caller]
fn assert_xml(flow: &FlowView<'_>, context: &RecordContext<'_>, expected: &str) {
    let format = Format { timestamp: true, ..XML };
    assert_eq!(printed(format, flow, context), format!("{XML_HEAD}{expected}\n"));
}

#[test]
fn xml_of_zones_keys_and_protocols_without_fields() {
    let zoned = in_zone(tcp("10.1.1.1", "10.2.2.2", (1001, 80), ESTABLISHED, ASSURED, 99), None, Some(4));
    let zoned = FlowView { id: Some(2_095_979_092), start_ns: Some(NOW_NS), ..counted(zoned, (0, 0), (0, 0)) };
    assert_xml(
        &zoned,
        &LISTED,
        r#"<flow><meta direction="original"><layer3 protonum="2" protoname="ipv4"><src>10.1.1.1</src><dst>10.2.2.2</dst></layer3><layer4 protonum="6" protoname="tcp"><sport>1001</sport><dport>80</dport></layer4><counters><packets>0</packets><bytes>0</bytes></counters></meta><meta direction="reply"><layer3 protonum="2" protoname="ipv4"><src>10.2.2.2</src><dst>10.1.1.1</dst></layer3><layer4 protonum="6" protoname="tcp"><sport>80</sport><dport>1001</dport></layer4><zone>4</zone><counters><packets>0</packets><bytes>0</bytes></counters></meta><meta direction="independent"><state>ESTABLISHED</state><timeout>99</timeout><mark>0</mark><use>1</use><id>2095979092</id><assured/><deltatime>0</deltatime></meta></flow>"#,
    );
    let gre = flow(uapi::IPPROTO_GRE, "10.1.1.1", "10.2.2.2", ports(0x10, 0x20), 0, 99);
    let gre = FlowView { id: Some(185_649_088), zone: Some(7), ..gre };
    assert_xml(
        &gre,
        &LISTED,
        r#"<flow><meta direction="original"><layer3 protonum="2" protoname="ipv4"><src>10.1.1.1</src><dst>10.2.2.2</dst></layer3><layer4 protonum="47" protoname="gre"><srckey>0x10</srckey><dstkey>0x20</dstkey></layer4></meta><meta direction="reply"><layer3 protonum="2" protoname="ipv4"><src>10.2.2.2</src><dst>10.1.1.1</dst></layer3><layer4 protonum="47" protoname="gre"><srckey>0x20</srckey><dstkey>0x10</dstkey></layer4></meta><meta direction="independent"><timeout>99</timeout><mark>0</mark><zone>7</zone><use>1</use><id>185649088</id><unreplied/></meta></flow>"#,
    );
    let unknown = flow(200, "2001:db8::1", "::1.2.3.4", L4::None, 0, 99);
    assert_xml(
        &unknown,
        &LISTED,
        r#"<flow><meta direction="original"><layer3 protonum="10" protoname="ipv6"><src>2001:db8::1</src><dst>::1.2.3.4</dst></layer3><layer4 protonum="200" protoname="unknown"></layer4></meta><meta direction="reply"><layer3 protonum="10" protoname="ipv6"><src>::1.2.3.4</src><dst>2001:db8::1</dst></layer3><layer4 protonum="200" protoname="unknown"></layer4></meta><meta direction="independent"><timeout>99</timeout><mark>0</mark><use>1</use><unreplied/></meta></flow>"#,
    );
}

/// libnetfilter_conntrack omits ICMP's values and prints TCP's states for SCTP.
#[test]
fn xml_of_icmp_and_sctp_has_the_values_of_the_line() {
    let icmp = flow(uapi::IPPROTO_ICMP, "10.1.1.1", "10.2.2.2", L4::Icmp { kind: 8, code: 0, id: 77 }, 0, 99);
    let shown = printed(XML, &icmp, &LISTED);
    assert!(
        shown.contains(r#"<layer4 protonum="1" protoname="icmp"><type>8</type><code>0</code><id>77</id></layer4>"#)
    );
    let sctp = flow(uapi::IPPROTO_SCTP, "10.1.1.1", "10.2.2.2", ports(1, 2), 0, 99);
    let state = Some(ProtoInfo::Sctp(SctpInfo { state: Some(4), ..SctpInfo::default() }));
    assert!(printed(XML, &FlowView { proto: state, ..sctp }, &LISTED).contains("<state>ESTABLISHED</state>"));
}

#[test]
fn xml_events_have_type_time_and_helper_in_this_order() {
    let context = RecordContext { event: Some(Event::New), now_ns: 1_795_202_422 * NS_PER_SECOND, requester: None };
    let udp = flow(uapi::IPPROTO_UDP, "10.1.1.1", "10.2.2.2", ports(1001, 80), 0, 100);
    let udp = FlowView { zone: Some(7), id: Some(1_394_710_715), mark: Some(5), use_count: None, ..udp };
    let captured = r#"<flow type="new"><meta direction="original"><layer3 protonum="2" protoname="ipv4"><src>10.1.1.1</src><dst>10.2.2.2</dst></layer3><layer4 protonum="17" protoname="udp"><sport>1001</sport><dport>80</dport></layer4></meta><meta direction="reply"><layer3 protonum="2" protoname="ipv4"><src>10.2.2.2</src><dst>10.1.1.1</dst></layer3><layer4 protonum="17" protoname="udp"><sport>80</sport><dport>1001</dport></layer4></meta><meta direction="independent"><timeout>100</timeout><mark>5</mark><zone>7</zone><id>1394710715</id><unreplied/></meta><when><hour>19</hour><min>20</min><sec>22</sec><wday>6</wday><day>20</day><month>11</month><year>2026</year></when></flow>"#;
    assert_xml(&udp, &context, captured);
    assert_xml(&helped(udp, "<sip>"), &context, &captured.replace("</flow>", "<helper>&lt;sip&gt;</helper></flow>"));
}

pub(in crate::output) fn ftp_expectation() -> ExpectView<'static> {
    ExpectView {
        family: uapi::AF_INET,
        tuple: Some(tuple(uapi::IPPROTO_TCP, "192.0.2.2", "198.51.100.10", ports(0, 41739))),
        mask: Some(tuple(uapi::IPPROTO_TCP, "255.255.255.255", "255.255.255.255", ports(0, 65535))),
        master: Some(tuple(uapi::IPPROTO_TCP, "192.0.2.2", "198.51.100.10", ports(36150, 21))),
        timeout: Some(299),
        helper: Some("ftp"),
        class: Some(0),
        flags: Some(0),
        ..ExpectView::default()
    }
}

const FTP_EXPECTATION: &str = "299 proto=6 src=192.0.2.2 dst=198.51.100.10 sport=0 dport=41739 mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.0.2.2 master-dst=198.51.100.10 sport=36150 dport=21 class=0 helper=ftp\n";

pub(in crate::output) fn printed_expect(
    format: Format,
    expect: &ExpectView<'_>,
    context: &RecordContext<'_>,
) -> String {
    let mut out = Vec::new();
    let mut printer = Printer::new(format, Subject::Expectations, TimeZone::UTC);
    printer.print_expect(&mut out, expect, context);
    printer.finish(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn expectations() {
    let expect = ftp_expectation();
    assert_eq!(printed_expect(TEXT, &expect, &LISTED), FTP_EXPECTATION);
    let destroyed = RecordContext { event: Some(Event::Destroy), ..LISTED };
    assert_eq!(printed_expect(TEXT, &expect, &destroyed), format!("[DESTROY] {FTP_EXPECTATION}"));
    let stamped = RecordContext { now_ns: 1_795_197_573_447_833_000, ..LISTED };
    let format = Format { timestamp: true, extended: true, id: true, ..TEXT };
    assert_eq!(printed_expect(format, &expect, &stamped), format!("[1795197573.447833]\t{FTP_EXPECTATION}"));
}

#[test]
fn expectations_with_flags_and_zone() {
    let flags = Some(uapi::NF_CT_EXPECT_PERMANENT | uapi::NF_CT_EXPECT_USERSPACE);
    let expect = ExpectView { flags, zone: Some(3), ..ftp_expectation() };
    let expected = FTP_EXPECTATION.replace(" class=0", " zone=3 PERMANENT,USERSPACE class=0");
    assert_eq!(printed_expect(TEXT, &expect, &LISTED), expected);
    let xml = printed_expect(XML, &expect, &LISTED);
    assert!(xml.contains("<class>0</class><zone>3</zone><permanent/><userspace/></meta></flow>"), "{xml}");
}

#[test]
fn expectations_as_xml() {
    let captured = r#"<flow><layer3 protonum="2" protoname="ipv4"><expected><src>192.0.2.2</src><dst>198.51.100.10</dst></expected><mask><src>255.255.255.255</src><dst>255.255.255.255</dst></mask><master><src>192.0.2.2</src><dst>198.51.100.10</dst></master></layer3><layer4 protonum="6" protoname="tcp"><expected><sport>0</sport><dport>41739</dport></expected><mask><sport>0</sport><dport>65535</dport></mask><master><sport>36150</sport><dport>21</dport></master></layer4><meta><helper-name>ftp</helper-name><timeout>299</timeout><class>0</class></meta></flow>"#;
    let head = XML_HEAD.replace("conntrack", "expect");
    assert_eq!(printed_expect(XML, &ftp_expectation(), &LISTED), format!("{head}{captured}\n</expect>\n"));
}

/// Measures the time per line: `cargo test --release -p ctflow line_cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement without assertions"]
fn line_cost() {
    const LINES: u32 = 4_000_000;
    let format = Format { extended: true, id: true, timestamp: true, ..TEXT };
    let context = RecordContext { event: Some(Event::Destroy), ..LISTED };
    let plain = as_event(tcp("192.0.2.2", "198.51.100.10", (40001, 443), ESTABLISHED, ASSURED, 432_000));
    let plain = FlowView { id: Some(250_147_308), event_ns: Some(START_NS), ..plain };
    let full = FlowView { event_ns: Some(START_NS), use_count: None, ..translated() };
    let ipv6 = tcp("2001:db8:1::2", "2001:db8:2::10", (40001, 443), ESTABLISHED, ASSURED, 432_000);
    let ipv6 = FlowView { id: Some(250_147_308), event_ns: Some(START_NS), ..as_event(ipv6) };
    let flags = TcpFlags { flags: 0x23, mask: 0 };
    let tracked = TcpInfo {
        state: Some(ESTABLISHED),
        wscale_orig: Some(7),
        wscale_reply: Some(7),
        flags_orig: Some(flags),
        flags_reply: Some(flags),
    };
    let status = Some(ASSURED | uapi::IPS_CONFIRMED | uapi::IPS_SRC_NAT_DONE | uapi::IPS_DST_NAT_DONE);
    let whole = FlowView { proto: Some(ProtoInfo::Tcp(tracked)), status, event_ns: None, use_count: Some(1), ..full };
    let listed = FlowView { start_ns: None, counters_orig: None, counters_reply: None, ..whole };
    let ktimestamp = Format { ktimestamp: true, ..TEXT };
    let cases = [
        ("ipv4", TEXT, plain),
        ("ipv4 counters", TEXT, full),
        ("ipv4 ktimestamp", ktimestamp, full),
        ("ipv6", TEXT, ipv6),
        ("ipv4 xml", XML, full),
        ("ipv4 save", SAVE, full),
        ("ipv6 save", SAVE, ipv6),
        ("ipv4 json", JSON, full),
        ("-L extended", TEXT, listed),
        ("-L json", JSON, listed),
        ("-L all extended", TEXT, whole),
        ("-L all json", JSON, whole),
        ("-L all xml", XML, whole),
        ("-L all save", SAVE, whole),
    ];
    for (name, encoding, flow) in cases {
        let listed = name.starts_with("-L");
        let format = Format { encoding: encoding.encoding, ktimestamp: encoding.ktimestamp, ..format };
        let format = if listed { Format { id: false, timestamp: false, ..format } } else { format };
        let context = if listed { LISTED } else { context };
        let mut printer = Printer::new(format, Subject::Flows, TimeZone::UTC);
        let mut out = Vec::with_capacity(1 << 16);
        let start = std::time::Instant::now();
        let mut bytes = 0;
        for _ in 0..LINES {
            if out.len() > 1 << 15 {
                bytes += out.len();
                std::hint::black_box(&mut out).clear();
            }
            printer.print_flow(&mut out, std::hint::black_box(&flow), std::hint::black_box(&context));
        }
        let ns = start.elapsed().as_secs_f64() * 1e9 / f64::from(LINES);
        println!("{name:15} {ns:6.1} ns/line  {:4} bytes/line", (bytes + out.len()) / usize::try_from(LINES).unwrap());
    }
}
