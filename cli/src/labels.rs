//! Label names: the file that maps the kernel's label numbers to names.
//!
//! ```text
//! # number, white space, name
//! 0    vpn
//! 0x1f eth0-in
//! 020  two words
//! ```
//!
//! Numbers are in any of C's notations, 0 to 1023. Names consist of ASCII letters, digits, spaces and `-`. A line
//! that differs, or that repeats a number or a name, is skipped without a message, as in libnetfilter_conntrack.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ctflow_engine::os_error::os_error_text;
use ctflow_parser::flow::Labels;

use crate::words;

/// The file that is read if the command line names no other.
pub(crate) const DEFAULT_PATH: &str = "/etc/xtables/connlabel.conf";
/// The most bytes of a file that are read. A flow has at most 128 labels, so useful files are far smaller.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Numbers in a file are below this.
const FILE_LABELS: usize = 1024;
/// Label numbers of a flow are below this.
const FLOW_LABELS: u16 = 128;

/// Label names by number. The default map is empty: every name is unknown to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LabelMap {
    /// Indexed by number; as long as the highest number requires.
    names: Vec<Option<Box<str>>>,
}

/// The label file cannot be read. As in conntrack, listing continues without labels after a message.
#[derive(Debug, thiserror::Error)]
#[error("label names in {}: {}", path.display(), os_error_text(source))]
pub(crate) struct UnreadableMap {
    /// The file.
    pub(crate) path: PathBuf,
    /// The system's error.
    #[source]
    pub(crate) source: io::Error,
}

/// A label on the command line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LabelError {
    /// No line of the file has this name. The text is conntrack's.
    #[error("unknown label '{0}'")]
    Unknown(String),
    /// The file has this name with this number, which no flow can have.
    #[error("label '{0}' has the number {1}; the kernel's labels end at 127")]
    TooHigh(String, u16),
}

impl LabelMap {
    /// Reads the file at `path`, or [`DEFAULT_PATH`].
    ///
    /// # Errors
    /// The file cannot be opened or read. A file without any valid line is no error: it is an empty map.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, UnreadableMap> {
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text));
        match read {
            Ok(_) => Ok(Self::parse(&String::from_utf8_lossy(&text))),
            Err(source) => Err(UnreadableMap { path: path.to_owned(), source }),
        }
    }

    /// Parses the text of a label file.
    pub(crate) fn parse(text: &str) -> Self {
        let mut map = Self::default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        for (number, name) in lines.filter_map(parse_line) {
            map.insert(number, name);
        }
        map
    }

    /// Adds a name, unless an earlier line has the same number or the same name.
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

    /// Whether the map has no names.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The name of the label with this number, if it has one.
    #[inline]
    pub(crate) fn name(&self, number: u8) -> Option<&str> {
        self.names.get(usize::from(number))?.as_deref()
    }

    /// The number of a name in the file, 0 to 1023; `None` if the file does not have the name.
    pub(crate) fn number(&self, name: &str) -> Option<u16> {
        let index = self.names.iter().position(|known| known.as_deref() == Some(name))?;
        u16::try_from(index).ok()
    }

    /// The labels in a list of names that are separated by commas.
    ///
    /// # Errors
    /// The first name that the file does not have, or whose number no flow can have.
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

/// The number and the name in a line; `None` if the line is not valid.
fn parse_line(line: &str) -> Option<(usize, &str)> {
    let line = line.trim_start_matches(is_space);
    let (digits, name) = line.split_once(is_space)?;
    let number = number(digits).filter(|number| *number < FILE_LABELS)?;
    let name = name.trim_matches(is_space);
    let good = |character: char| character.is_ascii_alphanumeric() || matches!(character, ' ' | '-');
    (!name.is_empty() && name.chars().all(good)).then_some((number, name))
}

/// C's `isspace`: Rust's ASCII white space and vertical tab.
fn is_space(character: char) -> bool {
    character.is_ascii_whitespace() || character == '\u{b}'
}

/// A number in the notation of C's `strtoul` with base 0, which permits a plus sign.
fn number(word: &str) -> Option<usize> {
    let number = words::number(word.strip_prefix('+').unwrap_or(word))?;
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
            [
                "unknown label 'foo'",
                "unknown label ''",
                "label 'far' has the number 500; the kernel's labels end at 127"
            ]
        );
    }

    #[test]
    fn a_missing_file_is_named_with_the_reason() {
        let error = LabelMap::read(Some(Path::new("/nonexistent/connlabel.conf"))).unwrap_err();
        assert_eq!(error.to_string(), "label names in /nonexistent/connlabel.conf: No such file or directory");
        assert_eq!(LabelMap::default().labels("foo"), Err(LabelError::Unknown("foo".to_owned())));
    }
}
