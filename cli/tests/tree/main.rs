//! The tree itself: rules that the compiler does not check.
#![allow(clippy::unwrap_used)] // a test fails by it, here in its helpers too

use std::fs;
use std::path::{Path, PathBuf};

mod counters;
mod figures;
mod files;
mod heads;
mod publics;
mod skips;
mod words;

/// A text file of the repository.
struct Source {
    /// Its path from the repository's root, with `/`.
    path: String,
    text: String,
}

/// Lines of a file with their numbers.
type Lines<'a> = Vec<(usize, &'a str)>;

/// The repository's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The path of every file of the tree, from the repository's root, with `/`.
///
/// Build output, version control and the fuzz targets' inputs are not part of the tree.
fn paths() -> Vec<String> {
    let mut folders = vec![root().to_path_buf()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry: PathBuf = entry.unwrap().path();
            let path = entry.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
            if !entry.is_dir() {
                found.push(path);
            } else if !["target", ".git", "fuzz/corpus", "fuzz/artifacts"].contains(&path.as_str()) {
                folders.push(entry);
            }
        }
    }
    found
}

/// Reads every file of the tree that `wanted` selects by its path.
fn sources(wanted: impl Fn(&str) -> bool) -> Vec<Source> {
    let read = |path: String| Source { text: fs::read_to_string(root().join(&path)).unwrap(), path };
    let found: Vec<_> = paths().into_iter().filter(|path| wanted(path)).map(read).collect();
    assert!(found.len() > 1, "no files below {}", root().display());
    found
}

/// The lines of a file with their numbers: of production code, and of tests.
///
/// A file of a folder `tests`, and one whose name ends so, has tests alone. In other files the tests are the module behind
/// `#[cfg(test)]`, the last of the file.
fn split_tests(file: &Source) -> (Lines<'_>, Lines<'_>) {
    let lines: Vec<_> = (1..).zip(file.text.lines()).collect();
    let is_module = |pair: &[(usize, &str)]| pair[0].1 == "#[cfg(test)]" && pair[1].1.starts_with("mod ");
    let is_test = file.path.contains("/tests/") || file.path.ends_with("tests.rs");
    let start = if is_test { 0 } else { lines.windows(2).position(is_module).unwrap_or(lines.len()) };
    let (production, tests) = lines.split_at(start);
    (production.to_vec(), tests.to_vec())
}
