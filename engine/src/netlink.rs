//! Checked requests to rtnetlink and nf_tables: the last is acknowledged, and a refusal keeps the kernel's words.
//!
//! The kernel reports every refusal, asked or not, and before the acknowledgement of what came after it. One
//! acknowledgement is therefore enough, and a long batch cannot overrun the socket with them.
//! The kernel works on a request within `send` and queues its answers on the socket, so reading never waits.

use std::fmt;
use std::io;

use ctflow_parser::frame::{Ack, Message, Messages};
use ctflow_parser::write::Full;
use thiserror::Error;

use crate::sys::netlink::{NetlinkSocket, Protocol};

/// An acknowledgement takes 36 bytes, and a refusal some text on top; one datagram holds one of them.
const ANSWER_BYTES: usize = 4096;

/// A request by netlink did not do what it was for.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// A system call failed; usually a limit on descriptors.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was being done, to what.
        operation: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel understood a netlink request and refused it; usually a part it was built without.
    #[error("kernel refused to {operation}: {refusal}")]
    Refused {
        /// What was asked.
        operation: String,
        /// The kernel's answer.
        refusal: Refusal,
    },
    /// The kernel's answer to a netlink request makes no sense.
    #[error("kernel's answer to \"{operation}\" is malformed")]
    Malformed {
        /// What was asked.
        operation: String,
    },
    /// More was asked of one request than its buffer holds.
    #[error("\"{operation}\" does not fit one netlink request: split it")]
    TooLarge {
        /// What was asked.
        operation: String,
    },
}

impl NetlinkError {
    fn system(operation: impl Into<String>, source: io::Error) -> Self {
        Self::System { operation: operation.into(), source }
    }

    pub(crate) fn too_large(operation: &str) -> impl FnOnce(Full) -> Self {
        move |Full| Self::TooLarge { operation: operation.to_owned() }
    }
}

/// The kernel's no: its errno, and from its extended acknowledgement the words and the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number, positive.
    pub errno: i32,
    /// The kernel's own words, where it has any.
    pub text: Option<String>,
    /// Where in the request, in bytes from its netlink header, the offending attribute is.
    pub offset: Option<u32>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(text) = &self.text {
            write!(f, ": {text}")?;
        }
        self.offset.map_or(Ok(()), |offset| write!(f, " (at byte {offset} of the request)"))
    }
}

/// A socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: NetlinkSocket,
}

impl Requests {
    pub(crate) fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let socket =
            NetlinkSocket::open(protocol).map_err(|error| NetlinkError::system("open a netlink socket", error))?;
        socket
            .set_extended_ack()
            .and_then(|()| socket.set_capped_ack())
            .map_err(|error| NetlinkError::system("ask for netlink's extended answers", error))?;
        Ok(Self { socket })
    }

    /// For questions, between two requests.
    pub(crate) fn socket(&self) -> &NetlinkSocket {
        &self.socket
    }

    /// Sends `requests`, of which the last asks for an acknowledgement, and waits for that or for a refusal. Their
    /// sequence numbers count from 1 and say which of `operations` was refused; any other number means `whole`.
    pub(crate) fn perform(&self, requests: &[u8], operations: &[String], whole: &str) -> Result<(), NetlinkError> {
        let mut buffer = [0; ANSWER_BYTES];
        while let Ok(Some(_)) = self.socket.try_receive(&mut buffer) {} // further refusals of what came before
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
        assert_eq!(
            refusal.to_string(),
            "Invalid argument (os error 22): Nexthop has invalid gateway (at byte 36 of the request)"
        );
    }
}
