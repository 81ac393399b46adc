//! Options for addresses, protocol, family, NAT and zones.

use std::net::IpAddr;
use std::path::PathBuf;

use ctflow_parser::uapi;

use super::options::{READ, WRITE};
use super::{Argument, Flag, OPTION, option};
use crate::event::choice::SinkChoice;
use crate::flags::raw::{OptionValue, RawArgs};
use crate::flags::usage::Usage;
use crate::protocol;
use crate::selection::NatTarget;
use crate::words;

#[cfg(test)]
use super::tests;

pub(super) static ORIG_SRC: Flag = Flag {
    short: Some('s'),
    long: "src",
    aliases: &["orig-src"],
    argument: Argument::Required("ADDR[/PREFIX]"),
    help: "source address of the original direction",
    man: "The source address of the original direction: an IPv4 address in any notation that inet_aton accepts, or \
          an IPv6 address; as a filter also a network. The first address or -f sets the address family of the whole \
          command. With -I expect, it is an address of the flow that the expectation belongs to; with -D expect and \
          -G expect, the expected address.",
    effect: option("occcooo- -RRR- -", |raw, word| {
        let (address, mask) = address_and_mask(raw, word, &MASK_SRC)?;
        (raw.orig.src, raw.prefix.src) = (Some(address), mask);
        Ok(())
    }),
};

#[test]
fn src_is_an_address_or_a_network() {
    let raw = tests::read("-L -s 10.1/8 --orig-src 192.0.2.1/24").unwrap();
    assert_eq!(raw.orig.src, Some(tests::ip("192.0.2.1")));
    assert_eq!(raw.prefix.src, Some(tests::ip("255.255.255.0")));
    assert_eq!(tests::read("-L --src ::1/128").unwrap().prefix.src, None, "one address");
    for line in ["-L -s 1.1.1.1/33", "-L -s ::1/129", "-L -s 1.1.1.1/", "-L -s 1.1.1.1/x", "-L -s localhost"] {
        assert!(matches!(tests::read(line), Err(Usage::BadValue { .. })), "{line}");
    }
}

pub(super) static ORIG_DST: Flag = Flag {
    short: Some('d'),
    long: "dst",
    aliases: &["orig-dst"],
    argument: Argument::Required("ADDR[/PREFIX]"),
    help: "destination address of the original direction",
    man: "The destination address of the original direction, in the same notations as --src.",
    effect: option("occcooo- -RRR- -", |raw, word| {
        let (address, mask) = address_and_mask(raw, word, &MASK_DST)?;
        (raw.orig.dst, raw.prefix.dst) = (Some(address), mask);
        Ok(())
    }),
};

#[test]
fn dst_is_an_address_or_a_network() {
    let raw = tests::read("-L -d 2001:db8::/32").unwrap();
    assert_eq!((raw.orig.dst, raw.prefix.dst), (Some(tests::ip("2001:db8::")), Some(tests::ip("ffff:ffff::"))));
    assert_eq!(raw.family, Some(uapi::AF_INET6));
    assert!(matches!(tests::read("-L -s ::1 -d 1.1.1.1"), Err(Usage::MixedFamilies { .. })));
}

pub(super) static REPLY_SRC: Flag = Flag {
    short: Some('r'),
    long: "reply-src",
    argument: Argument::Required("ADDR"),
    help: "source address of the reply direction",
    man: "The source address of the reply direction. With -E, a file to read as with --read is accepted instead: an \
          argument that begins with a slash or a dot, or ends in .pcap or .pcapng.",
    effect: option("occcooo- -ooo- -", |raw, word| {
        if let Some(path) = capture_file(raw, word, &READ) {
            raw.read = Some(path);
            return Ok(());
        }
        if words::address(word.value).is_none() && !word.value.contains('/') {
            return Err(word.invalid(format!("{ADDRESS}; with -E also a file, as ./FILE or FILE.pcapng")));
        }
        raw.reply.src = Some(single_address(raw, word)?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn reply_src_is_an_address_and_no_network() {
    assert_eq!(tests::read("-L -r 1.2.3.4").unwrap().reply.src, Some(tests::ip("1.2.3.4")));
    assert!(matches!(tests::read("-L -r 1.1.1.1/24"), Err(Usage::BadValue { .. })));
    let raw = tests::read("-E -r flows.pcapng").unwrap();
    assert_eq!((raw.read, raw.reply.src), (Some("flows.pcapng".into()), None));
    let refused = tests::read("-E -r flows").unwrap_err();
    assert!(matches!(&refused, Usage::BadValue { right, .. } if right.ends_with("./FILE or FILE.pcapng")), "{refused}");
}

pub(super) static REPLY_DST: Flag = Flag {
    short: Some('q'),
    long: "reply-dst",
    argument: Argument::Required("ADDR"),
    help: "destination address of the reply direction",
    man: "The destination address of the reply direction.",
    effect: option("occcooo- -ooo- -", |raw, word| {
        raw.reply.dst = Some(single_address(raw, word)?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn reply_dst_is_an_address() {
    assert_eq!(tests::read("-L --reply-dst ::1").unwrap().reply.dst, Some(tests::ip("::1")));
    assert!(matches!(tests::read("-L -q [::1]"), Err(Usage::BadValue { .. })));
}

pub(super) static TUPLE_SRC: Flag = Flag {
    long: "tuple-src",
    argument: Argument::Required("ADDR[/PREFIX]"),
    help: "source address that an expectation awaits",
    man: "The expected source address; a prefix length sets --mask-src.",
    effect: option("-------- --R-- -", |raw, word| {
        let (address, mask) = address_and_mask(raw, word, &MASK_SRC)?;
        (raw.expected.src, raw.mask.src) = (Some(address), mask.or(raw.mask.src));
        Ok(())
    }),
    ..OPTION
};

#[test]
fn tuple_src_accepts_a_prefix_as_mask() {
    let raw = tests::read("-I expect --tuple-src 1.1.1.1/8").unwrap();
    assert_eq!((raw.expected.src, raw.mask.src), (Some(tests::ip("1.1.1.1")), Some(tests::ip("255.0.0.0"))));
}

pub(super) static TUPLE_DST: Flag = Flag {
    long: "tuple-dst",
    argument: Argument::Required("ADDR[/PREFIX]"),
    help: "destination address that an expectation awaits",
    man: "The expected destination address; a prefix length sets --mask-dst.",
    effect: option("-------- --R-- -", |raw, word| {
        let (address, mask) = address_and_mask(raw, word, &MASK_DST)?;
        (raw.expected.dst, raw.mask.dst) = (Some(address), mask.or(raw.mask.dst));
        Ok(())
    }),
    ..OPTION
};

#[test]
fn tuple_dst_needs_no_mask() {
    let raw = tests::read("-I expect --tuple-dst 1.1.1.1").unwrap();
    assert_eq!((raw.expected.dst, raw.mask.dst), (Some(tests::ip("1.1.1.1")), None));
}

pub(super) static MASK_SRC: Flag = Flag {
    long: "mask-src",
    argument: Argument::Required("ADDR"),
    help: "mask for --src, or for --tuple-src",
    man: "A mask for --src, used instead of its prefix length; with -I expect, a mask for --tuple-src.",
    effect: option("o---ooo- --R-- -", |raw, word| {
        raw.mask.src = Some(single_address(raw, word)?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn mask_src_is_an_address_of_the_same_family() {
    assert_eq!(tests::read("-L --mask-src 255.0.0.0").unwrap().mask.src, Some(tests::ip("255.0.0.0")));
    assert!(matches!(tests::read("-L -s 1.1.1.1 --mask-src ::1"), Err(Usage::MixedFamilies { .. })));
}

pub(super) static MASK_DST: Flag = Flag {
    long: "mask-dst",
    argument: Argument::Required("ADDR"),
    help: "mask for --dst, or for --tuple-dst",
    man: "A mask for --dst, used instead of its prefix length; with -I expect, a mask for --tuple-dst.",
    effect: option("o---ooo- --R-- -", |raw, word| {
        raw.mask.dst = Some(single_address(raw, word)?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn mask_dst_refuses_a_prefix() {
    assert!(matches!(tests::read("-L --mask-dst 255.0.0.0/8"), Err(Usage::BadValue { .. })));
}

pub(super) static PROTONUM: Flag = Flag {
    short: Some('p'),
    long: "protonum",
    argument: Argument::Required("PROTO"),
    help: "flows of this layer-4 protocol",
    man: "Selects flows by layer-4 protocol: tcp, udp, udplite, sctp, dccp, icmp, icmpv6, gre, any name in \
          /etc/protocols, or a number from 0 to 255 (decimal, hexadecimal after 0x, octal after 0). If it is given \
          twice, the last one counts. The options of a protocol (ports, keys, types, states) must come after it.",
    effect: option("oRRRooo- -RRR- o", protonum),
    ..OPTION
};

/// Applies `-p`.
fn protonum(raw: &mut RawArgs, word: OptionValue<'_>) -> Result<(), Usage> {
    let right =
        || format!("{}, a name of /etc/protocols, or 0 to 255", protocol::names().collect::<Vec<_>>().join(", "));
    raw.protocol = Some(words::protocol(word.value).ok_or_else(|| word.invalid(right()))?);
    Ok(())
}

#[test]
fn protonum_is_a_name_or_a_number_and_the_last_one_holds() {
    assert_eq!(tests::read("-L -p tcp -p 0x11").unwrap().protocol, Some(17));
    assert_eq!(tests::read("-L --proto ICMPv6").unwrap().protocol, Some(58));
    assert!(matches!(tests::read("-L -p 256"), Err(Usage::BadValue { value, .. }) if value == "256"));
    assert!(matches!(tests::read("-L -p foo"), Err(Usage::BadValue { right, .. }) if right.starts_with("tcp, udp, ")));
}

pub(super) static FAMILY: Flag = Flag {
    short: Some('f'),
    long: "family",
    argument: Argument::Required("FAMILY"),
    help: "entries of this layer-3 family: ipv4, ipv6",
    man: "Selects entries by layer-3 family, ipv4 or ipv6. Without it and without an address, flows of both families \
          are selected, but only IPv4 expectations.",
    effect: option("o---oooo o---- -", family),
    ..OPTION
};

/// Applies `-f`. Like conntrack, accepts any word that begins with `ipv4` or `ipv6`.
fn family(raw: &mut RawArgs, word: OptionValue<'_>) -> Result<(), Usage> {
    match word.value {
        value if value.starts_with("ipv4") => raw.set_family(word, uapi::AF_INET),
        value if value.starts_with("ipv6") => raw.set_family(word, uapi::AF_INET6),
        _ => Err(word.invalid("ipv4 or ipv6")),
    }
}

#[test]
fn family_is_one_of_two() {
    assert_eq!(tests::read("-L -f ipv4").unwrap().family, Some(uapi::AF_INET));
    assert_eq!(tests::read("-L --family=ipv6x").unwrap().family, Some(uapi::AF_INET6), "conntrack's beginning");
    for line in ["-L -f ipx", "-L -f ipv", "-L -f 4", "-L -f IPv4"] {
        assert!(matches!(tests::read(line), Err(Usage::BadValue { .. })), "{line}");
    }
    assert!(matches!(tests::read("-L -s 1.1.1.1 -f ipv6"), Err(Usage::MixedFamilies { .. })));
}

pub(super) static SRC_NAT: Flag = Flag {
    short: Some('n'),
    long: "src-nat",
    argument: Argument::Optional("ADDR[:PORT]"),
    help: "flows with source NAT; with -I, -A set up source NAT",
    man: "Selects flows whose source is translated, to this address and port if given: 192.0.2.1, 192.0.2.1:80, \
          2001:db8::1 or [2001:db8::1]:80. With -I and -A, the translation to set up. For ICMP the id is compared in \
          place of the port, and a different type or code is not a translation. IPv6 addresses are compared, too.",
    effect: option("o-ooooo- ----- -", |raw, word| {
        raw.nat.src = Some(translated(raw, word)?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn src_nat_may_have_an_address_and_a_port() {
    let nat = |line| tests::read(line).unwrap().nat.src;
    let to = |address, port| Some(NatTarget { address: Some(tests::ip(address)), port });
    assert_eq!(nat("-L -n"), Some(NatTarget::default()));
    assert_eq!(nat("-L -n -o id"), Some(NatTarget::default()));
    assert_eq!(nat("-L -n 9.9.9.9"), to("9.9.9.9", None));
    assert_eq!(nat("-L -n9.9.9.9"), to("9.9.9.9", None), "which conntrack drops");
    assert_eq!(nat("-L --src-nat=9.9.9.9:0"), to("9.9.9.9", Some(0)));
    assert_eq!(nat("-L -n [2001:db8::1]:65535"), to("2001:db8::1", Some(65535)));
    assert_eq!(nat("-L -n ::1"), to("::1", None));
    for value in ["1.1.1.1:", "1.1.1.1:x", "1.1.1.1:65536", "1.1.1.1:+1", ":80", "[::1]", "[::1", "[]:1", "[1.1.1.1]:1"]
    {
        assert!(matches!(tests::read(&format!("-L -n {value}")), Err(Usage::BadValue { .. })), "{value}");
    }
}

pub(super) static DST_NAT: Flag = Flag {
    short: Some('g'),
    long: "dst-nat",
    argument: Argument::Optional("ADDR[:PORT]"),
    help: "flows with destination NAT; with -I, -A set up destination NAT",
    man: "Selects flows whose destination is translated, with the same arguments as --src-nat. Together with \
          --src-nat, selects flows with both translations. With -I and -A, the translation to set up.",
    effect: option("o-ooooo- ----- -", |raw, word| {
        raw.nat.dst = Some(translated(raw, word)?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn dst_nat_may_have_an_address() {
    assert_eq!(tests::read("-L -g 1.1.1.1:5").unwrap().nat.dst.unwrap().port, Some(5));
}

pub(super) static ANY_NAT: Flag = Flag {
    short: Some('j'),
    long: "any-nat",
    argument: Argument::Optional("ADDR[:PORT]"),
    help: "flows with source or destination NAT",
    man: "Selects flows whose source or destination is translated, to this address and port if given.",
    effect: option("o-----o- ----- -", |raw, word| {
        raw.nat.any = Some(translated(raw, word)?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn any_nat_may_have_an_address() {
    assert_eq!(tests::read("-L --any-nat").unwrap().nat.any, Some(NatTarget::default()));
}

pub(super) static ZONE: Flag = Flag {
    short: Some('w'),
    long: "zone",
    argument: Argument::Required("ZONE"),
    help: "zone of both directions",
    man: "The zone of both directions, 0 to 65535; 0 means flows without a zone. Unlike in conntrack it also works \
          with -G, where it is the zone to search, and with -U, where it selects flows. With -E, a file to write as \
          with --write is accepted instead: an argument that begins with a slash or a dot, or ends in .pcap or \
          .pcapng.",
    effect: option("ooooooo- ----- -", |raw, word| {
        if let Some(path) = capture_file(raw, word, &WRITE) {
            raw.sink = SinkChoice::Pcapng(path);
            return Ok(());
        }
        raw.zone = Some(
            word.zone()
                .map_err(|_| word.invalid_number("0 to 65535; with -E also a file, as ./FILE or FILE.pcapng"))?,
        );
        Ok(())
    }),
    ..OPTION
};

#[test]
fn zone_is_a_number_of_16_bits() {
    assert_eq!(tests::read("-L -w 0x10").unwrap().zone, Some(16));
    for value in ["70000", "x", "-1"] {
        let refused = tests::read(&format!("-L -w {value}")).unwrap_err();
        assert!(refused.code() == 1 && refused.to_string().contains("./FILE"), "{refused}");
    }
    for path in ["/tmp/x", "./x", "events.pcapng", "7.pcap"] {
        assert_eq!(tests::read(&format!("-E -w {path}")).unwrap().sink, SinkChoice::Pcapng(path.into()));
    }
    assert!(matches!(tests::read("-L -w /tmp/x"), Ok(raw) if raw.options[0].long == "write"), "refused by the matrix");
}

pub(super) static ORIG_ZONE: Flag = Flag {
    long: "orig-zone",
    argument: Argument::Required("ZONE"),
    help: "zone of the original direction",
    man: "The zone of the original direction only.",
    effect: option("ooooooo- ----- -", |raw, word| {
        raw.orig_zone = Some(word.zone()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn orig_zone_is_a_number() {
    assert_eq!(tests::read("-L --orig-zone 010").unwrap().orig_zone, Some(8));
}

pub(super) static REPLY_ZONE: Flag = Flag {
    long: "reply-zone",
    argument: Argument::Required("ZONE"),
    help: "zone of the reply direction",
    man: "The zone of the reply direction only.",
    effect: option("ooooooo- ----- -", |raw, word| {
        raw.reply_zone = Some(word.zone()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn reply_zone_is_a_number() {
    assert!(matches!(tests::read("-L --reply-zone 65536"), Err(Usage::BadNumber { .. })));
}

/// The accepted values of an address option, for messages.
const ADDRESS: &str = "an IPv4 or IPv6 address; host names are not looked up";

/// Parses an address, and refuses one of another family than the addresses before it.
fn family_address(raw: &mut RawArgs, word: OptionValue<'_>, text: &str, right: &str) -> Result<IpAddr, Usage> {
    let address = words::address(text).ok_or_else(|| word.invalid(right))?;
    raw.set_family(word, if address.is_ipv4() { uapi::AF_INET } else { uapi::AF_INET6 })?;
    Ok(address)
}

/// Parses an address without a prefix length.
fn single_address(raw: &mut RawArgs, word: OptionValue<'_>) -> Result<IpAddr, Usage> {
    let right = if word.value.contains('/') { "an address without a prefix" } else { ADDRESS };
    family_address(raw, word, word.value, right)
}

/// Parses an address and the mask of its prefix length; no mask if the prefix covers the whole address.
///
/// A mask counts as the option `mask`, so that it is legal with the same commands, however it is spelled.
fn address_and_mask(
    raw: &mut RawArgs,
    word: OptionValue<'_>,
    mask: &'static Flag,
) -> Result<(IpAddr, Option<IpAddr>), Usage> {
    let Some((text, prefix)) = word.value.split_once('/') else {
        return Ok((family_address(raw, word, word.value, ADDRESS)?, None));
    };
    let address = family_address(raw, word, text, ADDRESS)?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let length = words::decimal(prefix).filter(|length| *length <= width);
    let length = length.ok_or_else(|| word.invalid(format!("an address and a netmask of 0 to {width} bits")))?;
    if length == width {
        return Ok((address, None));
    }
    raw.options.push(mask);
    Ok((address, words::prefix_mask(address, length)))
}

/// Parses the argument of a NAT option: `ADDR`, `ADDR:PORT`, `[ADDR6]:PORT`, bare `ADDR6`, or nothing.
fn translated(raw: &mut RawArgs, word: OptionValue<'_>) -> Result<NatTarget, Usage> {
    const RIGHT: &str = "ADDR, ADDR:PORT or [ADDR6]:PORT, the port 0 to 65535";
    if word.value.is_empty() {
        return Ok(NatTarget::default());
    }
    let is_v6 = |text: &str| text.contains(':');
    let (text, port) = match word.value.strip_prefix('[').map(|rest| rest.split_once("]:")) {
        Some(Some((text, port))) if is_v6(text) => (text, Some(port)),
        Some(_) => return Err(word.invalid(RIGHT)),
        None => match word.value.split_once(':') {
            Some((text, port)) if !is_v6(port) => (text, Some(port)),
            _ => (word.value, None),
        },
    };
    let read = |port| words::decimal(port).and_then(|port| u16::try_from(port).ok()).ok_or_else(|| word.invalid(RIGHT));
    let port = port.map(read).transpose()?;
    Ok(NatTarget { address: Some(family_address(raw, word, text, RIGHT)?), port })
}

/// The argument as the path of a capture file, if it cannot be a number or an address. The option then counts as
/// `instead`.
fn capture_file(raw: &mut RawArgs, word: OptionValue<'_>, instead: &'static Flag) -> Option<PathBuf> {
    let (value, ends) = (word.value, [".pcap", ".pcapng"]);
    let is_file = value.starts_with(['/', '.']) || ends.iter().any(|end| value.ends_with(end));
    is_file.then(|| {
        raw.options.pop();
        raw.options.push(instead);
        PathBuf::from(value)
    })
}
