//! The daemon's letters: the command line of `ctflowd`, and of `conntrackd` where that name is a link to it.
//!
//! A letter with its dash sends a request to the running daemon; without a request the daemon itself is started. A word
//! after a letter, which may be abbreviated, qualifies it. Unlike conntrackd, ctflowd does not accept a letter without
//! its dash, so that a word is never read as a letter.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use super::plan::{Command, Control, ControlRequest, Daemon, Plan, StatisticsPage};
use super::usage::Usage;
use crate::config;
use crate::control::Reach;
use crate::control::request::{Cache, Flushed, Request};
use crate::output::Subject;
use crate::persona::Persona;
use crate::troff::{escaped, example, item, prose, section};
use crate::words;

/// A letter of the daemon's command line.
#[derive(Debug)]
struct Letter {
    /// The letter.
    letter: char,
    /// The words that may follow it. An abbreviation means the first word that starts with it.
    words: &'static [&'static str],
    /// The argument that must follow it, as in the help text; empty for none.
    argument: &'static str,
    /// Its line of the help text.
    help: &'static str,
    /// Its text in the manual page.
    man: &'static str,
}

/// The words of letters that work on a table.
const TABLES: &[&str] = &["ct", "expect"];

/// All letters, in the order of the help text.
static LETTERS: [Letter; 16] = [
    Letter {
        letter: 'd',
        words: &[],
        argument: "",
        help: "run the daemon in the background",
        man: "Starts the daemon in the background, and returns when it runs. Without -d and without a request it \
              runs in the foreground.",
    },
    Letter {
        letter: 'C',
        words: &[],
        argument: "FILE",
        help: "the configuration (default: /etc/ctflow/ctflow.toml)",
        man: "The configuration file, ctflow.toml(5); the default is /etc/ctflow/ctflow.toml. A request reads only \
              the control socket from it.",
    },
    Letter {
        letter: 'i',
        words: TABLES,
        argument: "",
        help: "print the internal cache: this node's flows",
        man: "Prints the internal cache, one line for each flow; with expect, for each expectation.",
    },
    Letter {
        letter: 'e',
        words: TABLES,
        argument: "",
        help: "print the external cache: the peers' flows",
        man: "Prints the external cache of all peers; with expect, their expectations.",
    },
    Letter {
        letter: 'x',
        words: &[],
        argument: "",
        help: "with -i or -e: print XML",
        man: "With -i or -e, prints XML: one element on each line, without a root element.",
    },
    Letter {
        letter: 'c',
        words: TABLES,
        argument: "",
        help: "commit the external cache to the kernel",
        man: "Writes the external cache into the kernel, flows and expectations unless one of them is named, and \
              returns when it is done.",
    },
    Letter {
        letter: 'f',
        words: &["internal", "external"],
        argument: "",
        help: "empty the caches",
        man: "Empties the caches, both unless one is named. The kernel's table is not changed. Cancels a scheduled -t.",
    },
    Letter {
        letter: 'F',
        words: TABLES,
        argument: "",
        help: "empty the kernel's tables",
        man: "Deletes flows and expectations from the kernel, both unless one is named. Flows that the filter \
              ignores stay; in hot mode, also flows held for peers.",
    },
    Letter {
        letter: 'R',
        words: TABLES,
        argument: "",
        help: "resync the internal cache with the kernel",
        man: "Compares the internal cache with the kernel's table, corrects it, and returns when it is done. Flows \
              and expectations are always compared together.",
    },
    Letter {
        letter: 'B',
        words: &[],
        argument: "",
        help: "send the internal cache to the peers again",
        man: "Sends the whole internal cache to the peers again.",
    },
    Letter {
        letter: 'n',
        words: &[],
        argument: "",
        help: "request the peers' caches again",
        man: "Requests that the peers send their whole internal caches again.",
    },
    Letter {
        letter: 't',
        words: &[],
        argument: "",
        help: "schedule emptying the kernel's table",
        man: "Deletes the flows from the kernel after purge_timeout_s seconds, except those that the filter ignores \
              and, in hot mode, those held for peers. A -c or -f before that cancels it.",
    },
    Letter {
        letter: 's',
        words: STATISTICS,
        argument: "",
        help: "print statistics",
        man: "Prints statistics of the caches and the links, as conntrackd does. expect: the caches of expectations. \
              network: datagrams that were refused or lost. cache: each cache. runtime: the engine. link: each link. \
              rsqueue: the changes that are kept for resending. queue: all queues. process: child processes; there are none.",
    },
    Letter {
        letter: 'k',
        words: &[],
        argument: "",
        help: "stop the daemon",
        man: "Stops the daemon, and returns when it has ended.",
    },
    Letter { letter: 'v', words: &[], argument: "", help: "print name and version", man: "Prints name and version." },
    Letter { letter: 'h', words: &[], argument: "", help: "print this text", man: "Prints a short help." },
];

/// The words of `-s`. `multicast` is an old name of `link`.
const STATISTICS: &[&str] =
    &["network", "cache", "runtime", "multicast", "link", "rsqueue", "queue", "ct", "expect", "process"];

/// A letter on the command line, and the word after it.
struct TypedLetter {
    letter: &'static Letter,
    word: Option<&'static str>,
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// The first error, from left to right.
pub(super) fn read(persona: Persona, args: &[OsString]) -> Result<Plan, Usage> {
    let mut rest = args.iter();
    let (mut config, mut detach, mut xml) = (None, false, false);
    let mut request_letter: Option<TypedLetter> = None;
    let mut warnings = Vec::new();
    while let Some(argument) = rest.next() {
        let letter = find_letter(argument)?;
        let word = rest.as_slice().first().filter(|word| !word.as_encoded_bytes().starts_with(b"-"));
        match (letter.letter, word) {
            ('C', None) => return Err(Usage::MissingArgument { option: "-C".to_owned(), argument: "FILE" }),
            ('C', Some(file)) => config = Some(PathBuf::from(file)),
            (_, Some(word)) if letter.words.is_empty() => {
                return Err(Usage::UnexpectedWord(word.to_string_lossy().into_owned()));
            }
            _ => {}
        }
        if word.is_some() {
            rest.next();
        }
        let word = word.filter(|_| !letter.words.is_empty());
        let word = word.map(|word| expand_word(letter, &word.to_string_lossy())).transpose()?;
        if word == Some("multicast") {
            warnings.push("WARNING: `-s multicast' is called `-s link' now");
        }
        match letter.letter {
            'C' => {}
            'd' => detach = true,
            'x' => xml = true,
            _ => {
                let first = request_letter.replace(TypedLetter { letter, word });
                if let Some(first) = first.filter(|first| first.letter.letter != letter.letter) {
                    let typed = |letter: &Letter| format!("-{}", letter.letter);
                    return Err(Usage::TwoCommands { first: typed(first.letter), second: typed(letter) });
                }
            }
        }
    }
    let command = plan_command(request_letter.as_ref(), config, detach, xml)?;
    Ok(Plan { persona, command, labelmap: None, warnings })
}

/// The letter that an argument names.
fn find_letter(argument: &OsString) -> Result<&'static Letter, Usage> {
    let typed = argument.to_string_lossy();
    let known = match typed.as_ref() {
        "--help" => Some('h'),
        "--version" => Some('v'),
        other => other.strip_prefix('-').and_then(|letter| letter.parse().ok()),
    };
    let stray = || {
        if typed.starts_with('-') {
            Usage::UnknownLetter(typed.to_string())
        } else {
            Usage::UnexpectedWord(typed.to_string())
        }
    };
    LETTERS.iter().find(|letter| Some(letter.letter) == known).ok_or_else(stray)
}

/// The word of `letter` that `word` abbreviates.
fn expand_word(letter: &'static Letter, word: &str) -> Result<&'static str, Usage> {
    let known = letter.words.iter().find(|known| !word.is_empty() && known.starts_with(word)).copied();
    known.ok_or_else(|| {
        let words = letter.words.iter().copied().filter(|word| *word != "multicast");
        Usage::BadValue {
            option: format!("-{}", letter.letter),
            value: word.to_owned(),
            right: words::join_with_and(words),
        }
    })
}

/// The command of the whole command line.
fn plan_command(
    request_letter: Option<&TypedLetter>,
    config: Option<PathBuf>,
    detach: bool,
    xml: bool,
) -> Result<Command, Usage> {
    let Some(request_letter) = request_letter else {
        if xml {
            return Err(Usage::XmlWithoutDump);
        }
        let config = config.unwrap_or_else(|| config::DEFAULT_PATH.into());
        return Ok(Command::Daemon(Daemon { config, check: false, detach }));
    };
    let letter = request_letter.letter.letter;
    if xml && !matches!(letter, 'i' | 'e') {
        return Err(Usage::XmlWithoutDump);
    }
    if detach && !matches!(letter, 'v' | 'h') {
        return Err(Usage::TwoCommands { first: "-d".to_owned(), second: format!("-{letter}") });
    }
    let table = match request_letter.word {
        Some("ct") => Some(Subject::Flows),
        Some("expect") => Some(Subject::Expectations),
        _ => None,
    };
    let of = table.unwrap_or(Subject::Flows);
    let request = match letter {
        'v' => return Ok(Command::Version),
        'h' => return Ok(Command::DaemonHelp),
        'i' => ControlRequest::Cache { cache: Cache::Internal, of, xml },
        'e' => ControlRequest::Cache { cache: Cache::External, of, xml },
        's' => ControlRequest::Statistics(statistics_page(request_letter.word)),
        'c' => ControlRequest::Commit(table),
        'f' => ControlRequest::Simple(Request::Flush(match request_letter.word {
            Some("internal") => Flushed::Internal,
            Some("external") => Flushed::External,
            _ => Flushed::All,
        })),
        'F' => ControlRequest::Simple(Request::FlushKernel(table)),
        'R' => ControlRequest::Simple(Request::KernelResync),
        'B' => ControlRequest::Simple(Request::Bulk),
        'n' => ControlRequest::Simple(Request::PeerResync),
        't' => ControlRequest::Simple(Request::ScheduleFlush),
        _ => ControlRequest::Simple(Request::Stop),
    };
    let reach = config.map_or(Reach::Default, Reach::Config);
    Ok(Command::Control(Control { reach, request }))
}

/// The statistics that a word of `-s` names.
fn statistics_page(word: Option<&str>) -> StatisticsPage {
    match word {
        Some("network") => StatisticsPage::Network,
        Some("cache") => StatisticsPage::Cache,
        Some("runtime") => StatisticsPage::Runtime,
        Some("multicast" | "link") => StatisticsPage::Link,
        Some("rsqueue") => StatisticsPage::ResendQueue,
        Some("queue") => StatisticsPage::Queue,
        Some("process") => StatisticsPage::Process,
        Some("expect") => StatisticsPage::Overview(Subject::Expectations),
        _ => StatisticsPage::Overview(Subject::Flows),
    }
}

/// The help text of the daemon's command line.
pub(crate) fn help(persona: Persona) -> String {
    let (banner, name) = (persona.banner(), persona.name());
    let mut text = format!("{banner}: replicates connection tracking\n");
    let _ = write!(text, "Usage: {name} [-C FILE] [-d]\n       {name} [-C FILE] REQUEST\n\n");
    for letter in &LETTERS {
        let _ = writeln!(text, "  {:<30}{}", head(letter), letter.help);
    }
    text
}

/// A letter with its words, such as `-f [internal|external]`.
fn head(letter: &Letter) -> String {
    // The words of -s do not fit the column.
    let words = match letter.letter {
        's' => "[KIND]".to_owned(),
        _ if letter.words.is_empty() => letter.argument.to_owned(),
        _ => format!("[{}]", letter.words.join("|")),
    };
    format!("-{} {words}", letter.letter).trim_end().to_owned()
}

/// The description in ctflowd(8).
const ABOUT: &str = "The daemon of ctflow. Its letters are those of conntrackd(8), and it prints the same lines. \
                     Installed under a name that ends in conntrackd, it uses that name. Without a request it runs as \
                     the daemon; with a request it sends the request to the running daemon. Each letter needs its \
                     own dash; a word after a letter may be abbreviated. The verbs status, sync and role of \
                     ctflow(1) offer the same requests and more.";

/// Differences from conntrackd, one paragraph each.
const DIFFERENCES: [&str; 6] = [
    "An error or a refused request exits with 1, and the reason is printed.",
    "A letter needs its dash. conntrackd reads the command line `-i ok' as -i and -k: it prints the cache and stops \
     the daemon.",
    "Two requests on one command line are an error; conntrackd executes the last one.",
    "A request reads only the control socket from the configuration.",
    "The external cache stores the reply direction, so that the NAT of a flow is known. It is printed without it, \
     because scripts expect that.",
    "The configuration is ctflow.toml(5).",
];

/// Common tasks: a command line, and its purpose.
const EXAMPLES: [(&str, &str); 10] = [
    ("ctflowd -d", "Start the daemon in the background."),
    ("ctflowd -i", "Print the flows of this firewall."),
    ("ctflowd -e -x", "Print the peers' flows as XML."),
    ("ctflowd -s", "Print statistics: caches, traffic and losses."),
    ("ctflowd -s link", "Print the counters of each link."),
    ("ctflowd -c", "Take over, first step of a script: write the peers' flows into the kernel."),
    ("ctflowd -R", "Second step: resync the internal cache with the kernel."),
    ("ctflowd -B", "Third step: send the internal cache to the peers. All three at once: `ctflow role primary'."),
    ("ctflowd -t", "Become backup: delete this firewall's flows from the kernel after purge_timeout_s."),
    ("ctflowd -n", "After that: request the peers' caches."),
];

/// ctflowd(8), in troff.
pub(crate) fn page() -> String {
    let mut page = String::from(
        ".\\\" Made by `ctflow man ctflowd' from the letters' definitions: cargo run -p ctflow -- man ctflowd > \
         packaging/ctflowd.8\n",
    );
    let _ = writeln!(page, ".TH CTFLOWD 8 \"\" \"{}\" \"System Administration\"", escaped(Persona::Ctflowd.banner()));
    page += ".nh\n.ad l\n.SH NAME\nctflowd \\- replicates connection tracking between firewalls\n.SH SYNOPSIS\n";
    page += ".B ctflowd\n[\\fB\\-C\\fR \\fIFILE\\fR] [\\fB\\-d\\fR]\n.br\n.B ctflowd\n[\\fB\\-C\\fR \\fIFILE\\fR] \\fIREQUEST\\fR\n";
    page += &section("DESCRIPTION", &prose(ABOUT));
    page += &section("LETTERS", &LETTERS.iter().map(letter_item).collect::<String>());
    let differences: String = DIFFERENCES.iter().map(|text| format!(".IP \\(bu 2\n{}", prose(text))).collect();
    page += &section("DIFFERENCES FROM CONNTRACKD", &differences);
    let exits = item("\\fB0\\fR", "Success.") + &item("\\fB1\\fR", "Failure; the reason is printed on standard error.");
    page += &section("EXIT STATUS", &exits);
    page += &section("EXAMPLES", &EXAMPLES.iter().map(example).collect::<String>());
    page + ".SH SEE ALSO\n.BR ctflow (1),\n.BR ctflow.toml (5),\n.BR conntrackd (8)\n"
}

/// The item of a letter in ctflowd(8).
fn letter_item(letter: &Letter) -> String {
    let words = match letter.letter {
        's' => {
            let words: Vec<_> = STATISTICS.iter().copied().filter(|word| *word != "multicast").collect();
            format!("-s [{}]", words.join("|"))
        }
        _ => head(letter),
    };
    let (typed, arguments) = words.split_once(' ').unwrap_or((&words, ""));
    item(format!("\\fB{}\\fR {}", escaped(typed), escaped(arguments)).trim_end(), letter.man)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, Usage> {
        let args: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        super::read(Persona::Ctflowd, &args).map(|plan| plan.command)
    }

    fn control_of(line: &str) -> Option<(Reach, ControlRequest)> {
        match read(line) {
            Ok(Command::Control(control)) => Some((control.reach, control.request)),
            _ => None,
        }
    }

    #[test]
    fn every_letter_requests_what_conntrackds_does() {
        let cache = |cache, of, xml| ControlRequest::Cache { cache, of, xml };
        let (flows, expect) = (Subject::Flows, Subject::Expectations);
        let table = [
            ("-i", cache(Cache::Internal, flows, false)),
            ("-i ct", cache(Cache::Internal, flows, false)),
            ("-i e -x", cache(Cache::Internal, expect, true)),
            ("-e", cache(Cache::External, flows, false)),
            ("-x -e exp", cache(Cache::External, expect, true)),
            ("-c", ControlRequest::Commit(None)),
            ("-c ct", ControlRequest::Commit(Some(flows))),
            ("-f", ControlRequest::Simple(Request::Flush(Flushed::All))),
            ("-f int", ControlRequest::Simple(Request::Flush(Flushed::Internal))),
            ("-f e", ControlRequest::Simple(Request::Flush(Flushed::External))),
            ("-F", ControlRequest::Simple(Request::FlushKernel(None))),
            ("-F expect", ControlRequest::Simple(Request::FlushKernel(Some(expect)))),
            ("-R", ControlRequest::Simple(Request::KernelResync)),
            ("-R ct", ControlRequest::Simple(Request::KernelResync)),
            ("-B", ControlRequest::Simple(Request::Bulk)),
            ("-n", ControlRequest::Simple(Request::PeerResync)),
            ("-t", ControlRequest::Simple(Request::ScheduleFlush)),
            ("-k", ControlRequest::Simple(Request::Stop)),
            ("-s", ControlRequest::Statistics(StatisticsPage::Overview(flows))),
            ("-s expect", ControlRequest::Statistics(StatisticsPage::Overview(expect))),
            ("-s net", ControlRequest::Statistics(StatisticsPage::Network)),
            ("-s c", ControlRequest::Statistics(StatisticsPage::Cache)),
            ("-s run", ControlRequest::Statistics(StatisticsPage::Runtime)),
            ("-s multicast", ControlRequest::Statistics(StatisticsPage::Link)),
            ("-s rs", ControlRequest::Statistics(StatisticsPage::ResendQueue)),
            ("-s queue", ControlRequest::Statistics(StatisticsPage::Queue)),
            ("-s process", ControlRequest::Statistics(StatisticsPage::Process)),
        ];
        for (line, request) in table {
            assert_eq!(control_of(line), Some((Reach::Default, request)), "{line}");
        }
        assert_eq!(control_of("-C /x -k").unwrap().0, Reach::Config("/x".into()));
    }

    #[test]
    fn without_a_request_it_is_the_daemon() {
        let daemon = |line: &str| match read(line) {
            Ok(Command::Daemon(daemon)) => Some((daemon.config, daemon.detach)),
            _ => None,
        };
        assert_eq!(daemon(""), Some((config::DEFAULT_PATH.into(), false)));
        assert_eq!(daemon("-C /x -d"), Some(("/x".into(), true)));
        assert!(matches!(read("-v"), Ok(Command::Version)) && matches!(read("--help"), Ok(Command::DaemonHelp)));
    }

    #[test]
    fn anything_but_a_letter_is_refused() {
        for line in [
            "-i ok", "k", "ok", "-i ct k", "-kill", "-s foo", "-f foo", "-i foo", "-d -i", "-C", "-C -d", "-x",
            "-k -x", "-B x", "-i -e", "-k -B", "--kill", "-", "", "-é",
        ] {
            let refused = read(line).is_err();
            assert_eq!(refused, !line.is_empty(), "{line}");
        }
        assert!(matches!(read("-i ok"), Err(Usage::BadValue { right, .. }) if right == "ct and expect"));
    }

    #[test]
    fn help_and_man_page_list_every_letter() {
        let (help, page) = (help(Persona::Ctflowd), page());
        assert!(LETTERS.iter().all(|letter| help.contains(letter.help) && page.contains(&letter_item(letter))));
        assert!(page.is_ascii() && help.lines().all(|line| line.len() < 90), "{help}");
    }

    #[test]
    fn the_examples_are_command_lines() {
        for (command, _) in EXAMPLES {
            assert!(read(command.strip_prefix("ctflowd").unwrap()).is_ok(), "{command}");
        }
    }
}
