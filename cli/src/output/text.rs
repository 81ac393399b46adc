//! conntrack's default line, for flows and expectations, in listings and as events.
//!
//! A line is its fields in a fixed order, each with a space behind it; a field that the kernel did not send is left
//! out. The last space becomes the line's end.

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::{Counters, FlowView, Labels};
use ctflow_parser::record::Event;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;
use jiff::tz::TimeZone;

use super::put::Append;
use super::{Format, NS_PER_SECOND, Printer, RecordContext, Requester, when};
use crate::labels::LabelMap;
use crate::protocol::{self, Fields};

/// More than all fields but the texts take. Reserved once a line, so that its pieces do not grow the buffer.
const LINE_BYTES: usize = 1024;

/// Appends one flow's line.
pub(super) fn append_flow(printer: &Printer, out: &mut Vec<u8>, flow: &FlowView<'_>, occasion: &RecordContext<'_>) {
    let format = &printer.format;
    out.reserve(LINE_BYTES);
    if let Some(event) = occasion.event {
        if format.timestamp {
            timestamp(out, super::event_ns(flow, occasion));
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
    flow_tail(printer, out, flow, occasion);
    finish_line(out, occasion.requester);
}

/// Appends one expectation's line. The kernel stamps none of them, so the time is always the reader's.
pub(super) fn append_expect(format: &Format, out: &mut Vec<u8>, expect: &ExpectView<'_>, occasion: &RecordContext<'_>) {
    out.reserve(LINE_BYTES);
    if format.timestamp {
        timestamp(out, occasion.now_ns);
    }
    if let Some(event) = occasion.event {
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
    finish_line(out, None); // conntrack says whose request it was of flows only
}

/// `[seconds.microseconds]` and a tab.
fn timestamp(out: &mut Vec<u8>, ns: u64) {
    out.literal(b"[");
    out.decimal(ns / NS_PER_SECOND);
    out.literal(b".");
    out.six_digits(u32::try_from(ns % NS_PER_SECOND / 1_000).unwrap_or(0));
    out.literal(b"]\t");
}

fn event_tag(out: &mut Vec<u8>, event: Event) {
    out.literal(match event {
        Event::New => b"    [NEW] ",
        Event::Update => b" [UPDATE] ",
        Event::Destroy => b"[DESTROY] ",
    });
}

fn family(out: &mut Vec<u8>, family: u8) {
    match family {
        uapi::AF_INET => out.literal(b"ipv4     2 "),
        uapi::AF_INET6 => out.literal(b"ipv6     10 "),
        other => number_field(out, b"unknown  ", other),
    }
}

/// The name padded to 8, and the number. Whole literals for those that fill most tables.
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

#[inline]
fn tuple(out: &mut Vec<u8>, tuple: &Tuple) {
    out.literal(b"src=");
    out.address(tuple.src);
    out.literal(b" dst=");
    out.address(tuple.dst);
    out.literal(b" ");
    l4_fields(out, tuple.proto, tuple.l4);
}

/// What the protocol adds. What the kernel should have sent and did not is 0: a DCCP flow without its tracker.
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

#[inline]
fn counters(out: &mut Vec<u8>, counters: Option<Counters>) {
    if let Some(Counters { packets, bytes }) = counters {
        number_field(out, b"packets=", packets);
        number_field(out, b"bytes=", bytes);
    }
}

/// One word only: an offloaded flow does not show that it is assured, too.
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

#[inline]
fn marks(out: &mut Vec<u8>, flow: &FlowView<'_>) {
    if let Some(mark) = flow.mark {
        number_field(out, b"mark=", mark);
    }
    if let Some(secmark) = flow.secmark {
        number_field(out, b"secmark=", secmark);
    }
    if let Some(context) = flow.secctx {
        text_field(out, b"secctx=", context);
    }
    if let Some(zone) = flow.zone {
        number_field(out, b"zone=", zone);
    }
}

#[inline]
fn flow_tail(printer: &Printer, out: &mut Vec<u8>, flow: &FlowView<'_>, occasion: &RecordContext<'_>) {
    if let Some(seconds) = super::lifetime_seconds(flow, occasion) {
        number_field(out, b"delta-time=", seconds);
    }
    if printer.format.ktimestamp {
        start_and_stop(out, &printer.zone, flow);
    }
    if let Some(helper) = flow.helper {
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

/// When it began, and, in destroy events, ended; in local time.
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

/// `labels=a,b` in the order of their numbers. Those without a name are passed over; where none has one, the bare
/// word says that there are some.
fn label_names(out: &mut Vec<u8>, labels: Labels, names: &LabelMap) {
    out.literal(b"labels");
    let bare = out.len();
    for name in labels.iter().filter_map(|number| names.name(number)) {
        out.literal(if out.len() == bare { b"=" } else { b"," });
        out.text(name);
    }
    out.literal(b" ");
}

/// The awaited tuple, its mask and its master. The mask says what of the tuple counts, so it has the tuple's fields.
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

#[inline]
fn number_field<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], value: impl Into<u64>) {
    out.literal(name);
    out.decimal(value.into());
    out.literal(b" ");
}

fn text_field<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], value: &str) {
    out.literal(name);
    out.text(value);
    out.literal(b" ");
}

/// Says whose request it was, and turns the last field's space into the line's end.
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
