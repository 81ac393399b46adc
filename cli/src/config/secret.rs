//! The key that nodes share: 256 bits, stored as 64 hexadecimal digits in a file that only its owner may read.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ctflow_engine::os_error::os_error_text;
use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Bytes that are read of a key file at most; more than a key and an end of line.
const FILE_BYTES_MAX: u64 = 256;
/// Permissions that a key file must not have: any for its group and for others.
const FORBIDDEN: u32 = 0o077;

/// A pre-shared key. No message prints its digits.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key([u8; KEY_BYTES]);

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Key(…)")
    }
}

/// Why a key file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the key {}: {}; {}", .path.display(), os_error_text(.source), read_hint(.source.kind(), path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// Users other than its owner may read or write the file.
    #[error(
        "the key {} is exposed: its mode is {mode:04o}; chmod 600 {}, and make a new one if others had access",
        .path.display(), .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The permissions of the file.
        mode: u32,
    },
    /// The file does not contain a key.
    #[error(
        "the key {} is not 64 hexadecimal digits; copy it from the other node again, or make a new one for all nodes \
         with `ctflow keygen'",
        .path.display()
    )]
    Digits {
        /// The file.
        path: PathBuf,
    },
}

/// What to do about a key file that cannot be read.
fn read_hint(kind: io::ErrorKind, path: &Path) -> String {
    match kind {
        io::ErrorKind::PermissionDenied => "run as root, or as the user who owns the file".to_owned(),
        io::ErrorKind::NotFound => {
            format!(
                "copy it from the other node, or on the first node make one with `ctflow keygen {}'",
                path.display()
            )
        }
        _ => "name the file with 64 hexadecimal digits that `ctflow keygen' made".to_owned(),
    }
}

impl Key {
    /// Reads the key in the file `path`.
    ///
    /// # Errors
    /// [`KeyError`]: the file is unreadable, readable by others, or not a key.
    pub(crate) fn read(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        // The mode is that of the open file: by now the path may name another file.
        let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
        if mode & FORBIDDEN != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        match file.take(FILE_BYTES_MAX).read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => return Err(unreadable(error)),
        }
        Self::from_hex(text.trim_ascii()).ok_or_else(|| KeyError::Digits { path: path.to_owned() })
    }

    /// Generates a key with the kernel's random number generator.
    ///
    /// # Errors
    /// The error of getrandom(2), which does not fail on a system that has started.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; KEY_BYTES];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match getrandom(rest, GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Self(bytes))
    }

    /// The key as 64 hexadecimal digits.
    pub(crate) fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes of the key.
    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Parses 64 hexadecimal digits.
    fn from_hex(text: &str) -> Option<Self> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut bytes = [0; KEY_BYTES];
        if !rest.is_empty() || pairs.len() != KEY_BYTES {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            *byte = u8::try_from(high? << 4 | low?).ok()?;
        }
        Some(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn with_file<T>(text: &str, mode: u32, test: impl FnOnce(&Path) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        test(&path)
    }

    #[test]
    fn a_key_survives_a_round_trip_and_is_never_printed() {
        let key = Key::random().unwrap();
        assert_ne!(key, Key::random().unwrap());
        let read = |text: &str| with_file(text, 0o600, Key::read);
        assert_eq!(read(&format!("{}\n", key.to_hex())).unwrap(), key);
        assert_eq!(read(&key.to_hex().to_uppercase()).unwrap(), key);
        assert_eq!(format!("{key:?}"), "Key(…)");
        assert_eq!(read(&"0f".repeat(32)).unwrap().bytes(), &[15; 32]);
    }

    #[test]
    fn an_exposed_or_malformed_key_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o601] {
            let error = with_file(&"00".repeat(32), mode, Key::read).unwrap_err().to_string();
            assert!(error.contains("chmod 600 ") && error.contains(&format!("{mode:04o}")), "{error}");
        }
        for text in ["", "00", &"0g".repeat(32), &"00".repeat(33), &"é".repeat(32), &"+1".repeat(32)] {
            assert!(matches!(with_file(text, 0o400, Key::read), Err(KeyError::Digits { .. })), "{text}");
        }
        assert!(Key::read(Path::new("/nonexistent")).unwrap_err().to_string().contains("ctflow keygen /nonexistent"));
    }
}
