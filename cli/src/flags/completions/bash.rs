//! For bash, from its version 4 on: a function that fills `COMPREPLY`.

use std::fmt::Write;

use super::{Values, arguments, fields, general, spellings, values};
use crate::flags::defs::Flag;
use crate::flags::verbs::VERBS;

/// Bash cuts `--output=id` at the equals sign, which the first lines put right. The loop finds the protocol of the last
/// `-p`, in any spelling.
const START: &str = r#"# bash completion for ctflow, and for conntrack where that is a link to it
_ctflow() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local word before= protocol= words= options= list= kept= files=
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

/// What stands before the last comma of a list is kept as it is. Names of files may have blanks, so a line is one
/// candidate.
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

pub(super) fn script() -> String {
    let mut script = String::from(START);
    script += "    if [[ ${COMP_WORDS[0]} != *conntrack && ${COMP_WORDS[1]} != -* ]]; then\n";
    script += "        case $COMP_CWORD:${COMP_WORDS[1]} in\n";
    let verbs: Vec<_> = VERBS.iter().map(|verb| verb.name).collect();
    let _ = writeln!(script, "            1:*) words=\"{}\" ;;", verbs.join(" "));
    for verb in VERBS {
        let _ = writeln!(script, "            2:{}) words=\"{}\" ;;", verb.name, arguments(verb).join(" "));
    }
    script += "        esac\n    else\n";
    let _ = writeln!(script, "        options=\"{}\"", names(general()));
    script += "        case $previous in\n";
    for flag in general() {
        case(&mut script, flag, &values(flag, 0));
    }
    script += "        esac\n        case ${protocol,,} in\n";
    for (name, number, flags) in fields() {
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

fn names(flags: impl Iterator<Item = &'static Flag>) -> String {
    flags.flat_map(spellings).collect::<Vec<_>>().join(" ")
}

fn case(script: &mut String, flag: &Flag, values: &Values) {
    let names = spellings(flag).join("|");
    let _ = match values {
        Values::One(words) => writeln!(script, "            {names}) words=\"{}\" ;;", words.join(" ")),
        Values::Several(words) => writeln!(script, "            {names}) words=\"{}\" list=yes ;;", words.join(" ")),
        Values::File => writeln!(script, "            {names}) files=yes ;;"),
        Values::Unknown => Ok(()),
    };
}
