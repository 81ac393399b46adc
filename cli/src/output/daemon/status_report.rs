//! `ctflow status`: the daemon's status for people.

use std::fmt::Write;

use serde_json::Value;

use super::document::Document;

/// The whole report.
pub(crate) fn status_report(status: &Value) -> String {
    let status = Document(status);
    let mut text = format!(
        "{} ({}), role {}, mode {}, up {}\n",
        status.display("name"),
        status.display("node"),
        status.display("role"),
        status.display("mode"),
        duration(status.number("uptime_ms"))
    );
    if status.is_true("ready") {
        let alone = status.list("peers").next().is_none();
        text += if alone { "ready: no peer has been heard yet\n" } else { "ready: in sync with every peer\n" };
    } else {
        let reasons = status.texts("not_ready");
        let _ = writeln!(
            text,
            "not ready: {}",
            if reasons.is_empty() { "it does not say why".into() } else { reasons.join("; ") }
        );
    }
    let rivals = status.texts("split_brain");
    if !rivals.is_empty() {
        let _ = writeln!(text, "split brain: {} is primary, too", rivals.join(", "));
    }
    if status.is_true("isolated") {
        text += "isolated: nothing but replication and control reaches it\n";
    }
    append_caches(&mut text, status);
    append_hot(&mut text, status);
    append_engine(&mut text, status);
    append_links(&mut text, status);
    append_sent(&mut text, status);
    append_peers(&mut text, status);
    append_problems(&mut text, status);
    text
}

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

fn append_hot(text: &mut String, status: Document<'_>) {
    let hot = |key: &str| status.optional_number(&format!("hot.{key}"));
    let Some(created) = hot("created") else { return };
    let number = |key| hot(key).unwrap_or(0);
    let _ = writeln!(
        text,
        "into the kernel: {created} created, {} updated, {} newer here, {} ended, {} purged",
        number("updated"),
        number("kept"),
        number("ended"),
        number("purged")
    );
    for (reason, count) in status.0.pointer("/hot/refused").and_then(Value::as_object).into_iter().flatten() {
        let _ = writeln!(text, "  {count} refused: {reason}");
    }
}

fn append_engine(text: &mut String, status: Document<'_>) {
    let engine = |key: &str| status.number(&format!("engine.{key}"));
    let _ = writeln!(
        text,
        "\nevents: {} ({} new, {} updates, {} ends, {} of expectations), {} filtered, by {} of {} workers",
        engine("events"),
        engine("events_new"),
        engine("events_update"),
        engine("events_destroy"),
        engine("events_expect"),
        engine("filtered"),
        status.display("engine.backend"),
        engine("workers")
    );
    let _ = writeln!(
        text,
        "process: {} resident, {} of CPU, {} clients; socket buffer {}",
        bytes(status.number("process.resident_bytes")),
        duration(status.number("process.cpu_ms")),
        status.number("clients"),
        bytes(engine("buffer_bytes"))
    );
}

fn append_links(text: &mut String, status: Document<'_>) {
    text.push_str("\nlinks:\n");
    for link in status.list("links") {
        let interface = link.text("interface").map(|name| format!(" on {name}")).unwrap_or_default();
        let active = if link.is_true("active") { "active, " } else { "" };
        let health = if link.is_true("healthy") { "healthy" } else { "not healthy" };
        let _ = writeln!(
            text,
            "  {} {} {} to {}{interface}: {active}{health}; sent {} ({}), received {} ({})",
            link.display("number"),
            link.display("transport"),
            link.display("local"),
            link.texts("peers").join(", "),
            link.number("sent"),
            bytes(link.number("sent_bytes")),
            link.number("received"),
            bytes(link.number("received_bytes"))
        );
    }
}

fn append_sent(text: &mut String, status: Document<'_>) {
    let source = |key: &str| status.number(&format!("source.{key}"));
    let _ = writeln!(
        text,
        "\ntold: {} deltas in {} batches ({}), {} conflated; {} batches sent again, {} of {} kept for that",
        source("deltas"),
        source("batches"),
        bytes(source("bytes")),
        source("conflated"),
        source("resent"),
        bytes(status.sum("source.streams", "resend_bytes")),
        bytes(source("resend_bytes_max"))
    );
}

fn append_peers(text: &mut String, status: Document<'_>) {
    let mut peers = status.list("peers").peekable();
    if peers.peek().is_none() {
        text.push_str("\npeers: none has been heard\n");
        return;
    }
    text.push_str("\npeers:\n");
    for peer in peers {
        let role = peer.text("role").map(|role| format!(", role {role}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "  {}: {}{role}, at {}, heard {} ago",
            peer.display("name"),
            peer.display("standing"),
            peer.display("address"),
            duration(peer.number("last_heard_ms"))
        );
        let _ = writeln!(
            text,
            "    it lacks of ours: {} batches ({}), {} ms",
            peer.number("behind_batches"),
            bytes(peer.number("behind_bytes")),
            peer.display("behind_ms")
        );
        let _ = writeln!(
            text,
            "    we lack of its: {} batches held back, {} buckets unknown; lag {} ms (p50), {} ms (p99), {} ms (worst)",
            peer.sum("streams", "held_back"),
            peer.sum("streams", "unknown"),
            peer.display("lag_ms_p50"),
            peer.display("lag_ms_p99"),
            peer.display("lag_ms_max")
        );
    }
}

/// By stage, from the kernel to the peers; what is 0 is left out.
fn append_problems(text: &mut String, status: Document<'_>) {
    let stages = [
        ("events lost before we read them", status.number("engine.events_lost")),
        ("events not understood", status.number("engine.malformed")),
        ("resyncs with the kernel because of that", status.number("engine.resync_lost")),
        ("flows that the internal cache had no room for", status.number("internal.refused")),
        ("flows that the external cache had no room for", status.number("external.refused")),
        ("times that telling waited for a peer", status.number("source.deferred")),
        ("datagrams that could not be sent", status.sum("links", "send_errors")),
        ("datagrams that could not be received", status.sum("links", "receive_errors")),
        ("gaps in what peers told", status.sum("peers", "gaps")),
        ("gaps that only a resync could mend", status.sum("peers", "skipped")),
        ("batches of peers not understood", status.sum("peers", "malformed")),
        ("datagrams refused: not of this protocol", status.number("refused.foreign")),
        ("datagrams refused: of another version", status.number("refused.version")),
        ("datagrams refused: in clear", status.number("refused.clear")),
        ("datagrams refused: encrypted, and we have no key", status.number("refused.sealed")),
        ("datagrams refused: of another key", status.number("refused.key")),
        ("datagrams refused: heard before", status.number("refused.replayed")),
        ("datagrams refused: from a run not proven yet", status.number("refused.unproven")),
        ("datagrams refused: not understood", status.number("refused.malformed")),
        ("datagrams refused: for somebody else", status.number("refused.addressee")),
    ];
    let mut lost = stages.iter().filter(|(_, count)| *count > 0).peekable();
    if lost.peek().is_none() {
        text.push_str("\nlosses: none\n");
        return;
    }
    text.push_str("\nlosses, from the kernel to the peers:\n");
    for (stage, count) in lost {
        let _ = writeln!(text, "{count:>12} {stage}");
    }
}

/// `3 d 4 h`, `4 h 5 min`, `5 min 6 s`, `6.7 s`, `89 ms`.
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

/// In the largest unit that leaves something before the point.
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
        let expected = "fw1 (0123456789abcdef), role primary, mode ftfw, up 1 d 2 h
not ready: fw3 is lost

cache            flows  expectations    capacity      memory
internal             5             1     4194304    64.0 KiB
external             7             0     4194304     1.0 KiB

events: 22 (8 new, 9 updates, 5 ends, 0 of expectations), 2 filtered, by io_uring of 2 workers
process: 10.0 MiB resident, 1.2 s of CPU, 1 clients; socket buffer 256.0 KiB

links:
  1 udp 192.0.2.1:3780 to 192.0.2.2:3780 on eth2: active, healthy; sent 22 (1.0 KiB), received 14 (224 B)
  2 tcp 198.51.100.1:3780 to 198.51.100.2:3780: not healthy; sent 0 (0 B), received 0 (0 B)

told: 100 deltas in 64 batches (8.7 KiB), 12 conflated; 3 batches sent again, 2.0 KiB of 64.0 MiB kept for that

peers:
  fw2: live, role backup, at 192.0.2.2:3780, heard 12 ms ago
    it lacks of ours: 2 batches (2.0 KiB), 4 ms
    we lack of its: 0 batches held back, 0 buckets unknown; lag 0.4 ms (p50), 1.9 ms (p99), 7 ms (worst)
  fw?3: lost, at -, heard 9.0 s ago
    it lacks of ours: 0 batches (0 B), - ms
    we lack of its: 0 batches held back, 3 buckets unknown; lag - ms (p50), - ms (p99), - ms (worst)

losses, from the kernel to the peers:
           6 events lost before we read them
           1 resyncs with the kernel because of that
           1 flows that the internal cache had no room for
           2 gaps in what peers told
           1 batches of peers not understood
           1 datagrams refused: of another version
           4 datagrams refused: heard before
           1 datagrams refused: not understood
";
        assert_eq!(status_report(&example_status()), expected);
    }

    #[test]
    fn an_empty_document_has_a_report() {
        let text = status_report(&Value::Null);
        assert!(text.contains("not ready: it does not say why") && text.ends_with("losses: none\n"), "{text}");
    }

    #[test]
    fn times_and_sizes_are_short() {
        let times = [999, 6_789, 306_000, 14_700_000, 273_600_000].map(duration);
        assert_eq!(times, ["999 ms", "6.7 s", "5 min 6 s", "4 h 5 min", "3 d 4 h"]);
        assert_eq!([1023, 1536, 5 << 20, u64::MAX].map(bytes), ["1023 B", "1.5 KiB", "5.0 MiB", "17179869183.9 GiB"]);
    }
}
