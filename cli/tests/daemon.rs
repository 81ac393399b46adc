//! The daemon's commands through the real program: configurations, keys, and requests to a daemon. The daemon here is a
//! thread behind a socket that answers with prepared bytes.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions, but not in their helpers

mod program;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};

use program::{PROGRAM, run, run_as};

/// A folder with the program under the daemon's name, and a socket.
struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        symlink(PROGRAM, folder.path().join("ctflowd")).unwrap();
        let config = format!("[control]\nsocket = {:?}\n", folder.path().join("socket"));
        fs::write(folder.path().join("ctflow.toml"), config).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn path_text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Answers one request with these bytes. The thread returns the request.
    fn answer_once(&self, answer: Vec<u8>) -> JoinHandle<String> {
        let path = self.path("socket");
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream);
            reader.read_line(&mut line).unwrap();
            let mut stream: UnixStream = reader.into_inner();
            stream.write_all(&answer).unwrap();
            line
        })
    }

    /// Runs the program against a daemon with this answer. Returns what the program printed, and the request that it
    /// sent.
    fn run_against(&self, name: &str, args: &[&str], answer: &[Vec<u8>]) -> ((i32, String, String), String) {
        let daemon = self.answer_once(answer.concat());
        let program = if name == "ctflow" { PathBuf::from(PROGRAM) } else { self.path(name) };
        let config = self.path_text("ctflow.toml");
        let said = run_as(&program, &[args, &["-C", &config]].concat());
        (said, daemon.join().unwrap())
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind], payload].concat()
}

fn done() -> Vec<u8> {
    frame(b'D', b"")
}

/// Returns a UDP flow as the replication protocol encodes it, in the cache since 1970.
fn udp() -> Vec<u8> {
    let mut body = vec![0, 1, 0, 0, 0, 7, 17]; // ports; its id; the protocol
    body.extend([192, 0, 2, 2, 198, 51, 100, 10, 0xa7, 0xfc, 0, 53]);
    body.extend([0, 2, 30]); // status: seen reply; timeout
    let mut entry = vec![2, 0, 0, 0, 0, 0, 0, 0];
    entry.extend([0; 16]);
    entry.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    [entry, body].concat()
}

#[test]
fn a_configuration_is_checked_without_starting_anything() {
    let setup = Setup::new();
    let config = setup.path_text("pair.toml");
    let text = "[node]\nname = \"fw1\"\n[[link]]\nlocal = \"192.0.2.1:3780\"\npeers = [\"192.0.2.2:3780\"]\n\
                interface = \"eth2\"\n[security]\ninsecure = true\n[sync.filter]\nprotocols = { accept = [\"tcp\"] }\n";
    fs::write(&config, text).unwrap();
    let expected = format!(
        "{config}: fine\nnode: fw1\nlink: udp 192.0.2.1:3780 to 192.0.2.2:3780 on eth2\n\
         security: NONE, links are not encrypted: anyone who reaches them can read and forge flows\nmode: ftfw\n\
         engine: auto, workers according to the cores\nfilter: by protocol (1 accepted)\n\
         control socket: /run/ctflow.sock\nlog: standard error\n"
    );
    assert_eq!(run(&["daemon", "-C", &config, "--check"]), (0, expected, String::new()));
    fs::write(&config, text.replace("local", "lokal")).unwrap();
    let (code, stdout, stderr) = run(&["daemon", "--check", "-C", &config]);
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (1, "", 1), "{stderr}");
    assert!(
        stderr.contains(&format!("{config}, line 4: unknown key `lokal' in [[link]], did you mean `local'?")),
        "{stderr}"
    );
    let (code, _, stderr) = run_as(&setup.path("ctflowd"), &["-C", "/nonexistent"]);
    assert!(code == 1 && stderr.starts_with("ctflowd v") && stderr.contains("/nonexistent"), "{stderr}");
}

#[test]
fn the_packaged_configuration_is_valid() {
    let setup = Setup::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/ctflow.toml");
    let key = setup.path_text("key");
    run(&["keygen", &key]);
    let text = fs::read_to_string(example).unwrap().replace("/etc/ctflow/key", &key);
    // The keys that are commented out must be valid, too.
    let all = text.lines().map(|line| line.strip_prefix("#:").unwrap_or(line)).collect::<Vec<_>>().join("\n");
    for text in [text, all] {
        fs::write(setup.path("example.toml"), text).unwrap();
        let (code, _, stderr) = run(&["daemon", "--check", "-C", &setup.path_text("example.toml")]);
        assert_eq!((code, stderr.as_str()), (0, ""));
    }
}

#[test]
fn a_key_is_made_once_and_for_its_owner_only() {
    let setup = Setup::new();
    let key = setup.path_text("key");
    let (code, stdout, stderr) = run(&["keygen", &key]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with(&key) && stdout.contains("key_file = "), "{stdout}");
    let text = fs::read_to_string(&key).unwrap();
    assert!(text.len() == 65 && text.trim_end().bytes().all(|digit| digit.is_ascii_hexdigit()), "{text}");
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o7777, 0o600);
    assert!(!stdout.contains(text.trim_end()), "the key is not printed");
    let (code, stdout, stderr) = run(&["keygen", &key]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("left as it is"), "{stderr}");
    assert_eq!(fs::read_to_string(&key).unwrap(), text);
    let (code, stdout, _) = run(&["keygen"]);
    assert!(code == 0 && stdout.len() == 65 && stdout != text, "{stdout}");
    let config = setup.path_text("k.toml");
    let text = format!("[[link]]\nlocal=\"192.0.2.1:1\"\npeers=[\"192.0.2.2:1\"]\n[security]\nkey_file={key:?}\n");
    fs::write(&config, text).unwrap();
    assert_eq!(run(&["daemon", "--check", "-C", &config]).0, 0);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, stderr) = run(&["daemon", "--check", "-C", &config]);
    assert!(code == 1 && stderr.contains("line 5") && stderr.contains(&format!("chmod 600 {key}")), "{stderr}");
}

#[test]
fn requests_are_carried_out_or_refused() {
    let setup = Setup::new();
    let (said, line) = setup.run_against("ctflow", &["sync", "flush", "internal"], &[done()]);
    assert_eq!(said, (0, String::new(), String::new()));
    assert_eq!(line, "{\"cache\":\"internal\",\"do\":\"flush\",\"version\":1}\n");
    let refusal = frame(b'X', br#"{"error":"the commit is still running","code":1}"#);
    for (name, args) in [("ctflowd", ["-c"]), ("ctflowd", ["-t"])] {
        let ((code, stdout, stderr), _) = setup.run_against(name, &args, std::slice::from_ref(&refusal));
        assert_eq!((code, stdout.as_str()), (1, ""), "{args:?}");
        assert!(stderr.ends_with("the daemon refused: the commit is still running\n"), "{stderr}");
    }
    let ((code, _, stderr), _) = setup.run_against("ctflow", &["sync", "bulk"], &[]);
    assert!(code == 1 && stderr.contains("ended before its answer was complete"), "{stderr}");
    fs::remove_file(setup.path("socket")).unwrap();
    let socket = setup.path_text("socket");
    let (code, _, stderr) = run(&["status", "--socket", &socket]);
    assert!(code == 1 && stderr.contains(&format!("no daemon answers at {socket}")), "{stderr}");
}

#[test]
fn a_cache_is_dumped_in_every_format() {
    let setup = Setup::new();
    let answer = [frame(b'J', br#"{"peer":"fw2"}"#), frame(b'E', &[udp(), udp()].concat()), done()];
    let line = "udp      17 30 src=192.0.2.2 dst=198.51.100.10 sport=43004 dport=53 src=198.51.100.10 dst=192.0.2.2 sport=53 \
                dport=43004 mark=0\n";
    let ((code, stdout, stderr), asked) = setup.run_against("ctflow", &["sync", "dump", "external"], &answer);
    assert_eq!((code, stdout.as_str()), (0, line.repeat(2).as_str()));
    assert!(stderr.ends_with("2 flow entries have been shown.\n"), "{stderr}");
    assert_eq!(asked, "{\"cache\":\"external\",\"do\":\"dump\",\"of\":\"flows\",\"version\":1}\n");
    let dump = |args: &[&str]| setup.run_against("ctflow", &[&["sync", "dump"], args].concat(), &answer).0.1;
    assert!(dump(&["-o", "extended"]).starts_with("ipv4     2 udp "));
    assert!(dump(&["-o", "xml"]).ends_with("</flow>\n</conntrack>\n"));
    assert!(dump(&["-o", "save"]).starts_with("-A -t 30 "), "{}", dump(&["-o", "save"]));
    assert_eq!(dump(&["-o", "json"]).lines().count(), 2);
    let ((code, stdout, stderr), _) = setup.run_against("ctflowd", &["-e"], &answer);
    let start = "udp      17 src=192.0.2.2 dst=198.51.100.10 sport=43004 dport=53 [active since ";
    assert!(code == 0 && stderr.is_empty() && stdout.lines().all(|line| line.starts_with(start)), "{stdout}{stderr}");
    let ((_, stdout, _), _) = setup.run_against("ctflowd", &["-i", "-x"], &answer);
    assert!(stdout.starts_with("<flow><meta direction=\"original\">") && stdout.lines().count() == 2, "{stdout}");
    let cut = [frame(b'E', &udp()), frame(b'E', &udp()[..20]), done()];
    let ((code, stdout, stderr), _) = setup.run_against("ctflow", &["sync", "dump"], &cut);
    assert!(code == 1 && stdout.lines().count() == 1 && stderr.contains("cut short"), "{stdout}{stderr}");
}

#[test]
fn status_is_printed_as_text_as_json_and_in_conntrackds_format() {
    let setup = Setup::new();
    let document = br#"{"name":"fw1","ready":true,"internal":{"flows":5},"peers":[],"links":[]}"#;
    let answer = [frame(b'J', document), done()];
    let ((code, json, _), asked) = setup.run_against("ctflow", &["status", "--json"], &answer);
    assert!(code == 0 && json.contains("\"flows\": 5") && asked.contains("\"do\":\"status\""), "{json}");
    let ((_, text, _), _) = setup.run_against("ctflow", &["status"], &answer);
    assert!(text.starts_with("fw1: ") && text.contains("ready: no peer has connected yet\n"), "{text}");
    let ((_, text, _), _) = setup.run_against("ctflowd", &["-s"], &answer);
    assert!(text.starts_with("cache internal:\ncurrent active connections:\t           5\n"), "{text}");
    let ((code, text, stderr), _) = setup.run_against("ctflowd", &["-s", "multicast"], &answer);
    assert!(code == 0 && text.is_empty() && stderr.contains("`-s link'"), "{stderr}");
}

#[test]
fn verify_exits_with_1_where_replicas_differ() {
    let setup = Setup::new();
    let verdict = |agrees: bool| {
        let document = format!(
            "{{\"agrees\":{agrees},\"streams\":[],\"peers\":[{{\"name\":\"fw2\",\"answered\":true,\"streams\":\
             [{{\"stream\":0,\"entries\":3,\"digest\":\"ab\",\"seq\":4,\"agrees\":{agrees},\"differing\":[1]}}]}}]}}"
        );
        [frame(b'J', document.as_bytes()), done()]
    };
    let ((code, table, stderr), _) = setup.run_against("ctflow", &["sync", "verify"], &verdict(true));
    assert!(code == 0 && stderr.is_empty() && table.ends_with("All copies are identical.\n"), "{table}{stderr}");
    let ((code, table, stderr), _) = setup.run_against("ctflow", &["sync", "verify"], &verdict(false));
    assert!(
        code == 1
            && table.contains("differs in 1 part (3 entries, 0 here)\n")
            && stderr.contains("not every copy is proven identical"),
        "{table}{stderr}"
    );
}

#[test]
fn the_daemons_events_are_printed_until_it_ends() {
    let setup = Setup::new();
    let daemon = setup.answer_once([frame(b'L', &3u64.to_be_bytes()), done()].concat());
    let (code, stdout, stderr) = run(&["-E", "--daemon", &setup.path_text("socket")]);
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert!(stderr.contains("3 events lost here") && stderr.ends_with("3 events have been lost.\n"), "{stderr}");
    assert_eq!(daemon.join().unwrap(), "{\"do\":\"events\",\"of\":\"flows\",\"version\":1}\n");
}

/// Events as a kernel sent them.
const EVENTS: &[u8] = include_bytes!("../../parser/fixtures/events.nl");

#[test]
fn the_daemons_events_are_printed_as_kernel_events_until_a_signal() {
    let setup = Setup::new();
    let listener = UnixListener::bind(setup.path("socket")).unwrap();
    let words = ["-E", "--daemon", &setup.path_text("socket"), "-p", "udp", "-e", "NEW"];
    let mut watcher = Command::new(PROGRAM);
    watcher.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watcher = watcher.spawn().unwrap();
    let (mut daemon, _) = listener.accept().unwrap();
    daemon.write_all(&frame(b'M', EVENTS)).unwrap();
    // Lines are written when no more events arrive, and then only a signal ends the program.
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let shown: Vec<_> = lines.by_ref().take(48).map(Result::unwrap).collect();
    assert!(shown.iter().all(|line| line.starts_with("    [NEW] udp      17 ")), "{shown:?}");
    let pid = Pid::from_raw(watcher.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(lines.next().is_none());
    let Output { status, stderr, .. } = watcher.wait_with_output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{stderr}");
    assert!(stderr.contains("48 flow events have been shown. 0 events have been lost."), "{stderr}");
}

#[test]
fn a_letter_without_its_dash_never_stops_the_daemon() {
    let setup = Setup::new();
    for args in [&["-i", "ok"][..], &["k"], &["-kk"], &["-i", "-k"], &["-s", "k"]] {
        let (code, stdout, stderr) = run_as(&setup.path("ctflowd"), args);
        assert_eq!((code, stdout.as_str()), (1, ""), "{args:?}");
        assert!(
            stderr.starts_with("ctflowd v") && stderr.ends_with("Try `ctflowd -h' for more information.\n"),
            "{stderr}"
        );
    }
}
