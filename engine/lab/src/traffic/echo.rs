//! An echo server for TCP and UDP in one thread.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::{Host, LabError};

/// The most open connections; further ones are closed as soon as they are accepted. The number stays below the usual
/// limit of 1,024 descriptors a process.
const MOST_CONNECTIONS: usize = 512;
/// The most ready sockets that one poll returns.
const MOST_EVENTS: usize = 256;
/// The bytes of one read; payloads of clients are rarely longer.
const READ_BYTES: usize = 16 * 1024;
/// The interval at which all listeners are tried without an event. A listener whose `accept` failed without free
/// descriptors gets no second event.
const RETRY: Duration = Duration::from_millis(100);
const WAKE: Token = Token(usize::MAX);

/// A running echo server. It stops when dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts a server that listens on `host` at each of `addresses`, by both TCP and UDP. The sockets are open when
    /// this returns.
    ///
    /// # Errors
    /// [`LabError::System`] when an address is not the host's or is in use.
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
        let _ = self.waker.wake(); // on failure the thread notices the stop after `RETRY`
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The state of the server's thread. Tokens number the listeners first, then the datagram sockets, then the
/// connections.
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

    /// Serves until `stop` is set.
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

    /// Accepts from or echoes on the socket of `token`.
    fn on_readable(&mut self, token: Token, buffer: &mut [u8]) {
        if token.0 < self.listeners.len() {
            self.accept_waiting(token.0);
        } else if let Some(socket) = self.datagrams.get(token.0 - self.listeners.len()) {
            echo_datagrams(socket, buffer);
        } else if let Some(stream) = self.connections.get_mut(&token)
            && echo_stream(stream, buffer).is_err()
        {
            self.connections.remove(&token); // closes the connection, which ends its flow
        }
    }

    /// Accepts all connections that wait at a listener.
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

/// Echoes all datagrams that wait at a socket. A datagram is lost when the send buffer is full.
fn echo_datagrams(socket: &UdpSocket, buffer: &mut [u8]) {
    while let Ok((length, client)) = socket.recv_from(buffer) {
        let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), client);
    }
}

/// Echoes all data that waits at a connection. Returns an error when the connection is to be closed: the client has
/// closed it, or does not read the echo.
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
