//! The lines and JSON objects of `-S` (counters of each CPU) and `-C` (number of entries).

use ctflow_parser::error::ParseError;
use ctflow_parser::stats::CpuStats;

use super::append::Append;
use super::{Subject, json};

/// Counters of the conntrack table in the kernel's order. The first is attribute 1, `CTA_STATS_SEARCHED`.
const FLOW_COUNTERS: [&str; 15] = [
    "searched",
    "found",
    "new",
    "invalid",
    "ignore",
    "delete",
    "delete_list",
    "insert",
    "insert_failed",
    "drop",
    "early_drop",
    "error",
    "search_restart",
    "clash_resolve",
    "chaintoolong",
];

/// Counters of the expectation table in the kernel's order. The first is attribute 1, `CTA_STATS_EXP_NEW`.
const EXPECT_COUNTERS: [&str; 3] = ["expect_new", "expect_create", "expect_delete"];

/// Appends one CPU's line: the counters that the kernel sent, in its order. Counters of newer kernels have no name
/// here; they are printed as `unknown1`, `unknown2` and so on, numbered from the last named counter.
///
/// # Errors
/// The first malformed counter. Nothing of the line is then left in `out`.
pub(crate) fn cpu_line(out: &mut Vec<u8>, subject: Subject, stats: &CpuStats<'_>) -> Result<(), ParseError> {
    let before = out.len();
    start_cpu_line(out, stats.cpu);
    for counter in stats.counters() {
        match counter {
            Ok((kind, value)) => {
                append_counter_name(out, subject, kind);
                append_counter_value(out, value.into());
            }
            Err(error) => {
                out.truncate(before);
                return Err(error);
            }
        }
    }
    out.literal(b"\n");
    Ok(())
}

/// Appends one CPU's line of counters that are already named, as in /proc/net/stat/nf_conntrack.
pub(crate) fn proc_line<'a>(out: &mut Vec<u8>, cpu: u16, counters: impl Iterator<Item = (&'a str, u64)>) {
    start_cpu_line(out, cpu);
    for (name, value) in counters {
        out.text(name);
        append_counter_value(out, value);
    }
    out.literal(b"\n");
}

/// Appends the number of entries as a line.
pub(crate) fn count_line(out: &mut Vec<u8>, entries: u32) {
    out.decimal(entries.into());
    out.literal(b"\n");
}

/// Appends one CPU's counters as a JSON object, with the names of [`cpu_line`].
///
/// # Errors
/// The first malformed counter. Nothing of the object is then left in `out`.
pub(crate) fn cpu_object(out: &mut Vec<u8>, subject: Subject, stats: &CpuStats<'_>) -> Result<(), ParseError> {
    let before = out.len();
    open_cpu_object(out, stats.cpu);
    for counter in stats.counters() {
        match counter {
            Ok((kind, value)) => {
                out.literal(b"\"");
                append_counter_name(out, subject, kind);
                out.literal(b"\":");
                out.decimal(value.into());
                out.literal(b",");
            }
            Err(error) => {
                out.truncate(before);
                return Err(error);
            }
        }
    }
    json::finish_line(out);
    Ok(())
}

/// Appends one CPU's already named counters as a JSON object.
pub(crate) fn proc_object<'a>(out: &mut Vec<u8>, cpu: u16, counters: impl Iterator<Item = (&'a str, u64)>) {
    open_cpu_object(out, cpu);
    for (name, value) in counters {
        json::quoted(out, name);
        out.literal(b":");
        out.decimal(value);
        out.literal(b",");
    }
    json::finish_line(out);
}

/// Appends the number of entries as a JSON object.
pub(crate) fn count_object(out: &mut Vec<u8>, entries: u32) {
    out.literal(b"{\"entries\":");
    out.decimal(entries.into());
    out.literal(b"}\n");
}

/// Appends the start of a CPU's JSON object: its number.
fn open_cpu_object(out: &mut Vec<u8>, cpu: u16) {
    out.literal(b"{\"cpu\":");
    out.decimal(cpu.into());
    out.literal(b",");
}

/// Appends `cpu=N`, with the number padded to four characters, and a tab.
fn start_cpu_line(out: &mut Vec<u8>, cpu: u16) {
    out.literal(b"cpu=");
    let padded = out.len() + 4;
    out.decimal(cpu.into());
    out.resize(out.len().max(padded), b' ');
    out.literal(b"\t");
}

/// Appends the name of the counter in attribute `kind`.
fn append_counter_name(out: &mut Vec<u8>, subject: Subject, kind: u16) {
    let names: &[&str] = match subject {
        Subject::Flows => &FLOW_COUNTERS,
        Subject::Expectations => &EXPECT_COUNTERS,
    };
    let kind = usize::from(kind);
    match kind.checked_sub(1).and_then(|index| names.get(index)) {
        Some(name) => out.text(name),
        None => {
            out.text("unknown");
            out.decimal(u64::try_from(kind.saturating_sub(names.len())).unwrap_or(u64::MAX));
        }
    }
}

/// Appends `=`, a counter's value and a space. The last value of a line has a space, too, as in conntrack.
fn append_counter_value(out: &mut Vec<u8>, value: u64) {
    out.literal(b"=");
    out.decimal(value);
    out.literal(b" ");
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctflow_parser::frame::{Message, Messages};
    use ctflow_parser::uapi;
    use ctflow_parser::write::Writer;

    fn line(subject: Subject, cpu: u16, counters: &[(u16, u32)]) -> String {
        printed(subject, cpu, counters, cpu_line)
    }

    type PrintCpu = fn(&mut Vec<u8>, Subject, &CpuStats<'_>) -> Result<(), ParseError>;

    fn printed(subject: Subject, cpu: u16, counters: &[(u16, u32)], print_cpu: PrintCpu) -> String {
        let (subsystem, kind) = match subject {
            Subject::Flows => (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_STATS_CPU),
            Subject::Expectations => (uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_GET_STATS_CPU),
        };
        let mut buffer = [0; 512];
        let mut writer = Writer::new(&mut buffer);
        let body = |message: &mut Writer<'_>| counters.iter().try_for_each(|(kind, value)| message.be32(*kind, *value));
        writer.netfilter(subsystem, kind, 0, 1, uapi::AF_UNSPEC, cpu, body).unwrap();
        let Some(Ok(Message::Record(record))) = Messages::new(writer.bytes()).next() else { panic!("no record") };
        let mut out = Vec::new();
        print_cpu(&mut out, subject, &record.cpu_stats()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn counters_of_flows_as_captured() {
        let kinds = [2, 4, 8, 9, 10, 11, 12, 13, 14, 15];
        let counters = kinds.map(|kind| (kind, if kind == uapi::CTA_STATS_INSERT { 31 } else { 0 }));
        let captured = "cpu=1   \tfound=0 invalid=0 insert=31 insert_failed=0 drop=0 early_drop=0 error=0 \
                        search_restart=0 clash_resolve=0 chaintoolong=0 \n";
        assert_eq!(line(Subject::Flows, 1, &counters), captured);
    }

    #[test]
    fn counters_of_expectations_as_captured() {
        let captured = "cpu=0   \texpect_new=0 expect_create=1 expect_delete=0 \n";
        assert_eq!(line(Subject::Expectations, 0, &[(1, 0), (2, 1), (3, 0)]), captured);
    }

    #[test]
    fn counters_of_newer_kernels_are_numbered() {
        assert_eq!(line(Subject::Flows, 12345, &[(16, 7), (17, 8)]), "cpu=12345\tunknown1=7 unknown2=8 \n");
    }

    #[test]
    fn names_and_values_of_proc_as_captured() {
        let mut out = Vec::new();
        proc_line(&mut out, 0, [("entries", 0), ("clashres", 0), ("insert", 3)].into_iter());
        count_line(&mut out, 7);
        assert_eq!(String::from_utf8(out).unwrap(), "cpu=0   \tentries=0 clashres=0 insert=3 \n7\n");
    }

    #[test]
    fn objects_have_the_counter_names_of_lines() {
        let cpu = printed(Subject::Flows, 1, &[(2, 3), (uapi::CTA_STATS_INSERT, u32::MAX), (16, 7)], cpu_object);
        assert_eq!(cpu, "{\"cpu\":1,\"found\":3,\"insert\":4294967295,\"unknown1\":7}\n");
        let expect = printed(Subject::Expectations, 0, &[(2, 1)], cpu_object);
        assert_eq!(expect, "{\"cpu\":0,\"expect_create\":1}\n");
        let mut out = Vec::new();
        proc_object(&mut out, 2, [("entries", 0), ("a\"b", 3)].into_iter());
        count_object(&mut out, 7);
        let expected = "{\"cpu\":2,\"entries\":0,\"a\\\"b\":3}\n{\"entries\":7}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
