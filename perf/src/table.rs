//! Creates flows in a kernel's table and deletes them, as fast as possible or at a steady rate; once or continuously.
//!
//! Flow number *n* is an established TCP connection of the *n*th client to one server.

use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ctflow_engine::kernel::KernelError;
use ctflow_engine::kernel::batch::{Batch, Refused};
use ctflow_lab::Host;
use ctflow_lab::load::pace::{Next, Pace};
use ctflow_parser::flow::FlowView;
use ctflow_parser::proto::{ProtoInfo, TcpInfo};
use ctflow_parser::request::{self, FlowChange, IfExists, Selector};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi::{AF_INET, IPPROTO_TCP, IPS_ASSURED, IPS_CONFIRMED, IPS_SEEN_REPLY};

use crate::failure::Failure;

/// The address of the first client. Each flow has a client of its own.
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT_PORT: u16 = 40_000;
const SERVER_PORT: u16 = 443;
/// The timeout of flows, in seconds. No flow expires during a scenario.
const TIMEOUT: u32 = 3600;
/// `TCP_CONNTRACK_ESTABLISHED`.
const ESTABLISHED: u8 = 3;
/// Changes made between two reads of the clock. At 50,000 a second they take less than a millisecond.
const STEP: u32 = 32;

/// A socket for changes to the table of one host.
#[derive(Debug)]
pub(crate) struct Table {
    batch: Batch,
    /// The number of changes that the kernel refused since the last report.
    refused: u64,
    /// The error of the first of them.
    first_error: Option<KernelError>,
}

impl Table {
    /// Opens a socket in the namespace of `host`.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub(crate) fn open(host: &Host) -> Result<Self, Failure> {
        let batch = host.run(|| Batch::open("change a flow"))?;
        Ok(Self { batch, refused: 0, first_error: None })
    }

    /// Creates the flows of these numbers, as fast as possible.
    ///
    /// # Errors
    /// [`Failure::Refused`] when the kernel refuses a change, [`Failure::Kernel`] when a request cannot be made.
    pub(crate) fn create(&mut self, flows: Range<u32>) -> Result<(), Failure> {
        flows.into_iter().try_for_each(|number| {
            self.add_change(|writer, seq| request::create(writer, seq, &established_flow(number), IfExists::Refuse))
        })?;
        self.finish_batch()
    }

    /// Deletes the flows of these numbers, as fast as possible.
    ///
    /// # Errors
    /// As [`Table::create`].
    pub(crate) fn delete(&mut self, flows: Range<u32>) -> Result<(), Failure> {
        flows.into_iter().try_for_each(|number| {
            let which = Selector::Orig(tuple(number));
            self.add_change(|writer, seq| request::delete(writer, seq, &which, None, None))
        })?;
        self.finish_batch()
    }

    /// Creates the flows of these numbers at a steady rate.
    ///
    /// # Errors
    /// As [`Table::create`].
    pub(crate) fn create_paced(&mut self, flows: Range<u32>, per_second: NonZeroU32) -> Result<(), Failure> {
        let mut pace = Pace::new(per_second, Instant::now());
        let mut next = flows.start;
        while next < flows.end {
            let end = flows.end.min(next.saturating_add(STEP));
            self.create(next..end)?;
            keep_pace(&mut pace, end - next);
            next = end;
        }
        Ok(())
    }

    /// Adds the change that `write` encodes to the batch; a full batch is sent to the kernel.
    fn add_change(
        &mut self,
        write: impl FnOnce(&mut ctflow_parser::write::Writer<'_>, u32) -> Result<(), ctflow_parser::write::Full>,
    ) -> Result<(), Failure> {
        let (refused, first) = (&mut self.refused, &mut self.first_error);
        Ok(self.batch.add(0, write, &mut count_refused(refused, first))?)
    }

    /// Sends the rest of the batch, and returns an error if the kernel refused any change.
    fn finish_batch(&mut self) -> Result<(), Failure> {
        let (refused, first) = (&mut self.refused, &mut self.first_error);
        self.batch.finish(&mut count_refused(refused, first))?;
        let refused = std::mem::take(&mut self.refused);
        self.first_error.take().map_or(Ok(()), |first| Err(Failure::Refused { refused, first }))
    }
}

/// Returns a callback that counts refused changes and keeps the first error.
fn count_refused<'n>(count: &'n mut u64, first: &'n mut Option<KernelError>) -> impl FnMut(Refused) + 'n {
    move |refused| {
        *count += 1;
        first.get_or_insert(refused.error);
    }
}

/// A thread that creates new flows and deletes the oldest at a steady rate, so that their number is constant. It ends
/// when dropped.
#[derive(Debug)]
pub(crate) struct Churn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<ChurnTotals, Failure>>>,
}

/// The result of a [`Churn`].
#[derive(Debug)]
pub(crate) struct ChurnTotals {
    /// The number of flows created and flows deleted, together.
    pub(crate) events: u64,
    /// The time from its start to its end.
    pub(crate) elapsed: Duration,
}

impl ChurnTotals {
    /// The events a second that were reached.
    pub(crate) fn per_second(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }
}

impl Churn {
    /// Starts from the flows of the numbers in `initial`, which exist. Causes `per_second` events, half of them new
    /// flows and half deletions, for `duration` or until it is stopped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(
        table: Table,
        initial: Range<u32>,
        per_second: NonZeroU32,
        duration: Duration,
    ) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || run_churn(table, initial, per_second, duration, &stopped);
        let thread = thread::Builder::new().name("churn".into()).spawn(work);
        Ok(Self { stop, thread: Some(thread.map_err(Failure::system("start a thread"))?) })
    }

    /// Waits until its duration is over.
    ///
    /// # Errors
    /// The error that ended it, as for [`Table::create`].
    pub(crate) fn wait(mut self) -> Result<ChurnTotals, Failure> {
        self.join()
    }

    /// Stops it.
    ///
    /// # Errors
    /// The error that ended it, as for [`Table::create`].
    pub(crate) fn stop(mut self) -> Result<ChurnTotals, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Joins the thread, and returns its result.
    fn join(&mut self) -> Result<ChurnTotals, Failure> {
        let ended = self.thread.take().map(JoinHandle::join);
        let died = || Failure::system("change the table")(std::io::Error::other("the thread panicked"));
        ended.and_then(Result::ok).unwrap_or_else(|| Err(died()))
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // dropped because of another error, which is reported
        }
    }
}

/// The body of a churn's thread.
fn run_churn(
    mut table: Table,
    initial: Range<u32>,
    per_second: NonZeroU32,
    duration: Duration,
    stop: &AtomicBool,
) -> Result<ChurnTotals, Failure> {
    let (mut oldest, mut next, started) = (initial.start, initial.end, Instant::now());
    let (mut events, mut pace) = (0, Pace::new(per_second, Instant::now()));
    while !stop.load(Ordering::Relaxed) && started.elapsed() < duration {
        table.create(next..next + STEP / 2)?;
        table.delete(oldest..oldest + STEP / 2)?;
        (oldest, next) = (oldest + STEP / 2, next + STEP / 2);
        events += u64::from(STEP);
        keep_pace(&mut pace, STEP);
    }
    Ok(ChurnTotals { events, elapsed: started.elapsed() })
}

/// Records `count` changes, and sleeps until the next change is due.
fn keep_pace(pace: &mut Pace, count: u32) {
    if let Next::Wait(early) = pace.advance(count, Instant::now()) {
        thread::sleep(early);
    }
}

/// The original tuple of flow number `number`.
fn tuple(number: u32) -> Tuple {
    let src = Ipv4Addr::from_bits(FIRST_CLIENT.to_bits() + number).into();
    let l4 = L4::Ports { src: CLIENT_PORT, dst: SERVER_PORT };
    Tuple { src, dst: SERVER.into(), proto: IPPROTO_TCP, l4, zone: None }
}

/// The request's view of flow number `number`.
fn established_flow(number: u32) -> FlowChange<'static> {
    let orig = tuple(number);
    let reply = Tuple { src: orig.dst, dst: orig.src, l4: L4::Ports { src: SERVER_PORT, dst: CLIENT_PORT }, ..orig };
    let flow = FlowView {
        family: AF_INET,
        orig: Some(orig),
        reply: Some(reply),
        status: Some(IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED),
        timeout: Some(TIMEOUT),
        proto: Some(ProtoInfo::Tcp(TcpInfo { state: Some(ESTABLISHED), ..TcpInfo::default() })),
        ..FlowView::default()
    };
    FlowChange { flow, ..FlowChange::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::{Pair, Side};

    #[test]
    fn flows_are_created_and_deleted_as_requested() {
        ctflow_lab::isolated!({
            let pair = Pair::build().unwrap();
            let flows = || pair.flows(Side::Primary).unwrap();
            let mut table = Table::open(pair.host(Side::Primary)).unwrap();
            table.create(0..1_000).unwrap();
            table.delete(0..300).unwrap();
            assert_eq!(flows(), 700);
            let refused = table.delete(200..400).unwrap_err().to_string();
            assert!(refused.starts_with("the kernel refused 100 changes of the table; the first: "), "{refused}");
            table.create_paced(1_000..2_000, NonZeroU32::new(100_000).unwrap()).unwrap();
            assert_eq!(flows(), 1_600);
            let rate = NonZeroU32::new(20_000).unwrap();
            let churn = Churn::start(table, 400..2_000, rate, Duration::from_millis(300)).unwrap();
            let churned = churn.wait().unwrap();
            assert_eq!(flows(), 1_600);
            assert!(churned.events > 1_000 && churned.events <= 6_032, "{churned:?}");
            pair.flush(Side::Primary).unwrap();
            assert_eq!(flows(), 0);
        });
    }
}
