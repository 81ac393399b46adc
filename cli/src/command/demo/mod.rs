//! `ctflow demo`: two firewalls of one's own, real connections through them, and what the pipeline makes of them.
//!
//! ```text
//! build      client ── two firewalls with NAT ── server, in network namespaces on this kernel   (engine::lab)
//! watch      one connection, event by event, as `-E` prints them
//! capture    seconds of TCP and UDP through the first while its workers take every event into their shards, and tell
//!            the second; meanwhile some connections stay
//! expire     the flows end by themselves; the shards must then hold as many as the kernel's table
//! take over  the first is cut off and ends; the second steps in, and the connections that stayed must not notice
//! sum up     events captured, events lost, flows that came, changed and went; connections that survived
//! ```
//!
//! Needs no rights and touches nothing outside its namespaces, which end with the process.

mod capture;
mod pair;
mod watch;

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use ctflow_engine::lab::Lab;
use ctflow_engine::lab::gateways::{GatewayId, Gateways};
use ctflow_engine::lab::topology::{REDIRECTED, SERVER, SERVER6, shorten_timeouts};
use ctflow_engine::lab::traffic::{StreamReport, Streams, Target};
use ctflow_engine::metrics::Counts;

use self::pair::Pair;
use crate::failure::Failure;

/// Workers: more than this little traffic needs, so that sharding is seen, and because an unprivileged socket holds
/// some 300 events only. Four of them ride out a third of a second in which no reader gets a core.
const WORKERS: u32 = 4;
/// How long traffic flows.
const TRAFFIC: Duration = Duration::from_secs(8);
/// How often the progress is told, and the counts are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Connections that stay, by TCP and by UDP.
const STREAMS: [usize; 2] = [20, 6];
/// From the first firewall's end to the moment when the second one notices: as long as VRRP takes, by its rule of three
/// advertisements missed, where one is sent each 100 ms.
const DETECTION: Duration = Duration::from_millis(300);
/// How long the connections go on by way of the second firewall.
const AFTER_TAKEOVER: Duration = Duration::from_secs(1);

/// Runs the demonstration.
///
/// # Errors
/// Where namespaces are forbidden, what forbids them and what to do; a capture that lost events or missed flows, a connection
/// that died.
pub(super) fn run() -> Result<(), Failure> {
    let lab = Lab::enter()?; // first of all: an unprivileged process may do it only while it has one thread
    let gateways = Gateways::build(&lab)?;
    for which in [GatewayId::First, GatewayId::Second] {
        gateways.firewall(which).run(shorten_timeouts)?;
    }
    print_line("A client, two firewalls with NAT and a server, in network namespaces of their own on this kernel.")?;
    print_line("One connection through the first firewall, as `ctflow -E -o timestamp` shows it:\n")?;
    watch::run(&gateways)?;

    let [tcp, udp] = STREAMS;
    let seconds = TRAFFIC.as_secs();
    print_line(&format!(
        "\n{seconds} s of TCP and UDP, IPv4 with NAT and IPv6, captured by {WORKERS} workers and replicated; {tcp} connections \
         by\nTCP and {udp} by UDP stay, and check every byte:\n"
    ))?;
    let pair = Pair::start(&gateways)?;
    let streams = Streams::start(&gateways.client, &stream_targets())?;
    let in_kernel = capture::run(&gateways, &pair, tcp + udp)?;
    let captured = pair.captured();
    let _primary = pair.fail_over(DETECTION)?;
    thread::sleep(AFTER_TAKEOVER);
    print_summary(&captured, in_kernel, &streams.finish())
}

fn print_line(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Where the connections go that stay: by every way through the firewalls.
fn stream_targets() -> Vec<Target> {
    let by_tcp = [REDIRECTED, (SERVER, 80).into(), (SERVER6, 443).into()].map(Target::Tcp);
    let by_udp = [(SERVER, 53).into(), (SERVER6, 53).into()].map(Target::Udp);
    let [tcp, udp] = STREAMS;
    by_tcp.into_iter().cycle().take(tcp).chain(by_udp.into_iter().cycle().take(udp)).collect()
}

fn print_summary(captured: &Counts, in_kernel: u64, streams: &[StreamReport]) -> Result<(), Failure> {
    let Counts { events_new, events_update, events_destroy, events_lost, flows, .. } = *captured;
    let survived = streams.iter().filter(|stream| stream.died.is_none()).count();
    let all = STREAMS.iter().sum::<usize>();
    let silence = streams.iter().map(|stream| stream.silence).max().unwrap_or_default().as_millis();
    let detection = DETECTION.as_millis();
    print_line(&format!(
        "events captured: {}\nlost: {events_lost}\nflows: {events_new} new, {events_update} updated, \
         {events_destroy} destroyed, {flows} left\nsurvived: {survived} of {all}\n\
         longest silence: {silence} ms, {detection} ms of it until the second firewall noticed",
        captured.events()
    ))?;
    if flows != in_kernel {
        return Err(Failure::Demo(format!("{flows} flows are held, and the kernel has {in_kernel}")));
    }
    if let Some((target, why)) = streams.iter().find_map(|stream| Some((stream.target, stream.died.as_ref()?))) {
        return Err(Failure::Demo(format!("{} connections died, the one to {target}: {why}", all - survived)));
    }
    match events_lost + captured.malformed + captured.flows_refused {
        0 if events_new > 0 => Ok(()),
        0 => Err(Failure::Demo("no event arrived; see `ctflow doctor'".to_owned())),
        lost => Err(Failure::Demo(format!("{lost} of the events were lost: this machine was too busy, try again"))),
    }
}
