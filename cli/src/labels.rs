//! Label names: the file that gives the kernel's label numbers the names operators know.
//!
//! ```text
//! # number, white space, name
//! 0    vpn
//! 0x1f eth0-in
//! 020  two words
//! ```
//!
//! Numbers are in any of C's notations, 0 to 1023; names are of ASCII letters, digits, spaces and `-`. A line that is
//! not so, or that says a number or name again, is passed over without a word, as the old library does.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ctflow_parser::flow::Labels;

use crate::failure::os_error_text;
use crate::flags;

/// Read where no other file is named.
pub(crate) const DEFAULT_PATH: &str = "/etc/xtables/connlabel.conf";
/// As much of a file as is read: 128 names are all there can be.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Numbers that a file may give a name to.
const FILE_LABELS: usize = 1024;
/// Numbers that a flow can have.
const FLOW_LABELS: u16 = 128;

/// Names by number. The default one is empty: to it, every name is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LabelMap {
    /// Indexed by number, as long as the highest one needs.
    names: Vec<Option<Box<str>>>,
}

/// The file of label names cannot be read. conntrack says so and lists on, without labels.
#[derive(Debug, thiserror::Error)]
#[error("label names in {}: {}", path.display(), os_error_text(source))]
pub(crate) struct UnreadableMap {
    /// The file.
    pub(crate) path: PathBuf,
    /// Why not.
    #[source]
    pub(crate) source: io::Error,
}

/// A label that was named cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LabelError {
    /// No line of the file has it; conntrack's words.
    #[error("unknown label '{0}'")]
    Unknown(String),
    /// The file has it, with a number that no flow can have.
    #[error("label '{0}' has the number {1}; the kernel's end at 127")]
    TooHigh(String, u16),
}

impl LabelMap {
    /// Reads the file at `path`, or the default one.
    ///
    /// # Errors
    /// That of reading it. A file without one good line is an empty map.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, UnreadableMap> {
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text));
        match read {
            Ok(_) => Ok(Self::parse(&String::from_utf8_lossy(&text))),
            Err(source) => Err(UnreadableMap { path: path.to_owned(), source }),
        }
    }

    /// Reads a file's text.
    pub(crate) fn parse(text: &str) -> Self {
        let mut map = Self::default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        for (number, name) in lines.filter_map(parse_line) {
            map.insert(number, name);
        }
        map
    }

    /// The first line that names a number or uses a name holds.
    fn insert(&mut self, number: usize, name: &str) {
        if self.number(name).is_some() {
            return;
        }
        if self.names.len() <= number {
            self.names.resize(number + 1, None);
        }
        if let Some(slot) = self.names.get_mut(number) {
            slot.get_or_insert_with(|| name.into());
        }
    }

    /// Whether it has no names at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The name of a flow's label.
    #[inline]
    pub(crate) fn name(&self, number: u8) -> Option<&str> {
        self.names.get(usize::from(number))?.as_deref()
    }

    /// The number behind a name, as the file gives it: up to 1023.
    pub(crate) fn number(&self, name: &str) -> Option<u16> {
        let index = self.names.iter().position(|known| known.as_deref() == Some(name))?;
        u16::try_from(index).ok()
    }

    /// The labels that a list with commas names.
    ///
    /// # Errors
    /// The first name that has no number, or none that a flow can have.
    pub(crate) fn labels(&self, list: &str) -> Result<Labels, LabelError> {
        let mut bits = 0;
        for name in list.split(',') {
            match self.number(name) {
                Some(number) if number < FLOW_LABELS => bits |= 1u128 << number,
                Some(number) => return Err(LabelError::TooHigh(name.to_owned(), number)),
                None => return Err(LabelError::Unknown(name.to_owned())),
            }
        }
        Ok(Labels(bits))
    }
}

/// A line's number and name, where it has both.
fn parse_line(line: &str) -> Option<(usize, &str)> {
    let line = line.trim_start_matches(is_space);
    let (digits, name) = line.split_once(is_space)?;
    let number = number(digits).filter(|number| *number < FILE_LABELS)?;
    let name = name.trim_matches(is_space);
    let good = |character: char| character.is_ascii_alphanumeric() || matches!(character, ' ' | '-');
    (!name.is_empty() && name.chars().all(good)).then_some((number, name))
}

/// C's `isspace`, which knows one more than Rust's ASCII white space.
fn is_space(character: char) -> bool {
    character.is_ascii_whitespace() || character == '\u{b}'
}

/// A number as `strtoul` reads it with base 0, a plus sign included.
fn number(word: &str) -> Option<usize> {
    let number = flags::number(word.strip_prefix('+').unwrap_or(word))?;
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_any_notation_and_names_may_have_spaces() {
        let map = LabelMap::parse("# ours\n0 vpn\n0x1f\teth0-in\n010  two words \n +9 nine\n1023 last\n127 big\n");
        let names = [0, 31, 8, 9, 127, 1].map(|number| map.name(number));
        assert_eq!(names, [Some("vpn"), Some("eth0-in"), Some("two words"), Some("nine"), Some("big"), None]);
        assert_eq!((map.number("last"), map.number("ours")), (Some(1023), None));
    }

    #[test]
    fn bad_and_repeated_lines_are_skipped() {
        let bad =
            " # not a comment\n1024 high\n-1 minus\n09 octal\n0x hex\n5\n6 \n7 under_score\n8 caf\u{e9}\n3x word\n";
        let map = LabelMap::parse(bad);
        assert!(map.is_empty(), "{map:?}");
        let map = LabelMap::parse("1 web\n1 other\n2 web\n2 mail\n");
        assert_eq!((map.name(1), map.name(2), map.number("other")), (Some("web"), Some("mail"), None));
    }

    #[test]
    fn a_list_names_all_its_labels() {
        let map = LabelMap::parse("0 vpn\n127 big\n500 far\n3 a b\n");
        assert_eq!(map.labels("big,vpn,a b"), Ok(Labels(1 << 127 | 1 | 1 << 3)));
        let refused = ["vpn,foo", "", "far"].map(|list| map.labels(list).unwrap_err().to_string());
        assert_eq!(
            refused,
            ["unknown label 'foo'", "unknown label ''", "label 'far' has the number 500; the kernel's end at 127"]
        );
    }

    #[test]
    fn a_missing_file_is_named_with_the_reason() {
        let error = LabelMap::read(Some(Path::new("/nonexistent/connlabel.conf"))).unwrap_err();
        assert_eq!(error.to_string(), "label names in /nonexistent/connlabel.conf: No such file or directory");
        assert_eq!(LabelMap::default().labels("foo"), Err(LabelError::Unknown("foo".to_owned())));
    }
}
