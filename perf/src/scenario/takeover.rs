//! `takeover`: a firewall with connections is cut off and its daemon killed; the other firewall takes over.
//!
//! ```text
//! streams, FTP, other flows ─► all replicated ─► cut off, daemon killed ─► 0.3 s ─► takeover ─► 1 s ─► count survivors
//! ```
//!
//! A takeover commits the flows first and then moves the addresses: a packet that arrived before its flow would create
//! another flow. In hot mode the flows are in the kernel already, so a takeover moves the addresses first and then sets
//! the role, which ends the backup's isolation. The interruption beyond the detection is therefore the time of a
//! commit; in hot mode it is the time from the change of role to the first packet.

use std::thread;
use std::time::{Duration, Instant};

use ctflow_lab::gateways::{GatewayId, Gateways};
use ctflow_lab::topology::{FTP_PORT, REDIRECTED, SERVER, SERVER6, enable_ftp_helper};
use ctflow_lab::traffic::{FtpSession, StreamReport, Streams, Target, Transfer, serve_ftp};
use ctflow_lab::{Lab, LabError};

use crate::failure::Failure;
use crate::options::Options;
use crate::pair::{Pair, Side};
use crate::program::Programs;
use crate::report::{Goal, Row, Table};
use crate::runs::Runs;
use crate::statistics::Summary;
use crate::suite::Suite;
use crate::table::Table as KernelTable;

/// The number of flows other than the streams and transfers.
const FLOWS: u32 = 20_000;
/// The time from the failure to the takeover.
const DETECTION: Duration = Duration::from_millis(300);
/// How long the connections run through the second firewall.
const TIME_AFTER_TAKEOVER: Duration = Duration::from_secs(1);
/// The number of streams to each target.
const STREAMS: usize = 4;
/// The pieces of the transfer in progress when the firewall fails, and of the transfer that starts afterwards.
const PIECES: [usize; 2] = [250, 10];
/// The goal of the interruption of TCP in hot mode. TCP retransmits only at intervals.
const HOT_TCP_MS: f64 = 100.0;
/// The goal of the interruption of UDP in hot mode. UDP streams send every 10 ms.
const HOT_UDP_MS: f64 = 50.0;

/// The effect of a takeover on the connections.
#[derive(Debug)]
struct TakeoverResult {
    streams: Vec<StreamReport>,
    /// The number of FTP transfers, in progress or expected, that failed.
    transfers_broken: u64,
}

/// The measurements of one round: a takeover that commits, and with ctflow also one in hot mode.
#[derive(Debug)]
struct Measured {
    committed: TakeoverResult,
    hot: Option<TakeoverResult>,
}

/// Runs the scenario.
///
/// # Errors
/// When a program or the network fails. A connection that fails is counted, and is not an error.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let (ours, hot, reference) = (Suite::ours(programs)?, Suite::hot(programs)?, Suite::reference_with_expectations()?);
    let runs = Runs::alternate("takeover", options.rounds, [&ours, &reference], |suite| {
        let committed = take_over(suite, flows)?;
        let hot = suite.is_ours().then(|| take_over(&hot, flows)).transpose()?;
        Ok(Measured { committed, hot })
    })?;
    let title = format!(
        "takeover: {} streams and 2 FTP transfers with {} other flows, detected after {} ms, {} rounds",
        targets().len(),
        super::count(flows),
        DETECTION.as_millis(),
        options.rounds
    );
    Ok(Table { title, names: [ours.name(), reference.name()], rows: rows(&runs), notes: note.into_iter().collect() })
}

/// The targets of all streams: TCP by a redirected port, by masquerade and by IPv6; UDP by masquerade and by IPv6.
fn targets() -> Vec<Target> {
    let tcp = [REDIRECTED, (SERVER, 80).into(), (SERVER6, 443).into()].map(Target::Tcp);
    let udp = [(SERVER, 53).into(), (SERVER6, 53).into()].map(Target::Udp);
    [&tcp[..], &udp].concat().repeat(STREAMS)
}

/// Two FTP sessions behind masquerade: one with a transfer in progress, one with an announced transfer.
struct Transfers {
    running: (FtpSession, Transfer),
    waiting: FtpSession,
}

impl Transfers {
    fn start(gateways: &Gateways) -> Result<Self, LabError> {
        let server = (SERVER, FTP_PORT).into();
        serve_ftp(&gateways.server, &[server])?;
        gateways.client.run(move || {
            let mut sessions = [FtpSession::open(server)?, FtpSession::open(server)?];
            sessions.iter_mut().try_for_each(FtpSession::announce)?;
            let [mut running, waiting] = sessions;
            let transfer = running.start_transfer(PIECES[0])?;
            Ok(Self { running: (running, transfer), waiting })
        })
    }

    /// Starts the announced transfer, finishes both, and returns how many failed.
    fn count_broken(self) -> u64 {
        let (mut running, transfer) = self.running;
        let mut waiting = self.waiting;
        let expected = waiting.start_transfer(PIECES[1]).and_then(|transfer| waiting.finish_transfer(transfer));
        [running.finish_transfer(transfer), expected].iter().filter(|outcome| outcome.is_err()).count() as u64
    }
}

/// Lets the first firewall fail and the second take over.
fn take_over(suite: &Suite, flows: u32) -> Result<TakeoverResult, Failure> {
    let pair = Pair::of_gateways(Gateways::build(&Lab::enter()?)?);
    let gateways = pair.gateways()?;
    for which in [GatewayId::First, GatewayId::Second] {
        gateways.firewall(which).run(enable_ftp_helper)?;
    }
    let mut running = suite.start(&pair)?;
    if suite.is_hot() {
        running.set_role(Side::Primary, "primary")?;
        running.set_role(Side::Backup, "backup")?;
    }
    KernelTable::open(pair.host(Side::Primary))?.create(0..flows)?;
    let streams = Streams::start(&gateways.client, &targets())?;
    pair.await_quiet()?;
    let transfers = Transfers::start(gateways)?;
    thread::sleep(Duration::from_secs(1)); // until the transfers' flows are replicated, too

    let failed = Instant::now();
    gateways.cut_off(GatewayId::First)?;
    running.kill(Side::Primary);
    thread::sleep(DETECTION.saturating_sub(failed.elapsed()));
    if suite.is_hot() {
        gateways.activate(GatewayId::Second)?;
        running.set_role(Side::Backup, "primary")?;
    } else {
        running.run_daemon_command(Side::Backup, &["-c"])?;
        if suite.commits_expectations_apart() {
            running.run_daemon_command(Side::Backup, &["-c", "expect"])?;
        }
        gateways.activate(GatewayId::Second)?;
    }
    let transfers_broken = transfers.count_broken();
    thread::sleep(TIME_AFTER_TAKEOVER);
    let streams = streams.finish();
    running.kill(Side::Backup);
    Ok(TakeoverResult { streams, transfers_broken })
}

fn rows(runs: &Runs<Measured>) -> Vec<Row> {
    let committed = |figure: &dyn Fn(&TakeoverResult) -> f64| runs.summaries(|run| figure(&run.committed));
    let hot = |figure: &dyn Fn(&TakeoverResult) -> f64| {
        Summary::of(runs.ours.iter().filter_map(|run| run.hot.as_ref()).map(figure))
    };
    vec![
        Row::both("streams that died", committed(&streams_died)).with_goal(Goal::zero),
        Row::both("FTP transfers that broke, of 2", committed(&broken_transfers)).with_goal(Goal::zero),
        Row::both("TCP interruption beyond detection, ms", committed(&|run| silence_ms(run, is_tcp)))
            .with_goal_of_reference(1.0),
        Row::both("UDP interruption beyond detection, ms", committed(&|run| silence_ms(run, is_udp)))
            .with_goal_of_reference(1.0),
        Row::single("hot, isolated: streams that died", hot(&streams_died)).with_goal(Goal::zero),
        Row::single("hot, isolated: FTP transfers that broke", hot(&broken_transfers)).with_goal(Goal::zero),
        Row::single("hot, isolated: TCP interruption, ms", hot(&|run| silence_ms(run, is_tcp)))
            .with_goal(within(HOT_TCP_MS)),
        Row::single("hot, isolated: UDP interruption, ms", hot(&|run| silence_ms(run, is_udp)))
            .with_goal(within(HOT_UDP_MS)),
    ]
}

/// The goal that the median is at most `max_ms`.
fn within(max_ms: f64) -> impl FnOnce(&Summary) -> Goal {
    move |silence| Goal::new(format!("≤ {max_ms}"), silence.median <= max_ms)
}

fn streams_died(run: &TakeoverResult) -> f64 {
    run.streams.iter().filter(|stream| stream.died.is_some()).count() as f64
}

fn broken_transfers(run: &TakeoverResult) -> f64 {
    run.transfers_broken as f64
}

fn is_tcp(target: Target) -> bool {
    matches!(target, Target::Tcp(_))
}

fn is_udp(target: Target) -> bool {
    matches!(target, Target::Udp(_))
}

/// The longest silence beyond the detection, of the surviving streams that `selects` accepts.
fn silence_ms(run: &TakeoverResult, selects: fn(Target) -> bool) -> f64 {
    let alive = run.streams.iter().filter(|stream| selects(stream.target) && stream.died.is_none());
    let longest = alive.map(|stream| stream.silence).max().unwrap_or_default();
    super::cost::milliseconds(longest.saturating_sub(DETECTION))
}
