//! Permissions: to receive events, to use io_uring, and to create private networks.

use ctflow_lab::Forbidden;
use rustix::io::Errno;
use serde_json::json;

use super::MORE_DESCRIPTORS;
use crate::command::doctor::facts::{Facts, NetworkRefusal, Refusal};
use crate::command::doctor::finding::Finding;

/// Checks whether this user may receive events, and exceed `net.core.rmem_max` with the socket buffer.
pub(super) fn listening(facts: &Facts) -> Finding {
    let may_force = facts.socket.as_ref().is_ok_and(|buffers| buffers.forced.is_some());
    let finding = match (&facts.listening, may_force) {
        (Ok(()), true) => {
            Finding::ok("rights", "CAP_NET_ADMIN on the host: may receive events and exceed net.core.rmem_max")
        }
        (Ok(()), false) => Finding::note(
            "rights",
            "may receive events in this network, but not exceed net.core.rmem_max: not root on the host",
        ),
        (Err(refusal), _) => listening_refused(facts, refusal),
    };
    finding.value(json!({ "listen": facts.listening.is_ok(), "force_buffer": may_force }))
}

/// Returns the finding for groups that cannot be joined.
fn listening_refused(facts: &Facts, refusal: &Refusal) -> Finding {
    if facts.socket.is_err() {
        return Finding::note("rights", "not tried without a netfilter socket");
    }
    if refusal.is_descriptor_limit() {
        return Finding::missing("rights", refusal.reason()).mend(MORE_DESCRIPTORS);
    }
    if !refusal.is_permission() {
        return Finding::missing("rights", refusal.message.clone());
    }
    Finding::missing("rights", "no CAP_NET_ADMIN: may neither receive events nor list flows").mend(
        "setcap cap_net_admin+ep \"$(command -v ctflow)\"  \
         # or run as root, or with AmbientCapabilities=CAP_NET_ADMIN in its systemd unit",
    )
}

/// Checks whether io_uring is permitted. It is not essential: recvmmsg does the same at a little more cost.
pub(super) fn io_uring(facts: &Facts) -> Finding {
    let finding = match &facts.ring {
        Ok(()) => Finding::ok("io_uring", "permitted"),
        Err(refusal) => {
            let found = format!("refused ({}): events are received by recvmmsg instead", refusal.reason());
            Finding { mend: io_uring_mend(facts, refusal), ..Finding::note("io_uring", found) }
        }
    };
    let disabled = facts.settings.io_uring_disabled;
    finding.value(json!({ "permitted": facts.ring.is_ok(), "disabled": disabled, "seccomp": facts.seccomp }))
}

/// Returns the remedy for a refused io_uring. A sysctl that forbids it can be read. Every other error number may also
/// come from a seccomp filter, which can return any.
fn io_uring_mend(facts: &Facts, refusal: &Refusal) -> Option<String> {
    let mend = match (facts.settings.io_uring_disabled, refusal.errno?) {
        (Some(1 | 2), Errno::PERM) => "sysctl -w kernel.io_uring_disabled=0",
        (_, Errno::PERM | Errno::ACCESS | Errno::NOSYS) if facts.seccomp => {
            "# allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile"
        }
        (_, Errno::NOSYS) => "# use a kernel built with CONFIG_IO_URING",
        (_, Errno::INVAL) => "# use Linux 6.1 or later",
        (_, Errno::NOMEM) => "ulimit -l unlimited",
        _ if refusal.is_descriptor_limit() => MORE_DESCRIPTORS,
        _ => return None,
    };
    Some(mend.into())
}

/// Checks whether private networks can be created, which the demo, the benchmark and the tests run in.
pub(super) fn namespaces(facts: &Facts) -> Finding {
    let finding = match &facts.network {
        Ok(()) => Finding::ok("namespaces", "private networks are permitted: `ctflow demo' works"),
        Err(NetworkRefusal::Forbidden(by)) => {
            Finding::note("namespaces", format!("forbidden ({by}): `ctflow demo' does not work"))
                .mend(namespace_mend(*by))
        }
        Err(NetworkRefusal::Failed(why)) => Finding::note("namespaces", format!("{why}: `ctflow demo' does not work")),
    };
    finding.value(json!({ "permitted": facts.network.is_ok() }))
}

/// Returns the remedy: a command, or a comment where the cause is unknown.
fn namespace_mend(forbidden: Forbidden) -> String {
    match forbidden {
        Forbidden::Unknown => format!("# {}", forbidden.remedy()),
        _ => forbidden.remedy().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::facts::{Buffers, Settings};
    use crate::command::doctor::finding::Level;

    #[test]
    fn without_rights_three_ways_to_get_them_are_printed() {
        let finding = listening(&Facts { listening: Err(Refusal::with(Errno::PERM)), ..Facts::healthy() });
        assert_eq!(finding.level, Level::Missing);
        let mend = finding.mend.unwrap();
        for word in ["setcap cap_net_admin+ep ", "run as root", "AmbientCapabilities=CAP_NET_ADMIN"] {
            assert!(mend.contains(word), "{mend}");
        }
        assert_eq!(finding.value["listen"], false);
    }

    #[test]
    fn root_of_a_user_namespace_may_listen_but_not_force() {
        let socket = Ok(Buffers { unforced: 425_984, forced: None });
        let finding = listening(&Facts { socket, ..Facts::healthy() });
        assert_eq!(finding.level, Level::Note);
        assert_eq!(finding.value, json!({"listen": true, "force_buffer": false}));
    }

    #[test]
    fn an_unexpected_refusal_is_reported_in_full() {
        let finding = listening(&Facts { listening: Err(Refusal::with(Errno::INVAL)), ..Facts::healthy() });
        assert_eq!(finding.level, Level::Missing);
        assert!(finding.found.starts_with("cannot do it: "), "{}", finding.found);
    }

    fn ring(errno: Errno, io_uring_disabled: u64, seccomp: bool) -> Finding {
        let settings = Settings { io_uring_disabled: Some(io_uring_disabled), ..Facts::healthy().settings };
        io_uring(&Facts { ring: Err(Refusal::with(errno)), settings, seccomp, ..Facts::healthy() })
    }

    #[test]
    fn the_mend_names_what_forbids_io_uring() {
        let mend = |errno, disabled, seccomp| ring(errno, disabled, seccomp).mend.unwrap_or_default();
        assert_eq!(mend(Errno::PERM, 2, true), "sysctl -w kernel.io_uring_disabled=0");
        assert!(mend(Errno::PERM, 0, true).ends_with("in the seccomp profile"));
        assert!(mend(Errno::NOSYS, 0, true).ends_with("in the seccomp profile"));
        assert_eq!(mend(Errno::NOSYS, 0, false), "# use a kernel built with CONFIG_IO_URING");
        assert_eq!(mend(Errno::INVAL, 0, false), "# use Linux 6.1 or later");
        assert_eq!(mend(Errno::PERM, 0, false), "");
    }

    #[test]
    fn io_uring_refused_is_no_failure() {
        let finding = ring(Errno::PERM, 2, false);
        assert_eq!(finding.level, Level::Note);
        let found = "refused (Operation not permitted): events are received by recvmmsg instead";
        assert_eq!(finding.found, found);
        assert_eq!(finding.value, json!({"permitted": false, "disabled": 2, "seccomp": false}));
    }

    #[test]
    fn forbidden_namespaces_name_what_forbids_them() {
        let mend = |by| {
            let finding = namespaces(&Facts { network: Err(NetworkRefusal::Forbidden(by)), ..Facts::healthy() });
            assert_eq!(finding.level, Level::Note);
            finding.mend.unwrap()
        };
        assert_eq!(mend(Forbidden::Limit), "sysctl user.max_user_namespaces=10000");
        assert!(mend(Forbidden::Unknown).starts_with("# in a container"));
    }
}
