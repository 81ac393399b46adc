//! One finding about the machine.

use serde_json::Value;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Nothing to do.
    Ok,
    /// Information; whether to act depends on the machine's purpose.
    Note,
    /// It works, but will cause losses under load.
    Warning,
    /// Something essential is missing: ctflow cannot do its work.
    Missing,
}

impl Level {
    /// Returns the level's name in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Missing => "missing",
        }
    }

    /// Returns the level's name at the start of a line.
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
    /// What it is about: one stable word, which scripts can match on.
    pub(super) name: &'static str,
    /// How much it matters.
    pub(super) level: Level,
    /// What was found, in one line.
    pub(super) found: String,
    /// The remedy, as a line for a shell; advice that is no command is a comment (`# …`).
    pub(super) mend: Option<String>,
    /// The measured values for programs; null if the check measures nothing.
    pub(super) value: Value,
}

impl Finding {
    /// Creates a finding without a remedy and a value.
    pub(super) fn new(name: &'static str, level: Level, found: impl Into<String>) -> Self {
        Self { name, level, found: found.into(), mend: None, value: Value::Null }
    }

    /// Creates a finding of level [`Level::Ok`].
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Ok, found)
    }

    /// Creates a finding of level [`Level::Note`].
    pub(super) fn note(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Note, found)
    }

    /// Creates a finding of level [`Level::Warning`].
    pub(super) fn warning(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Warning, found)
    }

    /// Creates a finding of level [`Level::Missing`].
    pub(super) fn missing(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Missing, found)
    }

    /// Sets the remedy.
    pub(super) fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// Sets the measured values.
    pub(super) fn value(mut self, value: Value) -> Self {
        self.value = value;
        self
    }
}

/// Returns the number of findings of level [`Level::Missing`].
pub(super) fn missing_count(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.level == Level::Missing).count()
}
