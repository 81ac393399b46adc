//! A replicated flow as a request that makes it live in this kernel.
//!
//! What a kernel says of a flow is not what it takes to make one, so a commit says it anew:
//!
//! | of the flow | in the request |
//! |---|---|
//! | reply direction, translated | mirror of the original direction, and `CTA_NAT_SRC`, `CTA_NAT_DST`: the kernel translates it again, and holds the NAT mappings for it |
//! | status | without what the kernel sets itself (expected, translated, dying), with confirmed |
//! | state of TCP | with the flags that forgive windows this kernel has not seen |
//! | timeout | what was left when it was told, less its age; or as the operator's rule has it |
//! | master | as it is: the master flow must be there, so it is committed before |
//!
//! The rest (mark, labels, helper, zones, sequence adjustment, SYN proxy) goes as it is.

use ctflow_parser::flow::{FlowView, Labels, SeqAdj, Synproxy};
use ctflow_parser::proto::{ProtoInfo, TcpFlags, TcpInfo};
use ctflow_parser::request::{FlowChange, NatRange};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

/// How long a committed flow lives if no packet comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as its source said, less the time since; 60 s where that is over.
    Left,
    /// So many seconds, whatever its source said.
    Seconds(u32),
}

/// What is given to a flow whose time is over: its traffic may be going on without any event.
const LEFT_MIN_S: u32 = 60;

impl Lifetime {
    /// Seconds for a flow that was told `timeout_s`, `age_s` ago.
    #[must_use]
    pub fn of(self, timeout_s: u32, age_s: u64) -> u32 {
        match self {
            Self::Left => {
                let left = u64::from(timeout_s).saturating_sub(age_s);
                u32::try_from(left).ok().filter(|left| *left > 0).unwrap_or(LEFT_MIN_S)
            }
            Self::Seconds(seconds) => seconds,
        }
    }
}

/// The status that a request may set.
const SETTABLE: u32 = uapi::IPS_SEEN_REPLY | uapi::IPS_ASSURED | uapi::IPS_FIXED_TIMEOUT;

/// The request that makes `flow` live here for `seconds`; `None` of a flow without both directions, which nothing
/// replicated is.
#[must_use]
pub fn commit<'a>(flow: &FlowView<'a>, seconds: u32) -> Option<FlowChange<'a>> {
    let (orig, reply) = (flow.orig?, flow.reply?);
    let status = flow.status.unwrap_or(0);
    let mirror = mirrored(&orig, &reply);
    let nat = |bit: u32, told: (std::net::IpAddr, Option<u16>), plain: (std::net::IpAddr, Option<u16>)| {
        let moved = status & bit != 0 && told != plain;
        moved.then(|| NatRange { address: told.0, port: told.1.filter(|_| told.1 != plain.1) })
    };
    let (src, dst) = ((reply.dst, port(&reply, End::Dst)), (reply.src, port(&reply, End::Src)));
    let (plain_src, plain_dst) = ((mirror.dst, port(&mirror, End::Dst)), (mirror.src, port(&mirror, End::Src)));
    let labels = flow.labels.filter(|labels| *labels != Labels::default());
    Some(FlowChange {
        flow: FlowView {
            family: flow.family,
            orig: Some(orig),
            reply: Some(mirror),
            status: Some(status & SETTABLE | uapi::IPS_CONFIRMED),
            timeout: Some(seconds),
            mark: flow.mark.filter(|mark| *mark != 0),
            zone: flow.zone,
            proto: flow.proto.map(forgiving),
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
fn mirrored(orig: &Tuple, reply: &Tuple) -> Tuple {
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
fn port(tuple: &Tuple, end: End) -> Option<u16> {
    match (tuple.l4, end) {
        (L4::None, _) => None,
        (L4::Ports { src, .. }, End::Src) => Some(src),
        (L4::Ports { dst, .. }, End::Dst) => Some(dst),
        (L4::Icmp { id, .. }, _) => Some(id),
    }
}

/// The state as its tracker has it. This one has seen no window: without these flags it would drop the next packets.
fn forgiving(proto: ProtoInfo) -> ProtoInfo {
    let ProtoInfo::Tcp(tcp) = proto else { return proto };
    let forgive = |told: Option<TcpFlags>| {
        let flags = told.map_or(0, |told| told.flags) | uapi::IP_CT_TCP_FLAG_BE_LIBERAL;
        Some(TcpFlags { flags, mask: 0xff })
    };
    ProtoInfo::Tcp(TcpInfo { flags_orig: forgive(tcp.flags_orig), flags_reply: forgive(tcp.flags_reply), ..tcp })
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
        commit(&flow, 9).unwrap()
    }

    #[test]
    fn translation_is_asked_for_and_the_reply_is_as_before_it() {
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
    fn a_flow_lives_on_for_what_was_left_and_never_for_nothing() {
        assert_eq!([Lifetime::Left.of(100, 30), Lifetime::Left.of(100, 100), Lifetime::Left.of(0, 9)], [70, 60, 60]);
        assert_eq!(Lifetime::Seconds(5).of(100, 30), 5);
    }

    #[test]
    fn tcp_is_forgiven_its_windows() {
        let tcp = TcpInfo { state: Some(3), wscale_orig: Some(7), ..TcpInfo::default() };
        let ProtoInfo::Tcp(tcp) = forgiving(ProtoInfo::Tcp(tcp)) else { panic!("no TCP") };
        assert_eq!((tcp.state, tcp.wscale_orig), (Some(3), Some(7)));
        assert!(tcp.flags_orig.is_some_and(|flags| flags.flags & uapi::IP_CT_TCP_FLAG_BE_LIBERAL != 0));
    }
}
