//! `bench`: measuring the capacity of this machine.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use ctflow_engine::capture::receive::BackendKind;
use ctflow_engine::limits::WORKERS;
use ctflow_lab::backups::BACKUPS;
use ctflow_lab::load::Kind;

use super::{JSON, Verb, VerbArgs, VerbOption};
use crate::flags::plan::{Bench, Command};
use crate::flags::usage::Usage;
use crate::words;

#[cfg(test)]
use super::tests;

const FLOWS: u32 = 50_000;
const FLOWS_MAX: u32 = 16_000_000;
const SECONDS: u32 = 2;
const SECONDS_MAX: u32 = 3_600;
const ROUNDS: u32 = 5;
const ROUNDS_MAX: u32 = 1_000;
const AGE_MS_MAX: u32 = 3_600_000;

const fn option(long: &'static str, argument: &'static str, help: &'static str) -> VerbOption {
    VerbOption { short: None, long, argument, help }
}

pub(super) static BENCH: Verb = Verb {
    name: "bench",
    argument: "[OPTION]...",
    forms: super::NO_WORDS,
    words: &[],
    options: &[
        option("load", "dns|tcp|udp|netlink", "kind of traffic (default: dns)"),
        option("rate", "NUMBER", "events per second (default: as many as this machine generates)"),
        option("flows", "NUMBER", "flows that stay in the table throughout (default: 50000)"),
        option("seconds", "NUMBER", "duration of each trial (default: 2)"),
        option("rounds", "NUMBER", "number of rounds (default: 5)"),
        option("workers", "NUMBER", "number of workers (default: as many as the daemon uses)"),
        option("backend", "auto|recvmmsg|io_uring|recv", "how workers receive events (default: auto)"),
        option("compare", "", "measure every receive back end, side by side"),
        option("replicas", "NUMBER", "number of backups (default: 1)"),
        option("min-age", "MILLISECONDS", "age from which a flow is replicated (default: 0)"),
        option("host", "", "use this host's own table: only netlink, no replicas"),
        JSON,
        option("report", "FILE", "also write a page with plots"),
    ],
    help: "measure how many events this machine can process, and the cost",
    about: "Generates load, captures and replicates its events, and prints the cost of each step, the highest rate \
            without loss, and the latency. By default the load runs in private network namespaces and changes \
            nothing outside them.",
    man: "The load consists of packets through a firewall in these namespaces. With --load dns, three of four flows \
          are queries that are answered and end after a fifth of a second, and the fourth is a TCP connection. With \
          tcp, all flows are TCP connections; with udp, each flow is one datagram. With netlink, flows are created \
          and deleted by request. --flows flows stay in the table throughout; each new flow replaces the oldest one. \
          The first measurement is idle, with that many flows: memory, CPU time, and the time that a daemon needs to \
          learn the flows again, and a backup to receive and to commit them. Then, in --rounds \
          rounds and in turns, the load runs with no receiver; with its events received and discarded, which is the \
          floor; captured; and replicated, encrypted, to --replicas backups. Captured and replicated run a second \
          time with the floor beside them, which gives the ratio to it. Then the highest rate without loss is searched \
          by halving, to within 2 percent; if there is no loss at full speed, more may be possible. With --rate, the \
          search ends at that rate. At a quarter, half and three quarters of the rate found, the latency from the \
          kernel to the replica is measured by the kernel's timestamps (Linux 6.14); it is up to a millisecond too \
          high. With --compare, floor and capture are measured with each receive back end. If load generator, \
          firewall, daemon and backup share few cores, the results are lower than what one firewall can do alone. As \
          root, sockets have the daemon's buffers; otherwise net.core.rmem_max limits them. At most nine tenths of \
          nf_conntrack_max are filled. With --host, the flows are in this host's own table, and the flows that \
          already exist are captured, too. With --json, the results are one JSON object, which BENCH.md describes. \
          With --report, they are also written as a page.",
    read: bench,
};

fn bench(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let given = VerbArgs::read(verb, rest)?;
    let number = |long: &'static str, range: std::ops::RangeInclusive<u32>| number_option(&given, long, range);
    let is = |long| given.option(long).is_some();
    let host = is("host");
    let load = parse_option::<Kind>(&given, "load", "dns, tcp, udp or netlink")?;
    if host && load.is_some_and(|load| load != Kind::Netlink) {
        return Err(Usage::MutuallyExclusive {
            first: "host",
            second: "load",
            hint: "only netlink makes flows without a network",
        });
    }
    let replicas = number("replicas", 0..=u32::try_from(BACKUPS).unwrap_or(u32::MAX))?;
    if host && replicas.is_some_and(|count| count > 0) {
        return Err(Usage::MutuallyExclusive { first: "host", second: "replicas", hint: "backups are in namespaces" });
    }
    let milliseconds = |count: Option<u32>| Duration::from_millis(count.unwrap_or(0).into());
    Ok(Command::Bench(Bench {
        load: load.unwrap_or(if host { Kind::Netlink } else { Kind::default() }),
        rate: number("rate", 1..=u32::MAX)?.and_then(NonZeroU32::new),
        flows: number("flows", 1..=FLOWS_MAX)?.unwrap_or(FLOWS),
        trial_duration: Duration::from_secs(number("seconds", 1..=SECONDS_MAX)?.unwrap_or(SECONDS).into()),
        rounds: number("rounds", 1..=ROUNDS_MAX)?.unwrap_or(ROUNDS) as usize,
        workers: number("workers", 1..=WORKERS)?.and_then(NonZeroU32::new),
        backend: parse_option::<BackendKind>(&given, "backend", "auto, recvmmsg, io_uring or recv")?
            .unwrap_or_default(),
        compare: is("compare"),
        replicas: if host { 0 } else { replicas.unwrap_or(1) as usize },
        min_age: milliseconds(number("min-age", 0..=AGE_MS_MAX)?),
        host,
        json: is("json"),
        report: given.option("report").map(Into::into),
    }))
}

fn number_option(
    given: &VerbArgs,
    long: &'static str,
    range: std::ops::RangeInclusive<u32>,
) -> Result<Option<u32>, Usage> {
    let Some(typed) = given.option(long) else { return Ok(None) };
    let value = typed.to_string_lossy();
    let number = words::decimal(&value).filter(|number| range.contains(number));
    number.map(Some).ok_or_else(|| Usage::BadValue {
        option: format!("--{long}"),
        value: value.into_owned(),
        right: format!("a number from {} to {}", range.start(), range.end()),
    })
}

fn parse_option<T: FromStr>(given: &VerbArgs, long: &'static str, right: &str) -> Result<Option<T>, Usage> {
    let Some(typed) = given.option(long) else { return Ok(None) };
    let value = typed.to_string_lossy();
    let wrong = || Usage::BadValue { option: format!("--{long}"), value: value.to_string(), right: right.to_owned() };
    value.parse().map(Some).map_err(|_| wrong())
}

#[test]
fn bench_options_are_read() {
    let read = |words: &[&str]| match tests::read(words) {
        Ok(Command::Bench(bench)) => Ok(bench),
        Ok(_) => unreachable!("bench is bench"),
        Err(usage) => Err(usage.to_string()),
    };
    let plain = read(&["bench"]).unwrap();
    assert_eq!((plain.load, plain.rate, plain.flows, plain.replicas), (Kind::Dns, None, FLOWS, 1));
    let all = [
        "bench",
        "--load",
        "tcp",
        "--rate=5000",
        "--flows",
        "7",
        "--seconds",
        "2",
        "--workers",
        "3",
        "--backend",
        "recv",
        "--compare",
        "--replicas",
        "2",
        "--min-age",
        "250",
        "--json",
        "--report",
        "x.html",
    ];
    let all = read(&all).unwrap();
    assert_eq!(
        (all.load, all.rate, all.flows, all.trial_duration),
        (Kind::Tcp, NonZeroU32::new(5_000), 7, Duration::from_secs(2))
    );
    assert_eq!((all.workers, all.backend, all.compare), (NonZeroU32::new(3), BackendKind::Recv, true));
    assert_eq!((all.replicas, all.min_age, all.json), (2, Duration::from_millis(250), true));
    assert_eq!(all.report.unwrap().to_str(), Some("x.html"));
    let host = read(&["bench", "--host"]).unwrap();
    assert_eq!((host.load, host.replicas), (Kind::Netlink, 0));
    for (words, expected) in [
        (&["bench", "--load", "x"][..], "option `--load' does not take `x': it takes dns, tcp, udp or netlink"),
        (&["bench", "--rate", "0"], "option `--rate' does not take `0': it takes a number from 1 to 4294967295"),
        (&["bench", "--flows"], "option `--flows' needs an argument: NUMBER"),
        (
            &["bench", "--host", "--load", "udp"],
            "cannot use `--host' with `--load': only netlink makes flows without a network",
        ),
        (&["bench", "--host", "--replicas", "1"], "cannot use `--host' with `--replicas': backups are in namespaces"),
        (&["bench", "x"], "`bench' does not take `x': it takes [OPTION]..."),
    ] {
        assert_eq!(read(words).unwrap_err(), expected);
    }
}
