//! One client: reads its request, sends its answer, and closes the connection when the client is too slow.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use mio::net::UnixStream;

use super::context::ServerContext;
use super::failure::Failure;
use super::frame::Kind;
use super::job::{self, Job, Step};
use super::out::OutBuffer;
use super::request::Request;
use crate::limits::{SERVER_REQUEST_BYTES, SERVER_REQUEST_MAX, SERVER_UNREAD_MAX};

/// Steps of a job before the other clients are served.
const STEPS_MAX: usize = 16;

/// The state of a client's request.
enum State {
    /// The request is incomplete; these bytes have arrived.
    ReadingRequest(Vec<u8>),
    /// The request is being carried out.
    RunningJob(Box<dyn Job>),
    /// The last frame is in the buffer, or sent.
    Closing,
}

/// A client's connection.
pub(super) struct Client {
    pub(super) stream: UnixStream,
    state: State,
    out: OutBuffer,
    /// The time of the connection.
    connected: Instant,
    /// The last time when the client read something, or had nothing to read.
    last_progress: Instant,
    /// The client has closed its end and receives nothing more.
    pub(super) hung_up: bool,
}

/// Whether the connection stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// It stays open. The client must be served again on the next event, and after this time at the latest.
    Continue(Duration),
    /// It is complete, too slow or broken, and must be closed.
    Close,
}

/// How often a client is served that only its time limits can change.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Client {
    /// A client that has just connected.
    pub(super) fn new(stream: UnixStream, now: Instant) -> Self {
        let state = State::ReadingRequest(Vec::new());
        Self { stream, state, out: OutBuffer::default(), connected: now, last_progress: now, hung_up: false }
    }

    /// Reads, works and writes as far as possible without waiting.
    pub(super) fn serve(&mut self, context: &mut ServerContext) -> Served {
        if let State::ReadingRequest(_) = self.state {
            self.read_request(context);
        }
        let again = self.run_job(context);
        let silent = context.now.saturating_duration_since(self.last_progress);
        let late = !self.out.is_empty() && silent >= SERVER_UNREAD_MAX;
        let ended = matches!(self.state, State::Closing) && self.out.is_empty();
        if ended || late || self.hung_up { Served::Close } else { Served::Continue(again) }
    }

    /// Fails the request if it is not complete, because the server ends.
    pub(super) fn fail_unfinished(&mut self) {
        if !matches!(self.state, State::Closing) {
            self.fail(&Failure::new("the daemon has stopped"));
        }
    }

    /// Reads the bytes of the request that have arrived, and starts its job when the line is complete.
    fn read_request(&mut self, context: &mut ServerContext) {
        let State::ReadingRequest(line) = &mut self.state else { return };
        match read_line(&mut self.stream, line) {
            Ok(Line::Incomplete) if context.now.saturating_duration_since(self.connected) >= SERVER_REQUEST_MAX => {
                self.fail(&Failure::new(format!("no request arrived within {} s", SERVER_REQUEST_MAX.as_secs())));
            }
            Ok(Line::Incomplete) => {}
            Ok(Line::Whole(length)) => {
                let line = line.get(..length).unwrap_or_default();
                match Request::parse(line).and_then(|request| job::start_job(request, context)) {
                    Ok(job) => self.state = State::RunningJob(job),
                    Err(failure) => self.fail(&failure),
                }
            }
            Ok(Line::TooLong) => {
                self.fail(&Failure::new(format!("a request is one line of at most {SERVER_REQUEST_BYTES} bytes")));
            }
            Err(_) => self.hung_up = true,
        }
    }

    /// Runs the job's steps and writes their output while the client reads it. Returns when the client must be served
    /// again at the latest.
    fn run_job(&mut self, context: &mut ServerContext) -> Duration {
        for _ in 0..STEPS_MAX {
            self.write(context.now);
            if self.hung_up || !self.out.has_room() {
                return CHECK_INTERVAL; // an event wakes the server when the client reads
            }
            let State::RunningJob(job) = &mut self.state else { return CHECK_INTERVAL };
            match job.advance(context, &mut self.out) {
                Ok(Step::More) => {}
                Ok(Step::Wait) => {
                    self.write(context.now);
                    return CHECK_INTERVAL;
                }
                Ok(Step::Again(time)) => {
                    self.write(context.now);
                    return time.min(CHECK_INTERVAL);
                }
                Ok(Step::Done) => {
                    self.out.push_frame(Kind::Done, &[]);
                    self.state = State::Closing;
                }
                Err(failure) => self.fail(&failure),
            }
        }
        Duration::ZERO
    }

    /// Sends a failure as the last frame.
    fn fail(&mut self, failure: &Failure) {
        self.out.push_failure(failure);
        self.state = State::Closing;
    }

    /// Writes as much of the buffer as the client reads.
    fn write(&mut self, now: Instant) {
        match self.out.write(&mut self.stream) {
            Ok(bytes) if bytes > 0 || self.out.is_empty() => self.last_progress = now,
            Ok(_) => {}
            Err(_) => self.hung_up = true,
        }
    }
}

/// How much of a request's line has arrived.
enum Line {
    /// A part of it.
    Incomplete,
    /// All of it; its length in bytes.
    Whole(usize),
    /// More than a line may have.
    TooLong,
}

/// Reads more of the line. It ends with its newline, or where the client shuts down its writing end.
fn read_line(stream: &mut impl Read, line: &mut Vec<u8>) -> io::Result<Line> {
    let mut buffer = [0; SERVER_REQUEST_BYTES + 1];
    loop {
        let room = buffer.get_mut(line.len()..).unwrap_or_default();
        match stream.read(room) {
            Ok(0) if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(Line::Whole(line.len())),
            Ok(bytes) => {
                line.extend_from_slice(room.get(..bytes).unwrap_or_default());
                if let Some(length) = line.iter().position(|byte| *byte == b'\n') {
                    return Ok(if length < SERVER_REQUEST_BYTES { Line::Whole(length) } else { Line::TooLong });
                }
                if line.len() > SERVER_REQUEST_BYTES {
                    return Ok(Line::TooLong);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Line::Incomplete),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream as Peer;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::access::Access;
    use crate::kernel::batch::Batch;
    use crate::server::frame;
    use crate::server::verify::Verification;
    use crate::worker::kernel_resync::ResyncRequests;

    /// A server's context without an engine.
    fn context_without_engine() -> ServerContext {
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let now = Instant::now();
        let (resync_requests, _) = ResyncRequests::channel(waker.clone());
        let (workers, shared_counters) = (Arc::new([]), Arc::new([]));
        let committer = Arc::new(Mutex::new(Batch::open("commit").unwrap()));
        let access = Access {
            workers,
            committer,
            shared_counters,
            replication: None,
            resync_requests,
            backend: "none",
            flows_max: 0,
            started: now,
        };
        ServerContext {
            access,
            takeover: Arc::default(),
            waker,
            on_order: Box::new(drop),
            verification: Verification::default(),
            background_jobs: Arc::default(),
            flushes: Arc::default(),
            waiting_since: None,
            clients: 1,
            now,
        }
    }

    fn client(context: &ServerContext) -> (Client, Peer) {
        let (ours, theirs) = Peer::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Client::new(UnixStream::from_std(ours), context.now), theirs)
    }

    /// The last frame that the client received.
    fn last_frame(mut peer: Peer) -> (Kind, String) {
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (mut payload, mut last) = (Vec::new(), None);
        while let Ok(kind) = frame::read(&mut peer, &mut payload) {
            last = Some((kind, String::from_utf8_lossy(&payload).into_owned()));
        }
        last.unwrap()
    }

    #[test]
    fn a_request_may_arrive_in_pieces_and_end_at_shutdown() {
        let mut context = context_without_engine();
        let (mut client, mut peer) = client(&context);
        for piece in ["{\"version\":1,", "\"do\":\"status\"", "}"] {
            peer.write_all(piece.as_bytes()).unwrap();
            assert!(matches!(client.serve(&mut context), Served::Continue(_)));
        }
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.serve(&mut context), Served::Close);
        drop(client);
        assert_eq!(last_frame(peer).0, Kind::Done);
    }

    #[test]
    fn a_silent_client_is_closed_after_the_limit_and_not_before() {
        let mut context = context_without_engine();
        let (mut client, peer) = client(&context);
        context.now += SERVER_REQUEST_MAX - Duration::from_millis(1);
        assert!(matches!(client.serve(&mut context), Served::Continue(_)));
        context.now += Duration::from_millis(1);
        assert_eq!(client.serve(&mut context), Served::Close);
        drop(client);
        let (kind, text) = last_frame(peer);
        assert!(kind == Kind::Failed && text.contains("no request arrived within 5 s"), "{text}");
    }

    #[test]
    fn a_client_that_never_reads_is_closed_and_a_slow_one_is_not() {
        let mut context = context_without_engine();
        let (mut client, mut peer) = client(&context);
        client.state = State::Closing;
        client.out.push_frame(Kind::Messages, &vec![7; 4 * 1_024 * 1_024]);
        for _ in 0..5 {
            assert!(matches!(client.serve(&mut context), Served::Continue(_)));
            context.now += SERVER_UNREAD_MAX - Duration::from_millis(1);
            peer.read_exact(&mut vec![0; 64 * 1_024]).unwrap();
        }
        assert!(matches!(client.serve(&mut context), Served::Continue(_)));
        context.now += SERVER_UNREAD_MAX;
        assert_eq!(client.serve(&mut context), Served::Close);
    }

    #[test]
    fn a_request_line_has_a_maximum_length() {
        let mut line = Vec::new();
        let longest = [vec![b' '; SERVER_REQUEST_BYTES - 1], vec![b'\n']].concat();
        assert!(matches!(read_line(&mut longest.as_slice(), &mut line), Ok(Line::Whole(4_095))));
        line.clear();
        let longer = [vec![b' '; SERVER_REQUEST_BYTES], vec![b'\n']].concat();
        assert!(matches!(read_line(&mut longer.as_slice(), &mut line), Ok(Line::TooLong)));
        line.clear();
        assert!(matches!(read_line(&mut vec![0; 100_000].as_slice(), &mut line), Ok(Line::TooLong)));
    }
}
