//! The XML of flows and expectations: one element to a line, in the structure of libnetfilter_conntrack's XML.
//!
//! Three things differ, because the library's XML is wrong: SCTP and DCCP states have their own names, ICMP flows have
//! `<type>`, `<code>` and `<id>`, and text is escaped. [`super::Printer`] opens and closes the root element.

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::{Counters, FlowView, Labels, RareAttributes};
use ctflow_parser::record::Event;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;
use jiff::tz::TimeZone;

use super::append::Append;
use super::{Printer, RecordContext, Subject, when};
use crate::labels::LabelMap;
use crate::protocol::{self, Fields};

/// More bytes than a flow needs without its texts.
const ELEMENT_BYTES: usize = 2048;

/// Appends the XML declaration and the root element's start tag.
#[cold]
pub(super) fn open_root(out: &mut Vec<u8>, subject: Subject) {
    out.text("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n");
    out.text(match subject {
        Subject::Flows => "<conntrack>\n",
        Subject::Expectations => "<expect>\n",
    });
}

/// Appends the root element's end tag.
pub(super) fn close_root(out: &mut Vec<u8>, subject: Subject) {
    out.text(match subject {
        Subject::Flows => "</conntrack>\n",
        Subject::Expectations => "</expect>\n",
    });
}

/// Appends one flow.
pub(super) fn append_flow(printer: &Printer, out: &mut Vec<u8>, flow: &FlowView<'_>, context: &RecordContext<'_>) {
    let FlowView {
        family: _, // the directions name it
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
                // Not in the library's XML.
                seqadj_orig: _,
                seqadj_reply: _,
                synproxy: _,
                master: _,
            },
    } = flow;
    out.reserve(ELEMENT_BYTES);
    open_flow(out, context.event);
    if let Some(orig) = orig {
        out.literal(b"<meta direction=\"original\">");
        direction_meta(out, orig, *counters_orig);
    }
    if let Some(reply) = reply {
        out.literal(b"<meta direction=\"reply\">");
        direction_meta(out, reply, *counters_reply);
    }
    out.literal(b"<meta direction=\"independent\">");
    if let Some(state) = proto.and_then(|proto| proto.state_name()) {
        text_element(out, "state", state);
    }
    number_element(out, "timeout", *timeout);
    number_element(out, "mark", *mark);
    if let Some((labels, names)) = printer.named_labels(*labels) {
        element(out, "labels", |out| label_names(out, labels, names));
    }
    number_element(out, "secmark", *secmark);
    if let Some(secctx) = secctx {
        text_element(out, "secctx", secctx);
    }
    number_element(out, "zone", *zone);
    number_element(out, "use", *use_count);
    number_element(out, "id", *id);
    status_elements(out, *status);
    let start_ns = super::known_start(*start_ns);
    if printer.format.ktimestamp {
        start_and_stop(out, start_ns, *stop_ns);
    }
    number_element(out, "deltatime", super::lifetime_seconds(start_ns, stop_ns.or(*event_ns), context));
    out.literal(b"</meta>");
    // Only events have `<when>`, just as only lines of events have a time stamp in front.
    if printer.format.timestamp && context.event.is_some() {
        when::when_element(out, &printer.zone, super::event_ns(*event_ns, context));
    }
    if let Some(helper) = helper {
        text_element(out, "helper", helper.name);
    }
    out.literal(b"</flow>\n");
}

/// Appends one expectation, with the time of reading in the time zone `zone`, if there is one.
pub(super) fn append_expect(
    out: &mut Vec<u8>,
    expect: &ExpectView<'_>,
    context: &RecordContext<'_>,
    zone: Option<&TimeZone>,
) {
    let ExpectView {
        family: _, // the tuples name it
        tuple: awaited,
        mask,
        master,
        timeout,
        helper,
        zone: conntrack_zone,
        flags,
        class,
        // Not in the library's XML.
        id: _,
        nat: _,
        function: _,
    } = expect;
    out.reserve(ELEMENT_BYTES);
    open_flow(out, context.event);
    let tuples = expect_tuples(*awaited, *mask, *master);
    if let Some(awaited) = *awaited {
        layer3_start(out, &awaited);
        for (name, tuple, _) in &tuples {
            tuple_element(out, name, tuple.as_ref(), addresses);
        }
        out.literal(b"</layer3>");
        layer4_start(out, awaited.proto);
        for (name, tuple, protocol) in tuples {
            tuple_element(out, name, tuple.as_ref(), |out, tuple| l4_fields(out, protocol, tuple.l4));
        }
        out.literal(b"</layer4>");
    }
    out.literal(b"<meta>");
    if let Some(helper) = helper {
        text_element(out, "helper-name", helper);
    }
    number_element(out, "timeout", *timeout);
    number_element(out, "class", *class);
    number_element(out, "zone", *conntrack_zone);
    if let Some(zone) = zone {
        when::when_element(out, zone, context.now_ns);
    }
    expect_flags(out, flags.unwrap_or(0));
    out.literal(b"</meta></flow>\n");
}

/// Appends the start tag of a flow or expectation.
fn open_flow(out: &mut Vec<u8>, event: Option<Event>) {
    out.text(match event {
        None => "<flow>",
        Some(Event::New) => "<flow type=\"new\">",
        Some(Event::Update) => "<flow type=\"update\">",
        Some(Event::Destroy) => "<flow type=\"destroy\">",
    });
}

/// Appends a direction from its layer 3 to `</meta>`; the caller has appended the start tag.
fn direction_meta(out: &mut Vec<u8>, tuple: &Tuple, counters: Option<Counters>) {
    layer3_start(out, tuple);
    addresses(out, tuple);
    out.literal(b"</layer3>");
    layer4_start(out, tuple.proto);
    l4_fields(out, tuple.proto, tuple.l4);
    out.literal(b"</layer4>");
    number_element(out, "zone", tuple.zone);
    if let Some(Counters { packets, bytes }) = counters {
        out.literal(b"<counters>");
        number_element(out, "packets", Some(packets));
        number_element(out, "bytes", Some(bytes));
        out.literal(b"</counters>");
    }
    out.literal(b"</meta>");
}

fn layer3_start(out: &mut Vec<u8>, tuple: &Tuple) {
    if tuple.src.is_ipv4() {
        out.literal(b"<layer3 protonum=\"2\" protoname=\"ipv4\">");
    } else {
        out.literal(b"<layer3 protonum=\"10\" protoname=\"ipv6\">");
    }
}

fn layer4_start(out: &mut Vec<u8>, protocol: u8) {
    out.literal(b"<layer4 protonum=\"");
    out.decimal(protocol.into());
    out.literal(b"\" protoname=\"");
    out.text(protocol::name(protocol));
    out.literal(b"\">");
}

fn addresses(out: &mut Vec<u8>, tuple: &Tuple) {
    out.literal(b"<src>");
    out.address(tuple.src);
    out.literal(b"</src><dst>");
    out.address(tuple.dst);
    out.literal(b"</dst>");
}

/// Appends the fields that the protocol adds to a tuple. A field that the kernel should have sent and did not is 0.
fn l4_fields(out: &mut Vec<u8>, protocol: u8, l4: L4) {
    let (src, dst) = if let L4::Ports { src, dst } = l4 { (src, dst) } else { (0, 0) };
    match protocol::fields(protocol) {
        Fields::Ports => {
            number_element(out, "sport", Some(src));
            number_element(out, "dport", Some(dst));
        }
        Fields::Keys => {
            out.literal(b"<srckey>0x");
            out.hex(src);
            out.literal(b"</srckey><dstkey>0x");
            out.hex(dst);
            out.literal(b"</dstkey>");
        }
        Fields::Icmp => {
            let (kind, code, id) = if let L4::Icmp { kind, code, id } = l4 { (kind, code, id) } else { (0, 0, 0) };
            number_element(out, "type", Some(kind));
            number_element(out, "code", Some(code));
            number_element(out, "id", Some(id));
        }
        Fields::None => {}
    }
}

/// Appends the elements of a status; nothing without a status.
fn status_elements(out: &mut Vec<u8>, status: Option<u32>) {
    let Some(set) = status else { return };
    if set & uapi::IPS_ASSURED != 0 {
        out.literal(b"<assured/>");
    }
    if set & uapi::IPS_SEEN_REPLY == 0 {
        out.literal(b"<unreplied/>");
    }
}

/// Appends the names of labels. Labels without a name are omitted, as in the line.
fn label_names(out: &mut Vec<u8>, labels: Labels, names: &LabelMap) {
    labels.iter().filter_map(|number| names.name(number)).for_each(|name| text_element(out, "label", name));
}

/// Appends the time of the flow's start and, in destroy events, of its end, in nanoseconds since 1970.
fn start_and_stop(out: &mut Vec<u8>, start_ns: Option<u64>, stop_ns: Option<u64>) {
    if start_ns.or(stop_ns).is_some() {
        element(out, "timestamp", |out| {
            number_element(out, "start", start_ns);
            number_element(out, "stop", stop_ns);
        });
    }
}

/// An expectation's three tuples, each with its element's name and the protocol that decides its fields. The mask has
/// the fields of the expected tuple.
fn expect_tuples(
    awaited: Option<Tuple>,
    mask: Option<Tuple>,
    master: Option<Tuple>,
) -> [(&'static str, Option<Tuple>, u8); 3] {
    let protocol = |tuple: Option<Tuple>| tuple.map_or(0, |tuple| tuple.proto);
    let expected = protocol(awaited);
    [("expected", awaited, expected), ("mask", mask, expected), ("master", master, protocol(master))]
}

/// Appends the elements of an expectation's flags.
fn expect_flags(out: &mut Vec<u8>, set: u32) {
    let flags = [
        (uapi::NF_CT_EXPECT_PERMANENT, "<permanent/>"),
        (uapi::NF_CT_EXPECT_INACTIVE, "<inactive/>"),
        (uapi::NF_CT_EXPECT_USERSPACE, "<userspace/>"),
    ];
    flags.iter().filter(|(flag, _)| set & flag != 0).for_each(|(_, element)| out.text(element));
}

/// Appends the element `name` with the content that `body` appends for `tuple`; nothing without a tuple.
fn tuple_element(out: &mut Vec<u8>, name: &str, tuple: Option<&Tuple>, body: impl FnOnce(&mut Vec<u8>, &Tuple)) {
    let Some(tuple) = tuple else { return };
    element(out, name, |out| body(out, tuple));
}

/// Appends the element `name` with the content that `body` appends.
fn element(out: &mut Vec<u8>, name: &str, body: impl FnOnce(&mut Vec<u8>)) {
    out.literal(b"<");
    out.text(name);
    out.literal(b">");
    body(out);
    out.literal(b"</");
    out.text(name);
    out.literal(b">");
}

/// Appends the element `name` with a number; nothing without a number.
fn number_element<N: Into<u64>>(out: &mut Vec<u8>, name: &str, value: Option<N>) {
    if let Some(value) = value {
        element(out, name, |out| out.decimal(value.into()));
    }
}

/// Appends the element `name` with escaped text.
fn text_element(out: &mut Vec<u8>, name: &str, value: &str) {
    element(out, name, |out| append_escaped(out, value));
}

/// Appends text with markup characters as entities. Characters that XML forbids even as entities become U+FFFD.
fn append_escaped(out: &mut Vec<u8>, text: &str) {
    for character in text.chars() {
        match character {
            '&' => out.literal(b"&amp;"),
            '<' => out.literal(b"&lt;"),
            '>' => out.literal(b"&gt;"),
            '\t' | '\n' | ' '..='\u{fffd}' | '\u{10000}'.. => out.text(character.encode_utf8(&mut [0; 4])),
            _ => out.text("\u{fffd}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_forbidden_characters_replaced() {
        let mut out = Vec::new();
        text_element(&mut out, "secctx", "a<b>&\"c\u{1}\u{ffff}é\r\u{1f600}");
        let expected = "<secctx>a&lt;b&gt;&amp;\"c\u{fffd}\u{fffd}é\u{fffd}\u{1f600}</secctx>";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
