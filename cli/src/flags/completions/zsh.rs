//! The script for zsh: specifications for `_arguments`, in a file that can be autoloaded or read with `source`.

use std::fmt::Write;

use super::{
    Values, general_flags, protocol_flags, quoted, spellings, values, verb_options_with_argument, verb_values,
    verb_words,
};
use crate::flags::defs::{Argument, Flag};
use crate::flags::verbs::{VERBS, VerbOption};

/// The start of the script. The loop finds the protocol of the last `-p`, in any spelling.
const START: &str = r#"#compdef ctflow conntrack
_ctflow() {
    local word before protocol chain skip
    local -a verbs specs
    for word in "${(@)words[2,CURRENT-1]}"; do
        [[ $before == -p || $before == --p* ]] && protocol=$word
        case $word in
            (-p?*) protocol=${word#-p} before= ;;
            (--p*=*) protocol=${word#*=} before= ;;
            (*) before=$word ;;
        esac
    done
"#;

/// The end of the script. A word that is not an option is accepted anywhere, such as a table or the address after `-n`.
/// An autoloaded file is the body of the function at the first call, so it calls the function; `source` only defines
/// it.
const END: &str = r#"    _arguments -s : $specs '*:address: '
}
if [[ ${funcstack[1]} == _ctflow ]]; then
    _ctflow "$@"
else
    compdef _ctflow ctflow conntrack
fi
"#;

/// The whole script.
pub(super) fn script() -> String {
    let mut script = String::from(START);
    script += "    if [[ $words[1] != *conntrack && $words[2] != -* ]]; then\n        verbs=(\n";
    for verb in VERBS {
        let _ = writeln!(script, "            {}", quoted(&format!("{}:{}", verb.name, verb.help)));
    }
    script += "        )\n";
    write_verbs(&mut script);
    script += "        return\n    fi\n";
    write_tables(&mut script);
    script += "    specs=(\n";
    general_flags().for_each(|flag| write_specs(&mut script, flag, 0));
    script += "    )\n    case ${(L)protocol} in\n";
    for (name, number, flags) in protocol_flags() {
        let _ = writeln!(script, "    ({name}|{number}) specs+=(");
        flags.into_iter().for_each(|flag| write_specs(&mut script, flag, number));
        script += "    ) ;;\n";
    }
    script + "    esac\n" + END
}

/// Writes the completion of verbs. The loop of the script joins the verb and its words, without options and their
/// arguments.
fn write_verbs(script: &mut String) {
    let spelled = |option: &VerbOption| option.spellings().collect::<Vec<_>>();
    let with_argument = verb_options_with_argument();
    let skipped = with_argument.iter().flat_map(|option| spelled(option)).collect::<Vec<_>>().join("|");
    script.push_str("        for word in \"${(@)words[2,CURRENT-1]}\"; do\n            case $skip$word in\n");
    let _ = writeln!(script, "                (yes*) skip= ;;\n                ({skipped}) skip=yes ;;");
    script.push_str(
        "                (-*) ;;\n                (*) chain+=${chain:+ }$word ;;\n            esac\n        done\n",
    );
    script.push_str("        case $words[CURRENT-1] in\n");
    for option in with_argument {
        let names = spelled(option).join("|");
        let _ = match verb_values(option) {
            Values::File => writeln!(script, "            ({names}) _files; return ;;"),
            Values::Several(words) => {
                writeln!(script, "            ({names}) _sequence compadd - {}; return ;;", words.join(" "))
            }
            _ => Ok(()),
        };
    }
    script.push_str("        esac\n        if [[ $words[CURRENT] == -* && $chain != help ]]; then\n");
    script.push_str("            case ${chain%% *} in\n");
    for verb in VERBS.into_iter().filter(|verb| !verb.options.is_empty()) {
        let options = verb.options.iter().flat_map(spelled).collect::<Vec<_>>().join(" ");
        let _ = writeln!(script, "                ({}) compadd -- {options} ;;", verb.name);
    }
    script.push_str("            esac\n            return\n        fi\n        case $chain in\n");
    script.push_str("            ('') _describe verb verbs ;;\n");
    for chain in VERBS.into_iter().flat_map(verb_words) {
        let files = if chain.file { "_files; " } else { "" };
        let _ =
            writeln!(script, "            ({}) {files}compadd -- {} ;;", quoted(&chain.words), chain.next.join(" "));
    }
    script.push_str("        esac\n");
}

/// Writes the completion of the table after a command.
fn write_tables(script: &mut String) {
    script.push_str("    if [[ $words[CURRENT] != -* ]]; then\n        case $words[CURRENT-1] in\n");
    for flag in general_flags().filter(|flag| matches!(flag.argument, Argument::Table)) {
        if let Values::One(tables) = values(flag, 0) {
            let (names, tables) = (spellings(flag).join("|"), tables.join(" "));
            let _ = writeln!(script, "            ({names}) compadd -- {tables}; return ;;");
        }
    }
    script.push_str("        esac\n    fi\n");
}

/// Writes one specification for each spelling of a flag. Each excludes the other spellings.
fn write_specs(script: &mut String, flag: &Flag, protocol: u8) {
    let all = spellings(flag);
    let help = flag.help.replace('[', "\\[").replace(']', "\\]");
    let action = match values(flag, protocol) {
        Values::Unknown => " ".to_owned(),
        Values::File => "_files".to_owned(),
        Values::One(words) => format!("({})", words.join(" ")),
        Values::Several(words) => format!("_sequence compadd - {}", words.join(" ")),
    };
    for name in &all {
        let joint = if name.starts_with("--") { "=" } else { "+" };
        let (joint, argument) = match flag.argument {
            // `_arguments` does not accept `--name=value` for an optional argument. `write_tables` handles tables.
            Argument::None | Argument::Table | Argument::Optional(_) => ("", String::new()),
            Argument::Required(what) => (joint, format!(":{}:{action}", what.replace(':', "\\:"))),
        };
        let _ = writeln!(script, "        {}", quoted(&format!("({}){name}{joint}[{help}]{argument}", all.join(" "))));
    }
}
