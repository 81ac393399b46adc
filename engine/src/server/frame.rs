//! Frames: the encoding of the answers, for the server and its clients. `CONTROL.md` specifies them.
//!
//! ```text
//! frame   length 4 │ type 1 │ payload, at most 1 MiB
//! ```
//!
//! The entries in a payload are [`shard::entries`](crate::shard::entries)'.
//!
//! ```
//! use ctflow_engine::server::frame::{Header, Kind};
//!
//! let header = Header { kind: Kind::Json, bytes: 2 };
//! assert_eq!(header.encode(), [0, 0, 0, 2, b'J']);
//! assert_eq!(Header::decode(&[0, 0, 0, 2, b'J']), Ok(header));
//! ```

use std::io::{self, Read};

use thiserror::Error;

use crate::limits::PAYLOAD_BYTES_MAX;
use crate::shard::entries::CutShort;

/// The length of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 5;

/// The type of a frame, and so of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Entries of a dump.
    Entries,
    /// Whole netlink messages, each padded to four bytes.
    Messages,
    /// How many messages were lost at this position, as 8 bytes.
    Lost,
    /// A JSON document.
    Json,
    /// An empty payload. This is the last frame; the request succeeded.
    Done,
    /// A JSON document with `error` and `code`. This is the last frame; the request failed.
    Failed,
}

/// Bytes that are no valid frame, usually because the other side is another version or another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The type is unknown.
    #[error("unknown frame type {0:#04x}")]
    Kind(u8),
    /// The payload is longer than [`PAYLOAD_BYTES_MAX`]; its length in bytes.
    #[error("a frame of {0} bytes is too long")]
    Length(u32),
    /// An entry is longer than the rest of the payload.
    #[error(transparent)]
    Entry(#[from] CutShort),
    /// The payload of [`Kind::Lost`] does not have 8 bytes.
    #[error("a frame of lost messages without their number")]
    Lost,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The type of the frame.
    pub kind: Kind,
    /// The length of the payload, in bytes.
    pub bytes: u32,
}

/// A frame that cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The connection failed or was closed, usually because the daemon has ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are no valid frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl Kind {
    /// Every type and its byte.
    const ALL: [(Self, u8); 6] = [
        (Self::Entries, b'E'),
        (Self::Messages, b'M'),
        (Self::Lost, b'L'),
        (Self::Json, b'J'),
        (Self::Done, b'D'),
        (Self::Failed, b'X'),
    ];

    /// The byte of the type on the connection.
    #[must_use]
    pub fn byte(self) -> u8 {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, byte)| *byte)
    }

    /// The type of a byte; `None` for an unknown byte.
    #[must_use]
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == byte).map(|(kind, _)| *kind)
    }
}

impl Header {
    /// Encodes the header: length, big-endian, then type.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.bytes.to_be_bytes();
        [a, b, c, d, self.kind.byte()]
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// [`FrameError::Kind`] or [`FrameError::Length`].
    pub fn decode(&[a, b, c, d, kind]: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let bytes = u32::from_be_bytes([a, b, c, d]);
        let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        if usize::try_from(bytes).is_ok_and(|bytes| bytes <= PAYLOAD_BYTES_MAX) {
            Ok(Self { kind, bytes })
        } else {
            Err(FrameError::Length(bytes))
        }
    }
}

/// Reads the next frame, and replaces the contents of `payload` with its payload. It blocks if `reader` does.
///
/// # Errors
/// [`ReadError`]; the end of the connection is [`io::ErrorKind::UnexpectedEof`].
pub fn read(reader: &mut impl Read, payload: &mut Vec<u8>) -> Result<Kind, ReadError> {
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header)?;
    let Header { kind, bytes } = Header::decode(&header)?;
    payload.clear();
    payload.resize(usize::try_from(bytes).unwrap_or(PAYLOAD_BYTES_MAX), 0); // a decoded length is no more than that
    reader.read_exact(payload)?;
    Ok(kind)
}

/// Decodes the number in the payload of [`Kind::Lost`].
///
/// # Errors
/// [`FrameError::Lost`].
pub fn decode_lost(payload: &[u8]) -> Result<u64, FrameError> {
    payload.try_into().map(u64::from_be_bytes).map_err(|_| FrameError::Lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_bad_headers_are_rejected() {
        for (kind, _) in Kind::ALL {
            let header = Header { kind, bytes: 1_000 };
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
        assert_eq!(Header::decode(b"\0\0\0\0?"), Err(FrameError::Kind(b'?')));
        assert_eq!(Header::decode(&[0, 16, 0, 1, b'J']), Err(FrameError::Length(0x10_0001)));
        assert!(Header::decode(&[0, 16, 0, 0, b'J']).is_ok());
    }

    #[test]
    fn a_frame_is_read_whole_or_not_at_all() {
        let mut payload = vec![9];
        assert_eq!(read(&mut &b"\0\0\0\x02J{}"[..], &mut payload).unwrap(), Kind::Json);
        assert_eq!(payload, b"{}");
        assert!(matches!(read(&mut &b"\0\0\0\x02J{"[..], &mut payload), Err(ReadError::Io(_))));
        assert_eq!((decode_lost(&7u64.to_be_bytes()), decode_lost(b"7")), (Ok(7), Err(FrameError::Lost)));
    }
}
