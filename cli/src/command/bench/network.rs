//! The network that a benchmark runs in: a private firewall with backups, or this host.

use ctflow_engine::kernel::request::Requester;
use ctflow_lab::backups::Backups;
use ctflow_lab::load::{self, Kind};
use ctflow_lab::topology::Firewall;
use ctflow_lab::{Host, Lab, sysctl};
use ctflow_parser::request;
use ctflow_parser::uapi::AF_UNSPEC;

use crate::failure::Failure;
use crate::flags::plan::Bench;

/// The share of the kernel's table that flows may fill, in percent. The rest is for flows that are about to end.
const TABLE_PERCENT: u64 = 90;

/// The benchmark's network. The calling thread is on the firewall, or on the host.
pub(super) enum Network {
    /// A private network, which ends with the process.
    Lab { firewall: Box<Firewall>, backups: Backups },
    /// This machine's own network.
    Host,
}

impl Network {
    /// Builds the network.
    ///
    /// # Errors
    /// Namespaces are forbidden, or a part of the network cannot be built.
    pub(super) fn build(plan: &Bench) -> Result<Self, Failure> {
        if plan.host {
            return Ok(Self::Host);
        }
        let lab = Lab::enter()?; // before any other thread: without root a process needs to have only one
        let firewall = Box::new(Firewall::build(&lab)?);
        load::prepare_firewall(&firewall)?;
        let network = Self::Lab { firewall, backups: Backups::build(&lab, plan.replicas)? };
        // The kernel's defaults: counters and time stamps in events would add the same cost to every depth.
        sysctl::write("net/netfilter/nf_conntrack_acct", "0")?;
        network.set_timestamps(false)?;
        Ok(network)
    }

    /// Returns the firewall that packets cross; `None` on the host.
    pub(super) fn firewall(&self) -> Option<&Firewall> {
        match self {
            Self::Lab { firewall, .. } => Some(firewall),
            Self::Host => None,
        }
    }

    /// Returns the hosts for replicas.
    pub(super) fn backups(&self) -> &[Host] {
        match self {
            Self::Lab { backups, .. } => &backups.hosts,
            Self::Host => &[],
        }
    }

    /// Switches the kernel's time stamps in events on or off. On the host the setting stays unchanged.
    ///
    /// # Errors
    /// The setting cannot be written.
    pub(super) fn set_timestamps(&self, enabled: bool) -> Result<(), Failure> {
        match self {
            Self::Lab { .. } => {
                Ok(sysctl::write("net/netfilter/nf_conntrack_timestamp", if enabled { "1" } else { "0" })?)
            }
            Self::Host => Ok(()),
        }
    }

    /// Empties the tables of the private network. The host's table is not touched.
    ///
    /// # Errors
    /// The kernel refused.
    pub(super) fn flush(&self) -> Result<(), Failure> {
        let Self::Lab { backups, .. } = self else { return Ok(()) };
        flush()?;
        backups.hosts.iter().try_for_each(|host| host.run(flush))
    }

    /// Returns how many of the requested flows fit the table, and, if not all do, a note with the remedy.
    ///
    /// # Errors
    /// The limit or the number of flows cannot be read.
    pub(super) fn fit_flows(&self, plan: &Bench) -> Result<(u32, Option<String>), Failure> {
        let max = sysctl::read("net/netfilter/nf_conntrack_max")?;
        let existing = if plan.host { sysctl::flow_count()? } else { 0 };
        // With `dns` the questions of the last fifth of a second are in the table, too.
        let percent = if plan.load == Kind::Dns { TABLE_PERCENT / 2 } else { TABLE_PERCENT };
        let room = u32::try_from(max.saturating_sub(existing) * percent / 100).unwrap_or(u32::MAX);
        if plan.flows <= room {
            return Ok((plan.flows, None));
        }
        let raised = (u64::from(plan.flows) * 100).div_ceil(percent) + existing;
        let note = format!(
            "{room} flows instead of {}: nf_conntrack_max is {max}; sysctl -w net.netfilter.nf_conntrack_max={raised}",
            plan.flows
        );
        Ok((room, Some(note)))
    }
}

/// Empties the conntrack table of the calling thread's network.
///
/// # Errors
/// The kernel refused.
fn flush() -> Result<(), Failure> {
    let mut requester = Requester::open()?;
    Ok(requester.request("flush the table", |writer, seq| request::flush(writer, seq, AF_UNSPEC), |_| ())?)
}
