//! Takeovers between two firewalls: the flows in their kernels before, during and after.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by it, here in its helpers too

mod flows;
mod pair;

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ctflow_engine::engine::{Engine, Settings};
use ctflow_engine::kernel::commit::is_held;
use ctflow_engine::kernel::dump::{Dump, Progress};
use ctflow_engine::kernel::request::Requester;
use ctflow_engine::netlink::nft::{self, Chain, Hook, Ruleset};
use ctflow_engine::replication::ReplicationSettings;
use ctflow_engine::replication::link::{LinkSettings, Transport};
use ctflow_engine::takeover;
use ctflow_lab::gateways::{GatewayId, Gateways, SYNC_ADDRESSES};
use ctflow_lab::isolated;
use ctflow_lab::topology::{FIREWALL_INSIDE, FTP_PORT, REDIRECTED, SERVER, SERVER6, enable_ftp_helper};
use ctflow_lab::traffic::{FtpSession, StreamReport, Streams, Target, serve_ftp};
use ctflow_lab::{Host, Lab, sysctl};
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::flow::FlowView;
use ctflow_parser::proto::{ProtoInfo, TcpInfo};
use ctflow_parser::record::Record;
use ctflow_parser::request::{self, FlowChange, Table};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi::{AF_INET, IPS_ASSURED, IPS_CONFIRMED, IPS_SEEN_REPLY};
use ctflow_parser::write::Writer;
use ctflow_replicate::Role;
use flows::{create, delete};
use pair::{cable, create_flow, held_flows, settings, status, tracked_flows, until};

/// Hot mode with a short time to the purge.
const HOT: takeover::Settings = takeover::Settings { hot: true, purge_after: Duration::from_secs(3), ..defaults() };

/// The default settings as a constant, which `Default` cannot be.
const fn defaults() -> takeover::Settings {
    takeover::Settings {
        rules: ctflow_engine::kernel::commit::CommitRules {
            lifetime: ctflow_engine::kernel::commit::Lifetime::Left,
            windows: ctflow_engine::kernel::commit::Windows::Liberal,
        },
        hot: false,
        purge_after: Duration::from_secs(60),
        ready_within: Duration::from_secs(30),
        active_active: false,
    }
}

/// The settings of node `end` of the pair, with these takeover settings.
fn node_settings(end: usize, takeover: takeover::Settings) -> Settings {
    let settings = settings(end, 2, Transport::Udp);
    let replication = settings.replication.map(|replication| ReplicationSettings { takeover, ..replication });
    Settings { replication, ..settings }
}

/// Counts the flows of the calling thread's kernel: its own, and those held for a peer.
fn count_flows() -> (u64, u64) {
    let (mut own, mut held) = (0, 0);
    let mut dump = Dump::start(Table::Conntrack, &DumpFilter::default(), false).unwrap();
    let mut on_record = |record: &Record<'_>| match is_held(record.flow().unwrap().timeout.unwrap()) {
        true => held += 1,
        false => own += 1,
    };
    while dump.read(&mut on_record).unwrap() != Progress::Done {}
    (own, held)
}

/// Whether `engine` has received every flow of its peer.
fn knows_its_peer(engine: &Engine) -> bool {
    let status = status(engine);
    status.node.peers.iter().any(|peer| !peer.received.is_empty()) && status.unknown_buckets() == 0
}

/// Starts an engine on a host.
fn start(settings: Settings, host: &Host) -> Engine {
    host.run(move || Engine::start(&settings).unwrap())
}

#[test]
fn hot_mode_injects_flows_at_once_and_a_takeover_adopts_them() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        let other = start(node_settings(1, HOT), &host);
        let one = Engine::start(&node_settings(0, HOT)).unwrap();
        let both = [&one, &other];
        other.set_role(Role::Backup).unwrap();
        create(0..1_000);
        until("the backup's kernel holds the flows", &both, || host.run(count_flows) == (0, 1_000));
        delete(0..300);
        until("the ended flows are deleted from the backup's kernel", &both, || host.run(count_flows) == (0, 700));
        assert_eq!(
            (other.totals().flows, held_flows(&one)),
            (0, 0),
            "a held flow is not in the internal cache, and causes no event"
        );
        assert_eq!(host.run(tracked_flows), tracked_flows());
        one.stop().unwrap();
        let changed = other.set_role(Role::Primary).unwrap();
        assert_eq!(changed.missing, Vec::<String>::new());
        assert_eq!(changed.committed.unwrap().updated, 700);
        assert_eq!((host.run(count_flows), changed.internal_flows), ((700, 0), Some(700)));
        let timeouts = host.run(|| {
            let mut longest = 0;
            let mut dump = Dump::start(Table::Conntrack, &DumpFilter::default(), false).unwrap();
            while dump.read(|record| longest = longest.max(record.flow().unwrap().timeout.unwrap())).unwrap()
                != Progress::Done
            {}
            longest
        });
        assert!((590..=600).contains(&timeouts), "the longest timeout is {timeouts} s, not that of the source");
        assert_eq!(held_flows(&other), 0, "the replicas are empty after the takeover");
        assert!(other.set_role(Role::Primary).unwrap().already);
    });
}

#[test]
fn held_flows_that_no_peer_confirms_are_purged() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        let other = start(node_settings(1, HOT), &host);
        let one = Engine::start(&node_settings(0, HOT)).unwrap();
        other.set_role(Role::Backup).unwrap();
        create(0..500);
        until("the kernel holds the flows", &[&one, &other], || host.run(count_flows) == (0, 500));
        // While the backup's daemon is down, flows end and others start. The backup's own flows stay.
        other.stop().unwrap();
        delete(0..200);
        create(1_000..1_050);
        host.run(|| create(5_000..5_007));
        std::thread::sleep(Duration::from_secs(3)); // the kernel reports timeouts in seconds
        let other = start(node_settings(1, HOT), &host);
        until("the kernel holds only flows that still exist", &[&one, &other], || host.run(count_flows) == (7, 350));
        // Without a live peer the held flows are deleted from the kernel. A takeover can still commit them.
        one.stop().unwrap();
        until("the kernel holds no flow", &[&other], || host.run(count_flows) == (7, 0));
        assert_eq!(held_flows(&other), 350);
        let changed = other.set_role(Role::Primary).unwrap();
        assert_eq!((changed.committed.unwrap().created, host.run(count_flows)), (350, (357, 0)));
    });
}

#[test]
fn roles_are_exchanged_and_exchanged_back() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        let short = takeover::Settings { purge_after: Duration::from_secs(2), ..defaults() };
        let other = start(node_settings(1, short), &host);
        let one = Engine::start(&node_settings(0, short)).unwrap();
        let both = [&one, &other];
        until("both nodes have received every flow", &both, || both.iter().all(|end| knows_its_peer(end)));
        assert_eq!(one.set_role(Role::Primary).unwrap().missing, Vec::<String>::new());
        other.set_role(Role::Backup).unwrap();
        create(0..400);
        until("the flows are replicated", &both, || held_flows(&other) == 400);
        assert_eq!(host.run(count_flows), (0, 0));
        let changed = other.set_role(Role::Primary).unwrap();
        let committed = changed.committed.unwrap();
        assert_eq!((committed.created, committed.failed, changed.internal_flows), (400, 0, Some(400)));
        assert_eq!(one.set_role(Role::Backup).unwrap().purge_in_ms, Some(2_000));
        until("the new backup has the flows of the new primary", &both, || held_flows(&one) == 400);
        until("the new backup's own kernel is flushed", &both, || count_flows() == (0, 0));
        until("the new primary has received the ends", &both, || held_flows(&other) == 0);
        // The next takeover must not create flows that end now.
        host.run(|| delete(0..100));
        until("the ends are replicated", &both, || held_flows(&one) == 300);
        let changed = one.set_role(Role::Primary).unwrap();
        assert_eq!((changed.committed.unwrap().created, count_flows()), (300, (300, 0)));
        // A scheduled purge is cancelled when the node becomes primary.
        one.set_role(Role::Fault).unwrap();
        one.set_role(Role::Primary).unwrap();
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(count_flows(), (300, 0));
    });
}

#[test]
fn the_role_survives_a_daemon_restart() {
    isolated!({
        Lab::enter().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("role");
        let settings = |file: &std::path::Path| {
            let settings = node_settings(0, takeover::Settings { purge_after: Duration::from_secs(2), ..defaults() });
            let role_file = Some(file.to_owned());
            let replication = settings.replication.map(|replication| ReplicationSettings { role_file, ..replication });
            Settings { replication, ..settings }
        };
        ctflow_lab::link::Links::open().unwrap().up("lo").unwrap();
        let loopback = |settings: Settings| {
            let replication = settings.replication.map(|mut replication| {
                replication.links[0].local = "127.0.0.1:3780".parse().unwrap();
                replication.links[0].peers = vec!["127.0.0.1:3781".parse().unwrap()];
                replication
            });
            Settings { replication, ..settings }
        };
        let one = Engine::start(&loopback(settings(&file))).unwrap();
        let missing = one.set_role(Role::Primary).unwrap().missing;
        assert_eq!(missing, ["no peer has connected, so its flows, if there are any, are missing: check the links"]);
        one.stop().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "primary begun\n");
        let one = Engine::start(&loopback(settings(&file))).unwrap();
        until("the engine has its role", &[&one], || status(&one).node.role == Role::Primary);
        assert!(!one.set_role(Role::Primary).unwrap().already, "the change of role was not complete");
        create(0..10);
        assert_eq!(one.set_role(Role::Backup).unwrap().missing, Vec::<String>::new());
        one.stop().unwrap();
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), count_flows()), ("backup\n", (10, 0)));
        let one = Engine::start(&loopback(settings(&file))).unwrap();
        until("the engine has its role", &[&one], || status(&one).node.role == Role::Backup);
        assert!(one.set_role(Role::Backup).unwrap().already);
        until("the purge is scheduled again after the restart", &[&one], || count_flows() == (0, 0));
    });
}

/// What the client reaches on the first firewall and behind it.
#[derive(Debug, PartialEq, Eq)]
struct Answers {
    /// The firewall reports a closed port.
    refusals: bool,
    service: bool,
    accepted_service: bool,
    server: bool,
}

const ALL_ANSWER: Answers = Answers { refusals: true, service: true, accepted_service: true, server: true };

/// Tries each of them from the client.
fn answers(gateways: &Gateways) -> Answers {
    const WAIT: Duration = Duration::from_millis(250);
    let connects = |address, port| TcpStream::connect_timeout(&SocketAddr::new(address, port), WAIT).is_ok();
    let refused = || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket.connect((FIREWALL_INSIDE, 9)).unwrap();
        socket.send(b"x").unwrap();
        socket.recv(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    gateways.client.run(move || Answers {
        refusals: refused(),
        service: connects(FIREWALL_INSIDE, 22),
        accepted_service: connects(FIREWALL_INSIDE, 2222),
        server: connects(SERVER, 80),
    })
}

#[test]
fn only_replication_and_control_reach_an_isolated_backup() {
    isolated!({
        let gateways = Gateways::build(&Lab::enter().unwrap()).unwrap();
        let listen = || [22, 2222].map(|port| TcpListener::bind((FIREWALL_INSIDE, port)).unwrap());
        let _services = gateways.firewall(GatewayId::First).run(listen);
        let folder = tempfile::tempdir().unwrap();
        for takeover in [defaults(), HOT] {
            let role_file = folder.path().join(if takeover.hot { "hot" } else { "cold" });
            let accept = vec![takeover::Service { protocol: 6, port: Some(2222) }];
            let isolation = takeover::Isolation { accept, spared_links: Vec::new() };
            let settings = gateway(GatewayId::First, takeover);
            let replication = settings.replication.map(|replication| ReplicationSettings {
                isolation: Some(isolation),
                role_file: Some(role_file),
                ..replication
            });
            let settings = Settings { replication, ..settings };
            let other = start(gateway(GatewayId::Second, takeover), gateways.firewall(GatewayId::Second));
            let one = start(settings.clone(), gateways.firewall(GatewayId::First));
            assert_eq!(answers(&gateways), ALL_ANSWER, "a node without a role is not isolated");
            one.set_role(Role::Backup).unwrap();
            let control = Answers { refusals: false, service: false, accepted_service: true, server: false };
            assert_eq!(answers(&gateways), control);
            until("both nodes have received every flow", &[&one, &other], || {
                knows_its_peer(&one) && knows_its_peer(&other)
            });
            one.stop().unwrap();
            assert_eq!(answers(&gateways), ALL_ANSWER, "the isolation must end with the daemon");
            let one = start(settings, gateways.firewall(GatewayId::First));
            assert_eq!(answers(&gateways), control, "a restarted backup is isolated");
            until("both nodes have received every flow again", &[&one, &other], || {
                knows_its_peer(&one) && knows_its_peer(&other)
            });
            assert_eq!(one.set_role(Role::Primary).unwrap().missing, Vec::<String>::new());
            assert_eq!(answers(&gateways), ALL_ANSWER);
        }
    });
}

#[test]
fn a_starting_daemon_removes_the_isolation_of_a_dead_one() {
    isolated!({
        let gateways = Gateways::build(&Lab::enter().unwrap()).unwrap();
        let firewall = gateways.firewall(GatewayId::First);
        let left = || Chain::filter("forward", Hook::Forward).rule(nft::Rule::new().drop());
        firewall.run(move || Ruleset::new("ctflow-isolate").chain(left()).apply()).unwrap();
        assert!(!answers(&gateways).server);
        let _one = start(gateway(GatewayId::First, defaults()), firewall);
        assert!(answers(&gateways).server);
    });
}

/// A TCP flow in this state.
fn tcp_flow(state: u8) -> FlowChange<'static> {
    let end = |src: [u8; 4], dst: [u8; 4], ports: (u16, u16)| Tuple {
        src: src.into(),
        dst: dst.into(),
        proto: 6,
        l4: L4::Ports { src: ports.0, dst: ports.1 },
        zone: None,
    };
    let flow = FlowView {
        family: AF_INET,
        orig: Some(end([10, 0, 0, 1], [192, 0, 2, 9], (1_000, 80))),
        reply: Some(end([192, 0, 2, 9], [10, 0, 0, 1], (80, 1_000))),
        status: Some(IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED),
        timeout: Some(600),
        proto: Some(ProtoInfo::Tcp(TcpInfo { state: Some(state), ..TcpInfo::default() })),
        ..FlowView::default()
    };
    FlowChange { flow, ..FlowChange::default() }
}

/// Updates a flow in the kernel.
fn update_flow(change: &FlowChange<'_>) {
    let write = |writer: &mut Writer<'_>, seq| request::update(writer, seq, change);
    Requester::open().unwrap().request("change a flow", write, |_| {}).unwrap();
}

/// Sets the state of the TCP flow in the calling thread's kernel.
fn set_tcp_state(to: u8) {
    update_flow(&tcp_flow(to));
}

/// The state of the TCP flow in the calling thread's kernel, and whether the flow is held.
fn tcp_state() -> Option<(u8, bool)> {
    let mut found = None;
    let mut dump = Dump::start(Table::Conntrack, &DumpFilter::default(), false).unwrap();
    let mut on_record = |record: &Record<'_>| {
        let flow = record.flow().unwrap();
        found = flow.proto.and_then(|proto| proto.state()).map(|state| (state, is_held(flow.timeout.unwrap())));
    };
    while dump.read(&mut on_record).unwrap() != Progress::Done {}
    found
}

const ESTABLISHED: u8 = 3;
const FIN_WAIT: u8 = 4;
const CLOSE_WAIT: u8 = 5;
const TIME_WAIT: u8 = 7;

#[test]
fn with_two_primaries_the_newest_state_of_a_flow_wins() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        let both_primary = takeover::Settings { active_active: true, ..HOT };
        let other = start(node_settings(1, both_primary), &host);
        let one = Engine::start(&node_settings(0, both_primary)).unwrap();
        let both = [&one, &other];
        one.set_role(Role::Primary).unwrap();
        other.set_role(Role::Primary).unwrap();
        create_flow(&tcp_flow(ESTABLISHED));
        until("the flow is held", &both, || host.run(tcp_state) == Some((ESTABLISHED, true)));
        // The flow moves to the other node and changes there: a packet there sets an ordinary timeout.
        host.run(|| set_tcp_state(FIN_WAIT));
        until("the flow belongs to the other node", &both, || {
            tcp_state() == Some((FIN_WAIT, true)) && one.totals().flows == 0
        });
        assert_eq!(host.run(tcp_state), Some((FIN_WAIT, false)));
        // The flow moves back.
        set_tcp_state(CLOSE_WAIT);
        until("the flow belongs to the first node again", &both, || {
            host.run(tcp_state) == Some((CLOSE_WAIT, true)) && other.totals().flows == 0
        });
        // The flow ends on the first node.
        set_tcp_state(TIME_WAIT);
        until("its last state is replicated", &both, || host.run(tcp_state) == Some((TIME_WAIT, true)));
        let end = |writer: &mut Writer<'_>, seq| {
            request::delete(writer, seq, &request::Selector::Orig(tcp_flow(0).flow.orig.unwrap()), None, None)
        };
        Requester::open().unwrap().request("end a flow", end, |_| {}).unwrap();
        until("the flow is deleted on both nodes", &both, || host.run(|| sysctl::flow_count().unwrap()) == 0);
        assert!(status(&one).split_brain.is_empty(), "two primaries are configured");
    });
}

#[test]
fn a_flow_that_sees_packets_during_its_commit_is_kept() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        let other = start(node_settings(1, HOT), &host);
        let one = Engine::start(&node_settings(0, HOT)).unwrap();
        one.set_role(Role::Primary).unwrap();
        other.set_role(Role::Backup).unwrap();
        let new =
            FlowChange { flow: FlowView { status: Some(IPS_CONFIRMED), ..tcp_flow(0).flow }, ..tcp_flow(ESTABLISHED) };
        create_flow(&new);
        until("the flow is held", &[&one, &other], || host.run(count_flows) == (0, 1));
        // As if a reply packet passed between the query and the update.
        let answered = FlowView {
            family: AF_INET,
            orig: new.flow.orig,
            status: Some(IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED),
            ..FlowView::default()
        };
        host.run(move || update_flow(&FlowChange { flow: answered, ..FlowChange::default() }));
        let changed = other.set_role(Role::Primary).unwrap();
        assert_eq!(changed.missing, Vec::<String>::new());
        let committed = changed.committed.unwrap();
        assert_eq!((committed.updated, committed.kept, committed.failed), (0, 1, 0));
    });
}

#[test]
fn a_primary_takes_over_the_flows_of_another_primary() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        let both_primary = takeover::Settings { active_active: true, ..defaults() };
        let other = start(node_settings(1, both_primary), &host);
        let one = Engine::start(&node_settings(0, both_primary)).unwrap();
        let both = [&one, &other];
        until("both nodes have received every flow", &both, || knows_its_peer(&one) && knows_its_peer(&other));
        one.set_role(Role::Primary).unwrap();
        other.set_role(Role::Primary).unwrap();
        create(0..100);
        host.run(|| create(500..550));
        until("each node has the flows of the other", &both, || (held_flows(&one), held_flows(&other)) == (50, 100));
        one.stop().unwrap();
        let committed = other.set_role(Role::Primary).unwrap().committed.unwrap();
        assert_eq!((committed.created, committed.updated, committed.failed), (100, 0, 0));
        assert_eq!(host.run(count_flows), (150, 0));
    });
}

/// The settings of a firewall of the gateways.
fn gateway(which: GatewayId, takeover: takeover::Settings) -> Settings {
    let index = which.index();
    let settings = node_settings(index, takeover);
    let at = |index: usize| SocketAddr::new(SYNC_ADDRESSES[index], 3780);
    let link =
        LinkSettings { transport: Transport::Udp, local: at(index), peers: vec![at(1 - index)], interface: None };
    let links = vec![link];
    let replication = settings.replication.map(|replication| ReplicationSettings { links, ..replication });
    Settings { replication, ..settings }
}

/// Targets of streams of every kind.
fn targets() -> Vec<Target> {
    let tcp = [REDIRECTED, (SERVER, 80).into(), (SERVER6, 443).into()].map(Target::Tcp);
    let udp = [(SERVER, 53).into(), (SERVER6, 53).into()].map(Target::Udp);
    [&tcp[..], &tcp, &udp].concat()
}

/// Asserts that `count` streams ran and none of them died.
fn assert_all_alive(reports: &[StreamReport], count: usize) {
    let dead: Vec<_> = reports.iter().filter(|one| one.died.is_some()).collect();
    assert!(dead.is_empty() && reports.len() == count, "{dead:?}");
}

#[test]
fn connections_survive_the_death_of_a_firewall() {
    isolated!({
        for takeover in [defaults(), HOT] {
            let gateways = Gateways::build(&Lab::enter().unwrap()).unwrap();
            let start = |which: GatewayId| start(gateway(which, takeover), gateways.firewall(which));
            let (one, other) = (start(GatewayId::First), start(GatewayId::Second));
            one.set_role(Role::Primary).unwrap();
            other.set_role(Role::Backup).unwrap();
            let targets = targets();
            let streams = Streams::start(&gateways.client, &targets).unwrap();
            // Gives every flow the time to be established.
            std::thread::sleep(Duration::from_millis(500));
            until("all flows are replicated", &[&one, &other], || held_flows(&other) >= targets.len() as u64);
            gateways.cut_off(GatewayId::First).unwrap();
            drop(one); // the cut links drop its last messages
            let changed = other.set_role(Role::Primary).unwrap();
            assert_eq!(changed.missing, Vec::<String>::new());
            gateways.activate(GatewayId::Second).unwrap();
            std::thread::sleep(Duration::from_millis(500));
            assert_all_alive(&streams.finish(), targets.len());
            // The peer still counted as live during the takeover. Once it is lost its replicas are emptied, so that the
            // next takeover does not create its flows again.
            until("the replicas of the dead peer are emptied", &[&other], || held_flows(&other) == 0);
        }
    });
}

#[test]
fn a_returning_firewall_takes_no_flow_from_the_new_primary() {
    isolated!({
        let gateways = Gateways::build(&Lab::enter().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let start = |which: GatewayId| {
            let settings = gateway(which, takeover::Settings { purge_after: Duration::from_secs(2), ..HOT });
            let role_file = Some(folder.path().join(which.name()));
            let replication = settings.replication.map(|replication| ReplicationSettings { role_file, ..replication });
            start(Settings { replication, ..settings }, gateways.firewall(which))
        };
        let (one, other) = (start(GatewayId::First), start(GatewayId::Second));
        let set_role = |which: GatewayId, engine: Engine, role| {
            gateways.firewall(which).run(move || {
                engine.set_role(role).unwrap();
                engine
            })
        };
        let (one, other) =
            (set_role(GatewayId::First, one, Role::Primary), set_role(GatewayId::Second, other, Role::Backup));
        let streams = Streams::start(&gateways.client, &targets()).unwrap();
        // One more connection, which is idle all the time.
        let idle = gateways.client.run(|| TcpStream::connect((SERVER, 80)).unwrap());
        let here = |which: GatewayId| gateways.firewall(which).run(count_flows);
        until("the backup's kernel holds all flows", &[&one, &other], || here(GatewayId::Second).1 >= 9);
        one.stop().unwrap();
        gateways.deactivate(GatewayId::First).unwrap();
        let other = set_role(GatewayId::Second, other, Role::Primary);
        gateways.activate(GatewayId::Second).unwrap();
        // The kernel of the returning firewall still has the flows without masquerading. Its engine takes them for new
        // flows of its own until the node becomes backup.
        let one = start(GatewayId::First);
        until("both nodes have received every flow", &[&one, &other], || {
            knows_its_peer(&one) && knows_its_peer(&other)
        });
        let one = set_role(GatewayId::First, one, Role::Backup);
        std::thread::sleep(Duration::from_secs(3)); // its purge, and the new primary's receipt of it
        until("all flows are replicated", &[&one, &other], || held_flows(&one) >= 9);
        assert_eq!(here(GatewayId::Second).1, 0, "the primary's kernel holds no flow for a peer");
        assert!(other.totals().flows >= 9);
        assert_all_alive(&streams.finish(), 8);
        idle.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (&idle).write_all(b"still here").unwrap();
        (&idle).read_exact(&mut [0; 10]).unwrap();
    });
}

#[test]
fn flows_that_move_with_their_address_stay_with_the_peer() {
    isolated!({
        let gateways = Gateways::build(&Lab::enter().unwrap()).unwrap();
        let start = |which: GatewayId| start(gateway(which, HOT), gateways.firewall(which));
        let (one, other) = (start(GatewayId::First), start(GatewayId::Second));
        let streams = Streams::start(&gateways.client, &targets()).unwrap();
        let held = || gateways.firewall(GatewayId::Second).run(count_flows);
        until("the second kernel holds all flows", &[&one, &other], || held() == (0, 8));
        let before = one.totals().flows;
        // The kernel now deletes the masqueraded flows: four of TCP, one of UDP.
        gateways.deactivate(GatewayId::First).unwrap();
        until("the flows have moved", &[&one, &other], || one.totals().moved == 5);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((one.totals().flows, held()), (before, (0, 8)));
        other.set_role(Role::Primary).unwrap();
        gateways.activate(GatewayId::Second).unwrap();
        assert_all_alive(&streams.finish(), 8);
    });
}

#[test]
fn ftp_survives_with_running_and_expected_data_connections() {
    isolated!({
        for takeover in [defaults(), HOT] {
            let gateways = Gateways::build(&Lab::enter().unwrap()).unwrap();
            for which in [GatewayId::First, GatewayId::Second] {
                gateways.firewall(which).run(enable_ftp_helper).unwrap();
            }
            let servers = [(SERVER, FTP_PORT), (SERVER6, FTP_PORT)].map(SocketAddr::from);
            serve_ftp(&gateways.server, &servers).unwrap();
            let start = |which: GatewayId| start(gateway(which, takeover), gateways.firewall(which));
            let (one, other) = (start(GatewayId::First), start(GatewayId::Second));
            one.set_role(Role::Primary).unwrap();
            other.set_role(Role::Backup).unwrap();
            let mut sessions = gateways.client.run(move || {
                let open = |server: SocketAddr| {
                    let mut session = FtpSession::open(server).unwrap();
                    session.announce().unwrap();
                    session
                };
                [servers, servers].concat().into_iter().map(open).collect::<Vec<_>>()
            });
            // In each address family one session transfers data and one has an expected data connection.
            let (running, waiting) = sessions.split_at_mut(2);
            let transfers: Vec<_> = running.iter_mut().map(|session| session.start_transfer(150).unwrap()).collect();
            let expected =
                |engine: &Engine| status(engine).replicas.iter().map(|replica| replica.expectations).sum::<u64>();
            until("all flows are replicated", &[&one, &other], || held_flows(&other) == 6 && expected(&other) == 2);
            // No event reports the helper's sequence adjustment. The engine refreshes it a little later.
            std::thread::sleep(Duration::from_millis(300));
            gateways.cut_off(GatewayId::First).unwrap();
            drop(one);
            let changed = other.set_role(Role::Primary).unwrap();
            assert_eq!(changed.missing, Vec::<String>::new());
            gateways.activate(GatewayId::Second).unwrap();
            for session in waiting {
                let transfer = session.start_transfer(3).unwrap();
                session.finish_transfer(transfer).unwrap();
            }
            for (session, transfer) in running.iter_mut().zip(transfers) {
                session.finish_transfer(transfer).unwrap();
            }
            // The helper of the second firewall reads the next announcement, and expects its data connection.
            gateways.client.run(move || {
                for mut session in sessions {
                    session.announce().unwrap();
                    let transfer = session.start_transfer(3).unwrap();
                    session.finish_transfer(transfer).unwrap();
                }
            });
        }
    });
}

#[test]
fn ten_takeovers_lose_no_flow_and_leave_none_behind() {
    isolated!({
        for takeover in [defaults(), HOT] {
            let takeover = takeover::Settings { purge_after: Duration::from_secs(1), ..takeover };
            let gateways = Gateways::build(&Lab::enter().unwrap()).unwrap();
            let start = |which: GatewayId| start(gateway(which, takeover), gateways.firewall(which));
            let engines = [Arc::new(start(GatewayId::First)), Arc::new(start(GatewayId::Second))];
            let both = [&*engines[0], &*engines[1]];
            // A scheduled purge runs in the network of the thread that sets the role.
            let set_role = |which: GatewayId, role| {
                let engine = engines[which.index()].clone();
                gateways.firewall(which).run(move || engine.set_role(role).unwrap())
            };
            set_role(GatewayId::First, Role::Primary);
            set_role(GatewayId::Second, Role::Backup);
            let targets = targets();
            let streams = Streams::start(&gateways.client, &targets).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            for round in 0..10 {
                let (from, to) = if round % 2 == 0 {
                    (GatewayId::First, GatewayId::Second)
                } else {
                    (GatewayId::Second, GatewayId::First)
                };
                until("all flows are replicated", &both, || held_flows(both[to.index()]) >= targets.len() as u64);
                gateways.deactivate(from).unwrap();
                set_role(from, Role::Backup);
                let changed = set_role(to, Role::Primary);
                assert_eq!(changed.missing, Vec::<String>::new(), "round {round}");
                gateways.activate(to).unwrap();
                std::thread::sleep(Duration::from_millis(200));
            }
            assert_all_alive(&streams.finish(), targets.len());
            // The first firewall is primary again. The second one's kernel has no flows but those held for the first,
            // and all replicas agree.
            let there = || gateways.firewall(GatewayId::Second).run(count_flows);
            until("the second firewall's own flows are purged", &both, || there().0 == 0);
            assert!(takeover.hot || there().1 == 0);
            until("all replicas agree", &both, || pair::replicas_agree(both[0], 7) && pair::replicas_agree(both[1], 8));
        }
    });
}
