//! The tree itself: rules that the compiler does not check.
#![allow(clippy::unwrap_used)] // a test fails by it, here in its helpers too

use std::fs;
use std::path::{Path, PathBuf};

mod skips;
mod words;

/// A text file of the repository.
struct Source {
    /// Its path from the repository's root, with `/`.
    path: String,
    text: String,
}

/// Reads every file below the repository's root that `wanted` selects by its path from there.
///
/// Build output, version control and the fuzz targets' inputs are not part of the tree.
fn sources(wanted: impl Fn(&str) -> bool) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut folders = vec![root.to_path_buf()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry: PathBuf = entry.unwrap().path();
            let path = entry.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            if entry.is_dir() {
                if !["target", ".git", "fuzz/corpus", "fuzz/artifacts"].contains(&path.as_str()) {
                    folders.push(entry);
                }
            } else if wanted(&path) {
                found.push(Source { text: fs::read_to_string(&entry).unwrap(), path });
            }
        }
    }
    assert!(found.len() > 1, "no files below {}", root.display());
    found
}
