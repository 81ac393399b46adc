//! Acknowledged requests to rtnetlink and nf_tables. A refusal keeps the kernel's text.
//!
//! The kernel reports every refusal, whether an acknowledgement was requested or not, and does so before it
//! acknowledges a later request. So an acknowledgement of the last request is enough, and a long batch cannot overrun
//! the socket with acknowledgements. The kernel processes a request within `send` and queues its answers on the socket,
//! so reading never waits.

pub mod nft;
pub mod rtnetlink;

use std::fmt;
use std::io;

use ctflow_parser::frame::{Ack, Message, Messages};
use ctflow_parser::write::Full;
use thiserror::Error;

use crate::os_error::os_error_text;
use crate::sys::netlink::{NetlinkSocket, Protocol};

/// The length of the receive buffer. A datagram holds one acknowledgement of 36 bytes, or one refusal, which has some
/// text in addition.
const ANSWER_BYTES: usize = 4096;

/// A netlink request failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// A system call failed; usually because of a limit on descriptors.
    #[error("cannot {operation}: {text}", text = os_error_text(.source))]
    System {
        /// The operation and its object, as a verb phrase.
        operation: String,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused a netlink request; usually because it was built without the feature.
    #[error("kernel refused to {operation}: {refusal}")]
    Refused {
        /// The requested operation, as a verb phrase.
        operation: String,
        /// The kernel's reason.
        refusal: Refusal,
    },
    /// The kernel's answer to a netlink request does not parse.
    #[error("kernel's answer to \"{operation}\" is malformed")]
    Malformed {
        /// The requested operation, as a verb phrase.
        operation: String,
    },
    /// A request is larger than its buffer.
    #[error("\"{operation}\" does not fit one netlink request: split it")]
    TooLarge {
        /// The requested operation, as a verb phrase.
        operation: String,
    },
}

impl NetlinkError {
    /// A [`NetlinkError::System`].
    fn system(operation: impl Into<String>, source: io::Error) -> Self {
        Self::System { operation: operation.into(), source }
    }

    /// Makes a [`NetlinkError::TooLarge`] of the writer's error.
    pub fn too_large(operation: &str) -> impl FnOnce(Full) -> Self {
        move |Full| Self::TooLarge { operation: operation.to_owned() }
    }
}

/// The kernel's reason for a refusal: its errno, and the text and offset of its extended acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number, positive.
    pub errno: i32,
    /// The kernel's text, where it sent one.
    pub text: Option<String>,
    /// The offset of the offending attribute, in bytes from the request's netlink header.
    pub offset: Option<u32>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", os_error_text(&io::Error::from_raw_os_error(self.errno)))?;
        if let Some(text) = &self.text {
            write!(f, ": {text}")?;
        }
        self.offset.map_or(Ok(()), |offset| write!(f, " (at byte {offset} of the request)"))
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Requests {
    socket: NetlinkSocket,
}

impl Requests {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let socket =
            NetlinkSocket::open(protocol).map_err(|error| NetlinkError::system("open a netlink socket", error))?;
        socket
            .set_extended_ack()
            .and_then(|()| socket.set_capped_ack())
            .map_err(|error| NetlinkError::system("enable netlink's extended acknowledgements", error))?;
        Ok(Self { socket })
    }

    /// The socket, for queries between two requests.
    pub fn socket(&self) -> &NetlinkSocket {
        &self.socket
    }

    /// Sends `requests`, of which the last must request an acknowledgement, and waits for that or for a refusal.
    ///
    /// The sequence numbers of the requests count from 1 and select the name in `operations` for the error; any other
    /// number selects `whole`.
    pub fn perform(&self, requests: &[u8], operations: &[String], whole: &str) -> Result<(), NetlinkError> {
        let mut buffer = [0; ANSWER_BYTES];
        // Drops refusals that an earlier batch left unread.
        while let Ok(Some(_)) = self.socket.try_receive(&mut buffer) {}
        self.socket
            .send(requests)
            .map_err(|error| NetlinkError::system(format!("send \"{whole}\" to the kernel"), error))?;
        loop {
            let ack = self.receive_ack(&mut buffer, whole)?;
            let index = usize::try_from(ack.seq).ok().and_then(|seq| seq.checked_sub(1));
            if ack.errno != 0 {
                let operation = index.and_then(|index| operations.get(index)).map_or(whole, String::as_str);
                return Err(NetlinkError::Refused { operation: operation.to_owned(), refusal: Refusal::of(&ack) });
            }
            if index.is_some_and(|index| index + 1 == operations.len()) {
                return Ok(());
            }
        }
    }

    /// Receives one acknowledgement or refusal.
    fn receive_ack<'b>(&self, buffer: &'b mut [u8], operation: &str) -> Result<Ack<'b>, NetlinkError> {
        let length = self
            .socket
            .receive(buffer)
            .map_err(|error| NetlinkError::system(format!("read the answer to \"{operation}\""), error))?;
        match buffer.get(..length).and_then(|frame| Messages::new(frame).next()) {
            Some(Ok(Message::Ack(ack))) => Ok(ack),
            _ => Err(NetlinkError::Malformed { operation: operation.to_owned() }),
        }
    }
}

impl Refusal {
    /// The reason in a refusal.
    fn of(ack: &Ack<'_>) -> Self {
        Self { errno: ack.errno, text: ack.text.map(str::to_owned), offset: ack.attr_offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_one_line() {
        let refusal =
            Refusal { errno: libc::EINVAL, text: Some("Nexthop has invalid gateway".into()), offset: Some(36) };
        assert_eq!(refusal.to_string(), "Invalid argument: Nexthop has invalid gateway (at byte 36 of the request)");
    }
}
