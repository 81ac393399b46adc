//! A JSON document of the daemon, read leniently: a value that an older or newer daemon does not send is 0, empty, or
//! `None`.

use serde_json::Value;

/// A document, or a part of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Document<'a>(pub(super) &'a Value);

impl<'a> Document<'a> {
    /// The value at a path of keys with dots between them.
    fn get(self, path: &str) -> Option<&'a Value> {
        path.split('.').try_fold(self.0, |value, key| value.get(key))
    }

    /// The number at a path; 0 if there is none.
    pub(super) fn number(self, path: &str) -> u64 {
        self.optional_number(path).unwrap_or(0)
    }

    /// The number at a path, if there is one.
    pub(super) fn optional_number(self, path: &str) -> Option<u64> {
        self.get(path).and_then(Value::as_u64)
    }

    /// The number (which may have a fraction) or text at a path, for display; `-` if there is none.
    pub(super) fn display(self, path: &str) -> String {
        match self.get(path) {
            Some(Value::String(text)) => without_control_characters(text),
            Some(Value::Null) | None => "-".to_owned(),
            Some(other) => other.to_string(),
        }
    }

    /// The text at a path, for display, if there is one.
    pub(super) fn text(self, path: &str) -> Option<String> {
        self.get(path).and_then(Value::as_str).map(without_control_characters)
    }

    /// Whether the value at a path is `true`.
    pub(super) fn is_true(self, path: &str) -> bool {
        self.get(path).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The elements of the array at a path; none if there is no array.
    pub(super) fn list(self, path: &str) -> impl Iterator<Item = Document<'a>> + use<'a> {
        self.get(path).and_then(Value::as_array).into_iter().flatten().map(Document)
    }

    /// The texts in the array at a path, for display.
    pub(super) fn texts(self, path: &str) -> Vec<String> {
        self.list(path).filter_map(|item| item.0.as_str()).map(without_control_characters).collect()
    }

    /// The sum of the numbers at `path` in every element of the array `list`.
    pub(super) fn sum(self, list: &str, path: &str) -> u64 {
        self.list(list).fold(0, |sum, item| sum.saturating_add(item.number(path)))
    }
}

/// `text` with `?` in place of control characters: peers choose their names, and these must not control the terminal.
fn without_control_characters(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
