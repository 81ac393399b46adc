//! The real program with wrong command lines: the message, the stream that it is printed on, and the exit code.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them in test functions, not in what those share

mod program;

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use program::{PROGRAM, run, run_as};

/// Asserts that a command line is refused: exit code 2, nothing on stdout, one line that contains all `words`, and a
/// hint at the help: of everything, or of the verb that the line begins with.
#[track_caller]
fn refused(args: &[&str], words: &[&str]) {
    let (code, stdout, stderr) = run(args);
    assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
    let [line, hint] = stderr.lines().collect::<Vec<_>>()[..] else { panic!("{args:?}: {stderr}") };
    assert!(line.starts_with(concat!("ctflow v", env!("CARGO_PKG_VERSION"), ": ")), "{line}");
    assert!(words.iter().all(|word| line.contains(word)), "{words:?} in {line}");
    let [all, verb] = ["--help", &format!("help {}", args.first().unwrap_or(&"--help"))]
        .map(|help| format!("Try `ctflow {help}' for more information."));
    assert!(hint == all || hint == verb, "{args:?}: {hint}");
}

#[test]
fn a_wrong_word_of_a_verb_points_to_its_help() {
    let (_, _, stderr) = run(&["role", "primry"]);
    assert!(stderr.ends_with("\nTry `ctflow help role' for more information.\n"), "{stderr}");
}

#[test]
fn unknown_options_and_commands() {
    refused(&["-X"], &["unknown option `-X'"]);
    refused(&["-L", "--frobnicate"], &["unknown option `--frobnicate'"]);
    refused(&["-L", "-R", "x"], &["unknown option `-R' here", "first argument"]);
    refused(&["-L", "--sport", "10"], &["unknown option `--sport' here", "-p tcp, udp"]);
}

#[test]
fn a_mistyped_option_gets_a_suggestion() {
    refused(&["-L", "--ouput", "json"], &["unknown option `--ouput', did you mean `--output'?"]);
    refused(&["-L", "-p", "tcp", "--dprot=80"], &["unknown option `--dprot', did you mean `--dport'?"]);
    refused(&["statsu"], &["unknown command `statsu': did you mean `status'?"]);
    refused(&["status", "--raedy"], &["`status' does not take `--raedy': did you mean `--ready'?"]);
}

#[test]
fn an_ambiguous_prefix_lists_the_candidates() {
    refused(&["--e"], &["`--e' is ambiguous", "event and event-mask"]);
}

#[test]
fn a_missing_argument_is_described() {
    refused(&["-L", "-o"], &["`-o' needs an argument: TYPE[,TYPE...]"]);
    refused(&["-E", "--buffer-size"], &["`--buffer-size' needs an argument: BYTES"]);
    refused(&["--version=3"], &["`--version' takes no argument"]);
}

#[test]
fn bad_values_name_the_accepted_ones() {
    refused(&["-L", "-o", "id,foo"], &["`-o' does not take `foo'", "xml, extended, timestamp, id, ktimestamp"]);
    refused(&["-E", "-e", "NEW,"], &["`-e' does not take `'", "ALL, NEW, UPDATES and DESTROY"]);
    refused(&["-E", "-b", "lots"], &["`-b' does not take `lots'", "number of bytes"]);
    refused(&["-L", "--proto", "foo"], &["`--proto' does not take `foo'", "/etc/protocols", "0 to 255"]);
    refused(&["-L", "-p", "256"], &["`-p' does not take `256'"]);
    refused(&["-L", "-f", "ipx"], &["`-f' does not take `ipx'", "ipv4 or ipv6"]);
}

#[test]
fn unknown_tables_name_those_of_the_command() {
    refused(&["-L", "foo"], &["unknown table `foo' for `-L'", "expect, conntrack, dying and unconfirmed"]);
    refused(&["--stats", "dying"], &["unknown table `dying' for `--stats'", "expect and conntrack"]);
}

#[test]
fn meaningless_combinations_are_refused() {
    refused(&["-L", "--event"], &["`-L' and `--event'"]);
    refused(&["-L", "-h"], &["`-L' and `-h'"]);
    refused(&["-o", "xml"], &["no command", "-L, -G"]);
    refused(&["-L", "-e", "NEW"], &["`--event-mask' does not go with `-L': it goes with -E"]);
    refused(&["-V", "-o", "id"], &["`--output' does not go with `-V'"]);
    refused(&["-E", "expect", "-e", "NEW"], &["`--event-mask' does not go with `-E expect'"]);
}

#[test]
fn unknown_verbs_and_words_are_refused() {
    refused(
        &["list"],
        &[
            "unknown command `list'",
            "daemon, keygen, sync, status, role, demo, bench, doctor, completions, man and help",
        ],
    );
    refused(&["doctor", "--jsn"], &["`doctor' does not take `--jsn'", "--json"]);
    refused(&["help", "--got"], &["`help' does not take `--got'"]);
    refused(&["sync"], &["`sync' needs an argument", "dump|commit|flush|bulk"]);
    refused(&["sync", "dmp"], &["`sync' does not take `dmp'", "dump|commit|flush|bulk"]);
    refused(&["sync", "dump", "kernel"], &["`kernel'", "internal or external, and flows or expectations"]);
    refused(&["sync", "bulk", "x"], &["`x'", "nothing"]);
    refused(&["sync", "flush", "-o", "xml"], &["`--output'"]);
    refused(&["status", "--jsn"], &["`status' does not take `--jsn'", "[--json | --ready]"]);
    refused(&["status", "--socket", "a", "-C", "b"], &["`--socket' with `--config'"]);
    refused(&["daemon", "-C"], &["`-C' needs an argument: FILE"]);
    refused(&["-E", "--daemon", "--read", "x"], &["`--daemon' with `--read'"]);
    refused(&["-L", "--daemon"], &["`--daemon' does not go with `-L': it goes with -E"]);
    refused(&["demo", "extra"], &["`demo' does not take `extra'", "nothing"]);
    refused(&["completions", "tcsh"], &["`completions' does not take `tcsh'", "bash, zsh and fish"]);
    refused(&["completions"], &["`completions' needs an argument", "bash, zsh and fish"]);
}

#[test]
fn help_exits_with_success() {
    let (code, everything, stderr) = run(&[]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(everything.contains("-L, --dump [TABLE]") && everything.contains("doctor [--json]"), "{everything}");
    for args in [&["-h"][..], &["--help"], &["help"], &["--he"]] {
        assert_eq!(run(args), (0, everything.clone(), String::new()), "{args:?}");
    }
    let (code, output, _) = run(&["help", "-o"]);
    assert!(code == 0 && output.starts_with("-o, --output TYPE[,TYPE...]\n    "), "{output}");
}

#[test]
fn help_with_a_protocol_ends_with_its_options() {
    let (_, of_tcp, _) = run(&["help", "tcp"]);
    assert!(of_tcp.starts_with("Options after -p tcp:\n") && of_tcp.contains(" --state "), "{of_tcp}");
    for args in [&["-h", "-p", "tcp"][..], &["-p", "6", "--help"], &["-h", "-p", "icmp", "-p", "TCP"]] {
        let (code, help, stderr) = run(args);
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
        assert!(help.contains("-L, --dump [TABLE]") && help.ends_with(&format!("\n\n{of_tcp}")), "{args:?}: {help}");
        assert!(!help.contains("--icmp-type"), "{args:?}: {help}");
    }
    let (code, help, _) = run(&["-h", "-p", "200"]);
    assert!(code == 0 && help.ends_with("\nOptions after -p 200: none\n"), "{help}");
    refused(&["-h", "-p", "nosuch"], &["`-p' does not take `nosuch'", "sctp"]);
}

#[test]
fn the_version_is_one_line() {
    let line = concat!("ctflow v", env!("CARGO_PKG_VERSION"), "\n");
    for option in ["-V", "--version", "--ver"] {
        assert_eq!(run(&[option]), (0, line.to_owned(), String::new()));
    }
}

#[test]
fn the_manual_pages_are_up_to_date() {
    for (page, file) in PAGES {
        let committed = fs::read_to_string(packaging(file)).unwrap();
        let (code, text, _) = run(&["man", page]);
        let advice = "is out of date: cargo run -p ctflow -- man";
        assert!(code == 0 && text == committed, "packaging/{file} {advice} {page} > packaging/{file}");
    }
    assert_eq!(run(&["man"]), run(&["man", "ctflow"]));
}

/// The manual pages with the files that they are committed in.
const PAGES: [(&str, &str); 3] = [("ctflow", "ctflow.1"), ("ctflow.toml", "ctflow.toml.5"), ("ctflowd", "ctflowd.8")];

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(file)
}

/// groff prints no warning about the pages.
#[test]
fn groff_accepts_the_manual_pages() {
    for (_, file) in PAGES {
        let done = Command::new("groff").args(["-man", "-ww", "-z", "-Tutf8"]).arg(packaging(file)).output();
        let done = ctflow_lab::or_skip!(done.map_err(|error| format!("groff: {error}")));
        assert!(done.status.success() && done.stderr.is_empty(), "{file}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// The words that bash offers for the last of `words`, with the completion script.
fn offered(script: &str, words: &str) -> String {
    let last = words.split(' ').count() - 1;
    let line =
        format!("set -u; {script}\nCOMP_WORDS=({words} ); COMP_CWORD={last}; _ctflow; echo \"${{COMPREPLY[*]-}}\"");
    let done = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert!(done.stderr.is_empty(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn bash_completes_options_values_and_verbs() {
    let (code, script, _) = run(&["completions", "bash"]);
    assert_eq!(code, 0);
    for (words, right) in [
        ("ctflow -E --event-m", "--event-mask"),
        ("ctflow -L -o xm", "xml"),
        ("ctflow -L -o id,js", "id,json"),
        ("ctflow -L --output = ex", "extended"),
        ("ctflow -L --output =", "xml extended timestamp id ktimestamp labels userspace save json"),
        ("ctflow -L dy", "dying"),
        ("ctflow -E dy", ""),
        ("ctflow --dump e", "expect"),
        ("ctflow -E -e N", "NEW"),
        ("ctflow -L -f ''", "ipv4 ipv6"),
        ("ctflow -L -p udpl", "udplite"),
        ("ctflow -L -p tcp --state SYN_R", "SYN_RECV"),
        ("ctflow do", "doctor"),
        ("ctflow doctor --j", "--json"),
        ("ctflow completions z", "zsh"),
        ("ctflow -D --labelm", "--labelmap"),
        ("ctflow -R /proc/self/statu", "/proc/self/status"),
    ] {
        assert_eq!(offered(&script, words), right, "{words}");
    }
}

/// Every installed shell parses its script.
#[test]
fn completion_scripts_have_no_syntax_errors() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&["completions", shell]);
        assert_eq!(code, 0, "{shell}");
        let Ok(done) = Command::new(shell).args(["-n", "-c", &script]).output() else { continue };
        assert!(done.status.success() && done.stderr.is_empty(), "{shell}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// Command lines of [`WRONG`] with another exit code in conntrack 1.4.7, which accepts these numbers, and opens its
/// label file first.
const OTHERWISE_IN_1_4_7: &[&str] = &[
    "-L -w 70000",
    "-L --orig-zone x",
    "-L -m x",
    "-L -m 1/2/3",
    "-L -c 99999999999",
    "-U --label-add a --label-del b",
];

/// Command lines that conntrack refuses, with its exit code, and a word that ctflow's message must contain, because it
/// names the error.
const WRONG: &[(&str, i32, &str)] = &[
    // Invocation.
    ("-L -D", 2, "-D"),
    ("-L -L", 2, "-L"),
    ("-X", 2, "-X"),
    ("--nosuch", 2, "--nosuch"),
    ("-L --reply", 2, "reply-src"),
    ("-p tcp", 2, "no command"),
    ("-L foo", 2, "foo"),
    ("-R", 2, "-R"),
    ("-L -R x", 2, "first argument"),
    ("-R /nonexistent/x", 2, "/nonexistent/x"),
    ("--load x", 2, "--load"),
    ("--load-file=x", 2, "--load-file"),
    ("-V -o xml", 2, "--output"),
    ("-h -s 1.1.1.1", 2, "--src"),
    ("-h -p foo", 2, "foo"),
    ("-C -f ipv4", 2, "--family"),
    ("-S -o id", 2, "--output"),
    // Tables.
    ("-U expect", 2, "expect"),
    ("-A expect", 2, "expect"),
    ("-D dying", 2, "dying"),
    ("-G unconfirmed", 2, "unconfirmed"),
    ("-F dying", 2, "dying"),
    ("-E dying", 2, "dying"),
    ("-C dying", 2, "dying"),
    ("-F expect -f ipv4", 2, "--family"),
    ("-C expect -f ipv6", 2, "--family"),
    // The matrix.
    ("-L -t 5", 2, "--timeout"),
    ("-L -e NEW", 2, "--event-mask"),
    ("-L -i 5", 2, "--id"),
    ("-L -b 9", 2, "--buffer-size"),
    ("-L --label-add x", 2, "--label-add"),
    ("-L --label-del", 2, "--label-del"),
    ("-E -z", 2, "--zero"),
    ("-E -u ASSURED", 2, "--status"),
    ("-E expect -e NEW", 2, "--event-mask"),
    ("-F -s 1.1.1.1", 2, "--src"),
    ("-D -j", 2, "--any-nat"),
    ("-U -j", 2, "--any-nat"),
    ("-D -z", 2, "--zero"),
    ("-D -c 1", 2, "--secmark"),
    ("-G -f ipv4 -p udp", 2, "--family"),
    ("-I -f ipv4 -p udp -t 5", 2, "--family"),
    ("-I -o xml", 2, "--output"),
    ("-L expect -p tcp", 2, "--protonum"),
    ("-D expect -w 1", 2, "--zone"),
    ("-L --tuple-src 1.1.1.1", 2, "--tuple-src"),
    ("-I -s 1.1.1.0/24 -d 2.2.2.2 -p tcp --sport 1 --dport 2 -t 5 --state NONE", 2, "--mask-src"),
    ("-n", 2, "no command"),
    // Missing arguments and options.
    ("-L -p", 2, "-p"),
    ("-L -o", 2, "-o"),
    ("-L -d", 2, "-d"),
    ("-L -w", 2, "-w"),
    ("-L -a", 2, "-a"),
    ("-D -i", 2, "-i"),
    ("-L -p tcp --state", 2, "--state"),
    ("-G", 2, "--protonum"),
    ("-I", 2, "--protonum"),
    ("-I -p udp -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2", 2, "--timeout"),
    ("-I -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2 -t 5", 2, "--state"),
    ("-A -p icmp -s 1.1.1.1 -d 2.2.2.2 -t 5 --icmp-type 8", 2, "--icmp-code"),
    ("-G -p icmp -s 1.1.1.1 -d 2.2.2.2", 2, "--icmp-type"),
    ("-G -p tcp -s 1.1.1.1", 2, "`--src' and `--dst'"),
    ("-G -p tcp --reply-src 1.1.1.1", 2, "`--reply-src' and `--reply-dst'"),
    ("-G -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 3", 2, "`--sport' and `--dport'"),
    ("-G -p tcp -s 1.1.1.1 -d 2.2.2.2 --reply-port-src 3", 2, "`--reply-port-src' and `--reply-port-dst'"),
    ("-I expect", 2, "--src"),
    ("-D expect -s 1.1.1.1", 2, "--dst"),
    ("-L --mask-src 255.0.0.0", 2, "--src"),
    ("-D --mask-dst 255.0.0.0", 2, "--dst"),
    // Options that exclude each other.
    ("-L -j -n", 2, "--any-nat"),
    ("-L -j -g 1.1.1.1", 2, "--any-nat"),
    ("-L -z -s 1.1.1.1", 2, "--zero"),
    ("-L -z -p tcp", 2, "--zero"),
    ("-L -z -m 1", 2, "--zero"),
    ("-U --label-add a --label-del b", 1, "--label-del"),
    ("-L -o save,xml", 1, "save"),
    ("-L -o id,save", 1, "save"),
    ("-L -o save -o xml", 1, "save"),
    // Protocols and their options.
    ("-L -p 256", 2, "256"),
    ("-L -p -1", 2, "-1"),
    ("-L --sport 10 -p tcp", 2, "--sport"),
    ("-L -p icmp --sport 3", 2, "--sport"),
    ("-L -p 200 --sport 1", 2, "--sport"),
    ("-L -p udp --state NONE", 2, "--state"),
    ("-L -p tcp --s 10", 2, "--s"),
    ("-L -p tcp --state none", 2, "SYN_SENT"),
    ("-L -p dccp --state LISTEN", 2, "PARTOPEN"),
    ("-L -p dccp --role cl", 2, "--role"),
    ("-I -p dccp --role x", 2, "client or server"),
    ("-L -p tcp --tuple-port-src 1", 2, "--tuple-port-src"),
    ("-L -p sctp --orig-vtag 1", 2, "--orig-vtag"),
    // Addresses.
    ("-L -s localhost", 2, "localhost"),
    ("-L -s 1.1.1.1/33", 2, "0 to 32"),
    ("-L -s ::1/129", 2, "0 to 128"),
    ("-L -s 1.1.1.1/x", 2, "1.1.1.1/x"),
    ("-L -r 1.1.1.1/24", 2, "without a prefix"),
    ("-L -s [::1]", 2, "[::1]"),
    ("-L -s 1.1.1.1 -f ipv6", 2, "IPv6"),
    ("-L -s ::1 -d 1.1.1.1", 2, "IPv4"),
    ("-L -s 1.1.1.1 --mask-src ::1", 2, "--mask-src"),
    ("-L -f IPv4", 2, "ipv4 or ipv6"),
    ("-L -n :80", 2, ":80"),
    ("-L -n 1.1.1.1:", 2, "ADDR:PORT"),
    ("-L -n 1.1.1.1:x", 2, "1.1.1.1:x"),
    ("-L -n 1.1.1.1:65536", 2, "65535"),
    ("-L -n [::1]", 2, "[ADDR6]:PORT"),
    ("-L -g foo", 2, "foo"),
    // Numbers and lists.
    ("-L -w 70000", 1, "unexpected value '70000' with -w option"),
    ("-L --orig-zone x", 1, "--orig-zone"),
    ("-L -m x", 1, "-m"),
    ("-L -m 1/2/3", 1, "VALUE/MASK"),
    ("-L -c 99999999999", 1, "-c"),
    ("-D -i 99999999999", 1, "-i"),
    ("-L -u foo", 2, "SEEN_REPLY"),
    ("-L -u ASSURED,", 2, "-u"),
    ("-L -u unreplied", 2, "UNREPLIED"),
    ("-L -u !", 2, "-u"),
    ("-L -u SRC_NAT", 1, "--src-nat"),
    ("-E -e FOO", 2, "FOO"),
    ("-L -o foo", 2, "foo"),
];

#[test]
fn wrong_command_lines_end_with_conntracks_exit_codes() {
    for (line, expected, word) in WRONG {
        let args: Vec<_> = line.split(' ').collect();
        let (code, stdout, stderr) = run(&args);
        assert_eq!((code, stdout.as_str()), (*expected, ""), "{line}: {stderr}");
        let message = stderr.lines().find(|line| line.starts_with("ctflow v")).unwrap_or_default();
        assert!(message.contains(word), "{line}: no {word} in {stderr}");
        assert_eq!(stderr.contains("Try `ctflow --help'"), code == 2, "{line}: {stderr}");
    }
}

/// Uses Debian's package.
#[test]
fn the_installed_conntrack_has_the_same_exit_codes() {
    let found = ["/usr/sbin/conntrack", "/sbin/conntrack"].into_iter().find(|path| fs::exists(path).unwrap());
    let conntrack = ctflow_lab::or_skip!(found.ok_or("conntrack is not installed"));
    ctflow_lab::isolated!({
        for (line, expected, _) in WRONG.iter().filter(|(line, ..)| !OTHERWISE_IN_1_4_7.contains(line)) {
            let done = Command::new(conntrack).args(line.split(' ')).output().unwrap();
            assert_eq!(done.status.code(), Some(*expected), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        }
    });
}

/// Command lines that conntrack accepts, but with another meaning than was typed.
#[test]
fn numbers_that_conntrack_wraps_are_refused() {
    for line in [
        "-L -p tcp --dport 70000",
        "-L -p tcp --sport 10:20",
        "-U -t x",
        "-D -t -5",
        "-L -p icmp --icmp-type 300",
        "-L -p gre --srckey 65536",
        "-U -p sctp --orig-vtag 4294967296",
        "-L -p sctp --state UNKNOWN",
        "-L -p tcp --sport 1 -p icmp",
        "-L -s 1.1.1.1/",
        "-D -u SRC_NAT",
    ] {
        let args: Vec<_> = line.split(' ').collect();
        let (code, stdout, stderr) = run(&args);
        assert!([1, 2].contains(&code) && stdout.is_empty() && !stderr.is_empty(), "{line}: {code} {stderr}");
    }
}

/// A directory with a link to the program under another name, removed on drop.
struct Installed(PathBuf);

impl Installed {
    fn as_name(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("ctflow-usage-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        symlink(PROGRAM, directory.join(name)).unwrap();
        Self(directory.join(name))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        fs::remove_dir_all(self.0.parent().unwrap()).unwrap();
    }
}

#[test]
fn called_conntrack_it_behaves_as_conntrack() {
    let conntrack = Installed::as_name("conntrack");
    let run = |args: &[&str]| run_as(&conntrack.0, args);
    assert_eq!(run(&["-V"]), (0, "conntrack v1.4.9 (conntrack-tools)\n".into(), String::new()));
    let (code, help, _) = run(&[]);
    assert!(code == 0 && help.contains("Usage: conntrack") && !help.contains("doctor"), "{help}");
    for words in [&["doctor"][..], &["demo", "--", "-L"], &["help", "me"], &["man"], &["completions", "bash"]] {
        assert_eq!(run(words), (0, help.clone(), String::new()), "words are no verbs");
    }
    let (code, stdout, stderr) = run(&["-L", "foo"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.starts_with("conntrack v1.4.9 (conntrack-tools): unknown table `foo'"), "{stderr}");
    assert!(stderr.ends_with("Try `conntrack --help' for more information.\n"), "{stderr}");
    let (_, _, stderr) = run(&["-L", "--ouput", "xml"]);
    let first = stderr.lines().next();
    assert_eq!(first, Some("conntrack v1.4.9 (conntrack-tools): unknown option `--ouput'"), "no suggestion");
}

/// The program does not panic, and prints one line with the reason.
#[test]
fn a_closed_pipe_is_reported_in_one_line() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let Output { status, stderr, .. } = Command::new(PROGRAM).arg("-h").stdout(writer).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains("its reader has gone"), "{text}");
}
