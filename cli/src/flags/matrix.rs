//! Which option goes with which command: conntrack's table, a row to an option.

use super::raw::Action;
use crate::output::Subject;

/// What a command has to do with an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// It says nothing to the command.
    Illegal,
    /// It may be given.
    Optional,
    /// It must be given.
    Required,
    /// It may be given, but not as a half of nothing: [`super::checks`] looks at the pairs.
    Pair,
}

/// An option's row: what each of [`COLUMNS`] has to do with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row([Need; COLUMNS.len()]);

/// The commands that take options, in the order of a row: `LGIAUDEF LGIDE h CSCS`. The last four are ours: to conntrack
/// they take none, so most rows end before them.
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

/// The place of a command in every row; nothing for those that take no options.
pub(super) fn column(command: (Action, Subject)) -> Option<usize> {
    COLUMNS.iter().position(|column| *column == command)
}

impl Row {
    /// A letter for each column, blanks for the eye. What is left out at the end is illegal.
    pub(super) const fn from_letters(letters: &str) -> Self {
        let letters = letters.as_bytes();
        let mut row = [Need::Illegal; COLUMNS.len()];
        let (mut column, mut place) = (0, 0);
        while place < letters.len() {
            let need = match letters[place] {
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
            place += 1;
        }
        assert!(column == 14 || column == COLUMNS.len(), "a row ends behind help or behind the last column");
        Self(row)
    }

    /// What the command of that [`column()`] has to do with the option.
    pub(super) fn need_in_column(&self, column: Option<usize>) -> Need {
        column.and_then(|column| self.0.get(column)).copied().unwrap_or(Need::Illegal)
    }

    /// What a command has to do with the option.
    pub(super) fn need(&self, command: (Action, Subject)) -> Need {
        self.need_in_column(column(command))
    }

    /// The commands that the option goes with.
    pub(super) fn commands(&self) -> impl Iterator<Item = (Action, Subject)> {
        COLUMNS.into_iter().zip(self.0).filter(|(_, need)| *need != Need::Illegal).map(|(column, _)| column)
    }
}
