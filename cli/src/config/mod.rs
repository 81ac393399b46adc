//! The daemon's configuration: `ctflow.toml`.
//!
//! ```text
//! keys    one item per key: accepted values, default, text ──► man   ctflow.toml(5)
//!   ▼
//! file    parses TOML: refuses unknown keys and invalid values, each with its line
//!   ▼
//! check   combinations of keys ──► Config: plain values, defaults filled in
//! ```
//!
//! Nothing here opens a socket or a log. The only files that are read are the configuration and the key.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ctflow_engine::capture::receive::BackendKind;
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

/// The configuration file if none is named.
pub(crate) const DEFAULT_PATH: &str = "/etc/ctflow/ctflow.toml";
/// The control socket if none is named.
pub(crate) const DEFAULT_SOCKET: &str = "/run/ctflow.sock";

/// The checked configuration of the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The file that it was read from, and that SIGHUP reads again.
    pub(crate) path: PathBuf,
    /// This node's name.
    pub(crate) name: String,
    /// The links, 1 to 4, in order of preference.
    pub(crate) links: Vec<Link>,
    /// Encryption of the links.
    pub(crate) security: Security,
    /// Path of the control socket.
    pub(crate) socket: PathBuf,
    /// The log file; `None` for standard error.
    pub(crate) log_file: Option<PathBuf>,
    /// How events are received and flows are stored.
    pub(crate) engine: Engine,
    /// What is replicated, and how.
    pub(crate) sync: Sync,
    /// What a change of roles does.
    pub(crate) takeover: Takeover,
}

/// A channel to the peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// How it carries datagrams.
    pub(crate) transport: Transport,
    /// The address and port to bind. For multicast, the port, and the address of the interface or an unspecified one.
    pub(crate) local: SocketAddr,
    /// The addresses of the peers, in the family of `local`; for multicast, the group.
    pub(crate) peers: Vec<SocketAddr>,
    /// The only network interface to use; `None` for any. Multicast requires one.
    pub(crate) interface: Option<String>,
}

/// How a link carries datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// UDP, a datagram to each peer.
    Udp,
    /// UDP, one datagram to a multicast group.
    Multicast,
    /// TCP.
    Tcp,
}

/// Encryption of the links.
#[derive(Debug, Clone)]
pub(crate) enum Security {
    /// Encrypted and authenticated.
    Sealed {
        /// The file of the key.
        key_file: PathBuf,
        /// The key.
        key: Key,
    },
    /// Neither, as the operator configured.
    Clear,
}

/// Section `[engine]`: how events are received and flows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Engine {
    /// Number of workers; `None` for the engine's default.
    pub(crate) workers: Option<u32>,
    /// The receive back end of the workers.
    pub(crate) backend: BackendKind,
    /// Receive buffer of each worker's socket; `None` for the engine's default.
    pub(crate) buffer_bytes: Option<usize>,
    /// The size to which that buffer may grow; `None` for the engine's default.
    pub(crate) buffer_bytes_max: Option<usize>,
    /// Flows of the internal cache, and of each peer's replica, over all shards; `None` for the engine's default.
    pub(crate) flows_max: Option<u32>,
}

/// Section `[sync]`: what is replicated, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sync {
    /// How losses are repaired.
    pub(crate) mode: Mode,
    /// Whether the peers' flows are written into the kernel as they arrive.
    pub(crate) hot: bool,
    /// The age from which a flow is sent. Flows that end earlier are never sent.
    pub(crate) min_age: Duration,
    /// The age from which a flow of these protocols is sent, by protocol number. Each protocol occurs once.
    pub(crate) min_ages: Vec<(u8, Duration)>,
    /// Bytes of each stream that may be sent before they are acknowledged; `None` for the protocol's default.
    pub(crate) window_bytes: Option<usize>,
    /// Bytes that are kept for resending, over all streams; `None` for the protocol's default.
    pub(crate) resend_bytes: Option<usize>,
    /// In mode alarm, the time in which everything is sent once.
    pub(crate) refresh: Duration,
    /// In mode alarm, the time after which a replica's flow expires unless it is sent again.
    pub(crate) cache_timeout: Duration,
    /// Which flows are replicated.
    pub(crate) filter: Filter,
}

/// Section `[takeover]`: what a change of roles does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Takeover {
    /// Seconds that a committed flow lives without a packet; `None` for the time that it had left.
    pub(crate) commit_timeout_s: Option<u32>,
    /// Whether the kernel checks the windows of committed TCP flows.
    pub(crate) tcp_window_tracking: bool,
    /// The time from becoming backup to the purge of this node's flows.
    pub(crate) purge_timeout: Duration,
    /// The longest time that a takeover is delayed until the external cache is in sync.
    pub(crate) ready_within: Duration,
    /// Whether two nodes may be primary at once.
    pub(crate) active_active: bool,
    /// What reaches an isolated backup; `None` if backups are not isolated.
    pub(crate) isolation: Option<Isolation>,
}

/// How losses on the links are repaired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Lost batches are sent again.
    #[default]
    Ftfw,
    /// Everything is sent again and again.
    Alarm,
    /// Losses are not repaired.
    Notrack,
}

/// Which flows are cached and replicated: those that pass every filter that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// By layer-4 protocol.
    pub(crate) protocols: Option<FilterList<u8>>,
    /// By the source of the original direction or of the reply direction; one of them must match.
    pub(crate) addresses: Option<FilterList<Network>>,
    /// By TCP state, as in [`ctflow_parser::proto::TCP_STATES`]; other protocols pass.
    pub(crate) tcp_states: Option<FilterList<u8>>,
    /// By zone, 0 for flows without one.
    pub(crate) zones: Option<FilterList<u16>>,
    /// By mark.
    pub(crate) mark: Option<Masked>,
}

/// A list of accepted or of ignored items.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FilterList<T> {
    /// Only these items pass.
    Accept(Vec<T>),
    /// All items but these pass.
    Ignore(Vec<T>),
}

impl<T> FilterList<T> {
    /// The same list with each item converted by `meaning`.
    fn map<U>(self, meaning: impl FnMut(T) -> U) -> FilterList<U> {
        match self {
            Self::Accept(items) => FilterList::Accept(items.into_iter().map(meaning).collect()),
            Self::Ignore(items) => FilterList::Ignore(items.into_iter().map(meaning).collect()),
        }
    }

    /// The listed items.
    pub(crate) fn items(&self) -> &[T] {
        match self {
            Self::Accept(items) | Self::Ignore(items) => items,
        }
    }
}

/// A network: the addresses with a common prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Network {
    /// An address of the network.
    pub(crate) address: IpAddr,
    /// Length of the prefix in bits, at most the width of the family.
    pub(crate) prefix: u8,
}

impl Transport {
    /// The name in the configuration file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Multicast => "multicast",
            Self::Tcp => "tcp",
        }
    }
}

impl Mode {
    /// The name in the configuration file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ftfw => "ftfw",
            Self::Alarm => "alarm",
            Self::Notrack => "notrack",
        }
    }
}

impl Config {
    /// Reads and checks a configuration file and its key file.
    ///
    /// # Errors
    /// The first error of the file.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        let file = file::read(&text).map_err(|wrong| config_error(path, &text, wrong))?;
        check::config(path, file, &|offset| line_of(&text, offset))
    }
}

impl Config {
    /// The keys that differ in `new` and that a daemon with this configuration cannot change while it runs.
    pub(crate) fn keys_needing_restart(&self, new: &Self) -> Vec<&'static str> {
        let same_security = match (&self.security, &new.security) {
            (Security::Sealed { key, .. }, Security::Sealed { key: other, .. }) => key == other,
            (Security::Clear, Security::Clear) => true,
            _ => false,
        };
        let (sync, other) = (&self.sync, &new.sync);
        // The kernel filters by accepted protocols, and the filter of an open event socket is not changed. Ignored
        // protocols are filtered by the daemon.
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

/// The control socket that a configuration file names, or the default. Errors in other keys are ignored.
///
/// # Errors
/// The file cannot be read, is not TOML, or names an invalid path.
pub(crate) fn socket(path: &Path) -> Result<PathBuf, ConfigError> {
    let text = read_text(path)?;
    let socket = file::socket(&text).map_err(|wrong| config_error(path, &text, wrong))?;
    Ok(socket.unwrap_or_else(|| DEFAULT_SOCKET.into()))
}

/// Reads the file.
fn read_text(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// The error for a problem at an offset of the text.
fn config_error(path: &Path, text: &str, (problem, offset): (Problem, usize)) -> ConfigError {
    ConfigError::Wrong { path: path.to_owned(), line: line_of(text, offset), problem: problem.into() }
}

/// The number of the line at an offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests;
