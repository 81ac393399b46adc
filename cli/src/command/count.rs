//! `-C` and `-S`: how many entries a table has, and what the kernel counts about it.
//!
//! Both need rights over netlink; without them the same numbers stand in `/proc`, for flows at least.

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
/// The kernel's refusal, where `/proc` does not help either.
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

/// How many flows there are.
pub(super) fn flow_count() -> Result<u32, Failure> {
    let mut entries = Ok(None);
    let on_record = |record: &Record<'_>| entries = record.global_stats().map(|stats| stats.entries);
    Requester::open()?.request("count the flows", request::global_stats, on_record)?;
    let count = entries.map_err(|first| Failure::Malformed { count: 1, first })?;
    count.ok_or(Failure::NoCount)
}

fn proc_count() -> Option<u32> {
    fs::read_to_string(PROC_COUNT).ok()?.trim().parse().ok()
}

/// The kernel keeps no count of expectations, so they are listed.
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
/// The kernel's refusal, where `/proc` does not help either; counters that do not parse.
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

/// A header line of names, then a line of hexadecimal numbers for each CPU.
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
