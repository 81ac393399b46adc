//! Errors of a command line. Each message names the wrong word and what is accepted instead.

use thiserror::Error;

use super::defs;
use crate::words;

/// Why a command line is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Usage {
    /// No option has this letter, or a name that starts like this.
    #[error("unknown option `{option}'{hint}", hint = option_hint(.nearest.as_deref()))]
    UnknownOption {
        /// As typed.
        option: String,
        /// The nearest long option, with its dashes.
        nearest: Option<String>,
    },
    /// An abbreviation of several options.
    #[error("option `{typed}' is ambiguous: it may mean {candidates}")]
    Ambiguous {
        /// As typed.
        typed: String,
        /// The names that it abbreviates.
        candidates: String,
    },
    /// The argument of an option is missing.
    #[error("option `{option}' needs an argument: {argument}")]
    MissingArgument {
        /// As typed.
        option: String,
        /// The argument, as in the help text.
        argument: &'static str,
    },
    /// An option without an argument has one, as in `--counter=5`.
    #[error("option `{option}' takes no argument, but was given `{value}'")]
    UnexpectedArgument {
        /// As typed.
        option: String,
        /// The argument after the `=`.
        value: String,
    },
    /// The argument of an option is not valid.
    #[error("option `{option}' does not take `{value}': it takes {right}")]
    BadValue {
        /// As typed.
        option: String,
        /// The argument, or the wrong item of it.
        value: String,
        /// The accepted values.
        right: String,
    },
    /// Options without a command.
    #[error("no command was given: add one of {commands}")]
    NoCommand {
        /// All commands.
        commands: String,
    },
    /// Two commands, or one command twice.
    #[error("one command at a time: both `{first}' and `{second}' were given")]
    TwoCommands {
        /// As typed.
        first: String,
        /// As typed.
        second: String,
    },
    /// The word after a command is not a table of that command.
    #[error("unknown table `{table}' for `{command}': it takes {tables}")]
    UnknownTable {
        /// As typed.
        command: String,
        /// As typed.
        table: String,
        /// The tables of the command.
        tables: String,
    },
    /// The command does not accept the option.
    #[error("option `--{option}' does not go with `{command}': it goes with {commands}")]
    Illegal {
        /// Its full name.
        option: &'static str,
        /// The command, as it is typed.
        command: String,
        /// The commands that accept it.
        commands: String,
    },
    /// The first word is not a verb.
    #[error("unknown command `{word}': {hint}", hint = verb_hint(*.nearest, .verbs))]
    UnknownVerb {
        /// As typed.
        word: String,
        /// The nearest verb.
        nearest: Option<&'static str>,
        /// All verbs.
        verbs: String,
    },
    /// A verb does not accept a word or an option.
    #[error("`{verb}' does not take `{word}': {hint}", hint = argument_hint(.nearest.as_deref(), .right))]
    UnexpectedVerbArgument {
        /// The verb.
        verb: &'static str,
        /// As typed.
        word: String,
        /// The nearest word or option that the verb accepts.
        nearest: Option<String>,
        /// The accepted values.
        right: &'static str,
    },
    /// A verb that requires an argument has none.
    #[error("`{verb}' needs an argument: {right}")]
    MissingVerbArgument {
        /// The verb.
        verb: &'static str,
        /// The accepted values.
        right: &'static str,
    },
    /// The argument is not a number, or too large.
    #[error("unexpected value '{value}' with {option} option: it takes {right}")]
    BadNumber {
        /// As typed.
        option: String,
        /// As typed.
        value: String,
        /// The accepted values.
        right: &'static str,
    },
    /// Two addresses, or an address and `-f`, have different families.
    #[error("mismatched address family: `{option}' is {second}, but an option before it is {first}")]
    MixedFamilies {
        /// As typed.
        option: String,
        /// The family of the first one.
        first: &'static str,
        /// The family of this one.
        second: &'static str,
    },
    /// An option of a protocol before a later `-p`: `-p tcp --sport 1 -p icmp`.
    #[error("option `{option}' is not for protocol {protocol}: only the last -p counts, and it must come first")]
    WrongProtocol {
        /// Its full name.
        option: &'static str,
        /// The protocol of the last `-p`.
        protocol: u8,
    },
    /// An option of a protocol without that protocol's `-p` before it.
    #[error("unknown option `{option}' here: it must come after -p {protocols}")]
    NeedsProtocol {
        /// As typed.
        option: String,
        /// The protocols that have it.
        protocols: String,
    },
    /// An option that the command requires is missing.
    #[error("you need to supply the `--{option}' option for `{command}'")]
    MissingOption {
        /// Its full name.
        option: &'static str,
        /// The command, as it is typed.
        command: String,
    },
    /// Source or destination is missing: half a direction does not identify a flow.
    #[error("you have to specify `--{first}' and `--{second}' for `{command}'")]
    IncompletePair {
        /// Its full name.
        first: &'static str,
        /// Its full name.
        second: &'static str,
        /// The command, as it is typed.
        command: String,
    },
    /// Two options that exclude each other.
    #[error("cannot use `--{first}' with `--{second}': {hint}")]
    MutuallyExclusive {
        /// Its full name.
        first: &'static str,
        /// Its full name.
        second: &'static str,
        /// Why, or what to do instead.
        hint: &'static str,
    },
    /// `--label-add` beside `--label-del`.
    #[error("cannot use `--label-add' with `--label-del': add in one command, delete in another")]
    BothLabels,
    /// A mask without the address that it applies to.
    #[error("can't use `--{mask}' without `--{address}'")]
    MaskWithoutAddress {
        /// Its full name.
        mask: &'static str,
        /// Its full name.
        address: &'static str,
    },
    /// `save` is combined with another output type, as in `-o save,id`.
    #[error("cannot combine save output with any other output type, use -o save only")]
    SaveCombined,
    /// `-u SRC_NAT` as a filter. It is ignored, so every flow would be selected.
    #[error("option `--status' names no status to select by: use --src-nat or --dst-nat for translated flows")]
    NoStatus,
    /// An option that is accepted only once was repeated.
    #[error("option `--{0}' may be given once only")]
    Repeated(&'static str),
    /// `-R` is not the first argument.
    #[error("unknown option `{0}' here: it must be the first argument, followed by its file, or by -")]
    NotFirst(String),
    /// A line of a load file has a command that is not allowed there.
    #[error("Cannot use command `{0}' with --load-file: it takes -I, -A, -U, -D and -F of conntrack")]
    NotInFile(String),
    /// The daemon has no such letter.
    #[error("unknown option `{0}': each letter needs its own dash")]
    UnknownLetter(String),
    /// A word in the place of a letter.
    #[error("`{0}' is not an option, and the option before it does not take it: options begin with a dash")]
    UnexpectedWord(String),
    /// `-x` without `-i` or `-e`.
    #[error("option `-x' is accepted only with -i and -e")]
    XmlWithoutDump,
}

/// The suggestion for an unknown option; empty without one.
fn option_hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!(", did you mean `{nearest}'?"))
}

/// The suggestion for an unknown verb; without one, the list of verbs.
fn verb_hint(nearest: Option<&str>, verbs: &str) -> String {
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}'?"),
        None => format!("the verbs are {verbs}; conntrack's commands begin with a dash"),
    }
}

/// The suggestion for an argument that a verb does not accept, and the accepted ones.
fn argument_hint(nearest: Option<&str>, right: &str) -> String {
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}'? It takes {right}"),
        None => format!("it takes {right}"),
    }
}

impl Usage {
    /// The error for an unknown option, with the nearest long option if it has a long name.
    pub(super) fn unknown_option(option: String) -> Self {
        let names = defs::FLAGS.into_iter().flat_map(defs::Flag::names);
        let nearest = option.strip_prefix("--").and_then(|typed| words::nearest(typed, names));
        let nearest = nearest.map(|name| format!("--{name}"));
        Self::UnknownOption { option, nearest }
    }

    /// The error as conntrack words it, which suggests no other spelling.
    pub(crate) fn without_suggestion(&self) -> String {
        match self {
            Self::UnknownOption { option, .. } => {
                Self::UnknownOption { option: option.clone(), nearest: None }.to_string()
            }
            other => other.to_string(),
        }
    }

    /// The exit code: 2, or 1 for the errors with which conntrack exits with 1.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::BadNumber { .. } | Self::SaveCombined | Self::BothLabels | Self::NoStatus => 1,
            _ => 2,
        }
    }

    /// Whether the message is followed by a hint at the help text: in conntrack, whenever it exits with 2.
    pub(crate) fn suggests_help(&self) -> bool {
        self.code() == 2
    }

    /// The verb whose help explains the error; `None` for errors of the other commands.
    pub(crate) fn verb(&self) -> Option<&'static str> {
        match self {
            Self::UnexpectedVerbArgument { verb, .. } | Self::MissingVerbArgument { verb, .. } => Some(verb),
            _ => None,
        }
    }
}
