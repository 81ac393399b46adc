//! Reading big-endian numbers from received bytes, and appending them to a buffer.

use thiserror::Error;

/// The error of bytes that break the protocol: cut short, out of range, or of an unknown type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("malformed at byte {offset}")]
pub struct Malformed {
    /// The position of the error, in bytes from the start of the bytes read.
    pub offset: u32,
}

/// Reads from the front of received bytes, never past their end.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, total: bytes.len() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads all bytes that are left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The error at the current position.
    pub(crate) fn malformed(&self) -> Malformed {
        Malformed { offset: u32::try_from(self.total - self.rest.len()).unwrap_or(u32::MAX) }
    }

    /// Reads `count` bytes.
    #[inline]
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u128(&mut self) -> Result<u128, Malformed> {
        self.array().map(u128::from_be_bytes)
    }

    /// Reads a number in LEB128, at most ten bytes; bits past the 64th are an error.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(self.malformed());
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.malformed())
    }

    /// Reads one byte of length, and as many bytes.
    #[inline]
    pub(crate) fn short_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u8()?;
        self.bytes(length.into())
    }

    /// Reads the length of an item, one byte below 255, or 255 and two bytes, and as many bytes.
    #[inline]
    pub(crate) fn long_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = match self.u8()? {
            255 => self.u16()?,
            length => length.into(),
        };
        self.bytes(length.into())
    }
}

/// A buffer to append bytes and big-endian numbers to.
pub(crate) trait Put {
    fn put_slice(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, number: u8) {
        self.put_slice(&[number]);
    }

    fn put_u16(&mut self, number: u16) {
        self.put_slice(&number.to_be_bytes());
    }

    fn put_u32(&mut self, number: u32) {
        self.put_slice(&number.to_be_bytes());
    }

    fn put_u64(&mut self, number: u64) {
        self.put_slice(&number.to_be_bytes());
    }

    /// Appends a number in LEB128.
    fn put_varint(&mut self, mut number: u64) {
        while let byte @ 0x80.. = number {
            self.put_u8(low_bits(byte) | 0x80);
            number >>= 7;
        }
        self.put_u8(low_bits(number));
    }
}

fn low_bits(number: u64) -> u8 {
    (number & 0x7f).to_be_bytes()[7]
}

impl Put for Vec<u8> {
    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_varint_reads_back_and_nothing_is_left(number: u64, shift in 0u32..64) {
            let mut bytes = Vec::new();
            bytes.put_varint(number >> shift);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(number >> shift));
            prop_assert!(reader.is_empty() && bytes.len() <= 10);
        }
    }

    #[test]
    fn a_varint_of_more_than_64_bits_is_malformed() {
        assert!(Reader::new(&[0xff; 10]).varint().is_err());
        assert!(Reader::new(&[0x80; 3]).varint().is_err());
    }
}
