//! The flags: one item each, with its names, its argument, its help, where it is legal and what it does, and its test
//! right below. The parser, the checks and the help text are all made from [`FLAGS`].
//!
//! To add one: write its item and its test, put it into [`FLAGS`] in the order of the help text, and give [`RawArgs`] a
//! field for its effect, [`super::plan`] a field for its meaning.

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
    /// A value or nothing; where it is a word of its own, it begins neither with a dash nor with a `!`.
    Optional(&'static str),
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
        /// Behind `-p` of which protocols it exists; none where it needs no `-p`.
        protocols: &'static [u8],
        /// With which commands.
        legal: Row,
        /// Takes the value.
        apply: fn(&mut RawArgs, OptionValue<'_>) -> Result<(), Usage>,
    },
    /// It does nothing, with any command, but warn so.
    Ignored(&'static str),
    /// It reads a file of commands, and is no part of any other command line.
    File,
}

impl Flag {
    /// Behind `-p` of which protocols it exists; none where it needs no `-p`.
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

/// What most options have: no letter and no other names.
const OPTION: Flag =
    Flag { short: None, long: "", aliases: &[], argument: Argument::None, help: "", man: "", effect: Effect::File };

/// An option, legal as its row says.
const fn option(legal: &'static str, apply: fn(&mut RawArgs, OptionValue<'_>) -> Result<(), Usage>) -> Effect {
    Effect::Option { protocols: &[], legal: Row::from_letters(legal), apply }
}

/// An option of some protocols, legal as its row says.
const fn field(
    protocols: &'static [u8],
    legal: &'static str,
    apply: fn(&mut RawArgs, OptionValue<'_>) -> Result<(), Usage>,
) -> Effect {
    Effect::Option { protocols, legal: Row::from_letters(legal), apply }
}

/// All flags, in the order of the help text; where several options are illegal, the first here is complained of.
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

/// The tables by name. The order decides what an abbreviation means.
pub(crate) const TABLES: [(&str, Table); 4] = [
    ("expect", Table::Expect),
    ("conntrack", Table::Conntrack),
    ("dying", Table::Dying),
    ("unconfirmed", Table::Unconfirmed),
];

/// What `-o` takes.
pub(super) fn output_types() -> impl Iterator<Item = &'static str> {
    OUTPUT_TYPES.iter().map(|(name, _)| *name)
}

/// What `-u` takes.
pub(super) fn status_names() -> impl Iterator<Item = &'static str> {
    STATUS_NAMES.iter().map(|(name, _)| *name).chain(["UNREPLIED"])
}

/// What `-e` takes.
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
