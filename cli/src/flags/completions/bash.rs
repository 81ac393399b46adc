//! The script for bash 4 or later: a function that fills `COMPREPLY`.

use std::fmt::Write;

use super::{
    Values, general_flags, protocol_flags, spellings, values, verb_options_with_argument, verb_values, verb_words,
};
use crate::flags::defs::Flag;
use crate::flags::verbs::{VERBS, VerbOption};

/// The start of the script. Bash splits `--output=id` at the equals sign; the first lines join it again. The loop finds
/// the protocol of the last `-p`, in any spelling.
const START: &str = r#"# bash completion for ctflow, and for conntrack where that is a link to it
_ctflow() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local word before= protocol= chain= skip= words= options= list= kept= files=
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $before == -p || $before == --p* ]] && protocol=$word
        case $word in
            =) ;;
            -p?*) protocol=${word#-p} before= ;;
            *) before=$word ;;
        esac
    done
    COMPREPLY=()
"#;

/// The end of the script. The part of a list before its last comma is kept. Each line is one candidate, because names
/// of files may have blanks.
const END: &str = r#"    if [[ $files ]]; then
        compopt -o filenames 2>/dev/null # refused outside of a completion, as in a test
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    fi
    if [[ $options && $current == -* ]]; then
        list= words=$options
    fi
    if [[ $list && $current == *,* ]]; then
        kept=${current%,*},
        current=${current##*,}
    fi
    mapfile -t COMPREPLY < <(compgen -P "$kept" -W "$words" -- "$current")
}
complete -F _ctflow ctflow conntrack
"#;

/// The whole script.
pub(super) fn script() -> String {
    let mut script = String::from(START);
    script += "    if [[ ${COMP_WORDS[0]} != *conntrack && ${COMP_WORDS[1]} != -* ]]; then\n";
    write_verbs(&mut script);
    script += "    else\n";
    let _ = writeln!(script, "        options=\"{}\"", names(general_flags()));
    script += "        case $previous in\n";
    for flag in general_flags() {
        write_case(&mut script, flag, &values(flag, 0));
    }
    script += "        esac\n        case ${protocol,,} in\n";
    for (name, number, flags) in protocol_flags() {
        let _ = writeln!(script, "            {name}|{number})");
        let _ = writeln!(script, "                options+=\" {}\"", names(flags.iter().copied()));
        for flag in flags {
            if let Values::One(words) = values(flag, number) {
                let _ = writeln!(
                    script,
                    "                [[ $previous == --{} ]] && words=\"{}\"",
                    flag.long,
                    words.join(" ")
                );
            }
        }
        script += "                ;;\n";
    }
    script + "        esac\n    fi\n" + END
}

/// Writes the completion of verbs. The loop of the script joins the verb and its words, without options and their
/// arguments.
fn write_verbs(script: &mut String) {
    let spelled = |option: &VerbOption| option.spellings().collect::<Vec<_>>();
    let skipped: Vec<_> = verb_options_with_argument().into_iter().flat_map(spelled).collect();
    script.push_str("        for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n");
    script.push_str("            if [[ $word == = ]]; then continue\n            elif [[ $skip ]]; then skip=\n");
    let _ = writeln!(script, "            elif [[ \" {} \" == *\" $word \"* ]]; then skip=yes", skipped.join(" "));
    script.push_str("            elif [[ $word != -* || $chain == help ]]; then chain+=\"${chain:+ }$word\"; fi\n");
    script.push_str("        done\n        case $previous:$chain in\n");
    for option in verb_options_with_argument() {
        let names = spelled(option).into_iter().map(|name| format!("{name}:*")).collect::<Vec<_>>().join("|");
        let _ = match verb_values(option) {
            Values::File => writeln!(script, "            {names}) files=yes ;;"),
            Values::Several(words) => {
                writeln!(script, "            {names}) words=\"{}\" list=yes ;;", words.join(" "))
            }
            _ => Ok(()),
        };
    }
    let names: Vec<_> = VERBS.iter().map(|verb| verb.name).collect();
    let _ = writeln!(script, "            *:) words=\"{}\" ;;", names.join(" "));
    for chain in VERBS.into_iter().flat_map(verb_words) {
        let files = if chain.file { " files=yes" } else { "" };
        let _ = writeln!(script, "            *:\"{}\") words=\"{}\"{files} ;;", chain.words, chain.next.join(" "));
    }
    script.push_str("        esac\n        case ${chain%% *} in\n");
    for verb in VERBS.into_iter().filter(|verb| !verb.options.is_empty()) {
        let options = verb.options.iter().flat_map(spelled).collect::<Vec<_>>().join(" ");
        let _ = writeln!(script, "            {}) options=\"{options}\" ;;", verb.name);
    }
    script.push_str("        esac\n");
}

/// All spellings of the flags, separated by blanks.
fn names(flags: impl Iterator<Item = &'static Flag>) -> String {
    flags.flat_map(spellings).collect::<Vec<_>>().join(" ")
}

/// Writes the case that offers the values of a flag.
fn write_case(script: &mut String, flag: &Flag, values: &Values) {
    let names = spellings(flag).join("|");
    let _ = match values {
        Values::One(words) => writeln!(script, "            {names}) words=\"{}\" ;;", words.join(" ")),
        Values::Several(words) => writeln!(script, "            {names}) words=\"{}\" list=yes ;;", words.join(" ")),
        Values::File => writeln!(script, "            {names}) files=yes ;;"),
        Values::Unknown => Ok(()),
    };
}
