//! Traffic through the first firewall, captured by the whole pipeline, until its flows have ended.

use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::kernel::KernelError;
use ctflow_engine::kernel::dump::{Dump, Progress};
use ctflow_engine::lab::gateways::{GatewayId, Gateways};
use ctflow_engine::lab::topology::{REDIRECTED, SERVER, SERVER6};
use ctflow_engine::lab::traffic::Traffic;
use ctflow_engine::lab::{Host, sysctl};
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::request::Table;

use super::pair::Pair;
use super::{TICK, TRAFFIC, print_line};
use crate::command::progress::Live;
use crate::failure::Failure;

const TCP_PER_SECOND: u32 = 300;
const UDP_PER_SECOND: u32 = 500;
const PAYLOAD_BYTES: usize = 512;
/// The most time that the flows are given to end by themselves; their timeouts are 1 to 3 s.
const EXPIRY_MAX: Duration = Duration::from_secs(10);

/// Has traffic flow until no more flows are left than `staying`, and says how many the kernel then has.
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
    live.start_step("flows end");
    let left =
        wait_for_expiry(gateways.firewall(GatewayId::First), pair, u64::try_from(staying).unwrap_or(u64::MAX), &live)?;
    drop(live);
    print_line(&format!("connections: {} by TCP, {} by UDP, {} failed", done.tcp, done.udp, done.failed))?;
    match failure {
        Some(failure) => Err(Failure::Demo(format!("{} connections failed, the last: {failure}", done.failed))),
        None => Ok(left),
    }
}

/// Waits until the flows have ended in the firewall's kernel, in its shards and with its peer, and says how many the
/// kernel has. Reading the table has the kernel let go of what is past its time; part by part, so that their events come
/// in no burst.
fn wait_for_expiry(firewall: &Host, pair: &Pair<'_>, staying: u64, live: &Live) -> Result<u64, Failure> {
    let deadline = Instant::now() + EXPIRY_MAX;
    loop {
        let left = firewall.run(sysctl::flow_count)?;
        let agreed = [pair.captured().flows, pair.replicated()] == [left, left];
        if agreed && left <= staying || Instant::now() >= deadline {
            return Ok(left);
        }
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

fn update_live_line(live: &Live, pair: &Pair<'_>) {
    let totals = pair.captured();
    let (events, flows, lost) = (totals.events(), totals.flows, totals.events_lost);
    live.update(format_args!("{events} events, {flows} flows now, {lost} lost"));
}
