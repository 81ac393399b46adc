//! The daemon's answers as text: status, reports of `sync verify`, `commit` and `role`, and the pages of conntrackd.

mod cache;
mod commit_report;
mod document;
mod role;
mod statistics;
mod status_report;
mod verify_report;

pub(crate) use cache::CachePrinter;
pub(crate) use commit_report::commit_report;
pub(crate) use role::{role_change_report, role_in_status, split_brain, takeover_blockers};
pub(crate) use statistics::statistics_page;
pub(crate) use status_report::status_report;
pub(crate) use verify_report::verify_report;

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    /// A status document with values for most keys: peer fw2 is live, peer fw3 is lost and has a control character in
    /// its name.
    pub(crate) fn example_status() -> Value {
        json!({
            "version": "0.1.0", "name": "fw1", "node": "0123456789abcdef", "epoch": 5, "uptime_ms": 93_780_000,
            "mode": "ftfw", "role": "primary", "ready": false, "not_ready": ["fw3 is lost"],
            "engine": {
                "backend": "io_uring", "workers": 2, "events": 22, "events_new": 8, "events_update": 9,
                "events_destroy": 5, "events_expect": 0, "events_lost": 6, "malformed": 0, "filtered": 2,
                "buffer_bytes": 262_144, "resyncs": 1, "resync_lost": 1
            },
            "internal": {
                "flows": 5, "expectations": 1, "created": 15, "updated": 14, "destroyed": 10, "refused": 1, "purged": 0,
                "capacity": 4_194_304, "bytes": 65_536
            },
            "external": {
                "flows": 7, "expectations": 0, "created": 7, "updated": 0, "destroyed": 0, "refused": 0, "purged": 0,
                "capacity": 4_194_304, "bytes": 1024
            },
            "source": {
                "streams": [
                    {"stream": 0, "seq": 55, "acknowledged": 53, "resend_batches": 2, "resend_bytes": 2048},
                    {"stream": 1, "seq": 9, "acknowledged": 9, "resend_batches": 0, "resend_bytes": 0}
                ],
                "deltas": 100, "batches": 64, "bytes": 9000, "resent": 3, "conflated": 12,
                "resend_bytes_max": 67_108_864, "deferred": 0
            },
            "peers": [
                {
                    "name": "fw2", "node": "fedcba9876543210", "epoch": 7, "standing": "live",
                    "address": "192.0.2.2:3780", "role": "backup", "last_heard_ms": 12, "behind_batches": 2,
                    "behind_bytes": 2048, "behind_ms": 4,
                    "streams": [{"stream": 0, "next": 12, "unknown": 0, "held_back": 0}],
                    "lag_ms_p50": 0.4, "lag_ms_p99": 1.9, "lag_ms_max": 7, "gaps": 2, "skipped": 0, "malformed": 1
                },
                {"name": "fw\u{1b}3", "standing": "lost", "last_heard_ms": 9_000, "streams": [{"unknown": 3}]}
            ],
            "links": [
                {
                    "number": 1, "transport": "udp", "local": "192.0.2.1:3780", "peers": ["192.0.2.2:3780"],
                    "interface": "eth2", "active": true, "healthy": true, "sent": 22, "sent_bytes": 1096,
                    "received": 14, "received_bytes": 224, "send_errors": 0, "receive_errors": 0
                },
                {
                    "number": 2, "transport": "tcp", "local": "198.51.100.1:3780", "peers": ["198.51.100.2:3780"],
                    "interface": null, "active": false, "healthy": false, "dialled": 0, "accepted": 0
                }
            ],
            "refused": {
                "foreign": 0, "version": 1, "clear": 0, "sealed": 0, "key": 0, "replayed": 4, "unproven": 0,
                "malformed": 1, "addressee": 0
            },
            "clients": 1, "process": {"resident_bytes": 10_485_760, "cpu_ms": 1234}
        })
    }
}
