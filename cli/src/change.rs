//! The changes that `-I`, `-A` and `-U` make to flows, and the expectations that `-I expect` creates.
//!
//! A [`Creation`] is a complete new flow. An [`Update`] is a set of new values. It becomes a request for each flow
//! that it is applied to, and no request for a flow that already has these values.

use std::net::IpAddr;

use ctflow_parser::expect::ExpectView;
use ctflow_parser::filter::Masked;
use ctflow_parser::flow::{FlowView, Helper, Labels, RareAttributes};
use ctflow_parser::proto::{DccpInfo, ProtoInfo, SctpInfo, TcpFlags, TcpInfo};
use ctflow_parser::request::{FlowChange, NatRange};
use ctflow_parser::tuple::Tuple;
use ctflow_parser::uapi;

/// A flow to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Creation {
    /// The original direction.
    pub(crate) orig: Tuple,
    /// The reply direction without NAT.
    pub(crate) reply: Tuple,
    /// Seconds until the flow expires.
    pub(crate) timeout: Option<u32>,
    /// Status flags, `IPS_*`.
    pub(crate) status: u32,
    /// The mark.
    pub(crate) mark: Option<u32>,
    /// The zone of both directions.
    pub(crate) zone: Option<u16>,
    /// The values of the protocol's tracker.
    pub(crate) proto: TrackerFields,
    /// The new source, for source NAT.
    pub(crate) nat_src: Option<NatRange>,
    /// The new destination, for destination NAT.
    pub(crate) nat_dst: Option<NatRange>,
    /// Labels by name. The owner of the label map converts them into `label_bits`.
    pub(crate) labels: Vec<String>,
    /// Labels by number: bit n is label n.
    pub(crate) label_bits: u128,
    /// The helper that reads the flow's payload, by name.
    pub(crate) helper: Option<String>,
}

impl Creation {
    /// The request to the kernel.
    pub(crate) fn flow_change(&self) -> FlowChange<'_> {
        let labels = Some(Labels(self.label_bits)).filter(|labels| labels.0 != 0);
        FlowChange {
            flow: FlowView {
                family: self.orig.family(),
                orig: Some(self.orig),
                reply: Some(self.reply),
                // Every flow that enters the table is confirmed; the kernel refuses a flow without the flag.
                status: Some(self.status | uapi::IPS_CONFIRMED),
                timeout: self.timeout,
                mark: self.mark,
                zone: self.zone,
                proto: self.proto.proto_info(self.orig.proto),
                // Only the kernel sets these.
                id: None,
                use_count: None,
                secmark: None,
                counters_orig: None,
                counters_reply: None,
                start_ns: None,
                stop_ns: None,
                event_ns: None,
                rare: RareAttributes {
                    labels,
                    helper: self.helper.as_deref().map(|name| Helper { name, info: &[] }),
                    // No option sets these.
                    secctx: None,
                    seqadj_orig: None,
                    seqadj_reply: None,
                    synproxy: None,
                    master: None,
                },
            },
            mark_mask: None,
            labels_mask: labels,
            nat_src: self.nat_src,
            nat_dst: self.nat_dst,
        }
    }
}

/// The values that a request sets in a protocol's tracker; `None` leaves a value unchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TrackerFields {
    /// The number of the protocol's state.
    pub(crate) state: Option<u8>,
    /// SCTP's verification tag of the original direction.
    pub(crate) vtag_orig: Option<u32>,
    /// SCTP's verification tag of the reply direction.
    pub(crate) vtag_reply: Option<u32>,
    /// DCCP's role: 0 for client, 1 for server.
    pub(crate) role: Option<u8>,
}

/// TCP's state `TIME_WAIT`. In this state and the later ones the connection is closed or closing.
const TCP_TIME_WAIT: u8 = 7;

impl TrackerFields {
    /// The kernel's form of the values for `protocol`; `None` if there is nothing to set.
    fn proto_info(self, protocol: u8) -> Option<ProtoInfo> {
        match protocol {
            uapi::IPPROTO_TCP => self.state.map(|state| ProtoInfo::Tcp(tcp_info(state))),
            uapi::IPPROTO_SCTP if self.state.or(self.any_vtag()).is_some() => Some(ProtoInfo::Sctp(SctpInfo {
                state: self.state,
                vtag_orig: self.vtag_orig,
                vtag_reply: self.vtag_reply,
            })),
            uapi::IPPROTO_DCCP => self.state.map(|state| {
                let (state, role) = (Some(state), self.role);
                ProtoInfo::Dccp(DccpInfo { state, role, handshake_seq: None })
            }),
            _ => None,
        }
    }

    /// 0 if either tag is set, else `None`.
    fn any_vtag(self) -> Option<u8> {
        self.vtag_orig.or(self.vtag_reply).map(|_| 0)
    }

    /// The tracker values of a request that changes a flow whose tracker is `found`; `None` if the flow already has
    /// these values. The kernel requires all values of an SCTP tracker in a request, so unchanged values are sent as
    /// found.
    fn change_from(self, protocol: u8, found: Option<ProtoInfo>) -> Option<ProtoInfo> {
        let current = found.map(|found| Self::from_proto(&found)).unwrap_or_default();
        let desired = Self {
            state: self.state.or(current.state),
            vtag_orig: self.vtag_orig.or(current.vtag_orig),
            vtag_reply: self.vtag_reply.or(current.vtag_reply),
            role: self.role.or(current.role),
        };
        if desired == current { None } else { desired.proto_info(protocol) }
    }

    /// The values of a flow's tracker.
    fn from_proto(info: &ProtoInfo) -> Self {
        let state = info.state();
        match info {
            ProtoInfo::Tcp(_) => Self { state, ..Self::default() },
            ProtoInfo::Sctp(sctp) => Self { state, vtag_orig: sctp.vtag_orig, vtag_reply: sctp.vtag_reply, role: None },
            ProtoInfo::Dccp(dccp) => Self { state, role: dccp.role, ..Self::default() },
        }
    }
}

/// TCP's tracker in `state`, with liberal windows. The tracker has not seen the packets that lead to a state set by a
/// request, and does not know their sequence numbers: without these flags it would drop the flow's next packets.
fn tcp_info(state: u8) -> TcpInfo {
    let always = uapi::IP_CT_TCP_FLAG_BE_LIBERAL | uapi::IP_CT_TCP_FLAG_SACK_PERM;
    let flags = if state >= TCP_TIME_WAIT { always | uapi::IP_CT_TCP_FLAG_CLOSE_INIT } else { always };
    let flags = Some(TcpFlags { flags, mask: flags });
    TcpInfo { state: Some(state), flags_orig: flags, flags_reply: flags, ..TcpInfo::default() }
}

/// New values for flows that exist in the kernel. Absent values stay unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Update {
    /// Seconds until the flow expires.
    pub(crate) timeout: Option<u32>,
    /// Status flags to set, `IPS_*`.
    pub(crate) status: u32,
    /// The change of the mark: new mark = (old AND NOT mask) XOR value.
    pub(crate) mark: Option<Masked>,
    /// The new values of the protocol's tracker.
    pub(crate) proto: TrackerFields,
    /// Labels to add, by name. The owner of the label map converts them into `add_bits`.
    pub(crate) labels_add: Vec<String>,
    /// Labels to add, by number: bit n is label n.
    pub(crate) add_bits: u128,
    /// Labels to remove, by name. The owner of the label map converts them into `del_bits`.
    pub(crate) labels_del: Vec<String>,
    /// Labels to remove, by number: bit n is label n. All bits remove every label.
    pub(crate) del_bits: u128,
}

impl Update {
    /// The request that gives `flow` these values; `None` if it already has them, or if its original tuple is unknown.
    pub(crate) fn change_for(&self, flow: &FlowView<'_>) -> Option<FlowChange<'static>> {
        let orig = flow.orig?;
        let status = flow.status.unwrap_or(0);
        let mark = flow.mark.unwrap_or(0);
        let labels = flow.rare.labels.unwrap_or_default().0;
        let labels_mask = Some(self.add_bits | self.del_bits).filter(|_| labels != self.changed_labels(labels));
        let new_mark = self.mark.filter(|new| (mark & !new.mask) ^ new.value != mark);
        let change = FlowView {
            timeout: self.timeout.filter(|timeout| flow.timeout != Some(*timeout)),
            status: Some(status | self.status).filter(|new| *new != status),
            mark: new_mark.map(|new| new.value),
            proto: self.proto.change_from(orig.proto, flow.proto),
            // The flow's key is added where there is a change.
            family: 0,
            orig: None,
            reply: None,
            zone: None,
            // Only the kernel sets these.
            id: None,
            use_count: None,
            secmark: None,
            counters_orig: None,
            counters_reply: None,
            start_ns: None,
            stop_ns: None,
            event_ns: None,
            rare: RareAttributes {
                labels: labels_mask.map(|_| Labels(self.add_bits)),
                // No option of `-U` sets these.
                helper: None,
                secctx: None,
                seqadj_orig: None,
                seqadj_reply: None,
                synproxy: None,
                master: None,
            },
        };
        if change == FlowView::default() {
            return None;
        }
        Some(FlowChange {
            // The zone is part of the flow key: without it, the kernel searches in zone 0.
            flow: FlowView { family: flow.family, orig: Some(orig), zone: flow.zone, ..change },
            // The kernel applies the mask to the current mark. The mark in `flow` may be outdated, so the result is
            // not sent.
            mark_mask: new_mark.map(|new| new.mask).filter(|mask| *mask != u32::MAX),
            labels_mask: labels_mask.map(Labels),
            nat_src: None, // only for a flow that is created
            nat_dst: None,
        })
    }

    /// The labels after this update.
    fn changed_labels(&self, labels: u128) -> u128 {
        labels & !self.del_bits | self.add_bits
    }
}

/// An expectation to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpectationCreation {
    /// The tuple of the expected flow.
    pub(crate) tuple: Tuple,
    /// The bits of the tuple that the kernel compares.
    pub(crate) mask: Tuple,
    /// The original direction of the master flow.
    pub(crate) master: Tuple,
    /// Seconds until it expires. If the master has a helper, the kernel applies the helper's timeout instead.
    pub(crate) timeout: Option<u32>,
}

impl ExpectationCreation {
    /// The request to the kernel.
    pub(crate) fn view(&self) -> ExpectView<'static> {
        ExpectView {
            family: self.tuple.family(),
            tuple: Some(self.tuple),
            mask: Some(self.mask),
            master: Some(self.master),
            timeout: self.timeout,
            id: None, // only the kernel sets it
            // No option sets these.
            helper: None,
            zone: None,
            flags: None,
            class: None,
            nat: None,
            function: None,
        }
    }
}

/// The NAT to set up; `None` without an address, with which the port has no effect.
pub(crate) fn nat_range(address: Option<IpAddr>, port: Option<u16>) -> Option<NatRange> {
    address.map(|address| NatRange { address, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctflow_parser::tuple::L4;

    fn tuple(src: [u8; 4], dst: [u8; 4], proto: u8) -> Tuple {
        Tuple { src: src.into(), dst: dst.into(), proto, l4: L4::Ports { src: 1, dst: 2 }, zone: None }
    }

    fn flow() -> FlowView<'static> {
        let state = TcpInfo { state: Some(3), ..TcpInfo::default() };
        FlowView {
            family: uapi::AF_INET,
            orig: Some(tuple([10, 0, 0, 1], [10, 0, 0, 2], 6)),
            status: Some(uapi::IPS_SEEN_REPLY),
            timeout: Some(60),
            mark: Some(0xf0),
            zone: Some(7),
            proto: Some(ProtoInfo::Tcp(state)),
            rare: RareAttributes { labels: Some(Labels(0b11)), ..RareAttributes::default() },
            ..FlowView::default()
        }
    }

    fn changed(update: &Update) -> Option<FlowChange<'static>> {
        update.change_for(&flow())
    }

    #[test]
    fn an_update_without_effect_makes_no_request() {
        let nothing = Update::default();
        let same = Update {
            timeout: Some(60),
            status: uapi::IPS_SEEN_REPLY,
            mark: Some(Masked { value: 0xf0, mask: u32::MAX }),
            proto: TrackerFields { state: Some(3), ..TrackerFields::default() },
            add_bits: 0b01,
            del_bits: 0b100,
            ..Update::default()
        };
        assert_eq!((changed(&nothing), changed(&same)), (None, None));
        assert_eq!(same.change_for(&FlowView { orig: None, ..flow() }), None, "its original tuple is unknown");
    }

    #[test]
    fn a_change_has_the_flow_key_and_the_new_values_only() {
        let change = changed(&Update { timeout: Some(5), ..Update::default() }).unwrap();
        let expected = FlowView {
            family: uapi::AF_INET,
            orig: flow().orig,
            zone: Some(7),
            timeout: Some(5),
            ..FlowView::default()
        };
        assert_eq!(change, FlowChange { flow: expected, ..FlowChange::default() });
    }

    #[test]
    fn marks_change_under_their_mask_and_status_is_added() {
        let mark = |value, mask| {
            let change = changed(&Update { mark: Some(Masked { value, mask }), ..Update::default() });
            change.map(|change| (change.flow.mark, change.mark_mask))
        };
        assert_eq!(mark(0xf0, u32::MAX), None);
        assert_eq!(mark(5, u32::MAX), Some((Some(5), None)));
        assert_eq!(mark(1, 0xf), Some((Some(1), Some(0xf))));
        assert_eq!(mark(0, 0xf), None, "those bits are clear already");
        assert_eq!(mark(0, 0), None);
        assert_eq!(mark(1, 0), Some((Some(1), Some(0))), "bits outside the mask are inverted");
        let status = changed(&Update { status: uapi::IPS_ASSURED, ..Update::default() }).unwrap().flow.status;
        assert_eq!(status, Some(uapi::IPS_ASSURED | uapi::IPS_SEEN_REPLY));
    }

    #[test]
    fn labels_are_added_and_removed() {
        let labels = |add_bits, del_bits| {
            let change = changed(&Update { add_bits, del_bits, ..Update::default() });
            change.map(|change| (change.flow.rare.labels.unwrap().0, change.labels_mask.unwrap().0))
        };
        assert_eq!(labels(0b100, 0), Some((0b100, 0b100)));
        assert_eq!(labels(0, 0b001), Some((0, 0b001)));
        assert_eq!(labels(0, u128::MAX), Some((0, u128::MAX)));
        assert_eq!((labels(0b01, 0), labels(0, 0b100)), (None, None));
    }

    #[test]
    fn a_tcp_state_is_set_with_liberal_windows() {
        let flags = |state| {
            let proto = TrackerFields { state: Some(state), ..TrackerFields::default() };
            match changed(&Update { proto, ..Update::default() }).unwrap().flow.proto {
                Some(ProtoInfo::Tcp(tcp)) => (tcp.state, tcp.flags_orig, tcp.flags_orig == tcp.flags_reply),
                other => panic!("{other:?}"),
            }
        };
        let expected = |flags| Some(TcpFlags { flags, mask: flags });
        assert_eq!(flags(4), (Some(4), expected(0x0a), true));
        assert_eq!(flags(7), (Some(7), expected(0x0e), true));
    }

    #[test]
    fn an_sctp_change_keeps_the_values_that_were_found() {
        let found = SctpInfo { state: Some(4), vtag_orig: Some(1), vtag_reply: Some(2) };
        let orig = Some(tuple([1; 4], [2; 4], 132));
        let flow = FlowView { orig, proto: Some(ProtoInfo::Sctp(found)), ..FlowView::default() };
        let proto = TrackerFields { vtag_orig: Some(9), ..TrackerFields::default() };
        let update = Update { proto, ..Update::default() };
        let expected = ProtoInfo::Sctp(SctpInfo { vtag_orig: Some(9), ..found });
        assert_eq!(update.change_for(&flow).unwrap().flow.proto, Some(expected));
    }
}
