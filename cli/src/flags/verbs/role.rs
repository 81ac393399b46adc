//! `role`: printing and setting the role of the firewall.

use std::ffi::OsString;

use ctflow_replicate::Role;

use super::sync::{CONFIG, SOCKET, reach};
use super::{Form, JSON, Verb, VerbArgs, WordHelp};
use crate::flags::plan::{Command, Control, ControlRequest};
use crate::flags::usage::Usage;

#[cfg(test)]
use super::tests;

/// The roles that can be set.
const ROLES: &[&str] = &["primary", "backup", "fault"];

pub(super) static ROLE: Verb = Verb {
    name: "role",
    argument: "[primary|backup|fault] [--json] [--socket PATH | -C FILE]",
    forms: &[Form { name: "", argument: "primary, backup or fault", slots: &[ROLES], file: false }],
    words: &[
        WordHelp {
            usage: "primary",
            help: "take over: commit the peers' flows, end isolation",
            man: "Takes over. Writes the peers' flows into the kernel; ends isolation (first of all, if hot mode has \
                  already written every flow); resyncs the internal cache with the kernel's table; empties the \
                  replicas of peers that are gone.",
        },
        WordHelp {
            usage: "backup",
            help: "step back: isolate this firewall, purge its flows later",
            man: "Steps back. Isolates this firewall if isolate is set, and purges the flows that it tracked from \
                  its kernel after purge_timeout_s.",
        },
        WordHelp {
            usage: "fault",
            help: "like backup, for a firewall with a fault",
            man: "Does the same as backup, and reports the role fault to the peers.",
        },
    ],
    options: &[JSON, SOCKET, CONFIG],
    help: "print the role of this firewall, or set it",
    about: "Prints the role of this firewall. With a word, sets the role and prints what was done.",
    man: "Setting the current role again does nothing if it was set completely, except primary with active_active, \
          which commits again. packaging/keepalived has a script that sets the role for keepalived. Exits with 1 if \
          the change is not complete, and prints what is missing, in numbers. Without a word, exits with 3 if a peer \
          is primary, too, and active_active is not set.",
    read: role,
};

fn role(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let given = VerbArgs::read(verb, rest)?;
    let role = given.slot(0).and_then(Role::from_name);
    let request = ControlRequest::Role { role, json: given.option("json").is_some() };
    Ok(Command::Control(Control { reach: reach(&given)?, request }))
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

#[test]
fn every_role_has_its_help() {
    assert!(ROLE.words.iter().map(|word| word.usage).eq(ROLES.iter().copied()));
}
