//! Tests of the configuration: files as an operator writes them, and the messages about what is wrong with them.

use std::os::unix::fs::OpenOptionsExt;
use std::{fs, io::Write};

use ctflow_engine::takeover::Service;

use super::*;

const LINK: &str = "[[link]]\nlocal = \"192.0.2.1:3780\"\npeers = [\"192.0.2.2:3780\"]\n";
const CLEAR: &str = "[security]\ninsecure = true\n";

fn read(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ctflow.toml");
    fs::write(&path, text).unwrap();
    Config::read(&path)
}

/// Reads a configuration with an unencrypted link and `section`, whose first line is line 6.
fn with(section: &str) -> Result<Config, ConfigError> {
    read(&format!("{LINK}{CLEAR}{section}"))
}

#[track_caller]
fn refused(result: Result<Config, ConfigError>, line: usize, words: &[&str]) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(&format!(", line {line}: ")), "line {line} in {error}");
    assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_pair_needs_little() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key).unwrap();
    writeln!(file, "{}", "0f".repeat(32)).unwrap();
    let config = read(&format!("[node]\nname = \"fw1\"\n{LINK}[security]\nkey_file = {key:?}\n")).unwrap();
    assert_eq!((config.name.as_str(), config.socket.as_path()), ("fw1", Path::new(DEFAULT_SOCKET)));
    assert!(matches!(config.security, Security::Sealed { key, .. } if key.bytes() == &[15; 32]));
    let [link] = &config.links[..] else { unreachable!() };
    assert_eq!((link.transport, link.local, link.peers.len()), (Transport::Udp, "192.0.2.1:3780".parse().unwrap(), 1));
    assert_eq!((config.sync.mode, config.sync.hot, config.sync.min_age), (Mode::Ftfw, false, Duration::ZERO));
    assert_eq!(config.engine.backend, BackendKind::Auto);
}

#[test]
fn every_key_is_read() {
    let config = read(
        r#"
        [node]
        name = "fw-1.example"
        [[link]]
        transport = "multicast"
        local = "[::]:3780"
        peers = ["[ff02::50]:3780"]
        interface = "eth2"
        [[link]]
        transport = "tcp"
        local = "[2001:db8::1]:3780"
        peers = ["[2001:db8::2]:3780", "[2001:db8::3]:3780"]
        [security]
        insecure = true
        [control]
        socket = "/run/x.sock"
        [log]
        file = "/var/log/ctflow.log"
        [engine]
        workers = 4
        backend = "recvmmsg"
        buffer_bytes = 8_388_608
        buffer_bytes_max = 134_217_728
        flows_max = 1_000_000
        [sync]
        mode = "alarm"
        hot = true
        min_age_ms = 10
        min_ages_ms = { udp = 250, 132 = 5 }
        refresh_s = 30
        cache_timeout_s = 90
        [sync.filter]
        protocols = { accept = ["tcp", 17, "0x84"] }
        addresses = { ignore = ["127.0.0.0/8", "::1"] }
        tcp_states = { accept = ["ESTABLISHED", "TIME_WAIT"] }
        zones = { accept = [0, 65535] }
        mark = "0x10/0xff"
        [takeover]
        commit_timeout_s = 180
        tcp_window_tracking = true
        purge_timeout_s = 5
        ready_within_s = 7
        active_active = true
        isolate = true
        isolate_accept = ["tcp/2222", "89", "0x59"]
        isolate_spare = ["mgmt0"]
        "#,
    )
    .unwrap();
    assert_eq!((config.links[0].transport, config.links[0].interface.as_deref()), (Transport::Multicast, Some("eth2")));
    assert_eq!((config.links[1].transport, config.links[1].peers.len()), (Transport::Tcp, 2));
    assert_eq!((config.engine.workers, config.engine.flows_max), (Some(4), Some(1_000_000)));
    assert_eq!((config.engine.backend, config.engine.buffer_bytes), (BackendKind::Recvmmsg, Some(8 << 20)));
    let takeover = Takeover {
        commit_timeout_s: Some(180),
        tcp_window_tracking: true,
        purge_timeout: Duration::from_secs(5),
        ready_within: Duration::from_secs(7),
        active_active: true,
        isolation: Some(Isolation {
            accept: [(6, Some(2222)), (89, None), (89, None)]
                .map(|(protocol, port)| Service { protocol, port })
                .to_vec(),
            spared_links: vec!["mgmt0".to_owned()],
        }),
    };
    assert_eq!(config.takeover, takeover);
    let default = with("[takeover]\nisolate = true\n").unwrap().takeover.isolation.unwrap();
    assert_eq!(default.accept, [Service { protocol: 6, port: Some(22) }]);
    let sync = config.sync;
    assert_eq!((sync.mode, sync.hot, sync.refresh), (Mode::Alarm, true, Duration::from_secs(30)));
    assert_eq!(sync.min_ages, [(132, Duration::from_millis(5)), (17, Duration::from_millis(250))]);
    let filter = sync.filter;
    assert_eq!(filter.protocols, Some(FilterList::Accept(vec![6, 17, 132])));
    assert_eq!(filter.tcp_states, Some(FilterList::Accept(vec![3, 7])));
    assert_eq!(filter.zones, Some(FilterList::Accept(vec![0, 65535])));
    assert_eq!(filter.mark, Some(Masked { value: 16, mask: 255 }));
    let networks =
        [("127.0.0.0", 8), ("::1", 128)].map(|(text, prefix)| Network { address: text.parse().unwrap(), prefix });
    assert_eq!(filter.addresses, Some(FilterList::Ignore(networks.to_vec())));
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let unchangeable = |one: &str, other: &str| with(one).unwrap().keys_needing_restart(&with(other).unwrap());
    assert_eq!(unchangeable("[sync]\nmin_age_ms = 5\n[sync.filter]\nmark = \"1\"\n", ""), Vec::<&str>::new());
    assert_eq!(unchangeable("[sync]\nmode = \"alarm\"\n", "[engine]\nworkers = 2\n"), ["[engine]", "[sync] mode"]);
    // The daemon, not the kernel, filters ignored protocols and protocols that a reload accepts.
    let [tcp, not_tcp] =
        ["accept", "ignore"].map(|verdict| format!("[sync.filter]\nprotocols = {{ {verdict} = [6] }}\n"));
    assert_eq!(unchangeable(&tcp, &not_tcp), ["[sync.filter] protocols"]);
    assert_eq!([unchangeable(&not_tcp, &tcp), unchangeable("", &tcp)].concat(), Vec::<&str>::new());
}

#[test]
fn unknown_keys_and_sections_are_refused_with_their_line() {
    refused(with("[sync]\nmod = \"ftfw\"\n"), 7, &["unknown key `mod' in [sync]", "did you mean `mode'?"]);
    refused(with("[sync]\nworkers = 4\n"), 7, &["did you mean that of [engine]?"]);
    refused(with("[syc]\n"), 6, &["unknown section [syc]", "did you mean [sync]?", "[[link]]"]);
    refused(read("hot = true\n"), 1, &["did you mean the key of [sync]?"]);
    refused(with("[sync.filters]\nmark = \"1\"\n"), 6, &["`filters'", "did you mean `filter'?"]);
    refused(with("[sync.filter]\nmarks = \"1\"\n"), 7, &["[sync.filter]", "did you mean `mark'?"]);
    refused(with("[whatever]\n"), 6, &["unknown section [whatever]: the sections are [node]"]);
    refused(read("[link]\nlocal = \"192.0.2.1:1\"\n"), 1, &["`link' must be written as [[link]]"]);
    refused(with("[[node]]\nname = \"x\"\n"), 6, &["`node' must be written as [node]"]);
    refused(with("sync = 3\n"), 6, &["unknown key `sync' in [security]"]);
    refused(read("link = [3]\n"), 1, &["[[link]]"]);
    refused(with("[sync]\nfilter = 3\n"), 7, &["[sync.filter]"]);
}

#[test]
fn wrong_values_are_refused_with_what_the_key_accepts() {
    let table = [
        ("[node]\nname = \"a b\"", "\"a b\"", "letters, digits"),
        ("[node]\nname = 3", "3", "letters, digits"),
        ("[control]\nsocket = \"run.sock\"", "\"run.sock\"", "absolute path"),
        ("[security]\nkey_file = \"key\"", "\"key\"", "the absolute path of a file"),
        ("[log]\nfile = true", "true", "absolute path"),
        ("[engine]\nworkers = 65", "65", "a number, 1 to 64"),
        ("[engine]\nworkers = -1", "-1", "a number, 1 to 64"),
        ("[engine]\nworkers = \"4\"", "\"4\"", "a number, 1 to 64"),
        ("[engine]\nbackend = \"epoll\"", "\"epoll\"", "\"recvmmsg\" or \"recv\""),
        ("[engine]\nbuffer_bytes = 1e9", "1e9", "number of bytes"),
        ("[sync]\nmode = \"FTFW\"", "\"FTFW\"", "\"ftfw\", \"alarm\" or \"notrack\""),
        ("[sync]\nhot = \"yes\"", "\"yes\"", "true or false"),
        ("[sync]\nmin_age_ms = 60001", "60001", "0 to 60000"),
        ("[sync]\nmin_ages_ms = { udp = -1 }", "-1", "by protocol"),
        ("[sync]\nmin_ages_ms = { nosuch = 1 }", "{ nosuch = 1 }", "{ udp = 250 }"),
        ("[takeover]\nisolate_accept = [\"tcp/0\"]", "[\"tcp/0\"]", "\"PROTOCOL/PORT\""),
        ("[takeover]\nisolate_accept = [\"ospf/22\"]", "[\"ospf/22\"]", "\"PROTOCOL/PORT\""),
        ("[takeover]\nisolate_spare = [\"a-name-too-long-1\"]", "[\"a-name-too-long-1\"]", "interface names"),
        ("[sync.filter]\nprotocols = [\"tcp\"]", "[\"tcp\"]", "{ accept = [...] }"),
        ("[sync.filter]\nprotocols = { deny = [\"tcp\"] }", "deny", "{ accept = [...] }"),
        ("[sync.filter]\nprotocols = { accept = [\"nosuch\"] }", "\"nosuch\"", "protocols by name or number"),
        ("[sync.filter]\nprotocols = { accept = [256] }", "256", "protocols by name or number"),
        ("[sync.filter]\naddresses = { accept = [\"10.0.0.0/33\"] }", "\"10.0.0.0/33\"", "\"ADDRESS/PREFIX\""),
        ("[sync.filter]\ntcp_states = { ignore = [\"NONE\"] }", "\"NONE\"", "ESTABLISHED"),
        ("[sync.filter]\nzones = { accept = [65536] }", "65536", "0 to 65535"),
        ("[sync.filter]\nmark = \"x\"", "\"x\"", "\"VALUE/MASK\""),
    ];
    for (text, value, right) in table {
        refused(read(&format!("{LINK}\n\n{text}")), 7, &["does not take ", value, "it takes ", right]);
    }
    for address in ["\"192.0.2.1\"", "\"192.0.2.1:0\"", "\"fw2:3780\""] {
        let right = [address, "\"ADDRESS:PORT\""];
        refused(read(&format!("[[link]]\nlocal = {address}\n")), 2, &right);
        refused(read(&format!("[[link]]\nlocal = \"192.0.2.1:1\"\npeers = [\n{address}]\n")), 4, &right);
    }
    refused(read("[[link]]\npeers = [3780]\n"), 2, &["`peers' does not take", "\"ADDRESS:PORT\""]);
    refused(read("[[link]]\ninterface = \"a-name-too-long-1\"\n"), 2, &["network interface"]);
    let long = format!("[node]\nname = \"{}\"\n", "é".repeat(200));
    refused(with(&long), 7, &["…: it takes"]);
    refused(with("[sync\n"), 6, &[]);
    refused(with("[sync]\nhot = true\nhot = true\n"), 8, &["duplicate key"]);
}

#[test]
fn links_that_cannot_work_are_refused() {
    let link = |text: &str| read(&format!("{CLEAR}[[link]]\n{text}"));
    refused(read(CLEAR), 1, &["no link"]);
    refused(link("peers = [\"192.0.2.2:1\"]"), 3, &["no `local'"]);
    refused(link("local = \"192.0.2.1:1\""), 3, &["no `peers'"]);
    let on = |peers: &str, more: &str| link(&format!("local = \"192.0.2.1:1\"\npeers = [{peers}]\n{more}"));
    refused(on("", ""), 5, &["names 0 addresses"]);
    refused(on("\"[2001:db8::2]:1\"", ""), 5, &["IPv6", "IPv4", "one family"]);
    refused(on("\"225.0.0.50:1\"", ""), 5, &["transport = \"multicast\""]);
    refused(on("\"192.0.2.1:1\"", ""), 5, &["this node's own"]);
    refused(on("\"0.0.0.0:1\"", ""), 5, &["unspecified"]);
    refused(on("\"192.0.2.2:1\", \"192.0.2.2:1\"", ""), 5, &["twice"]);
    let multicast = "transport = \"multicast\"\n";
    refused(on("\"225.0.0.50:1\"", multicast), 3, &["needs its `interface'"]);
    let multicast = "transport = \"multicast\"\ninterface = \"eth2\"\n";
    assert!(on("\"225.0.0.50:1\"", multicast).is_ok());
    refused(on("\"225.0.0.50:2\"", multicast), 5, &["must be the same"]);
    refused(on("\"192.0.2.2:1\"", multicast), 5, &["no multicast group"]);
    refused(on("\"225.0.0.50:1\", \"225.0.0.51:1\"", multicast), 5, &["one group"]);
    refused(read(&format!("{CLEAR}{LINK}{LINK}")), 7, &["two links have the local address 192.0.2.1:3780"]);
    let five: String =
        (1..=5).map(|n| format!("[[link]]\nlocal=\"192.0.2.1:{n}\"\npeers=[\"192.0.2.2:{n}\"]\n")).collect();
    refused(read(&format!("{CLEAR}{five}")), 15, &["4 are the limit"]);
}

#[test]
fn contradicting_keys_are_refused() {
    refused(read(LINK), 1, &["no key", "ctflow keygen", "insecure = true"]);
    refused(read(&format!("{LINK}[security]\ninsecure = false\n")), 5, &["no key"]);
    refused(read(&format!("{LINK}[security]\nkey_file = \"/k\"\ninsecure = true\n")), 6, &["exclude each other"]);
    refused(
        read(&format!("{LINK}[security]\nkey_file = \"/nonexistent\"\n")),
        5,
        &["cannot read the key /nonexistent"],
    );
    refused(with("[engine]\nbuffer_bytes = 100000\nbuffer_bytes_max = 70000\n"), 8, &["less than `buffer_bytes'"]);
    refused(with("[sync]\nrefresh_s = 10\n"), 7, &["no effect in mode ftfw", "mode alarm"]);
    refused(with("[sync]\nmode = \"notrack\"\nwindow_bytes = 100000\n"), 8, &["no effect in mode notrack"]);
    refused(with("[sync]\nwindow_bytes = 2000000\nresend_bytes = 1048576\n"), 8, &["less than `window_bytes'"]);
    refused(with("[sync]\nmode = \"alarm\"\ncache_timeout_s = 15\n"), 8, &["expire before"]);
}

#[test]
fn the_socket_is_read_from_an_otherwise_wrong_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ctflow.toml");
    let socket = |text: &str| {
        fs::write(&path, text).unwrap();
        socket(&path)
    };
    assert_eq!(socket("[control]\nsocket = \"/run/a\"\n[nonsense]\n").unwrap(), Path::new("/run/a"));
    assert_eq!(socket("").unwrap(), Path::new(DEFAULT_SOCKET));
    assert!(socket("[control]\nsocket = 3\n").unwrap_err().to_string().contains("line 2"));
    assert!(socket("[").is_err() && super::socket(Path::new("/nonexistent")).is_err());
}
