//! `-R`: a file of commands, read twice: once to see that every line is right, once to carry them out.
//!
//! So a mistake anywhere means that nothing was done, and yet no more than a line is kept in mind. What cannot be read
//! twice (standard input, a pipe) is copied to a file without a name first. Lines that create flows go to the kernel in
//! batches; a line that does anything else waits for those before it. The first refusal ends the work after its batch,
//! and each refused line is told with its number.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use ctflow_engine::kernel::batch::Refused;
use ctflow_parser::request;
use rustix::fs::{MemfdFlags, memfd_create};

use super::mass::{Mass, Outcome, Vanished};
use super::progress::Progress;
use super::{change, names};
use crate::failure::Failure;
use crate::flags::plan::{Command, Load, Plan};
use crate::flags::usage::Usage;
use crate::flags::{line, parse_line};
use crate::labels::LabelMap;
use crate::output::Format;
use crate::persona::Persona;

/// Carries out the file that `plan` names.
///
/// # Errors
/// A file that cannot be read, a line that is wrong (nothing was done then), or one that the kernel refused.
pub(super) fn run(persona: Persona, plan: &Load) -> Result<(), Failure> {
    let (name, mut file) = open(plan)?;
    let failed = |source| Failure::Load { name: name.clone(), source };
    let (labelmap, total) = check(persona, &name, &file)?;
    let mut bar = Progress::of(total, "lines");
    file.rewind().map_err(failed)?;
    let mut loader = Loader::open(persona, labelmap.as_deref())?;
    let mut lines = Lines::new(&file);
    while let Some((number, words)) = lines.next(&name)? {
        let plan = parse_line(persona, words).map_err(|usage| wrong(&name, number, usage))?;
        loader.carry_out(number, plan, &name)?;
        bar.add(1);
    }
    loader.settle(&name)?;
    Ok(loader.mass.finish()?)
}

/// The file, where it can be read twice.
fn open(plan: &Load) -> Result<(String, File), Failure> {
    let (name, opened) = match plan {
        Load::Stdin => ("standard input".to_owned(), copied(io::stdin().lock())),
        Load::File(path) => (path.display().to_string(), File::open(path).and_then(seekable)),
    };
    opened.map_err(|source| Failure::Load { name: name.clone(), source }).map(|file| (name, file))
}

fn seekable(mut file: File) -> io::Result<File> {
    if file.stream_position().is_ok() { Ok(file) } else { copied(file) }
}

fn copied(mut source: impl Read) -> io::Result<File> {
    let mut copy = File::from(memfd_create(c"ctflow-load", MemfdFlags::CLOEXEC)?);
    io::copy(&mut source, &mut copy)?;
    copy.rewind()?;
    Ok(copy)
}

/// Reads every line; gives the label file that one of them names, and their number.
fn check(persona: Persona, name: &str, file: &File) -> Result<(Option<PathBuf>, u64), Failure> {
    let (mut labelmap, mut count) = (None, 0);
    let mut lines = Lines::new(file);
    while let Some((number, words)) = lines.next(name)? {
        let plan = parse_line(persona, words).map_err(|usage| wrong(name, number, usage))?;
        if let (Some(_), Some(_)) = (&labelmap, &plan.labelmap) {
            return Err(Failure::SecondLabelmap { name: name.to_owned(), number });
        }
        labelmap = labelmap.or(plan.labelmap);
        count += 1;
    }
    Ok((labelmap, count))
}

fn wrong(name: &str, number: u64, usage: Usage) -> Failure {
    Failure::Line { name: name.to_owned(), number, usage: Box::new(usage) }
}

/// The lines that say something, as words, with their numbers from 1.
struct Lines<'f> {
    file: BufReader<&'f File>,
    number: u64,
    line: Vec<u8>,
}

impl<'f> Lines<'f> {
    fn new(file: &'f File) -> Self {
        Self { file: BufReader::with_capacity(64 * 1024, file), number: 0, line: Vec::new() }
    }

    fn next(&mut self, name: &str) -> Result<Option<(u64, Vec<OsString>)>, Failure> {
        loop {
            self.line.clear();
            let read = self.file.read_until(b'\n', &mut self.line);
            if read.map_err(|source| Failure::Load { name: name.to_owned(), source })? == 0 {
                return Ok(None);
            }
            self.number += 1;
            let words = line::words(&self.line);
            let words =
                words.map_err(|source| Failure::Words { name: name.to_owned(), number: self.number, source })?;
            if !words.is_empty() {
                return Ok(Some((self.number, words)));
            }
        }
    }
}

/// What carries the lines out.
struct Loader {
    labels: Option<LabelMap>,
    mass: Mass,
}

impl Loader {
    fn open(persona: Persona, labelmap: Option<&Path>) -> Result<Self, Failure> {
        let labels = labelmap.map(|path| names::read(persona, Some(path)));
        let mass = change::mass("carry out a line", Format::default(), Vanished::Failure)?;
        Ok(Self { labels, mass })
    }

    fn carry_out(&mut self, number: u64, mut plan: Plan, name: &str) -> Result<(), Failure> {
        self.name_labels(&mut plan)?;
        match &plan.command {
            Command::Create(create) => {
                let change = create.creation.change();
                self.mass.add(number, None, |writer, seq| request::create(writer, seq, &change, create.existing))?;
                self.refuse_failed(name)
            }
            Command::Delete(delete) => {
                self.settle(name)?;
                change::delete_with(delete, &mut self.mass)?;
                self.settle_changes(number, name)
            }
            Command::Update(update) => {
                self.settle(name)?;
                change::update_with(update, &mut self.mass)?;
                self.settle_changes(number, name)
            }
            Command::Flush(flush) => {
                self.settle(name)?;
                change::flush(*flush).or_else(|error| refuse(name, vec![Refused { tag: number, error }]))
            }
            _ => Ok(()), // no other command is for files
        }
    }

    fn name_labels(&mut self, plan: &mut Plan) -> Result<(), Failure> {
        if self.labels.is_none() && names::names_any(&plan.command) {
            self.labels = Some(names::read(plan.persona, None));
        }
        self.labels.as_ref().map_or(Ok(()), |map| names::put_in(&mut plan.command, map))
    }

    /// Has the lines so far answered.
    fn settle(&mut self, name: &str) -> Result<(), Failure> {
        let Outcome { failed, .. } = self.mass.outcome()?;
        refuse(name, failed)
    }

    fn refuse_failed(&mut self, name: &str) -> Result<(), Failure> {
        let failed = self.mass.take_failed();
        refuse(name, failed)
    }

    /// Of a line that selects, what vanished meanwhile is no failure.
    fn settle_changes(&mut self, number: u64, name: &str) -> Result<(), Failure> {
        let Outcome { failed, .. } = self.mass.outcome()?;
        let first = failed.into_iter().find(|one| !super::mass::is_absence(&one.error));
        refuse(name, first.into_iter().map(|one| Refused { tag: number, ..one }).collect())
    }
}

/// The first of the refused lines as a failure that has all their numbers.
fn refuse(name: &str, failed: Vec<Refused>) -> Result<(), Failure> {
    let more = failed.iter().skip(1).map(|one| one.tag).collect();
    match failed.into_iter().next() {
        Some(Refused { tag, error }) => Err(Failure::LineRefused { name: name.to_owned(), number: tag, error, more }),
        None => Ok(()),
    }
}
