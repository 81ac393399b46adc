//! The control server: what operators ask of a running engine, over a UNIX socket. `CONTROL.md` is the specification.
//!
//! ```text
//!  client ── request ──► Client ── Job ──┬─ questions ──► workers, control thread, replication stage
//!         ◄── frames ──  Out  ◄──────────┴─ answers, which wake the server
//!                                        └─ orders ──► the owner: reload, stop
//! ```
//!
//! One thread serves all clients in a mio loop. It waits for nobody: what takes time is asked of others, and what blocks is
//! done on a thread of its own. Nobody waits for it: workers, control thread and stage answer into channels with room.
//!
//! ```no_run
//! use std::path::Path;
//! use ctflow_engine::engine::{Engine, Settings};
//! use ctflow_engine::server::{ControlSocket, Server, Wanted};
//!
//! let socket = ControlSocket::bind(Path::new("/run/ctflow.sock"))?; // first: it tells whether a daemon runs already
//! let engine = Engine::start(&Settings::default())?;
//! let (sender, orders) = crossbeam_channel::bounded(16);
//! let server = Server::start(socket, &engine, move |order| drop(sender.try_send(order)))?;
//! for order in orders {
//!     match order.wanted {
//!         Wanted::Reload => order.answer.reloaded(Vec::new()),
//!         Wanted::Stop => {
//!             engine.stop()?;
//!             order.answer.done();
//!             break;
//!         }
//!     }
//! }
//! server.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod background;
mod client;
mod context;
mod document;
mod dump;
mod events;
mod failure;
pub mod frame;
mod job;
mod order;
mod out;
mod process;
mod request;
mod serve;
mod socket;
mod status;
mod steps;
mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use mio::{Poll, Waker};

pub use self::order::{Answer, Order, OrderKind, Unchanged};
pub use self::socket::{ControlSocket, ServerError};

use self::context::ServerContext;
use self::serve::{ServerLoop, WAKE};
use self::verify::Verification;
use crate::engine::Engine;

/// A server that runs. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    thread: Option<JoinHandle<()>>,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Serves `engine` at `socket`, on a thread of its own in the calling thread's network namespace. `orders` takes what
    /// the daemon as a whole is to do; it is called on that thread, and must not wait.
    ///
    /// The engine may be stopped before the server is: what concerns it then fails, and the rest goes on.
    ///
    /// # Errors
    /// [`ServerError::Start`].
    pub fn start(
        socket: ControlSocket,
        engine: &Engine,
        orders: impl FnMut(Order) + Send + 'static,
    ) -> Result<Self, ServerError> {
        let poll = Poll::new().map_err(ServerError::Start)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE).map_err(ServerError::Start)?);
        let stop = Arc::<AtomicBool>::default();
        let world = ServerContext {
            access: engine.access(),
            waker: waker.clone(),
            on_order: Box::new(orders),
            verification: Verification::default(),
            background_jobs: Arc::default(),
            flushes: Arc::default(),
            waiting_since: None,
            clients: 0,
            now: Instant::now(),
        };
        let serving = ServerLoop::new(poll, socket, world, stop.clone()).map_err(ServerError::Start)?;
        let thread = thread::Builder::new().name("ctflow-server".to_owned()).spawn(move || serving.run());
        Ok(Self { thread: Some(thread.map_err(ServerError::Start)?), waker, stop })
    }

    /// Whether it serves; if not, the log says why.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends, within a second: what was answered still goes out. The socket is gone then.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.waker.wake(); // fails only where the thread is gone
        self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
    }
}
