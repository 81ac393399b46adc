//! One connection, event by event, while nothing else happens.

use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::lab::gateways::{GatewayId, Gateways};
use ctflow_engine::lab::topology::REDIRECTED;
use ctflow_engine::lab::traffic::tcp_exchange;
use ctflow_engine::listener::{ListenError, Listener, Patience};
use ctflow_engine::receive::{BackendKind, Interrupts};
use ctflow_engine::socket::{EventSocket, Options};
use ctflow_parser::frame::{Message, Messages};
use jiff::tz::TimeZone;

use super::TICK;
use crate::command::clock;
use crate::failure::Failure;
use crate::output::stdout::StdoutBuffer;
use crate::output::{Format, Printer, RecordContext, Subject};

/// How long the last event is waited for.
const LAST_EVENT_WAIT: Duration = Duration::from_millis(300);

pub(super) fn run(gateways: &Gateways) -> Result<(), Failure> {
    let socket = gateways.firewall(GatewayId::First).run(|| EventSocket::open(&Options::default()));
    let mut listener = Listener::new(socket.map_err(ListenError::from)?, BackendKind::Recvmmsg, Interrupts::new())?;
    gateways.client.run(|| tcp_exchange(REDIRECTED, b"hello"))?;
    let format = Format { timestamp: true, ..Format::default() };
    let mut printer = Printer::new(format, Subject::Flows, TimeZone::system());
    let mut sink = StdoutBuffer::open()?;
    let mut last = Instant::now();
    while last.elapsed() < LAST_EVENT_WAIT {
        let round = listener
            .receive_round(Patience::None, &mut |frame: &[u8]| print_frame(&mut printer, &mut sink.lines, frame))?;
        if round.received.datagrams > 0 {
            last = Instant::now();
        }
        sink.flush()?;
        thread::sleep(TICK / 10);
    }
    Ok(())
}

fn print_frame(printer: &mut Printer, lines: &mut Vec<u8>, frame: &[u8]) {
    for message in Messages::new(frame) {
        let Ok(Message::Record(record)) = message else { continue };
        let Ok(flow) = record.flow() else { continue };
        let occasion = RecordContext { event: Some(record.event()), now_ns: clock::now_ns(), requester: None };
        printer.print_flow(lines, &flow, &occasion);
    }
}
