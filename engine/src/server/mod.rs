//! The control server: carries out operators' requests to a running engine, over a UNIX socket. `CONTROL.md` specifies
//! it.
//!
//! ```text
//!  client ── request ──► Client ──► Job ─┬─ queries ──► workers, control thread, replication stage
//!         ◄── frames ── OutBuffer ◄──────┼─ answers, which wake the server
//!                                        └─ orders ──► the owner: reload, stop
//! ```
//!
//! One thread serves all clients in a mio loop, and never waits for another thread: it sends queries, and runs work
//! that blocks on a thread of its own. No thread waits for the server: workers, control thread and stage send answers
//! into channels that have room.
//!
//! ```no_run
//! use std::path::Path;
//! use ctflow_engine::engine::{Engine, Settings};
//! use ctflow_engine::server::{ControlSocket, OrderKind, Server};
//!
//! let socket = ControlSocket::bind(Path::new("/run/ctflow.sock"))?; // first: fails if a daemon runs already
//! let engine = Engine::start(&Settings::default())?;
//! let (sender, orders) = crossbeam_channel::bounded(16);
//! let server = Server::start(socket, &engine, move |order| drop(sender.try_send(order)))?;
//! for order in orders {
//!     match order.kind {
//!         OrderKind::Reload => order.answer.reloaded(Vec::new()),
//!         OrderKind::Stop => {
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

/// A running control server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    thread: Option<JoinHandle<()>>,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Serves `engine` at `socket`, on a thread of its own in the calling thread's network namespace. `orders` receives
    /// the orders for the daemon as a whole; the server's thread calls it, so it must not wait.
    ///
    /// The engine may be stopped before the server. Requests that need the engine then fail.
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
        let context = ServerContext {
            access: engine.access(),
            takeover: engine.takeover(),
            waker: waker.clone(),
            on_order: Box::new(orders),
            verification: Verification::default(),
            background_jobs: Arc::default(),
            flushes: Arc::default(),
            waiting_since: None,
            clients: 0,
            now: Instant::now(),
        };
        let serving = ServerLoop::new(poll, socket, context, stop.clone()).map_err(ServerError::Start)?;
        let thread = thread::Builder::new().name("ctflow-server".to_owned()).spawn(move || serving.run());
        Ok(Self { thread: Some(thread.map_err(ServerError::Start)?), waker, stop })
    }

    /// Whether the server runs. If not, the log has the reason.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops the server within a second: it sends the answers that are ready, and removes the socket.
    pub fn stop(mut self) {
        self.shut_down();
    }

    /// Stops the thread and waits for its end.
    fn shut_down(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.waker.wake(); // fails only when the thread has ended
        self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
    }
}
