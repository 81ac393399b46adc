//! The protocol options: ports, keys, ICMP fields, states. Each is known only after the `-p` of its protocol.

use ctflow_parser::proto::{DCCP_STATES, SCTP_STATES, TCP_STATES};
use ctflow_parser::uapi;

use super::{Argument, Flag, OPTION, field};
use crate::flags::raw::{OptionValue, RawArgs};
use crate::flags::usage::Usage;
use crate::words;

#[cfg(test)]
use super::tests;

const PORTS: &[u8] =
    &[uapi::IPPROTO_TCP, uapi::IPPROTO_UDP, uapi::IPPROTO_UDPLITE, uapi::IPPROTO_SCTP, uapi::IPPROTO_DCCP];
const GRE: &[u8] = &[uapi::IPPROTO_GRE];
const ICMP: &[u8] = &[uapi::IPPROTO_ICMP];
const ICMPV6: &[u8] = &[uapi::IPPROTO_ICMPV6];
const SCTP: &[u8] = &[uapi::IPPROTO_SCTP];
const DCCP: &[u8] = &[uapi::IPPROTO_DCCP];
const STATEFUL: &[u8] = &[uapi::IPPROTO_TCP, uapi::IPPROTO_SCTP, uapi::IPPROTO_DCCP];

pub(super) static ORIG_PORT_SRC: Flag = Flag {
    long: "sport",
    aliases: &["orig-port-src"],
    argument: Argument::Required("PORT"),
    help: "source port of the original direction",
    man: "The source port of the original direction, 0 to 65535.",
    effect: field(PORTS, "occcooo- -RRR- -", |raw, word| {
        raw.orig.src_port = Some(word.port()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn sport_is_a_port() {
    assert_eq!(tests::read("-L -p tcp --sport 21").unwrap().orig.src_port, Some(21));
}

pub(super) static ORIG_PORT_DST: Flag = Flag {
    long: "dport",
    aliases: &["orig-port-dst"],
    argument: Argument::Required("PORT"),
    help: "destination port of the original direction",
    man: "The destination port of the original direction, 0 to 65535.",
    effect: field(PORTS, "occcooo- -RRR- -", |raw, word| {
        raw.orig.dst_port = Some(word.port()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn dport_is_a_port() {
    assert_eq!(tests::read("-L -p tcp --dport 21").unwrap().orig.dst_port, Some(21));
}

pub(super) static REPLY_PORT_SRC: Flag = Flag {
    long: "reply-port-src",
    argument: Argument::Required("PORT"),
    help: "source port of the reply direction",
    man: "The source port of the reply direction, 0 to 65535.",
    effect: field(PORTS, "occcooo- -R-R- -", |raw, word| {
        raw.reply.src_port = Some(word.port()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn reply_port_src_is_a_port() {
    assert_eq!(tests::read("-L -p tcp --reply-port-src 21").unwrap().reply.src_port, Some(21));
}

pub(super) static REPLY_PORT_DST: Flag = Flag {
    long: "reply-port-dst",
    argument: Argument::Required("PORT"),
    help: "destination port of the reply direction",
    man: "The destination port of the reply direction, 0 to 65535.",
    effect: field(PORTS, "occcooo- -R-R- -", |raw, word| {
        raw.reply.dst_port = Some(word.port()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn reply_port_dst_is_a_port() {
    assert_eq!(tests::read("-L -p tcp --reply-port-dst 21").unwrap().reply.dst_port, Some(21));
}

pub(super) static MASK_PORT_SRC: Flag = Flag {
    long: "mask-port-src",
    argument: Argument::Required("PORT"),
    help: "mask for the expected source port",
    man: "The bits of the expected source port that are compared, 0 to 65535.",
    effect: field(PORTS, "-------- --R-- -", |raw, word| {
        raw.mask.src_port = Some(word.port()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn mask_port_src_is_a_port() {
    assert_eq!(tests::read("-L -p tcp --mask-port-src 21").unwrap().mask.src_port, Some(21));
}

pub(super) static MASK_PORT_DST: Flag = Flag {
    long: "mask-port-dst",
    argument: Argument::Required("PORT"),
    help: "mask for the expected destination port",
    man: "The bits of the expected destination port that are compared, 0 to 65535.",
    effect: field(PORTS, "-------- --R-- -", |raw, word| {
        raw.mask.dst_port = Some(word.port()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn mask_port_dst_is_a_port() {
    assert_eq!(tests::read("-L -p tcp --mask-port-dst 21").unwrap().mask.dst_port, Some(21));
}

pub(super) static TUPLE_PORT_SRC: Flag = Flag {
    long: "tuple-port-src",
    argument: Argument::Required("PORT"),
    help: "source port that an expectation awaits",
    man: "The source port that an expectation awaits, 0 to 65535.",
    effect: field(PORTS, "-------- --R-- -", |raw, word| {
        raw.expected.src_port = Some(word.port()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn tuple_port_src_is_a_port() {
    assert_eq!(tests::read("-L -p tcp --tuple-port-src 21").unwrap().expected.src_port, Some(21));
}

pub(super) static TUPLE_PORT_DST: Flag = Flag {
    long: "tuple-port-dst",
    argument: Argument::Required("PORT"),
    help: "destination port that an expectation awaits",
    man: "The destination port that an expectation awaits, 0 to 65535.",
    effect: field(PORTS, "-------- --R-- -", |raw, word| {
        raw.expected.dst_port = Some(word.port()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn tuple_port_dst_is_a_port() {
    assert_eq!(tests::read("-L -p tcp --tuple-port-dst 21").unwrap().expected.dst_port, Some(21));
}

#[test]
fn ports_are_16_bit_numbers_after_their_protocol() {
    for value in ["70000", "10:20", "-1", "x", "0x10", "http"] {
        assert!(matches!(tests::read(&format!("-L -p tcp --sport {value}")), Err(Usage::BadValue { .. })), "{value}");
    }
    assert!(matches!(tests::read("-L --sport 10 -p tcp"), Err(Usage::NeedsProtocol { .. })));
    assert!(matches!(tests::read("-L -p icmp --sport 10"), Err(Usage::NeedsProtocol { .. })));
    assert_eq!(tests::read("-L -p 132 --orig-port-src 9").unwrap().orig.src_port, Some(9));
    assert_eq!(tests::read("-L -p udplite --dp 9").unwrap().orig.dst_port, Some(9));
}

pub(super) static ORIG_KEY_SRC: Flag = Flag {
    long: "srckey",
    aliases: &["orig-key-src"],
    argument: Argument::Required("KEY"),
    help: "source key of the original direction",
    man: "The source key of the original direction, 0 to 65535, hexadecimal after 0x.",
    effect: field(GRE, "occcooo- -RRR- -", |raw, word| {
        raw.orig.src_port = Some(word.key()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn srckey_is_a_key() {
    assert_eq!(tests::read("-L -p gre --srckey 21").unwrap().orig.src_port, Some(21));
}

pub(super) static ORIG_KEY_DST: Flag = Flag {
    long: "dstkey",
    aliases: &["orig-key-dst"],
    argument: Argument::Required("KEY"),
    help: "destination key of the original direction",
    man: "The destination key of the original direction, 0 to 65535, hexadecimal after 0x.",
    effect: field(GRE, "occcooo- -RRR- -", |raw, word| {
        raw.orig.dst_port = Some(word.key()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn dstkey_is_a_key() {
    assert_eq!(tests::read("-L -p gre --dstkey 21").unwrap().orig.dst_port, Some(21));
}

pub(super) static REPLY_KEY_SRC: Flag = Flag {
    long: "reply-key-src",
    argument: Argument::Required("KEY"),
    help: "source key of the reply direction",
    man: "The source key of the reply direction, 0 to 65535, hexadecimal after 0x.",
    effect: field(GRE, "occcooo- -RRR- -", |raw, word| {
        raw.reply.src_port = Some(word.key()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn reply_key_src_is_a_key() {
    assert_eq!(tests::read("-L -p gre --reply-key-src 21").unwrap().reply.src_port, Some(21));
}

pub(super) static REPLY_KEY_DST: Flag = Flag {
    long: "reply-key-dst",
    argument: Argument::Required("KEY"),
    help: "destination key of the reply direction",
    man: "The destination key of the reply direction, 0 to 65535, hexadecimal after 0x.",
    effect: field(GRE, "occcooo- -RRR- -", |raw, word| {
        raw.reply.dst_port = Some(word.key()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn reply_key_dst_is_a_key() {
    assert_eq!(tests::read("-L -p gre --reply-key-dst 21").unwrap().reply.dst_port, Some(21));
}

pub(super) static MASK_KEY_SRC: Flag = Flag {
    long: "mask-key-src",
    argument: Argument::Required("KEY"),
    help: "mask for the expected source key",
    man: "The bits of the expected source key that are compared, 0 to 65535, hexadecimal after 0x.",
    effect: field(GRE, "-------- --R-- -", |raw, word| {
        raw.mask.src_port = Some(word.key()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn mask_key_src_is_a_key() {
    assert_eq!(tests::read("-L -p gre --mask-key-src 21").unwrap().mask.src_port, Some(21));
}

pub(super) static MASK_KEY_DST: Flag = Flag {
    long: "mask-key-dst",
    argument: Argument::Required("KEY"),
    help: "mask for the expected destination key",
    man: "The bits of the expected destination key that are compared, 0 to 65535, hexadecimal after 0x.",
    effect: field(GRE, "-------- --R-- -", |raw, word| {
        raw.mask.dst_port = Some(word.key()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn mask_key_dst_is_a_key() {
    assert_eq!(tests::read("-L -p gre --mask-key-dst 21").unwrap().mask.dst_port, Some(21));
}

pub(super) static TUPLE_KEY_SRC: Flag = Flag {
    long: "tuple-key-src",
    argument: Argument::Required("KEY"),
    help: "source key that an expectation awaits",
    man: "The source key that an expectation awaits, 0 to 65535, hexadecimal after 0x.",
    effect: field(GRE, "-------- --R-- -", |raw, word| {
        raw.expected.src_port = Some(word.key()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn tuple_key_src_is_a_key() {
    assert_eq!(tests::read("-L -p gre --tuple-key-src 21").unwrap().expected.src_port, Some(21));
}

pub(super) static TUPLE_KEY_DST: Flag = Flag {
    long: "tuple-key-dst",
    argument: Argument::Required("KEY"),
    help: "destination key that an expectation awaits",
    man: "The destination key that an expectation awaits, 0 to 65535, hexadecimal after 0x.",
    effect: field(GRE, "-------- --R-- -", |raw, word| {
        raw.expected.dst_port = Some(word.key()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn tuple_key_dst_is_a_key() {
    assert_eq!(tests::read("-L -p gre --tuple-key-dst 21").unwrap().expected.dst_port, Some(21));
}

#[test]
fn keys_may_be_hex() {
    assert_eq!(tests::read("-L -p gre --srckey 0x10").unwrap().orig.src_port, Some(16));
    assert!(matches!(tests::read("-L -p gre --dstkey 65536"), Err(Usage::BadValue { .. })));
    assert!(matches!(tests::read("-L -p tcp --srckey 1"), Err(Usage::NeedsProtocol { .. })));
}

pub(super) static ICMP_TYPE: Flag = Flag {
    long: "icmp-type",
    argument: Argument::Required("TYPE"),
    help: "ICMP type of the original direction",
    man: "The ICMP type of the original direction, 0 to 255.",
    effect: field(ICMP, "oRRRooo- ----- -", |raw, word| {
        raw.icmp.kind = Some(word.byte()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn icmp_type_is_a_number() {
    assert_eq!(tests::read("-L -p icmp --icmp-type 8").unwrap().icmp.kind, Some(8));
}

pub(super) static ICMP_CODE: Flag = Flag {
    long: "icmp-code",
    argument: Argument::Required("CODE"),
    help: "ICMP code of the original direction",
    man: "The ICMP code of the original direction, 0 to 255.",
    effect: field(ICMP, "oRRRooo- ----- -", |raw, word| {
        raw.icmp.code = Some(word.byte()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn icmp_code_is_a_number() {
    assert_eq!(tests::read("-L -p icmp --icmp-code 8").unwrap().icmp.code, Some(8));
}

pub(super) static ICMP_ID: Flag = Flag {
    long: "icmp-id",
    argument: Argument::Required("ID"),
    help: "ICMP id of the original direction",
    man: "The ICMP id of the original direction, 0 to 65535. With -G, -I and -A the default is 0.",
    effect: field(ICMP, "ooooooo- ----- -", |raw, word| {
        raw.icmp.id = Some(word.port()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn icmp_id_is_a_number() {
    assert_eq!(tests::read("-L -p icmp --icmp-id 8").unwrap().icmp.id, Some(8));
}

pub(super) static ICMPV6_TYPE: Flag = Flag {
    long: "icmpv6-type",
    argument: Argument::Required("TYPE"),
    help: "ICMPv6 type of the original direction",
    man: "The ICMPv6 type of the original direction, 0 to 255.",
    effect: field(ICMPV6, "oRRRooo- ----- -", |raw, word| {
        raw.icmp.kind = Some(word.byte()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn icmpv6_type_is_a_number() {
    assert_eq!(tests::read("-L -p icmpv6 --icmpv6-type 8").unwrap().icmp.kind, Some(8));
}

pub(super) static ICMPV6_CODE: Flag = Flag {
    long: "icmpv6-code",
    argument: Argument::Required("CODE"),
    help: "ICMPv6 code of the original direction",
    man: "The ICMPv6 code of the original direction, 0 to 255.",
    effect: field(ICMPV6, "oRRRooo- ----- -", |raw, word| {
        raw.icmp.code = Some(word.byte()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn icmpv6_code_is_a_number() {
    assert_eq!(tests::read("-L -p icmpv6 --icmpv6-code 8").unwrap().icmp.code, Some(8));
}

pub(super) static ICMPV6_ID: Flag = Flag {
    long: "icmpv6-id",
    argument: Argument::Required("ID"),
    help: "ICMPv6 id of the original direction",
    man: "The ICMPv6 id of the original direction, 0 to 65535. With -G, -I and -A the default is 0.",
    effect: field(ICMPV6, "ooooooo- ----- -", |raw, word| {
        raw.icmp.id = Some(word.port()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn icmpv6_id_is_a_number() {
    assert_eq!(tests::read("-L -p icmpv6 --icmpv6-id 8").unwrap().icmp.id, Some(8));
}

#[test]
fn icmp_fields_are_in_range() {
    for field in ["type 256", "code 300", "id 65536", "type -1"] {
        assert!(matches!(tests::read(&format!("-L -p icmp --icmp-{field}")), Err(Usage::BadValue { .. })), "{field}");
    }
}

pub(super) static STATE: Flag = Flag {
    long: "state",
    argument: Argument::Required("STATE"),
    help: "state of TCP, SCTP or DCCP",
    man: "The state, in capitals. TCP: NONE, SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, \
          TIME_WAIT, CLOSE, SYN_SENT2 (or LISTEN, its old name). SCTP: NONE, CLOSED, COOKIE_WAIT, COOKIE_ECHOED, \
          ESTABLISHED, SHUTDOWN_SENT, SHUTDOWN_RECD, SHUTDOWN_ACK_SENT, HEARTBEAT_SENT, HEARTBEAT_ACKED; conntrack \
          crashes on the last two and on unknown names, ctflow refuses unknown names. DCCP: NONE, REQUEST, RESPOND, \
          PARTOPEN, OPEN, CLOSEREQ, CLOSING, TIMEWAIT, IGNORE, INVALID. With -U, the new state.",
    effect: field(STATEFUL, "ooRRooo- ----- -", state),
    ..OPTION
};

/// Applies `--state`: a state of the protocol of the last `-p`, spelled exactly.
fn state(raw: &mut RawArgs, word: OptionValue<'_>) -> Result<(), Usage> {
    let protocol = raw.protocol.unwrap_or(uapi::IPPROTO_TCP);
    let names = match protocol {
        uapi::IPPROTO_SCTP => &SCTP_STATES,
        uapi::IPPROTO_DCCP => &DCCP_STATES,
        _ => &TCP_STATES,
    };
    let old_name = protocol == uapi::IPPROTO_TCP && word.value == "LISTEN";
    let known_name = if old_name { "SYN_SENT2" } else { word.value };
    let number = (0..).zip(names).find(|(_, name)| **name == known_name).map(|(number, _)| number);
    let state: u8 = number.ok_or_else(|| word.invalid(words::join_with_and(names.iter().copied())))?;
    raw.state = Some((protocol, state));
    Ok(())
}

#[test]
fn state_must_belong_to_the_protocol() {
    let state = |line| tests::read(line).map(|raw| raw.state.unwrap());
    assert_eq!(state("-L -p tcp --state ESTABLISHED"), Ok((6, 3)));
    assert_eq!(state("-L -p tcp --state LISTEN"), Ok((6, 9)));
    assert_eq!(state("-L -p sctp --state ESTABLISHED"), Ok((132, 4)));
    assert_eq!(state("-L -p sctp --state HEARTBEAT_ACKED"), Ok((132, 9)));
    assert_eq!(state("-L -p dccp --state TIMEWAIT"), Ok((33, 7)));
    for line in ["-L -p tcp --state established", "-L -p sctp --state UNKNOWN", "-L -p dccp --state LISTEN"] {
        assert!(matches!(state(line), Err(Usage::BadValue { .. })), "{line}");
    }
    assert!(matches!(state("-L -p udp --state NONE"), Err(Usage::NeedsProtocol { .. })));
}

pub(super) static ORIG_VTAG: Flag = Flag {
    long: "orig-vtag",
    argument: Argument::Required("TAG"),
    help: "SCTP verification tag, original direction",
    man: "The SCTP verification tag of the original direction, 0 to 4294967295, hexadecimal after 0x.",
    effect: field(SCTP, "-oRRo--- --R-- -", |raw, word| {
        raw.vtags.0 = Some(word.tag()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn orig_vtag_is_a_number() {
    assert_eq!(tests::read("-U -p sctp --orig-vtag 4294967295").unwrap().vtags.0, Some(u32::MAX));
}

pub(super) static REPLY_VTAG: Flag = Flag {
    long: "reply-vtag",
    argument: Argument::Required("TAG"),
    help: "SCTP verification tag, reply direction",
    man: "The SCTP verification tag of the reply direction, 0 to 4294967295, hexadecimal after 0x.",
    effect: field(SCTP, "-oRRo--- --R-- -", |raw, word| {
        raw.vtags.1 = Some(word.tag()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn reply_vtag_is_a_number() {
    assert_eq!(tests::read("-U -p sctp --reply-vtag 4294967295").unwrap().vtags.1, Some(u32::MAX));
}

#[test]
fn tags_are_numbers() {
    assert!(matches!(tests::read("-U -p sctp --orig-vtag x"), Err(Usage::BadValue { .. })));
    assert_eq!(tests::read("-U -p sctp --orig-vtag 0xff").unwrap().vtags.0, Some(255));
}

pub(super) static ROLE: Flag = Flag {
    long: "role",
    argument: Argument::Required("client|server"),
    help: "DCCP role of the original direction",
    man: "The role of the original direction of a DCCP flow: client or server. Names may be abbreviated.",
    effect: field(DCCP, "--RR---- --R-- -", |raw, word| {
        let role = words::match_prefix(word.value, &[("client", 0), ("server", 1)]);
        raw.role = Some(role.ok_or_else(|| word.invalid("client or server"))?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn role_is_one_of_two() {
    assert_eq!(tests::read("-I -p dccp --role S").unwrap().role, Some(1));
    assert!(matches!(tests::read("-I -p dccp --role x"), Err(Usage::BadValue { .. })));
}
