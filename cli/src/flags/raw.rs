//! The command line as typed: which command on which table, which options, and what each says by itself.
//!
//! GNU's rules: options in any order, `--name=value` or `--name value`, `-ovalue` or `-o value`, single letters
//! joined, any beginning of a long name that no other shares. The options of a protocol exist behind its `-p` only, and
//! only there do they stand in the way of others' beginnings. The table is the word behind the command, if that does
//! not begin with a dash. Words left over are ignored.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use ctflow_parser::filter::Masked;
use ctflow_parser::request::Table;
use ctflow_parser::uapi;
use hashbrown::HashMap;
use lexopt::{Arg, Parser};

use super::defs::{self, Argument, Effect, Flag};
use super::plan::{EventMask, Reach};
use super::usage::Usage;
use super::words;
use crate::output::{Format, Subject};
use crate::protocol;
use crate::selection::{Icmp, Nat, Status};

/// The commands of conntrack that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// `-L`.
    List,
    /// `-G`.
    Get,
    /// `-D`.
    Delete,
    /// `-I`.
    Create,
    /// `-A`.
    Add,
    /// `-U`.
    Update,
    /// `-F`.
    Flush,
    /// `-E`.
    Event,
    /// `-C`.
    Count,
    /// `-S`.
    Stats,
    /// `-V`.
    Version,
    /// `-h`.
    Help,
}

/// A flag as it was typed, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FlagSpelling {
    /// Its letter.
    Letter(char),
    /// Its name, or the beginning of it.
    Name(Cow<'static, str>),
}

impl fmt::Display for FlagSpelling {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Letter(letter) => write!(out, "-{letter}"),
            Self::Name(name) => write!(out, "--{name}"),
        }
    }
}

/// The command that was typed.
#[derive(Debug, Clone)]
pub(crate) struct TypedCommand {
    /// Which.
    pub(crate) action: Action,
    /// As typed.
    pub(crate) typed: FlagSpelling,
    /// On what; conntrack where no table was named.
    pub(crate) table: Table,
}

impl TypedCommand {
    /// What the table holds.
    pub(crate) fn subject(&self) -> Subject {
        subject_of(self.table)
    }
}

/// What a table holds. The dying and the unconfirmed are flows, too.
pub(super) fn subject_of(table: Table) -> Subject {
    match table {
        Table::Expect => Subject::Expectations,
        Table::Conntrack | Table::Dying | Table::Unconfirmed => Subject::Flows,
    }
}

/// All that was typed. Values have been read, combinations have not been looked at.
#[derive(Debug, Default)]
pub(crate) struct RawArgs {
    /// The command.
    pub(crate) command: Option<TypedCommand>,
    /// The options, in the order typed, repeats included.
    pub(crate) options: Vec<&'static Flag>,
    /// What is to be told on standard error whatever happens.
    pub(crate) warnings: Vec<&'static str>,
    /// `-o`, everything that was asked for.
    pub(crate) format: Format,
    /// `-o`, whether types that exclude each other were.
    pub(crate) output_types: OutputTypes,
    /// `-e`, everything that was asked for.
    pub(crate) events: Option<EventMask>,
    /// `-b`, the last one; likewise for all that follow.
    pub(crate) buffer_bytes: Option<u32>,
    /// `-p`.
    pub(crate) protocol: Option<u8>,
    /// The family of `-f` and of all addresses.
    pub(crate) family: Option<u8>,
    /// `-s`, `-d`, and ports or keys.
    pub(crate) orig: Endpoints,
    /// `-r`, `-q`, and ports or keys.
    pub(crate) reply: Endpoints,
    /// What an expectation awaits: `--tuple-*`.
    pub(crate) expected: Endpoints,
    /// `--mask-*`.
    pub(crate) mask: Endpoints,
    /// The prefixes of `-s` and `-d`, as masks.
    pub(crate) prefix: Endpoints,
    /// `--icmp-*` and `--icmpv6-*`.
    pub(crate) icmp: Icmp,
    /// `--state`, and of which protocol.
    pub(crate) state: Option<(u8, u8)>,
    /// `--orig-vtag`, `--reply-vtag`.
    pub(crate) vtags: (Option<u32>, Option<u32>),
    /// `--role`.
    pub(crate) role: Option<u8>,
    /// `-t`.
    pub(crate) timeout: Option<u32>,
    /// `-u`, all of them.
    pub(crate) status: Status,
    /// `-u UNSET`.
    pub(crate) status_unset: bool,
    /// `-m`.
    pub(crate) mark: Option<Masked>,
    /// `-c`.
    pub(crate) secmark: Option<u32>,
    /// `-i`.
    pub(crate) id: Option<u32>,
    /// `-n`, `-g`, `-j`.
    pub(crate) nat: Nat,
    /// `-w`.
    pub(crate) zone: Option<u16>,
    /// `--orig-zone`.
    pub(crate) orig_zone: Option<u16>,
    /// `--reply-zone`.
    pub(crate) reply_zone: Option<u16>,
    /// `-l`, all of them.
    pub(crate) labels: Vec<String>,
    /// `--label-add`, all of them.
    pub(crate) labels_add: Vec<String>,
    /// `--helper`.
    pub(crate) helper: Option<String>,
    /// `--label-del`, all of them.
    pub(crate) labels_del: LabelsDel,
    /// `--labelmap`.
    pub(crate) labelmap: Option<PathBuf>,
    /// `-z`.
    pub(crate) zero: bool,
    /// `--write`.
    pub(crate) write: Option<PathBuf>,
    /// `--read`.
    pub(crate) read: Option<PathBuf>,
    /// `--daemon`.
    pub(crate) daemon: Option<Reach>,
}

/// Addresses and ports or keys of one direction, as far as they were given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// Source address.
    pub(crate) src: Option<IpAddr>,
    /// Destination address.
    pub(crate) dst: Option<IpAddr>,
    /// Source port or key.
    pub(crate) src_port: Option<u16>,
    /// Destination port or key.
    pub(crate) dst_port: Option<u16>,
}

/// Types of `-o` that exclude each other.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OutputTypes {
    /// `save`.
    pub(crate) save: bool,
    /// Any other.
    pub(crate) others: bool,
}

/// Which labels to remove; none of them without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelsDel {
    /// All that there are.
    All,
    /// These.
    Named(Vec<String>),
}

impl Default for LabelsDel {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

/// An option's argument, and the option as it was typed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OptionValue<'a> {
    option: &'a FlagSpelling,
    /// The argument.
    pub(crate) value: &'a str,
}

impl OptionValue<'_> {
    /// Reads each item of a list separated by commas. An empty item is as wrong as an unknown one.
    pub(crate) fn for_each_item<T: Copy>(&self, names: &[(&str, T)], mut take: impl FnMut(T)) -> Result<(), Usage> {
        for item in self.value.split(',') {
            let known = || words::join_with_and(names.iter().map(|(name, _)| *name));
            take(words::match_prefix(item, names).ok_or_else(|| self.invalid_item(item, known()))?);
        }
        Ok(())
    }

    /// Says that the argument is none, and what would be.
    pub(crate) fn invalid(&self, right: impl Into<String>) -> Usage {
        self.invalid_item(self.value, right.into())
    }

    /// A port: decimal digits, which is how conntrack reads it.
    pub(crate) fn port(&self) -> Result<u16, Usage> {
        let port = words::decimal(self.value).and_then(|port| u16::try_from(port).ok());
        port.ok_or_else(|| self.invalid("one number, 0 to 65535"))
    }

    /// A GRE key.
    pub(crate) fn key(&self) -> Result<u16, Usage> {
        let key = words::number(self.value).and_then(|key| u16::try_from(key).ok());
        key.ok_or_else(|| self.invalid("a number, 0 to 65535, in hex behind 0x"))
    }

    /// An ICMP type or code.
    pub(crate) fn byte(&self) -> Result<u8, Usage> {
        let byte = words::decimal(self.value).and_then(|byte| u8::try_from(byte).ok());
        byte.ok_or_else(|| self.invalid("a number, 0 to 255"))
    }

    /// An SCTP verification tag.
    pub(crate) fn tag(&self) -> Result<u32, Usage> {
        words::number(self.value).ok_or_else(|| self.invalid("a number, 0 to 4294967295"))
    }

    /// A zone.
    pub(crate) fn zone(&self) -> Result<u16, Usage> {
        let zone = words::number(self.value).and_then(|zone| u16::try_from(zone).ok());
        zone.ok_or_else(|| self.invalid_number("0 to 65535"))
    }

    /// Any number of 32 bits.
    pub(crate) fn number_32(&self) -> Result<u32, Usage> {
        words::number(self.value).ok_or_else(|| self.invalid_number("0 to 4294967295"))
    }

    /// Adds the names of a list.
    pub(crate) fn append_names(&self, names: &mut Vec<String>) -> Result<(), Usage> {
        for name in self.value.split(',') {
            if name.is_empty() {
                return Err(self.invalid("names of labels, parted by commas"));
            }
            names.push(name.to_owned());
        }
        Ok(())
    }

    /// Says that the argument is no such number; to conntrack that is another kind of error.
    pub(crate) fn invalid_number(&self, right: &'static str) -> Usage {
        Usage::BadNumber { option: self.option.to_string(), value: self.value.to_owned(), right }
    }

    /// Says that an item of the argument is none, and what would be.
    pub(crate) fn invalid_item(&self, value: &str, right: String) -> Usage {
        Usage::BadValue { option: self.option.to_string(), value: value.to_owned(), right }
    }
}

/// Whether a word is an option, or several: a dash with something behind it.
pub(super) fn is_option(word: &OsStr) -> bool {
    word.len() > 1 && word.as_bytes().starts_with(b"-")
}

impl RawArgs {
    /// Reads arguments left to right, up to the first that is wrong.
    pub(super) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, Usage> {
        let mut parser = Parser::from_args(args);
        parser.set_short_equals(false); // -o=xml is the value `=xml` to getopt, and wrong
        let mut raw = Self::default();
        while let Some((flag, typed)) = next_flag(&mut parser, raw.protocol)? {
            match flag.effect {
                Effect::Command { action, tables } => {
                    let table = read_table(&mut parser, &typed, tables)?;
                    raw.set_command(TypedCommand { action, typed, table })?;
                }
                Effect::Option { apply, .. } => {
                    let value = read_value(&mut parser, flag, &typed)?;
                    raw.options.push(flag);
                    apply(&mut raw, OptionValue { option: &typed, value: &value })?;
                }
                Effect::Ignored(warning) => {
                    read_value(&mut parser, flag, &typed)?;
                    raw.options.push(flag);
                    raw.warnings.push(warning);
                }
                Effect::File => return Err(Usage::NotFirst(typed.to_string())),
            }
        }
        Ok(raw)
    }

    /// Notes the family of an address or of `-f`; the first one holds for the whole command.
    pub(super) fn set_family(&mut self, word: OptionValue<'_>, family: u8) -> Result<(), Usage> {
        let name = |family| if family == uapi::AF_INET { "IPv4" } else { "IPv6" };
        let first = *self.family.get_or_insert(family);
        if first == family {
            return Ok(());
        }
        Err(Usage::MixedFamilies { option: word.option.to_string(), first: name(first), second: name(family) })
    }

    fn set_command(&mut self, chosen: TypedCommand) -> Result<(), Usage> {
        match &self.command {
            Some(first) => Err(Usage::TwoCommands { first: first.typed.to_string(), second: chosen.typed.to_string() }),
            None => {
                self.command = Some(chosen);
                Ok(())
            }
        }
    }
}

/// The next flag and how it was typed; words that are none are passed over.
fn next_flag(parser: &mut Parser, protocol: Option<u8>) -> Result<Option<(&'static Flag, FlagSpelling)>, Usage> {
    loop {
        return match parser.next().map_err(usage_of_parser_error)? {
            None => Ok(None),
            Some(Arg::Value(_)) => continue,
            Some(Arg::Short(letter)) => {
                let typed = FlagSpelling::Letter(letter);
                match FLAG_INDEX.letters.get(&letter) {
                    Some(flag) => Ok(Some((*flag, typed))),
                    None => Err(Usage::UnknownOption(typed.to_string())),
                }
            }
            Some(Arg::Long(name)) => {
                let exists = |flag: &Flag| exists_with_protocol(flag, protocol);
                let (flag, name) = find_long_flag(name, exists).map_err(|error| explain_unknown_option(error, name))?;
                Ok(Some((flag, FlagSpelling::Name(name))))
            }
        };
    }
}

/// Whether a flag exists where the last `-p` was `protocol`.
fn exists_with_protocol(flag: &Flag, protocol: Option<u8>) -> bool {
    let protocols = flag.protocols();
    protocols.is_empty() || protocol.is_some_and(|protocol| protocols.contains(&protocol))
}

/// An unknown name that would be known behind another `-p`.
fn explain_unknown_option(error: Usage, name: &str) -> Usage {
    match (&error, find_by_long_name(name)) {
        (Usage::UnknownOption(option), Ok(flag)) => Usage::NeedsProtocol {
            option: option.clone(),
            protocols: words::join_with_and(flag.protocols().iter().map(|protocol| protocol::name(*protocol))),
        },
        _ => error,
    }
}

/// The flag with that long name, or the only one with a name that begins like it, behind whatever `-p`.
pub(super) fn find_by_long_name(name: &str) -> Result<&'static Flag, Usage> {
    find_long_flag(name, |_| true).map(|(flag, _)| flag)
}

/// The flags by what is typed of them: load files have many.
struct FlagIndex {
    letters: HashMap<char, &'static Flag>,
    names: HashMap<&'static str, &'static Flag>,
}

static FLAG_INDEX: LazyLock<FlagIndex> = LazyLock::new(|| {
    let flags = defs::FLAGS.into_iter();
    FlagIndex {
        letters: flags.clone().filter_map(|flag| Some((flag.short?, flag))).collect(),
        names: flags.flat_map(|flag| flag.names().map(move |name| (name, flag))).collect(),
    }
});

/// The flag that `name` or its beginning means, and the name.
fn find_long_flag(name: &str, exists: impl Fn(&Flag) -> bool) -> Result<(&'static Flag, Cow<'static, str>), Usage> {
    match FLAG_INDEX.names.get_key_value(name) {
        Some((name, flag)) if exists(flag) => return Ok((flag, Cow::Borrowed(name))),
        _ => {}
    }
    let existing = defs::FLAGS.into_iter().filter(|flag| exists(flag));
    let names = existing.flat_map(|flag| flag.names().map(move |name| (name, flag)));
    let found: Vec<_> = names.filter(|(known, _)| known.starts_with(name)).collect();
    match found.split_first() {
        None => Err(Usage::UnknownOption(format!("--{name}"))),
        Some(((_, flag), others)) if others.iter().all(|(_, other)| other.long == flag.long) => {
            Ok((*flag, Cow::Owned(name.to_owned())))
        }
        Some(_) => Err(Usage::Ambiguous {
            typed: format!("--{name}"),
            candidates: words::join_with_and(found.iter().map(|(known, _)| *known)),
        }),
    }
}

/// The argument that an option needs, or may have; nothing for those that take none.
fn read_value(parser: &mut Parser, flag: &Flag, typed: &FlagSpelling) -> Result<String, Usage> {
    let value = match flag.argument {
        Argument::None | Argument::Table => return Ok(String::new()),
        Argument::Required(argument) => {
            parser.value().map_err(|_| Usage::MissingArgument { option: typed.to_string(), argument })?
        }
        Argument::Optional(_) => {
            let attached = parser.optional_value();
            let next = |parser: &mut Parser| parser.try_raw_args()?.next_if(|word| !starts_another_argument(word));
            attached.or_else(|| next(parser)).unwrap_or_default()
        }
    };
    // A replacement character is in no name, so it is refused with the rest.
    Ok(value.into_string().unwrap_or_else(|value| value.to_string_lossy().into_owned()))
}

/// Whether a word can be neither a table nor an argument that may be left out.
fn starts_another_argument(word: &OsStr) -> bool {
    matches!(word.as_bytes().first(), Some(b'-' | b'!'))
}

/// The table behind a command: the next word, if it is no option, or what stands behind `--dump=`.
fn read_table(parser: &mut Parser, command: &FlagSpelling, tables: &[Table]) -> Result<Table, Usage> {
    let word = match parser.try_raw_args() {
        Some(_) if tables.is_empty() => None,
        Some(mut words) => words.next_if(|word| !starts_another_argument(word)),
        None if matches!(command, FlagSpelling::Name(_)) && !tables.is_empty() => parser.optional_value(),
        None => None, // more letters behind the command's
    };
    let Some(word) = word else { return Ok(Table::Conntrack) };
    let word = word.to_string_lossy();
    let named = words::match_prefix(&word, &defs::TABLES).filter(|table| tables.contains(table));
    named.ok_or_else(|| Usage::UnknownTable {
        command: command.to_string(),
        table: word.into_owned(),
        tables: words::join_with_and(
            defs::TABLES.iter().filter(|(_, table)| tables.contains(table)).map(|(name, _)| *name),
        ),
    })
}

fn usage_of_parser_error(error: lexopt::Error) -> Usage {
    match error {
        lexopt::Error::UnexpectedValue { option, value } => {
            Usage::UnexpectedArgument { option, value: value.to_string_lossy().into_owned() }
        }
        other => Usage::UnknownOption(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Encoding;

    fn read(line: &str) -> Result<RawArgs, Usage> {
        RawArgs::read(line.split_whitespace().map(OsString::from))
    }

    fn chosen(line: &str) -> (Action, Table) {
        let command = read(line).unwrap().command.unwrap();
        (command.action, command.table)
    }

    #[test]
    fn options_may_be_reordered_joined_and_have_attached_values() {
        for line in ["-L -o xml -p udp", "-p udp -o xml -L", "-Loxml -pudp", "--output=xml stray -L --protonum 17 more"]
        {
            let raw = read(line).unwrap();
            assert_eq!((raw.format.encoding, raw.protocol), (Encoding::Xml, Some(17)), "{line}");
        }
        assert!(read("-L -o=xml").is_err());
    }

    #[test]
    fn long_names_may_be_abbreviated_while_unique() {
        assert_eq!(chosen("--count").0, Action::Count);
        assert_eq!(chosen("--event").0, Action::Event, "a whole name, though --event-mask begins with it");
        assert_eq!(read("-L --proto tcp").unwrap().protocol, Some(6));
        let ambiguous = Usage::Ambiguous { typed: "--ev".into(), candidates: "event and event-mask".into() };
        assert_eq!(read("--ev").unwrap_err(), ambiguous);
        assert_eq!(read("--dumped").unwrap_err(), Usage::UnknownOption("--dumped".into()));
    }

    #[test]
    fn the_table_is_the_word_after_the_command() {
        let lists = |table| (Action::List, table);
        assert_eq!(chosen("-L"), lists(Table::Conntrack));
        assert_eq!(chosen("-L e"), lists(Table::Expect));
        assert_eq!(chosen("-L DYING -o id"), lists(Table::Dying));
        assert_eq!(chosen("-L -o id expect"), lists(Table::Conntrack), "not behind the command");
        assert_eq!(chosen("--dump=expect"), lists(Table::Expect));
        assert_eq!(chosen("-L !x"), lists(Table::Conntrack));
        assert_eq!(chosen("-V expect"), (Action::Version, Table::Conntrack), "it has none");
        assert!(matches!(read("-L foo").unwrap_err(), Usage::UnknownTable { .. }));
        assert!(matches!(read("-C dying").unwrap_err(), Usage::UnknownTable { .. }));
        let letters = Usage::BadValue {
            option: "-e".into(),
            value: "xpect".into(),
            right: "ALL, NEW, UPDATES and DESTROY".into(),
        };
        assert_eq!(read("-Lexpect").unwrap_err(), letters);
    }

    #[test]
    fn messages_repeat_the_option_as_typed() {
        let missing = Usage::MissingArgument { option: "--proto".into(), argument: "PROTO" };
        assert_eq!(read("-L --proto").unwrap_err(), missing);
        let two = Usage::TwoCommands { first: "-L".into(), second: "--stats".into() };
        assert_eq!(read("-L --stats").unwrap_err(), two);
        let value = Usage::UnexpectedArgument { option: "--version".into(), value: "5".into() };
        assert_eq!(read("--version=5").unwrap_err(), value);
        assert_eq!(read("-LX").unwrap_err(), Usage::UnknownOption("-X".into()));
    }
}
