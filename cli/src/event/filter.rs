//! Which events a command selects.

use ctflow_parser::error::ParseError;
use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::record::{Record, Subject as RecordSubject};

use crate::flags::plan::{EventMask, Events};
use crate::output::Subject;
use crate::selection::Selection;

/// The content of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum View<'a> {
    /// A flow.
    Flow(&'a FlowView<'a>),
    /// An expectation.
    Expectation(&'a ExpectView<'a>),
}

/// The events that a command selects. The kernel applies what it can of it; the daemon and capture files have all
/// events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter<'p> {
    pub(super) subject: Subject,
    pub(super) mask: EventMask,
    pub(super) selection: &'p Selection,
}

impl<'p> Filter<'p> {
    /// The filter of a plan.
    pub(crate) fn new(plan: &'p Events) -> Self {
        Self { subject: plan.subject, mask: plan.mask, selection: &plan.selection }
    }

    /// Parses a record of a selected kind, and calls `accept` with its content if that is selected, too.
    ///
    /// # Errors
    /// The record does not parse.
    pub(crate) fn select(&self, record: &Record<'_>, accept: impl FnOnce(View<'_>)) -> Result<(), ParseError> {
        // Capture files of nlmon devices have requests, too.
        if record.is_request() || !self.mask.has(record.event()) {
            return Ok(());
        }
        match (record.subject(), self.subject) {
            (RecordSubject::Flow, Subject::Flows) => {
                let flow = record.flow()?;
                if self.selection.matches(&flow) {
                    accept(View::Flow(&flow));
                }
            }
            (RecordSubject::Expect, Subject::Expectations) => accept(View::Expectation(&record.expect()?)),
            _ => {}
        }
        Ok(())
    }
}
