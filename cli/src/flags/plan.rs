//! The command line as meant: everything a command needs to know, with the defaults filled in.

use std::net::Ipv4Addr;

use ctflow_parser::filter::{DumpFilter, TupleFilter};
use ctflow_parser::flow::FlowView;
use ctflow_parser::request::Table;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

use super::defs::{self, Effect, Flag};
use super::doc::Topic;
use super::raw::{Action, Chosen, Raw, subject_of};
use super::usage::Usage;
use crate::output::{Format, Subject};
use crate::persona::Persona;

/// What to do, and as whom.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Which program we are called as.
    pub(crate) persona: Persona,
    /// What to do.
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// `-h`, `help`, or nothing at all.
    Help(Topic),
    /// `-V`.
    Version,
    /// `-L`.
    List(List),
    /// `-E`.
    Events(Events),
    /// `-C`.
    Count(Count),
    /// `-S`, of which table.
    Stats(Subject),
    /// `demo`.
    Demo,
    /// `doctor`.
    Doctor(Doctor),
}

/// `-L`: which entries, and how to print them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct List {
    /// What to list.
    pub(crate) table: Table,
    /// What the kernel can select.
    pub(crate) filter: DumpFilter,
    /// What is to be selected, once more; all that a kernel may have ignored.
    pub(crate) selection: Selection,
    /// How to print each.
    pub(crate) format: Format,
}

impl List {
    /// What the table holds.
    pub(crate) fn subject(&self) -> Subject {
        subject_of(self.table)
    }
}

/// `-E`: which events, and how to print them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Events {
    /// Of which table.
    pub(crate) subject: Subject,
    /// Of which kinds.
    pub(crate) mask: EventMask,
    /// About which flows.
    pub(crate) selection: Selection,
    /// How to print each.
    pub(crate) format: Format,
    /// The socket's receive buffer; `None` leaves it to the program.
    pub(crate) buffer_bytes: Option<u32>,
}

/// `-C`: which entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// Of which table.
    pub(crate) subject: Subject,
    /// Of which family: `AF_UNSPEC` for flows, which the kernel counts itself; `AF_INET` for expectations, which
    /// must be listed to be counted.
    pub(crate) family: u8,
}

/// `doctor`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Doctor {
    /// Findings as JSON.
    pub(crate) json: bool,
}

/// Kinds of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventMask {
    /// It came to be.
    pub(crate) new: bool,
    /// It changed.
    pub(crate) update: bool,
    /// It is gone.
    pub(crate) destroy: bool,
}

impl EventMask {
    /// No event.
    pub(crate) const NONE: Self = Self { new: false, update: false, destroy: false };
    /// Every event.
    pub(crate) const ALL: Self = Self { new: true, update: true, destroy: true };

    /// The events of both.
    pub(crate) fn or(self, other: Self) -> Self {
        Self { new: self.new || other.new, update: self.update || other.update, destroy: self.destroy || other.destroy }
    }
}

/// Which flows are wanted; the default takes all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// `AF_UNSPEC` for both families.
    pub(crate) family: u8,
    /// The layer-4 protocol.
    pub(crate) protocol: Option<u8>,
}

impl Selection {
    /// Whether a flow is wanted.
    #[inline]
    pub(crate) fn matches(&self, flow: &FlowView<'_>) -> bool {
        (self.family == uapi::AF_UNSPEC || self.family == flow.family)
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol())
    }
}

/// What was typed, as what is meant.
pub(super) fn command(raw: &Raw) -> Result<Command, Usage> {
    let Some(chosen) = &raw.command else { return without_command(raw) };
    check_legal(raw, chosen)?;
    Ok(match chosen.action {
        Action::List => Command::List(list(raw, chosen)),
        Action::Event => Command::Events(events(raw, chosen)),
        Action::Count => Command::Count(count(chosen)),
        Action::Stats => Command::Stats(chosen.subject()),
        Action::Version => Command::Version,
        Action::Help => Command::Help(Topic::Everything),
    })
}

/// Nothing typed is a question; options alone are a mistake.
fn without_command(raw: &Raw) -> Result<Command, Usage> {
    let is_command = |flag: &&&Flag| matches!(flag.effect, Effect::Command { .. });
    let letters = || defs::FLAGS.iter().filter(is_command).filter_map(|flag| flag.short);
    if raw.given.is_empty() {
        return Ok(Command::Help(Topic::Everything));
    }
    let commands = letters().map(|letter| format!("-{letter}")).collect::<Vec<_>>().join(", ");
    Err(Usage::NoCommand { commands })
}

/// Refuses the first option, in the order of the help text, that says nothing to the command.
fn check_legal(raw: &Raw, chosen: &Chosen) -> Result<(), Usage> {
    let wanted = (chosen.action, chosen.subject());
    for flag in defs::FLAGS {
        let Effect::Option { legal, .. } = flag.effect else { continue };
        let given = raw.given.iter().any(|given| given.long == flag.long);
        if given && !legal.contains(&wanted) {
            let command = spelled(chosen.action, chosen.subject());
            let commands = legal.iter().map(|(action, subject)| spelled(*action, *subject)).collect::<Vec<_>>();
            return Err(Usage::Illegal { option: flag.long, command, commands: commands.join(", ") });
        }
    }
    Ok(())
}

/// A command as one would type it.
fn spelled(wanted: Action, subject: Subject) -> String {
    let is_wanted = |flag: &&&Flag| matches!(flag.effect, Effect::Command { action, .. } if action == wanted);
    let letter = defs::FLAGS.iter().find(is_wanted).and_then(|flag| flag.short).unwrap_or('?');
    match subject {
        Subject::Flows => format!("-{letter}"),
        Subject::Expectations => format!("-{letter} expect"),
    }
}

fn list(raw: &Raw, chosen: &Chosen) -> List {
    let family = match chosen.subject() {
        Subject::Flows => raw.family.unwrap_or(uapi::AF_UNSPEC),
        Subject::Expectations => raw.family.unwrap_or(uapi::AF_INET), // so does conntrack, and so does `-C expect`
    };
    List {
        table: chosen.table,
        filter: DumpFilter { family, orig: kernel_side(family, raw.protocol), ..DumpFilter::default() },
        selection: Selection { family, protocol: raw.protocol },
        format: raw.format,
    }
}

/// What the kernel compares to select a protocol. It does so for one family only: asked about both it refuses.
fn kernel_side(family: u8, protocol: Option<u8>) -> Option<TupleFilter> {
    let proto = protocol.filter(|_| family != uapi::AF_UNSPEC)?;
    let any = Ipv4Addr::UNSPECIFIED.into(); // addresses do not count, so either family's will do
    let tuple = Tuple { src: any, dst: any, proto, l4: L4::None, zone: None };
    Some(TupleFilter { flags: uapi::CTA_FILTER_F_CTA_PROTO_NUM, tuple })
}

fn events(raw: &Raw, chosen: &Chosen) -> Events {
    let family = raw.family.unwrap_or(uapi::AF_UNSPEC);
    Events {
        subject: chosen.subject(),
        mask: raw.events.unwrap_or(EventMask::ALL),
        selection: Selection { family, protocol: raw.protocol },
        format: raw.format,
        buffer_bytes: raw.buffer_bytes,
    }
}

fn count(chosen: &Chosen) -> Count {
    let subject = chosen.subject();
    let family = if subject == Subject::Expectations { uapi::AF_INET } else { uapi::AF_UNSPEC };
    Count { subject, family }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn plan(line: &str) -> Result<Command, Usage> {
        command(&Raw::read(line.split_whitespace().map(OsString::from))?)
    }

    #[test]
    fn a_listing_has_its_table_filter_and_format() {
        let Ok(Command::List(list)) = plan("-L dying -f ipv6 -p udp -o id") else { panic!("no listing") };
        assert_eq!((list.table, list.subject()), (Table::Dying, Subject::Flows));
        assert_eq!(list.filter.family, uapi::AF_INET6);
        assert!(list.filter.orig.is_some_and(|orig| orig.tuple.proto == 17));
        let Ok(Command::List(both)) = plan("-L -p udp") else { panic!("no listing") };
        assert_eq!((both.filter.orig, both.selection.protocol), (None, Some(17)));
        assert_eq!(list.selection, Selection { family: uapi::AF_INET6, protocol: Some(17) });
        assert!(list.format.id && !list.format.extended);
    }

    #[test]
    fn flows_are_of_both_families_and_expectations_of_ipv4() {
        let family = |line| match plan(line) {
            Ok(Command::List(list)) => list.filter.family,
            Ok(Command::Events(events)) => events.selection.family,
            Ok(Command::Count(count)) => count.family,
            other => panic!("{other:?}"),
        };
        let lines = ["-L", "-L dying", "-E", "-E expect", "-C", "-L expect", "-C expect", "-L expect -f ipv6"];
        assert_eq!(lines.map(family), [0, 0, 0, 0, 0, uapi::AF_INET, uapi::AF_INET, uapi::AF_INET6]);
    }

    #[test]
    fn events_are_all_of_them_unless_said() {
        let Ok(Command::Events(events)) = plan("-E") else { panic!("no events") };
        assert_eq!((events.subject, events.mask, events.buffer_bytes), (Subject::Flows, EventMask::ALL, None));
        let Ok(Command::Events(events)) = plan("-E -e DESTROY -b 4096") else { panic!("no events") };
        assert_eq!(events.mask, EventMask { destroy: true, ..EventMask::NONE });
        assert_eq!(events.buffer_bytes, Some(4096));
    }

    #[test]
    fn nothing_is_a_question_and_options_alone_a_mistake() {
        assert!(matches!(plan(""), Ok(Command::Help(Topic::Everything))));
        assert!(matches!(plan("word -- -L"), Ok(Command::Help(Topic::Everything))));
        let commands = "-L, -E, -C, -S, -V, -h".to_owned();
        assert_eq!(plan("-o xml").unwrap_err(), Usage::NoCommand { commands });
    }

    #[test]
    fn the_matrix_of_commands_and_options() {
        let commands = ["-L", "-L expect", "-E", "-E expect", "-C", "-S", "-S expect", "-V", "-h"];
        let matrix = [
            ("-p tcp", [true, false, true, false, false, false, false, false, true]),
            ("-f ipv4", [true, true, true, false, false, false, false, false, false]),
            ("-o id", [true, true, true, true, false, false, false, false, false]),
            ("-e ALL", [false, false, true, false, false, false, false, false, false]),
            ("-b 9", [false, false, true, false, false, false, false, false, false]),
        ];
        for (option, legal) in matrix {
            let found = commands.map(|command| plan(&format!("{command} {option}")).is_ok());
            assert_eq!(found, legal, "{option}");
        }
    }

    #[test]
    fn an_illegal_option_says_where_it_belongs() {
        let refused = plan("-C expect -e NEW --output=id").unwrap_err();
        let expected = Usage::Illegal {
            option: "output",
            command: "-C expect".into(),
            commands: "-L, -L expect, -E, -E expect".into(),
        };
        assert_eq!(refused, expected);
    }

    #[test]
    fn a_selection_takes_what_has_its_family_and_protocol() {
        let address = Ipv4Addr::LOCALHOST.into();
        let orig = Tuple { src: address, dst: address, proto: 6, l4: L4::None, zone: None };
        let flow = FlowView { family: uapi::AF_INET, orig: Some(orig), ..FlowView::default() };
        let takes = |family, protocol| Selection { family, protocol }.matches(&flow);
        assert!(takes(0, None) && takes(uapi::AF_INET, Some(6)));
        assert!(!takes(uapi::AF_INET6, None) && !takes(0, Some(17)));
    }
}
