//! Connection tracking itself: whether it is present and answers, and what its events contain.

use rustix::io::Errno;
use serde_json::json;

use super::MORE_DESCRIPTORS;
use super::kernel::is_built_without_events;
use crate::command::doctor::facts::{Facts, Refusal};
use crate::command::doctor::finding::Finding;

/// Checks whether connections are tracked at all. An old kernel hides the settings inside user namespaces, but answers
/// by netlink.
pub(super) fn tracker(facts: &Facts) -> Finding {
    if facts.settings.table.count.is_some() || facts.stats.is_ok() {
        return Finding::ok("conntrack", "present");
    }
    match &facts.stats {
        Err(refusal) if refusal.is_descriptor_limit() => {
            Finding::note("conntrack", format!("unknown: {}", refusal.reason())).mend(MORE_DESCRIPTORS)
        }
        _ => Finding::missing("conntrack", "nf_conntrack is not in this kernel, or not loaded")
            .mend("modprobe nf_conntrack"),
    }
}

/// Checks whether conntrack's netlink part answers. All of ctflow uses it.
pub(super) fn netlink(facts: &Facts) -> Finding {
    match (&facts.socket, &facts.stats) {
        (Err(refusal), _) => no_socket(refusal),
        (Ok(_), Ok(table)) => {
            Finding::ok("netlink", "answers").value(json!({ "count": table.count, "max": table.max }))
        }
        (Ok(_), Err(refusal)) if refusal.is_permission() => Finding::note("netlink", "answers only with rights"),
        (Ok(_), Err(refusal)) => no_answer(refusal),
    }
}

/// Returns the finding for a netlink socket that cannot be opened.
fn no_socket(refusal: &Refusal) -> Finding {
    let finding = Finding::missing("netlink", format!("no netfilter netlink socket: {}", refusal.reason()));
    match refusal.errno {
        _ if refusal.is_descriptor_limit() => finding.mend(MORE_DESCRIPTORS),
        Some(Errno::PROTONOSUPPORT) => finding.mend("modprobe nf_conntrack_netlink"),
        _ => finding.mend("# allow AF_NETLINK sockets in the sandbox this runs in"),
    }
}

/// Returns the finding for a request that failed. nfnetlink answers EINVAL if no module has registered for it.
fn no_answer(refusal: &Refusal) -> Finding {
    let finding = Finding::missing("netlink", format!("does not answer: {}", refusal.reason()));
    match refusal.errno {
        _ if refusal.is_descriptor_limit() => finding.mend(MORE_DESCRIPTORS),
        Some(Errno::INVAL | Errno::OPNOTSUPP) => finding.mend("modprobe nf_conntrack_netlink"),
        _ => finding,
    }
}

/// Checks whether the kernel sends events, and for which flows.
pub(super) fn events(facts: &Facts) -> Finding {
    const ON: &str = "sysctl -w net.netfilter.nf_conntrack_events=1";
    let finding = match facts.settings.events {
        Some(0) => {
            let found = "off (nf_conntrack_events=0), except for flows that match a rule with `ct event set'";
            Finding::missing("events", found).mend(ON)
        }
        Some(1) => Finding::ok("events", "on, for every flow (nf_conntrack_events=1)"),
        Some(2) => {
            let found = "on while a program listens (nf_conntrack_events=2): flows created before the first listener \
                         may never emit UPDATE or DESTROY";
            Finding::note("events", found).mend(format!("{ON}  # if those events are needed"))
        }
        Some(other) => {
            Finding::note("events", format!("unknown: nf_conntrack_events={other}, which this version does not know"))
        }
        None => unknown_events(facts),
    };
    finding.value(json!(facts.settings.events))
}

/// Returns the finding for a setting that does not exist. The kernel then has no events either, unless only the setting
/// is hidden. If the kernel's build has no events, the build's finding reports that already.
fn unknown_events(facts: &Facts) -> Finding {
    let is_setting_hidden = facts.settings.table.count.is_none();
    if is_setting_hidden || is_built_without_events(facts.build.as_ref()) {
        return Finding::note("events", "unknown: nf_conntrack_events does not exist here");
    }
    Finding::missing("events", "none: nf_conntrack_events does not exist here")
        .mend("# use a kernel built with CONFIG_NF_CONNTRACK_EVENTS")
}

/// Checks whether flows have packet and byte counters.
pub(super) fn accounting(facts: &Facts) -> Finding {
    let finding = match facts.settings.accounting {
        Some(0) => Finding::note("accounting", "off (nf_conntrack_acct=0): flows have no packet and byte counters")
            .mend("sysctl -w net.netfilter.nf_conntrack_acct=1  # for flows created from then on"),
        Some(_) => Finding::ok("accounting", "on"),
        None => Finding::note("accounting", "unknown: nf_conntrack_acct does not exist here"),
    };
    finding.value(json!(facts.settings.accounting))
}

/// Checks whether flows and events have time stamps.
pub(super) fn timestamps(facts: &Facts) -> Finding {
    let finding = match facts.settings.timestamps {
        Some(0) => {
            let found = "off (nf_conntrack_timestamp=0): flows have no delta-time, and events no kernel time stamp";
            let mend = "sysctl -w net.netfilter.nf_conntrack_timestamp=1  # for flows created from then on";
            Finding::note("timestamps", found).mend(mend)
        }
        Some(_) => Finding::ok("timestamps", "on"),
        None => Finding::note("timestamps", "unknown: nf_conntrack_timestamp does not exist here"),
    };
    finding.value(json!(facts.settings.timestamps))
}

/// Advises a rule that stops UPDATE events: the cheapest reduction of load where they are not needed. Whether such a
/// rule exists is not checked.
///
/// The chain must come after conntrack's own (priority -200): in one at `raw` the rule finds no flow and does nothing.
/// An expected flow has the event RELATED instead of NEW, so the rule needs both to keep every flow's first event.
pub(super) fn event_mask(_: &Facts) -> Finding {
    let found = "if only NEW and DESTROY events are needed (logging, accounting; not replication), a rule stops the \
                 UPDATE events";
    Finding::note("event_mask", found).mend(
        "nft 'add table inet ctflow; add chain inet ctflow prerouting { type filter hook prerouting priority mangle; \
         }; add rule inet ctflow prerouting ct event set new,related,destroy'  \
         # or in your own chain, at a priority above -200",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::facts::{Build, Settings};
    use crate::command::doctor::finding::Level;

    #[test]
    fn without_conntrack_modprobe_mends_it() {
        let gone = || Err(Refusal::with(Errno::INVAL));
        let facts = Facts { settings: Settings::default(), stats: gone(), ..Facts::healthy() };
        let finding = tracker(&facts);
        assert_eq!((finding.level, finding.mend.as_deref()), (Level::Missing, Some("modprobe nf_conntrack")));
        let finding = netlink(&facts);
        assert_eq!((finding.level, finding.mend.as_deref()), (Level::Missing, Some("modprobe nf_conntrack_netlink")));
        let hidden = Facts { settings: Settings::default(), ..Facts::healthy() };
        assert_eq!((tracker(&hidden).level, events(&hidden).level), (Level::Ok, Level::Note));
    }

    #[test]
    fn netlink_without_permission_is_not_absent() {
        let facts = Facts { stats: Err(Refusal::with(Errno::PERM)), ..Facts::healthy() };
        assert_eq!(netlink(&facts).level, Level::Note);
    }

    #[test]
    fn a_socket_that_cannot_be_opened_reports_the_cause() {
        let mend = |errno| {
            let finding = netlink(&Facts { socket: Err(Refusal::with(errno)), ..Facts::healthy() });
            assert_eq!(finding.level, Level::Missing);
            finding.mend.unwrap()
        };
        assert_eq!(mend(Errno::PROTONOSUPPORT), "modprobe nf_conntrack_netlink");
        assert_eq!(mend(Errno::MFILE), "ulimit -n 4096");
        assert_eq!(mend(Errno::PERM), "# allow AF_NETLINK sockets in the sandbox this runs in");
    }

    fn with(settings: Settings) -> Facts {
        Facts { settings, ..Facts::healthy() }
    }

    fn with_events(events: Option<u64>) -> Facts {
        with(Settings { events, ..Facts::healthy().settings })
    }

    #[test]
    fn events_off_is_essential_and_has_its_command() {
        let off = events(&with_events(Some(0)));
        assert!(off.level == Level::Missing && off.found.starts_with("off (nf_conntrack_events=0)"), "{off:?}");
        assert_eq!(off.mend.as_deref(), Some("sysctl -w net.netfilter.nf_conntrack_events=1"));
        assert_eq!(off.value, json!(0));
        assert_eq!(events(&with_events(Some(1))).mend, None);
    }

    #[test]
    fn events_on_demand_report_what_may_be_missing() {
        let finding = events(&with_events(Some(2)));
        assert_eq!(finding.level, Level::Note);
        assert!(
            finding.found.contains("before the first listener may never emit UPDATE or DESTROY"),
            "{}",
            finding.found
        );
        let mend = "sysctl -w net.netfilter.nf_conntrack_events=1  # if those events are needed";
        assert_eq!(finding.mend.as_deref(), Some(mend));
    }

    #[test]
    fn a_kernel_without_events_is_reported_once() {
        assert_eq!(events(&with_events(None)).level, Level::Missing);
        let without_events = Facts { build: Some(Build::default()), ..with_events(None) };
        assert_eq!(events(&without_events).level, Level::Note);
    }

    #[test]
    fn disabled_counters_and_timestamps_have_their_command() {
        let off = with(Settings { accounting: Some(0), timestamps: Some(0), ..Facts::healthy().settings });
        let findings = [(accounting(&off), "acct"), (timestamps(&off), "timestamp")];
        for (finding, name) in findings {
            let command = format!("sysctl -w net.netfilter.nf_conntrack_{name}=1 ");
            assert_eq!(finding.level, Level::Note);
            assert!(finding.mend.unwrap().starts_with(&command));
        }
        let nowhere = with(Settings::default());
        assert_eq!((accounting(&nowhere).mend, timestamps(&nowhere).mend), (None, None));
    }

    #[test]
    fn a_descriptor_limit_is_not_reported_as_missing_conntrack() {
        let no = || Err(Refusal::with(Errno::MFILE));
        let facts = Facts { settings: Settings::default(), stats: no(), ..Facts::healthy() };
        let findings = [tracker(&facts), netlink(&facts)];
        assert_eq!(findings.each_ref().map(|finding| finding.level), [Level::Note, Level::Missing]);
        assert!(findings.iter().all(|finding| finding.mend.as_deref() == Some("ulimit -n 4096")));
    }

    #[test]
    fn the_event_mask_is_advice_on_every_machine() {
        let finding = event_mask(&with(Settings::default()));
        assert_eq!(finding.level, Level::Note);
        assert!(
            finding
                .mend
                .unwrap()
                .contains("priority mangle; }; add rule inet ctflow prerouting ct event set new,related,destroy")
        );
    }
}
