//! The IPv4 packets of a script, encoded for a raw socket. The kernel fills in the IP header's checksum and id.

use std::net::Ipv4Addr;

use ctflow_parser::uapi::{IPPROTO_TCP, IPPROTO_UDP};

const IP_BYTES: usize = 20;
const TCP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
/// The longest payload of a packet.
pub(super) const PAYLOAD_BYTES: usize = 96;
/// The length of the longest packet.
pub(super) const PACKET_BYTES: usize = IP_BYTES + TCP_BYTES + PAYLOAD_BYTES;

const VERSION_AND_LENGTH: u8 = 0x45;
const TTL: u8 = 64;
/// The data offset field of a TCP header without options: 5 words of 32 bits, in the high four bits.
const TCP_LENGTH: u8 = 0x50;
const TCP_WINDOW: u16 = 64_240;

/// The source and destination of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
}

impl Endpoints {
    /// The endpoints of a packet in the other direction.
    pub(super) fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port }
    }
}

/// The parts of a packet other than its endpoints. All payloads are zeros.
#[derive(Debug, Clone, Copy)]
pub(super) enum Segment {
    /// A UDP datagram with `payload` bytes.
    Udp { payload: usize },
    /// A TCP segment with `payload` bytes.
    Tcp { flags: u8, seq: u32, ack: u32, payload: usize },
}

/// The buffer of one packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    bytes: [u8; PACKET_BYTES],
    length: usize,
}

impl Packet {
    pub(super) const EMPTY: Self = Self { bytes: [0; PACKET_BYTES], length: 0 };

    /// Overwrites the buffer with the packet of `segment` between `ends`.
    pub(super) fn write(&mut self, segment: Segment, ends: &Endpoints) {
        let (proto, length) = match segment {
            Segment::Udp { payload } => (IPPROTO_UDP, UDP_BYTES + payload),
            Segment::Tcp { payload, .. } => (IPPROTO_TCP, TCP_BYTES + payload),
        };
        self.length = (IP_BYTES + length).min(PACKET_BYTES);
        self.bytes = [0; PACKET_BYTES];
        self.write_at(0, [VERSION_AND_LENGTH]);
        self.write_at(2, be16(self.length));
        self.write_at(8, [TTL, proto]);
        self.write_at(12, ends.src.octets());
        self.write_at(16, ends.dst.octets());
        self.write_at(20, ends.src_port.to_be_bytes());
        self.write_at(22, ends.dst_port.to_be_bytes());
        match segment {
            Segment::Udp { .. } => self.write_at(24, be16(length)), // UDP's checksum stays 0, which means none
            Segment::Tcp { flags, seq, ack, .. } => {
                self.write_at(24, seq.to_be_bytes());
                self.write_at(28, ack.to_be_bytes());
                self.write_at(32, [TCP_LENGTH, flags]);
                self.write_at(34, TCP_WINDOW.to_be_bytes());
                self.write_at(36, self.tcp_checksum(length).to_be_bytes());
            }
        }
    }

    /// The bytes of the packet.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Writes `value` at byte `at`.
    fn write_at<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        if let Some(range) = self.bytes.get_mut(at..at + N) {
            range.copy_from_slice(&value);
        }
    }

    /// The checksum of RFC 9293, 3.1: over the addresses, the protocol, the length, the header and the payload. The
    /// payload adds nothing, since it is zeros.
    fn tcp_checksum(&self, length: usize) -> u16 {
        let words = self.bytes.get(12..IP_BYTES + TCP_BYTES).unwrap_or_default().as_chunks::<2>().0;
        let words: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
        let sum = words + u32::from(IPPROTO_TCP) + u32::from(u16::from_be_bytes(be16(length)));
        let folded = (sum & 0xffff) + (sum >> 16);
        !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
    }
}

fn be16(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcp_packet_sums_up_to_what_its_receiver_expects() {
        let ends =
            Endpoints { src: [198, 19, 0, 1].into(), dst: [198, 18, 255, 2].into(), src_port: 65_535, dst_port: 443 };
        let mut packet = Packet::EMPTY;
        packet.write(Segment::Tcp { flags: 0x18, seq: u32::MAX, ack: 77, payload: 31 }, &ends);
        assert_eq!(packet.bytes().len(), 71);
        let pseudo = [&packet.bytes()[12..20], &[0, IPPROTO_TCP, 0, 51], &packet.bytes()[20..], &[0]].concat();
        let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
