//! What this node holds of one stream of a peer: the peer's shard as it was told, in the same tables.

use ctflow_parser::compact::{Key, V4, V6};
use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::FlowKey;
use ctflow_parser::uapi;
use ctflow_replicate::buckets::{BUCKETS, EXPECTATIONS, bucket_of};

use super::expectations::Expectations;
use super::key::spread;
use super::stamp::{Clock, Stamp};
use super::table::{Table, Told};
use super::{Applied, Epoch};

/// The flows and expectations of one stream of a peer.
#[derive(Debug)]
pub struct Replica {
    v4: Table<V4>,
    v6: Table<V6>,
    expectations: Expectations,
    /// By bucket: what confirms an entry since the bucket's last begin.
    marks: Box<[Epoch]>,
    digests: Box<[u64]>,
    clock: Clock,
    now: Stamp,
}

impl Replica {
    /// An empty replica that holds at most `flows_max` flows of each family.
    #[must_use]
    pub fn new(flows_max: u32, clock: Clock) -> Self {
        let buckets = usize::from(BUCKETS) + 1;
        Self {
            v4: Table::new(flows_max),
            v6: Table::new(flows_max),
            expectations: Expectations::default(),
            marks: vec![0; buckets].into_boxed_slice(),
            digests: vec![0; buckets].into_boxed_slice(),
            clock,
            now: clock.stamp(0),
        }
    }

    /// What is put in from here on came at `now_ms`, milliseconds since 1970.
    pub fn set_time(&mut self, now_ms: u64) {
        self.now = self.clock.stamp(now_ms);
    }

    /// All flows, with the time since which each is here.
    pub fn flows(&self) -> impl Iterator<Item = (FlowView<'_>, Stamp)> {
        self.v4.iter().chain(self.v6.iter())
    }

    /// All expectations, encoded, with the time since which each is here.
    pub fn expectations(&self) -> impl Iterator<Item = (&[u8], Stamp)> {
        self.expectations.iter()
    }

    fn told(&self, bucket: u16, check: u32, changed_ms: u64) -> Told {
        let mark = self.marks.get(usize::from(bucket)).copied().unwrap_or_default();
        Told { check, mark, now: self.now, changed: self.clock.stamp(changed_ms) }
    }

    fn add(&mut self, bucket: u16, check: u32) {
        if let Some(digest) = self.digests.get_mut(usize::from(bucket)) {
            *digest = digest.wrapping_add(spread(check));
        }
    }

    fn subtract(&mut self, bucket: u16, check: u32) {
        if let Some(digest) = self.digests.get_mut(usize::from(bucket)) {
            *digest = digest.wrapping_sub(spread(check));
        }
    }
}
