//! Options that select entries by their attributes, set attributes, or choose the input and output of a command.

use std::path::PathBuf;

use ctflow_parser::filter::Masked;
use ctflow_parser::uapi;

use super::{Argument, Effect, Flag, OPTION, option};
use crate::control::Reach;
use crate::event::choice::SinkChoice;
use crate::flags::plan::EventMask;
use crate::flags::raw::{LabelsDel, OptionValue, RawArgs};
use crate::flags::usage::Usage;
use crate::output::Encoding;
use crate::words;

#[cfg(test)]
use super::tests;

pub(super) static TIMEOUT: Flag = Flag {
    short: Some('t'),
    long: "timeout",
    argument: Argument::Required("SECONDS"),
    help: "seconds until the flow expires",
    man: "With -I, -A and -U, the seconds after which the flow expires if no packet arrives. With -D, selects the \
          flows with exactly that many seconds left.",
    effect: option("--RRoo-- --R-- -", |raw, word| {
        let seconds = words::decimal(word.value).ok_or_else(|| word.invalid("a number of seconds, 0 to 4294967295"))?;
        raw.timeout = Some(seconds);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn timeout_is_a_number_of_seconds() {
    assert_eq!(tests::read("-U -t 0100").unwrap().timeout, Some(100));
    for value in ["x", "-1", "4294967296", "1m"] {
        assert!(matches!(tests::read(&format!("-U -t {value}")), Err(Usage::BadValue { .. })), "{value}");
    }
}

pub(super) static STATUS: Flag = Flag {
    short: Some('u'),
    long: "status",
    argument: Argument::Required("[!]FLAG[,[!]FLAG...]"),
    help: "flows with these status flags; !FLAG: without it",
    man: "Selects flows that have all of these flags, and none of those after a !: ASSURED, SEEN_REPLY, UNSET, \
          FIXED_TIMEOUT, EXPECTED, OFFLOAD, HW_OFFLOAD; UNREPLIED means !SEEN_REPLY. Names may be abbreviated. UNSET \
          alone selects flows that have none of ASSURED, SEEN_REPLY, FIXED_TIMEOUT and EXPECTED. With -I, -A and -U, \
          the flags to set. Negated flags work with every command that selects flows, also with -D, and together \
          with other flags.",
    effect: option("o-oooo-- --o-- -", status),
    ..OPTION
};

/// The flags of `-u` and their bits. An abbreviation means the first name that starts with it.
pub(super) const STATUS_NAMES: [(&str, u32); 7] = [
    ("ASSURED", uapi::IPS_ASSURED),
    ("SEEN_REPLY", uapi::IPS_SEEN_REPLY),
    ("UNSET", 0),
    ("FIXED_TIMEOUT", uapi::IPS_FIXED_TIMEOUT),
    ("EXPECTED", uapi::IPS_EXPECTED),
    ("OFFLOAD", uapi::IPS_OFFLOAD),
    ("HW_OFFLOAD", uapi::IPS_HW_OFFLOAD),
];

/// Applies `-u`: a list of flags, each of which may be negated with `!`.
fn status(raw: &mut RawArgs, word: OptionValue<'_>) -> Result<(), Usage> {
    for item in word.value.split(',') {
        let name = item.strip_prefix('!');
        if item.starts_with("UNREPLIED") {
            raw.status.clear |= uapi::IPS_SEEN_REPLY;
        } else if let Some(translation) = words::match_prefix(name.unwrap_or(item), &TRANSLATIONS) {
            raw.warnings.push(translation);
        } else {
            let known =
                || format!("{}, and UNREPLIED", words::join_with_and(STATUS_NAMES.iter().map(|(name, _)| *name)));
            let flag = words::match_prefix(name.unwrap_or(item), &STATUS_NAMES);
            let flag = flag.ok_or_else(|| word.invalid_item(item, known()))?;
            match (name, flag) {
                (Some(_), flag) => raw.status.clear |= flag,
                (None, 0) => raw.status_unset = true,
                (None, flag) => raw.status.set |= flag,
            }
        }
    }
    Ok(())
}

/// Flags of `-u` that conntrack ignores, abbreviations included, with the warning that it prints.
const TRANSLATIONS: [(&str, &str); 2] = [
    ("SRC_NAT", "WARNING: ignoring SRC_NAT, use --src-nat instead"),
    ("DST_NAT", "WARNING: ignoring DST_NAT, use --dst-nat instead"),
];

#[test]
fn status_is_a_list_of_flags_set_or_clear() {
    let read = |list| tests::read(&format!("-L -u {list}")).map(|raw| (raw.status.set, raw.status.clear));
    let (assured, seen) = (uapi::IPS_ASSURED, uapi::IPS_SEEN_REPLY);
    let table = [
        ("ASSURED", assured, 0),
        ("a,SEEN", assured | seen, 0),
        ("!assured", 0, assured),
        ("UNREPLIED", 0, seen),
        ("SEEN_REPLY,!ASSURED", seen, assured),
        ("HW_OFFLOAD,off", uapi::IPS_HW_OFFLOAD | uapi::IPS_OFFLOAD, 0),
        ("UNSET", 0, 0),
        ("S", 0, 0),
    ];
    for (list, set, clear) in table {
        assert_eq!(read(list), Ok((set, clear)), "{list}");
    }
    for list in ["", "a,", "!", "foo", "unreplied", "ASSUREDX", "UNR"] {
        assert!(matches!(read(list), Err(Usage::BadValue { .. })), "{list}");
    }
    assert_eq!(tests::read("-L -u D,SR").unwrap().warnings.len(), 2);
    assert!(tests::read("-L -u UNSET").unwrap().status_unset);
}

pub(super) static MARK: Flag = Flag {
    short: Some('m'),
    long: "mark",
    argument: Argument::Required("VALUE[/MASK]"),
    help: "flows with this mark, under a mask; with -I, -A, -U set it",
    man: "Selects flows whose mark, under the mask, equals the value. With -I and -A, sets the mark. With -U, new \
          mark = (old AND NOT mask) XOR value; without a mask, the value is the new mark. Numbers are decimal, \
          hexadecimal after 0x, or octal after 0.",
    effect: option("o-ooooo- ----- -", |raw, word| {
        let (value, mask) = word.value.split_once('/').map_or((word.value, None), |(v, m)| (v, Some(m)));
        let read =
            |text| words::number(text).ok_or_else(|| word.invalid_number("VALUE or VALUE/MASK, each 0 to 4294967295"));
        let mask = mask.map(|mask| if mask.is_empty() { Ok(0) } else { read(mask) }).transpose()?;
        raw.mark = Some(Masked { value: read(value)?, mask: mask.unwrap_or(u32::MAX) });
        Ok(())
    }),
    ..OPTION
};

#[test]
fn mark_may_have_a_mask() {
    let mark = |value| tests::read(&format!("-L -m {value}")).map(|raw| raw.mark.unwrap());
    assert_eq!(mark("0x10"), Ok(Masked { value: 16, mask: u32::MAX }));
    assert_eq!(mark("1/0xff"), Ok(Masked { value: 1, mask: 255 }));
    assert_eq!(mark("1/"), Ok(Masked { value: 1, mask: 0 }));
    for value in ["x", "/1", "1/2/3", "4294967296", "1/x"] {
        assert!(matches!(mark(value), Err(Usage::BadNumber { .. })), "{value}");
    }
}

pub(super) static SECMARK: Flag = Flag {
    short: Some('c'),
    long: "secmark",
    argument: Argument::Required("VALUE"),
    help: "flows with this security mark",
    man: "Selects flows by security mark. conntrack accepts this option but does not select by it.",
    effect: option("o-----o- ----- -", |raw, word| {
        raw.secmark = Some(word.number_32()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn secmark_is_a_number_of_32_bits() {
    assert_eq!(tests::read("-L -c 9").unwrap().secmark, Some(9));
    assert_eq!(tests::read("-L -c 4294967296").unwrap_err().code(), 1);
}

pub(super) static ID: Flag = Flag {
    short: Some('i'),
    long: "id",
    argument: Argument::Required("ID"),
    help: "the flow with this kernel id",
    man: "Selects the flow with this id. -o id prints ids.",
    effect: option("-o--oo-- ----- -", |raw, word| {
        raw.id = Some(word.number_32()?);
        Ok(())
    }),
    ..OPTION
};

#[test]
fn id_is_a_number_of_32_bits() {
    assert_eq!(tests::read("-D -i 4071944128").unwrap().id, Some(4_071_944_128));
    assert!(matches!(tests::read("-D -i x"), Err(Usage::BadNumber { .. })));
}

pub(super) static LABEL: Flag = Flag {
    short: Some('l'),
    long: "label",
    argument: Argument::Required("NAME[,NAME...]"),
    help: "flows that have all these labels",
    man: "Selects flows that have all of these labels, in one list or over several options.",
    effect: option("oo--ooo- ----- -", |raw, word| word.append_names(&mut raw.labels)),
    ..OPTION
};

#[test]
fn labels_of_several_options_are_combined() {
    assert_eq!(tests::read("-L -l web,vpn -l x").unwrap().labels, ["web", "vpn", "x"]);
    assert!(matches!(tests::read("-L -l web,"), Err(Usage::BadValue { .. })));
}

pub(super) static LABEL_ADD: Flag = Flag {
    long: "label-add",
    argument: Argument::Required("NAME[,NAME...]"),
    help: "add these labels",
    man: "Adds these labels to the flow. The kernel refuses labels unless the ruleset uses them.",
    effect: option("--ooo--- ----- -", |raw, word| word.append_names(&mut raw.labels_add)),
    ..OPTION
};

#[test]
fn label_add_accepts_names() {
    assert_eq!(tests::read("-U --label-add big,eth0-in").unwrap().labels_add, ["big", "eth0-in"]);
}

pub(super) static HELPER: Flag = Flag {
    long: "ct-helper",
    argument: Argument::Required("NAME"),
    help: "assign this connection tracking helper",
    man: "Assigns a connection tracking helper, such as ftp, to the new flow. conntrack has no such option; -o save \
          prints it for flows that have a helper.",
    effect: option("--oo---- ----- -", |raw, word| {
        raw.helper = Some(word.value.to_owned());
        Ok(())
    }),
    ..OPTION
};

#[test]
fn ct_helper_accepts_a_name() {
    assert_eq!(tests::read("-I --ct-helper ftp").unwrap().helper.as_deref(), Some("ftp"));
}

pub(super) static LABEL_DEL: Flag = Flag {
    long: "label-del",
    argument: Argument::Optional("NAME[,NAME...]"),
    help: "remove these labels, or all",
    man: "Removes these labels from the flow; without an argument, all of its labels.",
    effect: option("----o--- ----- -", |raw, word| {
        if word.value.is_empty() {
            raw.labels_del = LabelsDel::All;
            return Ok(());
        }
        let mut names = Vec::new();
        word.append_names(&mut names)?;
        match &mut raw.labels_del {
            LabelsDel::All => {}
            LabelsDel::Named(known) => known.append(&mut names),
        }
        Ok(())
    }),
    ..OPTION
};

#[test]
fn label_del_accepts_names_or_none() {
    let removed = |line| tests::read(line).unwrap().labels_del;
    assert_eq!(removed("-U --label-del -t 5"), LabelsDel::All);
    assert_eq!(removed("-U --label-del a,b"), LabelsDel::Named(vec!["a".into(), "b".into()]));
    assert_eq!(removed("-U --label-del --label-del a"), LabelsDel::All);
}

pub(super) static LABELMAP: Flag = Flag {
    long: "labelmap",
    argument: Argument::Required("FILE"),
    help: "file with the names of labels",
    man: "The file that names labels, one number and name on each line. The default is /etc/xtables/connlabel.conf. \
          Unlike in conntrack it is also accepted with -I and -A.",
    effect: option("o-ooooo- ----- -", |raw, word| {
        if raw.labelmap.is_some() {
            return Err(Usage::Repeated("labelmap"));
        }
        raw.labelmap = Some(PathBuf::from(word.value));
        Ok(())
    }),
    ..OPTION
};

#[test]
fn labelmap_is_accepted_once() {
    assert_eq!(tests::read("-L --labelmap /x").unwrap().labelmap, Some("/x".into()));
    assert_eq!(tests::read("-L --labelmap x --labelmap x").unwrap_err(), Usage::Repeated("labelmap"));
}

pub(super) static ZERO: Flag = Flag {
    short: Some('z'),
    long: "zero",
    argument: Argument::None,
    help: "reset counters to 0 while listing",
    man: "Reads the counters and resets them to 0 in one step. The kernel resets the whole table, or the family of \
          -f, so options that select single flows are refused.",
    effect: option("o------- ----- -", |raw, _| {
        raw.zero = true;
        Ok(())
    }),
    ..OPTION
};

#[test]
fn zero_has_no_value() {
    assert!(tests::read("-L -z").unwrap().zero && !tests::read("-L").unwrap().zero);
}

pub(super) static NAT_RANGE: Flag = Flag {
    short: Some('a'),
    long: "nat-range",
    argument: Argument::Required("ANY"),
    help: "ignored",
    man: "Ignored, with a warning; the option has had no effect for a long time.",
    effect: Effect::Ignored("WARNING: ignoring -a, deprecated option."),
    ..OPTION
};

#[test]
fn nat_range_is_ignored_with_a_warning() {
    assert_eq!(tests::read("-C -a x").unwrap().warnings, ["WARNING: ignoring -a, deprecated option."]);
    assert!(matches!(tests::read("-C -a"), Err(Usage::MissingArgument { .. })));
}

pub(super) static OUTPUT: Flag = Flag {
    short: Some('o'),
    long: "output",
    argument: Argument::Required("TYPE[,TYPE...]"),
    help: "output format: xml, json, save, extended and more",
    man: "Sets the output format; types may be abbreviated and combined. extended: the layer-3 family comes first. \
          id: the kernel's id comes last. timestamp: each event begins with its time, as [seconds.microseconds]: the \
          kernel's time where it is known (Linux 6.14 with net.netfilter.nf_conntrack_timestamp=1), otherwise the \
          time of reading. ktimestamp: the times at which the flow started and ended. labels: the names of its \
          labels. xml: one element for each entry, with the id; with timestamp, events have local times. save: the \
          command line that creates the entry, for -R; cannot be combined with other types. json: one object on each \
          line, with all known attributes; ctflow(1) describes its keys. userspace: accepted without effect.",
    effect: option("oo--ooo- o---o - oooo", output),
    ..OPTION
};

/// An output type of `-o`.
#[derive(Clone, Copy)]
pub(super) enum OutputType {
    Xml,
    Extended,
    Timestamp,
    Id,
    Ktimestamp,
    Labels,
    Userspace,
    Save,
    Json,
}

/// The types of `-o` by name. An abbreviation means the first name that starts with it.
pub(super) const OUTPUT_TYPES: [(&str, OutputType); 9] = [
    ("xml", OutputType::Xml),
    ("extended", OutputType::Extended),
    ("timestamp", OutputType::Timestamp),
    ("id", OutputType::Id),
    ("ktimestamp", OutputType::Ktimestamp),
    ("labels", OutputType::Labels),
    ("userspace", OutputType::Userspace),
    ("save", OutputType::Save),
    ("json", OutputType::Json),
];

/// Applies `-o`: a list of output types, combined with those of earlier `-o`.
fn output(raw: &mut RawArgs, word: OptionValue<'_>) -> Result<(), Usage> {
    let (format, types) = (&mut raw.format, &mut raw.output_types);
    word.for_each_item(&OUTPUT_TYPES, |name| {
        types.save |= matches!(name, OutputType::Save);
        types.others |= !matches!(name, OutputType::Save);
        match name {
            OutputType::Xml => format.encoding = Encoding::Xml,
            OutputType::Save => format.encoding = Encoding::Save,
            OutputType::Json => format.encoding = Encoding::Json,
            OutputType::Extended => format.extended = true,
            OutputType::Timestamp => format.timestamp = true,
            OutputType::Id => format.id = true,
            OutputType::Ktimestamp => format.ktimestamp = true,
            OutputType::Labels => format.labels = true,
            OutputType::Userspace => {}
        }
    })?;
    if types.save && types.others { Err(Usage::SaveCombined) } else { Ok(()) }
}

#[test]
fn output_types_are_combined_over_lists_and_repeats() {
    let format = tests::read("-E -o ext,I -o TIME").unwrap().format;
    assert!(format.extended && format.id && format.timestamp && format.encoding == Encoding::Text);
    let format = tests::read("-L -ox").unwrap().format;
    assert!(!format.extended && !format.id && !format.timestamp && format.encoding == Encoding::Xml);
    let format = tests::read("-L -o k,l,u").unwrap().format;
    assert!(format.ktimestamp && format.labels && format.encoding == Encoding::Text);
    for (line, item) in [("-L -o foo", "foo"), ("-L -o id,", ""), ("-L -o ,", ""), ("-L -o id,xmlx", "xmlx")] {
        assert!(matches!(tests::read(line), Err(Usage::BadValue { value, .. }) if value == item), "{line}");
    }
}

#[test]
fn save_is_refused_with_another_output_type() {
    for line in ["-L -o save", "-L -o s", "-L -o save -o SA,save"] {
        assert_eq!(tests::read(line).unwrap().format.encoding, Encoding::Save, "{line}");
    }
    for line in ["-L -o save,xml", "-L -o id,save", "-L -o save -o userspace"] {
        assert_eq!(tests::read(line).unwrap_err(), Usage::SaveCombined, "{line}");
    }
}

pub(super) static EVENT_MASK: Flag = Flag {
    short: Some('e'),
    long: "event-mask",
    argument: Argument::Required("EVENT[,EVENT...]"),
    help: "only these events: ALL, NEW, UPDATES, DESTROY",
    man: "Receives only these kinds of event: NEW, UPDATES, DESTROY, or ALL, the default. Names may be abbreviated; \
          several kinds are combined. The kernel does not send the others.",
    effect: option("------o- ----- -", event_mask),
    ..OPTION
};

/// The kinds of `-e` by name. An abbreviation means the first name that starts with it.
pub(super) const EVENTS: [(&str, EventMask); 4] = [
    ("ALL", EventMask::ALL),
    ("NEW", EventMask { new: true, ..EventMask::NONE }),
    ("UPDATES", EventMask { update: true, ..EventMask::NONE }),
    ("DESTROY", EventMask { destroy: true, ..EventMask::NONE }),
];

/// Applies `-e`: a list of event kinds, combined with those of earlier `-e`.
fn event_mask(raw: &mut RawArgs, word: OptionValue<'_>) -> Result<(), Usage> {
    let mut mask = raw.events.unwrap_or(EventMask::NONE);
    word.for_each_item(&EVENTS, |event| mask = mask.or(event))?;
    raw.events = Some(mask);
    Ok(())
}

#[test]
fn event_masks_are_combined_over_lists_and_repeats() {
    let mask = |line| tests::read(line).unwrap().events;
    assert_eq!(mask("-E"), None);
    assert_eq!(mask("-E -e all"), Some(EventMask::ALL));
    assert_eq!(mask("-E -e NEW -e d"), Some(EventMask { update: false, ..EventMask::ALL }));
    assert_eq!(mask("-E --event-mask=upd"), Some(EventMask { update: true, ..EventMask::NONE }));
    assert!(matches!(tests::read("-E -e NEW,,ALL"), Err(Usage::BadValue { value, .. }) if value.is_empty()));
}

pub(super) static BUFFER_SIZE: Flag = Flag {
    short: Some('b'),
    long: "buffer-size",
    argument: Argument::Required("BYTES"),
    help: "receive buffer of the event socket",
    man: "Requests a receive buffer of that many bytes for events. A larger buffer holds a longer burst before \
          events are lost. The kernel doubles the number for its own needs.",
    effect: option("------o- ----- -", buffer_size),
    ..OPTION
};

/// Applies `-b`: a number of bytes greater than 0.
fn buffer_size(raw: &mut RawArgs, word: OptionValue<'_>) -> Result<(), Usage> {
    let bytes = words::number(word.value).filter(|bytes| *bytes > 0);
    raw.buffer_bytes = Some(bytes.ok_or_else(|| word.invalid("a number of bytes, 1 to 4294967295"))?);
    Ok(())
}

#[test]
fn buffer_size_is_a_number_of_bytes() {
    assert_eq!(tests::read("-E -b 20000000").unwrap().buffer_bytes, Some(20_000_000));
    assert_eq!(tests::read("-E --buffer 0x100000").unwrap().buffer_bytes, Some(1 << 20));
    for line in ["-E -b 0", "-E -b x", "-E -b 20M", "-E -b 4294967296"] {
        assert!(matches!(tests::read(line), Err(Usage::BadValue { .. })), "{line}");
    }
}

pub(super) static WRITE: Flag = Flag {
    long: "write",
    argument: Argument::Required("FILE"),
    help: "write events to this file, as pcapng",
    man: "Writes the events to a file instead of printing them: pcapng of link type netlink, which wireshark and \
          --read can read.",
    effect: option("------o- ----o -", |raw, word| {
        raw.sink = SinkChoice::Pcapng(word.value.into());
        Ok(())
    }),
    ..OPTION
};

#[test]
fn write_accepts_a_file() {
    assert_eq!(tests::read("-E --write x").unwrap().sink, SinkChoice::Pcapng("x".into()));
}

pub(super) static READ: Flag = Flag {
    long: "read",
    argument: Argument::Required("FILE"),
    help: "read events from this file instead of the kernel",
    man: "Reads events from a pcap or pcapng file of link type netlink, recorded by --write or on an nlmon device, \
          and prints them like live events, with the times in the file. With --write, writes the selected events to \
          another file. Needs no privileges.",
    effect: option("------o- ----o -", |raw, word| {
        raw.read = Some(PathBuf::from(word.value));
        Ok(())
    }),
    ..OPTION
};

#[test]
fn read_accepts_a_file() {
    assert_eq!(tests::read("-E --read x").unwrap().read, Some("x".into()));
}

pub(super) static DAEMON: Flag = Flag {
    long: "daemon",
    argument: Argument::Optional("SOCKET"),
    help: "read events from the running daemon",
    man: "Reads the events that the running daemon receives, instead of opening an event socket of its own: packets \
          do not wait longer, however many programs read events this way. The daemon is found by its control socket, \
          if one is given, otherwise by /etc/ctflow/ctflow.toml. Events that the daemon itself filters out are \
          missing.",
    effect: option("------o- ----o -", |raw, word| {
        raw.daemon = Some(if word.value.is_empty() { Reach::Default } else { Reach::Socket(word.value.into()) });
        Ok(())
    }),
    ..OPTION
};

#[test]
fn daemon_accepts_a_socket_or_nothing() {
    assert_eq!(tests::read("-E --daemon").unwrap().daemon, Some(Reach::Default));
    assert_eq!(tests::read("-E --daemon=/run/x").unwrap().daemon, Some(Reach::Socket("/run/x".into())));
}
