//! `ctflow status`: the daemon's status for operators, with the cure beside each problem.

use std::fmt::Write;

use serde_json::Value;

use super::document::Document;
use super::role::split_brain;
use crate::text::counted;

/// The whole report of a status document.
pub(crate) fn status_report(status: &Value) -> String {
    let status = Document(status);
    let mut text = format!(
        "{}: {}, mode {}, up {}\n",
        status.display("name"),
        role_text(&status.display("role")),
        status.display("mode"),
        duration(status.number("uptime_ms"))
    );
    append_readiness(&mut text, status);
    append_caches(&mut text, status);
    append_hot(&mut text, status);
    append_engine(&mut text, status);
    append_links(&mut text, status);
    append_sent(&mut text, status);
    append_peers(&mut text, status);
    append_problems(&mut text, status);
    text
}

/// The role, or how to set it.
fn role_text(role: &str) -> String {
    if role == "none" { "no role yet (set it with `ctflow role')".to_owned() } else { format!("role {role}") }
}

/// Appends whether the node can take over without loss, and the two states that an operator must know at once.
fn append_readiness(text: &mut String, status: Document<'_>) {
    if status.is_true("ready") {
        let alone = status.list("peers").next().is_none();
        *text += if alone { "ready: no peer has connected yet\n" } else { "ready: in sync with every peer\n" };
    } else {
        let reasons = status.texts("not_ready");
        let reasons = if reasons.is_empty() { "the daemon sent no reason".into() } else { reasons.join("; ") };
        let _ = writeln!(text, "not ready: {reasons}");
    }
    if let Some(conflict) = split_brain(status.0) {
        let _ = writeln!(text, "split brain: {conflict}");
    }
    if status.is_true("isolated") {
        *text += "isolated: forwards no traffic; accepts replication, VRRP and what [takeover] isolate_* allows\n";
    }
}

/// Appends a table of both caches.
fn append_caches(text: &mut String, status: Document<'_>) {
    let _ = writeln!(text, "\n{:<10}{:>12}{:>14}{:>12}{:>12}", "cache", "flows", "expectations", "capacity", "memory");
    for name in ["internal", "external"] {
        let number = |key: &str| status.number(&format!("{name}.{key}"));
        let _ = writeln!(
            text,
            "{name:<10}{:>12}{:>14}{:>12}{:>12}",
            number("flows"),
            number("expectations"),
            number("capacity"),
            bytes(number("bytes"))
        );
    }
}

/// Appends what hot mode wrote into the kernel; nothing without hot mode.
fn append_hot(text: &mut String, status: Document<'_>) {
    let hot = |key: &str| status.optional_number(&format!("hot.{key}"));
    let Some(created) = hot("created") else { return };
    let number = |key| hot(key).unwrap_or(0);
    let _ = writeln!(
        text,
        "peers' flows in the kernel (hot mode): {created} created, {} updated, {} kept (newer here), \
         {} deleted (ended), {} deleted (no longer confirmed)",
        number("updated"),
        number("kept"),
        number("ended"),
        number("purged")
    );
    for (reason, count) in status.0.pointer("/hot/refused").and_then(Value::as_object).into_iter().flatten() {
        let _ = writeln!(text, "  {count} refused: {reason}");
    }
}

/// Appends the kernel's events, how they are received, and the process.
fn append_engine(text: &mut String, status: Document<'_>) {
    let engine = |key: &str| status.number(&format!("engine.{key}"));
    let _ = writeln!(
        text,
        "\nevents: {} of flows ({} new, {}, {}), {} of expectations, {} filtered by the configuration",
        engine("events"),
        engine("events_new"),
        counted(engine("events_update"), "update", "updates"),
        counted(engine("events_destroy"), "end", "ends"),
        engine("events_expect"),
        engine("filtered")
    );
    let _ = writeln!(
        text,
        "received by {} ({}), socket buffers {} in all",
        counted(engine("workers"), "worker", "workers"),
        status.display("engine.backend"),
        bytes(engine("buffer_bytes"))
    );
    let _ = writeln!(
        text,
        "process: {} of memory, {} of CPU time, {}",
        bytes(status.number("process.resident_bytes")),
        duration(status.number("process.cpu_ms")),
        counted(status.number("clients"), "client", "clients")
    );
}

/// Appends a line for each link.
fn append_links(text: &mut String, status: Document<'_>) {
    text.push_str("\nlinks:\n");
    for link in status.list("links") {
        let interface = link.text("interface").map(|name| format!(" on {name}")).unwrap_or_default();
        let active = if link.is_true("active") { "active, " } else { "" };
        let (health, cure) = if link.is_true("healthy") {
            ("healthy", "")
        } else {
            ("not healthy", "; no peer is received on it: check the cable, both addresses and the peer")
        };
        let _ = writeln!(
            text,
            "  {} {} {} to {}{interface}: {active}{health}; sent {} ({}), received {} ({}){cure}",
            link.display("number"),
            link.display("transport"),
            link.display("local"),
            link.texts("peers").join(", "),
            counted(link.number("sent"), "datagram", "datagrams"),
            bytes(link.number("sent_bytes")),
            link.number("received"),
            bytes(link.number("received_bytes"))
        );
    }
}

/// Appends what was sent to all peers together. A batch is one datagram; it waits until every live peer has
/// acknowledged it, or until a lost peer is back.
fn append_sent(text: &mut String, status: Document<'_>) {
    let source = |key: &str| status.number(&format!("source.{key}"));
    if source("bytes") == 0 {
        text.push_str("\nsent: nothing yet\n");
        return;
    }
    let changes = counted(source("deltas"), "change", "changes");
    let _ = write!(text, "\nsent: {changes} ({})", bytes(source("bytes")));
    match status.sum("source.streams", "resend_bytes") {
        0 => text.push_str(", none waiting"),
        waiting => {
            let room = bytes(source("resend_bytes_max"));
            let _ = write!(text, ", {} waiting for acknowledgement (room for {room})", bytes(waiting));
        }
    }
    if source("resent") > 0 {
        let _ = write!(text, "; {} sent again", counted(source("resent"), "datagram", "datagrams"));
    }
    if source("conflated") > 0 {
        let _ = write!(
            text,
            "; {} replaced by newer ones before sending",
            counted(source("conflated"), "change", "changes")
        );
    }
    text.push('\n');
}

/// Appends each peer: its state, what was sent to it, and what was received from it.
fn append_peers(text: &mut String, status: Document<'_>) {
    let mut peers = status.list("peers").peekable();
    if peers.peek().is_none() {
        text.push_str("\npeers: none has connected; see the problems below, and check the other node and the links\n");
        return;
    }
    text.push_str("\npeers:\n");
    for peer in peers {
        let address = peer.text("address").map(|address| format!(" at {address}")).unwrap_or_default();
        let role = match peer.text("role").as_deref() {
            None => String::new(),
            Some("none") => ", no role yet".to_owned(),
            Some(role) => format!(", role {role}"),
        };
        let state = peer.display("standing");
        let _ = writeln!(
            text,
            "  {}{address}: {state}{role}, last message {} ago{}",
            peer.display("name"),
            duration(peer.number("last_heard_ms")),
            peer_cure(&state)
        );
        if state == "live" {
            // Only mode ftfw acknowledges: elsewhere nothing is known of what arrived.
            if status.display("mode") == "ftfw" {
                let _ = writeln!(text, "    sent to it: {}", sent_to(peer));
            }
        }
        let _ = writeln!(text, "    received from it: {}{}", received_from(peer, &state), lag(peer));
    }
}

/// What the operator should do about a peer's state; empty for a live peer.
fn peer_cure(state: &str) -> &'static str {
    match state {
        "greeting" => "; the handshake is not complete yet",
        "lost" => "; check that its daemon runs and that a link reaches it",
        "stopped" => "; start its daemon again",
        "refused" => "; the log has the reason: version, mode or name",
        _ => "",
    }
}

/// What a live peer has not yet acknowledged.
fn sent_to(peer: Document<'_>) -> String {
    match peer.number("behind_batches") {
        0 => "up to date".to_owned(),
        batches => format!(
            "{} ({}) not acknowledged yet, the oldest for {} ms",
            counted(batches, "datagram", "datagrams"),
            bytes(peer.number("behind_bytes")),
            peer.display("behind_ms")
        ),
    }
}

/// What this node has not yet received from a peer.
fn received_from(peer: Document<'_>, state: &str) -> String {
    let mut missing = Vec::new();
    let unknown = peer.sum("streams", "unknown");
    if unknown > 0 {
        missing.push(format!("{} of its flows missing", counted(unknown, "part", "parts")));
    }
    let batches = peer.sum("streams", "behind_batches");
    if batches > 0 {
        let behind_ms = peer.list("streams").map(|stream| stream.number("behind_ms")).max().unwrap_or(0);
        let batches = counted(batches, "datagram", "datagrams");
        missing.push(format!("{batches} missing, {} behind", duration(behind_ms)));
    }
    let held_back = peer.sum("streams", "held_back");
    if held_back > 0 {
        missing.push(format!("{} waiting for an earlier datagram", bytes(held_back)));
    }
    match (missing.is_empty(), state) {
        (false, _) => missing.join(", "),
        (true, "live") => "up to date".to_owned(),
        (true, _) => "complete up to its last message".to_owned(),
    }
}

/// The time from a change on the peer to this node's cache; empty if the daemon sent none.
fn lag(peer: Document<'_>) -> String {
    let [p50, p99, max] = ["lag_ms_p50", "lag_ms_p99", "lag_ms_max"].map(|key| peer.display(key));
    if p50 == "-" {
        String::new()
    } else {
        format!("; lag since the start {p50} ms (median), {p99} ms (p99), {max} ms (worst)")
    }
}

/// A counter of the status document that is 0 while all is well.
struct Problem {
    count: u64,
    /// The count with what it counts.
    text: String,
    /// What the operator should do, or why nothing needs doing.
    cure: &'static str,
}

impl Problem {
    /// A problem whose text is the count and one of two nouns.
    fn new(count: u64, [one, many]: [&str; 2], cure: &'static str) -> Self {
        Self { count, text: counted(count, one, many), cure }
    }
}

/// Appends every problem since the daemon's start, in the order from the kernel to the peers.
fn append_problems(text: &mut String, status: Document<'_>) {
    let problems = engine_problems(status).into_iter().chain(peer_problems(status)).chain(refused_datagrams(status));
    let mut found = problems.filter(|problem| problem.count > 0).peekable();
    if found.peek().is_none() {
        text.push_str("\nproblems: none counted since the daemon's start\n");
        return;
    }
    text.push_str("\nproblems since the daemon's start:\n");
    for problem in found {
        let _ = writeln!(text, "  {}; {}", problem.text, problem.cure);
    }
}

/// Losses between the kernel and the caches.
fn engine_problems(status: Document<'_>) -> [Problem; 6] {
    let problem = |path: &str, one, many, cure| Problem::new(status.number(path), [one, many], cure);
    [
        problem(
            "engine.events_lost",
            "event lost before it was read",
            "events lost before they were read",
            "raise [engine] buffer_bytes_max",
        ),
        problem(
            "engine.malformed",
            "event not understood",
            "events not understood",
            "update ctflow, or report it as a bug with the kernel's version",
        ),
        problem(
            "engine.resync_lost",
            "comparison with the kernel's table after such a loss",
            "comparisons with the kernel's table after such losses",
            "this repairs the internal cache, nothing to do",
        ),
        problem(
            "internal.refused",
            "flow refused by the full internal cache",
            "flows refused by the full internal cache",
            "raise [engine] flows_max",
        ),
        problem(
            "engine.expectations_refused",
            "expectation refused by a full worker",
            "expectations refused by full workers",
            "raise [engine] workers",
        ),
        problem(
            "external.refused",
            "flow refused by the full external cache",
            "flows refused by the full external cache",
            "raise [engine] flows_max",
        ),
    ]
}

/// Losses and delays between this node and its peers.
fn peer_problems(status: Document<'_>) -> [Problem; 7] {
    let links = |key| status.sum("links", key);
    let peers = |key| status.sum("peers", key);
    let problem = |count, one, many, cure| Problem::new(count, [one, many], cure);
    [
        problem(
            status.number("source.deferred"),
            "wait for a peer's acknowledgement before sending",
            "waits for a peer's acknowledgement before sending",
            "if the number grows, check the peer's load and the link, or raise [sync] window_bytes",
        ),
        problem(
            status.number("source.unencodable"),
            "change not sent because it cannot be encoded",
            "changes not sent because they cannot be encoded",
            "report it as a bug with the kernel's version",
        ),
        problem(
            links("send_errors"),
            "datagram could not be sent",
            "datagrams could not be sent",
            "check the links above and the log",
        ),
        problem(
            links("receive_errors"),
            "error while receiving datagrams",
            "errors while receiving datagrams",
            "check the links above and the log",
        ),
        problem(
            peers("gaps"),
            "gap in the datagrams of a peer",
            "gaps in the datagrams of peers",
            "if the number grows, check the link",
        ),
        problem(
            peers("skipped"),
            "gap that the peer could not fill by sending again",
            "gaps that peers could not fill by sending again",
            "the flows were requested instead; raise [sync] resend_bytes on the peers",
        ),
        problem(
            peers("malformed"),
            "datagram of a peer with changes that were not understood",
            "datagrams of peers with changes that were not understood",
            "run the same version of ctflow on all nodes",
        ),
    ]
}

/// Why datagrams are refused: the key of the status document, the reason, and the cure.
const REFUSALS: [[&str; 3]; 11] = [
    ["foreign", "not of ctflow's protocol", "another program sends to this node's port"],
    ["version", "another version of the protocol", "run the same version of ctflow on all nodes"],
    ["clear", "not encrypted", "copy this node's key file to the sender and set [security] key_file there"],
    [
        "sealed",
        "encrypted, and this node has no key",
        "copy the sender's key file to this node and set [security] key_file here",
    ],
    ["key", "another key", "copy the same key file to both nodes"],
    ["replayed", "received before", "if the number grows, look for a loop or a replay in the network"],
    [
        "unproven",
        "the sender's handshake was not complete",
        "normal after a start of either node; if the number grows, see the peers above",
    ],
    [
        "epoch",
        "from an earlier run of a peer",
        "if the number grows, check the peer's clock, and that no two nodes have the same [node] name",
    ],
    ["malformed", "not understood", "run the same version of ctflow on all nodes"],
    ["namesake", "the sender has this node's name", "give every node its own [node] name"],
    ["peers", "this node has too many peers", "remove nodes from the replication links"],
];

/// Refused datagrams by reason.
fn refused_datagrams(status: Document<'_>) -> impl Iterator<Item = Problem> {
    REFUSALS.into_iter().map(move |[key, reason, cure]| {
        let count = status.number(&format!("refused.{key}"));
        Problem { count, text: format!("{} refused: {reason}", counted(count, "datagram", "datagrams")), cure }
    })
}

/// A time in its two largest units, rounded down: `3 d 4 h`, `4 h 5 min`, `5 min 6 s`, `6.7 s`, `89 ms`.
fn duration(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{seconds}.{} s", ms % 1_000 / 100),
        60_000..3_600_000 => format!("{minutes} min {} s", seconds % 60),
        3_600_000..86_400_000 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// A number of bytes in the largest unit of which it has at least one: `5.0 MiB`, `1.5 KiB`, `12 B`.
fn bytes(count: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(size, _)| count >= *size);
    unit.map_or_else(
        || format!("{count} B"),
        |(size, name)| format!("{}.{} {name}", count / size, count % size * 10 / size),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::daemon::tests::example_status;

    #[test]
    fn the_whole_report() {
        let expected = "fw1: role primary, mode ftfw, up 1 d 2 h
not ready: fw3 is lost

cache            flows  expectations    capacity      memory
internal             5             1     4194304    64.0 KiB
external             7             0     4194304     1.0 KiB

events: 22 of flows (8 new, 9 updates, 5 ends), 0 of expectations, 2 filtered by the configuration
received by 2 workers (io_uring), socket buffers 256.0 KiB in all
process: 10.0 MiB of memory, 1.2 s of CPU time, 1 client

links:
  1 udp 192.0.2.1:3780 to 192.0.2.2:3780 on eth2: active, healthy; sent 22 datagrams (1.0 KiB), received 14 (224 B)
  2 tcp 198.51.100.1:3780 to 198.51.100.2:3780: not healthy; sent 0 datagrams (0 B), received 0 (0 B); no peer is \
        received on it: check the cable, both addresses and the peer

sent: 100 changes (8.7 KiB), 2.0 KiB waiting for acknowledgement (room for 64.0 MiB); 3 datagrams sent again; \
        12 changes replaced by newer ones before sending

peers:
  fw2 at 192.0.2.2:3780: live, role backup, last message 12 ms ago
    sent to it: 2 datagrams (2.0 KiB) not acknowledged yet, the oldest for 4 ms
    received from it: up to date; lag since the start 0.4 ms (median), 1.9 ms (p99), 7 ms (worst)
  fw?3: lost, last message 9.0 s ago; check that its daemon runs and that a link reaches it
    received from it: 3 parts of its flows missing

problems since the daemon's start:
  6 events lost before they were read; raise [engine] buffer_bytes_max
  1 comparison with the kernel's table after such a loss; this repairs the internal cache, nothing to do
  1 flow refused by the full internal cache; raise [engine] flows_max
  2 gaps in the datagrams of peers; if the number grows, check the link
  1 datagram of a peer with changes that were not understood; run the same version of ctflow on all nodes
  1 datagram refused: another version of the protocol; run the same version of ctflow on all nodes
  4 datagrams refused: received before; if the number grows, look for a loop or a replay in the network
  1 datagram refused: not understood; run the same version of ctflow on all nodes
";
        assert_eq!(status_report(&example_status()), expected);
    }

    #[test]
    fn a_pair_in_sync_is_up_to_date_in_both_directions() {
        let mut status = example_status();
        status["ready"] = true.into();
        status["source"]["streams"] = Value::Null;
        status["source"]["resent"] = 0.into();
        status["source"]["conflated"] = 0.into();
        status["source"]["deltas"] = 46.into();
        status["peers"][0]["behind_batches"] = 0.into();
        status["refused"]["key"] = 6.into();
        status["source"]["unencodable"] = 2.into();
        let text = status_report(&status);
        assert!(text.contains("  2 changes not sent because they cannot be encoded; report it"), "{text}");
        assert!(text.contains("\nready: in sync with every peer\n"), "{text}");
        assert!(text.contains("\nsent: 46 changes (8.7 KiB), none waiting\n"), "{text}");
        assert!(
            text.contains("    sent to it: up to date\n    received from it: up to date; lag since the start "),
            "{text}"
        );
        let refused = "  6 datagrams refused: another key; copy the same key file to both nodes\n";
        assert!(text.contains(refused), "{text}");
    }

    #[test]
    fn datagrams_that_are_still_missing_are_counted() {
        let mut status = example_status();
        status["peers"][0]["streams"][0]["behind_batches"] = 4.into();
        status["peers"][0]["streams"][0]["behind_ms"] = 12.into();
        status["peers"][0]["streams"][0]["held_back"] = 1024.into();
        let text = status_report(&status);
        let missing = "received from it: 4 datagrams missing, 12 ms behind, 1.0 KiB waiting for an earlier datagram;";
        assert!(text.contains(missing), "{text}");
    }

    #[test]
    fn a_split_brain_names_the_other_primaries() {
        let mut status = example_status();
        status["split_brain"] = vec!["fw2"].into();
        assert!(status_report(&status).contains("\nsplit brain: fw2 is primary, too; run `ctflow role backup`"));
        status["split_brain"] = vec!["fw2", "fw3"].into();
        assert!(status_report(&status).contains("\nsplit brain: fw2, fw3 are primary, too; run `ctflow role backup`"));
    }

    #[test]
    fn an_empty_document_has_a_report() {
        let text = status_report(&Value::Null);
        assert!(
            text.contains("not ready: the daemon sent no reason")
                && text.ends_with("problems: none counted since the daemon's start\n"),
            "{text}"
        );
    }

    #[test]
    fn times_and_sizes_are_short() {
        let times = [999, 6_789, 306_000, 14_700_000, 273_600_000].map(duration);
        assert_eq!(times, ["999 ms", "6.7 s", "5 min 6 s", "4 h 5 min", "3 d 4 h"]);
        assert_eq!([1023, 1536, 5 << 20, u64::MAX].map(bytes), ["1023 B", "1.5 KiB", "5.0 MiB", "17179869183.9 GiB"]);
    }
}
