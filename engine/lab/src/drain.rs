//! The floor of a capture: the same sockets, back ends and pinned threads receive every event and discard it.
//!
//! The floor's cost per event is the kernel's: waking, copying, freeing. A capture's cost beyond it is our own code's.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::bounded;

use ctflow_engine::capture::listener::{ListenError, Listener, Patience};
use ctflow_engine::capture::socket::{EventSocket, Options};
use ctflow_engine::capture::steer::Share;
use ctflow_engine::engine::{Settings, StartError, pin, wake_channel};
use ctflow_engine::worker::threads::{self, Duty, Thread};

/// Events received and discarded so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Datagrams received; each holds one event.
    pub datagrams: u64,
    /// Events that the kernel dropped because a socket's buffer was full.
    pub lost: u64,
    /// Times that a thread received a batch of events.
    pub rounds: u64,
}

/// The counters of one thread. Only that thread writes them; aligned so that two threads share no cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct DrainCounters {
    datagrams: AtomicU64,
    lost: AtomicU64,
    rounds: AtomicU64,
}

/// Threads that receive and discard events, one for each worker that a capture would have. Dropping it stops them.
#[derive(Debug)]
pub struct Drain {
    threads: Vec<Thread>,
    handles: Vec<JoinHandle<Result<(), ListenError>>>,
    wakers: Vec<UnixStream>,
    counters: Vec<Arc<DrainCounters>>,
    stop: Arc<AtomicBool>,
}

impl Drain {
    /// Opens the sockets in the calling thread's network namespace and starts the threads, as
    /// [`Engine::start`](ctflow_engine::engine::Engine::start) does with these settings. Ignores the settings of replication.
    ///
    /// # Errors
    /// [`StartError`] when a socket cannot be opened or a thread cannot be started.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        let mut drain = Self {
            threads: Vec::new(),
            handles: Vec::new(),
            wakers: Vec::new(),
            counters: Vec::new(),
            stop: Arc::default(),
        };
        for index in 0..settings.workers {
            drain.start_thread(settings, index)?;
        }
        Ok(drain)
    }

    /// Opens the socket of worker `index`, starts its thread, and waits until the thread listens or has failed.
    fn start_thread(&mut self, settings: &Settings, index: u32) -> Result<(), StartError> {
        let share = Share { worker: index, workers: settings.workers };
        let socket = EventSocket::open(&Options { share, ..settings.socket.clone() })?;
        let (wake, waker, interrupts) = wake_channel()?;
        let counters = Arc::<DrainCounters>::default();
        let (report, ready) = bounded(1);
        let body = {
            let (backend, pinned, stop, counters) =
                (settings.backend, settings.pin, self.stop.clone(), counters.clone());
            move || {
                if pinned {
                    pin(index);
                }
                match Listener::new(socket, backend, interrupts) {
                    Ok(listener) => {
                        let _ = report.send(Ok(())); // the channel has room for this one message
                        discard_events(listener, &wake, &stop, &counters)
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                        Ok(())
                    }
                }
            }
        };
        let started = threads::start(format!("ctflow-drain{index}"), Duty::Worker(index), body);
        let (handle, thread) = started.map_err(StartError::system("threads"))?;
        self.handles.push(handle);
        self.threads.push(thread);
        self.wakers.push(waker);
        self.counters.push(counters);
        // A thread that panicked reports nothing; `stop` resumes its panic.
        ready.recv().unwrap_or(Ok(())).map_err(StartError::from)
    }

    /// The threads, in the order of the workers that they stand for.
    #[must_use]
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// The sums over all threads, read while they run.
    #[must_use]
    pub fn totals(&self) -> Drained {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.counters.iter().fold(Drained::default(), |sum, one| Drained {
            datagrams: sum.datagrams + read(&one.datagrams),
            lost: sum.lost + read(&one.lost),
            rounds: sum.rounds + read(&one.rounds),
        })
    }

    /// Stops all threads.
    ///
    /// # Errors
    /// The [`ListenError`] of the first thread that failed before it was stopped.
    ///
    /// # Panics
    /// Resumes the panic of a thread that panicked.
    pub fn stop(mut self) -> Result<(), ListenError> {
        self.shut_down().into_iter().try_for_each(|end| end.unwrap_or_else(|panic| resume_unwind(panic)))
    }

    /// Stops and joins all threads, and returns how each ended.
    fn shut_down(&mut self) -> Vec<thread::Result<Result<(), ListenError>>> {
        self.stop.store(true, Ordering::Relaxed);
        // Where the socket is full, a wake-up is already pending.
        self.wakers.iter_mut().for_each(|waker| _ = waker.write(&[0]));
        self.handles.drain(..).map(JoinHandle::join).collect()
    }

    /// Whether every thread is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.handles.iter().all(|handle| !handle.is_finished())
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        drop(self.shut_down()); // a caller interested in the errors calls `stop`
    }
}

/// Receives and discards events until `stop` is set, and updates `counters` after each round.
fn discard_events(
    mut listener: Listener,
    wake: &UnixStream,
    stop: &AtomicBool,
    counters: &DrainCounters,
) -> Result<(), ListenError> {
    let mut drained = Drained::default();
    while !stop.load(Ordering::Relaxed) {
        let round = listener.receive_round(Patience::Paced, &mut |_: &[u8]| {})?;
        drained.datagrams += round.received.datagrams as u64;
        drained.lost += round.lost;
        drained.rounds += 1;
        counters.datagrams.store(drained.datagrams, Ordering::Relaxed);
        counters.lost.store(drained.lost, Ordering::Relaxed);
        counters.rounds.store(drained.rounds, Ordering::Relaxed);
        if round.received.interrupted {
            let _ = { wake }.read(&mut [0; 64]); // the bytes carry nothing: `stop` holds the reason
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::Lab;
    use crate::topology::{Firewall, SERVER};
    use crate::traffic::udp_exchange;

    #[test]
    fn one_thread_a_worker_counts_and_discards_events() {
        crate::isolated!({
            let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
            let drain = Drain::start(&Settings { workers: 2, ..Settings::default() }).unwrap();
            assert_eq!(drain.threads().len(), 2);
            for _ in 0..20 {
                firewall.client.run(|| udp_exchange((SERVER, 53).into(), b"x")).unwrap();
            }
            let started = Instant::now();
            while drain.totals().datagrams < 40 && started.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_millis(5));
            }
            let Drained { datagrams, lost, rounds } = drain.totals();
            assert!((40..=60).contains(&datagrams) && lost == 0 && rounds > 1, "{:?}", drain.totals());
            assert!(drain.is_running());
        });
    }
}
