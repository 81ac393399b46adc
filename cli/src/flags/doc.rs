//! The help text, made from the flags and the verbs themselves.

use super::defs::{Argument, Effect, FLAGS, Flag};
use super::verbs::{VERBS, Verb, VerbOption};
use crate::persona::Persona;
use crate::protocol;

/// Where explanations begin.
const COLUMN: usize = 36;
/// How long a line of text may become.
const WIDTH: usize = 78;

/// What to explain.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Topic {
    /// All commands, options and verbs, a line each.
    Overview,
    /// The same, but of the protocols' options those of this one only: the last thing on the screen.
    OverviewWithProtocol(u8),
    /// The options of one protocol, a line each.
    Protocol(u8),
    /// One command or option, in full.
    Flag(&'static Flag),
    /// One verb, in full.
    Verb(&'static Verb),
}

/// The text on `topic`, for the program as it was called.
pub(crate) fn text(persona: Persona, topic: &Topic) -> String {
    let fields = |flag: &Flag| !flag.protocols().is_empty();
    match topic {
        Topic::Overview => overview(persona) + &protocol_section("the -p of their protocol", fields),
        Topic::OverviewWithProtocol(number) => overview(persona) + &lines_of_protocol(*number),
        Topic::Protocol(number) => lines_of_protocol(*number).trim_start().to_owned(),
        Topic::Flag(flag) => wrapped(&flag_head(flag), flag.man),
        Topic::Verb(verb) => wrapped(&verb_head(verb), verb.man) + &verb_options(verb),
    }
}

fn overview(persona: Persona) -> String {
    let (banner, name) = (persona.banner(), persona.name());
    let commands = lines(|flag| matches!(flag.effect, Effect::Command { .. } | Effect::File));
    let is_option = |flag: &Flag| matches!(flag.effect, Effect::Option { .. } | Effect::Ignored(_));
    let options = lines(|flag| is_option(flag) && flag.protocols().is_empty());
    let verbs: String = VERBS.iter().map(|verb| line(&verb_head(verb), verb.help)).collect();
    let mut text = format!("{banner}: connection tracking, its table and its events\n");
    text += &format!("Usage: {name} COMMAND [TABLE] [OPTION]...\n");
    if persona == Persona::Ctflow {
        text += &format!("       {name} VERB [ARGUMENT]\n");
    }
    text +=
        &format!("\nCommands:\n{commands}\nTables: conntrack (the default), expect; with -L also dying, unconfirmed\n");
    if persona == Persona::Ctflow {
        text += &format!("\nVerbs:\n{verbs}");
    }
    text + &format!("\nOptions:\n{options}")
}

fn lines_of_protocol(number: u8) -> String {
    let name = match protocol::name(number) {
        "unknown" => number.to_string(),
        name => name.to_owned(),
    };
    protocol_section(&format!("-p {name}"), |flag| flag.protocols().contains(&number))
}

fn protocol_section(what: &str, wanted: impl Fn(&Flag) -> bool) -> String {
    match lines(wanted) {
        none if none.is_empty() => format!("\nOptions behind {what}: none\n"),
        lines => format!("\nOptions behind {what}:\n{lines}"),
    }
}

fn lines(wanted: impl Fn(&Flag) -> bool) -> String {
    FLAGS.into_iter().filter(|flag| wanted(flag)).map(|flag| line(&flag_head(flag), flag.help)).collect()
}

fn line(head: &str, help: &str) -> String {
    let width = COLUMN - 2;
    match head.len() {
        fits if fits < width => format!("  {head:<width$}{help}\n"),
        _ => format!("  {head}\n  {:width$}{help}\n", ""),
    }
}

/// `-o, --output TYPE[,TYPE...]`; a flag without a letter is set as far in as one with.
fn flag_head(flag: &Flag) -> String {
    let short = flag.short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
    let names = flag.names().map(|name| format!("--{name}")).collect::<Vec<_>>().join(", ");
    match flag.argument {
        Argument::None => format!("{short}{names}"),
        Argument::Table => format!("{short}{names} [TABLE]"),
        Argument::Required(argument) => format!("{short}{names} {argument}"),
        Argument::Optional(argument) => format!("{short}{names} [{argument}]"),
    }
}

fn verb_head(verb: &Verb) -> String {
    format!("{} {}", verb.name, verb.argument).trim_end().to_owned()
}

/// A verb's own options, a line each.
fn verb_options(verb: &Verb) -> String {
    let lines: String = verb.options.iter().map(|option| line(&option_head(option), option.help)).collect();
    if lines.is_empty() { lines } else { format!("\nOptions:\n{lines}") }
}

/// `-C, --config FILE`; an option without a letter is set as far in as one with.
fn option_head(option: &VerbOption) -> String {
    let short = option.short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
    format!("{short}--{} {}", option.long, option.argument).trim_end().to_owned()
}

/// The head, and the text below it, set in and broken into lines.
fn wrapped(head: &str, man: &str) -> String {
    const INDENT: &str = "\n    ";
    let mut text = head.trim_start().to_owned();
    let mut column = WIDTH;
    for word in man.split_whitespace() {
        if column + 1 + word.len() > WIDTH {
            text.push_str(INDENT);
            column = INDENT.len() - 1;
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.len();
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_a_help_line_and_conntrack_has_no_verbs() {
        let ours = text(Persona::Ctflow, &Topic::Overview);
        let theirs = text(Persona::Conntrack, &Topic::Overview);
        for flag in FLAGS {
            assert!([&ours, &theirs].iter().all(|text| text.contains(&line(&flag_head(flag), flag.help))));
        }
        assert!(VERBS.iter().all(|verb| ours.contains(verb.help) && !theirs.contains(verb.help)));
        assert!(ours.lines().all(|line| line.len() <= 100), "{ours}");
    }

    #[test]
    fn a_protocol_lists_only_its_own_options() {
        let tcp = text(Persona::Ctflow, &Topic::Protocol(6));
        assert!(tcp.starts_with("Options behind -p tcp:\n      --sport, --orig-port-src PORT "), "{tcp}");
        assert!(tcp.contains("--state") && !tcp.contains("--icmp-type") && !tcp.contains("--family"), "{tcp}");
        assert_eq!(text(Persona::Ctflow, &Topic::Protocol(200)), "Options behind -p 200: none\n");
        for persona in [Persona::Ctflow, Persona::Conntrack] {
            let all = text(persona, &Topic::OverviewWithProtocol(6));
            assert!(all.contains("--family") && all.ends_with(&format!("\n\n{tcp}")), "{all}");
        }
    }

    #[test]
    fn a_verb_lists_its_options() {
        for verb in VERBS {
            let text = text(Persona::Ctflow, &Topic::Verb(verb));
            assert!(verb.options.iter().all(|option| text.contains(&option_head(option))), "{text}");
            assert_eq!(text.contains("\nOptions:\n"), !verb.options.is_empty(), "{text}");
        }
    }

    #[test]
    fn long_help_is_wrapped() {
        for flag in FLAGS {
            let text = text(Persona::Ctflow, &Topic::Flag(flag));
            assert!(text.lines().skip(1).all(|line| line.starts_with("    ") && line.len() <= WIDTH), "{text}");
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert!(words(&text).ends_with(&words(flag.man)));
        }
    }
}
