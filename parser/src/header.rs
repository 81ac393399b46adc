//! The header of a netlink message.

use zerocopy::byteorder::native_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `struct nlmsghdr` of netlink.h, in the machine's byte order.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NlMsgHdr {
    /// The length of the message in bytes, including this header.
    pub length: U32,
    /// Message type: netlink's own below 0x10, else netfilter's subsystem in the high byte.
    pub kind: U16,
    /// `NLM_F_*`.
    pub flags: U16,
    /// The request's sequence number; 0 in events that packets and timers cause.
    pub seq: U32,
    /// In an answer, the receiver's port id; in an event, the port id of the process whose request caused it, or 0.
    pub port_id: U32,
}

/// The length of the header, in bytes.
pub(crate) const HEADER_BYTES: usize = size_of::<NlMsgHdr>();
const _: () = assert!(HEADER_BYTES == 16);
