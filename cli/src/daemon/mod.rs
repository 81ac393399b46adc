//! The daemon: engine and control server, from start to end.
//!
//! ```text
//! config ──► log ──► open sockets ──► drop capabilities ──► start threads ──► ready ──► commands until the end
//!                                                                                       stop, reload; the watchdog
//! ```
//!
//! The main thread only waits: for signals, for operators' commands to the whole daemon, and for the time of the next
//! health check, after which it notifies systemd's watchdog.

mod detach;
mod log;
mod rights;
mod settings;

use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ctflow_engine::engine::Engine;
use ctflow_engine::os_error::os_error_text;
use ctflow_engine::server::{Answer, ControlSocket, Order, OrderKind, Server, Unchanged};
use ctflow_replicate::Epoch;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::filter::LevelFilter;

use self::log::Log;
use crate::config::{Config, Security, Sync};
use crate::failure::Failure;

/// A command to the daemon as a whole: from an operator, who waits for the answer, or from a signal.
#[derive(Debug)]
struct DaemonCommand {
    action: OrderKind,
    /// Answers the operator; `None` for a signal.
    answer: Option<Answer>,
}

impl From<Order> for DaemonCommand {
    fn from(Order { kind: action, answer }: Order) -> Self {
        Self { action, answer: Some(answer) }
    }
}

/// Commands that may wait for the main thread. The client of a command beyond them gets the error that the daemon did
/// not answer.
const COMMANDS_MAX: usize = 16;

/// Interval of the main thread's health checks, unless systemd's watchdog needs a shorter one.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Time until the next health check after one in which a thread did not answer.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The result of a health check of the daemon's threads.
enum Health {
    /// All run and answer.
    Healthy,
    /// One did not answer in time.
    Unresponsive,
    /// One has ended.
    Ended,
}

/// Runs the daemon until a signal or an operator stops it; with `detach`, in the background.
///
/// # Errors
/// The daemon cannot start, or one of its threads failed.
pub(crate) fn start(mut config: Config, detach: bool) -> Result<(), Failure> {
    if detach && !detach::is_background_run() {
        return detach::start_in_background();
    }
    // A reload reads the file again, and the working directory is a different one by then.
    if let Ok(path) = std::path::absolute(&config.path) {
        config.path = path;
    }
    let log = Log::init(config.log_file.as_deref(), log_level()).map_err(|error| {
        let file = config.log_file.as_deref().unwrap_or_else(|| "standard error".as_ref());
        let why = os_error_text(&error);
        Failure::Daemon(format!("cannot open the log {}: {why}; name another file in [log]", file.display()))
    })?;
    let running = Running::start(config, log)?;
    if detach {
        detach::leave_terminal();
    }
    running.run()
}

/// The daemon with all its threads running.
struct Running {
    /// The configuration that the daemon was started with.
    config: Config,
    /// The `[sync]` section that was applied last.
    applied_sync: Sync,
    log: Log,
    engine: Engine,
    server: Server,
    commands: Receiver<DaemonCommand>,
}

/// Sends a state to systemd, if it started the daemon. Errors are ignored: without systemd the daemon runs on.
fn notify_systemd(state: NotifyState<'_>) {
    let _ = sd_notify::notify(&[state]);
}

impl Running {
    /// Opens sockets, drops capabilities and starts all threads.
    ///
    /// # Errors
    /// A socket cannot be opened, or a thread cannot be started.
    fn start(config: Config, log: Log) -> Result<Self, Failure> {
        let (command_sender, commands) = bounded(COMMANDS_MAX);
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(Failure::Signals)?;
        tracing::info!(node = %config.name, links = config.links.len(), mode = config.sync.mode.name(), "starting");
        if matches!(config.security, Security::Clear) {
            tracing::warn!(
                "links are not encrypted: anyone who reaches them can read and forge flows; set [security] key_file"
            );
        }
        let socket = ControlSocket::bind(&config.socket)?;
        let settings = settings::engine(&config, new_epoch()?);
        let opened = Engine::open(&settings)?;
        // After the sockets are open, which needs the capabilities; before any other thread is started, because each
        // thread has capabilities of its own, which it inherits.
        rights::drop_capabilities();
        forward_signals(signals, command_sender.clone())?;
        let engine = opened.start()?;
        let server = Server::start(socket, &engine, move |order| drop(command_sender.try_send(order.into())))?;
        notify_systemd(NotifyState::Ready);
        tracing::info!(socket = %config.socket.display(), "running");
        let applied_sync = config.sync.clone();
        Ok(Self { config, applied_sync, log, engine, server, commands })
    }

    /// Carries out commands and checks the threads' health until the daemon is to stop, then stops the engine and the
    /// server. The client that requested the stop is answered when the engine has stopped.
    ///
    /// # Errors
    /// A worker ended by itself.
    fn run(mut self) -> Result<(), Failure> {
        let watchdog = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero());
        let interval = watchdog.map_or(CHECK_INTERVAL, |timeout| timeout / 2);
        let mut wait = interval;
        let stop_answer = loop {
            match self.commands.recv_timeout(wait) {
                Ok(DaemonCommand { action: OrderKind::Stop, answer }) => break answer,
                Ok(DaemonCommand { action: OrderKind::Reload, answer }) => self.reload(answer),
                Err(RecvTimeoutError::Timeout) => match self.check_health() {
                    Health::Healthy => wait = interval,
                    Health::Unresponsive => wait = interval.min(RECHECK_INTERVAL),
                    Health::Ended => break None,
                },
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        };
        notify_systemd(NotifyState::Stopping);
        tracing::info!("stopping");
        let stopped = self.engine.stop();
        match &stopped {
            Ok(totals) => tracing::info!(events = totals.events(), lost = totals.events_lost, "stopped"),
            Err(error) => tracing::error!(%error, "stopped after a worker failed"),
        }
        stop_answer.into_iter().for_each(Answer::done);
        self.server.stop();
        Ok(stopped.map(drop)?)
    }

    /// Checks whether all threads run and answer, and notifies systemd's watchdog if they do. On an overloaded machine
    /// an answer may be late. The watchdog is not notified then, so that systemd decides whether to restart the daemon.
    fn check_health(&self) -> Health {
        if !self.engine.is_running() || !self.server.is_running() {
            tracing::error!("a thread of the daemon has ended (its error is above): the daemon stops");
            return Health::Ended;
        }
        if self.engine.replication().is_none_or(|replication| replication.status().is_err()) {
            tracing::warn!(
                "the replication thread does not answer: if this is logged again and again, reduce the load or restart \
                 the daemon"
            );
            return Health::Unresponsive;
        }
        notify_systemd(NotifyState::Watchdog);
        Health::Healthy
    }

    /// Reopens the log and applies what can change while the daemon runs. Logs, and answers with, the keys that need a
    /// restart.
    fn reload(&mut self, answer: Option<Answer>) {
        notify_systemd(NotifyState::Reloading);
        if let Err(error) = self.log.reopen() {
            let why = os_error_text(&error);
            tracing::error!("cannot open the log file again: {why}; logging continues to the old file");
        }
        let reloaded =
            Config::read(&self.config.path).map_err(|error| error.to_string()).and_then(|new| self.apply_config(new));
        match &reloaded {
            Ok(unchanged) => {
                unchanged.iter().for_each(|one| tracing::warn!("{} has changed: {}", one.key, one.why));
                tracing::info!("reloaded");
            }
            Err(error) => tracing::error!("{error}; the daemon keeps its previous configuration"),
        }
        match (answer, reloaded) {
            (Some(answer), Ok(unchanged)) => answer.reloaded(unchanged),
            (Some(answer), Err(error)) => answer.failed(error),
            (None, _) => {}
        }
        notify_systemd(NotifyState::Ready);
    }

    /// Applies a new configuration. Returns the keys that changed and need a restart.
    ///
    /// # Errors
    /// The reason why nothing was applied.
    fn apply_config(&mut self, new: Config) -> Result<Vec<Unchanged>, String> {
        if new.sync != self.applied_sync {
            self.apply_filter(&new)?;
        }
        let why = || "restart the daemon to apply it".to_owned();
        let unchanged =
            self.config.keys_needing_restart(&new).into_iter().map(|key| Unchanged { key: key.to_owned(), why: why() });
        let unchanged = unchanged.collect();
        self.applied_sync = new.sync;
        Ok(unchanged)
    }

    /// Sends the new replication filter to all workers.
    ///
    /// # Errors
    /// A worker was busy at each of [`RETRIES`] attempts.
    fn apply_filter(&self, new: &Config) -> Result<(), String> {
        let filter = settings::replication_filter(&new.sync);
        for _ in 0..RETRIES {
            if self.engine.set_filter(filter.clone()).is_ok() {
                return Ok(());
            }
            thread::sleep(RETRY);
        }
        Err("the workers are too busy to apply the new filter: reload again".to_owned())
    }
}

/// How often a filter is sent again to a worker that was busy.
const RETRIES: u32 = 50;
/// Time between two attempts.
const RETRY: Duration = Duration::from_millis(20);

/// Starts the thread that turns signals into commands: SIGTERM and SIGINT into stop, SIGHUP into reload.
///
/// # Errors
/// The thread cannot be started.
fn forward_signals(mut signals: Signals, commands: Sender<DaemonCommand>) -> Result<(), Failure> {
    let forward = move || {
        for signal in signals.forever() {
            let action = if signal == SIGHUP { OrderKind::Reload } else { OrderKind::Stop };
            // If the queue is full, the signal is dropped: commands of the same kind are already waiting.
            let _ = commands.try_send(DaemonCommand { action, answer: None });
        }
    };
    thread::Builder::new().name("ctflow-signals".to_owned()).spawn(forward).map_err(Failure::Signals)?;
    Ok(())
}

/// Returns the epoch of this run: the wall clock in milliseconds and a random number.
///
/// # Errors
/// The kernel returned no random bytes.
fn new_epoch() -> Result<Epoch, Failure> {
    let mut random = [0; 4];
    let failed = |error: Errno| {
        Failure::Daemon(format!("the kernel returned no random bytes: {}", os_error_text(&error.into())))
    };
    getrandom(&mut random, GetRandomFlags::empty()).map_err(failed)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Epoch::new(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), u32::from_ne_bytes(random)))
}

/// Returns the level that `CTFLOW_LOG` names, else `info`.
fn log_level() -> LevelFilter {
    std::env::var("CTFLOW_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO)
}
