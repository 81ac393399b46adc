//! Two firewalls that replicate: hosts of the lab, each with a table of its own, joined by one cable.
//!
//! ```text
//!   primary  203.0.113.1  sync0 ── sync0  203.0.113.2  backup
//! ```
//!
//! Nothing tracks what crosses the cable, so the tables hold what is put into them and nothing else.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use ctflow_engine::kernel::request::Requester;
use ctflow_engine::lab::gateways::{GatewayId, Gateways};
use ctflow_engine::lab::link::Links;
use ctflow_engine::lab::{Host, Lab, LabError, sysctl};
use ctflow_engine::nft::{Chain, Hook, Rule, Ruleset};
use ctflow_parser::request;
use ctflow_parser::uapi::AF_UNSPEC;

use crate::failure::Failure;
use crate::procfs;
use crate::wait::Deadline;

/// Both ends of the cable are called so.
pub(crate) const LINK: &str = "sync0";
const PREFIX: u8 = 24;
/// How often the cable is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Nothing is under way any more when so little crossed the cable…
const QUIET_BYTES: u64 = 32 * 1024;
/// … in so long: keeping in touch takes some hundred bytes a second.
const QUIET: Duration = Duration::from_secs(1);
/// A daemon that overran compares its cache with the kernel's table after some seconds; conntrackd after 30.
const QUIET_LONGEST: Duration = Duration::from_secs(180);
const FLUSH_LONGEST: Duration = Duration::from_secs(20);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Has the flows.
    Primary,
    /// Has replicas of them.
    Backup,
}

impl Side {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        }
    }

    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Primary => Self::Backup,
            Self::Backup => Self::Primary,
        }
    }

    /// Its address on the cable.
    pub(crate) fn address(self) -> Ipv4Addr {
        match self {
            Self::Primary => Ipv4Addr::new(203, 0, 113, 1),
            Self::Backup => Ipv4Addr::new(203, 0, 113, 2),
        }
    }
}

/// The network of this module's picture. It is gone with the value and the processes in it.
#[derive(Debug)]
pub(crate) struct Pair {
    hosts: Hosts,
}

/// Whose the hosts are.
#[derive(Debug)]
enum Hosts {
    /// There is nothing but the cable.
    Alone { primary: Host, backup: Host },
    /// They are firewalls between a client and a server.
    Gateways(Box<Gateways>),
}

impl Pair {
    /// Builds it. The calling thread must be on a network of the lab already, or be the process's only one.
    ///
    /// # Errors
    /// When namespaces are not to be had.
    pub(crate) fn build() -> Result<Self, Failure> {
        let lab = Lab::enter()?;
        let (primary, backup) = (lab.start_host(Side::Primary.name())?, lab.start_host(Side::Backup.name())?);
        let pair = Self { hosts: Hosts::Alone { primary, backup } };
        let backup = pair.host(Side::Backup);
        let far = backup.namespace().try_clone_to_owned().map_err(Failure::system("keep a namespace"))?;
        pair.host(Side::Primary).run(move || Links::open()?.create_veth(LINK, LINK, std::os::fd::AsFd::as_fd(&far)))?;
        for side in [Side::Primary, Side::Backup] {
            pair.host(side).run(move || {
                let links = Links::open()?;
                links.up(LINK)?;
                links.add_address(LINK, IpAddr::V4(side.address()), PREFIX)
            })?;
        }
        pair.host(Side::Primary).run(|| Links::open()?.await_carrier(LINK))?;
        Ok(pair)
    }

    /// The firewalls of a network with connections through it; the first is the primary. Their cable is of the same name,
    /// with the same addresses.
    pub(crate) fn of_gateways(gateways: Gateways) -> Self {
        Self { hosts: Hosts::Gateways(Box::new(gateways)) }
    }

    /// The network whose firewalls they are.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn gateways(&self) -> Result<&Gateways, Failure> {
        match &self.hosts {
            Hosts::Gateways(gateways) => Ok(gateways),
            Hosts::Alone { .. } => Err(Failure::Unreadable("a network of which there is none".to_owned())),
        }
    }

    /// One of the hosts.
    pub(crate) fn host(&self, side: Side) -> &Host {
        match (&self.hosts, side) {
            (Hosts::Alone { primary, .. }, Side::Primary) => primary,
            (Hosts::Alone { backup, .. }, Side::Backup) => backup,
            (Hosts::Gateways(gateways), Side::Primary) => gateways.firewall(GatewayId::First),
            (Hosts::Gateways(gateways), Side::Backup) => gateways.firewall(GatewayId::Second),
        }
    }

    /// Has the primary's kernel stamp its events, or not, as is usual.
    ///
    /// # Errors
    /// When the setting cannot be written.
    pub(crate) fn set_event_timestamps(&self, stamped: bool) -> Result<(), Failure> {
        let value = if stamped { "1" } else { "0" };
        Ok(self.host(Side::Primary).run(move || sysctl::write("net/netfilter/nf_conntrack_timestamp", value))?)
    }

    /// Empties the table of one of them.
    ///
    /// # Errors
    /// The kernel's refusal; or it does not get empty.
    pub(crate) fn flush(&self, side: Side) -> Result<(), Failure> {
        self.host(side).run(|| {
            let mut requester = Requester::open()?;
            requester.request("flush the table", |writer, seq| request::flush(writer, seq, AF_UNSPEC), |_| ())?;
            let deadline = Deadline::new("the table to be empty", FLUSH_LONGEST);
            deadline.poll(Duration::from_millis(5), || Ok(sysctl::flow_count()? == 0))
        })
    }

    /// Flows in the table of one of them.
    ///
    /// # Errors
    /// When the kernel has no connection tracking.
    pub(crate) fn flows(&self, side: Side) -> Result<u64, Failure> {
        Ok(self.host(side).run(sysctl::flow_count)?)
    }

    /// Has both drop one packet of so many that come by the cable, by chance, until [`Pair::stop_loss`].
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn start_loss(&self, packets: NonZeroU32) -> Result<(), Failure> {
        self.run_on_both(move || Ok(loss_rules(packets).apply()?))
    }

    /// Ends the loss.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn stop_loss(&self) -> Result<(), Failure> {
        self.run_on_both(|| Ok(loss_rules(NonZeroU32::MIN).remove()?))
    }

    /// Switches the primary's end of the cable off, or on again.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn set_link_up(&self, connected: bool) -> Result<(), Failure> {
        let switch = move || {
            let links = Links::open()?;
            if connected { links.up(LINK) } else { links.down(LINK) }
        };
        Ok(self.host(Side::Primary).run(switch)?)
    }

    /// Bytes that the primary has sent and received over the cable so far, headers included.
    ///
    /// # Errors
    /// Without `/proc`.
    pub(crate) fn wire_bytes(&self) -> Result<WireBytes, Failure> {
        const PATH: &str = "/proc/thread-self/net/dev";
        let text = self
            .host(Side::Primary)
            .run(|| fs::read_to_string(PATH))
            .map_err(Failure::system(format!("read {PATH}")))?;
        let bytes = procfs::link_bytes(&text, LINK).ok_or_else(|| Failure::Unreadable(PATH.to_owned()))?;
        Ok(WireBytes { received: bytes.0, sent: bytes.1 })
    }

    /// Waits until both only keep in touch, and returns when the last of all else had crossed.
    ///
    /// # Errors
    /// When they do not come to rest.
    pub(crate) fn await_quiet(&self) -> Result<Instant, Failure> {
        let deadline = Deadline::new("the link to be quiet", QUIET_LONGEST);
        let (mut bytes, mut since) = (self.wire_bytes()?.total(), Instant::now());
        deadline.poll(TICK, || {
            let now = self.wire_bytes()?.total();
            if now - bytes > QUIET_BYTES {
                (bytes, since) = (now, Instant::now());
            }
            Ok(since.elapsed() >= QUIET)
        })?;
        Ok(since)
    }

    fn run_on_both(&self, work: impl Fn() -> Result<(), LabError> + Copy + Send + 'static) -> Result<(), Failure> {
        self.host(Side::Primary).run(work)?;
        Ok(self.host(Side::Backup).run(work)?)
    }
}

/// What has crossed the cable, seen from the primary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WireBytes {
    /// Bytes from the backup.
    pub(crate) received: u64,
    /// Bytes to the backup.
    pub(crate) sent: u64,
}

impl WireBytes {
    fn total(self) -> u64 {
        self.received + self.sent
    }
}

fn loss_rules(one_of: NonZeroU32) -> Ruleset {
    let rule = Rule::new().input(LINK).one_in(one_of).drop();
    Ruleset::new("ctflow-perf-loss").chain(Chain::filter("input", Hook::Input).rule(rule))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn datagrams_cross_unless_they_are_lost_or_the_link_is_down() {
        ctflow_engine::isolated!({
            let pair = Pair::build().unwrap();
            let there = pair.host(Side::Backup).run(|| UdpSocket::bind((Side::Backup.address(), 7000))).unwrap();
            let here = pair.host(Side::Primary).run(|| UdpSocket::bind((Side::Primary.address(), 0))).unwrap();
            let crosses_within = |longest| {
                there.set_read_timeout(Some(longest)).unwrap();
                let _ = here.send_to(b"x", (Side::Backup.address(), 7000));
                there.recv(&mut [0]).is_ok()
            };
            let (long, short) = (Duration::from_secs(10), Duration::from_millis(200));
            assert!(crosses_within(long));
            pair.start_loss(NonZeroU32::MIN).unwrap();
            assert!(!crosses_within(short));
            pair.stop_loss().unwrap();
            assert!(crosses_within(long));
            pair.set_link_up(false).unwrap();
            assert!(!crosses_within(short));
            pair.set_link_up(true).unwrap();
            // The kernel takes up to a second to notice the carrier.
            Deadline::new("a datagram", Duration::from_secs(5)).poll(TICK, || Ok(crosses_within(short))).unwrap();
            let wire = pair.wire_bytes().unwrap();
            assert!(wire.sent >= 4 * 43, "{wire:?}: four datagrams of a byte behind their headers");
            pair.await_quiet().unwrap();
        });
    }
}
