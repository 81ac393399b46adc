//! A document of the daemon's, read leniently: what an older or newer daemon does not tell is 0, empty, or nothing.

use serde_json::Value;

/// A document, or a part of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Document<'a>(pub(super) &'a Value);

impl<'a> Document<'a> {
    fn get(self, path: &str) -> Option<&'a Value> {
        path.split('.').try_fold(self.0, |value, key| value.get(key))
    }

    /// The number at a path of keys with dots between them.
    pub(super) fn number(self, path: &str) -> u64 {
        self.optional_number(path).unwrap_or(0)
    }

    /// The number, where there is one.
    pub(super) fn optional_number(self, path: &str) -> Option<u64> {
        self.get(path).and_then(Value::as_u64)
    }

    /// A number, which may have a fraction, or a text, as it is to be shown.
    pub(super) fn display(self, path: &str) -> String {
        match self.get(path) {
            Some(Value::String(text)) => without_control_characters(text),
            Some(Value::Null) | None => "-".to_owned(),
            Some(other) => other.to_string(),
        }
    }

    /// A text that is to be shown; nothing where there is none.
    pub(super) fn text(self, path: &str) -> Option<String> {
        self.get(path).and_then(Value::as_str).map(without_control_characters)
    }

    /// Whether the path leads to `true`.
    pub(super) fn is_true(self, path: &str) -> bool {
        self.get(path).and_then(Value::as_bool).unwrap_or(false)
    }

    /// What is listed at a path.
    pub(super) fn list(self, path: &str) -> impl Iterator<Item = Document<'a>> + use<'a> {
        self.get(path).and_then(Value::as_array).into_iter().flatten().map(Document)
    }

    /// The texts that are listed at a path.
    pub(super) fn texts(self, path: &str) -> Vec<String> {
        self.list(path).filter_map(|item| item.0.as_str()).map(without_control_characters).collect()
    }

    /// The sum of a number over what is listed at a path.
    pub(super) fn sum(self, list: &str, path: &str) -> u64 {
        self.list(list).fold(0, |sum, item| sum.saturating_add(item.number(path)))
    }
}

/// Names come from peers: nothing in them may speak to the terminal.
fn without_control_characters(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
