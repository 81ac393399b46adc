//! The three replication modes that operators configure, and the roles that nodes report to each other.

use std::fmt;

/// The replication mode of a node. All nodes of a cluster run the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Every loss is repaired, by acknowledgements, a resend queue and a resync of buckets.
    Ftfw,
    /// Every entry is sent once in each refresh time. An entry that is no longer sent expires.
    Alarm,
    /// A loss is not repaired until a replica requests everything again.
    Notrack,
}

impl Mode {
    /// Whether replicas acknowledge batches and report gaps, and sources keep sent batches for resending.
    pub(crate) fn acknowledges(self) -> bool {
        self == Self::Ftfw
    }

    /// Whether a source answers a replica's request for everything.
    pub(crate) fn honours_request(self) -> bool {
        self != Self::Alarm
    }

    /// Whether entries that were not sent for the cache timeout are purged, instead of those that a bucket sent whole
    /// did not confirm.
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

/// The role of a node in forwarding traffic, as its operator or failover scripts set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Role {
    /// No role was set.
    #[default]
    None,
    /// It forwards the traffic.
    Primary,
    /// It stands by to take over.
    Backup,
    /// It can neither forward nor take over.
    Fault,
}

impl Role {
    /// The roles that can be set.
    pub const SETTABLE: [Self; 3] = [Self::Primary, Self::Backup, Self::Fault];

    /// The role of this name, one of [`Role::SETTABLE`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::SETTABLE.into_iter().find(|role| role.to_string() == name)
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
