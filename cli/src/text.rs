//! Text for people: counts with their nouns, and lines that fit a width.

/// A count with its noun: `counted(1, "flow", "flows")` is `1 flow`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `lead` and, behind it, `text` broken between words into lines of at most `columns` characters. Further lines start
/// below the text. A longer word has a line of its own.
pub(crate) fn wrap(lead: &str, text: &str, columns: usize) -> String {
    let indent = lead.chars().count();
    let (mut wrapped, mut used) = (lead.to_owned(), indent);
    for (index, word) in text.split_whitespace().enumerate() {
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
