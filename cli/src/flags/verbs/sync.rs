//! `sync` and `status`: requests to the running daemon.

use std::ffi::OsString;

use super::{Form, JSON, Verb, VerbArgs, VerbOption, WordHelp};
use crate::control::Reach;
use crate::control::request::{Cache, Flushed, Request};
use crate::flags::plan;
use crate::flags::plan::{Command, Control, ControlRequest, Plan};
use crate::flags::raw::RawArgs;
use crate::flags::usage::Usage;
use crate::output::{Format, Subject};
use crate::persona::Persona;

#[cfg(test)]
use super::tests;

/// The option `--socket` of verbs that send a request to the daemon.
pub(super) const SOCKET: VerbOption =
    VerbOption { short: None, long: "socket", argument: "PATH", help: "the daemon's control socket" };
/// The option `-C` of verbs that send a request to the daemon.
pub(super) const CONFIG: VerbOption = VerbOption {
    short: Some('C'),
    long: "config",
    argument: "FILE",
    help: "the daemon's configuration, which names the socket",
};
/// The option `-o` of `sync dump`.
const OUTPUT: VerbOption = VerbOption {
    short: Some('o'),
    long: "output",
    argument: "TYPE[,TYPE...]",
    help: "output format of dump, as with -L",
};
/// The option `--ready` of `status`.
const READY: VerbOption =
    VerbOption { short: None, long: "ready", argument: "", help: "only test whether it may take over (exit code)" };

/// The caches that can be printed.
const CACHES: &[&str] = &["internal", "external"];
/// What a cache holds.
const TABLES: &[&str] = &["flows", "expectations"];

/// A form without further words.
const fn form(name: &'static str) -> Form {
    Form { name, argument: "nothing", slots: &[], file: false }
}

pub(super) static SYNC: Verb = Verb {
    name: "sync",
    argument: "dump|commit|flush|bulk|resync|kernel-resync|verify|stop [WORD]... [OPTION]...",
    forms: &[
        Form { argument: "internal or external, and flows or expectations", slots: &[CACHES, TABLES], ..form("dump") },
        Form { argument: "flows or expectations", slots: &[TABLES], ..form("commit") },
        Form { argument: "internal, external or all", slots: &[&["internal", "external", "all"]], ..form("flush") },
        form("bulk"),
        form("resync"),
        form("kernel-resync"),
        form("verify"),
        form("stop"),
    ],
    words: &[
        WordHelp {
            usage: "dump [internal|external] [flows|expectations]",
            help: "print a cache; by default the internal flows",
            man: "Prints a cache in the formats of -L; by default the flows of the internal cache. The external \
                  cache is printed as one replica after the other. -o TYPE sets the format.",
        },
        WordHelp {
            usage: "commit [flows|expectations]",
            help: "write the external cache into the kernel",
            man: "Writes the external cache into the kernel; by default flows and expectations. Master flows come \
                  before the flows that belong to them. Flows that exist in the kernel are updated, unless they \
                  changed there since: these are kept. Prints what was \
                  done and what the kernel refused, and exits with 1 if it refused anything.",
        },
        WordHelp {
            usage: "flush [internal|external|all]",
            help: "empty the caches; by default all",
            man: "Empties the caches; by default all of them. The internal cache keeps the flows \
                  that the kernel has. The kernel's tables are not changed.",
        },
        WordHelp {
            usage: "bulk",
            help: "send the internal cache to the peers again",
            man: "Sends the whole internal cache to the peers again.",
        },
        WordHelp {
            usage: "resync",
            help: "request the peers' caches again",
            man: "Requests that the peers send their whole internal caches again.",
        },
        WordHelp {
            usage: "kernel-resync",
            help: "resync the internal cache with the kernel's table",
            man: "Compares the internal cache with the kernel's table, and corrects it.",
        },
        WordHelp {
            usage: "verify",
            help: "compare the internal cache with the peers' copies",
            man: "Compares the internal cache with the peers' copies of it, and this firewall's copies of the peers' \
                  caches with their sources. Exits with 1 if any differs or a peer does not answer.",
        },
        WordHelp { usage: "stop", help: "stop the daemon", man: "Stops the daemon." },
    ],
    options: &[SOCKET, CONFIG, OUTPUT],
    help: "print, commit, flush, compare or resync the daemon's caches",
    about: "Sends a request to the running daemon, and waits until it is done.",
    man: "The daemon is found by its socket (--socket PATH), by its configuration (-C FILE), or by \
          /etc/ctflow/ctflow.toml.",
    read: sync,
};

fn sync(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let given = VerbArgs::read(verb, rest)?;
    if given.form.is_empty() {
        return Err(Usage::MissingVerbArgument { verb: verb.name, right: verb.argument });
    }
    let output = given.option("output");
    if output.is_some() && given.form != "dump" {
        return Err(verb.refuse("--output".as_ref(), []));
    }
    let request = match given.form {
        "dump" => ControlRequest::Dump {
            cache: if given.slot(0) == Some("external") { Cache::External } else { Cache::Internal },
            of: if given.slot(1) == Some("expectations") { Subject::Expectations } else { Subject::Flows },
            format: output.map_or(Ok(Format::default()), |types| format(types.to_owned()))?,
        },
        "commit" => ControlRequest::Commit(match given.slot(0) {
            Some("flows") => Some(Subject::Flows),
            Some("expectations") => Some(Subject::Expectations),
            _ => None,
        }),
        "flush" => ControlRequest::Simple(Request::Flush(match given.slot(0) {
            Some("internal") => Flushed::Internal,
            Some("external") => Flushed::External,
            _ => Flushed::All,
        })),
        "bulk" => ControlRequest::Simple(Request::Bulk),
        "resync" => ControlRequest::Simple(Request::PeerResync),
        "kernel-resync" => ControlRequest::Simple(Request::KernelResync),
        "verify" => ControlRequest::Verify,
        _ => ControlRequest::Simple(Request::Stop),
    };
    Ok(Command::Control(Control { reach: reach(&given)?, request }))
}

/// How to find the daemon: by `--socket`, by `-C`, or by default.
pub(super) fn reach(given: &VerbArgs) -> Result<Reach, Usage> {
    match (given.option("socket"), given.option("config")) {
        (Some(_), Some(_)) => Err(Usage::MutuallyExclusive {
            first: "socket",
            second: "config",
            hint: "each of them names the daemon's socket",
        }),
        (Some(socket), None) => Ok(Reach::Socket(socket.into())),
        (None, Some(config)) => Ok(Reach::Config(config.into())),
        (None, None) => Ok(Reach::Default),
    }
}

/// Parses the argument of `-o`, as `-L` does.
fn format(types: OsString) -> Result<Format, Usage> {
    let raw = RawArgs::read(["-L".into(), "-o".into(), types])?;
    match plan::plan(Persona::Ctflow, raw)? {
        Plan { command: Command::List(list), .. } => Ok(list.format),
        _ => Ok(Format::default()),
    }
}

pub(super) static STATUS: Verb = Verb {
    name: "status",
    argument: "[--json | --ready] [--socket PATH | -C FILE]",
    forms: super::NO_WORDS,
    words: &[],
    options: &[JSON, READY, SOCKET, CONFIG],
    help: "print the state of the daemon, its caches, links and peers",
    about: "Prints the state of the daemon: its caches, its links, its peers, its problems, and whether this \
            firewall is ready to take over.",
    man: "For each peer it prints how far the peer is behind this firewall, and this firewall behind the peer. \
          Problems since the daemon's start are listed from the kernel to the peers, each with what to do. If the firewall is not ready, the reasons are \
          listed. With --json, prints the status document of the daemon unchanged. With --ready, only tests whether \
          this firewall may take over, or stay primary: exits with 0 if it is primary, or if it has everything that \
          the peers and the kernel have; otherwise exits with 1 and prints what it waits for, but for no longer than \
          ready_within_s. Exits with 1 if no daemon runs. Without --ready, exits with 3 if a peer is primary, too, and \
          active_active is not set.",
    read: status,
};

fn status(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let given = VerbArgs::read(verb, rest)?;
    let (json, ready) = (given.option("json").is_some(), given.option("ready").is_some());
    if json && ready {
        return Err(Usage::MutuallyExclusive {
            first: "json",
            second: "ready",
            hint: "the document has it, too, as `gate'",
        });
    }
    let request = if ready { ControlRequest::Ready } else { ControlRequest::Status { json } };
    Ok(Command::Control(Control { reach: reach(&given)?, request }))
}

#[cfg(test)]
fn control_of(line: &str) -> Result<Control, Usage> {
    let words: Vec<_> = line.split(' ').collect();
    match tests::read(&words)? {
        Command::Control(control) => Ok(control),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sync_and_status_plan_one_request() {
    let dump = |cache, of, format| ControlRequest::Dump { cache, of, format };
    let (plain, xml) = (Format::default(), format("xml".into()).unwrap());
    let table = [
        ("sync dump", dump(Cache::Internal, Subject::Flows, plain)),
        ("sync dump external", dump(Cache::External, Subject::Flows, plain)),
        ("sync dump expectations external -o xml", dump(Cache::External, Subject::Expectations, xml)),
        ("sync --output=xml dump", dump(Cache::Internal, Subject::Flows, xml)),
        ("sync flush", ControlRequest::Simple(Request::Flush(Flushed::All))),
        ("sync flush internal", ControlRequest::Simple(Request::Flush(Flushed::Internal))),
        ("sync bulk", ControlRequest::Simple(Request::Bulk)),
        ("sync resync", ControlRequest::Simple(Request::PeerResync)),
        ("sync kernel-resync", ControlRequest::Simple(Request::KernelResync)),
        ("sync verify", ControlRequest::Verify),
        ("sync stop", ControlRequest::Simple(Request::Stop)),
        ("status", ControlRequest::Status { json: false }),
        ("status --json", ControlRequest::Status { json: true }),
        ("status --ready", ControlRequest::Ready),
    ];
    for (line, request) in table {
        assert_eq!(control_of(line).unwrap(), Control { reach: Reach::Default, request }, "{line}");
    }
    for line in
        ["sync", "sync dmp", "sync dump kernel", "sync dump internal external", "sync bulk x", "sync flush -o xml"]
    {
        assert!(control_of(line).is_err(), "{line}");
    }
    assert!(matches!(control_of("sync dump -o foo"), Err(Usage::BadValue { .. })));
    assert!(matches!(control_of("sync dump -o"), Err(Usage::MissingArgument { .. })));
    assert!(matches!(control_of("sync dump -o save,xml"), Err(Usage::SaveCombined)));
    assert!(matches!(control_of("status --ready --json"), Err(Usage::MutuallyExclusive { .. })));
    assert!(matches!(control_of("status -x"), Err(Usage::UnexpectedVerbArgument { word, .. }) if word == "-x"));
}

#[test]
fn the_daemon_is_found_by_socket_or_configuration() {
    let reach = |line: &str| control_of(line).map(|control| control.reach);
    assert_eq!(reach("status --socket /run/x"), Ok(Reach::Socket("/run/x".into())));
    assert_eq!(reach("sync -C /etc/x bulk"), Ok(Reach::Config("/etc/x".into())));
    assert!(matches!(reach("status -C x --socket y"), Err(Usage::MutuallyExclusive { .. })));
}

#[test]
fn every_word_of_sync_has_its_help() {
    let explained = SYNC.words.iter().map(|word| word.usage.split(' ').next().unwrap());
    assert!(explained.eq(SYNC.forms.iter().map(|form| form.name)));
}
