//! The checked lines of a load file, kept as requests to the kernel until all lines are checked.

use ctflow_parser::request::{self, REQUEST_BYTES};
use ctflow_parser::write::Writer;

use super::labels;
use crate::flags::plan::{Command, Plan};

/// Staged lines, within a limit of memory. When it [is full](Self::is_full), the caller stages no more.
#[derive(Debug)]
pub(super) struct Staged {
    /// Bytes from which on it is full.
    limit: usize,
    /// The requests and lines, one after another.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// One staged line.
#[derive(Debug)]
struct Entry {
    /// The line's number in the file, from 1.
    number: u64,
    /// End of its bytes.
    end: usize,
    /// Whether its bytes are a request, or the text of the line.
    is_request: bool,
}

/// How to carry out a staged line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'p> {
    /// Send this request.
    Request(&'p [u8]),
    /// Parse the line again: it needs more than one request, or the bits of its labels are not known yet.
    Line(&'p [u8]),
}

impl Staged {
    /// Creates an empty one with room for `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, bytes: Vec::new(), entries: Vec::new() }
    }

    /// Returns whether the limit is reached. The last staged line may exceed it.
    pub(super) fn is_full(&self) -> bool {
        let entries = self.entries.len().saturating_mul(size_of::<Entry>());
        self.bytes.len().saturating_add(entries) >= self.limit
    }

    /// Stages `line`, which was parsed to `plan`.
    pub(super) fn push(&mut self, number: u64, plan: &Plan, line: &[u8]) {
        let mut buffer = [0; REQUEST_BYTES];
        let request = encode_request(plan, &mut buffer);
        self.bytes.extend_from_slice(request.unwrap_or(line));
        self.entries.push(Entry { number, end: self.bytes.len(), is_request: request.is_some() });
    }

    /// Iterates over the staged lines with their numbers.
    pub(super) fn steps(&self) -> impl Iterator<Item = (u64, Step<'_>)> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let bytes = self.bytes.get(start..entry.end).unwrap_or_default();
            start = entry.end;
            (entry.number, if entry.is_request { Step::Request(bytes) } else { Step::Line(bytes) })
        })
    }
}

/// Encodes `plan` as a request, if it needs exactly one and no label names.
fn encode_request<'b>(plan: &Plan, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let Command::Create(create) = &plan.command else { return None };
    if labels::uses_labels(&plan.command) {
        return None;
    }
    let mut writer = Writer::new(buffer);
    request::create(&mut writer, 0, &create.creation.flow_change(), create.if_exists).ok()?;
    Some(writer.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{line, parse_line};
    use crate::persona::Persona;

    #[test]
    fn creations_are_staged_as_requests_and_other_lines_as_text() {
        let create = "-A -p 50 -t 5 -s 10.0.0.1 -d 10.0.0.2";
        let lines = [create, "-D -p tcp", &format!("{create} --label-add x"), create];
        let mut staged = Staged::new(0);
        for (number, text) in (3..).zip(lines) {
            let plan = parse_line(Persona::Ctflow, line::split_words(text.as_bytes()).unwrap()).unwrap();
            staged.push(number, &plan, text.as_bytes());
        }
        let steps: Vec<_> = staged.steps().collect();
        assert!(matches!(steps[..], [(3, Step::Request(one)), _, _, (6, Step::Request(two))] if one == two));
        assert_eq!(steps[1..3], [(4, Step::Line(b"-D -p tcp")), (5, Step::Line(lines[2].as_bytes()))]);
    }
}
