//! Split brain: peers that are primary while this node is.

use std::time::Instant;

use ctflow_replicate::{Node, Role};

use crate::limits::{HOT_CHECK_INTERVAL, SPLIT_BRAIN_GRACE};

/// Looks out for them, now and then.
#[derive(Debug)]
pub(super) struct SplitBrain {
    /// Two primaries are what the operator wants.
    active_active: bool,
    last_check: Option<Instant>,
    /// Since when there are two, and who the other ones are.
    since: Option<(Instant, Vec<String>)>,
    reported: bool,
}

impl SplitBrain {
    pub(super) fn new(wanted: bool) -> Self {
        Self { active_active: wanted, last_check: None, since: None, reported: false }
    }

    /// Looks, if it is time, and says in the log when it begins and when it is over.
    pub(super) fn check(&mut self, node: &Node, now: Instant) {
        if self.active_active || self.last_check.is_some_and(|looked| now.duration_since(looked) < HOT_CHECK_INTERVAL) {
            return;
        }
        self.last_check = Some(now);
        let names: Vec<String> = match node.role() {
            Role::Primary => node.peers_in_role(Role::Primary).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        self.update(names, now);
    }

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
            let rivals = names.join(", ");
            tracing::error!(
                "split brain: this node and {rivals} are both primary: have one take the role of backup, and look why \
                 they did not hear each other; where both are meant to be, set [takeover] active_active"
            );
        }
        self.since = Some((since, names));
    }

    /// Who they are, once it is certain.
    pub(super) fn peer_names(&self) -> Vec<String> {
        self.since.iter().filter(|_| self.reported).flat_map(|(_, names)| names.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_brain_is_reported_after_a_delay_and_cleared_at_once() {
        let (mut rivals, start) = (SplitBrain::new(false), Instant::now());
        let other = || vec!["other".to_owned()];
        rivals.update(other(), start);
        rivals.update(other(), start + SPLIT_BRAIN_GRACE / 2);
        assert!(rivals.peer_names().is_empty(), "they may be changing roles");
        rivals.update(other(), start + SPLIT_BRAIN_GRACE);
        assert_eq!(rivals.peer_names(), other());
        rivals.update(Vec::new(), start + SPLIT_BRAIN_GRACE);
        rivals.update(other(), start + 2 * SPLIT_BRAIN_GRACE);
        assert!(rivals.peer_names().is_empty(), "it begins anew");
    }
}
