//! Which program we are called as.
//!
//! Installed under a name ending in `conntrack` (a link, a container's entry point) the program behaves as that one:
//! scripts that compare its summary lines or its usage go on working. Under its own name it also has verbs. Under one
//! ending in `ctflowd` or `conntrackd` it is the daemon, with its letters.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The program that the user called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persona {
    /// By our own name.
    Ctflow,
    /// By conntrack's.
    Conntrack,
    /// By our daemon's.
    Ctflowd,
    /// By conntrackd's.
    Conntrackd,
}

impl Persona {
    /// Tells it by the zeroth argument, whatever directory stands before the name.
    pub(crate) fn from_program(program: Option<&OsStr>) -> Self {
        let name = program.and_then(|program| Path::new(program).file_name()).unwrap_or_default();
        let known =
            [(&b"conntrack"[..], Self::Conntrack), (b"conntrackd", Self::Conntrackd), (b"ctflowd", Self::Ctflowd)];
        let found = known.iter().find(|(end, _)| name.as_bytes().ends_with(end));
        found.map_or(Self::Ctflow, |(_, persona)| *persona)
    }

    /// What to type to call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ctflow => "ctflow",
            Self::Conntrack => "conntrack",
            Self::Ctflowd => "ctflowd",
            Self::Conntrackd => "conntrackd",
        }
    }

    /// Name and version as they open summary and error lines. As conntrack, the version whose behaviour ours is.
    pub(crate) fn banner(self) -> &'static str {
        match self {
            Self::Ctflow => concat!("ctflow v", env!("CARGO_PKG_VERSION")),
            Self::Conntrack => "conntrack v1.4.9 (conntrack-tools)",
            Self::Ctflowd => concat!("ctflowd v", env!("CARGO_PKG_VERSION")),
            Self::Conntrackd => "conntrackd v1.4.9 (conntrack-tools)",
        }
    }
}

impl Persona {
    /// Whether it is the daemon's program.
    pub(crate) fn is_daemon(self) -> bool {
        matches!(self, Self::Ctflowd | Self::Conntrackd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_persona_follows_the_end_of_the_name() {
        for (program, persona) in [
            ("/usr/sbin/conntrack", Persona::Conntrack),
            ("ct-conntrack", Persona::Conntrack),
            ("/opt/conntrack/ctflow", Persona::Ctflow),
            ("/usr/sbin/conntrackd", Persona::Conntrackd),
            ("ctflowd", Persona::Ctflowd),
            ("/opt/ctflowd/ctflow", Persona::Ctflow),
            ("", Persona::Ctflow),
        ] {
            assert_eq!(Persona::from_program(Some(program.as_ref())), persona, "{program}");
        }
        assert_eq!(Persona::from_program(None), Persona::Ctflow);
    }
}
