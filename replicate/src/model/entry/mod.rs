//! The canonical form of a flow or an expectation, in which it is sent: the same bytes on every node.
//!
//! ```text
//! flow    bits 2 | id 4 | protocol 1 | ends 8/32 +4 | reply, where not mirrored | status | timeout | … by bits
//! expect  id 4 | family 1 | protocols 1+1 | tuple, mask, master: ends 12/36 each | zone | timeout | …
//! ```
//!
//! Because the same flow has the same bytes on every node, a hash of them ([`entry_check`]) shows whether two nodes
//! hold the same. What changes by itself (counters, time stamps, references) is not sent.

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

/// The error of a flow or an expectation that the protocol cannot express: a tuple is missing, families or protocols
/// are mixed, or a text is too long. Today's kernels make none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not encodable: {0}")]
pub struct NotEncodable(pub(crate) &'static str);

/// The check of an entry: the low 32 bits of XXH3-64 over its bytes. Digests are sums of spread checks.
#[must_use]
#[inline]
pub fn entry_check(entry: &[u8]) -> u32 {
    let [.., a, b, c, d] = xxh3_64(entry).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// The id of an encoded flow, which the kernel of its source assigned; `None` if the bytes are too short for a flow.
#[must_use]
#[inline]
pub fn flow_id(entry: &[u8]) -> Option<u32> {
    entry.get(2..6)?.first_chunk().map(|id| u32::from_be_bytes(*id))
}

/// The id in the body of an end-of-flow item; `None` if the bytes are too short for one.
#[must_use]
#[inline]
pub fn flow_end_id(body: &[u8]) -> Option<u32> {
    body.first_chunk().map(|id| u32::from_be_bytes(*id))
}

/// Appends the body of an end-of-flow item to `out`: the key and id of the flow.
///
/// # Errors
/// A key with addresses of two families, or with ports that its protocol does not have.
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

/// Decodes the body of an end-of-flow item: the key and id of the flow.
///
/// # Errors
/// Bytes that are not the end of a flow of `family`.
pub fn decode_flow_end(family: u8, body: &[u8]) -> Result<(FlowKey, u32), Malformed> {
    let mut reader = Reader::new(body);
    let (id, zone, proto) = (reader.u32()?, reader.u16()?, reader.u8()?);
    let (src, dst) = ends::read_addresses(family, &mut reader)?;
    let ports = if reader.is_empty() { None } else { Some((reader.u16()?, reader.u16()?)) };
    let orig = Tuple { src, dst, proto, l4: ends::l4_of_numbers(proto, ports), zone: None };
    if reader.is_empty() { Ok((FlowKey { orig, zone }, id)) } else { Err(reader.malformed()) }
}

/// Appends one byte of length and the bytes of a text or blob.
fn put_short_bytes(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), NotEncodable> {
    out.put_u8(u8::try_from(bytes.len()).map_err(|_| NotEncodable("a text or blob of more than 255 bytes"))?);
    out.put_slice(bytes);
    Ok(())
}

/// Reads one byte of length and a text of as many bytes in UTF-8.
fn read_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    let bytes = reader.short_bytes()?;
    str::from_utf8(bytes).map_err(|_| reader.malformed())
}

#[cfg(test)]
pub(crate) mod tests;
