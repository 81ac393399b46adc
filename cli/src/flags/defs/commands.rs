//! The command flags: `-L`, `-E` and so on. Each command line has at most one of them.

use ctflow_parser::request::Table;

use super::{Argument, Effect, Flag};
use crate::flags::raw::Action;

#[cfg(test)]
use super::tests;
#[cfg(test)]
use crate::flags::usage::Usage;

/// The tables of commands other than `-L`.
const BOTH_TABLES: &[Table] = &[Table::Conntrack, Table::Expect];

pub(super) static LIST: Flag = Flag {
    short: Some('L'),
    long: "dump",
    aliases: &[],
    argument: Argument::Table,
    help: "list a table",
    man: "Lists a table: conntrack (flows, the default), expect (expectations), dying (flows whose DESTROY event has \
          not been delivered yet), or unconfirmed (flows whose first packet is still being processed; always empty \
          since Linux 6.4). Prints one line for each entry on standard output, and the number of entries on standard \
          error.",
    effect: Effect::Command {
        action: Action::List,
        tables: &[Table::Conntrack, Table::Expect, Table::Dying, Table::Unconfirmed],
    },
};

#[test]
fn list_accepts_every_table() {
    assert_eq!(tests::chosen("-L"), (Action::List, Table::Conntrack));
    assert_eq!(tests::chosen("--dump unconf"), (Action::List, Table::Unconfirmed));
}

pub(super) static GET: Flag = Flag {
    short: Some('G'),
    long: "get",
    aliases: &[],
    argument: Argument::Table,
    help: "print one entry by its exact tuple",
    man: "Prints the flow whose original or reply direction equals the tuple on the command line. With the table \
          expect, prints the expectation that awaits exactly this tuple. Unlike conntrack it also finds flows in a \
          zone (--zone, --orig-zone, --reply-zone), and flows of which only the reply direction is specified. Exits \
          with 1 if there is none.",
    effect: Effect::Command { action: Action::Get, tables: BOTH_TABLES },
};

#[test]
fn get_accepts_its_tables() {
    assert_eq!(tests::chosen("-G ex"), (Action::Get, Table::Expect));
    assert!(matches!(tests::read("--get dying"), Err(Usage::UnknownTable { .. })));
}

pub(super) static DELETE: Flag = Flag {
    short: Some('D'),
    long: "delete",
    aliases: &[],
    argument: Argument::Table,
    help: "delete all matching flows, or one expectation",
    man: "Deletes every flow that the options select, and prints each; without options, all flows. With the table \
          expect, deletes the one expectation that awaits exactly this tuple. Exits with 1 if nothing was deleted. \
          Unlike in conntrack, a negated status selects the flows without that flag, and deleting an expectation \
          exits with 0.",
    effect: Effect::Command { action: Action::Delete, tables: BOTH_TABLES },
};

#[test]
fn delete_accepts_its_tables() {
    assert_eq!(tests::chosen("-D expect"), (Action::Delete, Table::Expect));
    assert!(matches!(tests::read("--delete dying"), Err(Usage::UnknownTable { .. })));
}

pub(super) static CREATE: Flag = Flag {
    short: Some('I'),
    long: "create",
    aliases: &[],
    argument: Argument::Table,
    help: "create a flow or an expectation, fail if it exists",
    man: "Creates a flow. One direction must be specified: both addresses, and both ports where the protocol has \
          ports. Whatever is missing of the other direction is mirrored from it. With the table expect, creates an \
          expectation: -s, -d, -p and the ports identify the flow that it belongs to (its master), --tuple-* the \
          expected flow, and --mask-* the bits of the expected flow that are compared.",
    effect: Effect::Command { action: Action::Create, tables: BOTH_TABLES },
};

#[test]
fn create_accepts_its_tables() {
    assert_eq!(tests::chosen("-I expect"), (Action::Create, Table::Expect));
    assert!(matches!(tests::read("--create dying"), Err(Usage::UnknownTable { .. })));
}

pub(super) static ADD: Flag = Flag {
    short: Some('A'),
    long: "add",
    aliases: &[],
    argument: Argument::Table,
    help: "create a flow, or change it if it exists",
    man: "Creates a flow as --create does. If the flow exists, sets its timeout, status, state, mark and labels \
          instead.",
    effect: Effect::Command { action: Action::Add, tables: &[Table::Conntrack] },
};

#[test]
fn add_accepts_its_table() {
    assert_eq!(tests::chosen("--add"), (Action::Add, Table::Conntrack));
    assert!(matches!(tests::read("--add dying"), Err(Usage::UnknownTable { .. })));
}

pub(super) static UPDATE: Flag = Flag {
    short: Some('U'),
    long: "update",
    aliases: &[],
    argument: Argument::Table,
    help: "change all matching flows",
    man: "Changes every flow that addresses, ports, NAT, zones, labels and id select. -t, -m, -u, --state, \
          --label-add and --label-del specify the change. Status flags are only ever added. Flows that already have \
          the new values are neither changed nor counted. Unlike conntrack it also changes flows in zones, and can \
          select by zone.",
    effect: Effect::Command { action: Action::Update, tables: &[Table::Conntrack] },
};

#[test]
fn update_accepts_its_table() {
    assert_eq!(tests::chosen("-U"), (Action::Update, Table::Conntrack));
    assert!(matches!(tests::read("--update dying"), Err(Usage::UnknownTable { .. })));
}

pub(super) static FLUSH: Flag = Flag {
    short: Some('F'),
    long: "flush",
    aliases: &[],
    argument: Argument::Table,
    help: "delete all entries of a table",
    man: "Deletes all flows, with -f those of one family; with the table expect, all expectations.",
    effect: Effect::Command { action: Action::Flush, tables: BOTH_TABLES },
};

#[test]
fn flush_accepts_its_tables() {
    assert_eq!(tests::chosen("--flush e"), (Action::Flush, Table::Expect));
    assert!(matches!(tests::read("--flush dying"), Err(Usage::UnknownTable { .. })));
}

pub(super) static LOAD_FILE: Flag = Flag {
    short: Some('R'),
    long: "load-file",
    aliases: &[],
    argument: Argument::Required("FILE"),
    help: "execute the commands in a file; must be the first argument",
    man: "Reads commands from a file, one on each line, and executes them in order; `-' is standard input. -o save \
          prints such a file. The commands are -I, -A, -U, -D and -F. Blanks separate words, double quotes group \
          them, and a backslash inside quotes makes the next character literal. Empty lines and lines that begin \
          with # are skipped. If a line is wrong, nothing is executed.",
    effect: Effect::File,
};

#[test]
fn load_file_is_refused_after_another_argument() {
    for line in ["-L -R x", "-L --load-file x", "-L --load-f x"] {
        assert!(matches!(tests::read(line), Err(Usage::NotFirst(_))), "{line}");
    }
}

pub(super) static EVENT: Flag = Flag {
    short: Some('E'),
    long: "event",
    aliases: &[],
    argument: Argument::Table,
    help: "follow events until interrupted",
    man: "Prints flows or expectations as they are created, changed and destroyed, until SIGINT or SIGTERM. The \
          number of events is printed at the end, on standard error.",
    effect: Effect::Command { action: Action::Event, tables: BOTH_TABLES },
};

#[test]
fn event_accepts_flows_and_expectations() {
    assert_eq!(tests::chosen("-E"), (Action::Event, Table::Conntrack));
    assert_eq!(tests::chosen("--event expect"), (Action::Event, Table::Expect));
}

pub(super) static COUNTER: Flag = Flag {
    short: Some('C'),
    long: "counter",
    aliases: &[],
    argument: Argument::Table,
    help: "print the number of entries",
    man: "Prints the number of flows, or the number of IPv4 expectations.",
    effect: Effect::Command { action: Action::Count, tables: BOTH_TABLES },
};

#[test]
fn counter_may_be_abbreviated() {
    assert_eq!(tests::chosen("-C expect"), (Action::Count, Table::Expect));
    assert_eq!(tests::chosen("--count"), (Action::Count, Table::Conntrack));
}

pub(super) static STATS: Flag = Flag {
    short: Some('S'),
    long: "stats",
    aliases: &[],
    argument: Argument::Table,
    help: "print the kernel's statistics, one line for each CPU",
    man: "Prints the kernel's counters of the table, one line for each CPU. A counter that this program does not \
          know by name is called unknown1, unknown2 and so on.",
    effect: Effect::Command { action: Action::Stats, tables: BOTH_TABLES },
};

#[test]
fn stats_accepts_both_tables() {
    assert_eq!(tests::chosen("-S"), (Action::Stats, Table::Conntrack));
    assert_eq!(tests::chosen("--stats exp"), (Action::Stats, Table::Expect));
}

pub(super) static VERSION: Flag = Flag {
    short: Some('V'),
    long: "version",
    aliases: &[],
    argument: Argument::None,
    help: "print the version",
    man: "Prints name and version in one line. Under the name conntrack, prints the version of conntrack that it \
          behaves like.",
    effect: Effect::Command { action: Action::Version, tables: &[] },
};

#[test]
fn version_has_no_table() {
    assert_eq!(tests::chosen("-V"), (Action::Version, Table::Conntrack));
    assert_eq!(tests::chosen("--version").0, Action::Version);
}

pub(super) static HELP: Flag = Flag {
    short: Some('h'),
    long: "help",
    aliases: &[],
    argument: Argument::None,
    help: "print this text",
    man: "Prints all commands and options, one line each. With -p, the protocol options are limited to those of that \
          protocol.",
    effect: Effect::Command { action: Action::Help, tables: &[] },
};

#[test]
fn help_has_no_table() {
    assert_eq!(tests::chosen("-h").0, Action::Help);
    assert_eq!(tests::chosen("--help expect"), (Action::Help, Table::Conntrack));
}
