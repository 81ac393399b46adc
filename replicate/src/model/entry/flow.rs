//! The canonical form of a flow: the fields of every flow first, then those that only some flows have, each with its
//! bit.

use ctflow_parser::flow::{FlowView, Helper, Labels, RareAttributes, SeqAdj, Synproxy};
use ctflow_parser::proto::{DccpInfo, ProtoInfo, SctpInfo, TcpFlags, TcpInfo};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

use super::ends::{self, is_icmp};
use super::{NotEncodable, put_short_bytes, read_text};
use crate::cursor::{Malformed, Put, Reader};
use crate::limits::ENTRY_BYTES_MAX;

/// The bits of a flow's first two bytes, one for each optional field.
pub(super) mod bit {
    pub(in crate::model::entry) const PORTS: u16 = 1 << 0;
    pub(in crate::model::entry) const REPLY_SRC: u16 = 1 << 1;
    pub(in crate::model::entry) const REPLY_DST: u16 = 1 << 2;
    pub(in crate::model::entry) const REPLY_FIRST: u16 = 1 << 3;
    pub(in crate::model::entry) const REPLY_SECOND: u16 = 1 << 4;
    pub(in crate::model::entry) const STATUS_WIDE: u16 = 1 << 5;
    pub(in crate::model::entry) const STATE: u16 = 1 << 6;
    pub(in crate::model::entry) const TCP: u16 = 1 << 7;
    pub(in crate::model::entry) const MARK: u16 = 1 << 8;
    pub(in crate::model::entry) const ZONE: u16 = 1 << 9;
    pub(in crate::model::entry) const ZONE_REPLY: u16 = 1 << 10;
    pub(in crate::model::entry) const LABELS: u16 = 1 << 11;
    pub(in crate::model::entry) const HELPER: u16 = 1 << 12;
    pub(in crate::model::entry) const MASTER: u16 = 1 << 13;
    pub(in crate::model::entry) const TRACKER: u16 = 1 << 14;
    pub(in crate::model::entry) const REST: u16 = 1 << 15;
}

/// The types of the fields in a flow's rest.
mod rest {
    pub(super) const SEQADJ_ORIG: u8 = 1;
    pub(super) const SEQADJ_REPLY: u8 = 2;
    pub(super) const SYNPROXY: u8 = 3;
    pub(super) const SECCTX: u8 = 4;
}

const TRACKER_SCTP: u8 = 1;
const TRACKER_DCCP: u8 = 2;
/// The greatest sequence number of DCCP, which has 48 bits.
const HANDSHAKE_SEQ_MAX: u64 = (1 << 48) - 1;

/// Appends the canonical form of `flow` to `out`, at most [`ENTRY_BYTES_MAX`] bytes. On an error `out` is as it was.
///
/// # Errors
/// A flow without both tuples and an id, or one that mixes families or protocols.
pub fn encode_flow(flow: &FlowView<'_>, out: &mut Vec<u8>) -> Result<(), NotEncodable> {
    let start = out.len();
    let written = put_flow(flow, out, start);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Appends the fields of `flow` at `start`; `out` may hold a part of them after an error.
fn put_flow(flow: &FlowView<'_>, out: &mut Vec<u8>, start: usize) -> Result<(), NotEncodable> {
    let FlowView {
        family,
        orig: Some(orig),
        reply: Some(reply),
        status,
        timeout,
        mark,
        id: Some(id),
        zone,
        proto,
        use_count: _, // of the source's memory only
        secmark: _,   // no kernel accepts it from a request
        // Every kernel counts what it forwards itself.
        counters_orig: _,
        counters_reply: _,
        // Times of the source's kernel; an item has the time of its change.
        start_ns: _,
        stop_ns: _,
        event_ns: _,
        rare: RareAttributes { helper, secctx, labels, seqadj_orig, seqadj_reply, synproxy, master },
    } = flow
    else {
        return Err(NotEncodable("a tuple or the id is missing"));
    };
    if orig.family() != *family || reply.family() != *family || orig.proto != reply.proto {
        return Err(NotEncodable("directions of two families or protocols"));
    }
    let zone_of = |tuple: &Tuple| tuple.zone.or(*zone).unwrap_or(0);
    out.put_u16(0); // the bits, known at the end
    out.put_u32(*id);
    out.put_u8(orig.proto);
    let mut bits = put_ends(orig, reply, out)?;
    bits |= put_status(status.unwrap_or(0), out);
    out.put_varint(timeout.unwrap_or(0).into());
    bits |= put_state(*proto, orig.proto, out)?;
    bits |= put_mark(mark.unwrap_or(0), out);
    bits |= put_zones((zone_of(orig), zone_of(reply)), out);
    bits |= put_labels(*labels, out);
    bits |= put_helper(*helper, out)?;
    bits |= put_master(master.as_ref(), *family, out)?;
    bits |= put_tracker(*proto, out)?;
    bits |= put_rest([*seqadj_orig, *seqadj_reply], *synproxy, *secctx, out)?;
    if out.len() - start > ENTRY_BYTES_MAX {
        return Err(NotEncodable("longer than any flow of a kernel"));
    }
    if let Some(field) = out.get_mut(start..).and_then(<[u8]>::first_chunk_mut) {
        *field = bits.to_be_bytes();
    }
    Ok(())
}

/// Appends the ends of both directions: the original's, and those of the reply that are not the original's mirrored.
fn put_ends(orig: &Tuple, reply: &Tuple, out: &mut Vec<u8>) -> Result<u16, NotEncodable> {
    let mut bits = 0;
    ends::put_addresses(orig, out)?;
    let ports = (ends::l4_numbers(orig)?, ends::l4_numbers(reply)?);
    if let Some((first, second)) = ports.0 {
        bits |= bit::PORTS;
        out.put_u16(first);
        out.put_u16(second);
    }
    for (address, mirrored, bit) in [(reply.src, orig.dst, bit::REPLY_SRC), (reply.dst, orig.src, bit::REPLY_DST)] {
        if address != mirrored {
            bits |= bit;
            ends::put_address(address, out);
        }
    }
    let numbers = match ports {
        (None, None) => return Ok(bits),
        (Some(orig), Some(reply)) => (orig, reply),
        _ => return Err(NotEncodable("only one direction has ports")),
    };
    let (mirrored, reply) = (mirror_numbers(orig.proto, numbers.0), numbers.1);
    for (number, mirrored, bit) in [(reply.0, mirrored.0, bit::REPLY_FIRST), (reply.1, mirrored.1, bit::REPLY_SECOND)] {
        if number != mirrored {
            bits |= bit;
            out.put_u16(number);
        }
    }
    Ok(bits)
}

/// The numbers that the reply has without NAT: ports are swapped, ICMP's id and type with code stay.
#[inline]
pub(super) fn mirror_numbers(proto: u8, (first, second): (u16, u16)) -> (u16, u16) {
    if is_icmp(proto) { (first, second) } else { (second, first) }
}

/// Appends the state of `proto`'s tracker and TCP's fields; returns the bits of the fields written.
fn put_state(info: Option<ProtoInfo>, proto: u8, out: &mut Vec<u8>) -> Result<u16, NotEncodable> {
    let mut bits = 0;
    let tracker = info.map(|info| match info {
        ProtoInfo::Tcp(_) => uapi::IPPROTO_TCP,
        ProtoInfo::Sctp(_) => uapi::IPPROTO_SCTP,
        ProtoInfo::Dccp(_) => uapi::IPPROTO_DCCP,
    });
    if tracker.is_some_and(|tracker| tracker != proto) {
        return Err(NotEncodable("another protocol's tracker"));
    }
    if let Some(state @ 1..) = info.and_then(|info| info.state()) {
        bits |= bit::STATE;
        out.put_u8(state);
    }
    if let Some(ProtoInfo::Tcp(TcpInfo { wscale_orig, wscale_reply, flags_orig, flags_reply, .. })) = info
        && let (Some(orig), Some(reply)) = (flags_orig, flags_reply)
    {
        bits |= bit::TCP;
        let wscales = wscale_orig.unwrap_or(0) << 4 | wscale_reply.unwrap_or(0) & 0x0f;
        out.put_slice(&[wscales, orig.flags, reply.flags]);
    }
    Ok(bits)
}

/// Appends the mark if it is not 0; returns its bit.
fn put_mark(mark: u32, out: &mut Vec<u8>) -> u16 {
    if mark == 0 {
        return 0;
    }
    out.put_u32(mark);
    bit::MARK
}

/// Appends the status in 2 bytes if it fits, else in 4; returns the bit of the latter.
#[inline]
pub(super) fn put_status(status: u32, out: &mut impl Put) -> u16 {
    if let Ok(narrow) = u16::try_from(status) {
        out.put_u16(narrow);
        return 0;
    }
    out.put_u32(status);
    bit::STATUS_WIDE
}

/// Appends the zones of the original and of the reply direction, 0 for none; returns the bits of those written.
#[inline]
pub(super) fn put_zones((zone, zone_reply): (u16, u16), out: &mut impl Put) -> u16 {
    let mut bits = 0;
    if zone != 0 {
        bits |= bit::ZONE;
        out.put_u16(zone);
    }
    if zone_reply != zone {
        bits |= bit::ZONE_REPLY;
        out.put_u16(zone_reply);
    }
    bits
}

/// Appends the labels, if there are any; returns their bit.
fn put_labels(labels: Option<Labels>, out: &mut Vec<u8>) -> u16 {
    let Some(labels) = labels else { return 0 };
    out.put_slice(&labels.0.to_be_bytes());
    bit::LABELS
}

/// Appends the helper, if there is one; returns its bit.
fn put_helper(helper: Option<Helper<'_>>, out: &mut Vec<u8>) -> Result<u16, NotEncodable> {
    let Some(Helper { name, info }) = helper else { return Ok(0) };
    put_short_bytes(name.as_bytes(), out)?;
    put_short_bytes(info, out)?;
    Ok(bit::HELPER)
}

/// Appends the master's tuple, if there is one; returns its bit.
fn put_master(master: Option<&Tuple>, family: u8, out: &mut Vec<u8>) -> Result<u16, NotEncodable> {
    let Some(master) = master else { return Ok(0) };
    out.put_u8(master.proto);
    ends::put_tuple(master, family, out)?;
    out.put_u16(master.zone.unwrap_or(0));
    Ok(bit::MASTER)
}

/// Appends the numbers of SCTP or DCCP beside the state; returns the bit if there are any.
fn put_tracker(info: Option<ProtoInfo>, out: &mut Vec<u8>) -> Result<u16, NotEncodable> {
    match info {
        Some(ProtoInfo::Sctp(SctpInfo { vtag_orig, vtag_reply, .. })) if vtag_orig.or(vtag_reply).is_some() => {
            out.put_u8(TRACKER_SCTP);
            out.put_u32(vtag_orig.unwrap_or(0));
            out.put_u32(vtag_reply.unwrap_or(0));
        }
        Some(ProtoInfo::Dccp(DccpInfo { role, handshake_seq, .. })) if role.is_some() || handshake_seq.is_some() => {
            let seq = handshake_seq.unwrap_or(0);
            if seq > HANDSHAKE_SEQ_MAX {
                return Err(NotEncodable("a DCCP sequence number of more than 48 bits"));
            }
            out.put_u8(TRACKER_DCCP);
            // The role is the highest byte, a 0 below it, then the number's 48 bits.
            out.put_u64(u64::from(role.unwrap_or(0)) << 56 | seq);
        }
        _ => return Ok(0),
    }
    Ok(bit::TRACKER)
}

/// Appends the rest: the sequence adjustments of both directions, SYN proxy and security context, each with a type;
/// returns the bit if there are any.
fn put_rest(
    seqadjs: [Option<SeqAdj>; 2],
    synproxy: Option<Synproxy>,
    secctx: Option<&str>,
    out: &mut Vec<u8>,
) -> Result<u16, NotEncodable> {
    let start = out.len();
    out.put_u16(0); // its length, known at the end
    for (kind, adjust) in [rest::SEQADJ_ORIG, rest::SEQADJ_REPLY].into_iter().zip(seqadjs) {
        if let Some(SeqAdj { correction_pos, offset_before, offset_after }) = adjust {
            put_numbers(kind, [correction_pos, offset_before, offset_after], out);
        }
    }
    if let Some(Synproxy { isn, its, tsoff }) = synproxy {
        put_numbers(rest::SYNPROXY, [isn, its, tsoff], out);
    }
    if let Some(context) = secctx {
        out.put_u8(rest::SECCTX);
        put_short_bytes(context.as_bytes(), out)?;
    }
    let length = out.len() - start - 2;
    if length == 0 {
        out.truncate(start);
        return Ok(0);
    }
    if let Some(field) = out.get_mut(start..).and_then(<[u8]>::first_chunk_mut) {
        *field = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes(); // 299 at most
    }
    Ok(bit::REST)
}

/// Appends a field of the rest that consists of three numbers.
fn put_numbers(kind: u8, numbers: [u32; 3], out: &mut Vec<u8>) {
    out.put_slice(&[kind, 12]);
    numbers.into_iter().for_each(|number| out.put_u32(number));
}

/// Decodes a flow of `family` (`AF_INET`, `AF_INET6`); its texts and blobs are borrowed from `entry`. Status, timeout,
/// mark and id are always set, and so is the tracker's state for the protocols that have one.
///
/// # Errors
/// Bytes that are not a flow of `family`.
#[inline]
pub fn decode_flow(family: u8, entry: &[u8]) -> Result<FlowView<'_>, Malformed> {
    let mut reader = Reader::new(entry);
    let bits = reader.u16()?;
    let (id, proto) = (reader.u32()?, reader.u8()?);
    let (mut orig, mut reply) = read_tuples(family, bits, proto, &mut reader)?;
    let status = if bits & bit::STATUS_WIDE == 0 { reader.u16()?.into() } else { reader.u32()? };
    let timeout = u32::try_from(reader.varint()?).map_err(|_| reader.malformed())?;
    let state = if bits & bit::STATE == 0 { 0 } else { reader.u8()? };
    let info = read_proto_info(bits, proto, state, &mut reader)?;
    let mark = if bits & bit::MARK == 0 { 0 } else { reader.u32()? };
    let zone = if bits & bit::ZONE == 0 { 0 } else { reader.u16()? };
    let zone_of = |zone: u16| (zone != 0).then_some(zone);
    let mut zone_of_both = None;
    if bits & bit::ZONE_REPLY == 0 {
        zone_of_both = zone_of(zone);
    } else {
        (orig.zone, reply.zone) = (zone_of(zone), zone_of(reader.u16()?));
    }
    let mut view = FlowView {
        family,
        orig: Some(orig),
        reply: Some(reply),
        status: Some(status),
        timeout: Some(timeout),
        mark: Some(mark),
        id: Some(id),
        zone: zone_of_both,
        proto: info,
        // Not encoded, for the reasons in `put_flow`.
        use_count: None,
        secmark: None,
        counters_orig: None,
        counters_reply: None,
        start_ns: None,
        stop_ns: None,
        event_ns: None,
        rare: RareAttributes::default(),
    };
    if bits >= bit::LABELS {
        read_rare(&mut view, bits, &mut reader)?;
    }
    if reader.is_empty() { Ok(view) } else { Err(reader.malformed()) }
}

/// Reads the tuples of the original and of the reply direction.
#[inline]
fn read_tuples(family: u8, bits: u16, proto: u8, reader: &mut Reader<'_>) -> Result<(Tuple, Tuple), Malformed> {
    let (src, dst) = ends::read_addresses(family, reader)?;
    let ports = if bits & bit::PORTS == 0 { None } else { Some((reader.u16()?, reader.u16()?)) };
    let reply_src = if bits & bit::REPLY_SRC == 0 { dst } else { ends::read_address(family, reader)? };
    let reply_dst = if bits & bit::REPLY_DST == 0 { src } else { ends::read_address(family, reader)? };
    let mut reply_ports = ports.map(|ports| mirror_numbers(proto, ports));
    if let Some(ports) = &mut reply_ports {
        if bits & bit::REPLY_FIRST != 0 {
            ports.0 = reader.u16()?;
        }
        if bits & bit::REPLY_SECOND != 0 {
            ports.1 = reader.u16()?;
        }
    }
    let orig = Tuple { src, dst, proto, l4: ends::l4_of_numbers(proto, ports), zone: None };
    let l4: L4 = ends::l4_of_numbers(proto, reply_ports);
    Ok((orig, Tuple { src: reply_src, dst: reply_dst, proto, l4, zone: None }))
}

/// Reads TCP's fields, and returns the protocol information with the tracker's `state`.
#[inline]
fn read_proto_info(bits: u16, proto: u8, state: u8, reader: &mut Reader<'_>) -> Result<Option<ProtoInfo>, Malformed> {
    let tcp = if bits & bit::TCP == 0 { None } else { Some(reader.array::<3>()?) };
    let state = Some(state);
    Ok(match proto {
        uapi::IPPROTO_TCP => Some(ProtoInfo::Tcp(TcpInfo {
            state,
            wscale_orig: tcp.map(|[wscales, ..]| wscales >> 4),
            wscale_reply: tcp.map(|[wscales, ..]| wscales & 0x0f),
            flags_orig: tcp.map(|[_, flags, _]| TcpFlags { flags, mask: 0 }),
            flags_reply: tcp.map(|[.., flags]| TcpFlags { flags, mask: 0 }),
        })),
        uapi::IPPROTO_SCTP => Some(ProtoInfo::Sctp(SctpInfo { state, ..SctpInfo::default() })),
        uapi::IPPROTO_DCCP => Some(ProtoInfo::Dccp(DccpInfo { state, ..DccpInfo::default() })),
        _ => None,
    })
}

/// Reads the fields that few flows have into `view`.
fn read_rare<'a>(view: &mut FlowView<'a>, bits: u16, reader: &mut Reader<'a>) -> Result<(), Malformed> {
    let RareAttributes {
        helper,
        labels,
        master,
        // Parts of the rest.
        secctx: _,
        seqadj_orig: _,
        seqadj_reply: _,
        synproxy: _,
    } = &mut view.rare;
    if bits & bit::LABELS != 0 {
        *labels = Some(Labels(reader.u128()?));
    }
    if bits & bit::HELPER != 0 {
        *helper = Some(Helper { name: read_text(reader)?, info: reader.short_bytes()? });
    }
    if bits & bit::MASTER != 0 {
        let proto = reader.u8()?;
        let tuple = ends::read_tuple(view.family, proto, reader)?;
        *master = Some(Tuple { zone: Some(reader.u16()?).filter(|zone| *zone != 0), ..tuple });
    }
    if bits & bit::TRACKER != 0 {
        let (kind, numbers) = (reader.u8()?, reader.u64()?);
        set_tracker_numbers(view, kind, numbers);
    }
    if bits & bit::REST != 0 {
        let length = reader.u16()?;
        read_rest(&mut view.rare, Reader::new(reader.bytes(length.into())?))?;
    }
    Ok(())
}

/// Sets the tracker's numbers of SCTP or DCCP; those of another protocol than the flow's are ignored.
fn set_tracker_numbers(view: &mut FlowView<'_>, kind: u8, numbers: u64) {
    let [role, _, rest @ ..] = numbers.to_be_bytes();
    match (&mut view.proto, kind) {
        (Some(ProtoInfo::Sctp(sctp)), TRACKER_SCTP) => {
            let [a, b, c, d, reply @ ..] = numbers.to_be_bytes();
            sctp.vtag_orig = Some(u32::from_be_bytes([a, b, c, d]));
            sctp.vtag_reply = Some(u32::from_be_bytes(reply));
        }
        (Some(ProtoInfo::Dccp(dccp)), TRACKER_DCCP) => {
            let [a, b, c, d, e, f] = rest;
            dccp.role = Some(role);
            dccp.handshake_seq = Some(u64::from_be_bytes([0, 0, a, b, c, d, e, f]));
        }
        _ => {}
    }
}

/// Reads the fields of the rest into `rare`. One of an unknown type is skipped.
fn read_rest<'a>(rare: &mut RareAttributes<'a>, mut reader: Reader<'a>) -> Result<(), Malformed> {
    while !reader.is_empty() {
        let kind = reader.u8()?;
        let mut field = Reader::new(reader.short_bytes()?);
        match kind {
            rest::SEQADJ_ORIG | rest::SEQADJ_REPLY => {
                let adjust =
                    SeqAdj { correction_pos: field.u32()?, offset_before: field.u32()?, offset_after: field.u32()? };
                let target = if kind == rest::SEQADJ_ORIG { &mut rare.seqadj_orig } else { &mut rare.seqadj_reply };
                *target = Some(adjust);
            }
            rest::SYNPROXY => {
                rare.synproxy = Some(Synproxy { isn: field.u32()?, its: field.u32()?, tsoff: field.u32()? });
            }
            rest::SECCTX => {
                rare.secctx = Some(str::from_utf8(field.rest()).map_err(|_| reader.malformed())?);
            }
            _ => {} // of a later version: kept in the entry's bytes, ignored here
        }
    }
    Ok(())
}
