//! A flow or an expectation reads back as it was written, whatever its fields are. Arbitrary bytes end in an error or
//! are skipped.

use std::net::IpAddr;

use ctflow_parser::compact::{Flow, Key, V4, V6};
use ctflow_parser::expect::{ExpectNat, ExpectView};
use ctflow_parser::flow::{Counters, FlowView, Helper, Labels, RareAttributes, SeqAdj, Synproxy};
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::proto::{DccpInfo, ProtoInfo, SctpInfo, TcpFlags, TcpInfo};
use ctflow_parser::record::Record;
use ctflow_parser::request::{self, FlowChange, IfExists, REQUEST_BYTES};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;
use ctflow_parser::write::Writer;
use proptest::option::of;
use proptest::prelude::*;

fn tuples(v6: bool) -> impl Strategy<Value = Tuple> {
    let address = move || {
        (any::<[u8; 4]>(), any::<[u8; 16]>())
            .prop_map(move |(four, six)| if v6 { IpAddr::from(six) } else { IpAddr::from(four) })
    };
    let l4 = prop_oneof![
        Just((200, L4::None)),
        (any::<u16>(), any::<u16>()).prop_map(|(src, dst)| (uapi::IPPROTO_TCP, L4::Ports { src, dst })),
        (any::<u8>(), any::<u8>(), any::<u16>()).prop_map(move |(kind, code, id)| {
            (if v6 { uapi::IPPROTO_ICMPV6 } else { uapi::IPPROTO_ICMP }, L4::Icmp { kind, code, id })
        }),
    ];
    (address(), address(), l4, of(any::<u16>())).prop_map(|(src, dst, (proto, l4), zone)| Tuple {
        src,
        dst,
        proto,
        l4,
        zone,
    })
}

fn protos() -> impl Strategy<Value = ProtoInfo> {
    let flags = || of((any::<u8>(), any::<u8>()).prop_map(|(flags, mask)| TcpFlags { flags, mask }));
    let byte = || of(any::<u8>());
    prop_oneof![
        (byte(), byte(), byte(), flags(), flags()).prop_map(
            |(state, wscale_orig, wscale_reply, flags_orig, flags_reply)| {
                ProtoInfo::Tcp(TcpInfo { state, wscale_orig, wscale_reply, flags_orig, flags_reply })
            }
        ),
        (byte(), of(any::<u32>()), of(any::<u32>()))
            .prop_map(|(state, vtag_orig, vtag_reply)| ProtoInfo::Sctp(SctpInfo { state, vtag_orig, vtag_reply })),
        (byte(), byte(), of(any::<u64>())).prop_map(|(state, role, handshake_seq)| ProtoInfo::Dccp(DccpInfo {
            state,
            role,
            handshake_seq
        })),
    ]
}

/// A flow with any combination of fields; the text and blobs are borrowed from the caller.
fn flows<'a>(text: &'a str, blob: &'a [u8]) -> impl Strategy<Value = FlowView<'a>> {
    let number = || of(any::<u32>());
    let counters = || of((any::<u64>(), any::<u64>()).prop_map(|(packets, bytes)| Counters { packets, bytes }));
    let seqadj = || {
        of(any::<[u32; 3]>().prop_map(|[correction_pos, offset_before, offset_after]| SeqAdj {
            correction_pos,
            offset_before,
            offset_after,
        }))
    };
    let tuples = any::<bool>().prop_flat_map(|v6| (of(tuples(v6)), of(tuples(v6)), of(tuples(v6))));
    let numbers = (number(), number(), number(), number(), number(), number(), of(any::<u16>()));
    let times = (of(any::<u64>()), of(any::<u64>()), of(any::<u64>()));
    let rare = (
        of(protos()),
        counters(),
        counters(),
        seqadj(),
        seqadj(),
        of(any::<[u32; 3]>()),
        of(any::<u128>()),
        any::<bool>(),
    );
    (tuples, numbers, times, rare).prop_map(
        move |((orig, reply, master), (status, timeout, mark, id, use_count, secmark, zone), times, rare)| FlowView {
            family: uapi::AF_INET,
            orig,
            reply,
            status,
            timeout,
            mark,
            id,
            use_count,
            zone,
            secmark,
            proto: rare.0,
            counters_orig: rare.1,
            counters_reply: rare.2,
            start_ns: times.0,
            stop_ns: times.1,
            event_ns: times.2,
            rare: RareAttributes {
                helper: rare.7.then_some(Helper { name: text, info: blob }),
                secctx: rare.7.then_some(text),
                labels: rare.6.map(Labels),
                seqadj_orig: rare.3,
                seqadj_reply: rare.4,
                synproxy: rare.5.map(|[isn, its, tsoff]| Synproxy { isn, its, tsoff }),
                master,
            },
        },
    )
}

fn expectations(text: &str) -> impl Strategy<Value = ExpectView<'_>> {
    let number = || of(any::<u32>());
    let tuples = any::<bool>().prop_flat_map(|v6| (of(tuples(v6)), of(tuples(v6)), of(tuples(v6)), of(tuples(v6))));
    (tuples, number(), number(), number(), number(), of(any::<u16>()), any::<bool>()).prop_map(
        move |((tuple, mask, master, nat), timeout, id, flags, class, zone, named)| ExpectView {
            family: uapi::AF_INET,
            tuple,
            mask,
            master,
            timeout,
            id,
            helper: named.then_some(text),
            zone,
            flags,
            class,
            nat: nat.map(|tuple| ExpectNat { direction: 1, tuple }),
            function: named.then_some(text),
        },
    )
}

fn only_record(frame: &[u8]) -> Record<'_> {
    let mut messages = Messages::new(frame);
    let Some(Ok(Message::Record(record))) = messages.next() else { unreachable!("one record") };
    assert!(messages.next().is_none(), "one record only");
    record
}

proptest! {
    #[test]
    fn a_flow_reads_back_as_written(flow in flows("ftp", &[1, 2, 3])) {
        let mut buffer = [0; REQUEST_BYTES];
        let mut writer = Writer::new(&mut buffer);
        let change = FlowChange { flow, ..FlowChange::default() };
        request::create(&mut writer, 7, &change, IfExists::Refuse).unwrap();
        prop_assert_eq!(only_record(writer.bytes()).flow(), Ok(flow));
    }

    #[test]
    fn an_expectation_reads_back_as_written(expectation in expectations("sip")) {
        let mut buffer = [0; REQUEST_BYTES];
        let mut writer = Writer::new(&mut buffer);
        request::create_expect(&mut writer, 7, &expectation).unwrap();
        prop_assert_eq!(only_record(writer.bytes()).expect(), Ok(expectation));
    }

    /// A compact flow keeps the fields that the kernel sent, and matches its own key.
    #[test]
    fn a_compact_flow_keeps_its_fields_and_key(flow in flows("ftp", &[])) {
        let expected_key = flow.key();
        for (view, has_key) in [
            Flow::<V4>::new(&flow).map(|compact| (compact.view(), compact.has_key(&Key::of(&expected_key.unwrap()).unwrap()))),
            Flow::<V6>::new(&flow).map(|compact| (compact.view(), compact.has_key(&Key::of(&expected_key.unwrap()).unwrap()))),
        ].into_iter().flatten() {
            prop_assert!(has_key);
            prop_assert_eq!(view.key(), expected_key);
            prop_assert_eq!(view.mark, Some(flow.mark.unwrap_or(0)));
            prop_assert_eq!(view.status, Some(flow.status.unwrap_or(0)));
            let bare = |tuple: Tuple| (tuple.src, tuple.dst, tuple.l4);
            prop_assert_eq!(view.orig.map(bare), flow.orig.map(bare));
            prop_assert_eq!(view.reply.map(|tuple| (tuple.src, tuple.dst)), flow.reply.map(|tuple| (tuple.src, tuple.dst)));
        }
    }

    #[test]
    fn arbitrary_bytes_end_in_an_error_or_a_view(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        for message in Messages::new(&bytes) {
            if let Ok(Message::Record(record)) = message {
                let _ = (record.flow(), record.expect(), record.global_stats(), record.cpu_stats().counters().count());
            }
        }
    }

    /// If one byte of a valid message is wrong, the walk still ends within the message.
    #[test]
    fn a_damaged_message_never_reaches_past_itself(flow in flows("ftp", &[9]), at in 16usize..200, value in any::<u8>()) {
        let mut buffer = [0; REQUEST_BYTES];
        let mut writer = Writer::new(&mut buffer);
        let change = FlowChange { flow, ..FlowChange::default() };
        request::create(&mut writer, 7, &change, IfExists::Refuse).unwrap();
        let mut frame = writer.bytes().to_vec();
        let Some(byte) = frame.get_mut(at) else { return Ok(()) };
        *byte = value;
        if let Err(error) = only_record(&frame).flow() {
            prop_assert!(usize::try_from(error.offset).unwrap() <= frame.len());
        }
    }
}

#[test]
fn an_unknown_attribute_is_skipped_at_every_level() {
    let mut buffer = [0; 256];
    let mut writer = Writer::new(&mut buffer);
    writer
        .netfilter(uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_NEW, 0, 1, uapi::AF_INET, 0, |message| {
            message.attr(999, &[1; 7])?;
            message.nest(uapi::CTA_PROTOINFO, |info| {
                info.attr(77, &[])?;
                info.nest(uapi::CTA_PROTOINFO_TCP, |tcp| {
                    tcp.attr(99, &[5; 3])?;
                    tcp.u8(uapi::CTA_PROTOINFO_TCP_STATE, 3)
                })
            })?;
            message.be32(uapi::CTA_MARK, 5)
        })
        .unwrap();
    let view = only_record(writer.bytes()).flow().unwrap();
    assert_eq!((view.mark, view.proto.and_then(|proto| proto.state_name())), (Some(5), Some("ESTABLISHED")));
}

#[test]
fn a_tuple_of_two_families_is_refused_with_its_offset() {
    let mut buffer = [0; 256];
    let mut writer = Writer::new(&mut buffer);
    writer
        .netfilter(uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_NEW, 0, 1, uapi::AF_INET, 0, |message| {
            message.nest(uapi::CTA_TUPLE_ORIG, |tuple| {
                tuple.nest(uapi::CTA_TUPLE_IP, |ip| {
                    ip.attr(uapi::CTA_IP_V4_SRC, &[1; 4])?;
                    ip.attr(uapi::CTA_IP_V6_DST, &[1; 16])
                })
            })
        })
        .unwrap();
    let error = only_record(writer.bytes()).flow().unwrap_err();
    assert_eq!(error.to_string(), "tuple has no complete address pair at byte 24");
}
