//! Which sink a command line names. It names no sink's code, so that the flags depend on none.

use std::path::{Path, PathBuf};

/// The sink that a command line names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum SinkChoice {
    /// Standard output.
    #[default]
    Lines,
    /// `--write`: a capture file.
    Pcapng(PathBuf),
}

impl SinkChoice {
    /// The file that the sink creates, if it creates one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::Pcapng(path) => Some(path),
            Self::Lines => None,
        }
    }
}
