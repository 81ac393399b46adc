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

/// An option's row: a letter for each of [`COLUMNS`], blanks for the eye.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row(pub(super) &'static str);

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

impl Row {
    /// What a command has to do with the option. Commands without a column take no options.
    pub(super) fn need(self, command: (Action, Subject)) -> Need {
        let found = self.cells().find(|(column, _)| *column == command);
        found.map_or(Need::Illegal, |(_, need)| need)
    }

    /// The commands that the option goes with.
    pub(super) fn commands(self) -> impl Iterator<Item = (Action, Subject)> {
        self.cells().filter(|(_, need)| *need != Need::Illegal).map(|(column, _)| column)
    }

    fn cells(self) -> impl Iterator<Item = ((Action, Subject), Need)> {
        let letters = self.0.bytes().filter(|letter| *letter != b' ');
        COLUMNS.into_iter().zip(letters).map(|(column, letter)| {
            let need = match letter {
                b'o' => Need::Optional,
                b'R' => Need::Required,
                b'c' => Need::Pair,
                _ => Need::Illegal,
            };
            (column, need)
        })
    }
}

#[test]
fn every_row_has_a_letter_for_every_column() {
    for flag in super::defs::FLAGS {
        let super::defs::Effect::Option { legal, .. } = flag.effect else { continue };
        let letters: Vec<_> = legal.0.bytes().filter(|letter| *letter != b' ').collect();
        assert!([14, COLUMNS.len()].contains(&letters.len()), "{}", flag.long);
        assert!(letters.iter().all(|letter| b"oRc-".contains(letter)), "{}", flag.long);
    }
}
