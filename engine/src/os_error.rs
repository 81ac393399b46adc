//! The text of a system error, as an operator reads it.

use std::io;

/// The system's words for `error`, such as `Permission denied`: without the number that the standard library appends
/// (` (os error 13)`).
#[must_use]
pub fn os_error_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error ").map_or(text.clone(), |(words, _)| words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_error_is_its_words_and_any_other_its_own() {
        assert_eq!(os_error_text(&io::Error::from_raw_os_error(libc::EACCES)), "Permission denied");
        assert_eq!(os_error_text(&io::Error::other("nothing was announced")), "nothing was announced");
    }
}
