//! The control server over its socket, with real engines.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by it, here in its helpers too

mod flows;
mod pair;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ctflow_engine::engine::{Engine, Settings};
use ctflow_engine::replication::link::Transport;
use ctflow_engine::server::frame::{self, Kind};
use ctflow_engine::server::{ControlSocket, Order, OrderKind, Server, ServerError, Unchanged};
use ctflow_engine::shard::entries::Entries;
use ctflow_lab::isolated;
use ctflow_lab::topology::Firewall;
use ctflow_lab::{Lab, sysctl};
use ctflow_parser::frame::{Message, Messages};
use ctflow_replicate::entry::decode_flow;
use flows::{create, delete};
use pair::{LONGEST, cable};
use serde_json::{Value, json};

/// A temporary directory of a test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix(&format!("ctflow-{name}-")).tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("control")
    }
}

/// A received frame.
#[derive(Debug)]
struct Frame {
    kind: Kind,
    payload: Vec<u8>,
}

impl Frame {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

/// Connects to the server.
fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LONGEST)).unwrap();
    stream
}

/// Sends a request and returns the connection, for the answer to be read.
fn send_request(path: &Path, request: &Value) -> UnixStream {
    let mut stream = connect(path);
    let mut request = request.clone();
    request["version"] = json!(1);
    writeln!(stream, "{request}").unwrap();
    stream
}

/// Reads the next frame.
fn next_frame(stream: &mut UnixStream) -> Frame {
    let mut payload = Vec::new();
    let kind = frame::read(stream, &mut payload).unwrap();
    Frame { kind, payload }
}

/// Reads the whole answer.
fn read_frames(mut stream: UnixStream) -> Vec<Frame> {
    let mut frames = Vec::new();
    loop {
        frames.push(next_frame(&mut stream));
        if let Some(Kind::Done | Kind::Failed) = frames.last().map(|frame| frame.kind) {
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "bytes after the last frame");
            return frames;
        }
    }
}

/// Sends a request that must succeed, and returns the documents of its answer.
fn documents(path: &Path, request: &Value) -> Vec<Value> {
    let frames = read_frames(send_request(path, request));
    assert_eq!(frames.last().unwrap().kind, Kind::Done, "{request}: {:?}", frames.last().map(Frame::json));
    frames.iter().filter(|frame| frame.kind == Kind::Json).map(Frame::json).collect()
}

/// Sends a request that must succeed, and returns the last document of its answer.
fn document(path: &Path, request: &Value) -> Value {
    documents(path, request).pop().unwrap()
}

/// The status document.
fn status(path: &Path) -> Value {
    document(path, &json!({"do": "status"}))
}

/// Sends a request that must fail, and returns its error.
fn failed_request(path: &Path, request: &Value) -> String {
    error_of(&read_frames(send_request(path, request)))
}

/// The error in the last frame of an answer.
fn error_of(frames: &[Frame]) -> String {
    let last = frames.last().unwrap();
    assert_eq!((last.kind, last.json()["code"].as_u64()), (Kind::Failed, Some(1)));
    last.json()["error"].as_str().unwrap().to_owned()
}

/// The marks of the flows in a dump, sorted.
fn marks(frames: &[Frame]) -> Vec<u32> {
    let mut marks = Vec::new();
    for frame in frames.iter().filter(|frame| frame.kind == Kind::Entries) {
        for entry in Entries::new(&frame.payload) {
            let (head, entry) = entry.unwrap();
            let flow = decode_flow(head.family, entry).unwrap();
            // A replica receives a flow some time after the flow changed on its source.
            assert!(head.changed_ms.abs_diff(head.since_ms) < 60_000 && head.since_ms > 1_600_000_000_000, "{head:?}");
            marks.push(flow.mark.unwrap_or(0));
        }
    }
    marks.sort_unstable();
    marks
}

/// The marks of the flows in a cache.
fn dump(path: &Path, cache: &str) -> Vec<u32> {
    let frames = read_frames(send_request(path, &json!({"do": "dump", "cache": cache, "of": "flows"})));
    assert_eq!(frames.last().unwrap().kind, Kind::Done);
    marks(&frames)
}

/// Waits until the condition is met. Fails with `what` after [`LONGEST`].
fn until(what: &str, mut satisfied: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONGEST;
    while !satisfied() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn settings(workers: u32) -> Settings {
    Settings { workers, pin: false, ..Settings::default() }
}

/// Starts an engine with a server that drops all orders.
fn serve(path: &Path, settings: &Settings) -> (Engine, Server) {
    let socket = ControlSocket::bind(path).unwrap();
    let engine = Engine::start(settings).unwrap();
    let server = Server::start(socket, &engine, drop::<Order>).unwrap();
    (engine, server)
}

#[test]
fn only_the_owner_may_use_the_socket_and_it_is_removed() {
    isolated!({
        let _lab = Lab::enter().unwrap();
        let folder = Folder::new("socket");
        let path = folder.socket();
        drop(UnixListener::bind(&path).unwrap()); // the socket file that a crash leaves
        let (engine, server) = serve(&path, &settings(1));
        let file = fs::metadata(&path).unwrap();
        assert!(file.file_type().is_socket() && file.mode() & 0o7777 == 0o600, "{:o}", file.mode());
        let error = ControlSocket::bind(&path).unwrap_err();
        assert!(matches!(error, ServerError::AlreadyServed(_)), "{error}");
        assert_eq!(
            error.to_string(),
            format!("another daemon serves {}: stop it, or configure another socket", path.display())
        );
        assert!(
            server.is_running() && !status(&path)["version"].is_null(),
            "the failed attempt does not disturb the running daemon"
        );
        server.stop();
        assert!(!path.exists());
        // A server without a lock is not replaced, and neither is a file that is not a socket.
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(ServerError::AlreadyServed(_))));
        drop(listener);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "data").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(ServerError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"data");
        assert!(matches!(ControlSocket::bind(Path::new("/nonexistent/socket")), Err(ServerError::System { .. })));
        engine.stop().unwrap();
    });
}

#[test]
fn kernel_requests_work_without_peers() {
    isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        let folder = Folder::new("kernel");
        let path = folder.socket();
        create(0..700);
        let (engine, server) = serve(&path, &settings(2));
        until("ready", || status(&path)["ready"] == json!(true));
        assert_eq!(dump(&path, "internal"), (0..700).collect::<Vec<_>>());
        assert!(dump(&path, "external").is_empty());
        // Only a resync finds flows that are created without an event.
        sysctl::write("net/netfilter/nf_conntrack_events", "0").unwrap();
        create(700..800);
        assert_eq!(dump(&path, "internal").len(), 700);
        assert!(documents(&path, &json!({"do": "kernel-resync"})).is_empty());
        assert_eq!(dump(&path, "internal").len(), 800);
        create(800..900);
        documents(&path, &json!({"do": "flush", "cache": "all"}));
        let status = status(&path);
        assert_eq!(status["internal"]["flows"], json!(sysctl::flow_count().unwrap()));
        assert_eq!((&status["engine"]["workers"], &status["engine"]["resync_lost"]), (&json!(2), &json!(0)));
        for key in ["uptime_ms", "clients"] {
            assert!(status[key].is_u64(), "{key}");
        }
        assert!(status["process"]["resident_bytes"].as_u64() > Some(1_000_000), "{status}");
        assert!(status["internal"]["bytes"].as_u64() > Some(10_000), "{status}");
        assert!(status["engine"]["buffer_bytes"].as_u64() > Some(10_000), "{status}");
        assert!(["io_uring", "recvmmsg"].contains(&status["engine"]["backend"].as_str().unwrap()), "{status}");
        documents(&path, &json!({"do": "flush-kernel", "of": "all"}));
        assert_eq!(sysctl::flow_count().unwrap(), 0);
        assert_eq!(self::status(&path)["engine"]["flushes"], json!(2));
        for request in [
            json!({"do": "bulk"}),
            json!({"do": "peer-resync"}),
            json!({"do": "verify"}),
            json!({"do": "commit", "of": "all"}),
            json!({"do": "role", "role": "primary"}),
        ] {
            let error = failed_request(&path, &request);
            assert!(error.contains("has no peers"), "{error}");
        }
        let error = failed_request(&path, &json!({"do": "rule"}));
        assert!(error.starts_with("unknown request `rule': this daemon knows status, "), "{error}");
        engine.stop().unwrap();
        let error = failed_request(&path, &json!({"do": "dump", "cache": "internal", "of": "flows"}));
        assert!(error.contains("worker 0 has ended"), "{error}");
        let error = failed_request(&path, &json!({"do": "kernel-resync"}));
        assert!(error.contains("control thread has ended"), "{error}");
        server.stop();
    });
}

#[test]
fn orders_reach_the_daemon_and_its_answers_the_client() {
    isolated!({
        let _lab = Lab::enter().unwrap();
        let folder = Folder::new("orders");
        let path = folder.socket();
        let engine = Engine::start(&settings(1)).unwrap();
        let (sender, orders) = crossbeam_channel::bounded(4);
        let socket = ControlSocket::bind(&path).unwrap();
        let server = Server::start(socket, &engine, move |order| sender.try_send(order).unwrap()).unwrap();
        let mut clients: Vec<_> = (0..3).map(|_| send_request(&path, &json!({"do": "reload"}))).collect();
        let mut answers = (0..3).map(|_| {
            let order = orders.recv_timeout(LONGEST).unwrap();
            assert_eq!(order.kind, OrderKind::Reload);
            order.answer
        });
        let unchanged = Unchanged { key: "[node] name".into(), why: "it needs a restart".into() };
        let (first, second, third) = (answers.next().unwrap(), answers.next().unwrap(), answers.next().unwrap());
        first.reloaded(vec![unchanged]);
        second.failed("line 7: no such key");
        drop(third);
        let frames = read_frames(clients.remove(0));
        assert_eq!(frames[0].json(), json!({"unchanged": [{"key": "[node] name", "why": "it needs a restart"}]}));
        assert_eq!(error_of(&read_frames(clients.remove(0))), "line 7: no such key");
        assert!(error_of(&read_frames(clients.remove(0))).contains("did not answer"));
        let stop = send_request(&path, &json!({"do": "stop"}));
        let mut watching = send_request(&path, &json!({"do": "events", "of": "flows"}));
        assert_eq!(next_frame(&mut watching).kind, Kind::Json);
        let order = orders.recv_timeout(LONGEST).unwrap();
        assert_eq!(order.kind, OrderKind::Stop);
        engine.stop().unwrap();
        order.answer.done();
        server.stop();
        assert_eq!(read_frames(stop).len(), 1);
        assert!(error_of(&read_frames(watching)).contains("ended"));
        assert!(!path.exists());
    });
}

#[test]
fn bad_clients_are_closed_and_harm_no_other() {
    isolated!({
        let _lab = Lab::enter().unwrap();
        let folder = Folder::new("bad");
        let path = folder.socket();
        let (_engine, _server) = serve(&path, &settings(2));
        create(0..20_000);
        until("the cache holds all flows", || status(&path)["internal"]["flows"] == json!(20_000));
        let started = Instant::now();
        let silent = connect(&path);
        let mut half = connect(&path);
        half.write_all(b"{\"version\":1,").unwrap();
        let mut slow = send_request(&path, &json!({"do": "dump", "cache": "internal", "of": "flows"}));
        let mut garbage = connect(&path);
        garbage.write_all(&[0xff, b'\n', 0, 1, 2]).unwrap();
        assert!(error_of(&read_frames(garbage)).contains("not understood"));
        let mut long = connect(&path);
        let _ = long.write_all(&vec![b'a'; 1_000_000]); // refused before it is all written
        assert!(error_of(&read_frames(long)).contains("at most 4096 bytes"));
        for _ in 0..50 {
            let mut gone = connect(&path);
            writeln!(gone, r#"{{"version":1,"do":"dump","cache":"internal","of":"flows"}}"#).unwrap();
            gone.shutdown(Shutdown::Both).unwrap();
        }
        let mut served = 0;
        while started.elapsed() < Duration::from_secs(4) {
            let sent = Instant::now();
            assert_eq!(dump(&path, "internal").len(), 20_000);
            assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
            served += 1;
        }
        assert!(served > 3, "{served}");
        for client in [silent, half] {
            assert!(error_of(&read_frames(client)).contains("no request arrived within 5 s"));
        }
        assert!((4..8).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
        let mut frames = Vec::new();
        while !matches!(frames.last(), Some(Frame { kind: Kind::Done, .. })) {
            frames.push(next_frame(&mut slow));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(marks(&frames), (0..20_000).collect::<Vec<_>>());
    });
}

#[test]
fn the_seventeenth_client_waits_for_a_free_slot() {
    isolated!({
        let _lab = Lab::enter().unwrap();
        let folder = Folder::new("many");
        let path = folder.socket();
        let (_engine, _server) = serve(&path, &settings(1));
        let follow = || {
            let mut client = send_request(&path, &json!({"do": "events", "of": "flows"}));
            assert_eq!(next_frame(&mut client).json(), json!({"workers": 1}));
            client
        };
        let mut clients: Vec<_> = (0..16).map(|_| follow()).collect();
        let mut waiting = send_request(&path, &json!({"do": "status"}));
        waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(waiting.read(&mut [0]).is_err(), "the seventeenth client was served");
        waiting.set_read_timeout(Some(LONGEST)).unwrap();
        clients.pop();
        assert_eq!(read_frames(waiting)[0].json()["clients"], json!(16));
        create(0..10);
        for client in &mut clients {
            assert_eq!(next_frame(client).kind, Kind::Messages);
        }
        drop(clients);
        until("the closed clients are counted no more", || status(&path)["clients"] == json!(1));
    });
}

#[test]
fn other_users_are_refused() {
    isolated!({
        let _lab = Lab::enter().unwrap();
        let folder = Folder::new("strangers");
        let path = folder.socket();
        let (_engine, _server) = serve(&path, &settings(1));
        // With the usual mode another user could not connect at all.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let uid = rustix::process::Uid::from_raw(65_534);
        let path_there = path.clone();
        let other_user = std::thread::spawn(move || {
            // Only this thread changes its user: the kernel reports the user of the connecting thread.
            rustix::thread::set_thread_res_uid(uid, uid, uid).ok()?;
            let frames: Vec<_> = (0..20).map(|_| read_frames(connect(&path_there))).collect();
            Some(frames.iter().map(|frames| error_of(frames)).collect::<Vec<_>>())
        });
        let refusals = ctflow_lab::or_skip!(other_user.join().unwrap().ok_or("this user namespace has no other user"));
        assert!(refusals.iter().all(|error| error.starts_with("uid 65534 may not use this daemon")), "{refusals:?}");
        assert_eq!(status(&path)["clients"], json!(1));
    });
}

#[test]
fn a_dump_lists_every_lasting_flow_while_others_change() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let firewall = Firewall::build(&lab).unwrap();
        let folder = Folder::new("change");
        let path = folder.socket();
        let (_engine, _server) = serve(&path, &settings(2));
        create(0..5_000);
        until("the cache holds all flows", || status(&path)["internal"]["flows"].as_u64() >= Some(5_000));
        let stop = AtomicBool::new(false);
        let namespace = &firewall;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = namespace;
                while !stop.load(Ordering::Relaxed) {
                    create(100_000..102_000);
                    delete(100_000..102_000);
                }
            });
            for _ in 0..10 {
                let held = dump(&path, "internal");
                let lasting = held.iter().filter(|mark| (0..5_000).contains(*mark));
                assert!(lasting.copied().eq(0..5_000), "a lasting flow is missing or listed twice");
                let changing = held.iter().filter(|mark| **mark >= 100_000);
                assert!(changing.clone().all(|mark| (100_000..102_000).contains(mark)));
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

/// The number of messages in a frame, and of lost messages that it reports.
fn count_messages(frame: &Frame) -> (u64, u64) {
    match frame.kind {
        Kind::Messages => {
            let records = Messages::new(&frame.payload).map(|message| message.unwrap());
            (records.filter(|message| matches!(message, Message::Record(_))).count() as u64, 0)
        }
        Kind::Lost => (0, frame::decode_lost(&frame.payload).unwrap()),
        _ => panic!("{frame:?}"),
    }
}

#[test]
fn every_follower_receives_events_and_the_count_of_lost_ones() {
    isolated!({
        let _lab = Lab::enter().unwrap();
        let folder = Folder::new("events");
        let path = folder.socket();
        let (engine, _server) = serve(&path, &settings(2));
        until("the first resync is complete", || engine.totals().resyncs >= 2);
        let follow = |of| {
            let mut client = send_request(&path, &json!({"do": "events", "of": of}));
            assert_eq!(next_frame(&mut client).json(), json!({"workers": 2}));
            client
        };
        let (mut fast, mut slow, mut other) = (follow("flows"), follow("flows"), follow("expectations"));
        let before = engine.totals().events();
        let reading = std::thread::spawn(move || {
            let (mut seen, mut lost) = (0, 0);
            while seen + lost < 200_000 {
                let (more, missed) = count_messages(&next_frame(&mut fast));
                (seen, lost) = (seen + more, lost + missed);
            }
            (seen, lost)
        });
        for round in 0..10 {
            create(round * 10_000..round * 10_000 + 10_000);
            delete(round * 10_000..round * 10_000 + 10_000);
        }
        until("the engine has received or lost all events", || {
            engine.totals().events() + engine.totals().events_lost >= before + 200_000
        });
        let overrun = engine.totals().events_lost;
        let (seen, lost) = reading.join().unwrap();
        assert!(seen > 100_000 && lost >= overrun, "{seen} seen, {lost} lost, {overrun} of them by the socket");
        let (mut seen, mut lost) = (0, 0);
        while seen + lost < 200_000 {
            let (more, missed) = count_messages(&next_frame(&mut slow));
            (seen, lost) = (seen + more, lost + missed);
        }
        assert!(lost > 10_000 && seen > 1_000, "{seen} seen, {lost} lost");
        assert_eq!(seen + lost, 200_000);
        other.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(other.read(&mut [0]).is_err(), "a follower of expectations received events of flows");
    });
}

#[test]
fn a_pair_is_dumped_verified_and_resent() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        let (here, there) = (Folder::new("here"), Folder::new("there"));
        let (path, peer) = (here.socket(), there.socket());
        let (one, server) = serve(&path, &pair::settings(0, 2, Transport::Udp));
        let peer_there = peer.clone();
        let (other, others) = host.run(move || serve(&peer_there, &pair::settings(1, 1, Transport::Udp)));
        create(0..5_000);
        until("all are replicated", || status(&peer)["external"]["flows"] == json!(5_000));
        until("both are ready", || [&path, &peer].iter().all(|path| status(path)["ready"] == json!(true)));

        let frames = read_frames(send_request(&peer, &json!({"do": "dump", "cache": "external", "of": "flows"})));
        assert_eq!(frames[0].json(), json!({"peer": "one"}));
        assert_eq!(frames.iter().filter(|frame| frame.kind == Kind::Json).count(), 1);
        assert_eq!(marks(&frames), (0..5_000).collect::<Vec<_>>());
        let none = read_frames(send_request(&peer, &json!({"do": "dump", "cache": "external", "of": "expectations"})));
        assert_eq!(none.len(), 1);

        // Several requests at once share one or two comparisons.
        let verify: Vec<_> = (0..4).map(|_| send_request(&path, &json!({"do": "verify"}))).collect();
        for client in verify {
            let verdict = read_frames(client)[0].json();
            assert_eq!(verdict["agrees"], json!(true), "{verdict}");
            let peer = &verdict["peers"][0];
            assert_eq!((&peer["name"], &peer["answered"]), (&json!("other"), &json!(true)));
            let entries = |streams: &Value| {
                let streams = streams.as_array().unwrap().iter();
                streams.map(|stream| stream["entries"].as_u64().unwrap()).sum::<u64>()
            };
            assert_eq!((entries(&verdict["streams"]), entries(&peer["streams"])), (5_000, 5_000));
            assert_eq!(verdict["streams"][1]["digest"], peer["streams"][1]["digest"]);
            assert_eq!(peer["held"].as_array().unwrap().len(), 1);
        }

        let deltas = status(&path)["source"]["deltas"].as_u64().unwrap();
        documents(&path, &json!({"do": "bulk"}));
        until("all flows are sent again", || status(&path)["source"]["deltas"].as_u64() >= Some(deltas + 5_000));
        documents(&peer, &json!({"do": "peer-resync"}));
        until("all flows are sent once more", || status(&path)["source"]["deltas"].as_u64() >= Some(deltas + 10_000));
        documents(&peer, &json!({"do": "flush", "cache": "external"}));
        until("the flushed flows are received again", || dump(&peer, "external").len() == 5_000);
        until("the peer is ready again", || status(&peer)["ready"] == json!(true));

        let document = status(&path);
        let stream = &document["source"]["streams"][0];
        assert_eq!(stream["seq"], stream["acknowledged"], "{document}");
        assert_eq!(document["links"][0]["transport"], json!("udp"));
        assert_eq!(document["peers"][0]["address"], json!("192.0.2.2:3780"));
        assert_eq!((&document["name"], &document["mode"]), (&json!("one"), &json!("ftfw")));
        let document = status(&peer);
        assert!(document["external"]["created"].as_u64() >= Some(5_000), "{document}");
        assert!(document["peers"][0]["lag_ms_max"].as_f64() < Some(5_000.0), "{document}");

        others.stop();
        other.stop().unwrap();
        until("the peer has stopped", || status(&path)["ready"] == json!(false));
        assert_eq!(status(&path)["not_ready"], json!(["peer other (192.0.2.2) has stopped: start its daemon"]));
        let verdict = verified(&path);
        assert_eq!((&verdict["agrees"], &verdict["peers"][0]["answered"]), (&json!(false), &json!(false)));
        server.stop();
        one.stop().unwrap();
    });
}

/// The document of a verification.
fn verified(path: &Path) -> Value {
    document(path, &json!({"do": "verify"}))
}
