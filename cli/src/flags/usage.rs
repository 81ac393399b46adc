//! What can be wrong with a command line. Each message names the word and what would be right.

use thiserror::Error;

/// A command line that has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Usage {
    /// No option has this name, or this one begins no option's name.
    #[error("unknown option `{0}'")]
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
    VerbArgument {
        /// The verb.
        verb: &'static str,
        /// As typed.
        word: String,
        /// What would be right.
        right: &'static str,
    },
}
