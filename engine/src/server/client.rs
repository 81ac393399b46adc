//! One client: its request as it comes, the answer as it goes, and the bounds of its slowness.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use mio::net::UnixStream;

use super::context::World;
use super::failure::Failure;
use super::frame::Kind;
use super::job::{self, Job, Turn};
use super::out::Out;
use super::request::Request;
use crate::limits::{SERVER_REQUEST_BYTES, SERVER_REQUEST_MAX, SERVER_UNREAD_MAX};

/// Turns of a job before other clients get theirs.
const TURNS: usize = 16;

/// Where a client is.
enum State {
    /// So much of its request has come.
    Asking(Vec<u8>),
    Working(Box<dyn Job>),
    /// The last frame is on its way.
    Ending,
}

/// A connection that is served.
pub(super) struct Client {
    pub(super) stream: UnixStream,
    state: State,
    out: Out,
    since: Instant,
    /// When it last took something, or had nothing to take.
    taken: Instant,
    /// It has closed its end, and hears nothing more.
    pub(super) hung_up: bool,
}

/// Whether a client goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// When something happens, or after this at the latest.
    GoesOn(Duration),
    /// It is to be closed.
    Ended,
}

/// How often a client is looked at whose bounds alone are to be watched.
const LOOK: Duration = Duration::from_secs(1);

impl Client {
    pub(super) fn new(stream: UnixStream, now: Instant) -> Self {
        let state = State::Asking(Vec::new());
        Self { stream, state, out: Out::default(), since: now, taken: now, hung_up: false }
    }

    /// Does what can be done for it now.
    pub(super) fn serve(&mut self, world: &mut World) -> Served {
        if let State::Asking(_) = self.state {
            self.listen(world);
        }
        let again = self.work(world);
        let late = !self.out.is_empty() && world.now.saturating_duration_since(self.taken) >= SERVER_UNREAD_MAX;
        let ended = matches!(self.state, State::Ending) && self.out.is_empty();
        if ended || late || self.hung_up { Served::Ended } else { Served::GoesOn(again) }
    }

    /// The server ends: so does whatever is under way.
    pub(super) fn say_goodbye(&mut self) {
        if !matches!(self.state, State::Ending) {
            self.fail(&Failure::new("the daemon ends"));
        }
    }

    /// Takes what has come of the request.
    fn listen(&mut self, world: &mut World) {
        let State::Asking(line) = &mut self.state else { return };
        match read_line(&mut self.stream, line) {
            Ok(Line::NotYet) if world.now.saturating_duration_since(self.since) >= SERVER_REQUEST_MAX => {
                self.fail(&Failure::new(format!("no request came within {} s", SERVER_REQUEST_MAX.as_secs())));
            }
            Ok(Line::NotYet) => {}
            Ok(Line::Whole(length)) => {
                let line = line.get(..length).unwrap_or_default();
                match Request::read(line).and_then(|request| job::begin(request, world)) {
                    Ok(job) => self.state = State::Working(job),
                    Err(failure) => self.fail(&failure),
                }
            }
            Ok(Line::TooLong) => {
                self.fail(&Failure::new(format!("a request is one line of at most {SERVER_REQUEST_BYTES} bytes")));
            }
            Err(_) => self.hung_up = true,
        }
    }

    /// Writes, and while there is room has more said; gives when to come back at the latest.
    fn work(&mut self, world: &mut World) -> Duration {
        for _ in 0..TURNS {
            self.write(world.now);
            if self.hung_up || !self.out.has_room() {
                return LOOK; // it wakes when it takes something
            }
            let State::Working(job) = &mut self.state else { return LOOK };
            match job.turn(world, &mut self.out) {
                Ok(Turn::More) => {}
                Ok(Turn::Wait) => {
                    self.write(world.now);
                    return LOOK;
                }
                Ok(Turn::Again(time)) => {
                    self.write(world.now);
                    return time.min(LOOK);
                }
                Ok(Turn::Done) => {
                    self.out.frame(Kind::Done, &[]);
                    self.state = State::Ending;
                }
                Err(failure) => self.fail(&failure),
            }
        }
        Duration::ZERO
    }

    fn fail(&mut self, failure: &Failure) {
        self.out.failed(failure);
        self.state = State::Ending;
    }

    fn write(&mut self, now: Instant) {
        match self.out.write(&mut self.stream) {
            Ok(bytes) if bytes > 0 || self.out.is_empty() => self.taken = now,
            Ok(_) => {}
            Err(_) => self.hung_up = true,
        }
    }
}

/// What there is of a line.
enum Line {
    NotYet,
    /// All of it, of this length.
    Whole(usize),
    TooLong,
}

/// Reads on; a line ends with its newline, or where the client has nothing more to say.
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
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Line::NotYet),
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
    use crate::kernel_resync::ResyncRequests;
    use crate::server::frame;
    use crate::server::verify::Verification;

    /// A server's world without an engine.
    fn world() -> World {
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let now = Instant::now();
        let (wishes, _) = ResyncRequests::channel(waker.clone());
        let (askers, published) = (Arc::new([]), Arc::new([]));
        let committer = Arc::new(Mutex::new(Batch::open("commit").unwrap()));
        let access = Access {
            workers: askers,
            committer,
            shared_counters: published,
            replication: None,
            takeover: Arc::default(),
            resync_requests: wishes,
            backend: "none",
            flows_max: 0,
            began: now,
        };
        World {
            access,
            waker,
            orders: Box::new(drop),
            verification: Verification::default(),
            errands: Arc::default(),
            flushes: Arc::default(),
            waiting_since: None,
            clients: 1,
            now,
        }
    }

    fn client(world: &World) -> (Client, Peer) {
        let (ours, theirs) = Peer::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Client::new(UnixStream::from_std(ours), world.now), theirs)
    }

    /// What the client was told last.
    fn last(mut peer: Peer) -> (Kind, String) {
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (mut payload, mut last) = (Vec::new(), None);
        while let Ok(kind) = frame::read(&mut peer, &mut payload) {
            last = Some((kind, String::from_utf8_lossy(&payload).into_owned()));
        }
        last.unwrap()
    }

    #[test]
    fn a_request_may_come_in_pieces_and_end_where_its_client_has_no_more_to_say() {
        let mut world = world();
        let (mut client, mut peer) = client(&world);
        for piece in ["{\"version\":1,", "\"do\":\"status\"", "}"] {
            peer.write_all(piece.as_bytes()).unwrap();
            assert!(matches!(client.serve(&mut world), Served::GoesOn(_)));
        }
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.serve(&mut world), Served::Ended);
        drop(client);
        assert_eq!(last(peer).0, Kind::Done);
    }

    #[test]
    fn one_that_says_nothing_is_closed_after_the_bound_and_not_before() {
        let mut world = world();
        let (mut client, peer) = client(&world);
        world.now += SERVER_REQUEST_MAX - Duration::from_millis(1);
        assert!(matches!(client.serve(&mut world), Served::GoesOn(_)));
        world.now += Duration::from_millis(1);
        assert_eq!(client.serve(&mut world), Served::Ended);
        drop(client);
        let (kind, text) = last(peer);
        assert!(kind == Kind::Failed && text.contains("no request came within 5 s"), "{text}");
    }

    #[test]
    fn one_that_does_not_read_is_closed_after_the_bound_and_one_that_reads_slowly_is_not() {
        let mut world = world();
        let (mut client, mut peer) = client(&world);
        client.state = State::Ending;
        client.out.frame(Kind::Messages, &vec![7; 4 * 1_024 * 1_024]);
        for _ in 0..5 {
            assert!(matches!(client.serve(&mut world), Served::GoesOn(_)));
            world.now += SERVER_UNREAD_MAX - Duration::from_millis(1);
            peer.read_exact(&mut vec![0; 64 * 1_024]).unwrap();
        }
        assert!(matches!(client.serve(&mut world), Served::GoesOn(_)));
        world.now += SERVER_UNREAD_MAX;
        assert_eq!(client.serve(&mut world), Served::Ended);
    }

    #[test]
    fn a_line_has_its_bound() {
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
