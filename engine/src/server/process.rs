//! The memory and processor time of this process.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

use super::document::Process;

/// Reads memory and processor time from the kernel. A value that the kernel does not report is 0.
pub(super) fn measure_process() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let cpu_ms = number(cpu.tv_sec).saturating_mul(1_000).saturating_add(number(cpu.tv_nsec) / 1_000_000);
    Process { resident_bytes: resident(&status).unwrap_or(0), cpu_ms }
}

/// The resident memory in bytes: the line `VmRSS:      1234 kB` of proc_pid_status(5).
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory() {
        assert_eq!(resident("VmHWM:\t 9 kB\nVmRSS:\t    1234 kB\n"), Some(1_263_616));
        assert_eq!((resident("VmRSS:\t many kB\n"), resident("")), (None, None));
        assert!(measure_process().resident_bytes > 100_000);
    }
}
