//! The canonical form of a flow without rare attributes, encoded from its compact form without a view: the case of
//! nearly every change.

use ctflow_parser::compact::{Address, Flow, has_ports};
use ctflow_parser::uapi;

use super::flow::{bit, mirror_numbers, put_status, put_zones};
use crate::cursor::Put;

/// The longest encoded compact flow in bytes, that of IPv6: bits, id, protocol; both ends of both directions; status,
/// timeout, state, TCP's fields, mark, zones.
const BYTES_MAX: usize = 7 + 2 * (2 * 16 + 4) + 4 + 5 + 1 + 3 + 4 + 4;

/// Appends the canonical form of `flow`, which has no attributes besides its compact form, to `out`: the same bytes as
/// [`encode_flow`](super::encode_flow) writes for its view.
pub fn encode_compact<A: Address>(flow: &Flow<A>, out: &mut Vec<u8>) {
    let mut entry = EntryBuffer { bytes: [0; BYTES_MAX], length: 2 }; // the bits, known at the end
    entry.put_u32(flow.id);
    entry.put_u8(flow.proto);
    let bits = put_ends(flow, &mut entry) | put_state(flow, &mut entry) | put_zones(flow.zones(), &mut entry);
    entry.bytes[..2].copy_from_slice(&bits.to_be_bytes());
    out.put_slice(entry.bytes.get(..entry.length).unwrap_or_default());
}

/// A canonical form while it is written, in a buffer of fixed size, so that `out` is grown once and not for each field.
struct EntryBuffer {
    bytes: [u8; BYTES_MAX],
    length: usize,
}

impl Put for EntryBuffer {
    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        if let Some(field) = self.bytes.get_mut(self.length..self.length + bytes.len()) {
            field.copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }
}

/// Appends both ends of both directions; returns the bits of the fields written.
#[inline]
fn put_ends<A: Address>(flow: &Flow<A>, entry: &mut EntryBuffer) -> u16 {
    let (orig, reply) = (flow.orig(), flow.reply());
    entry.put_slice(orig.src.octets());
    entry.put_slice(orig.dst.octets());
    let with_ports = has_ports(flow.proto);
    let mut bits = 0;
    if with_ports {
        bits |= bit::PORTS;
        entry.put_u16(orig.src_port);
        entry.put_u16(orig.dst_port);
    }
    for (address, mirrored, bit) in [(&reply.src, &orig.dst, bit::REPLY_SRC), (&reply.dst, &orig.src, bit::REPLY_DST)] {
        if address != mirrored {
            bits |= bit;
            entry.put_slice(address.octets());
        }
    }
    if with_ports {
        let (first, second) = mirror_numbers(flow.proto, (orig.src_port, orig.dst_port));
        for (number, mirrored, bit) in
            [(reply.src_port, first, bit::REPLY_FIRST), (reply.dst_port, second, bit::REPLY_SECOND)]
        {
            if number != mirrored {
                bits |= bit;
                entry.put_u16(number);
            }
        }
    }
    bits
}

/// Appends status, timeout, TCP's fields and mark; returns the bits of the fields written.
#[inline]
fn put_state<A: Address>(flow: &Flow<A>, entry: &mut EntryBuffer) -> u16 {
    let mut bits = put_status(flow.status, entry);
    entry.put_varint(flow.timeout.into());
    if flow.proto == uapi::IPPROTO_TCP {
        if flow.state != 0 {
            bits |= bit::STATE;
            entry.put_u8(flow.state);
        }
        if let Some(tcp) = flow.tcp() {
            bits |= bit::TCP;
            entry.put_slice(&tcp);
        }
    }
    if flow.mark != 0 {
        bits |= bit::MARK;
        entry.put_u32(flow.mark);
    }
    bits
}
