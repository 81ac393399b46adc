//! The floor that a capture stands on: the same sockets, back ends and pinned threads, and every event thrown away.
//!
//! What this costs an event is the kernel's: waking, copying, freeing. What a capture costs more is ours.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::bounded;

use crate::engine::{Settings, StartError, pin, wake_channel};
use crate::listener::{ListenError, Listener, Patience};
use crate::socket::{EventSocket, Options};
use crate::steer::Share;
use crate::threads::{self, Duty, Thread};

/// What was thrown away so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Datagrams, each an event.
    pub datagrams: u64,
    /// Events that did not fit the socket's buffer.
    pub lost: u64,
    /// Times that events were taken.
    pub rounds: u64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct DrainCounters {
    datagrams: AtomicU64,
    lost: AtomicU64,
    rounds: AtomicU64,
}

/// Events received and thrown away, by as many threads as there would be workers. Dropping it ends them.
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
    /// [`Engine::start`](crate::engine::Engine::start) would with these settings; replication has no meaning here.
    ///
    /// # Errors
    /// [`StartError`].
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

    fn start_thread(&mut self, settings: &Settings, index: u32) -> Result<(), StartError> {
        let share = Share { worker: index, workers: settings.workers };
        let socket = EventSocket::open(&Options { share, ..settings.socket.clone() })?;
        let (wake, waker, interrupts) = wake_channel()?;
        let published = Arc::<DrainCounters>::default();
        let (tell, told) = bounded(1);
        let body = {
            let (backend, pinned, stop, published) =
                (settings.backend, settings.pin, self.stop.clone(), published.clone());
            move || {
                if pinned {
                    pin(index);
                }
                match Listener::new(socket, backend, interrupts) {
                    Ok(listener) => {
                        let _ = tell.send(Ok(())); // there is room for one
                        discard_events(listener, &wake, &stop, &published)
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
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
        self.counters.push(published);
        told.recv().unwrap_or(Ok(())).map_err(StartError::from)
    }

    /// Its threads.
    #[must_use]
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// What all of them have thrown away so far.
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
    /// That of the first which ended before it was told to.
    ///
    /// # Panics
    /// When a thread did.
    pub fn stop(mut self) -> Result<(), ListenError> {
        self.shut_down().into_iter().try_for_each(|end| end.unwrap_or_else(|panic| resume_unwind(panic)))
    }

    fn shut_down(&mut self) -> Vec<thread::Result<Result<(), ListenError>>> {
        self.stop.store(true, Ordering::Relaxed);
        self.wakers.iter_mut().for_each(|waker| _ = waker.write(&[0])); // a full pipe has woken it already
        self.handles.drain(..).map(JoinHandle::join).collect()
    }

    /// Whether every thread runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.handles.iter().all(|handle| !handle.is_finished())
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        drop(self.shut_down()); // errors have no one to interest any more
    }
}

fn discard_events(
    mut listener: Listener,
    wake: &UnixStream,
    stop: &AtomicBool,
    published: &DrainCounters,
) -> Result<(), ListenError> {
    let mut drained = Drained::default();
    while !stop.load(Ordering::Relaxed) {
        let round = listener.receive_round(Patience::Paced, &mut |_: &[u8]| {})?;
        drained.datagrams += round.received.datagrams as u64;
        drained.lost += round.lost;
        drained.rounds += 1;
        published.datagrams.store(drained.datagrams, Ordering::Relaxed);
        published.lost.store(drained.lost, Ordering::Relaxed);
        published.rounds.store(drained.rounds, Ordering::Relaxed);
        if round.received.interrupted {
            let _ = { wake }.read(&mut [0; 64]); // what it is for is in the flag
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::lab::Lab;
    use crate::lab::topology::{Firewall, SERVER};
    use crate::lab::traffic::udp_exchange;

    #[test]
    fn one_thread_a_worker_counts_and_discards_events() {
        crate::isolated!({
            let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
            let drain = Drain::start(&Settings { workers: 2, ..Settings::default() }).unwrap();
            assert_eq!(drain.threads().len(), 2);
            for _ in 0..20 {
                firewall.client.run(|| udp_exchange((SERVER, 53).into(), b"x")).unwrap();
            }
            let began = Instant::now();
            while drain.totals().datagrams < 40 && began.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_millis(5));
            }
            let Drained { datagrams, lost, rounds } = drain.totals();
            assert!((40..=60).contains(&datagrams) && lost == 0 && rounds > 1, "{:?}", drain.totals());
            assert!(drain.is_running());
        });
    }
}
