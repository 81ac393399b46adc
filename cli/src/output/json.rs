//! JSON: one object to a line, with every value that the kernel sent, whatever the other options of `-o` are.
//!
//! A key is present if the kernel sent its value. The meaning of a key never changes; new keys may be added at any
//! position. Numbers are integers; counters and time stamps may need all of 64 bits.
//!
//! | object | key | value |
//! |---|---|---|
//! | flow, expectation | `event` | in events: `"new"`, `"update"` or `"destroy"` |
//! | | `event_ns` | in events: the time, in ns since 1970 |
//! | | `event_clock` | in events: the clock of `event_ns`: `"kernel"` (Linux 6.14) or `"reader"`, the time of reading |
//! | | `requester` | in events that a request caused: `{"port_id", "program"}`; `program` if it was found |
//! | | `family` | `"ipv4"`, `"ipv6"` or `"unknown"` |
//! | | `protocol`, `protocol_number` | `"tcp"` and other names, or `"unknown"`; the number |
//! | | `timeout` | seconds until it expires |
//! | | `zone` | of both directions |
//! | | `id` | the kernel's id of the entry |
//! | | `master` | a tuple with its protocol: the flow it belongs to |
//! | flow | `state` | TCP, SCTP or DCCP state by name |
//! | | `role`, `handshake_seq` | DCCP: `"client"` or `"server"`; the number |
//! | | `orig`, `reply` | directions |
//! | | `status`, `status_flags` | the number; the names of its bits: `["SEEN_REPLY","ASSURED"]` |
//! | | `mark`, `secmark`, `secctx`, `use` | as in the line |
//! | | `labels` | numbers, ascending: `[0,127]` |
//! | | `label_names` | with a label file: a name or `null` for each of `labels` |
//! | | `start_ns`, `stop_ns` | the times of its start and end, in ns since 1970 |
//! | | `helper`, `helper_info` | its name; its private data in hex |
//! | | `synproxy` | `{"isn", "its", "tsoff"}` |
//! | tuple, direction | `src`, `dst` | addresses |
//! | | `sport`, `dport` | ports |
//! | | `src_key`, `dst_key` | GRE keys, instead of ports |
//! | | `icmp_type`, `icmp_code`, `icmp_id` | ICMP and ICMPv6 |
//! | | `zone` | of this direction only |
//! | direction | `packets`, `bytes` | counters, if the kernel counts |
//! | | `tcp_wscale`, `tcp_flags`, `tcp_flags_mask` | the window scale; `IP_CT_TCP_FLAG_*`; their mask, if not 0 |
//! | | `vtag` | SCTP's verification tag |
//! | | `seqadj` | sequence adjustment: `{"correction_pos", "offset_before", "offset_after"}`, the offsets signed |
//! | expectation | `tuple`, `mask` | tuples: the expected one, and the mask of its bits that are compared |
//! | | `flags`, `flag_names` | the number; the names: `["PERMANENT","INACTIVE","USERSPACE"]` |
//! | | `class`, `helper`, `function` | the kernel's values |
//! | | `nat` | a tuple with its protocol and `direction`, `"orig"` or `"reply"` |
//! | count (`-C`) | `entries` | the number of entries |
//! | statistics (`-S`) | `cpu` | the CPU's number; one object for each CPU |
//! | | *counter* | under the name of the line: `found`, `insert_failed`, `expect_new`, … |

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::{Counters, FlowView, Helper, Labels, RareAttributes, SeqAdj, Synproxy};
use ctflow_parser::proto::{DccpInfo, ProtoInfo, SctpInfo, TcpFlags, TcpInfo};
use ctflow_parser::record::Event;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

use super::append::Append;
use super::{RecordContext, Requester};
use crate::labels::LabelMap;
use crate::protocol::{self, Fields};

/// More bytes than all values except texts need. They are reserved once a line, so that no piece grows the buffer.
const OBJECT_BYTES: usize = 2048;

/// Appends one flow's object.
pub(super) fn append_flow(
    out: &mut Vec<u8>,
    flow: &FlowView<'_>,
    context: &RecordContext<'_>,
    names: Option<&LabelMap>,
) {
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
        rare,
    } = flow;
    out.reserve(OBJECT_BYTES);
    out.literal(b"{");
    if let Some(event) = context.event {
        event_members(out, event, *event_ns, context);
    }
    family_name(out, *family);
    protocol(out, orig.as_ref().or(reply.as_ref()).map_or(0, |tuple| tuple.proto));
    number_member(out, b"\"timeout\":", *timeout);
    state(out, proto.as_ref());
    let [tracker_orig, tracker_reply] = trackers(proto.as_ref());
    direction(out, b"\"orig\":{", orig.as_ref(), *counters_orig, tracker_orig, rare.seqadj_orig);
    direction(out, b"\"reply\":{", reply.as_ref(), *counters_reply, tracker_reply, rare.seqadj_reply);
    if let Some(set) = *status {
        status_flags(out, set);
    }
    number_member(out, b"\"mark\":", *mark);
    number_member(out, b"\"zone\":", *zone);
    number_member(out, b"\"start_ns\":", *start_ns);
    number_member(out, b"\"stop_ns\":", *stop_ns);
    number_member(out, b"\"use\":", *use_count);
    number_member(out, b"\"id\":", *id);
    rare_members(out, *secmark, rare, names);
    finish_line(out);
}

/// Appends one expectation's object.
pub(super) fn append_expect(out: &mut Vec<u8>, expect: &ExpectView<'_>, context: &RecordContext<'_>) {
    let ExpectView { family, tuple: awaited, mask, master, timeout, id, helper, zone, flags, class, nat, function } =
        expect;
    out.reserve(OBJECT_BYTES);
    out.literal(b"{");
    if let Some(event) = context.event {
        event_members(out, event, None, context);
    }
    family_name(out, *family);
    let awaited_protocol = awaited.map_or(0, |tuple| tuple.proto);
    protocol(out, awaited_protocol);
    number_member(out, b"\"timeout\":", *timeout);
    tuple_object(out, b"\"tuple\":{", awaited.as_ref(), awaited_protocol);
    tuple_object(out, b"\"mask\":{", mask.as_ref(), awaited_protocol);
    tuple_with_protocol(out, b"\"master\":{", master.as_ref());
    number_member(out, b"\"zone\":", *zone);
    if let Some(set) = *flags {
        expect_flags(out, set);
    }
    number_member(out, b"\"class\":", *class);
    number_member(out, b"\"id\":", *id);
    text_member(out, b"\"helper\":", *helper);
    text_member(out, b"\"function\":", *function);
    if let Some(nat) = nat {
        let from_orig = nat.direction == 0;
        out.text(if from_orig { "\"nat\":{\"direction\":\"orig\"," } else { "\"nat\":{\"direction\":\"reply\"," });
        protocol(out, nat.tuple.proto);
        tuple(out, &nat.tuple, nat.tuple.proto);
        close_object(out);
    }
    finish_line(out);
}

/// Appends the members of an event: kind, time, clock and requesting process.
#[inline(never)]
fn event_members(out: &mut Vec<u8>, event: Event, kernel_ns: Option<u64>, context: &RecordContext<'_>) {
    out.text(match event {
        Event::New => "\"event\":\"new\",",
        Event::Update => "\"event\":\"update\",",
        Event::Destroy => "\"event\":\"destroy\",",
    });
    number_member(out, b"\"event_ns\":", Some(kernel_ns.unwrap_or(context.now_ns)));
    out.text(if kernel_ns.is_some() { "\"event_clock\":\"kernel\"," } else { "\"event_clock\":\"reader\"," });
    if let Some(Requester { port_id, program }) = context.requester {
        out.literal(b"\"requester\":{");
        number_member(out, b"\"port_id\":", Some(port_id));
        text_member(out, b"\"program\":", program);
        close_object(out);
    }
}

#[inline]
fn family_name(out: &mut Vec<u8>, family: u8) {
    match family {
        uapi::AF_INET => out.literal(b"\"family\":\"ipv4\","),
        uapi::AF_INET6 => out.literal(b"\"family\":\"ipv6\","),
        _ => out.literal(b"\"family\":\"unknown\","),
    }
}

/// Appends a protocol's name and number. The protocols that fill most tables are literals.
#[inline]
fn protocol(out: &mut Vec<u8>, protocol: u8) {
    match protocol {
        uapi::IPPROTO_TCP => out.literal(b"\"protocol\":\"tcp\",\"protocol_number\":6,"),
        uapi::IPPROTO_UDP => out.literal(b"\"protocol\":\"udp\",\"protocol_number\":17,"),
        other => {
            out.literal(b"\"protocol\":\"");
            out.text(protocol::name(other));
            number_member(out, b"\",\"protocol_number\":", Some(other));
        }
    }
}

/// Appends the tracker's state and, for DCCP, role and handshake number.
#[inline]
fn state(out: &mut Vec<u8>, proto: Option<&ProtoInfo>) {
    let Some(proto) = proto else { return };
    if let Some(state) = proto.state_name() {
        out.literal(b"\"state\":\"");
        out.text(state);
        out.literal(b"\",");
    }
    if let ProtoInfo::Dccp(DccpInfo { role, handshake_seq, .. }) = proto {
        if let Some(role) = role {
            out.text(if *role == 0 { "\"role\":\"client\"," } else { "\"role\":\"server\"," });
        }
        number_member(out, b"\"handshake_seq\":", *handshake_seq);
    }
}

/// The values that a protocol's tracker keeps for one direction.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct DirectionTracker {
    wscale: Option<u8>,
    flags: Option<TcpFlags>,
    vtag: Option<u32>,
}

/// The tracker's values of the original direction and of the reply direction.
#[inline]
fn trackers(proto: Option<&ProtoInfo>) -> [DirectionTracker; 2] {
    let none = DirectionTracker::default();
    match proto {
        Some(ProtoInfo::Tcp(TcpInfo { wscale_orig, wscale_reply, flags_orig, flags_reply, .. })) => [
            DirectionTracker { wscale: *wscale_orig, flags: *flags_orig, ..none },
            DirectionTracker { wscale: *wscale_reply, flags: *flags_reply, ..none },
        ],
        Some(ProtoInfo::Sctp(SctpInfo { vtag_orig, vtag_reply, .. })) => {
            [DirectionTracker { vtag: *vtag_orig, ..none }, DirectionTracker { vtag: *vtag_reply, ..none }]
        }
        Some(ProtoInfo::Dccp(_)) | None => [none; 2],
    }
}

/// Appends a direction's object; nothing if the kernel sent no value of it.
#[inline]
fn direction<const N: usize>(
    out: &mut Vec<u8>,
    key: &[u8; N],
    side: Option<&Tuple>,
    counters: Option<Counters>,
    tracker: DirectionTracker,
    seqadj: Option<SeqAdj>,
) {
    if side.is_none() && counters.is_none() && seqadj.is_none() && tracker == DirectionTracker::default() {
        return;
    }
    out.literal(key);
    if let Some(side) = side {
        tuple(out, side, side.proto);
    }
    if let Some(Counters { packets, bytes }) = counters {
        number_member(out, b"\"packets\":", Some(packets));
        number_member(out, b"\"bytes\":", Some(bytes));
    }
    number_member(out, b"\"tcp_wscale\":", tracker.wscale);
    number_member(out, b"\"tcp_flags\":", tracker.flags.map(|flags| flags.flags));
    number_member(out, b"\"tcp_flags_mask\":", tracker.flags.map(|flags| flags.mask).filter(|mask| *mask != 0));
    number_member(out, b"\"vtag\":", tracker.vtag);
    if let Some(seqadj) = seqadj {
        sequence_adjustment(out, seqadj);
    }
    close_object(out);
}

fn sequence_adjustment(out: &mut Vec<u8>, seqadj: SeqAdj) {
    out.literal(b"\"seqadj\":{");
    number_member(out, b"\"correction_pos\":", Some(seqadj.correction_pos));
    signed_member(out, b"\"offset_before\":", seqadj.offset_before);
    signed_member(out, b"\"offset_after\":", seqadj.offset_after);
    close_object(out);
}

/// Appends the members of a tuple, with the fields of `protocol`.
#[inline]
fn tuple(out: &mut Vec<u8>, tuple: &Tuple, protocol: u8) {
    out.literal(b"\"src\":\"");
    out.address(tuple.src);
    out.literal(b"\",\"dst\":\"");
    out.address(tuple.dst);
    out.literal(b"\",");
    match tuple.l4 {
        L4::None => {}
        L4::Ports { src, dst } if protocol::fields(protocol) == Fields::Keys => {
            number_member(out, b"\"src_key\":", Some(src));
            number_member(out, b"\"dst_key\":", Some(dst));
        }
        L4::Ports { src, dst } => {
            number_member(out, b"\"sport\":", Some(src));
            number_member(out, b"\"dport\":", Some(dst));
        }
        L4::Icmp { kind, code, id } => {
            number_member(out, b"\"icmp_type\":", Some(kind));
            number_member(out, b"\"icmp_code\":", Some(code));
            number_member(out, b"\"icmp_id\":", Some(id));
        }
    }
    number_member(out, b"\"zone\":", tuple.zone);
}

/// Appends an object for a tuple, with the fields of `protocol`.
fn tuple_object<const N: usize>(out: &mut Vec<u8>, key: &[u8; N], value: Option<&Tuple>, protocol: u8) {
    if let Some(value) = value {
        out.literal(key);
        tuple(out, value, protocol);
        close_object(out);
    }
}

/// Appends an object for a tuple that includes the tuple's protocol.
fn tuple_with_protocol<const N: usize>(out: &mut Vec<u8>, key: &[u8; N], value: Option<&Tuple>) {
    if let Some(value) = value {
        out.literal(key);
        protocol(out, value.proto);
        tuple(out, value, value.proto);
        close_object(out);
    }
}

/// The names of the status bits, from bit 0 on: each as quoted array element with a comma, and the length of that. A
/// name is copied in the width of the longest one and then truncated, as in [`super::append`].
static STATUS_FLAGS: [([u8; 16], u8); 16] = [
    padded(b"\"EXPECTED\","),
    padded(b"\"SEEN_REPLY\","),
    padded(b"\"ASSURED\","),
    padded(b"\"CONFIRMED\","),
    padded(b"\"SRC_NAT\","),
    padded(b"\"DST_NAT\","),
    padded(b"\"SEQ_ADJUST\","),
    padded(b"\"SRC_NAT_DONE\","),
    padded(b"\"DST_NAT_DONE\","),
    padded(b"\"DYING\","),
    padded(b"\"FIXED_TIMEOUT\","),
    padded(b"\"TEMPLATE\","),
    padded(b"\"UNTRACKED\","),
    padded(b"\"HELPER\","),
    padded(b"\"OFFLOAD\","),
    padded(b"\"HW_OFFLOAD\","),
];

/// `text` padded to 16 bytes, and its length.
const fn padded<const N: usize>(text: &[u8; N]) -> ([u8; 16], u8) {
    let mut bytes = [b' '; 16];
    let mut length = 0u8;
    while (length as usize) < N {
        bytes[length as usize] = text[length as usize];
        length += 1;
    }
    (bytes, length)
}

/// Appends a status as number and as the names of its bits. Bits without a name are in the number only.
#[inline]
fn status_flags(out: &mut Vec<u8>, set: u32) {
    number_member(out, b"\"status\":", Some(set));
    out.literal(b"\"status_flags\":[");
    let mut rest = set & 0xffff;
    while rest != 0 {
        let Some((name, length)) = STATUS_FLAGS.get(rest.trailing_zeros() as usize) else { break };
        let end = out.len() + usize::from(*length);
        out.literal(name);
        out.truncate(end);
        rest &= rest - 1;
    }
    close_array(out);
}

/// Appends the values that few flows have. This function is kept out of line, so that its caller stays small.
#[inline(never)]
fn rare_members(out: &mut Vec<u8>, secmark: Option<u32>, rare: &RareAttributes<'_>, names: Option<&LabelMap>) {
    let RareAttributes {
        helper,
        secctx,
        labels,
        seqadj_orig: _, // in the directions' objects
        seqadj_reply: _,
        synproxy,
        master,
    } = rare;
    number_member(out, b"\"secmark\":", secmark);
    text_member(out, b"\"secctx\":", *secctx);
    if let Some(set) = *labels {
        label_numbers(out, set, names);
    }
    if let Some(Helper { name, info }) = helper {
        text_member(out, b"\"helper\":", Some(name));
        helper_info(out, info);
    }
    tuple_with_protocol(out, b"\"master\":{", master.as_ref());
    if let Some(Synproxy { isn, its, tsoff }) = *synproxy {
        out.literal(b"\"synproxy\":{");
        number_member(out, b"\"isn\":", Some(isn));
        number_member(out, b"\"its\":", Some(its));
        number_member(out, b"\"tsoff\":", Some(tsoff));
        close_object(out);
    }
}

fn label_numbers(out: &mut Vec<u8>, set: Labels, names: Option<&LabelMap>) {
    out.literal(b"\"labels\":[");
    for number in set.iter() {
        out.decimal(number.into());
        out.literal(b",");
    }
    close_array(out);
    let Some(names) = names else { return };
    out.literal(b"\"label_names\":[");
    for number in set.iter() {
        match names.name(number) {
            Some(name) => quoted(out, name),
            None => out.literal(b"null"),
        }
        out.literal(b",");
    }
    close_array(out);
}

/// Appends a helper's private data in hexadecimal; nothing if it is empty.
fn helper_info(out: &mut Vec<u8>, info: &[u8]) {
    if info.is_empty() {
        return;
    }
    out.literal(b"\"helper_info\":\"");
    info.iter().for_each(|byte| hex_byte(out, *byte));
    out.literal(b"\",");
}

fn expect_flags(out: &mut Vec<u8>, set: u32) {
    number_member(out, b"\"flags\":", Some(set));
    out.literal(b"\"flag_names\":[");
    let names = [
        (uapi::NF_CT_EXPECT_PERMANENT, "\"PERMANENT\","),
        (uapi::NF_CT_EXPECT_INACTIVE, "\"INACTIVE\","),
        (uapi::NF_CT_EXPECT_USERSPACE, "\"USERSPACE\","),
    ];
    names.iter().filter(|(flag, _)| set & flag != 0).for_each(|(_, name)| out.text(name));
    close_array(out);
}

/// Appends a member: a key, which includes quotes and colon, and a number. Without a number, appends nothing.
#[inline]
fn number_member<const N: usize, V: Into<u64>>(out: &mut Vec<u8>, key: &[u8; N], value: Option<V>) {
    if let Some(value) = value {
        out.literal(key);
        out.decimal(value.into());
        out.literal(b",");
    }
}

/// Appends a member: a key, which includes quotes and colon, and a number that `value` holds in two's complement.
fn signed_member<const N: usize>(out: &mut Vec<u8>, key: &[u8; N], value: u32) {
    let value = value.cast_signed();
    out.literal(key);
    if value < 0 {
        out.literal(b"-");
    }
    out.decimal(value.unsigned_abs().into());
    out.literal(b",");
}

/// Appends a member: a key, which includes quotes and colon, and a text. Without a text, appends nothing.
fn text_member<const N: usize>(out: &mut Vec<u8>, key: &[u8; N], value: Option<&str>) {
    if let Some(value) = value {
        out.literal(key);
        quoted(out, value);
        out.literal(b",");
    }
}

/// Appends a text in quotes. Quotes, backslashes and control characters are escaped.
pub(super) fn quoted(out: &mut Vec<u8>, text: &str) {
    let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    out.literal(b"\"");
    if text.bytes().all(plain) {
        out.text(text);
    } else {
        text.bytes().for_each(|byte| if plain(byte) { out.push(byte) } else { escaped(out, byte) });
    }
    out.literal(b"\"");
}

/// Appends a byte as an escape.
fn escaped(out: &mut Vec<u8>, byte: u8) {
    if let b'"' | b'\\' = byte {
        out.literal(&[b'\\', byte]);
    } else {
        out.literal(b"\\u00");
        hex_byte(out, byte);
    }
}

fn hex_byte(out: &mut Vec<u8>, byte: u8) {
    out.hex(u16::from(byte >> 4));
    out.hex(u16::from(byte & 0xf));
}

/// Replaces the last element's comma with the array's end and a comma.
#[inline]
fn close_array(out: &mut Vec<u8>) {
    close_with(out, b"],");
}

/// Replaces the last member's comma with the object's end and a comma.
#[inline]
fn close_object(out: &mut Vec<u8>) {
    close_with(out, b"},");
}

/// Replaces the last member's comma with the object's end and the line end.
#[inline]
pub(super) fn finish_line(out: &mut Vec<u8>) {
    close_with(out, b"}\n");
}

/// Replaces a comma at the end of `out`, if there is one, with `closing`.
#[inline]
fn close_with(out: &mut Vec<u8>, closing: &[u8; 2]) {
    if out.last() == Some(&b',') {
        out.truncate(out.len() - 1);
    }
    out.literal(closing);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::conntrack_lines::{
        LISTED, NOW_NS, TEXT, ftp_expectation, ports, printed, printed_expect, tuple,
    };
    use super::super::{Encoding, Format};
    use super::*;

    const JSON: Format = Format { encoding: Encoding::Json, ..TEXT };

    fn parsed(text: &str) -> Value {
        assert!(text.ends_with("}\n") && text.matches('\n').count() == 1, "{text}");
        serde_json::from_str(text).unwrap()
    }

    fn tcp(orig: bool) -> Tuple {
        let zone = Some(if orig { 3 } else { 4 });
        let (src, dst) = if orig { ("192.0.2.2", "198.51.100.10") } else { ("198.51.100.10", "198.51.100.1") };
        let l4 = if orig { ports(41002, 8080) } else { ports(8080, 41002) };
        Tuple { zone, ..tuple(uapi::IPPROTO_TCP, src, dst, l4) }
    }

    /// A flow with a value for everything that a TCP flow can have.
    fn full() -> FlowView<'static> {
        let seqadj =
            |offset: i32| Some(SeqAdj { correction_pos: 9, offset_before: offset.cast_unsigned(), offset_after: 11 });
        FlowView {
            family: uapi::AF_INET,
            orig: Some(tcp(true)),
            reply: Some(tcp(false)),
            status: Some(0b1_0000_0000_0000_1110),
            timeout: Some(119),
            mark: Some(42),
            id: Some(250_147_308),
            use_count: Some(2),
            zone: Some(7),
            secmark: Some(5),
            proto: Some(ProtoInfo::Tcp(TcpInfo {
                state: Some(7),
                wscale_orig: Some(7),
                wscale_reply: Some(14),
                flags_orig: Some(TcpFlags { flags: 0x23, mask: 0 }),
                flags_reply: Some(TcpFlags { flags: 1, mask: 10 }),
            })),
            counters_orig: Some(Counters { packets: 7, bytes: u64::MAX }),
            counters_reply: Some(Counters { packets: 5, bytes: 272 }),
            start_ns: Some(1_795_197_495_756_137_333),
            stop_ns: Some(NOW_NS),
            event_ns: Some(NOW_NS + 1),
            rare: RareAttributes {
                helper: Some(Helper { name: "sip", info: &[0, 0xff, 0x1a] }),
                secctx: Some("a\"b\\c\n\u{1}é"),
                labels: Some(Labels(1 << 127 | 1 << 9 | 1)),
                seqadj_orig: seqadj(-3),
                seqadj_reply: seqadj(3),
                synproxy: Some(Synproxy { isn: 1, its: 2, tsoff: u32::MAX }),
                master: Some(tuple(uapi::IPPROTO_UDP, "192.0.2.2", "198.51.100.10", ports(36150, 5060))),
            },
        }
    }

    #[test]
    fn every_key_of_a_flow() {
        let requester = Some(Requester { port_id: 375, program: Some("conntrack") });
        let context = RecordContext { event: Some(Event::Destroy), now_ns: NOW_NS, requester };
        let expected = json!({
            "event": "destroy", "event_ns": NOW_NS + 1, "event_clock": "kernel",
            "requester": {"port_id": 375, "program": "conntrack"},
            "family": "ipv4", "protocol": "tcp", "protocol_number": 6, "timeout": 119, "state": "TIME_WAIT",
            "orig": {
                "src": "192.0.2.2", "dst": "198.51.100.10", "sport": 41002, "dport": 8080, "zone": 3,
                "packets": 7, "bytes": u64::MAX, "tcp_wscale": 7, "tcp_flags": 35,
                "seqadj": {"correction_pos": 9, "offset_before": -3, "offset_after": 11},
            },
            "reply": {
                "src": "198.51.100.10", "dst": "198.51.100.1", "sport": 8080, "dport": 41002, "zone": 4,
                "packets": 5, "bytes": 272, "tcp_wscale": 14, "tcp_flags": 1, "tcp_flags_mask": 10,
                "seqadj": {"correction_pos": 9, "offset_before": 3, "offset_after": 11},
            },
            "status": 65550, "status_flags": ["SEEN_REPLY", "ASSURED", "CONFIRMED"],
            "mark": 42, "zone": 7, "start_ns": 1_795_197_495_756_137_333_u64, "stop_ns": NOW_NS, "use": 2,
            "id": 250_147_308, "secmark": 5, "secctx": "a\"b\\c\n\u{1}é",
            "labels": [0, 9, 127], "label_names": ["vpn", null, "big"],
            "helper": "sip", "helper_info": "00ff1a",
            "master": {
                "protocol": "udp", "protocol_number": 17,
                "src": "192.0.2.2", "dst": "198.51.100.10", "sport": 36150, "dport": 5060,
            },
            "synproxy": {"isn": 1, "its": 2, "tsoff": u32::MAX},
        });
        assert_eq!(parsed(&printed(JSON, &full(), &context)), expected);
    }

    #[test]
    fn other_trackers_and_protocols() {
        let of = |proto| parsed(&printed(JSON, &FlowView { proto: Some(proto), ..full() }, &LISTED));
        let sctp = of(ProtoInfo::Sctp(SctpInfo { state: Some(4), vtag_orig: Some(1), vtag_reply: Some(2) }));
        assert_eq!(
            [&sctp["state"], &sctp["orig"]["vtag"], &sctp["reply"]["vtag"]],
            [&json!("ESTABLISHED"), &json!(1), &json!(2)]
        );
        let dccp = of(ProtoInfo::Dccp(DccpInfo { state: Some(3), role: Some(1), handshake_seq: Some(8) }));
        assert_eq!(
            [&dccp["state"], &dccp["role"], &dccp["handshake_seq"]],
            [&json!("PARTOPEN"), &json!("server"), &json!(8)]
        );
        let orig = |proto, l4| {
            let orig = Some(tuple(proto, "2001:db8::1", "2001:db8::2", l4));
            printed(JSON, &FlowView { family: uapi::AF_INET6, orig, ..FlowView::default() }, &LISTED)
        };
        let expected = r#"{"family":"ipv6","protocol":"gre","protocol_number":47,"orig":{"src":"2001:db8::1","dst":"2001:db8::2","src_key":1,"dst_key":2}}"#;
        assert_eq!(orig(uapi::IPPROTO_GRE, ports(1, 2)).trim_end(), expected);
        let expected = r#"{"family":"ipv6","protocol":"icmpv6","protocol_number":58,"orig":{"src":"2001:db8::1","dst":"2001:db8::2","icmp_type":128,"icmp_code":0,"icmp_id":9}}"#;
        let ping = L4::Icmp { kind: 128, code: 0, id: 9 };
        assert_eq!(orig(uapi::IPPROTO_ICMPV6, ping).trim_end(), expected);
        let unknown = parsed(&orig(200, L4::None));
        assert_eq!([&unknown["protocol"], &unknown["protocol_number"]], [&json!("unknown"), &json!(200)]);
    }

    #[test]
    fn values_that_the_kernel_did_not_send_have_no_key() {
        let empty = FlowView::default();
        assert_eq!(
            printed(JSON, &empty, &LISTED),
            "{\"family\":\"unknown\",\"protocol\":\"unknown\",\"protocol_number\":0}\n"
        );
        let context = RecordContext { event: Some(Event::New), now_ns: 5, requester: None };
        let event = parsed(&printed(JSON, &FlowView { status: Some(0), ..empty }, &context));
        assert_eq!(
            [&event["event"], &event["event_ns"], &event["event_clock"]],
            [&json!("new"), &json!(5), &json!("reader")]
        );
        assert_eq!([&event["status"], &event["status_flags"]], [&json!(0), &json!([])]);
        assert_eq!(event.as_object().unwrap().len(), 8);
    }

    #[test]
    fn every_status_flag_by_name() {
        let all = parsed(&printed(JSON, &FlowView { status: Some(u32::MAX), ..FlowView::default() }, &LISTED));
        let names = [
            "EXPECTED",
            "SEEN_REPLY",
            "ASSURED",
            "CONFIRMED",
            "SRC_NAT",
            "DST_NAT",
            "SEQ_ADJUST",
            "SRC_NAT_DONE",
            "DST_NAT_DONE",
            "DYING",
            "FIXED_TIMEOUT",
            "TEMPLATE",
            "UNTRACKED",
            "HELPER",
            "OFFLOAD",
            "HW_OFFLOAD",
        ];
        assert_eq!((&all["status"], &all["status_flags"]), (&json!(u32::MAX), &json!(names)));
    }

    #[test]
    fn every_key_of_an_expectation() {
        let nat = ctflow_parser::expect::ExpectNat { direction: 1, tuple: tcp(false) };
        let expect = ExpectView {
            id: Some(6),
            zone: Some(3),
            flags: Some(7),
            nat: Some(nat),
            function: Some("nat-follow-master"),
            ..ftp_expectation()
        };
        let context = RecordContext { event: Some(Event::New), now_ns: 5, requester: None };
        let expected = json!({
            "event": "new", "event_ns": 5, "event_clock": "reader",
            "family": "ipv4", "protocol": "tcp", "protocol_number": 6, "timeout": 299,
            "tuple": {"src": "192.0.2.2", "dst": "198.51.100.10", "sport": 0, "dport": 41739},
            "mask": {"src": "255.255.255.255", "dst": "255.255.255.255", "sport": 0, "dport": 65535},
            "master": {
                "protocol": "tcp", "protocol_number": 6,
                "src": "192.0.2.2", "dst": "198.51.100.10", "sport": 36150, "dport": 21,
            },
            "zone": 3, "flags": 7, "flag_names": ["PERMANENT", "INACTIVE", "USERSPACE"], "class": 0, "id": 6,
            "helper": "ftp", "function": "nat-follow-master",
            "nat": {
                "direction": "reply", "protocol": "tcp", "protocol_number": 6, "src": "198.51.100.10",
                "dst": "198.51.100.1", "sport": 8080, "dport": 41002, "zone": 4,
            },
        });
        assert_eq!(parsed(&printed_expect(JSON, &expect, &context)), expected);
    }
}
