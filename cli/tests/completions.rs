//! The completion scripts, each run by its shell: the words that are offered for a line.
//!
//! The test of a shell that is not installed does not run; with `CI` set it fails.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions, not in what those share

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ctflow");
/// Seconds after which a shell is stopped, so that one that waits for input does not block the tests.
const LONGEST: &str = "60";

/// A line up to the cursor, and all words that are offered for it. `DIR` is a directory with a file `flows.txt`.
const CASES: [(&str, &str); 42] = [
    ("ctflow ", "daemon keygen sync status role demo bench doctor completions man help"),
    ("ctflow d", "daemon demo doctor"),
    ("ctflow sync ", "dump commit flush bulk resync kernel-resync verify stop"),
    ("ctflow sync dump ", "internal external flows expectations"),
    ("ctflow sync dump external ", "flows expectations"),
    ("ctflow sync dump flows ", "internal external"),
    ("ctflow sync dump external flows ", ""),
    ("ctflow sync flush e", "external"),
    ("ctflow sync --socket DIR/fl", "flows.txt"),
    ("ctflow sync --socket x flush e", "external"),
    ("ctflow sync dump -o id,js", "json"),
    ("ctflow sync dump --o", "--output"),
    ("ctflow status --", "--json --ready --socket --config"),
    ("ctflow daemon --ch", "--check"),
    ("ctflow role ", "primary backup fault"),
    ("ctflow keygen DIR/fl", "flows.txt"),
    ("ctflow man ctflow.", "ctflow.toml"),
    ("ctflow completions ", "bash zsh fish"),
    ("ctflow doctor -", "--json"),
    ("ctflow help ic", "icmp icmpv6"),
    ("ctflow help --outp", "--output"),
    ("ctflow demo ", ""),
    ("ctflow bench --r", "--rate --rounds --replicas --report"),
    ("conntrack ", ""),
    ("ctflow -L ", "expect conntrack dying unconfirmed"),
    ("ctflow -L d", "dying"),
    ("conntrack --delete ", "expect conntrack"),
    ("ctflow -L expect --fam", "--family"),
    ("ctflow -L --sta", "--stats --status"),
    ("conntrack -L --sta", "--stats --status"),
    ("ctflow -p ", "tcp udp udplite sctp dccp icmp icmpv6 gre"),
    ("ctflow -L -o ext", "extended"),
    ("ctflow -L -o id,x", "xml"),
    ("ctflow -L --output=js", "json"),
    ("ctflow -L -u ASS", "ASSURED"),
    ("ctflow -L -p tcp --sta", "--stats --status --state"),
    ("conntrack -L -ptcp --spo", "--sport"),
    ("ctflow -L --protonum=icmp --icmp-", "--icmp-type --icmp-code --icmp-id"),
    ("ctflow -L -p tcp -p udp --sta", "--stats --status"),
    ("ctflow -L -p sctp --state CO", "COOKIE_WAIT COOKIE_ECHOED"),
    ("ctflow -E --read DIR/fl", "flows.txt"),
    ("conntrack -R DIR/fl", "flows.txt"),
];

/// Prints the words that bash offers. Like bash, splits the line at equals signs before it calls the function.
const BASH: &str = r#"
source "$1"
for line in "${@:2}"; do
    read -ra COMP_WORDS <<<"${line//=/ = }"
    [[ $line == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    complete -p "${COMP_WORDS[0]}" >/dev/null && _ctflow
    printf '<%s>' "${COMPREPLY[@]}"
    echo
done
"#;

/// Prints the words that fish offers.
const FISH: &str = r#"
source $argv[1]
for line in $argv[2..-1]
    echo (complete -C $line | string replace -r '\t.*' '' | string replace -r '(.*)' '<$1>')
end
"#;

/// Prints the words that zsh offers. Completion is a part of zsh's line editor, so it needs a terminal. Offered words
/// pass through `compadd`, except for calls that only query which words match.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
read_to() { zpty -r -m shell REPLY "*$1*" }
zpty -w shell 'autoload -U compinit; compinit -D -u; LISTMAX=9999; unset zle_bracketed_paste
compadd() {
    if [[ " ${@[1,(i)(-|--)]} " != *" -"[OAD]" "* ]]; then
        local -a offered
        builtin compadd -O offered "$@"
        print -rl -- "<"${^offered}">"
    fi
    builtin compadd "$@"
}'
zpty -w shell "source ${(q)1}; PS1='type''> '"
read_to 'type> '
for line in "${@[2,-1]}"; do
    zpty -w -n shell "$line"$'\t\x15'"echo DO''NE"$'\n'
    read_to DONE
    print -r -- ${${REPLY//$'\r'/}//$'\n'/}
    read_to 'type> ' # before the prompt the terminal, not zsh, would read the keys
done
zpty -d shell
"#;

#[test]
fn bash_completes() {
    completes("bash", &["--norc", "-c", BASH, "bash"]);
}

#[test]
fn zsh_completes() {
    completes("zsh", &["-f", "-c", ZSH, "zsh"]);
}

#[test]
fn fish_completes() {
    completes("fish", &["--no-config", "-c", FISH]);
}

/// Asserts that `shell` offers the expected words for every line of [`CASES`].
fn completes(shell: &str, driver: &[&str]) {
    let found = Command::new(shell).arg("--version").stdout(Stdio::null()).status();
    ctflow_lab::or_skip!(found.map_err(|error| format!("{shell}: {error}")));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("flows.txt"), "").unwrap();
    let script = folder.path().join("script");
    fs::write(&script, Command::new(PROGRAM).args(["completions", shell]).output().unwrap().stdout).unwrap();
    let offered = offered(shell, driver, folder.path(), &script);
    for ((line, expected), offered) in CASES.iter().zip(offered) {
        let expected: BTreeSet<_> = expected.split_whitespace().map(str::to_owned).collect();
        assert_eq!(offered, expected, "{shell}: {line}");
    }
}

/// The words that the shell offers for each line: those between `<` and `>`, of lists and paths the last part.
fn offered(shell: &str, driver: &[&str], folder: &Path, script: &Path) -> Vec<BTreeSet<String>> {
    let lines = CASES.iter().map(|(line, _)| line.replace("DIR", folder.to_str().unwrap()));
    let mut command = Command::new("timeout");
    command.args([LONGEST, shell]).args(driver).arg(script).args(lines);
    let done = command.env("HOME", folder).env("TERM", "dumb").stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && stderr.is_empty(), "{shell}: {stdout}{stderr}");
    assert_eq!(stdout.lines().count(), CASES.len(), "{shell}: {stdout}");
    let words = |line: &str| {
        let words = line.split('<').skip(1).filter_map(|rest| rest.split_once('>')).map(|(word, _)| word);
        let last = |word: &str| word.rsplit(['=', ',', '/']).next().map(str::to_owned);
        words.filter_map(last).filter(|word| !word.is_empty()).collect()
    };
    stdout.lines().map(words).collect()
}
