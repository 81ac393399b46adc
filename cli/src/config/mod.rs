//! The daemon's configuration: `ctflow.toml`.
//!
//! ```text
//! keys    one item per key: what it takes, its default, its text ──► man   ctflow.toml(5)
//!   ▼
//! file    the text as TOML: keys that nobody knows, values that no key takes, each with its line
//!   ▼
//! check   what goes together ──► Config: plain values, defaults filled in
//! ```
//!
//! Nothing here opens a socket or a log; of files it reads the configuration itself and the key.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ctflow_engine::receive::BackendKind;
use ctflow_engine::takeover::Isolation;
use ctflow_parser::filter::Masked;
use serde::Deserialize;

mod check;
mod error;
mod file;
mod keys;
pub(crate) mod man;
pub(crate) mod secret;

pub(crate) use error::ConfigError;
use error::Problem;
use secret::Key;

/// The configuration where none is named.
pub(crate) const DEFAULT_PATH: &str = "/etc/ctflow/ctflow.toml";
/// The control socket where none is named.
pub(crate) const DEFAULT_SOCKET: &str = "/run/ctflow.sock";

/// Everything the daemon needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The file that it is from, which SIGHUP reads again.
    pub(crate) path: PathBuf,
    /// This node's name.
    pub(crate) name: String,
    /// The links, 1 to 4, the preferred one first.
    pub(crate) links: Vec<Link>,
    /// How links are protected.
    pub(crate) security: Security,
    /// Where operators connect.
    pub(crate) socket: PathBuf,
    /// Where the log goes; standard error without.
    pub(crate) log_file: Option<PathBuf>,
    /// How events are received and kept.
    pub(crate) engine: Engine,
    /// What is replicated, and how.
    pub(crate) sync: Sync,
    /// What happens when a side fails.
    pub(crate) takeover: Takeover,
}

/// A channel to the peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// How it carries datagrams.
    pub(crate) transport: Transport,
    /// What is bound. Of multicast, the port and, unless it is unspecified, the address of the interface.
    pub(crate) local: SocketAddr,
    /// Where the peers are, all of `local`'s family; of multicast, the one group.
    pub(crate) peers: Vec<SocketAddr>,
    /// The network interface, and no other. Multicast has one.
    pub(crate) interface: Option<String>,
}

/// How a link carries datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// UDP, a datagram to each peer.
    Udp,
    /// UDP, a datagram to all of a group.
    Multicast,
    /// TCP.
    Tcp,
}

/// How links are protected.
#[derive(Debug, Clone)]
pub(crate) enum Security {
    /// Encrypted and authenticated.
    Sealed {
        /// Where the key is kept.
        key_file: PathBuf,
        /// The key.
        key: Key,
    },
    /// Not at all, as the operator asked.
    Clear,
}

/// How events are received and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Engine {
    /// Threads that receive; `None` leaves it to the engine.
    pub(crate) workers: Option<u32>,
    /// How they receive.
    pub(crate) backend: BackendKind,
    /// Receive buffer of each; `None` leaves it to the engine.
    pub(crate) buffer_bytes: Option<usize>,
    /// How far it may grow; `None` leaves it to the engine.
    pub(crate) buffer_bytes_max: Option<usize>,
    /// Flows of the internal cache, and of each peer's replica, in all shards together; `None` leaves it to the engine.
    pub(crate) flows_max: Option<u32>,
}

/// What is replicated, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sync {
    /// What becomes of losses.
    pub(crate) mode: Mode,
    /// Whether what peers tell goes into the kernel at once.
    pub(crate) hot: bool,
    /// Flows that end younger are not told.
    pub(crate) min_age: Duration,
    /// The same for single protocols, each once, by number.
    pub(crate) min_ages: Vec<(u8, Duration)>,
    /// Bytes of each stream on their way; `None` leaves it to the protocol.
    pub(crate) window_bytes: Option<usize>,
    /// Bytes kept for resending, of all streams together; `None` leaves it to the protocol.
    pub(crate) resend_bytes: Option<usize>,
    /// In which time everything is told once, in mode alarm.
    pub(crate) refresh: Duration,
    /// After which time a replica's flow expires, in mode alarm.
    pub(crate) cache_timeout: Duration,
    /// Which flows.
    pub(crate) filter: Filter,
}

/// What happens when a side fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Takeover {
    /// How long a committed flow lives without a packet; `None` leaves it what was left.
    pub(crate) commit_timeout_s: Option<u32>,
    /// Whether committed TCP flows must keep their windows.
    pub(crate) tcp_window_tracking: bool,
    /// From stepping back to the purge.
    pub(crate) purge_timeout: Duration,
    /// How long a takeover may be held up.
    pub(crate) ready_within: Duration,
    /// Whether two nodes may be primary.
    pub(crate) active_active: bool,
    /// What reaches a backup, where it is not all.
    pub(crate) isolation: Option<Isolation>,
}

/// What becomes of losses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// They are made good.
    #[default]
    Ftfw,
    /// Everything is told again and again.
    Alarm,
    /// Nothing.
    Notrack,
}

/// Which flows are cached and replicated: those that pass everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// By layer-4 protocol.
    pub(crate) protocols: Option<FilterList<u8>>,
    /// By original source, original destination, or reply source.
    pub(crate) addresses: Option<FilterList<Network>>,
    /// By TCP state, as in [`ctflow_parser::proto::TCP_STATES`]; other protocols pass.
    pub(crate) tcp_states: Option<FilterList<u8>>,
    /// By zone, 0 for flows without one.
    pub(crate) zones: Option<FilterList<u16>>,
    /// By mark.
    pub(crate) mark: Option<Masked>,
}

/// Which of all there are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FilterList<T> {
    /// These.
    Accept(Vec<T>),
    /// All but these.
    Ignore(Vec<T>),
}

impl<T> FilterList<T> {
    /// The same choice of what each item stands for.
    fn map<U>(self, meaning: impl FnMut(T) -> U) -> FilterList<U> {
        match self {
            Self::Accept(items) => FilterList::Accept(items.into_iter().map(meaning).collect()),
            Self::Ignore(items) => FilterList::Ignore(items.into_iter().map(meaning).collect()),
        }
    }

    /// What is listed.
    pub(crate) fn items(&self) -> &[T] {
        match self {
            Self::Accept(items) | Self::Ignore(items) => items,
        }
    }
}

/// The addresses that equal one in its first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Network {
    /// One of them.
    pub(crate) address: IpAddr,
    /// How many bits count, at most as many as the family has.
    pub(crate) prefix: u8,
}

impl Transport {
    /// As in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Multicast => "multicast",
            Self::Tcp => "tcp",
        }
    }
}

impl Mode {
    /// As in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ftfw => "ftfw",
            Self::Alarm => "alarm",
            Self::Notrack => "notrack",
        }
    }
}

impl Config {
    /// Reads and checks a configuration, its key included.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        let file = file::read(&text).map_err(|wrong| config_error(path, &text, wrong))?;
        check::config(path, file, &|offset| line_of(&text, offset))
    }
}

impl Config {
    /// The keys that differ and that a daemon cannot take over that was started with this configuration.
    pub(crate) fn keys_needing_restart(&self, new: &Self) -> Vec<&'static str> {
        let same_security = match (&self.security, &new.security) {
            (Security::Sealed { key, .. }, Security::Sealed { key: other, .. }) => key == other,
            (Security::Clear, Security::Clear) => true,
            _ => false,
        };
        let (sync, other) = (&self.sync, &new.sync);
        // What is accepted at the start, the kernel accepts and nothing else from then on.
        let protocols = &sync.filter.protocols;
        let in_kernel = matches!(protocols, Some(FilterList::Accept(_)));
        let differ = [
            ("[node] name", self.name != new.name),
            ("[[link]]", self.links != new.links),
            ("[security]", !same_security),
            ("[control] socket", self.socket != new.socket),
            ("[log] file", self.log_file != new.log_file),
            ("[engine]", self.engine != new.engine),
            ("[sync] mode", sync.mode != other.mode),
            ("[sync] hot", sync.hot != other.hot),
            ("[sync] window_bytes", sync.window_bytes != other.window_bytes),
            ("[sync] resend_bytes", sync.resend_bytes != other.resend_bytes),
            ("[sync] refresh_s", sync.refresh != other.refresh),
            ("[sync] cache_timeout_s", sync.cache_timeout != other.cache_timeout),
            ("[takeover]", self.takeover != new.takeover),
            ("[sync.filter] protocols", in_kernel && *protocols != other.filter.protocols),
        ];
        differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

/// The control socket that a configuration names, or the default. What else is in the file does not matter.
///
/// # Errors
/// The file cannot be read, is no TOML, or names no path.
pub(crate) fn socket(path: &Path) -> Result<PathBuf, ConfigError> {
    let text = read_text(path)?;
    let socket = file::socket(&text).map_err(|wrong| config_error(path, &text, wrong))?;
    Ok(socket.unwrap_or_else(|| DEFAULT_SOCKET.into()))
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn config_error(path: &Path, text: &str, (problem, offset): (Problem, usize)) -> ConfigError {
    ConfigError::Wrong { path: path.to_owned(), line: line_of(text, offset), problem: problem.into() }
}

/// The line of an offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests;
