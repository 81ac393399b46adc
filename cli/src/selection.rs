//! The conditions that select the flows of a command.
//!
//! A [`Selection`] is compared with every flow of a dump. [`Selection::matches`] therefore allocates nothing and
//! checks the conditions first that most flows fail. [`Selection::kernel_filter`] is the part that the kernel can
//! apply itself. Kernels ignore conditions that they do not know, so the received flows are compared again.
//!
//! Every condition that is set must hold. A value that a flow does not have equals nothing, except that a missing
//! zone is zone 0.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ctflow_parser::filter::{DumpFilter, Masked, TupleFilter};
use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

/// The conditions that a flow must meet. The default matches every flow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The address family; `AF_UNSPEC` for both.
    pub(crate) family: u8,
    /// The layer-4 protocol.
    pub(crate) protocol: Option<u8>,
    /// Addresses and ports or keys of the original direction.
    pub(crate) orig: DirectionFilter,
    /// Addresses and ports or keys of the reply direction.
    pub(crate) reply: DirectionFilter,
    /// ICMP fields of the original direction.
    pub(crate) icmp: Icmp,
    /// The tracker's state, by the protocol's number.
    pub(crate) state: Option<u8>,
    /// Status flags that must be set, and status flags that must be clear.
    pub(crate) status: Status,
    /// The mark, under a mask.
    pub(crate) mark: Option<Masked>,
    /// The security mark.
    pub(crate) secmark: Option<u32>,
    /// The zone of both directions.
    pub(crate) zone: Option<u16>,
    /// The zone of the original direction only.
    pub(crate) orig_zone: Option<u16>,
    /// The zone of the reply direction only.
    pub(crate) reply_zone: Option<u16>,
    /// The NAT of the flow.
    pub(crate) nat: Nat,
    /// Labels by name, all of which the flow must have. The owner of the label map converts them into `label_bits`.
    pub(crate) labels: Vec<String>,
    /// Labels by number: bit n is label n.
    pub(crate) label_bits: u128,
    /// The kernel's id of the flow.
    pub(crate) id: Option<u32>,
    /// Seconds until the flow expires.
    pub(crate) timeout: Option<u32>,
}

/// The conditions for one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DirectionFilter {
    /// Source address.
    pub(crate) src: Option<Network>,
    /// Destination address.
    pub(crate) dst: Option<Network>,
    /// Source port or key.
    pub(crate) src_port: Option<u16>,
    /// Destination port or key.
    pub(crate) dst_port: Option<u16>,
}

/// Addresses that equal an address in the bits of a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    /// The mask, in as many low bits as the address family has.
    mask: u128,
}

/// The conditions for ICMP fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Icmp {
    /// Message type.
    pub(crate) kind: Option<u8>,
    /// Message code.
    pub(crate) code: Option<u8>,
    /// Echo identifier.
    pub(crate) id: Option<u16>,
}

/// The conditions for the status flags `IPS_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// Flags that must be set.
    pub(crate) set: u32,
    /// Flags that must be clear.
    pub(crate) clear: u32,
}

/// The conditions for a flow's NAT. All that are set must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Nat {
    /// The source must be translated.
    pub(crate) src: Option<NatTarget>,
    /// The destination must be translated.
    pub(crate) dst: Option<NatTarget>,
    /// The source or the destination must be translated.
    pub(crate) any: Option<NatTarget>,
}

/// The address and port that NAT must have set. The default matches any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NatTarget {
    /// The new address.
    pub(crate) address: Option<IpAddr>,
    /// The new port; for ICMP, the new id.
    pub(crate) port: Option<u16>,
}

impl Network {
    /// One single address.
    pub(crate) fn one(address: IpAddr) -> Self {
        Self { address, mask: all_ones(address) }
    }

    /// The addresses that equal `address` in the bits of `mask`. Both must be of the same address family.
    pub(crate) fn masked(address: IpAddr, mask: IpAddr) -> Self {
        Self { address, mask: bits(mask) & all_ones(address) }
    }

    /// Whether `address` is one of these addresses.
    #[inline]
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && (bits(address) ^ bits(self.address)) & self.mask == 0
    }

    /// The only address; `None` if there are several.
    fn single(&self) -> Option<IpAddr> {
        (self.mask == all_ones(self.address)).then_some(self.address)
    }
}

#[inline]
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[inline]
fn all_ones(address: IpAddr) -> u128 {
    if address.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX }
}

/// Whether `found` equals `required`, or nothing is required.
#[inline]
fn equals_if_required<T: PartialEq + Copy>(required: Option<T>, found: Option<T>) -> bool {
    required.is_none() || required == found
}

impl Selection {
    /// Whether a flow meets all conditions.
    #[inline]
    pub(crate) fn matches(&self, flow: &FlowView<'_>) -> bool {
        (self.family == uapi::AF_UNSPEC || self.family == flow.family)
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol())
            && self.matches_numbers(flow)
            && self.orig.matches(flow.orig.as_ref())
            && self.reply.matches(flow.reply.as_ref())
            && self.icmp.matches(flow.orig.as_ref())
            && self.matches_zones(flow)
            && self.nat.matches(flow)
    }

    #[inline]
    fn matches_numbers(&self, flow: &FlowView<'_>) -> bool {
        self.status.matches(flow.status)
            && self.mark.is_none_or(|mark| flow.mark.is_some_and(|found| mark.matches(found)))
            && equals_if_required(self.state, flow.proto.and_then(|proto| proto.state()))
            && equals_if_required(self.id, flow.id)
            && equals_if_required(self.timeout, flow.timeout)
            && equals_if_required(self.secmark, flow.secmark)
            && self.label_bits & !flow.rare.labels.unwrap_or_default().0 == 0
    }

    #[inline]
    fn matches_zones(&self, flow: &FlowView<'_>) -> bool {
        let zone_of = |tuple: Option<Tuple>| tuple.and_then(|tuple| tuple.zone).unwrap_or(0);
        self.zone.is_none_or(|zone| zone == flow.zone.unwrap_or(0))
            && self.orig_zone.is_none_or(|zone| zone == zone_of(flow.orig))
            && self.reply_zone.is_none_or(|zone| zone == zone_of(flow.reply))
    }

    /// The conditions that the kernel can apply to a dump.
    pub(crate) fn kernel_filter(&self) -> DumpFilter {
        DumpFilter {
            family: self.family,
            mark: self.mark,
            status: self.status.kernel_filter(),
            zone: self.zone.filter(|zone| *zone != 0), // kernels send the flows of all zones for zone 0
            // Both directions have the same protocol, so a condition for the original direction suffices.
            orig: self.tuple_filter(
                &self.orig,
                self.icmp,
                flag_if_required(self.protocol, uapi::CTA_FILTER_F_CTA_PROTO_NUM),
            ),
            reply: self.tuple_filter(&self.reply, Icmp::default(), 0),
        }
    }

    /// The conditions for one direction. The kernel compares tuples of one address family only, and refuses tuples in a
    /// filter for both families.
    fn tuple_filter(&self, side: &DirectionFilter, icmp: Icmp, protocol: u32) -> Option<TupleFilter> {
        let none: IpAddr = match self.family {
            uapi::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            uapi::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        // With an IPv6 address in the filter, the kernel omits exactly the flows that match (seen on Linux 6.18).
        let comparable = self.family == uapi::AF_INET;
        let single = |network: Option<Network>| network.filter(|_| comparable).and_then(|network| network.single());
        let (src, dst) = (single(side.src), single(side.dst));
        let (fields, l4) = self.l4_filter(side, icmp);
        let addresses =
            flag_if_required(src, uapi::CTA_FILTER_F_CTA_IP_SRC) | flag_if_required(dst, uapi::CTA_FILTER_F_CTA_IP_DST);
        // The kernel refuses a filter with a protocol's fields and without the protocol's number.
        let number = if fields == 0 { protocol } else { uapi::CTA_FILTER_F_CTA_PROTO_NUM };
        let flags = addresses | number | fields;
        let (src, dst) = (src.unwrap_or(none), dst.unwrap_or(none));
        let tuple = Tuple { src, dst, proto: self.protocol.unwrap_or(0), l4, zone: None };
        (flags != 0).then_some(TupleFilter { flags, tuple })
    }

    /// The conditions for ports and ICMP fields, for protocols whose tracker every kernel has: filter flags and values.
    fn l4_filter(&self, side: &DirectionFilter, icmp: Icmp) -> (u32, L4) {
        let ports = || {
            let flags = flag_if_required(side.src_port, uapi::CTA_FILTER_F_CTA_PROTO_SRC_PORT)
                | flag_if_required(side.dst_port, uapi::CTA_FILTER_F_CTA_PROTO_DST_PORT);
            let (src, dst) = (side.src_port.unwrap_or(0), side.dst_port.unwrap_or(0));
            (flags, L4::Ports { src, dst })
        };
        let icmp = |[kind, code, id]: [u32; 3]| {
            let flags =
                flag_if_required(icmp.kind, kind) | flag_if_required(icmp.code, code) | flag_if_required(icmp.id, id);
            let (kind, code, id) = (icmp.kind.unwrap_or(0), icmp.code.unwrap_or(0), icmp.id.unwrap_or(0));
            (flags, L4::Icmp { kind, code, id })
        };
        let (flags, l4) = match self.protocol {
            Some(uapi::IPPROTO_TCP | uapi::IPPROTO_UDP | uapi::IPPROTO_UDPLITE | uapi::IPPROTO_SCTP) => ports(),
            Some(uapi::IPPROTO_ICMP) => icmp(ICMP_FLAGS),
            Some(uapi::IPPROTO_ICMPV6) => icmp(ICMPV6_FLAGS),
            _ => (0, L4::None),
        };
        (flags, if flags == 0 { L4::None } else { l4 })
    }
}

/// The filter flags of ICMP's type, code and id.
const ICMP_FLAGS: [u32; 3] = [
    uapi::CTA_FILTER_F_CTA_PROTO_ICMP_TYPE,
    uapi::CTA_FILTER_F_CTA_PROTO_ICMP_CODE,
    uapi::CTA_FILTER_F_CTA_PROTO_ICMP_ID,
];

/// The filter flags of ICMPv6's type, code and id.
const ICMPV6_FLAGS: [u32; 3] = [
    uapi::CTA_FILTER_F_CTA_PROTO_ICMPV6_TYPE,
    uapi::CTA_FILTER_F_CTA_PROTO_ICMPV6_CODE,
    uapi::CTA_FILTER_F_CTA_PROTO_ICMPV6_ID,
];

/// `flag` if a value is required, else 0.
fn flag_if_required<T: Copy>(required: Option<T>, flag: u32) -> u32 {
    if required.is_some() { flag } else { 0 }
}

impl DirectionFilter {
    #[inline]
    fn matches(&self, tuple: Option<&Tuple>) -> bool {
        if *self == Self::default() {
            return true;
        }
        let Some(tuple) = tuple else { return false };
        let ports = tuple.ports();
        equals_if_required(self.src_port, ports.map(|(src, _)| src))
            && equals_if_required(self.dst_port, ports.map(|(_, dst)| dst))
            && self.src.is_none_or(|network| network.contains(tuple.src))
            && self.dst.is_none_or(|network| network.contains(tuple.dst))
    }
}

impl Icmp {
    #[inline]
    fn matches(self, tuple: Option<&Tuple>) -> bool {
        if self == Self::default() {
            return true;
        }
        let Some(&Tuple { l4: L4::Icmp { kind, code, id }, .. }) = tuple else { return false };
        equals_if_required(self.kind, Some(kind))
            && equals_if_required(self.code, Some(code))
            && equals_if_required(self.id, Some(id))
    }
}

impl Status {
    #[inline]
    fn matches(self, status: Option<u32>) -> bool {
        match status {
            Some(status) => status & self.set == self.set && status & self.clear == 0,
            None => self == Self::default(),
        }
    }

    /// The kernel's filter for the flags. conntrack's own mask omits the flags that must be set as soon as a flag
    /// must be clear; this one has both.
    fn kernel_filter(self) -> Option<Masked> {
        let mask = self.set | self.clear;
        (mask != 0).then_some(Masked { value: self.set, mask })
    }
}

impl Nat {
    #[inline]
    fn matches(self, flow: &FlowView<'_>) -> bool {
        if self == Self::default() {
            return true;
        }
        let is_src = |target: NatTarget| target.matches(source_translation(flow));
        let is_dst = |target: NatTarget| target.matches(destination_translation(flow));
        self.src.is_none_or(is_src)
            && self.dst.is_none_or(is_dst)
            && self.any.is_none_or(|any| is_src(any) || is_dst(any))
    }
}

impl NatTarget {
    fn matches(self, translation: Option<(IpAddr, Option<u16>)>) -> bool {
        let Some((address, port)) = translation else { return false };
        equals_if_required(self.address, Some(address)) && equals_if_required(self.port, port)
    }
}

/// The source's address and port after source NAT; `None` without NAT. The source is translated if the reply
/// direction's destination differs from the original source. For ICMP, NAT translates the id instead of a port; type
/// and code differ between request and reply in any case.
pub(crate) fn source_translation(flow: &FlowView<'_>) -> Option<(IpAddr, Option<u16>)> {
    let (orig, reply) = tuples_after_nat(flow, uapi::IPS_SRC_NAT_DONE)?;
    let (before, after) = match (orig.l4, reply.l4) {
        (L4::Ports { src, .. }, L4::Ports { dst, .. }) => (Some(src), Some(dst)),
        (L4::Icmp { id: before, .. }, L4::Icmp { id: after, .. }) => (Some(before), Some(after)),
        _ => (None, None),
    };
    (orig.src != reply.dst || before != after).then_some((reply.dst, after))
}

/// The destination's address and port after destination NAT; `None` without NAT.
pub(crate) fn destination_translation(flow: &FlowView<'_>) -> Option<(IpAddr, Option<u16>)> {
    let (orig, reply) = tuples_after_nat(flow, uapi::IPS_DST_NAT_DONE)?;
    let (before, after) = match (orig.l4, reply.l4) {
        (L4::Ports { dst, .. }, L4::Ports { src, .. }) => (Some(dst), Some(src)),
        _ => (None, None),
    };
    (orig.dst != reply.src || before != after).then_some((reply.src, after))
}

/// Both directions of a flow whose NAT status has the flag `done`. A flow without a status counts as having it.
fn tuples_after_nat(flow: &FlowView<'_>, done: u32) -> Option<(Tuple, Tuple)> {
    let is_done = flow.status.is_none_or(|status| status & done != 0);
    flow.orig.zip(flow.reply).filter(|_| is_done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctflow_parser::flow::{Labels, RareAttributes};
    use ctflow_parser::proto::{ProtoInfo, TcpInfo};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn tuple(src: &str, dst: &str, proto: u8, l4: L4) -> Option<Tuple> {
        Some(Tuple { src: ip(src), dst: ip(dst), proto, l4, zone: None })
    }

    const NAT_DONE: u32 = uapi::IPS_SRC_NAT_DONE | uapi::IPS_DST_NAT_DONE;

    /// A TCP flow, its source translated to 198.51.100.1:4000.
    fn flow() -> FlowView<'static> {
        let state = TcpInfo { state: Some(3), ..TcpInfo::default() };
        FlowView {
            family: uapi::AF_INET,
            orig: tuple("10.0.0.1", "192.0.2.9", 6, L4::Ports { src: 1000, dst: 80 }),
            reply: tuple("192.0.2.9", "198.51.100.1", 6, L4::Ports { src: 80, dst: 4000 }),
            status: Some(uapi::IPS_SEEN_REPLY | uapi::IPS_CONFIRMED | NAT_DONE),
            timeout: Some(60),
            mark: Some(0x15),
            id: Some(77),
            proto: Some(ProtoInfo::Tcp(state)),
            rare: RareAttributes { labels: Some(Labels(0b110)), ..RareAttributes::default() },
            ..FlowView::default()
        }
    }

    fn selects(change: impl FnOnce(&mut Selection)) -> bool {
        let mut selection = Selection::default();
        change(&mut selection);
        selection.matches(&flow())
    }

    #[test]
    fn family_protocol_and_numbers_must_be_equal() {
        assert!(selects(|_| {}));
        assert!(selects(|s| (s.family, s.protocol) = (uapi::AF_INET, Some(6))));
        assert!(!selects(|s| s.family = uapi::AF_INET6) && !selects(|s| s.protocol = Some(17)));
        assert!(selects(|s| (s.id, s.timeout, s.state) = (Some(77), Some(60), Some(3))));
        assert!(!selects(|s| s.id = Some(78)) && !selects(|s| s.timeout = Some(61)) && !selects(|s| s.state = Some(4)));
        assert!(!selects(|s| s.secmark = Some(0)), "the flow has no security mark");
    }

    #[test]
    fn addresses_are_compared_under_their_masks() {
        let table = [
            ("10.0.0.1", None, true),
            ("10.0.0.2", None, false),
            ("10.0.0.77", Some("255.255.255.0"), true),
            ("10.0.1.1", Some("255.255.255.0"), false),
            ("77.0.0.1", Some("0.255.255.255"), true),
            ("1.2.3.4", Some("0.0.0.0"), true),
            ("::a00:1", None, false),
            ("::", Some("::"), false),
        ];
        for (address, mask, expected) in table {
            let network = mask.map_or(Network::one(ip(address)), |mask| Network::masked(ip(address), ip(mask)));
            assert_eq!(selects(|s| s.orig.src = Some(network)), expected, "{address} {mask:?}");
        }
        assert!(selects(|s| s.reply.dst = Some(Network::one(ip("198.51.100.1")))));
        assert!(Network::masked(ip("2001:db8::9"), ip("ffff:ffff::")).contains(ip("2001:db8:1::")));
        assert!(!Network::masked(ip("2001:db8::9"), ip("ffff:ffff::")).contains(ip("2001:db9::9")));
    }

    #[test]
    fn ports_of_either_direction_and_icmp_fields() {
        assert!(selects(|s| (s.orig.src_port, s.reply.dst_port) = (Some(1000), Some(4000))));
        assert!(!selects(|s| s.orig.dst_port = Some(81)) && !selects(|s| s.reply.src_port = Some(0)));
        assert!(!selects(|s| s.icmp.id = Some(0)), "the flow is not ICMP");
        let echo = FlowView {
            orig: tuple("10.0.0.1", "10.0.0.2", 1, L4::Icmp { kind: 8, code: 0, id: 9 }),
            ..FlowView::default()
        };
        let icmp = |kind, code, id| Selection { icmp: Icmp { kind, code, id }, ..Selection::default() };
        assert!(icmp(Some(8), Some(0), Some(9)).matches(&echo) && icmp(None, None, Some(9)).matches(&echo));
        assert!(!icmp(Some(0), None, None).matches(&echo) && !icmp(None, Some(1), None).matches(&echo));
    }

    #[test]
    fn negated_status_is_compared_alone_and_with_plain_status() {
        let (seen, assured) = (uapi::IPS_SEEN_REPLY, uapi::IPS_ASSURED);
        let table = [
            (seen, 0, true),
            (assured, 0, false),
            (0, assured, true),
            (0, seen, false),
            (seen, assured, true),
            (assured, seen, false),
            (seen, seen, false),
        ];
        for (set, clear, expected) in table {
            assert_eq!(selects(|s| s.status = Status { set, clear }), expected, "{set} {clear}");
        }
        let filter = Status { set: seen, clear: assured }.kernel_filter();
        assert_eq!(filter, Some(Masked { value: seen, mask: seen | assured }));
        assert_eq!(Status::default().kernel_filter(), None);
        assert!(!Status { set: 0, clear: seen }.matches(None), "a flow without a status");
    }

    #[test]
    fn marks_under_masks_and_several_labels() {
        let mark = |value, mask| selects(|s| s.mark = Some(Masked { value, mask }));
        assert!(mark(0x15, u32::MAX) && mark(0x5, 0xf) && mark(0, 0));
        assert!(!mark(0x14, u32::MAX) && !mark(0x15, 0xf));
        let labels = |bits| selects(|s| s.label_bits = bits);
        assert!(labels(0b010) && labels(0b110));
        assert!(!labels(0b001) && !labels(0b111), "all labels are required");
    }

    #[test]
    fn a_zone_that_is_missing_is_0() {
        assert!(selects(|s| (s.zone, s.orig_zone, s.reply_zone) = (Some(0), Some(0), Some(0))));
        assert!(!selects(|s| s.zone = Some(7)) && !selects(|s| s.orig_zone = Some(7)));
        let mut flow = flow();
        flow.orig = flow.orig.map(|orig| Tuple { zone: Some(3), ..orig });
        assert!(Selection { orig_zone: Some(3), ..Selection::default() }.matches(&flow));
        assert!(
            !Selection { zone: Some(3), ..Selection::default() }.matches(&flow),
            "the zone is of one direction only"
        );
    }

    #[test]
    fn translations_with_and_without_address_and_port() {
        let to = |address: &str, port| NatTarget { address: Some(ip(address)), port };
        let any = NatTarget::default();
        assert!(selects(|s| s.nat.src = Some(any)) && !selects(|s| s.nat.dst = Some(any)));
        assert!(selects(|s| s.nat.any = Some(any)) && !selects(|s| (s.nat.src, s.nat.dst) = (Some(any), Some(any))));
        assert!(selects(|s| s.nat.src = Some(to("198.51.100.1", None))));
        assert!(selects(|s| s.nat.any = Some(to("198.51.100.1", Some(4000)))));
        assert!(!selects(|s| s.nat.src = Some(to("198.51.100.1", Some(4001)))));
        assert!(!selects(|s| s.nat.src = Some(to("192.0.2.9", None))));
    }

    #[test]
    fn ipv6_translations_are_compared_by_address() {
        let ports = L4::Ports { src: 1, dst: 1 };
        let flow = FlowView {
            orig: tuple("2001:db8::1", "2001:db8::2", 17, ports),
            reply: tuple("2001:db8::2", "2001:db8::99", 17, ports),
            status: Some(NAT_DONE),
            ..FlowView::default()
        };
        let src = |address| {
            let src = Some(NatTarget { address: Some(ip(address)), port: None });
            Selection { nat: Nat { src, ..Nat::default() }, ..Selection::default() }.matches(&flow)
        };
        assert!(src("2001:db8::99") && !src("2001:db8::98"));
    }

    #[test]
    fn icmp_is_translated_where_address_or_id_is() {
        let echo = |answers_to, id| FlowView {
            orig: tuple("10.0.0.1", "10.0.0.2", 1, L4::Icmp { kind: 8, code: 0, id: 9 }),
            reply: tuple("10.0.0.2", answers_to, 1, L4::Icmp { kind: 0, code: 0, id }),
            status: Some(NAT_DONE),
            ..FlowView::default()
        };
        assert_eq!(source_translation(&echo("10.0.0.1", 9)), None, "type 8 is answered by type 0");
        assert_eq!(destination_translation(&echo("10.0.0.9", 5)), None);
        assert_eq!(source_translation(&echo("10.0.0.9", 9)), Some((ip("10.0.0.9"), Some(9))));
        assert_eq!(source_translation(&echo("10.0.0.1", 5)), Some((ip("10.0.0.1"), Some(5))));
        let untouched = FlowView { status: Some(0), ..echo("10.0.0.9", 9) };
        assert_eq!(source_translation(&untouched), None, "NAT has not processed the flow");
    }

    #[test]
    fn the_kernel_filter_has_what_the_kernel_can_compare() {
        let mut selection = Selection {
            family: uapi::AF_INET,
            protocol: Some(6),
            mark: Some(Masked { value: 1, mask: 1 }),
            zone: Some(7),
            ..Selection::default()
        };
        selection.orig.src = Some(Network::one(ip("10.0.0.1")));
        selection.orig.dst = Some(Network::masked(ip("10.0.0.1"), ip("255.0.0.0")));
        selection.orig.dst_port = Some(80);
        let filter = selection.kernel_filter();
        assert_eq!((filter.family, filter.mark, filter.zone), (uapi::AF_INET, selection.mark, Some(7)));
        let orig = filter.orig.unwrap();
        let flags =
            uapi::CTA_FILTER_F_CTA_IP_SRC | uapi::CTA_FILTER_F_CTA_PROTO_NUM | uapi::CTA_FILTER_F_CTA_PROTO_DST_PORT;
        assert_eq!(orig.flags, flags, "no network, which the kernel cannot compare");
        assert_eq!((orig.tuple.src, orig.tuple.ports()), (ip("10.0.0.1"), Some((0, 80))));
        assert_eq!(filter.reply, None);
        selection.reply.src_port = Some(80);
        let reply = selection.kernel_filter().reply.unwrap();
        assert_eq!(reply.flags, uapi::CTA_FILTER_F_CTA_PROTO_NUM | uapi::CTA_FILTER_F_CTA_PROTO_SRC_PORT);
        selection.family = uapi::AF_INET6;
        selection.orig.src = Some(Network::one(ip("2001:db8::1")));
        let flags = uapi::CTA_FILTER_F_CTA_PROTO_NUM | uapi::CTA_FILTER_F_CTA_PROTO_DST_PORT;
        assert_eq!(
            selection.kernel_filter().orig.unwrap().flags,
            flags,
            "no IPv6 address, which the kernel compares wrongly"
        );
        selection.family = uapi::AF_UNSPEC;
        assert_eq!((selection.kernel_filter().orig, selection.kernel_filter().reply), (None, None));
        selection.zone = Some(0);
        assert_eq!(selection.kernel_filter().zone, None, "which the kernel treats as any zone");
    }
}
