//! The programs under comparison.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::Failure;
use crate::process::Process;

/// The program that ctflow is compared with.
const REFERENCE: &str = "conntrack";
/// A folder to search after `PATH`, in which users other than root often have no `sbin`.
const SUPERUSER_PATH: &str = "/usr/sbin";
/// How long a program may take to print its version. It takes milliseconds.
const VERSION_LONGEST: Duration = Duration::from_secs(10);

/// One program.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The name of the program's file, used in the report's headings.
    pub(crate) name: String,
    /// The path of the program's file.
    pub(crate) path: PathBuf,
}

impl Program {
    /// The program at `path`.
    pub(crate) fn at(path: PathBuf) -> Self {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self { name, path }
    }

    /// Finds a program on `PATH` or in `/usr/sbin`.
    ///
    /// # Errors
    /// [`Failure::NotInstalled`].
    pub(crate) fn installed(name: &'static str) -> Result<Self, Failure> {
        installed(name).map(Self::at).ok_or(Failure::NotInstalled(name))
    }

    /// The first line that the program prints for `--version`.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub(crate) fn version(&self) -> Result<String, Failure> {
        let ended = Process::start(self, &["--version"])?.run_to_end(VERSION_LONGEST)?;
        let text = String::from_utf8_lossy(&ended.output).into_owned();
        Ok(text.lines().next().unwrap_or("(unknown version)").to_owned())
    }
}

/// Both programs.
#[derive(Debug)]
pub(crate) struct Programs {
    /// ctflow, or the program given by `--program`.
    pub(crate) ours: Program,
    /// The installed conntrack.
    pub(crate) reference: Program,
}

impl Programs {
    /// Finds ctflow at `path` or beside this program, and conntrack on `PATH` or in `/usr/sbin`.
    ///
    /// # Errors
    /// [`Failure::NoProgram`], [`Failure::NotInstalled`].
    pub(crate) fn find(path: Option<&Path>) -> Result<Self, Failure> {
        let path = path.map_or_else(built, |path| Ok(path.to_owned()))?;
        if !path.is_file() {
            return Err(Failure::NoProgram(path.display().to_string()));
        }
        Ok(Self { ours: Program::at(path), reference: Program::installed(REFERENCE)? })
    }

    /// ctflow, then the reference.
    pub(crate) fn both(&self) -> [&Program; 2] {
        [&self.ours, &self.reference]
    }
}

/// The path of ctflow beside this program. Cargo builds all programs of a workspace into one folder.
fn built() -> Result<PathBuf, Failure> {
    let this = env::current_exe().map_err(Failure::system("find the program of this process"))?;
    Ok(this.with_file_name("ctflow"))
}

/// Finds the path of an installed program.
fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from(SUPERUSER_PATH)]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_called_as_its_file() {
        assert_eq!(Program::at("/usr/sbin/conntrack".into()).name, "conntrack");
    }

    #[test]
    fn a_missing_program_is_named() {
        let failure = Programs::find(Some(Path::new("/nowhere/ctflow"))).unwrap_err();
        assert!(failure.to_string().starts_with("there is no program /nowhere/ctflow"), "{failure}");
        assert_eq!(installed("no such program"), None);
        assert!(installed("sh").is_some());
    }
}
