//! Two firewalls as in production: the real keepalived decides which is master, with the configuration and the notify
//! script of `packaging/keepalived`. The daemons replicate in hot mode, and the backup is isolated. The primary fails
//! in three ways. `cargo test -p ctflow --test keepalived -- --nocapture` prints how long its connections were silent.
#![allow(clippy::unwrap_used, clippy::panic)] // tests and their helpers may fail by both

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ctflow_lab::gateways::{GatewayId, Gateways, SYNC_ADDRESSES};
use ctflow_lab::isolated;
use ctflow_lab::link::Links;
use ctflow_lab::topology::{INSIDE_LINK, OUTSIDE_LINK, REDIRECTED, SERVER, SERVER6};
use ctflow_lab::traffic::{Streams, Target};
use ctflow_lab::{Host, Lab};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ctflow");
const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/keepalived");
/// The longest wait. Nothing here takes a third of it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A firewall with a daemon and a keepalived, and a folder with their files.
struct Firewall<'g> {
    which: GatewayId,
    host: &'g Host,
    folder: PathBuf,
    daemon: Option<Child>,
    keepalived: Option<Child>,
}

impl<'g> Firewall<'g> {
    fn configure(gateways: &'g Gateways, folder: &Path, which: GatewayId) -> Self {
        let (host, own) = (gateways.firewall(which), folder.join(which.name()));
        fs::create_dir(&own).unwrap();
        // VRRP sends from addresses of each firewall's own, in networks that nothing else uses.
        let last = u8::try_from(which.index()).unwrap() + 1;
        host.run(move || {
            let links = Links::open().unwrap();
            links.add_address(INSIDE_LINK, [10, 0, 1, last].into(), 24).unwrap();
            links.add_address(OUTSIDE_LINK, [10, 0, 2, last].into(), 24).unwrap();
        });
        let firewall = Self { which, host, folder: own, daemon: None, keepalived: None };
        let [local, peer] = [SYNC_ADDRESSES[which.index()], SYNC_ADDRESSES[1 - which.index()]];
        firewall.write(
            "ctflow.toml",
            &format!(
                "[node]\nname = \"{}\"\n[[link]]\nlocal = \"{local}:3780\"\npeers = [\"{peer}:3780\"]\n\
                 [security]\nkey_file = {:?}\n[control]\nsocket = {:?}\n[log]\nfile = {:?}\n[sync]\nhot = true\n\
                 [takeover]\nisolate = true\n",
                which.name(),
                folder.join("key"),
                firewall.path("socket"),
                firewall.path("daemon.log"),
            ),
        );
        let ctflow = format!("#!/bin/sh\nexec {PROGRAM} \"$@\" --socket {}\n", firewall.path("socket").display());
        firewall.write_program("ctflow", &ctflow);
        let place = |text: String, from: &str, to: &str| text.replace(from, firewall.path(to).to_str().unwrap());
        let notify = fs::read_to_string(format!("{PACKAGING}/ctflow-notify")).unwrap();
        let notify = place(place(notify, "/usr/sbin/ctflow", "ctflow"), "/run/ctflow-notify", "notify");
        firewall.write_program("ctflow-notify", &notify);
        // Script security also checks who may write to the folders above the scripts, which a test does not control.
        let text = fs::read_to_string(format!("{PACKAGING}/keepalived.conf")).unwrap();
        let text = text.replace("enable_script_security", "");
        let text = place(text, "/usr/sbin/ctflow", "ctflow").replace("eth0", INSIDE_LINK).replace("eth1", OUTSIDE_LINK);
        firewall.write("keepalived.conf", &place(text, "/etc/keepalived/ctflow-notify", "ctflow-notify"));
        firewall
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn write_program(&self, name: &str, text: &str) {
        self.write(name, text);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn start_daemon(&mut self) {
        let mut command = Command::new(PROGRAM);
        command.arg("daemon").arg("-C").arg(self.path("ctflow.toml")).stdout(Stdio::null());
        self.daemon = Some(self.host.run(move || command.spawn().unwrap()));
    }

    fn start_keepalived(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("keepalived.log")).unwrap();
        let mut command = Command::new("keepalived");
        command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file"]);
        command.arg(self.path("keepalived.conf"));
        command.arg("--pid").arg(self.path("pid")).arg("--vrrp_pid").arg(self.path("vrrp.pid"));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.keepalived = Some(self.host.run(move || command.spawn().unwrap()));
    }

    /// Returns the daemon's status document; `None` while the daemon does not answer.
    fn status(&self) -> Option<Value> {
        let output = Command::new(self.path("ctflow")).args(["status", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    fn has_role(&self, role: &str) -> bool {
        self.status().is_some_and(|status| status["role"] == role)
    }

    /// Returns how many flows of the other firewall the daemon holds.
    fn external_flows(&self) -> usize {
        let flows = self.status().and_then(|status| status["external"]["flows"].as_u64()).unwrap();
        usize::try_from(flows).unwrap()
    }

    /// Returns whether the daemon is an isolated backup that could take over at least this many flows.
    fn is_ready_backup(&self, flows: usize) -> bool {
        self.status().is_some_and(|status| {
            let held = status["external"]["flows"].as_u64().unwrap();
            status["role"] == "backup"
                && status["gate"]["open"] == true
                && status["isolated"] == true
                && held >= u64::try_from(flows).unwrap()
        })
    }

    fn kill_daemon(&mut self) {
        kill(self.daemon.take());
    }

    /// Kills keepalived, with its child process that sends VRRP.
    fn kill_keepalived(&mut self) {
        if let Some(vrrp) = fs::read_to_string(self.path("vrrp.pid")).ok().and_then(|pid| pid.trim().parse().ok())
            && self.keepalived.is_some()
        {
            let _ = kill_process(Pid::from_raw(vrrp).unwrap(), Signal::KILL); // it may have ended
        }
        kill(self.keepalived.take());
    }

    fn describe(&self) -> String {
        let read = |name| fs::read_to_string(self.path(name)).unwrap_or_default();
        format!("{}:\n{:#?}\n{}\n{}", self.which.name(), self.status(), read("daemon.log"), read("keepalived.log"))
    }
}

fn kill(process: Option<Child>) {
    if let Some(mut process) = process {
        let _ = process.kill(); // it may have ended
        process.wait().unwrap();
    }
}

impl Drop for Firewall<'_> {
    fn drop(&mut self) {
        self.kill_keepalived();
        self.kill_daemon();
    }
}

fn until(what: &str, firewalls: &[Firewall<'_>; 2], mut satisfied: impl FnMut(&[Firewall<'_>; 2]) -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !satisfied(firewalls) {
        if Instant::now() >= deadline {
            let states = firewalls.iter().map(Firewall::describe).collect::<String>();
            panic!("never: {what}\n{states}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns whether one firewall is primary, and the other one is a ready backup.
fn settled([one, other]: &[Firewall<'_>; 2]) -> bool {
    one.has_role("primary") && other.is_ready_backup(0) || other.has_role("primary") && one.is_ready_backup(0)
}

/// How a primary fails.
#[derive(Debug, Clone, Copy)]
enum Failure {
    /// Its daemon is killed; keepalived finds that it is not ready any more.
    Process,
    /// It loses its cables to both sides, but not the one to the other firewall.
    Cable,
    /// All of it fails at once.
    Host,
}

#[test]
fn the_backup_takes_over_whatever_fails_and_no_connection_dies() {
    let found = Command::new("keepalived").arg("--version").output();
    ctflow_lab::or_skip!(found.map_err(|error| format!("keepalived: {error}")));
    isolated!({
        if fs::read_to_string("/proc/self/setgroups").is_ok_and(|permitted| permitted.trim() == "deny") {
            return isolated::skip(&"keepalived runs no scripts in a user namespace without rights");
        }
        let gateways = Gateways::build_inactive(&Lab::enter().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let keygen = Command::new(PROGRAM).arg("keygen").arg(folder.path().join("key")).output().unwrap();
        assert!(keygen.status.success());
        let mut firewalls =
            [GatewayId::First, GatewayId::Second].map(|which| Firewall::configure(&gateways, folder.path(), which));
        firewalls.iter_mut().for_each(Firewall::start_daemon);
        until("the daemons answer", &firewalls, |all| all.iter().all(|one| one.status().is_some()));
        firewalls.iter_mut().for_each(Firewall::start_keepalived);
        let tcp = [REDIRECTED, (SERVER, 80).into(), (SERVER6, 443).into()].map(Target::Tcp);
        let udp = [(SERVER, 53).into(), (SERVER6, 53).into()].map(Target::Udp);
        let targets = [&tcp[..], &tcp, &udp].concat();
        for failure in [Failure::Process, Failure::Cable, Failure::Host] {
            until("one is primary, the other waits", &firewalls, settled);
            let primary = usize::from(firewalls[1].has_role("primary"));
            let which = firewalls[primary].which;
            let before = firewalls[1 - primary].external_flows();
            let streams = Streams::start(&gateways.client, &targets).unwrap();
            until("all is replicated", &firewalls, |all| all[1 - primary].is_ready_backup(before + targets.len()));
            match failure {
                Failure::Process => firewalls[primary].kill_daemon(),
                Failure::Cable => gateways.unplug(which).unwrap(),
                Failure::Host => {
                    gateways.cut_off(which).unwrap();
                    firewalls[primary].kill_keepalived();
                    firewalls[primary].kill_daemon();
                }
            }
            until("the other is primary", &firewalls, |all| all[1 - primary].has_role("primary"));
            std::thread::sleep(Duration::from_secs(2));
            let results = streams.finish();
            let dead: Vec<_> = results.iter().filter(|one| one.died.is_some()).collect();
            assert!(dead.is_empty() && results.len() == targets.len(), "{failure:?}: {dead:?}");
            let silence = results.iter().map(|one| one.silence).max().unwrap();
            println!("{failure:?}: {} connections survived, silent for {silence:.0?} at most", results.len());
            // The failed firewall returns, and must become the backup although it was primary before.
            gateways.reconnect(which).unwrap();
            if !matches!(failure, Failure::Cable) {
                firewalls[primary].start_daemon();
            }
            if matches!(failure, Failure::Host) {
                firewalls[primary].start_keepalived();
            }
        }
        until("one is primary again, and the other waits", &firewalls, settled);
    });
}
