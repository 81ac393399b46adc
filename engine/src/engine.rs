//! The whole capture pipeline: N workers with their shards, and the control thread that keeps them true to the kernel.
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
use crate::filter::ReplicationFilter;
use crate::kernel::KernelError;
use crate::kernel::batch::Batch;
use crate::kernel::commit::CommitRules;
use crate::kernel_resync::{REPORTS, ResyncCoordinator, ResyncRequest, ResyncRequests, WorkerChannel};
use crate::limits::{COMMANDS_PER_WORKER, FLOWS_PER_SHARD, REPORTS_PER_WORKER, WORKERS, WORKERS_DEFAULT_MAX};
use crate::listener::{ListenError, Listener};
use crate::meter::Meter;
use crate::metrics::{Counts, SharedCounters};
use crate::netlink::NetlinkError;
use crate::receive::{BackendKind, Interest, InterruptError, Interrupts};
use crate::replication::{
    self, CommitError, CommitScope, Committed, PreparedStage, Replication, ReplicationSettings, StageError,
};
use crate::shard::Shard;
use crate::socket::{EventSocket, Options, SocketError};
use crate::steer::Share;
use crate::takeover::{Isolator, RoleChange, Takeover, change_role, flush_later};
use crate::threads::{self, Duty, Thread};
use crate::unreported::Unreported;
use crate::worker::{Command, Report, Reporter, SyncState, Worker};
use crate::worker_channel::{self, DeltaReceiver, DeltaSender, WorkerHandle, WorkerRequest};

/// How to capture.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Workers, 1..=64; each takes its share of the events, and each costs the packet path 3 to 5 %.
    pub workers: u32,
    /// How the workers receive.
    pub backend: BackendKind,
    /// What each worker's socket is opened with; its share is set here.
    pub socket: Options,
    /// Flows of each family that a shard may hold.
    pub flows_max: u32,
    /// Whether worker n stays on the n-th core that this process may use.
    pub pin: bool,
    /// Peers, where there are any.
    pub replication: Option<ReplicationSettings>,
    /// Whether each step's processor time is measured, for which events are taken apart twice: not for daily use.
    pub metered: bool,
}

impl Default for Settings {
    /// A quarter of the cores capture flows, pinned; the rest is for packets.
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

/// A capture that cannot start. Each message is one line for the operator.
#[derive(Debug, Error)]
pub enum StartError {
    /// A number out of range.
    #[error("{0} workers are out of range: use 1 to {WORKERS}")]
    Workers(u32),
    /// An event socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Descriptors or threads, as a rule their limits.
    #[error("cannot set up the {what}: {source}")]
    System {
        /// What was being set up.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The descriptors that wake a worker.
    #[error(transparent)]
    Interrupts(#[from] InterruptError),
    /// A worker could not begin to receive.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The socket of commits.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The replication stage, as a rule one of its links.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// What keeps traffic away from a backup.
    #[error("traffic cannot be kept away: {0}; set [takeover] isolate = false, or use a kernel with nf_tables")]
    Isolate(#[from] NetlinkError),
}

impl StartError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// A capture under way. Dropping it stops it.
pub struct Engine {
    workers: Vec<JoinHandle<Result<(), ListenError>>>,
    control: Option<JoinHandle<()>>,
    stage: Option<JoinHandle<()>>,
    hot: Option<JoinHandle<()>>,
    access: Access,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    stage_stop: Arc<AtomicBool>,
    threads: Vec<Thread>,
}

impl Engine {
    /// Opens every socket in the calling thread's network namespace and starts the threads. Events queue from here on, and a
    /// first resync brings in the flows that are there.
    ///
    /// # Errors
    /// [`StartError`]. A worker that fails later ends, which [`Engine::stop`] tells.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        Self::open(settings)?.start()
    }

    /// Opens every socket in the calling thread's network namespace, and starts nothing yet: whoever has rights to give up
    /// does so now, and the threads never have them. `CAP_NET_ADMIN` is needed to the end, for dumps and changes.
    ///
    /// # Errors
    /// [`StartError`].
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

    /// Has all workers tell by another choice.
    ///
    /// # Errors
    /// [`Busy`] when a worker has no room for the question; nothing is half done for long, ask again.
    pub fn set_filter(&self, choice: ReplicationFilter) -> Result<(), Busy> {
        let filter = Arc::new(choice);
        self.access.takeover.set_filter(filter.clone());
        let request =
            |asker: &WorkerHandle| asker.try_request(WorkerRequest::SetFilter(filter.clone())).map_err(|_| Busy);
        self.access.workers.iter().try_for_each(request)
    }

    /// Puts what the replicas hold into this kernel, in the calling thread: some seconds for a million flows. Where there
    /// are no peers there is nothing to do.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn commit(&self, what: CommitScope, rules: CommitRules) -> Result<Committed, CommitError> {
        replication::commit(&self.access, what, rules, &Arc::default())
    }

    /// Takes a role, in the calling thread: for a primary as long as a commit and a kernel resync take. It must be in the
    /// engine's network namespace, where a backup's purge is scheduled.
    ///
    /// # Errors
    /// [`Busy`] while another commit or change of roles is under way.
    pub fn set_role(&self, role: Role) -> Result<RoleChange, Busy> {
        let lock = self.access.takeover.try_lock_kernel().ok_or(Busy)?;
        Ok(change_role(&self.access, &lock, role, &Arc::default()))
    }

    /// Whether every thread runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let threads = self.control.iter().chain(&self.stage).chain(&self.hot);
        self.workers.iter().all(|worker| !worker.is_finished())
            && threads.into_iter().all(|thread| !thread.is_finished())
    }

    /// Its threads, for whoever wants to know what each costs.
    #[must_use]
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// What all workers have counted so far.
    #[must_use]
    pub fn totals(&self) -> Counts {
        self.access.totals()
    }

    /// What each worker has counted so far.
    #[must_use]
    pub fn by_worker(&self) -> Vec<Counts> {
        self.access.by_worker().collect()
    }

    /// What others reach the threads by; it does not keep them running.
    pub(crate) fn access(&self) -> Access {
        self.access.clone()
    }

    /// What reaches the replication stage, where there is one.
    #[must_use]
    pub fn replication(&self) -> Option<&Replication> {
        self.access.replication.as_ref()
    }

    /// Stops all threads, each after it has taken what is queued, and gives what they counted.
    ///
    /// # Errors
    /// That of the first worker which ended before it was told to.
    ///
    /// # Panics
    /// When a worker did.
    pub fn stop(mut self) -> Result<Counts, ListenError> {
        for end in self.shut_down() {
            end.unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        Ok(self.totals())
    }

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

    fn shut_down(&mut self) -> Vec<thread::Result<Result<(), ListenError>>> {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.waker.wake();
        // The control thread wakes the workers on its way out. What they tell last is sent by the stage, which therefore
        // is told to stop when they have.
        self.control.take().map(JoinHandle::join);
        let ends = self.workers.drain(..).map(JoinHandle::join).collect();
        self.stage_stop.store(true, Ordering::Relaxed);
        self.access.replication.iter().for_each(Replication::wake);
        self.stage.take().map(JoinHandle::join);
        self.hot.take().map(JoinHandle::join); // it ends with the stage
        self.access.takeover.cancel_purge();
        self.access.takeover.isolator.iter().for_each(Isolator::shut_down);
        ends
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shut_down(); // what went wrong is in the log already
    }
}

/// An engine with its sockets open, that does not run yet.
pub struct Opened<'s> {
    assembly: Assembly<'s>,
    poll: Poll,
}

impl Opened<'_> {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(self) -> Result<Engine, StartError> {
        self.assembly.start(self.poll)
    }
}

/// A worker has no room for a question, or somebody else is at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("something else is under way: try again")]
pub struct Busy;

/// An engine being put together: all that can fail for want of rights or descriptors happens before a thread starts.
struct Assembly<'s> {
    settings: &'s Settings,
    setups: Vec<WorkerSetup>,
    channels: Vec<WorkerChannel>,
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

/// What one worker will be started with.
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

    fn add_worker(&mut self, index: u32) -> Result<(), StartError> {
        let share = Share { worker: index, workers: self.settings.workers };
        let mut options = Options { share, ..self.settings.socket.clone() };
        options.filter.ignored_port_ids.push(self.committer.port_id());
        let socket = EventSocket::open(&options)?;
        let (sender, commands) = bounded(COMMANDS_PER_WORKER);
        let (wake, waker, interrupts) = wake_channel()?;
        let shared_counters = Arc::<SharedCounters>::default();
        // Before the worker's first word, too, its flows are not the kernel's.
        shared_counters.store(&Counts { resync_pending: 1, ..Counts::default() });
        let waker = Arc::new(waker);
        self.channels.push(WorkerChannel::new(sender, waker.clone(), shared_counters.clone()));
        let (handle, requests) = worker_channel::request_channel(waker);
        let (shard, delta_sender) = self.build_shard(index, &handle);
        // Expectations are heard of by worker 0 alone.
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

    /// A worker's shard, and where there are replicas the worker's ends of what goes to and from them.
    fn build_shard(&mut self, index: u32, handle: &WorkerHandle) -> (Shard, Option<DeltaSender>) {
        let flows_max = self.settings.flows_max;
        let Some(prepared) = &self.prepared else { return (Shard::new(flows_max), None) };
        let stream = u16::try_from(index).unwrap_or(u16::MAX); // WORKERS are fewer
        let filter = Arc::new(prepared.settings().filter.clone());
        let (sender, receiver) =
            worker_channel::delta_channel(stream, prepared.datagram_bytes(), prepared.waker(), handle.clone());
        self.delta_receivers.push(receiver);
        (Shard::replicated(flows_max, filter), Some(sender))
    }

    fn start(self, poll: Poll) -> Result<Engine, StartError> {
        let (resync_requests, request_receiver) = self.resync_requests;
        let mut engine = Engine {
            workers: Vec::new(),
            control: None,
            stage: None,
            hot: None,
            access: Access {
                workers: self.worker_handles.into(),
                shared_counters: self.setups.iter().map(|seat| seat.shared_counters.clone()).collect(),
                replication: self.prepared.as_ref().map(PreparedStage::replication),
                committer: Arc::new(Mutex::new(self.committer)),
                takeover: Arc::new(self.takeover),
                resync_requests,
                backend: self.settings.backend.name(),
                flows_max: self.settings.flows_max,
                started: Instant::now(),
            },
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
            let _ = replication.set_role(engine.access.takeover.role()); // it was started just now, and has room
            if engine.access.takeover.settings.hot {
                let access = engine.access.clone();
                let work = move || replication::keep_hot(&access, &replication);
                engine.hot = Some(engine.spawn("ctflow-hot", Duty::Hot, work)?);
            }
        }
        // From here on an early return drops the engine, which stops what has started.
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
        let takeover = &engine.access.takeover;
        if takeover.is_standby() {
            flush_later(&engine.access, takeover.settings.purge_after); // what it stopped from before, if it did
        }
        Ok(engine)
    }
}

/// The side that the node begins on, with traffic kept away from it where that is due.
fn open_takeover(settings: &Settings) -> Result<Takeover, NetlinkError> {
    let Some(ReplicationSettings { takeover, isolation, links, filter: choice, role_file, .. }) = &settings.replication
    else {
        return Ok(Takeover::default());
    };
    let isolator = Isolator::open(isolation.as_ref(), links)?;
    let takeover = Takeover::new(*takeover, Some(isolator), Arc::new(choice.clone()), role_file.clone());
    takeover.isolate()?;
    Ok(takeover)
}

impl WorkerSetup {
    /// On the worker's own thread: where a ring has to be set up, and memory is taken close to its core.
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
        // There is room for one word of each worker.
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

/// Tells the control thread that the worker has ended, however it ends.
struct ReportEndOnDrop {
    index: u32,
    reporter: Reporter,
}

impl Drop for ReportEndOnDrop {
    fn drop(&mut self) {
        self.reporter.send_report(Report::Ended(self.index));
    }
}

/// What a thread that receives is woken by: its end, the others', and what its receive watches.
pub(crate) fn wake_channel() -> Result<(UnixStream, UnixStream, Interrupts), StartError> {
    let (wake, waker) = UnixStream::pair().map_err(StartError::system("worker's wake-up"))?;
    for end in [&wake, &waker] {
        end.set_nonblocking(true).map_err(StartError::system("worker's wake-up"))?;
    }
    let mut interrupts = Interrupts::new();
    interrupts.watch(&wake, Interest::Readable)?;
    Ok((wake, waker, interrupts))
}

/// Keeps the calling thread on the core that is worker `index`'s among those this process may use.
pub(crate) fn pin(index: u32) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let core = cores.get(index as usize % cores.len().max(1));
    if !core.is_some_and(|core| core_affinity::set_for_current(*core)) {
        tracing::warn!(worker = index, "cannot pin the worker to a core: it runs where the scheduler puts it");
    }
}
