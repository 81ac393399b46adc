//! Tests of one received stream: gaps, skips, digests, and the begin and end of buckets.

use super::*;
use crate::ctflow::batch::{BatchWriter, Payload};
use crate::ctflow::wire::HEADER_BYTES;
use crate::model::host::Host;
use crate::sim::host::{SimHost, SimReplica};
use crate::sim::rng::Rng;
use crate::sim::shard::{Cached, EntryKey, flow};

const ID: ReplicaId = ReplicaId { node: 1, stream: 0, streams: 1 };

/// A stream, its replica, and the outcome of its batches.
struct Bench {
    receive: ReceiveStream,
    host: SimHost,
    outcome: Outcome,
}

impl Bench {
    /// A stream that starts after seq 0.
    fn new(mode: Mode) -> Self {
        let mut receive = ReceiveStream::new(ID, mode, 10_000, false);
        receive.on_heads(0, 0);
        Self { receive, host: SimHost::new(usize::MAX), outcome: Outcome::default() }
    }

    fn replica(&mut self) -> &mut SimReplica {
        self.host.replica(ID)
    }

    fn receive_batch(&mut self, seq: u64, write: impl FnOnce(&mut BatchWriter)) {
        let mut writer = BatchWriter::new(0, 1_000, 0);
        write(&mut writer);
        let Payload { bytes, .. } = writer.finish();
        if self.receive.is_missing(0, seq) {
            self.receive.accept_batch(0, seq, &bytes[HEADER_BYTES..], self.host.replica(ID), &mut self.outcome);
        }
    }

    fn skip(&mut self, go_on: u64, buckets: &[u16]) {
        let buckets = buckets.iter().copied().collect();
        self.receive.on_skip(0, go_on, &buckets, self.host.replica(ID), &mut self.outcome);
    }

    fn gaps(&self) -> Vec<(u64, u64)> {
        self.receive.gaps().into_iter().map(|gap| (gap.from, gap.to)).collect()
    }
}

fn a_flow() -> (EntryKey, Cached) {
    flow(1, 900, &mut Rng::new(1))
}

fn push_a_flow(writer: &mut BatchWriter) {
    let flow = a_flow().1;
    let family = if flow.bytes.len() > 40 { 10 } else { 2 };
    writer.push_flow(family, &flow.bytes, 900).unwrap();
}

#[test]
fn an_early_batch_is_held_back_and_its_gap_reported() {
    let mut bench = Bench::new(Mode::Ftfw);
    bench.receive_batch(3, push_a_flow);
    bench.receive_batch(5, |_| {});
    assert_eq!((bench.gaps(), bench.replica().entries()), (vec![(1, 2), (4, 4)], 0));
    bench.receive_batch(1, |_| {});
    bench.receive_batch(2, |_| {});
    assert_eq!((bench.gaps(), bench.replica().entries()), (vec![(4, 4)], 1));
    bench.receive_batch(2, push_a_flow);
    assert_eq!((bench.receive.counters.duplicates, bench.receive.next), (1, 4));
    bench.receive.on_heads(0, 9);
    assert_eq!(bench.gaps(), [(4, 4), (6, 9)], "heads reveal the batches lost at the end");
}

#[test]
fn a_complete_bucket_is_known_and_its_unconfirmed_flows_purged() {
    let mut bench = Bench::new(Mode::Ftfw);
    let bucket = a_flow().0.0;
    bench.receive_batch(1, push_a_flow);
    bench.receive_batch(2, |writer| writer.push_bucket_begin(bucket).unwrap());
    assert!(!bench.receive.wanted_buckets(0).unwrap().0.contains(bucket), "it is in progress");
    bench.receive_batch(3, |writer| writer.push_bucket_end(bucket).unwrap());
    assert!(!bench.receive.unknown().contains(bucket));
    assert_eq!((bench.replica().entries(), bench.receive.counters.purged), (0, 1));
}

#[test]
fn a_bucket_with_skipped_changes_is_wanted_again() {
    let mut bench = Bench::new(Mode::Ftfw);
    let (bucket, other) = (a_flow().0.0, a_flow().0.0 ^ 1);
    bench.receive_batch(1, |writer| {
        push_a_flow(writer);
        writer.push_bucket_begin(bucket).unwrap();
        writer.push_bucket_begin(other).unwrap();
    });
    bench.skip(7, &[bucket]);
    assert_eq!(bench.receive.next, 7);
    bench.receive_batch(7, |writer| {
        writer.push_bucket_end(bucket).unwrap();
        writer.push_bucket_end(other).unwrap();
    });
    assert!(bench.receive.wanted_buckets(0).unwrap().0.contains(bucket));
    assert!(!bench.receive.unknown().contains(other), "none of its changes were skipped");
    assert_eq!(bench.replica().entries(), 1, "the end of a bucket with skipped changes purges nothing");
    bench.skip(3, &[other]);
    assert!(!bench.receive.unknown().contains(other), "a skip to an old position changes nothing");
}

#[test]
fn equal_digests_make_buckets_known_and_others_wanted() {
    let mut bench = Bench::new(Mode::Ftfw);
    bench.receive = ReceiveStream::new(ID, Mode::Ftfw, 10_000, true);
    bench.receive.on_heads(0, 0);
    bench.receive_batch(1, push_a_flow);
    assert_eq!(bench.receive.wanted_buckets(0), Some((BucketSet::all_of(0), true)));
    let mut first = 0;
    for seq in 2..=3 {
        bench.receive_batch(seq, |writer| {
            first += writer.push_digests(9, first, &[0; 257][usize::from(first)..]).unwrap();
        });
    }
    let differing: BucketSet = [a_flow().0.0].into_iter().collect();
    assert_eq!(bench.receive.wanted_buckets(0), Some((differing, false)));
    let verdict = bench.outcome.verdicts[0];
    assert_eq!((verdict.number, verdict.seq, verdict.entries, verdict.differing), (9, 3, 1, differing));
}

#[test]
fn a_malformed_batch_makes_all_unknown_and_pauses_wants_1_s() {
    let mut bench = Bench::new(Mode::Ftfw);
    bench.receive_batch(1, |writer| {
        (0..257).for_each(|bucket| writer.push_bucket_begin(bucket).unwrap());
    });
    bench.receive_batch(2, |writer| (0..257).for_each(|bucket| writer.push_bucket_end(bucket).unwrap()));
    assert!(bench.receive.is_in_sync() && bench.receive.wanted_buckets(0).is_none());
    bench.receive_batch(3, |writer| writer.push_flow(2, &[0; 9], 0).unwrap());
    assert_eq!((bench.outcome.malformed_seq, bench.receive.next), (Some(3), 4));
    assert!(bench.receive.wanted_buckets(MALFORMED_PAUSE_MS - 1).is_none());
    assert_eq!(bench.receive.wanted_buckets(MALFORMED_PAUSE_MS), Some((BucketSet::all_of(0), false)));
}

#[test]
fn a_refused_bucket_is_wanted_once_there_is_room() {
    let mut bench = Bench::new(Mode::Ftfw);
    let bucket = a_flow().0.0;
    bench.host.set_room(0);
    bench.receive_batch(1, |writer| {
        writer.push_bucket_begin(bucket).unwrap();
        push_a_flow(writer);
    });
    bench.receive_batch(2, |writer| writer.push_bucket_end(bucket).unwrap());
    assert!(bench.outcome.replica_full && bench.receive.unknown().contains(bucket));
    assert!(!bench.receive.wanted_buckets(0).unwrap().0.contains(bucket), "the replica has no room for it");
    bench.host.set_room(100);
    bench.receive_batch(3, |_| {});
    assert!(bench.receive.wanted_buckets(0).unwrap().0.contains(bucket));
}

#[test]
fn without_resending_newer_batches_apply_and_gaps_purge_nothing() {
    let mut bench = Bench::new(Mode::Notrack);
    let bucket = a_flow().0.0;
    bench.receive_batch(4, |writer| {
        push_a_flow(writer);
        writer.push_bucket_begin(bucket).unwrap();
    });
    bench.receive_batch(6, |writer| writer.push_bucket_end(bucket).unwrap());
    assert_eq!((bench.replica().entries(), bench.receive.counters.missed), (1, 1));
    assert!(bench.receive.unknown().contains(bucket) && bench.receive.ack_due.is_none());
    bench.receive_batch(5, |writer| writer.push_bucket_begin(bucket).unwrap());
    assert_eq!(bench.receive.next, 7, "a late batch is not applied");
    bench.receive_batch(7, |writer| writer.push_bucket_begin(bucket).unwrap());
    bench.receive_batch(8, |writer| writer.push_bucket_end(bucket).unwrap());
    assert_eq!((bench.replica().entries(), bench.receive.unknown().contains(bucket)), (0, false));
}

#[test]
fn in_alarm_mode_flows_not_sent_between_two_sweeps_are_purged() {
    let mut bench = Bench::new(Mode::Alarm);
    let bucket = a_flow().0.0;
    bench.receive_batch(1, push_a_flow);
    for (sent, left) in [(true, 1), (true, 1), (false, 1), (false, 0)] {
        bench.receive.sweep_bucket(bucket, bench.host.replica(ID));
        if sent {
            bench.receive_batch(bench.receive.next, push_a_flow);
        }
        assert_eq!(bench.replica().entries(), left);
    }
}

#[test]
fn an_acknowledgement_is_due_after_5_ms_32_batches_or_a_gap() {
    let mut bench = Bench::new(Mode::Ftfw);
    bench.receive.on_ack_sent(0);
    assert_eq!(bench.receive.ack_due, Some(WANT_REPEAT_MS));
    bench.receive_batch(1, |_| {});
    assert_eq!(bench.receive.ack_due, Some(ACK_MS));
    bench.receive_batch(3, |_| {});
    assert_eq!(bench.receive.ack_due, Some(REORDER_WINDOW_MS));
    bench.receive.on_ack_sent(0);
    assert_eq!(bench.receive.ack_due, Some(GAP_REPEAT_MS));
    (4..4 + u64::from(ACK_BATCHES)).for_each(|seq| bench.receive_batch(seq, |_| {}));
    assert_eq!(bench.receive.ack_due, Some(0));
}
