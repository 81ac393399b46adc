//! The whole pipeline: N workers with their shards, the control thread that keeps them in sync with the kernel, and,
//! with peers, the replication stage and the hot thread.
//!
//! ```no_run
//! use ctflow_engine::engine::{Engine, Settings};
//!
//! let engine = Engine::start(&Settings::default())?;
//! std::thread::sleep(std::time::Duration::from_secs(1));
//! let totals = engine.stop()?;
//! println!("{} events, {} lost, {} flows", totals.events(), totals.events_lost, totals.flows);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io;
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use ctflow_replicate::Role;
use mio::{Poll, Waker};
use thiserror::Error;

use crate::access::Access;
use crate::capture::listener::{ListenError, Listener};
use crate::capture::receive::{BackendKind, Interest, InterruptError, Interrupts};
use crate::capture::socket::{EventSocket, Options, SocketError};
use crate::capture::steer::Share;
use crate::kernel::KernelError;
use crate::kernel::batch::Batch;
use crate::kernel::commit::CommitRules;
use crate::limits::{COMMANDS_PER_WORKER, FLOWS_PER_SHARD, REPORTS_PER_WORKER, WORKERS, WORKERS_DEFAULT_MAX};
use crate::metrics::{Counts, SharedCounters};
use crate::netlink::NetlinkError;
use crate::os_error::os_error_text;
use crate::replication::filter::ReplicationFilter;
use crate::replication::{PreparedStage, Replication, ReplicationSettings, StageError};
use crate::shard::Shard;
use crate::takeover::{
    self, CommitError, CommitScope, Committed, Isolator, RoleChange, Takeover, change_role, flush_later,
};
use crate::worker::channel::{self, DeltaReceiver, DeltaSender, WorkerHandle, WorkerRequest};
use crate::worker::kernel_resync::{REPORTS, ResyncCoordinator, ResyncRequest, ResyncRequests, WorkerChannel};
use crate::worker::meter::Meter;
use crate::worker::threads::{self, Duty, Thread};
use crate::worker::unreported::Unreported;
use crate::worker::{Command, Report, Reporter, SyncState, Worker};

/// How to receive events, and how to replicate flows.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The number of workers, 1..=64. Each receives its share of the events, and each costs the packet path 3 to 5 %.
    pub workers: u32,
    /// The workers' receive back end.
    pub backend: BackendKind,
    /// The options of each worker's socket; the engine sets the share.
    pub socket: Options,
    /// The number of flows of each address family that a shard may hold.
    pub flows_max: u32,
    /// Whether to pin worker n to the n-th core that this process may use.
    pub pin: bool,
    /// The peers, and how to replicate to them; `None` without peers.
    pub replication: Option<ReplicationSettings>,
    /// Whether to measure each step's processor time. Events are then parsed twice, so this is not for daily use.
    pub metered: bool,
}

impl Default for Settings {
    /// As many pinned workers as a quarter of the cores, from 1 to [`WORKERS_DEFAULT_MAX`]; the other cores are for
    /// packets.
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers = u32::try_from(cores / 4).unwrap_or(1).clamp(1, WORKERS_DEFAULT_MAX);
        let backend = BackendKind::Auto;
        Self {
            workers,
            backend,
            socket: Options::default(),
            flows_max: FLOWS_PER_SHARD,
            pin: true,
            replication: None,
            metered: false,
        }
    }
}

/// An engine that cannot start. Each message is one line for the operator.
#[derive(Debug, Error)]
pub enum StartError {
    /// The number of workers is out of range.
    #[error("{0} workers are out of range: use 1 to {WORKERS}")]
    Workers(u32),
    /// An event socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A descriptor or a thread cannot be created, usually because of a resource limit.
    #[error("cannot set up the {what}: {}", os_error_text(.source))]
    System {
        /// The part that was being set up.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The descriptors that wake a worker cannot be watched.
    #[error(transparent)]
    Interrupts(#[from] InterruptError),
    /// A worker cannot receive.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The socket for commits cannot be opened.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The replication stage cannot be set up, usually because of one of its links.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The nftables rules that isolate a backup cannot be set.
    #[error("cannot isolate this node: {0}; set [takeover] isolate = false, or use a kernel with nf_tables")]
    Isolate(#[from] NetlinkError),
}

impl StartError {
    /// Turns a system error into a [`StartError::System`] about `what`.
    pub fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// A running engine. Dropping it stops its threads.
pub struct Engine {
    workers: Vec<JoinHandle<Result<(), ListenError>>>,
    control: Option<JoinHandle<()>>,
    stage: Option<JoinHandle<()>>,
    hot: Option<JoinHandle<()>>,
    access: Access,
    takeover: Arc<Takeover>,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    stage_stop: Arc<AtomicBool>,
    threads: Vec<Thread>,
}

impl Engine {
    /// Opens every socket in the calling thread's network namespace and starts the threads. Events are queued from now
    /// on, and a first resync adds the flows that exist in the kernel.
    ///
    /// # Errors
    /// [`StartError`]. A worker that fails later ends, and [`Engine::stop`] returns its error.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        Self::open(settings)?.start()
    }

    /// Opens every socket in the calling thread's network namespace, and starts no thread yet. So a caller can drop
    /// privileges before [`Opened::start`], and the threads never have them. Dumps and changes need `CAP_NET_ADMIN` as
    /// long as the engine runs.
    ///
    /// # Errors
    /// [`StartError`] when a setting is out of range or a socket cannot be opened.
    pub fn open(settings: &Settings) -> Result<Opened<'_>, StartError> {
        if !(1..=WORKERS).contains(&settings.workers) {
            return Err(StartError::Workers(settings.workers));
        }
        let poll = Poll::new().map_err(StartError::system("control thread"))?;
        let waker = Waker::new(poll.registry(), REPORTS).map_err(StartError::system("control thread"))?;
        let prepared = settings.replication.clone().map(PreparedStage::open).transpose()?;
        let committer = Batch::open("commit an entry")?;
        let takeover = open_takeover(settings)?;
        let mut assembly = Assembly::new(settings, waker, prepared, committer, takeover);
        for index in 0..settings.workers {
            assembly.add_worker(index)?;
        }
        Ok(Opened { assembly, poll })
    }

    /// Replaces the replication filter of all workers.
    ///
    /// # Errors
    /// [`Busy`] when a worker's request channel is full. Some workers may have the new filter by then: call it again.
    pub fn set_filter(&self, filter: ReplicationFilter) -> Result<(), Busy> {
        let filter = Arc::new(filter);
        self.takeover.set_filter(filter.clone());
        let request =
            |worker: &WorkerHandle| worker.try_request(WorkerRequest::SetFilter(filter.clone())).map_err(|_| Busy);
        self.access.workers.iter().try_for_each(request)
    }

    /// Commits the flows of the replicas that `what` names to this kernel, in the calling thread. It takes some seconds
    /// for a million flows. Without peers it does nothing.
    ///
    /// # Errors
    /// [`CommitError`] when the commit cannot be finished.
    pub fn commit(&self, what: CommitScope, rules: CommitRules) -> Result<Committed, CommitError> {
        takeover::commit(&self.access, what, rules, &Arc::default())
    }

    /// Changes this node's role, in the calling thread. Becoming primary takes as long as a commit and a kernel resync.
    /// The thread must be in the engine's network namespace, because the purge of a backup is scheduled from it.
    ///
    /// # Errors
    /// [`Busy`] while another commit or role change is under way.
    pub fn set_role(&self, role: Role) -> Result<RoleChange, Busy> {
        let lock = self.takeover.try_lock_kernel().ok_or(Busy)?;
        Ok(change_role(&self.access, &lock, role, &Arc::default()))
    }

    /// Whether every thread still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let threads = self.control.iter().chain(&self.stage).chain(&self.hot);
        self.workers.iter().all(|worker| !worker.is_finished())
            && threads.into_iter().all(|thread| !thread.is_finished())
    }

    /// The engine's threads, to measure the processor time of each.
    #[must_use]
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// The sums of all workers' counts so far.
    #[must_use]
    pub fn totals(&self) -> Counts {
        self.access.totals()
    }

    /// The counts of each worker so far, in the order of their indices.
    #[must_use]
    pub fn by_worker(&self) -> Vec<Counts> {
        self.access.by_worker().collect()
    }

    /// The channels to the threads, which do not keep them running.
    pub(crate) fn access(&self) -> Access {
        self.access.clone()
    }

    /// This node's role, and what follows from it.
    pub(crate) fn takeover(&self) -> Arc<Takeover> {
        self.takeover.clone()
    }

    /// The handle to the replication stage; `None` without peers.
    #[must_use]
    pub fn replication(&self) -> Option<&Replication> {
        self.access.replication.as_ref()
    }

    /// Stops all threads, each after it has handled what is queued for it, and returns the sums of their counts.
    ///
    /// # Errors
    /// The error of the first worker that failed.
    ///
    /// # Panics
    /// If a worker has panicked.
    pub fn stop(mut self) -> Result<Counts, ListenError> {
        for end in self.shut_down() {
            end.unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        Ok(self.totals())
    }

    /// Starts a thread and adds it to the threads that can be measured.
    fn spawn<T: Send + 'static>(
        &mut self,
        name: &str,
        duty: Duty,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, StartError> {
        let (handle, thread) = threads::start(name.to_owned(), duty, body).map_err(StartError::system("threads"))?;
        self.threads.push(thread);
        Ok(handle)
    }

    /// Stops and joins all threads, and returns the workers' results.
    fn shut_down(&mut self) -> Vec<thread::Result<Result<(), ListenError>>> {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.waker.wake();
        // The control thread wakes the workers when it ends. The workers send their last deltas to the stage, so the
        // stage stops only after they have ended.
        self.control.take().map(JoinHandle::join);
        let ends = self.workers.drain(..).map(JoinHandle::join).collect();
        self.stage_stop.store(true, Ordering::Relaxed);
        self.access.replication.iter().for_each(Replication::wake);
        self.stage.take().map(JoinHandle::join);
        self.hot.take().map(JoinHandle::join); // the hot thread ends when the stage does
        self.takeover.cancel_purge();
        self.takeover.isolator.iter().for_each(Isolator::shut_down);
        ends
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shut_down(); // errors are in the log already
    }
}

/// An engine whose sockets are open and whose threads are not started yet.
pub struct Opened<'s> {
    assembly: Assembly<'s>,
    poll: Poll,
}

impl Opened<'_> {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`StartError`] when a thread cannot be started or a worker cannot receive.
    pub fn start(self) -> Result<Engine, StartError> {
        self.assembly.start(self.poll)
    }
}

/// A worker's request channel is full, or another commit or role change is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("another change is under way: try again")]
pub struct Busy;

/// An engine under construction. All steps that can fail because privileges or descriptors are missing run before a
/// thread starts.
struct Assembly<'s> {
    settings: &'s Settings,
    setups: Vec<WorkerSetup>,
    channels: Vec<WorkerChannel>,
    /// Sends the workers' reports; each worker gets a clone.
    sender: Sender<Report>,
    reports: Receiver<Report>,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    prepared: Option<PreparedStage>,
    delta_receivers: Vec<DeltaReceiver>,
    worker_handles: Vec<WorkerHandle>,
    resync_requests: (ResyncRequests, Receiver<ResyncRequest>),
    committer: Batch,
    takeover: Takeover,
}

/// The parts that one worker is started with.
struct WorkerSetup {
    index: u32,
    socket: EventSocket,
    commands: Receiver<Command>,
    requests: Receiver<WorkerRequest>,
    shard: Shard,
    delta_sender: Option<DeltaSender>,
    unreported: Option<Unreported>,
    wake: UnixStream,
    interrupts: Interrupts,
    shared_counters: Arc<SharedCounters>,
}

impl<'s> Assembly<'s> {
    fn new(
        settings: &'s Settings,
        waker: Waker,
        prepared: Option<PreparedStage>,
        committer: Batch,
        takeover: Takeover,
    ) -> Self {
        let (sender, reports) = bounded(REPORTS_PER_WORKER * settings.workers as usize);
        let (setups, channels) = (Vec::new(), Vec::new());
        let (waker, stop, delta_receivers, worker_handles) = (Arc::new(waker), Arc::default(), Vec::new(), Vec::new());
        let resync_requests = ResyncRequests::channel(waker.clone());
        Self {
            settings,
            setups,
            channels,
            sender,
            reports,
            waker,
            stop,
            prepared,
            delta_receivers,
            worker_handles,
            resync_requests,
            committer,
            takeover,
        }
    }

    /// Opens the socket and the channels of worker `index`.
    fn add_worker(&mut self, index: u32) -> Result<(), StartError> {
        let share = Share { worker: index, workers: self.settings.workers };
        let mut options = Options { share, ..self.settings.socket.clone() };
        options.filter.ignored_port_ids.push(self.committer.port_id());
        let socket = EventSocket::open(&options)?;
        let (sender, commands) = bounded(COMMANDS_PER_WORKER);
        let (wake, waker, interrupts) = wake_channel()?;
        let shared_counters = Arc::<SharedCounters>::default();
        // Until the worker publishes its first counts, its flows count as not in sync.
        shared_counters.store(&Counts { resync_pending: 1, ..Counts::default() });
        let waker = Arc::new(waker);
        self.channels.push(WorkerChannel::new(sender, waker.clone(), shared_counters.clone()));
        let (handle, requests) = channel::request_channel(waker);
        let (shard, delta_sender) = self.build_shard(index, &handle);
        // Only worker 0 receives the events of expectations.
        let unreported = delta_sender.is_some().then(|| Unreported::open(index == 0)).transpose()?;
        self.worker_handles.push(handle);
        self.setups.push(WorkerSetup {
            index,
            socket,
            commands,
            requests,
            shard,
            delta_sender,
            unreported,
            wake,
            interrupts,
            shared_counters,
        });
        Ok(())
    }

    /// Creates a worker's shard and, with peers, its delta channel, whose worker's end it returns.
    fn build_shard(&mut self, index: u32, handle: &WorkerHandle) -> (Shard, Option<DeltaSender>) {
        let flows_max = self.settings.flows_max;
        let Some(prepared) = &self.prepared else { return (Shard::new(flows_max), None) };
        let stream = u16::try_from(index).unwrap_or(u16::MAX); // never: WORKERS is far less
        let filter = Arc::new(prepared.settings().filter.clone());
        let (sender, receiver) =
            channel::delta_channel(stream, prepared.datagram_bytes(), prepared.waker(), handle.clone());
        self.delta_receivers.push(receiver);
        (Shard::replicated(flows_max, filter), Some(sender))
    }

    /// Starts all threads, and waits until each worker receives.
    fn start(self, poll: Poll) -> Result<Engine, StartError> {
        let (resync_requests, request_receiver) = self.resync_requests;
        let mut engine = Engine {
            workers: Vec::new(),
            control: None,
            stage: None,
            hot: None,
            access: Access {
                workers: self.worker_handles.into(),
                shared_counters: self.setups.iter().map(|setup| setup.shared_counters.clone()).collect(),
                replication: self.prepared.as_ref().map(PreparedStage::replication),
                committer: Arc::new(Mutex::new(self.committer)),
                resync_requests,
                backend: self.settings.backend.name(),
                flows_max: self.settings.flows_max,
                started: Instant::now(),
            },
            takeover: Arc::new(self.takeover),
            waker: self.waker.clone(),
            stop: self.stop.clone(),
            stage_stop: Arc::default(),
            threads: Vec::new(),
        };
        if let Some(prepared) = self.prepared {
            let stage = prepared.into_stage(self.delta_receivers, engine.stage_stop.clone(), self.settings.metered);
            engine.stage = Some(engine.spawn("ctflow-replicate", Duty::Stage, move || stage.run())?);
        }
        if let Some(replication) = engine.access.replication.clone() {
            // The stage was started just now, so its channel has room.
            let _ = replication.set_role(engine.takeover.role());
            if engine.takeover.settings.hot {
                let (access, takeover) = (engine.access.clone(), engine.takeover.clone());
                let work = move || takeover::run_hot(&access, &takeover, &replication);
                engine.hot = Some(engine.spawn("ctflow-hot", Duty::Hot, work)?);
            }
        }
        // An early return from here on drops the engine, which stops the threads started so far.
        let control = ResyncCoordinator::new(poll, self.channels, self.reports, request_receiver, self.stop.clone());
        engine.control = Some(engine.spawn("ctflow-control", Duty::Control, move || control.run())?);
        let count = self.setups.len();
        let (started, starts) = bounded(count);
        for setup in self.setups {
            let reporter = Reporter { sender: self.sender.clone(), waker: self.waker.clone() };
            let (settings, stop, started) = (self.settings.clone(), self.stop.clone(), started.clone());
            let (name, duty) = (format!("ctflow-worker{}", setup.index), Duty::Worker(setup.index));
            let worker = engine.spawn(&name, duty, move || setup.run(&settings, reporter, stop, &started))?;
            engine.workers.push(worker);
        }
        drop(started);
        for backend in starts.iter().take(count) {
            engine.access.backend = backend?;
        }
        let takeover = &engine.takeover;
        if takeover.is_standby() {
            // In place of the flush that an earlier daemon had scheduled and cancelled when it stopped.
            flush_later(&engine.access, takeover, takeover.settings.purge_after);
        }
        Ok(engine)
    }
}

/// Reads the role that the node starts with, and isolates the node if that role requires it.
fn open_takeover(settings: &Settings) -> Result<Takeover, NetlinkError> {
    let Some(ReplicationSettings { takeover, isolation, links, filter, role_file, .. }) = &settings.replication else {
        return Ok(Takeover::default());
    };
    let isolator = Isolator::open(isolation.as_ref(), links)?;
    let takeover = Takeover::new(*takeover, Some(isolator), Arc::new(filter.clone()), role_file.clone());
    takeover.isolate()?;
    Ok(takeover)
}

impl WorkerSetup {
    /// Opens the listener, reports by `started` whether that succeeded, and runs the worker. It runs on the worker's
    /// own thread, because an io_uring belongs to the thread that sets it up, and so that memory is allocated close to
    /// the worker's core.
    fn run(
        self,
        settings: &Settings,
        reporter: Reporter,
        stop: Arc<AtomicBool>,
        started: &Sender<Result<&'static str, ListenError>>,
    ) -> Result<(), ListenError> {
        let _end_report = ReportEndOnDrop { index: self.index, reporter: reporter.clone() };
        if settings.pin {
            pin(self.index);
        }
        // The channel has room for one result of each worker.
        let listener = match Listener::new(self.socket, settings.backend, self.interrupts) {
            Ok(listener) => {
                let _ = started.try_send(Ok(listener.backend()));
                listener
            }
            Err(error) => {
                let _ = started.try_send(Err(error));
                return Ok(());
            }
        };
        let worker = Worker {
            index: self.index,
            listener,
            shard: self.shard,
            filter: settings.socket.filter.clone(),
            hot: settings.replication.as_ref().is_some_and(|replication| replication.takeover.hot),
            commands: self.commands,
            requests: self.requests,
            delta_sender: self.delta_sender,
            unreported: self.unreported,
            wake: self.wake,
            reporter,
            shared_counters: self.shared_counters,
            stop,
            counts: Counts::default(),
            resync: 0,
            backlog: None,
            resync_requested: false,
            malformed: None,
            full: false,
            refused_before: 0,
            sync_state: SyncState::Stale,
            watchers: Vec::new(),
            meter: Meter::new(settings.metered),
        };
        worker.run()
    }
}

/// Reports to the control thread on drop that the worker has ended, whether it returned or panicked.
struct ReportEndOnDrop {
    index: u32,
    reporter: Reporter,
}

impl Drop for ReportEndOnDrop {
    fn drop(&mut self) {
        self.reporter.send_report(Report::Ended(self.index));
    }
}

/// Creates the socket pair that wakes a receiving thread. Returns the thread's end, the other threads' end, and the
/// interrupts that watch the thread's end.
pub fn wake_channel() -> Result<(UnixStream, UnixStream, Interrupts), StartError> {
    let (wake, waker) = UnixStream::pair().map_err(StartError::system("worker's wake-up"))?;
    for end in [&wake, &waker] {
        end.set_nonblocking(true).map_err(StartError::system("worker's wake-up"))?;
    }
    let mut interrupts = Interrupts::new();
    interrupts.watch(&wake, Interest::Readable)?;
    Ok((wake, waker, interrupts))
}

/// Pins the calling thread to the core of worker `index`: the `index`-th that this process may use, counted round.
pub fn pin(index: u32) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let core = cores.get(index as usize % cores.len().max(1));
    if !core.is_some_and(|core| core_affinity::set_for_current(*core)) {
        tracing::warn!(worker = index, "cannot pin the worker to a core: the scheduler chooses its core");
    }
}
