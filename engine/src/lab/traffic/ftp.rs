//! As much of FTP (RFC 959, RFC 2428) as a firewall reads: a client announces where it awaits its data, and the server
//! connects to it from there on, when it is told to send.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::lab::{Host, LabError};

/// Longer than TCP takes between two tries after some seconds of silence.
const LONGEST: Duration = Duration::from_secs(10);
/// A transfer is this slow, so that something can happen meanwhile.
const PIECE: [u8; 64] = [0xf7; 64];
const PIECE_INTERVAL: Duration = Duration::from_millis(10);

/// Serves on `host` at each of `addresses`, which are open when this returns, until the process ends.
///
/// # Errors
/// [`LabError::System`] when an address is not the host's, or taken.
pub fn serve_ftp(host: &Host, addresses: &[SocketAddr]) -> Result<(), LabError> {
    let addresses = addresses.to_vec();
    host.run(move || addresses.into_iter().try_for_each(start_server))
        .map_err(|error| LabError::system("start the FTP server", error))
}

fn start_server(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let accept = move || {
        for control in listener.incoming().flatten() {
            // A session ends with its connection, however that ends.
            let _ = thread::Builder::new().name("ftp-session".into()).spawn(move || serve_session(&control));
        }
    };
    thread::Builder::new().name("ftp".into()).spawn(accept).map(drop)
}

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

fn send_data(to: SocketAddr, pieces: usize) -> io::Result<()> {
    let mut data = TcpStream::connect_timeout(&to, LONGEST)?;
    data.set_nodelay(true)?;
    (0..pieces).try_for_each(|_| {
        thread::sleep(PIECE_INTERVAL);
        data.write_all(&PIECE)
    })
}

/// `h1,h2,h3,h4,p1,p2`, or `|2|address|port|`.
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

/// The connection that is awaited, or an error after [`LONGEST`].
fn accept_data(listener: &TcpListener) -> io::Result<TcpStream> {
    let socket = socket2::SockRef::from(listener);
    socket.set_read_timeout(Some(LONGEST))?; // `accept` heeds it, too
    Ok(listener.accept()?.0)
}

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
    data_listener: Option<TcpListener>,
}

/// Data on its way.
#[derive(Debug)]
pub struct Transfer {
    data: TcpStream,
    pieces: usize,
}

impl FtpSession {
    /// Connects from the calling thread's namespace.
    ///
    /// # Errors
    /// [`LabError::System`], as whatever follows, when an answer does not come, or is another than it should be.
    pub fn open(server: SocketAddr) -> Result<Self, LabError> {
        Self::try_open(server).map_err(|error| LabError::system(format!("open an FTP session with {server}"), error))
    }

    /// Says where the next transfer's data is awaited: from here on, every firewall between expects it.
    ///
    /// # Errors
    /// As above.
    pub fn announce(&mut self) -> Result<(), LabError> {
        self.try_announce().map_err(|error| LabError::system("announce an FTP transfer", error))
    }

    /// Has what was announced begin; it takes 10 ms a piece.
    ///
    /// # Errors
    /// As above.
    pub fn start_transfer(&mut self, pieces: usize) -> Result<Transfer, LabError> {
        self.try_start_transfer(pieces).map_err(|error| LabError::system("begin an FTP transfer", error))
    }

    /// Waits until all of a transfer has come, and for the server's word on it.
    ///
    /// # Errors
    /// As above; something else came, or less.
    pub fn finish_transfer(&mut self, transfer: Transfer) -> Result<(), LabError> {
        self.try_finish_transfer(transfer).map_err(|error| LabError::system("finish an FTP transfer", error))
    }

    fn try_open(server: SocketAddr) -> io::Result<Self> {
        let control = TcpStream::connect_timeout(&server, LONGEST)?;
        control.set_read_timeout(Some(LONGEST))?;
        control.set_nodelay(true)?;
        let mut session = Self { control: BufReader::new(control), data_listener: None };
        session.expect_reply("220")?;
        session.send_command("USER anonymous")?; // helpers read from the second command on
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
            return Err(io::Error::other(format!("{} bytes came of {}", all.len(), pieces * PIECE.len())));
        }
        self.expect_reply("226")
    }

    fn send_command(&mut self, command: &str) -> io::Result<()> {
        self.control.get_ref().write_all(format!("{command}\r\n").as_bytes())
    }

    fn expect_reply(&mut self, code: &str) -> io::Result<()> {
        let mut line = String::new();
        self.control.read_line(&mut line)?;
        if line.starts_with(code) { Ok(()) } else { Err(io::Error::other(format!("the server says {line:?}"))) }
    }
}
