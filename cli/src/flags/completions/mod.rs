//! Completion scripts for shells, generated from the flags and the verbs: one file for each shell.
//!
//! All three offer the same: a verb or a command first, the table after a command, the values of an option, and the
//! options of a protocol after its `-p` only. Under a name that ends in conntrack they offer no verbs, like the
//! program.

use ctflow_parser::proto::{DCCP_STATES, SCTP_STATES, TCP_STATES};
use ctflow_parser::uapi;

use super::defs::{self, Argument, Effect, FLAGS, Flag, TABLES};
use super::verbs::{VERBS, Verb, VerbOption};
use crate::protocol;

mod bash;
mod fish;
mod zsh;

/// A shell that has a completion script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    /// GNU bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

/// The shells by the name that `completions` accepts.
pub(super) const SHELLS: [(&str, Shell); 3] = [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];

/// The values that a script offers after a flag.
enum Values {
    /// None: the flag has no value, or any value is possible.
    Unknown,
    /// The names of files.
    File,
    /// One of these words.
    One(Vec<&'static str>),
    /// A list of these words, separated by commas.
    Several(Vec<&'static str>),
}

/// The completion script of `shell`.
pub(crate) fn script(shell: Shell) -> String {
    match shell {
        Shell::Bash => bash::script(),
        Shell::Zsh => zsh::script(),
        Shell::Fish => fish::script(),
    }
}

/// The flags that need no `-p` before them.
fn general_flags() -> impl Iterator<Item = &'static Flag> {
    FLAGS.into_iter().filter(|flag| flag.protocols().is_empty())
}

/// Each protocol's name, number, and the flags that are known after its `-p`.
fn protocol_flags() -> impl Iterator<Item = (&'static str, u8, Vec<&'static Flag>)> {
    let numbered = protocol::names().filter_map(|name| protocol::number(name).map(|number| (name, number)));
    numbered.map(|(name, number)| {
        (name, number, FLAGS.into_iter().filter(|flag| flag.protocols().contains(&number)).collect())
    })
}

/// The values of `flag` after `-p protocol`.
fn values(flag: &Flag, protocol: u8) -> Values {
    if let Effect::Command { tables, .. } = flag.effect {
        let names: Vec<_> = TABLES.iter().filter(|(_, table)| tables.contains(table)).map(|(name, _)| *name).collect();
        return if names.is_empty() { Values::Unknown } else { Values::One(names) };
    }
    match flag.long {
        "daemon" => Values::File,
        "output" => Values::Several(defs::output_types().collect()),
        "event-mask" => Values::Several(defs::event_names().collect()),
        "status" => Values::Several(defs::status_names().collect()),
        "family" => Values::One(vec!["ipv4", "ipv6"]),
        "protonum" => Values::One(protocol::names().collect()),
        "state" => Values::One(states(protocol).to_vec()),
        "role" => Values::One(vec!["client", "server"]),
        _ if matches!(flag.argument, Argument::Required("FILE")) => Values::File,
        _ => Values::Unknown,
    }
}

/// The states of a protocol, by name.
fn states(protocol: u8) -> &'static [&'static str] {
    match protocol {
        uapi::IPPROTO_TCP => &TCP_STATES,
        uapi::IPPROTO_SCTP => &SCTP_STATES,
        uapi::IPPROTO_DCCP => &DCCP_STATES,
        _ => &[],
    }
}

/// The words that may follow a verb and the words after it. Options are not counted as words.
struct VerbWords {
    /// The verb and the words already typed, separated by blanks.
    words: String,
    /// The words that may follow.
    next: Vec<String>,
    /// Whether the name of a file may follow.
    file: bool,
}

/// All sequences of words that may follow a verb. `help` accepts the name of every verb, protocol and flag, with
/// dashes.
fn verb_words(verb: &Verb) -> Vec<VerbWords> {
    let mut chains = Vec::new();
    if verb.name == "help" {
        let verbs = VERBS.iter().map(|verb| verb.name).chain(protocol::names()).map(str::to_owned);
        let next = verbs.chain(FLAGS.into_iter().flat_map(spellings)).collect();
        return vec![VerbWords { words: verb.name.to_owned(), next, file: false }];
    }
    let named: Vec<_> = verb.forms.iter().map(|form| form.name.to_owned()).filter(|name| !name.is_empty()).collect();
    if !named.is_empty() {
        chains.push(VerbWords { words: verb.name.to_owned(), next: named, file: false });
    }
    for form in verb.forms {
        let words = format!("{} {}", verb.name, form.name).trim_end().to_owned();
        append_verb_words(words, form.slots, form.file, &mut chains);
    }
    chains
}

/// Appends the sequences of at most one word of each slot, in any order, after `words`.
fn append_verb_words(words: String, slots: &[&[&str]], file: bool, chains: &mut Vec<VerbWords>) {
    let next: Vec<_> = slots.iter().flat_map(|slot| slot.iter().map(|word| (*word).to_owned())).collect();
    for (index, slot) in slots.iter().enumerate().filter(|_| slots.len() > 1) {
        let others: Vec<_> =
            slots.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, slot)| *slot).collect();
        slot.iter().for_each(|word| append_verb_words(format!("{words} {word}"), &others, file, chains));
    }
    if file || !next.is_empty() {
        chains.push(VerbWords { words, next, file });
    }
}

/// The options with an argument of all verbs, each once.
fn verb_options_with_argument() -> Vec<&'static VerbOption> {
    let mut found: Vec<&VerbOption> = Vec::new();
    for option in VERBS.iter().flat_map(|verb| verb.options).filter(|option| !option.argument.is_empty()) {
        if found.iter().all(|other| other.long != option.long) {
            found.push(option);
        }
    }
    found
}

/// The values of a verb's option.
fn verb_values(option: &VerbOption) -> Values {
    match option.argument {
        "FILE" | "PATH" => Values::File,
        "TYPE[,TYPE...]" => Values::Several(defs::output_types().collect()),
        _ => Values::Unknown,
    }
}

/// All spellings of a flag, with dashes.
fn spellings(flag: &Flag) -> Vec<String> {
    let short = flag.short.map(|letter| format!("-{letter}"));
    short.into_iter().chain(flag.names().map(|name| format!("--{name}"))).collect()
}

/// The text in single quotes, for any of the shells.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_lists_every_flag_and_verb() {
        for (name, shell) in SHELLS {
            let script = script(shell);
            assert!(FLAGS.iter().all(|flag| script.contains(flag.long)), "{name}");
            assert!(VERBS.iter().all(|verb| script.contains(verb.name)), "{name}");
            assert!(shell == Shell::Bash || script.contains("receive buffer of the event socket"), "{name}");
        }
    }
}
