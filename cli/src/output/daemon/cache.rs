//! The entries of a cache as conntrackd prints them.
//!
//! Timeouts, ids in lines and references are left out; how long the cache has it stands behind. External entries have no
//! answers' direction, as conntrackd never learns it.

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use jiff::tz::TimeZone;

use crate::control::request::Cache;
use crate::output::put::Append;
use crate::output::{Encoding, Format, Printer, RecordContext, Subject};

/// What XML has in place of the direction that nobody told.
const EMPTY_REPLY: &[u8] =
    b"<meta direction=\"reply\"><layer3 protonum=\"0\" protoname=\"unknown\"><src></src><dst></dst>\
                          </layer3><layer4 protonum=\"0\" protoname=\"unknown\"></layer4></meta>";
/// What stands behind the original direction.
const META_END: &[u8] = b"</meta>";

/// Prints entries of one cache.
#[derive(Debug)]
pub(crate) struct CachePrinter {
    printer: Printer,
    cache: Cache,
    xml: bool,
}

impl CachePrinter {
    /// For entries of `cache`.
    pub(crate) fn new(cache: Cache, of: Subject, xml: bool) -> Self {
        let encoding = if xml { Encoding::Xml } else { Encoding::Text };
        let printer = Printer::new(Format { encoding, ..Format::default() }, of, TimeZone::UTC).without_root();
        Self { printer, cache, xml }
    }

    /// Appends a flow that the cache has had for so many seconds.
    pub(crate) fn print_flow(&mut self, out: &mut Vec<u8>, flow: &FlowView<'_>, seconds: u64) {
        let external = self.cache == Cache::External;
        // An event of an unmarked flow has no mark; that it is 0, the cache knows.
        let mark = flow.mark.filter(|mark| *mark != 0);
        let reply = flow.reply.filter(|_| !external);
        let id = flow.id.filter(|_| !external);
        let shown = FlowView { timeout: None, use_count: None, labels: None, mark, reply, id, ..*flow };
        let begin = out.len();
        self.printer.print_flow(out, &shown, &RecordContext::default());
        if self.xml && external {
            insert_empty_reply(out, begin);
        }
        self.append_age(out, seconds);
    }

    /// Appends an expectation that the cache has had for so many seconds.
    pub(crate) fn print_expect(&mut self, out: &mut Vec<u8>, expect: &ExpectView<'_>, seconds: u64) {
        let shown = ExpectView { timeout: None, ..*expect };
        self.printer.print_expect(out, &shown, &RecordContext::default());
        self.append_age(out, seconds);
    }

    fn append_age(&self, out: &mut Vec<u8>, seconds: u64) {
        if !self.xml && out.last() == Some(&b'\n') {
            out.pop();
            out.literal(b" [active since ");
            out.decimal(seconds);
            out.literal(b"s]\n");
        }
    }
}

/// Puts the empty direction behind the first one of the element that begins there.
fn insert_empty_reply(out: &mut Vec<u8>, begin: usize) {
    let line = out.get(begin..).unwrap_or_default();
    let end = line.windows(META_END.len()).position(|bytes| bytes == META_END);
    if let Some(place) = end.map(|end| begin + end + META_END.len()) {
        let rest = out.split_off(place);
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

    /// As captured of conntrackd 1.4.7.
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

    /// As captured of conntrackd 1.4.7.
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
