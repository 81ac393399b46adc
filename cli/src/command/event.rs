//! `-E`: prints events as they arrive, until SIGINT, SIGTERM, or until the reader of standard output has gone. With
//! `--write` they go to a capture file instead; with `--read` and `--daemon` they come from elsewhere than the kernel.
//!
//! Sources, sinks and the loop between them are in [`crate::event`].

use std::sync::Arc;

use super::summary::Summary;
use crate::event::filter::Filter;
use crate::event::{self, sink, source};
use crate::failure::Failure;
use crate::flags::plan::Events;
use crate::labels::LabelMap;
use crate::persona::Persona;

/// Follows the source that `plan` names into its sink, and prints how many events were shown and lost.
///
/// # Errors
/// The source or the sink cannot be opened, the source cannot be read, the sink cannot be written, or events of a
/// capture file do not parse.
pub(super) fn run(persona: Persona, plan: &Events, labels: Option<Arc<LabelMap>>) -> Result<(), Failure> {
    let mut source = source::open(plan)?;
    let mut sink = sink::open(plan, labels)?;
    let followed = event::follow(persona.banner(), source.as_mut(), Filter::new(plan), sink.as_mut());
    // Events that a file still has are not lost, so a failed copy of it has no total.
    if plan.read.is_none() || !followed.sink_failed {
        Summary::Events(plan.subject, followed.shown, followed.lost).print(persona);
    }
    followed.result
}
