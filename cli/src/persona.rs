//! The name under which the program was called.
//!
//! Under a name that ends in `conntrack` (a link, a container's entry point) the program behaves like conntrack:
//! scripts that compare its summary lines or its usage keep working. Under its own name it also has verbs. Under a name
//! that ends in `ctflowd` or `conntrackd` it is the daemon, with its letters.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The program that the user called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persona {
    /// Its own name.
    Ctflow,
    /// The name of conntrack.
    Conntrack,
    /// The name of its daemon.
    Ctflowd,
    /// The name of conntrackd.
    Conntrackd,
}

impl Persona {
    /// The persona for the zeroth argument; the directory before the name is ignored.
    pub(crate) fn from_program(program: Option<&OsStr>) -> Self {
        let name = program.and_then(|program| Path::new(program).file_name()).unwrap_or_default();
        let known =
            [(&b"conntrack"[..], Self::Conntrack), (b"conntrackd", Self::Conntrackd), (b"ctflowd", Self::Ctflowd)];
        let found = known.iter().find(|(end, _)| name.as_bytes().ends_with(end));
        found.map_or(Self::Ctflow, |(_, persona)| *persona)
    }

    /// The name of the command.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ctflow => "ctflow",
            Self::Conntrack => "conntrack",
            Self::Ctflowd => "ctflowd",
            Self::Conntrackd => "conntrackd",
        }
    }

    /// Name and version at the start of summary and error lines. Under conntrack's names, the version that ctflow
    /// behaves like.
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
    /// Whether it is a name of the daemon.
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
