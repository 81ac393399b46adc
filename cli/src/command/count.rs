//! `-C` and `-S`: the number of entries of a table, and the kernel's counters of each CPU.
//!
//! Both need CAP_NET_ADMIN over netlink. Without it `/proc` has the same numbers for flows.

use std::fs;

use ctflow_engine::kernel::KernelError;
use ctflow_engine::kernel::dump::Dump;
use ctflow_engine::kernel::request::Requester;
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::record::{Record, Subject as RecordSubject};
use ctflow_parser::request::{self, Table};

use crate::failure::Failure;
use crate::flags::plan::{Count, Stats};
use crate::output::stdout::StdoutBuffer;
use crate::output::{Subject, stats};

const PROC_COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const PROC_STATS: &str = "/proc/self/net/stat/nf_conntrack";

/// Prints the number of entries.
///
/// # Errors
/// The kernel refused, and `/proc` does not have the number.
pub(super) fn count(plan: Count) -> Result<(), Failure> {
    let count = match plan.subject {
        Subject::Flows => match flow_count() {
            Err(Failure::Kernel(refusal)) => proc_count().ok_or(refusal)?,
            result => result?,
        },
        Subject::Expectations => expectation_count(plan.family)?,
    };
    let mut sink = StdoutBuffer::open()?;
    if plan.json {
        stats::count_object(&mut sink.lines, count);
    } else {
        stats::count_line(&mut sink.lines, count);
    }
    Ok(sink.flush()?)
}

/// Queries the kernel for the number of flows.
///
/// # Errors
/// The kernel refused, or its answer has no number.
pub(super) fn flow_count() -> Result<u32, Failure> {
    let mut entries = Ok(None);
    let on_record = |record: &Record<'_>| entries = record.global_stats().map(|stats| stats.entries);
    Requester::open()?.request("count the flows", request::global_stats, on_record)?;
    let count = entries.map_err(|first| Failure::Malformed { count: 1, first })?;
    count.ok_or(Failure::NoCount)
}

/// Reads the number of flows from `/proc`.
fn proc_count() -> Option<u32> {
    fs::read_to_string(PROC_COUNT).ok()?.trim().parse().ok()
}

/// Counts the expectations of a dump, because the kernel has no counter for them.
///
/// # Errors
/// The dump failed.
fn expectation_count(family: u8) -> Result<u32, KernelError> {
    let mut count = 0;
    let filter = DumpFilter { family, ..DumpFilter::default() };
    let on_record = |record: &Record<'_>| count += u32::from(record.subject() == RecordSubject::Expect);
    Dump::start(Table::Expect, &filter, false)?.read_all(on_record)?;
    Ok(count)
}

/// Prints the kernel's counters, a line for each CPU.
///
/// # Errors
/// The kernel refused and `/proc` does not have the counters, or the counters do not parse.
pub(super) fn statistics(plan: Stats) -> Result<(), Failure> {
    let mut sink = StdoutBuffer::open()?;
    match netlink_stats(plan, &mut sink.lines) {
        Err(Failure::Kernel(refusal)) => {
            let fallback = fs::read_to_string(PROC_STATS).ok().filter(|_| plan.subject == Subject::Flows);
            proc_stats(&fallback.ok_or(refusal)?, plan.json, &mut sink.lines);
        }
        result => result?,
    }
    Ok(sink.flush()?)
}

/// Appends a line or an object of counters for each CPU, from netlink.
///
/// # Errors
/// The kernel refused, or counters do not parse.
fn netlink_stats(plan: Stats, lines: &mut Vec<u8>) -> Result<(), Failure> {
    let table = match plan.subject {
        Subject::Flows => Table::Conntrack,
        Subject::Expectations => Table::Expect,
    };
    let mut malformed = None;
    Dump::cpu_stats(table)?.read_all(|record| {
        let print = if plan.json { stats::cpu_object } else { stats::cpu_line };
        if let Err(error) = print(lines, plan.subject, &record.cpu_stats()) {
            malformed = Some(error);
        }
    })?;
    malformed.map_or(Ok(()), |first| Err(Failure::Malformed { count: 1, first }))
}

/// Appends the counters of each CPU from the text of `/proc`: a line of names, then a line of hexadecimal numbers for
/// each CPU.
fn proc_stats(text: &str, json: bool, lines: &mut Vec<u8>) {
    let mut rows = text.lines();
    let names: Vec<_> = rows.next().unwrap_or_default().split_whitespace().collect();
    for (cpu, row) in (0..).zip(rows) {
        let values = row.split_whitespace().map(|value| u64::from_str_radix(value, 16).unwrap_or(0));
        let counters = names.iter().copied().zip(values);
        if json { stats::proc_object(lines, cpu, counters) } else { stats::proc_line(lines, cpu, counters) }
    }
}

#[test]
fn proc_statistics_are_printed_by_name_in_decimal() {
    let mut lines = Vec::new();
    proc_stats("entries  found insert\n00000005  0000001f 00000000\n00000005  00000000 0000000a\n", false, &mut lines);
    let expected = "cpu=0   \tentries=5 found=31 insert=0 \ncpu=1   \tentries=5 found=0 insert=10 \n";
    assert_eq!(String::from_utf8(lines).unwrap(), expected);
}
