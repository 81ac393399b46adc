//! The replication filter: which flows the operator wants replicated, and how old a flow must be before it is.
//!
//! ```
//! use ctflow_engine::replication::filter::{Listed, ReplicationFilter, Rule};
//!
//! let no_udp = Some(Rule { listed: Listed::Ignored, entries: vec![17] });
//! let filter = ReplicationFilter { protocols: no_udp, least_ages: vec![(17, 250)], ..ReplicationFilter::default() };
//! assert_eq!((filter.least_age_ms(17), filter.least_age_ms(6)), (250, 0));
//! ```

use std::net::IpAddr;

use ctflow_parser::filter::Masked;
use ctflow_parser::flow::FlowView;
use ctflow_parser::uapi;

use crate::limits::BATCH_DELAY_MS_MAX;

/// Whether flows that match an entry of a list are replicated or left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// Only flows that match an entry are replicated.
    Accepted,
    /// Only flows that match no entry are replicated.
    Ignored,
}

/// A list of values of one attribute, and whether flows that match it are replicated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule<T> {
    /// Whether matching flows are replicated or left out.
    pub listed: Listed,
    /// The values.
    pub entries: Vec<T>,
}

impl<T> Rule<T> {
    /// Whether the rule accepts a flow. `matches` compares the flow's value with an entry.
    fn accepts(&self, matches: impl FnMut(&T) -> bool) -> bool {
        self.entries.iter().any(matches) == (self.listed == Listed::Accepted)
    }
}

/// An IP prefix: the addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    /// The prefix of the first `bits` bits of `address`; `None` when the address has fewer (32 for IPv4, 128 for IPv6).
    #[must_use]
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        (bits <= width).then_some(Self { address, bits })
    }

    /// Whether `address` has this prefix. An address of the other family never has.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let differ = match (self.address, address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => u128::from(one.to_bits() ^ other.to_bits()) << 96,
            (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits() ^ other.to_bits(),
            _ => return false,
        };
        differ.leading_zeros() >= u32::from(self.bits)
    }
}

/// The replication filter. A flow is replicated when every rule that is set accepts it; the default replicates all
/// flows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicationFilter {
    /// Rule on the layer-4 protocol, by its IP protocol number.
    pub protocols: Option<Rule<u8>>,
    /// Rule on addresses: the source of the original direction, or of the reply direction, which is the server behind
    /// any translation. It matches if either does.
    pub addresses: Option<Rule<Prefix>>,
    /// Rule on the TCP state, by the kernel's number. Flows of other protocols pass.
    pub tcp_states: Option<Rule<u8>>,
    /// Rule on the zone of the original direction.
    pub zones: Option<Rule<u16>>,
    /// The value that a flow's mark must have under a mask.
    pub mark: Option<Masked>,
    /// The age in milliseconds that a flow must reach before it is sent to peers.
    pub least_age_ms: u32,
    /// The same age for single protocols, in place of [`ReplicationFilter::least_age_ms`]: protocol number,
    /// milliseconds.
    pub least_ages: Vec<(u8, u32)>,
}

impl ReplicationFilter {
    /// The age in milliseconds that a flow of `protocol` must reach before it is sent to peers.
    #[inline]
    #[must_use]
    pub fn least_age_ms(&self, protocol: u8) -> u32 {
        let listed = self.least_ages.iter().find(|(known, _)| *known == protocol);
        listed.map_or(self.least_age_ms, |(_, milliseconds)| *milliseconds)
    }

    /// How long changes may wait to be sent together, in milliseconds: a hundredth of the shortest least age, at most
    /// [`BATCH_DELAY_MS_MAX`]. Where flows younger than a second may be lost, 10 ms more are acceptable, and peers are
    /// woken less often.
    #[must_use]
    pub(crate) fn batch_delay_ms(&self) -> u32 {
        let ages = self.least_ages.iter().map(|(_, milliseconds)| *milliseconds);
        let shortest = ages.chain([self.least_age_ms]).min().unwrap_or(0);
        (shortest / 100).min(BATCH_DELAY_MS_MAX)
    }

    /// Whether every flow is replicated once it has reached its least age.
    #[must_use]
    pub(crate) fn selects_all(&self) -> bool {
        let ages = |filter: &Self| (filter.least_age_ms, filter.least_ages.clone());
        let (least_age_ms, least_ages) = ages(self);
        *self == Self { least_age_ms, least_ages, ..Self::default() }
    }

    /// Whether every rule accepts the flow in its present state. The age is not checked here.
    #[inline]
    #[must_use]
    pub fn selects(&self, flow: &FlowView<'_>) -> bool {
        let Some(orig) = flow.orig else { return false };
        let protocol = || self.protocols.as_ref().is_none_or(|rule| rule.accepts(|one| *one == orig.proto));
        let server = flow.reply.map_or(orig.dst, |reply| reply.src);
        let matches = |prefix: &Prefix| prefix.contains(orig.src) || prefix.contains(server);
        let address = || self.addresses.as_ref().is_none_or(|rule| rule.accepts(matches));
        let zone = orig.zone.or(flow.zone).unwrap_or(0);
        let in_zone = || self.zones.as_ref().is_none_or(|rule| rule.accepts(|one| *one == zone));
        let marked = || self.mark.is_none_or(|mark| (flow.mark.unwrap_or(0) ^ mark.value) & mark.mask == 0);
        protocol() && self.accepts_state(flow, orig.proto) && in_zone() && marked() && address()
    }

    /// Whether the rule on TCP states accepts the flow.
    fn accepts_state(&self, flow: &FlowView<'_>, protocol: u8) -> bool {
        let Some(rule) = self.tcp_states.as_ref().filter(|_| protocol == uapi::IPPROTO_TCP) else { return true };
        let state = flow.proto.and_then(|proto| proto.state()).unwrap_or(0);
        rule.accepts(|one| *one == state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctflow_parser::proto::{ProtoInfo, TcpInfo};
    use ctflow_parser::tuple::{L4, Tuple};

    fn flow(proto: u8, src: &str, server: &str) -> FlowView<'static> {
        let tuple = |src: &str, dst: &str| Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            proto,
            l4: L4::Ports { src: 1, dst: 2 },
            zone: None,
        };
        FlowView { orig: Some(tuple(src, "192.0.2.1")), reply: Some(tuple(server, src)), ..FlowView::default() }
    }

    #[test]
    fn changes_wait_only_where_every_protocol_has_a_least_age() {
        let delay = |least_age_ms, least_ages| {
            ReplicationFilter { least_age_ms, least_ages, ..ReplicationFilter::default() }.batch_delay_ms()
        };
        assert_eq!(delay(0, vec![(17, 60_000)]), 0);
        assert_eq!(delay(1_000, vec![(6, 0)]), 0);
        assert_eq!(delay(60_000, vec![(17, 250)]), 2);
        assert_eq!(delay(60_000, vec![]), 10);
    }

    #[test]
    fn every_rule_must_accept() {
        let accepted = |entries| Some(Rule { listed: Listed::Accepted, entries });
        let prefix = Prefix::new("10.1.0.0".parse().unwrap(), 16).unwrap();
        let filter = ReplicationFilter { protocols: accepted(vec![6, 17]), ..ReplicationFilter::default() };
        assert!(filter.selects(&flow(6, "10.1.2.3", "10.9.9.9")));
        assert!(!filter.selects(&flow(1, "10.1.2.3", "10.9.9.9")));
        let ignored = Some(Rule { listed: Listed::Ignored, entries: vec![prefix] });
        let filter = ReplicationFilter { addresses: ignored, ..filter };
        assert!(!filter.selects(&flow(6, "10.1.2.3", "10.9.9.9")));
        assert!(!filter.selects(&flow(6, "10.2.2.3", "10.1.9.9")), "the server behind the translation counts");
        assert!(filter.selects(&flow(6, "10.2.2.3", "10.9.9.9")));
        let filter = ReplicationFilter { mark: Some(Masked { value: 4, mask: 6 }), ..filter };
        let marked = |mark| FlowView { mark: Some(mark), ..flow(6, "10.2.2.3", "10.9.9.9") };
        assert!(filter.selects(&marked(5)) && !filter.selects(&marked(2)));
    }

    #[test]
    fn tcp_states_apply_to_tcp_only() {
        let rule = Some(Rule { listed: Listed::Accepted, entries: vec![3] });
        let filter = ReplicationFilter { tcp_states: rule, ..ReplicationFilter::default() };
        let state = |state| FlowView {
            proto: Some(ProtoInfo::Tcp(TcpInfo { state: Some(state), ..TcpInfo::default() })),
            ..flow(6, "10.0.0.1", "10.0.0.2")
        };
        assert!(filter.selects(&state(3)) && !filter.selects(&state(1)) && filter.selects(&flow(17, "::1", "::2")));
    }

    #[test]
    fn a_prefix_matches_by_bits_and_family() {
        let prefix = |text: &str, bits| Prefix::new(text.parse().unwrap(), bits);
        let has = |prefix: Option<Prefix>, text: &str| prefix.unwrap().contains(text.parse().unwrap());
        assert!(has(prefix("10.0.0.0", 8), "10.255.0.1") && !has(prefix("10.0.0.0", 8), "11.0.0.0"));
        assert!(has(prefix("0.0.0.0", 0), "1.2.3.4") && !has(prefix("0.0.0.0", 0), "::1"));
        assert!(has(prefix("2001:db8::", 32), "2001:db8:1::") && !has(prefix("2001:db8::", 32), "2001:db9::"));
        assert!(prefix("10.0.0.0", 33).is_none() && prefix("::", 129).is_none());
    }
}
