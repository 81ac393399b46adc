//! `bench`: how much this machine can take.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use ctflow_engine::lab::backups::BACKUPS;
use ctflow_engine::lab::load::Kind;
use ctflow_engine::limits::WORKERS;
use ctflow_engine::receive::BackendKind;

use super::{JSON, Verb, VerbArgs, VerbOption};
use crate::flags::plan::{Bench, Command};
use crate::flags::usage::Usage;
use crate::flags::words;

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
    options: &[
        option("load", "dns|tcp|udp|netlink", "what comes, dns if nothing is said"),
        option("rate", "NUMBER", "events a second, instead of as many as this machine makes"),
        option("flows", "NUMBER", "flows that are there all the while, 50000 if nothing is said"),
        option("seconds", "NUMBER", "how long each trial looks, 2 if nothing is said"),
        option("rounds", "NUMBER", "how often everything is tried in turns, 5 if nothing is said"),
        option("workers", "NUMBER", "workers, as many as the daemon would have if nothing is said"),
        option("backend", "auto|recvmmsg|io_uring|recv", "how workers receive"),
        option("compare", "", "measure every receive back end, side by side"),
        option("replicas", "NUMBER", "backups that are told, 1 if nothing is said"),
        option("min-age", "MILLISECONDS", "the age that a flow must reach to be replicated, 0 if nothing is said"),
        option("host", "", "on this host's own table: only netlink, and no replicas"),
        JSON,
        option("report", "FILE", "write a page with plots, too"),
    ],
    help: "find out how much this machine can take, and where it goes",
    man: "Makes load, has it captured and replicated, and says what that takes. The load comes by packets through a firewall \
          of its own in namespaces, which nothing outside notices: with --load dns three of four flows are questions that are \
          answered and over in a fifth of a second, the fourth is a TCP connection; with tcp all are; with udp each is one \
          datagram. With --load netlink flows are put into the table and taken out by request. As many are there all the \
          while as --flows says; each new one takes the place of the oldest. First, so many flows are looked at while nothing \
          happens: memory, idling, how long a daemon takes to know them again, a backup to be told of them and to commit \
          them. Then, in as many rounds as --rounds says and in turns: the load with nobody listening; with its events received and thrown away, \
          which is the floor; captured; and replicated, encrypted, to as many backups as --replicas says. Then the highest \
          rate without loss is looked for by halving, until it is known to 2 percent; where full speed is held, more may be \
          possible. At a quarter, half and three quarters of it, how long an event takes from the kernel to the replica is \
          measured, by the kernel's own time stamps (Linux 6.14), up to a millisecond too long. With --rate nothing is looked for \
          above that. With --compare floor and capture are measured by each receive back end. A machine whose load maker, firewall, \
          daemon and backup share few cores shows less than one firewall can take. As root, sockets have the daemon's buffers; \
          without, what net.core.rmem_max allows. No more than nine tenths of nf_conntrack_max are filled. With --host the \
          flows are in this host's own table, and those that are there are captured besides. With --json the results are one \
          JSON object, described in BENCH.md; with --report they are a page besides.",
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
