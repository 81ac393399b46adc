//! Parsers for the values of options: abbreviations, lists, numbers in C notation, addresses, protocols.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use crate::protocol;

/// The value of the first of `names` that starts with `word`, ignoring case; conntrack's rule for tables, events and
/// output types. An empty word matches nothing.
pub(crate) fn match_prefix<T: Copy>(word: &str, names: &[(&str, T)]) -> Option<T> {
    let begins = |name: &str| name.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    names.iter().find(|(name, _)| !word.is_empty() && begins(name)).map(|(_, meaning)| *meaning)
}

/// Parses a number: decimal, hexadecimal after `0x`, or octal after `0`. A sign is refused.
pub(crate) fn number(word: &str) -> Option<u32> {
    let hex = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
    let (digits, radix) = match (hex, word.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        (None, _) => (word, 10),
    };
    let unsigned = !digits.starts_with(['+', '-']);
    u32::from_str_radix(digits, radix).ok().filter(|_| unsigned)
}

/// Parses a decimal number. A sign is refused.
pub(crate) fn decimal(word: &str) -> Option<u32> {
    word.parse().ok().filter(|_| word.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Parses an address: IPv6, or IPv4 in any notation of `inet_aton`.
pub(crate) fn address(word: &str) -> Option<IpAddr> {
    // The standard library comes first because it is faster; `inet_aton` reads the addresses that it accepts in the
    // same way.
    word.parse().ok().or_else(|| parse_inet_aton(word).map(IpAddr::V4))
}

/// Parses one to four numbers separated by dots. The last number fills all remaining bytes.
fn parse_inet_aton(word: &str) -> Option<Ipv4Addr> {
    let mut parts = [0; 4];
    let mut count = 0;
    for part in word.split('.') {
        *parts.get_mut(count)? = number(part)?;
        count += 1;
    }
    let (last, bytes) = parts.get(..count)?.split_last()?;
    let mut bits = 0;
    for (byte, shift) in bytes.iter().zip([24, 16, 8]) {
        bits |= u32::from(u8::try_from(*byte).ok()?) << shift;
    }
    let free = 32 - 8 * u32::try_from(bytes.len()).ok()?;
    (u64::from(*last) >> free == 0).then(|| Ipv4Addr::from_bits(bits | last))
}

/// The mask with `length` leading one bits in the family of `address`; `None` if the family has fewer bits.
pub(crate) fn prefix_mask(address: IpAddr, length: u32) -> Option<IpAddr> {
    let (ones, width) = (!u128::MAX.checked_shr(length).unwrap_or(0), if address.is_ipv4() { 32 } else { 128 });
    let leading = ones.to_be_bytes();
    let mask = match address {
        IpAddr::V4(_) => IpAddr::from([leading[0], leading[1], leading[2], leading[3]]),
        IpAddr::V6(_) => IpAddr::from(leading),
    };
    (length <= width).then_some(mask)
}

/// Parses a layer-4 protocol: a name of [`crate::protocol`], a number up to 255, or a name or alias of /etc/protocols.
pub(crate) fn protocol(word: &str) -> Option<u8> {
    let listed = || fs::read_to_string("/etc/protocols").ok().and_then(|list| find_protocol(&list, word));
    let numbered = || number(word).and_then(|number| u8::try_from(number).ok());
    protocol::number(word).or_else(numbered).or_else(listed)
}

/// The number of the protocol `word` in the text of /etc/protocols: `name number alias…` on each line, `#` starts a
/// comment.
fn find_protocol(list: &str, word: &str) -> Option<u8> {
    list.lines().find_map(|line| {
        let mut fields = line.split('#').next()?.split_whitespace();
        let (name, number) = (fields.next()?, fields.next()?);
        let named = name == word || fields.any(|alias| alias == word);
        number.parse().ok().filter(|_| named)
    })
}

/// The one of `names` that is nearest to a mistyped `word`: at most two letters, and less than half of the word, are
/// wrong, missing, additional or swapped.
pub(crate) fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let measured = names.map(|name| (strsim::osa_distance(word, name), name));
    let near = measured.filter(|(distance, _)| *distance <= 2 && 2 * distance < word.chars().count());
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// Joins words as in `a, b and c`.
pub(crate) fn join_with_and<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().collect();
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_the_first_name_that_starts_with_it() {
        let names = [("extended", 1), ("xml", 2), ("Expect", 3)];
        let chosen =
            ["e", "EX", "extended", "xM", "expect", "", "extendedx", "é"].map(|word| match_prefix(word, &names));
        assert_eq!(chosen, [Some(1), Some(1), Some(1), Some(2), Some(3), None, None, None]);
    }

    #[test]
    fn numbers_are_read_in_c_notation() {
        let read = ["0", "10", "0x1F", "010", "4294967295"].map(number);
        assert_eq!(read, [Some(0), Some(10), Some(31), Some(8), Some(u32::MAX)]);
        for word in ["", "x", "0x", "08", "-1", "+1", "0x-1", "1k", "4294967296", " 1"] {
            assert_eq!(number(word), None, "{word}");
        }
    }

    #[test]
    fn addresses_are_read_as_inet_aton_reads_them() {
        let table = [
            ("10.1.1", "10.1.0.1"),
            ("0x0a010101", "10.1.1.1"),
            ("127.1", "127.0.0.1"),
            ("1.2.3.4", "1.2.3.4"),
            ("010.0.0.1", "8.0.0.1"),
            ("4294967295", "255.255.255.255"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
        ];
        for (word, expected) in table {
            assert_eq!(address(word), expected.parse().ok(), "{word}");
        }
        for word in
            ["", "localhost", "1.2.3.4.5", "256.1.1.1", "1.2.3.256", "1..2", "1.2.65536", "::g", "[::1]", "1.1/8"]
        {
            assert_eq!(address(word), None, "{word}");
        }
    }

    #[test]
    fn a_prefix_length_makes_a_mask() {
        let v4 = Ipv4Addr::UNSPECIFIED.into();
        let masks = [0, 8, 23, 32].map(|length| prefix_mask(v4, length).unwrap().to_string());
        assert_eq!(masks, ["0.0.0.0", "255.0.0.0", "255.255.254.0", "255.255.255.255"]);
        let v6 = std::net::Ipv6Addr::UNSPECIFIED.into();
        let masks = [0, 33, 128].map(|length| prefix_mask(v6, length).unwrap().to_string());
        assert_eq!(masks, ["::", "ffff:ffff:8000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
        assert_eq!((prefix_mask(v4, 33), prefix_mask(v6, 129)), (None, None));
        assert_eq!((decimal("010"), decimal("0x1"), decimal("+1"), decimal("")), (Some(10), None, None, None));
    }

    #[test]
    fn protocols_are_found_by_name_alias_and_number() {
        assert_eq!(
            ["TCP", "gre", "0x84", "0", "255"].map(protocol),
            [Some(6), Some(47), Some(132), Some(0), Some(255)]
        );
        assert_eq!(["256", "", "nonesuch"].map(protocol), [None; 3]);
        let list = "# comment\nip\t0\tIP\t# internet protocol\n\nesp 50 IPSEC-ESP #x\nbroken\nbad x\n";
        assert_eq!(
            ["esp", "IPSEC-ESP", "IP", "comment", "x", "bad"].map(|word| find_protocol(list, word)),
            [Some(50), Some(50), Some(0), None, None, None]
        );
    }

    #[test]
    fn a_mistyped_name_finds_the_nearest_one() {
        let names = ["output", "get", "sport", "dport", "role"];
        let found = ["ouput", "outputs", "got", "sprot", "dprt", "rloe", "put", "xyz", "", "nosuch"];
        let found = found.map(|word| nearest(word, names.into_iter()).unwrap_or("-"));
        assert_eq!(found, ["output", "output", "get", "sport", "dport", "role", "-", "-", "-", "-"]);
    }

    #[test]
    fn names_are_joined_with_commas_and_and() {
        assert_eq!(
            [join_with_and(["a"]), join_with_and(["a", "b"]), join_with_and(["a", "b", "c"])],
            ["a", "a and b", "a, b and c"]
        );
    }
}
