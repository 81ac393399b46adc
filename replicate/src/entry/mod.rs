//! What is told of a flow or an expectation: one canonical form, the same bytes wherever it is written.
//!
//! ```text
//! flow    bits 2 | id 4 | protocol 1 | ends 8/32 +4 | reply, where not mirrored | status | timeout | … by bits
//! expect  id 4 | family 1 | protocols 1+1 | tuple, mask, master: ends 12/36 each | zone | timeout | …
//! ```
//!
//! The same flow is the same bytes on every node, so a number made of them ([`entry_check`]) tells whether two nodes hold the
//! same. What changes on its own (counters, time stamps, references) is not told at all.

mod compact;
mod ends;
mod expect;
mod flow;

use ctflow_parser::tuple::{FlowKey, Tuple};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::cursor::{Malformed, Put, Reader};
pub use compact::encode_compact;
pub use expect::{decode_expect, encode_expect};
pub use flow::{decode_flow, encode_flow};

/// A flow or an expectation that the protocol has no words for: a tuple is missing, families or protocols are mixed,
/// or a text is too long. None that a kernel of today makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not encodable: {0}")]
pub struct NotEncodable(pub(crate) &'static str);

/// The check of an entry: a number of its bytes, which digests are made of.
#[must_use]
#[inline]
pub fn entry_check(entry: &[u8]) -> u32 {
    let [.., a, b, c, d] = xxh3_64(entry).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// The id of an encoded flow, as the kernel of its source gave it; `None` of fewer bytes than any flow has.
#[must_use]
#[inline]
pub fn flow_id(entry: &[u8]) -> Option<u32> {
    entry.get(2..6)?.first_chunk().map(|id| u32::from_be_bytes(*id))
}

/// The id in the body of an end-of-flow item; `None` of fewer bytes than any has.
#[must_use]
#[inline]
pub fn flow_end_id(body: &[u8]) -> Option<u32> {
    body.first_chunk().map(|id| u32::from_be_bytes(*id))
}

/// The body of an end-of-flow item: which flow it was.
///
/// # Errors
/// Where the key's addresses are of two families, or its ports not of its protocol.
pub fn encode_flow_end(key: &FlowKey, id: u32, out: &mut Vec<u8>) -> Result<(), NotEncodable> {
    out.put_u32(id);
    out.put_u16(key.zone);
    out.put_u8(key.orig.proto);
    ends::put_addresses(&key.orig, out)?;
    if let Some((src, dst)) = ends::l4_numbers(&key.orig)? {
        out.put_u16(src);
        out.put_u16(dst);
    }
    Ok(())
}

/// Which flow ended: its key and id.
///
/// # Errors
/// Bytes that are no end of a flow of `family`.
pub fn decode_flow_end(family: u8, body: &[u8]) -> Result<(FlowKey, u32), Malformed> {
    let mut reader = Reader::new(body);
    let (id, zone, proto) = (reader.u32()?, reader.u16()?, reader.u8()?);
    let (src, dst) = ends::read_addresses(family, &mut reader)?;
    let ports = if reader.is_empty() { None } else { Some((reader.u16()?, reader.u16()?)) };
    let orig = Tuple { src, dst, proto, l4: ends::l4_of_numbers(proto, ports), zone: None };
    if reader.is_empty() { Ok((FlowKey { orig, zone }, id)) } else { Err(reader.malformed()) }
}

fn put_short_bytes(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), NotEncodable> {
    out.put_u8(u8::try_from(bytes.len()).map_err(|_| NotEncodable("a text or blob of more than 255 bytes"))?);
    out.put_slice(bytes);
    Ok(())
}

fn read_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    let bytes = reader.short_bytes()?;
    str::from_utf8(bytes).map_err(|_| reader.malformed())
}

#[cfg(test)]
pub(crate) mod tests;
