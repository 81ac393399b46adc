//! Flows as commands that create them again, one to a line, for `--load-file`.
//!
//! conntrack's own line comes first and is unchanged, so that either tool loads the files of the other. The values
//! that conntrack does not save follow: the mark, the labels and the helper. conntrack refuses a file with a helper,
//! because it has no such option. Each label is an option of its own, because conntrack reads only the first name of
//! a list. Even so, conntrack 1.4.7 crashes on a file of several lines where one has labels, and may leave lines
//! undone. Without a label file, no labels are saved.
//!
//! A translated address is saved without its port, because that port is among the reply's ports. If only the port is
//! translated, such a line would create a flow without translation. In that case `-A` has `ADDR:PORT`, and the
//! reply's port is the untranslated one, which the kernel translates when the line is loaded.
//!
//! Three values are omitted, because loading them fails: the status `EXPECTED`, which the kernel refuses to set; the
//! security mark, which no command that changes flows accepts; and the process that requested an event's change.

use std::net::IpAddr;

use ctflow_parser::flow::{FlowView, Helper, Labels, RareAttributes};
use ctflow_parser::proto::{DccpInfo, ProtoInfo, SctpInfo};
use ctflow_parser::record::Event;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

use super::append::Append;
use crate::labels::LabelMap;
use crate::protocol::{self, Fields};

/// More bytes than all options except texts need.
const LINE_BYTES: usize = 1024;

/// The command of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    Update,
    Delete,
}

/// Appends one flow's command.
pub(super) fn append_flow(out: &mut Vec<u8>, flow: &FlowView<'_>, event: Option<Event>, names: Option<&LabelMap>) {
    let FlowView {
        family: _, // `--load-file` derives it from the addresses
        orig,
        reply,
        status,
        timeout,
        mark,
        zone,
        proto,
        // No command can set these.
        id: _,
        use_count: _,
        secmark: _,
        counters_orig: _,
        counters_reply: _,
        start_ns: _,
        stop_ns: _,
        event_ns: _,
        rare:
            RareAttributes {
                helper,
                labels,
                // No command can set these.
                secctx: _,
                seqadj_orig: _,
                seqadj_reply: _,
                synproxy: _,
                master: _,
            },
    } = flow;
    let protocol = orig.map_or(0, |orig| orig.proto);
    out.reserve(LINE_BYTES);
    let verb = match event {
        None | Some(Event::New) => Verb::Add,
        Some(Event::Update) => Verb::Update,
        Some(Event::Destroy) => Verb::Delete,
    };
    out.literal(match verb {
        Verb::Add => b"-A ",
        Verb::Update => b"-U ",
        Verb::Delete => b"-D ",
    });
    number_option(out, b"-t ", *timeout);
    if let Some(set) = *status {
        status_option(out, set, verb);
    }
    number_option(out, b"-w ", *zone);
    number_option(out, b"--orig-zone ", orig.and_then(|orig| orig.zone));
    number_option(out, b"--reply-zone ", reply.and_then(|reply| reply.zone));
    if let Some(orig) = orig {
        address_option(out, b"-s ", orig.src);
        address_option(out, b"-d ", orig.dst);
    }
    let reply_ports = orig.zip(*reply).map(|(orig, reply)| reply_addresses(out, &orig, &reply, *status, verb));
    protocol_option(out, protocol);
    if let Some(orig) = orig {
        port_options(out, orig, reply_ports, verb);
    }
    match proto {
        Some(proto) => tracker_options(out, proto),
        None if verb == Verb::Add => untracked_options(out, protocol),
        None => {}
    }
    // Tuples and zones identify the flow to delete. More conditions could only make the line miss it.
    if verb != Verb::Delete {
        extra_options(out, *mark, labels.zip(names), *helper, verb);
    }
    if let Some(last) = out.last_mut() {
        *last = b'\n';
    }
}

/// Appends `-u` with the status flags that the command may name, or with `UNSET`.
fn status_option(out: &mut Vec<u8>, set: u32, verb: Verb) {
    out.literal(b"-u ");
    let names: [(u32, &[u8]); 4] = [
        (uapi::IPS_SEEN_REPLY, b"SEEN_REPLY,"),
        (uapi::IPS_ASSURED, b"ASSURED,"),
        (uapi::IPS_FIXED_TIMEOUT, b"FIXED_TIMEOUT,"),
        (uapi::IPS_EXPECTED, b"EXPECTED,"),
    ];
    let settable = if verb == Verb::Delete { u32::MAX } else { !uapi::IPS_EXPECTED };
    names.iter().filter(|(flag, _)| set & settable & flag != 0).for_each(|(_, name)| out.extend_from_slice(name));
    match out.last_mut().filter(|last| **last == b',') {
        Some(comma) => *comma = b' ',
        None => out.literal(b"UNSET "),
    }
}

/// Appends the addresses of the reply. Returns the ports to save as the reply's source and destination port.
fn reply_addresses(out: &mut Vec<u8>, orig: &Tuple, reply: &Tuple, status: Option<u32>, verb: Verb) -> (u16, u16) {
    let [server, client] = reply_ends(orig, reply);
    (server.append_address(out, status, verb), client.append_address(out, status, verb))
}

/// Appends the fields of the protocol. `reply` has the reply's source and destination port or key.
fn port_options(out: &mut Vec<u8>, orig: &Tuple, reply: Option<(u16, u16)>, verb: Verb) {
    let untracked = verb == Verb::Add && orig.l4 == L4::None && protocol::fields(orig.proto) == Fields::Ports;
    let orig = if untracked { Tuple { l4: L4::Ports { src: 0, dst: 0 }, ..*orig } } else { *orig };
    l4_options(out, &orig, reply.or(Some((0, 0)).filter(|_| untracked)));
}

/// The source or the destination of the reply tuple, with the value that it would have without NAT.
struct ReplyEnd {
    /// The option for an untranslated address, and the option for a translated one.
    options: [&'static [u8; 3]; 2],
    address: IpAddr,
    plain_address: IpAddr,
    port: u16,
    plain_port: u16,
    /// `IPS_*_NAT_DONE`: the kernel has decided whether to translate.
    nat_done_flag: u32,
    /// `IPS_*_NAT`: the kernel translates.
    nat_flag: u32,
}

/// The source and the destination of the reply tuple.
fn reply_ends(orig: &Tuple, reply: &Tuple) -> [ReplyEnd; 2] {
    let (plain_client, plain_server) = orig.ports().unwrap_or_default();
    let (server, client) = reply.ports().unwrap_or_default();
    [
        ReplyEnd {
            options: [b"-r ", b"-g "],
            address: reply.src,
            plain_address: orig.dst,
            port: server,
            plain_port: plain_server,
            nat_done_flag: uapi::IPS_DST_NAT_DONE,
            nat_flag: uapi::IPS_DST_NAT,
        },
        ReplyEnd {
            options: [b"-q ", b"-n "],
            address: reply.dst,
            plain_address: orig.src,
            port: client,
            plain_port: plain_client,
            nat_done_flag: uapi::IPS_SRC_NAT_DONE,
            nat_flag: uapi::IPS_SRC_NAT,
        },
    ]
}

impl ReplyEnd {
    /// Appends the address option. Returns the port to save among the reply's ports.
    fn append_address(&self, out: &mut Vec<u8>, status: Option<u32>, verb: Verb) -> u16 {
        let [plain, translated] = self.options;
        if self.address != self.plain_address && status.is_none_or(|status| status & self.nat_done_flag != 0) {
            address_option(out, translated, self.address);
        } else if self.is_port_translation(status) && verb == Verb::Add {
            address_and_port_option(out, translated, self.address, self.port);
            return self.plain_port;
        } else {
            address_option(out, plain, self.address);
        }
        self.port
    }

    /// Whether NAT changes the port and keeps the address.
    fn is_port_translation(&self, status: Option<u32>) -> bool {
        let translates = status.is_some_and(|status| status & self.nat_flag != 0);
        translates && self.address == self.plain_address && self.port != self.plain_port
    }
}

/// Appends `-p` with the protocol's name if `--load-file` knows it, else with its number.
fn protocol_option(out: &mut Vec<u8>, protocol: u8) {
    out.literal(b"-p ");
    match protocol::number(protocol::name(protocol)) {
        Some(_) => out.text(protocol::name(protocol)),
        None => out.decimal(protocol.into()),
    }
    out.literal(b" ");
}

/// Appends the options of the protocol's fields. `reply` has the reply's source and destination port or key.
fn l4_options(out: &mut Vec<u8>, orig: &Tuple, reply: Option<(u16, u16)>) {
    let keys = protocol::fields(orig.proto) == Fields::Keys;
    match orig.l4 {
        L4::None => {}
        L4::Ports { src, dst } if keys => {
            number_option(out, b"--srckey ", Some(src));
            number_option(out, b"--dstkey ", Some(dst));
            number_option(out, b"--reply-key-src ", reply.map(|reply| reply.0));
            number_option(out, b"--reply-key-dst ", reply.map(|reply| reply.1));
        }
        L4::Ports { src, dst } => {
            number_option(out, b"--sport ", Some(src));
            number_option(out, b"--dport ", Some(dst));
            number_option(out, b"--reply-port-src ", reply.map(|reply| reply.0));
            number_option(out, b"--reply-port-dst ", reply.map(|reply| reply.1));
        }
        L4::Icmp { kind, code, id } if orig.proto == uapi::IPPROTO_ICMPV6 => {
            number_option(out, b"--icmpv6-type ", Some(kind));
            number_option(out, b"--icmpv6-code ", Some(code));
            number_option(out, b"--icmpv6-id ", Some(id));
        }
        L4::Icmp { kind, code, id } => {
            number_option(out, b"--icmp-type ", Some(kind));
            number_option(out, b"--icmp-code ", Some(code));
            number_option(out, b"--icmp-id ", Some(id));
        }
    }
}

/// Appends the options of the tracker's values: state, tags, role.
fn tracker_options(out: &mut Vec<u8>, proto: &ProtoInfo) {
    if let Some(state) = proto.state_name() {
        out.literal(b"--state ");
        out.text(state);
        out.literal(b" ");
    }
    match proto {
        ProtoInfo::Tcp(_) => {}
        ProtoInfo::Sctp(SctpInfo { vtag_orig, vtag_reply, .. }) => {
            number_option(out, b"--orig-vtag ", *vtag_orig);
            number_option(out, b"--reply-vtag ", *vtag_reply);
        }
        ProtoInfo::Dccp(DccpInfo { role, .. }) => match role {
            None => {}
            Some(0) => out.literal(b"--role client "),
            Some(_) => out.literal(b"--role server "),
        },
    }
}

/// Appends the options that `-A` requires for a protocol whose tracker this kernel does not have. Their values are
/// unknown; with these defaults the flow can be loaded, also by a kernel that has the tracker.
fn untracked_options(out: &mut Vec<u8>, protocol: u8) {
    match protocol {
        uapi::IPPROTO_TCP => out.literal(b"--state NONE "),
        uapi::IPPROTO_SCTP => out.literal(b"--state NONE --orig-vtag 0 --reply-vtag 0 "),
        uapi::IPPROTO_DCCP => out.literal(b"--state NONE --role client "),
        _ => {}
    }
}

/// Appends the values that conntrack does not save. An update event with mark 0 reports that the mark has become 0,
/// so that mark is saved; elsewhere a mark of 0 is the default and omitted.
fn extra_options(
    out: &mut Vec<u8>,
    mark: Option<u32>,
    labels: Option<(Labels, &LabelMap)>,
    helper: Option<Helper<'_>>,
    verb: Verb,
) {
    number_option(out, b"-m ", mark.filter(|mark| *mark != 0 || verb == Verb::Update));
    if let Some((labels, names)) = labels {
        label_names(out, labels, names);
    }
    if let Some(helper) = helper.filter(|_| verb == Verb::Add) {
        text_option(out, b"--ct-helper ", helper.name);
    }
}

fn label_names(out: &mut Vec<u8>, labels: Labels, names: &LabelMap) {
    for name in labels.iter().filter_map(|number| names.name(number)) {
        text_option(out, b"--label-add ", name);
    }
}

/// Appends an option and its number; nothing without a number.
#[inline]
fn number_option<const N: usize, V: Into<u64>>(out: &mut Vec<u8>, option: &[u8; N], value: Option<V>) {
    if let Some(value) = value {
        out.literal(option);
        out.decimal(value.into());
        out.literal(b" ");
    }
}

#[inline]
fn address_option(out: &mut Vec<u8>, option: &[u8; 3], address: IpAddr) {
    out.literal(option);
    out.address(address);
    out.literal(b" ");
}

/// Appends an option with `ADDR:PORT`, and IPv6 addresses in brackets.
fn address_and_port_option(out: &mut Vec<u8>, option: &[u8; 3], address: IpAddr, port: u16) {
    out.literal(option);
    if address.is_ipv6() {
        out.literal(b"[");
    }
    out.address(address);
    if address.is_ipv6() {
        out.literal(b"]");
    }
    out.literal(b":");
    out.decimal(port.into());
    out.literal(b" ");
}

/// Appends an option and its text in the quoting of `--load-file`: text with blanks, quotes or backslashes is quoted.
/// An empty text, or one with control characters, cannot be part of a line; its option is omitted.
fn text_option<const N: usize>(out: &mut Vec<u8>, option: &[u8; N], word: &str) {
    if word.is_empty() || word.contains(char::is_control) {
        return;
    }
    out.literal(option);
    if !word.contains([' ', '"', '\\']) {
        out.text(word);
        out.literal(b" ");
        return;
    }
    out.literal(b"\"");
    for character in word.chars() {
        if matches!(character, '"' | '\\') {
            out.literal(b"\\");
        }
        out.text(character.encode_utf8(&mut [0; 4]));
    }
    out.literal(b"\" ");
}

#[cfg(test)]
mod tests {
    use ctflow_parser::proto::TcpInfo;
    use jiff::tz::TimeZone;

    use super::super::tests::conntrack_lines::{
        ASSURED, ESTABLISHED, LISTED, SEEN, SYN_RECV, TEXT, TIME_WAIT, as_event, flow, helped, in_zone, labelled,
        ports, printed, printed_with, tcp, tuple,
    };
    use super::super::{Encoding, Format, Printer, RecordContext, Requester, Subject};
    use super::*;

    const SAVE: Format = Format { encoding: Encoding::Save, ..TEXT };
    const TRANSLATED: u32 = uapi::IPS_SRC_NAT_DONE | uapi::IPS_DST_NAT_DONE;

    /// Compares the saved line of a flow with a captured one. The captures have no marks.
    #[track_caller]
    fn assert_saved(flow: &FlowView<'_>, captured: &str) {
        assert_eq!(printed(SAVE, flow, &LISTED), format!("{captured}\n"));
    }

    fn with_reply<'a>(flow: FlowView<'a>, src: &str, dst: &str, ports: L4) -> FlowView<'a> {
        FlowView { reply: Some(tuple(flow.protocol(), src, dst, ports)), ..flow }
    }

    #[test]
    fn translated_flows_as_captured() {
        let dst =
            tcp("192.0.2.2", "192.0.2.1", (40003, 9000), TIME_WAIT, ASSURED | TRANSLATED | uapi::IPS_DST_NAT, 118);
        assert_saved(
            &with_reply(dst, "198.51.100.10", "192.0.2.2", ports(443, 40003)),
            "-A -t 118 -u SEEN_REPLY,ASSURED -s 192.0.2.2 -d 192.0.2.1 -g 198.51.100.10 -q 192.0.2.2 -p tcp --sport 40003 --dport 9000 --reply-port-src 443 --reply-port-dst 40003 --state TIME_WAIT",
        );
        let status = SEEN | TRANSLATED | uapi::IPS_SRC_NAT;
        let src = flow(uapi::IPPROTO_UDP, "192.0.2.2", "198.51.100.10", ports(40005, 5300), status, 29);
        assert_saved(
            &with_reply(src, "198.51.100.10", "198.51.100.1", ports(5300, 50009)),
            "-A -t 29 -u SEEN_REPLY -s 192.0.2.2 -d 198.51.100.10 -r 198.51.100.10 -n 198.51.100.1 -p udp --sport 40005 --dport 5300 --reply-port-src 5300 --reply-port-dst 50009",
        );
    }

    #[test]
    fn protocols_as_captured() {
        let (client, server) = ("192.0.2.2", "198.51.100.10");
        let sctp = SctpInfo { state: Some(4), vtag_orig: Some(1111), vtag_reply: Some(2222) };
        let sctp = Some(ProtoInfo::Sctp(sctp));
        assert_saved(
            &FlowView { proto: sctp, ..flow(uapi::IPPROTO_SCTP, client, server, ports(2905, 2906), 0, 199) },
            "-A -t 199 -u UNSET -s 192.0.2.2 -d 198.51.100.10 -r 198.51.100.10 -q 192.0.2.2 -p sctp --sport 2905 --dport 2906 --reply-port-src 2906 --reply-port-dst 2905 --state ESTABLISHED --orig-vtag 1111 --reply-vtag 2222",
        );
        assert_saved(
            &flow(uapi::IPPROTO_GRE, client, server, ports(16, 32), 0, 59),
            "-A -t 59 -u UNSET -s 192.0.2.2 -d 198.51.100.10 -r 198.51.100.10 -q 192.0.2.2 -p gre --srckey 16 --dstkey 32 --reply-key-src 32 --reply-key-dst 16",
        );
        assert_saved(
            &flow(uapi::IPPROTO_ICMP, client, server, L4::Icmp { kind: 8, code: 0, id: 77 }, 0, 29),
            "-A -t 29 -u UNSET -s 192.0.2.2 -d 198.51.100.10 -r 198.51.100.10 -q 192.0.2.2 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77",
        );
        assert_saved(
            &flow(50, client, server, L4::None, 0, 59),
            "-A -t 59 -u UNSET -s 192.0.2.2 -d 198.51.100.10 -r 198.51.100.10 -q 192.0.2.2 -p 50",
        );
        let ping = L4::Icmp { kind: 128, code: 0, id: 9 };
        let ping = flow(uapi::IPPROTO_ICMPV6, "2001:db8::1", "2001:db8::2", ping, uapi::IPS_FIXED_TIMEOUT, 29);
        assert_saved(
            &ping,
            "-A -t 29 -u FIXED_TIMEOUT -s 2001:db8::1 -d 2001:db8::2 -r 2001:db8::2 -q 2001:db8::1 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 9",
        );
        let dccp = Some(ProtoInfo::Dccp(DccpInfo { state: Some(3), role: Some(1), handshake_seq: None }));
        assert_saved(
            &FlowView { proto: dccp, ..flow(uapi::IPPROTO_DCCP, "10.1.1.1", "10.2.2.2", ports(1, 2), SEEN, 59) },
            "-A -t 59 -u SEEN_REPLY -s 10.1.1.1 -d 10.2.2.2 -r 10.2.2.2 -q 10.1.1.1 -p dccp --sport 1 --dport 2 --reply-port-src 2 --reply-port-dst 1 --state PARTOPEN --role server",
        );
    }

    const IN_ZONE: &str = "-A -t 3599 -u SEEN_REPLY,ASSURED -w 7 -s 10.1.1.1 -d 10.2.2.2 -r 10.2.2.2 -q 10.1.1.1 -p tcp --sport 1000 --dport 80 --reply-port-src 80 --reply-port-dst 1000 --state ESTABLISHED";

    fn in_zone_7() -> FlowView<'static> {
        FlowView { zone: Some(7), ..tcp("10.1.1.1", "10.2.2.2", (1000, 80), ESTABLISHED, ASSURED, 3599) }
    }

    #[test]
    fn zones_as_captured() {
        assert_saved(&in_zone_7(), IN_ZONE);
        let each = in_zone(FlowView { zone: None, ..in_zone_7() }, Some(3), Some(4));
        assert_saved(&each, &IN_ZONE.replace("-w 7", "--orig-zone 3 --reply-zone 4"));
    }

    #[test]
    fn mark_labels_and_helper_follow_the_old_line() {
        let helper = Some(Helper { name: "ftp", info: b"x" });
        let labels = Some(Labels(1 << 3 | 1 << 5 | 1));
        let rare = RareAttributes { labels, helper, ..RareAttributes::default() };
        let known = FlowView { mark: Some(42), secmark: Some(9), rare, ..in_zone_7() };
        assert_saved(&known, &format!("{IN_ZONE} -m 42 --label-add vpn --label-add \"a b\" --ct-helper ftp"));
        assert_saved(&helped(in_zone_7(), "a \"\\b"), &format!("{IN_ZONE} --ct-helper \"a \\\"\\\\b\""));
        assert_saved(&helped(in_zone_7(), "a\n-F"), IN_ZONE);
        let nameless = Printer::new(SAVE, Subject::Flows, TimeZone::UTC);
        let expected = format!("{IN_ZONE} -m 42 --ct-helper ftp\n");
        assert_eq!(printed_with(nameless, &known, &LISTED), expected, "labels without a label file are not saved");
    }

    /// The kernel refuses to set `EXPECTED`.
    #[test]
    fn the_expected_flag_is_not_saved() {
        let status = |set| FlowView { status: Some(set | uapi::IPS_EXPECTED), ..in_zone_7() };
        assert_saved(&status(ASSURED), IN_ZONE);
        assert_saved(&status(0), &IN_ZONE.replace("SEEN_REPLY,ASSURED", "UNSET"));
    }

    fn event_line(event: Event, flow: &FlowView<'_>) -> String {
        let requester = Some(Requester { port_id: 375, program: Some("conntrack") });
        printed(SAVE, &as_event(*flow), &RecordContext { event: Some(event), requester, ..LISTED })
    }

    #[test]
    fn events_as_captured_without_the_requester() {
        let status = SEEN | TRANSLATED | uapi::IPS_SRC_NAT;
        let update = tcp("192.0.2.2", "198.51.100.10", (41002, 8080), SYN_RECV, status, 60);
        let update = with_reply(update, "198.51.100.10", "198.51.100.1", ports(8080, 41002));
        assert_eq!(
            event_line(Event::Update, &update),
            "-U -t 60 -u SEEN_REPLY -s 192.0.2.2 -d 198.51.100.10 -r 198.51.100.10 -n 198.51.100.1 -p tcp --sport 41002 --dport 8080 --reply-port-src 8080 --reply-port-dst 41002 --state SYN_RECV\n"
        );
        let udp = flow(uapi::IPPROTO_UDP, "10.1.1.1", "10.2.2.2", ports(3, 80), 0, 99);
        let tuples = "-s 10.1.1.1 -d 10.2.2.2 -r 10.2.2.2 -q 10.1.1.1 -p udp --sport 3 --dport 80 --reply-port-src 80 --reply-port-dst 3";
        assert_eq!(event_line(Event::Destroy, &udp), format!("-D -t 99 -u UNSET {tuples}\n"));
        assert_eq!(event_line(Event::New, &udp), format!("-A -t 99 -u UNSET {tuples}\n"));
        let expired = FlowView { timeout: None, mark: Some(5), ..labelled(udp, 1) };
        assert_eq!(event_line(Event::Destroy, &expired), format!("-D -u UNSET {tuples}\n"));
        let deleted = Printer::new(SAVE, Subject::Flows, TimeZone::UTC).for_deleted();
        assert_eq!(printed_with(deleted, &udp, &LISTED), format!("-D -t 99 -u UNSET {tuples}\n"));
    }

    #[test]
    fn an_event_that_clears_the_mark_saves_a_mark_of_0() {
        let context = RecordContext { event: Some(Event::Update), ..LISTED };
        assert!(printed(SAVE, &in_zone_7(), &context).ends_with(" -m 0\n"));
        assert!(!printed(SAVE, &as_event(in_zone_7()), &context).contains(" -m "));
    }

    /// Tried with conntrack 1.4.7: a flow loaded from such a line has its port translated again.
    #[test]
    fn a_port_translated_alone_is_saved_with_its_address() {
        let status = TRANSLATED | uapi::IPS_SRC_NAT | uapi::IPS_DST_NAT;
        let udp = flow(uapi::IPPROTO_UDP, "10.1.1.1", "10.2.2.2", ports(4010, 80), status, 99);
        let udp = with_reply(udp, "10.2.2.2", "10.1.1.1", ports(81, 5011));
        assert_saved(
            &udp,
            "-A -t 99 -u UNSET -s 10.1.1.1 -d 10.2.2.2 -g 10.2.2.2:81 -n 10.1.1.1:5011 -p udp --sport 4010 --dport 80 --reply-port-src 80 --reply-port-dst 4010",
        );
        let untranslated = FlowView { status: Some(0), ..udp };
        let as_it_is =
            "-r 10.2.2.2 -q 10.1.1.1 -p udp --sport 4010 --dport 80 --reply-port-src 81 --reply-port-dst 5011";
        assert!(printed(SAVE, &untranslated, &LISTED).contains(as_it_is));
        assert!(event_line(Event::Destroy, &udp).contains(as_it_is), "-D has the reply tuple as it is");
        let status = uapi::IPS_SRC_NAT;
        let ipv6 = flow(uapi::IPPROTO_UDP, "2001:db8::1", "2001:db8::2", ports(4009, 80), status, 99);
        let ipv6 = with_reply(ipv6, "2001:db8::2", "2001:db8::1", ports(80, 81));
        assert!(printed(SAVE, &ipv6, &LISTED).contains(" -r 2001:db8::2 -n [2001:db8::1]:81 -p udp "));
    }

    #[test]
    fn flows_with_few_fields_are_saved() {
        assert_eq!(printed(SAVE, &FlowView::default(), &LISTED), "-A -p 0\n");
        let stateless = FlowView { proto: Some(ProtoInfo::Tcp(TcpInfo::default())), ..in_zone_7() };
        assert_saved(&stateless, IN_ZONE.trim_end_matches(" --state ESTABLISHED"));
    }

    #[test]
    fn untracked_protocols_are_saved_with_the_options_that_loading_needs() {
        let ports = "--sport 0 --dport 0 --reply-port-src 0 --reply-port-dst 0";
        let line = |proto, rest: &str| {
            let untracked = flow(proto, "10.1.1.1", "10.2.2.2", L4::None, SEEN, 59);
            let name = protocol::name(proto);
            assert_saved(
                &untracked,
                &format!("-A -t 59 -u SEEN_REPLY -s 10.1.1.1 -d 10.2.2.2 -r 10.2.2.2 -q 10.1.1.1 -p {name} {rest}"),
            );
        };
        line(uapi::IPPROTO_DCCP, &format!("{ports} --state NONE --role client"));
        line(uapi::IPPROTO_SCTP, &format!("{ports} --state NONE --orig-vtag 0 --reply-vtag 0"));
        line(uapi::IPPROTO_UDPLITE, ports);
    }
}
