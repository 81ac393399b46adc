//! The request that creates a replicated flow in this kernel.
//!
//! A kernel does not accept a flow in the form in which another kernel reported it, so some fields are changed:
//!
//! | field of the flow | in the request |
//! |---|---|
//! | translated reply direction | the mirrored original direction, with `CTA_NAT_SRC` and `CTA_NAT_DST`: the kernel translates the flow again and reserves its NAT mappings |
//! | status | with confirmed, and without the bits that only the kernel sets (expected, translated, dying) |
//! | TCP state | with the liberal flag, because this kernel has not seen the windows; or, with window tracking, without it: the kernel learns the windows from the next packets |
//! | timeout | the time that was left when it was reported, less its age; or the operator's fixed time; or a time so long that it marks the flow as held for a peer |
//! | master | unchanged: the master flow must exist, so it is committed before |
//! | labels, sequence adjustment, SYN proxy | only those that are not all zero |
//! | id, use count, counters, times, security mark and context | absent: only the kernel sets them |
//!
//! All other fields (mark, helper, zones) are unchanged.

use ctflow_parser::flow::{FlowView, Labels, RareAttributes, SeqAdj, Synproxy};
use ctflow_parser::proto::{ProtoInfo, TcpFlags, TcpInfo};
use ctflow_parser::request::{FlowChange, NatRange};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

/// How a replicated flow is created in this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitRules {
    /// How long the flow lives without packets.
    pub lifetime: Lifetime,
    /// Whether TCP windows are checked.
    pub windows: Windows,
}

impl Default for CommitRules {
    /// The flow lives as long as at its source, and TCP windows are not checked.
    fn default() -> Self {
        Self { lifetime: Lifetime::Left, windows: Windows::Liberal }
    }
}

/// How long a committed flow lives without packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// The timeout that its source reported, less the time since then; 60 s where that time is over.
    Left,
    /// This many seconds, whatever its source reported.
    Seconds(u32),
    /// Until its source reports its end: see [`is_held`].
    Held,
}

/// Whether this kernel checks the TCP windows of a committed flow, whose packets it has not seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Windows {
    /// No packet of the flow is ever dropped for being outside the window (`IP_CT_TCP_FLAG_BE_LIBERAL`).
    #[default]
    Liberal,
    /// The kernel learns the windows from the next packets and checks later packets against them.
    Tracked,
}

/// The timeout in seconds of a flow whose time is over: its traffic may go on, as packets alone cause no events.
const LEFT_MIN_S: u32 = 60;

/// The timeout in seconds of a flow that is held for its source: 23 days. The kernel counts at most 2^31 ticks, which
/// are 24 days at a thousand ticks a second.
const HELD_S: u32 = 2_000_000;

/// A flow with more than this many seconds left is held. The value is twice the longest timeout of the kernel's own,
/// which is five days for an established TCP connection. A held flow is injected again long before it has so little
/// left.
const HELD_MIN_S: u32 = 1_000_000;

/// Whether a flow with `timeout_s` seconds left is held for its source: injected with [`Lifetime::Held`], and without a
/// packet since. The first packet sets the kernel's own timeout, and the flow belongs to this node then.
#[must_use]
pub fn is_held(timeout_s: u32) -> bool {
    timeout_s > HELD_MIN_S
}

/// The seconds since a held flow with `timeout_s` seconds left was last injected or confirmed.
#[must_use]
pub(crate) fn unconfirmed_s(timeout_s: u32) -> u32 {
    HELD_S.saturating_sub(timeout_s)
}

impl Lifetime {
    /// The timeout in seconds for a flow that had `timeout_s` seconds left `age_s` seconds ago.
    #[must_use]
    pub(crate) fn timeout_s(self, timeout_s: u32, age_s: u64) -> u32 {
        match self {
            Self::Left => {
                let left = u64::from(timeout_s).saturating_sub(age_s);
                u32::try_from(left).ok().filter(|left| *left > 0).unwrap_or(LEFT_MIN_S)
            }
            Self::Seconds(seconds) => seconds,
            Self::Held => HELD_S,
        }
    }
}

/// The status bits that a request may set.
const SETTABLE: u32 = uapi::IPS_SEEN_REPLY | uapi::IPS_ASSURED | uapi::IPS_FIXED_TIMEOUT;

/// The request that creates `flow`, which was reported `age_s` seconds ago, by `rules`. `None` for a flow without both
/// directions; a replicated flow has both.
#[must_use]
pub(crate) fn commit_request<'a>(flow: &FlowView<'a>, age_s: u64, rules: CommitRules) -> Option<FlowChange<'a>> {
    let FlowView {
        family,
        orig: Some(orig),
        reply: Some(reply),
        status,
        timeout,
        mark,
        zone,
        proto,
        // Only the kernel sets these.
        id: _,
        use_count: _,
        secmark: _,
        counters_orig: _,
        counters_reply: _,
        start_ns: _,
        stop_ns: _,
        event_ns: _,
        rare,
    } = *flow
    else {
        return None;
    };
    let status = status.unwrap_or(0);
    let mirror = untranslated_reply(&orig, &reply);
    let nat = |bit: u32, actual: (std::net::IpAddr, Option<u16>), plain: (std::net::IpAddr, Option<u16>)| {
        let is_translated = status & bit != 0 && actual != plain;
        // A port that is not translated is left to the kernel.
        is_translated.then(|| NatRange { address: actual.0, port: actual.1.filter(|_| actual.1 != plain.1) })
    };
    // The reply's destination is the translated source, and its source the translated destination.
    let (src, dst) = ((reply.dst, nat_port(&reply, End::Dst)), (reply.src, nat_port(&reply, End::Src)));
    let (plain_src, plain_dst) = ((mirror.dst, nat_port(&mirror, End::Dst)), (mirror.src, nat_port(&mirror, End::Src)));
    let rare = settable_attributes(&rare);
    Some(FlowChange {
        flow: FlowView {
            family,
            orig: Some(orig),
            reply: Some(mirror),
            status: Some(status & SETTABLE | uapi::IPS_CONFIRMED),
            timeout: Some(rules.lifetime.timeout_s(timeout.unwrap_or(0), age_s)),
            mark: mark.filter(|mark| *mark != 0),
            zone,
            proto: proto.map(|proto| with_windows(rules.windows, proto)),
            rare,
            ..FlowView::default()
        },
        mark_mask: None,
        labels_mask: rare.labels,
        nat_src: nat(uapi::IPS_SRC_NAT, src, plain_src),
        nat_dst: nat(uapi::IPS_DST_NAT, dst, plain_dst),
    })
}

/// The rare attributes of a flow that a request can set: not the security context, and no attribute that is all zero.
fn settable_attributes<'a>(rare: &RareAttributes<'a>) -> RareAttributes<'a> {
    let RareAttributes { helper, secctx: _, labels, seqadj_orig, seqadj_reply, synproxy, master } = *rare;
    RareAttributes {
        helper,
        secctx: None,
        labels: labels.filter(|labels| *labels != Labels::default()),
        seqadj_orig: seqadj_orig.filter(|adjustment| *adjustment != SeqAdj::default()),
        seqadj_reply: seqadj_reply.filter(|adjustment| *adjustment != SeqAdj::default()),
        synproxy: synproxy.filter(|synproxy| *synproxy != Synproxy::default()),
        master,
    }
}

/// The reply direction of a flow with original direction `orig` if it were not translated.
fn untranslated_reply(orig: &Tuple, reply: &Tuple) -> Tuple {
    let l4 = match (orig.l4, reply.l4) {
        (L4::Ports { src, dst }, _) => L4::Ports { src: dst, dst: src },
        (L4::Icmp { id, .. }, L4::Icmp { kind, code, .. }) => L4::Icmp { kind, code, id },
        (other, _) => other,
    };
    Tuple { src: orig.dst, dst: orig.src, proto: orig.proto, l4, zone: reply.zone }
}

/// One end of a tuple.
#[derive(Debug, Clone, Copy)]
enum End {
    Src,
    Dst,
}

/// The port of one end as NAT sees it: for ICMP, the echo id at both ends.
fn nat_port(tuple: &Tuple, end: End) -> Option<u16> {
    match (tuple.l4, end) {
        (L4::None, _) => None,
        (L4::Ports { src, .. }, End::Src) => Some(src),
        (L4::Ports { dst, .. }, End::Dst) => Some(dst),
        (L4::Icmp { id, .. }, _) => Some(id),
    }
}

/// The request for a flow that exists in the kernel: without translation, master, helper and SYN proxy, which cannot be
/// changed later. The status of a flow with a master must still have the expected bit.
#[must_use]
pub(crate) fn for_existing_flow(change: FlowChange<'_>) -> FlowChange<'_> {
    let FlowChange { flow, mark_mask, labels_mask, nat_src: _, nat_dst: _ } = change;
    let FlowView {
        status,
        // The flow's tuples and zone do not change.
        family: _,
        orig: _,
        reply: _,
        zone: _,
        // These can be changed later.
        timeout: _,
        mark: _,
        proto: _,
        // No request has these.
        id: _,
        use_count: _,
        secmark: _,
        counters_orig: _,
        counters_reply: _,
        start_ns: _,
        stop_ns: _,
        event_ns: _,
        rare: RareAttributes { master, helper: _, synproxy: _, labels, secctx, seqadj_orig, seqadj_reply },
    } = flow;
    let expected = if master.is_some() { uapi::IPS_EXPECTED } else { 0 };
    let flow = FlowView {
        status: status.map(|status| status | expected),
        rare: RareAttributes { master: None, helper: None, synproxy: None, labels, secctx, seqadj_orig, seqadj_reply },
        ..flow
    };
    FlowChange { flow, mark_mask, labels_mask, nat_src: None, nat_dst: None }
}

/// The tracker's state for the request. This kernel has seen no TCP window: it would drop the next packets unless the
/// flow is liberal, or no window is set for either side.
fn with_windows(windows: Windows, proto: ProtoInfo) -> ProtoInfo {
    let ProtoInfo::Tcp(tcp) = proto else { return proto };
    let liberal = match windows {
        Windows::Liberal => uapi::IP_CT_TCP_FLAG_BE_LIBERAL,
        Windows::Tracked => 0,
    };
    let flags = |replicated: Option<TcpFlags>| {
        let flags = replicated.map_or(0, |replicated| replicated.flags) | liberal;
        (flags != 0).then_some(TcpFlags { flags, mask: 0xff })
    };
    ProtoInfo::Tcp(TcpInfo { flags_orig: flags(tcp.flags_orig), flags_reply: flags(tcp.flags_reply), ..tcp })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn tuple(src: &str, dst: &str, l4: L4) -> Tuple {
        Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), proto: uapi::IPPROTO_TCP, l4, zone: None }
    }

    fn ports(src: u16, dst: u16) -> L4 {
        L4::Ports { src, dst }
    }

    fn translated(status: u32, reply: Tuple) -> FlowChange<'static> {
        let orig = tuple("10.0.0.1", "192.0.2.1", ports(1000, 80));
        let flow = FlowView { orig: Some(orig), reply: Some(reply), status: Some(status), ..FlowView::default() };
        commit_request(&flow, 0, CommitRules::default()).unwrap()
    }

    #[test]
    fn nat_is_requested_and_the_reply_is_untranslated() {
        let mirror = tuple("192.0.2.1", "10.0.0.1", ports(80, 1000));
        let range = |address: &str, port| Some(NatRange { address: address.parse::<IpAddr>().unwrap(), port });
        let both = uapi::IPS_SRC_NAT | uapi::IPS_DST_NAT;
        let table = [
            (0, mirror, None, None),
            (uapi::IPS_SRC_NAT, tuple("192.0.2.1", "198.51.100.1", ports(80, 1000)), range("198.51.100.1", None), None),
            (uapi::IPS_SRC_NAT, tuple("192.0.2.1", "198.51.100.1", ports(80, 7)), range("198.51.100.1", Some(7)), None),
            (uapi::IPS_DST_NAT, tuple("10.9.9.9", "10.0.0.1", ports(8080, 1000)), None, range("10.9.9.9", Some(8080))),
            (
                both,
                tuple("10.9.9.9", "198.51.100.1", ports(80, 7)),
                range("198.51.100.1", Some(7)),
                range("10.9.9.9", None),
            ),
        ];
        for (status, reply, src, dst) in table {
            let change = translated(status | uapi::IPS_EXPECTED | uapi::IPS_SEEN_REPLY, reply);
            assert_eq!((change.nat_src, change.nat_dst), (src, dst), "{reply:?}");
            assert_eq!(change.flow.reply, Some(mirror));
            assert_eq!(change.flow.status, Some(uapi::IPS_SEEN_REPLY | uapi::IPS_CONFIRMED));
        }
    }

    #[test]
    fn the_timeout_is_what_was_left_or_a_minute() {
        assert_eq!(
            [Lifetime::Left.timeout_s(100, 30), Lifetime::Left.timeout_s(100, 100), Lifetime::Left.timeout_s(0, 9)],
            [70, 60, 60]
        );
        assert_eq!(Lifetime::Seconds(5).timeout_s(100, 30), 5);
    }

    #[test]
    fn a_held_flow_is_recognised_by_its_timeout() {
        let held = Lifetime::Held.timeout_s(100, 30);
        assert!(is_held(held) && is_held(held - 86_400) && !is_held(5 * 86_400));
        assert_eq!((unconfirmed_s(held), unconfirmed_s(held - 7)), (0, 7));
        assert!(u64::from(held) * 1_000 < 1 << 31, "the kernel can count it at a thousand ticks a second");
    }

    #[test]
    fn tcp_windows_are_liberal_unless_tracked() {
        let replicated = TcpInfo { state: Some(3), wscale_orig: Some(7), ..TcpInfo::default() };
        let of = |windows| match with_windows(windows, ProtoInfo::Tcp(replicated)) {
            ProtoInfo::Tcp(tcp) => (tcp.state, tcp.wscale_orig, tcp.flags_orig.map(|flags| flags.flags)),
            _ => panic!("no TCP"),
        };
        assert_eq!(of(Windows::Liberal), (Some(3), Some(7), Some(uapi::IP_CT_TCP_FLAG_BE_LIBERAL)));
        assert_eq!(of(Windows::Tracked), (Some(3), Some(7), None));
    }
}
