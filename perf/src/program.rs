//! The programs that are compared.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::Failure;
use crate::process::Process;

/// What ctflow is compared with.
const REFERENCE: &str = "conntrack";
/// Where the peer is besides `PATH`: users other than root often have no `sbin` there.
const SUPERUSER_PATH: &str = "/usr/sbin";
/// Printing a version takes milliseconds.
const VERSION_LONGEST: Duration = Duration::from_secs(10);

/// One program.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Its file's name, which the report's columns have.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) path: PathBuf,
}

impl Program {
    /// The one at that path.
    pub(crate) fn at(path: PathBuf) -> Self {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self { name, path }
    }

    /// Finds one on `PATH`, or where the superuser's are.
    ///
    /// # Errors
    /// [`Failure::NotInstalled`].
    pub(crate) fn installed(name: &'static str) -> Result<Self, Failure> {
        installed(name).map(Self::at).ok_or(Failure::NotInstalled(name))
    }

    /// What it says of its version.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(crate) fn version(&self) -> Result<String, Failure> {
        let ended = Process::start(self, &["--version"])?.run_to_end(VERSION_LONGEST)?;
        let text = String::from_utf8_lossy(&ended.output).into_owned();
        Ok(text.lines().next().unwrap_or("(says no version)").to_owned())
    }
}

/// Both of them.
#[derive(Debug)]
pub(crate) struct Programs {
    /// ctflow.
    pub(crate) ours: Program,
    /// conntrack.
    pub(crate) reference: Program,
}

impl Programs {
    /// Finds ctflow at `path`, or beside this very program; and the peer on `PATH`.
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

    /// ctflow, then the peer.
    pub(crate) fn both(&self) -> [&Program; 2] {
        [&self.ours, &self.reference]
    }
}

/// Cargo puts the programs of a workspace into one directory.
fn built() -> Result<PathBuf, Failure> {
    let this = env::current_exe().map_err(Failure::system("find the program of this process"))?;
    Ok(this.with_file_name("ctflow"))
}

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
