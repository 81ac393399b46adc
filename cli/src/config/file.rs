//! Parses the TOML file into the values of its keys, each with its position in the text.
//!
//! serde reports which value is wrong and its position. The accepted values come from [`super::keys`], so that the
//! message and the manual page agree.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;

use ctflow_engine::capture::receive::BackendKind;
use ctflow_engine::limits::ISOLATION_ENTRIES;
use ctflow_parser::filter::Masked;
use ctflow_parser::proto::TCP_STATES;
use ctflow_parser::uapi::{IPPROTO_DCCP, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE};
use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, de};

use super::error::Problem;
use super::keys::{self, Key, SECTIONS, Section};
use super::{FilterList, Mode, Network, Transport};
use crate::words;

/// Bytes of the file that a message repeats at most.
const QUOTED_BYTES_MAX: usize = 60;

/// A value with its position in the text; `None` if the key is missing.
pub(super) type Located<T> = Option<Spanned<T>>;

/// The whole file: one field for each section, and in each section one field for each key.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub(super) node: Node,
    pub(super) link: Vec<Spanned<Link>>,
    pub(super) security: Security,
    pub(super) control: Control,
    pub(super) log: Log,
    pub(super) engine: Engine,
    pub(super) sync: Sync,
    pub(super) takeover: Takeover,
}

/// Section `[node]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) name: Located<NodeName>,
}

/// Section `[[link]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Link {
    pub(super) transport: Option<Transport>,
    pub(super) local: Located<Endpoint>,
    /// Parsed one by one later, because serde reports the position of the whole list only.
    pub(super) peers: Located<Vec<Spanned<String>>>,
    pub(super) interface: Located<Interface>,
}

/// Section `[security]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Security {
    pub(super) key_file: Located<Absolute>,
    pub(super) insecure: Located<bool>,
}

/// Section `[control]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Control {
    pub(super) socket: Option<SocketPath>,
}

/// Section `[log]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Log {
    pub(super) file: Option<Absolute>,
}

/// Section `[engine]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Engine {
    pub(super) workers: Option<Bounded<1, 64>>,
    pub(super) backend: Option<Backend>,
    pub(super) buffer_bytes: Option<Bounded<65_536, 1_073_741_823>>,
    pub(super) buffer_bytes_max: Located<Bounded<65_536, 1_073_741_823>>,
    pub(super) flows_max: Option<Bounded<1_024, 4_294_967_295>>,
}

/// Section `[sync]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Sync {
    pub(super) mode: Option<Mode>,
    pub(super) hot: Option<bool>,
    pub(super) min_age_ms: Option<Bounded<0, 60_000>>,
    pub(super) min_ages_ms: Option<Ages>,
    pub(super) window_bytes: Located<Bounded<65_536, 1_073_741_824>>,
    pub(super) resend_bytes: Located<Bounded<1_048_576, 68_719_476_736>>,
    pub(super) refresh_s: Located<Bounded<1, 86_400>>,
    pub(super) cache_timeout_s: Located<Bounded<2, 864_000>>,
    pub(super) filter: Filter,
}

/// Section `[takeover]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Takeover {
    pub(super) commit_timeout_s: Option<Bounded<1, 432_000>>,
    pub(super) tcp_window_tracking: Option<bool>,
    pub(super) purge_timeout_s: Option<Bounded<1, 86_400>>,
    pub(super) ready_within_s: Option<Bounded<1, 3_600>>,
    pub(super) active_active: Option<bool>,
    pub(super) isolate: Option<bool>,
    pub(super) isolate_accept: Option<ShortList<Service>>,
    pub(super) isolate_spare: Option<ShortList<Interface>>,
}

/// Section `[sync.filter]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    pub(super) protocols: Option<FilterList<Protocol>>,
    pub(super) addresses: Option<FilterList<Network>>,
    pub(super) tcp_states: Option<FilterList<TcpState>>,
    pub(super) zones: Option<FilterList<u16>>,
    pub(super) mark: Option<Mark>,
}

/// A number within bounds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "u64")]
pub(super) struct Bounded<const MIN: u64, const MAX: u64>(pub(super) u64);

/// An address with a port other than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Endpoint(pub(super) SocketAddr);

/// A list of at most [`ISOLATION_ENTRIES`] items, which become nftables rules.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Vec<T>", bound = "T: Deserialize<'de>")]
pub(super) struct ShortList<T>(pub(super) Vec<T>);

/// A protocol, and a port of this node if one is given.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Service {
    pub(super) protocol: u8,
    pub(super) port: Option<u16>,
}

/// A valid name of a node.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct NodeName(pub(super) String);

/// A valid name of a network interface.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Interface(pub(super) String);

/// A valid absolute path of a UNIX socket.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "PathBuf")]
pub(super) struct SocketPath(pub(super) PathBuf);

/// An absolute path. Relative paths are refused, because the daemon's working directory is not the operator's.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "PathBuf")]
pub(super) struct Absolute(pub(super) PathBuf);

/// A receive back end, written by name.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Backend(pub(super) BackendKind);

/// A layer-4 protocol, written by name or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NumberOrText")]
pub(super) struct Protocol(pub(super) u8);

/// A TCP state: the kernel's number, written by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct TcpState(pub(super) u8);

/// A mark under a mask.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "NumberOrText")]
pub(super) struct Mark(pub(super) Masked);

/// Milliseconds by protocol.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(try_from = "BTreeMap<String, Bounded<0, 60_000>>")]
pub(super) struct Ages(pub(super) Vec<(u8, u64)>);

/// A value that may be written as a number or as a string.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u32),
    Text(String),
}

/// The error of a value. It is never printed: [`value_problem`] makes the message from the values that the key accepts.
const WRONG: &str = "not a value of this key";

impl<const MIN: u64, const MAX: u64> TryFrom<u64> for Bounded<MIN, MAX> {
    type Error = &'static str;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        if (MIN..=MAX).contains(&number) { Ok(Self(number)) } else { Err(WRONG) }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().ok().filter(|address: &SocketAddr| address.port() != 0).map(Self).ok_or(WRONG)
    }
}

impl TryFrom<String> for NodeName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if letters && (1..=255).contains(&name.len()) { Ok(Self(name)) } else { Err(WRONG) }
    }
}

impl TryFrom<String> for Interface {
    type Error = &'static str;

    /// Accepts the names that the kernel's `dev_valid_name` accepts.
    fn try_from(name: String) -> Result<Self, Self::Error> {
        let strange = |byte: u8| byte == b'/' || byte == b':' || byte.is_ascii_whitespace() || byte == 0;
        let valid = (1..=15).contains(&name.len()) && name != "." && name != ".." && !name.bytes().any(strange);
        if valid { Ok(Self(name)) } else { Err(WRONG) }
    }
}

impl TryFrom<PathBuf> for SocketPath {
    type Error = &'static str;

    fn try_from(path: PathBuf) -> Result<Self, Self::Error> {
        let length = path.as_os_str().len();
        if path.is_absolute() && length <= 107 { Ok(Self(path)) } else { Err(WRONG) }
    }
}

impl TryFrom<PathBuf> for Absolute {
    type Error = &'static str;

    fn try_from(path: PathBuf) -> Result<Self, Self::Error> {
        if path.is_absolute() { Ok(Self(path)) } else { Err(WRONG) }
    }
}

impl TryFrom<String> for Backend {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse().map(Self).map_err(|_| WRONG)
    }
}

impl TryFrom<NumberOrText> for Protocol {
    type Error = &'static str;

    fn try_from(word: NumberOrText) -> Result<Self, Self::Error> {
        match word {
            NumberOrText::Number(number) => u8::try_from(number).ok(),
            NumberOrText::Text(name) => words::protocol(&name),
        }
        .map(Self)
        .ok_or(WRONG)
    }
}

impl<T> TryFrom<Vec<T>> for ShortList<T> {
    type Error = &'static str;

    fn try_from(list: Vec<T>) -> Result<Self, Self::Error> {
        if list.len() <= ISOLATION_ENTRIES { Ok(Self(list)) } else { Err(WRONG) }
    }
}

impl TryFrom<String> for Service {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (protocol, port) = text.split_once('/').map_or((text.as_str(), None), |(name, port)| (name, Some(port)));
        let port =
            port.map(|port| words::decimal(port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0));
        match (words::protocol(protocol), port) {
            (Some(protocol), None) => Ok(Self { protocol, port: None }),
            (Some(protocol), Some(Some(port))) if has_ports(protocol) => Ok(Self { protocol, port: Some(port) }),
            _ => Err(WRONG),
        }
    }
}

/// Whether the header of a protocol begins with a source port and a destination port.
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_DCCP | IPPROTO_SCTP | IPPROTO_UDPLITE)
}

impl TryFrom<String> for TcpState {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        // State 0, NONE, is that of a flow before the tracker's first packet; it is not a useful filter.
        let state = TCP_STATES.iter().skip(1).position(|state| *state == name);
        state.and_then(|index| u8::try_from(index + 1).ok()).map(Self).ok_or(WRONG)
    }
}

impl TryFrom<NumberOrText> for Mark {
    type Error = &'static str;

    fn try_from(word: NumberOrText) -> Result<Self, Self::Error> {
        let masked = match &word {
            NumberOrText::Number(value) => Some((*value, u32::MAX)),
            NumberOrText::Text(text) => match text.split_once('/') {
                Some((value, mask)) => words::number(value).zip(words::number(mask)),
                None => words::number(text).map(|value| (value, u32::MAX)),
            },
        };
        masked.map(|(value, mask)| Self(Masked { value, mask })).ok_or(WRONG)
    }
}

impl TryFrom<BTreeMap<String, Bounded<0, 60_000>>> for Ages {
    type Error = &'static str;

    fn try_from(table: BTreeMap<String, Bounded<0, 60_000>>) -> Result<Self, Self::Error> {
        let one = |(name, age): (String, Bounded<0, 60_000>)| words::protocol(&name).map(|number| (number, age.0));
        table.into_iter().map(one).collect::<Option<_>>().map(Self).ok_or(WRONG)
    }
}

impl TryFrom<String> for Network {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (address, prefix) = text.split_once('/').map_or((text.as_str(), None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| WRONG)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(digits) => words::decimal(digits).and_then(|prefix| u8::try_from(prefix).ok()).ok_or(WRONG)?,
        };
        if prefix <= width { Ok(Self { address, prefix }) } else { Err(WRONG) }
    }
}

/// The position of a key's value in the text.
struct KeySpan {
    key: &'static Key,
    span: Range<usize>,
}

/// Parses the text of a configuration file.
///
/// # Errors
/// The first error, and its offset in the text.
pub(super) fn read(text: &str) -> Result<File, (Problem, usize)> {
    let tree = DeTable::parse(text).map_err(|error| syntax_problem(&error))?;
    let spans = key_spans(tree.get_ref())?;
    File::deserialize(de::Deserializer::from(tree)).map_err(|error| {
        let span = error.span().unwrap_or_default();
        match spans.iter().find(|key| key.span.start <= span.start && span.end <= key.span.end) {
            Some(found) => (value_problem(text, found.key, &span), span.start),
            None => syntax_problem(&error),
        }
    })
}

/// The path of `[control] socket` in a file whose other keys may be wrong: a client of the daemon needs only the
/// socket.
pub(super) fn socket(text: &str) -> Result<Option<PathBuf>, (Problem, usize)> {
    let tree = DeTable::parse(text).map_err(|error| syntax_problem(&error))?;
    let section = tree.get_ref().get("control").and_then(|control| control.get_ref().as_table());
    let Some(value) = section.and_then(|section| section.get("socket")) else { return Ok(None) };
    let path = value.get_ref().as_str().and_then(|path| SocketPath::try_from(PathBuf::from(path)).ok());
    let key = || keys::section("control").and_then(|section| section.key("socket"));
    match (path, key()) {
        (None, Some(key)) => Err((value_problem(text, key, &value.span()), value.span().start)),
        (path, _) => Ok(path.map(|path| path.0)),
    }
}

/// The problem of a text that is not TOML, and its offset.
fn syntax_problem(error: &de::Error) -> (Problem, usize) {
    let message = error.message().lines().next().unwrap_or_default();
    (Problem::Syntax(message.to_owned()), error.span().unwrap_or_default().start)
}

/// Parses one item of `peers`.
///
/// # Errors
/// It is not an address with a port.
pub(super) fn parse_peer(text: &Spanned<String>) -> Result<SocketAddr, (Problem, usize)> {
    let right = keys::section("link").and_then(|section| section.key("peers")).map_or("", |key| key.takes);
    let value = format!("{:?}", text.get_ref());
    let refuse = |_| (Problem::Value { key: "peers", value, right }, text.span().start);
    Endpoint::try_from(text.get_ref().clone()).map(|peer| peer.0).map_err(refuse)
}

/// The problem of a value that `key` does not accept; `span` is its position.
fn value_problem(text: &str, key: &'static Key, span: &Range<usize>) -> Problem {
    let written = text.get(span.clone()).unwrap_or_default();
    let line = written.lines().next().unwrap_or_default();
    let end = (0..=line.len().min(QUOTED_BYTES_MAX)).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    let cut = line.get(..end).unwrap_or_default();
    let value = if cut.len() < written.len() { format!("{cut}…") } else { cut.to_owned() };
    Problem::Value { key: key.name, value, right: key.takes }
}

/// The positions of the values of all keys. Unknown sections and keys are refused here, where the positions of their
/// names are known.
fn key_spans(tree: &DeTable<'_>) -> Result<Vec<KeySpan>, (Problem, usize)> {
    let mut places = Vec::new();
    for (name, value) in tree {
        let Some(section) = keys::section(name.get_ref()).filter(|section| !section.name.contains('.')) else {
            return Err((unknown_section(name.get_ref()), name.span().start));
        };
        let right = || (Problem::Shape { name: section.name, right: section.head() }, name.span().start);
        match value.get_ref() {
            DeValue::Table(table) if !section.repeated => collect_key_spans(section, table, &mut places)?,
            DeValue::Array(tables) if section.repeated => {
                for table in tables {
                    collect_key_spans(section, table.get_ref().as_table().ok_or_else(right)?, &mut places)?;
                }
            }
            _ => return Err(right()),
        }
    }
    Ok(places)
}

/// Appends the positions of the keys of a section and of the sections inside it.
fn collect_key_spans(
    section: &'static Section,
    table: &DeTable<'_>,
    places: &mut Vec<KeySpan>,
) -> Result<(), (Problem, usize)> {
    for (name, value) in table {
        let inner = keys::section(&format!("{}.{}", section.name, name.get_ref()));
        match (inner, section.key(name.get_ref())) {
            (Some(inner), _) => {
                let right = || (Problem::Shape { name: inner.name, right: inner.head() }, name.span().start);
                collect_key_spans(inner, value.get_ref().as_table().ok_or_else(right)?, places)?;
            }
            (None, Some(key)) => places.push(KeySpan { key, span: value.span() }),
            (None, None) => return Err((unknown_key(name.get_ref(), section), name.span().start)),
        }
    }
    Ok(())
}

/// The problem of an unknown section, with a suggestion.
fn unknown_section(name: &str) -> Problem {
    let names = SECTIONS.iter().map(|section| section.name).filter(|name| !name.contains('.'));
    let near = words::nearest(name, names).and_then(keys::section);
    // The name may be a key whose section head is missing.
    let owner = || SECTIONS.iter().find(|section| section.key(name).is_some());
    let suggestion = match (near, owner()) {
        (Some(section), _) => format!(", did you mean {}?", section.head()),
        (None, Some(section)) => format!(", did you mean the key of {}?", section.head()),
        (None, None) => String::new(),
    };
    let heads: Vec<_> = SECTIONS.iter().map(Section::head).collect();
    let sections = words::join_with_and(heads.iter().map(String::as_str));
    Problem::UnknownSection { name: name.to_owned(), suggestion, sections }
}

/// The problem of an unknown key, with a suggestion.
fn unknown_key(name: &str, section: &'static Section) -> Problem {
    let prefix = format!("{}.", section.name);
    let inner = SECTIONS.iter().filter_map(|other| other.name.strip_prefix(&prefix));
    let names: Vec<_> = section.keys.iter().map(|key| key.name).chain(inner).collect();
    let near = words::nearest(name, names.iter().copied());
    let elsewhere = || SECTIONS.iter().find(|section| section.key(name).is_some());
    let suggestion = match (near, elsewhere()) {
        (Some(near), _) => format!(", did you mean `{near}'?"),
        (None, Some(other)) => format!(", did you mean that of {}?", other.head()),
        (None, None) => String::new(),
    };
    let (section, keys) = (section.head(), words::join_with_and(names));
    Problem::UnknownKey { name: name.to_owned(), section, suggestion, keys }
}
