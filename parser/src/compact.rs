//! A compact flow, which outlives its datagram: the fields that a replica needs to continue it, in as few bytes as
//! possible.
//!
//! It is generic over the address, so that an IPv4 flow takes no room for IPv6 addresses:
//!
//! ```text
//!            orig src dst ports   reply src dst ports   mark status timeout id   zones   proto state wscales flags +
//! IPv4  52 B      4   4    4            4   4    4        4    4      4     4     2+2     1     1      1      2  1+2
//! IPv6 100 B     16  16    4           16  16    4        …
//! ```
//!
//! The last column is a byte (whether TCP's window scales and flags are known) and 2 bytes for the owner's use.
//!
//! An UPDATE event carries only the fields that changed, so it is merged into the compact flow ([`Flow::merge`]). The
//! rare attributes (labels, helper, security context, sequence adjustment, SYN proxy, master) are not part of a compact
//! flow; its owner stores them apart.

use core::fmt::Debug;
use core::hash::Hash;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::flow::{FlowView, RareAttributes};
use crate::proto::{ProtoInfo, TcpFlags, TcpInfo};
use crate::tuple::{FlowKey, L4, Tuple};
use crate::uapi;

/// An address of one family.
pub trait Address: Copy + Eq + Hash + Debug + Default + Send + 'static {
    /// `AF_INET` or `AF_INET6`.
    const FAMILY: u8;
    /// Converts an address; `None` where it is of the other family.
    fn from_ip(address: IpAddr) -> Option<Self>;
    /// Converts to an address of any family.
    fn to_ip(self) -> IpAddr;
    /// The bytes of the address, as on the wire.
    fn octets(&self) -> &[u8];
}

/// An IPv4 address, as on the wire.
pub type V4 = [u8; 4];
/// An IPv6 address, as on the wire.
pub type V6 = [u8; 16];

impl Address for V4 {
    const FAMILY: u8 = uapi::AF_INET;

    #[inline]
    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        }
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self))
    }

    #[inline]
    fn octets(&self) -> &[u8] {
        self
    }
}

impl Address for V6 {
    const FAMILY: u8 = uapi::AF_INET6;

    #[inline]
    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.octets()),
        }
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self))
    }

    #[inline]
    fn octets(&self) -> &[u8] {
        self
    }
}

/// One direction: its addresses, and its ports or keys if the protocol has any. For ICMP the source port is the id, and
/// the destination port is type and code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Endpoints<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl<A: Address> Endpoints<A> {
    /// The compact form of a tuple; `None` where it is of the other family.
    #[inline]
    fn of(tuple: &Tuple) -> Option<Self> {
        let (src_port, dst_port) = match tuple.l4 {
            L4::None => (0, 0),
            L4::Ports { src, dst } => (src, dst),
            L4::Icmp { kind, code, id } => (id, u16::from_be_bytes([kind, code])),
        };
        Some(Self { src: A::from_ip(tuple.src)?, dst: A::from_ip(tuple.dst)?, src_port, dst_port })
    }

    /// The tuple of this direction, without a zone.
    fn tuple(&self, proto: u8) -> Tuple {
        let l4 = match proto {
            uapi::IPPROTO_ICMP | uapi::IPPROTO_ICMPV6 => {
                let [kind, code] = self.dst_port.to_be_bytes();
                L4::Icmp { kind, code, id: self.src_port }
            }
            _ if has_ports(proto) => L4::Ports { src: self.src_port, dst: self.dst_port },
            _ => L4::None,
        };
        Tuple { src: self.src.to_ip(), dst: self.dst.to_ip(), proto, l4, zone: None }
    }
}

/// Whether flows of a protocol have ports, keys or ICMP fields. Flows of a protocol without a tracker have none. For
/// the others, 0 is a valid port or key.
#[inline]
#[must_use]
pub fn has_ports(proto: u8) -> bool {
    matches!(
        proto,
        uapi::IPPROTO_ICMP
            | uapi::IPPROTO_ICMPV6
            | uapi::IPPROTO_TCP
            | uapi::IPPROTO_UDP
            | uapi::IPPROTO_UDPLITE
            | uapi::IPPROTO_SCTP
            | uapi::IPPROTO_DCCP
            | uapi::IPPROTO_GRE
    )
}

/// The compact key of a flow: the original direction, protocol and zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key<A> {
    orig: Endpoints<A>,
    zone: u16,
    proto: u8,
}

impl<A: Address> Key<A> {
    /// The compact form of a key; `None` where it is of the other family.
    #[inline]
    #[must_use]
    pub fn of(key: &FlowKey) -> Option<Self> {
        Some(Self { orig: Endpoints::of(&key.orig)?, zone: key.zone, proto: key.orig.proto })
    }

    /// The key of the flow in `view`; `None` where the original tuple is missing or of the other family.
    #[inline]
    #[must_use]
    pub fn of_view(view: &FlowView<'_>) -> Option<Self> {
        let orig = view.orig.as_ref()?;
        Some(Self { orig: Endpoints::of(orig)?, zone: orig.zone.or(view.zone).unwrap_or(0), proto: orig.proto })
    }
}

/// Replaces `stored` by `value` where that is `Some`; returns whether it changed.
#[inline]
fn update_if_some<T: PartialEq>(stored: &mut T, value: Option<T>) -> bool {
    let Some(value) = value else { return false };
    let changed = *stored != value;
    *stored = value;
    changed
}

/// One compact flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Flow<A> {
    orig: Endpoints<A>,
    reply: Endpoints<A>,
    /// The connection mark.
    pub mark: u32,
    /// `IPS_*`.
    pub status: u32,
    /// Seconds until the flow expires, counted from the last event.
    pub timeout: u32,
    /// The kernel's id of the flow.
    pub id: u32,
    zone: u16,
    zone_reply: u16,
    /// Layer-4 protocol number.
    pub proto: u8,
    /// The tracker's state; 0 where the protocol has none.
    pub state: u8,
    /// TCP's window scales, with the original direction in the high half.
    wscales: u8,
    flags_orig: u8,
    flags_reply: u8,
    /// Whether TCP's window scales and flags are known.
    tcp_known: bool,
    /// Two bytes for the owner's use, where padding would be. They have no meaning here.
    pub owner_bytes: [u8; 2],
}

const _: () = assert!(size_of::<Flow<V4>>() == 52);
const _: () = assert!(size_of::<Flow<V6>>() == 100);

impl<A: Address> Flow<A> {
    /// A new flow; `None` where the view does not have both tuples, or is of the other family.
    #[inline]
    #[must_use]
    pub fn new(view: &FlowView<'_>) -> Option<Self> {
        let FlowView {
            family: _, // that of the addresses
            orig,
            reply,
            status,
            timeout,
            mark,
            id,
            zone,
            proto,
            use_count: _, // of this kernel's memory only
            secmark: _,   // no kernel accepts it from a request
            // Every kernel counts what it forwards itself.
            counters_orig: _,
            counters_reply: _,
            // Times of this kernel; the owner keeps its own.
            start_ns: _,
            stop_ns: _,
            event_ns: _,
            rare: _, // the owner stores them apart
        } = view;
        let (orig, reply) = (orig.as_ref()?, reply.as_ref()?);
        let mut flow = Self {
            orig: Endpoints::of(orig)?,
            reply: Endpoints::of(reply)?,
            mark: mark.unwrap_or(0),
            status: status.unwrap_or(0),
            timeout: timeout.unwrap_or(0),
            id: id.unwrap_or(0),
            zone: orig.zone.or(*zone).unwrap_or(0),
            zone_reply: reply.zone.or(*zone).unwrap_or(0),
            proto: orig.proto,
            ..Self::default()
        };
        if let Some(proto) = proto {
            flow.merge_proto(proto);
        }
        Some(flow)
    }

    /// Replaces the fields that the view has, and keeps the others; returns whether anything changed.
    #[inline]
    pub fn merge(&mut self, view: &FlowView<'_>) -> bool {
        let FlowView {
            // Parts of the key.
            family: _,
            orig: _,
            zone: _,
            reply,
            status,
            timeout,
            mark,
            id,
            proto,
            // Not kept, for the reasons in `new`.
            use_count: _,
            secmark: _,
            counters_orig: _,
            counters_reply: _,
            start_ns: _,
            stop_ns: _,
            event_ns: _,
            rare: _, // the owner stores them apart
        } = view;
        let reply = reply.as_ref().and_then(Endpoints::of);
        // `|` and not `||`: every field must be updated, whether an earlier one changed or not.
        update_if_some(&mut self.mark, *mark)
            | update_if_some(&mut self.status, *status)
            | update_if_some(&mut self.timeout, *timeout)
            | update_if_some(&mut self.id, *id)
            | update_if_some(&mut self.reply, reply)
            | proto.as_ref().is_some_and(|proto| self.merge_proto(proto))
    }

    /// Replaces the fields of the tracker's state that `proto` has; returns whether anything changed.
    #[inline]
    fn merge_proto(&mut self, proto: &ProtoInfo) -> bool {
        let changed = update_if_some(&mut self.state, proto.state());
        let ProtoInfo::Tcp(tcp) = proto else { return changed };
        let wscales = tcp.wscale_orig.zip(tcp.wscale_reply).map(|(orig, reply)| orig << 4 | reply & 0x0f);
        let flags = tcp.flags_orig.zip(tcp.flags_reply);
        changed
            | update_if_some(&mut self.wscales, wscales)
            | update_if_some(&mut self.flags_orig, flags.map(|(orig, _)| orig.flags))
            | update_if_some(&mut self.flags_reply, flags.map(|(_, reply)| reply.flags))
            | update_if_some(&mut self.tcp_known, flags.map(|_| true))
    }

    /// Whether the flow has this key.
    #[inline]
    #[must_use]
    pub fn has_key(&self, key: &Key<A>) -> bool {
        self.orig == key.orig && self.zone == key.zone && self.proto == key.proto
    }

    /// The original direction.
    #[inline]
    #[must_use]
    pub fn orig(&self) -> &Endpoints<A> {
        &self.orig
    }

    /// The reply direction.
    #[inline]
    #[must_use]
    pub fn reply(&self) -> &Endpoints<A> {
        &self.reply
    }

    /// The zones of the original and the reply direction; 0 for none.
    #[inline]
    #[must_use]
    pub fn zones(&self) -> (u16, u16) {
        (self.zone, self.zone_reply)
    }

    /// TCP's window scales (original direction in the high half), and the flags of the original and the reply
    /// direction; `None` where they are not known.
    #[inline]
    #[must_use]
    pub fn tcp(&self) -> Option<[u8; 3]> {
        self.tcp_known.then_some([self.wscales, self.flags_orig, self.flags_reply])
    }

    /// The flow's key.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        FlowKey { orig: self.orig.tuple(self.proto), zone: self.zone }
    }

    /// The flow as a view.
    #[must_use]
    pub fn view(&self) -> FlowView<'static> {
        let one_zone = self.zone == self.zone_reply;
        let direction_zone = |zone: u16| (!one_zone && zone != 0).then_some(zone);
        let orig = Tuple { zone: direction_zone(self.zone), ..self.orig.tuple(self.proto) };
        let reply = Tuple { zone: direction_zone(self.zone_reply), ..self.reply.tuple(self.proto) };
        FlowView {
            family: A::FAMILY,
            orig: Some(orig),
            reply: Some(reply),
            status: Some(self.status),
            timeout: Some(self.timeout),
            mark: Some(self.mark),
            id: Some(self.id),
            zone: (one_zone && self.zone != 0).then_some(self.zone),
            proto: self.proto_info(),
            use_count: None,
            secmark: None,
            counters_orig: None,
            counters_reply: None,
            start_ns: None,
            stop_ns: None,
            event_ns: None,
            rare: RareAttributes::default(), // the owner adds them
        }
    }

    /// The tracker's state; `None` for other protocols than TCP, of which the compact flow keeps the state number only.
    fn proto_info(&self) -> Option<ProtoInfo> {
        match self.proto {
            uapi::IPPROTO_TCP => {
                let known = |flags| self.tcp_known.then_some(TcpFlags { flags, mask: 0 });
                Some(ProtoInfo::Tcp(TcpInfo {
                    state: Some(self.state),
                    wscale_orig: self.tcp_known.then_some(self.wscales >> 4),
                    wscale_reply: self.tcp_known.then_some(self.wscales & 0x0f),
                    flags_orig: known(self.flags_orig),
                    flags_reply: known(self.flags_reply),
                }))
            }
            _ => None,
        }
    }
}
