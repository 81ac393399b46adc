//! The daemon: engine and control server, from start to end.
//!
//! ```text
//! config ──► log ──► sockets open ──► rights given up ──► threads start ──► ready ──► wishes until the end
//!                                                                                     stop, reload; the watchdog
//! ```
//!
//! The main thread does nothing but wait: for signals, for what operators want of the whole daemon, and for the time to
//! tell systemd that all is well.

mod detach;
mod log;
mod notify;
mod rights;
mod settings;

use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ctflow_engine::engine::Engine;
use ctflow_engine::server::{Answer, ControlSocket, Order, OrderKind, Server, Unchanged};
use ctflow_replicate::Epoch;
use rustix::rand::{GetRandomFlags, getrandom};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::filter::LevelFilter;

use self::log::Log;
use self::notify::ServiceManager;
use crate::config::{Config, Security, Sync};
use crate::failure::Failure;

/// What the daemon is to do as a whole, and who waits for it, if not a signal.
#[derive(Debug)]
struct DaemonCommand {
    action: OrderKind,
    answer: Option<Answer>,
}

impl From<Order> for DaemonCommand {
    fn from(Order { kind: wanted, answer }: Order) -> Self {
        Self { action: wanted, answer: Some(answer) }
    }
}

/// Wishes that wait for the main thread; past them, whoever wants is told that the daemon does not answer.
const COMMANDS_MAX: usize = 16;

/// How often the main thread looks whether everything still runs, where nobody asks for more.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How soon it looks again where somebody did not answer.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How the daemon's threads are.
enum Health {
    /// They run and answer.
    Healthy,
    /// One does not answer in time.
    Unresponsive,
    /// One has ended.
    Ended,
}

/// Runs until a signal or an operator ends it; with `detach`, in the background.
///
/// # Errors
/// It cannot start, or a part of it failed.
pub(crate) fn start(mut config: Config, detach: bool) -> Result<(), Failure> {
    if detach && !detach::is_background_run() {
        return detach::start_in_background();
    }
    // It is read again on a reload, when the working directory is another.
    if let Ok(path) = std::path::absolute(&config.path) {
        config.path = path;
    }
    let log = Log::init(config.log_file.as_deref(), log_level()).map_err(|error| {
        let file = config.log_file.as_deref().unwrap_or_else(|| "standard error".as_ref());
        Failure::Daemon(format!("cannot open the log {}: {error}; name another file in [log]", file.display()))
    })?;
    let running = Running::start(config, log)?;
    if detach {
        detach::leave_terminal();
    }
    running.run()
}

/// The daemon, all of it running.
struct Running {
    /// As it was started.
    config: Config,
    /// What was taken over last.
    applied_sync: Sync,
    log: Log,
    engine: Engine,
    server: Server,
    commands: Receiver<DaemonCommand>,
    manager: ServiceManager,
}

impl Running {
    fn start(config: Config, log: Log) -> Result<Self, Failure> {
        let (command_sender, commands) = bounded(COMMANDS_MAX);
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(Failure::Signals)?;
        tracing::info!(node = %config.name, links = config.links.len(), mode = config.sync.mode.name(), "starting");
        if matches!(config.security, Security::Clear) {
            tracing::warn!("links are in clear: who reaches them can read and forge flows; set [security] key_file");
        }
        let socket = ControlSocket::bind(&config.socket)?;
        let settings = settings::engine(&config, new_epoch()?);
        let opened = Engine::open(&settings)?;
        rights::drop_capabilities(); // of this thread, so before any other is started
        forward_signals(signals, command_sender.clone())?;
        let engine = opened.start()?;
        let server = Server::start(socket, &engine, move |order| drop(command_sender.try_send(order.into())))?;
        let manager = ServiceManager::from_environment();
        manager.notify("READY=1");
        tracing::info!(socket = %config.socket.display(), "running");
        let applied_sync = config.sync.clone();
        Ok(Self { config, applied_sync, log, engine, server, commands, manager })
    }

    fn run(mut self) -> Result<(), Failure> {
        let interval = ServiceManager::watchdog_interval().unwrap_or(CHECK_INTERVAL);
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
        self.manager.notify("STOPPING=1");
        tracing::info!("stopping");
        let stopped = self.engine.stop();
        match &stopped {
            Ok(totals) => tracing::info!(events = totals.events(), lost = totals.events_lost, "stopped"),
            Err(error) => tracing::error!(%error, "stopped, a worker before the others"),
        }
        stop_answer.into_iter().for_each(Answer::done);
        self.server.stop();
        Ok(stopped.map(drop)?)
    }

    /// Whether all threads run and answer; if so, systemd hears of it. On a machine that is short of time an answer may
    /// be late: what then is to be done is for systemd to decide, which hears nothing meanwhile.
    fn check_health(&self) -> Health {
        if !self.engine.is_running() || !self.server.is_running() {
            tracing::error!("a part of the daemon has ended, see above: the daemon ends");
            return Health::Ended;
        }
        if self.engine.replication().is_none_or(|replication| replication.status().is_err()) {
            tracing::warn!(
                "the replication stage does not answer: if this goes on, give the machine more time, or restart"
            );
            return Health::Unresponsive;
        }
        self.manager.notify("WATCHDOG=1");
        Health::Healthy
    }

    /// Takes over what can change while the daemon runs, and says what cannot.
    fn reload(&mut self, answer: Option<Answer>) {
        self.manager.notify("RELOADING=1");
        if let Err(error) = self.log.reopen() {
            tracing::error!(%error, "cannot open the log again: it goes on in the old file");
        }
        let reloaded =
            Config::read(&self.config.path).map_err(|error| error.to_string()).and_then(|new| self.apply_config(new));
        match &reloaded {
            Ok(unchanged) => {
                unchanged.iter().for_each(|one| tracing::warn!("{} has changed: {}", one.key, one.why));
                tracing::info!("reloaded");
            }
            Err(error) => tracing::error!("{error}; the daemon goes on as it was configured before"),
        }
        match (answer, reloaded) {
            (Some(answer), Ok(unchanged)) => answer.reloaded(unchanged),
            (Some(answer), Err(error)) => answer.failed(error),
            (None, _) => {}
        }
        self.manager.notify("READY=1");
    }

    /// What of another configuration could not be taken over; or why nothing was.
    fn apply_config(&mut self, new: Config) -> Result<Vec<Unchanged>, String> {
        if new.sync != self.applied_sync {
            self.apply_filter(&new)?;
        }
        let why = || "restart the daemon for it".to_owned();
        let unchanged =
            self.config.keys_needing_restart(&new).into_iter().map(|key| Unchanged { key: key.to_owned(), why: why() });
        let unchanged = unchanged.collect();
        self.applied_sync = new.sync;
        Ok(unchanged)
    }

    fn apply_filter(&self, new: &Config) -> Result<(), String> {
        let filter = settings::replication_filter(&new.sync);
        for _ in 0..RETRIES {
            if self.engine.set_filter(filter.clone()).is_ok() {
                return Ok(());
            }
            thread::sleep(RETRY);
        }
        Err("the workers are too busy to take another filter: reload again".to_owned())
    }
}

/// How often, and after how long, a busy worker is asked again.
const RETRIES: u32 = 50;
const RETRY: Duration = Duration::from_millis(20);

/// Has signals become wishes: termination and interrupt end the daemon, SIGHUP has it reload.
fn forward_signals(mut signals: Signals, commands: Sender<DaemonCommand>) -> Result<(), Failure> {
    let forward = move || {
        for signal in signals.forever() {
            let action = if signal == SIGHUP { OrderKind::Reload } else { OrderKind::Stop };
            let _ = commands.try_send(DaemonCommand { action, answer: None }); // where many wait, one of them is the same
        }
    };
    thread::Builder::new().name("ctflow-signals".to_owned()).spawn(forward).map_err(Failure::Signals)?;
    Ok(())
}

/// This run's epoch.
fn new_epoch() -> Result<Epoch, Failure> {
    let mut random = [0; 4];
    let failed = |error| Failure::Daemon(format!("the kernel gives no random bytes: {error}"));
    getrandom(&mut random, GetRandomFlags::empty()).map_err(failed)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Epoch::new(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), u32::from_ne_bytes(random)))
}

fn log_level() -> LevelFilter {
    std::env::var("CTFLOW_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO)
}
