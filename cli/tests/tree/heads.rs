//! Heads: every file of code opens with what it is for.

use super::sources;

#[test]
fn every_file_opens_with_its_head() {
    let mut found = Vec::new();
    for file in sources(|path| path.ends_with(".rs")) {
        let head = file.text.lines().take_while(|line| line.starts_with("//!"));
        let words = head.flat_map(|line| line.trim_start_matches("//!").split_whitespace()).count();
        if words < 3 {
            found.push(file.path);
        }
    }
    assert!(found.is_empty(), "these do not open with `//!` and what they are for:\n{}", found.join("\n"));
}
