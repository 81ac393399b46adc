//! The entries of a cache in the lines and the XML of conntrackd.
//!
//! Timeouts, reference counts and, in lines, ids are omitted. A line ends with the time since the entry entered the
//! cache. External entries have no reply direction, because conntrackd never receives it.

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::{FlowView, RareAttributes};
use jiff::tz::TimeZone;

use crate::control::request::Cache;
use crate::output::append::Append;
use crate::output::{Encoding, Format, Printer, RecordContext, Subject};

/// The reply direction of external entries in XML.
const EMPTY_REPLY: &[u8] =
    b"<meta direction=\"reply\"><layer3 protonum=\"0\" protoname=\"unknown\"><src></src><dst></dst>\
                          </layer3><layer4 protonum=\"0\" protoname=\"unknown\"></layer4></meta>";
/// The end tag of the original direction.
const META_END: &[u8] = b"</meta>";

/// Appends the entries of one cache to a buffer.
#[derive(Debug)]
pub(crate) struct CachePrinter {
    printer: Printer,
    cache: Cache,
    xml: bool,
}

impl CachePrinter {
    /// A printer of the entries of `cache` that belong to the table `of`, as lines or as XML.
    pub(crate) fn new(cache: Cache, of: Subject, xml: bool) -> Self {
        let encoding = if xml { Encoding::Xml } else { Encoding::Text };
        let printer = Printer::new(Format { encoding, ..Format::default() }, of, TimeZone::UTC).without_root();
        Self { printer, cache, xml }
    }

    /// Appends a flow that entered the cache `seconds` ago.
    pub(crate) fn print_flow(&mut self, out: &mut Vec<u8>, flow: &FlowView<'_>, seconds: u64) {
        let external = self.cache == Cache::External;
        // The kernel's event of an unmarked flow has no mark, and conntrackd prints none. The cache stores a mark of 0.
        let mark = flow.mark.filter(|mark| *mark != 0);
        let reply = flow.reply.filter(|_| !external);
        let id = flow.id.filter(|_| !external);
        let rare = RareAttributes { labels: None, ..flow.rare };
        let printed = FlowView { timeout: None, use_count: None, mark, reply, id, rare, ..*flow };
        let start = out.len();
        self.printer.print_flow(out, &printed, &RecordContext::default());
        if self.xml && external {
            insert_empty_reply(out, start);
        }
        self.append_age(out, seconds);
    }

    /// Appends an expectation that entered the cache `seconds` ago.
    pub(crate) fn print_expect(&mut self, out: &mut Vec<u8>, expect: &ExpectView<'_>, seconds: u64) {
        let printed = ExpectView { timeout: None, ..*expect };
        self.printer.print_expect(out, &printed, &RecordContext::default());
        self.append_age(out, seconds);
    }

    /// Inserts `[active since …]` before the line end; nothing in XML.
    fn append_age(&self, out: &mut Vec<u8>, seconds: u64) {
        if !self.xml && out.last() == Some(&b'\n') {
            out.pop();
            out.literal(b" [active since ");
            out.decimal(seconds);
            out.literal(b"s]\n");
        }
    }
}

/// Inserts the empty reply direction after the original direction of the element that starts at `start`.
fn insert_empty_reply(out: &mut Vec<u8>, start: usize) {
    let line = out.get(start..).unwrap_or_default();
    let end = line.windows(META_END.len()).position(|bytes| bytes == META_END);
    if let Some(position) = end.map(|end| start + end + META_END.len()) {
        let rest = out.split_off(position);
        out.extend_from_slice(EMPTY_REPLY);
        out.extend_from_slice(&rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctflow_parser::proto::{ProtoInfo, TcpInfo};
    use ctflow_parser::tuple::{L4, Tuple};

    fn tuple(src: &str, dst: &str, proto: u8, ports: (u16, u16)) -> Tuple {
        let l4 = L4::Ports { src: ports.0, dst: ports.1 };
        Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), proto, l4, zone: None }
    }

    fn printed(cache: Cache, xml: bool, flow: &FlowView<'_>) -> String {
        let mut out = b"before\n".to_vec();
        CachePrinter::new(cache, Subject::Flows, xml).print_flow(&mut out, flow, 2);
        String::from_utf8(out).unwrap().strip_prefix("before\n").unwrap().to_owned()
    }

    fn tcp() -> FlowView<'static> {
        FlowView {
            family: 2,
            orig: Some(tuple("192.0.2.2", "198.51.100.10", 6, (43002, 8080))),
            reply: Some(tuple("198.51.100.10", "198.51.100.1", 6, (8080, 43002))),
            status: Some(14),
            timeout: Some(100),
            mark: Some(42),
            id: Some(9),
            proto: Some(ProtoInfo::Tcp(TcpInfo { state: Some(7), ..TcpInfo::default() })),
            ..FlowView::default()
        }
    }

    /// Captured from conntrackd 1.4.7.
    #[test]
    fn lines_are_conntrackds() {
        assert_eq!(
            printed(Cache::Internal, false, &tcp()),
            "tcp      6 TIME_WAIT src=192.0.2.2 dst=198.51.100.10 sport=43002 dport=8080 src=198.51.100.10 \
             dst=198.51.100.1 sport=8080 dport=43002 [ASSURED] mark=42 [active since 2s]\n"
        );
        assert_eq!(
            printed(Cache::External, false, &tcp()),
            "tcp      6 TIME_WAIT src=192.0.2.2 dst=198.51.100.10 sport=43002 dport=8080 [ASSURED] mark=42 [active since \
             2s]\n"
        );
        let udp = FlowView {
            orig: Some(tuple("192.0.2.2", "198.51.100.10", 17, (1001, 53))),
            status: Some(0),
            mark: Some(0),
            proto: None,
            ..tcp()
        };
        assert_eq!(
            printed(Cache::External, false, &udp),
            "udp      17 src=192.0.2.2 dst=198.51.100.10 sport=1001 dport=53 [UNREPLIED] [active since 2s]\n"
        );
    }

    /// Captured from conntrackd 1.4.7.
    #[test]
    fn xml_has_no_root_and_external_entries_an_empty_reply() {
        assert_eq!(
            printed(Cache::External, true, &tcp()),
            "<flow><meta direction=\"original\"><layer3 protonum=\"2\" protoname=\"ipv4\"><src>192.0.2.2</src>\
             <dst>198.51.100.10</dst></layer3><layer4 protonum=\"6\" protoname=\"tcp\"><sport>43002</sport>\
             <dport>8080</dport></layer4></meta><meta direction=\"reply\"><layer3 protonum=\"0\" protoname=\"unknown\">\
             <src></src><dst></dst></layer3><layer4 protonum=\"0\" protoname=\"unknown\"></layer4></meta>\
             <meta direction=\"independent\"><state>TIME_WAIT</state><mark>42</mark><assured/></meta></flow>\n"
        );
        let internal = printed(Cache::Internal, true, &tcp());
        assert!(internal.starts_with("<flow><meta") && internal.contains("<mark>42</mark><id>9</id>"), "{internal}");
    }

    #[test]
    fn expectations_are_conntrackds() {
        let expect = ExpectView {
            family: 2,
            tuple: Some(tuple("192.0.2.2", "198.51.100.10", 6, (0, 41739))),
            mask: Some(tuple("255.255.255.255", "255.255.255.255", 6, (0, 65535))),
            master: Some(tuple("192.0.2.2", "198.51.100.10", 6, (52372, 21))),
            timeout: Some(300),
            helper: Some("ftp"),
            flags: Some(0),
            class: Some(0),
            ..ExpectView::default()
        };
        let mut out = Vec::new();
        CachePrinter::new(Cache::External, Subject::Expectations, false).print_expect(&mut out, &expect, 0);
        let captured = "proto=6 src=192.0.2.2 dst=198.51.100.10 sport=0 dport=41739 mask-src=255.255.255.255 \
                        mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.0.2.2 master-dst=198.51.100.10 \
                        sport=52372 dport=21 class=0 helper=ftp [active since 0s]\n";
        assert_eq!(String::from_utf8(out).unwrap(), captured);
    }
}
