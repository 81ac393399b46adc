//! Verbs: the commands that conntrack does not have. They are words, so that they never conflict with its options.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use super::completions::{SHELLS, Shell};
use super::doc::Topic;
use super::plan::{Command, Doctor, Page};
use super::raw;
use super::usage::Usage;
use crate::protocol;
use crate::words;

mod bench;
mod daemon;
mod role;
mod sync;

use bench::BENCH;
use daemon::{DAEMON, KEYGEN};
use role::ROLE;
use sync::{STATUS, SYNC};

/// A verb.
#[derive(Debug)]
pub(crate) struct Verb {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its arguments, as in the help text.
    pub(crate) argument: &'static str,
    /// The words that it accepts: one form without a name, or several forms, of which the first word names one.
    pub(crate) forms: &'static [Form],
    /// The words that the help text and the manual page explain one by one; may be empty.
    pub(crate) words: &'static [WordHelp],
    /// Its options, which may follow in any place.
    pub(crate) options: &'static [VerbOption],
    /// Its line of the help text.
    pub(crate) help: &'static str,
    /// What `help VERB` and the manual page begin with: a few sentences.
    pub(crate) about: &'static str,
    /// What the manual page adds to that; may be empty.
    pub(crate) man: &'static str,
    /// Parses the arguments after the verb.
    read: fn(&'static Verb, &[OsString]) -> Result<Command, Usage>,
}

/// A word of a verb in the help text and the manual page.
#[derive(Debug)]
pub(crate) struct WordHelp {
    /// The word and its arguments.
    pub(crate) usage: &'static str,
    /// Its line of `help VERB`.
    pub(crate) help: &'static str,
    /// Its text in the manual page.
    pub(crate) man: &'static str,
}

/// A form of a verb.
#[derive(Debug)]
pub(crate) struct Form {
    /// The word that names it; empty if the verb has one form only.
    pub(crate) name: &'static str,
    /// The words that may follow, as in messages.
    pub(crate) argument: &'static str,
    /// The words that may follow: at most one of each list, in any order.
    pub(crate) slots: &'static [&'static [&'static str]],
    /// Whether the name of a file may follow.
    pub(crate) file: bool,
}

/// An option of a verb.
#[derive(Debug)]
pub(crate) struct VerbOption {
    /// Its letter, if it has one.
    pub(crate) short: Option<char>,
    /// Its long name, without dashes.
    pub(crate) long: &'static str,
    /// Its argument, as in the help text; empty for none.
    pub(crate) argument: &'static str,
    /// Its line of the help text.
    pub(crate) help: &'static str,
}

/// The forms of a verb that accepts no words.
const NO_WORDS: &[Form] = &[Form { name: "", argument: "", slots: &[], file: false }];

/// The option `--json` of several verbs.
const JSON: VerbOption = VerbOption { short: None, long: "json", argument: "", help: "print JSON" };

/// All verbs, in the order of the help text.
pub(crate) static VERBS: [&Verb; 11] =
    [&DAEMON, &KEYGEN, &SYNC, &STATUS, &ROLE, &DEMO, &BENCH, &DOCTOR, &COMPLETIONS, &MAN, &HELP];

/// The parsed arguments of a verb.
#[derive(Debug, Default)]
struct VerbArgs {
    /// The name of the form.
    form: &'static str,
    /// The word given for each slot of the form.
    slots: Vec<Option<&'static str>>,
    /// The file, if one was given.
    file: Option<PathBuf>,
    /// The options with their arguments, in the order typed.
    options: Vec<(&'static str, OsString)>,
}

impl VerbArgs {
    /// Parses the arguments after `verb`.
    fn read(verb: &'static Verb, rest: &[OsString]) -> Result<Self, Usage> {
        let mut parser = Parser::from_args(rest.iter().cloned());
        let mut given = Self::default();
        let mut form = verb.forms.iter().find(|form| form.name.is_empty());
        loop {
            let known = |arg: &Arg<'_>| verb.options.iter().find(|option| option.matches(arg));
            match parser.next() {
                Ok(None) => break,
                Ok(Some(Arg::Value(word))) => match form {
                    Some(form) => given.read_word(verb, form, word)?,
                    None => {
                        let named = verb.forms.iter().find(|form| form.name == word);
                        let names = || verb.forms.iter().map(|form| form.name);
                        form = Some(named.ok_or_else(|| verb.refuse(&word, names()))?);
                    }
                },
                Ok(Some(arg)) => {
                    let option = known(&arg).ok_or_else(|| verb.refuse_option(&arg_spelling(&arg)))?;
                    let typed = arg_spelling(&arg);
                    let missing = || Usage::MissingArgument { option: typed, argument: option.argument };
                    let value = if option.argument.is_empty() {
                        OsString::new()
                    } else {
                        parser.value().map_err(|_| missing())?
                    };
                    given.options.push((option.long, value));
                }
                Err(lexopt::Error::UnexpectedValue { option, value }) => {
                    let value = value.to_string_lossy().into_owned();
                    return Err(Usage::UnexpectedArgument { option, value });
                }
                Err(_) => return Err(verb.refuse(OsStr::new(""), [])),
            }
        }
        given.form = form.map_or("", |form| form.name);
        Ok(given)
    }

    /// Stores a word in its slot, or as the file.
    fn read_word(&mut self, verb: &'static Verb, form: &'static Form, word: OsString) -> Result<(), Usage> {
        self.slots.resize(form.slots.len(), None);
        for (slot, words) in self.slots.iter_mut().zip(form.slots) {
            if let Some(known) = words.iter().find(|known| **known == word).filter(|_| slot.is_none()) {
                *slot = Some(known);
                return Ok(());
            }
        }
        if !form.file || self.file.is_some() {
            let known = || form.slots.iter().flat_map(|words| words.iter().copied());
            return Err(match form.argument {
                "" => verb.refuse(&word, known()),
                right => refuse(verb, &word, known(), right),
            });
        }
        self.file = Some(word.into());
        Ok(())
    }

    /// The word given for the slot at `index`.
    fn slot(&self, index: usize) -> Option<&'static str> {
        self.slots.get(index).copied().flatten()
    }

    /// The argument of the last option with that name.
    fn option(&self, long: &str) -> Option<&OsStr> {
        self.options.iter().rev().find(|(name, _)| *name == long).map(|(_, value)| value.as_os_str())
    }
}

impl VerbOption {
    /// All its spellings, with dashes.
    pub(crate) fn spellings(&self) -> impl Iterator<Item = String> {
        let short = self.short.map(|letter| format!("-{letter}"));
        short.into_iter().chain([format!("--{}", self.long)])
    }

    /// Whether `arg` is this option.
    fn matches(&self, arg: &Arg<'_>) -> bool {
        match arg {
            Arg::Short(letter) => self.short == Some(*letter),
            Arg::Long(name) => self.long == *name,
            Arg::Value(_) => false,
        }
    }
}

/// The spelling of an argument, with dashes.
fn arg_spelling(arg: &Arg<'_>) -> String {
    match arg {
        Arg::Short(letter) => format!("-{letter}"),
        Arg::Long(name) => format!("--{name}"),
        Arg::Value(value) => value.to_string_lossy().into_owned(),
    }
}

/// Parses a command line whose first word is `word`.
pub(super) fn read(word: &OsStr, rest: &[OsString]) -> Result<Command, Usage> {
    let Some(verb) = VERBS.into_iter().find(|verb| verb.name == word) else {
        let names = || VERBS.iter().map(|verb| verb.name);
        let word = word.to_string_lossy().into_owned();
        let nearest = words::nearest(&word, names());
        return Err(Usage::UnknownVerb { word, nearest, verbs: words::join_with_and(names()) });
    };
    if rest.iter().any(|word| word == "--help" || word == "-h") {
        return Ok(Command::Help(Topic::Verb(verb)));
    }
    (verb.read)(verb, rest)
}

static DEMO: Verb = Verb {
    name: "demo",
    argument: "",
    forms: NO_WORDS,
    words: &[],
    options: &[],
    help: "show capture and a takeover in a private test network",
    about: "Creates a client, two firewalls and a server in private network namespaces, prints the events and flows \
            of real connections through the firewalls, then cuts one firewall off while the other takes over. \
            Changes nothing outside its namespaces.",
    man: "",
    read: demo,
};

fn demo(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    rest.first().map_or(Ok(Command::Demo), |word| Err(refuse(verb, word, [], "nothing")))
}

#[test]
fn demo_accepts_no_argument() {
    assert!(matches!(tests::read(&["demo"]), Ok(Command::Demo)));
    assert!(matches!(tests::read(&["demo", "x"]), Err(Usage::UnexpectedVerbArgument { .. })));
}

static DOCTOR: Verb = Verb {
    name: "doctor",
    argument: "[--json]",
    forms: NO_WORDS,
    words: &[],
    options: &[JSON],
    help: "check this machine: what works, what is missing, how to fix it",
    about: "Checks the kernel, its settings and the privileges of the calling user, and prints what works, what does \
            not, and how to fix it. With --json, prints the findings as JSON.",
    man: "",
    read: doctor,
};

fn doctor(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let given = VerbArgs::read(verb, rest)?;
    Ok(Command::Doctor(Doctor { json: given.option("json").is_some() }))
}

#[test]
fn doctor_accepts_json() {
    assert!(matches!(tests::read(&["doctor"]), Ok(Command::Doctor(Doctor { json: false }))));
    assert!(matches!(tests::read(&["doctor", "--json"]), Ok(Command::Doctor(Doctor { json: true }))));
    assert!(
        matches!(tests::read(&["doctor", "--json", "-x"]), Err(Usage::UnexpectedVerbArgument { word, .. }) if word == "-x")
    );
}

static COMPLETIONS: Verb = Verb {
    name: "completions",
    argument: "SHELL",
    forms: &[Form { name: "", argument: "", slots: &[&["bash", "zsh", "fish"]], file: false }],
    words: &[],
    options: &[],
    help: "print the completion script for bash, zsh or fish",
    about: "Prints the completion script for bash, zsh or fish. For the current shell only: `source <(ctflow \
            completions bash)', the same for zsh after compinit, `ctflow completions fish | source'. For all users: \
            write it to /usr/share/bash-completion/completions/ctflow, /usr/local/share/zsh/site-functions/_ctflow \
            or /usr/share/fish/vendor_completions.d/ctflow.fish. The script also completes conntrack, if that is a \
            link to this program; bash and fish look for a file of that name.",
    man: "",
    read: completions,
};

fn completions(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    const RIGHT: &str = "one of bash, zsh and fish";
    let Some((shell, others)) = rest.split_first() else {
        return Err(Usage::MissingVerbArgument { verb: verb.name, right: RIGHT });
    };
    let known: Option<Shell> = SHELLS.iter().find(|(name, _)| *name == shell).map(|(_, shell)| *shell);
    match (known, others.first()) {
        (Some(known), None) => Ok(Command::Completions(known)),
        (None, _) => Err(refuse(verb, shell, SHELLS.map(|(name, _)| name), RIGHT)),
        (_, Some(word)) => Err(refuse(verb, word, [], RIGHT)),
    }
}

#[test]
fn completions_accept_one_known_shell() {
    for (name, shell) in SHELLS {
        assert!(matches!(tests::read(&["completions", name]), Ok(Command::Completions(read)) if read == shell));
    }
    assert!(SHELLS.iter().map(|(name, _)| name).eq(COMPLETIONS.forms[0].slots[0]));
    assert!(matches!(tests::read(&["completions"]), Err(Usage::MissingVerbArgument { .. })));
    for words in [&["completions", "csh"][..], &["completions", "bash", "zsh"]] {
        assert!(matches!(tests::read(words), Err(Usage::UnexpectedVerbArgument { .. })), "{words:?}");
    }
}

static MAN: Verb = Verb {
    name: "man",
    argument: "[PAGE]",
    forms: &[Form { name: "", argument: "", slots: &[&["ctflow", "ctflow.toml", "ctflowd"]], file: false }],
    words: &[],
    options: &[],
    help: "print a manual page in troff: ctflow, ctflow.toml, ctflowd",
    about: "Prints a manual page in troff: ctflow (1), ctflow.toml (5) or ctflowd (8). `ctflow man > \
            /usr/share/man/man1/ctflow.1' installs the first, `ctflow man ctflow.toml | man -l -' shows the second.",
    man: "",
    read: man,
};

fn man(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let given = VerbArgs::read(verb, rest)?;
    Ok(Command::Man(match given.slot(0) {
        Some("ctflow.toml") => Page::Configuration,
        Some("ctflowd") => Page::Daemon,
        _ => Page::Program,
    }))
}

#[test]
fn man_accepts_one_page() {
    assert!(matches!(tests::read(&["man"]), Ok(Command::Man(Page::Program))));
    assert!(matches!(tests::read(&["man", "ctflow.toml"]), Ok(Command::Man(Page::Configuration))));
    assert!(matches!(tests::read(&["man", "ctflowd"]), Ok(Command::Man(Page::Daemon))));
    assert!(matches!(tests::read(&["man", "x"]), Err(Usage::UnexpectedVerbArgument { .. })));
}

static HELP: Verb = Verb {
    name: "help",
    argument: "[TOPIC]",
    forms: NO_WORDS,
    words: &[],
    options: &[],
    help: "explain one option, command, verb or protocol, or list all",
    about: "Prints the help text. With the name of an option, command or verb, explains it: `help -o', `help \
            output', `help doctor'. With a protocol, lists its options: `help tcp'.",
    man: "",
    read: help,
};

fn help(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let topic = match rest {
        [] => Some(Topic::Overview),
        [word] => topic(&word.to_string_lossy()),
        [_, word, ..] => return Err(refuse(verb, word, [], "one topic")),
    };
    match (topic, rest.first()) {
        (None, Some(word)) => {
            let flags = super::defs::FLAGS.into_iter().flat_map(super::defs::Flag::names);
            let names = VERBS.iter().map(|verb| verb.name).chain(flags).chain(protocol::names());
            Err(refuse(verb, word, names, "the name of an option, a command, a verb or a protocol"))
        }
        (topic, _) => Ok(Command::Help(topic.unwrap_or(Topic::Overview))),
    }
}

/// The topic that `word` names: a verb, a protocol, or a flag with or without dashes.
fn topic(word: &str) -> Option<Topic> {
    let name = word.trim_start_matches('-');
    let letter = name.chars().next().filter(|letter| letter.len_utf8() == name.len());
    let verb = || VERBS.into_iter().find(|verb| verb.name == word).map(Topic::Verb);
    let flag = || super::defs::FLAGS.into_iter().find(|flag| letter.is_some() && flag.short == letter);
    let protocol = || protocol::number(word).map(Topic::Protocol);
    verb().or_else(protocol).or_else(|| flag().or_else(|| raw::find_by_long_name(name).ok()).map(Topic::Flag))
}

#[test]
fn help_finds_flags_and_verbs() {
    assert!(matches!(tests::read(&["help"]), Ok(Command::Help(Topic::Overview))));
    assert!(matches!(tests::read(&["demo", "--help"]), Ok(Command::Help(Topic::Verb(verb))) if verb.name == "demo"));
    assert!(matches!(tests::read(&["help", "help"]), Ok(Command::Help(Topic::Verb(verb))) if verb.name == "help"));
    for word in ["-o", "o", "--output", "outp"] {
        let found = tests::read(&["help", word]);
        assert!(matches!(found, Ok(Command::Help(Topic::Flag(flag))) if flag.long == "output"), "{word}");
    }
    assert!(matches!(tests::read(&["help", "TCP"]), Ok(Command::Help(Topic::Protocol(6)))));
    for words in [&["help", "X"][..], &["help", ""], &["help", "-o", "-e"]] {
        assert!(matches!(tests::read(words), Err(Usage::UnexpectedVerbArgument { .. })), "{words:?}");
    }
}

impl Verb {
    /// The error for a word or option that the verb does not accept, with the nearest of `known`.
    fn refuse<'n>(&self, word: &OsStr, known: impl IntoIterator<Item = &'n str>) -> Usage {
        refuse(self, word, known, if self.argument.is_empty() { "nothing" } else { self.argument })
    }

    /// The error for an unknown option, with the nearest of the verb's options.
    fn refuse_option(&self, option: &str) -> Usage {
        let known: Vec<_> = self.options.iter().flat_map(VerbOption::spellings).collect();
        self.refuse(option.as_ref(), known.iter().map(String::as_str))
    }
}

/// The error for a word that a verb does not accept, with the nearest of `known`. `right` describes accepted words.
fn refuse<'n>(verb: &Verb, word: &OsStr, known: impl IntoIterator<Item = &'n str>, right: &'static str) -> Usage {
    let word = word.to_string_lossy().into_owned();
    let nearest = words::nearest(&word, known.into_iter()).map(str::to_owned);
    Usage::UnexpectedVerbArgument { verb: verb.name, word, nearest, right }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn read(words: &[&str]) -> Result<Command, Usage> {
        let rest: Vec<_> = words[1..].iter().map(OsString::from).collect();
        super::read(words[0].as_ref(), &rest)
    }

    #[test]
    fn an_unknown_verb_lists_the_known_ones() {
        let verbs = "daemon, keygen, sync, status, role, demo, bench, doctor, completions, man and help".into();
        let unknown = Usage::UnknownVerb { word: "list".into(), nearest: None, verbs };
        assert_eq!(read(&["list"]).unwrap_err(), unknown);
    }

    #[test]
    fn a_mistyped_verb_word_or_option_gets_a_suggestion() {
        let table = [
            (&["statsu"][..], "unknown command `statsu': did you mean `status'?"),
            (&["rloe", "primary"], "unknown command `rloe': did you mean `role'?"),
            (&["doctor", "--jsn"], "`doctor' does not take `--jsn': did you mean `--json'? It takes [--json]"),
            (&["sync", "flush", "extrenal"], "`sync' does not take `extrenal': did you mean `external'? It takes int"),
            (&["sync", "dmp"], "`sync' does not take `dmp': did you mean `dump'? It takes dump|commit"),
            (&["role", "primry"], "`role' does not take `primry': did you mean `primary'? It takes "),
            (&["completions", "bahs"], "`completions' does not take `bahs': did you mean `bash'? It takes one of"),
            (&["help", "staus"], "`help' does not take `staus': did you mean `status'? It takes "),
            (&["sync", "bulk", "x"], "`sync' does not take `x': it takes nothing"),
        ];
        for (words, expected) in table {
            let message = read(words).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
