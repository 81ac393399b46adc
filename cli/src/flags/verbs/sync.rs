//! `sync` and `status`: what is asked of a running daemon.

use std::ffi::OsString;

use super::{Form, JSON, Verb, VerbArgs, VerbOption};
use crate::control::request::{Cache, Flushed, Request};
use crate::flags::plan;
use crate::flags::plan::{Command, Control, ControlRequest, Plan, Reach};
use crate::flags::raw::RawArgs;
use crate::flags::usage::Usage;
use crate::output::{Format, Subject};
use crate::persona::Persona;

#[cfg(test)]
use super::tests;

pub(super) const SOCKET: VerbOption =
    VerbOption { short: None, long: "socket", argument: "PATH", help: "the daemon's control socket" };
pub(super) const CONFIG: VerbOption = VerbOption {
    short: Some('C'),
    long: "config",
    argument: "FILE",
    help: "the daemon's configuration, which names its socket",
};
const OUTPUT: VerbOption = VerbOption {
    short: Some('o'),
    long: "output",
    argument: "TYPE[,TYPE...]",
    help: "how entries are shown, as with -L",
};

const READY: VerbOption =
    VerbOption { short: None, long: "ready", argument: "", help: "only whether it may take over, as exit code" };

const CACHES: &[&str] = &["internal", "external"];
const TABLES: &[&str] = &["flows", "expectations"];

/// A form that takes no words.
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
    options: &[SOCKET, CONFIG, OUTPUT],
    help: "show, commit, flush, compare, renew the daemon's caches; stop it",
    man: "Asks something of the running daemon and waits until it is done. dump [internal|external] [flows|expectations] \
          [-o TYPE]: prints a cache in the formats of -L, the internal one and flows if nothing else is said; the external \
          cache is one replica after the other. commit [flows|expectations]: puts the external cache into the kernel, both if \
          none is named, flows before those that belong to them; flows that are there are updated; says what was done and \
          what the kernel refused, and exits with 1 if it refused anything. flush [internal|external|all]: empties the caches, all if none is named; \
          kernels are left alone. bulk: tells everything in the internal cache to the peers again. resync: asks the peers \
          to do so. kernel-resync: compares the internal cache with the kernel's table. verify: compares the internal cache \
          with what the peers have of it, prints both sides, and exits with 1 if they differ or a peer does not answer. \
          stop: ends the daemon. The daemon is found by its socket (--socket PATH), by its configuration (-C FILE), or by \
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
        return Err(verb.refuse("--output".as_ref()));
    }
    let ask = match given.form {
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
    Ok(Command::Control(Control { reach: reach(&given)?, request: ask }))
}

/// Where the daemon is.
pub(super) fn reach(given: &VerbArgs) -> Result<Reach, Usage> {
    match (given.option("socket"), given.option("config")) {
        (Some(_), Some(_)) => {
            Err(Usage::MutuallyExclusive { first: "socket", second: "config", hint: "either says where the daemon is" })
        }
        (Some(socket), None) => Ok(Reach::Socket(socket.into())),
        (None, Some(config)) => Ok(Reach::Config(config.into())),
        (None, None) => Ok(Reach::Default),
    }
}

/// What `-o` means, as it means it to `-L`.
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
    options: &[JSON, READY, SOCKET, CONFIG],
    help: "say how the daemon, its caches, links and peers are",
    man: "Prints how the daemon is: its caches, its links, each peer with how far it is behind and how far we are behind it, \
          what was lost at which stage, and whether it is ready, or why not. With --json, the document of the daemon as it \
          is. With --ready, nothing but whether this firewall may take over, or stay primary: exits with 0 if it is primary, or \
          what the peers and the kernel have is all here, and with 1, saying what is being waited for, if not; but for no \
          longer than ready_within_s. Exits with 1 where there is no daemon, and with 3 where a peer is primary as well and should not be.",
    read: status,
};

fn status(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let given = VerbArgs::read(verb, rest)?;
    let (json, ready) = (given.option("json").is_some(), given.option("ready").is_some());
    if json && ready {
        return Err(Usage::MutuallyExclusive {
            first: "json",
            second: "ready",
            hint: "the document says it, too, as `gate'",
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
