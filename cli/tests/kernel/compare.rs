//! The same command lines for ctflow and for the installed conntrack, on the same table with flows of every kind:
//! outputs, exit codes and summary lines must be the same, to the byte.
//!
//! Debian's conntrack is 1.4.7, and ctflow behaves as 1.4.9: the version is replaced before comparing, and what 1.4.9
//! changed (zeros in time stamps, no suffix in XML) is left out. [`KNOWN_DIFFERENCES`] has the faults of conntrack that
//! ctflow does not have. They are undone before comparing, so that the rest of each line is compared.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};

use super::kinds::{create_every_kind, create_expectation, ftp, record_all, traffic};
use super::support::{Follower, PROGRAM, Ran, flush, queued_bytes, ran, run, until};
use ctflow_lab::Lab;
use ctflow_lab::topology::Firewall;

/// Returns the path of Debian's conntrack, or why there is none.
pub(crate) fn conntrack() -> Result<&'static str, &'static str> {
    let found = ["/usr/sbin/conntrack", "/sbin/conntrack"].into_iter().find(|path| std::fs::exists(path).unwrap());
    found.ok_or("conntrack is not installed")
}

/// The program under conntrack's name.
pub(crate) struct Ours {
    _folder: tempfile::TempDir,
    pub(crate) path: String,
}

impl Ours {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("conntrack");
        symlink(PROGRAM, &path).unwrap();
        Self { path: path.to_str().unwrap().to_owned(), _folder: folder }
    }
}

pub(crate) fn as_1_4_9((code, stdout, stderr): Ran) -> Ran {
    (code, stdout, stderr.replace("conntrack v1.4.7", "conntrack v1.4.9"))
}

/// The file with the names of labels. conntrack 1.4.7 reads no other one than that in `/etc`, so each program starts
/// with an
/// `/etc` that has it.
pub(crate) const LABELS: &str = "0 vpn\n5 web\n127 big\n";

/// Creates a script that starts `program` with an `/etc` that has [`LABELS`]. Returns its path.
pub(crate) fn with_labels(folder: &std::path::Path, program: &str) -> String {
    let script = folder.join(format!("labels{}", program.replace('/', "_")));
    let map = LABELS.replace('\n', "\\n");
    let prepare = "mount -t tmpfs labels /etc && mkdir /etc/xtables";
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -c '{prepare} && printf \"{map}\" > /etc/xtables/connlabel.conf && exec \"$0\" \"$@\"' \
         {program} \"$@\"\n"
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script.to_str().unwrap().to_owned()
}

/// A fault of conntrack that ctflow does not have.
struct KnownDifference {
    /// What ctflow does differently.
    why: &'static str,
    /// Returns whether it applies to a command line.
    applies: fn(&str) -> bool,
    /// Changes ctflow's output to conntrack's form, or conntrack's to ctflow's.
    undo: fn(theirs: &mut String, ours: &mut String),
}

const KNOWN_DIFFERENCES: [KnownDifference; 11] = [
    KnownDifference {
        why: "XML has the names of SCTP states, not TCP's of the same number",
        applies: is_xml,
        undo: |_, ours| {
            *ours = each_line(ours, |line| sctp_as_tcp(&line));
        },
    },
    KnownDifference {
        why: "XML has type, code and id of ICMP",
        applies: is_xml,
        undo: |_, ours| {
            *ours = each_line(ours, |line| {
                ["type", "code", "id"].iter().fold(line, |line, name| without_icmp(&line, name))
            });
        },
    },
    KnownDifference {
        why: "XML of one flow has its root closed",
        applies: |line| is_xml(line) && line.starts_with("-G "),
        undo: |theirs, _| {
            if theirs.contains("<conntrack>") {
                theirs.push_str("</conntrack>\n");
            }
        },
    },
    KnownDifference {
        why: "XML without entries is a document, too",
        applies: is_xml,
        undo: |theirs, ours| {
            let empty = |root: &str| format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<{root}>\n</{root}>\n");
            if theirs.is_empty() && (*ours == empty("conntrack") || *ours == empty("expect")) {
                ours.clear();
            }
        },
    },
    KnownDifference {
        why: "saved lines keep mark, labels and helper",
        applies: is_save,
        undo: |_, ours| {
            *ours = each_line(ours, |line| {
                let kept = ["-m", "--label-add", "--ct-helper"];
                kept.iter().fold(line, |line, option| without_option(&line, option))
            });
        },
    },
    KnownDifference {
        why: "saved lines have SCTP's tags in the right byte order",
        applies: is_save,
        undo: |theirs, _| *theirs = each_line(theirs, |line| swapped(&swapped(&line, "--orig-vtag"), "--reply-vtag")),
    },
    KnownDifference {
        why: "saved lines leave out EXPECTED, which cannot be loaded",
        applies: is_save,
        undo: |theirs, _| {
            *theirs = theirs.replace("-u EXPECTED ", "-u UNSET ").replace("EXPECTED,", "");
        },
    },
    KnownDifference {
        why: "saved lines translate the port alone, too",
        applies: is_save,
        undo: |_, ours| *ours = each_line(ours, |line| untranslated(&untranslated(&line, SOURCE), DESTINATION)),
    },
    KnownDifference {
        why: "saved lines of DCCP can be loaded, too, where the kernel has no tracker for it",
        applies: is_save,
        undo: |theirs, ours| {
            let nothing = " --sport 0 --dport 0 --reply-port-src 0 --reply-port-dst 0 --state NONE --role client";
            *ours = ours.replace(nothing, "");
            *theirs = theirs.replace(" --sport 0 --dport 0 --reply-port-src 0 --reply-port-dst 0", "");
        },
    },
    KnownDifference {
        why: "saved lines name every state of SCTP",
        applies: is_save,
        undo: |theirs, _| *theirs = theirs.replace("--state (null) ", "--state HEARTBEAT_SENT "),
    },
    KnownDifference {
        why: "XML and saved lines do not have the requesting program, for which they have no field",
        applies: |line| is_xml(line) || is_save(line),
        undo: |theirs, _| {
            *theirs = each_line(theirs, |line| line.split(" [USERSPACE]").next().unwrap_or_default().to_owned());
        },
    },
];

fn is_xml(line: &str) -> bool {
    line.contains("xml")
}

fn is_save(line: &str) -> bool {
    line.contains("save")
}

fn each_line(text: &str, change: impl Fn(String) -> String) -> String {
    text.lines().map(|line| change(line.to_owned()) + "\n").collect()
}

/// Returns a line with the name of its SCTP state replaced by that of the TCP state with the same number.
fn sctp_as_tcp(line: &str) -> String {
    let names = [
        ("NONE", "NONE"),
        ("CLOSED", "SYN_SENT"),
        ("COOKIE_WAIT", "SYN_RECV"),
        ("COOKIE_ECHOED", "ESTABLISHED"),
        ("ESTABLISHED", "FIN_WAIT"),
        ("SHUTDOWN_SENT", "CLOSE_WAIT"),
        ("SHUTDOWN_RECD", "LAST_ACK"),
        ("SHUTDOWN_ACK_SENT", "TIME_WAIT"),
        ("HEARTBEAT_SENT", "CLOSE"),
        ("HEARTBEAT_ACKED", "SYN_SENT2"),
    ];
    let state = |name: &str| format!("<state>{name}</state>");
    let is_sctp = |line: &str| line.contains("\"sctp\"");
    let found = names.into_iter().find(|(sctp, _)| is_sctp(line) && line.contains(&state(sctp)));
    found.map_or_else(|| line.to_owned(), |(sctp, tcp)| line.replace(&state(sctp), &state(tcp)))
}

/// Returns a line without the elements `name` of its layer 4.
fn without_icmp(line: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut parts = line.split("<layer4 ");
    let mut left = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inner, rest) = part.split_once("</layer4>").unwrap_or((part, ""));
        let inner = match (inner.split_once(&open), inner.split_once(&close)) {
            (Some((before, _)), Some((_, after))) => format!("{before}{after}"),
            _ => inner.to_owned(),
        };
        left += &format!("<layer4 {inner}</layer4>{rest}");
    }
    left
}

/// Returns a line without any occurrence of an option and its argument.
fn without_option(line: &str, option: &str) -> String {
    let mut words = line.split(' ');
    let mut left = Vec::new();
    while let Some(word) = words.next() {
        if word == option {
            let _ = words.next();
        } else {
            left.push(word);
        }
    }
    left.join(" ")
}

/// Returns a line with the bytes of an option's number in the opposite order.
fn swapped(line: &str, option: &str) -> String {
    let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
    if let Some(at) = words.iter().position(|word| word == option) {
        words[at + 1] = words[at + 1].parse::<u32>().unwrap().swap_bytes().to_string();
    }
    words.join(" ")
}

/// Options of a saved line for source NAT: the translation, the plain address, the port.
const SOURCE: [&str; 3] = ["-n", "-q", "--reply-port-dst"];
const DESTINATION: [&str; 3] = ["-g", "-r", "--reply-port-src"];

/// Returns a line whose translation to `ADDR:PORT` is written as the reply's address and port instead.
fn untranslated(line: &str, [translation, plain, port]: [&'static str; 3]) -> String {
    let mut words: Vec<_> = line.split(' ').collect();
    let place = |words: &[&str], option| words.iter().position(|word| *word == option);
    if let (Some(at), Some(port)) = (place(&words, translation), place(&words, port))
        && let Ok(to) = words[at + 1].parse::<SocketAddr>()
    {
        let (address, number) = (to.ip().to_string(), to.port().to_string());
        (words[at], words[at + 1], words[port + 1]) = (plain, &address, &number);
        return words.join(" ");
    }
    words.join(" ")
}

/// Two programs on the same table.
struct Sides {
    theirs: String,
    ours: String,
}

impl Sides {
    /// Runs each line with both programs, and fails with all differences.
    #[track_caller]
    fn assert_same<L: AsRef<str>>(&self, lines: impl IntoIterator<Item = L>) {
        let (mut count, mut different) = (0, Vec::new());
        for line in lines {
            count += 1;
            different.extend(self.difference(line.as_ref()));
        }
        println!("{count} command lines compared");
        assert!(different.is_empty(), "{} of {count} differ:\n{}", different.len(), different.join("\n"));
    }

    /// Runs a line with both programs and returns their difference, if any. Tries four times, since timeouts may count
    /// down between the two runs.
    fn difference(&self, line: &str) -> Option<String> {
        let args: Vec<_> = line.split_whitespace().collect();
        let mut last = None;
        for _ in 0..4 {
            let start = |program: &str| {
                let mut command = Command::new(program);
                command.args(&args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            };
            let (theirs, ours) = (start(&self.theirs), start(&self.ours));
            let (theirs, ours) = (ran(theirs.wait_with_output().unwrap()), ran(ours.wait_with_output().unwrap()));
            let (theirs, ours) = undo_known_differences(line, as_1_4_9(theirs), ours);
            if theirs == ours {
                return None;
            }
            last = Some((theirs, ours));
        }
        last.map(|(theirs, ours)| describe_difference(line, &theirs, &ours))
    }
}

/// Undoes the known differences that apply to a command line.
fn undo_known_differences(line: &str, mut theirs: Ran, mut ours: Ran) -> (Ran, Ran) {
    for known in KNOWN_DIFFERENCES.iter().filter(|known| (known.applies)(line)) {
        (known.undo)(&mut theirs.1, &mut ours.1);
    }
    (theirs, ours)
}

/// Returns the first lines that differ, and the known differences that were undone without making them the same.
fn describe_difference(line: &str, theirs: &Ran, ours: &Ran) -> String {
    let first = |theirs: &str, ours: &str| {
        let pairs = theirs.lines().map(Some).chain(std::iter::repeat(None));
        let mut pairs = pairs.zip(ours.lines().map(Some).chain(std::iter::repeat(None)));
        let found = pairs.find(|(theirs, ours)| theirs != ours || theirs.is_none());
        let shown = |line: Option<&str>| line.unwrap_or("(nothing)").to_owned();
        found.map_or_else(String::new, |(theirs, ours)| {
            if theirs == ours {
                String::new()
            } else {
                format!("\n  theirs {}\n  ours   {}", shown(theirs), shown(ours))
            }
        })
    };
    let known: Vec<_> = KNOWN_DIFFERENCES.iter().filter(|known| (known.applies)(line)).map(|known| known.why).collect();
    let codes = if theirs.0 == ours.0 { String::new() } else { format!("\n  exit codes {} and {}", theirs.0, ours.0) };
    let known = if known.is_empty() { String::new() } else { format!("\n  besides: {}", known.join("; ")) };
    format!("{line}{codes}{}{}{known}", first(&theirs.1, &ours.1), first(&theirs.2, &ours.2))
}

/// Returns every combination of these output types.
fn outputs(types: &[&str]) -> Vec<String> {
    let sets = 0..1u32 << types.len();
    sets.map(|set| {
        let chosen = types.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, name)| *name);
        chosen.collect::<Vec<_>>().join(",")
    })
    .collect()
}

/// Returns a command line with an output option, if there is one.
fn with_output(line: &str, output: &str) -> String {
    if output.is_empty() { line.to_owned() } else { format!("{line} -o {output}") }
}

const TYPES: [&str; 5] = ["extended", "id", "timestamp", "ktimestamp", "xml"];
/// The outputs that are compared with every filter: the shortest line, the longest, XML, and saved lines.
const OUTPUTS: [&str; 4] = ["", "extended,id,ktimestamp", "xml", "save"];

/// Every option that selects, alone and with others. Left out is what conntrack 1.4.7 selects wrongly. It prints
/// nothing for `-m` before `-u`, whose flags it uses as the mark, for `-j` with an address and `-p`, and for NAT to the
/// port that the flow already had. It also does not do what its manual describes for several labels in one list, for
/// NAT of IPv6 addresses and ICMP, and for plain status flags together with negated ones.
pub(crate) const FILTERS: &[&str] = &[
    "-f ipv4",
    "-f ipv6",
    "-p tcp",
    "-p udp",
    "-p udplite",
    "-p sctp",
    "-p dccp",
    "-p icmp",
    "-p icmpv6",
    "-p gre",
    "-p 50",
    "-p 200",
    "-p igmp",
    "-p 0",
    "-f ipv6 -p tcp",
    "-f ipv4 -p 17",
    "-s 10.0.0.1",
    "-d 10.0.0.2",
    "-r 10.0.0.2",
    "-q 10.0.0.1",
    "-s 10.0.0.1 -d 10.0.0.2 -p tcp",
    "-s 10.0.1.0/24",
    "-s 10.0.1.9/24 -d 10.0.0.0/16",
    "-d 10.0.0.0/30",
    "-s 0.0.0.0/0",
    "-s 10.0.0.1/32",
    "-s 10.0.0.1 --mask-src 255.255.0.255",
    "-d 10.0.0.2 --mask-dst 0.0.0.255",
    "-s 2001:db8::1",
    "-d ::1.2.3.4",
    "-s 2001:db8::/32",
    "-s 2001:db8:3::/48 -p udp",
    "-d 2001:db8::2 --mask-dst ffff:ffff::",
    "-r 2001:db8:3::98",
    "-q 2001:db8:3::99 -p udp",
    "-r ::1.2.3.4 -p gre",
    "-p tcp --sport 1000",
    "-p tcp --dport 80 -f ipv4",
    "-p udp --orig-port-src 1000 --orig-port-dst 53",
    "-p tcp --reply-port-src 8080",
    "-p tcp --reply-port-dst 4001 -f ipv4",
    "-p udp --dport 53 -f ipv6",
    "-p udp --reply-port-src 5353 --sport 3",
    "-p sctp --sport 1000 --dport 53",
    "-p udplite --dport 53 -f ipv6",
    "-p dccp --sport 0",
    "-p gre --srckey 0x10",
    "-p gre --dstkey 0xbeef --reply-key-src 0xbeef",
    "-p gre --reply-key-dst 16 -f ipv6",
    "-p icmp --icmp-type 8",
    "-p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77",
    "-p icmp --icmp-id 78",
    "-p icmpv6 --icmpv6-type 128 --icmpv6-id 9",
    "-p icmpv6 --icmpv6-code 1",
    "-p tcp --state ESTABLISHED",
    "-p tcp --state TIME_WAIT -f ipv4",
    "-p tcp --state LISTEN",
    "-p tcp --state SYN_SENT2",
    "-p sctp --state ESTABLISHED",
    "-p sctp --state COOKIE_WAIT -f ipv4",
    "-u ASSURED",
    "-u SEEN_REPLY -p tcp",
    "-u SEEN_REPLY,ASSURED",
    "-u FIXED_TIMEOUT",
    "-u EXPECTED",
    "-u !ASSURED",
    "-u UNREPLIED -p udp",
    "-u !SEEN_REPLY,!ASSURED -f ipv4",
    "-m 42",
    "-m 0x2a",
    "-m 0",
    "-m 1/1",
    "-m 0x80000000/0x80000000",
    "-p tcp -u FIXED_TIMEOUT -m 43",
    "-m 0/0",
    "-n -p tcp",
    "-g -p tcp",
    "-j -p tcp",
    "-n -g -p tcp",
    "-n 192.0.2.99 -p tcp",
    "-n 192.0.2.99:4000 -p tcp",
    "-n 192.0.2.98 -p tcp",
    "-g 198.51.100.99 -p tcp",
    "-g 198.51.100.99:8080 -p tcp",
    "-g 198.51.100.99:8081 -p tcp",
    "-j 198.51.100.99",
    "-j 192.0.2.99:4001 -f ipv4",
    "-n 192.0.2.99 -g 198.51.100.99 -p tcp",
    "-n -p udp -f ipv6",
    "-g -p udp -f ipv6",
    "-j -f ipv6",
    "-w 7",
    "-w 0 -p udp",
    "-w 65535",
    "--zone 7 -f ipv6",
    "--orig-zone 3",
    "--reply-zone 4",
    "--orig-zone 7",
    "--orig-zone 0 -p gre",
    "-w 7 -p tcp -s 10.0.2.1 --dport 80",
    "-s 9.9.9.9",
    "-p tcp --dport 9",
];

#[test]
fn listings_are_the_same_by_every_filter_and_in_every_output() {
    let theirs = ctflow_lab::or_skip!(conntrack());
    ctflow_lab::isolated!({
        let ours = Ours::new();
        let sides = Sides { theirs: theirs.to_owned(), ours: ours.path.clone() };
        let _network = fill_with_every_kind();
        let plain = outputs(&TYPES).into_iter().chain(["save".into(), "userspace".into(), "extended,userspace".into()]);
        sides.assert_same(plain.map(|output| with_output("-L", &output)));
        let filters = FILTERS.iter().enumerate().flat_map(|(index, filter)| {
            // Each filter in two of the four outputs, so that each output is compared with half of the filters.
            [OUTPUTS[index % 4], OUTPUTS[(index + 1) % 4]].map(|output| with_output(&format!("-L {filter}"), output))
        });
        sides.assert_same(filters);
    });
}

/// Creates flows by requests and by packets, and expectations. The network exists until the returned value is dropped.
fn fill_with_every_kind() -> (Firewall, [TcpStream; 2]) {
    let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
    record_all();
    create_every_kind();
    create_expectation();
    firewall.client.run(traffic);
    let talk = ftp(&firewall);
    (firewall, talk)
}

#[test]
fn gets_counts_and_statistics_are_the_same() {
    let theirs = ctflow_lab::or_skip!(conntrack());
    ctflow_lab::isolated!({
        let ours = Ours::new();
        let sides = Sides { theirs: theirs.to_owned(), ours: ours.path.clone() };
        let _network = fill_with_every_kind();
        let (_, saved, _) = run(PROGRAM, &["-L", "-o", "save"]);
        let outputs = ["", "extended,id,ktimestamp", "xml", "save", "timestamp"];
        let gets = saved.lines().zip(outputs.iter().cycle()).map(|(line, output)| with_output(&get_of(line), output));
        sides.assert_same(gets);
        let tables =
            ["-L conntrack", "-L dying", "-L unconfirmed", "-L expect", "-L expect -f ipv4", "-L expect -f ipv6"];
        let tables = tables.iter().flat_map(|line| {
            ["", "extended", "id", "timestamp,id", "save", "xml"].map(|output| with_output(line, output))
        });
        // The time stamps of expectations are the programs' clocks, which differ.
        sides.assert_same(tables.filter(|line| !(line.contains("timestamp") && line.contains("expect"))));
        sides.assert_same(["-C", "--count", "-C expect", "-C conntrack", "-S", "-S expect", "--stats"]);
        flush();
        sides.assert_same(["-L", "-L -o xml", "-L -o save", "-C", "-L expect", "-C expect", "-L dying -o xml"]);
    });
}

/// Returns the command line that gets the flow that a saved line creates.
fn get_of(saved: &str) -> String {
    let words: Vec<_> = saved.split(' ').collect();
    let names = [
        "-s",
        "-d",
        "-p",
        "--sport",
        "--dport",
        "--srckey",
        "--dstkey",
        "--icmp-type",
        "--icmp-code",
        "--icmp-id",
        "--icmpv6-type",
        "--icmpv6-code",
        "--icmpv6-id",
    ];
    let kept = words.windows(2).filter(|pair| names.contains(&pair[0])).map(|pair| pair.join(" "));
    // Options of a protocol must follow `-p`.
    let ports = if words.contains(&"dccp") && !words.contains(&"--sport") { " --sport 0 --dport 0" } else { "" };
    let (front, back): (Vec<_>, Vec<_>) = kept.partition(|pair| !pair.starts_with("--"));
    format!("-G {} {}{ports}", front.join(" "), back.join(" ")).replace("  ", " ").trim_end().to_owned()
}

#[test]
fn labels_are_shown_and_selected_the_same() {
    let theirs = ctflow_lab::or_skip!(conntrack());
    ctflow_lab::isolated!({
        let (ours, folder) = (Ours::new(), tempfile::tempdir().unwrap());
        let [theirs, ours] = [theirs, &ours.path].map(|program| with_labels(folder.path(), program));
        let sides = Sides { theirs, ours };
        let _network = fill_with_every_kind();
        let shown = outputs(&["labels", "extended", "id", "ktimestamp", "xml"]);
        sides.assert_same(shown.iter().map(|output| with_output("-L -p udp", output)));
        let filters = ["-l vpn", "-l web", "-l big", "-l web -p udp -f ipv4", "-l vpn -s 10.0.4.1 -m 0"];
        let filters = filters.iter().flat_map(|filter| {
            ["", "xml", "labels,id", "save"].map(|output| with_output(&format!("-L {filter}"), output))
        });
        sides.assert_same(filters);
        let get = "-G -p udp -s 10.0.4.1 -d 10.0.4.2 --dport 53 --sport";
        sides.assert_same([1, 2, 3, 4, 5].map(|port| format!("{get} {port} -o labels,id")));
        sides.assert_same(["web", "big"].map(|label| format!("{get} 2 -l {label}")));
    });
}

/// Follows events with both programs for each line, which holds the arguments after `-E`. Then causes events, and
/// compares what the programs printed.
#[track_caller]
fn assert_same_events(sides: &Sides, lines: &[String], make_events: impl Fn()) {
    let (mut different, mut shown) = (Vec::new(), 0);
    for chunk in lines.chunks(8) {
        let follow = |program: &str, line: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            let args: Vec<_> = line.split_whitespace().collect();
            (Follower::start_with_stdout(program, &args, file.reopen().unwrap().into()), file)
        };
        let both = |line: &String| [follow(&sides.theirs, line), follow(&sides.ours, line)];
        let followers: Vec<_> = chunk.iter().map(both).collect();
        make_events();
        until("all events are read", || queued_bytes() == 0);
        for (line, both) in chunk.iter().zip(followers) {
            let [theirs, ours] = both.map(|(follower, file)| {
                let (code, _, stderr) = follower.interrupt();
                let seen = std::fs::read_to_string(file.path()).unwrap();
                (code, each_line(&seen, without_times), stderr)
            });
            let (theirs, ours) = undo_known_differences(line, as_1_4_9(theirs), ours);
            shown += ours.1.lines().count();
            if theirs != ours {
                different.push(describe_difference(line, &theirs, &ours));
            }
        }
    }
    println!("{} followers compared, {shown} lines", lines.len());
    assert!(different.is_empty(), "{} of {} differ:\n{}", different.len(), lines.len(), different.join("\n"));
}

/// Returns a line without the parts that may differ between two programs that read the same event: their clocks, and
/// the name of a requesting program that may have ended.
fn without_times(line: String) -> String {
    let line = match line.split_once("]\t") {
        Some((stamp, rest)) if stamp.starts_with('[') => format!("[now]\t{rest}"),
        _ => line,
    };
    let line = line.split(" progname=").next().unwrap_or_default();
    let without_number = |line: &str, name: &str| match line.split_once(name) {
        Some((before, after)) => {
            format!("{before}{name}{}", after.trim_start_matches(|digit: char| digit.is_ascii_digit()))
        }
        None => line.to_owned(),
    };
    without_number(&without_number(line, "delta-time="), "<deltatime>")
}

/// Causes all kinds of events: flows are created and changed by requests, created and ended by packets, and deleted. It
/// pauses between parts, because the buffers of conntrack hold 166 events.
fn make_all_events(firewall: &Firewall) {
    let wait_until_read = || until("all events are read", || queued_bytes() == 0);
    create_every_kind();
    wait_until_read();
    firewall.client.run(traffic);
    until("the traffic has ended", || {
        run(PROGRAM, &["-L", "-p", "tcp", "--state", "TIME_WAIT"]).1.lines().count() >= 4
    });
    for line in
        ["-U -s 10.0.1.1 -f ipv4 -m 5", "-U -p udp -s 10.0.0.1 -f ipv4 -u ASSURED,SEEN_REPLY -t 77", "-D -p sctp"]
    {
        wait_until_read();
        assert_eq!(run(PROGRAM, &line.split_whitespace().collect::<Vec<_>>()).0, 0, "{line}");
    }
    wait_until_read();
    flush();
}

#[test]
fn events_are_the_same_in_every_output() {
    let theirs = ctflow_lab::or_skip!(conntrack());
    ctflow_lab::isolated!({
        let ours = Ours::new();
        let sides = Sides { theirs: theirs.to_owned(), ours: ours.path.clone() };
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        record_all();
        let mut lines: Vec<_> = outputs(&["extended", "id", "ktimestamp", "xml"])
            .iter()
            .chain(&["timestamp".into(), "timestamp,extended,id".into(), "save".into(), "userspace".into()])
            .map(|output| with_output("", output))
            .collect();
        let masks = ["NEW", "UPDATES", "DESTROY", "NEW,DESTROY", "ALL", "UPDATES -e NEW", "destroy -p tcp"];
        lines.extend(masks.iter().flat_map(|mask| [format!("-e {mask}"), format!("-e {mask} -o xml")]));
        assert_same_events(&sides, &lines, || make_all_events(&firewall));
    });
}

#[test]
fn events_are_the_same_by_every_filter() {
    let theirs = ctflow_lab::or_skip!(conntrack());
    ctflow_lab::isolated!({
        let ours = Ours::new();
        let sides = Sides { theirs: theirs.to_owned(), ours: ours.path.clone() };
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        record_all();
        let filters = FILTERS.iter().filter(|filter| !filter.contains("-u ")).map(ToString::to_string);
        assert_same_events(&sides, &filters.collect::<Vec<_>>(), || make_all_events(&firewall));
    });
}

#[test]
fn events_of_labels_and_of_expectations_are_the_same() {
    let theirs = ctflow_lab::or_skip!(conntrack());
    ctflow_lab::isolated!({
        let (ours, folder) = (Ours::new(), tempfile::tempdir().unwrap());
        let plain = Sides { theirs: theirs.to_owned(), ours: ours.path.clone() };
        let [theirs, ours] = [theirs, &ours.path].map(|program| with_labels(folder.path(), program));
        let named = Sides { theirs, ours };
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        record_all();
        let lines = ["-o labels", "-o labels,xml", "-l vpn", "-l web -o labels,id", "-o save"].map(str::to_owned);
        assert_same_events(&named, &lines, || make_all_events(&firewall));
        let lines = ["expect", "expect -o xml", "expect -o timestamp", "expect -o id,extended"].map(str::to_owned);
        assert_same_events(&plain, &lines, || {
            create_every_kind();
            create_expectation();
            assert_eq!(run(PROGRAM, &["-F", "expect"]).0, 0);
            drop(ftp(&firewall));
            flush();
        });
    });
}
