//! What a seed means: the cluster's shape and the faults it suffers.

use super::rng::Rng;

/// A cluster and its faults. Frequencies are "once in so many", 0 for never.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) sealed: bool,
    /// How long there are faults, in milliseconds.
    pub(super) faulty_ms: u64,
    /// Datagrams lost.
    pub(super) loss: u64,
    /// Datagrams that come twice.
    pub(super) repeat: u64,
    /// The longest that a datagram is on its way, in milliseconds; a random part of it is what reorders.
    pub(super) delay_ms: u64,
    /// Datagrams with a byte changed; in sealed clusters only, in clear it is UDP's checksum that finds them.
    pub(super) damage: u64,
    /// A datagram recorded at any time is sent again, by milliseconds.
    pub(super) replay: u64,
    /// A node stops or crashes and starts again, by milliseconds and node.
    pub(super) crash: u64,
    /// A pair of nodes is cut off from each other, by milliseconds.
    pub(super) cut: u64,
    /// Datagrams that a slow node takes in a millisecond.
    pub(super) slow: u64,
    /// Entries that a replica of a small node has room for.
    pub(super) room: usize,
    /// The most changes to flows in a millisecond and node.
    pub(super) churn: u64,
    /// Flows that a node has at most.
    pub(super) flows: u64,
    pub(super) resend_bytes: usize,
    pub(super) window_bytes: usize,
    pub(super) held_back_bytes: usize,
    /// Whether what goes to all comes back to its sender, as from a group.
    pub(super) group: bool,
}

impl Plan {
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
