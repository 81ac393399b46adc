//! Where a benchmark takes place: a firewall of its own with backups, or this host.

use ctflow_engine::kernel::request::Requester;
use ctflow_engine::lab::backups::Backups;
use ctflow_engine::lab::load::{self, Kind};
use ctflow_engine::lab::topology::Firewall;
use ctflow_engine::lab::{Host, Lab, sysctl};
use ctflow_parser::request;
use ctflow_parser::uapi::AF_UNSPEC;

use crate::failure::Failure;
use crate::flags::plan::Bench;

/// The part of the kernel's table that flows may take, in percent: the rest is for those that are about to end.
const TABLE_PERCENT: u64 = 90;

/// The place; the calling thread's network is the firewall, or the host.
pub(super) enum Network {
    /// Gone with the process.
    Lab { firewall: Box<Firewall>, backups: Backups },
    /// This machine's own network.
    Host,
}

impl Network {
    /// Builds it.
    ///
    /// # Errors
    /// Where namespaces are forbidden, or what on this host needs root.
    pub(super) fn build(plan: &Bench) -> Result<Self, Failure> {
        if plan.host {
            return Ok(Self::Host);
        }
        let lab = Lab::enter()?; // before any thread: without root it is granted to a process that has one
        let firewall = Box::new(Firewall::build(&lab)?);
        load::prepare_firewall(&firewall)?;
        let network = Self::Lab { firewall, backups: Backups::build(&lab, plan.replicas)? };
        // As a kernel is that nobody has set: what events say besides costs everybody alike.
        sysctl::write("net/netfilter/nf_conntrack_acct", "0")?;
        network.set_timestamps(false)?;
        Ok(network)
    }

    /// What packets go through, if any do.
    pub(super) fn firewall(&self) -> Option<&Firewall> {
        match self {
            Self::Lab { firewall, .. } => Some(firewall),
            Self::Host => None,
        }
    }

    /// Hosts for replicas.
    pub(super) fn backups(&self) -> &[Host] {
        match self {
            Self::Lab { backups, .. } => &backups.hosts,
            Self::Host => &[],
        }
    }

    /// Has the kernel say of each event when it happened, or not. A host's own setting is left alone.
    pub(super) fn set_timestamps(&self, enabled: bool) -> Result<(), Failure> {
        match self {
            Self::Lab { .. } => {
                Ok(sysctl::write("net/netfilter/nf_conntrack_timestamp", if enabled { "1" } else { "0" })?)
            }
            Self::Host => Ok(()),
        }
    }

    /// Empties the tables of the lab; a host's is not ours.
    pub(super) fn flush(&self) -> Result<(), Failure> {
        let Self::Lab { backups, .. } = self else { return Ok(()) };
        flush()?;
        backups.hosts.iter().try_for_each(|host| host.run(flush))
    }

    /// How many flows there can be of those that are asked for, and what to do about fewer.
    pub(super) fn fit_flows(&self, plan: &Bench) -> Result<(u32, Option<String>), Failure> {
        let max = sysctl::read("net/netfilter/nf_conntrack_max")?;
        let existing = if plan.host { sysctl::flow_count()? } else { 0 };
        // Questions are there besides, a fifth of a second's each.
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

fn flush() -> Result<(), Failure> {
    let mut requester = Requester::open()?;
    Ok(requester.request("flush the table", |writer, seq| request::flush(writer, seq, AF_UNSPEC), |_| ())?)
}
