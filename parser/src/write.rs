//! A writer of netlink messages into a caller's buffer. It allocates nothing, and writes nothing past the buffer's end.
//!
//! A [`Writer`] appends whole messages. It pads attributes to four bytes as it writes them, and fills in the lengths of
//! messages and nests at their end. A message that does not fit is removed as a whole.
//!
//! ```
//! use ctflow_parser::{uapi, write::Writer};
//!
//! let mut buffer = [0u8; 256];
//! let mut writer = Writer::new(&mut buffer);
//! writer.netfilter(uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET, uapi::NLM_F_REQUEST, 7, uapi::AF_INET, 0, |message| {
//!     message.be16(uapi::CTA_ZONE, 3)
//! })?;
//! assert_eq!(writer.bytes().len(), 16 + 4 + 8);
//! # Ok::<(), ctflow_parser::write::Full>(())
//! ```

#![allow(clippy::arithmetic_side_effects)] // positions never pass the buffer's length, so small sums cannot overflow

use thiserror::Error;
use zerocopy::FromBytes;

use crate::header::NlMsgHdr;
use crate::uapi::{NLA_F_NESTED, NLM_F_ACK};

/// The buffer has no room for what was to be written. Its earlier content is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the request is too long for its buffer")]
pub struct Full;

const NLMSG_HEADER_BYTES: usize = 16;
const NLA_HEADER_BYTES: usize = 4;

/// Appends netlink messages to a caller's buffer.
#[derive(Debug)]
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    /// The number of bytes written.
    length: usize,
}

impl<'b> Writer<'b> {
    /// A writer that starts at the front of `buffer`.
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, length: 0 }
    }

    /// The bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    /// The bytes written, with the lifetime of the buffer.
    #[must_use]
    pub fn into_bytes(self) -> &'b [u8] {
        let Self { buffer, length } = self;
        buffer.get(..length).unwrap_or_default()
    }

    /// Appends a message of any netlink family: its header, then what `body` writes.
    ///
    /// # Errors
    /// [`Full`] where the message does not fit. The earlier messages are unchanged then.
    pub fn message(
        &mut self,
        kind: u16,
        flags: u16,
        seq: u32,
        body: impl FnOnce(&mut Self) -> Result<(), Full>,
    ) -> Result<(), Full> {
        let start = self.length;
        let result = self.message_at(start, kind, flags, seq, body);
        if result.is_err() {
            self.length = start;
        }
        result
    }

    /// Appends a message at `start`, which is the current length. On an error a part of the message may be left.
    fn message_at(
        &mut self,
        start: usize,
        kind: u16,
        flags: u16,
        seq: u32,
        body: impl FnOnce(&mut Self) -> Result<(), Full>,
    ) -> Result<(), Full> {
        self.raw(&[0; NLMSG_HEADER_BYTES])?;
        body(self)?;
        let total = u32::try_from(self.length - start).map_err(|_| Full)?;
        self.overwrite(start, &total.to_ne_bytes())?;
        self.overwrite(start + 4, &kind.to_ne_bytes())?;
        self.overwrite(start + 6, &flags.to_ne_bytes())?;
        self.overwrite(start + 8, &seq.to_ne_bytes())
    }

    /// Appends a netfilter message: netlink header, `nfgenmsg` with `family` and `resource`, then what `body` writes.
    ///
    /// # Errors
    /// [`Full`] where the message does not fit. The earlier messages are unchanged then.
    #[allow(clippy::too_many_arguments)] // one for each field of the two headers, in wire order
    pub fn netfilter(
        &mut self,
        subsystem: u8,
        kind: u8,
        flags: u16,
        seq: u32,
        family: u8,
        resource: u16,
        body: impl FnOnce(&mut Self) -> Result<(), Full>,
    ) -> Result<(), Full> {
        self.message(u16::from_be_bytes([subsystem, kind]), flags, seq, |message| {
            message.family_header(family, crate::uapi::NFNETLINK_V0, resource)?;
            body(message)
        })
    }

    /// Appends a copy of `message` with the sequence number `seq`.
    ///
    /// # Errors
    /// [`Full`] where the message does not fit, or is shorter than a header.
    pub fn message_copy(&mut self, message: &[u8], seq: u32) -> Result<(), Full> {
        if message.len() < NLMSG_HEADER_BYTES {
            return Err(Full);
        }
        let start = self.length;
        self.raw(message)?;
        self.overwrite(start + 8, &seq.to_ne_bytes())
    }

    /// Appends an `nfgenmsg`.
    pub(crate) fn family_header(&mut self, family: u8, version: u8, resource: u16) -> Result<(), Full> {
        let [high, low] = resource.to_be_bytes();
        self.raw(&[family, version, high, low])
    }

    /// Appends bytes unchanged, padded to four.
    ///
    /// # Errors
    /// [`Full`] where they do not fit.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.append(&[bytes])
    }

    /// Appends one attribute with this payload.
    ///
    /// # Errors
    /// [`Full`] where it does not fit, or the payload exceeds the maximum of an attribute (65,531 bytes).
    pub fn attr(&mut self, kind: u16, payload: &[u8]) -> Result<(), Full> {
        let length = u16::try_from(NLA_HEADER_BYTES + payload.len()).map_err(|_| Full)?;
        self.append(&[&length.to_ne_bytes(), &kind.to_ne_bytes(), payload])
    }

    /// Appends an attribute with the nested flag, whose payload is what `body` writes.
    ///
    /// # Errors
    /// [`Full`] where it does not fit. Nothing of it is left then.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self) -> Result<(), Full>) -> Result<(), Full> {
        let start = self.length;
        let result = self.attr(kind | NLA_F_NESTED, &[]).and_then(|()| body(self)).and_then(|()| {
            let length = u16::try_from(self.length - start).map_err(|_| Full)?;
            self.overwrite(start, &length.to_ne_bytes())
        });
        if result.is_err() {
            self.length = start;
        }
        result
    }

    /// Appends an 8-bit attribute.
    ///
    /// # Errors
    /// [`Full`] where it does not fit.
    pub fn u8(&mut self, kind: u16, value: u8) -> Result<(), Full> {
        self.attr(kind, &[value])
    }

    /// Appends a 16-bit attribute in network order.
    ///
    /// # Errors
    /// [`Full`] where it does not fit.
    pub fn be16(&mut self, kind: u16, value: u16) -> Result<(), Full> {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a 32-bit attribute in network order.
    ///
    /// # Errors
    /// [`Full`] where it does not fit.
    pub fn be32(&mut self, kind: u16, value: u32) -> Result<(), Full> {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends an 8-bit attribute where there is a value, and nothing where there is none.
    ///
    /// # Errors
    /// [`Full`] where it does not fit.
    pub fn u8_opt(&mut self, kind: u16, value: Option<u8>) -> Result<(), Full> {
        value.map_or(Ok(()), |value| self.u8(kind, value))
    }

    /// Appends a 16-bit attribute in network order where there is a value, and nothing where there is none.
    ///
    /// # Errors
    /// [`Full`] where it does not fit.
    pub fn be16_opt(&mut self, kind: u16, value: Option<u16>) -> Result<(), Full> {
        value.map_or(Ok(()), |value| self.be16(kind, value))
    }

    /// Appends a 32-bit attribute in network order where there is a value, and nothing where there is none.
    ///
    /// # Errors
    /// [`Full`] where it does not fit.
    pub fn be32_opt(&mut self, kind: u16, value: Option<u32>) -> Result<(), Full> {
        value.map_or(Ok(()), |value| self.be32(kind, value))
    }

    /// Appends a 64-bit attribute in network order where there is a value, and nothing where there is none.
    ///
    /// # Errors
    /// [`Full`] where it does not fit.
    pub fn be64_opt(&mut self, kind: u16, value: Option<u64>) -> Result<(), Full> {
        value.map_or(Ok(()), |value| self.attr(kind, &value.to_be_bytes()))
    }

    /// Appends a 32-bit attribute in the machine's own order, for CTA_FILTER's flags and rtnetlink's indices.
    ///
    /// # Errors
    /// [`Full`] where it does not fit.
    pub fn ne32(&mut self, kind: u16, value: u32) -> Result<(), Full> {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends text with its terminating NUL.
    ///
    /// # Errors
    /// [`Full`] where it does not fit.
    pub fn text(&mut self, kind: u16, text: &str) -> Result<(), Full> {
        let length = u16::try_from(NLA_HEADER_BYTES + text.len() + 1).map_err(|_| Full)?;
        self.append(&[&length.to_ne_bytes(), &kind.to_ne_bytes(), text.as_bytes(), b"\0"])
    }

    /// Appends the parts one after the other, padded to four together. On an error nothing is appended.
    fn append(&mut self, parts: &[&[u8]]) -> Result<(), Full> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let free = self.buffer.get_mut(self.length..).ok_or(Full)?;
        let mut room = free.get_mut(..length.next_multiple_of(4)).ok_or(Full)?;
        for part in parts {
            let (value, rest) = room.split_at_mut(part.len());
            value.copy_from_slice(part);
            room = rest;
        }
        room.fill(0);
        self.length += length.next_multiple_of(4);
        Ok(())
    }

    /// Overwrites bytes that were reserved earlier.
    fn overwrite(&mut self, at: usize, bytes: &[u8]) -> Result<(), Full> {
        let reserved = self.buffer.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
        reserved.ok_or(Full)?.copy_from_slice(bytes);
        Ok(())
    }
}

/// Sets the acknowledgement flag of the last of `messages` and clears it in the others. The kernel then answers the
/// last message, and each message that it refuses: it answers a refused message with or without the flag.
pub fn acknowledge_last(mut messages: &mut [u8]) {
    while let Ok((header, rest)) = NlMsgHdr::mut_from_prefix(messages) {
        let length = usize::try_from(header.length.get()).unwrap_or(usize::MAX);
        let body = length.saturating_sub(NLMSG_HEADER_BYTES).checked_next_multiple_of(4).unwrap_or(usize::MAX);
        let others = header.flags.get() & !NLM_F_ACK;
        header.flags.set(if body >= rest.len() { others | NLM_F_ACK } else { others });
        messages = rest.get_mut(body..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uapi::NLM_F_REQUEST;
    use std::vec::Vec;

    #[test]
    fn a_message_that_does_not_fit_leaves_the_earlier_ones_whole() {
        let mut buffer = [0xff; 48];
        let mut writer = Writer::new(&mut buffer);
        writer.message(1, 0, 0, |message| message.be32(5, 9)).unwrap();
        let before = writer.bytes().to_vec();
        let refused = writer.message(1, 0, 0, |message| message.nest(1, |nest| nest.attr(2, &[0; 32])));
        assert_eq!(refused, Err(Full));
        assert_eq!(writer.bytes(), before);
    }

    #[test]
    fn text_ends_in_a_nul_and_is_padded() {
        let mut buffer = [0xff; 16];
        let mut writer = Writer::new(&mut buffer);
        writer.text(6, "ftp").unwrap();
        writer.text(6, "tftp").unwrap_err();
        assert_eq!(writer.bytes(), [&8u16.to_ne_bytes()[..], &6u16.to_ne_bytes(), b"ftp\0"].concat());
    }

    #[test]
    fn only_the_last_message_requests_an_acknowledgement() {
        for count in 0..4u16 {
            let mut buffer = [0; 256];
            let mut writer = Writer::new(&mut buffer);
            for seq in 0..count {
                let flags = if seq == 1 { NLM_F_REQUEST } else { NLM_F_REQUEST | NLM_F_ACK };
                writer.message(256, flags, seq.into(), |message| message.u8(1, 2)).unwrap();
            }
            let length = writer.bytes().len();
            let mut messages = buffer.get_mut(..length).unwrap();
            acknowledge_last(messages);
            let mut requested = Vec::new();
            while let Ok((header, _)) = NlMsgHdr::mut_from_prefix(messages) {
                let (bytes, flags) = (header.length.get() as usize, header.flags.get());
                assert_eq!(flags & NLM_F_REQUEST, NLM_F_REQUEST);
                requested.push(flags & NLM_F_ACK != 0);
                messages = messages.get_mut(bytes..).unwrap();
            }
            assert_eq!(requested, (1..=count).map(|nth| nth == count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_message_copy_differs_only_in_its_sequence_number() {
        let write = |writer: &mut Writer<'_>, seq| writer.message(1, 2, seq, |message| message.be32(5, 9));
        let (mut first, mut second, mut expected) = ([0; 64], [0; 64], [0; 64]);
        let (mut first, mut expected) = (Writer::new(&mut first), Writer::new(&mut expected));
        write(&mut first, 7).unwrap();
        write(&mut expected, 7).and_then(|()| write(&mut expected, 8)).unwrap();
        let mut writer = Writer::new(&mut second);
        writer.message_copy(first.bytes(), 7).and_then(|()| writer.message_copy(first.bytes(), 8)).unwrap();
        assert_eq!(writer.bytes(), expected.bytes());
        assert_eq!(writer.message_copy(&[0; 15], 9), Err(Full));
    }

    #[test]
    fn bytes_that_are_no_messages_are_walked_to_their_end() {
        for byte in [0, 1, 17, 0xff] {
            acknowledge_last(&mut [byte; 50]);
        }
    }
}
