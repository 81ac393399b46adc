//! Checks combinations of keys, and fills in defaults.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ctflow_engine::limits::LINKS;
use ctflow_engine::takeover::{Isolation, Service};
use ctflow_parser::uapi::IPPROTO_TCP;
use rustix::system::uname;
use toml::Spanned;

use super::error::{ConfigError, Problem};
use super::file::{self, Bounded, Located, ShortList};
use super::secret::Key;
use super::{Config, DEFAULT_SOCKET, Engine, Filter, Link, Mode, Security, Sync, Takeover, Transport};

/// Peers of a link at most.
const PEERS_MAX: usize = 64;
/// Default of `refresh_s`: the seconds in which mode alarm sends everything once.
const REFRESH_S: u64 = 15;
/// Default of `cache_timeout_s`: the seconds after which mode alarm expires a flow that was not sent again. Twelve
/// times [`REFRESH_S`].
const CACHE_TIMEOUT_S: u64 = 180;

/// Default of `purge_timeout_s`, which is conntrackd's.
const PURGE_TIMEOUT_S: u64 = 60;
/// Default of `ready_within_s`.
const READY_WITHIN_S: u64 = 30;

/// Default of `isolate_accept`: ssh, so that isolation does not lock the operator out.
const SSH: Service = Service { protocol: IPPROTO_TCP, port: Some(22) };

/// A problem and its offset in the text.
type ProblemAt = (Problem, usize);

/// Checks the parsed file, reads the key, and returns the configuration. `line` converts an offset to a line number.
pub(super) fn config(path: &Path, file: file::File, line: &dyn Fn(usize) -> usize) -> Result<Config, ConfigError> {
    let rule = |(problem, offset): ProblemAt| ConfigError::Wrong {
        path: path.to_owned(),
        line: line(offset),
        problem: problem.into(),
    };
    let links = links(file.link).map_err(rule)?;
    let engine = engine(&file.engine).map_err(rule)?;
    let sync = sync(file.sync).map_err(rule)?;
    let name = node_name(file.node).map_err(rule)?;
    let key_file = key_file(file.security).map_err(rule)?;
    let security = match key_file {
        None => Security::Clear,
        Some(key_file) => {
            let line = line(key_file.span().start);
            let key_file = key_file.into_inner().0;
            let key = Key::read(&key_file);
            let key = key.map_err(|source| ConfigError::Key { path: path.to_owned(), line, source })?;
            Security::Sealed { key_file, key }
        }
    };
    let socket = file.control.socket.map_or_else(|| DEFAULT_SOCKET.into(), |path| path.0);
    let takeover = takeover(file.takeover);
    let log_file = file.log.file.map(|path| path.0);
    Ok(Config { path: path.to_owned(), name, links, security, socket, log_file, engine, sync, takeover })
}

/// A broken rule with its message and offset.
fn rule_problem(text: impl Into<String>, offset: usize) -> ProblemAt {
    (Problem::Rule(text.into()), offset)
}

/// The name of the node: the configured one, otherwise the host name, if it is a valid name.
fn node_name(node: file::Node) -> Result<String, ProblemAt> {
    if let Some(name) = node.name {
        return Ok(name.into_inner().0);
    }
    let host = uname().nodename().to_string_lossy().into_owned();
    let advice = format!("the host name {host:?} is not a valid node name: set `name' in [node]");
    file::NodeName::try_from(host).map(|name| name.0).map_err(|_| rule_problem(advice, 0))
}

/// The path of the key file; `None` with `insecure = true`.
fn key_file(security: file::Security) -> Result<Located<file::Absolute>, ProblemAt> {
    let insecure = security.insecure.as_ref().is_some_and(|insecure| *insecure.get_ref());
    match (security.key_file, security.insecure) {
        (Some(key_file), Some(clear)) if insecure => {
            let offset = clear.span().start.max(key_file.span().start);
            Err(rule_problem("`key_file' and `insecure = true' exclude each other: remove one", offset))
        }
        (None, Some(_)) if insecure => Ok(None),
        (Some(key_file), _) => Ok(Some(key_file)),
        (None, given) => {
            let advice = "no key: make one with `ctflow keygen FILE' and set `key_file' in [security], or set \
                          `insecure = true' to send everything in clear";
            Err(rule_problem(advice, given.map_or(0, |given| given.span().start)))
        }
    }
}

/// Checks all links, and that no two have the same local address.
fn links(given: Vec<Spanned<file::Link>>) -> Result<Vec<Link>, ProblemAt> {
    if given.is_empty() {
        return Err(rule_problem("no link: add a [[link]] with `local' and `peers'", 0));
    }
    if let Some(fifth) = given.get(LINKS) {
        return Err(rule_problem(format!("too many links: {LINKS} are the limit"), fifth.span().start));
    }
    let mut links: Vec<Link> = Vec::new();
    for link in given {
        let start = link.span().start;
        let offset = link.get_ref().local.as_ref().map_or(start, |local| local.span().start);
        let link = check_link(link.into_inner(), start)?;
        let stream = link.transport == Transport::Tcp;
        let taken = |other: &Link| (other.transport == Transport::Tcp) == stream && other.local == link.local;
        if links.iter().any(|other| taken(other) && other.interface == link.interface) {
            return Err(rule_problem(
                format!("two links have the local address {}: give each its own", link.local),
                offset,
            ));
        }
        links.push(link);
    }
    Ok(links)
}

/// Checks a link by itself. `start` is its offset.
fn check_link(given: file::Link, start: usize) -> Result<Link, ProblemAt> {
    let transport = given.transport.unwrap_or(Transport::Udp);
    let missing = |key: &str| rule_problem(format!("the link has no `{key}': add it"), start);
    let local = given.local.ok_or_else(|| missing("local"))?.into_inner().0;
    let peers = given.peers.ok_or_else(|| missing("peers"))?;
    let offset = peers.span().start;
    let peers = peers.into_inner();
    if !(1..=PEERS_MAX).contains(&peers.len()) {
        return Err(rule_problem(
            format!("`peers' names {} addresses: it takes 1 to {PEERS_MAX}", peers.len()),
            offset,
        ));
    }
    let mut addresses = Vec::new();
    for peer in &peers {
        let address = file::parse_peer(peer)?;
        if addresses.contains(&address) {
            return Err(rule_problem(format!("{address} occurs twice in `peers': remove one"), peer.span().start));
        }
        check_peer(transport, local, address).map_err(|text| rule_problem(text, peer.span().start))?;
        addresses.push(address);
    }
    if transport == Transport::Multicast {
        if addresses.len() > 1 {
            return Err(rule_problem(
                "a multicast link has one group in `peers': give each other group its own link",
                offset,
            ));
        }
        if given.interface.is_none() {
            return Err(rule_problem("a multicast link needs its `interface', for example \"eth2\"", start));
        }
    }
    Ok(Link { transport, local, peers: addresses, interface: given.interface.map(|name| name.into_inner().0) })
}

/// Checks the address of a peer against the transport and the local address.
fn check_peer(transport: Transport, local: SocketAddr, peer: SocketAddr) -> Result<(), String> {
    let family = |address: SocketAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let (group, multicast) = (peer.ip().is_multicast(), transport == Transport::Multicast);
    if local.is_ipv4() != peer.is_ipv4() {
        return Err(format!(
            "{peer} is an {} address, but `local' is an {} one: a link has one family",
            family(peer),
            family(local)
        ));
    }
    match (multicast, group) {
        (true, false) => {
            Err(format!("{peer} is no multicast group: it takes 224.0.0.0 to 239.255.255.255, or ff00::/8"))
        }
        (false, true) => Err(format!("{peer} is a multicast group: set transport = \"multicast\" for it")),
        (true, true) if local.port() != peer.port() => {
            Err(format!("the group's port is {}, that of `local' {}: they must be the same", peer.port(), local.port()))
        }
        _ if peer.ip().is_unspecified() => Err(format!("{peer} is an unspecified address: name the peer's own")),
        _ if peer == local => Err(format!("{peer} is this node's own address: `peers' names the others")),
        _ => Ok(()),
    }
}

/// Checks section `[engine]`.
fn engine(given: &file::Engine) -> Result<Engine, ProblemAt> {
    let buffer_bytes = given.buffer_bytes.map(to_usize);
    let buffer_bytes_max = given.buffer_bytes_max.as_ref().map(|most| to_usize(*most.get_ref()));
    if let (Some(first), Some(most), Some(given)) = (buffer_bytes, buffer_bytes_max, &given.buffer_bytes_max)
        && most < first
    {
        let text =
            format!("`buffer_bytes_max' is {most}, less than `buffer_bytes', {first}: make it at least as large");
        return Err(rule_problem(text, given.span().start));
    }
    Ok(Engine {
        workers: given.workers.map(to_u32),
        backend: given.backend.map_or_else(Default::default, |backend| backend.0),
        buffer_bytes,
        buffer_bytes_max,
        flows_max: given.flows_max.map(to_u32),
    })
}

/// Checks section `[sync]`, and that keys of another mode are not set.
fn sync(given: file::Sync) -> Result<Sync, ProblemAt> {
    let mode = given.mode.unwrap_or_default();
    for (key, offset, right) in [
        ("window_bytes", start_offset(&given.window_bytes), Mode::Ftfw),
        ("resend_bytes", start_offset(&given.resend_bytes), Mode::Ftfw),
        ("refresh_s", start_offset(&given.refresh_s), Mode::Alarm),
        ("cache_timeout_s", start_offset(&given.cache_timeout_s), Mode::Alarm),
    ] {
        if let Some(offset) = offset.filter(|_| mode != right) {
            let (mode, right) = (mode.name(), right.name());
            let text = format!("`{key}' has no effect in mode {mode}: it is for mode {right}; remove it");
            return Err(rule_problem(text, offset));
        }
    }
    let window = given.window_bytes.as_ref().map(|window| to_usize(*window.get_ref()));
    let resend = given.resend_bytes.as_ref().map(|resend| to_usize(*resend.get_ref()));
    if let (Some(window), Some(resend)) = (window, resend)
        && resend < window
    {
        let text = format!("`resend_bytes' is {resend}, less than `window_bytes', {window}: make it at least as large");
        return Err(rule_problem(text, start_offset(&given.resend_bytes).unwrap_or(0)));
    }
    let refresh = given.refresh_s.as_ref().map_or(REFRESH_S, |seconds| seconds.get_ref().0);
    let timeout = given.cache_timeout_s.as_ref().map_or(CACHE_TIMEOUT_S, |seconds| seconds.get_ref().0);
    if timeout <= refresh {
        let text = format!(
            "everything would expire before it is sent again: `cache_timeout_s' ({timeout}) must be more than \
             `refresh_s' ({refresh})"
        );
        return Err(rule_problem(
            text,
            start_offset(&given.cache_timeout_s).or(start_offset(&given.refresh_s)).unwrap_or(0),
        ));
    }
    let ages = given.min_ages_ms.unwrap_or_default().0;
    Ok(Sync {
        mode,
        hot: given.hot.unwrap_or(false),
        min_age: Duration::from_millis(given.min_age_ms.map_or(0, |age| age.0)),
        min_ages: ages.into_iter().map(|(protocol, ms)| (protocol, Duration::from_millis(ms))).collect(),
        window_bytes: window,
        resend_bytes: resend,
        refresh: Duration::from_secs(refresh),
        cache_timeout: Duration::from_secs(timeout),
        filter: filter(given.filter),
    })
}

/// Fills in the defaults of section `[takeover]`.
fn takeover(given: file::Takeover) -> Takeover {
    let seconds = |given: Option<u64>, default| Duration::from_secs(given.unwrap_or(default));
    Takeover {
        commit_timeout_s: given.commit_timeout_s.map(to_u32),
        tcp_window_tracking: given.tcp_window_tracking.unwrap_or(false),
        purge_timeout: seconds(given.purge_timeout_s.map(|given| given.0), PURGE_TIMEOUT_S),
        ready_within: seconds(given.ready_within_s.map(|given| given.0), READY_WITHIN_S),
        active_active: given.active_active.unwrap_or(false),
        isolation: given.isolate.unwrap_or(false).then(|| isolation(given.isolate_accept, given.isolate_spare)),
    }
}

/// The isolation rules, with ssh accepted by default.
fn isolation(accept: Option<ShortList<file::Service>>, spare: Option<ShortList<file::Interface>>) -> Isolation {
    let service = |given: file::Service| Service { protocol: given.protocol, port: given.port };
    Isolation {
        accept: accept.map_or_else(|| vec![SSH], |list| list.0.into_iter().map(service).collect()),
        spared_links: spare.map_or_else(Vec::new, |list| list.0.into_iter().map(|link| link.0).collect()),
    }
}

/// Converts section `[sync.filter]`.
fn filter(given: file::Filter) -> Filter {
    Filter {
        protocols: given.protocols.map(|choice| choice.map(|protocol| protocol.0)),
        addresses: given.addresses,
        tcp_states: given.tcp_states.map(|choice| choice.map(|state| state.0)),
        zones: given.zones,
        mark: given.mark.map(|mark| mark.0),
    }
}

/// The offset of a value; `None` if the key is missing.
fn start_offset<T>(given: &Located<T>) -> Option<usize> {
    given.as_ref().map(|value| value.span().start)
}

/// The number as `usize`. All bounds are below 2^40, which fits on 64-bit machines.
fn to_usize<const MIN: u64, const MAX: u64>(given: Bounded<MIN, MAX>) -> usize {
    usize::try_from(given.0).unwrap_or(usize::MAX)
}

/// The number as `u32`. It is used for keys whose bounds fit.
fn to_u32<const MIN: u64, const MAX: u64>(given: Bounded<MIN, MAX>) -> u32 {
    u32::try_from(given.0).unwrap_or(u32::MAX)
}
