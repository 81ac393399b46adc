//! Exchanges at a steady pace.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{TCP_PAYLOAD_BYTES, UDP_PAYLOAD_BYTES, tcp_exchange, udp_exchange};
use crate::lab::{Host, LabError};

/// Work that is later than this is skipped, not caught up with.
const MOST_LATE: Duration = Duration::from_millis(100);
/// The longest sleep: a stop is noticed within it.
const SLEEP_MAX: Duration = Duration::from_millis(10);

/// What a host is to send. A rate of zero leaves that protocol out.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Servers that echo by TCP, taken in turn.
    pub tcp: Vec<SocketAddr>,
    /// Servers that echo by UDP, taken in turn.
    pub udp: Vec<SocketAddr>,
    /// TCP connections a second.
    pub tcp_per_second: u32,
    /// UDP exchanges a second.
    pub udp_per_second: u32,
    /// When to stop by itself.
    pub duration: Duration,
    /// Bytes that each exchange sends and gets back, as far as TCP and UDP take them ([`TCP_PAYLOAD_BYTES`],
    /// [`UDP_PAYLOAD_BYTES`]).
    pub payload_bytes: usize,
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// TCP exchanges completed.
    pub tcp: u64,
    /// UDP exchanges completed.
    pub udp: u64,
    /// Exchanges that failed.
    pub failed: u64,
    /// Exchanges left out since the machine did not keep up.
    pub skipped: u64,
}

/// Traffic that is flowing. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    shared: Arc<SharedProgress>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads and their owner share; every number is independent of the others.
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
    /// Starts it on `host`.
    ///
    /// # Errors
    /// [`LabError::System`] when a thread cannot be started.
    pub fn start(self, host: &Host) -> Result<Running, LabError> {
        let shared = Arc::<SharedProgress>::default();
        let mut running = Running { shared: Arc::clone(&shared), threads: Vec::new() };
        let payload = vec![b'.'; self.payload_bytes.min(TCP_PAYLOAD_BYTES)];
        let datagram = vec![b'.'; self.payload_bytes.min(UDP_PAYLOAD_BYTES)];
        let until = Instant::now() + self.duration;
        let lanes = [
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
        for lane in lanes.into_iter().filter(|lane| lane.per_second > 0 && !lane.servers.is_empty()) {
            let shared = Arc::clone(&shared);
            let spawn = move || thread::Builder::new().name("traffic".into()).spawn(move || lane.run(until, &shared));
            let thread = host.run(spawn).map_err(|error| LabError::system("start a traffic thread", error))?;
            running.threads.push(thread);
        }
        Ok(running)
    }
}

impl Running {
    /// What has happened so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let SharedProgress { tcp, udp, failed, skipped, .. } = &*self.shared;
        Progress { tcp: read(tcp), udp: read(udp), failed: read(failed), skipped: read(skipped) }
    }

    /// Why an exchange failed last.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether its duration is over.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Stops it after the exchange under way.
    #[must_use]
    pub fn stop(mut self) -> Progress {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join();
        self.progress()
    }

    /// Waits for its duration to be over.
    #[must_use]
    pub fn finish(mut self) -> Progress {
        self.join();
        self.progress()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a lane has nothing to say but its counters
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

/// One protocol's thread.
struct PacedExchanges {
    servers: Vec<SocketAddr>,
    per_second: u32,
    payload: Vec<u8>,
    exchange: fn(SocketAddr, &[u8]) -> Result<(), LabError>,
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

    /// How far to move what is due, when it is too late to be caught up with.
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

/// Sleeps until `due`; `false` when it is time to stop.
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
