//! Kernel numbers of rtnetlink under their kernel names, in the order of their headers: [rtnetlink.h], [if_link.h],
//! [veth.h], [if_addr.h], [neighbour.h].
//!
//! [rtnetlink.h]: https://github.com/torvalds/linux/blob/v6.18/include/uapi/linux/rtnetlink.h
//! [if_link.h]: https://github.com/torvalds/linux/blob/v6.18/include/uapi/linux/if_link.h
//! [veth.h]: https://github.com/torvalds/linux/blob/v6.18/include/uapi/linux/veth.h
//! [if_addr.h]: https://github.com/torvalds/linux/blob/v6.18/include/uapi/linux/if_addr.h
//! [neighbour.h]: https://github.com/torvalds/linux/blob/v6.18/include/uapi/linux/neighbour.h

// rtnetlink.h
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTN_UNICAST: u8 = 1;
pub(crate) const RTPROT_STATIC: u8 = 4;
pub(crate) const RT_SCOPE_UNIVERSE: u8 = 0;
pub(crate) const RT_TABLE_MAIN: u8 = 254;
pub(crate) const RTA_DST: u16 = 1;
pub(crate) const RTA_GATEWAY: u16 = 5;

// if_link.h, veth.h, if.h
pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
pub(crate) const VETH_INFO_PEER: u16 = 1;
pub(crate) const IFF_UP: u32 = 1;

// if_addr.h
pub(crate) const IFA_ADDRESS: u16 = 1;
pub(crate) const IFA_LOCAL: u16 = 2;
pub(crate) const IFA_F_NODAD: u8 = 2;

// neighbour.h
pub(crate) const NDA_DST: u16 = 1;
pub(crate) const NDA_LLADDR: u16 = 2;
pub(crate) const NUD_PERMANENT: u16 = 0x80;
