//! The walk over attributes. Every length is checked against its container, every width against its type.
//!
//! ```text
//! 0        2        4                     nla_len        next multiple of 4
//! +--------+--------+---------------------+--------------+
//! | nla_len| type   | payload             | padding      |
//! +--------+--------+---------------------+--------------+
//!            ^ the top two bits mean nested and network order; kernels set them inconsistently, so both are ignored
//! ```

use zerocopy::byteorder::{NativeEndian, U16};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::{ParseError, Reason};
use crate::uapi::NLA_TYPE_MASK;

const HEADER_BYTES: usize = 4;

/// The length including padding, a multiple of four. It cannot overflow for a length that was read from 16 or 32 bits.
#[inline]
pub(crate) const fn aligned(length: usize) -> usize {
    length.wrapping_add(3) & !3
}

/// The header of an attribute as the kernel writes it; `kind` includes the flag bits.
pub(crate) const fn header(length: u16, kind: u16) -> [u8; HEADER_BYTES] {
    let ([l0, l1], [k0, k1]) = (length.to_ne_bytes(), kind.to_ne_bytes());
    [l0, l1, k0, k1]
}

/// `struct nlattr` of the kernel's `include/uapi/linux/netlink.h`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct NlAttr {
    /// The length of header and payload, in bytes.
    length: U16<NativeEndian>,
    /// The type and two flag bits.
    kind: U16<NativeEndian>,
}

const _: () = assert!(size_of::<NlAttr>() == HEADER_BYTES);

/// An iterator over the attributes of a message or a nest. It ends after the first malformed attribute, because the
/// next one cannot be found behind a wrong length.
#[derive(Debug, Clone)]
pub struct Attrs<'a> {
    /// The attributes that are not walked yet.
    rest: &'a [u8],
    /// The offset of the end of `rest` in the frame, which does not change during the walk.
    end: usize,
}

impl<'a> Attrs<'a> {
    /// Walks `bytes`, which start `offset` bytes into their frame.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { rest: bytes, end: offset.saturating_add(bytes.len()) }
    }

    /// The next bytes as a `T`, and the walk over the attributes behind them. It serves the forms that kernels usually
    /// write.
    #[inline]
    pub(crate) fn split<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self) -> Option<(&'a T, Self)> {
        let (whole, rest) = T::ref_from_prefix(self.rest).ok()?;
        Some((whole, Self { rest, end: self.end }))
    }

    /// Removes and returns the next attribute; `None` where its length is impossible.
    #[inline]
    fn pop_attr(&mut self) -> Option<Attr<'a>> {
        let (header, body) = NlAttr::ref_from_prefix(self.rest).ok()?;
        let length = usize::from(header.length.get());
        let payload = body.get(..length.checked_sub(HEADER_BYTES)?)?;
        let offset = self.end.wrapping_sub(body.len()); // `end` counts all of `body`
        // The padding of the last attribute may be missing, because the message's length need not include it.
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some(Attr { kind: header.kind.get() & NLA_TYPE_MASK, payload, offset })
    }

    /// Ends the walk with an error at the current attribute.
    #[cold]
    fn break_off(&mut self) -> ParseError {
        let offset = self.end.saturating_sub(self.rest.len());
        self.rest = &[];
        ParseError::new(offset, Reason::AttributeLength)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, ParseError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(match self.pop_attr() {
            Some(attr) => Ok(attr),
            None => Err(self.break_off()),
        })
    }
}

/// One attribute: its type without the flag bits, and its payload.
#[derive(Debug, Clone, Copy)]
pub struct Attr<'a> {
    /// The attribute's type, as numbered in the message or nest that contains it.
    pub kind: u16,
    /// The payload without padding.
    pub payload: &'a [u8],
    /// The offset of the payload in the frame.
    offset: usize,
}

impl<'a> Attr<'a> {
    /// The attributes inside this one.
    #[must_use]
    #[inline]
    pub fn nested(&self) -> Attrs<'a> {
        Attrs::new(self.payload, self.offset)
    }

    /// The payload as exactly `N` bytes.
    #[inline]
    pub(crate) fn array<const N: usize>(&self) -> Result<[u8; N], ParseError> {
        self.payload.try_into().map_err(|_| self.width(N))
    }

    /// An 8-bit number.
    ///
    /// # Errors
    /// [`Reason::Width`] where the payload is not one byte.
    #[inline]
    pub fn u8(&self) -> Result<u8, ParseError> {
        self.array().map(|[byte]| byte)
    }

    /// A 16-bit number in network order.
    ///
    /// # Errors
    /// [`Reason::Width`] where the payload is not two bytes.
    #[inline]
    pub fn be16(&self) -> Result<u16, ParseError> {
        self.array().map(u16::from_be_bytes)
    }

    /// A 32-bit number in network order.
    ///
    /// # Errors
    /// [`Reason::Width`] where the payload is not four bytes.
    #[inline]
    pub fn be32(&self) -> Result<u32, ParseError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A 64-bit number in network order.
    ///
    /// # Errors
    /// [`Reason::Width`] where the payload is not eight bytes.
    #[inline]
    pub fn be64(&self) -> Result<u64, ParseError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A 32-bit number in the machine's own order.
    ///
    /// # Errors
    /// [`Reason::Width`] where the payload is not four bytes.
    pub fn ne32(&self) -> Result<u32, ParseError> {
        self.array().map(u32::from_ne_bytes)
    }

    /// The text up to its terminating NUL, or the whole payload where the kernel sends no NUL (security contexts).
    ///
    /// # Errors
    /// [`Reason::Text`] where the text is not UTF-8.
    pub fn text(&self) -> Result<&'a str, ParseError> {
        let end = self.payload.iter().position(|&byte| byte == 0).unwrap_or(self.payload.len());
        let text = self.payload.get(..end).unwrap_or_default();
        core::str::from_utf8(text).map_err(|_| self.error(Reason::Text(self.kind)))
    }

    /// An error about this attribute's payload.
    pub(crate) fn error(&self, reason: Reason) -> ParseError {
        ParseError::new(self.offset, reason)
    }

    /// The error for a payload that is not `expected` bytes long.
    #[cold]
    fn width(&self, expected: usize) -> ParseError {
        self.error(Reason::Width {
            kind: self.kind,
            expected: u8::try_from(expected).unwrap_or(u8::MAX),
            found: u16::try_from(self.payload.len()).unwrap_or(u16::MAX),
        })
    }
}

/// The first attribute of `bytes`.
#[cfg(test)]
pub(crate) fn only(bytes: &[u8]) -> Attr<'_> {
    Attrs::new(bytes, 0).next().unwrap().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uapi::NLA_F_NESTED;
    use std::vec::Vec;

    fn attr(length: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), payload].concat()
    }

    #[test]
    fn flags_are_not_part_of_the_type_and_padding_not_of_the_payload() {
        let bytes = [attr(6, 3 | NLA_F_NESTED, &[1, 2, 0, 0]), attr(4, 9, &[])].concat();
        let found: Vec<_> = Attrs::new(&bytes, 20).map(|attr| attr.map(|attr| (attr.kind, attr.payload))).collect();
        assert_eq!(found, [Ok((3, &[1u8, 2][..])), Ok((9, &[][..]))]);
    }

    #[test]
    fn an_impossible_length_is_an_error_with_its_offset_and_ends_the_walk() {
        for length in [0, 3, 9] {
            let bytes = [attr(8, 1, &[0; 4]), attr(length, 2, &[0; 4])].concat();
            let mut attrs = Attrs::new(&bytes, 20);
            assert!(attrs.next().unwrap().is_ok());
            assert_eq!(attrs.next().and_then(Result::err), Some(ParseError::new(28, Reason::AttributeLength)));
            assert!(attrs.next().is_none());
        }
    }

    #[test]
    fn a_number_of_the_wrong_width_names_what_was_expected() {
        let bytes = attr(6, 7, &[1, 2, 0, 0]);
        let attr = Attrs::new(&bytes, 0).next().unwrap().unwrap();
        assert_eq!(attr.be16(), Ok(0x0102));
        assert_eq!(attr.be32(), Err(ParseError::new(4, Reason::Width { kind: 7, expected: 4, found: 2 })));
    }

    #[test]
    fn text_ends_at_its_nul_or_at_the_payload() {
        let with_nul = attr(8, 1, b"ftp\0");
        let without = attr(7, 1, b"ftp\0");
        for bytes in [with_nul, without] {
            assert_eq!(Attrs::new(&bytes, 0).next().unwrap().unwrap().text(), Ok("ftp"));
        }
    }
}
