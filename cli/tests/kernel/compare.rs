//! The same command lines given to us and to the installed conntrack, on the same table: outputs, exit codes and summary
//! lines must be the same.
//!
//! Debian's conntrack is 1.4.7, ours behaves as 1.4.9: its version is replaced before comparing, and what 1.4.9 changed
//! (zeros in time stamps, no suffix in XML) is left out. So are the edges that we mend: XML of SCTP and ICMP flows.

use std::os::unix::fs::symlink;

use super::support::{Follower, PROGRAM, Ran, create, flow, flush, ports, run, until};
use ctflow_engine::lab::topology::{Firewall, REDIRECTED, SERVER, SERVER6};
use ctflow_engine::lab::traffic::{tcp_exchange, udp_exchange};
use ctflow_engine::lab::{Lab, sysctl};
use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi::*;

/// Debian's package; where it is missing the comparison is left out, but not in CI.
pub(crate) fn conntrack() -> Option<&'static str> {
    let found = ["/usr/sbin/conntrack", "/sbin/conntrack"].into_iter().find(|path| std::fs::exists(path).unwrap());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "conntrack is not installed");
    if found.is_none() {
        eprintln!("skipped: conntrack is not installed");
    }
    found
}

/// Ourselves under conntrack's name.
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

/// Timeouts count down and may do so between two runs: then they are run again.
fn compare(theirs: &str, ours: &str, line: &str) {
    let args: Vec<_> = line.split_whitespace().collect();
    for _ in 0..5 {
        let before = as_1_4_9(run(theirs, &args));
        let found = run(ours, &args);
        if before == as_1_4_9(run(theirs, &args)) {
            assert_eq!(found, before, "{line}");
            return;
        }
    }
    panic!("{line}: the table does not stand still");
}

/// Flows of every kind that this kernel tracks.
fn one_of_each() {
    sysctl::write("net/netfilter/nf_conntrack_acct", "1").unwrap();
    let zoned = |flow: FlowView<'static>, zone| FlowView { zone: Some(zone), ..flow };
    let tcp = || flow("10.0.0.1", "10.0.0.2", IPPROTO_TCP, ports(1000, 80));
    create(FlowView { mark: Some(42), status: Some(IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED), ..tcp() });
    create(zoned(tcp(), 7));
    let one_way = flow("10.0.0.1", "10.0.0.2", IPPROTO_TCP, ports(1001, 80));
    let orig = one_way.orig.map(|orig| Tuple { zone: Some(3), ..orig });
    create(FlowView { orig, ..one_way });
    create(flow("2001:db8::1", "::1.2.3.4", IPPROTO_TCP, ports(1000, 443)));
    create(flow("10.0.0.1", "10.0.0.2", IPPROTO_UDP, ports(1000, 53)));
    create(flow("10.0.0.1", "10.0.0.2", IPPROTO_UDPLITE, ports(1000, 53)));
    create(flow("10.0.0.1", "10.0.0.2", IPPROTO_GRE, ports(0x10, 0x20)));
    create(flow("10.0.0.1", "10.0.0.2", 50, L4::None));
    create(flow("10.0.0.1", "10.0.0.2", 200, L4::None));
}

/// What our XML tells and theirs does not, or tells wrong.
fn mended() {
    create(flow("10.0.0.1", "10.0.0.2", IPPROTO_SCTP, ports(2905, 2906)));
    create(flow("10.0.0.1", "10.0.0.2", IPPROTO_ICMP, L4::Icmp { kind: 8, code: 0, id: 77 }));
    create(flow("2001:db8::1", "2001:db8::2", IPPROTO_ICMPV6, L4::Icmp { kind: 128, code: 0, id: 9 }));
}

#[test]
fn listings_counts_and_statistics_are_the_same() {
    let Some(theirs) = conntrack() else { return };
    ctflow_engine::isolated!({
        let ours = Ours::new();
        one_of_each();
        compare(theirs, &ours.path, "-L -o xml");
        compare(theirs, &ours.path, "-L conntrack -f ipv6 -o xml,extended");
        mended();
        for line in [
            "-L",
            "-L conntrack",
            "-L -o extended",
            "-L -o id",
            "--dump --output extended,id",
            "-L -o timestamp",
            "-L -p tcp",
            "-L -p 17 -f ipv4",
            "-L -f ipv6",
            "-L -f ipv6 -p udp",
            "-L -p sctp -o extended",
            "-L -p icmp",
            "-L -p icmpv6 -o id",
            "-L -p gre",
            "-L -p 50",
            "-L -p igmp",
            "-L dying",
            "-L unconfirmed",
            "-L expect",
            "-L expect -o xml",
            "-C",
            "--count",
            "-C expect",
            "-S",
            "-S expect",
        ] {
            compare(theirs, &ours.path, line);
        }
        flush();
        compare(theirs, &ours.path, "-L");
        compare(theirs, &ours.path, "-L -o xml");
        compare(theirs, &ours.path, "-C");
    });
}

#[test]
fn listings_of_real_traffic_are_the_same() {
    let Some(theirs) = conntrack() else { return };
    ctflow_engine::isolated!({
        let ours = Ours::new();
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        firewall.client.run(traffic);
        for line in ["-L -o extended,id", "-L -o xml", "-L -p udp", "-L -f ipv6 -o extended"] {
            compare(theirs, &ours.path, line);
        }
    });
}

fn traffic() {
    for _ in 0..5 {
        tcp_exchange(REDIRECTED, b"hello").unwrap();
        tcp_exchange((SERVER6, 80).into(), b"hello").unwrap();
        udp_exchange((SERVER, 53).into(), b"hello").unwrap();
    }
}

#[test]
fn events_of_real_traffic_are_the_same() {
    let Some(theirs) = conntrack() else { return };
    ctflow_engine::isolated!({
        let ours = Ours::new();
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        for line in
            ["", "-o extended,id", "-o xml", "-e NEW,DESTROY -o extended", "-p tcp", "-f ipv6", "-p udp -f ipv4"]
        {
            let args: Vec<_> = line.split_whitespace().collect();
            let followers = [Follower::start(theirs, &args), Follower::start(&ours.path, &args)];
            firewall.client.run(traffic);
            until("the traffic has been tracked", || sysctl::flow_count().unwrap() >= 15);
            std::thread::sleep(std::time::Duration::from_millis(200)); // the last FIN's event
            let [theirs, ours] = followers.map(Follower::interrupt);
            assert!(ours.1.lines().count() >= 5, "{line}: {ours:?}");
            assert_eq!(ours, as_1_4_9(theirs), "-E {line}");
        }
    });
}
