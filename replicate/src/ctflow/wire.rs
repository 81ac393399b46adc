//! The header of every datagram: 32 bytes, never encrypted.
//!
//! ```text
//!  0    2    3    4        6        8            16           24           32
//!  magic vers kind stream  reserved node         epoch        seq          body …
//! ```

use zerocopy::byteorder::big_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::host::Cipher;
use crate::model::time::Epoch;

/// The first two bytes of every datagram.
const MAGIC: u16 = 0xc7f1;

/// The protocol version of this node.
pub const VERSION: u8 = 1;

/// The length of the header in bytes.
pub const HEADER_BYTES: usize = size_of::<Raw>();

/// The bit of the kind that marks a sealed datagram.
const SEALED: u8 = 1 << 7;

/// The layout of the header on the wire.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U16,
    version: u8,
    /// 1 batch, 2 control; bit 7: sealed.
    kind: u8,
    /// The stream of a batch; 0 in a control message.
    stream: U16,
    /// Written as 0, ignored on receipt.
    reserved: U16,
    node: U64,
    epoch: U64,
    seq: U64,
}

const _: () = assert!(size_of::<Raw>() == 32 && align_of::<Raw>() == 1);

/// The kind of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A batch: items of one stream.
    Batch,
    /// A control message.
    Control,
}

impl Kind {
    /// The kind's number on the wire.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Batch => 1,
            Self::Control => 2,
        }
    }
}

/// The header of a datagram, with valid magic, version and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The kind of the body that follows.
    pub kind: Kind,
    /// Whether the body is encrypted.
    pub cipher: Cipher,
    /// The stream of a batch; 0 in a control message.
    pub stream: u16,
    /// The sender's node id.
    pub node: u64,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The number of a batch in its stream, or of a control message in its epoch; from 1.
    pub seq: u64,
}

/// Why a datagram's header was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// Not this protocol: too short, another magic, or an unknown kind.
    Foreign,
    /// This protocol, in a version that this node does not support.
    Version(u8),
}

impl Header {
    /// Parses the header of a datagram.
    ///
    /// # Errors
    /// [`HeaderError`] for another protocol, or another version of this one.
    pub fn parse(datagram: &[u8]) -> Result<Self, HeaderError> {
        let (raw, _) = Raw::ref_from_prefix(datagram).map_err(|_| HeaderError::Foreign)?;
        if raw.magic != MAGIC {
            return Err(HeaderError::Foreign);
        }
        if raw.version != VERSION {
            return Err(HeaderError::Version(raw.version));
        }
        let kind = match raw.kind & !SEALED {
            1 => Kind::Batch,
            2 => Kind::Control,
            _ => return Err(HeaderError::Foreign),
        };
        Ok(Self {
            kind,
            cipher: if raw.kind & SEALED == 0 { Cipher::Clear } else { Cipher::Sealed },
            stream: raw.stream.get(),
            node: raw.node.get(),
            epoch: Epoch(raw.epoch.get()),
            seq: raw.seq.get(),
        })
    }

    /// Encodes the header.
    #[must_use]
    pub fn to_wire(&self) -> [u8; HEADER_BYTES] {
        let sealed = if self.cipher == Cipher::Sealed { SEALED } else { 0 };
        let raw = Raw {
            magic: MAGIC.into(),
            version: VERSION,
            kind: self.kind.number() | sealed,
            stream: self.stream.into(),
            reserved: 0.into(),
            node: self.node.into(),
            epoch: self.epoch.0.into(),
            seq: self.seq.into(),
        };
        zerocopy::transmute!(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        kind: Kind::Batch,
        cipher: Cipher::Sealed,
        stream: 0x0102,
        node: 0x0304_0506_0708_090a,
        epoch: Epoch(0x1112_1314_1516_1718),
        seq: 0x2122_2324_2526_2728,
    };

    #[test]
    fn header_fields_are_at_the_specified_offsets() {
        let bytes = HEADER.to_wire();
        assert_eq!(bytes[..8], [0xc7, 0xf1, 1, 0x81, 1, 2, 0, 0]);
        assert_eq!((bytes[8], bytes[16], bytes[24], bytes[31]), (0x03, 0x11, 0x21, 0x28));
        assert_eq!(Header::parse(&bytes), Ok(HEADER));
    }

    #[test]
    fn another_protocol_or_version_is_refused() {
        let mut bytes = HEADER.to_wire();
        assert_eq!(Header::parse(&bytes[..31]), Err(HeaderError::Foreign));
        bytes[2] = 2;
        assert_eq!(Header::parse(&bytes), Err(HeaderError::Version(2)));
        bytes[0] = 0;
        assert_eq!(Header::parse(&bytes), Err(HeaderError::Foreign));
    }
}
