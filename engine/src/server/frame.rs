//! Frames: the encoding of the answers, for the server and its clients. `CONTROL.md` specifies them.
//!
//! ```text
//! frame   length 4 │ type 1 │ payload, at most 1 MiB
//! entry   family 1 │ 0 │ stream 2 │ reserved 4 │ since 8 │ changed 8 │ length 2 │ the entry as in PROTOCOL.md
//! ```
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

/// The length of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 5;

/// The longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1_024 * 1_024;

/// The length of an entry's head, in bytes, with the length field at its end.
pub const ENTRY_HEAD_BYTES: usize = 24 + 2;

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
    #[error("an entry is cut short")]
    Entry,
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
    pub fn from_byte(byte: u8) -> Option<Self> {
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

/// The head of an entry in a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHead {
    /// `AF_INET`, `AF_INET6`, or 0 for an expectation.
    pub family: u8,
    /// The stream of the entry: the number of its worker, on its source.
    pub stream: u16,
    /// The time since when this node has the entry, in milliseconds since 1970.
    pub since_ms: u64,
    /// The time of its last change on its source, in milliseconds since 1970.
    pub changed_ms: u64,
}

impl EntryHead {
    /// Encodes the head of an entry of `entry_bytes` bytes.
    #[must_use]
    pub fn encode(&self, entry_bytes: u16) -> [u8; ENTRY_HEAD_BYTES] {
        let mut bytes = [0; ENTRY_HEAD_BYTES];
        let (head, length) = bytes.split_at_mut(ENTRY_HEAD_BYTES - 2);
        length.copy_from_slice(&entry_bytes.to_be_bytes());
        let [s0, s1] = self.stream.to_be_bytes();
        let start = [self.family, 0, s0, s1, 0, 0, 0, 0];
        let fields = [start, self.since_ms.to_be_bytes(), self.changed_ms.to_be_bytes()];
        head.iter_mut().zip(fields.iter().flatten()).for_each(|(out, byte)| *out = *byte);
        bytes
    }

    /// Decodes a head. Returns it and the length of the entry that follows.
    fn decode(bytes: &[u8; ENTRY_HEAD_BYTES]) -> (Self, usize) {
        let [family, _, s0, s1, _, _, _, _, times @ .., l0, l1] = *bytes;
        let time = |at: usize| times.iter().skip(at).take(8).fold(0, |time, byte| time << 8 | u64::from(*byte));
        let head = Self { family, stream: u16::from_be_bytes([s0, s1]), since_ms: time(0), changed_ms: time(8) };
        (head, u16::from_be_bytes([l0, l1]).into())
    }
}

/// An iterator over the entries in a payload of [`Kind::Entries`], each with its head. It ends after the first entry
/// that is cut short.
#[derive(Debug, Clone)]
pub struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    /// Iterates over `payload`.
    #[must_use]
    pub fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    /// Splits the next entry off; `None` when it is cut short.
    fn split_next(&mut self) -> Option<(EntryHead, &'a [u8])> {
        let (head, rest) = self.0.split_first_chunk()?;
        let (head, length) = EntryHead::decode(head);
        let (entry, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((head, entry))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(EntryHead, &'a [u8]), FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.split_next();
        if entry.is_none() {
            self.0 = &[];
        }
        Some(entry.ok_or(FrameError::Entry))
    }
}

/// Splits entries into pieces that fit one frame each.
pub(super) fn split_entries(mut entries: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let mut walk = Entries::new(entries);
        let mut bytes = 0;
        while let Some(Ok((_, entry))) = walk.next() {
            let with = bytes + ENTRY_HEAD_BYTES + entry.len();
            if with > PAYLOAD_BYTES_MAX {
                break;
            }
            bytes = with;
        }
        let (piece, rest) = entries.split_at_checked(bytes).filter(|(piece, _)| !piece.is_empty())?;
        entries = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    fn entries(lengths: &[u16]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, length) in (0..).zip(lengths) {
            let head = EntryHead { family: 10, stream: number, since_ms: 1 << 40, changed_ms: u64::MAX - 1 };
            bytes.extend_from_slice(&head.encode(*length));
            bytes.resize(bytes.len() + usize::from(*length), 7);
        }
        bytes
    }

    proptest! {
        #[test]
        fn entries_round_trip_also_when_split(lengths in prop::collection::vec(0u16.., 0..80)) {
            let bytes = entries(&lengths);
            let mut read = Vec::new();
            for piece in split_entries(&bytes) {
                prop_assert!(piece.len() <= PAYLOAD_BYTES_MAX);
                for entry in Entries::new(piece) {
                    let (head, entry) = entry.unwrap();
                    prop_assert_eq!((usize::from(head.stream), head.since_ms), (read.len(), 1 << 40));
                    prop_assert_eq!((head.family, head.changed_ms), (10, u64::MAX - 1));
                    read.push(u16::try_from(entry.len()).unwrap());
                }
            }
            prop_assert_eq!(read, lengths);
        }

        #[test]
        fn iteration_ends_for_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let walked: Vec<_> = Entries::new(&bytes).collect();
            prop_assert!(walked.iter().rev().skip(1).all(Result::is_ok));
            prop_assert!(split_entries(&bytes).map(<[u8]>::len).sum::<usize>() <= bytes.len());
        }
    }
}
