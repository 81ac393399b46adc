//! One direction of a flow: its addresses, and its ports, keys or ICMP fields.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::attr::{Attr, Attrs};
use crate::error::{ParseError, Reason};
use crate::uapi;
use crate::write::{Full, Writer};

/// The fields that a layer-4 protocol adds to the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum L4 {
    /// A protocol without a tracker of its own has none.
    #[default]
    None,
    /// Ports of TCP, UDP, UDPlite, SCTP and DCCP; keys of GRE.
    Ports {
        /// Source port or key.
        src: u16,
        /// Destination port or key.
        dst: u16,
    },
    /// Fields of ICMP and ICMPv6.
    Icmp {
        /// Message type.
        kind: u8,
        /// Message code.
        code: u8,
        /// Echo identifier.
        id: u16,
    },
}

/// One direction of a flow, or of an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address; always of the same family as `dst`.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Layer-4 protocol number.
    pub proto: u8,
    /// Ports, keys or ICMP fields.
    pub l4: L4,
    /// The zone of this direction, where it applies to this direction only.
    pub zone: Option<u16>,
}

impl Tuple {
    /// `AF_INET` or `AF_INET6`.
    #[must_use]
    #[inline]
    pub fn family(&self) -> u8 {
        match self.src {
            IpAddr::V4(_) => uapi::AF_INET,
            IpAddr::V6(_) => uapi::AF_INET6,
        }
    }

    /// Source and destination port or key; `None` for protocols without them.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.l4 {
            L4::Ports { src, dst } => Some((src, dst)),
            L4::Icmp { .. } | L4::None => None,
        }
    }

    /// Parses the nest of `attr`, which is CTA_TUPLE_ORIG or another attribute of the same form.
    ///
    /// # Errors
    /// [`ParseError`] of a malformed attribute, or [`Reason::Addresses`] without a pair of addresses of one family.
    #[inline]
    pub fn parse(attr: &Attr<'_>) -> Result<Self, ParseError> {
        let mut tuple = None;
        Self::read(attr, &mut tuple)?;
        tuple.ok_or_else(|| attr.error(Reason::Addresses))
    }

    /// Parses as [`Tuple::parse`] does, into `out`: if a tuple is moved right after its fields were written, the
    /// processor stalls until all of them are stored.
    ///
    /// # Errors
    /// As [`Tuple::parse`]; `out` is not changed then.
    #[inline]
    pub(crate) fn read(attr: &Attr<'_>, out: &mut Option<Self>) -> Result<(), ParseError> {
        if !usual::read(attr.payload, out) {
            *out = Some(Self::walk(attr)?);
        }
        Ok(())
    }

    /// Parses any form: attributes in any order, with or without a zone.
    fn walk(attr: &Attr<'_>) -> Result<Self, ParseError> {
        let mut addresses = None;
        let mut proto = (0, L4::None);
        let mut zone = None;
        for inner in attr.nested() {
            let inner = inner?;
            match inner.kind {
                uapi::CTA_TUPLE_IP => addresses = parse_addresses(inner.nested())?,
                uapi::CTA_TUPLE_PROTO => proto = parse_proto(inner.nested())?,
                uapi::CTA_TUPLE_ZONE => zone = Some(inner.be16()?),
                _ => {}
            }
        }
        let (src, dst) = addresses.ok_or_else(|| attr.error(Reason::Addresses))?;
        Ok(Self { src, dst, proto: proto.0, l4: proto.1, zone })
    }

    /// Writes the nest that [`Tuple::parse`] reads, with the attribute type `kind`.
    ///
    /// # Errors
    /// [`Full`] where the buffer has no room.
    pub fn write(&self, writer: &mut Writer<'_>, kind: u16) -> Result<(), Full> {
        writer.nest(kind, |tuple| {
            tuple.nest(uapi::CTA_TUPLE_IP, |ip| {
                write_address(ip, self.src, uapi::CTA_IP_V4_SRC, uapi::CTA_IP_V6_SRC)?;
                write_address(ip, self.dst, uapi::CTA_IP_V4_DST, uapi::CTA_IP_V6_DST)
            })?;
            tuple.nest(uapi::CTA_TUPLE_PROTO, |proto| self.write_proto(proto))?;
            tuple.be16_opt(uapi::CTA_TUPLE_ZONE, self.zone)
        })
    }

    /// Writes the attributes of CTA_TUPLE_PROTO.
    fn write_proto(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        writer.u8(uapi::CTA_PROTO_NUM, self.proto)?;
        match self.l4 {
            L4::None => Ok(()),
            L4::Ports { src, dst } => {
                writer.be16(uapi::CTA_PROTO_SRC_PORT, src)?;
                writer.be16(uapi::CTA_PROTO_DST_PORT, dst)
            }
            L4::Icmp { kind, code, id } => {
                let [kind_attr, code_attr, id_attr] = if self.proto == uapi::IPPROTO_ICMPV6 {
                    [uapi::CTA_PROTO_ICMPV6_TYPE, uapi::CTA_PROTO_ICMPV6_CODE, uapi::CTA_PROTO_ICMPV6_ID]
                } else {
                    [uapi::CTA_PROTO_ICMP_TYPE, uapi::CTA_PROTO_ICMP_CODE, uapi::CTA_PROTO_ICMP_ID]
                };
                writer.u8(kind_attr, kind)?;
                writer.u8(code_attr, code)?;
                writer.be16(id_attr, id)
            }
        }
    }
}

/// The usual form of a tuple, in which kernels write nearly every one: addresses, protocol, two ports, in this order
/// and nothing else. Its attribute headers are always the same bytes, so one comparison replaces eight steps of the
/// walk, which are a third of the cost of parsing an event. Any other form is left to the walk.
pub(crate) mod usual {
    use super::{IpAddr, Ipv4Addr, Ipv6Addr, L4, Tuple};
    use crate::attr::header;
    use crate::uapi::*;

    const IP_V4: [u8; 4] = header(20, CTA_TUPLE_IP | NLA_F_NESTED);
    const SRC_V4: [u8; 4] = header(8, CTA_IP_V4_SRC);
    const DST_V4: [u8; 4] = header(8, CTA_IP_V4_DST);
    const IP_V6: [u8; 4] = header(44, CTA_TUPLE_IP | NLA_F_NESTED);
    const SRC_V6: [u8; 4] = header(20, CTA_IP_V6_SRC);
    const DST_V6: [u8; 4] = header(20, CTA_IP_V6_DST);
    const PROTO: [u8; 4] = header(28, CTA_TUPLE_PROTO | NLA_F_NESTED);
    const NUM: [u8; 4] = header(5, CTA_PROTO_NUM);
    const SRC_PORT: [u8; 4] = header(6, CTA_PROTO_SRC_PORT);
    const DST_PORT: [u8; 4] = header(6, CTA_PROTO_DST_PORT);

    /// The number of 32-bit words of an IPv4 tuple in this form.
    pub(crate) const WORDS_V4: usize = 12;

    /// Reads the tuple into `out` if it has this form; returns whether it has.
    #[inline]
    pub(super) fn read(payload: &[u8], out: &mut Option<Tuple>) -> bool {
        let (words, []) = payload.as_chunks::<4>() else { return false };
        if let Ok(words) = words.try_into() {
            return read_v4(words, out);
        }
        if let Ok([ip, src, s0, s1, s2, s3, dst, d0, d1, d2, d3, rest @ ..]) = <&[[u8; 4]; 18]>::try_from(words)
            && (*ip, *src, *dst) == (IP_V6, SRC_V6, DST_V6)
            && let Some((proto, l4)) = l4(rest)
        {
            let (src, dst) = (v6([s0, s1, s2, s3]), v6([d0, d1, d2, d3]));
            *out = Some(Tuple { src, dst, proto, l4, zone: None });
            return true;
        }
        false
    }

    /// Reads an IPv4 tuple into `out` if it has this form; returns whether it has.
    #[inline]
    pub(crate) fn read_v4(words: &[[u8; 4]; WORDS_V4], out: &mut Option<Tuple>) -> bool {
        let [ip, src, src_value, dst, dst_value, rest @ ..] = words;
        // The headers are compared as whole words; patterns would compare them byte by byte.
        if (*ip, *src, *dst) == (IP_V4, SRC_V4, DST_V4)
            && let Some((proto, l4)) = l4(rest)
        {
            let (src, dst) = (IpAddr::V4(Ipv4Addr::from(*src_value)), IpAddr::V4(Ipv4Addr::from(*dst_value)));
            *out = Some(Tuple { src, dst, proto, l4, zone: None });
            return true;
        }
        false
    }

    /// The protocol and its ports, if the words have this form.
    #[inline]
    fn l4(words: &[[u8; 4]; 7]) -> Option<(u8, L4)> {
        let [nest, num, [proto, ..], src, [s0, s1, ..], dst, [d0, d1, ..]] = words;
        let l4 = L4::Ports { src: u16::from_be_bytes([*s0, *s1]), dst: u16::from_be_bytes([*d0, *d1]) };
        ((*nest, *num, *src, *dst) == (PROTO, NUM, SRC_PORT, DST_PORT)).then_some((*proto, l4))
    }

    /// The IPv6 address of four words.
    fn v6(words: [&[u8; 4]; 4]) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(
            words.iter().fold(0, |bits, word| bits << 32 | u128::from(u32::from_be_bytes(**word))),
        ))
    }
}

/// Writes an address, with the attribute type of its family.
fn write_address(writer: &mut Writer<'_>, address: IpAddr, v4: u16, v6: u16) -> Result<(), Full> {
    match address {
        IpAddr::V4(address) => writer.attr(v4, &address.octets()),
        IpAddr::V6(address) => writer.attr(v6, &address.octets()),
    }
}

/// Source and destination address; `None` where one is missing or the families differ.
#[inline]
fn parse_addresses(attrs: Attrs<'_>) -> Result<Option<(IpAddr, IpAddr)>, ParseError> {
    let (mut src, mut dst) = (None, None);
    for attr in attrs {
        let attr = attr?;
        match attr.kind {
            uapi::CTA_IP_V4_SRC => src = Some(IpAddr::V4(Ipv4Addr::from(attr.array::<4>()?))),
            uapi::CTA_IP_V4_DST => dst = Some(IpAddr::V4(Ipv4Addr::from(attr.array::<4>()?))),
            uapi::CTA_IP_V6_SRC => src = Some(IpAddr::V6(Ipv6Addr::from(attr.array::<16>()?))),
            uapi::CTA_IP_V6_DST => dst = Some(IpAddr::V6(Ipv6Addr::from(attr.array::<16>()?))),
            _ => {}
        }
    }
    Ok(src.zip(dst).filter(|(src, dst)| src.is_ipv4() == dst.is_ipv4()))
}

/// The protocol's number and its fields. A missing field counts as 0, which is how conntrack(8) prints it.
#[inline]
fn parse_proto(attrs: Attrs<'_>) -> Result<(u8, L4), ParseError> {
    let mut number = 0;
    let mut ports = None;
    let mut icmp = None;
    for attr in attrs {
        let attr = attr?;
        match attr.kind {
            uapi::CTA_PROTO_NUM => number = attr.u8()?,
            uapi::CTA_PROTO_SRC_PORT => ports.get_or_insert((0, 0)).0 = attr.be16()?,
            uapi::CTA_PROTO_DST_PORT => ports.get_or_insert((0, 0)).1 = attr.be16()?,
            uapi::CTA_PROTO_ICMP_TYPE | uapi::CTA_PROTO_ICMPV6_TYPE => icmp.get_or_insert((0, 0, 0)).0 = attr.u8()?,
            uapi::CTA_PROTO_ICMP_CODE | uapi::CTA_PROTO_ICMPV6_CODE => icmp.get_or_insert((0, 0, 0)).1 = attr.u8()?,
            uapi::CTA_PROTO_ICMP_ID | uapi::CTA_PROTO_ICMPV6_ID => icmp.get_or_insert((0, 0, 0)).2 = attr.be16()?,
            _ => {}
        }
    }
    let l4 = match (ports, icmp) {
        (Some((src, dst)), _) => L4::Ports { src, dst },
        (None, Some((kind, code, id))) => L4::Icmp { kind, code, id },
        (None, None) => L4::None,
    };
    Ok((number, l4))
}

/// The key of a flow, which identifies it: its original tuple and the zone of that direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The original direction; its own zone is in `zone` instead.
    pub orig: Tuple,
    /// The zone; 0 for none.
    pub zone: u16,
}

impl FlowKey {
    /// The zone for a request; `None` where the flow has no zone, as requests then omit it.
    #[must_use]
    pub fn named_zone(&self) -> Option<u16> {
        Some(self.zone).filter(|zone| *zone != 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::attr::only;

    proptest! {
        /// The reader of the usual form and the walk agree on tuples of that form, and on damaged ones.
        #[test]
        fn the_usual_form_reads_as_the_walk_reads_it(
            src in any::<[u8; 16]>(), v6: bool, ports in any::<(u16, u16)>(), at in 4usize..94, value: u8,
        ) {
            let src = if v6 { IpAddr::from(src) } else { IpAddr::from([src[0], src[1], src[2], src[3]]) };
            let l4 = L4::Ports { src: ports.0, dst: ports.1 };
            let tuple = Tuple { src, dst: src, proto: uapi::IPPROTO_UDP, l4, zone: None };
            let mut buffer = [0; 128];
            let mut writer = Writer::new(&mut buffer);
            tuple.write(&mut writer, uapi::CTA_TUPLE_ORIG).unwrap();
            let mut bytes = writer.bytes().to_vec();
            let usual = |bytes: &[u8]| {
                let mut read = None;
                let is_usual = usual::read(only(bytes).payload, &mut read);
                assert_eq!(is_usual, read.is_some());
                read
            };
            prop_assert_eq!(usual(&bytes), Some(tuple));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            if let Some(read) = usual(&bytes) {
                prop_assert_eq!(Tuple::walk(&only(&bytes)), Ok(read));
            }
        }
    }
}
