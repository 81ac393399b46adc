//! Connections that stay: each sends a number now and then, and awaits the echo of every one, in order.
//!
//! A firewall that fails and is replaced shows in how long a stream hears nothing. What a stream of TCP misses, or gets
//! twice, ends it; of UDP datagrams may be lost, but not the way.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::ANSWER_WAIT;
use crate::lab::{Host, LabError};

/// Time between two numbers of a stream.
const INTERVAL: Duration = Duration::from_millis(10);
/// Numbers by TCP that may await their echoes: few enough for the kernel to call the stream thin, so that it tries a way
/// that is gone at a steady pace.
const UNANSWERED_MAX: u64 = 3;
/// How long the echoes of the last numbers are awaited, and how long ago the last of UDP may be: longer than TCP takes
/// between two tries after some seconds of silence.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// Bytes of a number.
const NUMBER: usize = 8;

/// Where a stream goes, and by which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A server that echoes by TCP.
    Tcp(SocketAddr),
    /// One that does by UDP.
    Udp(SocketAddr),
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(server) => write!(out, "{server} by TCP"),
            Self::Udp(server) => write!(out, "{server} by UDP"),
        }
    }
}

/// What became of a stream.
#[derive(Debug)]
pub struct StreamReport {
    /// Where it went.
    pub target: Target,
    /// The longest that it heard nothing.
    pub silence: Duration,
    /// Numbers that came back.
    pub echoes: u64,
    /// Why it is not alive any more, if so.
    pub died: Option<String>,
}

/// Streams that are flowing. Dropping it ends them.
#[derive(Debug)]
pub struct Streams {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<StreamReport>>,
}

impl Streams {
    /// Opens a stream to each target from `host`; all are connected when this returns.
    ///
    /// # Errors
    /// [`LabError::System`] when a connection cannot be made.
    pub fn start(host: &Host, targets: &[Target]) -> Result<Self, LabError> {
        let mut streams = Self { stop: Arc::default(), threads: Vec::new() };
        for target in targets.iter().copied() {
            let stop = streams.stop.clone();
            let failed = move |error| LabError::system(format!("open a stream to {target}"), error);
            let thread = host.run(move || {
                let line = StreamSocket::open(target).map_err(failed)?;
                let flow = move || run_stream(target, line, &stop);
                thread::Builder::new().name("stream".into()).spawn(flow).map_err(failed)
            })?;
            streams.threads.push(thread);
        }
        Ok(streams)
    }

    /// Sends no more, waits for what is still to come back, and says what became of each.
    #[must_use]
    pub fn finish(mut self) -> Vec<StreamReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).filter_map(|thread| thread.join().ok()).collect()
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A stream's socket.
enum StreamSocket {
    Tcp(TcpStream, Vec<u8>),
    Udp(UdpSocket),
}

impl StreamSocket {
    fn open(target: Target) -> io::Result<Self> {
        match target {
            Target::Tcp(server) => {
                let stream = TcpStream::connect_timeout(&server, ANSWER_WAIT)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(INTERVAL))?;
                Ok(Self::Tcp(stream, Vec::new()))
            }
            Target::Udp(server) => {
                let any: IpAddr =
                    if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind((any, 0))?;
                socket.connect(server)?;
                socket.set_read_timeout(Some(INTERVAL))?;
                Ok(Self::Udp(socket))
            }
        }
    }

    fn send(&mut self, number: u64) -> io::Result<()> {
        match self {
            Self::Tcp(stream, _) => stream.write_all(&number.to_be_bytes()),
            // A datagram that finds no way is lost, and that is for the silence to show.
            Self::Udp(socket) => socket.send(&number.to_be_bytes()).map(drop).or(Ok(())),
        }
    }

    /// The numbers that have come; waits a little for the first.
    fn receive(&mut self) -> io::Result<Vec<u64>> {
        let mut buffer = [0; 4096];
        match self {
            Self::Tcp(stream, rest) => {
                match stream.read(&mut buffer) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(length) => rest.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                    Err(error) if is_no_data(&error) => {}
                    Err(error) => return Err(error),
                }
                let whole = rest.len() - rest.len() % NUMBER;
                Ok(rest
                    .drain(..whole)
                    .collect::<Vec<_>>()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|n| u64::from_be_bytes(*n))
                    .collect())
            }
            Self::Udp(socket) => match socket.recv(&mut buffer) {
                Ok(_) => Ok(buffer.first_chunk().map(|number| u64::from_be_bytes(*number)).into_iter().collect()),
                Err(_) => Ok(Vec::new()), // an unreachable host is no more than silence
            },
        }
    }
}

fn is_no_data(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn run_stream(target: Target, mut line: StreamSocket, stop: &AtomicBool) -> StreamReport {
    let mut heard = StreamReport { target, silence: Duration::ZERO, echoes: 0, died: None };
    if let Err(why) = exchange_numbers(&mut line, stop, &mut heard) {
        heard.died = Some(why.to_string());
    }
    heard
}

fn exchange_numbers(line: &mut StreamSocket, stop: &AtomicBool, heard: &mut StreamReport) -> io::Result<()> {
    let (mut sent, mut expected) = (0u64, 0u64);
    let (mut last, mut due) = (Instant::now(), Instant::now());
    let mut stopped = None;
    loop {
        let now = Instant::now();
        if stop.load(Ordering::Relaxed) {
            let since = *stopped.get_or_insert(now);
            if expected == sent {
                return Ok(());
            }
            if now.duration_since(since) >= LAST_WAIT {
                return Err(io::Error::other(format!("{} of {sent} numbers never came back", sent - expected)));
            }
            if matches!(line, StreamSocket::Udp(_)) && last >= since {
                return Ok(()); // something sent since came back: the way is there
            }
        }
        let may_send = match line {
            StreamSocket::Tcp(..) => stopped.is_none() && sent - expected < UNANSWERED_MAX,
            StreamSocket::Udp(_) => true, // after the stop, too, for one of them to come back
        };
        if may_send && now >= due {
            line.send(sent)?;
            sent += 1;
            due = now + INTERVAL;
        }
        for number in line.receive()? {
            if matches!(line, StreamSocket::Tcp(..)) && number != expected {
                return Err(io::Error::other(format!("number {number} came where {expected} was to come")));
            }
            expected = number + 1;
            heard.echoes += 1;
            heard.silence = heard.silence.max(last.elapsed());
            last = Instant::now();
        }
    }
}
