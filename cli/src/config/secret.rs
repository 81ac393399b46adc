//! The key that nodes share: 256 bits, kept in a file as 64 hexadecimal digits that nobody but its owner may see.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// More than a file with a key and a line's end has.
const FILE_BYTES_MAX: u64 = 256;
/// Permissions that a key's file must not give: those of its group and of others.
const FORBIDDEN: u32 = 0o077;

/// A pre-shared key. Its digits appear in no message.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key([u8; KEY_BYTES]);

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Key(…)")
    }
}

/// A key's file that is of no use.
#[derive(Debug, Error)]
pub(crate) enum KeyError {
    /// It cannot be read.
    #[error("cannot read the key {}: {source}; make one with `ctflow keygen {}'", .path.display(), .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may read or write it.
    #[error(
        "the key {} is no secret: its mode is {mode:04o}; chmod 600 {}, and make a new one if others had access",
        .path.display(), .path.display()
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It has something else in it.
    #[error("the key {} is not 64 hexadecimal digits; make one with `ctflow keygen'", .path.display())]
    Digits {
        /// Which.
        path: PathBuf,
    },
}

impl Key {
    /// Reads the key of `path`.
    ///
    /// # Errors
    /// [`KeyError`]: unreadable, readable for others, or no key.
    pub(crate) fn read(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        // Of the open file: the name could be another's by now.
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

    /// A new key, from the kernel's generator.
    ///
    /// # Errors
    /// What the kernel says; none does, once it has started.
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

    /// The 64 digits.
    pub(crate) fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes, for who encrypts with them.
    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

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
