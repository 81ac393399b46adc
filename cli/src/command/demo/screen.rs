//! Lines that fit the terminal that the demo prints to.

use std::env;
use std::io::{self, Write};

use crate::text::wrap;

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
