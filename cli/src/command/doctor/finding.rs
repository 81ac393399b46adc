//! One thing found out about the machine.

use serde_json::Value;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; a matter of taste or of what is asked of the machine.
    Note,
    /// Works, and will hurt under load.
    Warning,
    /// Nothing works without it.
    Missing,
}

impl Level {
    /// Its word in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Missing => "missing",
        }
    }

    /// Its word at the start of a line.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warn",
            Self::Missing => "MISSING",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    /// What it is about: one word, and stable, for scripts go by it.
    pub(super) name: &'static str,
    /// How much it matters.
    pub(super) level: Level,
    /// What was found, in a line.
    pub(super) found: String,
    /// What mends it, as a line for a shell; advice that is no command is a comment (`# …`).
    pub(super) mend: Option<String>,
    /// The same as numbers and words for programs; null where there is nothing to measure.
    pub(super) value: Value,
}

impl Finding {
    pub(super) fn new(name: &'static str, level: Level, found: impl Into<String>) -> Self {
        Self { name, level, found: found.into(), mend: None, value: Value::Null }
    }

    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Ok, found)
    }

    pub(super) fn note(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Note, found)
    }

    pub(super) fn warning(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Warning, found)
    }

    pub(super) fn missing(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Missing, found)
    }

    pub(super) fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    pub(super) fn value(mut self, value: Value) -> Self {
        self.value = value;
        self
    }
}

/// How many essential things are missing.
pub(super) fn missing_count(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.level == Level::Missing).count()
}
