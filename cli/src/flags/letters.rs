//! The daemon's letters: the command line of `ctflowd`, and of `conntrackd` where that is a link to it.
//!
//! One of them says what to ask of the running daemon; without one the daemon itself is started. A word behind a letter says
//! more, and may be cut short. Unlike to conntrackd, a letter has its dash, so no word is ever taken for one.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use super::plan::{Command, Control, ControlRequest, Daemon, Plan, Reach, StatisticsPage};
use super::usage::Usage;
use super::words;
use crate::config;
use crate::control::request::{Cache, Flushed, Request};
use crate::output::Subject;
use crate::persona::Persona;
use crate::troff::{escaped, item, prose, section};

/// A letter.
#[derive(Debug)]
struct Letter {
    /// Itself.
    letter: char,
    /// What may stand behind it; the order decides what an abbreviation means.
    words: &'static [&'static str],
    /// What must stand behind it, as in the help text.
    argument: &'static str,
    /// What it is for, in a line.
    help: &'static str,
    /// All there is to say.
    man: &'static str,
}

const TABLES: &[&str] = &["ct", "expect"];

/// All letters, in the order of the help text.
static LETTERS: [Letter; 16] = [
    Letter {
        letter: 'd',
        words: &[],
        argument: "",
        help: "run the daemon in the background",
        man: "Starts the daemon in the background, and returns when it runs. Without this and without a request it runs in the \
              foreground.",
    },
    Letter {
        letter: 'C',
        words: &[],
        argument: "FILE",
        help: "the configuration; /etc/ctflow/ctflow.toml without",
        man: "The configuration, ctflow.toml(5). A request reads nothing of it but the socket.",
    },
    Letter {
        letter: 'i',
        words: TABLES,
        argument: "",
        help: "print the internal cache: this node's flows",
        man: "Prints the internal cache, a line to a flow or, with expect, an expectation.",
    },
    Letter {
        letter: 'e',
        words: TABLES,
        argument: "",
        help: "print the external cache: the peers' flows",
        man: "Prints the external cache, of all peers; with expect, their expectations.",
    },
    Letter {
        letter: 'x',
        words: &[],
        argument: "",
        help: "with -i or -e: as XML",
        man: "With -i or -e, prints XML: one element to a line, without a root.",
    },
    Letter {
        letter: 'c',
        words: TABLES,
        argument: "",
        help: "commit the external cache to the kernel",
        man: "Puts the external cache into the kernel, flows and expectations if neither is named, and returns when it is \
              done.",
    },
    Letter {
        letter: 'f',
        words: &["internal", "external"],
        argument: "",
        help: "empty the caches",
        man: "Empties the caches, both if none is named. The kernel's table is left alone, and a -t is taken back.",
    },
    Letter {
        letter: 'F',
        words: TABLES,
        argument: "",
        help: "empty the kernel's tables",
        man: "Deletes flows and expectations from the kernel, or those named; what the filter ignores stays.",
    },
    Letter {
        letter: 'R',
        words: TABLES,
        argument: "",
        help: "compare the internal cache with the kernel",
        man: "Makes the internal cache what the kernel's table is, and returns when it is done. Flows and expectations are \
              always done together.",
    },
    Letter {
        letter: 'B',
        words: &[],
        argument: "",
        help: "tell the peers everything again",
        man: "Tells everything in the internal cache to the peers again.",
    },
    Letter {
        letter: 'n',
        words: &[],
        argument: "",
        help: "ask the peers to tell everything again",
        man: "Asks the peers to tell everything in their internal caches again.",
    },
    Letter {
        letter: 't',
        words: &[],
        argument: "",
        help: "empty the kernel's tables in a while",
        man: "Has the kernel's table of flows emptied in purge_timeout_s seconds, but for what the filter ignores. A -c or -f \
              before that takes it back.",
    },
    Letter {
        letter: 's',
        words: STATISTICS,
        argument: "",
        help: "print statistics",
        man: "Prints statistics of the caches and the links, as conntrackd does; expect: of the caches of expectations; \
              network: of datagrams that were refused and lost; cache: of each cache; runtime: of the engine; link: of \
              each link; rsqueue: of each stream's resend queue; queue: of all queues; process: of child processes, of \
              which there are none.",
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

/// What `-s` takes. `multicast` is an old name of `link`.
const STATISTICS: &[&str] =
    &["network", "cache", "runtime", "multicast", "link", "rsqueue", "queue", "ct", "expect", "process"];

/// A letter as typed, and the word behind it.
struct TypedLetter {
    letter: &'static Letter,
    word: Option<&'static str>,
}

/// Reads the arguments behind the program's name.
///
/// # Errors
/// The first thing that is wrong with them.
pub(super) fn read(persona: Persona, args: &[OsString]) -> Result<Plan, Usage> {
    let mut rest = args.iter();
    let (mut config, mut detach, mut xml) = (None, false, false);
    let mut asked: Option<TypedLetter> = None;
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
                let first = asked.replace(TypedLetter { letter, word });
                if let Some(first) = first.filter(|first| first.letter.letter != letter.letter) {
                    let typed = |letter: &Letter| format!("-{}", letter.letter);
                    return Err(Usage::TwoCommands { first: typed(first.letter), second: typed(letter) });
                }
            }
        }
    }
    let command = plan_command(asked.as_ref(), config, detach, xml)?;
    Ok(Plan { persona, command, labelmap: None, warnings })
}

/// The letter that an argument is.
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

/// The word that an abbreviation means.
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

fn plan_command(
    asked: Option<&TypedLetter>,
    config: Option<PathBuf>,
    detach: bool,
    xml: bool,
) -> Result<Command, Usage> {
    let Some(asked) = asked else {
        if xml {
            return Err(Usage::XmlWithoutDump);
        }
        let config = config.unwrap_or_else(|| config::DEFAULT_PATH.into());
        return Ok(Command::Daemon(Daemon { config, check: false, detach }));
    };
    let letter = asked.letter.letter;
    if xml && !matches!(letter, 'i' | 'e') {
        return Err(Usage::XmlWithoutDump);
    }
    if detach && !matches!(letter, 'v' | 'h') {
        return Err(Usage::TwoCommands { first: "-d".to_owned(), second: format!("-{letter}") });
    }
    let table = match asked.word {
        Some("ct") => Some(Subject::Flows),
        Some("expect") => Some(Subject::Expectations),
        _ => None,
    };
    let of = table.unwrap_or(Subject::Flows);
    let ask = match letter {
        'v' => return Ok(Command::Version),
        'h' => return Ok(Command::DaemonHelp),
        'i' => ControlRequest::Cache { cache: Cache::Internal, of, xml },
        'e' => ControlRequest::Cache { cache: Cache::External, of, xml },
        's' => ControlRequest::Statistics(statistics_page(asked.word)),
        'c' => ControlRequest::Commit(table),
        'f' => ControlRequest::Simple(Request::Flush(match asked.word {
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
    Ok(Command::Control(Control { reach, request: ask }))
}

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

/// The help text.
pub(crate) fn help(persona: Persona) -> String {
    let (banner, name) = (persona.banner(), persona.name());
    let mut text = format!("{banner}: replicates connection tracking\n");
    let _ = write!(text, "Usage: {name} [-C FILE] [-d]\n       {name} [-C FILE] REQUEST\n\n");
    for letter in &LETTERS {
        let _ = writeln!(text, "  {:<30}{}", head(letter), letter.help);
    }
    text
}

/// `-f [internal|external]`.
fn head(letter: &Letter) -> String {
    // All of -s are a line too long for the column.
    let words = match letter.letter {
        's' => "[KIND]".to_owned(),
        _ if letter.words.is_empty() => letter.argument.to_owned(),
        _ => format!("[{}]", letter.words.join("|")),
    };
    format!("-{} {words}", letter.letter).trim_end().to_owned()
}

const ABOUT: &str = "The daemon of ctflow, and the letters by which it is asked: those of conntrackd(8), whose lines it prints. \
                     Installed under a name that ends in conntrackd it goes by that name. Without a request it is the \
                     daemon itself. Each letter stands by itself behind a dash; words behind it may be cut short. The verbs \
                     of ctflow(1), status and sync, say the same and more.";

const DIFFERENCES: [&str; 6] = [
    "What is refused or fails exits with 1, and says why.",
    "A letter needs its dash: conntrackd -i ok prints the cache and then kills the daemon.",
    "Two requests on a line are an error; of conntrackd the last is carried out.",
    "A request needs nothing of the configuration but the socket.",
    "The external cache has what answers look like, so translated flows are told; it is printed without, as scripts know it.",
    "The configuration is ctflow.toml(5).",
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
    let exits =
        item("\\fB0\\fR", "What was asked for was done.") + &item("\\fB1\\fR", "It was not; standard error says why.");
    page += &section("EXIT STATUS", &exits);
    page + ".SH SEE ALSO\n.BR ctflow (1),\n.BR ctflow.toml (5),\n.BR conntrackd (8)\n"
}

fn letter_item(letter: &Letter) -> String {
    let words = match letter.letter {
        's' => {
            let words: Vec<_> = STATISTICS.iter().copied().filter(|word| *word != "multicast").collect();
            format!("-s [{}]", words.join("|"))
        }
        _ => head(letter),
    };
    let (typed, behind) = words.split_once(' ').unwrap_or((&words, ""));
    item(format!("\\fB{}\\fR {}", escaped(typed), escaped(behind)).trim_end(), letter.man)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, Usage> {
        let args: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        super::read(Persona::Ctflowd, &args).map(|plan| plan.command)
    }

    fn asked(line: &str) -> Option<(Reach, ControlRequest)> {
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
        for (line, ask) in table {
            assert_eq!(asked(line), Some((Reach::Default, ask)), "{line}");
        }
        assert_eq!(asked("-C /x -k").unwrap().0, Reach::Config("/x".into()));
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
}
