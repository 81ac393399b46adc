//! The plan of a run, drawn from its seed: the cluster's shape and its faults.

use super::rng::Rng;

/// A cluster and its faults. Frequencies are "once in so many", 0 for never.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) sealed: bool,
    /// The time in which faults occur, in milliseconds.
    pub(super) faulty_ms: u64,
    /// Lost datagrams.
    pub(super) loss: u64,
    /// Datagrams delivered twice.
    pub(super) repeat: u64,
    /// The longest delay of a datagram, in milliseconds; each is delayed by a random part of it, which reorders them.
    pub(super) delay_ms: u64,
    /// Datagrams with a changed byte, in sealed clusters only: in clear ones UDP's checksum finds them.
    pub(super) damage: u64,
    /// Replays of a recorded datagram, by milliseconds.
    pub(super) replay: u64,
    /// Stops or crashes of a node, which starts again later, by milliseconds and node.
    pub(super) crash: u64,
    /// Partitions between two nodes, by milliseconds.
    pub(super) cut: u64,
    /// The datagrams that a slow node receives in a millisecond; 0 if no node is slow.
    pub(super) slow: u64,
    /// The capacity of a replica at a small node, in entries.
    pub(super) room: usize,
    /// The most changes of flows in a millisecond and node.
    pub(super) churn: u64,
    /// The most flows of a node.
    pub(super) flows: u64,
    pub(super) resend_bytes: usize,
    pub(super) window_bytes: usize,
    pub(super) held_back_bytes: usize,
    /// Whether a datagram to all is delivered to its sender too, as by a group.
    pub(super) group: bool,
}

impl Plan {
    /// Draws a plan.
    pub(super) fn new(rng: &mut Rng) -> Self {
        let sealed = !rng.one_in(3);
        Self {
            nodes: rng.pick(&[2, 2, 2, 3, 3, 4, 5]),
            sealed,
            faulty_ms: 200 + rng.below(3_000),
            loss: rng.pick(&[0, 100, 20, 5, 2]),
            repeat: rng.pick(&[0, 100, 10]),
            delay_ms: rng.pick(&[0, 1, 1, 4, 40]),
            damage: if sealed { rng.pick(&[0, 100, 20]) } else { 0 },
            replay: rng.pick(&[0, 50, 10]),
            crash: rng.pick(&[0, 4_000, 1_000]),
            cut: rng.pick(&[0, 0, 2_000, 500]),
            slow: rng.pick(&[0, 0, 1, 4]),
            room: rng.pick(&[usize::MAX, usize::MAX, 60, 5]),
            churn: rng.pick(&[0, 1, 4, 12]),
            flows: rng.pick(&[20, 200, 600]),
            resend_bytes: rng.pick(&[4_000, 40_000, 1 << 24]),
            window_bytes: rng.pick(&[4_000, 100_000]),
            held_back_bytes: rng.pick(&[3_000, 1 << 20]),
            group: rng.one_in(2),
        }
    }
}
