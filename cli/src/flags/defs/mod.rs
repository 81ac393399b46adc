//! The flags: one item each, with its names, its argument, its help, the commands that accept it, its effect, and its
//! test right below. The parser, the checks and the help text are all generated from [`FLAGS`].
//!
//! To add a flag: write its item and its test, insert it into [`FLAGS`] in the order of the help text, and add
//! [`RawArgs`] a field for its parsed value, and to [`super::plan`] a field for its meaning.

use ctflow_parser::request::Table;

use super::matrix::Row;
use super::raw::{Action, OptionValue, RawArgs};
use super::usage::Usage;

mod addresses;
mod commands;
mod fields;
mod options;

use addresses::*;
use commands::*;
use fields::*;
use options::*;

/// One flag.
#[derive(Debug)]
pub(crate) struct Flag {
    /// Its letter, if it has one.
    pub(crate) short: Option<char>,
    /// Its long name, without dashes.
    pub(crate) long: &'static str,
    /// Its other long names.
    pub(crate) aliases: &'static [&'static str],
    /// Its argument.
    pub(crate) argument: Argument,
    /// Its line of the help text.
    pub(crate) help: &'static str,
    /// Its text in the manual page and in `help FLAG`.
    pub(crate) man: &'static str,
    /// Its effect.
    pub(crate) effect: Effect,
}

/// The argument of a flag.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument {
    /// No argument.
    None,
    /// A table, or no argument.
    Table,
    /// A value, with its name in the help text.
    Required(&'static str),
    /// A value or no argument, with its name in the help text. A value that is a separate word must not begin with a
    /// dash or a `!`.
    Optional(&'static str),
}

/// The effect of a flag.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effect {
    /// It is a command.
    Command {
        /// The command.
        action: Action,
        /// The tables that it accepts.
        tables: &'static [Table],
    },
    /// It is an option of a command.
    Option {
        /// The protocols whose `-p` must come before it; empty if it needs no `-p`.
        protocols: &'static [u8],
        /// The commands that accept or require it.
        legal: Row,
        /// Parses the value and stores it.
        apply: fn(&mut RawArgs, OptionValue<'_>) -> Result<(), Usage>,
    },
    /// It is accepted with any command and ignored, with this warning.
    Ignored(&'static str),
    /// It reads a file of commands, and cannot be combined with a command.
    File,
}

impl Flag {
    /// The protocols whose `-p` must come before it; empty if it needs no `-p`.
    pub(crate) fn protocols(&self) -> &'static [u8] {
        match self.effect {
            Effect::Option { protocols, .. } => protocols,
            _ => &[],
        }
    }

    /// All its long names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.long].into_iter().chain(self.aliases.iter().copied())
    }
}

/// The defaults of most options: no letter, no other names, no argument.
const OPTION: Flag =
    Flag { short: None, long: "", aliases: &[], argument: Argument::None, help: "", man: "", effect: Effect::File };

/// The effect of an option that needs no `-p`, with its row of [`super::matrix`].
const fn option(legal: &'static str, apply: fn(&mut RawArgs, OptionValue<'_>) -> Result<(), Usage>) -> Effect {
    Effect::Option { protocols: &[], legal: Row::from_letters(legal), apply }
}

/// The effect of an option of some protocols, with its row of [`super::matrix`].
const fn field(
    protocols: &'static [u8],
    legal: &'static str,
    apply: fn(&mut RawArgs, OptionValue<'_>) -> Result<(), Usage>,
) -> Effect {
    Effect::Option { protocols, legal: Row::from_letters(legal), apply }
}

/// All flags, in the order of the help text. If several options are illegal, the message names the first of this list.
#[rustfmt::skip]
pub(crate) static FLAGS: [&Flag; 73] = [
    &LIST,
    &GET,
    &DELETE,
    &CREATE,
    &ADD,
    &UPDATE,
    &FLUSH,
    &EVENT,
    &COUNTER,
    &STATS,
    &LOAD_FILE,
    &VERSION,
    &HELP,
    &ORIG_SRC,
    &ORIG_DST,
    &REPLY_SRC,
    &REPLY_DST,
    &PROTONUM,
    &FAMILY,
    &TIMEOUT,
    &STATUS,
    &MARK,
    &SECMARK,
    &ID,
    &SRC_NAT,
    &DST_NAT,
    &ANY_NAT,
    &ZONE,
    &ORIG_ZONE,
    &REPLY_ZONE,
    &LABEL,
    &LABEL_ADD,
    &HELPER,
    &LABEL_DEL,
    &LABELMAP,
    &OUTPUT,
    &ZERO,
    &EVENT_MASK,
    &BUFFER_SIZE,
    &WRITE,
    &READ,
    &DAEMON,
    &TUPLE_SRC,
    &TUPLE_DST,
    &MASK_SRC,
    &MASK_DST,
    &NAT_RANGE,
    &ORIG_PORT_SRC,
    &ORIG_PORT_DST,
    &REPLY_PORT_SRC,
    &REPLY_PORT_DST,
    &MASK_PORT_SRC,
    &MASK_PORT_DST,
    &TUPLE_PORT_SRC,
    &TUPLE_PORT_DST,
    &ORIG_KEY_SRC,
    &ORIG_KEY_DST,
    &REPLY_KEY_SRC,
    &REPLY_KEY_DST,
    &MASK_KEY_SRC,
    &MASK_KEY_DST,
    &TUPLE_KEY_SRC,
    &TUPLE_KEY_DST,
    &ICMP_TYPE,
    &ICMP_CODE,
    &ICMP_ID,
    &ICMPV6_TYPE,
    &ICMPV6_CODE,
    &ICMPV6_ID,
    &STATE,
    &ORIG_VTAG,
    &REPLY_VTAG,
    &ROLE,
];

/// The tables by name. An abbreviation means the first name that starts with it.
pub(crate) const TABLES: [(&str, Table); 4] = [
    ("expect", Table::Expect),
    ("conntrack", Table::Conntrack),
    ("dying", Table::Dying),
    ("unconfirmed", Table::Unconfirmed),
];

/// The types that `-o` accepts.
pub(super) fn output_types() -> impl Iterator<Item = &'static str> {
    OUTPUT_TYPES.iter().map(|(name, _)| *name)
}

/// The flags that `-u` accepts.
pub(super) fn status_names() -> impl Iterator<Item = &'static str> {
    STATUS_NAMES.iter().map(|(name, _)| *name).chain(["UNREPLIED"])
}

/// The kinds of event that `-e` accepts.
pub(super) fn event_names() -> impl Iterator<Item = &'static str> {
    EVENTS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::net::IpAddr;

    pub(super) fn read(line: &str) -> Result<RawArgs, Usage> {
        RawArgs::read(line.split(' ').map(OsString::from))
    }

    pub(super) fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    pub(super) fn chosen(line: &str) -> (Action, Table) {
        let command = read(line).unwrap().command.unwrap();
        (command.action, command.table)
    }

    #[test]
    fn flag_names_are_unique_and_flags_are_described() {
        let letters: Vec<_> = FLAGS.iter().filter_map(|flag| flag.short).collect();
        let names: Vec<_> = FLAGS.iter().flat_map(|flag| flag.names()).collect();
        assert!(letters.iter().all(|letter| letters.iter().filter(|other| *other == letter).count() == 1));
        assert!(names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1));
        for flag in FLAGS {
            assert!(flag.help.len() < 80 && !flag.help.ends_with('.') && flag.man.ends_with('.'), "{}", flag.long);
        }
    }
}
