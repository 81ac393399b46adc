//! The checks: one pure function for each finding, from the facts alone.

mod buffer;
mod conntrack;
mod kernel;
mod permits;
mod table;

use super::facts::Facts;
use super::finding::Finding;

#[cfg(test)]
pub(super) use self::kernel::OPTIONS;

/// The remedy for any refusal because no descriptor was left.
const MORE_DESCRIPTORS: &str = "ulimit -n 4096";

/// Every check, from the kernel upwards, in the order of the report.
const CHECKS: [fn(&Facts) -> Finding; 15] = [
    kernel::version,
    kernel::build,
    conntrack::tracker,
    conntrack::netlink,
    permits::listening,
    conntrack::events,
    conntrack::accounting,
    conntrack::timestamps,
    table::fill,
    table::buckets,
    buffer::size,
    buffer::filter,
    permits::io_uring,
    permits::namespaces,
    conntrack::event_mask,
];

/// Returns the findings of all checks.
pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    CHECKS.iter().map(|check| check(facts)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::facts::{NetworkRefusal, Refusal, Settings};
    use crate::command::doctor::finding::{Level, missing_count};
    use rustix::io::Errno;

    #[test]
    fn a_healthy_machine_is_ok_except_for_advice() {
        let findings = all(&Facts::healthy());
        let other: Vec<_> = findings.iter().filter(|finding| finding.level != Level::Ok).collect();
        assert!(matches!(other[..], [finding] if finding.name == "event_mask"), "{other:?}");
    }

    #[test]
    fn finding_names_are_unique_single_words() {
        let mut names: Vec<_> = all(&Facts::healthy()).iter().map(|finding| finding.name).collect();
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHECKS.len());
    }

    /// Every check has a finding, however many facts are unknown.
    #[test]
    fn every_check_reports_even_if_nothing_is_known() {
        let no = Refusal { errno: None, message: "as it happens".into() };
        let facts = Facts {
            release: String::new(),
            build: None,
            socket: Err(no.clone()),
            stats: Err(no.clone()),
            listening: Err(no.clone()),
            filter: Err(no.clone()),
            ring: Err(no),
            network: Err(NetworkRefusal::Failed("as it happens".into())),
            settings: Settings::default(),
            seccomp: false,
        };
        let findings = all(&facts);
        assert!(findings.iter().all(|finding| !finding.found.is_empty()));
        let essential: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Missing).collect();
        assert!(
            matches!(essential[..], [tracker, netlink] if (tracker.name, netlink.name) == ("conntrack", "netlink"))
        );
    }

    #[test]
    fn missing_rights_count_as_one_missing_thing() {
        let no = || Refusal::with(Errno::PERM);
        let facts = Facts { stats: Err(no()), listening: Err(no()), ring: Err(no()), ..Facts::healthy() };
        assert_eq!(missing_count(&all(&facts)), 1);
    }
}
