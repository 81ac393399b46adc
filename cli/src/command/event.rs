//! `-E`: events as they come, until SIGINT, SIGTERM, or the reader of standard output goes.
//!
//! One listener, drained on this thread: so the lines keep the kernel's order. What a round brought is written when it
//! ends, at once on a quiet firewall and in large writes on a busy one; a loss is told on standard error where it
//! happened, with its count, and goes into the count at the end.
//!
//! The first signal ends the listening: what is queued is still shown, if the reader goes on reading. A second signal, or
//! two seconds in which it takes nothing, ends at once. Either way every event is counted, as shown or as lost.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::clock;
use super::summary::Summary;
use crate::capture::{CaptureError, Reader, Writer};
use crate::control::request::Request;
use crate::control::{self, Answer, Frame};
use crate::failure::Failure;
use crate::flags::plan::{self, Events, Reach};
use crate::labels::LabelMap;
use crate::output::requester::Requesters;
use crate::output::stdout::{FlushOutcome, StdoutBuffer};
use crate::output::{Printer, RecordContext, Requester, Subject};
use crate::persona::Persona;

/// 0 means that no event is ever told.
const PROC_EVENTS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";
/// How long a reader may take nothing once we have been told to end.
const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Follows what `plan` names.
///
/// # Errors
/// No rights, no connection tracking, a full disk, a reader that has gone.
pub(super) fn run(persona: Persona, plan: &Events, labels: Option<Arc<LabelMap>>) -> Result<(), Failure> {
    if let Some(path) = &plan.read {
        return replay(persona, plan, path, labels);
    }
    if let Some(reach) = &plan.daemon {
        return follow_daemon(persona, plan, reach, labels);
    }
    let mut follower = Follower::new(persona, plan, labels)?;
    let result = follower.follow().and_then(|()| follower.finish());
    let unread = follower.count_unread();
    let (shown, lost) = follower.counts();
    Summary::Events(plan.subject, shown, lost).print(persona);
    result.and(unread)
}

/// Shows the events of a capture file, ours or one of an `nlmon` interface, at the times that it has. Needs no rights.
fn replay(persona: Persona, plan: &Events, path: &Path, labels: Option<Arc<LabelMap>>) -> Result<(), Failure> {
    if let Some(write) = plan.write.as_deref().filter(|write| is_same_file(path, write)) {
        return Err(CaptureError::SameFile { path: write.to_owned() }.into()); // it would be emptied first
    }
    let mut reader = Reader::open(path)?;
    let mut lines = EventOutput::new(plan, StdoutBuffer::open()?, labels)?;
    let result = loop {
        match reader.read_packet() {
            Ok(Some(packet)) => {
                lines.now_ns = Some(packet.time_ns);
                lines.print_frame(packet.frame);
                lines.failed.take().map_or(Ok(()), Err)?;
                lines.sink.flush_if_large()?;
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error), // what stands before it is shown
        }
    };
    lines.write_trailer()?;
    Summary::Events(plan.subject, lines.printed, 0).print(persona);
    result?;
    lines.first_error.map_or(Ok(()), |first| Err(Failure::Malformed { count: lines.malformed, first }))
}

/// Whether both names are of one regular file.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        let file = fs::metadata(path).ok().filter(fs::Metadata::is_file);
        file.map(|file| (file.dev(), file.ino()))
    };
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// Shows the events that the daemon receives, until a signal comes, writing fails, or the daemon ends.
fn follow_daemon(persona: Persona, plan: &Events, reach: &Reach, labels: Option<Arc<LabelMap>>) -> Result<(), Failure> {
    let mut answer = control::send_request(reach, Request::Events(plan.subject))?;
    let signals = open_signal_pipe().map_err(Failure::Signals)?;
    let mut lines = EventOutput::new(plan, StdoutBuffer::open()?, labels)?;
    let mut lost = 0;
    let result = print_daemon_events(persona, &mut answer, &signals, &mut lines, &mut lost);
    lines.print_trailer();
    let written = lines.write(signals.as_fd(), Some(FINAL_WRITE_TIMEOUT));
    let unwritten = lines.unwritten();
    Summary::Events(plan.subject, lines.printed - unwritten, lost + unwritten).print(persona);
    result.and(written.map(|_| ()))
}

fn print_daemon_events(
    persona: Persona,
    answer: &mut Answer,
    signals: &UnixStream,
    lines: &mut EventOutput<'_>,
    lost: &mut u64,
) -> Result<(), Failure> {
    let banner = persona.banner();
    loop {
        if !answer.has_buffered() {
            lines.write(signals.as_fd(), None)?;
            if !wait_for_daemon(answer, signals, &lines.sink)? {
                return Ok(());
            }
        }
        lines.now_ns = None;
        match answer.next_frame()? {
            Frame::Messages(messages) => lines.print_frame_live(messages, signals.as_fd()),
            Frame::Lost(count) => {
                *lost += count;
                print_stderr(&format!(
                    "{banner}: {count} events lost here, the daemon or this reader was slower than they came"
                ));
            }
            Frame::Done => return Ok(()),
            Frame::Entries(_) | Frame::Document(_) => {}
        }
        if let Some(error) = lines.first_error.take() {
            let count = std::mem::take(&mut lines.malformed);
            *lost += count;
            print_stderr(&format!("{banner}: {count} events not understood here: {error}"));
        }
    }
}

/// Waits for the daemon; false when a signal came first.
fn wait_for_daemon(answer: &Answer, signals: &UnixStream, sink: &StdoutBuffer) -> Result<bool, Failure> {
    loop {
        let mut fds = vec![PollFd::new(answer, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        if sink.has_reader() {
            fds.push(PollFd::new(sink, PollFlags::empty()));
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue, // the pipe says whether the signal was for us
            Err(errno) => return Err(Failure::Signals(errno.into())),
            Ok(_) => {}
        }
        let is_ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        return match (is_ready(1), is_ready(2), is_ready(0)) {
            (true, ..) => Ok(false),
            (_, true, _) => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
            (_, _, true) => Ok(true),
            _ => continue,
        };
    }
}

struct Follower<'p> {
    persona: Persona,
    listener: Listener,
    signals: UnixStream,
    output: EventOutput<'p>,
    lost: u64,
}

/// What turns records into lines.
struct EventOutput<'p> {
    plan: &'p Events,
    printer: Printer,
    sink: StdoutBuffer,
    /// Where events go in place of standard output.
    capture: Option<Writer>,
    requesters: Requesters,
    /// The clock at the first event of the round.
    now_ns: Option<u64>,
    /// Events that became lines, written or not.
    printed: u64,
    /// The first write that failed; nothing more is written.
    failed: Option<Failure>,
    /// Messages that did not parse in this round, and the first reason.
    malformed: u64,
    first_error: Option<ParseError>,
}

impl<'p> Follower<'p> {
    fn new(persona: Persona, plan: &'p Events, labels: Option<Arc<LabelMap>>) -> Result<Self, Failure> {
        let sink = StdoutBuffer::open()?;
        let signals = open_signal_pipe().map_err(Failure::Signals)?;
        let mut interrupts = Interrupts::new();
        interrupts.watch(&signals, Interest::Readable)?;
        if sink.has_reader() {
            interrupts.watch(&sink, Interest::HangUp)?;
        }
        let listener = Listener::open(&socket_options(plan), BackendKind::Auto, interrupts)?;
        let follower = Self { persona, listener, signals, output: EventOutput::new(plan, sink, labels)?, lost: 0 };
        follower.print_notices(plan);
        Ok(follower)
    }

    fn print_notices(&self, plan: &Events) {
        let (banner, buffer) = (self.persona.banner(), self.listener.buffer());
        if plan.buffer_bytes.is_some() {
            print_stderr(&format!("NOTICE: Netlink socket buffer size has been set to {} bytes.", buffer.effective));
            if buffer.limited {
                print_stderr(&format!("{banner}: {buffer}"));
            }
        }
        if fs::read_to_string(PROC_EVENTS).is_ok_and(|setting| setting.trim() == "0") {
            let mend = "sysctl -w net.netfilter.nf_conntrack_events=1";
            print_stderr(&format!("{banner}: the kernel is set to tell no events (nf_conntrack_events=0); {mend}"));
        }
    }

    /// Until a signal comes or writing fails.
    fn follow(&mut self) -> Result<(), Failure> {
        loop {
            let round = self.receive_round(Patience::Paced)?;
            self.output.write(self.signals.as_fd(), None)?;
            if round.received.interrupted && self.should_end()? {
                return Ok(());
            }
        }
    }

    /// One round: its lines, and what is missing among them.
    fn receive_round(&mut self, patience: Patience) -> Result<Round, Failure> {
        let Self { listener, output: lines, signals, .. } = self;
        lines.now_ns = None;
        let round =
            listener.receive_round(patience, &mut |frame: &[u8]| lines.print_frame_live(frame, signals.as_fd()))?;
        let banner = self.persona.banner();
        if round.lost > 0 {
            self.lost += round.lost;
            let (lost, buffer) = (round.lost, self.listener.buffer());
            print_stderr(&format!(
                "{banner}: {lost} events lost here, the reader was slower than they came: {buffer}; use -b"
            ));
        }
        if let Some(error) = self.output.first_error.take() {
            let count = std::mem::take(&mut self.output.malformed);
            self.lost += count;
            print_stderr(&format!("{banner}: {count} events not understood here: {error}"));
        }
        Ok(round)
    }

    /// Whether what woke us is an end: a signal, or the reader's going.
    fn should_end(&mut self) -> Result<bool, Failure> {
        let mut byte = [0];
        if self.signals.read(&mut byte).is_ok_and(|count| count > 0) {
            return Ok(true);
        }
        let mut stdout = [PollFd::new(&self.output.sink, PollFlags::empty())];
        let ready = poll(&mut stdout, Some(&Timespec::default())).unwrap_or(0);
        if ready > 0 && self.output.sink.has_reader() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        Ok(false)
    }

    /// No more events, but those that are queued; until they are shown, or the reader takes no more.
    fn finish(&mut self) -> Result<(), Failure> {
        self.listener.leave_groups()?;
        let mut drained = false;
        while !drained {
            if self.output.write(self.signals.as_fd(), Some(FINAL_WRITE_TIMEOUT))? == FlushOutcome::Unwritten {
                return Ok(());
            }
            drained = self.receive_round(Patience::None)?.received.drained;
        }
        self.output.print_trailer();
        self.output.write(self.signals.as_fd(), Some(FINAL_WRITE_TIMEOUT))?;
        Ok(())
    }

    /// Counts what is still queued as lost: nothing, but after a failure or an impatient end.
    fn count_unread(&mut self) -> Result<(), Failure> {
        self.listener.leave_groups()?;
        loop {
            let mut unread = 0;
            let round = self.listener.receive_round(Patience::None, &mut |_: &[u8]| unread += 1)?;
            self.lost += unread + round.lost;
            if round.received.drained {
                return Ok(());
            }
        }
    }

    /// Events shown, and events lost. Lines that were never written are not shown.
    fn counts(&self) -> (u64, u64) {
        let unwritten = self.output.unwritten();
        (self.output.printed - unwritten, self.lost + unwritten)
    }
}

impl<'p> EventOutput<'p> {
    fn new(plan: &'p Events, sink: StdoutBuffer, labels: Option<Arc<LabelMap>>) -> Result<Self, Failure> {
        let printer = Printer::new(plan.format, plan.subject, TimeZone::system()).with_labels(labels);
        let capture = plan.write.as_deref().map(Writer::create).transpose()?;
        let (requesters, now_ns, failed, first_error) = (Requesters::default(), None, None, None);
        Ok(Self { plan, printer, sink, capture, requesters, now_ns, printed: 0, failed, malformed: 0, first_error })
    }

    /// Takes in one datagram, and writes when there is much.
    fn print_frame_live(&mut self, frame: &[u8], interrupt: BorrowedFd<'_>) {
        self.print_frame(frame);
        // When the bell has rung the lines of the round gather: they are few thousand at most.
        if self.sink.is_large() && self.failed.is_none() {
            self.failed = self.sink.flush_until(interrupt, None).err().map(Failure::from);
        }
    }

    /// Takes in every message of a datagram.
    fn print_frame(&mut self, frame: &[u8]) {
        for message in Messages::new(frame) {
            let printed = match message {
                Ok(Message::Record(record)) => self.print_record(&record),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = printed {
                self.malformed += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    /// Writes what there is, or says what went wrong before.
    fn write(&mut self, interrupt: BorrowedFd<'_>, patience: Option<Duration>) -> Result<FlushOutcome, Failure> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        if let Some(capture) = &mut self.capture {
            capture.flush()?;
        }
        Ok(self.sink.flush_until(interrupt, patience)?)
    }

    /// Events whose lines were never written.
    fn unwritten(&self) -> u64 {
        let lines = self.sink.lines.iter().filter(|&&byte| byte == b'\n').count();
        u64::try_from(lines).unwrap_or(u64::MAX).min(self.printed)
    }

    /// What must follow the last line; nothing is printed beside a capture.
    fn print_trailer(&mut self) {
        if self.plan.write.is_none() {
            self.printer.finish(&mut self.sink.lines);
        }
    }

    /// What must follow the last line, written.
    fn write_trailer(&mut self) -> Result<(), Failure> {
        self.print_trailer();
        if let Some(capture) = &mut self.capture {
            capture.flush()?;
        }
        Ok(self.sink.flush()?)
    }

    fn print_record(&mut self, record: &Record<'_>) -> Result<(), ParseError> {
        if record.is_request() || !self.plan.mask.has(record.event()) {
            return Ok(()); // only files have these
        }
        match (record.subject(), self.plan.subject) {
            (RecordSubject::Flow, Subject::Flows) => {
                let flow = record.flow()?;
                if self.plan.selection.matches(&flow) {
                    self.print_event(record, |printer, lines, occasion| printer.print_flow(lines, &flow, occasion));
                }
            }
            (RecordSubject::Expect, Subject::Expectations) => {
                let expect = record.expect()?;
                self.print_event(record, |printer, lines, occasion| printer.print_expect(lines, &expect, occasion));
            }
            _ => {}
        }
        Ok(())
    }

    /// Prints one event, or puts it into the capture as it came.
    fn print_event(&mut self, record: &Record<'_>, print: impl FnOnce(&mut Printer, &mut Vec<u8>, &RecordContext<'_>)) {
        let now_ns = *self.now_ns.get_or_insert_with(clock::now_ns);
        self.printed += 1;
        if let Some(capture) = &mut self.capture {
            if self.failed.is_none() {
                self.failed = capture.write_frame(now_ns, record.bytes()).err().map(Failure::from);
            }
            return;
        }
        let (requesters, live) = (&mut self.requesters, self.plan.read.is_none());
        let requester = record.requester().map(|port_id| {
            // Who asked long ago is not who has the number now.
            let program = if live { requesters.program(port_id, now_ns) } else { None };
            Requester { port_id, program }
        });
        print(
            &mut self.printer,
            &mut self.sink.lines,
            &RecordContext { event: Some(record.event()), now_ns, requester },
        );
    }
}

/// Becomes readable on SIGINT and SIGTERM.
fn open_signal_pipe() -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}

/// What to ask of the socket. A size that was asked for is kept to; else the buffer grows under pressure.
fn socket_options(plan: &Events) -> Options {
    let bytes = plan.buffer_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let family = Some(plan.selection.family).filter(|family| *family != uapi::AF_UNSPEC);
    Options {
        events: event_groups(plan.subject, plan.mask),
        buffer: bytes.map_or_else(BufferPlan::default, BufferPlan::Fixed),
        filter: Filter { family, protocols: plan.selection.protocol.into_iter().collect(), ..Filter::default() },
        ..Options::default()
    }
}

fn event_groups(subject: Subject, mask: plan::EventMask) -> EventMask {
    let [new, update, destroy] = match subject {
        Subject::Flows => [EventMask::NEW, EventMask::UPDATE, EventMask::DESTROY],
        Subject::Expectations => [EventMask::EXPECT_NEW, EventMask::EXPECT_UPDATE, EventMask::EXPECT_DESTROY],
    };
    let chosen = [(mask.new, new), (mask.update, update), (mask.destroy, destroy)];
    chosen.iter().filter(|(wanted, _)| *wanted).fold(EventMask::default(), |mask, (_, group)| mask | *group)
}

/// A line on standard error. If that is closed, there is no one to tell.
fn print_stderr(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
