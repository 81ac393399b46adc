//! The machine that a benchmark runs on.

use std::fs;
use std::thread::available_parallelism;

use super::results::Machine;

/// Reads the machine's properties. An unknown one is "unknown" or 0.
pub(super) fn detect() -> Machine {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let name = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    let meminfo = read("/proc/meminfo");
    let memory = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    let loadavg = read("/proc/loadavg");
    let load = loadavg.split_ascii_whitespace().next();
    Machine {
        processor: name.map_or("unknown", |(_, name)| name.trim()).to_owned(),
        cores: available_parallelism().map_or(1, usize::from),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        memory_bytes: memory.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) * 1_024,
        load_average: load.and_then(|load| load.parse().ok()).unwrap_or(0.0),
    }
}
