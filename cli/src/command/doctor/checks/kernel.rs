//! The kernel: its version, and the options that it was built with.

use serde_json::json;

use crate::command::doctor::facts::{Build, Facts};
use crate::command::doctor::finding::{Finding, Level};

/// Major and minor version.
type Version = (u32, u32);

/// The oldest usable kernel. Before it sockets have no drop counter (`SO_MEMINFO`), and losses would not be noticed.
const OLDEST_KERNEL: Version = (4, 12);

/// Features that need a newer kernel than that, with their version.
const FEATURES: [(&str, Version); 5] = [
    ("dumps filtered in the kernel", (5, 8)),
    ("dumps filtered by status", (5, 15)),
    ("receiving by io_uring", (6, 1)),
    ("dumps filtered by zone", (6, 8)),
    ("kernel event timestamps", (6, 14)),
];

/// Checks the kernel's version. Distributions add features to older kernels, so a feature may exist nevertheless.
pub(super) fn version(facts: &Facts) -> Finding {
    let release = &facts.release;
    let Some(version) = parse_version(release) else {
        return Finding::note("kernel", format!("unknown version '{release}': Linux 4.12 or later is needed"));
    };
    let missing: Vec<_> = FEATURES.into_iter().filter(|(_, since)| version < *since).collect();
    let objects: Vec<_> =
        missing.iter().map(|(what, since)| json!({ "what": what, "since": dotted(*since) })).collect();
    version_finding(release, version, &missing).value(json!({ "release": release, "lacks": objects }))
}

/// Returns the finding for a version without these features.
fn version_finding(release: &str, version: Version, missing: &[(&str, Version)]) -> Finding {
    if version < OLDEST_KERNEL {
        let found = format!("{release} is too old: Linux {} or later is needed", dotted(OLDEST_KERNEL));
        return Finding::missing("kernel", found).mend("# use Linux 6.1 or later");
    }
    let Some((_, newest)) = missing.last() else {
        return Finding::ok("kernel", format!("{release} has every feature that ctflow uses"));
    };
    let names: Vec<_> = missing.iter().map(|(what, since)| format!("{what} ({})", dotted(*since))).collect();
    let found = format!("{release} is without {}, unless its distribution added them", names.join(", "));
    Finding::note("kernel", found).mend(format!("# use Linux {} or later", dotted(*newest)))
}

/// Parses the version at the start of a release such as `6.18.44-amd64`.
fn parse_version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Returns a version as text.
fn dotted((major, minor): Version) -> String {
    format!("{major}.{minor}")
}

/// An option of the kernel's build.
pub(in crate::command::doctor) struct BuildOption {
    /// Its name without `CONFIG_`.
    pub(in crate::command::doctor) name: &'static str,
    /// What it enables.
    feature: &'static str,
    /// Whether ctflow cannot do its work without it.
    is_essential: bool,
}

impl BuildOption {
    /// Creates an option that ctflow cannot do its work without.
    const fn essential(name: &'static str, feature: &'static str) -> Self {
        Self { name, feature, is_essential: true }
    }

    /// Creates an option that only some features need.
    const fn useful(name: &'static str, feature: &'static str) -> Self {
        Self { name, feature, is_essential: false }
    }
}

/// The options that ctflow uses.
pub(in crate::command::doctor) const OPTIONS: [BuildOption; 8] = [
    BuildOption::essential("NF_CONNTRACK_EVENTS", "events"),
    BuildOption::essential("NF_CT_NETLINK", "listing and events"),
    BuildOption::useful("NF_CONNTRACK_ZONES", "zones"),
    BuildOption::useful("NF_CONNTRACK_MARK", "marks"),
    BuildOption::useful("NF_CONNTRACK_LABELS", "labels"),
    BuildOption::useful("NF_CONNTRACK_TIMESTAMP", "timestamps"),
    BuildOption::useful("NF_NAT", "address translation"),
    BuildOption::useful("IO_URING", "io_uring"),
];

/// Checks the options that the kernel was built with. A configuration that cannot be read is only noted.
pub(super) fn build(facts: &Facts) -> Finding {
    let Some(build) = &facts.build else {
        let found = format!("unknown: neither /boot/config-{} nor /proc/config.gz can be read", facts.release);
        return Finding::note("build", found);
    };
    let missing: Vec<_> = OPTIONS.into_iter().filter(|option| !build.has(option.name)).collect();
    let names: Vec<_> = missing.iter().map(|option| format!("CONFIG_{}", option.name)).collect();
    let value = json!({ "lacks": names });
    let Some(level) = missing.iter().map(severity).max_by_key(|level| *level == Level::Missing) else {
        return Finding::ok("build", "has every option that ctflow uses").value(value);
    };
    let described: Vec<_> =
        missing.iter().map(|option| format!("CONFIG_{} ({})", option.name, option.feature)).collect();
    let mend = format!("# use a kernel built with {}", names.join(", "));
    Finding::new("build", level, format!("without {}", described.join(", "))).mend(mend).value(value)
}

/// Returns the level of a missing option.
fn severity(option: &BuildOption) -> Level {
    if option.is_essential { Level::Missing } else { Level::Note }
}

/// Returns whether the kernel's configuration is known and has no events.
pub(super) fn is_built_without_events(build: Option<&Build>) -> bool {
    build.is_some_and(|build| !build.has("NF_CONNTRACK_EVENTS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(release: &str) -> Finding {
        version(&Facts { release: release.into(), ..Facts::healthy() })
    }

    #[test]
    fn missing_features_are_listed_with_their_kernel_version() {
        let debian = of("5.10.0-28-amd64");
        assert_eq!(debian.level, Level::Note);
        assert_eq!(
            debian.found,
            "5.10.0-28-amd64 is without dumps filtered by status (5.15), receiving by io_uring (6.1), \
             dumps filtered by zone (6.8), kernel event timestamps (6.14), unless its distribution added them"
        );
        assert_eq!(debian.mend.as_deref(), Some("# use Linux 6.14 or later"));
        assert_eq!(of("6.12.9").value["lacks"], json!([{"what": "kernel event timestamps", "since": "6.14"}]));
    }

    #[test]
    fn the_newest_kernel_is_ok_and_a_too_old_one_is_missing() {
        assert_eq!((of("6.14.0").level, of("7.0.0-rc1").level), (Level::Ok, Level::Ok));
        let ancient = of("3.10.0-1160.el7.x86_64");
        assert_eq!(ancient.level, Level::Missing);
        assert_eq!(ancient.found, "3.10.0-1160.el7.x86_64 is too old: Linux 4.12 or later is needed");
    }

    #[test]
    fn a_version_of_another_shape_is_only_noted() {
        for release in ["", "six", "6", "99999999999.1"] {
            assert_eq!(of(release).level, Level::Note, "{release}");
        }
    }

    fn built(config: &str) -> Finding {
        build(&Facts { build: Some(Build::parse(config)), ..Facts::healthy() })
    }

    #[test]
    fn an_option_is_essential_or_useful() {
        let all: String = OPTIONS.map(|option| format!("CONFIG_{}=m\n", option.name)).concat();
        let finding = built(&all.replace("CONFIG_NF_CONNTRACK_LABELS=m", ""));
        assert_eq!(
            (finding.level, finding.found.as_str()),
            (Level::Note, "without CONFIG_NF_CONNTRACK_LABELS (labels)")
        );
        assert_eq!(finding.mend.as_deref(), Some("# use a kernel built with CONFIG_NF_CONNTRACK_LABELS"));
        let finding = built(&all.replace("CONFIG_NF_CONNTRACK_EVENTS=m", "").replace("CONFIG_NF_NAT=m", ""));
        assert_eq!(finding.level, Level::Missing);
        assert_eq!(finding.value, json!({"lacks": ["CONFIG_NF_CONNTRACK_EVENTS", "CONFIG_NF_NAT"]}));
    }

    #[test]
    fn an_unreadable_kernel_configuration_is_only_noted() {
        let finding = build(&Facts { build: None, ..Facts::healthy() });
        assert_eq!(finding.level, Level::Note);
        assert!(finding.found.contains("/boot/config-6.18.44"), "{}", finding.found);
    }
}
