//! The conntrack table: how full it is, and how long its hash chains may get.

use indicatif::HumanCount;
use serde_json::json;

use crate::command::doctor::facts::{Facts, Table};
use crate::command::doctor::finding::Finding;

/// The highest fill level without a warning, in percent. Above it a burst fills the table.
const FULL_PERCENT: u64 = 80;
/// The most flows for each bucket without a warning. Each flow is in two chains, so chains have twice as many entries.
const FLOWS_PER_BUCKET: u64 = 4;

/// Returns the table's size: the settings', or netlink's where they are unknown.
fn known_table(facts: &Facts) -> Table {
    facts.settings.table.or(facts.stats.clone().unwrap_or_default())
}

/// Checks how full the table is.
pub(super) fn fill(facts: &Facts) -> Finding {
    let Table { count, max } = known_table(facts);
    let finding = match (count, max) {
        (Some(0), _) => empty_finding(),
        (Some(count), Some(max)) if max > 0 => fill_finding(count, max),
        (Some(count), _) => {
            Finding::ok("table", format!("{} {}", HumanCount(count), if count == 1 { "flow" } else { "flows" }))
        }
        (None, _) => Finding::note("table", "unknown: neither /proc/sys nor netlink has the number of flows"),
    };
    finding.value(json!({ "count": count, "max": max }))
}

/// Returns the finding for an empty table. Since Linux 4.10 a network is tracked only while it has a rule that needs
/// it.
fn empty_finding() -> Finding {
    let found = "empty: no traffic yet, or no rule in this network needs connection tracking";
    Finding::note("table", found).mend(
        "nft 'add table inet track; add chain inet track prerouting { type filter hook prerouting priority filter; }; \
         add rule inet track prerouting ct state new counter'  # if nothing is tracked",
    )
}

/// Returns the finding for a table that has a limit.
fn fill_finding(count: u64, max: u64) -> Finding {
    let percent = count.saturating_mul(100) / max;
    let found = format!("{} of {} flows ({percent} %)", HumanCount(count), HumanCount(max));
    if percent <= FULL_PERCENT {
        return Finding::ok("table", found);
    }
    Finding::warning("table", format!("{found}: when it is full, packets of new flows are dropped"))
        .mend(format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(2)))
}

/// Checks whether lookups in a full table would still be fast.
pub(super) fn buckets(facts: &Facts) -> Finding {
    let (max, buckets) = (known_table(facts).max, facts.settings.buckets);
    let finding = match (max, buckets) {
        (Some(max), Some(buckets)) if buckets > 0 => chain_finding(max, buckets),
        _ => Finding::note("buckets", "unknown: nf_conntrack_buckets does not exist here"),
    };
    finding.value(json!({ "buckets": buckets, "max": max }))
}

/// Returns the finding for a number of buckets.
fn chain_finding(max: u64, buckets: u64) -> Finding {
    let found = format!("{} for at most {} flows", HumanCount(buckets), HumanCount(max));
    if max <= buckets.saturating_mul(FLOWS_PER_BUCKET) {
        return Finding::ok("buckets", found);
    }
    let entries = HumanCount(max.saturating_mul(2) / buckets);
    Finding::warning("buckets", format!("{found}: {entries} entries in a chain when the table is full"))
        .mend(format!("sysctl -w net.netfilter.nf_conntrack_buckets={max}  # on the host"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::facts::Settings;
    use crate::command::doctor::finding::Level;

    fn with(count: u64, max: u64, buckets: u64) -> Facts {
        let table = Table { count: Some(count), max: Some(max) };
        let settings = Settings { table, buckets: Some(buckets), ..Facts::healthy().settings };
        Facts { settings, ..Facts::healthy() }
    }

    #[test]
    fn a_table_nearly_full_is_doubled() {
        let finding = fill(&with(240_000, 262_144, 262_144));
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.found.starts_with("240,000 of 262,144 flows (91 %): when"), "{}", finding.found);
        assert_eq!(finding.mend.as_deref(), Some("sysctl -w net.netfilter.nf_conntrack_max=524288"));
        assert_eq!(finding.value, json!({"count": 240_000, "max": 262_144}));
        assert_eq!(fill(&with(80, 100, 100)).level, Level::Ok);
    }

    #[test]
    fn a_table_without_a_limit_is_never_full() {
        assert_eq!(fill(&with(1_000_000, 0, 65_536)).found, "1,000,000 flows");
        assert_eq!(buckets(&with(1_000_000, 0, 65_536)).level, Level::Ok);
    }

    #[test]
    fn an_empty_table_suggests_a_tracking_rule() {
        let finding = fill(&with(0, 262_144, 262_144));
        assert_eq!(finding.level, Level::Note);
        assert!(finding.mend.unwrap().contains("ct state new counter"));
    }

    #[test]
    fn netlink_counts_are_used_where_proc_is_hidden() {
        let facts = Facts { settings: Settings::default(), ..Facts::healthy() };
        assert_eq!(fill(&facts).found, "12,345 of 262,144 flows (4 %)");
        assert_eq!(buckets(&facts).level, Level::Note);
    }

    #[test]
    fn long_chains_are_mended_by_more_buckets() {
        let finding = buckets(&with(1, 1_048_576, 65_536));
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.found, "65,536 for at most 1,048,576 flows: 32 entries in a chain when the table is full");
        let mend = "sysctl -w net.netfilter.nf_conntrack_buckets=1048576  # on the host";
        assert_eq!(finding.mend.as_deref(), Some(mend));
        assert_eq!(buckets(&with(1, 262_144, 65_536)).level, Level::Ok);
    }
}
