//! `-E`: events as they come, until SIGINT, SIGTERM, or the reader of standard output goes.
//!
//! One listener, drained on this thread: so the lines keep the kernel's order. What a round brought is written when it
//! ends, at once on a quiet firewall and in large writes on a busy one; a loss is told on standard error where it
//! happened, with its count, and goes into the count at the end.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use ctflow_engine::listener::{Listener, Patience, Round};
use ctflow_engine::receive::{BackendKind, Interest, Interrupts};
use ctflow_engine::socket::{BufferPlan, EventMask, Options};
use ctflow_engine::steer::Filter;
use ctflow_parser::error::ParseError;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::{Record, Subject as RecordSubject};
use ctflow_parser::uapi;
use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::clock;
use super::summary::Summary;
use crate::failure::Failure;
use crate::flags::plan::{self, Events};
use crate::output::requester::Requesters;
use crate::output::sink::Sink;
use crate::output::{Occasion, Printer, Requester, Subject};
use crate::persona::Persona;

/// Follows what `plan` names.
///
/// # Errors
/// No rights, no connection tracking, a full disk, a reader that has gone.
pub(super) fn run(persona: Persona, plan: &Events) -> Result<(), Failure> {
    let mut follower = Follower::new(persona, plan)?;
    let result = follower.follow();
    let last = follower.finish();
    Summary::Events(plan.subject, follower.shown, follower.lost).print(persona);
    result.and(last)
}

struct Follower<'p> {
    persona: Persona,
    listener: Listener,
    signals: UnixStream,
    lines: Lines<'p>,
    shown: u64,
    lost: u64,
}

/// What turns records into lines.
struct Lines<'p> {
    plan: &'p Events,
    printer: Printer,
    sink: Sink,
    requesters: Requesters,
    /// The clock at the first event of the round.
    now_ns: Option<u64>,
    shown: u64,
    /// The first write that failed; lines after it are not kept.
    failed: Option<io::Error>,
    /// Messages that did not parse in this round, and the first reason.
    malformed: u64,
    first_error: Option<ParseError>,
}

impl<'p> Follower<'p> {
    fn new(persona: Persona, plan: &'p Events) -> Result<Self, Failure> {
        let sink = Sink::stdout()?;
        let signals = signals().map_err(Failure::Signals)?;
        let mut interrupts = Interrupts::new();
        interrupts.watch(&signals, Interest::Readable)?;
        if sink.has_reader() {
            interrupts.watch(&sink, Interest::HangUp)?;
        }
        let listener = Listener::open(&options(plan), BackendKind::Auto, interrupts)?;
        if plan.buffer_bytes.is_some() {
            let effective = listener.buffer().effective;
            tell(&format!("NOTICE: Netlink socket buffer size has been set to {effective} bytes."));
            if listener.buffer().limited {
                tell(&format!("{}: {}", persona.banner(), listener.buffer()));
            }
        }
        Ok(Self { persona, listener, signals, lines: Lines::new(plan, sink), shown: 0, lost: 0 })
    }

    /// Until a signal comes or writing fails.
    fn follow(&mut self) -> Result<(), Failure> {
        loop {
            let lines = &mut self.lines;
            lines.now_ns = None;
            let round = self.listener.round(Patience::Paced, &mut |frame| lines.take(frame))?;
            self.settle(&round)?;
            if round.taken.interrupted && self.is_over()? {
                return Ok(());
            }
        }
    }

    /// The end of a round: writes its lines, then tells what is missing among them.
    fn settle(&mut self, round: &Round) -> Result<(), Failure> {
        self.shown = self.lines.shown;
        self.lines.flush()?;
        if round.lost > 0 {
            self.lost += round.lost;
            let (banner, lost, buffer) = (self.persona.banner(), round.lost, self.listener.buffer());
            tell(&format!("{banner}: {lost} events lost here, the reader was slower than they came: {buffer}; use -b"));
        }
        if let Some(error) = self.lines.first_error.take() {
            let count = std::mem::take(&mut self.lines.malformed);
            self.lost += count;
            tell(&format!("{}: {count} events not understood here: {error}", self.persona.banner()));
        }
        Ok(())
    }

    /// Whether what woke us is an end: a signal, or the reader's going.
    fn is_over(&mut self) -> Result<bool, Failure> {
        let mut byte = [0];
        if self.signals.read(&mut byte).is_ok_and(|count| count > 0) {
            return Ok(true);
        }
        let mut stdout = [PollFd::new(&self.lines.sink, PollFlags::empty())];
        let ready = poll(&mut stdout, Some(&Timespec::default())).unwrap_or(0);
        if ready > 0 && self.lines.sink.has_reader() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        Ok(false)
    }

    /// What must follow the last line.
    fn finish(&mut self) -> Result<(), Failure> {
        self.lines.printer.finish(&mut self.lines.sink.lines);
        Ok(self.lines.sink.flush()?)
    }
}

impl<'p> Lines<'p> {
    fn new(plan: &'p Events, sink: Sink) -> Self {
        let printer = Printer::new(plan.format, plan.subject, TimeZone::system());
        let requesters = Requesters::default();
        Self { plan, printer, sink, requesters, now_ns: None, shown: 0, failed: None, malformed: 0, first_error: None }
    }

    /// Takes in one datagram.
    fn take(&mut self, frame: &[u8]) {
        for message in Messages::new(frame) {
            let printed = match message {
                Ok(Message::Record(record)) => self.print(&record),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = printed {
                self.malformed += 1;
                self.first_error.get_or_insert(error);
            }
        }
        if self.failed.is_none() {
            self.failed = self.sink.flush_if_large().err();
        }
    }

    fn print(&mut self, record: &Record<'_>) -> Result<(), ParseError> {
        let now_ns = *self.now_ns.get_or_insert_with(clock::now_ns);
        let requesters = &mut self.requesters;
        let requester = record.requester().map(|port_id| {
            let program = requesters.program(port_id, now_ns);
            Requester { port_id, program }
        });
        let occasion = Occasion { event: Some(record.event()), now_ns, requester };
        match (record.subject(), self.plan.subject) {
            (RecordSubject::Flow, Subject::Flows) => {
                let flow = record.flow()?;
                if !self.plan.selection.matches(&flow) {
                    return Ok(());
                }
                self.printer.flow(&mut self.sink.lines, &flow, &occasion);
            }
            (RecordSubject::Expect, Subject::Expectations) => {
                self.printer.expect(&mut self.sink.lines, &record.expect()?, &occasion);
            }
            _ => return Ok(()),
        }
        self.shown += 1;
        Ok(())
    }

    /// Writes what there is, or says what went wrong before.
    fn flush(&mut self) -> io::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.sink.flush(),
        }
    }
}

/// Becomes readable on SIGINT and SIGTERM.
fn signals() -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}

/// What to ask of the socket. A size that was asked for is kept to; else the buffer grows under pressure.
fn options(plan: &Events) -> Options {
    let bytes = plan.buffer_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let family = Some(plan.selection.family).filter(|family| *family != uapi::AF_UNSPEC);
    Options {
        events: groups(plan.subject, plan.mask),
        buffer: bytes.map_or_else(BufferPlan::default, BufferPlan::Fixed),
        filter: Filter { family, protocols: plan.selection.protocol.into_iter().collect(), ..Filter::default() },
        ..Options::default()
    }
}

fn groups(subject: Subject, mask: plan::EventMask) -> EventMask {
    let [new, update, destroy] = match subject {
        Subject::Flows => [EventMask::NEW, EventMask::UPDATE, EventMask::DESTROY],
        Subject::Expectations => [EventMask::EXPECT_NEW, EventMask::EXPECT_UPDATE, EventMask::EXPECT_DESTROY],
    };
    let chosen = [(mask.new, new), (mask.update, update), (mask.destroy, destroy)];
    chosen.iter().filter(|(wanted, _)| *wanted).fold(EventMask::default(), |mask, (_, group)| mask | *group)
}

/// A line on standard error. If that is closed, there is no one to tell.
fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
