//! Lines that fit the terminal that the demo prints to.

use std::env;
use std::io::{self, Write};

/// Columns where standard output is no terminal and `COLUMNS` holds no number.
const DEFAULT_COLUMNS: usize = 80;
/// Text is broken here even if the terminal is wider.
const TEXT_COLUMNS_MAX: usize = 78;

/// Returns the number of columns to print in: the terminal's width, else the number in `COLUMNS`, else 80.
pub(super) fn columns() -> usize {
    let terminal = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let variable = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    // A terminal that does not know its size reports 0.
    [terminal, variable].into_iter().flatten().find(|columns| *columns > 0).unwrap_or(DEFAULT_COLUMNS)
}

/// Prints one line as it is.
pub(super) fn print_line(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Prints `lead` and, behind it, `text` broken between words to fit the terminal. Further lines start below the text.
pub(super) fn print_text(lead: &str, text: &str) -> io::Result<()> {
    print_line(&wrap(lead, text, columns().min(TEXT_COLUMNS_MAX)))
}

/// Breaks `text` between words into lines of at most `columns`. A longer word has a line of its own.
fn wrap(lead: &str, text: &str, columns: usize) -> String {
    let indent = lead.chars().count();
    let (mut wrapped, mut used) = (lead.to_owned(), indent);
    for (index, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if index > 0 && used + 1 + length > columns {
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(indent));
            used = indent;
        } else if index > 0 {
            wrapped.push(' ');
            used += 1;
        }
        wrapped.push_str(word);
        used += length;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_between_words_and_continues_below_itself() {
        assert_eq!(wrap("  3 ms  ", "fw2 is primary", 40), "  3 ms  fw2 is primary");
        assert_eq!(wrap("  3 ms  ", "fw2 is primary", 18), "  3 ms  fw2 is\n        primary");
        assert_eq!(wrap("", "a word-that-is-too-long b", 8), "a\nword-that-is-too-long\nb");
    }
}
