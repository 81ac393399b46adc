//! The layer-4 protocols that have a printed form of their own, by name and number.

use ctflow_parser::uapi;

/// The names that conntrack prints and accepts after `-p`.
const NAMES: [(&str, u8); 8] = [
    ("tcp", uapi::IPPROTO_TCP),
    ("udp", uapi::IPPROTO_UDP),
    ("udplite", uapi::IPPROTO_UDPLITE),
    ("sctp", uapi::IPPROTO_SCTP),
    ("dccp", uapi::IPPROTO_DCCP),
    ("icmp", uapi::IPPROTO_ICMP),
    ("icmpv6", uapi::IPPROTO_ICMPV6),
    ("gre", uapi::IPPROTO_GRE),
];

/// The fields that distinguish two flows of one protocol between the same hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fields {
    /// Source and destination port.
    Ports,
    /// Source and destination key, printed in hex.
    Keys,
    /// Type, code and id.
    Icmp,
    /// None that the kernel tracks.
    None,
}

/// The name printed for `number`; `unknown` for protocols without a form of their own, even if /etc/protocols names
/// them.
pub(crate) fn name(number: u8) -> &'static str {
    NAMES.iter().find(|(_, known)| *known == number).map_or("unknown", |(name, _)| name)
}

/// The number of a name in [`NAMES`], ignoring case.
pub(crate) fn number(name: &str) -> Option<u8> {
    NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, number)| *number)
}

/// The names that [`number`] accepts.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

/// The fields that a flow of protocol `number` prints.
#[inline]
pub(crate) fn fields(number: u8) -> Fields {
    match number {
        uapi::IPPROTO_TCP | uapi::IPPROTO_UDP | uapi::IPPROTO_UDPLITE | uapi::IPPROTO_SCTP | uapi::IPPROTO_DCCP => {
            Fields::Ports
        }
        uapi::IPPROTO_GRE => Fields::Keys,
        uapi::IPPROTO_ICMP | uapi::IPPROTO_ICMPV6 => Fields::Icmp,
        _ => Fields::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_whatever_the_case() {
        for known in names() {
            assert_eq!(number(&known.to_uppercase()).map(name), Some(known));
        }
        assert_eq!((name(50), number("esp")), ("unknown", None));
    }
}
