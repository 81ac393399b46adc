//! Exchanges with echo servers at a steady pace.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{TCP_PAYLOAD_BYTES, UDP_PAYLOAD_BYTES, tcp_exchange, udp_exchange};
use crate::{Host, LabError};

/// The greatest delay that is caught up with. Exchanges that are later are skipped.
const MOST_LATE: Duration = Duration::from_millis(100);
/// The longest sleep. A thread notices a stop within this time.
const SLEEP_MAX: Duration = Duration::from_millis(10);

/// The traffic that a host sends. A rate of 0 omits that protocol.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Echo servers for TCP, used in rotation.
    pub tcp: Vec<SocketAddr>,
    /// Echo servers for UDP, used in rotation.
    pub udp: Vec<SocketAddr>,
    /// TCP connections a second.
    pub tcp_per_second: u32,
    /// UDP exchanges a second.
    pub udp_per_second: u32,
    /// How long the traffic runs unless it is stopped.
    pub duration: Duration,
    /// The bytes that each exchange sends and receives back, at most [`TCP_PAYLOAD_BYTES`] by TCP and
    /// [`UDP_PAYLOAD_BYTES`] by UDP.
    pub payload_bytes: usize,
}

/// The counts of exchanges so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// TCP exchanges completed.
    pub tcp: u64,
    /// UDP exchanges completed.
    pub udp: u64,
    /// Exchanges that failed.
    pub failed: u64,
    /// Exchanges skipped since the machine was too slow.
    pub skipped: u64,
}

/// Running traffic. It stops when dropped.
#[derive(Debug)]
pub struct Running {
    shared: Arc<SharedProgress>,
    threads: Vec<JoinHandle<()>>,
}

/// The state that the threads and their owner share. The counters are independent of each other, so they need no lock.
#[derive(Debug, Default)]
struct SharedProgress {
    stop: AtomicBool,
    tcp: AtomicU64,
    udp: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Traffic {
    /// Starts the traffic on `host`, with one thread a protocol.
    ///
    /// # Errors
    /// [`LabError::System`] when a thread cannot be started.
    pub fn start(self, host: &Host) -> Result<Running, LabError> {
        let shared = Arc::<SharedProgress>::default();
        let mut running = Running { shared: Arc::clone(&shared), threads: Vec::new() };
        let payload = vec![b'.'; self.payload_bytes.min(TCP_PAYLOAD_BYTES)];
        let datagram = vec![b'.'; self.payload_bytes.min(UDP_PAYLOAD_BYTES)];
        let until = Instant::now() + self.duration;
        let protocols = [
            PacedExchanges {
                servers: self.tcp,
                per_second: self.tcp_per_second,
                payload,
                exchange: tcp_exchange,
                completed: |s| &s.tcp,
            },
            PacedExchanges {
                servers: self.udp,
                per_second: self.udp_per_second,
                payload: datagram,
                exchange: udp_exchange,
                completed: |s| &s.udp,
            },
        ];
        for protocol in protocols.into_iter().filter(|one| one.per_second > 0 && !one.servers.is_empty()) {
            let shared = Arc::clone(&shared);
            let run = move || protocol.run(until, &shared);
            let spawn = move || thread::Builder::new().name("traffic".into()).spawn(run);
            let thread = host.run(spawn).map_err(|error| LabError::system("start a traffic thread", error))?;
            running.threads.push(thread);
        }
        Ok(running)
    }
}

impl Running {
    /// The counts so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let SharedProgress { tcp, udp, failed, skipped, .. } = &*self.shared;
        Progress { tcp: read(tcp), udp: read(udp), failed: read(failed), skipped: read(skipped) }
    }

    /// The error of the exchange that failed last; `None` when none failed.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether all threads have ended, because the duration is over.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Stops the traffic after the exchanges in progress, and returns the final counts.
    #[must_use]
    pub fn stop(mut self) -> Progress {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join();
        self.progress()
    }

    /// Waits until the duration is over, and returns the final counts.
    #[must_use]
    pub fn finish(mut self) -> Progress {
        self.join();
        self.progress()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a thread returns nothing; its counters are shared
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

/// The exchanges of one protocol, made by one thread.
struct PacedExchanges {
    servers: Vec<SocketAddr>,
    per_second: u32,
    payload: Vec<u8>,
    exchange: fn(SocketAddr, &[u8]) -> Result<(), LabError>,
    /// Selects the protocol's counter of completed exchanges.
    completed: fn(&SharedProgress) -> &AtomicU64,
}

impl PacedExchanges {
    fn run(&self, until: Instant, shared: &SharedProgress) {
        let interval = Duration::from_secs(1) / self.per_second;
        let mut due = Instant::now();
        for server in self.servers.iter().cycle() {
            if !wait_until_due(due, until, shared) {
                return;
            }
            self.exchange_with(*server, shared);
            due += interval;
            due += self.skip_missed(due, interval, shared);
        }
    }

    fn exchange_with(&self, server: SocketAddr, shared: &SharedProgress) {
        match (self.exchange)(server, &self.payload) {
            Ok(()) => _ = (self.completed)(shared).fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                *shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
        }
    }

    /// Returns by how much to postpone the next exchange, due at `due`: its delay if that is [`MOST_LATE`] or more,
    /// else 0. Counts the exchanges that the delay skips.
    fn skip_missed(&self, due: Instant, interval: Duration, shared: &SharedProgress) -> Duration {
        let late = due.elapsed();
        if late < MOST_LATE {
            return Duration::ZERO;
        }
        let skipped = late.as_nanos() / interval.as_nanos().max(1);
        shared.skipped.fetch_add(u64::try_from(skipped).unwrap_or(u64::MAX), Ordering::Relaxed);
        late
    }
}

/// Sleeps until `due`. Returns `false` when the traffic is stopped or `until` is reached.
fn wait_until_due(due: Instant, until: Instant, shared: &SharedProgress) -> bool {
    loop {
        let now = Instant::now();
        if shared.stop.load(Ordering::Relaxed) || now >= until {
            return false;
        }
        let left = due.saturating_duration_since(now);
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(SLEEP_MAX));
    }
}
