//! Traffic through the first firewall, captured by the whole pipeline, until the flows of the traffic have ended.

use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::kernel::KernelError;
use ctflow_engine::kernel::dump::{Dump, Progress};
use ctflow_lab::gateways::{GatewayId, Gateways};
use ctflow_lab::topology::{REDIRECTED, SERVER, SERVER6};
use ctflow_lab::traffic::Traffic;
use ctflow_lab::{Host, sysctl};
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::request::Table;

use super::pair::Pair;
use super::screen::print_line;
use super::{TICK, TRAFFIC};
use crate::command::progress::Live;
use crate::failure::Failure;
use crate::text::counted;

/// New TCP connections a second.
const TCP_PER_SECOND: u32 = 300;
/// New UDP exchanges a second.
const UDP_PER_SECOND: u32 = 500;
/// Bytes that each exchange sends.
const PAYLOAD_BYTES: usize = 512;
/// How long the flows may take to expire; their timeouts are 1 to 3 s.
const EXPIRY_MAX: Duration = Duration::from_secs(10);

/// Runs the traffic, waits until no more than `staying` flows are left, and returns how many the kernel then has.
///
/// # Errors
/// The traffic cannot start, a connection failed, or the kernel cannot be queried.
pub(super) fn run(gateways: &Gateways, pair: &Pair<'_>, staying: usize) -> Result<u64, Failure> {
    let mut live = Live::new();
    live.start_step("traffic");
    let traffic = Traffic {
        tcp: vec![(SERVER, 80).into(), REDIRECTED, (SERVER6, 443).into()],
        udp: vec![(SERVER, 53).into(), (SERVER6, 53).into()],
        tcp_per_second: TCP_PER_SECOND,
        udp_per_second: UDP_PER_SECOND,
        duration: TRAFFIC,
        payload_bytes: PAYLOAD_BYTES,
    };
    let running = traffic.start(&gateways.client)?;
    while !running.is_finished() {
        update_live_line(&live, pair);
        thread::sleep(TICK);
    }
    let failure = running.last_failure();
    let done = running.finish();
    live.start_step("flows expire");
    let left =
        wait_for_expiry(gateways.firewall(GatewayId::First), pair, u64::try_from(staying).unwrap_or(u64::MAX), &live)?;
    drop(live);
    print_line(&format!("connections: {} by TCP, {} by UDP, {} failed", done.tcp, done.udp, done.failed))?;
    match failure {
        Some(failure) => Err(Failure::Demo(format!(
            "{} failed, the last: {failure}",
            counted(done.failed, "connection", "connections")
        ))),
        None => Ok(left),
    }
}

/// Waits until no more than `staying` flows are left in the firewall's kernel, in its shards and in its peer's replica,
/// for at most [`EXPIRY_MAX`]. Returns how many flows the kernel has.
fn wait_for_expiry(firewall: &Host, pair: &Pair<'_>, staying: u64, live: &Live) -> Result<u64, Failure> {
    let deadline = Instant::now() + EXPIRY_MAX;
    loop {
        let left = firewall.run(sysctl::flow_count)?;
        let agreed = [pair.captured().flows, pair.replicated()] == [left, left];
        if agreed && left <= staying || Instant::now() >= deadline {
            return Ok(left);
        }
        // A dump makes the kernel remove expired flows. With pauses between its parts their events come in no burst.
        firewall.run(|| -> Result<(), KernelError> {
            let mut dump = Dump::start(Table::Conntrack, &DumpFilter::default(), false)?;
            while dump.read(|_| {})? != Progress::Done {
                thread::sleep(TICK / 20);
            }
            Ok(())
        })?;
        update_live_line(live, pair);
        thread::sleep(TICK);
    }
}

/// Shows the first firewall's counts on the live line.
fn update_live_line(live: &Live, pair: &Pair<'_>) {
    let totals = pair.captured();
    let (events, flows, lost) = (totals.events(), totals.flows, totals.events_lost);
    live.update(format_args!("{events} events, {flows} flows now, {lost} lost"));
}
