//! The two suites that replicate, ctflow and conntrack-tools: their daemons on a [`Pair`], and the commands sent to
//! them.
//!
//! Both daemons accept the options of conntrackd, so dumps of both are requested and compared in the same way. ctflow's
//! own commands request what only ctflow provides.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::failure::Failure;
use crate::lines::{self, Difference};
use crate::pair::{LINK, Pair, Side};
use crate::process::{Process, RUN_TIMEOUT};
use crate::program::{Program, Programs};
use crate::wait::Deadline;

/// The daemon that ctflow's replication is compared with.
const REFERENCE: &str = "conntrackd";
/// How long two daemons may take to find each other. The usual time is at most two seconds.
const PEERING_TIMEOUT: Duration = Duration::from_secs(20);
/// The time in which conntrackd has surely found its peer. conntrackd does not report it.
const CONNTRACKD_PEERING_TIME: Duration = Duration::from_secs(2);
/// The interval at which a daemon's status is polled. Each query costs some milliseconds of CPU.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The origin of a suite's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ctflow,
    ConntrackTools,
}

/// The programs of one suite, with a configuration for each side.
#[derive(Debug)]
pub(crate) struct Suite {
    kind: Kind,
    /// `ctflow`; for conntrack-tools the daemon's program again.
    client: Program,
    /// `ctflowd` or `conntrackd`.
    daemon: Program,
    folder: TempDir,
    /// Text appended to the configuration: sections of ctflow, or clauses inside conntrackd's `Sync`.
    extra_config: &'static str,
}

/// Hot mode with isolation: a backup injects replicas into its kernel as they arrive, and lets no other packets in.
const HOT: &str = "[sync]\nhot = true\n[takeover]\nisolate = true\n";
/// Makes conntrackd replicate expectations, too. ctflow always does.
const WITH_EXPECTATIONS: &str = "  Options { ExpectationSync On }\n";

impl Suite {
    /// ctflow, with encrypted links by UDP.
    ///
    /// # Errors
    /// When files cannot be written.
    pub(crate) fn ours(programs: &Programs) -> Result<Self, Failure> {
        Self::ours_with_config(programs, "")
    }

    /// ctflow in hot mode, with isolated backups.
    ///
    /// # Errors
    /// When files cannot be written.
    pub(crate) fn hot(programs: &Programs) -> Result<Self, Failure> {
        Self::ours_with_config(programs, HOT)
    }

    /// ctflow, with text appended to its configuration.
    fn ours_with_config(programs: &Programs, more: &'static str) -> Result<Self, Failure> {
        let (folder, client) = (folder()?, programs.ours.clone());
        let path = fs::canonicalize(&client.path).map_err(Failure::system("find ctflow"))?;
        let daemon = folder.path().join("ctflowd"); // under this name ctflow accepts conntrackd's options
        symlink(path, &daemon).map_err(Failure::system("link ctflow"))?;
        let key = folder.path().join("key").display().to_string();
        Process::start(&client, &["keygen", &key])?.run_to_end(RUN_TIMEOUT)?;
        Self { kind: Kind::Ctflow, client, daemon: Program::at(daemon), folder, extra_config: more }
            .write_configuration()
    }

    /// conntrackd in mode FT-FW, unencrypted, by UDP, with buffers as large as ctflow's may grow.
    ///
    /// # Errors
    /// When it is not installed, or files cannot be written.
    pub(crate) fn reference() -> Result<Self, Failure> {
        Self::reference_with_config("")
    }

    /// conntrackd as in [`Suite::reference`], which also replicates expectations.
    ///
    /// # Errors
    /// When it is not installed, or files cannot be written.
    pub(crate) fn reference_with_expectations() -> Result<Self, Failure> {
        Self::reference_with_config(WITH_EXPECTATIONS)
    }

    /// conntrackd, with text added to the `Sync` section of its configuration.
    fn reference_with_config(more: &'static str) -> Result<Self, Failure> {
        let daemon = Program::installed(REFERENCE)?;
        Self { kind: Kind::ConntrackTools, client: daemon.clone(), daemon, folder: folder()?, extra_config: more }
            .write_configuration()
    }

    /// The suite's name in the report.
    pub(crate) fn name(&self) -> String {
        match self.kind {
            Kind::Ctflow => "ctflow".to_owned(),
            Kind::ConntrackTools => REFERENCE.to_owned(),
        }
    }

    /// Whether the suite is ctflow, whose own commands are available.
    pub(crate) fn is_ours(&self) -> bool {
        self.kind == Kind::Ctflow
    }

    /// Whether replicas are in the backup's kernel before a takeover.
    pub(crate) fn is_hot(&self) -> bool {
        self.extra_config == HOT
    }

    /// Whether expectations are committed by a command of their own.
    pub(crate) fn commits_expectations_apart(&self) -> bool {
        self.extra_config == WITH_EXPECTATIONS
    }

    /// Flushes both tables of a pair, starts a daemon on each side, and waits until they have found each other.
    ///
    /// # Errors
    /// When a daemon fails, or they do not find each other in time.
    pub(crate) fn start<'s>(&'s self, pair: &'s Pair) -> Result<Running<'s>, Failure> {
        pair.flush(Side::Primary)?;
        pair.flush(Side::Backup)?;
        let mut running = Running { suite: self, pair, primary: None, backup: None };
        running.start_daemon(Side::Primary)?;
        running.start_daemon(Side::Backup)?;
        for side in [Side::Primary, Side::Backup] {
            running.process(side)?.await_subscription()?;
        }
        running.await_peering()?;
        Ok(running)
    }

    /// Writes the configuration of each side into the folder.
    fn write_configuration(self) -> Result<Self, Failure> {
        for side in [Side::Primary, Side::Backup] {
            let text = match self.kind {
                Kind::Ctflow => self.ctflow_toml(side),
                Kind::ConntrackTools => self.conntrackd_conf(side),
            };
            fs::write(self.file(side, "conf"), text).map_err(Failure::system("write a configuration"))?;
        }
        Ok(self)
    }

    fn file(&self, side: Side, suffix: &str) -> PathBuf {
        self.folder.path().join(format!("{}.{suffix}", side.name()))
    }

    fn ctflow_toml(&self, side: Side) -> String {
        let (name, own, other) = (side.name(), side.address(), side.other().address());
        let folder = self.folder.path().display();
        format!(
            "[node]\nname = \"{name}\"\n\
             [[link]]\ntransport = \"udp\"\nlocal = \"{own}:3780\"\npeers = [\"{other}:3780\"]\ninterface = \"{LINK}\"\n\
             [security]\nkey_file = \"{folder}/key\"\n\
             [control]\nsocket = \"{folder}/{name}.sock\"\n\
             [log]\nfile = \"{folder}/{name}.log\"\n{}",
            self.extra_config
        )
    }

    fn conntrackd_conf(&self, side: Side) -> String {
        let (name, own, other) = (side.name(), side.address(), side.other().address());
        let folder = self.folder.path().display();
        format!(
            "Sync {{\n  Mode FTFW {{ }}\n  UDP {{\n    IPv4_address {own}\n    IPv4_Destination_Address {other}\n    \
             Port 3781\n    Interface {LINK}\n    SndSocketBuffer 8388608\n    RcvSocketBuffer 8388608\n    Checksum on\n  \
             }}\n{}}}\n\
             General {{\n  HashSize 65536\n  HashLimit 4194304\n  LogFile {folder}/{name}.log\n  LockFile \
             {folder}/{name}.lock\n  UNIX {{ Path {folder}/{name}.sock }}\n  NetlinkBufferSize 16777216\n  \
             NetlinkBufferSizeMaxGrowth 134217728\n}}\n",
            self.extra_config
        )
    }
}

fn folder() -> Result<TempDir, Failure> {
    tempfile::Builder::new().prefix("ctflow-perf-").tempdir().map_err(Failure::system("make a folder"))
}

/// A suite's running daemons. They are killed when dropped.
#[derive(Debug)]
pub(crate) struct Running<'s> {
    suite: &'s Suite,
    pair: &'s Pair,
    primary: Option<Process>,
    backup: Option<Process>,
}

impl Running<'_> {
    /// Starts the daemon of one side, where none is running.
    ///
    /// # Errors
    /// When the daemon cannot be started.
    pub(crate) fn start_daemon(&mut self, side: Side) -> Result<(), Failure> {
        for left_over in ["lock", "sock"] {
            let _ = fs::remove_file(self.suite.file(side, left_over)); // left by a daemon that was killed
        }
        let configuration = self.suite.file(side, "conf").display().to_string();
        let process = Process::start_on(self.pair.host(side), &self.suite.daemon, &["-C", &configuration])?;
        *self.daemon_slot(side) = Some(process);
        Ok(())
    }

    /// Kills the daemon of one side.
    pub(crate) fn kill(&mut self, side: Side) {
        self.daemon_slot(side).take().into_iter().for_each(Process::kill);
    }

    /// Stops both daemons, and waits until they have ended.
    ///
    /// # Errors
    /// When a daemon does not end in time.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        let both = [self.primary.take(), self.backup.take()];
        both.into_iter().flatten().try_for_each(|process| process.stop().map(drop))
    }

    /// The daemon's process on one side.
    ///
    /// # Errors
    /// When the daemon was killed.
    pub(crate) fn process(&mut self, side: Side) -> Result<&mut Process, Failure> {
        let name = format!("{} of the {}", self.suite.daemon.name, side.name());
        let none = || Failure::system(format!("inspect {name}"))(std::io::Error::from(std::io::ErrorKind::NotFound));
        self.daemon_slot(side).as_mut().ok_or_else(none)
    }

    /// Dumps the primary's internal cache and the backup's external cache.
    ///
    /// # Errors
    /// When a daemon does not answer.
    pub(crate) fn dumps(&self) -> Result<Dumps, Failure> {
        let internal = self.run_client(&self.suite.daemon, Side::Primary, &["-i"])?;
        let external = self.run_client(&self.suite.daemon, Side::Backup, &["-e"])?;
        Ok(Dumps { internal, external })
    }

    /// The JSON document of ctflow's status on one side.
    ///
    /// # Errors
    /// When the daemon does not answer, or the answer is not JSON.
    pub(crate) fn status(&self, side: Side) -> Result<Value, Failure> {
        let text = self.run_client(&self.suite.client, side, &["status", "--json"])?;
        serde_json::from_slice(&text).map_err(|_| Failure::Unreadable("ctflow's status".to_owned()))
    }

    /// Sends the daemon of one side a command in the options of conntrackd, and waits until it is done.
    ///
    /// # Errors
    /// When the daemon does not answer, or refuses the command.
    pub(crate) fn run_daemon_command(&self, side: Side, options: &[&str]) -> Result<(), Failure> {
        self.run_client(&self.suite.daemon, side, options).map(drop)
    }

    /// Sets the role of ctflow's daemon on one side.
    ///
    /// # Errors
    /// When the daemon does not answer, or refuses the role.
    pub(crate) fn set_role(&self, side: Side, role: &str) -> Result<(), Failure> {
        self.run_client(&self.suite.client, side, &["role", role]).map(drop)
    }

    /// The number of overruns of one side's event socket, as its daemon reports it.
    ///
    /// # Errors
    /// When the daemon does not report it.
    pub(crate) fn overruns(&self, side: Side) -> Result<u64, Failure> {
        let text = self.run_client(&self.suite.daemon, side, &["-s", "runtime"])?;
        parse_overruns(&String::from_utf8_lossy(&text))
            .ok_or_else(|| Failure::Unreadable("statistics of the run".into()))
    }

    /// Whether `ctflow sync verify` on the primary finds the backup's replica equal.
    ///
    /// # Errors
    /// When the command fails for another reason than a difference.
    pub(crate) fn verify(&self) -> Result<bool, Failure> {
        match self.run_client(&self.suite.client, Side::Primary, &["sync", "verify"]) {
            Ok(_) => Ok(true),
            Err(Failure::Exited { status, .. }) if status.code() == Some(1) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Waits until both sides are in sync and `verify` succeeds, and returns the time of that. Works with ctflow only.
    ///
    /// # Errors
    /// When they do not agree within `timeout`.
    pub(crate) fn await_agreement(&self, timeout: Duration) -> Result<Instant, Failure> {
        let deadline = Deadline::new("the caches to agree", timeout);
        deadline.poll(POLL_INTERVAL, || {
            Ok(self.is_in_sync(Side::Primary) && self.is_in_sync(Side::Backup) && self.verify()?)
        })?;
        Ok(Instant::now())
    }

    /// Waits until the daemons have found each other.
    fn await_peering(&self) -> Result<(), Failure> {
        if self.suite.kind == Kind::ConntrackTools {
            thread::sleep(CONNTRACKD_PEERING_TIME);
            return Ok(());
        }
        let deadline = Deadline::new("the nodes to find each other", PEERING_TIMEOUT);
        deadline.poll(POLL_INTERVAL, || Ok(self.is_in_sync(Side::Primary) && self.is_in_sync(Side::Backup)))
    }

    /// Whether a side's status reports its peer live and fully received. `false` while the daemon does not answer.
    fn is_in_sync(&self, side: Side) -> bool {
        self.status(side).is_ok_and(|status| peer_is_in_sync(&status))
    }

    /// Runs `program` as a client of one side's daemon, and returns its output.
    fn run_client(&self, program: &Program, side: Side, words: &[&str]) -> Result<Vec<u8>, Failure> {
        let configuration = self.suite.file(side, "conf").display().to_string();
        // conntrackd applies a configuration only if it precedes the option of the command.
        let words: Vec<&str> = match program.name == self.suite.client.name && self.suite.is_ours() {
            true => words.iter().copied().chain(["-C", &configuration]).collect(),
            false => ["-C", &configuration].into_iter().chain(words.iter().copied()).collect(),
        };
        Ok(Process::start(program, &words)?.run_to_end(RUN_TIMEOUT)?.output)
    }

    fn daemon_slot(&mut self, side: Side) -> &mut Option<Process> {
        match side {
            Side::Primary => &mut self.primary,
            Side::Backup => &mut self.backup,
        }
    }
}

/// A number of a JSON document; infinite if the value is no number, so that it misses every goal.
pub(crate) fn json_number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::INFINITY)
}

/// Finds the number of overruns in the output of `-s runtime`.
fn parse_overruns(statistics: &str) -> Option<u64> {
    statistics.lines().find_map(|line| line.trim().strip_prefix("netlink overrun:")?.trim().parse().ok())
}

/// Whether a status document has one peer, live, with no bucket of any stream unknown.
fn peer_is_in_sync(status: &Value) -> bool {
    let Some([peer]) = status["peers"].as_array().map(Vec::as_slice) else { return false };
    let streams = peer["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
    let known = |stream: &Value| stream["unknown"].as_u64() == Some(0);
    peer["standing"] == "live" && !streams.is_empty() && streams.iter().all(known)
}

/// The dumps of the primary's internal cache and of the backup's external cache.
#[derive(Debug)]
pub(crate) struct Dumps {
    internal: Vec<u8>,
    external: Vec<u8>,
}

impl Dumps {
    /// The number of flows in the backup's external cache.
    pub(crate) fn replica_count(&self) -> u64 {
        lines::count(&self.external)
    }

    /// The lines that are in only one of the dumps, compared by the fields that both print.
    pub(crate) fn difference(&self) -> Difference {
        lines::replica_difference(&self.internal, &self.external)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The output was captured from conntrackd 1.4.7.
    #[test]
    fn overruns_are_read_from_the_statistics() {
        let page = "netlink stats:\n\tdump unknown type:\t\t           0\n\tnetlink overrun:\t\t           3\n";
        assert_eq!(parse_overruns(page), Some(3));
        assert_eq!(parse_overruns(""), None);
    }

    #[test]
    fn a_peer_is_in_sync_when_nothing_of_it_is_missing() {
        let status = |standing: &str, streams: Value| json!({"peers": [{"standing": standing, "streams": streams}]});
        assert!(peer_is_in_sync(&status("live", json!([{"unknown": 0}, {"unknown": 0}]))));
        assert!(!peer_is_in_sync(&status("live", json!([{"unknown": 0}, {"unknown": 3}]))));
        assert!(!peer_is_in_sync(&status("live", json!([]))), "the peer's streams are not known yet");
        assert!(!peer_is_in_sync(&status("lost", json!([{"unknown": 0}]))));
        assert!(!peer_is_in_sync(&json!({"peers": []})));
    }
}
