//! The script for fish: a `complete` command for each flag and verb, with conditions on the words before.

use std::fmt::Write;

use super::{
    Values, general_flags, protocol_flags, quoted, spellings, values, verb_options_with_argument, verb_values,
    verb_words,
};
use crate::flags::defs::{Argument, Flag};
use crate::flags::verbs::{VERBS, VerbOption};

/// The start of the script: functions for the conditions that no verb was given, that a certain verb was given, that it
/// was given with certain words, and that a certain protocol was given. Their names are long because all functions of
/// fish share one namespace.
const START: &str = r#"# fish completion for ctflow, and for conntrack where that is a link to it
function __ctflow_without_verb
    set -l words (commandline -opc)
    string match -q '*conntrack' -- $words[1]; or not set -q words[2]; or string match -q -- '-*' $words[2]
end
function __ctflow_first
    test (count (commandline -opc)) -eq 1
end
function __ctflow_verb
    set -l words (commandline -opc)
    set -q words[2]; and test "$words[2]" = $argv[1]
end
function __ctflow_chain
    set -l words (commandline -opc)
    set -q words[2]; or return
    set -l chain
    set -l skip no
    for word in $words[2..-1]
        if test $skip = yes
            set skip no
        else if contains -- $word SKIPPED
            set skip yes
        else if not string match -q -- '-*' $word
            set -a chain $word
        end
    end
    test "$chain" = "$argv[1]"
end
function __ctflow_behind
    __ctflow_without_verb; or return
    set -l words (commandline -opc)
    set -l protocol
    set -l before
    for word in $words[2..-1]
        string match -qr -- '^(-p|--p[^=]*)$' "$before"; and set protocol $word
        set -l joined (string replace -rf -- '^(-p(?=[^-])|--p[^=]*=)(.+)' '$2' $word); and set protocol $joined
        set before $word
    end
    contains -- (string lower -- "$protocol") $argv
end
complete -c ctflow -c conntrack -f
"#;

/// The whole script.
pub(super) fn script() -> String {
    let spelled = |option: &VerbOption| option.spellings().collect::<Vec<_>>();
    let skipped: Vec<_> = verb_options_with_argument().into_iter().flat_map(spelled).collect();
    let mut script = START.replace("SKIPPED", &skipped.join(" "));
    for flag in general_flags() {
        write_flag(&mut script, flag, "__ctflow_without_verb", 0);
    }
    for (name, number, flags) in protocol_flags() {
        let condition = format!("'__ctflow_behind {name} {number}'");
        flags.into_iter().for_each(|flag| write_flag(&mut script, flag, &condition, number));
    }
    for verb in VERBS {
        let help = quoted(verb.help);
        let _ = writeln!(script, "complete -c ctflow -n __ctflow_first -a {} -d {help}", verb.name);
        for chain in verb_words(verb) {
            let words = chain.next.join(" ");
            let file = if chain.file { " -F" } else { "" };
            let _ = writeln!(script, "complete -c ctflow -n '__ctflow_chain \"{}\"'{file} -a '{words}'", chain.words);
        }
        verb.options.iter().for_each(|option| write_verb_option(&mut script, verb.name, option));
    }
    script
}

/// Writes the command for an option of a verb.
fn write_verb_option(script: &mut String, verb: &str, option: &VerbOption) {
    let short = option.short.map(|letter| format!(" -s {letter}")).unwrap_or_default();
    let argument = match verb_values(option) {
        _ if option.argument.is_empty() => String::new(),
        Values::File => " -r -F".to_owned(),
        Values::Several(words) => format!(" -x -a '(__fish_append , {})'", words.join(" ")),
        _ => " -x".to_owned(),
    };
    let (long, help) = (option.long, quoted(option.help));
    let _ = writeln!(script, "complete -c ctflow -n '__ctflow_verb {verb}'{short} -l {long}{argument} -d {help}");
}

/// Writes the command for a flag, under a condition.
fn write_flag(script: &mut String, flag: &Flag, condition: &str, protocol: u8) {
    let short = flag.short.map(|letter| format!(" -s {letter}")).unwrap_or_default();
    let names: String = flag.names().map(|name| format!(" -l {name}")).collect();
    let required = matches!(flag.argument, Argument::Required(_));
    let values = values(flag, protocol);
    let argument = match &values {
        Values::File => " -r -F".to_owned(),
        Values::One(words) if required => format!(" -x -a '{}'", words.join(" ")),
        Values::Several(words) => format!(" -x -a '(__fish_append , {})'", words.join(" ")),
        _ if required => " -x".to_owned(),
        _ => String::new(),
    };
    let _ = writeln!(
        script,
        "complete -c ctflow -c conntrack -n {condition}{short}{names}{argument} -d {}",
        quoted(flag.help)
    );
    // Fish does not read a separate word as the optional argument of an option, so tables need a condition of their
    // own.
    if let (Argument::Table, Values::One(words)) = (flag.argument, values) {
        let (names, words) = (spellings(flag).join(" "), words.join(" "));
        let _ = writeln!(script, "complete -c ctflow -c conntrack -n '__fish_prev_arg_in {names}' -a '{words}'");
    }
}
