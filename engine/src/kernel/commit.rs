//! A replicated flow as a request that makes it live in this kernel.
//!
//! What a kernel says of a flow is not what it takes to make one, so a commit says it anew:
//!
//! | of the flow | in the request |
//! |---|---|
//! | reply direction, translated | mirror of the original direction, and `CTA_NAT_SRC`, `CTA_NAT_DST`: the kernel translates it again, and holds the NAT mappings for it |
//! | status | without what the kernel sets itself (expected, translated, dying), with confirmed |
//! | state of TCP | with the flags that forgive windows this kernel has not seen; or without, and it learns them from the next packets |
//! | timeout | what was left when it was told, less its age; or as the operator's rule has it; or so long that it shows whose flow it is |
//! | master | as it is: the master flow must be there, so it is committed before |
//!
//! The rest (mark, labels, helper, zones, sequence adjustment, SYN proxy) goes as it is.

use ctflow_parser::flow::{FlowView, Labels, SeqAdj, Synproxy};
use ctflow_parser::proto::{ProtoInfo, TcpFlags, TcpInfo};
use ctflow_parser::request::{FlowChange, NatRange};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

/// How a replicated flow is made to live here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitRules {
    /// How long.
    pub lifetime: Lifetime,
    /// What is asked of TCP.
    pub windows: Windows,
}

impl Default for CommitRules {
    /// As long as its source said, and no window is looked at.
    fn default() -> Self {
        Self { lifetime: Lifetime::Left, windows: Windows::Liberal }
    }
}

/// How long a committed flow lives if no packet comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as its source said, less the time since; 60 s where that is over.
    Left,
    /// So many seconds, whatever its source said.
    Seconds(u32),
    /// Until its source says that it ended: see [`is_held`].
    Held,
}

/// What becomes of TCP's windows, which this kernel has not seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Windows {
    /// No packet is dropped for being out of them, ever.
    #[default]
    Liberal,
    /// The next packets set them, and later ones must keep them.
    Tracked,
}

/// What is given to a flow whose time is over: its traffic may be going on without any event.
const LEFT_MIN_S: u32 = 60;

/// Seconds given to a flow that is held for its source. The kernel counts 2^31 ticks at most, of which it may have a
/// thousand a second: 24 days.
const HELD_S: u32 = 2_000_000;

/// Who has more than this many seconds left is held. It is twice the longest that the kernel gives by itself, five days to
/// an established connection, and a held flow is told again long before it has so little.
const HELD_MIN_S: u32 = 1_000_000;

/// Whether a flow that has `timeout_s` left is held here for its source: put in by [`Lifetime::Held`], and without a packet
/// since. The first packet gives it the kernel's own timeout, and so makes it this node's.
#[must_use]
pub fn is_held(timeout_s: u32) -> bool {
    timeout_s > HELD_MIN_S
}

/// Seconds since a held flow that has `timeout_s` left was last put in or confirmed.
#[must_use]
pub fn unconfirmed_s(timeout_s: u32) -> u32 {
    HELD_S.saturating_sub(timeout_s)
}

impl Lifetime {
    /// Seconds for a flow that was told `timeout_s`, `age_s` ago.
    #[must_use]
    pub fn timeout_s(self, timeout_s: u32, age_s: u64) -> u32 {
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

/// The status that a request may set.
const SETTABLE: u32 = uapi::IPS_SEEN_REPLY | uapi::IPS_ASSURED | uapi::IPS_FIXED_TIMEOUT;

/// The request that makes `flow`, told `age_s` ago, live here by these `rules`; `None` of a flow without both directions,
/// which nothing replicated is.
#[must_use]
pub fn commit_request<'a>(flow: &FlowView<'a>, age_s: u64, rules: CommitRules) -> Option<FlowChange<'a>> {
    let (orig, reply) = (flow.orig?, flow.reply?);
    let status = flow.status.unwrap_or(0);
    let mirror = untranslated_reply(&orig, &reply);
    let nat = |bit: u32, told: (std::net::IpAddr, Option<u16>), plain: (std::net::IpAddr, Option<u16>)| {
        let moved = status & bit != 0 && told != plain;
        moved.then(|| NatRange { address: told.0, port: told.1.filter(|_| told.1 != plain.1) })
    };
    let (src, dst) = ((reply.dst, nat_port(&reply, End::Dst)), (reply.src, nat_port(&reply, End::Src)));
    let (plain_src, plain_dst) = ((mirror.dst, nat_port(&mirror, End::Dst)), (mirror.src, nat_port(&mirror, End::Src)));
    let labels = flow.labels.filter(|labels| *labels != Labels::default());
    Some(FlowChange {
        flow: FlowView {
            family: flow.family,
            orig: Some(orig),
            reply: Some(mirror),
            status: Some(status & SETTABLE | uapi::IPS_CONFIRMED),
            timeout: Some(rules.lifetime.timeout_s(flow.timeout.unwrap_or(0), age_s)),
            mark: flow.mark.filter(|mark| *mark != 0),
            zone: flow.zone,
            proto: flow.proto.map(|proto| with_windows(rules.windows, proto)),
            labels,
            helper: flow.helper,
            seqadj_orig: flow.seqadj_orig.filter(|adjustment| *adjustment != SeqAdj::default()),
            seqadj_reply: flow.seqadj_reply.filter(|adjustment| *adjustment != SeqAdj::default()),
            synproxy: flow.synproxy.filter(|synproxy| *synproxy != Synproxy::default()),
            master: flow.master,
            ..FlowView::default()
        },
        labels_mask: labels,
        nat_src: nat(uapi::IPS_SRC_NAT, src, plain_src),
        nat_dst: nat(uapi::IPS_DST_NAT, dst, plain_dst),
        ..FlowChange::default()
    })
}

/// The answer to `orig` as if nothing translated it.
fn untranslated_reply(orig: &Tuple, reply: &Tuple) -> Tuple {
    let l4 = match (orig.l4, reply.l4) {
        (L4::Ports { src, dst }, _) => L4::Ports { src: dst, dst: src },
        (L4::Icmp { id, .. }, L4::Icmp { kind, code, .. }) => L4::Icmp { kind, code, id },
        (other, _) => other,
    };
    Tuple { src: orig.dst, dst: orig.src, proto: orig.proto, l4, zone: reply.zone }
}

/// Which end of a tuple.
#[derive(Debug, Clone, Copy)]
enum End {
    Src,
    Dst,
}

/// What NAT calls a port: of ICMP its id.
fn nat_port(tuple: &Tuple, end: End) -> Option<u16> {
    match (tuple.l4, end) {
        (L4::None, _) => None,
        (L4::Ports { src, .. }, End::Src) => Some(src),
        (L4::Ports { dst, .. }, End::Dst) => Some(dst),
        (L4::Icmp { id, .. }, _) => Some(id),
    }
}

/// What of a request may be said of a flow that is there: not how it is translated, nor whose it is. That it is another's
/// must still show in its status.
#[must_use]
pub fn for_existing_flow(change: FlowChange<'_>) -> FlowChange<'_> {
    let expected = if change.flow.master.is_some() { uapi::IPS_EXPECTED } else { 0 };
    let flow = FlowView {
        status: change.flow.status.map(|status| status | expected),
        master: None,
        helper: None,
        synproxy: None,
        ..change.flow
    };
    FlowChange { flow, nat_src: None, nat_dst: None, ..change }
}

/// The state as its tracker has it. This one has seen no window: unless it is forgiving, or has seen none of either side, it
/// would drop the next packets.
fn with_windows(windows: Windows, proto: ProtoInfo) -> ProtoInfo {
    let ProtoInfo::Tcp(tcp) = proto else { return proto };
    let liberal = match windows {
        Windows::Liberal => uapi::IP_CT_TCP_FLAG_BE_LIBERAL,
        Windows::Tracked => 0,
    };
    let flags = |told: Option<TcpFlags>| {
        let flags = told.map_or(0, |told| told.flags) | liberal;
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
        assert!(u64::from(held) * 1_000 < 1 << 31, "what the kernel counts at a thousand ticks a second");
    }

    #[test]
    fn tcp_windows_are_liberal_unless_tracked() {
        let told = TcpInfo { state: Some(3), wscale_orig: Some(7), ..TcpInfo::default() };
        let of = |windows| match with_windows(windows, ProtoInfo::Tcp(told)) {
            ProtoInfo::Tcp(tcp) => (tcp.state, tcp.wscale_orig, tcp.flags_orig.map(|flags| flags.flags)),
            _ => panic!("no TCP"),
        };
        assert_eq!(of(Windows::Liberal), (Some(3), Some(7), Some(uapi::IP_CT_TCP_FLAG_BE_LIBERAL)));
        assert_eq!(of(Windows::Tracked), (Some(3), Some(7), None));
    }
}
