//! Split brain: live peers that are primary while this node is primary, and should not be.

use std::time::Instant;

use ctflow_replicate::{Protocol, Role};

use crate::limits::{HOT_CHECK_INTERVAL, SPLIT_BRAIN_GRACE};

/// Detects split brain and reports it in the log.
#[derive(Debug)]
pub(super) struct SplitBrain {
    /// The configuration allows two primaries, so there is no split brain.
    active_active: bool,
    /// The time of the last check.
    last_check: Option<Instant>,
    /// The time since when there are other primaries, and their names.
    since: Option<(Instant, Vec<String>)>,
    /// Whether the log has reported it.
    reported: bool,
}

impl SplitBrain {
    /// A detector that has seen no other primary yet.
    pub(super) fn new(active_active: bool) -> Self {
        Self { active_active, last_check: None, since: None, reported: false }
    }

    /// Checks at most once each [`HOT_CHECK_INTERVAL`], and logs the start and the end of a split brain.
    pub(super) fn check(&mut self, protocol: &Protocol, now: Instant) {
        if self.active_active || self.last_check.is_some_and(|last| now.duration_since(last) < HOT_CHECK_INTERVAL) {
            return;
        }
        self.last_check = Some(now);
        let names: Vec<String> = match protocol.role() {
            Role::Primary => protocol.peers_in_role(Role::Primary).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        self.update(names, now);
    }

    /// Records the names of the other primaries. Logs a split brain once it has lasted [`SPLIT_BRAIN_GRACE`], and its
    /// end.
    fn update(&mut self, names: Vec<String>, now: Instant) {
        if names.is_empty() {
            if std::mem::take(&mut self.reported) {
                tracing::info!("this node is the only primary again");
            }
            self.since = None;
            return;
        }
        let since = self.since.take().map_or(now, |(since, _)| since);
        if !self.reported && now.duration_since(since) >= SPLIT_BRAIN_GRACE {
            self.reported = true;
            let others = names.join(", ");
            tracing::error!(
                "split brain: this node and {others} are both primary: run `ctflow role backup` on all but one, and \
                 check the links between them; if both shall be primary, set [takeover] active_active"
            );
        }
        self.since = Some((since, names));
    }

    /// The names of the other primaries, once the log has reported them.
    pub(super) fn peer_names(&self) -> Vec<String> {
        self.since.iter().filter(|_| self.reported).flat_map(|(_, names)| names.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_brain_is_reported_after_a_delay_and_cleared_at_once() {
        let (mut split_brain, start) = (SplitBrain::new(false), Instant::now());
        let other = || vec!["other".to_owned()];
        split_brain.update(other(), start);
        split_brain.update(other(), start + SPLIT_BRAIN_GRACE / 2);
        assert!(split_brain.peer_names().is_empty(), "a change of roles reaches the nodes one after the other");
        split_brain.update(other(), start + SPLIT_BRAIN_GRACE);
        assert_eq!(split_brain.peer_names(), other());
        split_brain.update(Vec::new(), start + SPLIT_BRAIN_GRACE);
        split_brain.update(other(), start + 2 * SPLIT_BRAIN_GRACE);
        assert!(split_brain.peer_names().is_empty(), "the delay starts anew");
    }
}
