//! The network that both programs work in: the lab's client, firewall and server. This process lives on the firewall, and
//! so do the processes that it starts.

use std::num::NonZeroU32;
use std::time::Duration;

use ctflow_engine::kernel::request::Requester;
use ctflow_engine::lab::topology::Firewall;
use ctflow_engine::lab::traffic::Flood;
use ctflow_engine::lab::{Lab, LabError, sysctl};
use ctflow_parser::request;
use ctflow_parser::uapi::AF_UNSPEC;

use crate::failure::Failure;
use crate::wait::Deadline;

/// Flows of one packet expire after 30 s, in the midst of a scenario. In seconds: none takes an hour.
const FLOW_TIMEOUT: &str = "3600";
/// The machine's limit holds in every namespace and is not this program's to change. Near it the kernel evicts flows,
/// so a twentieth stays free.
const SPARE: u64 = 20;
/// A flushed table is empty at once, but for flows that a CPU still holds.
const FLUSH_LONGEST: Duration = Duration::from_secs(20);

/// The private network.
#[derive(Debug)]
pub(crate) struct Network {
    firewall: Firewall,
}

impl Network {
    /// Builds it around the calling thread.
    ///
    /// # Errors
    /// When namespaces or a part of connection tracking are not to be had.
    pub(crate) fn build() -> Result<Self, Failure> {
        let firewall = Firewall::build(&Lab::enter()?)?;
        sysctl::write("net/netfilter/nf_conntrack_udp_timeout", FLOW_TIMEOUT)?;
        Ok(Self { firewall })
    }

    /// As many flows of those asked as the machine's table takes.
    ///
    /// # Errors
    /// When the limit cannot be read.
    pub(crate) fn fit_to_table(asked: u32) -> Result<u32, Failure> {
        Ok(below_limit(asked, sysctl::read("net/netfilter/nf_conntrack_max")?))
    }

    /// Opens a flood of new flows from the client.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub(crate) fn open_flood(&self) -> Result<Flood, Failure> {
        Ok(self.firewall.client.run(Flood::open)?)
    }

    /// Has the client send new flows through the firewall, as fast as it can or at a rate, and returns how many the
    /// firewall tracks now.
    ///
    /// # Errors
    /// When they cannot be sent.
    pub(crate) fn send_flows(
        &self,
        flood: Flood,
        flows: u32,
        per_second: Option<NonZeroU32>,
    ) -> Result<(Flood, u64), Failure> {
        let flood = self.firewall.client.run(move || send_flood(flood, flows, per_second))?;
        Ok((flood, sysctl::flow_count()?))
    }

    /// Empties the table.
    ///
    /// # Errors
    /// The kernel's refusal; or it does not get empty.
    pub(crate) fn flush() -> Result<(), Failure> {
        let mut requester = Requester::open()?;
        requester.request("flush the table", |writer, seq| request::flush(writer, seq, AF_UNSPEC), |_| ())?;
        let deadline = Deadline::new("the table to be empty", FLUSH_LONGEST);
        deadline.poll(Duration::from_millis(5), || Ok(sysctl::flow_count()? == 0))
    }
}

fn send_flood(mut flood: Flood, flows: u32, per_second: Option<NonZeroU32>) -> Result<Flood, LabError> {
    match per_second {
        Some(rate) => flood.send_paced(flows, rate)?,
        None => flood.send(flows)?,
    };
    Ok(flood)
}

fn below_limit(asked: u32, limit: u64) -> u32 {
    let most = limit.saturating_sub(limit.div_ceil(SPARE));
    asked.min(u32::try_from(most).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_never_filled_to_its_limit() {
        assert_eq!(below_limit(100_000, 262_144), 100_000);
        assert_eq!(below_limit(300_000, 262_144), 249_036);
        assert_eq!(below_limit(5, 0), 0);
    }

    #[test]
    fn flows_are_made_and_flushed() {
        ctflow_engine::isolated!({
            let network = Network::build().unwrap();
            let (flood, flows) = network.send_flows(network.open_flood().unwrap(), 1_000, None).unwrap();
            assert_eq!(flows, 1_000);
            let (_, flows) = network.send_flows(flood, 500, NonZeroU32::new(50_000)).unwrap();
            assert_eq!(flows, 1_500);
            Network::flush().unwrap();
        });
    }
}
