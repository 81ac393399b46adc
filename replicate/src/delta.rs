//! The change to one flow, and how two changes of the same flow become one.
//!
//! Between two flushes a flow has at most one delta, its newest state. What the two together mean to a replica is
//! decided here, by [`Change::conflate_with`]:
//!
//! | first | then created | then updated | then destroyed |
//! |---|---|---|---|
//! | created | created | created | nothing: the replica never knew it |
//! | updated | updated | updated | destroyed |
//! | destroyed | updated: the replica still has the old one | destroyed | destroyed |

/// What happened to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// It was not there before.
    Created,
    /// It was there, and is different now.
    Updated,
    /// It is gone.
    Destroyed,
}

impl Change {
    /// What this change and the `next` one of the same flow amount to; `None` when nothing is left to tell.
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

    /// A replica that is told each change: whether it has the flow, and which version of it.
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

    /// Whatever happens to a flow, a replica told the one conflated change ends where one told everything does.
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
