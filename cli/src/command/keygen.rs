//! `keygen`: a key for the links between nodes.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::about::print;
use crate::config::secret::Key;
use crate::failure::Failure;

/// Writes a new key to a file that is not there yet, or to standard output.
///
/// # Errors
/// The file is there already, or cannot be written.
pub(super) fn run(file: Option<&Path>) -> Result<(), Failure> {
    let failed = |name: &str, source: io::Error| {
        let hint = match source.kind() {
            io::ErrorKind::AlreadyExists => "it is left as it is: name another, or remove it if no node uses it",
            io::ErrorKind::NotFound => "make its folder first",
            _ => "name a file that can be written",
        };
        Failure::Keygen { name: name.to_owned(), source, hint }
    };
    let key = Key::random().map_err(|source| failed("standard output", source))?;
    let Some(path) = file else {
        return print(&format!("{}\n", key.to_hex()));
    };
    // As the configuration needs it, which knows no folder to start from.
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = path.display().to_string();
    write(path, &key).map_err(|source| failed(&name, source))?;
    print(&format!(
        "{name}: a new key, which nobody but its owner may read\n\
         Copy it to every node (scp -p {name} NODE:{name}), and have each ctflow.toml say:\n\n\
         [security]\nkey_file = {name:?}\n"
    ))
}

fn write(path: &Path, key: &Key) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = writeln!(file, "{}", key.to_hex()).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path); // half a key is of no use, and would stand in the way of a whole one
    }
    written
}
