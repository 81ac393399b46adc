//! Single requests: one datagram to the kernel, its answer and acknowledgement back.

use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::Record;
use ctflow_parser::request::REQUEST_BYTES;
use ctflow_parser::write::{Full, Writer};

use super::KernelError;
use crate::limits::DATAGRAM_BYTES;
use crate::sys::netlink::{NetlinkSocket, Protocol};

/// A socket for single requests.
#[derive(Debug)]
pub struct Requester {
    socket: NetlinkSocket,
    seq: u32,
}

impl Requester {
    /// Opens the socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`KernelError::Open`].
    pub fn open() -> Result<Self, KernelError> {
        let socket = NetlinkSocket::open(Protocol::Netfilter).map_err(KernelError::Open)?;
        // Where a kernel does not know these options, its refusals have no text.
        let _ = socket.set_extended_ack().and_then(|()| socket.set_capped_ack());
        Ok(Self { socket, seq: 0 })
    }

    /// Sends the request that `write` writes with the sequence number it is called with, and calls `each` with every
    /// record that the kernel returns, until the kernel acknowledges. `operation` is a verb phrase for the errors.
    ///
    /// # Errors
    /// [`KernelError::Refused`] with the kernel's text, and the other variants but [`KernelError::Open`] and
    /// [`KernelError::Unanswered`].
    pub fn request(
        &mut self,
        operation: &'static str,
        write: impl FnOnce(&mut Writer<'_>, u32) -> Result<(), Full>,
        mut each: impl FnMut(&Record<'_>),
    ) -> Result<(), KernelError> {
        self.seq = self.seq.wrapping_add(1);
        let mut buffer = [0; REQUEST_BYTES];
        let mut writer = Writer::new(&mut buffer);
        write(&mut writer, self.seq).map_err(|source| KernelError::TooLong { operation, source })?;
        let transport = |source| KernelError::Transport { operation, source };
        self.socket.send(writer.bytes()).map_err(transport)?;
        let mut buffer = [0; DATAGRAM_BYTES];
        loop {
            let bytes = self.socket.receive(&mut buffer).map_err(transport)?;
            let frame = buffer.get(..bytes).ok_or(KernelError::Cut { operation, bytes })?;
            for message in Messages::new(frame) {
                match message.map_err(|source| KernelError::Malformed { operation, source })? {
                    Message::Record(record) if record.seq() == self.seq => each(&record),
                    Message::Ack(ack) if ack.seq != self.seq => {}
                    Message::Ack(ack) if ack.errno == 0 => return Ok(()),
                    Message::Ack(ack) => return Err(KernelError::refused(operation, &ack)),
                    Message::Record(_) | Message::Done { .. } | Message::Other => {}
                }
            }
        }
    }
}
