//! One connection, event by event, while nothing else happens.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::capture::listener::{ListenError, Listener, Patience};
use ctflow_engine::capture::receive::{BackendKind, Interrupts};
use ctflow_engine::capture::socket::{EventSocket, Options};
use ctflow_lab::gateways::{GatewayId, Gateways};
use ctflow_lab::topology::REDIRECTED;
use ctflow_lab::traffic::tcp_exchange;
use ctflow_parser::flow::FlowView;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::Event;
use ctflow_parser::tuple::{L4, Tuple};
use jiff::tz::TimeZone;

use super::TICK;
use super::screen::{columns, print_line, print_text};
use crate::clock;
use crate::failure::Failure;
use crate::output::stdout::StdoutBuffer;
use crate::output::{Format, Printer, RecordContext, Subject};
use crate::protocol;

/// The connection has ended when no event has arrived for this long.
const LAST_EVENT_WAIT: Duration = Duration::from_millis(300);
/// Terminals of at least this many columns show the lines of `ctflow -E` whole; the longest here has about 155.
const WHOLE_LINE_COLUMNS: usize = 160;

/// Opens one connection through the first firewall and prints its events: whole lines, or what fits 60 columns.
///
/// # Errors
/// Events cannot be received, the connection fails, or standard output cannot be written.
pub(super) fn run(gateways: &Gateways) -> Result<(), Failure> {
    let whole = columns() >= WHOLE_LINE_COLUMNS;
    let form = if whole { "as `ctflow -E` prints it" } else { "shortened from `ctflow -E`" };
    print_text("1. ", &format!("One connection through fw1, {form}:"))?;
    print_line("")?;
    let socket = gateways.firewall(GatewayId::First).run(|| EventSocket::open(&Options::default()));
    let mut listener = Listener::new(socket.map_err(ListenError::from)?, BackendKind::Recvmmsg, Interrupts::new())?;
    gateways.client.run(|| tcp_exchange(REDIRECTED, b"hello"))?;
    let mut printer = whole.then(|| Printer::new(Format::default(), Subject::Flows, TimeZone::system()));
    let mut stdout = StdoutBuffer::open()?;
    let mut last = Instant::now();
    while last.elapsed() < LAST_EVENT_WAIT {
        let round = listener.receive_round(Patience::None, &mut |frame: &[u8]| {
            append_frame(printer.as_mut(), &mut stdout.lines, frame);
        })?;
        if round.received.datagrams > 0 {
            last = Instant::now();
        }
        stdout.flush()?;
        thread::sleep(TICK / 10);
    }
    Ok(())
}

/// Appends a line for each event of a frame: by `printer`, or shortened if there is none.
fn append_frame(mut printer: Option<&mut Printer>, out: &mut Vec<u8>, frame: &[u8]) {
    for message in Messages::new(frame) {
        let Ok(Message::Record(record)) = message else { continue };
        let Ok(flow) = record.flow() else { continue };
        match &mut printer {
            Some(printer) => {
                let context = RecordContext { event: Some(record.event()), now_ns: clock::now_ns(), requester: None };
                printer.print_flow(out, &flow, &context);
            }
            None => out.extend_from_slice(short_lines(record.event(), &flow).unwrap_or_default().as_bytes()),
        }
    }
}

/// Returns the essential fields of an event in at most 60 columns; for a new flow also its addresses behind the NAT.
/// Returns `None` for a flow without ports.
fn short_lines(event: Event, flow: &FlowView<'_>) -> Option<String> {
    let tag = match event {
        Event::New => "[NEW]",
        Event::Update => "[UPDATE]",
        Event::Destroy => "[DESTROY]",
    };
    let state = flow.proto.and_then(|proto| proto.state_name()).unwrap_or_default();
    let orig = flow.orig?;
    let [src, dst] = sockets(&orig)?;
    let mut lines = format!("{tag:>9} {} {state:<11} {src} -> {dst}\n", protocol::name(orig.proto));
    if event == Event::New {
        // The reply tuple has the addresses behind the NAT, in the opposite direction.
        let [dst, src] = sockets(&flow.reply?)?;
        lines += &format!("{:10}after NAT {src} -> {dst}\n", "");
    }
    Some(lines)
}

/// Returns source and destination with their ports; `None` for a protocol without ports.
fn sockets(tuple: &Tuple) -> Option<[SocketAddr; 2]> {
    let L4::Ports { src, dst } = tuple.l4 else { return None };
    Some([SocketAddr::new(tuple.src, src), SocketAddr::new(tuple.dst, dst)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctflow_parser::proto::{ProtoInfo, TcpInfo};
    use ctflow_parser::uapi::IPPROTO_TCP;

    #[test]
    fn a_wide_terminal_gets_the_whole_lines_of_an_event() {
        let frames = include_bytes!("../../../../parser/fixtures/events.nl");
        let (mut printer, mut lines) = (Printer::new(Format::default(), Subject::Flows, TimeZone::UTC), Vec::new());
        append_frame(Some(&mut printer), &mut lines, frames);
        let lines = String::from_utf8(lines).unwrap();
        let first = lines.lines().next().unwrap();
        assert!(first.starts_with("    [NEW] ") && first.contains(" src=") && first.contains("[UNREPLIED]"), "{first}");
    }

    #[test]
    fn a_short_line_has_state_and_addresses_in_60_columns() {
        let tuple = |src: &str, dst: &str| {
            let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            let l4 = L4::Ports { src: src.port(), dst: dst.port() };
            Some(Tuple { src: src.ip(), dst: dst.ip(), proto: IPPROTO_TCP, l4, zone: None })
        };
        let flow = FlowView {
            orig: tuple("192.0.2.2:52736", "192.0.2.1:9000"),
            reply: tuple("198.51.100.10:443", "198.51.100.1:52736"),
            proto: Some(ProtoInfo::Tcp(TcpInfo { state: Some(3), ..TcpInfo::default() })),
            ..FlowView::default()
        };
        let line = "tcp ESTABLISHED 192.0.2.2:52736 -> 192.0.2.1:9000\n";
        assert_eq!(short_lines(Event::Update, &flow), Some(format!(" [UPDATE] {line}")));
        let new = format!("    [NEW] {line}          after NAT 198.51.100.1:52736 -> 198.51.100.10:443\n");
        assert_eq!(short_lines(Event::New, &flow), Some(new.clone()));
        assert!(new.lines().all(|line| line.len() <= 60), "{new}");
        assert_eq!(short_lines(Event::New, &FlowView::default()), None);
    }
}
