//! `-V`, `-h`, `help`, `man` and `completions`: texts about the program itself.

use std::io::{self, Write};

use crate::config;
use crate::failure::Failure;
use crate::flags::completions::{self, Shell};
use crate::flags::doc::{self, Topic};
use crate::flags::plan::Page;
use crate::flags::{letters, man};
use crate::persona::Persona;

/// Prints name and version.
pub(super) fn version(persona: Persona) -> Result<(), Failure> {
    print(&format!("{}\n", persona.banner()))
}

/// Prints the help text, or the whole documentation of one flag or verb.
pub(super) fn help(persona: Persona, topic: &Topic) -> Result<(), Failure> {
    print(&doc::text(persona, topic))
}

/// Prints a manual page.
pub(super) fn man(page: Page) -> Result<(), Failure> {
    print(&match page {
        Page::Program => man::page(),
        Page::Configuration => config::man::page(),
        Page::Daemon => letters::page(),
    })
}

/// Prints the help text of the daemon's letters.
pub(super) fn letters(persona: Persona) -> Result<(), Failure> {
    print(&letters::help(persona))
}

/// Prints the completion script of a shell.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    print(&completions::script(shell))
}

/// Prints a text. Unlike `print!` it returns an error when the pipe is closed, where `print!` panics.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}
