//! `-E` on a real kernel: what it prints and when, how it ends, and how it reports losses.

use std::fs::File;

use super::support::{Follower, PROGRAM, create, flow, flush, ports, run};
use std::num::NonZeroU32;
use std::time::Duration;

use ctflow_lab::isolated::skip;
use ctflow_lab::topology::Firewall;
use ctflow_lab::traffic::Flood;
use ctflow_lab::{Lab, sysctl};
use ctflow_parser::uapi::{IPPROTO_TCP, IPPROTO_UDP};
use rustix::process::Signal;

const BANNER: &str = concat!("ctflow v", env!("CARGO_PKG_VERSION"), ": ");

#[test]
fn an_event_is_printed_at_once_on_a_quiet_firewall() {
    ctflow_lab::isolated!({
        let mut follower = Follower::start(PROGRAM, &["-o", "extended"]);
        for port in 1..=3 {
            create(flow("10.0.0.1", "10.0.0.2", IPPROTO_TCP, ports(port, 80)));
            let start =
                format!("    [NEW] ipv4     2 tcp      6 3000 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport={port} ");
            let line = follower.line(); // waits until the event is printed
            assert!(line.starts_with(&start), "{line}");
        }
        let (code, stdout, stderr) = follower.interrupt();
        assert_eq!((code, stdout.as_str()), (0, ""));
        assert_eq!(stderr, format!("{BANNER}3 flow events have been shown. 0 events have been lost.\n"));
    });
}

#[test]
fn a_termination_ends_it_like_an_interrupt_and_closes_the_xml() {
    ctflow_lab::isolated!({
        let follower = Follower::start(PROGRAM, &["-o", "xml"]);
        create(flow("10.0.0.1", "10.0.0.2", IPPROTO_UDP, ports(9, 53)));
        flush();
        let mut follower = follower;
        let head = follower.line() + &follower.line() + &follower.line() + &follower.line();
        follower.signal(Signal::TERM);
        let (code, tail, _) = follower.wait_for_exit();
        assert_eq!(code, 0);
        assert!(head.contains("<flow type=\"new\">") && head.contains("<flow type=\"destroy\">"), "{head}");
        assert_eq!(tail, "</conntrack>\n");
    });
}

#[test]
fn only_the_selected_events_are_printed() {
    ctflow_lab::isolated!({
        let kinds = Follower::start(PROGRAM, &["-e", "DESTROY"]);
        let protocol = Follower::start(PROGRAM, &["-p", "udp", "-f", "ipv6"]);
        create(flow("10.0.0.1", "10.0.0.2", IPPROTO_UDP, ports(9, 53)));
        create(flow("2001:db8::1", "2001:db8::2", IPPROTO_TCP, ports(9, 53)));
        create(flow("2001:db8::1", "2001:db8::2", IPPROTO_UDP, ports(9, 53)));
        flush();
        let (mut kinds, mut protocol) = (kinds, protocol);
        let destroyed = [kinds.line(), kinds.line(), kinds.line()];
        assert!(destroyed.iter().all(|line| line.starts_with("[DESTROY]")), "{destroyed:?}");
        let of_protocol = [protocol.line(), protocol.line()];
        assert!(of_protocol.iter().all(|line| line.contains(" udp      17 ") && line.contains("2001:db8::1")));
        assert!(kinds.interrupt().2.contains("3 flow events") && protocol.interrupt().2.contains("2 flow events"));
    });
}

#[test]
fn a_reader_that_goes_away_ends_it_even_while_nothing_happens() {
    ctflow_lab::isolated!({
        let mut follower = Follower::start(PROGRAM, &[]);
        create(flow("10.0.0.1", "10.0.0.2", IPPROTO_UDP, ports(9, 53)));
        follower.line();
        follower.close_stdout();
        let (code, _, stderr) = follower.wait_for_exit();
        assert_eq!(code, 1);
        assert!(stderr.starts_with(&format!("{BANNER}1 flow events have been shown.")), "{stderr}");
        assert!(stderr.contains("its reader has gone"), "{stderr}");
    });
}

#[test]
fn a_full_disk_ends_it_with_one_clear_line() {
    ctflow_lab::isolated!({
        let full = File::options().write(true).open("/dev/full").unwrap();
        let follower = Follower::start_with_stdout(PROGRAM, &[], full.into());
        create(flow("10.0.0.1", "10.0.0.2", IPPROTO_UDP, ports(9, 53)));
        let (code, _, stderr) = follower.wait_for_exit();
        assert_eq!(code, 1);
        let why = "cannot write to standard output: No space left on device; make room, or write elsewhere";
        assert!(stderr.contains(why), "{stderr}");
    });
}

#[test]
fn events_queued_at_the_signal_are_still_printed() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        let follower = Follower::start(PROGRAM, &["-e", "NEW"]);
        follower.signal(Signal::STOP);
        Flood::open().unwrap().send(150).unwrap(); // what an unprivileged socket holds, and a pipe's 64 KiB
        follower.signal(Signal::INT);
        follower.signal(Signal::CONT);
        let (code, stdout, stderr) = follower.wait_for_exit();
        assert_eq!((code, stdout.lines().count()), (0, 150));
        assert_eq!(stderr, format!("{BANNER}150 flow events have been shown. 0 events have been lost.\n"));
    });
}

#[test]
fn a_stuck_reader_does_not_prevent_the_end_or_the_count() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        for signals in [1, 2] {
            let follower = Follower::start(PROGRAM, &["-e", "NEW"]);
            Flood::open().unwrap().send_paced(2_000, NonZeroU32::new(20_000).unwrap()).unwrap(); // fills the pipe
            for _ in 0..signals {
                follower.signal(Signal::TERM);
                std::thread::sleep(Duration::from_millis(100));
            }
            let (_, stdout, stderr) = follower.wait_for_exit();
            let numbers: Vec<u64> =
                stderr.lines().last().unwrap().split(' ').filter_map(|word| word.parse().ok()).collect();
            assert_eq!(numbers.iter().sum::<u64>(), 2_000, "{stderr}");
            assert!(numbers[1] > 0, "{stderr}");
            let whole = stdout.matches('\n').count(); // the last line may have been cut
            assert_eq!(numbers[0], u64::try_from(whole).unwrap(), "{stderr}");
            flush();
        }
    });
}

#[test]
fn disabled_kernel_events_are_reported() {
    ctflow_lab::isolated!({
        sysctl::write("net/netfilter/nf_conntrack_events", "0").unwrap();
        let (code, _, stderr) = Follower::start(PROGRAM, &[]).interrupt();
        assert_eq!(code, 0);
        assert!(stderr.contains("sysctl -w net.netfilter.nf_conntrack_events=1"), "{stderr}");
    });
}

#[test]
fn a_loss_is_reported_where_it_happened_with_its_count() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let args = ["-e", "NEW", "-b", "65536"];
        let follower = Follower::start_with_stdout(PROGRAM, &args, file.reopen().unwrap().into());
        follower.signal(Signal::STOP); // so that the loss is certain
        Flood::open().unwrap().send(2_000).unwrap();
        follower.signal(Signal::CONT);
        super::support::until("what was kept is shown", || std::fs::read(file.path()).unwrap().len() > 1_000);
        let (code, _, stderr) = follower.interrupt();
        assert_eq!(code, 0);
        assert!(stderr.starts_with("NOTICE: Netlink socket buffer size has been set to 131072 bytes.\n"), "{stderr}");
        assert!(stderr.contains("events lost here") && stderr.contains("use -b"), "{stderr}");
        let summary = stderr.lines().last().unwrap().strip_prefix(BANNER).unwrap();
        let numbers: Vec<u64> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
        let shown = std::fs::read_to_string(file.path()).unwrap().lines().count();
        assert_eq!(numbers[0], u64::try_from(shown).unwrap());
        assert_eq!(numbers.iter().sum::<u64>(), 2_000, "{summary}");
    });
}

#[test]
fn a_large_requested_buffer_holds_every_event() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        if !rustix::process::geteuid().is_root()
            || std::fs::read_to_string("/proc/self/uid_map").unwrap().contains(" 1\n")
        {
            return skip(&"only the host's root may exceed net.core.rmem_max");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let follower =
            Follower::start_with_stdout(PROGRAM, &["-e", "NEW", "-b", "33554432"], file.reopen().unwrap().into());
        follower.signal(Signal::STOP);
        Flood::open().unwrap().send(40_000).unwrap();
        follower.signal(Signal::CONT);
        let lines = || std::fs::read_to_string(file.path()).unwrap().lines().count();
        super::support::until("every event is shown", || lines() == 40_000);
        assert!(follower.interrupt().2.ends_with("40000 flow events have been shown. 0 events have been lost.\n"));
    });
}

#[test]
fn without_rights_the_missing_capability_is_named() {
    // Outside of any namespace, where only a process with the capability may receive events.
    let (code, stdout, stderr) = if rustix::process::geteuid().is_root() {
        run("setpriv", &["--bounding-set=-all", "--inh-caps=-all", PROGRAM, "-E"])
    } else {
        run(PROGRAM, &["-E"])
    };
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (1, "", 1));
    assert!(stderr.contains("CAP_NET_ADMIN"), "{stderr}");
}
