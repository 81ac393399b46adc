//! Verbs: what conntrack has no letter for. They are words, so that they never stand in the way of its options.

use std::ffi::{OsStr, OsString};

use super::completions::{SHELLS, Shell};
use super::doc::Topic;
use super::plan::{Command, Doctor};
use super::usage::Usage;
use super::{raw, words};
use crate::protocol;

/// One verb.
#[derive(Debug)]
pub(crate) struct Verb {
    /// What to type.
    pub(crate) name: &'static str,
    /// What may follow, as in the help text.
    pub(crate) argument: &'static str,
    /// The words that may follow, as far as they can be told.
    pub(crate) values: &'static [&'static str],
    /// What it is for, in a line.
    pub(crate) help: &'static str,
    /// All there is to say.
    pub(crate) man: &'static str,
    /// Reads what follows.
    read: fn(&'static Verb, &[OsString]) -> Result<Command, Usage>,
}

/// All verbs, in the order of the help text.
pub(crate) static VERBS: [&Verb; 5] = [&DEMO, &DOCTOR, &COMPLETIONS, &MAN, &HELP];

/// Reads a command line that begins with `word`.
pub(super) fn read(word: &OsStr, rest: &[OsString]) -> Result<Command, Usage> {
    let Some(verb) = VERBS.into_iter().find(|verb| verb.name == word) else {
        let verbs = words::series(VERBS.iter().map(|verb| verb.name));
        return Err(Usage::UnknownVerb { word: word.to_string_lossy().into_owned(), verbs });
    };
    if rest.iter().any(|word| word == "--help" || word == "-h") {
        return Ok(Command::Help(Topic::Verb(verb)));
    }
    (verb.read)(verb, rest)
}

static DEMO: Verb = Verb {
    name: "demo",
    argument: "",
    values: &[],
    help: "show the program at work on connections of its own",
    man: "Makes connections of its own and shows what the program has to say of them. Nothing outside is touched.",
    read: demo,
};

fn demo(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    rest.first().map_or(Ok(Command::Demo), |word| refuse(verb, word, "nothing"))
}

#[test]
fn demo_takes_nothing() {
    assert!(matches!(tests::read(&["demo"]), Ok(Command::Demo)));
    assert!(matches!(tests::read(&["demo", "x"]), Err(Usage::VerbArgument { .. })));
}

static DOCTOR: Verb = Verb {
    name: "doctor",
    argument: "[--json]",
    values: &["--json"],
    help: "examine this machine: what works, what is missing",
    man: "Examines the kernel, its settings and our privileges, and says what works, what does not, and what to do \
          about it. With --json the findings are JSON.",
    read: doctor,
};

fn doctor(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let stranger = rest.iter().find(|word| *word != "--json");
    let plan = Command::Doctor(Doctor { json: !rest.is_empty() });
    stranger.map_or(Ok(plan), |word| refuse(verb, word, "--json"))
}

#[test]
fn doctor_may_answer_in_json() {
    assert!(matches!(tests::read(&["doctor"]), Ok(Command::Doctor(Doctor { json: false }))));
    assert!(matches!(tests::read(&["doctor", "--json"]), Ok(Command::Doctor(Doctor { json: true }))));
    assert!(matches!(tests::read(&["doctor", "--json", "-x"]), Err(Usage::VerbArgument { word, .. }) if word == "-x"));
}

static COMPLETIONS: Verb = Verb {
    name: "completions",
    argument: "SHELL",
    values: &["bash", "zsh", "fish"],
    help: "print what makes bash, zsh or fish complete our command lines",
    man: "Prints the completion script for bash, zsh or fish. For this shell only: `source <(ctflow completions bash)', \
          zsh likewise behind compinit, `ctflow completions fish | source'. For all users: write it to \
          /usr/share/bash-completion/completions/ctflow, /usr/local/share/zsh/site-functions/_ctflow or \
          /usr/share/fish/vendor_completions.d/ctflow.fish. It also completes conntrack, for where that is a link to \
          this program; bash and fish look for a file of that name.",
    read: completions,
};

fn completions(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    const RIGHT: &str = "one of bash, zsh and fish";
    let Some((shell, others)) = rest.split_first() else {
        return Err(Usage::VerbAlone { verb: verb.name, right: RIGHT });
    };
    let known: Option<Shell> = SHELLS.iter().find(|(name, _)| *name == shell).map(|(_, shell)| *shell);
    match (known, others.first()) {
        (Some(known), None) => Ok(Command::Completions(known)),
        (None, _) => refuse(verb, shell, RIGHT),
        (_, Some(word)) => refuse(verb, word, RIGHT),
    }
}

#[test]
fn completions_are_for_one_shell_that_we_know() {
    for (name, shell) in SHELLS {
        assert!(matches!(tests::read(&["completions", name]), Ok(Command::Completions(read)) if read == shell));
    }
    assert!(SHELLS.iter().map(|(name, _)| name).eq(COMPLETIONS.values));
    assert!(matches!(tests::read(&["completions"]), Err(Usage::VerbAlone { .. })));
    for words in [&["completions", "csh"][..], &["completions", "bash", "zsh"]] {
        assert!(matches!(tests::read(words), Err(Usage::VerbArgument { .. })), "{words:?}");
    }
}

static MAN: Verb = Verb {
    name: "man",
    argument: "",
    values: &[],
    help: "print the manual page, in troff",
    man: "Prints the manual page in troff: `ctflow man > /usr/share/man/man1/ctflow.1' installs it, `ctflow man | man \
          -l -' shows it.",
    read: man,
};

fn man(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    rest.first().map_or(Ok(Command::Man), |word| refuse(verb, word, "nothing"))
}

#[test]
fn man_takes_nothing() {
    assert!(matches!(tests::read(&["man"]), Ok(Command::Man)));
    assert!(matches!(tests::read(&["man", "x"]), Err(Usage::VerbArgument { .. })));
}

static HELP: Verb = Verb {
    name: "help",
    argument: "[TOPIC]",
    values: &[],
    help: "explain everything, or one option, command, verb or protocol",
    man: "Prints the help text; with a topic, all there is to say of that option, command or verb: `help -o', `help \
          output', `help doctor'; with a protocol, its options: `help tcp'.",
    read: help,
};

fn help(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let topic = match rest {
        [] => Some(Topic::Everything),
        [word] => topic(&word.to_string_lossy()),
        [_, word, ..] => return refuse(verb, word, "one topic"),
    };
    match (topic, rest.first()) {
        (None, Some(word)) => refuse(verb, word, "the name of an option, a command, a verb or a protocol"),
        (topic, _) => Ok(Command::Help(topic.unwrap_or(Topic::Everything))),
    }
}

/// A verb, a protocol, or a flag by its name, with its dashes or without.
fn topic(word: &str) -> Option<Topic> {
    let name = word.trim_start_matches('-');
    let letter = name.chars().next().filter(|letter| letter.len_utf8() == name.len());
    let verb = || VERBS.into_iter().find(|verb| verb.name == word).map(Topic::Verb);
    let flag = || super::defs::FLAGS.into_iter().find(|flag| letter.is_some() && flag.short == letter);
    let protocol = || protocol::number(word).map(Topic::Protocol);
    verb().or_else(protocol).or_else(|| flag().or_else(|| raw::long(name).ok()).map(Topic::Flag))
}

#[test]
fn help_finds_flags_and_verbs() {
    assert!(matches!(tests::read(&["help"]), Ok(Command::Help(Topic::Everything))));
    assert!(matches!(tests::read(&["demo", "--help"]), Ok(Command::Help(Topic::Verb(verb))) if verb.name == "demo"));
    assert!(matches!(tests::read(&["help", "help"]), Ok(Command::Help(Topic::Verb(verb))) if verb.name == "help"));
    for word in ["-o", "o", "--output", "outp"] {
        let found = tests::read(&["help", word]);
        assert!(matches!(found, Ok(Command::Help(Topic::Flag(flag))) if flag.long == "output"), "{word}");
    }
    assert!(matches!(tests::read(&["help", "TCP"]), Ok(Command::Help(Topic::Protocol(6)))));
    for words in [&["help", "X"][..], &["help", ""], &["help", "-o", "-e"]] {
        assert!(matches!(tests::read(words), Err(Usage::VerbArgument { .. })), "{words:?}");
    }
}

fn refuse(verb: &Verb, word: &OsStr, right: &'static str) -> Result<Command, Usage> {
    Err(Usage::VerbArgument { verb: verb.name, word: word.to_string_lossy().into_owned(), right })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn read(words: &[&str]) -> Result<Command, Usage> {
        let rest: Vec<_> = words[1..].iter().map(OsString::from).collect();
        super::read(words[0].as_ref(), &rest)
    }

    #[test]
    fn an_unknown_verb_hears_which_there_are() {
        let unknown =
            Usage::UnknownVerb { word: "list".into(), verbs: "demo, doctor, completions, man and help".into() };
        assert_eq!(read(&["list"]).unwrap_err(), unknown);
    }
}
