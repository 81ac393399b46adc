//! Whether an address is this host's, and whether it has left the host.
//!
//! The kernel destroys flows that are masqueraded behind an address when the address is removed or its link is set down
//! (`nf_nat_masquerade`). This happens on failback, when a firewall gives up its addresses. Such flows have not ended:
//! they have moved with the address to the other firewall, and peers must keep them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;

use ctflow_parser::attr::Attrs;
use ctflow_parser::uapi::{AF_INET, AF_INET6, NLM_F_DUMP, NLM_F_REQUEST};
use ctflow_parser::write::Writer;

use crate::limits::{LOCAL_ADDRESSES, LOCAL_QUERY_INTERVAL};
use crate::netlink::rtnetlink::{IFA_ADDRESS, IFA_LOCAL, IFF_UP, RTM_GETADDR, RTM_NEWADDR, link_flags, query, u32_at};
use crate::sys::netlink::{NetlinkSocket, Protocol};

// Offsets in a message of `nlmsghdr` and `ifaddrmsg`.
const ADDRESS_LINK: Range<usize> = 20..24;
const ADDRESS_ATTRIBUTES: usize = 24;

/// Queries the kernel for addresses, and remembers which were this host's.
#[derive(Debug, Default)]
pub(crate) struct LocalAddresses {
    socket: Option<NetlinkSocket>,
    /// For each address that was queried: whether it was local then, and when it was queried.
    known: HashMap<IpAddr, (bool, Instant)>,
    /// The address that was observed last, if it was local.
    last_local: Option<IpAddr>,
    /// The last address that was checked since [`LocalAddresses::recheck_left`], and whether it has left.
    left_checked: Option<(IpAddr, bool)>,
}

impl LocalAddresses {
    /// Notes that a flow is masqueraded behind `address`, and queries the kernel for it where that is not known.
    pub(crate) fn observe(&mut self, address: IpAddr) {
        if self.last_local == Some(address) {
            return;
        }
        // An address that was not local may have been added since; one that was local counts as such from then on.
        let fresh = |(local, queried): &&(bool, Instant)| *local || queried.elapsed() < LOCAL_QUERY_INTERVAL;
        let local = match self.known.get(&address).filter(fresh) {
            Some((local, _)) => *local,
            None => self.query_and_remember(address),
        };
        self.last_local = local.then_some(address);
    }

    /// Queries the kernel whether `address` is local, and remembers the answer.
    fn query_and_remember(&mut self, address: IpAddr) -> bool {
        if self.known.len() >= LOCAL_ADDRESSES {
            self.known.clear(); // addresses in use are queried again with their next flow
        }
        let local = self.query_is_local(address).unwrap_or(false);
        self.known.insert(address, (local, Instant::now()));
        local
    }

    /// Makes [`LocalAddresses::has_left`] query the kernel again.
    pub(crate) fn recheck_left(&mut self) {
        self.left_checked = None;
    }

    /// Whether `address` was this host's and was removed since, or its link is down. False where the kernel does not
    /// answer, and for an address that was never on a link, such as one of a pool that is routed to this host.
    pub(crate) fn has_left(&mut self, address: IpAddr) -> bool {
        if !self.known.get(&address).is_some_and(|(local, _)| *local) {
            return false;
        }
        if let Some((_, left)) = self.left_checked.filter(|(checked, _)| *checked == address) {
            return left;
        }
        let left = !self.query_is_local(address).unwrap_or(true);
        self.left_checked = Some((address, left));
        left
    }

    /// Whether `address` is on a link of this host that is up; `None` where the kernel does not answer.
    fn query_is_local(&mut self, address: IpAddr) -> Option<bool> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(NetlinkSocket::open(Protocol::Route).ok()?),
        };
        let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
        let mut link = None;
        let addresses = |message: &mut Writer<'_>| message.raw(&[family, 0, 0, 0, 0, 0, 0, 0]);
        query(socket, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, addresses, |kind, message| {
            if kind == RTM_NEWADDR && address_of(message) == Some(address) {
                link = u32_at(message, ADDRESS_LINK);
            }
        })?;
        let Some(link) = link else { return Some(false) };
        link_flags(socket, link).map(|flags| flags & IFF_UP != 0)
    }
}

/// The address in a message; of the two addresses of a point-to-point link, the local one.
fn address_of(message: &[u8]) -> Option<IpAddr> {
    let attributes = Attrs::new(message.get(ADDRESS_ATTRIBUTES..)?, ADDRESS_ATTRIBUTES);
    let mut address = None;
    for attr in attributes.flatten() {
        if attr.kind == IFA_LOCAL || attr.kind == IFA_ADDRESS && address.is_none() {
            address = match attr.payload.len() {
                4 => <[u8; 4]>::try_from(attr.payload).ok().map(IpAddr::from),
                _ => <[u8; 16]>::try_from(attr.payload).ok().map(IpAddr::from),
            };
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctflow_lab::{Lab, link::Links};

    #[test]
    fn an_address_has_left_when_no_link_that_is_up_has_it() {
        ctflow_lab::isolated!({
            let lab = Lab::enter().unwrap();
            let host = lab.start_host("other").unwrap();
            let links = Links::open().unwrap();
            links.create_veth("a", "b", host.namespace()).unwrap();
            links.up("a").unwrap();
            for address in ["192.0.2.1", "2001:db8::1"].map(|address| address.parse::<IpAddr>().unwrap()) {
                let prefix = if address.is_ipv4() { 24 } else { 64 };
                let mut local = LocalAddresses::default();
                local.observe(address);
                assert!(!local.has_left(address), "it was never local");
                assert_eq!(local.last_local, None, "it may still be added");
                links.add_address("a", address, prefix).unwrap();
                let mut local = LocalAddresses::default();
                local.observe(address);
                let mut has_left = || {
                    local.recheck_left();
                    local.has_left(address)
                };
                assert!(!has_left());
                links.down("a").unwrap();
                assert!(has_left());
                links.up("a").unwrap();
                // The kernel removes an IPv6 address when the link goes down, and keeps an IPv4 address.
                let _ = links.add_address("a", address, prefix);
                assert!(!has_left());
                links.remove_address("a", address, prefix).unwrap();
                assert!(has_left());
            }
        });
    }
}
