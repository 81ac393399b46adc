//! Completion scripts for shells, made from the flags and the verbs themselves.

use std::fmt::Write;

use ctflow_parser::proto::{DCCP_STATES, SCTP_STATES, TCP_STATES};

use super::defs::{self, Argument, Effect, FLAGS, Flag, TABLES};
use super::verbs::VERBS;
use crate::protocol;

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    /// GNU bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly one.
    Fish,
}

/// The shells by name.
pub(super) const SHELLS: [(&str, Shell); 3] = [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];

/// What can stand behind a flag.
enum Values {
    /// Nothing, or what no list can tell.
    Unknown,
    /// A file.
    File,
    /// One of these words.
    One(Vec<&'static str>),
    /// Some of these words, between commas.
    Several(Vec<&'static str>),
}

/// The script, to be read by the shell.
pub(crate) fn script(shell: Shell) -> String {
    match shell {
        Shell::Bash => bash(),
        Shell::Zsh => zsh(),
        Shell::Fish => fish(),
    }
}

fn values(flag: &Flag) -> Values {
    if let Effect::Command { tables, .. } = flag.effect {
        return Values::One(TABLES.iter().filter(|(_, table)| tables.contains(table)).map(|(name, _)| *name).collect());
    }
    match flag.long {
        "output" => Values::Several(defs::output_types().collect()),
        "event-mask" => Values::Several(defs::event_names().collect()),
        "family" => Values::One(vec!["ipv4", "ipv6"]),
        "protonum" => Values::One(protocol::names().collect()),
        "state" => Values::One(states()),
        "role" => Values::One(vec!["client", "server"]),
        _ if matches!(flag.argument, Argument::Required("FILE")) => Values::File,
        _ => Values::Unknown,
    }
}

/// Of all protocols: the one that was meant may stand anywhere on the line.
fn states() -> Vec<&'static str> {
    let mut states: Vec<&'static str> = TCP_STATES.iter().chain(&SCTP_STATES).chain(&DCCP_STATES).copied().collect();
    states.sort_unstable();
    states.dedup();
    states
}

/// All spellings of a flag, dashes included.
fn spellings(flag: &Flag) -> Vec<String> {
    let short = flag.short.map(|letter| format!("-{letter}"));
    short.into_iter().chain(flag.names().map(|name| format!("--{name}"))).collect()
}

/// In single quotes, for any of the shells.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Bash cuts `--output=id` at the equals sign, which the lines before the first `case` put right; what stands before
/// the last comma of a list is kept as it is. Names of files may have blanks, so a line is one candidate.
const BASH_START: &str = r#"# bash completion for ctflow
_ctflow() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} words= list= kept= files=
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD-2]}
    fi
    COMPREPLY=()
    case $previous in
"#;

const BASH_MIDDLE: &str = r#"    esac
    if [[ $files ]]; then
        compopt -o filenames 2>/dev/null # refused outside of a completion, as in a test
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    fi
    if [[ $current == -* ]]; then
        list=
"#;

const BASH_END: &str = r#"    fi
    if [[ $list && $current == *,* ]]; then
        kept=${current%,*},
        current=${current##*,}
    fi
    mapfile -t COMPREPLY < <(compgen -P "$kept" -W "$words" -- "$current")
}
complete -F _ctflow ctflow
"#;

fn bash() -> String {
    let mut script = String::from(BASH_START);
    for flag in FLAGS {
        bash_case(&mut script, &spellings(flag).join("|"), &values(flag));
    }
    for verb in VERBS.into_iter().filter(|verb| !verb.values.is_empty()) {
        bash_case(&mut script, verb.name, &Values::One(verb.values.to_vec()));
    }
    let options: Vec<_> = FLAGS.into_iter().flat_map(spellings).collect();
    let verbs: Vec<_> = VERBS.iter().map(|verb| verb.name).collect();
    script += BASH_MIDDLE;
    // The options of verbs are not those of commands.
    let _ = writeln!(script, "        [[ ${{COMP_WORDS[1]}} == -* ]] && words=\"{}\"", options.join(" "));
    let _ = writeln!(script, "    elif ((COMP_CWORD == 1)); then\n        words=\"{}\"", verbs.join(" "));
    script + BASH_END
}

fn bash_case(script: &mut String, names: &str, values: &Values) {
    let _ = match values {
        Values::One(words) if !words.is_empty() => {
            writeln!(script, "        {names}) words=\"{}\" ;;", words.join(" "))
        }
        Values::Several(words) => writeln!(script, "        {names}) words=\"{}\" list=yes ;;", words.join(" ")),
        Values::File => writeln!(script, "        {names}) files=yes ;;"),
        Values::One(_) | Values::Unknown => Ok(()),
    };
}

fn zsh() -> String {
    let mut script = String::from("#compdef ctflow\n_arguments -s");
    for flag in FLAGS {
        zsh_flag(&mut script, flag);
    }
    let verb = |name: &str, help: &str| format!("{name}\\:\"{}\"", help.replace(':', "\\:"));
    let verbs: Vec<_> = VERBS.iter().map(|each| verb(each.name, each.help)).collect();
    let _ = write!(script, " \\\n    {}", quoted(&format!("1:verb:(({}))", verbs.join(" "))));
    let arguments: Vec<_> = VERBS.iter().flat_map(|verb| verb.values).copied().collect();
    let _ = writeln!(script, " \\\n    '2:argument:({})'", arguments.join(" "));
    script
}

/// One spelling to a specification, each of which excludes the others.
fn zsh_flag(script: &mut String, flag: &Flag) {
    let all = spellings(flag);
    let help = flag.help.replace('[', "\\[").replace(']', "\\]");
    let action = match values(flag) {
        Values::Unknown => " ".to_owned(),
        Values::File => "_files".to_owned(),
        Values::One(words) => format!("({})", words.join(" ")),
        Values::Several(words) => format!("_sequence compadd - {}", words.join(" ")),
    };
    for name in &all {
        let joint = if name.starts_with("--") { "=" } else { "+" };
        let (joint, argument) = match flag.argument {
            Argument::None => ("", String::new()),
            Argument::Table => ("", format!("::table:{action}")),
            Argument::Required(what) => (joint, format!(":{}:{action}", what.replace(':', "\\:"))),
            Argument::Optional(what) => (joint, format!("::{}:{action}", what.replace(':', "\\:"))),
        };
        let _ = write!(script, " \\\n    {}", quoted(&format!("({}){name}{joint}[{help}]{argument}", all.join(" "))));
    }
}

fn fish() -> String {
    let mut script = String::from("# fish completion for ctflow\ncomplete -c ctflow -f\n");
    for flag in FLAGS {
        fish_flag(&mut script, flag);
    }
    for verb in VERBS {
        let help = quoted(verb.help);
        let _ = writeln!(script, "complete -c ctflow -n __fish_is_first_token -a {} -d {help}", verb.name);
        if !verb.values.is_empty() {
            let words = verb.values.join(" ");
            let _ = writeln!(script, "complete -c ctflow -n '__fish_prev_arg_in {}' -a '{words}'", verb.name);
        }
    }
    script
}

fn fish_flag(script: &mut String, flag: &Flag) {
    let short = flag.short.map(|letter| format!(" -s {letter}")).unwrap_or_default();
    let names: String = flag.names().map(|name| format!(" -l {name}")).collect();
    let required = matches!(flag.argument, Argument::Required(_));
    let argument = match values(flag) {
        Values::File => " -r -F".to_owned(),
        Values::One(words) if required => format!(" -x -a '{}'", words.join(" ")),
        Values::Several(words) => format!(" -x -a '(__fish_append , {})'", words.join(" ")),
        _ if required => " -x".to_owned(),
        _ => String::new(),
    };
    let _ = writeln!(script, "complete -c ctflow{short}{names}{argument} -d {}", quoted(flag.help));
    // A word of its own behind an option that need not have one is none of the option's to fish.
    if let (Argument::Table, Values::One(words)) = (flag.argument, values(flag)) {
        let (condition, words) = (spellings(flag).join(" "), words.join(" "));
        let _ = writeln!(script, "complete -c ctflow -n '__fish_prev_arg_in {condition}' -a '{words}'");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_knows_every_flag_and_verb() {
        for (name, shell) in SHELLS {
            let script = script(shell);
            assert!(FLAGS.iter().all(|flag| script.contains(flag.long)), "{name}");
            assert!(VERBS.iter().all(|verb| script.contains(verb.name)), "{name}");
            assert!(shell == Shell::Bash || script.contains("receive buffer of the event socket"), "{name}");
        }
    }
}
