//! `-R`: carries out a file of commands in two passes: the first checks every line, the second carries them out.
//!
//! So a mistake anywhere means that nothing is done. Checked lines are [`Staged`] as requests until all are checked.
//! Lines past the limit of staged bytes are read from the file again, so that a file of any size needs no more memory.
//! Input that cannot be read twice (standard input, a pipe) is first copied to memory; more than [`COPIED_BYTES_MAX`]
//! is refused.
//!
//! Lines that create flows go to the kernel in batches. Any other line waits for the answers to those before it. The
//! first refusal ends the work after its batch. The error names each refused line, and the last line that was carried
//! out.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ctflow_engine::kernel::batch::Refused;
use ctflow_engine::limits::LOAD_STAGED_BYTES;
use ctflow_parser::request;
use rustix::fs::{MemfdFlags, memfd_create};

use super::bulk::{Bulk, Outcome, Vanished};
use super::progress::Progress;
use super::staged::{Staged, Step};
use super::summary::Summary;
use super::{change, labels};
use crate::failure::Failure;
use crate::flags::line::{self, LINE_READ_BYTES_MAX, LineError};
use crate::flags::parse_line;
use crate::flags::plan::{Command, Load, Plan};
use crate::flags::usage::Usage;
use crate::labels::LabelMap;
use crate::output::Format;
use crate::persona::Persona;

/// The most bytes that are read from standard input or a pipe: about five million lines.
const COPIED_BYTES_MAX: u64 = 1_024 * 1_024 * 1_024;

/// Carries out the file that `plan` names.
///
/// # Errors
/// The file cannot be read or a line is wrong, and nothing was done; or the kernel refused a line.
pub(super) fn run(persona: Persona, plan: &Load) -> Result<(), Failure> {
    let (name, file) = open_input(plan)?;
    let Checked { labelmap, staged, rest, count, only_creates } = check(persona, &name, &file, LOAD_STAGED_BYTES)?;
    // Lines that select flows print them and have a progress bar of their own, which this one would disturb.
    let mut bar = if only_creates { Progress::of(count, "lines") } else { Progress::none() };
    let mut loader = Loader::open(persona, &name, labelmap.as_deref())?;
    for (number, step) in staged.steps() {
        match step {
            Step::Request(request) => loader.send_staged(number, request)?,
            Step::Line(line) => loader.run_line(number, split_words(&name, number, line)?)?,
        }
        bar.add(1);
    }
    drop(staged);
    let mut lines = Lines::from(&name, &file, rest)?;
    while let Some((number, words)) = lines.next()? {
        loader.run_line(number, words)?;
        bar.add(1);
    }
    loader.finish_lines()?;
    Ok(loader.bulk.finish()?)
}

/// Opens the input so that it can be read twice. Returns its name for messages, and the file.
///
/// # Errors
/// The input cannot be opened or copied.
fn open_input(plan: &Load) -> Result<(String, File), Failure> {
    let (name, opened) = match plan {
        Load::Stdin => ("standard input".to_owned(), copy_to_memory(io::stdin().lock(), COPIED_BYTES_MAX)),
        Load::File(path) => (path.display().to_string(), File::open(path).and_then(seekable)),
    };
    opened.map_err(|source| Failure::Load { name: name.clone(), source }).map(|file| (name, file))
}

/// Returns the file itself if it can seek, else a copy in memory.
///
/// # Errors
/// The file cannot be copied.
fn seekable(mut file: File) -> io::Result<File> {
    if file.stream_position().is_ok() { Ok(file) } else { copy_to_memory(file, COPIED_BYTES_MAX) }
}

/// Copies at most `bytes_max` bytes to a file in memory.
///
/// # Errors
/// The source cannot be read, or has more bytes.
fn copy_to_memory(source: impl Read, bytes_max: u64) -> io::Result<File> {
    let mut copy = File::from(memfd_create(c"ctflow-load", MemfdFlags::CLOEXEC)?);
    if io::copy(&mut source.take(bytes_max + 1), &mut copy)? > bytes_max {
        return Err(io::Error::other(format!(
            "it has more than {bytes_max} bytes: save it to a file and load the file"
        )));
    }
    copy.rewind()?;
    Ok(copy)
}

/// A file whose lines are all valid.
struct Checked {
    /// The label file that a line names.
    labelmap: Option<PathBuf>,
    /// The first lines, within the limit of memory.
    staged: Staged,
    /// The position of the lines that are not staged.
    rest: LinePosition,
    /// The number of all lines that are commands.
    count: u64,
    /// Whether every line creates a flow.
    only_creates: bool,
}

/// Checks every line of a file and stages lines until they need `staged_bytes`.
///
/// # Errors
/// The file cannot be read, or a line is wrong.
fn check(persona: Persona, name: &str, file: &File, staged_bytes: usize) -> Result<Checked, Failure> {
    let mut lines = Lines::from(name, file, LinePosition::default())?;
    let staged = Staged::new(staged_bytes);
    let mut checked = Checked { labelmap: None, staged, rest: LinePosition::default(), count: 0, only_creates: true };
    while let Some((number, words)) = lines.next()? {
        let plan = parse_line(persona, words).map_err(|usage| line_failure(name, number, usage))?;
        if !checked.staged.is_full() {
            checked.staged.push(number, &plan, &lines.line);
            checked.rest = lines.position;
        }
        if let (Some(_), Some(_)) = (&checked.labelmap, &plan.labelmap) {
            return Err(Failure::SecondLabelmap { name: name.to_owned(), number });
        }
        checked.labelmap = checked.labelmap.or(plan.labelmap);
        checked.count += 1;
        checked.only_creates &= matches!(plan.command, Command::Create(_));
    }
    Ok(checked)
}

/// Returns the failure of a line that is no valid command.
fn line_failure(name: &str, number: u64, usage: Usage) -> Failure {
    Failure::LineUsage { name: name.to_owned(), number, usage: Box::new(usage) }
}

/// Splits a line into words.
///
/// # Errors
/// The line or a word is too long, there are too many words, or a quote is not closed.
fn split_words(name: &str, number: u64, line: &[u8]) -> Result<Vec<OsString>, Failure> {
    line::split_words(line).map_err(|source| Failure::LineSyntax { name: name.to_owned(), number, source })
}

/// A position between two lines of a file.
#[derive(Debug, Clone, Copy, Default)]
struct LinePosition {
    /// Bytes before it.
    offset: u64,
    /// Lines before it.
    lines: u64,
}

/// Reads the lines of a file that are commands, as words, with their numbers from 1. Skips empty lines and comments.
struct Lines<'f> {
    name: &'f str,
    file: BufReader<&'f File>,
    /// The position after the line that was read last.
    position: LinePosition,
    /// The line that was read last.
    line: Vec<u8>,
}

impl<'f> Lines<'f> {
    /// Starts reading at `position`.
    ///
    /// # Errors
    /// The file cannot seek there.
    fn from(name: &'f str, mut file: &'f File, position: LinePosition) -> Result<Self, Failure> {
        file.seek(SeekFrom::Start(position.offset))
            .map_err(|source| Failure::Load { name: name.to_owned(), source })?;
        Ok(Self { name, file: BufReader::with_capacity(64 * 1024, file), position, line: Vec::new() })
    }

    /// Reads the next command. Returns `None` at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read, or a line is too long or is no list of words.
    fn next(&mut self) -> Result<Option<(u64, Vec<OsString>)>, Failure> {
        loop {
            self.line.clear();
            let read = self.file.by_ref().take(LINE_READ_BYTES_MAX).read_until(b'\n', &mut self.line);
            let bytes = read.map_err(|source| Failure::Load { name: self.name.to_owned(), source })?;
            if bytes == 0 {
                return Ok(None);
            }
            self.position.offset += bytes as u64;
            self.position.lines += 1;
            if bytes as u64 == LINE_READ_BYTES_MAX && !self.line.ends_with(b"\n") {
                let (name, number) = (self.name.to_owned(), self.position.lines);
                return Err(Failure::LineSyntax { name, number, source: LineError::Long });
            }
            let words = split_words(self.name, self.position.lines, &self.line)?;
            if !words.is_empty() {
                return Ok(Some((self.position.lines, words)));
            }
        }
    }
}

/// Carries lines out.
struct Loader<'n> {
    persona: Persona,
    name: &'n str,
    labels: Option<LabelMap>,
    bulk: Bulk,
    /// The number of the last line that was sent or waits in the batch.
    last: u64,
}

impl<'n> Loader<'n> {
    /// Opens a bulk of requests, and reads the label file if one is named.
    ///
    /// # Errors
    /// A socket cannot be opened.
    fn open(persona: Persona, name: &'n str, labelmap: Option<&Path>) -> Result<Self, Failure> {
        let labels = labelmap.map(|path| labels::read_map(persona, Some(path)));
        let bulk = change::open_bulk("carry out a line", Format::default(), Vanished::Fail)?;
        Ok(Self { persona, name, labels, bulk, last: 0 })
    }

    /// Adds a request that was encoded when its line was checked.
    ///
    /// # Errors
    /// The batch cannot be sent, or lines in it were refused.
    fn send_staged(&mut self, number: u64, request: &[u8]) -> Result<(), Failure> {
        self.last = number;
        self.bulk.add(number, None, |writer, seq| writer.message_copy(request, seq))?;
        self.check_failed()
    }

    /// Parses a line again and carries it out.
    ///
    /// # Errors
    /// The line is wrong, or the kernel refused it or a line before it.
    fn run_line(&mut self, number: u64, words: Vec<OsString>) -> Result<(), Failure> {
        let mut plan = parse_line(self.persona, words).map_err(|usage| line_failure(self.name, number, usage))?;
        self.resolve_labels(&mut plan)?;
        match &plan.command {
            Command::Create(create) => {
                let change = create.creation.flow_change();
                self.last = number;
                self.bulk.add(number, None, |writer, seq| request::create(writer, seq, &change, create.if_exists))?;
                self.check_failed()
            }
            Command::Delete(delete) => {
                self.finish_lines()?;
                change::delete_selected(delete, &mut self.bulk)?;
                self.finish_changes(number)
            }
            Command::Update(update) => {
                self.finish_lines()?;
                change::update_selected(update, &mut self.bulk)?;
                self.finish_changes(number)
            }
            Command::Flush(flush) => {
                self.finish_lines()?;
                self.last = number;
                change::flush(*flush).or_else(|error| self.check_refused(vec![Refused { tag: number, error }]))?;
                Summary::Emptied(flush.subject).print(self.persona);
                Ok(())
            }
            _ => Ok(()), // `parse_line` accepts no other command
        }
    }

    /// Sets the bits of the label names in `plan`. Reads the system's label file first if none was named.
    ///
    /// # Errors
    /// A name is unknown.
    fn resolve_labels(&mut self, plan: &mut Plan) -> Result<(), Failure> {
        if self.labels.is_none() && labels::uses_labels(&plan.command) {
            self.labels = Some(labels::read_map(plan.persona, None));
        }
        self.labels.as_ref().map_or(Ok(()), |map| labels::set_label_bits(&mut plan.command, map))
    }

    /// Waits for the answers to all lines so far.
    ///
    /// # Errors
    /// The kernel refused some of them.
    fn finish_lines(&mut self) -> Result<(), Failure> {
        let Outcome { failed, .. } = self.bulk.outcome()?;
        self.check_refused(failed)
    }

    /// Fails if lines were refused in the batches answered so far.
    ///
    /// # Errors
    /// The kernel refused some lines.
    fn check_failed(&mut self) -> Result<(), Failure> {
        let failed = self.bulk.take_failed();
        self.check_refused(failed)
    }

    /// Waits for the answers to the requests of one line that selects flows. A flow that vanished meanwhile is no
    /// failure.
    ///
    /// # Errors
    /// The first refusal of another kind.
    fn finish_changes(&mut self, number: u64) -> Result<(), Failure> {
        let Outcome { failed, .. } = self.bulk.outcome()?;
        let first = failed.into_iter().find(|one| !super::bulk::is_not_found(&one.error));
        self.last = number;
        self.check_refused(first.into_iter().map(|one| Refused { tag: number, ..one }).collect())
    }

    /// Fails if there are refused lines.
    ///
    /// # Errors
    /// The first refusal, with the numbers of all refused lines.
    fn check_refused(&self, failed: Vec<Refused>) -> Result<(), Failure> {
        let more = failed.iter().skip(1).map(|one| one.tag).collect();
        let (name, last) = (self.name.to_owned(), self.last);
        match failed.into_iter().next() {
            Some(Refused { tag, error }) => Err(Failure::LineRefused { name, number: tag, error, more, last }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_line_that_never_ends_is_not_read_to_its_end() {
        let endless = File::open("/dev/zero").unwrap();
        let refused = check(Persona::Ctflow, "x", &endless, 0).err().map(|failure| failure.to_string());
        assert_eq!(refused.as_deref(), Some("x, line 1: the line has more than 10239 bytes; nothing was done"));
        let mut blanks = tempfile::tempfile().unwrap();
        blanks.write_all(&[&b"-F"[..], &b" ".repeat(60_000), b"\n-D"].concat()).unwrap();
        assert_eq!(check(Persona::Ctflow, "x", &blanks, 0).map(|checked| checked.count).ok(), Some(2));
    }

    #[test]
    fn input_that_cannot_seek_is_copied_up_to_a_bound() {
        assert_eq!(copy_to_memory(&b"-F\n"[..], 3).unwrap().metadata().unwrap().len(), 3);
        assert!(copy_to_memory(io::repeat(b'x'), 3).unwrap_err().to_string().starts_with("it has more than 3 bytes"));
    }

    #[test]
    fn every_line_is_staged_or_read_again_whatever_the_bound() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"# saved\n-A -p 50 -t 5 -s ::1 -d ::2\n\n-D -p tcp\n-A -p 51 -t 5 -s ::1 -d ::2\n  \n-F")
            .unwrap();
        let mut staged_counts = Vec::new();
        for bytes in [0, 1, 100, 250, 10_000] {
            let Checked { staged, rest, count, .. } = check(Persona::Ctflow, "x", &file, bytes).unwrap();
            let mut numbers: Vec<_> = staged.steps().map(|(number, _)| number).collect();
            staged_counts.push(numbers.len());
            let mut lines = Lines::from("x", &file, rest).unwrap();
            while let Some((number, _)) = lines.next().unwrap() {
                numbers.push(number);
            }
            assert_eq!((numbers, count), (vec![2, 4, 5, 7], 4), "{bytes}");
        }
        assert_eq!(staged_counts, [0, 1, 1, 3, 4], "each bound leaves other lines");
    }
}
