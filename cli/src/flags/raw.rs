//! The command line as typed: the command, its table, the options, and the value of each option.
//!
//! The grammar is GNU's: options in any order, `--name=value` or `--name value`, `-ovalue` or `-o value`, joined single
//! letters, and any unique abbreviation of a long name. Protocol options are known only after their `-p`; only there do
//! they make abbreviations ambiguous. The table is the word after the command, if it does not begin with a dash. Other
//! words are ignored.

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
use super::plan::EventMask;
use super::usage::Usage;
use crate::control::Reach;
use crate::event::choice::SinkChoice;
use crate::output::{Format, Subject};
use crate::protocol;
use crate::selection::{Icmp, Nat, Status};
use crate::words;

/// The commands of conntrack.
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

/// The spelling of a flag on the command line, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FlagSpelling {
    /// A letter, such as `-L`.
    Letter(char),
    /// A long name or an abbreviation of one, such as `--dump`.
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

/// The command on the command line.
#[derive(Debug, Clone)]
pub(crate) struct TypedCommand {
    /// The command.
    pub(crate) action: Action,
    /// Its spelling.
    pub(crate) typed: FlagSpelling,
    /// Its table; `Conntrack` if none was given.
    pub(crate) table: Table,
}

impl TypedCommand {
    /// What the entries of the table are.
    pub(crate) fn subject(&self) -> Subject {
        subject_of(self.table)
    }
}

/// What the entries of a table are. Those of `Dying` and `Unconfirmed` are flows.
pub(super) fn subject_of(table: Table) -> Subject {
    match table {
        Table::Expect => Subject::Expectations,
        Table::Conntrack | Table::Dying | Table::Unconfirmed => Subject::Flows,
    }
}

/// The parsed command line. Each value is valid by itself; combinations are not checked yet.
#[derive(Debug, Default)]
pub(crate) struct RawArgs {
    /// The command, if one was given.
    pub(crate) command: Option<TypedCommand>,
    /// The options, in the order typed, with repetitions.
    pub(crate) options: Vec<&'static Flag>,
    /// Warnings to print on standard error in any case.
    pub(crate) warnings: Vec<&'static str>,
    /// `-o`, all of them combined.
    pub(crate) format: Format,
    /// `-o`, which of the types that exclude each other were given.
    pub(crate) output_types: OutputTypes,
    /// `-e`, all of them combined.
    pub(crate) events: Option<EventMask>,
    /// `-b`. This and the following fields hold the last of several values, unless they say otherwise.
    pub(crate) buffer_bytes: Option<u32>,
    /// `-p`.
    pub(crate) protocol: Option<u8>,
    /// The family of `-f` and of all addresses.
    pub(crate) family: Option<u8>,
    /// `-s`, `-d`, and ports or keys.
    pub(crate) orig: Endpoints,
    /// `-r`, `-q`, and ports or keys.
    pub(crate) reply: Endpoints,
    /// `--tuple-*`: the tuple that an expectation awaits.
    pub(crate) expected: Endpoints,
    /// `--mask-*`.
    pub(crate) mask: Endpoints,
    /// The prefix lengths of `-s` and `-d`, as masks.
    pub(crate) prefix: Endpoints,
    /// `--icmp-*` and `--icmpv6-*`.
    pub(crate) icmp: Icmp,
    /// `--state`: the protocol and the number of the state.
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
    /// `--write`, or the default.
    pub(crate) sink: SinkChoice,
    /// `--read`.
    pub(crate) read: Option<PathBuf>,
    /// `--daemon`.
    pub(crate) daemon: Option<Reach>,
}

/// The addresses and the ports or keys of one direction; `None` for those that were not given.
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

/// Whether `-o` had types that exclude each other.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OutputTypes {
    /// It had `save`.
    pub(crate) save: bool,
    /// It had another type.
    pub(crate) others: bool,
}

/// Which labels to remove; by default none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelsDel {
    /// All labels of the flow.
    All,
    /// These labels.
    Named(Vec<String>),
}

impl Default for LabelsDel {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

/// The argument of an option, with the option's spelling for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OptionValue<'a> {
    option: &'a FlagSpelling,
    /// The argument.
    pub(crate) value: &'a str,
}

impl OptionValue<'_> {
    /// Calls `apply` for each item of a list separated by commas. Unknown and empty items are refused.
    pub(crate) fn for_each_item<T: Copy>(&self, names: &[(&str, T)], mut apply: impl FnMut(T)) -> Result<(), Usage> {
        for item in self.value.split(',') {
            let known = || words::join_with_and(names.iter().map(|(name, _)| *name));
            apply(words::match_prefix(item, names).ok_or_else(|| self.invalid_item(item, known()))?);
        }
        Ok(())
    }

    /// The error that the argument is not valid; `right` describes valid ones.
    pub(crate) fn invalid(&self, right: impl Into<String>) -> Usage {
        self.invalid_item(self.value, right.into())
    }

    /// Parses a port: decimal digits, as conntrack does.
    pub(crate) fn port(&self) -> Result<u16, Usage> {
        let port = words::decimal(self.value).and_then(|port| u16::try_from(port).ok());
        port.ok_or_else(|| self.invalid("one number, 0 to 65535"))
    }

    /// Parses a GRE key.
    pub(crate) fn key(&self) -> Result<u16, Usage> {
        let key = words::number(self.value).and_then(|key| u16::try_from(key).ok());
        key.ok_or_else(|| self.invalid("a number, 0 to 65535, hexadecimal after 0x"))
    }

    /// Parses an ICMP type or code.
    pub(crate) fn byte(&self) -> Result<u8, Usage> {
        let byte = words::decimal(self.value).and_then(|byte| u8::try_from(byte).ok());
        byte.ok_or_else(|| self.invalid("a number, 0 to 255"))
    }

    /// Parses an SCTP verification tag.
    pub(crate) fn tag(&self) -> Result<u32, Usage> {
        words::number(self.value).ok_or_else(|| self.invalid("a number, 0 to 4294967295"))
    }

    /// Parses a zone.
    pub(crate) fn zone(&self) -> Result<u16, Usage> {
        let zone = words::number(self.value).and_then(|zone| u16::try_from(zone).ok());
        zone.ok_or_else(|| self.invalid_number("0 to 65535"))
    }

    /// Parses a number of 32 bits.
    pub(crate) fn number_32(&self) -> Result<u32, Usage> {
        words::number(self.value).ok_or_else(|| self.invalid_number("0 to 4294967295"))
    }

    /// Appends the names of a list separated by commas to `names`.
    pub(crate) fn append_names(&self, names: &mut Vec<String>) -> Result<(), Usage> {
        for name in self.value.split(',') {
            if name.is_empty() {
                return Err(self.invalid("names of labels, separated by commas"));
            }
            names.push(name.to_owned());
        }
        Ok(())
    }

    /// The error that the argument is not such a number. It has an exit code of its own, which is conntrack's.
    pub(crate) fn invalid_number(&self, right: &'static str) -> Usage {
        Usage::BadNumber { option: self.option.to_string(), value: self.value.to_owned(), right }
    }

    /// The error that one item of the argument is not valid; `right` describes valid ones.
    pub(crate) fn invalid_item(&self, value: &str, right: String) -> Usage {
        Usage::BadValue { option: self.option.to_string(), value: value.to_owned(), right }
    }
}

/// Whether a word is an option, or several joined letters: a dash and at least one more byte.
pub(super) fn is_option(word: &OsStr) -> bool {
    word.len() > 1 && word.as_bytes().starts_with(b"-")
}

impl RawArgs {
    /// Parses arguments from left to right, up to the first error.
    pub(super) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, Usage> {
        let mut parser = Parser::from_args(args);
        parser.set_short_equals(false); // getopt reads -o=xml as the value `=xml`, which is refused
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

    /// Records the family of an address or of `-f`. The first one is the family of the whole command; others are
    /// refused.
    pub(super) fn set_family(&mut self, word: OptionValue<'_>, family: u8) -> Result<(), Usage> {
        let name = |family| if family == uapi::AF_INET { "IPv4" } else { "IPv6" };
        let first = *self.family.get_or_insert(family);
        if first == family {
            return Ok(());
        }
        Err(Usage::MixedFamilies { option: word.option.to_string(), first: name(first), second: name(family) })
    }

    /// Records the command, and refuses a second one.
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

/// The next flag and its spelling. Words that are not flags are skipped.
fn next_flag(parser: &mut Parser, protocol: Option<u8>) -> Result<Option<(&'static Flag, FlagSpelling)>, Usage> {
    loop {
        return match parser.next().map_err(usage_of_parser_error)? {
            None => Ok(None),
            Some(Arg::Value(_)) => continue,
            Some(Arg::Short(letter)) => {
                let typed = FlagSpelling::Letter(letter);
                match FLAG_INDEX.letters.get(&letter) {
                    Some(flag) => Ok(Some((*flag, typed))),
                    None => Err(Usage::unknown_option(typed.to_string())),
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

/// Whether a flag is known after `-p protocol`, or without `-p`.
fn exists_with_protocol(flag: &Flag, protocol: Option<u8>) -> bool {
    let protocols = flag.protocols();
    protocols.is_empty() || protocol.is_some_and(|protocol| protocols.contains(&protocol))
}

/// Replaces the error for an unknown name that is known after another `-p`.
fn explain_unknown_option(error: Usage, name: &str) -> Usage {
    match (&error, find_by_long_name(name)) {
        (Usage::UnknownOption { option, .. }, Ok(flag)) => Usage::NeedsProtocol {
            option: option.clone(),
            protocols: words::join_with_and(flag.protocols().iter().map(|protocol| protocol::name(*protocol))),
        },
        _ => error,
    }
}

/// The flag with the long name or unique abbreviation `name`, after any `-p`.
pub(super) fn find_by_long_name(name: &str) -> Result<&'static Flag, Usage> {
    find_long_flag(name, |_| true).map(|(flag, _)| flag)
}

/// The flags by letter and by long name. A map, since load files have many flags.
struct FlagIndex {
    letters: HashMap<char, &'static Flag>,
    names: HashMap<&'static str, &'static Flag>,
}

/// The index of [`defs::FLAGS`], built at the first use.
static FLAG_INDEX: LazyLock<FlagIndex> = LazyLock::new(|| {
    let flags = defs::FLAGS.into_iter();
    FlagIndex {
        letters: flags.clone().filter_map(|flag| Some((flag.short?, flag))).collect(),
        names: flags.flat_map(|flag| flag.names().map(move |name| (name, flag))).collect(),
    }
});

/// The flag with the long name or unique abbreviation `name`, among those for which `exists` holds, and its spelling.
fn find_long_flag(name: &str, exists: impl Fn(&Flag) -> bool) -> Result<(&'static Flag, Cow<'static, str>), Usage> {
    match FLAG_INDEX.names.get_key_value(name) {
        Some((name, flag)) if exists(flag) => return Ok((flag, Cow::Borrowed(name))),
        _ => {}
    }
    let existing = defs::FLAGS.into_iter().filter(|flag| exists(flag));
    let names = existing.flat_map(|flag| flag.names().map(move |name| (name, flag)));
    let found: Vec<_> = names.filter(|(known, _)| known.starts_with(name)).collect();
    match found.split_first() {
        None => Err(Usage::unknown_option(format!("--{name}"))),
        Some(((_, flag), others)) if others.iter().all(|(_, other)| other.long == flag.long) => {
            Ok((*flag, Cow::Owned(name.to_owned())))
        }
        Some(_) => Err(Usage::Ambiguous {
            typed: format!("--{name}"),
            candidates: words::join_with_and(found.iter().map(|(known, _)| *known)),
        }),
    }
}

/// Reads the argument of a flag; empty if the flag has none, or if it is optional and missing.
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
    // No valid value has a replacement character, so bytes that are not UTF-8 are refused later.
    Ok(value.into_string().unwrap_or_else(|value| value.to_string_lossy().into_owned()))
}

/// Whether a word begins with `-` or `!`, and so is neither a table nor an optional argument.
fn starts_another_argument(word: &OsStr) -> bool {
    matches!(word.as_bytes().first(), Some(b'-' | b'!'))
}

/// Reads the table of a command: the next word, if it is not an option, or the value of `--dump=`.
fn read_table(parser: &mut Parser, command: &FlagSpelling, tables: &[Table]) -> Result<Table, Usage> {
    let word = match parser.try_raw_args() {
        Some(_) if tables.is_empty() => None,
        Some(mut words) => words.next_if(|word| !starts_another_argument(word)),
        None if matches!(command, FlagSpelling::Name(_)) && !tables.is_empty() => parser.optional_value(),
        None => None, // the command's letter is joined to others
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

/// The error of a command line that lexopt refuses.
fn usage_of_parser_error(error: lexopt::Error) -> Usage {
    match error {
        lexopt::Error::UnexpectedValue { option, value } => {
            Usage::UnexpectedArgument { option, value: value.to_string_lossy().into_owned() }
        }
        other => Usage::unknown_option(other.to_string()),
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
        let unknown = |option: &str, nearest: Option<&str>| Usage::UnknownOption {
            option: option.to_owned(),
            nearest: nearest.map(str::to_owned),
        };
        assert_eq!(read("--dumped").unwrap_err(), unknown("--dumped", Some("--dump")));
        assert_eq!(read("--nosuch").unwrap_err(), unknown("--nosuch", None));
    }

    #[test]
    fn the_table_is_the_word_after_the_command() {
        let lists = |table| (Action::List, table);
        assert_eq!(chosen("-L"), lists(Table::Conntrack));
        assert_eq!(chosen("-L e"), lists(Table::Expect));
        assert_eq!(chosen("-L DYING -o id"), lists(Table::Dying));
        assert_eq!(chosen("-L -o id expect"), lists(Table::Conntrack), "not after the command");
        assert_eq!(chosen("--dump=expect"), lists(Table::Expect));
        assert_eq!(chosen("-L !x"), lists(Table::Conntrack));
        assert_eq!(chosen("-V expect"), (Action::Version, Table::Conntrack), "it accepts no table");
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
        assert_eq!(read("-LX").unwrap_err(), Usage::UnknownOption { option: "-X".into(), nearest: None });
    }
}
