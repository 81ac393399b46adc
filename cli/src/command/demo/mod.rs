//! `ctflow demo`: builds two firewalls, captures real connections through the first, and has the second take over.
//!
//! ```text
//! build      client ── two firewalls with NAT ── server, in network namespaces on this kernel   (engine::lab)
//! watch      print one connection, event by event, as `-E` does
//! capture    seconds of TCP and UDP through fw1; its workers capture every event and replicate each flow to fw2;
//!            some connections stay open
//! expire     wait until the other flows have ended; fw1's shards must then hold as many flows as its kernel
//! take over  cut fw1 off and stop it; fw2 becomes primary; the connections that stayed open must go on
//! summary    events captured and lost, flows created, updated and destroyed; connections that survived
//! ```
//!
//! The demo needs no rights and changes nothing outside its namespaces, which end with the process. Every line that it
//! prints fits 60 columns, or the terminal ([`screen`]).

mod capture;
mod pair;
mod screen;
mod watch;

use std::thread;
use std::time::Duration;

use ctflow_engine::metrics::Counts;
use ctflow_lab::Lab;
use ctflow_lab::gateways::{GatewayId, Gateways};
use ctflow_lab::topology::{REDIRECTED, SERVER, SERVER6, shorten_timeouts};
use ctflow_lab::traffic::{StreamReport, Streams, Target};

use self::pair::Pair;
use self::screen::{print_line, print_text};
use crate::failure::Failure;
use crate::text::counted;

/// Workers of the first firewall: more than this little traffic needs, so that sharding takes part. An unprivileged
/// socket holds only some 300 events; four of them hold what comes in a third of a second in which no reader gets a
/// core.
const WORKERS: u32 = 4;
/// How long new connections are made.
const TRAFFIC: Duration = Duration::from_secs(8);
/// Interval at which the live line and the counts are updated.
const TICK: Duration = Duration::from_millis(100);
/// Connections that stay open, by TCP and by UDP.
const STREAMS: [usize; 2] = [20, 6];
/// Time from the first firewall's end until the second one notices: three missed VRRP advertisements of 100 ms.
const DETECTION: Duration = Duration::from_millis(300);
/// How long the connections go on through the second firewall.
const AFTER_TAKEOVER: Duration = Duration::from_secs(1);

/// Commands to try after the demo, and what each is for.
const NEXT_STEPS: [(&str, &str); 3] = [
    ("ctflow doctor", "what this machine can do, what limits it"),
    ("ctflow bench", "how many events a second it sustains"),
    ("ctflow -E", "this machine's connections, live (as root)"),
];

/// Runs the demonstration.
///
/// # Errors
/// Namespaces are forbidden (the error names what forbids them and the remedy), the capture lost events or missed
/// flows, or a connection died.
pub(super) fn run() -> Result<(), Failure> {
    let lab = Lab::enter()?; // first of all: an unprivileged process may do it only while it has one thread
    let gateways = Gateways::build(&lab)?;
    for which in [GatewayId::First, GatewayId::Second] {
        gateways.firewall(which).run(shorten_timeouts)?;
    }
    print_text("", "A client, two firewalls with NAT (fw1, fw2) and a server, in network namespaces on this kernel.")?;
    print_line("")?;
    watch::run(&gateways)?;

    let [tcp, udp] = STREAMS;
    print_line("")?;
    print_text(
        "2. ",
        &format!(
            "{} s of TCP and UDP through fw1, IPv4 with NAT and IPv6. {WORKERS} workers capture every event and \
             replicate every flow to fw2. {tcp} TCP and {udp} UDP connections stay open.",
            TRAFFIC.as_secs()
        ),
    )?;
    print_line("")?;
    let pair = Pair::start(&gateways)?;
    let streams = Streams::start(&gateways.client, &stream_targets())?;
    let in_kernel = capture::run(&gateways, &pair, tcp + udp)?;
    let captured = pair.captured();
    print_captured(&captured)?;

    print_line("")?;
    print_text("3. ", &format!("Takeover, while the {} connections are open:", tcp + udp))?;
    print_line("")?;
    let _primary = pair.fail_over(DETECTION)?;
    print_line("")?;
    thread::sleep(AFTER_TAKEOVER);
    let streams = streams.finish();
    print_survived(&streams)?;
    check(&captured, in_kernel, &streams)?;
    print_next_steps()
}

/// Returns the servers of the connections that stay open: by every kind of path through the firewalls.
fn stream_targets() -> Vec<Target> {
    let by_tcp = [REDIRECTED, (SERVER, 80).into(), (SERVER6, 443).into()].map(Target::Tcp);
    let by_udp = [(SERVER, 53).into(), (SERVER6, 53).into()].map(Target::Udp);
    let [tcp, udp] = STREAMS;
    by_tcp.into_iter().cycle().take(tcp).chain(by_udp.into_iter().cycle().take(udp)).collect()
}

/// Prints what the first firewall has captured.
fn print_captured(captured: &Counts) -> Result<(), Failure> {
    let Counts { events_new, events_update, events_destroy, events_lost, flows, .. } = *captured;
    print_line(&format!("events captured: {}\nlost: {events_lost}", captured.events()))?;
    let flows = format!("{events_new} new, {events_update} updated, {events_destroy} destroyed, {flows} left");
    Ok(print_text("flows: ", &flows)?)
}

/// Prints how many connections survived the takeover, and for how long they were silent.
fn print_survived(streams: &[StreamReport]) -> Result<(), Failure> {
    let survived = streams.iter().filter(|stream| stream.died.is_none()).count();
    let all = STREAMS.iter().sum::<usize>();
    let silence = streams.iter().map(|stream| stream.silence).max().unwrap_or_default().as_millis();
    print_line(&format!("survived: {survived} of {all}"))?;
    let silence = format!("{silence} ms, {} ms of it to notice the failure", DETECTION.as_millis());
    print_text("longest silence: ", &silence)?;
    if survived == all {
        print_text("", "Every open connection goes on through fw2. TCP lost no byte.")?;
    }
    Ok(())
}

/// Prints three commands to try after the demo.
fn print_next_steps() -> Result<(), Failure> {
    print_line("\nTry next:")?;
    for (command, purpose) in NEXT_STEPS {
        print_text(&format!("  {command:<15}"), purpose)?;
    }
    Ok(())
}

/// Checks that the capture was complete and that every connection survived.
fn check(captured: &Counts, in_kernel: u64, streams: &[StreamReport]) -> Result<(), Failure> {
    let Counts { events_new, events_lost, flows, .. } = *captured;
    if flows != in_kernel {
        return Err(Failure::Demo(format!("the workers hold {flows} flows, but the kernel has {in_kernel}")));
    }
    let died = streams.iter().filter(|stream| stream.died.is_some()).count() as u64;
    if let Some((target, why)) = streams.iter().find_map(|stream| Some((stream.target, stream.died.as_ref()?))) {
        return Err(Failure::Demo(format!(
            "{} died, the first to {target}: {why}",
            counted(died, "connection", "connections")
        )));
    }
    match events_lost + captured.malformed + captured.flows_refused {
        0 if events_new > 0 => Ok(()),
        0 => Err(Failure::Demo("no event arrived; run `ctflow doctor'".to_owned())),
        lost => Err(Failure::Demo(format!(
            "{} lost: this machine was too busy; try again",
            counted(lost, "event was", "events were")
        ))),
    }
}
