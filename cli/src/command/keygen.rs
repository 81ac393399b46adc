//! `keygen`: creates a key for the links between nodes.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::about::print;
use crate::config::secret::Key;
use crate::failure::Failure;

/// Writes a new key to a file that does not exist yet, or to standard output.
///
/// # Errors
/// The file exists, or cannot be written.
pub(super) fn run(file: Option<&Path>) -> Result<(), Failure> {
    let failed = |name: &str, source: io::Error| {
        let hint = match source.kind() {
            io::ErrorKind::AlreadyExists => "it is left as it is; name another file, or remove it if no node uses it",
            io::ErrorKind::NotFound => "create its folder first",
            _ => "name a file that can be written",
        };
        Failure::Keygen { name: name.to_owned(), source, hint }
    };
    let key = Key::random().map_err(|source| failed("standard output", source))?;
    let Some(path) = file else {
        return print(&format!("{}\n", key.to_hex()));
    };
    // The configuration needs an absolute path.
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = path.display().to_string();
    write(path, &key).map_err(|source| failed(&name, source))?;
    print(&format!(
        "{name}: a new key, readable only by its owner\n\
         Copy it to every node (scp -p {name} NODE:{name}), and set it in each ctflow.toml:\n\n\
         [security]\nkey_file = {name:?}\n"
    ))
}

/// Creates the file with mode 0600 and writes the key to it.
///
/// # Errors
/// The file exists, or cannot be written.
fn write(path: &Path, key: &Key) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = writeln!(file, "{}", key.to_hex()).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path); // half a key is useless, and a second attempt would fail because the file exists
    }
    written
}
