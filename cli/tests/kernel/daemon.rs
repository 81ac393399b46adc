//! Two daemons on this kernel that replicate to each other, and every request of operators to them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ctflow_lab::Lab;
use ctflow_parser::flow::FlowView;
use ctflow_parser::uapi::{IPPROTO_TCP, IPPROTO_UDP};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::support::{PROGRAM, Ran, create, flow, flush, ports, ran, run, until};

/// A pair of daemons in the foreground, and a folder with their files.
struct Pair {
    folder: tempfile::TempDir,
    daemons: Vec<Child>,
}

impl Pair {
    /// Configures both daemons and starts none. `more` is appended to both configurations.
    fn configured(more: &str) -> Self {
        Lab::enter().unwrap();
        let folder = tempfile::tempdir().unwrap();
        symlink(PROGRAM, folder.path().join("ctflowd")).unwrap();
        let pair = Self { folder, daemons: Vec::new() };
        assert_eq!(run(PROGRAM, &["keygen", &pair.path_text("key")]).0, 0);
        for (name, local, peer) in [("one", 4000, 4001), ("other", 4001, 4000)] {
            let (key, socket, log) = (pair.path_text("key"), pair.socket(name), pair.path_text(&format!("{name}.log")));
            let config = format!(
                "[node]\nname = \"{name}\"\n[[link]]\nlocal = \"127.0.0.1:{local}\"\npeers = [\"127.0.0.1:{peer}\"]\n\
                 [security]\nkey_file = {key:?}\n[control]\nsocket = {socket:?}\n[log]\nfile = {log:?}\n{more}\n"
            );
            fs::write(pair.path(&format!("{name}.toml")), config).unwrap();
        }
        pair
    }

    /// Starts both daemons and waits until they are in sync.
    fn start() -> Self {
        let mut pair = Self::configured("");
        pair.start_daemon("one");
        pair.start_daemon("other");
        until("both are ready", || ["one", "other"].iter().all(|name| pair.status(name)["ready"] == true));
        pair
    }

    fn start_daemon(&mut self, name: &str) {
        self.start_daemon_with(name, &[]);
    }

    /// Starts a daemon with these variables added to its environment.
    fn start_daemon_with(&mut self, name: &str, variables: &[(&str, &str)]) {
        let config = self.path_text(&format!("{name}.toml"));
        let mut command = Command::new(self.path("ctflowd"));
        command.args(["-C", &config]).envs(variables.iter().copied()).stdout(Stdio::null());
        self.daemons.push(command.spawn().unwrap());
        until("the daemon answers", || self.ctflow(name, &["status"]).0 == 0);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn path_text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn socket(&self, name: &str) -> String {
        self.path_text(&format!("{name}.sock"))
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap()
    }

    fn ctflow(&self, name: &str, args: &[&str]) -> Ran {
        run(PROGRAM, &[args, &["--socket", &self.socket(name)]].concat())
    }

    fn letters(&self, name: &str, letters: &str) -> Ran {
        let config = self.path_text(&format!("{name}.toml"));
        let args: Vec<_> = letters.split(' ').collect();
        run(&self.path_text("ctflowd"), &[&args[..], &["-C", &config]].concat())
    }

    fn status(&self, name: &str) -> Value {
        let (code, document, stderr) = self.ctflow(name, &["status", "--json"]);
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str(&document).unwrap()
    }

    /// Returns the lines of a dump, sorted.
    fn dump(&self, name: &str, args: &[&str]) -> Vec<String> {
        let (code, text, stderr) = self.ctflow(name, &[&["sync", "dump"], args].concat());
        assert_eq!(code, 0, "{stderr}");
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Waits until the replica of the daemon `other` has this many flows.
    fn wait_until_replicated(&self, flows: u64) {
        until("all are replicated", || self.status("other")["external"]["flows"] == flows);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill(); // it may have ended
            let _ = daemon.wait();
        }
    }
}

fn some_flows() {
    for port in 1..=20 {
        create(flow("10.0.0.1", "10.0.0.2", IPPROTO_TCP, ports(port, 80)));
        create(FlowView { mark: Some(7), ..flow("2001:db8::1", "2001:db8::2", IPPROTO_UDP, ports(port, 53)) });
    }
    create(FlowView { zone: Some(3), ..flow("10.0.0.1", "10.0.0.2", IPPROTO_TCP, ports(1, 80)) });
}

#[test]
fn internal_and_external_caches_are_equal_in_every_format() {
    ctflow_lab::isolated!({
        let pair = Pair::start();
        some_flows();
        pair.wait_until_replicated(41);
        for format in ["extended", "json", "save"] {
            let (internal, external) =
                (pair.dump("one", &["internal", "-o", format]), pair.dump("other", &["external", "-o", format]));
            assert_eq!((internal.len(), &internal), (41, &external), "{format}");
        }
        assert_eq!(pair.ctflow("one", &["sync", "verify"]).0, 0);
        let (code, text, _) = pair.ctflow("one", &["status"]);
        assert!(code == 0 && text.contains("ready") && text.contains("other"), "{text}");
        flush();
        pair.wait_until_replicated(0);
        assert!(pair.dump("other", &["external"]).is_empty());
    });
}

#[test]
fn conntrackds_letters_work_and_failures_exit_1() {
    ctflow_lab::isolated!({
        let pair = Pair::start();
        some_flows();
        pair.wait_until_replicated(41);
        let shown = |name, letters| pair.letters(name, letters).1.lines().count();
        assert_eq!((shown("one", "-i"), shown("other", "-e"), shown("other", "-e -x")), (41, 41, 41));
        let line =
            pair.letters("one", "-i").1.lines().find(|line| line.contains("sport=5 dport=80")).unwrap().to_owned();
        assert!(line.starts_with("tcp      6 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=5 dport=80 "), "{line}");
        assert!(line.contains(" [active since ") && line.ends_with("s]"), "{line}");
        for what in ["-s", "-s network", "-s cache", "-s runtime", "-s link", "-s rsqueue", "-s queue", "-s expect"] {
            let (code, text, stderr) = pair.letters("one", what);
            assert!(code == 0 && !text.is_empty(), "{what}: {stderr}");
        }
        let (_, statistics, _) = pair.letters("other", "-s");
        assert!(statistics.contains("cache external:\ncurrent active connections:\t          41\n"), "{statistics}");
        for letters in ["-B", "-n", "-R", "-f external", "-f"] {
            assert_eq!(pair.letters("other", letters).0, 0, "{letters}");
        }
        pair.wait_until_replicated(41);
        assert_eq!(pair.letters("other", "-i expect").0, 0);
        assert_eq!(pair.letters("other", "-F").0, 0);
        until("the kernel's table is empty", || ctflow_lab::sysctl::flow_count().unwrap() == 0);
        let (code, _, stderr) = pair.letters("other", "-i ok");
        assert!(code == 1 && stderr.contains("does not take `ok'"), "{stderr}");
        assert_eq!(pair.status("other")["name"], "other", "and it lives");
    });
}

#[test]
fn the_daemon_reloads_stops_and_protects_its_socket() {
    ctflow_lab::isolated!({
        let mut pair = Pair::start();
        let mode = fs::metadata(pair.socket("one")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let config = pair.path_text("one.toml");
        let (code, _, stderr) = run(PROGRAM, &["daemon", "-C", &config]);
        assert!(code == 1 && stderr.contains("one.sock") || stderr.contains("in use"), "{stderr}");
        // A reload applies what can change, and logs what cannot.
        let text = fs::read_to_string(&config).unwrap().replace("name = \"one\"", "name = \"two\"");
        fs::write(&config, text + "[sync.filter]\nmark = \"7/7\"\n").unwrap();
        some_flows();
        pair.wait_until_replicated(41);
        kill_process(Pid::from_child(&pair.daemons[0]), Signal::HUP).unwrap();
        pair.wait_until_replicated(20);
        until("the change is logged", || pair.log("one").contains("[node] name has changed"));
        assert_eq!(pair.ctflow("one", &["sync", "stop"]).0, 0);
        let ended = pair.daemons.remove(0).wait().unwrap();
        assert!(ended.success() && !fs::exists(pair.socket("one")).unwrap());
        until("the other knows", || pair.log("other").contains("peer one: stopped"));
        let (code, _, stderr) = pair.ctflow("one", &["status"]);
        assert!(code == 1 && stderr.contains("no daemon answers"), "{stderr}");
    });
}

#[test]
fn a_failed_background_start_is_reported_before_it_returns() {
    ctflow_lab::isolated!({
        let pair = Pair::configured("");
        let detached = |name: &str| {
            let config = pair.path_text(&format!("{name}.toml"));
            ran(Command::new(pair.path("ctflowd")).args(["-d", "-C", &config]).output().unwrap())
        };
        assert_eq!(detached("one"), (0, String::new(), String::new()));
        assert_eq!(pair.ctflow("one", &["status"]).0, 0, "it runs before the command ends");
        let (code, _, stderr) = detached("one");
        assert!(code == 1 && stderr.lines().count() == 1, "{stderr}");
        assert_eq!(pair.ctflow("one", &["sync", "stop"]).0, 0);
    });
}

#[test]
fn watchers_receive_each_of_the_daemons_events_once() {
    ctflow_lab::isolated!({
        let pair = Pair::start();
        let socket = pair.socket("one");
        let mut follower =
            Command::new(PROGRAM).args(["-E", "--daemon", &socket]).stdout(Stdio::piped()).spawn().unwrap();
        let shown = BufReader::new(follower.stdout.take().unwrap());
        let (sender, lines) = crossbeam_channel::unbounded();
        let reading =
            std::thread::spawn(move || shown.lines().map(Result::unwrap).try_for_each(|line| sender.send(line)));
        let mut port = 0;
        // The only sign that the watcher is connected is that it prints an event.
        until("the watcher is connected", || {
            port += 1;
            create(flow("10.0.0.3", "10.0.0.4", IPPROTO_TCP, ports(port, 80)));
            lines.recv_timeout(Duration::from_millis(20)).is_ok()
        });
        some_flows();
        let of_those = |line: &String| line.contains("[NEW]") && !line.contains("src=10.0.0.3");
        let mut seen = 0;
        until("all events are printed", || {
            seen += lines.try_iter().filter(of_those).count();
            seen == 41
        });
        kill_process(Pid::from_child(&follower), Signal::INT).unwrap();
        assert!(follower.wait().unwrap().success());
        reading.join().unwrap().unwrap();
        assert_eq!(lines.try_iter().filter(of_those).count(), 0, "each is shown once");
    });
}

/// Receives states until `expected` is one. Only the watchdog's may come before it.
fn receive_state(systemd: &UnixDatagram, expected: &str) {
    loop {
        let mut buffer = [0; 100];
        let length = systemd.recv(&mut buffer).unwrap();
        match str::from_utf8(&buffer[..length]).unwrap().trim_end() {
            state if state == expected => return,
            state => assert_eq!(state, "WATCHDOG=1", "instead of {expected}"),
        }
    }
}

#[test]
fn systemd_receives_every_state_of_the_daemon() {
    ctflow_lab::isolated!({
        let mut pair = Pair::configured("");
        let socket = pair.path_text("notify");
        let systemd = UnixDatagram::bind(&socket).unwrap();
        systemd.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        pair.start_daemon_with("one", &[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "400000")]);
        receive_state(&systemd, "READY=1");
        receive_state(&systemd, "WATCHDOG=1");
        kill_process(Pid::from_child(&pair.daemons[0]), Signal::HUP).unwrap();
        receive_state(&systemd, "RELOADING=1");
        receive_state(&systemd, "READY=1");
        kill_process(Pid::from_child(&pair.daemons[0]), Signal::TERM).unwrap();
        receive_state(&systemd, "STOPPING=1");
        assert!(pair.daemons[0].wait().unwrap().success());
    });
}

/// The real conntrackd on the same kernel, without a peer.
struct Conntrackd {
    folder: tempfile::TempDir,
    daemon: Child,
}

impl Conntrackd {
    /// Starts Debian's conntrackd. Returns why there is none.
    fn start() -> Result<Self, &'static str> {
        if !fs::exists("/usr/sbin/conntrackd").unwrap() {
            return Err("conntrackd is not installed");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let config = format!(
            "Sync {{\n Mode FTFW {{ }}\n UDP {{\n IPv4_address 127.0.0.1\n IPv4_Destination_Address 127.0.0.1\n Port 3790\n \
             Interface lo\n }}\n}}\nGeneral {{\n HashSize 1024\n HashLimit 4096\n LogFile {}\n LockFile {}\n UNIX {{\n Path \
             {}\n }}\n}}\n",
            path("log"),
            path("lock"),
            path("socket")
        );
        fs::write(path("conf"), config).unwrap();
        let mut command = Command::new("/usr/sbin/conntrackd");
        let daemon = command.args(["-C", &path("conf")]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let theirs = Self { daemon, folder };
        until("conntrackd answers", || theirs.run("-s").0 == 0);
        Ok(theirs)
    }

    fn run(&self, letters: &str) -> Ran {
        let config = self.folder.path().join("conf");
        let args: Vec<_> = letters.split(' ').collect();
        run("/usr/sbin/conntrackd", &[&["-C", config.to_str().unwrap()], &args[..]].concat())
    }
}

impl Drop for Conntrackd {
    fn drop(&mut self) {
        let _ = self.daemon.kill(); // it may have ended
        let _ = self.daemon.wait();
    }
}

#[test]
fn internal_dumps_match_conntrackd() {
    ctflow_lab::isolated!({
        let pair = Pair::start();
        let theirs = ctflow_lab::or_skip!(Conntrackd::start());
        some_flows();
        pair.wait_until_replicated(41);
        // A cache does not distinguish a mark of 0 from no mark.
        let still = |text: &str| {
            let still = |line: &str| line.split(" [active since").next().unwrap().replace(" mark=0", "");
            let mut lines: Vec<_> = text.lines().map(still).collect();
            lines.sort();
            lines
        };
        let dumped = || still(&theirs.run("-i").1);
        until("conntrackd has all", || dumped().len() == 41);
        assert_eq!(still(&pair.letters("one", "-i").1), dumped());
        let mut xml = [pair.letters("one", "-i -x").1, theirs.run("-i -x").1].map(|text| still(&text));
        // Whether an entry has the kernel's counters and times depends on whether an event or a dump brought it.
        xml.iter_mut()
            .flatten()
            .for_each(|line| *line = line.split("<meta direction=\"independent\">").next().unwrap().to_owned());
        assert_eq!(xml[0], xml[1]);
    });
}

#[test]
fn a_commit_reports_what_it_did() {
    ctflow_lab::isolated!({
        let pair = Pair::start();
        some_flows();
        pair.wait_until_replicated(41);
        // Both are on one kernel, so all flows exist already. Which daemon received a flow's event first is chance.
        let (code, text, stderr) = pair.ctflow("other", &["sync", "commit"]);
        assert_eq!(code, 0, "{stderr}");
        let parts = text.split(", ").filter_map(|part| part.split_once(' '));
        let count = |what: &str| parts.clone().find(|part| part.1 == what).map_or(0, |part| part.0.parse().unwrap());
        assert_eq!((count("flows created"), count("updated") + count("kept (newer here)")), (0, 41), "{text}");
        assert_eq!(pair.letters("other", "-c"), (0, String::new(), String::new()));
    });
}

#[test]
fn a_scheduled_flush_can_be_cancelled() {
    ctflow_lab::isolated!({
        let mut pair = Pair::configured("[takeover]\npurge_timeout_s = 1\n");
        pair.start_daemon("one");
        some_flows();
        assert_eq!(pair.letters("one", "-t"), (0, String::new(), String::new()));
        assert_eq!(pair.letters("one", "-f internal").0, 0);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(ctflow_lab::sysctl::flow_count().unwrap(), 41, "the flush was cancelled");
        assert_eq!(pair.letters("one", "-t").0, 0);
        until("the kernel is flushed", || ctflow_lab::sysctl::flow_count().unwrap() == 0);
    });
}

#[test]
fn roles_are_set_sent_to_peers_and_split_brain_is_reported() {
    ctflow_lab::isolated!({
        let pair = Pair::start();
        some_flows();
        pair.wait_until_replicated(41);
        let role = |name: &str| pair.ctflow(name, &["role"]);
        assert_eq!(role("one"), (0, "none\n".to_owned(), String::new()));
        let (code, text, _) = pair.ctflow("one", &["role", "primary"]);
        assert!(
            code == 0 && text.starts_with("now primary (was: no role), took ") && text.contains("committed: "),
            "{text}"
        );
        assert_eq!(pair.ctflow("one", &["role", "primary"]).1, "already primary: nothing was done\n");
        until("the other has received the role", || pair.status("other")["peers"][0]["role"] == "primary");
        let (code, text, _) = pair.ctflow("other", &["role", "--json", "backup"]);
        let document: Value = serde_json::from_str(&text).unwrap();
        assert!(code == 0 && document["purge_in_ms"] == 60_000, "{text}");
        assert_eq!(pair.ctflow("other", &["status", "--ready"]), (0, String::new(), String::new()));
        // Two primaries are an error, but not at once, since roles are exchanged one after the other.
        assert_eq!(pair.ctflow("other", &["role", "primary"]).0, 0);
        assert_eq!(role("other").0, 0);
        until("it is noticed", || role("other").0 == 3 && role("one").0 == 3);
        let (code, text, stderr) = pair.ctflow("one", &["status"]);
        assert!(code == 3 && text.contains("split brain: other is primary, too"), "{text}");
        assert!(
            stderr.contains("split brain: other is primary, too; run `ctflow role backup` on all nodes"),
            "{stderr}"
        );
        assert!(pair.log("one").contains("split brain: this node and other are both primary"));
        assert_eq!(pair.ctflow("one", &["role", "backup"]).0, 0);
        until("the split brain is over", || role("other").0 == 0);
    });
}

#[test]
fn a_takeover_waits_while_the_cache_may_still_sync() {
    ctflow_lab::isolated!({
        let mut pair = Pair::configured("[takeover]\nready_within_s = 2\n");
        pair.start_daemon("other");
        let (code, _, stderr) = pair.ctflow("other", &["status", "--ready"]);
        assert!(
            code == 1 && stderr.contains("not ready: ") && stderr.contains("no peer has connected yet"),
            "{stderr}"
        );
        until("the wait for a peer is over", || pair.ctflow("other", &["status", "--ready"]).0 == 0);
        pair.start_daemon("one");
        until("it has connected to its peer", || pair.status("other")["ready"] == true);
        assert_eq!(pair.ctflow("other", &["status", "--ready"]).0, 0);
        let _ = pair.daemons[1].kill(); // a takeover must be possible when the peer has failed
        until("its end is noticed", || pair.status("other")["ready"] == false);
        assert_eq!(pair.ctflow("other", &["status", "--ready"]).0, 0);
    });
}
