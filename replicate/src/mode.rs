//! The three ways of replicating that operators know, as policies, and the roles that nodes tell each other.

use std::fmt;

/// How nodes replicate; all of a cluster the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Every loss is made good: acknowledgements, a resend queue, resync of buckets.
    Ftfw,
    /// Everything is told again and again; what was not told for a while expires.
    Alarm,
    /// What is lost is lost, until somebody asks for everything.
    Notrack,
}

impl Mode {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Ftfw => 1,
            Self::Alarm => 2,
            Self::Notrack => 3,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Ftfw, Self::Alarm, Self::Notrack].into_iter().find(|mode| mode.number() == number)
    }

    /// Whether replicas say what they have and lack, and sources keep what they may lack.
    pub(crate) fn acknowledges(self) -> bool {
        self == Self::Ftfw
    }

    /// Whether a replica may ask for everything.
    pub(crate) fn honours_request(self) -> bool {
        self != Self::Alarm
    }

    /// Whether what was not told for a while goes, instead of what a bucket told whole did not confirm.
    pub(crate) fn expires(self) -> bool {
        self == Self::Alarm
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ftfw => "ftfw",
            Self::Alarm => "alarm",
            Self::Notrack => "notrack",
        })
    }
}

/// What a node does for traffic just now, as its operator's scripts say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Role {
    /// Nobody said.
    #[default]
    None,
    /// It forwards.
    Primary,
    /// It waits.
    Backup,
    /// It can do neither.
    Fault,
}

impl Role {
    /// Those that can be taken.
    pub const SETTABLE: [Self; 3] = [Self::Primary, Self::Backup, Self::Fault];

    /// The one of those that is called so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::SETTABLE.into_iter().find(|role| role.to_string() == name)
    }

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Primary => 1,
            Self::Backup => 2,
            Self::Fault => 3,
        }
    }

    /// A later version's role is none that is known here.
    pub(crate) fn from_number(number: u8) -> Self {
        Self::SETTABLE.into_iter().find(|role| role.number() == number).unwrap_or_default()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Primary => "primary",
            Self::Backup => "backup",
            Self::Fault => "fault",
        })
    }
}
