//! Which flows are replicated, and how old they must be: what the operator chose.
//!
//! ```
//! use ctflow_engine::publish::{Choice, Listed, Rule};
//!
//! let no_udp = Some(Rule { listed: Listed::Ignored, of: vec![17] });
//! let choice = Choice { protocols: no_udp, least_ages: vec![(17, 250)], ..Choice::default() };
//! assert_eq!((choice.least_age_ms(17), choice.least_age_ms(6)), (250, 0));
//! ```

use std::net::IpAddr;

use ctflow_parser::filter::Masked;
use ctflow_parser::flow::FlowView;
use ctflow_parser::uapi;

use crate::limits::BATCH_DELAY_MS_MAX;

/// Whether what a rule lists is what is replicated, or what is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// Only this.
    Accepted,
    /// All but this.
    Ignored,
}

/// A list, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule<T> {
    /// What the list is.
    pub listed: Listed,
    /// The list.
    pub entries: Vec<T>,
}

impl<T> Rule<T> {
    fn accepts(&self, matches: impl FnMut(&T) -> bool) -> bool {
        self.entries.iter().any(matches) == (self.listed == Listed::Accepted)
    }
}

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    /// The addresses that have the first `bits` bits of `address`; `None` where it has not so many.
    #[must_use]
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        (bits <= width).then_some(Self { address, bits })
    }

    /// Whether `address` is one of them.
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

/// What is replicated. Every rule that there is must accept a flow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicationFilter {
    /// Layer-4 protocols.
    pub protocols: Option<Rule<u8>>,
    /// Addresses: of the original source, or of the reply's, which is the server behind any translation.
    pub addresses: Option<Rule<Prefix>>,
    /// States of TCP, by the kernel's number. Other protocols pass.
    pub tcp_states: Option<Rule<u8>>,
    /// Zones, of the original direction.
    pub zones: Option<Rule<u16>>,
    /// The mark, under a mask.
    pub mark: Option<Masked>,
    /// The age in milliseconds that a flow must reach to be told of.
    pub least_age_ms: u32,
    /// Likewise for protocols of their own.
    pub least_ages: Vec<(u8, u32)>,
}

impl ReplicationFilter {
    /// The age in milliseconds that a flow of `protocol` must reach to be told of.
    #[inline]
    #[must_use]
    pub fn least_age_ms(&self, protocol: u8) -> u32 {
        let listed = self.least_ages.iter().find(|(known, _)| *known == protocol);
        listed.map_or(self.least_age_ms, |(_, milliseconds)| *milliseconds)
    }

    /// How long changes may wait to be told together, in milliseconds: a hundredth of the shortest least age, at most
    /// [`BATCH_DELAY_MS_MAX`]. Who does without all flows of the last second does not need those of the last ten milliseconds, and
    /// peers are woken less often.
    #[must_use]
    pub fn batch_delay_ms(&self) -> u32 {
        let ages = self.least_ages.iter().map(|(_, milliseconds)| *milliseconds);
        let shortest = ages.chain([self.least_age_ms]).min().unwrap_or(0);
        (shortest / 100).min(BATCH_DELAY_MS_MAX)
    }

    /// Whether every flow is to be replicated.
    #[must_use]
    pub fn selects_all(&self) -> bool {
        let ages = |choice: &Self| (choice.least_age_ms, choice.least_ages.clone());
        let (least_age_ms, least_ages) = ages(self);
        *self == Self { least_age_ms, least_ages, ..Self::default() }
    }

    /// Whether the flow is to be replicated, as it is now.
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
        let pause = |least_age_ms, least_ages| {
            ReplicationFilter { least_age_ms, least_ages, ..ReplicationFilter::default() }.batch_delay_ms()
        };
        assert_eq!(pause(0, vec![(17, 60_000)]), 0);
        assert_eq!(pause(1_000, vec![(6, 0)]), 0);
        assert_eq!(pause(60_000, vec![(17, 250)]), 2);
        assert_eq!(pause(60_000, vec![]), 10);
    }

    #[test]
    fn every_rule_must_accept() {
        let accepted = |of| Some(Rule { listed: Listed::Accepted, entries: of });
        let prefix = Prefix::new("10.1.0.0".parse().unwrap(), 16).unwrap();
        let choice = ReplicationFilter { protocols: accepted(vec![6, 17]), ..ReplicationFilter::default() };
        assert!(choice.selects(&flow(6, "10.1.2.3", "10.9.9.9")));
        assert!(!choice.selects(&flow(1, "10.1.2.3", "10.9.9.9")));
        let ignored = Some(Rule { listed: Listed::Ignored, entries: vec![prefix] });
        let choice = ReplicationFilter { addresses: ignored, ..choice };
        assert!(!choice.selects(&flow(6, "10.1.2.3", "10.9.9.9")));
        assert!(!choice.selects(&flow(6, "10.2.2.3", "10.1.9.9")), "the server behind the translation counts");
        assert!(choice.selects(&flow(6, "10.2.2.3", "10.9.9.9")));
        let choice = ReplicationFilter { mark: Some(Masked { value: 4, mask: 6 }), ..choice };
        let marked = |mark| FlowView { mark: Some(mark), ..flow(6, "10.2.2.3", "10.9.9.9") };
        assert!(choice.selects(&marked(5)) && !choice.selects(&marked(2)));
    }

    #[test]
    fn tcp_states_apply_to_tcp_only() {
        let rule = Some(Rule { listed: Listed::Accepted, entries: vec![3] });
        let choice = ReplicationFilter { tcp_states: rule, ..ReplicationFilter::default() };
        let state = |state| FlowView {
            proto: Some(ProtoInfo::Tcp(TcpInfo { state: Some(state), ..TcpInfo::default() })),
            ..flow(6, "10.0.0.1", "10.0.0.2")
        };
        assert!(choice.selects(&state(3)) && !choice.selects(&state(1)) && choice.selects(&flow(17, "::1", "::2")));
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
