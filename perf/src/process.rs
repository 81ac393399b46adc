//! A measured process: its output, its cost, when it is ready, and how it ends.
//!
//! The output goes to an unnamed file in memory: nothing is written to a disk, nothing remains, and the cost is the
//! same for both programs. CPU time is read from `/proc` before the process is reaped. `task/*/schedstat` is exact but
//! covers only living threads, so the last value of each thread is kept. `stat` covers all threads but counts whole
//! ticks of 10 ms. Both are lower bounds; the larger one is used.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ctflow_lab::Host;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open};

use crate::failure::Failure;
use crate::procfs;
use crate::program::Program;
use crate::wait::Deadline;

/// The interval at which the memory and the threads of a running process are sampled. A shorter peak of memory is
/// missed, and so is the work of a thread between its last sample and its end.
const SAMPLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
/// The interval at which subscription and output are polled.
const TICK: Duration = Duration::from_millis(20);
/// Output that has not grown for this long is complete. ctflow writes after each round of a millisecond. Output that a
/// program buffers longer still counts if it is printed at the program's end.
const QUIET: Duration = Duration::from_millis(700);
/// How long a program may take to subscribe. It takes milliseconds, even on a busy machine.
const READY_LONGEST: Duration = Duration::from_secs(10);
/// How long a program may take to print all events. Printing 300,000 events takes seconds.
const SETTLE_LONGEST: Duration = Duration::from_secs(120);
/// How long a command may run. Any command takes seconds; the limit is for one that hangs.
pub(crate) const RUN_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a process may take to end on SIGTERM. It takes milliseconds.
const END_LONGEST: Duration = Duration::from_secs(10);
/// How many bytes of the end of a failed program's standard error are printed.
const SHOWN_BYTES: usize = 500;

/// A running process under measurement. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    command: String,
    child: Child,
    /// The process's descriptor. It is ready to read once the process has ended.
    pidfd: OwnedFd,
    started: Instant,
    output: File,
    stderr: File,
    /// CPU time by thread id, including threads that have ended.
    threads_ns: HashMap<OsString, u64>,
}

/// The measurements of a process that has succeeded.
#[derive(Debug)]
pub(crate) struct Exited {
    /// The time from before its start to its end.
    pub(crate) wall: Duration,
    /// User and system time of all its threads.
    pub(crate) cpu: Duration,
    /// The largest sampled peak of resident memory.
    pub(crate) peak_bytes: u64,
    /// Its standard output.
    pub(crate) output: Vec<u8>,
}

impl Process {
    /// Starts `program` in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(crate) fn start(program: &Program, arguments: &[&str]) -> Result<Self, Failure> {
        let command = format!("{} {}", program.path.display(), arguments.join(" "));
        let failed = || format!("start {command}");
        let (output, messages) = (file_in_memory()?, file_in_memory()?);
        let started = Instant::now();
        let mut child = Command::new(&program.path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(Failure::system(failed()))?)
            .stderr(messages.try_clone().map_err(Failure::system(failed()))?)
            .spawn()
            .map_err(Failure::system(failed()))?;
        match watch(&child) {
            Ok(end) => {
                let threads_ns = HashMap::new();
                Ok(Self { command, child, pidfd: end, started, output, stderr: messages, threads_ns })
            }
            Err(errno) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(Failure::system(failed())(errno))
            }
        }
    }

    /// Starts `program` in the network namespace of `host`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(crate) fn start_on(host: &Host, program: &Program, arguments: &[&str]) -> Result<Self, Failure> {
        let program = program.clone();
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        host.run(move || Self::start(&program, &arguments.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// Waits until the process has subscribed: until its namespace, where no other process listens, has a socket for
    /// all flow events.
    ///
    /// # Errors
    /// When the process does not subscribe in time, or ends.
    pub(crate) fn await_subscription(&mut self) -> Result<(), Failure> {
        let deadline = Deadline::new(format!("{} to subscribe", self.command), READY_LONGEST);
        deadline.poll(TICK, || {
            self.check_running()?;
            self.read("net/netlink").map(|text| procfs::netlink_has_listener(&text))
        })
    }

    /// Waits until the output has stopped growing.
    ///
    /// # Errors
    /// When the output does not stop growing in time, or the process ends.
    pub(crate) fn await_quiet(&mut self) -> Result<(), Failure> {
        let deadline = Deadline::new(format!("{} to be done", self.command), SETTLE_LONGEST);
        let (mut length, mut since) = (self.length()?, Instant::now());
        deadline.poll(TICK, || {
            self.check_running()?;
            let now = self.length()?;
            if now != length {
                (length, since) = (now, Instant::now());
            }
            Ok(since.elapsed() >= QUIET)
        })
    }

    /// The user and system time of all threads so far.
    ///
    /// # Errors
    /// When `/proc` cannot be read or parsed.
    pub(crate) fn cpu(&mut self) -> Result<Duration, Failure> {
        let unreadable = || Failure::Unreadable(self.path("stat"));
        let ticks = procfs::stat_cpu_ns(&self.read("stat")?).ok_or_else(unreadable)?;
        self.sample_threads()?;
        Ok(Duration::from_nanos(ticks.max(self.threads_ns.values().sum())))
    }

    /// The memory resident now.
    ///
    /// # Errors
    /// When the process has ended.
    pub(crate) fn resident_bytes(&mut self) -> Result<u64, Failure> {
        self.check_running()?;
        let unreadable = || Failure::Unreadable(self.path("status"));
        procfs::status_resident_bytes(&self.read("status")?).ok_or_else(unreadable)
    }

    /// Ends the process by SIGTERM, and returns its standard output.
    ///
    /// # Errors
    /// When the process does not end in time.
    pub(crate) fn stop(mut self) -> Result<Vec<u8>, Failure> {
        let pid = rustix::process::Pid::from_child(&self.child);
        let failed = format!("end {}", self.command);
        kill_process(pid, Signal::TERM).map_err(Failure::system(failed))?;
        let deadline = Deadline::new(format!("{} to end", self.command), END_LONGEST);
        while !self.exits_within(SAMPLE)? {
            deadline.check()?;
        }
        let _ = self.reap()?; // the status of a process ended by a signal is ignored
        contents(&self.output)
    }

    /// Kills the process by SIGKILL, as a crash does: it cannot clean up.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Waits at most `timeout` until the process ends by itself, and samples its memory and threads meanwhile.
    ///
    /// # Errors
    /// When the process does not end in time, or fails.
    pub(crate) fn run_to_end(mut self, timeout: Duration) -> Result<Exited, Failure> {
        let deadline = Deadline::new(format!("{} to end", self.command), timeout);
        let mut peak_bytes = self.peak_bytes();
        while !self.exits_within(SAMPLE)? {
            peak_bytes = peak_bytes.max(self.peak_bytes());
            self.sample_threads()?;
            deadline.check()?;
        }
        let wall = self.started.elapsed();
        let cpu = self.cpu()?; // before the process is reaped: then `/proc` has no figures of it any more
        let status = self.reap()?;
        if !status.success() {
            return Err(self.exit_failure(status));
        }
        Ok(Exited { wall, cpu, peak_bytes, output: contents(&self.output)? })
    }

    /// Checks that the process is running.
    ///
    /// # Errors
    /// [`Failure::Exited`] with its standard error when it has ended.
    pub(crate) fn check_running(&mut self) -> Result<(), Failure> {
        let status = self.child.try_wait().map_err(Failure::system(format!("inspect {}", self.command)))?;
        status.map_or(Ok(()), |status| Err(self.exit_failure(status)))
    }

    /// The failure of a process that ended with `status`.
    fn exit_failure(&self, status: ExitStatus) -> Failure {
        let text = contents(&self.stderr).unwrap_or_default();
        let shown = text.get(text.len().saturating_sub(SHOWN_BYTES)..).unwrap_or_default();
        let stderr = String::from_utf8_lossy(shown).trim().to_owned();
        Failure::Exited { command: self.command.clone(), status, stderr }
    }

    /// Waits at most `timeout` for the process's end, and returns whether it has ended.
    fn exits_within(&self, timeout: Timespec) -> Result<bool, Failure> {
        let mut watched = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut watched, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(Failure::system(format!("wait for {}", self.command))(errno)),
        }
    }

    /// Reaps the process, and returns its exit status.
    fn reap(&mut self) -> Result<ExitStatus, Failure> {
        self.child.wait().map_err(Failure::system(format!("wait for {}", self.command)))
    }

    /// Reads the CPU time of each living thread.
    fn sample_threads(&mut self) -> Result<(), Failure> {
        let folder = self.path("task");
        let failed = || Failure::system(format!("read {folder}"));
        for entry in fs::read_dir(&folder).map_err(failed())? {
            let thread = entry.map_err(failed())?;
            // Unreadable when the thread has just ended or the kernel lacks these statistics; `stat` covers both.
            let text = fs::read_to_string(thread.path().join("schedstat"));
            if let Some(cpu_ns) = text.ok().and_then(|text| procfs::schedstat_cpu_ns(&text)) {
                self.threads_ns.insert(thread.file_name(), cpu_ns);
            }
        }
        Ok(())
    }

    /// The peak of resident memory so far; 0 once the process has ended.
    fn peak_bytes(&self) -> u64 {
        self.read("status").ok().and_then(|text| procfs::status_peak_bytes(&text)).unwrap_or(0)
    }

    fn length(&self) -> Result<u64, Failure> {
        Ok(self.output.metadata().map_err(Failure::system("read the length of a program's output"))?.len())
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }

    fn read(&self, file: &str) -> Result<String, Failure> {
        let path = self.path(file);
        fs::read_to_string(&path).map_err(Failure::system(format!("read {path}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The standard library does not signal a process that was reaped.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Opens a descriptor of a child process.
fn watch(child: &Child) -> Result<OwnedFd, Errno> {
    pidfd_open(rustix::process::Pid::from_child(child), PidfdFlags::empty())
}

/// Creates an unnamed file in memory.
///
/// # Errors
/// When the system refuses the file.
pub(crate) fn file_in_memory() -> Result<File, Failure> {
    let made = memfd_create(c"ctflow-perf", MemfdFlags::CLOEXEC);
    Ok(made.map_err(Failure::system("make a file in memory"))?.into())
}

/// Reads the whole file. Uses positioned reads, since the writing process shares the file's position.
fn contents(file: &File) -> Result<Vec<u8>, Failure> {
    let failed = || Failure::system("read a program's output");
    let length = file.metadata().map_err(failed())?.len();
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0).map_err(failed())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let program = Program { name: "sh".into(), path: "/bin/sh".into() };
        Process::start(&program, &["-c", script]).unwrap()
    }

    const LONGEST: Duration = Duration::from_secs(30);

    #[test]
    fn output_and_cost_are_known_after_the_end() {
        let busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done";
        let ended = shell(busy).run_to_end(LONGEST).unwrap();
        assert_eq!(ended.output, b"done\n");
        assert!(ended.cpu > Duration::from_millis(5) && ended.cpu <= ended.wall, "{ended:?}");
        assert!(ended.peak_bytes > 100_000, "{ended:?}");
    }

    #[test]
    fn a_failed_exit_is_reported_with_standard_error() {
        let failure = shell("echo no such thing >&2; exit 3").run_to_end(LONGEST).unwrap_err();
        let expected = "ended with exit status: 3; its standard error: no such thing";
        assert!(failure.to_string().ends_with(expected), "{failure}");
        let failure = shell("exit 4").await_quiet().unwrap_err();
        assert!(failure.to_string().contains("exit status: 4"), "{failure}");
    }

    #[test]
    fn a_process_ends_on_sigterm_or_at_its_timeout() {
        let mut sleeper = shell("echo ready; exec sleep 60");
        sleeper.await_quiet().unwrap();
        assert_eq!(sleeper.stop().unwrap(), b"ready\n");
        let failure = shell("exec sleep 60").run_to_end(Duration::from_millis(10)).unwrap_err();
        assert!(matches!(failure, Failure::TimedOut { .. }), "{failure}");
    }
}
