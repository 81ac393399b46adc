//! Files: each belongs to something.
//!
//! A file of code is the root of a program, a library, a test, a bench or an example, or the file above it declares it.
//! The name of any other file stands in another file: in code, in a manifest, in a script or in a document.

use std::collections::BTreeMap;

use super::{Source, paths, sources};

/// Files that other programs find by their names, and so need none of ours.
const KNOWN: &[&str] = &["Cargo.toml", "Cargo.lock", ".gitignore", ".git", "rustfmt.toml", "clippy.toml"];

/// Splits the path at its last `/`.
fn split_name(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Returns whether Cargo finds a file of code by its place.
fn is_root(path: &str) -> bool {
    let (folder, name) = split_name(path);
    let is_target = |folder: &str| {
        let is_of_tests = ["tests", "benches", "examples"].contains(&split_name(folder).1) && !folder.contains("/src/");
        is_of_tests || folder.ends_with("src/bin")
    };
    match name {
        "lib.rs" => folder.ends_with("src"),
        "main.rs" => folder.ends_with("src") || is_target(split_name(folder).0),
        _ => is_target(folder),
    }
}

/// The files that can declare the module that `path` has, and the module's name.
fn parents(path: &str) -> (Vec<String>, &str) {
    let (folder, name) = split_name(path);
    let (folder, module) = if name == "mod.rs" { split_name(folder) } else { (folder, name.trim_end_matches(".rs")) };
    let mut parents = ["mod.rs", "lib.rs", "main.rs"].map(|name| format!("{folder}/{name}")).to_vec();
    parents.push(format!("{folder}.rs"));
    (parents, module)
}

#[test]
fn every_file_of_code_is_compiled() {
    let files = sources(|path| path.ends_with(".rs") || path.ends_with("Cargo.toml"));
    let texts: BTreeMap<&str, &str> = files.iter().map(|file| (file.path.as_str(), file.text.as_str())).collect();
    let declares = |text: &str, module: &str| {
        text.lines().any(|line| line.strip_suffix(';').is_some_and(|line| line.ends_with(&format!("mod {module}"))))
    };
    let mut found = Vec::new();
    for path in texts.keys().filter(|path| path.ends_with(".rs") && !is_root(path)) {
        let (mut candidates, module) = parents(path);
        // A test program of one file can declare modules that lie beside it.
        let folder = split_name(&candidates[0]).0.to_owned();
        candidates
            .extend(texts.keys().filter(|path| is_root(path) && split_name(path).0 == folder).map(ToString::to_string));
        let is_declared =
            candidates.iter().any(|parent| texts.get(parent.as_str()).is_some_and(|text| declares(text, module)));
        let is_named = files.iter().any(|Source { path: manifest, text }| {
            let (krate, file) = split_name(manifest);
            let own = path.strip_prefix(krate).map(|rest| rest.trim_start_matches('/'));
            file == "Cargo.toml" && own.is_some_and(|own| text.contains(&format!("path = \"{own}\"")))
        });
        if !is_declared && !is_named {
            found.push(*path);
        }
    }
    assert!(found.is_empty(), "no module, target or manifest includes:\n{}", found.join("\n"));
}

#[test]
fn every_other_file_is_named_somewhere() {
    let is_text = |path: &str| {
        [".rs", ".md", ".toml", ".toml.5", ".8", ".1", "/run", "/long", ".service", ".conf", "-notify"]
            .iter()
            .any(|end| path.ends_with(end))
    };
    let texts = sources(is_text);
    let mut found = Vec::new();
    for path in paths().into_iter().filter(|path| !path.ends_with(".rs")) {
        let (folder, name) = split_name(&path);
        // A file of a common name is known by its folder, too.
        let whole = format!("{}/{name}", split_name(folder).1);
        let needle = if name.contains('.') { name } else { whole.trim_start_matches('/') };
        let is_named =
            KNOWN.contains(&name) || texts.iter().any(|file| file.path != path && file.text.contains(needle));
        if !is_named {
            found.push(path);
        }
    }
    assert!(found.is_empty(), "no file names:\n{}", found.join("\n"));
}
