//! Queries to rtnetlink, and its numbers under their kernel names, in the order of their headers: [rtnetlink.h],
//! [if_link.h], [veth.h], [if.h], [if_addr.h], [neighbour.h].
//!
//! [rtnetlink.h]: https://github.com/torvalds/linux/blob/v6.18/include/uapi/linux/rtnetlink.h
//! [if_link.h]: https://github.com/torvalds/linux/blob/v6.18/include/uapi/linux/if_link.h
//! [veth.h]: https://github.com/torvalds/linux/blob/v6.18/include/uapi/linux/veth.h
//! [if.h]: https://github.com/torvalds/linux/blob/v6.18/include/uapi/linux/if.h
//! [if_addr.h]: https://github.com/torvalds/linux/blob/v6.18/include/uapi/linux/if_addr.h
//! [neighbour.h]: https://github.com/torvalds/linux/blob/v6.18/include/uapi/linux/neighbour.h
#![allow(missing_docs)] // the constants' names are the kernel's; its headers document them

use std::ops::Range;

use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::uapi::{AF_UNSPEC, NLM_F_DUMP, NLM_F_REQUEST};
use ctflow_parser::write::{Full, Writer};

use crate::sys::netlink::NetlinkSocket;

// rtnetlink.h
pub const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_GETLINK: u16 = 18;
pub const RTM_NEWADDR: u16 = 20;
pub const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub const RTM_NEWROUTE: u16 = 24;
pub const RTM_NEWNEIGH: u16 = 28;
pub const RTN_UNICAST: u8 = 1;
pub const RTPROT_STATIC: u8 = 4;
pub const RT_SCOPE_UNIVERSE: u8 = 0;
pub const RT_TABLE_MAIN: u8 = 254;
pub const RTA_DST: u16 = 1;
pub const RTA_GATEWAY: u16 = 5;

// if_link.h, veth.h, if.h
pub const IFLA_ADDRESS: u16 = 1;
pub const IFLA_IFNAME: u16 = 3;
pub const IFLA_MASTER: u16 = 10;
pub const IFLA_LINKINFO: u16 = 18;
pub const IFLA_NET_NS_FD: u16 = 28;
pub const IFLA_INFO_KIND: u16 = 1;
pub const IFLA_INFO_DATA: u16 = 2;
pub const VETH_INFO_PEER: u16 = 1;
pub const IFF_UP: u32 = 1;
/// The link is operational: it has a carrier, and its queues have been started.
pub const IFF_RUNNING: u32 = 0x40;

// if_addr.h
pub const IFA_ADDRESS: u16 = 1;
pub const IFA_LOCAL: u16 = 2;
pub const IFA_F_NODAD: u8 = 2;

// neighbour.h
pub const NDA_DST: u16 = 1;
pub const NDA_LLADDR: u16 = 2;
pub const NUD_PERMANENT: u16 = 0x80;

/// The length of the longest request, which is that for a link.
const REQUEST_BYTES: usize = 32;
/// The length of the largest part of a dump.
const ANSWER_BYTES: usize = 32 * 1024;
// Offsets in a message: in `nlmsghdr`, and in `ifinfomsg`.
const KIND: Range<usize> = 4..6;
const LINK_FLAGS: Range<usize> = 24..28;

/// The flags (`IFF_…`) of the link with this index, 0 where no such link exists; `None` where the kernel does not
/// answer.
///
/// The answer reflects the current carrier: the kernel processes pending carrier changes before (`linkwatch_sync_dev`
/// in `rtnl_getlink`, since 6.8).
pub fn link_flags(socket: &NetlinkSocket, index: u32) -> Option<u32> {
    let mut flags = 0;
    let this_link = |message: &mut Writer<'_>| {
        message.raw(&[AF_UNSPEC, 0, 0, 0])?;
        message.raw(&index.to_ne_bytes())?;
        message.raw(&[0; 8])
    };
    query(socket, RTM_GETLINK, NLM_F_REQUEST, this_link, |kind, message| {
        flags = u32_at(message, LINK_FLAGS).filter(|_| kind == RTM_NEWLINK).unwrap_or_default();
    })?;
    Some(flags)
}

/// Sends one query, and calls `each` with the type and the bytes of each message of the answer. `None` where the kernel
/// does not answer, or the answer does not parse.
pub fn query(
    socket: &NetlinkSocket,
    kind: u16,
    flags: u16,
    body: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>,
    mut each: impl FnMut(u16, &[u8]),
) -> Option<()> {
    let mut request = [0; REQUEST_BYTES];
    let mut writer = Writer::new(&mut request);
    writer.message(kind, flags, 1, body).ok()?;
    socket.send(writer.bytes()).ok()?;
    let mut answer = vec![0; ANSWER_BYTES];
    loop {
        let length = socket.receive(&mut answer).ok()?; // the kernel queues the answer within `send`
        for message in Messages::new(answer.get(..length)?) {
            match message.ok()? {
                Message::Record(record) => {
                    let kind = record.bytes().get(KIND)?.try_into().ok()?;
                    each(u16::from_ne_bytes(kind), record.bytes());
                }
                Message::Done { .. } | Message::Ack(_) => return Some(()),
                Message::Other => {}
            }
        }
        if flags & NLM_F_DUMP == 0 {
            return Some(());
        }
    }
}

/// The number in host byte order at `range` of a message; `None` where the message is shorter.
pub(crate) fn u32_at(message: &[u8], range: Range<usize>) -> Option<u32> {
    Some(u32::from_ne_bytes(message.get(range)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::Protocol;
    use ctflow_lab::Lab;

    #[test]
    fn a_missing_link_is_not_up() {
        ctflow_lab::isolated!({
            let _lab = Lab::enter().unwrap();
            let socket = NetlinkSocket::open(Protocol::Route).unwrap();
            assert_eq!(link_flags(&socket, 1).unwrap() & IFF_UP, IFF_UP, "the loopback link");
            assert_eq!(link_flags(&socket, 1_000), Some(0));
        });
    }
}
