//! Records this kernel's messages about real traffic, as fixtures for the parser's tests, the benches and the fuzzers.
//!
//! `cargo run -p ctflow-engine --example record -- FOLDER` writes, in each file one message after the other:
//! - `events.nl`: the events of TCP and UDP exchanges with NAT, and over IPv6
//! - `dump.nl`: a dump of the table afterwards
//! - `stats.nl`: the statistics of the flow and expectation tables
//!
//! It needs no privileges, because it runs in namespaces of its own.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ctflow_engine::capture::listener::{Listener, Patience};
use ctflow_engine::capture::receive::{BackendKind, Interrupts};
use ctflow_engine::capture::socket::{EventMask, Options};
use ctflow_engine::kernel::dump::Dump;
use ctflow_engine::kernel::request::Requester;
use ctflow_lab::Lab;
use ctflow_lab::topology::{Firewall, REDIRECTED, SERVER, SERVER6};
use ctflow_lab::traffic::{tcp_exchange, udp_exchange};
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::request::{self, Table};

/// How often the exchanges are repeated.
const ROUNDS: usize = 24;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("argument missing: the folder for the recordings")?);
    let lab = Lab::enter()?;
    let firewall = Firewall::build(&lab)?;
    let options = Options { events: EventMask::ALL, ..Options::default() };
    let mut listener = Listener::open(&options, BackendKind::Recvmmsg, Interrupts::new())?;
    firewall.client.run(exchange)?;
    let dump = listing(Dump::start(Table::Conntrack, &DumpFilter::default(), false)?)?;
    let mut stats = listing(Dump::cpu_stats(Table::Conntrack)?)?;
    stats.extend(listing(Dump::cpu_stats(Table::Expect)?)?);
    let mut requester = Requester::open()?;
    requester.request("read the statistics", request::global_stats, |record| stats.extend(record.bytes()))?;
    requester.request("empty the table", |writer, seq| request::flush(writer, seq, 0), |_| {})?;
    let mut events = Vec::new();
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        listener.receive_round(Patience::None, &mut |frame: &[u8]| events.extend_from_slice(frame))?;
    }
    for (name, messages) in [("events.nl", events), ("dump.nl", dump), ("stats.nl", stats)] {
        fs::write(folder.join(name), messages)?;
    }
    Ok(())
}

/// Runs TCP and UDP exchanges with NAT, and over IPv6.
fn exchange() -> Result<(), ctflow_lab::LabError> {
    for _ in 0..ROUNDS {
        for address in [(SERVER, 80).into(), REDIRECTED, (SERVER6, 80).into()] {
            tcp_exchange(address, b"hello")?;
        }
        for address in [(SERVER, 53).into(), (SERVER6, 53).into()] {
            udp_exchange(address, b"hello")?;
        }
    }
    Ok(())
}

/// Reads a whole dump as messages, each padded to 4 bytes.
fn listing(mut dump: Dump) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut messages = Vec::new();
    dump.read_all(|record| {
        messages.extend_from_slice(record.bytes());
        messages.resize(messages.len().next_multiple_of(4), 0);
    })?;
    Ok(messages)
}
