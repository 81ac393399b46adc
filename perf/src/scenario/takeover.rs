//! `takeover`: a firewall with connections through it is cut off and its daemon killed; the other one steps in.
//!
//! ```text
//! streams, FTP, and other flows ─► all replicated ─► cut off, daemon killed ─► 0.3 s ─► step in ─► 1 s ─► what is alive?
//! ```
//!
//! To step in is to commit and then to take the addresses, for a packet that came before its flow would make another of it;
//! and in hot mode, in which the flows are there, to take the addresses at once, and then the role, which ends the backup's
//! isolation. What is told beyond the detection is therefore the time of a commit, for which alone the connections have to
//! wait, and in hot mode that from the change of roles to the first packet.

use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::lab::gateways::{GatewayId, Gateways};
use ctflow_engine::lab::topology::{FTP_PORT, REDIRECTED, SERVER, SERVER6, enable_ftp_helper};
use ctflow_engine::lab::traffic::{FtpSession, StreamReport, Streams, Target, Transfer, serve_ftp};
use ctflow_engine::lab::{Lab, LabError};

use crate::failure::Failure;
use crate::options::Options;
use crate::pair::{Pair, Side};
use crate::program::Programs;
use crate::report::{Goal, Row, Table};
use crate::runs::Runs;
use crate::statistics::Summary;
use crate::suite::Suite;
use crate::table::Table as KernelTable;

/// Flows besides.
const FLOWS: u32 = 20_000;
/// How long nobody notices.
const DETECTION: Duration = Duration::from_millis(300);
/// How long connections go on by way of the second firewall.
const TIME_AFTER_TAKEOVER: Duration = Duration::from_secs(1);
/// Streams to each kind of target.
const STREAMS: usize = 4;
/// Pieces of a transfer that is under way when the firewall fails; and of one that begins afterwards.
const PIECES: [usize; 2] = [250, 10];
/// Beyond the detection, in hot mode: what TCP tries only now and then, and what comes every 10 ms.
const HOT_TCP_MS: f64 = 100.0;
const HOT_UDP_MS: f64 = 50.0;

/// What a takeover did to connections.
#[derive(Debug)]
struct TakeoverResult {
    streams: Vec<StreamReport>,
    /// FTP transfers that were under way, or expected, and did not come to their end.
    transfers_broken: u64,
}

/// By a suite; by ctflow in hot mode as well.
#[derive(Debug)]
struct Measured {
    committed: TakeoverResult,
    hot: Option<TakeoverResult>,
}

/// Runs it.
///
/// # Errors
/// When a program or the network fails. A connection that dies is a figure.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let (ours, hot, peer) = (Suite::ours(programs)?, Suite::hot(programs)?, Suite::reference_with_expectations()?);
    let runs = Runs::alternate("takeover", options.rounds, [&ours, &peer], |suite| {
        let committed = take_over(suite, flows)?;
        let hot = suite.is_ours().then(|| take_over(&hot, flows)).transpose()?;
        Ok(Measured { committed, hot })
    })?;
    let title = format!(
        "takeover: {} streams and 2 FTP transfers with {} other flows, noticed after {} ms, {} rounds",
        targets().len(),
        super::count(flows),
        DETECTION.as_millis(),
        options.rounds
    );
    Ok(Table { title, names: [ours.name(), peer.name()], rows: rows(&runs), notes: note.into_iter().collect() })
}

/// By TCP behind masquerade and by a redirected port, by UDP, and by IPv6.
fn targets() -> Vec<Target> {
    let tcp = [REDIRECTED, (SERVER, 80).into(), (SERVER6, 443).into()].map(Target::Tcp);
    let udp = [(SERVER, 53).into(), (SERVER6, 53).into()].map(Target::Udp);
    [&tcp[..], &udp].concat().repeat(STREAMS)
}

/// Two FTP sessions behind masquerade: one has its data on the way, one is to get it.
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

    fn count_broken(self) -> u64 {
        let (mut running, transfer) = self.running;
        let mut waiting = self.waiting;
        let expected = waiting.start_transfer(PIECES[1]).and_then(|transfer| waiting.finish_transfer(transfer));
        [running.finish_transfer(transfer), expected].iter().filter(|outcome| outcome.is_err()).count() as u64
    }
}

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
    thread::sleep(Duration::from_secs(1)); // until they are replicated, too

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
        Row::both("TCP silent beyond the detection, ms", committed(&|run| silence_ms(run, is_tcp)))
            .with_goal_of_reference(1.0),
        Row::both("UDP silent beyond the detection, ms", committed(&|run| silence_ms(run, is_udp)))
            .with_goal_of_reference(1.0),
        Row::single("hot, isolated: streams that died", hot(&streams_died)).with_goal(Goal::zero),
        Row::single("hot, isolated: FTP transfers that broke", hot(&broken_transfers)).with_goal(Goal::zero),
        Row::single("hot, isolated: TCP silent likewise, ms", hot(&|run| silence_ms(run, is_tcp)))
            .with_goal(within(HOT_TCP_MS)),
        Row::single("hot, isolated: UDP silent likewise, ms", hot(&|run| silence_ms(run, is_udp)))
            .with_goal(within(HOT_UDP_MS)),
    ]
}

fn within(most_ms: f64) -> impl FnOnce(&Summary) -> Goal {
    move |silence| Goal::new(format!("≤ {most_ms}"), silence.median <= most_ms)
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

/// The longest of those that live.
fn silence_ms(run: &TakeoverResult, counts: fn(Target) -> bool) -> f64 {
    let alive = run.streams.iter().filter(|stream| counts(stream.target) && stream.died.is_none());
    let longest = alive.map(|stream| stream.silence).max().unwrap_or_default();
    super::cost::milliseconds(longest.saturating_sub(DETECTION))
}
