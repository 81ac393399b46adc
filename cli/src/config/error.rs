//! Errors of a configuration. Each message is one line with the file, the line number, and how to correct it.

use std::io;
use std::path::PathBuf;

use ctflow_engine::os_error::os_error_text;
use thiserror::Error;

use super::secret::KeyError;

/// A configuration that the daemon cannot run with.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {}; name another with -C FILE", .path.display(), os_error_text(.source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// The file has an error.
    #[error("{}, line {line}: {problem}", .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// The error.
        problem: Box<Problem>,
    },
    /// The key file has an error.
    #[error("{}, line {line}: {source}", .path.display())]
    Key {
        /// The configuration.
        path: PathBuf,
        /// The number of the line that names the key file.
        line: usize,
        /// The error of the key file.
        source: KeyError,
    },
}

/// The error in a line of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Problem {
    /// The text is not TOML.
    #[error("{0}")]
    Syntax(String),
    /// The section does not exist.
    #[error("unknown section [{name}]{suggestion}: the sections are {sections}")]
    UnknownSection {
        /// Its name as written.
        name: String,
        /// `, did you mean …?`, or empty.
        suggestion: String,
        /// The names of all sections.
        sections: String,
    },
    /// The section has no such key.
    #[error("unknown key `{name}' in {section}{suggestion}: its keys are {keys}")]
    UnknownKey {
        /// Its name as written.
        name: String,
        /// The head of the section.
        section: String,
        /// `, did you mean …?`, or empty.
        suggestion: String,
        /// The keys of the section.
        keys: String,
    },
    /// A section is written as a list of sections or the other way round, or as a value.
    #[error("`{name}' must be written as {right}")]
    Shape {
        /// Its name.
        name: &'static str,
        /// How to write it.
        right: String,
    },
    /// The key does not accept the value.
    #[error("`{key}' does not take {value}: it takes {right}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value as written, shortened.
        value: String,
        /// The values that the key accepts.
        right: &'static str,
    },
    /// Values contradict each other, or a required key is missing.
    #[error("{0}")]
    Rule(String),
}
