//! Splits a line of a load file into words.
//!
//! Blanks separate words. Double quotes keep blanks inside a word, and a backslash inside quotes makes the next byte
//! literal. Empty lines and lines that begin with `#` have no words. The limits are conntrack's, so that both programs
//! read the same files.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use thiserror::Error;

/// Bytes of the longest line, without the blanks at its end.
const LINE_BYTES_MAX: usize = 10_239;
/// Bytes that are read of a line at most, blanks at its end included. A longer line is refused without reading on.
pub(crate) const LINE_READ_BYTES_MAX: u64 = 64 * 1_024;
/// Words for which memory is reserved: saved lines rarely have more.
const WORDS_TYPICAL: usize = 32;
/// Words of a line at most.
const WORDS_MAX: usize = 253;
/// Bytes of the longest word.
const WORD_BYTES_MAX: usize = 1_023;

/// Why a line cannot be split into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum LineError {
    /// The line is too long.
    #[error("the line has more than {LINE_BYTES_MAX} bytes")]
    Long,
    /// A word is too long.
    #[error("a word of the line is longer than {WORD_BYTES_MAX} bytes")]
    LongWord,
    /// The line has too many words.
    #[error("the line has more than {WORDS_MAX} words")]
    ManyWords,
    /// The line ends inside quotes.
    #[error("a double quote is open at the end of the line: close it")]
    OpenQuote,
}

/// Splits `line` into words. An empty line or a comment has none.
pub(crate) fn split_words(line: &[u8]) -> Result<Vec<OsString>, LineError> {
    let line = line.trim_ascii_end();
    if line.len() > LINE_BYTES_MAX {
        return Err(LineError::Long);
    }
    let mut rest = line.trim_ascii_start();
    let mut words = Vec::with_capacity(WORDS_TYPICAL);
    if rest.starts_with(b"#") {
        return Ok(words);
    }
    while !rest.is_empty() {
        let word;
        (word, rest) = split_first_word(rest)?;
        if word.len() > WORD_BYTES_MAX {
            return Err(LineError::LongWord);
        }
        if words.len() == WORDS_MAX {
            return Err(LineError::ManyWords);
        }
        words.push(OsString::from_vec(word));
        rest = rest.trim_ascii_start();
    }
    Ok(words)
}

/// Splits the first word off a line that does not begin with a blank, and returns it and the rest of the line.
fn split_first_word(line: &[u8]) -> Result<(Vec<u8>, &[u8]), LineError> {
    let plain = line.iter().position(|byte| *byte == b'"' || byte.is_ascii_whitespace()).unwrap_or(line.len());
    let (plain, mut rest) = line.split_at(plain);
    let mut word = plain.to_vec();
    let mut quoted = false;
    while let [byte, after @ ..] = rest {
        match (byte, after) {
            (b'"', _) => quoted = !quoted,
            (b'\\', [escaped, further @ ..]) if quoted => {
                word.push(*escaped);
                rest = further;
                continue;
            }
            (byte, _) if byte.is_ascii_whitespace() && !quoted => break,
            (byte, _) => word.push(*byte),
        }
        rest = after;
    }
    if quoted { Err(LineError::OpenQuote) } else { Ok((word, rest)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<String> {
        split_words(line.as_bytes()).unwrap().into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn blanks_separate_words_and_quotes_group_them() {
        assert_eq!(split("  -D\t-s  1.1.1.1 \r\n"), ["-D", "-s", "1.1.1.1"]);
        assert_eq!(split(r#"-U --label-add "a b" x"y z"w"#), ["-U", "--label-add", "a b", "xy zw"]);
        assert_eq!(split(r#""a\"b\\c" d\e """#), [r#"a"b\c"#, r"d\e", ""]);
        for line in ["", "   ", "# -D", "\t# comment", "\n"] {
            assert!(split(line).is_empty(), "{line:?}");
        }
        assert_eq!(split("-F #"), ["-F", "#"], "a comment is a whole line");
    }

    #[test]
    fn lines_beyond_the_limits_are_refused() {
        assert_eq!(split_words(b"-D \"x"), Err(LineError::OpenQuote));
        assert_eq!(split_words(b"-D \"x\\"), Err(LineError::OpenQuote));
        assert_eq!(split_words(&b"a".repeat(WORD_BYTES_MAX + 1)), Err(LineError::LongWord));
        assert_eq!(split_words(&b"a".repeat(WORD_BYTES_MAX)).unwrap().len(), 1);
        assert_eq!(split_words(&b"a ".repeat(WORDS_MAX)).unwrap().len(), WORDS_MAX);
        assert_eq!(split_words(&b"a ".repeat(WORDS_MAX + 1)), Err(LineError::ManyWords));
        assert_eq!(split_words(&b"#".repeat(LINE_BYTES_MAX + 1)), Err(LineError::Long));
    }
}
