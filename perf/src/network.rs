//! The network of both programs: the lab's client, firewall and server. This process and the processes that it starts
//! run on the firewall.

use std::num::NonZeroU32;
use std::time::Duration;

use ctflow_engine::kernel::request::Requester;
use ctflow_lab::topology::Firewall;
use ctflow_lab::traffic::Flood;
use ctflow_lab::{Lab, LabError, sysctl};
use ctflow_parser::request;
use ctflow_parser::uapi::AF_UNSPEC;

use crate::failure::Failure;
use crate::wait::Deadline;

/// The timeout of flows, in seconds. By default flows of one packet expire after 30 s, during a scenario; no scenario
/// takes an hour.
const FLOW_TIMEOUT: &str = "3600";
/// The fraction of the machine's `nf_conntrack_max` that stays free: one of this many. Near the limit the kernel evicts
/// flows. The limit holds in every namespace, and this program does not change it.
const SPARE: u64 = 20;
/// A flushed table is empty at once, except for flows that a CPU still references.
const FLUSH_LONGEST: Duration = Duration::from_secs(20);

/// The private network.
#[derive(Debug)]
pub(crate) struct Network {
    firewall: Firewall,
}

impl Network {
    /// Builds the network around the calling thread, which becomes the firewall.
    ///
    /// # Errors
    /// When namespaces or a part of connection tracking are not available.
    pub(crate) fn build() -> Result<Self, Failure> {
        let firewall = Firewall::build(&Lab::enter()?)?;
        sysctl::write("net/netfilter/nf_conntrack_udp_timeout", FLOW_TIMEOUT)?;
        Ok(Self { firewall })
    }

    /// Returns `requested`, or the number of flows that the machine's table can hold if that is less.
    ///
    /// # Errors
    /// When the limit cannot be read.
    pub(crate) fn fit_to_table(requested: u32) -> Result<u32, Failure> {
        Ok(below_limit(requested, sysctl::read("net/netfilter/nf_conntrack_max")?))
    }

    /// Opens a flood of new flows from the client.
    ///
    /// # Errors
    /// When no socket can be opened.
    pub(crate) fn open_flood(&self) -> Result<Flood, Failure> {
        Ok(self.firewall.client.run(Flood::open)?)
    }

    /// Sends new flows from the client through the firewall, as fast as possible or at a rate. Returns the flood and
    /// the number of flows that the firewall tracks now.
    ///
    /// # Errors
    /// When the flows cannot be sent.
    pub(crate) fn send_flows(
        &self,
        flood: Flood,
        flows: u32,
        per_second: Option<NonZeroU32>,
    ) -> Result<(Flood, u64), Failure> {
        let flood = self.firewall.client.run(move || send_flood(flood, flows, per_second))?;
        Ok((flood, sysctl::flow_count()?))
    }

    /// Flushes the firewall's table, and waits until it is empty.
    ///
    /// # Errors
    /// When the kernel refuses the request, or the table does not become empty in time.
    pub(crate) fn flush() -> Result<(), Failure> {
        let mut requester = Requester::open()?;
        requester.request("flush the table", |writer, seq| request::flush(writer, seq, AF_UNSPEC), |_| ())?;
        let deadline = Deadline::new("the table to be empty", FLUSH_LONGEST);
        deadline.poll(Duration::from_millis(5), || Ok(sysctl::flow_count()? == 0))
    }
}

/// Sends new flows on the client's thread.
fn send_flood(mut flood: Flood, flows: u32, per_second: Option<NonZeroU32>) -> Result<Flood, LabError> {
    match per_second {
        Some(rate) => flood.send_paced(flows, rate)?,
        None => flood.send(flows)?,
    };
    Ok(flood)
}

/// The lesser of `requested` and `limit` minus the spare fraction.
fn below_limit(requested: u32, limit: u64) -> u32 {
    let most = limit.saturating_sub(limit.div_ceil(SPARE));
    requested.min(u32::try_from(most).unwrap_or(u32::MAX))
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
        ctflow_lab::isolated!({
            let network = Network::build().unwrap();
            let (flood, flows) = network.send_flows(network.open_flood().unwrap(), 1_000, None).unwrap();
            assert_eq!(flows, 1_000);
            let (_, flows) = network.send_flows(flood, 500, NonZeroU32::new(50_000)).unwrap();
            assert_eq!(flows, 1_500);
            Network::flush().unwrap();
        });
    }
}
