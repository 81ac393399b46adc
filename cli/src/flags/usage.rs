//! What can be wrong with a command line. Each message names the word and what would be right.

use thiserror::Error;

use super::{defs, words};

/// A command line that has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Usage {
    /// No option has this name, or this one begins no option's name.
    #[error("unknown option `{0}'{meant}", meant = suggestion(.0))]
    UnknownOption(String),
    /// An abbreviation of several.
    #[error("option `{typed}' is ambiguous: it begins {candidates}")]
    Ambiguous {
        /// As typed.
        typed: String,
        /// The names it begins.
        candidates: String,
    },
    /// The command line ends where an argument must follow.
    #[error("option `{option}' needs an argument: {argument}")]
    MissingArgument {
        /// As typed.
        option: String,
        /// The argument's kind, as in the help text.
        argument: &'static str,
    },
    /// `--counter=5`.
    #[error("option `{option}' takes no argument, but was given `{value}'")]
    UnexpectedArgument {
        /// As typed.
        option: String,
        /// What stood behind the `=`.
        value: String,
    },
    /// An argument that does not say what its option needs to know.
    #[error("option `{option}' does not take `{value}': it takes {right}")]
    BadValue {
        /// As typed.
        option: String,
        /// The argument, or its item that is wrong.
        value: String,
        /// What would be right.
        right: String,
    },
    /// Options and no command.
    #[error("no command was given: one of {commands} must be")]
    NoCommand {
        /// Those that there are.
        commands: String,
    },
    /// Two commands, or one twice.
    #[error("one command at a time: both `{first}' and `{second}' were given")]
    TwoCommands {
        /// As typed.
        first: String,
        /// As typed.
        second: String,
    },
    /// The word behind a command names no table.
    #[error("unknown table `{table}' for `{command}': it takes {tables}")]
    UnknownTable {
        /// As typed.
        command: String,
        /// As typed.
        table: String,
        /// Those that the command takes.
        tables: String,
    },
    /// An option that says nothing to this command.
    #[error("option `--{option}' does not go with `{command}': it goes with {commands}")]
    Illegal {
        /// Its full name.
        option: &'static str,
        /// As it would be typed.
        command: String,
        /// Those it goes with.
        commands: String,
    },
    /// The first word is no verb.
    #[error("unknown verb `{word}': the verbs are {verbs}, and commands begin with a dash")]
    UnknownVerb {
        /// As typed.
        word: String,
        /// Those that there are.
        verbs: String,
    },
    /// A verb and a word it has no use for.
    #[error("`{verb}' does not take `{word}': it takes {right}")]
    UnexpectedVerbArgument {
        /// The verb.
        verb: &'static str,
        /// As typed.
        word: String,
        /// What would be right.
        right: &'static str,
    },
    /// A verb without the word it is about.
    #[error("`{verb}' needs an argument: {right}")]
    MissingVerbArgument {
        /// The verb.
        verb: &'static str,
        /// What would be right.
        right: &'static str,
    },
    /// A number that is none, or too large.
    #[error("unexpected value '{value}' with {option} option: it takes {right}")]
    BadNumber {
        /// As typed.
        option: String,
        /// As typed.
        value: String,
        /// What would be right.
        right: &'static str,
    },
    /// Addresses, or an address and `-f`, of two families.
    #[error("mismatched address family: `{option}' names one of {second}, but {first} was named before")]
    MixedFamilies {
        /// As typed.
        option: String,
        /// Named before.
        first: &'static str,
        /// Named now.
        second: &'static str,
    },
    /// `-p tcp --sport 1 -p icmp`.
    #[error("option `{option}' says nothing of protocol {protocol}: only the last -p counts, and it must come first")]
    WrongProtocol {
        /// Its full name.
        option: &'static str,
        /// The protocol that holds.
        protocol: u8,
    },
    /// An option of a protocol without the protocol before it.
    #[error("unknown option `{option}' here: it belongs behind -p {protocols}")]
    NeedsProtocol {
        /// As typed.
        option: String,
        /// Those that it belongs to.
        protocols: String,
    },
    /// An option that the command cannot do without.
    #[error("you need to supply the `--{option}' option for `{command}'")]
    MissingOption {
        /// Its full name.
        option: &'static str,
        /// As it would be typed.
        command: String,
    },
    /// Half a direction does not name a flow.
    #[error("you have to specify `--{first}' and `--{second}' for `{command}'")]
    IncompletePair {
        /// Its full name.
        first: &'static str,
        /// Its full name.
        second: &'static str,
        /// As it would be typed.
        command: String,
    },
    /// Two options that exclude each other.
    #[error("cannot use `--{first}' with `--{second}': {hint}")]
    MutuallyExclusive {
        /// Its full name.
        first: &'static str,
        /// Its full name.
        second: &'static str,
        /// What would be right.
        hint: &'static str,
    },
    /// `--label-add` beside `--label-del`.
    #[error("cannot use `--label-add' with `--label-del': add in one command, delete in another")]
    BothLabels,
    /// A mask and nothing to put it on.
    #[error("can't use `--{mask}' without `--{address}'")]
    MaskWithoutAddress {
        /// Its full name.
        mask: &'static str,
        /// Its full name.
        address: &'static str,
    },
    /// `-o save,id`.
    #[error("cannot combine save output with any other output type, use -o save only")]
    SaveCombined,
    /// `-u SRC_NAT` as a filter: nothing would be left of it, and everything be selected.
    #[error("option `--status' names no status to select by: use --src-nat or --dst-nat for translated flows")]
    NoStatus,
    /// An option that holds once.
    #[error("option `--{0}' may be given once only")]
    Repeated(&'static str),
    /// `-R` behind something else.
    #[error("unknown option `{0}' here: it must be the first argument, with its file behind it, or -")]
    NotFirst(String),
    /// A line of a load file with a command that is not for it.
    #[error("Cannot use command `{0}' with --load-file: it takes -I, -A, -U, -D and -F of conntrack")]
    NotInFile(String),
    /// No letter of the daemon's.
    #[error("unknown option `{0}': a letter stands by itself behind a dash")]
    UnknownLetter(String),
    /// A word where a letter is expected.
    #[error("`{0}' is no option, and no word of the one before: options begin with a dash")]
    UnexpectedWord(String),
    /// `-x` without a dump.
    #[error("option `-x' goes with -i and -e only")]
    XmlWithoutDump,
}

/// The long option that a mistyped one is nearly.
fn suggestion(option: &str) -> String {
    let names = defs::FLAGS.into_iter().flat_map(defs::Flag::names);
    let name = option.strip_prefix("--").and_then(|typed| words::nearest(typed, names));
    name.map_or_else(String::new, |name| format!(", did you mean `--{name}'?"))
}

impl Usage {
    /// The exit code: 2 for the command line, but 1 where conntrack says 1.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::BadNumber { .. } | Self::SaveCombined | Self::BothLabels | Self::NoStatus => 1,
            _ => 2,
        }
    }

    /// Whether a look at the help text would help: conntrack points there when it ends with 2.
    pub(crate) fn suggests_help(&self) -> bool {
        self.code() == 2
    }
}
