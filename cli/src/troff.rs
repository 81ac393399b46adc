//! Troff for manual pages.

use std::fmt::Write;

/// A section with its body, which is troff.
pub(crate) fn section(name: &str, body: &str) -> String {
    format!(".SH {name}\n{body}")
}

/// An item: its head, which is troff, and its text, which is escaped.
pub(crate) fn item(head: &str, text: &str) -> String {
    format!(".TP\n{head}\n{}", prose(text))
}

/// A paragraph with one sentence on each line. Troff fills the lines, and a diff shows the sentence that changed.
pub(crate) fn prose(text: &str) -> String {
    let mut rest = text;
    let mut lines = String::new();
    while let Some((sentence, others)) = rest.split_once(". ") {
        let _ = writeln!(lines, "{}.", line(sentence));
        rest = others;
    }
    lines + &line(rest) + "\n"
}

/// An example: a command line under its purpose.
pub(crate) fn example((command, purpose): &(&str, &str)) -> String {
    format!(".TP\n{}.EX\n{}\n.EE\n", prose(purpose), line(command))
}

/// One line of text. A dot or quote at its start is escaped, because troff would read a request.
pub(crate) fn line(text: &str) -> String {
    let guard = if text.starts_with(['.', '\'']) { "\\&" } else { "" };
    format!("{guard}{}", escaped(text))
}

/// Escapes characters that troff would change into typographic ones, so that text can be copied from a terminal.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => escaped += "\\e",
            '-' => escaped += "\\-",
            '\'' => escaped += "\\(aq",
            '`' => escaped += "\\(ga",
            '^' => escaped += "\\(ha",
            '~' => escaped += "\\(ti",
            '"' => escaped += "\\(dq",
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troff_requests_in_the_text_are_escaped() {
        assert_eq!(line(".TH -x"), "\\&.TH \\-x");
        assert_eq!(line("'a\\b'"), "\\&\\(aqa\\eb\\(aq");
        assert_eq!(prose("One. .Two, e.g.two."), "One.\n\\&.Two, e.g.two.\n");
    }
}
