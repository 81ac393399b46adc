//! `ctflow demo`: a firewall of one's own, real connections through it, and what the pipeline makes of them.
//!
//! ```text
//! build      client ── firewall ── server, three network namespaces on this kernel, with NAT    (engine::lab)
//! watch      one connection, event by event, as `-E` prints them
//! capture    seconds of TCP and UDP while the workers take every event into their shards
//! expire     the flows end by themselves; the shards must then hold as many as the kernel's table
//! sum up     events captured, events lost, flows that came, changed and went
//! ```
//!
//! Needs no rights and touches nothing outside its namespaces, which end with the process.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::engine::{Engine, Settings};
use ctflow_engine::kernel::dump::{Dump, Progress};
use ctflow_engine::lab::topology::{Firewall, REDIRECTED, SERVER, SERVER6, shorten_timeouts};
use ctflow_engine::lab::traffic::{Traffic, tcp_exchange};
use ctflow_engine::lab::{Lab, sysctl};
use ctflow_engine::listener::{Listener, Patience};
use ctflow_engine::metrics::Counts;
use ctflow_engine::receive::{BackendKind, Interrupts};
use ctflow_engine::socket::Options;
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::request::Table;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;

use super::clock;
use crate::failure::Failure;
use crate::output::sink::Sink;
use crate::output::{Format, Occasion, Printer, Subject};

/// Workers: more than this little traffic needs, so that sharding is seen, and because an unprivileged socket holds
/// some 300 events only. Four of them ride out a third of a second in which no reader gets a core.
const WORKERS: u32 = 4;
/// How long traffic flows.
const TRAFFIC: Duration = Duration::from_secs(8);
const TCP_PER_SECOND: u32 = 300;
const UDP_PER_SECOND: u32 = 500;
const PAYLOAD_BYTES: usize = 512;
/// The most time that the flows are given to end by themselves; their timeouts are 1 to 3 s.
const EXPIRE: Duration = Duration::from_secs(10);
/// How often the progress is told, and the counts are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long the last event of the watched connection is waited for.
const SILENCE: Duration = Duration::from_millis(300);

/// Runs the demonstration.
///
/// # Errors
/// Where namespaces are forbidden, what forbids them and what to do; a capture that lost events or missed flows.
pub(super) fn run() -> Result<(), Failure> {
    let lab = Lab::enter()?; // first of all: an unprivileged process may do it only while it has one thread
    let firewall = Firewall::build(&lab)?;
    shorten_timeouts()?;
    say("A client, a firewall with NAT and a server, in network namespaces of their own on this kernel.")?;
    say("One connection through the firewall, as `ctflow -E -o timestamp` shows it:\n")?;
    watch(&firewall)?;
    let totals = capture(&firewall)?;
    sum_up(&totals, sysctl::flow_count()?)
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// One connection, event by event, while nothing else happens.
fn watch(firewall: &Firewall) -> Result<(), Failure> {
    let mut listener = Listener::open(&Options::default(), BackendKind::Recvmmsg, Interrupts::new())?;
    firewall.client.run(|| tcp_exchange(REDIRECTED, b"hello"))?;
    let format = Format { timestamp: true, ..Format::default() };
    let mut printer = Printer::new(format, Subject::Flows, TimeZone::system());
    let mut sink = Sink::stdout()?;
    let mut last = Instant::now();
    while last.elapsed() < SILENCE {
        let round = listener.round(Patience::None, &mut |frame| print(&mut printer, &mut sink.lines, frame))?;
        if round.taken.datagrams > 0 {
            last = Instant::now();
        }
        sink.flush()?;
        thread::sleep(TICK / 10);
    }
    Ok(())
}

fn print(printer: &mut Printer, lines: &mut Vec<u8>, frame: &[u8]) {
    for message in Messages::new(frame) {
        let Ok(Message::Record(record)) = message else { continue };
        let Ok(flow) = record.flow() else { continue };
        let occasion = Occasion { event: Some(record.event()), now_ns: clock::now_ns(), requester: None };
        printer.flow(lines, &flow, &occasion);
    }
}

/// Traffic, captured by the whole pipeline, until its flows have ended.
fn capture(firewall: &Firewall) -> Result<Counts, Failure> {
    let engine = Engine::start(&Settings { workers: WORKERS, pin: false, ..Settings::default() })?;
    let seconds = TRAFFIC.as_secs();
    say(&format!("\n{seconds} s of TCP and UDP, IPv4 with NAT and IPv6, captured by {WORKERS} workers:\n"))?;
    let bar = progress_bar();
    let traffic = Traffic {
        tcp: vec![(SERVER, 80).into(), REDIRECTED, (SERVER6, 443).into()],
        udp: vec![(SERVER, 53).into(), (SERVER6, 53).into()],
        tcp_per_second: TCP_PER_SECOND,
        udp_per_second: UDP_PER_SECOND,
        duration: TRAFFIC,
        payload_bytes: PAYLOAD_BYTES,
    };
    let running = traffic.start(&firewall.client)?;
    while !running.is_finished() {
        tell(&bar, "traffic", &engine.totals());
        thread::sleep(TICK);
    }
    let failure = running.last_failure();
    let done = running.finish();
    expire(&engine, &bar)?;
    bar.finish_and_clear();
    say(&format!("connections: {} by TCP, {} by UDP, {} failed", done.tcp, done.udp, done.failed))?;
    let totals = engine.stop()?;
    match failure {
        Some(failure) => Err(Failure::Demo(format!("{} connections failed, the last: {failure}", done.failed))),
        None => Ok(totals),
    }
}

/// Waits until the flows have ended in the kernel and in the shards. Reading the table has the kernel let go of what is
/// past its time; part by part, so that their events come in no burst.
fn expire(engine: &Engine, bar: &ProgressBar) -> Result<(), Failure> {
    let deadline = Instant::now() + EXPIRE;
    while Instant::now() < deadline && (engine.totals().flows > 0 || sysctl::flow_count()? > 0) {
        let mut dump = Dump::start(Table::Conntrack, &DumpFilter::default(), false)?;
        while dump.read(|_| {})? != Progress::Done {
            thread::sleep(TICK / 20);
        }
        tell(bar, "flows end", &engine.totals());
        thread::sleep(TICK);
    }
    Ok(())
}

/// A live line on a terminal, nothing elsewhere.
fn progress_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{spinner} {elapsed} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

fn tell(bar: &ProgressBar, stage: &str, totals: &Counts) {
    let (events, flows, lost) = (totals.events(), totals.flows, totals.events_lost);
    bar.set_message(format!("{stage}: {events} events, {flows} flows now, {lost} lost"));
    bar.tick();
}

fn sum_up(totals: &Counts, in_kernel: u64) -> Result<(), Failure> {
    let Counts { events_new, events_update, events_destroy, events_lost, flows, .. } = *totals;
    let text = format!(
        "events captured: {}\nlost: {events_lost}\nflows: {events_new} new, {events_update} updated, \
         {events_destroy} destroyed, {flows} left",
        totals.events()
    );
    say(&text)?;
    if flows != in_kernel {
        return Err(Failure::Demo(format!("{flows} flows are held, and the kernel has {in_kernel}")));
    }
    match events_lost + totals.malformed + totals.flows_refused {
        0 if events_new > 0 => Ok(()),
        0 => Err(Failure::Demo("no event arrived; see `ctflow doctor'".to_owned())),
        lost => Err(Failure::Demo(format!("{lost} of the events were lost: this machine was too busy, try again"))),
    }
}
