//! `daemon` and `keygen`: running the daemon, and creating its key.

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
    words: &[],
    options: &[
        VerbOption {
            short: Some('C'),
            long: "config",
            argument: "FILE",
            help: "configuration (default: /etc/ctflow/ctflow.toml)",
        },
        VerbOption { short: Some('d'), long: "detach", argument: "", help: "run in the background" },
        VerbOption { short: None, long: "check", argument: "", help: "check the configuration, start nothing" },
    ],
    help: "replicate this firewall's flows to its peers",
    about: "Runs the daemon. It captures the kernel's flows and replicates them to the peers in its configuration.",
    man: "The configuration is /etc/ctflow/ctflow.toml, unless -C names another; ctflow.toml(5) describes it. The \
          daemon stays in the foreground; with -d it moves to the background as soon as it runs. With --check, \
          checks the configuration, prints what would run, and starts nothing.",
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
    words: &[],
    options: &[],
    help: "create the key for the links between nodes",
    about: "Creates a random key of 256 bits for the links between nodes. Writes it to a file that only its owner \
            may read, or to standard output. An existing file is not overwritten. All nodes need the same key: copy \
            the file to each, and name it as key_file in ctflow.toml(5).",
    man: "",
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
