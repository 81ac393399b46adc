//! Checked requests to rtnetlink and nf_tables: the last is acknowledged, and a refusal keeps the kernel's words.
//!
//! The kernel reports every refusal, asked or not, and before the acknowledgement of what came after it. One
//! acknowledgement is therefore enough, and a long batch cannot overrun the socket with them.
//! The kernel works on a request within `send` and queues its answers on the socket, so reading never waits in
//! practice; a bound stands behind it all the same.

use std::os::fd::OwnedFd;
use std::time::Duration;

use ctflow_parser::uapi::{
    NLA_TYPE_MASK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_ERROR, NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS,
};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use super::error::{LabError, Refusal};
use crate::sys::extended_ack;

/// The kernel answers at once; longer than this means that it never will.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// An acknowledgement takes 36 bytes, and a refusal some text on top; one datagram holds one of them.
const ANSWER_BYTES: usize = 4096;
const HEADER_BYTES: usize = 16;

/// A socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Requests {
    socket: OwnedFd,
}

impl Requests {
    pub(super) fn open(protocol: Option<Protocol>) -> Result<Self, LabError> {
        let failed = |error| LabError::system("open a netlink socket", error);
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol).map_err(failed)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WAIT)).map_err(failed)?;
        extended_ack::enable(&socket).map_err(|error| LabError::system("ask for netlink's extended answers", error))?;
        Ok(Self { socket })
    }

    /// Sends `requests`, of which the last asks for an acknowledgement, and waits for that or for a refusal. Their
    /// sequence numbers count from 1 and say which of `operations` was refused; any other number means `whole`.
    pub(super) fn perform(&self, requests: &[u8], operations: &[String], whole: &str) -> Result<(), LabError> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, requests, SendFlags::empty(), &kernel)
            .map_err(|error| LabError::system(format!("send \"{whole}\" to the kernel"), error))?;
        loop {
            let answer = self.answer(whole)?;
            let index = usize::try_from(answer.seq).ok().and_then(|seq| seq.checked_sub(1));
            if let Some(refusal) = answer.refusal {
                let operation = index.and_then(|index| operations.get(index)).map_or(whole, String::as_str);
                return Err(LabError::Refused { operation: operation.to_owned(), refusal });
            }
            if index.is_some_and(|index| index + 1 == operations.len()) {
                return Ok(());
            }
        }
    }

    fn answer(&self, operation: &str) -> Result<Answer, LabError> {
        let mut buffer = [0; ANSWER_BYTES];
        let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty()).map_err(|error| match error {
            rustix::io::Errno::AGAIN => LabError::Timeout { operation: operation.to_owned(), waited: ANSWER_WAIT },
            other => LabError::system(format!("read the answer to \"{operation}\""), other),
        })?;
        let answer = buffer.get(..length).and_then(Answer::parse);
        answer.ok_or_else(|| LabError::Malformed { operation: operation.to_owned() })
    }
}

/// One `NLMSG_ERROR`, which with errno 0 is an acknowledgement.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    seq: u32,
    refusal: Option<Refusal>,
}

impl Answer {
    /// Layout: netlink header, errno, header of the request (and all of it, unless capped), extended attributes.
    fn parse(datagram: &[u8]) -> Option<Self> {
        let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
        let message = datagram.get(..length)?;
        let (kind, flags, seq) = (u16_at(message, 4)?, u16_at(message, 6)?, u32_at(message, 8)?);
        if kind != NLMSG_ERROR {
            return None;
        }
        let errno = i32::from_ne_bytes(bytes_at(message, HEADER_BYTES)?).checked_neg()?;
        if errno == 0 {
            return Some(Self { seq, refusal: None });
        }
        let request = HEADER_BYTES + 4;
        let request_bytes = match flags & NLM_F_CAPPED {
            0 => usize::try_from(u32_at(message, request)?).ok()?.next_multiple_of(4),
            _ => HEADER_BYTES,
        };
        let mut refusal = Refusal { errno, text: None, offset: None };
        if flags & NLM_F_ACK_TLVS != 0 {
            refusal.explain(message.get(request + request_bytes..)?)?;
        }
        Some(Self { seq, refusal: Some(refusal) })
    }
}

impl Refusal {
    fn explain(&mut self, mut attributes: &[u8]) -> Option<()> {
        while !attributes.is_empty() {
            let length = usize::from(u16_at(attributes, 0)?);
            let payload = attributes.get(4..length)?;
            match u16_at(attributes, 2)? & NLA_TYPE_MASK {
                NLMSGERR_ATTR_MSG => {
                    self.text = Some(String::from_utf8_lossy(payload).trim_end_matches('\0').to_owned());
                }
                NLMSGERR_ATTR_OFFS => self.offset = Some(u32_at(payload, 0)?),
                _ => {} // cookies and policies are of no use to a reader
            }
            attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(())
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes_at(bytes, offset).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes_at(bytes, offset).map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use ctflow_parser::write::Writer;

    use super::*;

    fn refused(errno: i32) -> Vec<u8> {
        let mut buffer = [0; 256];
        let mut writer = Writer::new(&mut buffer);
        let flags = NLM_F_CAPPED | NLM_F_ACK_TLVS;
        writer
            .message(NLMSG_ERROR, flags, 3, |message| {
                message.raw(&(-errno).to_ne_bytes())?;
                message.raw(&[0; HEADER_BYTES])?;
                message.text(NLMSGERR_ATTR_MSG, "no such chain")?;
                message.ne32(NLMSGERR_ATTR_OFFS, 28)
            })
            .unwrap();
        writer.bytes().to_vec()
    }

    #[test]
    fn a_refusal_keeps_errno_text_and_offset() {
        let refusal = Refusal { errno: libc::ENOENT, text: Some("no such chain".into()), offset: Some(28) };
        assert_eq!(Answer::parse(&refused(libc::ENOENT)), Some(Answer { seq: 3, refusal: Some(refusal) }));
    }

    #[test]
    fn an_answer_cut_anywhere_is_malformed_and_no_panic() {
        let whole = refused(libc::ENOENT);
        for length in 0..whole.len() {
            assert_eq!(Answer::parse(&whole[..length]), None, "{length} bytes");
        }
    }
}
