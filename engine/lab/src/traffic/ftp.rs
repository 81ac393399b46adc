//! The part of FTP (RFC 959, RFC 2428) that a firewall's helper reads: the client announces the address where it awaits
//! data, and the server connects to that address when the client requests a transfer.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::{Host, LabError};

/// How long a reply or data is awaited: longer than TCP's retransmission interval after some seconds without a path.
const LONGEST: Duration = Duration::from_secs(10);
/// The data of one piece of a transfer.
const PIECE: [u8; 64] = [0xf7; 64];
/// The time before each piece. Transfers are slow, so that a takeover can happen during one.
const PIECE_INTERVAL: Duration = Duration::from_millis(10);

/// Starts an FTP server on `host` at each of `addresses`. The sockets are open when this returns; the servers run until
/// the process ends.
///
/// # Errors
/// [`LabError::System`] when an address is not the host's or is in use.
pub fn serve_ftp(host: &Host, addresses: &[SocketAddr]) -> Result<(), LabError> {
    let addresses = addresses.to_vec();
    host.run(move || addresses.into_iter().try_for_each(start_server))
        .map_err(|error| LabError::system("start the FTP server", error))
}

/// Listens at `address`, and serves each control connection on a thread of its own.
fn start_server(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let accept = move || {
        for control in listener.incoming().flatten() {
            // A session ends with its connection. Its error concerns nothing else, so it is ignored.
            let _ = thread::Builder::new().name("ftp-session".into()).spawn(move || serve_session(&control));
        }
    };
    thread::Builder::new().name("ftp".into()).spawn(accept).map(drop)
}

/// Answers the commands of one control connection until the client closes it.
fn serve_session(control: &TcpStream) -> io::Result<()> {
    let mut replies = control;
    replies.write_all(b"220 ready\r\n")?;
    let mut announced = None;
    for line in BufReader::new(control).lines() {
        let line = line?;
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let reply: &[u8] = match command {
            "USER" => b"230 welcome\r\n",
            "PORT" | "EPRT" => {
                announced = parse(argument);
                if announced.is_some() { b"200 noted\r\n" } else { b"501 not understood\r\n" }
            }
            "RETR" => match announced.take() {
                Some(address) => {
                    replies.write_all(b"150 here it comes\r\n")?;
                    let sent = argument.parse().map_err(io::Error::other).and_then(|pieces| send_data(address, pieces));
                    if sent.is_ok() { b"226 that was it\r\n" } else { b"425 no data connection\r\n" }
                }
                None => b"503 where to?\r\n",
            },
            _ => b"502 not implemented\r\n",
        };
        replies.write_all(reply)?;
    }
    Ok(())
}

/// Connects to the client's address and sends `pieces` pieces.
fn send_data(to: SocketAddr, pieces: usize) -> io::Result<()> {
    let mut data = TcpStream::connect_timeout(&to, LONGEST)?;
    data.set_nodelay(true)?;
    (0..pieces).try_for_each(|_| {
        thread::sleep(PIECE_INTERVAL);
        data.write_all(&PIECE)
    })
}

/// Parses the argument of PORT (`h1,h2,h3,h4,p1,p2`) or EPRT (`|2|address|port|`).
fn parse(announced: &str) -> Option<SocketAddr> {
    if let Some(extended) = announced.strip_prefix('|') {
        let mut fields = extended.split('|').skip(1);
        let address: IpAddr = fields.next()?.parse().ok()?;
        return Some((address, fields.next()?.parse().ok()?).into());
    }
    let numbers: Vec<u8> = announced.split(',').map(|number| number.trim().parse().ok()).collect::<Option<_>>()?;
    let [a, b, c, d, high, low] = numbers[..] else { return None };
    Some(([a, b, c, d], u16::from_be_bytes([high, low])).into())
}

/// Accepts the data connection, or fails after [`LONGEST`].
fn accept_data(listener: &TcpListener) -> io::Result<TcpStream> {
    let socket = socket2::SockRef::from(listener);
    socket.set_read_timeout(Some(LONGEST))?; // SO_RCVTIMEO applies to `accept`, too
    Ok(listener.accept()?.0)
}

/// The command that announces `address`: PORT for IPv4, EPRT for IPv6.
fn port_command(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            let [high, low] = address.port().to_be_bytes();
            format!("PORT {a},{b},{c},{d},{high},{low}")
        }
        IpAddr::V6(ip) => format!("EPRT |2|{ip}|{}|", address.port()),
    }
}

/// A client's control connection.
#[derive(Debug)]
pub struct FtpSession {
    control: BufReader<TcpStream>,
    /// The socket at the announced address, until a transfer starts.
    data_listener: Option<TcpListener>,
}

/// A transfer in progress.
#[derive(Debug)]
pub struct Transfer {
    data: TcpStream,
    pieces: usize,
}

impl FtpSession {
    /// Connects from the calling thread's namespace and logs in.
    ///
    /// # Errors
    /// [`LabError::System`] when the server does not reply within 10 s, or replies with another code than expected.
    pub fn open(server: SocketAddr) -> Result<Self, LabError> {
        Self::try_open(server).map_err(|error| LabError::system(format!("open an FTP session with {server}"), error))
    }

    /// Announces the address where the next transfer's data is awaited. From here on every firewall on the path expects
    /// the data connection.
    ///
    /// # Errors
    /// [`LabError::System`], as for [`FtpSession::open`].
    pub fn announce(&mut self) -> Result<(), LabError> {
        self.try_announce().map_err(|error| LabError::system("announce an FTP transfer", error))
    }

    /// Starts the announced transfer. It takes 10 ms a piece.
    ///
    /// # Errors
    /// [`LabError::System`], as for [`FtpSession::open`]; also when nothing was announced.
    pub fn start_transfer(&mut self, pieces: usize) -> Result<Transfer, LabError> {
        self.try_start_transfer(pieces).map_err(|error| LabError::system("start an FTP transfer", error))
    }

    /// Receives all data of a transfer, and waits for the server's final reply.
    ///
    /// # Errors
    /// [`LabError::System`], as for [`FtpSession::open`]; also when data is missing or differs.
    pub fn finish_transfer(&mut self, transfer: Transfer) -> Result<(), LabError> {
        self.try_finish_transfer(transfer).map_err(|error| LabError::system("finish an FTP transfer", error))
    }

    fn try_open(server: SocketAddr) -> io::Result<Self> {
        let control = TcpStream::connect_timeout(&server, LONGEST)?;
        control.set_read_timeout(Some(LONGEST))?;
        control.set_nodelay(true)?;
        let mut session = Self { control: BufReader::new(control), data_listener: None };
        session.expect_reply("220")?;
        session.send_command("USER anonymous")?; // helpers parse from the second command on
        session.expect_reply("230")?;
        Ok(session)
    }

    fn try_announce(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind((self.control.get_ref().local_addr()?.ip(), 0))?;
        let command = port_command(listener.local_addr()?);
        self.data_listener = Some(listener);
        self.send_command(&command)?;
        self.expect_reply("200")
    }

    fn try_start_transfer(&mut self, pieces: usize) -> io::Result<Transfer> {
        let listener = self.data_listener.take().ok_or_else(|| io::Error::other("nothing was announced"))?;
        self.send_command(&format!("RETR {pieces}"))?;
        self.expect_reply("150")?;
        let data = accept_data(&listener)?;
        data.set_read_timeout(Some(LONGEST))?;
        Ok(Transfer { data, pieces })
    }

    fn try_finish_transfer(&mut self, Transfer { mut data, pieces }: Transfer) -> io::Result<()> {
        let mut all = Vec::new();
        data.read_to_end(&mut all)?;
        if all != PIECE.repeat(pieces) {
            return Err(io::Error::other(format!("received {} bytes, expected {}", all.len(), pieces * PIECE.len())));
        }
        self.expect_reply("226")
    }

    fn send_command(&mut self, command: &str) -> io::Result<()> {
        self.control.get_ref().write_all(format!("{command}\r\n").as_bytes())
    }

    /// Reads one reply, and checks that it starts with `code`.
    fn expect_reply(&mut self, code: &str) -> io::Result<()> {
        let mut line = String::new();
        self.control.read_line(&mut line)?;
        if line.starts_with(code) {
            return Ok(());
        }
        Err(io::Error::other(format!("expected reply {code}, received {line:?}")))
    }
}
