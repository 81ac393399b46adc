//! The flags that are what to do.

use ctflow_parser::request::Table;

use super::{Argument, Effect, Flag};
use crate::flags::raw::Action;

#[cfg(test)]
use super::tests;
#[cfg(test)]
use crate::flags::usage::Usage;

/// What commands but `-L` work on.
const BOTH_TABLES: &[Table] = &[Table::Conntrack, Table::Expect];

pub(super) static LIST: Flag = Flag {
    short: Some('L'),
    long: "dump",
    aliases: &[],
    argument: Argument::Table,
    help: "list a table",
    man: "Lists the flows of the table conntrack, the expectations of the table expect, the flows whose end could \
          not be reported yet (dying), or those whose first packet is still on its way (unconfirmed; always empty \
          since Linux 6.4). One line each on standard output, their number on standard error.",
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
    help: "fetch one entry by its exact tuple",
    man: "Prints the flow whose original direction, or whose reply, is the one named; or, of the table expect, \
          the expectation that awaits exactly this. Unlike conntrack it also finds flows of a zone (--zone, \
          --orig-zone, --reply-zone), and flows named by their reply alone. Exits with 1 if there is none.",
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
    man: "Deletes every flow that the options select, printing each; without options all of them. Of the table \
          expect, deletes the one expectation that awaits exactly this. Exits with 1 if nothing was deleted. \
          Unlike in conntrack a negated status selects what it says, and a deleted expectation is a success.",
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
    man: "Creates a flow from a pair of addresses, and of ports where the protocol has them, of one direction; \
          the other is the mirror image, as far as it is not given. Of the table expect, creates an \
          expectation: -s, -d, -p and the ports name the flow it belongs to, --tuple-* what is expected, \
          --mask-* which bits of it count.",
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
    man: "Creates a flow as --create does; where there is one already, gives it the timeout, status, state, \
          mark and labels.",
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
    man: "Changes every flow that addresses, ports, translation, zones, labels and id select: -t, -m, -u, \
          --state, --label-add and --label-del say how. Status flags are only ever added. Flows that already \
          are so are neither changed nor counted. Unlike conntrack it reaches flows of zones, and can select \
          by them.",
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
    help: "empty a table",
    man: "Deletes all flows, with -f those of one family; or all expectations.",
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
    help: "carry out the lines of a file; as the first argument only",
    man: "Reads commands from a file, or from standard input if it is `-', a line each, and carries them out in \
          order; such as -o save prints. The commands are -I, -A, -U, -D and -F. Words are parted by blanks, double \
          quotes group them, a backslash inside quotes takes the next character as it is; empty lines and those \
          that begin with # are skipped. A line that is wrong stops everything before anything is done.",
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
    man: "Prints flows, or expectations, as they come, change and go, until SIGINT or SIGTERM. Their number is \
          printed at the end, on standard error.",
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
    man: "Prints how many flows there are, or how many IPv4 expectations.",
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
    help: "print the kernel's statistics, a line per CPU",
    man: "Prints the kernel's counters of the table, one line per CPU. A counter that is newer than this program is \
          called unknown1, unknown2 and so on.",
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
    man: "Prints name and version in one line. Called as conntrack, the version of conntrack whose behaviour this is.",
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
    man: "Prints commands and options, a line each. With -p, of the protocols' options those of that one only.",
    effect: Effect::Command { action: Action::Help, tables: &[] },
};

#[test]
fn help_has_no_table() {
    assert_eq!(tests::chosen("-h").0, Action::Help);
    assert_eq!(tests::chosen("--help expect"), (Action::Help, Table::Conntrack));
}
