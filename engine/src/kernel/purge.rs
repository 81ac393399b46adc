//! Flows out of this kernel's table, chosen one by one.

use ctflow_parser::filter::DumpFilter;
use ctflow_parser::flow::FlowView;
use ctflow_parser::request::{self, Selector, Table};
use ctflow_parser::tuple::FlowKey;
use ctflow_parser::write::Writer;

use super::KernelError;
use super::batch::Batch;
use super::dump::{Dump, Progress};

/// Reads the table and deletes what `select` chooses, by `batch`; gives how many flows went. What ends by itself meanwhile,
/// or became another flow, is left alone.
///
/// # Errors
/// The table could not be read to its end, or nothing may be deleted. What went until then is gone.
pub(crate) fn purge(batch: &mut Batch, mut select: impl FnMut(&FlowView<'_>) -> bool) -> Result<u64, KernelError> {
    let mut dump = Dump::start(Table::Conntrack, &DumpFilter::default(), false)?;
    let mut purged = 0;
    loop {
        let mut chosen: Vec<(FlowKey, u32)> = Vec::new();
        let progress = dump.read(|record| {
            let Ok(flow) = record.flow() else { return }; // what does not parse is not chosen
            if let Some(named) = flow.key().zip(flow.id).filter(|_| select(&flow)) {
                chosen.push(named);
            }
        })?;
        for (key, id) in chosen {
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
