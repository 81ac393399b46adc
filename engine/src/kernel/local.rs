//! Whether an address is this host's.
//!
//! The kernel ends flows that were masqueraded behind an address when the address leaves, or its link is switched off
//! (`nf_nat_masquerade`), and so it does when a firewall steps back. Those flows have not ended: they have moved with the
//! address, and to peers they are still worth what they were.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;

use ctflow_parser::attr::Attrs;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::uapi::{AF_INET, AF_INET6, AF_UNSPEC, NLM_F_DUMP, NLM_F_REQUEST};
use ctflow_parser::write::{Full, Writer};

use crate::limits::{LOCAL_ADDRESSES, LOCAL_ASKED_EVERY};
use crate::rtnetlink::{IFA_ADDRESS, IFA_LOCAL, IFF_UP, RTM_GETADDR, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK};
use crate::sys::netlink::{NetlinkSocket, Protocol};

/// Both requests take 32 bytes.
const REQUEST_BYTES: usize = 32;
/// As large as parts of a dump get.
const ANSWER_BYTES: usize = 32 * 1024;
// Where numbers stand in a message: in its header, in `ifaddrmsg` and in `ifinfomsg`.
const KIND: Range<usize> = 4..6;
const ADDRESS_LINK: Range<usize> = 20..24;
const ADDRESS_ATTRIBUTES: usize = 24;
const LINK_FLAGS: Range<usize> = 24..28;

/// Asks the kernel, and remembers which addresses were this host's.
#[derive(Debug, Default)]
pub(crate) struct LocalAddresses {
    socket: Option<NetlinkSocket>,
    /// Addresses that were asked for, with whether they were local then, and when that was.
    known: HashMap<IpAddr, (bool, Instant)>,
    /// The one of them that was seen last, if it was local.
    last: Option<IpAddr>,
    /// Those that have left, as far as was found since the last [`LocalAddresses::forget`].
    left: Option<(IpAddr, bool)>,
}

impl LocalAddresses {
    /// A flow is there that is hidden behind `address`.
    pub(crate) fn see(&mut self, address: IpAddr) {
        if self.last == Some(address) {
            return;
        }
        let fresh = |(local, asked): &&(bool, Instant)| *local || asked.elapsed() < LOCAL_ASKED_EVERY;
        let local = match self.known.get(&address).filter(fresh) {
            Some((local, _)) => *local,
            None => self.learn(address),
        };
        self.last = local.then_some(address);
    }

    fn learn(&mut self, address: IpAddr) -> bool {
        if self.known.len() >= LOCAL_ADDRESSES {
            self.known.clear(); // those that are in use come back at once
        }
        let local = self.ask(address).unwrap_or(false);
        self.known.insert(address, (local, Instant::now()));
        local
    }

    /// Asks anew from here on whether an address has left.
    pub(crate) fn forget(&mut self) {
        self.left = None;
    }

    /// Whether `address` was this host's and is no more, or its link is switched off; no, where the kernel does not say. What
    /// was never on a link, as a pool that is routed here, cannot leave.
    pub(crate) fn has_left(&mut self, address: IpAddr) -> bool {
        if !self.known.get(&address).is_some_and(|(local, _)| *local) {
            return false;
        }
        if let Some((_, left)) = self.left.filter(|(asked, _)| *asked == address) {
            return left;
        }
        let left = !self.ask(address).unwrap_or(true);
        self.left = Some((address, left));
        left
    }

    fn ask(&mut self, address: IpAddr) -> Option<bool> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(NetlinkSocket::open(Protocol::Route).ok()?),
        };
        let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
        let mut link = None;
        let addresses = |message: &mut Writer<'_>| message.raw(&[family, 0, 0, 0, 0, 0, 0, 0]);
        ask(socket, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, addresses, |kind, message| {
            if kind == RTM_NEWADDR && address_of(message) == Some(address) {
                link = number(message, ADDRESS_LINK);
            }
        })?;
        let Some(link) = link else { return Some(false) };
        let mut up = false;
        let this_link = |message: &mut Writer<'_>| {
            message.raw(&[AF_UNSPEC, 0, 0, 0])?;
            message.raw(&link.to_ne_bytes())?;
            message.raw(&[0; 8])
        };
        ask(socket, RTM_GETLINK, NLM_F_REQUEST, this_link, |kind, message| {
            up = kind == RTM_NEWLINK && number(message, LINK_FLAGS).is_some_and(|flags| flags & IFF_UP != 0);
        })?;
        Some(up)
    }
}

/// Asks one thing, and hands each message of the answer to `each`, with its kind. Nothing where the answer is none.
fn ask(
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
        let length = socket.receive(&mut answer).ok()?; // it was queued within the call
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

fn number(message: &[u8], place: Range<usize>) -> Option<u32> {
    Some(u32::from_ne_bytes(message.get(place)?.try_into().ok()?))
}

/// The address that a message is about; of the two that a point-to-point link has, the near one.
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
    use crate::lab::{Lab, link::Links};

    #[test]
    fn an_address_has_left_when_no_link_that_is_up_has_it_any_more() {
        crate::isolated!({
            let lab = Lab::enter().unwrap();
            let host = lab.host("other").unwrap();
            let links = Links::open().unwrap();
            links.veth("a", "b", host.namespace()).unwrap();
            links.up("a").unwrap();
            for address in ["192.0.2.1", "2001:db8::1"].map(|address| address.parse::<IpAddr>().unwrap()) {
                let prefix = if address.is_ipv4() { 24 } else { 64 };
                let mut local = LocalAddresses::default();
                local.see(address);
                assert!(!local.has_left(address), "it was never here");
                assert_eq!(local.last, None, "it may come yet");
                links.address("a", address, prefix).unwrap();
                let mut local = LocalAddresses::default();
                local.see(address);
                let mut has_left = || {
                    local.forget();
                    local.has_left(address)
                };
                assert!(!has_left());
                links.down("a").unwrap();
                assert!(has_left());
                links.up("a").unwrap();
                let _ = links.address("a", address, prefix); // one of IPv6 leaves with the link's going down
                assert!(!has_left());
                links.no_address("a", address, prefix).unwrap();
                assert!(has_left());
            }
        });
    }
}
