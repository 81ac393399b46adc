//! The canonical form of an expectation.

use ctflow_parser::expect::{ExpectNat, ExpectView};

use super::{NotEncodable, ends, put_short_bytes, read_text};
use crate::cursor::{Malformed, Put, Reader};
use crate::limits::ENTRY_BYTES_MAX;

/// The NAT direction of an expectation without NAT.
const NAT_NONE: u8 = 255;

/// Appends the canonical form of `expect` to `out`, at most [`ENTRY_BYTES_MAX`] bytes. On an error `out` is as it was.
///
/// # Errors
/// An expectation without its tuples and id, or one that mixes families.
pub fn encode_expect(expect: &ExpectView<'_>, out: &mut Vec<u8>) -> Result<(), NotEncodable> {
    let start = out.len();
    let written = match put_expect(expect, out) {
        Ok(()) if out.len() - start > ENTRY_BYTES_MAX => Err(NotEncodable("longer than any expectation of a kernel")),
        written => written,
    };
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Appends the fields of `expect`; `out` may hold a part of them after an error.
fn put_expect(expect: &ExpectView<'_>, out: &mut Vec<u8>) -> Result<(), NotEncodable> {
    let ExpectView {
        family,
        tuple: Some(tuple),
        mask: Some(mask),
        master: Some(master),
        timeout,
        id: Some(id),
        helper,
        zone,
        flags,
        class,
        nat,
        function,
    } = expect
    else {
        return Err(NotEncodable("a tuple or the id is missing"));
    };
    out.put_u32(*id);
    out.put_slice(&[*family, tuple.proto, master.proto]);
    for tuple in [tuple, mask, master] {
        ends::put_tuple(tuple, *family, out)?;
    }
    out.put_u16(zone.unwrap_or(0));
    out.put_varint(timeout.unwrap_or(0).into());
    out.put_u32(flags.unwrap_or(0));
    out.put_u32(class.unwrap_or(0));
    put_short_bytes(helper.unwrap_or("").as_bytes(), out)?;
    put_short_bytes(function.unwrap_or("").as_bytes(), out)?;
    let Some(nat) = nat else {
        out.put_u8(NAT_NONE);
        return Ok(());
    };
    let direction = u8::try_from(nat.direction).ok().filter(|direction| *direction != NAT_NONE);
    out.put_u8(direction.ok_or(NotEncodable("a direction past 254"))?);
    out.put_u8(nat.tuple.proto);
    ends::put_tuple(&nat.tuple, *family, out)
}

/// Decodes an expectation; its texts are borrowed from `entry`. Timeout, flags, class and id are always set.
///
/// # Errors
/// Bytes that are not an expectation.
pub fn decode_expect(entry: &[u8]) -> Result<ExpectView<'_>, Malformed> {
    let mut reader = Reader::new(entry);
    let id = reader.u32()?;
    let [family, proto, master_proto] = reader.array()?;
    let tuple = ends::read_tuple(family, proto, &mut reader)?;
    let mask = ends::read_tuple(family, proto, &mut reader)?;
    let master = ends::read_tuple(family, master_proto, &mut reader)?;
    let zone = Some(reader.u16()?).filter(|zone| *zone != 0);
    let timeout = u32::try_from(reader.varint()?).map_err(|_| reader.malformed())?;
    let (flags, class) = (reader.u32()?, reader.u32()?);
    let [helper, function] =
        [read_text(&mut reader)?, read_text(&mut reader)?].map(|text| Some(text).filter(|t| !t.is_empty()));
    let nat = match reader.u8()? {
        NAT_NONE => None,
        direction => {
            let proto = reader.u8()?;
            Some(ExpectNat { direction: direction.into(), tuple: ends::read_tuple(family, proto, &mut reader)? })
        }
    };
    if !reader.is_empty() {
        return Err(reader.malformed());
    }
    Ok(ExpectView {
        family,
        tuple: Some(tuple),
        mask: Some(mask),
        master: Some(master),
        timeout: Some(timeout),
        id: Some(id),
        helper,
        zone,
        flags: Some(flags),
        class: Some(class),
        nat,
        function,
    })
}
