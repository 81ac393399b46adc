//! `-E`: prints events as they arrive, until SIGINT, SIGTERM, or until the reader of standard output has gone.
//!
//! This thread alone drains the one listener, so that the lines keep the kernel's order. The lines of a round are
//! written when it ends: at once on a quiet firewall, in large writes on a busy one. A loss is reported on standard
//! error where it happened, with its count, and added to the total of the summary.
//!
//! After the first signal no new events arrive, but the queued ones are still printed while the reader goes on reading.
//! A second signal, or two seconds in which it reads nothing, ends the program at once. In both cases every event is
//! counted, as shown or as lost.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ctflow_engine::capture::listener::{Listener, Patience, Round};
use ctflow_engine::capture::receive::{BackendKind, Interest, Interrupts};
use ctflow_engine::capture::socket::{BufferPlan, EventMask, Options};
use ctflow_engine::capture::steer::Filter;
use ctflow_parser::error::ParseError;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::{Record, Subject as RecordSubject};
use ctflow_parser::uapi;
use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::summary::Summary;
use crate::capture::{CaptureError, Reader, Writer};
use crate::clock;
use crate::control::Reach;
use crate::control::request::Request;
use crate::control::{self, Answer, Frame};
use crate::failure::Failure;
use crate::flags::plan::{self, Events};
use crate::labels::LabelMap;
use crate::output::requester::Requesters;
use crate::output::stdout::{FlushOutcome, StdoutBuffer};
use crate::output::{Printer, RecordContext, Requester, Subject};
use crate::persona::Persona;
use crate::text::counted;

/// The kernel's switch for events: at 0 it sends none.
const PROC_EVENTS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";
/// How long the last writes wait for a reader that reads nothing.
const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Prints events from the source that `plan` names: a capture file, the daemon, or the kernel.
///
/// # Errors
/// The source cannot be opened or read, or standard output or the capture file cannot be written.
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

/// Prints the events of a capture file, one of ours or one of an `nlmon` interface, with the file's times. Needs no
/// rights.
///
/// # Errors
/// The file cannot be read or is also the file to write, standard output cannot be written, or events do not parse.
fn replay(persona: Persona, plan: &Events, path: &Path, labels: Option<Arc<LabelMap>>) -> Result<(), Failure> {
    if let Some(write) = plan.write.as_deref().filter(|write| is_same_file(path, write)) {
        return Err(CaptureError::SameFile { path: write.to_owned() }.into()); // opening it to write would empty it
    }
    let mut reader = Reader::open(path)?;
    let mut output = EventOutput::new(plan, StdoutBuffer::open()?, labels)?;
    let result = loop {
        match reader.read_packet() {
            Ok(Some(packet)) => {
                output.now_ns = Some(packet.time_ns);
                output.print_frame(packet.frame);
                output.failed.take().map_or(Ok(()), Err)?;
                output.sink.flush_if_large()?;
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error), // the events before it are still printed
        }
    };
    output.write_trailer()?;
    Summary::Events(plan.subject, output.printed, 0).print(persona);
    result?;
    output.first_error.map_or(Ok(()), |first| Err(Failure::Malformed { count: output.malformed, first }))
}

/// Returns whether both paths name the same regular file.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        let file = fs::metadata(path).ok().filter(fs::Metadata::is_file);
        file.map(|file| (file.dev(), file.ino()))
    };
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// Prints the events that the daemon receives, until a signal arrives, writing fails, or the daemon ends.
///
/// # Errors
/// The daemon cannot be reached or ends early, or standard output cannot be written.
fn follow_daemon(persona: Persona, plan: &Events, reach: &Reach, labels: Option<Arc<LabelMap>>) -> Result<(), Failure> {
    let mut answer = control::send_request(reach, Request::Events(plan.subject))?;
    let signals = open_signal_pipe().map_err(Failure::Signals)?;
    let mut output = EventOutput::new(plan, StdoutBuffer::open()?, labels)?;
    let mut lost = 0;
    let result = print_daemon_events(persona, &mut answer, &signals, &mut output, &mut lost);
    output.print_trailer();
    let written = output.write(signals.as_fd(), Some(FINAL_WRITE_TIMEOUT));
    let unwritten = output.unwritten();
    Summary::Events(plan.subject, output.printed - unwritten, lost + unwritten).print(persona);
    result.and(written.map(|_| ()))
}

/// Prints frames of the daemon's answer until it ends or a signal arrives. Adds the events lost to `lost`.
///
/// # Errors
/// As [`follow_daemon`].
fn print_daemon_events(
    persona: Persona,
    answer: &mut Answer,
    signals: &UnixStream,
    output: &mut EventOutput<'_>,
    lost: &mut u64,
) -> Result<(), Failure> {
    let banner = persona.banner();
    loop {
        if !answer.has_buffered() {
            output.write(signals.as_fd(), None)?;
            if !wait_for_daemon(answer, signals, &output.sink)? {
                return Ok(());
            }
        }
        output.now_ns = None;
        match answer.next_frame()? {
            Frame::Messages(messages) => output.print_frame_live(messages, signals.as_fd()),
            Frame::Lost(count) => {
                *lost += count;
                print_stderr(&format!(
                    "{banner}: {} lost here: the daemon or this reader was too slow",
                    counted(count, "event", "events")
                ));
            }
            Frame::Done => return Ok(()),
            Frame::Entries(_) | Frame::Document(_) => {}
        }
        if let Some(error) = output.first_error.take() {
            let count = std::mem::take(&mut output.malformed);
            *lost += count;
            print_stderr(&format!(
                "{banner}: {} not understood here: {error}; update ctflow, or report it with the kernel's version",
                counted(count, "event", "events")
            ));
        }
    }
}

/// Waits for the daemon's next frame. Returns false if a signal arrived first.
///
/// # Errors
/// The reader of standard output has gone, or waiting failed.
fn wait_for_daemon(answer: &Answer, signals: &UnixStream, sink: &StdoutBuffer) -> Result<bool, Failure> {
    loop {
        let mut fds = vec![PollFd::new(answer, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        if sink.has_reader() {
            fds.push(PollFd::new(sink, PollFlags::empty()));
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue, // the pipe is readable if it was one of our signals
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

/// Prints events of the kernel.
struct Follower<'p> {
    persona: Persona,
    listener: Listener,
    /// Readable after a signal.
    signals: UnixStream,
    output: EventOutput<'p>,
    /// Events that were lost or not understood so far.
    lost: u64,
}

/// Turns records into lines on standard output, or into packets of a capture file.
struct EventOutput<'p> {
    plan: &'p Events,
    printer: Printer,
    sink: StdoutBuffer,
    /// The capture file that events are written to instead of standard output.
    capture: Option<Writer>,
    requesters: Requesters,
    /// The wall clock at the first event of the round, in nanoseconds.
    now_ns: Option<u64>,
    /// Events that became lines or packets, written or not.
    printed: u64,
    /// The first write that failed. Nothing is written after it.
    failed: Option<Failure>,
    /// Messages of this round that did not parse.
    malformed: u64,
    /// Why the first of them did not parse.
    first_error: Option<ParseError>,
}

impl<'p> Follower<'p> {
    /// Opens the event socket and prints what the operator should know about it.
    ///
    /// # Errors
    /// Events cannot be received, signals cannot be caught, or the capture file cannot be created.
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

    /// Prints the buffer's size if one was requested, and how to enable events if the kernel sends none.
    fn print_notices(&self, plan: &Events) {
        let (banner, buffer) = (self.persona.banner(), self.listener.buffer());
        if plan.buffer_bytes.is_some() {
            print_stderr(&format!("NOTICE: Netlink socket buffer size has been set to {} bytes.", buffer.effective));
            if buffer.limited {
                print_stderr(&format!("{banner}: {buffer}"));
            }
        }
        if fs::read_to_string(PROC_EVENTS).is_ok_and(|setting| setting.trim() == "0") {
            let command = "sysctl -w net.netfilter.nf_conntrack_events=1";
            print_stderr(&format!("{banner}: the kernel sends no events (nf_conntrack_events=0); {command}"));
        }
    }

    /// Receives and prints events until a signal arrives.
    ///
    /// # Errors
    /// Receiving or writing failed, or the reader of standard output has gone.
    fn follow(&mut self) -> Result<(), Failure> {
        loop {
            let round = self.receive_round(Patience::Paced)?;
            self.output.write(self.signals.as_fd(), None)?;
            if round.received.interrupted && self.should_end()? {
                return Ok(());
            }
        }
    }

    /// Receives and prints the events of one round, and reports its losses.
    ///
    /// # Errors
    /// Receiving failed.
    fn receive_round(&mut self, patience: Patience) -> Result<Round, Failure> {
        let Self { listener, output, signals, .. } = self;
        output.now_ns = None;
        let round =
            listener.receive_round(patience, &mut |frame: &[u8]| output.print_frame_live(frame, signals.as_fd()))?;
        let banner = self.persona.banner();
        if round.lost > 0 {
            self.lost += round.lost;
            let (lost, buffer) = (counted(round.lost, "event", "events"), self.listener.buffer());
            print_stderr(&format!("{banner}: {lost} lost here: the reader was too slow: {buffer}; use -b"));
        }
        if let Some(error) = self.output.first_error.take() {
            let count = std::mem::take(&mut self.output.malformed);
            self.lost += count;
            print_stderr(&format!(
                "{banner}: {} not understood here: {error}; update ctflow, or report it with the kernel's version",
                counted(count, "event", "events")
            ));
        }
        Ok(round)
    }

    /// Returns whether a signal interrupted the round.
    ///
    /// # Errors
    /// The reader of standard output has gone.
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

    /// Stops new events, and prints the queued ones until all are printed or the reader reads no more.
    ///
    /// # Errors
    /// Receiving or writing failed.
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

    /// Counts the events that are still queued as lost. There are some only after a failure, or if the reader was
    /// stuck.
    ///
    /// # Errors
    /// Receiving failed.
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

    /// Returns the number of events shown, and of events lost. Events whose lines were never written count as lost.
    fn counts(&self) -> (u64, u64) {
        let unwritten = self.output.unwritten();
        (self.output.printed - unwritten, self.lost + unwritten)
    }
}

impl<'p> EventOutput<'p> {
    /// Creates the output that `plan` names.
    ///
    /// # Errors
    /// The capture file cannot be created.
    fn new(plan: &'p Events, sink: StdoutBuffer, labels: Option<Arc<LabelMap>>) -> Result<Self, Failure> {
        let printer = Printer::new(plan.format, plan.subject, TimeZone::system()).with_labels(labels);
        let capture = plan.write.as_deref().map(Writer::create).transpose()?;
        let (requesters, now_ns, failed, first_error) = (Requesters::default(), None, None, None);
        Ok(Self { plan, printer, sink, capture, requesters, now_ns, printed: 0, failed, malformed: 0, first_error })
    }

    /// Prints the events of one frame, and writes the lines if there are many. A failed write is returned by the next
    /// [`Self::write`].
    fn print_frame_live(&mut self, frame: &[u8], interrupt: BorrowedFd<'_>) {
        self.print_frame(frame);
        // After a signal this does not wait for a stuck reader. The lines of the round gather: a few thousand at most.
        if self.sink.is_large() && self.failed.is_none() {
            self.failed = self.sink.flush_until(interrupt, None).err().map(Failure::from);
        }
    }

    /// Prints the events of one frame.
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

    /// Writes the gathered lines until all are written, `interrupt` is readable, or the reader has read nothing for
    /// `patience`.
    ///
    /// # Errors
    /// This write, or one before it, failed.
    fn write(&mut self, interrupt: BorrowedFd<'_>, patience: Option<Duration>) -> Result<FlushOutcome, Failure> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        if let Some(capture) = &mut self.capture {
            capture.flush()?;
        }
        Ok(self.sink.flush_until(interrupt, patience)?)
    }

    /// Returns the number of events whose lines are not written yet.
    fn unwritten(&self) -> u64 {
        let lines = self.sink.lines.iter().filter(|&&byte| byte == b'\n').count();
        u64::try_from(lines).unwrap_or(u64::MAX).min(self.printed)
    }

    /// Appends what the format needs after the last event, such as the end of an XML document. With a capture file
    /// nothing is printed.
    fn print_trailer(&mut self) {
        if self.plan.write.is_none() {
            self.printer.finish(&mut self.sink.lines);
        }
    }

    /// Appends the trailer and writes everything.
    ///
    /// # Errors
    /// Writing failed.
    fn write_trailer(&mut self) -> Result<(), Failure> {
        self.print_trailer();
        if let Some(capture) = &mut self.capture {
            capture.flush()?;
        }
        Ok(self.sink.flush()?)
    }

    /// Prints a record if the plan selects it.
    ///
    /// # Errors
    /// The record does not parse.
    fn print_record(&mut self, record: &Record<'_>) -> Result<(), ParseError> {
        // The daemon and capture files also have events that the plan does not select; a capture file has requests,
        // too.
        if record.is_request() || !self.plan.mask.has(record.event()) {
            return Ok(());
        }
        match (record.subject(), self.plan.subject) {
            (RecordSubject::Flow, Subject::Flows) => {
                let flow = record.flow()?;
                if self.plan.selection.matches(&flow) {
                    self.print_event(record, |printer, lines, context| printer.print_flow(lines, &flow, context));
                }
            }
            (RecordSubject::Expect, Subject::Expectations) => {
                let expect = record.expect()?;
                self.print_event(record, |printer, lines, context| printer.print_expect(lines, &expect, context));
            }
            _ => {}
        }
        Ok(())
    }

    /// Appends the line of one event, or writes its bytes to the capture file.
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
            // In a capture file the port id is old: another program may have it now.
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

/// Returns a socket that becomes readable on SIGINT and SIGTERM.
///
/// # Errors
/// A descriptor cannot be created, or a handler cannot be registered.
fn open_signal_pipe() -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}

/// Returns the options of the event socket. A requested buffer size is fixed; without one the buffer grows under
/// pressure.
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

/// Returns the netlink groups of the selected events.
fn event_groups(subject: Subject, mask: plan::EventMask) -> EventMask {
    let [new, update, destroy] = match subject {
        Subject::Flows => [EventMask::NEW, EventMask::UPDATE, EventMask::DESTROY],
        Subject::Expectations => [EventMask::EXPECT_NEW, EventMask::EXPECT_UPDATE, EventMask::EXPECT_DESTROY],
    };
    let chosen = [(mask.new, new), (mask.update, update), (mask.destroy, destroy)];
    chosen.iter().filter(|(selected, _)| *selected).fold(EventMask::default(), |mask, (_, group)| mask | *group)
}

/// Prints a line on standard error. An error is ignored: there is no other place to report it.
fn print_stderr(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
