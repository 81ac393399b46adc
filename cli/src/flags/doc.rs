//! The help text, generated from the flags and the verbs.

use super::defs::{Argument, Effect, FLAGS, Flag};
use super::verbs::{VERBS, Verb, VerbOption};
use crate::persona::Persona;
use crate::protocol;
use crate::text::wrap;

/// The column of the explanations.
const COLUMN: usize = 36;
/// Bytes of a wrapped line at most.
const WIDTH: usize = 78;

/// A topic of the help text.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Topic {
    /// All commands, options and verbs, one line each.
    Overview,
    /// The same, but with the options of this protocol only, which come last.
    OverviewWithProtocol(u8),
    /// The options of one protocol, one line each.
    Protocol(u8),
    /// One command or option, in full.
    Flag(&'static Flag),
    /// One verb: its summary, and a line for each word and option.
    Verb(&'static Verb),
}

/// The help text on `topic`, under the program's name `persona`.
pub(crate) fn text(persona: Persona, topic: &Topic) -> String {
    let fields = |flag: &Flag| !flag.protocols().is_empty();
    match topic {
        Topic::Overview => overview(persona) + &protocol_section("the -p of their protocol", fields),
        Topic::OverviewWithProtocol(number) => overview(persona) + &lines_of_protocol(*number),
        Topic::Protocol(number) => lines_of_protocol(*number).trim_start().to_owned(),
        Topic::Flag(flag) => wrapped(&flag_head(flag), flag.man),
        Topic::Verb(verb) => verb_help(verb),
    }
}

/// The commands, verbs and options that need no `-p`.
fn overview(persona: Persona) -> String {
    let (banner, name) = (persona.banner(), persona.name());
    let commands = lines(|flag| matches!(flag.effect, Effect::Command { .. } | Effect::File));
    let is_option = |flag: &Flag| matches!(flag.effect, Effect::Option { .. } | Effect::Ignored(_));
    let options = lines(|flag| is_option(flag) && flag.protocols().is_empty());
    let verbs: String = VERBS.iter().map(|verb| line(&verb_head(verb), verb.help)).collect();
    let mut text = format!("{banner}: list, change and follow tracked connections\n");
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

/// The section of the options after `-p number`.
fn lines_of_protocol(number: u8) -> String {
    let name = match protocol::name(number) {
        "unknown" => number.to_string(),
        name => name.to_owned(),
    };
    protocol_section(&format!("-p {name}"), |flag| flag.protocols().contains(&number))
}

/// A section of options after `what`, a `-p`.
fn protocol_section(what: &str, selects: impl Fn(&Flag) -> bool) -> String {
    match lines(selects) {
        none if none.is_empty() => format!("\nOptions after {what}: none\n"),
        lines => format!("\nOptions after {what}:\n{lines}"),
    }
}

/// The lines of the selected flags.
fn lines(selects: impl Fn(&Flag) -> bool) -> String {
    FLAGS.into_iter().filter(|flag| selects(flag)).map(|flag| line(&flag_head(flag), flag.help)).collect()
}

/// A line of the help text; a long head has a line of its own.
fn line(head: &str, help: &str) -> String {
    let width = COLUMN - 2;
    match head.len() {
        fits if fits < width => format!("  {head:<width$}{help}\n"),
        _ => format!("  {head}\n  {:width$}{help}\n", ""),
    }
}

/// The names of a flag with its argument: `-o, --output TYPE[,TYPE...]`. Long names align, with and without a letter.
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

/// The name of a verb with its arguments.
fn verb_head(verb: &Verb) -> String {
    format!("{} {}", verb.name, verb.argument).trim_end().to_owned()
}

/// The help of a verb: its summary, a line for each word and option, and where the rest is described.
fn verb_help(verb: &Verb) -> String {
    let words: String = verb.words.iter().map(|word| line(word.usage, word.help)).collect();
    let words = if words.is_empty() { words } else { format!("\nWords:\n{words}") };
    let rest = if verb.man.is_empty() { "" } else { "\nMore in ctflow(1): `ctflow man | man -l -'\n" };
    wrapped(&verb_head(verb), verb.about) + &words + &verb_options(verb) + rest
}

/// The options of a verb, one line each.
fn verb_options(verb: &Verb) -> String {
    let lines: String = verb.options.iter().map(|option| line(&option_head(option), option.help)).collect();
    if lines.is_empty() { lines } else { format!("\nOptions:\n{lines}") }
}

/// The names of a verb's option with its argument: `-C, --config FILE`. Long names align, with and without a letter.
fn option_head(option: &VerbOption) -> String {
    let short = option.short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
    format!("{short}--{} {}", option.long, option.argument).trim_end().to_owned()
}

/// The head, and the text below it, indented and wrapped.
fn wrapped(head: &str, man: &str) -> String {
    format!("{}\n{}\n", head.trim_start(), wrap("    ", man, WIDTH))
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
        assert!(tcp.starts_with("Options after -p tcp:\n      --sport, --orig-port-src PORT "), "{tcp}");
        assert!(tcp.contains("--state") && !tcp.contains("--icmp-type") && !tcp.contains("--family"), "{tcp}");
        assert_eq!(text(Persona::Ctflow, &Topic::Protocol(200)), "Options after -p 200: none\n");
        for persona in [Persona::Ctflow, Persona::Conntrack] {
            let all = text(persona, &Topic::OverviewWithProtocol(6));
            assert!(all.contains("--family") && all.ends_with(&format!("\n\n{tcp}")), "{all}");
        }
    }

    #[test]
    fn verb_help_lists_words_and_options_on_one_screen() {
        for verb in VERBS {
            let text = text(Persona::Ctflow, &Topic::Verb(verb));
            assert!(verb.words.iter().all(|word| text.contains(&line(word.usage, word.help))), "{text}");
            assert!(verb.options.iter().all(|option| text.contains(&option_head(option))), "{text}");
            assert_eq!(text.contains("\nWords:\n"), !verb.words.is_empty(), "{text}");
            assert_eq!(text.contains("\nOptions:\n"), !verb.options.is_empty(), "{text}");
            assert!(text.lines().count() <= 24 && text.lines().all(|line| line.len() <= 100), "{text}");
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
