//! Split brain: peers that are primary while this node is.

use std::time::Instant;

use ctflow_replicate::{Node, Role};

use crate::limits::{HOT_CHECK_INTERVAL, SPLIT_BRAIN_GRACE};

/// Looks out for them, now and then.
#[derive(Debug)]
pub(super) struct Rivals {
    /// Two primaries are what the operator wants.
    wanted: bool,
    looked: Option<Instant>,
    /// Since when there are two, and who the other ones are.
    since: Option<(Instant, Vec<String>)>,
    said: bool,
}

impl Rivals {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, looked: None, since: None, said: false }
    }

    /// Looks, if it is time, and says in the log when it begins and when it is over.
    pub(super) fn look(&mut self, node: &Node, now: Instant) {
        if self.wanted || self.looked.is_some_and(|looked| now.duration_since(looked) < HOT_CHECK_INTERVAL) {
            return;
        }
        self.looked = Some(now);
        let names: Vec<String> = match node.role() {
            Role::Primary => node.peers_in_role(Role::Primary).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        self.note(names, now);
    }

    fn note(&mut self, names: Vec<String>, now: Instant) {
        if names.is_empty() {
            if std::mem::take(&mut self.said) {
                tracing::info!("this node is the only primary again");
            }
            self.since = None;
            return;
        }
        let since = self.since.take().map_or(now, |(since, _)| since);
        if !self.said && now.duration_since(since) >= SPLIT_BRAIN_GRACE {
            self.said = true;
            let rivals = names.join(", ");
            tracing::error!(
                "split brain: this node and {rivals} are both primary: have one take the role of backup, and look why \
                 they did not hear each other; where both are meant to be, set [takeover] active_active"
            );
        }
        self.since = Some((since, names));
    }

    /// Who they are, once it is certain.
    pub(super) fn named(&self) -> Vec<String> {
        self.since.iter().filter(|_| self.said).flat_map(|(_, names)| names.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_certain_after_a_while_and_over_at_once() {
        let (mut rivals, start) = (Rivals::new(false), Instant::now());
        let other = || vec!["other".to_owned()];
        rivals.note(other(), start);
        rivals.note(other(), start + SPLIT_BRAIN_GRACE / 2);
        assert!(rivals.named().is_empty(), "they may be changing roles");
        rivals.note(other(), start + SPLIT_BRAIN_GRACE);
        assert_eq!(rivals.named(), other());
        rivals.note(Vec::new(), start + SPLIT_BRAIN_GRACE);
        rivals.note(other(), start + 2 * SPLIT_BRAIN_GRACE);
        assert!(rivals.named().is_empty(), "it begins anew");
    }
}
