//! The kinds of change to one flow, and the rule by which two changes of the same flow become one.
//!
//! [`Change::conflate_with`] states what two changes together mean to a replica. Only its test calls it: the engine's
//! shards conflate by keeping at most one delta a flow, its newest state.
//!
//! | first | then created | then updated | then destroyed |
//! |---|---|---|---|
//! | created | created | created | nothing: the replica never received it |
//! | updated | updated | updated | destroyed |
//! | destroyed | updated: the replica still has the old one | destroyed | destroyed |

/// The kind of change to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// The flow is new.
    Created,
    /// The flow existed, and its state changed.
    Updated,
    /// The flow was removed.
    Destroyed,
}

impl Change {
    /// Returns the one change that has the effect of this one and the `next` one of the same flow; `None` if nothing is
    /// left to send.
    #[must_use]
    pub fn conflate_with(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Created, Self::Destroyed) => None,
            (Self::Created, Self::Created | Self::Updated) => Some(Self::Created),
            (Self::Updated | Self::Destroyed, Self::Destroyed) | (Self::Destroyed, Self::Updated) => {
                Some(Self::Destroyed)
            }
            (Self::Updated, Self::Created | Self::Updated) | (Self::Destroyed, Self::Created) => Some(Self::Updated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Change::{self, Created, Destroyed, Updated};

    /// Applies each change to a replica that holds version `have` of a flow, if any; returns the version that it ends
    /// with.
    fn replay(mut have: Option<u32>, changes: impl IntoIterator<Item = (Change, u32)>) -> Option<u32> {
        for (change, version) in changes {
            match change {
                Created => have = Some(version),
                Updated => have = have.map(|_| version),
                Destroyed => have = None,
            }
        }
        have
    }

    /// A replica that receives the one conflated change ends with the same version as one that receives every change.
    #[test]
    fn a_conflated_change_has_the_effect_of_all_its_parts() {
        let possible = |have: bool| if have { vec![Updated, Destroyed] } else { vec![Created] };
        for had in [false, true] {
            let mut runs = vec![(had, Vec::new())];
            for _ in 0..6 {
                runs = runs
                    .into_iter()
                    .flat_map(|(have, run)| {
                        possible(have)
                            .into_iter()
                            .map(move |change| (change != Destroyed, [run.clone(), vec![change]].concat()))
                    })
                    .collect();
                for (_, run) in &runs {
                    let start = had.then_some(0);
                    let all = replay(start, run.iter().copied().zip(1..));
                    let newest = u32::try_from(run.len()).unwrap();
                    let mut conflated = None;
                    for next in run {
                        conflated = conflated.map_or(Some(*next), |sum: Change| sum.conflate_with(*next));
                    }
                    assert_eq!(replay(start, conflated.map(|change| (change, newest))), all, "{had} {run:?}");
                }
            }
        }
    }
}
