//! Verbs: what conntrack has no letter for. They are words, so that they never stand in the way of its options.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use super::completions::{SHELLS, Shell};
use super::doc::Topic;
use super::plan::{Command, Doctor, Page};
use super::usage::Usage;
use super::{raw, words};
use crate::protocol;

mod bench;
mod daemon;
mod role;
mod sync;

use bench::BENCH;
use daemon::{DAEMON, KEYGEN};
use role::ROLE;
use sync::{STATUS, SYNC};

/// One verb.
#[derive(Debug)]
pub(crate) struct Verb {
    /// What to type.
    pub(crate) name: &'static str,
    /// What may follow, as in the help text.
    pub(crate) argument: &'static str,
    /// The words that may follow: one form, without a name; or several, of which the first word names one.
    pub(crate) forms: &'static [Form],
    /// The options that may follow, anywhere.
    pub(crate) options: &'static [VerbOption],
    /// What it is for, in a line.
    pub(crate) help: &'static str,
    /// All there is to say.
    pub(crate) man: &'static str,
    /// Reads what follows.
    read: fn(&'static Verb, &[OsString]) -> Result<Command, Usage>,
}

/// A form of a verb.
#[derive(Debug)]
pub(crate) struct Form {
    /// The word that names it; empty where there is but one.
    pub(crate) name: &'static str,
    /// What may follow, as in messages.
    pub(crate) argument: &'static str,
    /// What may stand behind it: of each list a word at most, in any order.
    pub(crate) slots: &'static [&'static [&'static str]],
    /// Whether the name of a file may.
    pub(crate) file: bool,
}

/// An option of a verb.
#[derive(Debug)]
pub(crate) struct VerbOption {
    /// Its letter.
    pub(crate) short: Option<char>,
    /// Its name.
    pub(crate) long: &'static str,
    /// What follows it, as in the help text; empty for nothing.
    pub(crate) argument: &'static str,
    /// What it is for, in a line.
    pub(crate) help: &'static str,
}

/// A verb that takes no words.
const NO_WORDS: &[Form] = &[Form { name: "", argument: "", slots: &[], file: false }];

const JSON: VerbOption = VerbOption { short: None, long: "json", argument: "", help: "as JSON" };

/// All verbs, in the order of the help text.
pub(crate) static VERBS: [&Verb; 11] =
    [&DAEMON, &KEYGEN, &SYNC, &STATUS, &ROLE, &DEMO, &BENCH, &DOCTOR, &COMPLETIONS, &MAN, &HELP];

/// What stands behind a verb, taken apart.
#[derive(Debug, Default)]
struct VerbArgs {
    /// The form's name.
    form: &'static str,
    /// The word of each slot of the form.
    slots: Vec<Option<&'static str>>,
    /// The file.
    file: Option<PathBuf>,
    /// The options with their arguments, as typed.
    options: Vec<(&'static str, OsString)>,
}

impl VerbArgs {
    /// Takes apart what stands behind `verb`.
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
                        form = Some(named.ok_or_else(|| verb.refuse(&word))?);
                    }
                },
                Ok(Some(arg)) => {
                    let option = known(&arg).ok_or_else(|| verb.refuse(arg_spelling(&arg).as_ref()))?;
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
                Err(_) => return Err(verb.refuse(OsStr::new(""))),
            }
        }
        given.form = form.map_or("", |form| form.name);
        Ok(given)
    }

    fn read_word(&mut self, verb: &'static Verb, form: &'static Form, word: OsString) -> Result<(), Usage> {
        self.slots.resize(form.slots.len(), None);
        for (slot, words) in self.slots.iter_mut().zip(form.slots) {
            if let Some(known) = words.iter().find(|known| **known == word).filter(|_| slot.is_none()) {
                *slot = Some(known);
                return Ok(());
            }
        }
        if !form.file || self.file.is_some() {
            return Err(match form.argument {
                "" => verb.refuse(&word),
                right => refuse(verb, &word, right),
            });
        }
        self.file = Some(word.into());
        Ok(())
    }

    /// The word of a slot.
    fn slot(&self, place: usize) -> Option<&'static str> {
        self.slots.get(place).copied().flatten()
    }

    /// The argument of an option; of several, the last.
    fn option(&self, long: &str) -> Option<&OsStr> {
        self.options.iter().rev().find(|(name, _)| *name == long).map(|(_, value)| value.as_os_str())
    }
}

impl VerbOption {
    /// All its spellings, dashes included.
    pub(crate) fn spellings(&self) -> impl Iterator<Item = String> {
        let short = self.short.map(|letter| format!("-{letter}"));
        short.into_iter().chain([format!("--{}", self.long)])
    }

    fn matches(&self, arg: &Arg<'_>) -> bool {
        match arg {
            Arg::Short(letter) => self.short == Some(*letter),
            Arg::Long(name) => self.long == *name,
            Arg::Value(_) => false,
        }
    }
}

fn arg_spelling(arg: &Arg<'_>) -> String {
    match arg {
        Arg::Short(letter) => format!("-{letter}"),
        Arg::Long(name) => format!("--{name}"),
        Arg::Value(value) => value.to_string_lossy().into_owned(),
    }
}

/// Reads a command line that begins with `word`.
pub(super) fn read(word: &OsStr, rest: &[OsString]) -> Result<Command, Usage> {
    let Some(verb) = VERBS.into_iter().find(|verb| verb.name == word) else {
        let verbs = words::join_with_and(VERBS.iter().map(|verb| verb.name));
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
    forms: NO_WORDS,
    options: &[],
    help: "show the program at work on connections of its own",
    man: "Makes connections of its own through two firewalls of its own, shows what the program has to say of them, cuts \
          one firewall off and has the other take over. Nothing outside is touched.",
    read: demo,
};

fn demo(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    rest.first().map_or(Ok(Command::Demo), |word| Err(refuse(verb, word, "nothing")))
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
    options: &[JSON],
    help: "examine this machine: what works, what is missing",
    man: "Examines the kernel, its settings and our privileges, and says what works, what does not, and what to do \
          about it. With --json the findings are JSON.",
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
    options: &[],
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
        return Err(Usage::MissingVerbArgument { verb: verb.name, right: RIGHT });
    };
    let known: Option<Shell> = SHELLS.iter().find(|(name, _)| *name == shell).map(|(_, shell)| *shell);
    match (known, others.first()) {
        (Some(known), None) => Ok(Command::Completions(known)),
        (None, _) => Err(refuse(verb, shell, RIGHT)),
        (_, Some(word)) => Err(refuse(verb, word, RIGHT)),
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
    options: &[],
    help: "print a manual page, in troff: ctflow, ctflow.toml, ctflowd",
    man: "Prints a manual page in troff: ctflow (1), ctflow.toml (5) or ctflowd (8). `ctflow man > \
          /usr/share/man/man1/ctflow.1' installs the first, `ctflow man ctflow.toml | man -l -' shows the second.",
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
    options: &[],
    help: "explain everything, or one option, command, verb or protocol",
    man: "Prints the help text; with a topic, all there is to say of that option, command or verb: `help -o', `help \
          output', `help doctor'; with a protocol, its options: `help tcp'.",
    read: help,
};

fn help(verb: &'static Verb, rest: &[OsString]) -> Result<Command, Usage> {
    let topic = match rest {
        [] => Some(Topic::Overview),
        [word] => topic(&word.to_string_lossy()),
        [_, word, ..] => return Err(refuse(verb, word, "one topic")),
    };
    match (topic, rest.first()) {
        (None, Some(word)) => Err(refuse(verb, word, "the name of an option, a command, a verb or a protocol")),
        (topic, _) => Ok(Command::Help(topic.unwrap_or(Topic::Overview))),
    }
}

/// A verb, a protocol, or a flag by its name, with its dashes or without.
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
    /// Says that the verb has no use for `word`, and for what it has.
    fn refuse(&'static self, word: &OsStr) -> Usage {
        refuse(self, word, if self.argument.is_empty() { "nothing" } else { self.argument })
    }
}

fn refuse(verb: &Verb, word: &OsStr, right: &'static str) -> Usage {
    Usage::UnexpectedVerbArgument { verb: verb.name, word: word.to_string_lossy().into_owned(), right }
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
        let unknown = Usage::UnknownVerb { word: "list".into(), verbs };
        assert_eq!(read(&["list"]).unwrap_err(), unknown);
    }
}
