//! The daemon's log: standard error, or a file that can be opened again after a rotation.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The destination of the log. Clones share the file.
#[derive(Debug, Clone)]
pub(super) struct Log {
    /// The file with its path; `None` for standard error.
    file: Option<Arc<(PathBuf, Mutex<File>)>>,
}

impl Log {
    /// Starts logging at `level` to the file at `path`, or to standard error if there is none.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn init(path: Option<&Path>, level: LevelFilter) -> io::Result<Self> {
        let open = |path: &Path| Ok::<_, io::Error>(Arc::new((path.to_owned(), Mutex::new(open_append(path)?))));
        let log = Self { file: path.map(open).transpose()? };
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_target(false).with_max_level(level);
        // This fails only if the process has a subscriber already, because the daemon was started twice in it.
        let _ = subscriber.with_writer(log.clone()).try_init();
        Ok(log)
    }

    /// Opens the file at the path again and logs to it from now on. A rotated file was renamed, so this creates a new
    /// one.
    ///
    /// # Errors
    /// The file cannot be opened; the old one stays in use.
    pub(super) fn reopen(&self) -> io::Result<()> {
        if let Some(file) = &self.file {
            let new = open_append(&file.0)?;
            *file.1.lock().unwrap_or_else(PoisonError::into_inner) = new;
        }
        Ok(())
    }
}

/// Opens a file for appending, and creates it if necessary.
fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.file {
            Some(file) => file.1.lock().unwrap_or_else(PoisonError::into_inner).write(bytes),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // nothing is buffered
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
