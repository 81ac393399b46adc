//! A measured process: what it prints, what it costs, when it is ready, how it ends.
//!
//! Its output goes to a file in memory that has no name: nothing is written to a disk, nothing remains, and both programs
//! pay the same for it. CPU time is read while the process, or what remains of it until it is waited for, is still
//! there: `task/*/schedstat` is exact but knows only threads that live, so each thread's last known value is kept; `stat`
//! knows them all but counts whole ticks of 10 ms. Both are lower bounds, so the larger one is taken.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ctflow_engine::lab::Host;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open};

use crate::failure::Failure;
use crate::procfs;
use crate::program::Program;
use crate::wait::Deadline;

/// How often the memory and the threads of a running process are looked at: it can have had more memory for shorter, and
/// a thread that ends can have worked so much longer than is known.
const SAMPLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
/// How often a listener is looked at.
const TICK: Duration = Duration::from_millis(20);
/// Output that has not grown for so long is complete: ctflow writes after each round, which lasts a millisecond, and
/// what a program did hold back would show as missing only if it were not printed at its end either.
const QUIET: Duration = Duration::from_millis(700);
/// Subscribing takes milliseconds, even on a busy machine.
const READY_LONGEST: Duration = Duration::from_secs(10);
/// Printing 300,000 events takes seconds.
const SETTLE_LONGEST: Duration = Duration::from_secs(120);
/// Any command takes seconds; this is for one that hangs.
pub(crate) const RUN_TIMEOUT: Duration = Duration::from_secs(120);
/// Ending on SIGTERM takes milliseconds.
const END_LONGEST: Duration = Duration::from_secs(10);
/// What is shown of a failed program's standard error, at its end.
const SHOWN_BYTES: usize = 500;

/// A process that is being measured. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    command: String,
    child: Child,
    /// Ready to read once the process has ended.
    pidfd: OwnedFd,
    started: Instant,
    output: File,
    stderr: File,
    /// CPU time by thread id, of ended threads as well.
    threads_ns: HashMap<OsString, u64>,
}

/// A process that has ended well.
#[derive(Debug)]
pub(crate) struct Exited {
    /// From its start to its end.
    pub(crate) wall: Duration,
    /// User and system time of all its threads.
    pub(crate) cpu: Duration,
    /// The most memory it was seen to have had resident.
    pub(crate) peak_bytes: u64,
    /// What it printed.
    pub(crate) output: Vec<u8>,
}

impl Process {
    /// Starts `program` in the calling thread's network namespace.
    ///
    /// # Errors
    /// When it cannot be started.
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
    /// When it cannot be started.
    pub(crate) fn start_on(host: &Host, program: &Program, arguments: &[&str]) -> Result<Self, Failure> {
        let program = program.clone();
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        host.run(move || Self::start(&program, &arguments.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// Waits until its namespace, where nobody else listens, has a socket for all flow events.
    ///
    /// # Errors
    /// When that does not come, or the process ends.
    pub(crate) fn await_subscription(&mut self) -> Result<(), Failure> {
        let deadline = Deadline::new(format!("{} to subscribe", self.command), READY_LONGEST);
        deadline.poll(TICK, || {
            self.check_running()?;
            self.read("net/netlink").map(|text| procfs::netlink_has_listener(&text))
        })
    }

    /// Waits until its output has stopped growing.
    ///
    /// # Errors
    /// When it does not stop, or the process ends.
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

    /// CPU time so far.
    ///
    /// # Errors
    /// When `/proc` does not say.
    pub(crate) fn cpu(&mut self) -> Result<Duration, Failure> {
        let unreadable = || Failure::Unreadable(self.path("stat"));
        let ticks = procfs::stat_cpu_ns(&self.read("stat")?).ok_or_else(unreadable)?;
        self.sample_threads()?;
        Ok(Duration::from_nanos(ticks.max(self.threads_ns.values().sum())))
    }

    /// Memory resident now.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn resident_bytes(&mut self) -> Result<u64, Failure> {
        self.check_running()?;
        let unreadable = || Failure::Unreadable(self.path("status"));
        procfs::status_resident_bytes(&self.read("status")?).ok_or_else(unreadable)
    }

    /// Tells it to end, and returns all that it printed.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) fn stop(mut self) -> Result<Vec<u8>, Failure> {
        let pid = rustix::process::Pid::from_child(&self.child);
        let failed = format!("end {}", self.command);
        kill_process(pid, Signal::TERM).map_err(Failure::system(failed))?;
        let deadline = Deadline::new(format!("{} to end", self.command), END_LONGEST);
        while !self.exits_within(SAMPLE)? {
            deadline.check()?;
        }
        let _ = self.reap()?; // told to end: its status says nothing
        contents(&self.output)
    }

    /// Kills it, so that it can do nothing about it.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Waits for its own end, at most `longest`, looking at its memory meanwhile.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub(crate) fn run_to_end(mut self, longest: Duration) -> Result<Exited, Failure> {
        let deadline = Deadline::new(format!("{} to end", self.command), longest);
        let mut peak_bytes = self.peak_bytes();
        while !self.exits_within(SAMPLE)? {
            peak_bytes = peak_bytes.max(self.peak_bytes());
            self.sample_threads()?;
            deadline.check()?;
        }
        let wall = self.started.elapsed();
        let cpu = self.cpu()?; // before it is reaped, with which its figures go
        let status = self.reap()?;
        if !status.success() {
            return Err(self.exit_failure(status));
        }
        Ok(Exited { wall, cpu, peak_bytes, output: contents(&self.output)? })
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// With what it said last.
    pub(crate) fn check_running(&mut self) -> Result<(), Failure> {
        let status = self.child.try_wait().map_err(Failure::system(format!("look at {}", self.command)))?;
        status.map_or(Ok(()), |status| Err(self.exit_failure(status)))
    }

    fn exit_failure(&self, status: ExitStatus) -> Failure {
        let text = contents(&self.stderr).unwrap_or_default();
        let shown = text.get(text.len().saturating_sub(SHOWN_BYTES)..).unwrap_or_default();
        let said = String::from_utf8_lossy(shown).trim().to_owned();
        Failure::Exited { command: self.command.clone(), status, said }
    }

    fn exits_within(&self, longest: Timespec) -> Result<bool, Failure> {
        let mut watched = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut watched, Some(&longest)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(Failure::system(format!("wait for {}", self.command))(errno)),
        }
    }

    fn reap(&mut self) -> Result<ExitStatus, Failure> {
        self.child.wait().map_err(Failure::system(format!("wait for {}", self.command)))
    }

    fn sample_threads(&mut self) -> Result<(), Failure> {
        let folder = self.path("task");
        let failed = || Failure::system(format!("read {folder}"));
        for entry in fs::read_dir(&folder).map_err(failed())? {
            let thread = entry.map_err(failed())?;
            // A thread that has just ended, or a kernel without these statistics: `stat` has it.
            let text = fs::read_to_string(thread.path().join("schedstat"));
            if let Some(cpu_ns) = text.ok().and_then(|text| procfs::schedstat_cpu_ns(&text)) {
                self.threads_ns.insert(thread.file_name(), cpu_ns);
            }
        }
        Ok(())
    }

    /// 0 once it has ended.
    fn peak_bytes(&self) -> u64 {
        self.read("status").ok().and_then(|text| procfs::status_peak_bytes(&text)).unwrap_or(0)
    }

    fn length(&self) -> Result<u64, Failure> {
        Ok(self.output.metadata().map_err(Failure::system("look at a program's output"))?.len())
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
        // Does nothing to a process that was waited for: the standard library remembers.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn watch(child: &Child) -> Result<OwnedFd, Errno> {
    pidfd_open(rustix::process::Pid::from_child(child), PidfdFlags::empty())
}

/// Makes a file that has no name.
///
/// # Errors
/// When the system has no memory for one.
pub(crate) fn file_in_memory() -> Result<File, Failure> {
    let made = memfd_create(c"ctflow-perf", MemfdFlags::CLOEXEC);
    Ok(made.map_err(Failure::system("make a file in memory"))?.into())
}

/// The whole file, wherever the process that writes it has its position, which this process shares.
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
        assert!(failure.to_string().ends_with("ended with exit status: 3; it said: no such thing"), "{failure}");
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
