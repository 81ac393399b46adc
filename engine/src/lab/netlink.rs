//! Checked requests to rtnetlink and nf_tables: the last is acknowledged, and a refusal keeps the kernel's words.
//!
//! The kernel reports every refusal, asked or not, and before the acknowledgement of what came after it. One
//! acknowledgement is therefore enough, and a long batch cannot overrun the socket with them.
//! The kernel works on a request within `send` and queues its answers on the socket, so reading never waits.

use ctflow_parser::frame::{Ack, Message, Messages};

use super::error::{LabError, Refusal};
use crate::sys::netlink::{NetlinkSocket, Protocol};

/// An acknowledgement takes 36 bytes, and a refusal some text on top; one datagram holds one of them.
const ANSWER_BYTES: usize = 4096;

/// A socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Requests {
    socket: NetlinkSocket,
}

impl Requests {
    pub(super) fn open(protocol: Protocol) -> Result<Self, LabError> {
        let socket = NetlinkSocket::open(protocol).map_err(|error| LabError::system("open a netlink socket", error))?;
        socket
            .set_extended_ack()
            .and_then(|()| socket.set_capped_ack())
            .map_err(|error| LabError::system("ask for netlink's extended answers", error))?;
        Ok(Self { socket })
    }

    /// Sends `requests`, of which the last asks for an acknowledgement, and waits for that or for a refusal. Their
    /// sequence numbers count from 1 and say which of `operations` was refused; any other number means `whole`.
    pub(super) fn perform(&self, requests: &[u8], operations: &[String], whole: &str) -> Result<(), LabError> {
        self.socket
            .send(requests)
            .map_err(|error| LabError::system(format!("send \"{whole}\" to the kernel"), error))?;
        let mut buffer = [0; ANSWER_BYTES];
        loop {
            let ack = self.answer(&mut buffer, whole)?;
            let index = usize::try_from(ack.seq).ok().and_then(|seq| seq.checked_sub(1));
            if ack.errno != 0 {
                let operation = index.and_then(|index| operations.get(index)).map_or(whole, String::as_str);
                return Err(LabError::Refused { operation: operation.to_owned(), refusal: Refusal::of(&ack) });
            }
            if index.is_some_and(|index| index + 1 == operations.len()) {
                return Ok(());
            }
        }
    }

    fn answer<'b>(&self, buffer: &'b mut [u8], operation: &str) -> Result<Ack<'b>, LabError> {
        let length = self
            .socket
            .receive(buffer)
            .map_err(|error| LabError::system(format!("read the answer to \"{operation}\""), error))?;
        match buffer.get(..length).and_then(|frame| Messages::new(frame).next()) {
            Some(Ok(Message::Ack(ack))) => Ok(ack),
            _ => Err(LabError::Malformed { operation: operation.to_owned() }),
        }
    }
}

impl Refusal {
    fn of(ack: &Ack<'_>) -> Self {
        Self { errno: ack.errno, text: ack.text.map(str::to_owned), offset: ack.attr_offset }
    }
}
