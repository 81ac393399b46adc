//! Entries created, changed, deleted, saved and loaded, compared with the installed conntrack where that proves more
//! than a literal.

use std::io::Write as _;
use std::process::{Command, Stdio};

use ctflow_lab::Lab;
use ctflow_lab::topology::Firewall;
use ctflow_lab::traffic::Flood;
use ctflow_parser::flow::FlowView;
use ctflow_parser::uapi::{IPPROTO_TCP, IPPROTO_UDP};

use super::compare::{FILTERS, Ours, as_1_4_9, conntrack};
use super::kinds::{create_every_kind, record_all};
use super::support::{Follower, PROGRAM, Ran, create, flow, flush, ports, run};

/// Fills the table with the same flows before each command line.
fn fill() {
    flush();
    let tcp = flow("10.0.0.1", "10.0.0.2", IPPROTO_TCP, ports(100, 80));
    create(FlowView { mark: Some(7), ..tcp });
    create(flow("10.0.0.1", "10.0.0.3", IPPROTO_UDP, ports(100, 53)));
    create(FlowView { mark: Some(9), ..flow("10.0.0.5", "10.0.0.3", IPPROTO_UDP, ports(101, 53)) });
    create(flow("2001:db8::1", "2001:db8::2", IPPROTO_TCP, ports(100, 80)));
}

pub(crate) fn args(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Returns the lines sorted, with every timeout near 3,000 s replaced, since timeouts count down.
fn lines(text: &str) -> Vec<String> {
    let still =
        |line: &str| (2_990..3_000).fold(line.to_owned(), |line, left| line.replace(&format!(" {left} "), " 3000 "));
    let mut lines: Vec<_> = text.lines().map(still).collect();
    lines.sort();
    lines
}

fn effect(program: &str, line: &str) -> (i32, Vec<String>, String, Vec<String>) {
    fill();
    effect_on_table(program, line)
}

fn effect_on_table(program: &str, line: &str) -> (i32, Vec<String>, String, Vec<String>) {
    let (code, stdout, stderr) = as_1_4_9(run(program, &args(line)));
    let (_, table, _) = run(program, &["-L", "-o", "extended"]);
    (code, lines(&stdout), stderr, lines(&table))
}

#[test]
fn changes_have_conntracks_effect_and_output() {
    let theirs = ctflow_lab::or_skip!(conntrack());
    ctflow_lab::isolated!({
        let (ours, mut different) = (Ours::new(), Vec::new());
        for line in [
            "-D -s 10.0.0.1",
            "-D -p udp",
            "-D -d 10.0.0.0/30",
            "-D -m 7",
            "-D -s 9.9.9.9",
            "-D -f ipv6 -o extended",
            "-D",
            "-U -m 5 -s 10.0.0.5 -f ipv4",
            "-U -m 9 -s 10.0.0.5 -f ipv4",
            "-U -m 1/1 -f ipv6",
            "-I -p udp -s 10.0.0.1 -d 10.0.0.3 --sport 107 --dport 53 -t 3000",
            "-I -p udp -s 10.0.0.1 -d 10.0.0.3 --sport 100 --dport 53 -t 3000",
            "-I -p tcp -s 10.0.7.1 -d 10.0.0.3 --sport 107 --dport 53 -t 3000 --state SYN_SENT -n 1.2.3.4",
            "-G -p udp -s 10.0.0.1 -d 10.0.0.3 --sport 100 --dport 53",
            "-G -p udp -s 10.0.0.1 -d 10.0.0.3 --sport 100 --dport 54",
            "-A -p udp -s 10.0.0.1 -d 10.0.0.3 --sport 107 --dport 53 -t 3000 -u SEEN_REPLY,ASSURED -m 7/1",
            "-I -p udp -s 10.0.0.1 -d 10.0.0.3 --sport 107 --dport 53 -t 3000 -u EXPECTED",
            "-I -p udplite -r 10.0.0.1 -q 10.0.0.3 --reply-port-src 107 --reply-port-dst 53 -t 3000 -w 3",
            "-I -p icmp -s 10.0.0.1 -d 10.0.0.3 --icmp-type 8 --icmp-code 0 -t 3000",
            "-I -p icmp -s 10.0.0.1 -d 10.0.0.3 --icmp-type 3 --icmp-code 0 -t 3000",
            "-I -p icmpv6 -s fe80::1 -d fe80::2 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 3 -t 3000",
            "-I -p gre -s 10.0.0.1 -d 10.0.0.3 --srckey 0x10 --dstkey 2 -t 3000 --orig-zone 3",
            "-I -p 50 -s 10.0.0.1 -d 10.0.0.3 -t 3000 --reply-zone 3",
            "-I -p udp -s fe80::1 -d fe80::2 --sport 1 --dport 2 -t 3000 -g fe80::9",
            "-I -p udp -s 10.0.0.1 -d 10.0.0.3 --sport 1 --dport 2 -t 3000 -n 1.2.3.4:5 -g 5.4.3.2:1",
            "-U -s 10.0.0.5 -f ipv4 -t 2998 -o extended",
            "-U -s 10.0.0.5 -f ipv4 -u ASSURED -o extended",
            "-U -s 10.0.0.5 -f ipv4 -u OFFLOAD",
            "-U -s 10.0.0.5 -f ipv4 -m 0x10/0xf0",
            "-U -s 10.0.0.5 -f ipv4 -m 0x10/0",
            "-U -p tcp -s 2001:db8::1 --state CLOSE",
            "-U -s 9.9.9.9 -f ipv4 -m 1",
            "-G expect -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 --reply-port-src 0 --reply-port-dst 0",
            "-D expect -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 --reply-port-src 0 --reply-port-dst 0",
            "-I expect -p tcp -s 10.9.0.1 -d 10.0.0.2 --sport 1 --dport 2 --tuple-src 1.1.1.1 --tuple-dst 1.1.1.2 \
             --tuple-port-src 0 --tuple-port-dst 9 --mask-src 255.255.255.255 --mask-dst 255.255.255.255 \
             --mask-port-src 0 --mask-port-dst 65535 -t 300",
            "-I expect -p udp -s 10.0.0.1 -d 10.0.0.3 --sport 100 --dport 53 --tuple-src 1.1.1.1 --tuple-dst 1.1.1.2 \
             --tuple-port-src 0 --tuple-port-dst 9 --mask-src 255.255.255.255 --mask-dst 255.255.255.255 \
             --mask-port-src 0 --mask-port-dst 65535 -t 300",
            "-F",
            "-F expect",
            "-L -z",
            "-L -z -n -f ipv4",
            "-L -m 9",
            "-L -n",
        ] {
            let (found, expected) = (effect(&ours.path, line), effect(theirs, line));
            if found != expected {
                different.push(format!("{line}\n  theirs {expected:?}\n  ours   {found:?}"));
            }
        }
        assert!(different.is_empty(), "{}", different.join("\n"));
    });
}

fn load(text: &str) -> Ran {
    load_by(PROGRAM, text)
}

#[test]
fn changes_are_counted_on_stderr_when_stdout_is_full() {
    ctflow_lab::isolated!({
        fill();
        let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let to_full =
            |line| super::support::ran(Command::new(PROGRAM).args(args(line)).stdout(full()).output().unwrap());
        let (code, _, stderr) = to_full("-U -m 77");
        assert!(code == 1 && stderr.contains(": 4 flow entries have been updated.\n"), "{stderr}");
        let (code, _, stderr) = to_full("-D");
        assert!(code == 1 && stderr.contains(": 4 flow entries have been deleted.\n"), "{stderr}");
        assert!(stderr.contains("No space left on device"), "{stderr}");
    });
}

/// A process in a new user namespace has no rights in the network's user namespace.
#[test]
fn kernel_refusals_are_printed_as_conntrack_prints_them() {
    let theirs = ctflow_lab::or_skip!(conntrack());
    ctflow_lab::isolated!({
        let ours = Ours::new();
        fill();
        for line in ["-L", "-L expect", "-L dying", "-D", "-U -f ipv4 -m 1", "-I -p 50 -s 1.1.1.1 -d 1.1.1.2 -t 9"] {
            let unprivileged = |program: &str| {
                let (code, stdout, stderr) = super::support::ran(
                    Command::new("unshare").args(["-U", program]).args(args(line)).output().unwrap(),
                );
                (code, stdout, stderr.split_once("): ").map(|(_, said)| said.to_owned()))
            };
            assert_eq!(unprivileged(&ours.path), unprivileged(theirs), "{line}");
        }
    });
}

/// Every filter but those that conntrack deletes wrongly by (negated status, see [`super::edges`]) and `-j`, which
/// cannot be combined with `-D`.
#[test]
fn deletions_by_every_filter_have_the_same_effect() {
    let theirs = ctflow_lab::or_skip!(conntrack());
    ctflow_lab::isolated!({
        let ours = Ours::new();
        let _lab = Lab::enter().unwrap();
        record_all();
        ctflow_lab::sysctl::write("net/netfilter/nf_conntrack_timestamp", "0").unwrap(); // no delta-time
        let right = |filter: &&&str| !["!", "UNREPLIED", "-j"].iter().any(|word| filter.contains(word));
        let outputs = ["", " -o extended"];
        for (filter, output) in FILTERS.iter().filter(right).zip(outputs.iter().cycle()) {
            let line = format!("-D {filter}{output}");
            let on = |program: &str| {
                flush();
                create_every_kind();
                effect_on_table(program, &line)
            };
            assert_eq!(on(&ours.path), on(theirs), "{line}");
        }
    });
}

/// Runs `program` with a file of commands on standard input.
pub(crate) fn load_by(program: &str, text: &str) -> Ran {
    let mut child = Command::new(program)
        .args(["-R", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_wrong_line_anywhere_means_that_nothing_is_done() {
    ctflow_lab::isolated!({
        let good = "-A -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 -t 100\n";
        let (code, _, stderr) = load(&format!("# comment\n{good}\n-A -p udp --sport x\n"));
        assert!(code != 0 && stderr.contains("standard input, line 4: "), "{stderr}");
        let (code, _, stderr) = load(&format!("{good}-L\n"));
        assert!(code == 2 && stderr.contains("line 2: ") && stderr.contains("-L"), "{stderr}");
        assert_eq!(run(PROGRAM, &["-C"]).1, "0\n");
    });
}

#[test]
fn a_refused_line_is_reported_with_its_number() {
    ctflow_lab::isolated!({
        let line = |port| format!("-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport {port} --dport 2 -t 100\n");
        let (code, _, stderr) = load(&(line(1) + &line(2) + &line(1) + &line(3)));
        assert_eq!(code, 1);
        let expected = "standard input, line 3: Such conntrack exists, try -U to update; the others up to line 4 are carried out\n";
        assert!(stderr.ends_with(expected), "{stderr}");
        assert_eq!(run(PROGRAM, &["-C"]).1, "3\n");
        let (code, stdout, stderr) = load(&(line(8) + "-D -p udp --sport 1\n" + &line(1)));
        assert_eq!((code, stdout.lines().count(), stderr.as_str()), (0, 1, ""));
        let (code, _, stderr) = load(&("-F\n".to_owned() + &line(5) + &line(5)));
        assert!(code == 1 && stderr.contains("table has been emptied.\n"), "as conntrack prints for -F: {stderr}");
        assert!(stderr.ends_with("; lines before it are carried out\n"), "{stderr}");
    });
}

#[test]
fn bulk_changes_reach_every_flow() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        Flood::open().unwrap().send(10_000).unwrap();
        let (code, stdout, stderr) = run(PROGRAM, &args("-U -p udp -m 0x10/0x10"));
        assert!(code == 0 && stderr.contains("10000 flow entries have been updated."), "{stderr}");
        assert!(stdout.lines().all(|line| line.contains(" mark=16 ")));
        let (code, stdout, stderr) = run(PROGRAM, &args("-D -m 0x10/0x10"));
        assert!(code == 0 && stderr.contains("10000 flow entries have been deleted."), "{stderr}");
        assert_eq!(stdout.lines().count(), 10_000);
    });
}

#[test]
fn json_has_one_object_per_flow() {
    ctflow_lab::isolated!({
        fill();
        let (_, stdout, _) = run(PROGRAM, &["-L", "-o", "json"]);
        let objects: Vec<serde_json::Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 4);
        let count: serde_json::Value = serde_json::from_str(&run(PROGRAM, &["-C", "-o", "json"]).1).unwrap();
        assert_eq!(count["entries"], 4);
        let (_, stats, _) = run(PROGRAM, &["-S", "-o", "json"]);
        assert!(stats.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["cpu"].is_u64()));
        assert_eq!(run(PROGRAM, &["-C", "-o", "id"]).0, 2);
    });
}

#[test]
fn a_capture_file_shows_what_was_followed() {
    ctflow_lab::isolated!({
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.pcapng");
        let file = file.to_str().unwrap();
        let plain = Follower::start(PROGRAM, &["-o", "id"]);
        let capture = Follower::start(PROGRAM, &["-w", file]);
        fill();
        flush();
        let (_, live, _) = plain.interrupt();
        let (code, stdout, stderr) = capture.interrupt();
        assert!(code == 0 && stdout.is_empty() && stderr.contains("8 flow events"), "{stderr}");
        let (code, read, _) = run(PROGRAM, &["-E", "-r", file, "-o", "id"]);
        let chosen = folder.path().join("chosen.pcapng");
        let chosen = chosen.to_str().unwrap();
        assert_eq!(run(PROGRAM, &["-E", "-r", file, "-e", "NEW", "-w", chosen]).0, 0);
        assert_eq!(run(PROGRAM, &["-E", "-r", chosen]).1.matches("[NEW]").count(), 4, "a part of it");
        let refused = run(PROGRAM, &["-E", "-r", chosen, "-w", chosen]);
        assert!(refused.0 == 1 && refused.2.contains("name another file"), "{refused:?}");
        assert_eq!(run(PROGRAM, &["-E", "-r", chosen]).1.lines().count(), 4, "it is not emptied");
        let full = run(PROGRAM, &["-E", "-r", chosen, "-w", "/dev/full"]);
        assert!(full.0 == 1 && full.2.contains("cannot write to /dev/full"), "{full:?}");
        // The requesting program is only looked up for live events, so it is missing in those of a file.
        let bare = |text: &str| {
            text.lines().map(|line| line.split(" [USERSPACE]").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!((code, bare(&read)), (0, bare(&live)));
        assert_eq!(run(PROGRAM, &["-E", "-r", file, "-e", "DESTROY", "-p", "tcp"]).1.lines().count(), 2);
        let (code, _, stderr) = run(PROGRAM, &["-E", "--read", "/dev/null"]);
        assert!(code == 1 && stderr.contains("/dev/null"), "{stderr}");
    });
}
