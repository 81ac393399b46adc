//! The flags: one item each, with its names, its argument, its help, where it is legal and what it does, and its test
//! right below. The parser, the checks and the help text are all made from [`FLAGS`].
//!
//! To add one: write its item and its test, put it into [`FLAGS`] in the order of the help text, and give [`Raw`] a
//! field for its effect, [`super::plan`] a field for its meaning.

use ctflow_parser::request::Table;
use ctflow_parser::uapi;

use super::plan::EventMask;
use super::raw::{Action, Raw, Word};
use super::usage::Usage;
use super::words;
use crate::output::{Encoding, Subject};
use crate::protocol;

/// One flag.
#[derive(Debug)]
pub(crate) struct Flag {
    /// Its letter.
    pub(crate) short: Option<char>,
    /// Its name.
    pub(crate) long: &'static str,
    /// Other names for it.
    pub(crate) aliases: &'static [&'static str],
    /// What follows it.
    pub(crate) argument: Argument,
    /// What it is for, in a line.
    pub(crate) help: &'static str,
    /// All there is to say.
    pub(crate) man: &'static str,
    /// What it does.
    pub(crate) effect: Effect,
}

/// What follows a flag.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument {
    /// Nothing.
    None,
    /// A table, or nothing.
    Table,
    /// A value, described so in the help text.
    Required(&'static str),
}

/// What a flag does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effect {
    /// It is what to do.
    Command {
        /// Which.
        action: Action,
        /// On which tables it can be done.
        tables: &'static [Table],
    },
    /// It says more about what to do.
    Option {
        /// With which commands, on what.
        legal: &'static [(Action, Subject)],
        /// Takes the value.
        apply: fn(&mut Raw, Word<'_>) -> Result<(), Usage>,
    },
}

impl Flag {
    /// All its long names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.long].into_iter().chain(self.aliases.iter().copied())
    }
}

/// All flags, in the order of the help text; where several options are illegal, the first here is complained of.
pub(crate) static FLAGS: [&Flag; 11] =
    [&LIST, &EVENT, &COUNTER, &STATS, &VERSION, &HELP, &PROTONUM, &FAMILY, &OUTPUT, &EVENT_MASK, &BUFFER_SIZE];

/// The tables by name. The order decides what an abbreviation means.
pub(crate) const TABLES: [(&str, Table); 4] = [
    ("expect", Table::Expect),
    ("conntrack", Table::Conntrack),
    ("dying", Table::Dying),
    ("unconfirmed", Table::Unconfirmed),
];

/// What commands but `-L` work on.
const BOTH_TABLES: &[Table] = &[Table::Conntrack, Table::Expect];

static LIST: Flag = Flag {
    short: Some('L'),
    long: "dump",
    aliases: &[],
    argument: Argument::Table,
    help: "list a table",
    man: "Lists the flows of the table conntrack, the expectations of the table expect, the flows whose end could \
          not be reported yet (dying), or those whose first packet is still on its way (unconfirmed; always empty \
          since Linux 6.4). One line each on standard output, their number on standard error.",
    effect: Effect::Command {
        action: Action::List,
        tables: &[Table::Conntrack, Table::Expect, Table::Dying, Table::Unconfirmed],
    },
};

#[test]
fn list_takes_every_table() {
    assert_eq!(tests::chosen("-L"), (Action::List, Table::Conntrack));
    assert_eq!(tests::chosen("--dump unconf"), (Action::List, Table::Unconfirmed));
}

static EVENT: Flag = Flag {
    short: Some('E'),
    long: "event",
    aliases: &[],
    argument: Argument::Table,
    help: "follow events until interrupted",
    man: "Prints flows, or expectations, as they come, change and go, until SIGINT or SIGTERM. Their number is \
          printed at the end, on standard error.",
    effect: Effect::Command { action: Action::Event, tables: BOTH_TABLES },
};

#[test]
fn event_takes_flows_and_expectations() {
    assert_eq!(tests::chosen("-E"), (Action::Event, Table::Conntrack));
    assert_eq!(tests::chosen("--event expect"), (Action::Event, Table::Expect));
}

static COUNTER: Flag = Flag {
    short: Some('C'),
    long: "counter",
    aliases: &[],
    argument: Argument::Table,
    help: "print the number of entries",
    man: "Prints how many flows there are, or how many IPv4 expectations.",
    effect: Effect::Command { action: Action::Count, tables: BOTH_TABLES },
};

#[test]
fn counter_may_be_called_count() {
    assert_eq!(tests::chosen("-C expect"), (Action::Count, Table::Expect));
    assert_eq!(tests::chosen("--count"), (Action::Count, Table::Conntrack));
}

static STATS: Flag = Flag {
    short: Some('S'),
    long: "stats",
    aliases: &[],
    argument: Argument::Table,
    help: "print the kernel's statistics, a line per CPU",
    man: "Prints the kernel's counters of the table, one line per CPU. A counter that is newer than this program is \
          called unknown1, unknown2 and so on.",
    effect: Effect::Command { action: Action::Stats, tables: BOTH_TABLES },
};

#[test]
fn stats_of_both_tables() {
    assert_eq!(tests::chosen("-S"), (Action::Stats, Table::Conntrack));
    assert_eq!(tests::chosen("--stats exp"), (Action::Stats, Table::Expect));
}

static VERSION: Flag = Flag {
    short: Some('V'),
    long: "version",
    aliases: &[],
    argument: Argument::None,
    help: "print the version",
    man: "Prints name and version in one line. Called as conntrack, the version of conntrack whose behaviour this is.",
    effect: Effect::Command { action: Action::Version, tables: &[] },
};

#[test]
fn version_has_no_table() {
    assert_eq!(tests::chosen("-V"), (Action::Version, Table::Conntrack));
    assert_eq!(tests::chosen("--version").0, Action::Version);
}

static HELP: Flag = Flag {
    short: Some('h'),
    long: "help",
    aliases: &[],
    argument: Argument::None,
    help: "print this text",
    man: "Prints commands and options, a line each.",
    effect: Effect::Command { action: Action::Help, tables: &[] },
};

#[test]
fn help_has_no_table() {
    assert_eq!(tests::chosen("-h").0, Action::Help);
    assert_eq!(tests::chosen("--help expect"), (Action::Help, Table::Conntrack));
}

static PROTONUM: Flag = Flag {
    short: Some('p'),
    long: "protonum",
    aliases: &[],
    argument: Argument::Required("PROTO"),
    help: "flows of this layer-4 protocol",
    man: "Selects flows by layer-4 protocol: tcp, udp, udplite, sctp, dccp, icmp, icmpv6, gre, any name of \
          /etc/protocols, or a number from 0 to 255 (decimal, hex behind 0x, octal behind 0). Given twice, the last \
          one holds.",
    effect: Effect::Option {
        legal: &[(Action::List, Subject::Flows), (Action::Event, Subject::Flows), (Action::Help, Subject::Flows)],
        apply: protonum,
    },
};

fn protonum(raw: &mut Raw, word: Word<'_>) -> Result<(), Usage> {
    let right =
        || format!("{}, a name of /etc/protocols, or 0 to 255", protocol::names().collect::<Vec<_>>().join(", "));
    raw.protocol = Some(words::protocol(word.value).ok_or_else(|| word.bad(right()))?);
    Ok(())
}

#[test]
fn protonum_is_a_name_or_a_number_and_the_last_one_holds() {
    assert_eq!(tests::read("-L -p tcp -p 0x11").unwrap().protocol, Some(17));
    assert_eq!(tests::read("-L --proto ICMPv6").unwrap().protocol, Some(58));
    assert!(matches!(tests::read("-L -p 256"), Err(Usage::BadValue { value, .. }) if value == "256"));
    assert!(matches!(tests::read("-L -p foo"), Err(Usage::BadValue { right, .. }) if right.starts_with("tcp, udp, ")));
}

static FAMILY: Flag = Flag {
    short: Some('f'),
    long: "family",
    aliases: &[],
    argument: Argument::Required("FAMILY"),
    help: "entries of this layer-3 family: ipv4, ipv6",
    man: "Selects entries by layer-3 family, ipv4 or ipv6. Without it flows of both are taken, but only the \
          expectations of IPv4.",
    effect: Effect::Option {
        legal: &[
            (Action::List, Subject::Flows),
            (Action::List, Subject::Expectations),
            (Action::Event, Subject::Flows),
        ],
        apply: family,
    },
};

fn family(raw: &mut Raw, word: Word<'_>) -> Result<(), Usage> {
    let family = match word.value.to_ascii_lowercase().as_str() {
        "ipv4" => uapi::AF_INET,
        "ipv6" => uapi::AF_INET6,
        _ => return Err(word.bad("ipv4 or ipv6")),
    };
    raw.family = Some(family);
    Ok(())
}

#[test]
fn family_is_one_of_two() {
    assert_eq!(tests::read("-L -f ipv4").unwrap().family, Some(uapi::AF_INET));
    assert_eq!(tests::read("-L --family=IPv6").unwrap().family, Some(uapi::AF_INET6));
    for line in ["-L -f ipx", "-L -f ipv", "-L -f 4"] {
        assert!(matches!(tests::read(line), Err(Usage::BadValue { .. })), "{line}");
    }
}

static OUTPUT: Flag = Flag {
    short: Some('o'),
    long: "output",
    aliases: &[],
    argument: Argument::Required("TYPE[,TYPE...]"),
    help: "what lines look like: xml, extended, timestamp, id",
    man: "Changes what is printed of each entry; types may be cut short and given together. extended: the layer-3 \
          family in front. id: the kernel's id behind. timestamp: the time of each event in front, as \
          [seconds.microseconds]; the kernel's own where it is known (Linux 6.14 with \
          net.netfilter.nf_conntrack_timestamp=1), else that of reading. xml: one element to an entry, with the id; \
          with timestamp, local times in events.",
    effect: Effect::Option {
        legal: &[
            (Action::List, Subject::Flows),
            (Action::List, Subject::Expectations),
            (Action::Event, Subject::Flows),
            (Action::Event, Subject::Expectations),
        ],
        apply: output,
    },
};

#[derive(Clone, Copy)]
enum OutputType {
    Xml,
    Extended,
    Timestamp,
    Id,
}

fn output(raw: &mut Raw, word: Word<'_>) -> Result<(), Usage> {
    let names = [
        ("xml", OutputType::Xml),
        ("extended", OutputType::Extended),
        ("timestamp", OutputType::Timestamp),
        ("id", OutputType::Id),
    ];
    let format = &mut raw.format;
    word.each(&names, |name| match name {
        OutputType::Xml => format.encoding = Encoding::Xml,
        OutputType::Extended => format.extended = true,
        OutputType::Timestamp => format.timestamp = true,
        OutputType::Id => format.id = true,
    })
}

#[test]
fn output_types_add_up_over_lists_and_repeats() {
    let format = tests::read("-E -o ext,I -o TIME").unwrap().format;
    assert!(format.extended && format.id && format.timestamp && format.encoding == Encoding::Text);
    let format = tests::read("-L -ox").unwrap().format;
    assert!(!format.extended && !format.id && !format.timestamp && format.encoding == Encoding::Xml);
    for (line, item) in [("-L -o foo", "foo"), ("-L -o id,", ""), ("-L -o ,", ""), ("-L -o id,xmlx", "xmlx")] {
        assert!(matches!(tests::read(line), Err(Usage::BadValue { value, .. }) if value == item), "{line}");
    }
}

static EVENT_MASK: Flag = Flag {
    short: Some('e'),
    long: "event-mask",
    aliases: &[],
    argument: Argument::Required("EVENT[,EVENT...]"),
    help: "only these events: ALL, NEW, UPDATES, DESTROY",
    man: "Subscribes to some kinds of event only: NEW, UPDATES, DESTROY, or ALL, which is what happens without. Names \
          may be cut short; several add up. The kernel then does not send the others.",
    effect: Effect::Option { legal: &[(Action::Event, Subject::Flows)], apply: event_mask },
};

fn event_mask(raw: &mut Raw, word: Word<'_>) -> Result<(), Usage> {
    let none = EventMask::NONE;
    let names = [
        ("ALL", EventMask::ALL),
        ("NEW", EventMask { new: true, ..none }),
        ("UPDATES", EventMask { update: true, ..none }),
        ("DESTROY", EventMask { destroy: true, ..none }),
    ];
    let mut mask = raw.events.unwrap_or(none);
    word.each(&names, |event| mask = mask.or(event))?;
    raw.events = Some(mask);
    Ok(())
}

#[test]
fn event_mask_adds_up_over_lists_and_repeats() {
    let mask = |line| tests::read(line).unwrap().events;
    assert_eq!(mask("-E"), None);
    assert_eq!(mask("-E -e all"), Some(EventMask::ALL));
    assert_eq!(mask("-E -e NEW -e d"), Some(EventMask { update: false, ..EventMask::ALL }));
    assert_eq!(mask("-E --event-mask=upd"), Some(EventMask { update: true, ..EventMask::NONE }));
    assert!(matches!(tests::read("-E -e NEW,,ALL"), Err(Usage::BadValue { value, .. }) if value.is_empty()));
}

static BUFFER_SIZE: Flag = Flag {
    short: Some('b'),
    long: "buffer-size",
    aliases: &[],
    argument: Argument::Required("BYTES"),
    help: "receive buffer of the event socket",
    man: "Asks the kernel for a receive buffer of that many bytes for events: the more, the longer a burst it holds \
          before events are lost. The kernel doubles the number for its own needs.",
    effect: Effect::Option { legal: &[(Action::Event, Subject::Flows)], apply: buffer_size },
};

fn buffer_size(raw: &mut Raw, word: Word<'_>) -> Result<(), Usage> {
    let bytes = words::number(word.value).filter(|bytes| *bytes > 0);
    raw.buffer_bytes = Some(bytes.ok_or_else(|| word.bad("a number of bytes, 1 to 4294967295"))?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    pub(super) fn read(line: &str) -> Result<Raw, Usage> {
        Raw::read(line.split(' ').map(OsString::from))
    }

    pub(super) fn chosen(line: &str) -> (Action, Table) {
        let command = read(line).unwrap().command.unwrap();
        (command.action, command.table)
    }

    #[test]
    fn no_two_flags_share_a_name_and_all_are_described() {
        let letters: Vec<_> = FLAGS.iter().filter_map(|flag| flag.short).collect();
        let names: Vec<_> = FLAGS.iter().flat_map(|flag| flag.names()).collect();
        assert!(letters.iter().all(|letter| letters.iter().filter(|other| *other == letter).count() == 1));
        assert!(names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1));
        for flag in FLAGS {
            assert!(flag.help.len() < 80 && !flag.help.ends_with('.') && flag.man.ends_with('.'), "{}", flag.long);
        }
    }
}
