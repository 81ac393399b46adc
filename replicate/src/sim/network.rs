//! The network between simulated nodes: it loses, repeats, delays, damages and replays datagrams and cuts nodes off
//! from each other, as planned.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::plan::Plan;
use super::rng::Rng;

/// The most recorded datagrams, from which replays are drawn.
const RECORDED: usize = 64;

/// The most datagrams that wait for a slow node; more are lost.
const INBOX: usize = 100;

/// A datagram in flight: the sending node, the link, and the bytes.
pub(super) type Arrival = (usize, u8, Vec<u8>);

/// The network and the datagrams in flight.
#[derive(Debug)]
pub(super) struct Network {
    /// The datagrams in flight by time of arrival and order of sending, each with the receiving node.
    in_flight: BTreeMap<(u64, u64), (usize, Arrival)>,
    order: u64,
    inboxes: Vec<VecDeque<Arrival>>,
    recorded: Vec<Arrival>,
    /// The pairs of nodes that are cut off from each other, with the time when that ends.
    cuts: BTreeMap<(usize, usize), u64>,
    slow: BTreeSet<usize>,
    /// Whether faults have ended.
    is_healed: bool,
    /// Datagrams sent.
    pub(super) sent: u64,
}

impl Network {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            in_flight: BTreeMap::new(),
            order: 0,
            inboxes: vec![VecDeque::new(); nodes],
            recorded: Vec::new(),
            cuts: BTreeMap::new(),
            slow: BTreeSet::new(),
            is_healed: false,
            sent: 0,
        }
    }

    /// Ends all faults: nothing more is lost, and the recorded datagrams are dropped.
    pub(super) fn heal(&mut self) {
        self.is_healed = true;
        self.cuts.clear();
        self.slow.clear();
        self.recorded.clear();
    }

    /// Sends one datagram to one node.
    pub(super) fn send(&mut self, now: u64, from: usize, to: usize, datagram: &[u8], plan: &Plan, rng: &mut Rng) {
        self.sent += 1;
        let link = u8::from(rng.one_in(10));
        if self.is_healed {
            self.enqueue(now + 1, to, (from, link, datagram.to_vec()));
            return;
        }
        if self.cuts.contains_key(&(from.min(to), from.max(to))) || rng.one_in(plan.loss) {
            return;
        }
        if rng.one_in(20) {
            let slot = usize::try_from(rng.below(RECORDED as u64)).unwrap_or(0);
            let arrival = (from, link, datagram.to_vec());
            match self.recorded.get_mut(slot) {
                Some(recorded) => *recorded = arrival,
                None => self.recorded.push(arrival),
            }
        }
        for _ in 0..1 + u32::from(rng.one_in(plan.repeat)) {
            let mut datagram = datagram.to_vec();
            let at = usize::try_from(rng.below(datagram.len() as u64)).unwrap_or(0);
            if rng.one_in(plan.damage)
                && let Some(byte) = datagram.get_mut(at)
            {
                *byte ^= 1 << rng.below(8);
            }
            self.enqueue(now + 1 + rng.below(plan.delay_ms + 1), to, (from, link, datagram));
        }
    }

    /// Puts a datagram in flight that arrives at time `at`.
    fn enqueue(&mut self, at: u64, to: usize, arrival: Arrival) {
        self.order += 1;
        self.in_flight.insert((at, self.order), (to, arrival));
    }

    /// Draws the faults of one millisecond that do not concern a single datagram: partitions, slow nodes, replays.
    pub(super) fn inject_faults(&mut self, now: u64, plan: &Plan, rng: &mut Rng) {
        self.cuts.retain(|_, until| now < *until);
        let node = |rng: &mut Rng| usize::try_from(rng.below(plan.nodes as u64)).unwrap_or(0);
        if rng.one_in(plan.cut) {
            let pair = (node(rng), node(rng));
            self.cuts.insert((pair.0.min(pair.1), pair.0.max(pair.1)), now + rng.below(5_000));
        }
        if plan.slow > 0 && rng.one_in(300) {
            let node = node(rng);
            if !self.slow.remove(&node) {
                self.slow.insert(node);
            }
        }
        if rng.one_in(plan.replay) && !self.recorded.is_empty() {
            let recorded = usize::try_from(rng.below(self.recorded.len() as u64)).unwrap_or(0);
            let (from, link, datagram) = self.recorded[recorded].clone();
            // An attacker may send from another address than the recorded sender's.
            let from = if rng.one_in(2) { from } else { node(rng) };
            self.enqueue(now + 1, node(rng), (from, link, datagram));
        }
    }

    /// Returns the datagrams that `to` receives in this millisecond; a slow node leaves the rest for later.
    pub(super) fn receive_arrivals(&mut self, now: u64, to: usize, plan: &Plan) -> Vec<Arrival> {
        while let Some(first) = self.in_flight.first_entry().filter(|first| first.key().0 <= now) {
            let (to, arrival) = first.remove();
            if self.inboxes[to].len() < INBOX || !self.slow.contains(&to) {
                self.inboxes[to].push_back(arrival);
            }
        }
        let most = if self.slow.contains(&to) { plan.slow } else { u64::MAX };
        let inbox = &mut self.inboxes[to];
        inbox.drain(..inbox.len().min(usize::try_from(most).unwrap_or(usize::MAX))).collect()
    }
}
