//! What `-I`, `-A` and `-U` do to flows, and what `-I expect` makes.
//!
//! A [`Creation`] is a whole flow; an [`Update`] is what shall be different, and becomes a request for each flow that
//! it is applied to, or none where all is so already.

use std::net::IpAddr;

use ctflow_parser::expect::ExpectView;
use ctflow_parser::filter::Masked;
use ctflow_parser::flow::{FlowView, Helper, Labels};
use ctflow_parser::proto::{DccpInfo, ProtoInfo, SctpInfo, TcpFlags, TcpInfo};
use ctflow_parser::request::{FlowChange, NatRange};
use ctflow_parser::tuple::Tuple;
use ctflow_parser::uapi;

/// A flow to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Creation {
    /// The original direction.
    pub(crate) orig: Tuple,
    /// The reply direction, before translation.
    pub(crate) reply: Tuple,
    /// Seconds until it expires.
    pub(crate) timeout: Option<u32>,
    /// `IPS_*`.
    pub(crate) status: u32,
    /// The mark.
    pub(crate) mark: Option<u32>,
    /// The zone of both directions.
    pub(crate) zone: Option<u16>,
    /// State, tags, role.
    pub(crate) proto: TrackerFields,
    /// To what the source is translated.
    pub(crate) nat_src: Option<NatRange>,
    /// To what the destination is translated.
    pub(crate) nat_dst: Option<NatRange>,
    /// Labels by name. Who has a label map makes `label_bits` of them.
    pub(crate) labels: Vec<String>,
    /// Labels by number.
    pub(crate) label_bits: u128,
    /// The helper that is to read its payload.
    pub(crate) helper: Option<String>,
}

impl Creation {
    /// The request.
    pub(crate) fn flow_change(&self) -> FlowChange<'_> {
        let labels = Some(Labels(self.label_bits)).filter(|labels| labels.0 != 0);
        FlowChange {
            flow: FlowView {
                family: self.orig.family(),
                orig: Some(self.orig),
                reply: Some(self.reply),
                status: Some(self.status | uapi::IPS_CONFIRMED), // what enters the table is; without, the kernel refuses
                timeout: self.timeout,
                mark: self.mark,
                zone: self.zone,
                proto: self.proto.proto_info(self.orig.proto),
                labels,
                helper: self.helper.as_deref().map(|name| Helper { name, info: &[] }),
                ..FlowView::default()
            },
            labels_mask: labels,
            nat_src: self.nat_src,
            nat_dst: self.nat_dst,
            ..FlowChange::default()
        }
    }
}

/// What a protocol's tracker is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TrackerFields {
    /// The state's number.
    pub(crate) state: Option<u8>,
    /// SCTP verification tag of the original direction.
    pub(crate) vtag_orig: Option<u32>,
    /// Of the reply direction.
    pub(crate) vtag_reply: Option<u32>,
    /// DCCP: 0 for client, 1 for server.
    pub(crate) role: Option<u8>,
}

/// `TIME_WAIT` of TCP, from which on the connection is being closed.
const TCP_TIME_WAIT: u8 = 7;

impl TrackerFields {
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

    /// Whether a tag is given.
    fn any_vtag(self) -> Option<u8> {
        self.vtag_orig.or(self.vtag_reply).map(|_| 0)
    }

    /// What a request says to make the tracker that `found` was read from so; nothing where it is so. The kernel
    /// takes an SCTP tracker whole, so what is not to change is sent as it was found.
    fn change_from(self, protocol: u8, found: Option<ProtoInfo>) -> Option<ProtoInfo> {
        let was = found.map(|found| Self::from_proto(&found)).unwrap_or_default();
        let shall = Self {
            state: self.state.or(was.state),
            vtag_orig: self.vtag_orig.or(was.vtag_orig),
            vtag_reply: self.vtag_reply.or(was.vtag_reply),
            role: self.role.or(was.role),
        };
        if shall == was { None } else { shall.proto_info(protocol) }
    }

    fn from_proto(info: &ProtoInfo) -> Self {
        let state = info.state();
        match info {
            ProtoInfo::Tcp(_) => Self { state, ..Self::default() },
            ProtoInfo::Sctp(sctp) => Self { state, vtag_orig: sctp.vtag_orig, vtag_reply: sctp.vtag_reply, role: None },
            ProtoInfo::Dccp(dccp) => Self { state, role: dccp.role, ..Self::default() },
        }
    }
}

/// A state that we set is not one that the tracker saw come about: without these flags it would drop the flow's next
/// packets, whose sequence numbers it does not know.
fn tcp_info(state: u8) -> TcpInfo {
    let always = uapi::IP_CT_TCP_FLAG_BE_LIBERAL | uapi::IP_CT_TCP_FLAG_SACK_PERM;
    let flags = if state >= TCP_TIME_WAIT { always | uapi::IP_CT_TCP_FLAG_CLOSE_INIT } else { always };
    let flags = Some(TcpFlags { flags, mask: flags });
    TcpInfo { state: Some(state), flags_orig: flags, flags_reply: flags, ..TcpInfo::default() }
}

/// What shall be different in flows that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Update {
    /// Seconds until it expires.
    pub(crate) timeout: Option<u32>,
    /// `IPS_*` to set.
    pub(crate) status: u32,
    /// The bits of the mask are cleared in the mark, then those of the value turned over.
    pub(crate) mark: Option<Masked>,
    /// State, tags; of flows of `protocol`.
    pub(crate) proto: TrackerFields,
    /// Labels to add, by name. Who has a label map makes `add_bits` of them.
    pub(crate) labels_add: Vec<String>,
    /// Labels to add, by number.
    pub(crate) add_bits: u128,
    /// Labels to remove, by name; `del_bits` is made of them.
    pub(crate) labels_del: Vec<String>,
    /// Labels to remove, by number; all bits for all labels.
    pub(crate) del_bits: u128,
}

impl Update {
    /// The request that makes `flow` so; nothing where it is so, or cannot be named.
    pub(crate) fn change_for(&self, flow: &FlowView<'_>) -> Option<FlowChange<'static>> {
        let orig = flow.orig?;
        let status = flow.status.unwrap_or(0);
        let mark = flow.mark.unwrap_or(0);
        let labels = flow.labels.unwrap_or_default().0;
        let labels_mask = Some(self.add_bits | self.del_bits).filter(|_| labels != self.changed_labels(labels));
        let new_mark = self.mark.filter(|new| (mark & !new.mask) ^ new.value != mark);
        let change = FlowView {
            timeout: self.timeout.filter(|timeout| flow.timeout != Some(*timeout)),
            status: Some(status | self.status).filter(|new| *new != status),
            mark: new_mark.map(|new| new.value),
            proto: self.proto.change_from(orig.proto, flow.proto),
            labels: labels_mask.map(|_| Labels(self.add_bits)),
            ..FlowView::default()
        };
        if change == FlowView::default() {
            return None;
        }
        Some(FlowChange {
            // The zone is part of the name: without it the kernel looks among the flows of zone 0.
            flow: FlowView { family: flow.family, orig: Some(orig), zone: flow.zone, ..change },
            // The kernel applies the mask to the mark of that moment, which ours may be too old for.
            mark_mask: new_mark.map(|new| new.mask).filter(|mask| *mask != u32::MAX),
            labels_mask: labels_mask.map(Labels),
            ..FlowChange::default()
        })
    }

    fn changed_labels(&self, labels: u128) -> u128 {
        labels & !self.del_bits | self.add_bits
    }
}

/// An expectation to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpectationCreation {
    /// What is awaited.
    pub(crate) tuple: Tuple,
    /// Which bits of it count.
    pub(crate) mask: Tuple,
    /// The original direction of the flow that it belongs to.
    pub(crate) master: Tuple,
    /// Seconds until it expires; the kernel heeds its helper's instead.
    pub(crate) timeout: Option<u32>,
}

impl ExpectationCreation {
    /// The request.
    pub(crate) fn view(&self) -> ExpectView<'static> {
        ExpectView {
            family: self.tuple.family(),
            tuple: Some(self.tuple),
            mask: Some(self.mask),
            master: Some(self.master),
            timeout: self.timeout,
            ..ExpectView::default()
        }
    }
}

/// A translation to set up, where there is something to translate to.
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
            labels: Some(Labels(0b11)),
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
        assert_eq!(same.change_for(&FlowView { orig: None, ..flow() }), None, "it has no name");
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
        assert_eq!(mark(0, 0xf), None, "those bits are clear");
        assert_eq!(mark(0, 0), None);
        assert_eq!(mark(1, 0), Some((Some(1), Some(0))), "turned over");
        let status = changed(&Update { status: uapi::IPS_ASSURED, ..Update::default() }).unwrap().flow.status;
        assert_eq!(status, Some(uapi::IPS_ASSURED | uapi::IPS_SEEN_REPLY));
    }

    #[test]
    fn labels_are_added_and_removed() {
        let labels = |add_bits, del_bits| {
            let change = changed(&Update { add_bits, del_bits, ..Update::default() });
            change.map(|change| (change.flow.labels.unwrap().0, change.labels_mask.unwrap().0))
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
