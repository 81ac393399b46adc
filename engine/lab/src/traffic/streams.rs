//! Long-lived connections: each sends a number every 10 ms and awaits the echo of every number, in order.
//!
//! The time of a takeover shows as the longest time for which a stream receives nothing. A TCP stream fails when a
//! number is missing or arrives twice. A UDP stream may lose datagrams; it fails when no echo arrives at the end.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::ANSWER_WAIT;
use crate::{Host, LabError};

/// Time between two numbers of a stream.
const INTERVAL: Duration = Duration::from_millis(10);
/// The most numbers of a TCP stream without an echo: few enough for the kernel to treat the stream as thin, so that it
/// retransmits at a constant interval while the path is interrupted.
const UNANSWERED_MAX: u64 = 3;
/// How long the last echoes are awaited after the stop: longer than TCP's retransmission interval after some seconds
/// without a path.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// The bytes of an encoded number.
const NUMBER: usize = 8;

/// The server and protocol of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// An echo server for TCP.
    Tcp(SocketAddr),
    /// An echo server for UDP.
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

/// The result of a stream.
#[derive(Debug)]
pub struct StreamReport {
    /// The server and protocol of the stream.
    pub target: Target,
    /// The longest time between two echoes; the start counts as one.
    pub silence: Duration,
    /// The number of echoes received.
    pub echoes: u64,
    /// The reason why the stream failed; `None` when it did not.
    pub died: Option<String>,
}

/// Running streams. They stop when dropped.
#[derive(Debug)]
pub struct Streams {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<StreamReport>>,
}

impl Streams {
    /// Opens a stream from `host` to each target. All are connected when this returns.
    ///
    /// # Errors
    /// [`LabError::System`] when a connection cannot be opened.
    pub fn start(host: &Host, targets: &[Target]) -> Result<Self, LabError> {
        let mut streams = Self { stop: Arc::default(), threads: Vec::new() };
        for target in targets.iter().copied() {
            let stop = streams.stop.clone();
            let failed = move |error| LabError::system(format!("open a stream to {target}"), error);
            let thread = host.run(move || {
                let socket = StreamSocket::open(target).map_err(failed)?;
                let flow = move || run_stream(target, socket, &stop);
                thread::Builder::new().name("stream".into()).spawn(flow).map_err(failed)
            })?;
            streams.threads.push(thread);
        }
        Ok(streams)
    }

    /// Stops the streams, waits for the last echoes, and returns the result of each stream.
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

/// A stream's socket; for TCP with the received bytes of a number that is not complete yet.
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
            // An error means that the path is interrupted: the datagram is lost, and `silence` shows it.
            Self::Udp(socket) => socket.send(&number.to_be_bytes()).map(drop).or(Ok(())),
        }
    }

    /// Returns the numbers received; waits for the first at most [`INTERVAL`].
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
                Err(_) => Ok(Vec::new()), // an unreachable host counts as silence
            },
        }
    }
}

/// Whether a read failed only because nothing has arrived yet.
fn is_no_data(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Runs one stream until it is stopped or fails.
fn run_stream(target: Target, mut socket: StreamSocket, stop: &AtomicBool) -> StreamReport {
    let mut report = StreamReport { target, silence: Duration::ZERO, echoes: 0, died: None };
    if let Err(why) = exchange_numbers(&mut socket, stop, &mut report) {
        report.died = Some(why.to_string());
    }
    report
}

/// Sends numbers and receives their echoes until `stop` is set and the last echoes have arrived.
fn exchange_numbers(socket: &mut StreamSocket, stop: &AtomicBool, report: &mut StreamReport) -> io::Result<()> {
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
                return Err(io::Error::other(format!("no echo of {} of {sent} numbers", sent - expected)));
            }
            if matches!(socket, StreamSocket::Udp(_)) && last >= since {
                return Ok(()); // an echo has arrived since the stop: the path works
            }
        }
        let may_send = match socket {
            StreamSocket::Tcp(..) => stopped.is_none() && sent - expected < UNANSWERED_MAX,
            StreamSocket::Udp(_) => true, // also after the stop, until one echo arrives
        };
        if may_send && now >= due {
            socket.send(sent)?;
            sent += 1;
            due = now + INTERVAL;
        }
        for number in socket.receive()? {
            if matches!(socket, StreamSocket::Tcp(..)) && number != expected {
                return Err(io::Error::other(format!("received number {number} instead of {expected}")));
            }
            expected = number + 1;
            report.echoes += 1;
            report.silence = report.silence.max(last.elapsed());
            last = Instant::now();
        }
    }
}
