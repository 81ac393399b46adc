//! Entries decode to what was encoded, and encode to the same bytes again.

use std::net::IpAddr;

use ctflow_parser::compact::{self, Address, V4, V6};
use ctflow_parser::expect::{ExpectNat, ExpectView};
use ctflow_parser::flow::{FlowView, Helper, Labels, RareAttributes, SeqAdj, Synproxy};
use ctflow_parser::proto::{DccpInfo, ProtoInfo, SctpInfo, TcpFlags, TcpInfo};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi::*;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::limits::ENTRY_BYTES_MAX;

const PROTOCOLS: [u8; 8] =
    [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_DCCP, IPPROTO_GRE, 89];

fn l4(proto: u8) -> BoxedStrategy<L4> {
    match proto {
        IPPROTO_ICMP | IPPROTO_ICMPV6 => {
            any::<(u8, u8, u16)>().prop_map(|(kind, code, id)| L4::Icmp { kind, code, id }).boxed()
        }
        89 => Just(L4::None).boxed(),
        _ => any::<(u16, u16)>().prop_map(|(src, dst)| L4::Ports { src, dst }).boxed(),
    }
}

fn address(v6: bool) -> impl Strategy<Value = IpAddr> {
    any::<[u8; 16]>().prop_map(move |octets| match octets {
        _ if v6 => IpAddr::from(octets),
        [a, b, c, d, ..] => IpAddr::from([a, b, c, d]),
    })
}

fn tuple(v6: bool, proto: u8) -> impl Strategy<Value = Tuple> {
    (address(v6), address(v6), l4(proto)).prop_map(move |(src, dst, l4)| Tuple { src, dst, proto, l4, zone: None })
}

/// The reply tuple of a flow without NAT.
fn mirrored(orig: Tuple) -> Tuple {
    let l4 = match orig.l4 {
        L4::Ports { src, dst } => L4::Ports { src: dst, dst: src },
        other => other,
    };
    Tuple { src: orig.dst, dst: orig.src, l4, ..orig }
}

fn info(proto: u8) -> BoxedStrategy<Option<ProtoInfo>> {
    match proto {
        IPPROTO_TCP => (any::<u8>(), of((0u8..16, 0u8..16, any::<u8>(), any::<u8>())))
            .prop_map(|(state, known)| {
                let flags = |flags| TcpFlags { flags, mask: 0 };
                Some(ProtoInfo::Tcp(TcpInfo {
                    state: Some(state),
                    wscale_orig: known.map(|known| known.0),
                    wscale_reply: known.map(|known| known.1),
                    flags_orig: known.map(|known| flags(known.2)),
                    flags_reply: known.map(|known| flags(known.3)),
                }))
            })
            .boxed(),
        IPPROTO_SCTP => any::<(u8, Option<(u32, u32)>)>()
            .prop_map(|(state, tags)| {
                let (vtag_orig, vtag_reply) = tags.unzip();
                Some(ProtoInfo::Sctp(SctpInfo { state: Some(state), vtag_orig, vtag_reply }))
            })
            .boxed(),
        IPPROTO_DCCP => (any::<u8>(), of((any::<u8>(), 0u64..1 << 48)))
            .prop_map(|(state, known)| {
                let (role, handshake_seq) = known.unzip();
                Some(ProtoInfo::Dccp(DccpInfo { state: Some(state), role, handshake_seq }))
            })
            .boxed(),
        _ => Just(None).boxed(),
    }
}

/// Texts and blobs that a view borrows.
type Texts = (String, Vec<u8>, String);

fn texts() -> impl Strategy<Value = Texts> {
    ("[a-z0-9-]{0,15}", prop::collection::vec(any::<u8>(), 0..64), "[a-z:_]{0,60}")
}

/// Any flow without texts, and whether a helper and a security context are to be added.
pub(crate) fn flow() -> impl Strategy<Value = (FlowView<'static>, bool, bool)> {
    (any::<bool>(), prop::sample::select(&PROTOCOLS[..])).prop_flat_map(|(v6, proto)| {
        let directions = (tuple(v6, proto), of(tuple(v6, proto)), of(any::<(u16, u16)>()));
        let numbers = any::<(u32, u32, u32, u32, bool)>();
        let rare = (of(any::<u128>()), of(tuple(v6, IPPROTO_UDP)), any::<(bool, bool)>());
        let rest = any::<(Option<[u32; 3]>, Option<[u32; 3]>, Option<[u32; 3]>)>();
        (directions, numbers, info(proto), rare, rest).prop_map(move |(directions, numbers, info, rare, rest)| {
            let (mut orig, reply, zones) = directions;
            let mut reply = reply.unwrap_or_else(|| mirrored(orig));
            let zone_of = |zone: u16| Some(zone).filter(|zone| *zone != 0);
            let mut zone = None;
            match zones {
                Some((a, b)) if a == b => zone = zone_of(a),
                Some((a, b)) => (orig.zone, reply.zone) = (zone_of(a), zone_of(b)),
                None => {}
            }
            let seqadj = |numbers: Option<[u32; 3]>| {
                numbers.map(|[correction_pos, offset_before, offset_after]| SeqAdj {
                    correction_pos,
                    offset_before,
                    offset_after,
                })
            };
            let view = FlowView {
                family: if v6 { AF_INET6 } else { AF_INET },
                orig: Some(orig),
                reply: Some(reply),
                status: Some(if numbers.4 { numbers.0 } else { numbers.0 & 0xffff }),
                timeout: Some(numbers.1),
                mark: Some(numbers.2),
                id: Some(numbers.3),
                zone,
                proto: info,
                // Not encoded.
                use_count: None,
                secmark: None,
                counters_orig: None,
                counters_reply: None,
                start_ns: None,
                stop_ns: None,
                event_ns: None,
                rare: RareAttributes {
                    labels: rare.0.map(Labels),
                    seqadj_orig: seqadj(rest.0),
                    seqadj_reply: seqadj(rest.1),
                    synproxy: rest.2.map(|[isn, its, tsoff]| Synproxy { isn, its, tsoff }),
                    master: rare.1,
                    helper: None, // the caller adds it and the security context, whose texts a view borrows
                    secctx: None,
                },
            };
            (view, rare.2.0, rare.2.1)
        })
    })
}

/// Asserts that a flow's compact form, if it has one, encodes to the same bytes as the view of that form.
fn assert_compact_form_encodes_alike<A: Address>(flow: &FlowView<'_>) {
    let Some(compact) = compact::Flow::<A>::new(flow) else { return };
    let (mut fast, mut plain) = (Vec::new(), Vec::new());
    encode_compact(&compact, &mut fast);
    encode_flow(&compact.view(), &mut plain).unwrap();
    assert_eq!(fast, plain, "{flow:?}");
}

proptest! {
    #[test]
    fn a_compact_flow_is_the_same_bytes_as_its_view((flow, ..) in flow()) {
        assert_compact_form_encodes_alike::<V4>(&flow);
        assert_compact_form_encodes_alike::<V6>(&flow);
    }

    #[test]
    fn a_flow_decodes_to_what_was_encoded((view, helper, secctx) in flow(), texts in texts()) {
        let view = FlowView {
            rare: RareAttributes {
                helper: helper.then_some(Helper { name: &texts.0, info: &texts.1 }),
                secctx: secctx.then_some(texts.2.as_str()),
                ..view.rare
            },
            ..view
        };
        let mut entry = vec![7];
        encode_flow(&view, &mut entry).unwrap();
        let entry = &entry[1..];
        prop_assert!(entry.len() <= ENTRY_BYTES_MAX);
        prop_assert_eq!(decode_flow(view.family, entry), Ok(view));
        prop_assert_eq!(flow_id(entry), view.id);
        for cut in 0..entry.len() {
            prop_assert!(decode_flow(view.family, &entry[..cut]).is_err());
        }
        let mut again = Vec::new();
        encode_flow(&decode_flow(view.family, entry).unwrap(), &mut again).unwrap();
        prop_assert_eq!(&again, entry);
    }

    #[test]
    fn a_flow_end_decodes_to_its_key_and_id((view, ..) in flow()) {
        let key = view.key().unwrap();
        let mut end = Vec::new();
        encode_flow_end(&key, 77, &mut end).unwrap();
        prop_assert_eq!(decode_flow_end(view.family, &end), Ok((key, 77)));
    }

    #[test]
    fn an_expectation_decodes_to_what_was_encoded(
        v6: bool,
        proto in prop::sample::select(&PROTOCOLS[..7]),
        numbers in any::<(u32, u32, u32, u32, u16)>(),
        nat in of(0u32..2),
        texts in texts(),
        seed in any::<[u8; 16]>(),
    ) {
        let address = if v6 { IpAddr::from(seed) } else { IpAddr::from([seed[0], seed[1], seed[2], seed[3]]) };
        let l4 = if ends::is_icmp(proto) { L4::Icmp { kind: 8, code: 0, id: 3 } } else { L4::Ports { src: 0, dst: 9 } };
        let tuple = Tuple { src: address, dst: address, proto, l4, zone: None };
        let master = Tuple { proto: IPPROTO_TCP, l4: L4::Ports { src: 1, dst: 21 }, ..tuple };
        let text = |text| Some(text).filter(|text: &&str| !text.is_empty());
        let view = ExpectView {
            family: if v6 { AF_INET6 } else { AF_INET },
            tuple: Some(tuple),
            mask: Some(tuple),
            master: Some(master),
            timeout: Some(numbers.0),
            id: Some(numbers.1),
            helper: text(&texts.0),
            zone: Some(numbers.4).filter(|zone| *zone != 0),
            flags: Some(numbers.2),
            class: Some(numbers.3),
            nat: nat.map(|direction| ExpectNat { direction, tuple: master }),
            function: text(&texts.2),
        };
        let mut entry = Vec::new();
        encode_expect(&view, &mut entry).unwrap();
        prop_assert_eq!(decode_expect(&entry), Ok(view));
        for cut in 0..entry.len() {
            prop_assert!(decode_expect(&entry[..cut]).is_err());
        }
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), family: u8) {
        for family in [family, AF_INET, AF_INET6] {
            let _ = decode_flow(family, &bytes);
            let _ = decode_flow_end(family, &bytes);
        }
        let _ = decode_expect(&bytes);
    }
}

#[test]
fn a_usual_flow_takes_under_30_bytes() {
    let orig = Tuple {
        src: IpAddr::from([10, 0, 0, 1]),
        dst: IpAddr::from([10, 0, 0, 2]),
        proto: IPPROTO_UDP,
        l4: L4::Ports { src: 4000, dst: 53 },
        zone: None,
    };
    let view = FlowView {
        family: AF_INET,
        orig: Some(orig),
        reply: Some(mirrored(orig)),
        id: Some(1),
        timeout: Some(30),
        status: Some(0x18a),
        ..FlowView::default()
    };
    let mut entry = Vec::new();
    encode_flow(&view, &mut entry).unwrap();
    assert_eq!(entry.len(), 2 + 4 + 1 + 12 + 2 + 1);
}

#[test]
fn an_unencodable_entry_leaves_the_buffer_unchanged() {
    let mut entry = vec![1, 2];
    assert!(encode_flow(&FlowView::default(), &mut entry).is_err());
    assert!(encode_expect(&ExpectView::default(), &mut entry).is_err());
    assert_eq!(entry, [1, 2]);
}

/// A field of a later version in the rest of a flow is skipped, and the fields after it are read.
#[test]
fn an_unknown_field_in_the_rest_is_skipped() {
    let mut entry = vec![0x80, 0, 0, 0, 0, 9, 89, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0];
    entry.extend([0, 7, 200, 1, 0xff, 4, 2, b'h', b'i']);
    assert_eq!(decode_flow(AF_INET, &entry).unwrap().rare.secctx, Some("hi"));
}
