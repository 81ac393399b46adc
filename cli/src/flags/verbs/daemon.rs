//! `daemon` and `keygen`: what makes a firewall a node.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Form, Verb, VerbArgs, VerbOption};
use crate::config;
use crate::flags::plan::{Command, Daemon};
use crate::flags::usage::Usage;

#[cfg(test)]
use super::tests;

pub(super) static DAEMON: Verb = Verb {
    name: "daemon",
    argument: "[-C FILE] [-d] [--check]",
    forms: super::NO_WORDS,
    options: &[
        VerbOption { short: Some('C'), long: "config", argument: "FILE", help: "the configuration" },
        VerbOption { short: Some('d'), long: "detach", argument: "", help: "run in the background" },
        VerbOption { short: None, long: "check", argument: "", help: "examine the configuration, start nothing" },
    ],
    help: "replicate this firewall's flows to its peers",
    man: "Runs the daemon: captures the kernel's flows and replicates them to the peers that its configuration names, \
          ctflow.toml(5), /etc/ctflow/ctflow.toml unless -C names another. It stays in the foreground; with -d it goes \
          into the background once it runs. With --check it says whether the configuration is fine and what would run, and \
          starts nothing.",
    read: daemon,
};

fn daemon(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let given = VerbArgs::read(verb, rest)?;
    let config = given.option("config").map_or_else(|| config::DEFAULT_PATH.into(), PathBuf::from);
    let (check, detach) = (given.option("check").is_some(), given.option("detach").is_some());
    Ok(Command::Daemon(Daemon { config, check, detach }))
}

#[test]
fn daemon_options_are_read() {
    let read = |words: &[&str]| match tests::read(words) {
        Ok(Command::Daemon(daemon)) => Some((daemon.config.to_str().unwrap().to_owned(), daemon.check, daemon.detach)),
        _ => None,
    };
    assert_eq!(read(&["daemon"]), Some((config::DEFAULT_PATH.to_owned(), false, false)));
    assert_eq!(read(&["daemon", "-C", "x", "--check"]), Some(("x".to_owned(), true, false)));
    assert_eq!(read(&["daemon", "-d", "--config=x"]), Some(("x".to_owned(), false, true)));
    for words in [&["daemon", "x"][..], &["daemon", "-x"], &["daemon", "-C"], &["daemon", "--check=1"]] {
        assert_eq!(read(words), None, "{words:?}");
    }
}

pub(super) static KEYGEN: Verb = Verb {
    name: "keygen",
    argument: "[FILE]",
    forms: &[Form { name: "", argument: "", slots: &[], file: true }],
    options: &[],
    help: "make a key for the links between nodes",
    man: "Makes a new key of 256 bits for the links between nodes, and writes it to a file that nobody but its owner may \
          read, or to standard output. A file that is there already is left alone. All nodes need the same key: copy the \
          file to each, and name it as key_file in ctflow.toml(5).",
    read: keygen,
};

fn keygen(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    VerbArgs::read(verb, rest).map(|given| Command::Keygen(given.file))
}

#[test]
fn keygen_accepts_at_most_one_file() {
    assert!(matches!(tests::read(&["keygen"]), Ok(Command::Keygen(None))));
    assert!(matches!(tests::read(&["keygen", "/k"]), Ok(Command::Keygen(Some(file))) if file.as_os_str() == "/k"));
    assert!(
        matches!(tests::read(&["keygen", "a", "b"]), Err(Usage::UnexpectedVerbArgument { word, .. }) if word == "b")
    );
}
