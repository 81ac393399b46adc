//! Two firewalls that replicate: hosts of the lab, each with its own table, joined by one cable.
//!
//! ```text
//!   primary  203.0.113.1  sync0 ── sync0  203.0.113.2  backup
//! ```
//!
//! Packets that cross the cable are not tracked, so a table holds only the flows that a scenario puts into it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use ctflow_engine::kernel::request::Requester;
use ctflow_engine::netlink::nft::{Chain, Hook, Rule, Ruleset};
use ctflow_lab::gateways::{GatewayId, Gateways};
use ctflow_lab::link::Links;
use ctflow_lab::{Host, Lab, LabError, sysctl};
use ctflow_parser::request;
use ctflow_parser::uapi::AF_UNSPEC;

use crate::failure::Failure;
use crate::procfs;
use crate::wait::Deadline;

/// The name of the link at both ends of the cable.
pub(crate) const LINK: &str = "sync0";
const PREFIX: u8 = 24;
/// The interval at which the cable's byte counters are polled.
const TICK: Duration = Duration::from_millis(100);
/// The cable is quiet when at most this many bytes crossed it during [`QUIET`].
const QUIET_BYTES: u64 = 32 * 1024;
/// The time without more than [`QUIET_BYTES`]. Keepalives of idle daemons take some hundred bytes a second.
const QUIET: Duration = Duration::from_secs(1);
/// How long the cable may take to become quiet. A daemon resyncs with its kernel some seconds after an overrun,
/// conntrackd after 30.
const QUIET_LONGEST: Duration = Duration::from_secs(180);
/// How long a flushed table may take to become empty.
const FLUSH_LONGEST: Duration = Duration::from_secs(20);

/// One of the two firewalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The firewall with the flows.
    Primary,
    /// The firewall with the replicas.
    Backup,
}

impl Side {
    /// The side's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        }
    }

    /// The other side.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Primary => Self::Backup,
            Self::Backup => Self::Primary,
        }
    }

    /// The side's address on the cable.
    pub(crate) fn address(self) -> Ipv4Addr {
        match self {
            Self::Primary => Ipv4Addr::new(203, 0, 113, 1),
            Self::Backup => Ipv4Addr::new(203, 0, 113, 2),
        }
    }
}

/// The network in this module's diagram. It disappears when the value is dropped and its processes have ended.
#[derive(Debug)]
pub(crate) struct Pair {
    hosts: Hosts,
}

/// The hosts of a pair.
#[derive(Debug)]
enum Hosts {
    /// Two hosts joined by the cable, without any other network.
    Alone { primary: Host, backup: Host },
    /// The firewalls between a client and a server.
    Gateways(Box<Gateways>),
}

impl Pair {
    /// Builds two hosts joined by a cable. The calling thread must be in a network of the lab already, or must be the
    /// process's only thread.
    ///
    /// # Errors
    /// When namespaces are not available.
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

    /// The pair of a network's firewalls; the first is the primary. Their cable has the same link name and addresses.
    pub(crate) fn of_gateways(gateways: Gateways) -> Self {
        Self { hosts: Hosts::Gateways(Box::new(gateways)) }
    }

    /// The network of the firewalls.
    ///
    /// # Errors
    /// When the pair was not made by [`Pair::of_gateways`].
    pub(crate) fn gateways(&self) -> Result<&Gateways, Failure> {
        match &self.hosts {
            Hosts::Gateways(gateways) => Ok(gateways),
            Hosts::Alone { .. } => Err(Failure::Unreadable("the network of a pair that has none".to_owned())),
        }
    }

    /// The host of one side.
    pub(crate) fn host(&self, side: Side) -> &Host {
        match (&self.hosts, side) {
            (Hosts::Alone { primary, .. }, Side::Primary) => primary,
            (Hosts::Alone { backup, .. }, Side::Backup) => backup,
            (Hosts::Gateways(gateways), Side::Primary) => gateways.firewall(GatewayId::First),
            (Hosts::Gateways(gateways), Side::Backup) => gateways.firewall(GatewayId::Second),
        }
    }

    /// Sets whether the primary's kernel adds timestamps to events. By default it does not.
    ///
    /// # Errors
    /// When the setting cannot be written.
    pub(crate) fn set_event_timestamps(&self, stamped: bool) -> Result<(), Failure> {
        let value = if stamped { "1" } else { "0" };
        Ok(self.host(Side::Primary).run(move || sysctl::write("net/netfilter/nf_conntrack_timestamp", value))?)
    }

    /// Flushes the table of one side, and waits until it is empty.
    ///
    /// # Errors
    /// When the kernel refuses the request, or the table does not become empty in time.
    pub(crate) fn flush(&self, side: Side) -> Result<(), Failure> {
        self.host(side).run(|| {
            let mut requester = Requester::open()?;
            requester.request("flush the table", |writer, seq| request::flush(writer, seq, AF_UNSPEC), |_| ())?;
            let deadline = Deadline::new("the table to be empty", FLUSH_LONGEST);
            deadline.poll(Duration::from_millis(5), || Ok(sysctl::flow_count()? == 0))
        })
    }

    /// The number of flows in the kernel's table of one side.
    ///
    /// # Errors
    /// When the kernel has no connection tracking.
    pub(crate) fn flows(&self, side: Side) -> Result<u64, Failure> {
        Ok(self.host(side).run(sysctl::flow_count)?)
    }

    /// Makes both sides drop one of `packets` packets that arrive over the cable, at random, until [`Pair::stop_loss`].
    ///
    /// # Errors
    /// When the kernel refuses the rule.
    pub(crate) fn start_loss(&self, packets: NonZeroU32) -> Result<(), Failure> {
        self.run_on_both(move || Ok(loss_rules(packets).apply()?))
    }

    /// Stops the loss of packets.
    ///
    /// # Errors
    /// When the kernel refuses the change.
    pub(crate) fn stop_loss(&self) -> Result<(), Failure> {
        self.run_on_both(|| Ok(loss_rules(NonZeroU32::MIN).remove()?))
    }

    /// Switches the primary's end of the cable on or off.
    ///
    /// # Errors
    /// When the kernel refuses the change.
    pub(crate) fn set_link_up(&self, up: bool) -> Result<(), Failure> {
        let switch = move || {
            let links = Links::open()?;
            if up { links.up(LINK) } else { links.down(LINK) }
        };
        Ok(self.host(Side::Primary).run(switch)?)
    }

    /// The bytes that the primary has sent and received over the cable so far, including headers.
    ///
    /// # Errors
    /// When `/proc` cannot be read or parsed.
    pub(crate) fn wire_bytes(&self) -> Result<WireBytes, Failure> {
        const PATH: &str = "/proc/thread-self/net/dev";
        let text = self
            .host(Side::Primary)
            .run(|| fs::read_to_string(PATH))
            .map_err(Failure::system(format!("read {PATH}")))?;
        let bytes = procfs::link_bytes(&text, LINK).ok_or_else(|| Failure::Unreadable(PATH.to_owned()))?;
        Ok(WireBytes { received: bytes.0, sent: bytes.1 })
    }

    /// Waits until only keepalives cross the cable, and returns when it became quiet.
    ///
    /// # Errors
    /// When the cable does not become quiet in time.
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

    /// Runs `work` on the primary, then on the backup.
    fn run_on_both(&self, work: impl Fn() -> Result<(), LabError> + Copy + Send + 'static) -> Result<(), Failure> {
        self.host(Side::Primary).run(work)?;
        Ok(self.host(Side::Backup).run(work)?)
    }
}

/// The bytes that have crossed the cable, as counted by the primary's link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WireBytes {
    /// Bytes from the backup.
    pub(crate) received: u64,
    /// Bytes to the backup.
    pub(crate) sent: u64,
}

impl WireBytes {
    /// The bytes of both directions.
    fn total(self) -> u64 {
        self.received + self.sent
    }
}

/// The rules that drop one of `one_of` packets that arrive over the cable.
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
        ctflow_lab::isolated!({
            let pair = Pair::build().unwrap();
            let there = pair.host(Side::Backup).run(|| UdpSocket::bind((Side::Backup.address(), 7000))).unwrap();
            let here = pair.host(Side::Primary).run(|| UdpSocket::bind((Side::Primary.address(), 0))).unwrap();
            let crosses_within = |timeout| {
                there.set_read_timeout(Some(timeout)).unwrap();
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
            // The kernel may take a second to detect the carrier.
            Deadline::new("a datagram", Duration::from_secs(5)).poll(TICK, || Ok(crosses_within(short))).unwrap();
            let wire = pair.wire_bytes().unwrap();
            assert!(wire.sent >= 4 * 43, "{wire:?}: four datagrams of one byte, with headers");
            pair.await_quiet().unwrap();
        });
    }
}
