//! The programs' output: counts events by kind, and compares listings.

use std::cmp::Ordering;

/// The first bytes of a line, in which the kind of an event is searched. It follows the timestamp.
const KIND_BYTES: usize = 64;
/// The number of the timeout's word in an extended listing: `ipv4 2 udp 17 30 src=…`. The timeout differs between two
/// listings.
const TIMEOUT_WORD: usize = 5;
/// The prefix of the number of references to the flow, which includes those of the listing itself.
const USE_PREFIX: &[u8] = b"use=";
/// The prefix of the flow's age in seconds, where the kernel stamps flows. The age differs between two listings.
const AGE_PREFIX: &[u8] = b"delta-time=";

/// The number of printed events of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// `[NEW]`.
    pub(crate) new: u64,
    /// `[UPDATE]`.
    pub(crate) update: u64,
    /// `[DESTROY]`.
    pub(crate) destroy: u64,
    /// Lines that are not events.
    pub(crate) other: u64,
}

impl Tally {
    /// Counts the lines of a program's output.
    pub(crate) fn of(output: &[u8]) -> Self {
        let mut tally = Self::default();
        for line in lines(output) {
            let head = line.get(..KIND_BYTES).unwrap_or(line);
            let has = |kind: &[u8]| head.windows(kind.len()).any(|window| window == kind);
            match () {
                () if has(b"[NEW]") => tally.new += 1,
                () if has(b"[UPDATE]") => tally.update += 1,
                () if has(b"[DESTROY]") => tally.destroy += 1,
                () => tally.other += 1,
            }
        }
        tally
    }

    /// The number of events of all kinds.
    pub(crate) fn events(&self) -> u64 {
        self.new + self.update + self.destroy
    }

    /// The sum of the differences of each kind, so that a missing event of one kind and a surplus event of another do
    /// not cancel out.
    pub(crate) fn count_differing(&self, other: &Self) -> u64 {
        let kinds = [(self.new, other.new), (self.update, other.update), (self.destroy, other.destroy)];
        kinds.iter().map(|(here, there)| here.abs_diff(*there)).sum()
    }
}

/// The difference of two listings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The number of lines that are in only one of the listings.
    pub(crate) lines: u64,
    /// The first line that only the left listing has, in the form that was compared.
    pub(crate) left: Option<String>,
    /// The first line that only the right listing has, in the form that was compared.
    pub(crate) right: Option<String>,
}

/// Compares two listings in any order, without timeouts, ages and `use=`. A line must occur equally often in both.
pub(crate) fn difference(left: &[u8], right: &[u8]) -> Difference {
    compare_sorted(&sorted_lines(left, without_timers), &sorted_lines(right, without_timers))
}

/// Compares the dump of an internal cache with the dump of its replica, in any order, by the fields that both have:
/// state, original direction, flags and mark.
pub(crate) fn replica_difference(internal: &[u8], external: &[u8]) -> Difference {
    compare_sorted(&sorted_lines(internal, replicated_part), &sorted_lines(external, replicated_part))
}

/// Compares two sorted listings.
fn compare_sorted(left: &[Vec<u8>], right: &[Vec<u8>]) -> Difference {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    let mut difference = Difference::default();
    loop {
        let side = match (left.peek(), right.peek()) {
            (None, None) => return difference,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.cmp(right),
        };
        let left = if side.is_le() { left.next() } else { None };
        let right = if side.is_ge() { right.next() } else { None };
        if side.is_ne() {
            difference.lines += 1;
            let text = |line: &Vec<u8>| String::from_utf8_lossy(line).into_owned();
            difference.left = difference.left.or_else(|| left.map(text));
            difference.right = difference.right.or_else(|| right.map(text));
        }
    }
}

/// The lines of an output, each reduced by `reduce`, sorted.
fn sorted_lines(output: &[u8], reduce: impl Fn(&[u8]) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut sorted: Vec<_> = lines(output).map(reduce).collect();
    sorted.sort_unstable();
    sorted
}

/// The line with `-` in place of its timeout, without the value of its age, and without `use=`. Every blank stays, so
/// that the number of blanks is compared, too.
fn without_timers(line: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(line.len());
    let mut word_number = 0;
    for (index, word) in line.split(|byte| *byte == b' ').enumerate() {
        if index > 0 {
            kept.push(b' ');
        }
        word_number += usize::from(!word.is_empty()); // between two blanks is an empty word
        if word_number == TIMEOUT_WORD && !word.is_empty() && word.iter().all(u8::is_ascii_digit) {
            kept.push(b'-');
        } else if word.starts_with(AGE_PREFIX) {
            kept.extend_from_slice(AGE_PREFIX);
        } else if !word.starts_with(USE_PREFIX) {
            kept.extend_from_slice(word);
        }
    }
    kept
}

/// The line without its reply direction, which an external cache may not have, and without the fields that describe the
/// cache's entry.
fn replicated_part(line: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    for word in words.by_ref().take_while(|word| *word != b"[active") {
        let name = word.split(|byte| *byte == b'=').next().unwrap_or_default();
        let seen = word.contains(&b'=')
            && kept.iter().any(|kept| kept.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&b'=')));
        if !seen {
            kept.push(word);
        }
    }
    kept.join(&b' ')
}

/// The number of lines that are not empty.
pub(crate) fn count(output: &[u8]) -> u64 {
    lines(output).count() as u64
}

/// The lines that are not empty.
fn lines(output: &[u8]) -> impl Iterator<Item = &[u8]> {
    output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: &str = "ipv4     2 udp      17 29 src=192.0.2.2 dst=198.18.0.1 sport=4 dport=5 packets=1 bytes=33 \
                        [UNREPLIED] src=198.18.0.1 dst=192.0.2.2 sport=5 dport=4 mark=0 delta-time=1 use=1\n";

    #[test]
    fn events_are_counted_by_kind_and_other_lines_apart() {
        let output = "[1700000000.123456]\t    [NEW] ipv4     2 udp      17 30 src=192.0.2.2 id=1\n\
                      [1700000000.123457]\t [UPDATE] ipv4     2 udp      17 30 src=192.0.2.2 id=1\n\
                      [1700000000.123458]\t[DESTROY] ipv4     2 udp      17 src=192.0.2.2 [UNREPLIED] id=1\n\
                      12 events lost here\n\n";
        let tally = Tally::of(output.as_bytes());
        assert_eq!(tally, Tally { new: 1, update: 1, destroy: 1, other: 1 });
        assert_eq!(tally.events(), 3);
        assert_eq!(tally.count_differing(&Tally { new: 3, ..Tally::default() }), 4);
        assert_eq!(Tally::of(b""), Tally::default());
    }

    fn differing(left: &str, right: &str) -> u64 {
        difference(left.as_bytes(), right.as_bytes()).lines
    }

    #[test]
    fn timeouts_ages_and_references_do_not_differ() {
        let later = FLOW.replace(" 29 ", " 7 ").replace("time=1", "time=23").replace("use=1", "use=2");
        assert_eq!(difference(FLOW.as_bytes(), later.as_bytes()), Difference::default());
        let tcp = "ipv4     2 tcp      6 431999 ESTABLISHED src=192.0.2.2";
        assert_eq!(without_timers(tcp.as_bytes()), b"ipv4     2 tcp      6 - ESTABLISHED src=192.0.2.2");
    }

    #[test]
    fn whatever_else_differs_is_counted() {
        let other = FLOW.replace("mark=0", "mark=1");
        assert_eq!(differing(FLOW, &other), 2);
        assert_eq!(differing(FLOW, &FLOW.replace("     2", " 2")), 2, "blanks count");
        assert_eq!(differing(&format!("{other}{FLOW}"), &format!("{FLOW}{other}")), 0, "in any order");
        assert_eq!(differing(&format!("{other}{FLOW}"), FLOW), 1);
        assert_eq!(differing(FLOW, &format!("{FLOW}{FLOW}")), 1, "repeated lines count");
    }

    /// The output was captured from conntrackd 1.4.7.
    #[test]
    fn a_replica_is_compared_by_what_it_has() {
        let internal = "tcp      6 TIME_WAIT src=192.0.2.2 dst=198.51.100.10 sport=43002 dport=8080 src=198.51.100.10 \
                        dst=198.51.100.1 sport=8080 dport=43002 [ASSURED] mark=42 [active since 2s]\n";
        let external = "tcp      6 TIME_WAIT src=192.0.2.2 dst=198.51.100.10 sport=43002 dport=8080 [ASSURED] mark=42 \
                        [active since 31s]\n";
        let differing = |external: &str| replica_difference(internal.as_bytes(), external.as_bytes()).lines;
        assert_eq!(differing(external), 0);
        assert_eq!(differing(&external.replace("TIME_WAIT", "CLOSE")), 2);
        assert_eq!(differing(&external.replace(" [ASSURED]", "")), 2);
        assert_eq!(differing(&external.replace("mark=42", "mark=1")), 2);
        assert_eq!(differing(&external.replace("dport=8080", "dport=80")), 2);
        assert_eq!(differing(""), 1);
    }

    #[test]
    fn a_difference_has_an_example() {
        let expected = Difference { lines: 3, left: Some("a".into()), right: Some("c".into()) };
        assert_eq!(difference(b"b\na\n", b"d\nb\nc\n"), expected);
    }
}
