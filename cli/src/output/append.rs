//! Numbers and addresses as text, appended to the line in progress.
//!
//! A line has some thirty small pieces, so the cost of a piece decides the cost of a line. Every copy in this module
//! has a length that the compiler knows: a piece is written in a fixed width that fits its longest form, and the
//! buffer is then truncated to the piece's length. Each copy compiles to one or two moves; a copy of varying length
//! would call `memcpy`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Appends text to a reusable buffer. Nothing is allocated once the buffer has reached the length of its longest line.
pub(crate) trait Append {
    /// Appends bytes that are known at compile time.
    fn literal<const N: usize>(&mut self, text: &[u8; N]);
    /// Appends text of any length unchanged.
    fn text(&mut self, text: &str);
    /// Appends `number` in decimal.
    fn decimal(&mut self, number: u64);
    /// Appends the last six decimal digits of `number`, zeros included.
    fn six_digits(&mut self, number: u32);
    /// Appends `number` in lower-case hexadecimal without leading zeros.
    fn hex(&mut self, number: u16);
    /// Appends an address in the form of glibc's `inet_ntop`.
    fn address(&mut self, address: IpAddr);
}

impl Append for Vec<u8> {
    #[inline]
    fn literal<const N: usize>(&mut self, text: &[u8; N]) {
        self.extend_from_slice(text);
    }

    fn text(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }

    #[inline]
    fn decimal(&mut self, number: u64) {
        match u32::try_from(number) {
            Ok(number) if number < HUNDRED_MILLION => append_short(self, number),
            _ => append_long(self, number),
        }
    }

    #[inline]
    fn six_digits(&mut self, number: u32) {
        let digits = ascii(eight_digits(number % 1_000_000)).to_le_bytes();
        if let Some(last) = digits.last_chunk::<6>() {
            self.literal(last);
        }
    }

    #[inline]
    fn hex(&mut self, number: u16) {
        let zeros = (number.leading_zeros() / 4).min(3);
        append_prefix(self, u64::from(hex_digits(number)) >> (8 * zeros), 4 - zeros);
    }

    #[inline]
    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => append_ipv4(self, address),
            IpAddr::V6(address) => append_ipv6(self, address),
        }
    }
}

const HUNDRED_MILLION: u32 = 100_000_000;

/// Appends a number below 10^8 without leading zeros.
#[inline]
fn append_short(out: &mut Vec<u8>, number: u32) {
    let digits = eight_digits(number);
    let zeros = (digits.trailing_zeros() / 8).min(7); // the first digit is the lowest byte
    append_prefix(out, ascii(digits) >> (8 * zeros), 8 - zeros);
}

/// Appends a number of nine digits or more: the digits above the last eight, then the last eight with their zeros.
fn append_long(out: &mut Vec<u8>, number: u64) {
    let (high, low) = (number / u64::from(HUNDRED_MILLION), number % u64::from(HUNDRED_MILLION));
    out.decimal(high);
    out.literal(&ascii(eight_digits(u32::try_from(low).unwrap_or(0))).to_le_bytes());
}

/// Appends the lowest `length` bytes of `text`, the lowest byte first. `length` is at most 8.
#[inline]
fn append_prefix(out: &mut Vec<u8>, text: u64, length: u32) {
    let end = out.len() + usize::try_from(length).unwrap_or(8);
    out.literal(&text.to_le_bytes());
    out.truncate(end);
}

/// The eight decimal digits of a number below 10^8, one to a byte, the first digit in the lowest byte.
///
/// All lanes of a word are divided at once: into two of four digits, four of two, eight of one. The divisions are
/// multiplications by a rounded reciprocal, exact for numbers as small as a lane's.
#[inline]
fn eight_digits(number: u32) -> u64 {
    let fours = u64::from(number / 10_000) | u64::from(number % 10_000) << 32;
    let hundreds = (fours * 5_243) >> 19 & 0x0000_007f_0000_007f; // x / 100 for x < 10^4
    let twos = hundreds | (fours - hundreds * 100) << 16;
    let tens = (twos * 103) >> 10 & 0x000f_000f_000f_000f; // x / 10 for x < 10^2
    tens | (twos - tens * 10) << 8
}

/// Turns eight digits, one to a byte, into their ASCII characters.
#[inline]
fn ascii(digits: u64) -> u64 {
    digits | 0x3030_3030_3030_3030
}

/// The four hexadecimal digits of a number as characters, the first in the lowest byte. All four are converted at once:
/// adding 6 carries into the fifth bit of every digit that is 10 or more and needs a letter.
#[inline]
fn hex_digits(number: u16) -> u32 {
    let number = u32::from(number);
    let digits = number >> 12 | (number & 0x0f00) | (number & 0x00f0) << 12 | (number & 0x000f) << 24;
    let letters = (digits + 0x0606_0606) >> 4 & 0x0101_0101;
    digits + 0x3030_3030 + letters * u32::from(b'a' - b'0' - 10)
}

/// Each octet as decimal text followed by a dot, and the length of both together.
static OCTETS: [([u8; 4], u8); 256] = octets();

/// Builds [`OCTETS`] at compile time.
const fn octets() -> [([u8; 4], u8); 256] {
    let mut table = [([0; 4], 0); 256];
    let mut octet = 0u8;
    loop {
        let [hundreds, tens, ones] = [b'0' + octet / 100, b'0' + octet / 10 % 10, b'0' + octet % 10];
        table[octet as usize] = match octet {
            0..10 => ([ones, b'.', 0, 0], 2),
            10..100 => ([tens, ones, b'.', 0], 3),
            100.. => ([hundreds, tens, ones, b'.'], 4),
        };
        if octet == u8::MAX {
            return table;
        }
        octet += 1;
    }
}

/// Appends an address in dotted decimal. The text of all four octets is collected in one integer, which is copied at
/// once.
#[inline]
fn append_ipv4(out: &mut Vec<u8>, address: Ipv4Addr) {
    let mut text = 0u128;
    let mut length = 0;
    for octet in address.octets() {
        let (digits, width) = &OCTETS[usize::from(octet)];
        text |= u128::from(u32::from_le_bytes(*digits)) << (8 * length);
        length += u32::from(*width);
    }
    let end = out.len() + usize::try_from(length).unwrap_or(0) - 1; // without the last octet's dot
    out.literal(&text.to_le_bytes());
    out.truncate(end);
}

/// Appends an IPv6 address. The longest run of at least two zero groups is written `::`; of equally long runs, the
/// first. If the address embeds an IPv4 address (`::1.2.3.4`, `::ffff:1.2.3.4`), the last two groups are in dotted
/// decimal.
fn append_ipv6(out: &mut Vec<u8>, address: Ipv6Addr) {
    let groups = address.segments();
    let (start, length) = longest_zeros(&groups);
    let embeds_ipv4 = start == 0 && (length == 6 || length == 5 && groups[5] == 0xffff);
    let end = if embeds_ipv4 { 6 } else { groups.len() };
    let before = &groups[..start.min(end)];
    let behind = groups.get(start + length..end).unwrap_or_default();
    before.iter().for_each(|group| append_group(out, *group));
    match (length, start) {
        (0, _) => {}
        (_, 0) => out.literal(b"::"),
        _ => out.literal(b":"), // the last group before the run has already appended the first colon
    }
    behind.iter().for_each(|group| append_group(out, *group));
    if embeds_ipv4 {
        let [.., a, b, c, d] = address.octets();
        append_ipv4(out, Ipv4Addr::new(a, b, c, d));
    } else if length == 0 || !behind.is_empty() {
        out.truncate(out.len() - 1); // the last group's colon
    }
}

/// Appends a group and a colon.
#[inline]
fn append_group(out: &mut Vec<u8>, group: u16) {
    let zeros = (group.leading_zeros() / 4).min(3);
    append_prefix(out, (u64::from(hex_digits(group)) | u64::from(b':') << 32) >> (8 * zeros), 5 - zeros);
}

/// The start and the length of the longest run of zero groups; the length is 0 if no run has two groups.
fn longest_zeros(groups: &[u16; 8]) -> (usize, usize) {
    let (mut best, mut run) = ((groups.len(), 0), 0);
    for (index, group) in groups.iter().enumerate() {
        run = if *group == 0 { run + 1 } else { 0 };
        if run >= 2 && run > best.1 {
            best = (index + 1 - run, run);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"|".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap().split_off(1)
    }

    #[test]
    fn decimals_are_those_of_the_standard_library() {
        let powers = (0..20).map(|power| 10u64.pow(power));
        let edges = powers.flat_map(|power| [power - 1, power, power + 1, power.wrapping_mul(7)]);
        for number in edges.chain(0..20_000).chain([99_999_999, 100_000_000, u64::MAX, u64::from(u32::MAX)]) {
            assert_eq!(appended(|out| out.decimal(number)), number.to_string());
        }
        for number in [0, 7, 999_999, 361_757, 1_000_001] {
            assert_eq!(appended(|out| out.six_digits(number)), format!("{:06}", number % 1_000_000));
        }
    }

    #[test]
    fn hex_has_no_leading_zeros() {
        for number in 0..=u16::MAX {
            assert_eq!(appended(|out| out.hex(number)), format!("{number:x}"));
        }
    }

    #[test]
    fn ipv4_is_dotted_decimal() {
        for address in [[0, 0, 0, 0], [255, 255, 255, 255], [1, 22, 133, 9], [192, 0, 2, 10], [10, 100, 99, 200]] {
            let address = Ipv4Addr::from(address);
            assert_eq!(appended(|out| out.address(address.into())), address.to_string());
        }
    }

    #[test]
    fn ipv6_is_what_glibc_writes() {
        let written_by_glibc = [
            ("::", "::"),
            ("::1", "::1"),
            ("::2:3", "::0.2.0.3"),
            ("::1:0", "::0.1.0.0"),
            ("1::", "1::"),
            ("::1.2.3.4", "::1.2.3.4"),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
            ("::fffe:1.2.3.4", "::fffe:102:304"),
            ("0:0:0:0:0:ffff:0:0", "::ffff:0.0.0.0"),
            ("0:0:0:0:ffff:0:1:2", "::ffff:0:1:2"),
            ("1:0:0:2:0:0:0:3", "1:0:0:2::3"),
            ("1:0:2:0:3:0:4:0", "1:0:2:0:3:0:4:0"),
            ("1:0:0:2:3:0:0:4", "1::2:3:0:0:4"),
            ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
            ("0:1:2:3:4:5:6:7", "0:1:2:3:4:5:6:7"),
            ("0:0:1::", "0:0:1::"),
            ("1:2:3:4:5:6:0:0", "1:2:3:4:5:6::"),
            ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
            ("abcd:ef01:2345:6789:abcd:ef01:2345:6789", "abcd:ef01:2345:6789:abcd:ef01:2345:6789"),
        ];
        for (given, expected) in written_by_glibc {
            let address: Ipv6Addr = given.parse().unwrap();
            assert_eq!(appended(|out| out.address(address.into())), expected, "{given}");
        }
    }
}
