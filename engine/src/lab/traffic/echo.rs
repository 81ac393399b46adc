//! A server that sends back what it gets, by TCP and UDP, from one thread.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::lab::{Host, LabError};

/// Open connections; one more is closed as soon as it is accepted. Stays below the usual 1,024 descriptors a process.
const MOST_CONNECTIONS: usize = 512;
/// Listening sockets of which every one takes part in a poll.
const MOST_EVENTS: usize = 256;
/// Bytes of one read; a client's payload is rarely longer.
const READ_BYTES: usize = 16 * 1024;
/// Listeners are looked at this often without an event too: one that ran out of descriptors gets no second event.
const RETRY: Duration = Duration::from_millis(100);
const WAKE: Token = Token(usize::MAX);

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Listens on `host` at each of `addresses`, by TCP and UDP both; they are open when this returns.
    ///
    /// # Errors
    /// [`LabError::System`] when an address is not the host's, or taken.
    pub fn start(host: &Host, addresses: &[SocketAddr]) -> Result<Self, LabError> {
        let (addresses, name) = (addresses.to_vec(), host.name().to_owned());
        host.run(move || {
            let failed = |error| LabError::system(format!("start the echo server on {name}"), error);
            let (server, waker) = Server::open(&addresses).map_err(failed)?;
            let stop = Arc::clone(&server.stop);
            let thread = thread::Builder::new().name("echo".into()).spawn(move || server.serve()).map_err(failed)?;
            Ok(Self { stop, waker, thread: Some(thread) })
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.waker.wake(); // on failure it stops at its next retry
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The server's thread. Tokens: listeners first, then datagram sockets, then connections.
struct Server {
    poll: Poll,
    stop: Arc<AtomicBool>,
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    connections: HashMap<Token, TcpStream>,
    next: usize,
}

impl Server {
    fn open(addresses: &[SocketAddr]) -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let (mut listeners, mut datagrams) = (Vec::new(), Vec::new());
        for (index, address) in addresses.iter().enumerate() {
            let mut listener = TcpListener::bind(*address)?;
            poll.registry().register(&mut listener, Token(index), Interest::READABLE)?;
            listeners.push(listener);
            let mut socket = UdpSocket::bind(*address)?;
            poll.registry().register(&mut socket, Token(addresses.len() + index), Interest::READABLE)?;
            datagrams.push(socket);
        }
        let next = listeners.len() + datagrams.len();
        let stop = Arc::default();
        Ok((Self { poll, stop, listeners, datagrams, connections: HashMap::new(), next }, waker))
    }

    fn serve(mut self) {
        let mut events = Events::with_capacity(MOST_EVENTS);
        let mut buffer = vec![0; READ_BYTES];
        while !self.stop.load(Ordering::Relaxed) {
            if self.poll.poll(&mut events, Some(RETRY)).is_err() {
                continue; // interrupted by a signal
            }
            if events.is_empty() {
                (0..self.listeners.len()).for_each(|index| self.accept_waiting(index));
            }
            for event in &events {
                self.on_readable(event.token(), &mut buffer);
            }
        }
    }

    fn on_readable(&mut self, token: Token, buffer: &mut [u8]) {
        if token.0 < self.listeners.len() {
            self.accept_waiting(token.0);
        } else if let Some(socket) = self.datagrams.get(token.0 - self.listeners.len()) {
            echo_datagrams(socket, buffer);
        } else if let Some(stream) = self.connections.get_mut(&token)
            && echo_stream(stream, buffer).is_err()
        {
            self.connections.remove(&token); // closes it, which tells the client and ends the flow
        }
    }

    fn accept_waiting(&mut self, index: usize) {
        while let Some(Ok((mut stream, _))) = self.listeners.get(index).map(TcpListener::accept) {
            let token = Token(self.next);
            let registered = self.poll.registry().register(&mut stream, token, Interest::READABLE).is_ok();
            if registered && self.connections.len() < MOST_CONNECTIONS {
                self.next += 1;
                self.connections.insert(token, stream);
            }
        }
    }
}

/// Until nothing is left to read. A datagram that finds the send buffer full is lost, as datagrams are.
fn echo_datagrams(socket: &UdpSocket, buffer: &mut [u8]) {
    while let Ok((length, client)) = socket.recv_from(buffer) {
        let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), client);
    }
}

/// `Err` when the connection is to be closed: the client has, or it does not read what it is sent.
fn echo_stream(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => stream.write_all(buffer.get(..length).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
