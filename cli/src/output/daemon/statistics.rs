//! conntrackd's pages of statistics, filled from the daemon's status document.
//!
//! Counters that this daemon does not have (of child processes, for example) are printed as 0, because scripts match
//! the lines.

use std::fmt::Write;

use serde_json::Value;

use super::document::Document;
use crate::flags::plan::StatisticsPage;
use crate::output::Subject;

/// The capacity that conntrackd prints for its transmit queue.
const TX_QUEUE_MAX: u64 = 2_147_483_647;
/// The capacity that conntrackd prints for its queue of undeliverable messages.
const ERROR_QUEUE_MAX: u64 = 128;

/// The page `show`, letter for letter in conntrackd's layout.
pub(crate) fn statistics_page(show: StatisticsPage, status: &Value) -> String {
    let status = Document(status);
    match show {
        StatisticsPage::Overview(of) => overview(status, of),
        StatisticsPage::Network => network(status),
        StatisticsPage::Cache => cache(status, "internal") + &cache(status, "external"),
        StatisticsPage::Runtime => runtime(status),
        StatisticsPage::Link => status.list("links").map(link).collect(),
        StatisticsPage::ResendQueue => resend_queue(status),
        StatisticsPage::Queue => queues(status),
        StatisticsPage::Process => String::new(),
    }
}

fn overview(status: Document<'_>, of: Subject) -> String {
    let mut page = String::new();
    for name in ["internal", "external"] {
        // Every daemon sends the number of expectations. Only some send the changes of expectations; missing ones are
        // 0.
        let (held, changes) = match of {
            Subject::Flows => ("flows", ""),
            Subject::Expectations => ("expectations", "expectations_"),
        };
        let number = |key: &str| status.number(&format!("{name}.{key}"));
        let changed = |key: &str| number(&format!("{changes}{key}"));
        let _ = write!(
            page,
            "cache {name}:\ncurrent active connections:\t{:>12}\nconnections created:\t\t{:>12}\tfailed:\t{:>12}\n\
             connections updated:\t\t{:>12}\tfailed:\t{:>12}\nconnections destroyed:\t\t{:>12}\tfailed:\t{:>12}\n\n",
            number(held),
            changed("created"),
            changed("refused"),
            changed("updated"),
            0,
            changed("destroyed"),
            0
        );
    }
    let _ = write!(page, "traffic processed:\n{:>20} Bytes      {:>20} Pckts\n\n", 0, 0);
    page += &active_link(status);
    let (malformed, lost) = (malformed(status), status.sum("peers", "gaps"));
    let _ = write!(page, "message tracking:\n{malformed:>20} Malformed msgs {lost:>20} Lost msgs\n\n");
    page
}

/// The number of refused datagrams, except repeated ones, and of malformed batches.
fn malformed(status: Document<'_>) -> u64 {
    let refused = ["foreign", "version", "clear", "sealed", "key", "unproven", "malformed", "addressee"];
    let refused = refused.iter().map(|reason| status.number(&format!("refused.{reason}")));
    refused.fold(status.sum("peers", "malformed"), u64::saturating_add)
}

fn network(status: Document<'_>) -> String {
    let payload = status.number("refused.malformed").saturating_add(status.sum("peers", "malformed"));
    let lines = [
        ("Malformed messages:", malformed(status)),
        ("Wrong protocol version:", status.number("refused.version")),
        ("Malformed header:", status.number("refused.foreign")),
        ("Malformed payload:", payload),
        ("Bad message type:", 0),
        ("Truncated message:", 0),
        ("Bad message size:", 0),
    ];
    let mut page = String::from("network statistics:\n\trecv:\n");
    for (name, number) in lines {
        let _ = writeln!(page, "\t\t{name}\t{number:>20}");
    }
    let (lost, before) = (status.sum("peers", "gaps"), status.number("refused.replayed"));
    let _ = write!(
        page,
        "\tsend:\n\t\tMalformed messages:\t{:>20}\n\nsequence tracking statistics:\n\trecv:\n\t\tPackets lost:\t\t{lost:>20}\n\
         \t\tPackets before:\t\t{before:>20}\n\n",
        0
    );
    page + &active_link(status)
}

fn cache(status: Document<'_>, name: &str) -> String {
    let number = |key: &str| status.number(&format!("{name}.{key}"));
    let (flows, created, refused) = (number("flows"), number("created"), number("refused"));
    let mut page =
        format!("cache:{name}\tactive objects:\t\t{flows:>12}\n\tactive/total entries:\t\t{flows:>12}/{flows:>12}\n");
    let _ = write!(
        page,
        "\tcreation OK/failed:\t\t{created:>12}/{refused:>12}\n\t\tno memory available:\t{:>12}\n\
         \t\tno space left in cache:\t{refused:>12}\n\tupdate OK/failed:\t\t{:>12}/{:>12}\n\t\tentry not found:\t{:>12}\n\
         \tdeletion created/failed:\t{:>12}/{:>12}\n\t\tentry not found:\t{:>12}\n\n",
        0,
        number("updated"),
        0,
        0,
        number("destroyed"),
        0,
        0
    );
    page
}

fn runtime(status: Document<'_>) -> String {
    let engine = |key: &str| status.number(&format!("engine.{key}"));
    let minutes = status.number("uptime_ms") / 60_000;
    let (days, hours, minutes) = (minutes / 1_440, minutes / 60 % 24, minutes % 60);
    let uptime = match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, hours) => format!("{hours} h {minutes} min"),
        (days, hours) => format!("{days} day(s) {hours} h {minutes} min"),
    };
    let mut page = format!("daemon uptime: {uptime}\n\nnetlink stats:\n");
    let _ = write!(
        page,
        "\tevents received:\t{:>20}\n\tevents filtered:\t{:>20}\n\tevents unknown type:\t\t{:>12}\n\
         \tcatch event failed:\t\t{:>12}\n\tdump unknown type:\t\t{:>12}\n\tnetlink overrun:\t\t{:>12}\n\
         \tflush kernel table:\t\t{:>12}\n\tresync with kernel table:\t{:>12}\n\tcurrent buffer size (in bytes):\t{:>12}\n\n",
        engine("events"),
        engine("filtered"),
        0,
        engine("malformed"),
        0,
        engine("events_lost"),
        engine("flushes"),
        engine("resyncs"),
        engine("buffer_bytes")
    );
    page += "runtime stats:\n";
    for name in [
        "\tchild process failed:\t\t",
        "\t\tchild process segfault:\t",
        "\t\tchild process termsig:\t",
        "\tselect failed:\t\t\t",
        "\twait failed:\t\t\t",
        "\tlocal read failed:\t\t",
        "\tlocal unknown request:\t\t",
    ] {
        let _ = writeln!(page, "{name}{:>12}", 0);
    }
    page + "\n"
}

fn active_link(status: Document<'_>) -> String {
    status.list("links").find(|link| link.is_true("active")).map_or_else(String::new, |link| {
        let head = match transport(link) {
            "TCP" => {
                let (server, client) = (link.number("accepted"), link.number("dialled"));
                let state = |count| if count > 0 { "connected" } else { "disconnected" };
                format!(
                    "TCP traffic (active device={}) server={} client={}:",
                    device(link),
                    state(server),
                    state(client)
                )
            }
            name => format!("{name} traffic (active device={}):", device(link)),
        };
        head + "\n" + &traffic(link)
    })
}

fn link(link: Document<'_>) -> String {
    let status = if link.is_true("healthy") { "RUNNING" } else { "DOWN" };
    let role = if link.is_true("active") { "ACTIVE" } else { "BACKUP" };
    format!("{} traffic device={} status={status} role={role}:\n", transport(link), device(link)) + &traffic(link)
}

fn transport(link: Document<'_>) -> &'static str {
    match link.text("transport").as_deref() {
        Some("multicast") => "multicast",
        Some("tcp") => "TCP",
        _ => "UDP",
    }
}

/// The name of a link's interface; the link's local address if it is bound to no interface.
fn device(link: Document<'_>) -> String {
    link.text("interface").unwrap_or_else(|| link.display("local"))
}

fn traffic(link: Document<'_>) -> String {
    let number = |key| link.number(key);
    format!(
        "{:>20} Bytes sent {:>20} Bytes recv\n{:>20} Pckts sent {:>20} Pckts recv\n{:>20} Error send {:>20} Error recv\n\n",
        number("sent_bytes"),
        number("received_bytes"),
        number("sent"),
        number("received"),
        number("send_errors"),
        number("receive_errors")
    )
}

/// The resend queue. conntrackd lists every message in it; this daemon keeps batches, and the page lists the oldest
/// batch of each stream.
fn resend_queue(status: Document<'_>) -> String {
    if !has_resend_queue(status) {
        return String::new();
    }
    let mut page = format!("resent queue (len={})\n", status.sum("source.streams", "resend_batches"));
    for stream in status.list("source.streams").filter(|stream| stream.number("resend_batches") > 0) {
        let oldest = stream.number("seq").saturating_sub(stream.number("resend_batches") - 1);
        let _ = writeln!(page, "object -> seq:{oldest}");
    }
    page
}

/// Whether the daemon runs in mode ftfw, the only mode with a resend queue. A status
/// without a mode counts as ftfw.
fn has_resend_queue(status: Document<'_>) -> bool {
    status.text("mode").is_none_or(|mode| mode == "ftfw")
}

/// The queues. The resend queue is bounded in bytes, so its elements are bytes.
fn queues(status: Document<'_>) -> String {
    let queue = |name: &str, current: u64, most: u64| {
        format!(
            "queue {name}:\ncurrent elements:\t\t{current:>12}\nmaximum elements:\t\t{most:>12}\n\
             not enough space errors:\t{:>12}\n\n",
            0
        )
    };
    let nodes = status.sum("source.streams", "resend_batches");
    let mut page = format!("allocated queue nodes:\t\t{nodes:>12}\n\n");
    page += &queue("txqueue", 0, TX_QUEUE_MAX);
    page += &queue("errorq", 0, ERROR_QUEUE_MAX);
    if has_resend_queue(status) {
        let bytes = status.sum("source.streams", "resend_bytes");
        page += &queue("rsqueue", bytes, status.number("source.resend_bytes_max"));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::daemon::tests::example_status;

    /// Captured from conntrackd 1.4.7, with the numbers of the example status.
    #[test]
    fn the_overview_is_conntrackds() {
        let captured = "cache internal:
current active connections:\t           5
connections created:\t\t          15\tfailed:\t           1
connections updated:\t\t          14\tfailed:\t           0
connections destroyed:\t\t          10\tfailed:\t           0

cache external:
current active connections:\t           7
connections created:\t\t           7\tfailed:\t           0
connections updated:\t\t           0\tfailed:\t           0
connections destroyed:\t\t           0\tfailed:\t           0

traffic processed:
                   0 Bytes                         0 Pckts

UDP traffic (active device=eth2):
                1096 Bytes sent                  224 Bytes recv
                  22 Pckts sent                   14 Pckts recv
                   0 Error send                    0 Error recv

message tracking:
                   3 Malformed msgs                    2 Lost msgs

";
        assert_eq!(statistics_page(StatisticsPage::Overview(Subject::Flows), &example_status()), captured);
        let expect = statistics_page(StatisticsPage::Overview(Subject::Expectations), &example_status());
        assert!(expect.starts_with("cache internal:\ncurrent active connections:\t           1\n"), "{expect}");
    }

    /// Captured from conntrackd 1.4.7, with the numbers of the example status.
    #[test]
    fn the_other_pages_are_conntrackds() {
        let cache = statistics_page(StatisticsPage::Cache, &example_status());
        let captured = "cache:internal\tactive objects:\t\t           5
\tactive/total entries:\t\t           5/           5
\tcreation OK/failed:\t\t          15/           1
\t\tno memory available:\t           0
\t\tno space left in cache:\t           1
\tupdate OK/failed:\t\t          14/           0
\t\tentry not found:\t           0
\tdeletion created/failed:\t          10/           0
\t\tentry not found:\t           0

cache:external\tactive objects:\t\t           7
";
        assert!(cache.starts_with(captured), "{cache}");
        let captured = "network statistics:
\trecv:
\t\tMalformed messages:\t                   3
\t\tWrong protocol version:\t                   1
\t\tMalformed header:\t                   0
\t\tMalformed payload:\t                   2
\t\tBad message type:\t                   0
\t\tTruncated message:\t                   0
\t\tBad message size:\t                   0
\tsend:
\t\tMalformed messages:\t                   0

sequence tracking statistics:
\trecv:
\t\tPackets lost:\t\t                   2
\t\tPackets before:\t\t                   4

UDP traffic (active device=eth2):
";
        let network = statistics_page(StatisticsPage::Network, &example_status());
        assert!(network.starts_with(captured), "{network}");
        let captured = "daemon uptime: 1 day(s) 2 h 3 min

netlink stats:
\tevents received:\t                  22
\tevents filtered:\t                   2
\tevents unknown type:\t\t           0
\tcatch event failed:\t\t           0
\tdump unknown type:\t\t           0
\tnetlink overrun:\t\t           6
\tflush kernel table:\t\t           0
\tresync with kernel table:\t           1
\tcurrent buffer size (in bytes):\t      262144

runtime stats:
\tchild process failed:\t\t           0
\t\tchild process segfault:\t           0
\t\tchild process termsig:\t           0
\tselect failed:\t\t\t           0
\twait failed:\t\t\t           0
\tlocal read failed:\t\t           0
\tlocal unknown request:\t\t           0

";
        assert_eq!(statistics_page(StatisticsPage::Runtime, &example_status()), captured);
        let captured = "UDP traffic device=eth2 status=RUNNING role=ACTIVE:
                1096 Bytes sent                  224 Bytes recv
                  22 Pckts sent                   14 Pckts recv
                   0 Error send                    0 Error recv

TCP traffic device=198.51.100.1:3780 status=DOWN role=BACKUP:
";
        let links = statistics_page(StatisticsPage::Link, &example_status());
        assert!(links.starts_with(captured), "{links}");
        assert_eq!(
            statistics_page(StatisticsPage::ResendQueue, &example_status()),
            "resent queue (len=2)\nobject -> seq:54\n"
        );
        let queues = statistics_page(StatisticsPage::Queue, &example_status());
        assert!(queues.starts_with("allocated queue nodes:\t\t           2\n\nqueue txqueue:\n"), "{queues}");
        assert!(
            queues.contains("maximum elements:\t\t  2147483647\nnot enough space errors:\t           0\n"),
            "{queues}"
        );
        assert!(queues.ends_with("queue rsqueue:\ncurrent elements:\t\t        2048\nmaximum elements:\t\t    67108864\nnot enough space errors:\t           0\n\n"), "{queues}");
        assert_eq!(statistics_page(StatisticsPage::Process, &example_status()), "");
    }

    /// Captured from a pair of conntrackd over TCP, before and after both were connected.
    #[test]
    fn tcp_links_have_connections_and_only_ftfw_has_a_resend_queue() {
        let mut status = example_status();
        status["mode"] = "notrack".into();
        status["links"][0]["active"] = false.into();
        status["links"][1]["active"] = true.into();
        status["links"][1]["interface"] = "eth3".into();
        let head = |status: &Value| {
            statistics_page(StatisticsPage::Network, status)
                .lines()
                .find(|line| line.contains("TCP"))
                .unwrap()
                .to_owned()
        };
        assert_eq!(head(&status), "TCP traffic (active device=eth3) server=disconnected client=disconnected:");
        status["links"][1]["accepted"] = 1.into();
        status["links"][1]["dialled"] = 1.into();
        assert_eq!(head(&status), "TCP traffic (active device=eth3) server=connected client=connected:");
        assert_eq!(statistics_page(StatisticsPage::ResendQueue, &status), "");
        assert!(!statistics_page(StatisticsPage::Queue, &status).contains("rsqueue"));
    }

    #[test]
    fn an_empty_document_has_every_line() {
        for show in [
            StatisticsPage::Overview(Subject::Flows),
            StatisticsPage::Network,
            StatisticsPage::Cache,
            StatisticsPage::Runtime,
            StatisticsPage::Queue,
        ] {
            assert!(statistics_page(show, &Value::Null).lines().count() > 5, "{show:?}");
        }
    }
}
