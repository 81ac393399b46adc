//! conntrack's default line for flows and expectations, in listings and as events.
//!
//! A line has its fields in a fixed order, each followed by a space. A field that the kernel did not send is omitted.
//! The space after the last field is replaced with the line end.

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::{Counters, FlowView, Labels, RareAttributes};
use ctflow_parser::proto::ProtoInfo;
use ctflow_parser::record::Event;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;
use jiff::tz::TimeZone;

use super::append::Append;
use super::{Format, NS_PER_SECOND, Printer, RecordContext, Requester, when};
use crate::labels::LabelMap;
use crate::protocol::{self, Fields};

/// More bytes than all fields except texts need. They are reserved once a line, so that no piece grows the buffer.
const LINE_BYTES: usize = 1024;

/// Appends one flow's line.
pub(super) fn append_flow(printer: &Printer, out: &mut Vec<u8>, flow: &FlowView<'_>, context: &RecordContext<'_>) {
    let format = &printer.format;
    let FlowView {
        family,
        orig,
        reply,
        status,
        timeout,
        mark,
        id,
        use_count,
        zone,
        secmark,
        proto,
        counters_orig,
        counters_reply,
        start_ns,
        stop_ns,
        event_ns,
        rare:
            RareAttributes {
                helper,
                secctx,
                labels,
                // Not in conntrack's line.
                seqadj_orig: _,
                seqadj_reply: _,
                synproxy: _,
                master: _,
            },
    } = flow;
    out.reserve(LINE_BYTES);
    if let Some(event) = context.event {
        if format.timestamp {
            timestamp(out, super::event_ns(*event_ns, context));
        }
        event_tag(out, event);
    }
    if format.extended {
        family_name(out, *family);
    }
    protocol(out, orig.as_ref().or(reply.as_ref()).map_or(0, |tuple| tuple.proto));
    timeout_and_state(out, *timeout, proto.as_ref());
    direction(out, orig.as_ref(), b"zone-orig=", *counters_orig);
    if status.is_some_and(|set| set & uapi::IPS_SEEN_REPLY == 0) {
        out.literal(b"[UNREPLIED] ");
    }
    direction(out, reply.as_ref(), b"zone-reply=", *counters_reply);
    status_word(out, status.unwrap_or(0));
    marks(out, *mark, *secmark, *secctx, *zone);
    let start_ns = super::known_start(*start_ns);
    if let Some(seconds) = super::lifetime_seconds(start_ns, stop_ns.or(*event_ns), context) {
        number_field(out, b"delta-time=", seconds);
    }
    if format.ktimestamp {
        start_and_stop(out, &printer.zone, start_ns, *stop_ns);
    }
    if let Some(helper) = helper {
        text_field(out, b"helper=", helper.name);
    }
    if let Some(count) = *use_count {
        number_field(out, b"use=", count);
    }
    if let Some(id) = id.filter(|_| format.id) {
        number_field(out, b"id=", id);
    }
    if let Some((labels, names)) = printer.named_labels(*labels) {
        label_names(out, labels, names);
    }
    finish_line(out, context.requester);
}

/// Appends one expectation's line. The kernel sends no time stamps for expectations, so the time is that of reading.
pub(super) fn append_expect(format: &Format, out: &mut Vec<u8>, expect: &ExpectView<'_>, context: &RecordContext<'_>) {
    let ExpectView {
        tuple: awaited,
        mask,
        master,
        timeout,
        helper,
        zone,
        flags,
        class,
        // Not in conntrack's line.
        family: _,
        id: _,
        nat: _,
        function: _,
    } = expect;
    out.reserve(LINE_BYTES);
    if format.timestamp {
        timestamp(out, context.now_ns);
    }
    if let Some(event) = context.event {
        event_tag(out, event);
    }
    if let Some(timeout) = *timeout {
        out.decimal(timeout.into());
        out.literal(b" ");
    }
    expect_tuples(out, awaited.as_ref(), mask.as_ref(), master.as_ref());
    if let Some(zone) = *zone {
        number_field(out, b"zone=", zone);
    }
    expect_flags(out, flags.unwrap_or(0));
    if let Some(class) = *class {
        number_field(out, b"class=", class);
    }
    if let Some(helper) = *helper {
        text_field(out, b"helper=", helper);
    }
    finish_line(out, None); // conntrack names the requesting process for flows only
}

/// Appends `[seconds.microseconds]` and a tab.
fn timestamp(out: &mut Vec<u8>, ns: u64) {
    out.literal(b"[");
    out.decimal(ns / NS_PER_SECOND);
    out.literal(b".");
    out.six_digits(u32::try_from(ns % NS_PER_SECOND / 1_000).unwrap_or(0));
    out.literal(b"]\t");
}

/// Appends the kind of an event, right-aligned like conntrack's.
fn event_tag(out: &mut Vec<u8>, event: Event) {
    out.literal(match event {
        Event::New => b"    [NEW] ",
        Event::Update => b" [UPDATE] ",
        Event::Destroy => b"[DESTROY] ",
    });
}

/// Appends the name and number of an address family (`AF_*`).
fn family_name(out: &mut Vec<u8>, family: u8) {
    match family {
        uapi::AF_INET => out.literal(b"ipv4     2 "),
        uapi::AF_INET6 => out.literal(b"ipv6     10 "),
        other => number_field(out, b"unknown  ", other),
    }
}

/// Appends a protocol's name, padded to 8 characters, and its number. The protocols that fill most tables are literals.
fn protocol(out: &mut Vec<u8>, protocol: u8) {
    match protocol {
        uapi::IPPROTO_TCP => out.literal(b"tcp      6 "),
        uapi::IPPROTO_UDP => out.literal(b"udp      17 "),
        uapi::IPPROTO_ICMP => out.literal(b"icmp     1 "),
        uapi::IPPROTO_ICMPV6 => out.literal(b"icmpv6   58 "),
        other => {
            let padded = out.len() + 8;
            out.text(protocol::name(other));
            out.resize(padded, b' ');
            number_field(out, b" ", other);
        }
    }
}

fn timeout_and_state(out: &mut Vec<u8>, timeout: Option<u32>, proto: Option<&ProtoInfo>) {
    if let Some(timeout) = timeout {
        out.decimal(timeout.into());
        out.literal(b" ");
    }
    if let Some(state) = proto.and_then(ProtoInfo::state_name) {
        out.text(state);
        out.literal(b" ");
    }
}

/// Appends one direction: its tuple, its zone under the name `zone_name`, and its counters.
#[inline]
fn direction<const N: usize>(out: &mut Vec<u8>, side: Option<&Tuple>, zone_name: &[u8; N], traffic: Option<Counters>) {
    if let Some(side) = side {
        tuple(out, side);
        side.zone.into_iter().for_each(|zone| number_field(out, zone_name, zone));
    }
    counters(out, traffic);
}

/// Appends a tuple: addresses, then the fields of its protocol.
#[inline]
fn tuple(out: &mut Vec<u8>, tuple: &Tuple) {
    out.literal(b"src=");
    out.address(tuple.src);
    out.literal(b" dst=");
    out.address(tuple.dst);
    out.literal(b" ");
    l4_fields(out, tuple.proto, tuple.l4);
}

/// Appends the fields that the protocol adds to a tuple. A field that the kernel should have sent and did not is 0,
/// as for a DCCP flow on a kernel without the DCCP tracker.
#[inline]
fn l4_fields(out: &mut Vec<u8>, protocol: u8, l4: L4) {
    let (src, dst) = if let L4::Ports { src, dst } = l4 { (src, dst) } else { (0, 0) };
    match protocol::fields(protocol) {
        Fields::Ports => {
            number_field(out, b"sport=", src);
            number_field(out, b"dport=", dst);
        }
        Fields::Keys => {
            out.literal(b"srckey=0x");
            out.hex(src);
            out.literal(b" dstkey=0x");
            out.hex(dst);
            out.literal(b" ");
        }
        Fields::Icmp => {
            let (kind, code, id) = if let L4::Icmp { kind, code, id } = l4 { (kind, code, id) } else { (0, 0, 0) };
            number_field(out, b"type=", kind);
            number_field(out, b"code=", code);
            number_field(out, b"id=", id);
        }
        Fields::None => {}
    }
}

/// Appends the packets and bytes of a direction.
#[inline]
fn counters(out: &mut Vec<u8>, counters: Option<Counters>) {
    if let Some(Counters { packets, bytes }) = counters {
        number_field(out, b"packets=", packets);
        number_field(out, b"bytes=", bytes);
    }
}

/// Appends one status word at most: an offloaded flow has no `[ASSURED]`, even if it is assured.
#[inline]
fn status_word(out: &mut Vec<u8>, set: u32) {
    if set & uapi::IPS_HW_OFFLOAD != 0 {
        out.literal(b"[HW_OFFLOAD] ");
    } else if set & uapi::IPS_OFFLOAD != 0 {
        out.literal(b"[OFFLOAD] ");
    } else if set & uapi::IPS_ASSURED != 0 {
        out.literal(b"[ASSURED] ");
    }
}

/// Appends mark, security mark, security context and zone.
#[inline]
fn marks(out: &mut Vec<u8>, mark: Option<u32>, secmark: Option<u32>, secctx: Option<&str>, zone: Option<u16>) {
    if let Some(mark) = mark {
        number_field(out, b"mark=", mark);
    }
    if let Some(secmark) = secmark {
        number_field(out, b"secmark=", secmark);
    }
    if let Some(secctx) = secctx {
        text_field(out, b"secctx=", secctx);
    }
    if let Some(zone) = zone {
        number_field(out, b"zone=", zone);
    }
}

/// Appends the local time of the flow's start and, in destroy events, of its end.
fn start_and_stop(out: &mut Vec<u8>, zone: &TimeZone, start_ns: Option<u64>, stop_ns: Option<u64>) {
    if let Some(ns) = start_ns {
        out.literal(b"[start=");
        when::append_ctime(out, zone, ns);
        out.literal(b"] ");
    }
    if let Some(ns) = stop_ns {
        out.literal(b"[stop=");
        when::append_ctime(out, zone, ns);
        out.literal(b"] ");
    }
}

/// Appends `labels=a,b` in ascending order of the labels' numbers. Labels without a name are omitted. If no label has
/// a name, the line has the bare word `labels`.
fn label_names(out: &mut Vec<u8>, labels: Labels, names: &LabelMap) {
    out.literal(b"labels");
    let bare = out.len();
    for name in labels.iter().filter_map(|number| names.name(number)) {
        out.literal(if out.len() == bare { b"=" } else { b"," });
        out.text(name);
    }
    out.literal(b" ");
}

/// Appends the expected tuple, its mask and its master. The mask selects bits of the expected tuple, so it is printed
/// with the fields of that tuple's protocol.
fn expect_tuples(out: &mut Vec<u8>, awaited: Option<&Tuple>, mask: Option<&Tuple>, master: Option<&Tuple>) {
    let protocol = awaited.map_or(0, |tuple| tuple.proto);
    number_field(out, b"proto=", protocol);
    if let Some(awaited) = awaited {
        tuple(out, awaited);
    }
    if let Some(mask) = mask {
        out.literal(b"mask-src=");
        out.address(mask.src);
        out.literal(b" mask-dst=");
        out.address(mask.dst);
        out.literal(b" ");
        l4_fields(out, protocol, mask.l4);
    }
    if let Some(master) = master {
        out.literal(b"master-src=");
        out.address(master.src);
        out.literal(b" master-dst=");
        out.address(master.dst);
        out.literal(b" ");
        l4_fields(out, master.proto, master.l4);
    }
}

/// Appends the names of an expectation's flags, separated by commas.
fn expect_flags(out: &mut Vec<u8>, flags: u32) {
    let names = [
        (uapi::NF_CT_EXPECT_PERMANENT, "PERMANENT"),
        (uapi::NF_CT_EXPECT_INACTIVE, "INACTIVE"),
        (uapi::NF_CT_EXPECT_USERSPACE, "USERSPACE"),
    ];
    let mut first = true;
    for (_, name) in names.into_iter().filter(|(flag, _)| flags & flag != 0) {
        if !first {
            out.literal(b",");
        }
        out.text(name);
        first = false;
    }
    if !first {
        out.literal(b" ");
    }
}

/// Appends a field's name, which ends with `=`, its number and a space.
#[inline]
fn number_field<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], value: impl Into<u64>) {
    out.literal(name);
    out.decimal(value.into());
    out.literal(b" ");
}

/// Appends a field's name, which ends with `=`, its text and a space.
fn text_field<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], value: &str) {
    out.literal(name);
    out.text(value);
    out.literal(b" ");
}

/// Appends the process that requested the change, and replaces the last field's space with the line end.
#[inline]
fn finish_line(out: &mut Vec<u8>, requester: Option<Requester<'_>>) {
    if let Some(Requester { port_id, program }) = requester {
        number_field(out, b"[USERSPACE] portid=", port_id);
        program.into_iter().for_each(|program| text_field(out, b"progname=", program));
    }
    if let Some(last) = out.last_mut() {
        *last = b'\n';
    }
}
