//! Changes of links, addresses, routes and neighbours, by rtnetlink.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use ctflow_parser::uapi::{
    AF_INET, AF_INET6, AF_UNSPEC, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
};
use ctflow_parser::write::{Full, Writer};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::error::LabError;
use ctflow_engine::netlink::rtnetlink::*;
use ctflow_engine::netlink::{NetlinkError, Requests};
use ctflow_engine::sys::netlink::Protocol;

/// The buffer of one request. The longest request, for a pair of links, takes some 150 bytes.
const REQUEST_BYTES: usize = 512;
/// How long a carrier is awaited. From Linux 6.8 on, a query makes the kernel process pending link events; older
/// kernels process them within a second. Both may have to wait for the kernel's lock on links.
const CARRIER_LONGEST: Duration = Duration::from_secs(10);
/// The interval at which a link without a carrier is polled.
const CARRIER_TICK: Duration = Duration::from_millis(5);

/// A socket for changes to the links of one network namespace: that of the thread that opened it.
#[derive(Debug)]
pub struct Links {
    requests: Requests,
}

impl Links {
    /// Opens the socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`LabError::Netlink`] when the kernel or a seccomp filter allows no such socket.
    pub fn open() -> Result<Self, LabError> {
        Ok(Self { requests: Requests::open(Protocol::Route)? })
    }

    /// Creates a cable (a veth pair): its end here is named `name`, its end in the namespace `to` is named `peer`.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`], most often because the name exists already.
    pub fn create_veth(&self, name: &str, peer: &str, to: BorrowedFd<'_>) -> Result<(), LabError> {
        let namespace = to.as_raw_fd().to_ne_bytes();
        self.request(format!("create links {name} and {peer}"), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |message| {
            link_header(message, 0, 0)?;
            message.text(IFLA_IFNAME, name)?;
            message.nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "veth")?;
                info.nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |end| {
                        link_header(end, 0, 0)?;
                        end.text(IFLA_IFNAME, peer)?;
                        end.attr(IFLA_NET_NS_FD, &namespace)
                    })
                })
            })
        })
    }

    /// Creates a bridge.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`], also where the kernel has no bridges.
    pub fn create_bridge(&self, name: &str) -> Result<(), LabError> {
        self.request(format!("create bridge {name}"), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |message| {
            link_header(message, 0, 0)?;
            message.text(IFLA_IFNAME, name)?;
            message.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge"))
        })
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when the link does not exist; [`LabError::System`] when the bridge does not exist.
    pub fn join_bridge(&self, name: &str, bridge: &str) -> Result<(), LabError> {
        let index = self.index(bridge)?.to_ne_bytes();
        self.request(format!("make link {name} a port of {bridge}"), RTM_NEWLINK, 0, |message| {
            link_header(message, 0, 0)?;
            message.text(IFLA_IFNAME, name)?;
            message.attr(IFLA_MASTER, &index)
        })
    }

    /// Sets the hardware address of a link.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when there is no such link.
    pub fn set_hardware_address(&self, name: &str, hardware: [u8; 6]) -> Result<(), LabError> {
        self.request(format!("set the hardware address of link {name}"), RTM_NEWLINK, 0, |message| {
            link_header(message, 0, 0)?;
            message.text(IFLA_IFNAME, name)?;
            message.attr(IFLA_ADDRESS, &hardware)
        })
    }

    /// Switches a link on.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when there is no such link.
    pub fn up(&self, name: &str) -> Result<(), LabError> {
        self.request(format!("switch on link {name}"), RTM_NEWLINK, 0, |message| {
            link_header(message, IFF_UP, IFF_UP)?;
            message.text(IFLA_IFNAME, name)
        })
    }

    /// Waits until a link carries packets: both of its ends are on, and the kernel has noticed. The kernel notices
    /// asynchronously, up to a second later, and silently drops packets that are sent before.
    ///
    /// # Errors
    /// [`LabError::NoCarrier`] when an end stays off.
    pub fn await_carrier(&self, name: &str) -> Result<(), LabError> {
        let index = self.index(name)?;
        let started = Instant::now();
        while link_flags(self.requests.socket(), index).is_none_or(|flags| flags & IFF_RUNNING == 0) {
            if started.elapsed() > CARRIER_LONGEST {
                return Err(LabError::NoCarrier { link: name.to_owned(), waited: CARRIER_LONGEST });
            }
            thread::sleep(CARRIER_TICK);
        }
        Ok(())
    }

    /// Switches a link off. The kernel removes the routes over it and keeps its addresses.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when there is no such link.
    pub fn down(&self, name: &str) -> Result<(), LabError> {
        self.request(format!("switch off link {name}"), RTM_NEWLINK, 0, |message| {
            link_header(message, 0, IFF_UP)?;
            message.text(IFLA_IFNAME, name)
        })
    }

    /// Adds an address to a link, usable at once: an IPv6 address skips duplicate detection, which takes a second.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when the link has it already.
    pub fn add_address(&self, link: &str, address: IpAddr, prefix: u8) -> Result<(), LabError> {
        let operation = format!("add address {address}/{prefix} to link {link}");
        self.change_address(operation, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, (link, address, prefix))
    }

    /// Removes an address from a link.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when the link does not have it.
    pub fn remove_address(&self, link: &str, address: IpAddr, prefix: u8) -> Result<(), LabError> {
        let operation = format!("take address {address}/{prefix} from link {link}");
        self.change_address(operation, RTM_DELADDR, 0, (link, address, prefix))
    }

    /// Adds or removes an address, according to the message type `kind`.
    fn change_address(
        &self,
        operation: String,
        kind: u16,
        flags: u16,
        (link, address, prefix): (&str, IpAddr, u8),
    ) -> Result<(), LabError> {
        let index = self.index(link)?;
        self.request(operation, kind, flags, |message| {
            let [a, b, c, d] = index.to_ne_bytes();
            message.raw(&[family(address), prefix, IFA_F_NODAD, RT_SCOPE_UNIVERSE, a, b, c, d])?;
            address_attr(message, IFA_LOCAL, address)?;
            address_attr(message, IFA_ADDRESS, address)
        })
    }

    /// Adds the route to `network`/`prefix` via `gateway`. A prefix of 0 makes it the default route.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when no link reaches the gateway.
    pub fn add_route(&self, network: IpAddr, prefix: u8, gateway: IpAddr) -> Result<(), LabError> {
        let operation = format!("add route to {network}/{prefix} via {gateway}");
        self.request(operation, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, |message| {
            let family = family(gateway);
            message.raw(&[family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST])?;
            message.raw(&0u32.to_ne_bytes())?;
            if prefix > 0 {
                address_attr(message, RTA_DST, network)?;
            }
            address_attr(message, RTA_GATEWAY, gateway)
        })
    }

    /// Adds a permanent neighbour entry: packets to `address` on this link go to the hardware address `hardware`, and
    /// the kernel sends no ARP request or neighbour solicitation for it.
    ///
    /// # Errors
    /// [`LabError::System`] when there is no such link.
    pub fn add_neighbour(&self, link: &str, address: IpAddr, hardware: [u8; 6]) -> Result<(), LabError> {
        let index = self.index(link)?;
        let operation = format!("add neighbour {address} to link {link}");
        self.request(operation, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, |message| {
            message.raw(&[family(address), 0, 0, 0])?;
            message.raw(&index.to_ne_bytes())?;
            let [low, high] = NUD_PERMANENT.to_ne_bytes();
            message.raw(&[low, high, 0, 0])?;
            address_attr(message, NDA_DST, address)?;
            message.attr(NDA_LLADDR, &hardware)
        })
    }

    /// Sends one request and waits for its acknowledgement. `operation` is a verb phrase for errors.
    fn request(
        &self,
        operation: String,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>,
    ) -> Result<(), LabError> {
        let mut buffer = [0; REQUEST_BYTES];
        let mut writer = Writer::new(&mut buffer);
        writer
            .message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, body)
            .map_err(NetlinkError::too_large(&operation))?;
        let operations = [operation];
        Ok(self.requests.perform(writer.bytes(), &operations, &operations[0])?)
    }

    /// Returns the interface index of a link.
    fn index(&self, link: &str) -> Result<u32, LabError> {
        let failed = |error| LabError::system(format!("find link {link}"), error);
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
        name_to_index(socket, link).map_err(failed)
    }
}

/// Writes the `ifinfomsg` of a link that is selected by its name. The flags in `changed` are set if they are also in
/// `flags`, and cleared otherwise; all other flags of the link stay.
fn link_header(message: &mut Writer<'_>, flags: u32, changed: u32) -> Result<(), Full> {
    message.raw(&[AF_UNSPEC, 0, 0, 0])?;
    message.raw(&0u32.to_ne_bytes())?;
    message.raw(&flags.to_ne_bytes())?;
    message.raw(&changed.to_ne_bytes())
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn address_attr(message: &mut Writer<'_>, kind: u16, address: IpAddr) -> Result<(), Full> {
    match address {
        IpAddr::V4(address) => message.attr(kind, &address.octets()),
        IpAddr::V6(address) => message.attr(kind, &address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lab;

    #[test]
    fn a_refused_route_is_reported_with_the_kernels_words() {
        crate::isolated!({
            let _lab = Lab::enter().unwrap();
            let links = Links::open().unwrap();
            let error = links.add_route([192, 0, 2, 0].into(), 24, [198, 51, 100, 1].into()).unwrap_err().to_string();
            assert_eq!(
                error,
                "kernel refused to add route to 192.0.2.0/24 via 198.51.100.1: \
                 Network is unreachable: Nexthop has invalid gateway"
            );
        });
    }

    #[test]
    fn a_link_that_is_down_carries_nothing_until_it_is_up_again() {
        crate::isolated!({
            let lab = Lab::enter().unwrap();
            let other = lab.start_host("other").unwrap();
            let links = Links::open().unwrap();
            links.create_veth("here", "there", other.namespace()).unwrap();
            links.up("here").unwrap();
            links.add_address("here", [192, 0, 2, 1].into(), 24).unwrap();
            let socket = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
            let send = || socket.send_to(b"x", "192.0.2.2:7000").map_err(|error| error.kind());
            send().unwrap();
            links.down("here").unwrap();
            assert_eq!(send(), Err(std::io::ErrorKind::NetworkUnreachable));
            links.up("here").unwrap();
            send().unwrap();
        });
    }

    #[test]
    fn nothing_is_lost_once_a_link_has_its_carrier() {
        const HARDWARE: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
        crate::isolated!({
            let lab = Lab::enter().unwrap();
            let other = lab.start_host("other").unwrap();
            let links = Links::open().unwrap();
            links.create_veth("here", "there", other.namespace()).unwrap();
            links.add_address("here", [192, 0, 2, 1].into(), 24).unwrap();
            let there = other.run(|| {
                let links = Links::open().unwrap();
                links.set_hardware_address("there", HARDWARE).unwrap();
                links.add_address("there", [192, 0, 2, 2].into(), 24).unwrap();
                std::net::UdpSocket::bind("192.0.2.2:7000").unwrap()
            });
            there.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let here = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
            // The far end is always switched on last, so that this end has to wait until the kernel notices.
            for sent in 0..200u8 {
                links.up("here").unwrap();
                other.run(|| Links::open().unwrap().up("there").unwrap());
                links.await_carrier("here").unwrap();
                // Without the entry the kernel would queue the datagram until its second ARP request is answered.
                links.add_neighbour("here", [192, 0, 2, 2].into(), HARDWARE).unwrap();
                here.send_to(&[sent], "192.0.2.2:7000").unwrap();
                let mut received = [0];
                there.recv(&mut received).unwrap();
                assert_eq!(received, [sent]);
                other.run(|| Links::open().unwrap().down("there").unwrap());
                links.down("here").unwrap();
            }
        });
    }

    #[test]
    fn a_missing_link_is_named() {
        crate::isolated!({
            let _lab = Lab::enter().unwrap();
            let error = Links::open().unwrap().add_address("wan9", [192, 0, 2, 1].into(), 24).unwrap_err();
            assert_eq!(error.to_string(), "cannot find link wan9: No such device");
        });
    }
}
