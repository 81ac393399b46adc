//! Names of labels: reads the file that defines them, and sets the bits of the names on the command line.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::failure::Failure;
use crate::flags::plan::{Command, Control, ControlRequest, Plan};
use crate::labels::LabelMap;
use crate::output::Encoding;
use crate::persona::Persona;

/// Reads the file of names if the command needs it, and sets the bits of the names in the command. Returns the names
/// for printing, if the command prints labels.
///
/// # Errors
/// A name in the command is not in the file.
pub(super) fn resolve(plan: &mut Plan) -> Result<Option<Arc<LabelMap>>, Failure> {
    let prints = label_output(&plan.command);
    let map = if uses_labels(&plan.command) || prints == LabelOutput::Names || plan.labelmap.is_some() {
        read_map(plan.persona, plan.labelmap.as_deref())
    } else if prints == LabelOutput::NamesIfAny {
        LabelMap::read(None).unwrap_or_default()
    } else {
        return Ok(None);
    };
    set_label_bits(&mut plan.command, &map)?;
    Ok(Some(Arc::new(map)).filter(|_| prints != LabelOutput::Nothing))
}

/// Returns the names in `path`, or in the system's file. A file that cannot be read is reported on standard error and
/// counts as empty.
pub(super) fn read_map(persona: Persona, path: Option<&Path>) -> LabelMap {
    LabelMap::read(path).unwrap_or_else(|error| {
        let _ = writeln!(io::stderr().lock(), "{}: {error}", persona.banner()); // no warning if stderr is closed
        LabelMap::default()
    })
}

/// What a command prints of labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LabelOutput {
    /// No labels.
    Nothing,
    /// Their names, because an option requests them.
    Names,
    /// Their names if a file defines any; without names the command prints numbers, or no labels.
    NamesIfAny,
}

/// Returns what the command prints of labels.
fn label_output(command: &Command) -> LabelOutput {
    let format = match command {
        Command::List(list) => list.format,
        Command::Get(get) => get.format,
        Command::Update(update) => update.format,
        Command::Events(events) => events.format,
        Command::Control(Control { request: ControlRequest::Dump { format, .. }, .. }) => *format,
        _ => return LabelOutput::Nothing,
    };
    match format.encoding {
        _ if format.labels => LabelOutput::Names,
        Encoding::Save | Encoding::Json => LabelOutput::NamesIfAny,
        Encoding::Text | Encoding::Xml => LabelOutput::Nothing,
    }
}

/// Returns whether the command has names of labels.
pub(super) fn uses_labels(command: &Command) -> bool {
    match command {
        Command::List(list) => !list.selection.labels.is_empty(),
        Command::Get(get) => !get.selection.labels.is_empty(),
        Command::Delete(delete) => !delete.selection.labels.is_empty(),
        Command::Events(events) => !events.selection.labels.is_empty(),
        Command::Create(create) => !create.creation.labels.is_empty(),
        Command::Update(update) => {
            let (selection, update) = (&update.selection, &update.update);
            [&selection.labels, &update.labels_add, &update.labels_del].iter().any(|names| !names.is_empty())
        }
        _ => false,
    }
}

/// Sets the bits of the names in `command`.
///
/// # Errors
/// The first name that is not in `map`.
pub(super) fn set_label_bits(command: &mut Command, map: &LabelMap) -> Result<(), Failure> {
    let bits = |names: &[String]| -> Result<u128, Failure> {
        if names.is_empty() { Ok(0) } else { Ok(map.labels(&names.join(","))?.0) }
    };
    match command {
        Command::List(list) => list.selection.label_bits = bits(&list.selection.labels)?,
        Command::Get(get) => get.selection.label_bits = bits(&get.selection.labels)?,
        Command::Delete(delete) => delete.selection.label_bits = bits(&delete.selection.labels)?,
        Command::Events(events) => events.selection.label_bits = bits(&events.selection.labels)?,
        Command::Create(create) => create.creation.label_bits = bits(&create.creation.labels)?,
        Command::Update(update) => {
            update.selection.label_bits = bits(&update.selection.labels)?;
            update.update.add_bits = bits(&update.update.labels_add)?;
            update.update.del_bits |= bits(&update.update.labels_del)?;
        }
        _ => {}
    }
    Ok(())
}
