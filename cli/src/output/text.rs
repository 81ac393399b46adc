//! conntrack's default line for flows and expectations, in listings and as events.
//!
//! A line has its fields in a fixed order, each followed by a space. A field that the kernel did not send is omitted.
//! The space after the last field is replaced with the line end.

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::{Counters, FlowView, Labels};
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
    out.reserve(LINE_BYTES);
    if let Some(event) = context.event {
        if format.timestamp {
            timestamp(out, super::event_ns(flow, context));
        }
        event_tag(out, event);
    }
    if format.extended {
        family(out, flow.family);
    }
    let number = flow.orig.or(flow.reply).map_or(0, |tuple| tuple.proto);
    protocol(out, number);
    timeout_and_state(out, flow);
    directions(out, flow);
    status_word(out, flow);
    marks(out, flow);
    flow_tail(printer, out, flow, context);
    finish_line(out, context.requester);
}

/// Appends one expectation's line. The kernel sends no time stamps for expectations, so the time is that of reading.
pub(super) fn append_expect(format: &Format, out: &mut Vec<u8>, expect: &ExpectView<'_>, context: &RecordContext<'_>) {
    out.reserve(LINE_BYTES);
    if format.timestamp {
        timestamp(out, context.now_ns);
    }
    if let Some(event) = context.event {
        event_tag(out, event);
    }
    if let Some(timeout) = expect.timeout {
        out.decimal(timeout.into());
        out.literal(b" ");
    }
    expect_tuples(out, expect);
    if let Some(zone) = expect.zone {
        number_field(out, b"zone=", zone);
    }
    expect_flags(out, expect.flags.unwrap_or(0));
    if let Some(class) = expect.class {
        number_field(out, b"class=", class);
    }
    if let Some(helper) = expect.helper {
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
fn family(out: &mut Vec<u8>, family: u8) {
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

fn timeout_and_state(out: &mut Vec<u8>, flow: &FlowView<'_>) {
    if let Some(timeout) = flow.timeout {
        out.decimal(timeout.into());
        out.literal(b" ");
    }
    if let Some(state) = flow.proto.and_then(|proto| proto.state_name()) {
        out.text(state);
        out.literal(b" ");
    }
}

/// Appends both directions: tuple, zone and counters of each, with `[UNREPLIED]` between them.
fn directions(out: &mut Vec<u8>, flow: &FlowView<'_>) {
    if let Some(orig) = &flow.orig {
        tuple(out, orig);
        orig.zone.into_iter().for_each(|zone| number_field(out, b"zone-orig=", zone));
    }
    counters(out, flow.counters_orig);
    if flow.status.is_some() && !flow.has_status(uapi::IPS_SEEN_REPLY) {
        out.literal(b"[UNREPLIED] ");
    }
    if let Some(reply) = &flow.reply {
        tuple(out, reply);
        reply.zone.into_iter().for_each(|zone| number_field(out, b"zone-reply=", zone));
    }
    counters(out, flow.counters_reply);
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
fn status_word(out: &mut Vec<u8>, flow: &FlowView<'_>) {
    if flow.has_status(uapi::IPS_HW_OFFLOAD) {
        out.literal(b"[HW_OFFLOAD] ");
    } else if flow.has_status(uapi::IPS_OFFLOAD) {
        out.literal(b"[OFFLOAD] ");
    } else if flow.has_status(uapi::IPS_ASSURED) {
        out.literal(b"[ASSURED] ");
    }
}

/// Appends mark, security mark, security context and zone.
#[inline]
fn marks(out: &mut Vec<u8>, flow: &FlowView<'_>) {
    if let Some(mark) = flow.mark {
        number_field(out, b"mark=", mark);
    }
    if let Some(secmark) = flow.secmark {
        number_field(out, b"secmark=", secmark);
    }
    if let Some(secctx) = flow.rare.secctx {
        text_field(out, b"secctx=", secctx);
    }
    if let Some(zone) = flow.zone {
        number_field(out, b"zone=", zone);
    }
}

/// Appends the fields from the flow's age to its labels.
#[inline]
fn flow_tail(printer: &Printer, out: &mut Vec<u8>, flow: &FlowView<'_>, context: &RecordContext<'_>) {
    if let Some(seconds) = super::lifetime_seconds(flow, context) {
        number_field(out, b"delta-time=", seconds);
    }
    if printer.format.ktimestamp {
        start_and_stop(out, &printer.zone, flow);
    }
    if let Some(helper) = flow.rare.helper {
        text_field(out, b"helper=", helper.name);
    }
    if let Some(count) = flow.use_count {
        number_field(out, b"use=", count);
    }
    if let Some(id) = flow.id.filter(|_| printer.format.id) {
        number_field(out, b"id=", id);
    }
    if let Some((labels, names)) = printer.named_labels(flow) {
        label_names(out, labels, names);
    }
}

/// Appends the local time of the flow's start and, in destroy events, of its end.
fn start_and_stop(out: &mut Vec<u8>, zone: &TimeZone, flow: &FlowView<'_>) {
    if let Some(ns) = super::start_ns(flow) {
        out.literal(b"[start=");
        when::append_ctime(out, zone, ns);
        out.literal(b"] ");
    }
    if let Some(ns) = flow.stop_ns {
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
fn expect_tuples(out: &mut Vec<u8>, expect: &ExpectView<'_>) {
    let awaited = expect.tuple.map_or(0, |tuple| tuple.proto);
    number_field(out, b"proto=", awaited);
    if let Some(awaited) = &expect.tuple {
        tuple(out, awaited);
    }
    if let Some(mask) = &expect.mask {
        out.literal(b"mask-src=");
        out.address(mask.src);
        out.literal(b" mask-dst=");
        out.address(mask.dst);
        out.literal(b" ");
        l4_fields(out, awaited, mask.l4);
    }
    if let Some(master) = &expect.master {
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
