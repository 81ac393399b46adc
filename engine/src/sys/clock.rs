//! Reads the processor time of any thread of this process, to the nanosecond and without `/proc`.

use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::Pid;

use super::pages::last_errno;

/// The low bits of a clock id that select the time of one thread, as the scheduler counts it: `CPUCLOCK_PERTHREAD_MASK`
/// and `CPUCLOCK_SCHED` of the kernel's `include/linux/posix-timers_types.h`. The bits above them are the thread id's
/// complement.
const OF_A_THREAD: libc::clockid_t = 4 | 2;

/// The processor time of thread `id` since it started, in user and kernel mode.
///
/// # Errors
/// `EINVAL` when this process has no such thread any more.
pub(crate) fn thread_cpu(id: Pid) -> Result<Duration, Errno> {
    let clock = (!id.as_raw_nonzero().get()) << 3 | OF_A_THREAD;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`, which is what `time` is, borrowed mutably for the call.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } < 0 {
        return Err(last_errno());
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Ok(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_thread_that_works_takes_time_and_one_that_has_ended_has_none() {
        let (id_sender, id_receiver) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let worker = std::thread::spawn(move || {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(20) {
                black_box(start);
            }
            id_sender.send(rustix::thread::gettid()).unwrap();
            let _ = stopped.recv();
        });
        let id = id_receiver.recv().unwrap();
        let (busy, here) = (thread_cpu(id).unwrap(), thread_cpu(rustix::thread::gettid()).unwrap());
        assert!(busy >= Duration::from_millis(2), "{busy:?} of a thread that was busy, on however little of a core");
        assert!(here < busy, "{here:?} of a thread that waited");
        drop(stop);
        worker.join().unwrap();
        assert!(thread_cpu(id).is_err());
    }
}
