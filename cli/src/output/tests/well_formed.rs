//! Any record that a kernel may send is printed as JSON that parses and as XML that is balanced.

use std::net::IpAddr;
use std::sync::Arc;

use ctflow_parser::expect::{ExpectNat, ExpectView};
use ctflow_parser::flow::{Counters, FlowView, Helper, Labels, RareAttributes, SeqAdj, Synproxy};
use ctflow_parser::proto::{DccpInfo, ProtoInfo, SctpInfo, TcpFlags, TcpInfo};
use ctflow_parser::record::Event;
use ctflow_parser::tuple::{L4, Tuple};
use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::Value;

use super::super::{Encoding, Format, Printer, RecordContext, Requester, Subject};
use crate::labels::LabelMap;

/// Random values that records are made of. `present` decides which fields a record has.
#[derive(Debug, Clone)]
struct RecordSeed {
    present: u64,
    numbers: [u64; 4],
    bits: u128,
    address: [u8; 16],
    texts: [String; 2],
    info: Vec<u8>,
}

fn seed() -> impl Strategy<Value = RecordSeed> {
    let texts = [any::<String>().boxed(), "[ -~\\n\\t\"\\\\<>&]{0,20}".boxed()];
    (any::<u64>(), any::<[u64; 4]>(), any::<u128>(), any::<[u8; 16]>(), texts, any::<Vec<u8>>()).prop_map(
        |(present, numbers, bits, address, texts, info)| RecordSeed { present, numbers, bits, address, texts, info },
    )
}

impl RecordSeed {
    fn has<T>(&self, field: u32, value: T) -> Option<T> {
        (self.present.rotate_right(field) & 1 == 1).then_some(value)
    }

    fn bytes(&self, from: usize) -> [u8; 8] {
        self.numbers[from % 4].to_le_bytes()
    }

    fn u32(&self, from: usize) -> u32 {
        let [a, b, c, d, ..] = self.bytes(from);
        u32::from_le_bytes([a, b, c, d])
    }

    fn u16(&self, from: usize) -> u16 {
        let [.., a, b] = self.bytes(from);
        u16::from_le_bytes([a, b])
    }

    fn tuple(&self, from: usize) -> Tuple {
        let [a, b, c, d, ..] = self.address;
        let v6 = from.is_multiple_of(2);
        let address = if v6 { IpAddr::from(self.address) } else { IpAddr::from([a, b, c, d]) };
        let [kind, code, proto, ..] = self.bytes(from);
        let (src, dst) = (self.u16(from), self.u16(from + 1));
        let common = [6, 17, 1, 58, 47, 132, 33, proto];
        Tuple {
            src: address,
            dst: address,
            proto: common[usize::from(kind % 8)],
            l4: [L4::None, L4::Ports { src, dst }, L4::Icmp { kind, code, id: src }][usize::from(code % 3)],
            zone: self.has(40, dst),
        }
    }

    fn proto(&self) -> ProtoInfo {
        let [state, wscale, flags, mask, which, ..] = self.bytes(2);
        let flags = Some(TcpFlags { flags, mask });
        let (state, wscale) = (self.has(41, state), self.has(42, wscale));
        let tcp = TcpInfo { state, wscale_orig: wscale, wscale_reply: wscale, flags_orig: flags, flags_reply: flags };
        match which % 3 {
            0 => ProtoInfo::Tcp(tcp),
            1 => ProtoInfo::Sctp(SctpInfo { state, vtag_orig: Some(self.u32(0)), vtag_reply: self.has(43, 1) }),
            _ => ProtoInfo::Dccp(DccpInfo { state, role: wscale, handshake_seq: Some(self.numbers[1]) }),
        }
    }

    fn flow(&self) -> FlowView<'_> {
        let [a, b, c, d] = self.numbers;
        let seqadj = SeqAdj { correction_pos: self.u32(0), offset_before: self.u32(1), offset_after: self.u32(2) };
        FlowView {
            family: [2, 10, 0][usize::from(self.address[0] % 3)],
            orig: self.has(0, self.tuple(0)),
            reply: self.has(1, self.tuple(2)),
            status: self.has(3, self.u32(0)),
            timeout: self.has(4, self.u32(1)),
            mark: self.has(5, self.u32(2)),
            id: self.has(6, self.u32(3)),
            use_count: self.has(7, self.u32(0)),
            zone: self.has(8, self.u16(0)),
            secmark: self.has(9, self.u32(1)),
            proto: self.has(10, self.proto()),
            counters_orig: self.has(11, Counters { packets: a, bytes: b }),
            counters_reply: self.has(12, Counters { packets: c, bytes: d }),
            start_ns: self.has(13, a),
            stop_ns: self.has(14, b),
            event_ns: self.has(15, c),
            rare: RareAttributes {
                helper: self.has(16, Helper { name: &self.texts[0], info: &self.info }),
                secctx: self.has(17, &self.texts[1]),
                labels: self.has(18, Labels(self.bits)),
                seqadj_orig: self.has(19, seqadj),
                seqadj_reply: self.has(20, SeqAdj::default()),
                synproxy: self.has(21, Synproxy { isn: 1, its: self.u32(2), tsoff: u32::MAX }),
                master: self.has(2, self.tuple(1)),
            },
        }
    }

    fn expect(&self) -> ExpectView<'_> {
        ExpectView {
            family: [2, 10, 0][usize::from(self.address[0] % 3)],
            tuple: self.has(0, self.tuple(0)),
            mask: self.has(1, self.tuple(2)),
            master: self.has(2, self.tuple(1)),
            timeout: self.has(3, self.u32(0)),
            id: self.has(4, self.u32(1)),
            helper: self.has(5, &self.texts[0]),
            zone: self.has(6, self.u16(0)),
            flags: self.has(7, self.u32(2)),
            class: self.has(8, self.u32(3)),
            nat: self.has(9, ExpectNat { direction: self.u32(1), tuple: self.tuple(3) }),
            function: self.has(10, &self.texts[1]),
        }
    }

    fn context(&self) -> RecordContext<'_> {
        let event = [Event::New, Event::Update, Event::Destroy][usize::from(self.address[1] % 3)];
        let requester = Requester { port_id: self.u32(0), program: self.has(32, &self.texts[0]) };
        RecordContext { event: self.has(33, event), now_ns: self.numbers[0], requester: self.has(34, requester) }
    }

    /// A flow and an expectation in one encoding, each printed twice to its own output.
    fn printed_twice(&self, encoding: Encoding) -> [String; 2] {
        let set = |field| self.has(field, ()).is_some();
        let format = Format {
            encoding,
            extended: set(50),
            id: set(51),
            timestamp: set(52),
            ktimestamp: set(53),
            labels: set(54),
        };
        let map = self.has(55, Arc::new(LabelMap::parse("0 a b\n3 vpn\n127 big\n")));
        [Subject::Flows, Subject::Expectations].map(|subject| {
            let mut printer = Printer::new(format, subject, TimeZone::UTC).with_labels(map.clone());
            let mut out = Vec::new();
            for _ in 0..2 {
                match subject {
                    Subject::Flows => printer.print_flow(&mut out, &self.flow(), &self.context()),
                    Subject::Expectations => printer.print_expect(&mut out, &self.expect(), &self.context()),
                }
            }
            printer.finish(&mut out);
            String::from_utf8(out).unwrap()
        })
    }
}

proptest! {
    #[test]
    fn json_parses_and_has_no_key_twice(seed in seed()) {
        for text in seed.printed_twice(Encoding::Json) {
            let lines: Vec<_> = text.split_terminator('\n').collect();
            prop_assert_eq!(lines.len(), 2);
            let value: Value = serde_json::from_str(lines[0]).unwrap();
            let object = value.as_object().unwrap();
            prop_assert_eq!(keys_written(lines[0]), count_keys(&value), "{}", lines[0]);
            prop_assert!(object.contains_key("family"));
        }
    }

    #[test]
    fn xml_is_balanced_and_holds_no_forbidden_character(seed in seed()) {
        for text in seed.printed_twice(Encoding::Xml) {
            prop_assert_eq!(xml_fault(&text), None, "{}", text);
        }
    }

    #[test]
    fn text_and_saved_commands_are_one_line_each(seed in seed()) {
        let [flows, expectations] = seed.printed_twice(Encoding::Save);
        prop_assert_eq!(flows.matches('\n').count(), 2);
        prop_assert_eq!(expectations, seed.printed_twice(Encoding::Text)[1].clone());
    }
}

/// The number of keys in a line. A key ends with a letter, a quote and a colon, because quotes within texts are
/// escaped. The parser cannot count them: it keeps one of two equal keys.
fn keys_written(line: &str) -> usize {
    let unescaped = line.replace("\\\\", "").replace("\\\"", "");
    let ends = unescaped.match_indices("\":");
    ends.filter(|(at, _)| unescaped[..*at].ends_with(|last: char| last.is_ascii_lowercase() || last == '_')).count()
}

/// The number of keys in a parsed document, nested ones included.
fn count_keys(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.values().map(|member| 1 + count_keys(member)).sum(),
        _ => 0,
    }
}

/// The first fault in `text` as an XML document; `None` if it has none.
fn xml_fault(text: &str) -> Option<String> {
    let mut open = Vec::new();
    let allowed = |character: char| matches!(character, '\t' | '\n' | ' '..='\u{fffd}' | '\u{10000}'..);
    let Some(mut rest) = text.strip_prefix("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n") else {
        return Some("head".to_owned());
    };
    let mut roots = 0;
    while let Some((between, tail)) = rest.split_once('<') {
        if !between.chars().all(allowed) || between.contains('>') || !has_known_entities_only(between) {
            return Some(format!("text {between:?}"));
        }
        let Some((tag, tail)) = tail.split_once('>') else { return Some(format!("tag {tail:?}")) };
        rest = tail;
        roots += usize::from(open.is_empty());
        match tag.strip_prefix('/') {
            Some(name) if open.pop() == Some(name) => {}
            Some(name) => return Some(format!("</{name}>")),
            None if tag.ends_with('/') => {}
            None => open.extend(tag.split(' ').next()),
        }
    }
    (rest != "\n" || !open.is_empty() || roots != 1).then(|| format!("end: {rest:?}, {open:?}, {roots} roots"))
}

/// Whether every ampersand begins an entity that XML defines.
fn has_known_entities_only(text: &str) -> bool {
    text.split('&').skip(1).all(|behind| ["amp;", "lt;", "gt;"].iter().any(|entity| behind.starts_with(entity)))
}

#[test]
fn the_xml_check_finds_every_fault() {
    let head = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n";
    let faults = ["<a><b></a></b>\n", "<a>\n", "<a></a><b></b>\n", "<a>&x;</a>\n", "<a>\u{1}</a>\n", "<a></a>x\n"];
    for fault in faults {
        assert!(xml_fault(&format!("{head}{fault}")).is_some(), "{fault}");
    }
    assert_eq!(xml_fault(&format!("{head}<a x=\"1\">\n<b/>&lt;</a>\n")), None);
}
