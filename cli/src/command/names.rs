//! Names of labels: the file that has them, and what they stand for in what was typed.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::failure::Failure;
use crate::flags::plan::{Command, Plan};
use crate::labels::LabelMap;
use crate::persona::Persona;

/// Reads the names if the command prints or was given any, and puts in what those it was given stand for.
///
/// # Errors
/// A name that no line of the file has.
pub(super) fn resolve(plan: &mut Plan) -> Result<Option<Arc<LabelMap>>, Failure> {
    let prints = prints(&plan.command);
    if !prints && !names_any(&plan.command) {
        return Ok(None);
    }
    let map = read(plan.persona, plan.labelmap.as_deref());
    put_in(&mut plan.command, &map)?;
    Ok(Some(Arc::new(map)).filter(|_| prints))
}

/// The names in `path`, or in the system's file; a file that cannot be read is told, and has none.
pub(super) fn read(persona: Persona, path: Option<&Path>) -> LabelMap {
    LabelMap::read(path).unwrap_or_else(|error| {
        let _ = writeln!(io::stderr().lock(), "{}: {error}", persona.banner()); // a closed stderr wants no warning
        LabelMap::default()
    })
}

fn prints(command: &Command) -> bool {
    let format = match command {
        Command::List(list) => list.format,
        Command::Get(get) => get.format,
        Command::Update(update) => update.format,
        Command::Events(events) => events.format,
        _ => return false,
    };
    format.labels || matches!(format.encoding, crate::output::Encoding::Save | crate::output::Encoding::Json)
}

pub(super) fn names_any(command: &Command) -> bool {
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

/// Puts the bits in that the names in `command` stand for.
///
/// # Errors
/// The first name that is not known.
pub(super) fn put_in(command: &mut Command, map: &LabelMap) -> Result<(), Failure> {
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
