//! `-R`: a file of commands, looked at twice: once to see that every line is right, once to carry them out.
//!
//! So a mistake anywhere means that nothing was done. What a checked line asks of the kernel is kept [`Prepared`] until all
//! are checked, and past a bound read from the file again: a file of any size takes no more memory than that. What cannot
//! be read twice (standard input, a pipe) is copied first, to memory, and refused where it is larger than [`COPIED_BYTES_MAX`].
//!
//! Lines that create flows go to the kernel in batches; a line that does anything else waits for those before it. The
//! first refusal ends the work after its batch, and each refused line is told with its number, and how far the batch went.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ctflow_engine::kernel::batch::Refused;
use ctflow_engine::limits::LOAD_PREPARED_BYTES;
use ctflow_parser::request;
use rustix::fs::{MemfdFlags, memfd_create};

use super::bulk::{Mass, Outcome, Vanished};
use super::progress::Progress;
use super::staged::{Prepared, Step};
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

/// The most bytes of standard input or a pipe: about five million lines.
const COPIED_BYTES_MAX: u64 = 1_024 * 1_024 * 1_024;

/// Carries out the file that `plan` names.
///
/// # Errors
/// A file that cannot be read, a line that is wrong (nothing was done then), or one that the kernel refused.
pub(super) fn run(persona: Persona, plan: &Load) -> Result<(), Failure> {
    let (name, file) = open(plan)?;
    let Checked { labelmap, prepared, rest, count, only_creates } = check(persona, &name, &file, LOAD_PREPARED_BYTES)?;
    // Lines that go through the table print, and have a bar each.
    let mut bar = if only_creates { Progress::of(count, "lines") } else { Progress::none() };
    let mut loader = Loader::open(persona, &name, labelmap.as_deref())?;
    for (number, step) in prepared.steps() {
        match step {
            Step::Request(request) => loader.send(number, request)?,
            Step::Line(line) => loader.line(number, words(&name, number, line)?)?,
        }
        bar.add(1);
    }
    drop(prepared);
    let mut lines = Lines::from(&name, &file, rest)?;
    while let Some((number, words)) = lines.next()? {
        loader.line(number, words)?;
        bar.add(1);
    }
    loader.settle()?;
    Ok(loader.mass.finish()?)
}

/// The file, where it can be read twice.
fn open(plan: &Load) -> Result<(String, File), Failure> {
    let (name, opened) = match plan {
        Load::Stdin => ("standard input".to_owned(), copied(io::stdin().lock(), COPIED_BYTES_MAX)),
        Load::File(path) => (path.display().to_string(), File::open(path).and_then(seekable)),
    };
    opened.map_err(|source| Failure::Load { name: name.clone(), source }).map(|file| (name, file))
}

fn seekable(mut file: File) -> io::Result<File> {
    if file.stream_position().is_ok() { Ok(file) } else { copied(file, COPIED_BYTES_MAX) }
}

fn copied(source: impl Read, bytes_max: u64) -> io::Result<File> {
    let mut copy = File::from(memfd_create(c"ctflow-load", MemfdFlags::CLOEXEC)?);
    if io::copy(&mut source.take(bytes_max + 1), &mut copy)? > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes: save it to a file, and load that")));
    }
    copy.rewind()?;
    Ok(copy)
}

/// A file whose lines are all right.
struct Checked {
    /// The label file that one of them names.
    labelmap: Option<PathBuf>,
    /// The first of them.
    prepared: Prepared,
    /// Where the others begin.
    rest: Place,
    /// How many there are.
    count: u64,
    /// Whether all of them create a flow.
    only_creates: bool,
}

fn check(persona: Persona, name: &str, file: &File, prepared_bytes: usize) -> Result<Checked, Failure> {
    let mut lines = Lines::from(name, file, Place::default())?;
    let prepared = Prepared::new(prepared_bytes);
    let mut checked = Checked { labelmap: None, prepared, rest: Place::default(), count: 0, only_creates: true };
    while let Some((number, words)) = lines.next()? {
        let plan = parse_line(persona, words).map_err(|usage| wrong(name, number, usage))?;
        if !checked.prepared.is_full() {
            checked.prepared.keep(number, &plan, &lines.line);
            checked.rest = lines.place;
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

fn wrong(name: &str, number: u64, usage: Usage) -> Failure {
    Failure::LineUsage { name: name.to_owned(), number, usage: Box::new(usage) }
}

fn words(name: &str, number: u64, line: &[u8]) -> Result<Vec<OsString>, Failure> {
    line::split_words(line).map_err(|source| Failure::LineSyntax { name: name.to_owned(), number, source })
}

/// A place between two lines.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Bytes before it.
    offset: u64,
    /// Lines before it.
    lines: u64,
}

/// The lines that say something, as words, with their numbers from 1.
struct Lines<'f> {
    name: &'f str,
    file: BufReader<&'f File>,
    /// Behind the line that was read last.
    place: Place,
    line: Vec<u8>,
}

impl<'f> Lines<'f> {
    fn from(name: &'f str, mut file: &'f File, place: Place) -> Result<Self, Failure> {
        file.seek(SeekFrom::Start(place.offset)).map_err(|source| Failure::Load { name: name.to_owned(), source })?;
        Ok(Self { name, file: BufReader::with_capacity(64 * 1024, file), place, line: Vec::new() })
    }

    fn next(&mut self) -> Result<Option<(u64, Vec<OsString>)>, Failure> {
        loop {
            self.line.clear();
            let read = self.file.by_ref().take(LINE_READ_BYTES_MAX).read_until(b'\n', &mut self.line);
            let bytes = read.map_err(|source| Failure::Load { name: self.name.to_owned(), source })?;
            if bytes == 0 {
                return Ok(None);
            }
            self.place.offset += bytes as u64;
            self.place.lines += 1;
            if bytes as u64 == LINE_READ_BYTES_MAX && !self.line.ends_with(b"\n") {
                let (name, number) = (self.name.to_owned(), self.place.lines);
                return Err(Failure::LineSyntax { name, number, source: LineError::Long });
            }
            let words = words(self.name, self.place.lines, &self.line)?;
            if !words.is_empty() {
                return Ok(Some((self.place.lines, words)));
            }
        }
    }
}

/// What carries the lines out.
struct Loader<'n> {
    persona: Persona,
    name: &'n str,
    labels: Option<LabelMap>,
    mass: Mass,
    /// The last line that was sent, or waits in the batch.
    last: u64,
}

impl<'n> Loader<'n> {
    fn open(persona: Persona, name: &'n str, labelmap: Option<&Path>) -> Result<Self, Failure> {
        let labels = labelmap.map(|path| labels::read(persona, Some(path)));
        let mass = change::mass("carry out a line", Format::default(), Vanished::Failure)?;
        Ok(Self { persona, name, labels, mass, last: 0 })
    }

    /// Sends a request that was written when its line was checked.
    fn send(&mut self, number: u64, request: &[u8]) -> Result<(), Failure> {
        self.last = number;
        self.mass.add(number, None, |writer, seq| writer.message_copy(request, seq))?;
        self.refuse_failed()
    }

    fn line(&mut self, number: u64, words: Vec<OsString>) -> Result<(), Failure> {
        let mut plan = parse_line(self.persona, words).map_err(|usage| wrong(self.name, number, usage))?;
        self.name_labels(&mut plan)?;
        match &plan.command {
            Command::Create(create) => {
                let change = create.creation.flow_change();
                self.last = number;
                self.mass.add(number, None, |writer, seq| request::create(writer, seq, &change, create.if_exists))?;
                self.refuse_failed()
            }
            Command::Delete(delete) => {
                self.settle()?;
                change::delete_with(delete, &mut self.mass)?;
                self.settle_changes(number)
            }
            Command::Update(update) => {
                self.settle()?;
                change::update_with(update, &mut self.mass)?;
                self.settle_changes(number)
            }
            Command::Flush(flush) => {
                self.settle()?;
                self.last = number;
                change::flush(*flush).or_else(|error| self.refuse(vec![Refused { tag: number, error }]))?;
                Summary::Emptied(flush.subject).print(self.persona);
                Ok(())
            }
            _ => Ok(()), // no other command is for files
        }
    }

    fn name_labels(&mut self, plan: &mut Plan) -> Result<(), Failure> {
        if self.labels.is_none() && labels::names_any(&plan.command) {
            self.labels = Some(labels::read(plan.persona, None));
        }
        self.labels.as_ref().map_or(Ok(()), |map| labels::put_in(&mut plan.command, map))
    }

    /// Has the lines so far answered.
    fn settle(&mut self) -> Result<(), Failure> {
        let Outcome { failed, .. } = self.mass.outcome()?;
        self.refuse(failed)
    }

    fn refuse_failed(&mut self) -> Result<(), Failure> {
        let failed = self.mass.take_failed();
        self.refuse(failed)
    }

    /// Of a line that selects, what vanished meanwhile is no failure.
    fn settle_changes(&mut self, number: u64) -> Result<(), Failure> {
        let Outcome { failed, .. } = self.mass.outcome()?;
        let first = failed.into_iter().find(|one| !super::bulk::is_absence(&one.error));
        self.last = number;
        self.refuse(first.into_iter().map(|one| Refused { tag: number, ..one }).collect())
    }

    /// The first of the refused lines as a failure that has all their numbers.
    fn refuse(&self, failed: Vec<Refused>) -> Result<(), Failure> {
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
    fn what_cannot_be_read_twice_is_copied_up_to_a_bound() {
        assert_eq!(copied(&b"-F\n"[..], 3).unwrap().metadata().unwrap().len(), 3);
        assert!(copied(io::repeat(b'x'), 3).unwrap_err().to_string().starts_with("it has more than 3 bytes"));
    }

    #[test]
    fn every_line_is_prepared_or_left_for_later_whatever_the_bound() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"# saved\n-A -p 50 -t 5 -s ::1 -d ::2\n\n-D -p tcp\n-A -p 51 -t 5 -s ::1 -d ::2\n  \n-F")
            .unwrap();
        let mut prepared_lines = Vec::new();
        for bytes in [0, 1, 100, 250, 10_000] {
            let Checked { prepared, rest, count, .. } = check(Persona::Ctflow, "x", &file, bytes).unwrap();
            let mut numbers: Vec<_> = prepared.steps().map(|(number, _)| number).collect();
            prepared_lines.push(numbers.len());
            let mut lines = Lines::from("x", &file, rest).unwrap();
            while let Some((number, _)) = lines.next().unwrap() {
                numbers.push(number);
            }
            assert_eq!((numbers, count), (vec![2, 4, 5, 7], 4), "{bytes}");
        }
        assert_eq!(prepared_lines, [0, 1, 1, 3, 4], "each bound leaves other lines");
    }
}
