//! Faults of conntrack that ctflow does not have, as a user notices them on a kernel with flows of every kind.

use std::collections::BTreeSet;
use std::process::Command;

use ctflow_lab::Lab;
use ctflow_lab::topology::Firewall;
use ctflow_lab::traffic::Flood;
use ctflow_parser::flow::FlowView;
use ctflow_parser::uapi::{IPPROTO_TCP, IPPROTO_UDP, IPS_CONFIRMED, IPS_FIXED_TIMEOUT};
use rustix::process::Signal;

use super::change::args;
use super::compare::LABELS;
use super::kinds::{create_every_kind, create_expectation, record_all};
use super::support::{Follower, PROGRAM, Ran, create, flow, flush, ports, ran, run, until};

fn ours(line: &str) -> Ran {
    run(PROGRAM, &args(line))
}

/// Returns the exit code, and the number of lines on standard output.
fn shown(line: &str) -> (i32, usize) {
    let (code, stdout, _) = ours(line);
    (code, stdout.lines().count())
}

fn fill() {
    let _lab = Lab::enter().unwrap();
    record_all();
    create_every_kind();
}

/// Returns the lines of the table, distinguished by their ids, without the values that change by themselves.
fn table() -> BTreeSet<String> {
    let (_, listed, _) = ours("-L -o id");
    let still = |line: &str| {
        let words = line.split(' ').filter(|word| !word.is_empty() && word.parse::<u32>().is_err());
        words.filter(|word| !word.starts_with("delta-time=")).collect::<Vec<_>>().join(" ")
    };
    listed.lines().map(still).collect()
}

#[test]
fn a_negated_status_deletes_what_it_names_and_nothing_else() {
    ctflow_lab::isolated!({
        type Selects = fn(&str) -> bool;
        let table_of: [(&str, Selects); 5] = [
            ("-D -u !ASSURED", |line| !line.contains("[ASSURED]")),
            ("-D -u UNREPLIED", |line| line.contains("[UNREPLIED]")),
            ("-D -u SEEN_REPLY,!ASSURED", |line| !line.contains("[UNREPLIED]") && !line.contains("[ASSURED]")),
            ("-D -u !ASSURED -p tcp -f ipv4", |line| {
                line.starts_with("tcp") && !line.contains("[ASSURED]") && line.contains("src=10.")
            }),
            ("-D -u ASSURED,!SEEN_REPLY", |line| line.contains("[UNREPLIED]") && line.contains("[ASSURED]")),
        ];
        fill();
        for (line, selects) in table_of {
            flush();
            create_every_kind();
            let (selected, left): (BTreeSet<_>, BTreeSet<_>) = table().into_iter().partition(|line| selects(line));
            assert!(!selected.is_empty() && !left.is_empty(), "{line} selects some flows and not all");
            assert_eq!(shown(&line.replace("-D", "-L")), (0, selected.len()), "{line}: listed");
            assert_eq!(shown(line), (0, selected.len()), "{line}");
            assert_eq!(table(), left, "{line}");
        }
    });
}

#[test]
fn zoned_flows_are_reached() {
    ctflow_lab::isolated!({
        fill();
        assert_eq!(ours("-U -s 10.0.2.1 -w 7 -m 3").1.matches(" mark=3 zone=7 ").count(), 1);
        assert_eq!(shown("-L -m 3"), (0, 1), "the same tuple in zone 0 is another flow");
        let get = "-G -p tcp -s 10.0.2.1 -d 10.0.2.2 --sport 1000 --dport 80";
        assert!(ours(&format!("{get} -w 7")).1.contains(" mark=3 zone=7 "));
        assert!(!ours(get).1.contains("zone="));
        assert_eq!(shown("-U -s 10.0.2.1 -m 4"), (0, 5), "of every zone");
        assert_eq!(shown("-D -w 7"), (0, 2));
    });
}

#[test]
fn several_labels_mean_all_of_them() {
    ctflow_lab::isolated!({
        let map = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(map.path(), LABELS).unwrap();
        let named = |line: &str| ours(&format!("{line} --labelmap {}", map.path().display()));
        fill();
        assert_eq!(named("-L -l vpn").1.lines().count(), 3);
        for both in ["-L -l vpn,web", "-L -l vpn -l web"] {
            let (code, stdout, _) = named(both);
            assert!(code == 0 && stdout.lines().count() == 1 && stdout.contains(" labels=vpn,web"), "{both}: {stdout}");
        }
        let (_, stdout, _) = named("-U -p udp -s 10.0.4.1 --sport 1 --label-add web,big");
        assert!(stdout.ends_with(" labels=vpn,web,big\n"), "{stdout}");
        let (_, stdout, _) = named("-U -p udp -s 10.0.4.1 --sport 1 --label-del vpn,big");
        assert!(stdout.ends_with(" labels=web\n"), "{stdout}");
        let new = "-I -p udp -s 10.0.4.1 -d 10.0.4.2 --sport 99 --dport 53 -t 60 --label-add big,vpn";
        assert_eq!(named(new).0, 0, "names from a file go with -I");
        assert!(named("-L -p udp --sport 99 -o labels").1.ends_with(" labels=vpn,big\n"));
    });
}

#[test]
fn nat_filters_select_the_right_flows() {
    ctflow_lab::isolated!({
        fill();
        let table = [
            ("-L -n 2001:db8:3::99", 3),
            ("-L -n 2001:db8:3::98", 0),
            ("-L -g 2001:db8:3::98", 2),
            ("-L -n [2001:db8:3::99]:4000", 1),
            ("-L -j 2001:db8:3::98", 2),
            ("-L -n -p icmp", 1),
            ("-L -g -p icmp", 0),
            ("-L -j 198.51.100.99 -p tcp", 3),
            ("-L -g 198.51.100.99:80 -p tcp", 1),
            ("-L -n 10.0.3.1:4002 -p tcp", 1),
        ];
        for (line, flows) in table {
            assert_eq!(shown(line), (0, flows), "{line}");
        }
        assert_eq!(shown("-D -n 2001:db8:3::98"), (1, 0));
        assert_eq!(shown("-D -n 2001:db8:3::99"), (0, 3));
    });
}

#[test]
fn selection_options_work_in_any_order() {
    ctflow_lab::isolated!({
        fill();
        assert_eq!(shown("-L -m 43 -u FIXED_TIMEOUT"), (0, 2));
        assert_eq!(shown("-L -u FIXED_TIMEOUT -m 43"), (0, 2));
        assert_eq!(shown("-L -c 1"), (0, 0), "no flow here has a security mark");
        assert_eq!(shown("-L -p sctp --state HEARTBEAT_SENT"), (0, 1));
        let (code, _, stderr) = ours("-L -p sctp --state ESTABLISHD");
        assert!(code == 2 && stderr.contains("ESTABLISHD") && stderr.contains("COOKIE_WAIT"), "{stderr}");
        assert_eq!(shown("-L -u UNSET -p gre"), (0, 2));
    });
}

#[test]
fn expectations_are_created_listed_and_deleted_with_events() {
    ctflow_lab::isolated!({
        let _lab = Lab::enter().unwrap();
        // Before its flow exists: the kernel sends no event of flows that were created without a listener.
        let follower = Follower::start(PROGRAM, &["expect"]);
        fill();
        create_expectation();
        assert_eq!(ours("-C expect").1, "1\n");
        let which = "-s 10.0.4.2 -d 10.0.4.1 -p tcp --sport 0 --dport 4000 --reply-port-src 0 --reply-port-dst 0";
        let (code, got, _) = ours(&format!("-G expect {which}"));
        let is_it = |line: &str| line.contains(" dst=10.0.4.1 sport=0 dport=4000 ") && line.ends_with("helper=ftp\n");
        assert!(code == 0 && is_it(&got), "{got}");
        assert!(is_it(&ours("-L expect").1));
        let (code, stdout, stderr) = ours(&format!("-D expect {which}"));
        assert_eq!((code, stdout.as_str()), (0, ""));
        assert!(stderr.ends_with("1 expectations have been deleted.\n"), "{stderr}");
        assert_eq!(ours(&format!("-D expect {which}")).0, 1, "it has gone");
        assert_eq!(ours(&format!("-G expect {which}")).0, 1);
        create_expectation();
        assert_eq!((ours("-F expect").0, ours("-C expect").1.as_str()), (0, "0\n"));
        let mut follower = follower;
        for tag in ["[NEW]", "[DESTROY]", "[NEW]", "[DESTROY]"] {
            let line = follower.line();
            assert!(line.trim_start().starts_with(tag), "{tag}: {line}");
        }
        drop(follower.interrupt());
    });
}

/// Parses a text that must be one whole document. Returns the number of elements below its root.
fn elements(text: &str, root: &str) -> usize {
    let document = roxmltree::Document::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(document.root_element().tag_name().name(), root);
    document.root_element().children().filter(roxmltree::Node::is_element).count()
}

#[test]
fn xml_is_one_whole_document_for_every_command() {
    ctflow_lab::isolated!({
        let _lab = Lab::enter().unwrap();
        // Before its flows exist: the kernel sends no event of flows that were created without a listener.
        let file = tempfile::NamedTempFile::new().unwrap(); // a pipe without a reader holds less
        let follower = Follower::start_with_stdout(PROGRAM, &["-o", "xml"], file.reopen().unwrap().into());
        let quiet = Follower::start(PROGRAM, &["-o", "xml", "-s", "9.9.9.9"]);
        fill();
        create_expectation();
        let all = shown("-L").1;
        let get = "-G -p udp -s 10.0.1.1 -d 10.0.1.2 --sport 1200 --dport 443";
        let table = [
            ("-L", all),
            ("-L -o extended,timestamp,id,ktimestamp", all),
            ("-L dying", 0),
            ("-L unconfirmed", 0),
            ("-L -s 9.9.9.9", 0),
            (get, 1),
            ("-U -s 10.0.1.1 -m 77", 10),
            ("-U -s 9.9.9.9 -m 77", 0),
            ("-D -s 10.0.1.1", 10),
            ("-D -s 9.9.9.9", 0),
        ];
        for (line, flows) in table {
            assert_eq!(elements(&ours(&format!("{line} -o xml")).1, "conntrack"), flows, "{line}");
        }
        assert_eq!(follower.interrupt().0, 0);
        let events = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(elements(&events, "conntrack"), all + 20, "ten changed and deleted");
        assert_eq!(elements(&quiet.interrupt().1, "conntrack"), 0);
        assert_eq!(elements(&ours("-L expect -o xml").1, "expect"), 1);
        assert_eq!(elements(&ours("-L expect -f ipv6 -o xml").1, "expect"), 0);
        let follower = Follower::start(PROGRAM, &["expect", "-o", "xml,timestamp"]);
        flush();
        create_every_kind();
        create_expectation();
        assert_eq!(elements(&follower.interrupt().1, "expect"), 2, "the one from before goes with its flow");
        let (_, sctp, _) = ours("-L -p sctp --dport 80 -o xml");
        let (_, icmp, _) = ours("-L -p icmpv6 -o xml");
        assert!(
            sctp.contains("<state>COOKIE_ECHOED</state>") && icmp.contains("<type>128</type><code>0</code><id>9</id>")
        );
    });
}

#[test]
fn lines_are_whole_however_long() {
    ctflow_lab::isolated!({
        fill();
        let map = tempfile::NamedTempFile::new().unwrap();
        let names: Vec<_> = (0..128).map(|number| format!("label-{number}-{}", "x".repeat(50))).collect();
        let text: String = (0..).zip(&names).map(|(number, name)| format!("{number} {name}\n")).collect();
        std::fs::write(map.path(), text).unwrap();
        let map = map.path().to_str().unwrap();
        let new = "-I -p udp -s 10.0.4.1 -d 10.0.4.2 --sport 99 --dport 53 -t 60";
        let follower = Follower::start(PROGRAM, &["-o", "xml,labels", "--labelmap", map]);
        assert_eq!(ours(&format!("{new} --labelmap {map} --label-add {}", names.join(","))).0, 0);
        let listed = ours(&format!("-L -p udp --sport 99 -o labels --labelmap {map}")).1;
        assert!(listed.len() > 7_000 && listed.ends_with(&format!(" labels={}\n", names.join(","))));
        let (_, events, _) = follower.interrupt();
        assert!(elements(&events, "conntrack") == 1 && events.contains(&format!("<label>{}</label>", names[127])));
    });
}

/// The kernel compares a packet's tag with these bytes.
#[test]
fn sctp_tags_are_in_network_byte_order() {
    ctflow_lab::isolated!({
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.pcapng");
        let follower = Follower::start(PROGRAM, &["--write", file.to_str().unwrap()]);
        let new = "-I -p sctp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 -t 60 --state ESTABLISHED";
        assert_eq!(ours(&format!("{new} --orig-vtag 0x01020304 --reply-vtag 5")).0, 0);
        assert_eq!(follower.interrupt().0, 0);
        let bytes = std::fs::read(&file).unwrap();
        let has = |attribute: [u8; 8]| bytes.windows(8).any(|window| window == attribute);
        assert!(has([8, 0, 2, 0, 1, 2, 3, 4]) && has([8, 0, 3, 0, 0, 0, 0, 5]), "in network byte order");
        assert!(ours("-L -p sctp -o save").1.contains(" --orig-vtag 16909060 --reply-vtag 5\n"));
    });
}

#[test]
fn the_requested_buffer_size_applies_to_events() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        let sizes = ["16384", "200000"].map(|bytes| {
            let file = tempfile::NamedTempFile::new().unwrap();
            (Follower::start_with_stdout(PROGRAM, &["-e", "NEW", "-b", bytes], file.reopen().unwrap().into()), file)
        });
        sizes.iter().for_each(|(follower, _)| follower.signal(Signal::STOP));
        Flood::open().unwrap().send(250).unwrap();
        sizes.iter().for_each(|(follower, _)| follower.signal(Signal::CONT));
        let [small, large] = sizes.map(|(follower, file)| {
            let (_, _, stderr) = follower.interrupt();
            (std::fs::read_to_string(file.path()).unwrap().lines().count(), stderr)
        });
        assert!(small.0 < 100 && small.1.contains("events lost here"), "{small:?}");
        assert!(large.0 == 250 && large.1.contains(" 0 events have been lost."), "{large:?}");
    });
}

#[test]
fn a_flush_of_one_family_leaves_the_other() {
    ctflow_lab::isolated!({
        fill();
        let v6 = shown("-L -f ipv6").1;
        assert_eq!(ours("-F -f ipv4").0, 0);
        assert!(v6 > 0 && shown("-L").1 == v6);
    });
}

#[test]
fn counts_and_statistics_need_no_privileges() {
    ctflow_lab::isolated!({
        create(flow("10.0.0.1", "10.0.0.2", IPPROTO_TCP, ports(1, 80)));
        // A process in a new user namespace has no rights in the network's user namespace.
        let unprivileged =
            |line: &str| ran(Command::new("unshare").args(["-U", PROGRAM]).args(args(line)).output().unwrap());
        assert_eq!(unprivileged("-C"), (0, "1\n".into(), String::new()));
        let (code, stdout, stderr) = unprivileged("-S");
        assert!(code == 0 && stdout.starts_with("cpu=0   \tentries=1 ") && stderr.is_empty(), "{stdout}{stderr}");
        let (code, _, stderr) = unprivileged("-L");
        assert!(code == 1 && stderr.contains("CAP_NET_ADMIN"), "{stderr}");
    });
}

#[test]
fn a_saved_event_is_a_line_that_can_be_loaded() {
    ctflow_lab::isolated!({
        let follower = Follower::start(PROGRAM, &["-o", "save"]);
        create(FlowView { mark: Some(5), ..flow("10.0.0.1", "10.0.0.2", IPPROTO_UDP, ports(1, 53)) });
        assert_eq!(ours("-U -m 6").0, 0);
        let mut follower = follower;
        let lines = [follower.line(), follower.line()];
        assert!(lines.iter().all(|line| !line.contains("USERSPACE")), "{lines:?}");
        flush();
        let (code, _, stderr) = super::change::load_by(PROGRAM, &lines.concat());
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(shown("-L -m 6"), (0, 1));
        drop(follower.interrupt());
        until("nothing is followed", || super::support::queued_bytes() == 0);
    });
}

#[test]
fn a_partly_refused_update_reports_how_many_flows() {
    ctflow_lab::isolated!({
        let udp = |port| flow("10.0.0.1", "10.0.0.2", IPPROTO_UDP, ports(port, 53));
        for port in 1..=100 {
            create(FlowView { status: Some(IPS_FIXED_TIMEOUT | IPS_CONFIRMED), ..udp(port) });
        }
        (101..=110).for_each(|port| create(udp(port)));
        let (code, stdout, stderr) = ours("-U -t 99");
        assert_eq!((code, stdout.lines().count()), (1, 10), "{stderr}");
        assert!(stderr.contains("10 flow entries have been updated"), "{stderr}");
        assert!(stderr.contains("; 100 flows were refused, this is the first error"), "{stderr}");
    });
}
