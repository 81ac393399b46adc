//! The configuration, converted to the engine's settings.

use std::path::{Path, PathBuf};

use ctflow_engine::capture::socket::{BufferPlan, EventMask, Options};
use ctflow_engine::capture::steer::Filter;
use ctflow_engine::engine::Settings;
use ctflow_engine::kernel::commit::{CommitRules, Lifetime, Windows};
use ctflow_engine::limits::{FILTER_PROTOCOLS, FLOWS_PER_SHARD};
use ctflow_engine::replication::ReplicationSettings;
use ctflow_engine::replication::filter::{self, Listed, Prefix, Rule};
use ctflow_engine::replication::link::{LinkSettings, Transport};
use ctflow_engine::takeover;
use ctflow_replicate::{self as replicate, Epoch, Key};

use crate::config::{self, Config, FilterList, Security, Sync};

/// Returns the engine's settings for a run with this `epoch`.
pub(super) fn engine(config: &Config, epoch: Epoch) -> Settings {
    let defaults = Settings::default();
    let workers = config.engine.workers.unwrap_or(defaults.workers);
    let per_worker = |flows: u32| flows.div_ceil(workers.max(1));
    let flows_max = config.engine.flows_max.map_or(FLOWS_PER_SHARD, per_worker);
    Settings {
        workers,
        backend: config.engine.backend,
        socket: Options {
            events: EventMask::ALL,
            buffer: buffer(&config.engine),
            filter: kernel_filter(&config.sync.filter),
            ..defaults.socket
        },
        flows_max,
        replication: Some(replication(config, epoch, flows_max)),
        ..defaults
    }
}

/// Returns the part of the replication filter that the kernel can apply to events: the accepted protocols, since a
/// flow's protocol never changes. Marks, states and `ignore` lists are not applied there, because the kernel would then
/// also drop the events that end flows.
fn kernel_filter(filter: &config::Filter) -> Filter {
    match &filter.protocols {
        Some(FilterList::Accept(protocols)) if protocols.len() <= FILTER_PROTOCOLS => {
            Filter { protocols: protocols.clone(), ..Filter::default() }
        }
        _ => Filter::default(),
    }
}

/// Returns the plan for the socket buffer: the configured sizes, else the defaults.
fn buffer(engine: &config::Engine) -> BufferPlan {
    let BufferPlan::Growing { start, ceiling } = BufferPlan::default() else { return BufferPlan::default() };
    let start = engine.buffer_bytes.unwrap_or(start);
    BufferPlan::Growing { start, ceiling: engine.buffer_bytes_max.unwrap_or(ceiling).max(start) }
}

/// Returns the settings of replication. `flows_max` is the most flows of one shard.
fn replication(config: &Config, epoch: Epoch, flows_max: u32) -> ReplicationSettings {
    ReplicationSettings {
        node: node(config, epoch),
        links: config.links.iter().map(link).collect(),
        filter: replication_filter(&config.sync),
        replica_flows_max: flows_max,
        takeover: takeover(config),
        isolation: config.takeover.isolation.clone(),
        role_file: Some(role_file(&config.socket)),
    }
}

/// Returns the settings of takeovers.
fn takeover(config: &Config) -> takeover::Settings {
    let configured = &config.takeover;
    takeover::Settings {
        rules: CommitRules {
            lifetime: configured.commit_timeout_s.map_or(Lifetime::Left, Lifetime::Seconds),
            windows: if configured.tcp_window_tracking { Windows::Tracked } else { Windows::Liberal },
        },
        hot: config.sync.hot,
        purge_after: configured.purge_timeout,
        ready_within: configured.ready_within,
        active_active: configured.active_active,
    }
}

/// Returns the path of the file that stores the role: next to the control socket, by default in /run, which a boot
/// empties.
fn role_file(socket: &Path) -> PathBuf {
    let mut file = socket.as_os_str().to_owned();
    file.push(".role");
    file.into()
}

/// Returns the protocol's configuration of this node.
fn node(config: &Config, epoch: Epoch) -> replicate::Config {
    let sync = &config.sync;
    let defaults = replicate::Config::new(&config.name, 1, epoch);
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    replicate::Config {
        mode: match sync.mode {
            config::Mode::Ftfw => replicate::Mode::Ftfw,
            config::Mode::Alarm => replicate::Mode::Alarm,
            config::Mode::Notrack => replicate::Mode::Notrack,
        },
        key: match &config.security {
            Security::Sealed { key, .. } => Some(Key::new(*key.bytes())),
            Security::Clear => None,
        },
        window_bytes: sync.window_bytes.unwrap_or(defaults.window_bytes),
        resend_bytes: sync.resend_bytes.unwrap_or(defaults.resend_bytes),
        refresh_ms: milliseconds(sync.refresh),
        cache_timeout_ms: milliseconds(sync.cache_timeout),
        ..defaults
    }
}

/// Returns the settings of one link.
fn link(link: &config::Link) -> LinkSettings {
    let transport = match link.transport {
        config::Transport::Udp => Transport::Udp,
        config::Transport::Multicast => Transport::Multicast,
        config::Transport::Tcp => Transport::Tcp,
    };
    LinkSettings { transport, local: link.local, peers: link.peers.clone(), interface: link.interface.clone() }
}

/// Returns the filter for what is replicated to peers.
pub(super) fn replication_filter(sync: &Sync) -> filter::ReplicationFilter {
    let filter = &sync.filter;
    let milliseconds = |time: std::time::Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    filter::ReplicationFilter {
        protocols: filter.protocols.as_ref().map(|choice| rule(choice, |protocol| Some(*protocol))),
        addresses: filter.addresses.as_ref().map(|choice| rule(choice, |one| Prefix::new(one.address, one.prefix))),
        tcp_states: filter.tcp_states.as_ref().map(|choice| rule(choice, |state| Some(*state))),
        zones: filter.zones.as_ref().map(|choice| rule(choice, |zone| Some(*zone))),
        mark: filter.mark,
        least_age_ms: milliseconds(sync.min_age),
        least_ages: sync.min_ages.iter().map(|(protocol, age)| (*protocol, milliseconds(*age))).collect(),
    }
}

/// Converts a list of the configuration to a rule of the filter. Items that `convert` returns `None` for are left out.
fn rule<T, U>(choice: &FilterList<T>, convert: impl FnMut(&T) -> Option<U>) -> Rule<U> {
    let listed = match choice {
        FilterList::Accept(_) => Listed::Accepted,
        FilterList::Ignore(_) => Listed::Ignored,
    };
    Rule { listed, entries: choice.items().iter().filter_map(convert).collect() }
}
