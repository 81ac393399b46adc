//! Which command accepts which option: conntrack's table, with one row for each option.

use super::raw::Action;
use crate::output::Subject;

/// Whether a command accepts or requires an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The command refuses the option.
    Illegal,
    /// The command accepts the option.
    Optional,
    /// The command requires the option.
    Required,
    /// The command accepts the option, but requires one complete pair of such options: [`super::checks`] checks pairs.
    Pair,
}

/// The row of an option: whether each command of [`COLUMNS`] accepts it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row([Need; COLUMNS.len()]);

/// The commands that accept options, in the order of a row: `LGIAUDEF LGIDE h CSCS`. The last four accept options only
/// in ctflow, not in conntrack, so most rows end before them.
pub(super) const COLUMNS: [(Action, Subject); 18] = [
    (Action::List, Subject::Flows),
    (Action::Get, Subject::Flows),
    (Action::Create, Subject::Flows),
    (Action::Add, Subject::Flows),
    (Action::Update, Subject::Flows),
    (Action::Delete, Subject::Flows),
    (Action::Event, Subject::Flows),
    (Action::Flush, Subject::Flows),
    (Action::List, Subject::Expectations),
    (Action::Get, Subject::Expectations),
    (Action::Create, Subject::Expectations),
    (Action::Delete, Subject::Expectations),
    (Action::Event, Subject::Expectations),
    (Action::Help, Subject::Flows),
    (Action::Count, Subject::Flows),
    (Action::Stats, Subject::Flows),
    (Action::Count, Subject::Expectations),
    (Action::Stats, Subject::Expectations),
];

/// The index of a command in every row; `None` for commands that accept no options.
pub(super) fn column(command: (Action, Subject)) -> Option<usize> {
    COLUMNS.iter().position(|column| *column == command)
}

impl Row {
    /// Parses a row: one letter of `oRc-` for each column; blanks are skipped. Missing columns at the end are illegal.
    pub(super) const fn from_letters(letters: &str) -> Self {
        let letters = letters.as_bytes();
        let mut row = [Need::Illegal; COLUMNS.len()];
        let (mut column, mut index) = (0, 0);
        while index < letters.len() {
            let need = match letters[index] {
                b' ' => None,
                b'-' => Some(Need::Illegal),
                b'o' => Some(Need::Optional),
                b'R' => Some(Need::Required),
                letter => {
                    assert!(letter == b'c', "a letter of a row is one of oRc-");
                    Some(Need::Pair)
                }
            };
            if let Some(need) = need {
                row[column] = need;
                column += 1;
            }
            index += 1;
        }
        assert!(column == 14 || column == COLUMNS.len(), "a row has 14 columns or all of them");
        Self(row)
    }

    /// Whether the command at the index `column` of the row accepts the option; `Illegal` for `None`.
    pub(super) fn need_in_column(&self, column: Option<usize>) -> Need {
        column.and_then(|column| self.0.get(column)).copied().unwrap_or(Need::Illegal)
    }

    /// Whether `command` accepts the option.
    pub(super) fn need(&self, command: (Action, Subject)) -> Need {
        self.need_in_column(column(command))
    }

    /// The commands that accept the option.
    pub(super) fn commands(&self) -> impl Iterator<Item = (Action, Subject)> {
        COLUMNS.into_iter().zip(self.0).filter(|(_, need)| *need != Need::Illegal).map(|(column, _)| column)
    }
}
