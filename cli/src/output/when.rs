//! `<when>`: the local time of an event, in XML.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::NS_PER_SECOND;
use super::put::Put;

/// Appends the element for `ns` nanoseconds since the epoch. Past what a calendar holds, there is none.
pub(super) fn element(out: &mut Vec<u8>, zone: &TimeZone, ns: u64) {
    let seconds = i64::try_from(ns / NS_PER_SECOND).unwrap_or(i64::MAX);
    let Ok(timestamp) = Timestamp::from_second(seconds) else { return };
    let local = zone.to_datetime(timestamp);
    out.literal(b"<when><hour>");
    put(out, local.hour());
    out.literal(b"</hour><min>");
    two_digits(out, local.minute());
    out.literal(b"</min><sec>");
    two_digits(out, local.second());
    out.literal(b"</sec><wday>");
    put(out, local.weekday().to_sunday_one_offset());
    out.literal(b"</wday><day>");
    put(out, local.day());
    out.literal(b"</day><month>");
    put(out, local.month());
    out.literal(b"</month><year>");
    put(out, local.year());
    out.literal(b"</year></when>");
}

/// Minutes and seconds are padded, hours are not: so did libnetfilter_conntrack.
fn two_digits(out: &mut Vec<u8>, number: i8) {
    if number < 10 {
        out.literal(b"0");
    }
    put(out, number);
}

/// Nothing in a time since the epoch is negative.
fn put(out: &mut Vec<u8>, number: impl Into<i64>) {
    out.decimal(u64::try_from(number.into()).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(zone: &TimeZone, seconds: u64) -> String {
        let mut out = Vec::new();
        element(&mut out, zone, seconds.saturating_mul(NS_PER_SECOND));
        String::from_utf8(out).unwrap()
    }

    /// Captured on Friday, November 20, at 3:03:04 of a zone 16 hours and 18 minutes behind.
    #[test]
    fn the_time_is_local_and_only_minutes_and_seconds_are_padded() {
        let zone = TimeZone::fixed(jiff::tz::Offset::from_seconds(-(16 * 3600 + 18 * 60)).unwrap());
        let captured = "<when><hour>3</hour><min>03</min><sec>04</sec><wday>6</wday><day>20</day><month>11</month>\
                        <year>2026</year></when>";
        assert_eq!(when(&zone, 1_795_202_464), captured);
    }

    #[test]
    fn a_time_past_the_calendar_is_left_out() {
        assert!(when(&TimeZone::UTC, 1_795_202_464).contains("<hour>19</hour>"));
        assert_eq!(when(&TimeZone::UTC, u64::MAX).len(), when(&TimeZone::UTC, u64::MAX / NS_PER_SECOND).len());
    }
}
