//! Purging: deletes selected flows from this kernel's table.

use ctflow_parser::filter::DumpFilter;
use ctflow_parser::flow::FlowView;
use ctflow_parser::request::{self, Selector, Table};
use ctflow_parser::tuple::FlowKey;
use ctflow_parser::write::Writer;

use super::KernelError;
use super::batch::Batch;
use super::dump::{Dump, Progress};

/// Dumps the table and deletes the flows for which `select` returns true; returns how many were deleted. A flow is
/// deleted by key and id, so a new flow with the same key is not touched.
///
/// # Errors
/// [`KernelError`] where the table could not be read to its end, or the process may not delete flows. The flows deleted
/// until then stay deleted.
pub(crate) fn purge(batch: &mut Batch, mut select: impl FnMut(&FlowView<'_>) -> bool) -> Result<u64, KernelError> {
    let mut dump = Dump::start(Table::Conntrack, &DumpFilter::default(), false)?;
    let mut purged = 0;
    loop {
        let mut selected: Vec<(FlowKey, u32)> = Vec::new();
        let progress = dump.read(|record| {
            let Ok(flow) = record.flow() else { return }; // a malformed flow is not selected
            if let Some(key_and_id) = flow.key().zip(flow.id).filter(|_| select(&flow)) {
                selected.push(key_and_id);
            }
        })?;
        for (key, id) in selected {
            let which = Selector::Orig(key.orig);
            let zone = key.named_zone();
            let write = |writer: &mut Writer<'_>, seq| request::delete(writer, seq, &which, zone, Some(id));
            batch.add(0, write, &mut |_| {})?;
        }
        purged += batch.finish(&mut |_| {})?.carried_out();
        if progress == Progress::Done {
            return Ok(purged);
        }
    }
}
