//! The two ends of a tuple: source and destination addresses of one family, and the ports, keys or ICMP fields of the
//! protocols that have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ctflow_parser::compact::has_ports;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

use super::NotEncodable;
use crate::cursor::{Malformed, Put, Reader};

/// Appends the source and destination addresses of a tuple.
pub(super) fn put_addresses(tuple: &Tuple, out: &mut Vec<u8>) -> Result<(), NotEncodable> {
    match (tuple.src, tuple.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            out.put_slice(&src.octets());
            out.put_slice(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            out.put_slice(&src.octets());
            out.put_slice(&dst.octets());
        }
        _ => return Err(NotEncodable("addresses of two families")),
    }
    Ok(())
}

/// Appends an address.
pub(super) fn put_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => out.put_slice(&address.octets()),
        IpAddr::V6(address) => out.put_slice(&address.octets()),
    }
}

/// Reads an address of `family`.
pub(super) fn read_address(family: u8, reader: &mut Reader<'_>) -> Result<IpAddr, Malformed> {
    match family {
        uapi::AF_INET => reader.array().map(|octets: [u8; 4]| Ipv4Addr::from(octets).into()),
        uapi::AF_INET6 => reader.array().map(|octets: [u8; 16]| Ipv6Addr::from(octets).into()),
        _ => Err(reader.malformed()),
    }
}

/// Reads the source and destination addresses of a tuple of `family`.
pub(super) fn read_addresses(family: u8, reader: &mut Reader<'_>) -> Result<(IpAddr, IpAddr), Malformed> {
    Ok((read_address(family, reader)?, read_address(family, reader)?))
}

/// The layer-4 fields that identify a tuple, as two numbers: ports, keys, or ICMP id and type with code.
pub(super) fn l4_numbers(tuple: &Tuple) -> Result<Option<(u16, u16)>, NotEncodable> {
    match tuple.l4 {
        L4::None => Ok(None),
        L4::Ports { src, dst } if !is_icmp(tuple.proto) => Ok(Some((src, dst))),
        L4::Icmp { kind, code, id } if is_icmp(tuple.proto) => Ok(Some((id, u16::from_be_bytes([kind, code])))),
        _ => Err(NotEncodable("ports and ICMP mixed")),
    }
}

/// The layer-4 fields of a tuple of protocol `proto` with these two numbers: the reverse of [`l4_numbers`].
pub(super) fn l4_of_numbers(proto: u8, ports: Option<(u16, u16)>) -> L4 {
    match ports {
        None => L4::None,
        Some((id, kind_code)) if is_icmp(proto) => {
            let [kind, code] = kind_code.to_be_bytes();
            L4::Icmp { kind, code, id }
        }
        Some((src, dst)) => L4::Ports { src, dst },
    }
}

/// Whether `proto` is ICMP or ICMPv6.
pub(super) fn is_icmp(proto: u8) -> bool {
    matches!(proto, uapi::IPPROTO_ICMP | uapi::IPPROTO_ICMPV6)
}

/// Appends both ends of a tuple, always with ports: they are 0 for a protocol that has none.
pub(super) fn put_tuple(tuple: &Tuple, family: u8, out: &mut Vec<u8>) -> Result<(), NotEncodable> {
    if tuple.family() != family {
        return Err(NotEncodable("tuples of two families"));
    }
    put_addresses(tuple, out)?;
    let (src, dst) = l4_numbers(tuple)?.unwrap_or((0, 0));
    out.put_u16(src);
    out.put_u16(dst);
    Ok(())
}

/// Reads a tuple that [`put_tuple`] wrote.
pub(super) fn read_tuple(family: u8, proto: u8, reader: &mut Reader<'_>) -> Result<Tuple, Malformed> {
    let (src, dst) = read_addresses(family, reader)?;
    let ports = (reader.u16()?, reader.u16()?);
    let has_ports = ports != (0, 0) || has_ports(proto);
    Ok(Tuple { src, dst, proto, l4: l4_of_numbers(proto, has_ports.then_some(ports)), zone: None })
}
