//! `role`: which side the firewall is on.

use std::ffi::OsString;

use ctflow_replicate::Role;

use super::sync::{CONFIG, SOCKET, reach};
use super::{Form, JSON, Verb, VerbArgs};
use crate::flags::plan::{Command, Control, ControlRequest};
use crate::flags::usage::Usage;

#[cfg(test)]
use super::tests;

const ROLES: &[&str] = &["primary", "backup", "fault"];

pub(super) static ROLE: Verb = Verb {
    name: "role",
    argument: "[primary|backup|fault] [--json] [--socket PATH | -C FILE]",
    forms: &[Form { name: "", argument: "primary, backup or fault", slots: &[ROLES], file: false }],
    options: &[JSON, SOCKET, CONFIG],
    help: "say which side this firewall is on, or change it",
    man: "Prints the role that this firewall has; with a word, has it take that role, and says what was done. primary: what \
          the peers told is put into the kernel, isolation ends (before that where hot mode has put all of it there), the \
          internal cache is made what the kernel's table is, and what was replicated from peers that are gone is let go. \
          backup, and fault: this firewall is isolated, where that is configured, and after purge_timeout_s what it \
          tracked leaves its kernel. A role that it has already is not taken again, but that of primary where both firewalls are. For keepalived there is a script in \
          packaging/keepalived. Exits with 1 where the takeover is not complete, which it says in numbers, and with 3 where \
          a peer is primary as well and should not be.",
    read: role,
};

fn role(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let given = VerbArgs::read(verb, rest)?;
    let role = given.slot(0).and_then(Role::from_name);
    let ask = ControlRequest::Role { role, json: given.option("json").is_some() };
    Ok(Command::Control(Control { reach: reach(&given)?, request: ask }))
}

#[test]
fn role_is_queried_or_set() {
    let read = |words: &[&str]| match tests::read(words) {
        Ok(Command::Control(Control { request: ControlRequest::Role { role, json }, .. })) => Some((role, json)),
        _ => None,
    };
    assert_eq!(read(&["role"]), Some((None, false)));
    assert_eq!(read(&["role", "primary"]), Some((Some(Role::Primary), false)));
    assert_eq!(read(&["role", "--json", "backup"]), Some((Some(Role::Backup), true)));
    assert_eq!(read(&["role", "fault", "--socket", "x"]), Some((Some(Role::Fault), false)));
    for words in [&["role", "master"][..], &["role", "primary", "backup"], &["role", "-o", "xml"]] {
        assert_eq!(read(words), None, "{words:?}");
    }
}
