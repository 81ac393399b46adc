//! Splits a received datagram into checked netlink messages.
//!
//! ```text
//! frame    | nlmsghdr 16 | payload, padded to 4 | nlmsghdr 16 | payload … |
//! payload  | nfgenmsg 4: family, version, resource (network order) | attributes |      netfilter's messages
//!          | errno 4 | the request's nlmsghdr 16 | … | extended ACK attributes |       NLMSG_ERROR
//! ```

use zerocopy::FromBytes;

use crate::attr::{Attrs, aligned};
use crate::error::{ParseError, Reason};
use crate::header::{HEADER_BYTES, NlMsgHdr};
use crate::record::Record;
use crate::uapi;

/// An iterator over the messages of one datagram. It ends after the first malformed message.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    frame: &'a [u8],
    offset: usize,
}

impl<'a> Messages<'a> {
    /// Walks `frame`, which must be one whole datagram.
    #[must_use]
    pub fn new(frame: &'a [u8]) -> Self {
        Self { frame, offset: 0 }
    }

    /// The header of the message at the current offset, and the whole message including its header.
    #[inline]
    fn split(&self) -> Result<(&'a NlMsgHdr, &'a [u8]), ParseError> {
        let rest = self.frame.get(self.offset..).unwrap_or_default();
        let refuse = |reason| ParseError::new(self.offset, reason);
        let (header, _) = NlMsgHdr::ref_from_prefix(rest).map_err(|_| refuse(Reason::HeaderCut))?;
        let length = usize::try_from(header.length.get()).unwrap_or(usize::MAX);
        let message = rest.get(..length).filter(|message| message.len() >= HEADER_BYTES);
        Ok((header, message.ok_or_else(|| refuse(Reason::MessageLength))?))
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, ParseError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.frame.len() {
            return None;
        }
        match self.split() {
            Ok((header, message)) => {
                let at = self.offset.saturating_add(HEADER_BYTES);
                self.offset = self.offset.saturating_add(aligned(message.len()));
                Some(Message::new(header, message, at))
            }
            Err(error) => {
                self.offset = self.frame.len();
                Some(Err(error))
            }
        }
    }
}

/// One netlink message.
#[derive(Debug, Clone)]
pub enum Message<'a> {
    /// A message of a netfilter subsystem.
    Record(Record<'a>),
    /// The kernel's answer to a request: an acknowledgement or a refusal.
    Ack(Ack<'a>),
    /// The end of a dump.
    Done {
        /// The errno that ended the dump early, positive; 0 when the dump is complete.
        errno: i32,
    },
    /// Netlink's own padding and overrun messages, which need no action.
    Other,
}

impl<'a> Message<'a> {
    /// Parses a whole message, whose payload is `offset` bytes into the frame.
    #[inline]
    fn new(header: &'a NlMsgHdr, message: &'a [u8], offset: usize) -> Result<Self, ParseError> {
        let payload = message.get(HEADER_BYTES..).unwrap_or_default();
        match header.kind.get() {
            uapi::NLMSG_ERROR => Ack::new(header, payload, offset).map(Self::Ack),
            uapi::NLMSG_DONE => Ok(Self::Done { errno: leading_errno(payload).unwrap_or(0) }),
            kind if kind < uapi::NLMSG_MIN_TYPE => Ok(Self::Other),
            _ => match Record::new(header, message, offset) {
                Some(record) => Ok(Self::Record(record)),
                None => Err(ParseError::new(offset, Reason::FamilyHeaderCut)),
            },
        }
    }
}

/// The errno at the start of an answer, made positive; `None` where the answer is shorter than four bytes.
fn leading_errno(payload: &[u8]) -> Option<i32> {
    payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes).saturating_neg())
}

/// NLMSG_ERROR: the kernel's answer to one request, with an extended ACK if the socket has that option
/// (`NETLINK_EXT_ACK`, Linux 4.12).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ack<'a> {
    /// 0 if the kernel carried out the request, else the errno, positive.
    pub errno: i32,
    /// Sequence number of the request.
    pub seq: u32,
    /// The kernel's text about the error.
    pub text: Option<&'a str>,
    /// The offset of the wrong attribute, in bytes from the start of the request.
    pub attr_offset: Option<u32>,
    /// The type of an attribute that was missing in the request.
    pub missing: Option<u32>,
}

impl<'a> Ack<'a> {
    /// Parses the payload of an NLMSG_ERROR message, which is `offset` bytes into the frame.
    fn new(header: &'a NlMsgHdr, payload: &'a [u8], offset: usize) -> Result<Self, ParseError> {
        let cut = |at: usize| ParseError::new(offset.saturating_add(at), Reason::HeaderCut);
        let (errno, echoed) = leading_errno(payload).zip(payload.get(4..)).ok_or_else(|| cut(0))?;
        let (request, _) = NlMsgHdr::ref_from_prefix(echoed).map_err(|_| cut(4))?;
        let ack = Self { errno, seq: request.seq.get(), ..Self::default() };
        if header.flags.get() & uapi::NLM_F_ACK_TLVS == 0 {
            return Ok(ack);
        }
        // Unless the answer is capped, it contains the whole request between the request's header and the attributes.
        let capped = header.flags.get() & uapi::NLM_F_CAPPED != 0;
        let request_bytes = if capped { HEADER_BYTES } else { request.length.get().try_into().unwrap_or(usize::MAX) };
        let at = request_bytes.checked_next_multiple_of(4).unwrap_or(usize::MAX).saturating_add(4);
        ack.extended(Attrs::new(payload.get(at..).unwrap_or_default(), offset.saturating_add(at)))
    }

    /// Adds the attributes of the extended ACK.
    fn extended(mut self, attrs: Attrs<'a>) -> Result<Self, ParseError> {
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                uapi::NLMSGERR_ATTR_MSG => self.text = Some(attr.text()?),
                uapi::NLMSGERR_ATTR_OFFS => self.attr_offset = Some(attr.ne32()?),
                uapi::NLMSGERR_ATTR_MISS_TYPE => self.missing = Some(attr.ne32()?),
                _ => {}
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::Writer;
    use std::vec;
    use std::vec::Vec;

    fn header(length: u32, kind: u16, flags: u16) -> Vec<u8> {
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &7u32.to_ne_bytes(), &[0; 4]].concat()
    }

    #[test]
    fn a_frame_holds_several_messages() {
        let mut buffer = [0; 128];
        let mut writer = Writer::new(&mut buffer);
        writer.netfilter(1, 0, 0, 1, 2, 0, |_| Ok(())).unwrap();
        writer.message(uapi::NLMSG_DONE, 0, 1, |body| body.raw(&(-4i32).to_ne_bytes())).unwrap();
        let messages: Vec<_> = Messages::new(writer.bytes()).collect();
        assert!(matches!(messages[..], [Ok(Message::Record(_)), Ok(Message::Done { errno: 4 })]));
    }

    #[test]
    fn lengths_out_of_range_end_the_walk_with_their_offset() {
        for (frame, error) in [
            (vec![0; 15], ParseError::new(0, Reason::HeaderCut)),
            (header(15, 256, 0), ParseError::new(0, Reason::MessageLength)),
            (header(17, 256, 0), ParseError::new(0, Reason::MessageLength)),
            (header(u32::MAX, 256, 0), ParseError::new(0, Reason::MessageLength)),
            ([header(16, 1, 0), header(0, 256, 0)].concat(), ParseError::new(16, Reason::MessageLength)),
        ] {
            let last = Messages::new(&frame).last().unwrap();
            assert_eq!(last.err(), Some(error));
        }
    }

    #[test]
    fn an_extended_ack_carries_the_kernels_text_capped_or_not() {
        let mut tail = [0; 32];
        let mut writer = Writer::new(&mut tail);
        writer.text(uapi::NLMSGERR_ATTR_MSG, "no such zone").unwrap();
        writer.ne32(uapi::NLMSGERR_ATTR_OFFS, 24).unwrap();
        for (capped, echo) in [(uapi::NLM_F_CAPPED, vec![]), (0, vec![9; 8])] {
            let echoed = [header(16 + u32::try_from(echo.len()).unwrap(), 256, 1), echo].concat();
            let body = [&(-22i32).to_ne_bytes()[..], &echoed, writer.bytes()].concat();
            let length = u32::try_from(16 + body.len()).unwrap();
            let frame = [header(length, uapi::NLMSG_ERROR, uapi::NLM_F_ACK_TLVS | capped), body].concat();
            let Some(Ok(Message::Ack(ack))) = Messages::new(&frame).next() else { panic!("an ACK") };
            let expected = Ack { errno: 22, seq: 7, text: Some("no such zone"), attr_offset: Some(24), missing: None };
            assert_eq!(ack, expected);
        }
    }
}
