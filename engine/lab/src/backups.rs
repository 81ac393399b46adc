//! Hosts that a firewall only replicates to, for measurements. They never take over.
//!
//! ```text
//!   firewall (the calling thread)           backups
//!   203.0.113.1  sync0, a bridge ──┬── sync0  203.0.113.2
//!                                  └── sync0  203.0.113.3 …
//! ```
//!
//! Packets that cross the bridge are not tracked.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use super::error::LabError;
use super::gateways::{SYNC_LINK, clone_namespace, untracked_sync_rules};
use super::link::Links;
use super::{Host, Lab, sysctl};

/// The most backups that the addresses of the bridge's network suffice for.
pub const BACKUPS: usize = 200;

const PREFIX: u8 = 24;

/// The address on the bridge of host `number`: 0 is the firewall, 1 to [`BACKUPS`] are the backups. A larger number
/// returns the address of the last backup.
#[must_use]
pub fn sync_address(number: usize) -> IpAddr {
    let host = u8::try_from(number.min(BACKUPS) + 1).unwrap_or(u8::MAX);
    Ipv4Addr::new(203, 0, 113, host).into()
}

/// The backups in this module's diagram.
#[derive(Debug)]
pub struct Backups {
    /// The hosts, in the order of their addresses: the first has number 1.
    pub hosts: Vec<Host>,
}

impl Backups {
    /// Starts `count` backups, at most [`BACKUPS`], and connects them to the calling thread's network.
    ///
    /// # Errors
    /// [`LabError`] naming the first step that failed.
    pub fn build(lab: &Lab, count: usize) -> Result<Self, LabError> {
        let links = Links::open()?;
        links.create_bridge(SYNC_LINK)?;
        // Where the kernel calls iptables for bridged packets, each packet would pass through its rules needlessly.
        let _ = sysctl::write("net/bridge/bridge-nf-call-iptables", "0");
        links.up(SYNC_LINK)?;
        links.add_address(SYNC_LINK, sync_address(0), PREFIX)?;
        untracked_sync_rules().apply()?;
        let backup = |number: usize| {
            let (host, port) = (lab.start_host(&format!("backup{number}"))?, format!("sync0-{number}"));
            links.create_veth(&port, SYNC_LINK, clone_namespace(&host)?.as_fd())?;
            links.join_bridge(&port, SYNC_LINK)?;
            links.up(&port)?;
            host.run(move || {
                let links = Links::open()?;
                links.up(SYNC_LINK)?;
                links.add_address(SYNC_LINK, sync_address(number), PREFIX)
            })?;
            links.await_carrier(&port)?;
            Ok(host)
        };
        let hosts = (1..=count.min(BACKUPS)).map(backup).collect::<Result<_, LabError>>()?;
        if count > 0 {
            links.await_carrier(SYNC_LINK)?;
        }
        Ok(Self { hosts })
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::topology::Firewall;

    #[test]
    fn each_backup_receives_from_the_firewall_untracked() {
        crate::isolated!({
            let lab = Lab::enter().unwrap();
            let _firewall = Firewall::build(&lab).unwrap();
            let backups = Backups::build(&lab, 2).unwrap();
            let sender = UdpSocket::bind((sync_address(0), 0)).unwrap();
            for (host, number) in backups.hosts.iter().zip(1..) {
                let receiver = host.run(move || UdpSocket::bind((sync_address(number), 7_000)).unwrap());
                receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                sender.send_to(b"x", (sync_address(number), 7_000)).unwrap();
                assert_eq!(receiver.recv_from(&mut [0]).unwrap().1.ip(), sync_address(0));
            }
            assert_eq!(sysctl::flow_count().unwrap(), 0);
        });
    }
}
