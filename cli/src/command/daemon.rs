//! `daemon`: reads and checks the configuration, and starts the daemon.

use std::fmt::Write;

use super::about::print;
use crate::config::{Config, Filter, FilterList, Link, Security};
use crate::daemon;
use crate::failure::Failure;
use crate::flags::plan::Daemon;
use crate::text::counted;

/// Starts the daemon; with `--check`, prints what it would run instead.
///
/// # Errors
/// The configuration is wrong, or the daemon cannot run.
pub(super) fn run(plan: &Daemon) -> Result<(), Failure> {
    let config = Config::read(&plan.config)?;
    if plan.check { print(&summary(&config)) } else { daemon::start(config, plan.detach) }
}

/// Returns a text with what the daemon would run, one thing a line.
fn summary(config: &Config) -> String {
    let mut text = format!("{}: fine\nnode: {}\n", config.path.display(), config.name);
    for link in &config.links {
        let _ = writeln!(text, "link: {}", describe_link(link));
    }
    let _ = match &config.security {
        Security::Sealed { key_file, .. } => {
            writeln!(text, "security: encrypted and authenticated, with the key in {}", key_file.display())
        }
        Security::Clear => {
            writeln!(text, "security: NONE, links are not encrypted: anyone who reaches them can read and forge flows")
        }
    };
    let hot = if config.sync.hot { ", hot: peers' flows go into the kernel at once" } else { "" };
    let _ = writeln!(text, "mode: {}{hot}", config.sync.mode.name());
    let workers = match config.engine.workers {
        None => "workers according to the cores".to_owned(),
        Some(workers) => counted(workers.into(), "worker", "workers"),
    };
    let _ = writeln!(text, "engine: {}, {workers}", config.engine.backend);
    let filters = describe_filters(&config.sync.filter);
    if !filters.is_empty() {
        let _ = writeln!(text, "filter: by {}", filters.join(", "));
    }
    let log = config.log_file.as_ref().map_or_else(|| "standard error".to_owned(), |file| file.display().to_string());
    let _ = writeln!(text, "control socket: {}\nlog: {log}", config.socket.display());
    text
}

/// Returns a link's transport, addresses and interface.
fn describe_link(link: &Link) -> String {
    let peers = link.peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let interface = link.interface.as_ref().map(|name| format!(" on {name}")).unwrap_or_default();
    format!("{} {} to {peers}{interface}", link.transport.name(), link.local)
}

/// Returns what the filter selects flows by, each with the number of items in its list.
fn describe_filters(filter: &Filter) -> Vec<String> {
    fn of<T>(name: &str, choice: Option<&FilterList<T>>) -> Option<String> {
        let choice = choice?;
        let verdict = if matches!(choice, FilterList::Accept(_)) { "accepted" } else { "ignored" };
        Some(format!("{name} ({} {verdict})", choice.items().len()))
    }
    let parts = [
        of("protocol", filter.protocols.as_ref()),
        of("address", filter.addresses.as_ref()),
        of("TCP state", filter.tcp_states.as_ref()),
        of("zone", filter.zones.as_ref()),
        filter.mark.map(|mark| format!("mark ({:#x}/{:#x})", mark.value, mark.mask)),
    ];
    parts.into_iter().flatten().collect()
}
