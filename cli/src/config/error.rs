//! What can be wrong with a configuration: one line with the file, the line, and what would be right.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::secret::KeyError;

/// A configuration that the daemon cannot run with.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}; name another with -C FILE", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something in the file is wrong.
    #[error("{}, line {line}: {problem}", .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: Box<Problem>,
    },
    /// The key's file.
    #[error("{}, line {line}: {source}", .path.display())]
    Key {
        /// The configuration.
        path: PathBuf,
        /// The line that names the key's file.
        line: usize,
        /// What is wrong with it.
        source: KeyError,
    },
}

/// What is wrong in a line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Problem {
    /// No TOML.
    #[error("{0}")]
    Syntax(String),
    /// No such section.
    #[error("unknown section [{name}]{meant}: the sections are {sections}")]
    UnknownSection {
        /// As typed.
        name: String,
        /// `, did you mean …?`, or nothing.
        meant: String,
        /// Those that there are.
        sections: String,
    },
    /// No such key in that section.
    #[error("unknown key `{name}' in {section}{meant}: its keys are {keys}")]
    UnknownKey {
        /// As typed.
        name: String,
        /// Where.
        section: String,
        /// `, did you mean …?`, or nothing.
        meant: String,
        /// Those that there are.
        keys: String,
    },
    /// A section in place of a list of them, a value in place of a section.
    #[error("`{name}' must be written as {right}")]
    Shape {
        /// Which.
        name: &'static str,
        /// How.
        right: String,
    },
    /// A value that its key does not take.
    #[error("`{key}' does not take {value}: it takes {right}")]
    Value {
        /// Which key.
        key: &'static str,
        /// As written, shortened.
        value: String,
        /// What it takes.
        right: &'static str,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Rule(String),
}
