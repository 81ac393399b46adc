//! Local times: `<when>` of XML events, and kernel time stamps in the layout of C's `ctime`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::NS_PER_SECOND;
use super::append::Append;

/// Appends the `<when>` element of `ns` nanoseconds since 1970; nothing if the time is beyond the calendar's range.
pub(super) fn when_element(out: &mut Vec<u8>, zone: &TimeZone, ns: u64) {
    let Some(local) = local_time(zone, ns) else { return };
    out.literal(b"<when><hour>");
    append_number(out, local.hour());
    out.literal(b"</hour><min>");
    two_digits(out, local.minute());
    out.literal(b"</min><sec>");
    two_digits(out, local.second());
    out.literal(b"</sec><wday>");
    append_number(out, local.weekday().to_sunday_one_offset());
    out.literal(b"</wday><day>");
    append_number(out, local.day());
    out.literal(b"</day><month>");
    append_number(out, local.month());
    out.literal(b"</month><year>");
    append_number(out, local.year());
    out.literal(b"</year></when>");
}

/// Appends `ns` nanoseconds since 1970 as `Fri Nov  6 07:58:15 2026`, like C's `ctime` without its line end. Appends
/// nothing if the time is beyond the calendar's range.
pub(super) fn append_ctime(out: &mut Vec<u8>, zone: &TimeZone, ns: u64) {
    const DAYS: [&[u8; 4]; 7] = [b"Sun ", b"Mon ", b"Tue ", b"Wed ", b"Thu ", b"Fri ", b"Sat "];
    const MONTHS: [&[u8; 4]; 12] =
        [b"Jan ", b"Feb ", b"Mar ", b"Apr ", b"May ", b"Jun ", b"Jul ", b"Aug ", b"Sep ", b"Oct ", b"Nov ", b"Dec "];
    let Some(local) = local_time(zone, ns) else { return };
    append_name(out, &DAYS, local.weekday().to_sunday_zero_offset());
    append_name(out, &MONTHS, local.month() - 1);
    if local.day() < 10 {
        out.literal(b" ");
    }
    append_number(out, local.day());
    for (before, number) in [(b" ", local.hour()), (b":", local.minute()), (b":", local.second())] {
        out.literal(before);
        two_digits(out, number);
    }
    out.literal(b" ");
    append_number(out, local.year());
}

/// The local time of `ns` nanoseconds since 1970, truncated to a second; `None` beyond the calendar's range.
fn local_time(zone: &TimeZone, ns: u64) -> Option<DateTime> {
    let timestamp = Timestamp::from_second(i64::try_from(ns / NS_PER_SECOND).ok()?).ok()?;
    Some(zone.to_datetime(timestamp))
}

/// Appends the name at `index`, which counts from 0; nothing if there is none.
fn append_name(out: &mut Vec<u8>, names: &[&[u8; 4]], index: i8) {
    if let Some(name) = usize::try_from(index).ok().and_then(|index| names.get(index)) {
        out.literal(name);
    }
}

/// Appends a number with at least two digits. In `<when>`, minutes and seconds are padded and hours are not, as in
/// libnetfilter_conntrack.
fn two_digits(out: &mut Vec<u8>, number: i8) {
    if number < 10 {
        out.literal(b"0");
    }
    append_number(out, number);
}

/// Appends a part of a time. No part of a time since 1970 is negative.
fn append_number(out: &mut Vec<u8>, number: impl Into<i64>) {
    out.decimal(u64::try_from(number.into()).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(zone: &TimeZone, seconds: u64) -> String {
        let mut out = Vec::new();
        when_element(&mut out, zone, seconds.saturating_mul(NS_PER_SECOND));
        String::from_utf8(out).unwrap()
    }

    /// Captured on Friday, November 20, at 3:03:04 in a time zone 16 hours and 18 minutes behind UTC.
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

    #[test]
    fn ctime_pads_the_day_with_a_blank_and_the_time_with_zeros() {
        let shown = |zone: &TimeZone, seconds: u64| {
            let mut out = Vec::new();
            append_ctime(&mut out, zone, seconds * NS_PER_SECOND);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(&TimeZone::UTC, 1_795_197_495), "Fri Nov 20 17:58:15 2026");
        assert_eq!(shown(&TimeZone::UTC, 1_793_955_600), "Fri Nov  6 09:00:00 2026");
        assert_eq!(shown(&TimeZone::fixed(jiff::tz::offset(-9)), 1_793_955_600), "Fri Nov  6 00:00:00 2026");
    }
}
