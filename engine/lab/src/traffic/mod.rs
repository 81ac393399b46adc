//! Real traffic: echo servers, clients that exchange data with them at a steady pace, and floods of one-packet flows.
//!
//! All traffic belongs to the namespace of the host that it is started on. A paced [`Traffic`] has one thread for TCP
//! and one for UDP. Each makes one exchange after the other, and every exchange is a flow of its own. A thread that is
//! late skips exchanges and counts them in `skipped`; it never catches up in bursts. A [`Flood`] is for speed: it makes
//! hundreds of thousands of new flows a second.

mod echo;
mod flood;
mod ftp;
mod paced;
mod streams;

pub use echo::Echo;
pub use flood::Flood;
pub use ftp::{FtpSession, Transfer, serve_ftp};
pub use paced::{Progress, Running, Traffic};
pub use streams::{StreamReport, Streams, Target};

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::error::LabError;

/// How long a reply is awaited. Within one machine a reply takes microseconds, so a later one was lost.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// The longest payload of a TCP exchange. The client writes it all before it reads, so the socket buffers on the path
/// must hold it.
pub const TCP_PAYLOAD_BYTES: usize = 64 * 1024;
/// The longest payload of a UDP exchange that crosses the lab's links unfragmented, by IPv4 and IPv6.
pub const UDP_PAYLOAD_BYTES: usize = 1400;

/// Connects from the calling thread's namespace, sends `payload`, awaits its echo, and closes.
///
/// # Errors
/// [`LabError::System`] when the connection is refused or lost, echoes something else, or cannot hold `payload`
/// ([`TCP_PAYLOAD_BYTES`]).
pub fn tcp_exchange(server: SocketAddr, payload: &[u8]) -> Result<(), LabError> {
    try_tcp_exchange(server, payload)
        .map_err(|error| LabError::system(format!("exchange {} bytes with {server} by TCP", payload.len()), error))
}

/// Sends `payload` as one datagram from a new port, and awaits its echo.
///
/// # Errors
/// [`LabError::System`] when no echo arrives within two seconds, or it differs.
pub fn udp_exchange(server: SocketAddr, payload: &[u8]) -> Result<(), LabError> {
    try_udp_exchange(server, payload)
        .map_err(|error| LabError::system(format!("exchange {} bytes with {server} by UDP", payload.len()), error))
}

fn try_tcp_exchange(server: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_WAIT)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    stream.write_all(payload)?;
    let mut echo = vec![0; payload.len()];
    stream.read_exact(&mut echo)?;
    stream.shutdown(Shutdown::Write)?;
    let rest = stream.read(&mut [0])?; // returns when the server has closed, too: the flow has ended
    check_echo(&echo, payload, rest)
}

fn try_udp_exchange(server: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_WAIT))?;
    socket.send(payload)?;
    let mut echo = vec![0; payload.len() + 1];
    let length = socket.recv(&mut echo)?;
    check_echo(echo.get(..length).unwrap_or_default(), payload, 0)
}

/// Checks that the echo equals the payload and that `rest`, the number of bytes after it, is 0.
fn check_echo(echo: &[u8], payload: &[u8], rest: usize) -> io::Result<()> {
    if echo == payload && rest == 0 { Ok(()) } else { Err(io::Error::other("the echo differs from what was sent")) }
}
