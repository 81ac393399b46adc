//! Manual pages: text as troff takes it.

use std::fmt::Write;

/// A section of the page.
pub(crate) fn section(name: &str, body: &str) -> String {
    format!(".SH {name}\n{body}")
}

/// A paragraph behind its head, which is troff already.
pub(crate) fn item(head: &str, text: &str) -> String {
    format!(".TP\n{head}\n{}", prose(text))
}

/// A sentence to a line: troff fills them, and a change shows as the sentence that changed.
pub(crate) fn prose(text: &str) -> String {
    let mut rest = text;
    let mut lines = String::new();
    while let Some((sentence, others)) = rest.split_once(". ") {
        let _ = writeln!(lines, "{}.", line(sentence));
        rest = others;
    }
    lines + &line(rest) + "\n"
}

/// What begins with a dot or a quote would be a request to troff.
pub(crate) fn line(text: &str) -> String {
    let guard = if text.starts_with(['.', '\'']) { "\\&" } else { "" };
    format!("{guard}{}", escaped(text))
}

/// As it stands, copied from a terminal too: no typographic dashes, quotes, carets and tildes.
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
