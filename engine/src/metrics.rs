//! The workers' counters. Each worker counts for itself and publishes its counts after every batch; readers add them
//! up.
//!
//! A worker keeps plain numbers ([`Counts`]) and stores them into cache lines of its own (`SharedCounters`) once a
//! batch. So counting costs an addition an event, and readers cost the event path nothing.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// The counts of one worker since it started, or their sums over all workers.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        /// A worker's counts as other threads read them, alone on their cache lines.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct SharedCounters {
            $($name: AtomicU64,)+
        }

        impl SharedCounters {
            /// Publishes `counts` in place of the earlier ones.
            pub(crate) fn store(&self, counts: &Counts) {
                $(self.$name.store(counts.$name, Ordering::Relaxed);)+
            }

            /// Reads the counts published last. One count may be a batch newer than another.
            pub(crate) fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }

        impl AddAssign for Counts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counters! {
    /// NEW events of flows.
    events_new,
    /// UPDATE events of flows.
    events_update,
    /// DESTROY events of flows.
    events_destroy,
    /// Events of expectations, of all kinds.
    events_expect,
    /// DESTROY events that were ignored because the flow's NAT address moved to another firewall: the flow is kept for
    /// a while.
    moved,
    /// Events lost because they did not fit the socket buffer or a receive buffer.
    events_lost,
    /// Messages that do not parse or identify no flow.
    malformed,
    /// Flows in the shard now.
    flows,
    /// Expectations in the shard now.
    expectations,
    /// Expectations refused because the shard holds [`EXPECTATIONS_MAX`](crate::limits::EXPECTATIONS_MAX).
    expectations_refused,
    /// Changes that cannot be encoded in any batch.
    unencodable,
    /// Changes of flows that the replication filter leaves out.
    filtered,
    /// Changes that were not sent because a later change of the same flow, or its end, replaced them.
    conflated,
    /// Flows added to the shard, by events and resyncs.
    flows_created,
    /// Changes of flows in the shard, by events and resyncs.
    flows_updated,
    /// Flows removed from the shard because of their DESTROY event.
    flows_destroyed,
    /// Flows refused because the shard is full.
    flows_refused,
    /// Shards that are full now: they have refused flows and have had no room since.
    full,
    /// Bytes of memory used for flows now.
    cache_bytes,
    /// Bytes of socket buffer for events now, as the kernel granted them.
    buffer_bytes,
    /// Resyncs requested because of a loss: events lost or malformed, or flows refused.
    resyncs_requested,
    /// Workers whose flows may differ from the kernel's now: a resync is needed and not complete.
    resync_pending,
    /// Resyncs completed.
    resyncs,
    /// Flows that a resync found in the kernel and not in the shard. Not in the status document.
    resync_created,
    /// Flows that a resync did not confirm and therefore purged.
    purged,
    /// Processor time of receiving events, waking up included, in nanoseconds; 0 unless the engine is metered.
    /// Not in the status document.
    receive_cpu_ns,
    /// Processor time of parsing events, in nanoseconds; 0 unless the engine is metered. Not in the status document.
    parse_cpu_ns,
    /// Processor time of applying parsed events to the shard, in nanoseconds; 0 unless the engine is metered.
    /// Not in the status document.
    cache_cpu_ns,
    /// Processor time of encoding changes into batches for peers, in nanoseconds; 0 unless the engine is metered.
    /// Not in the status document.
    delta_cpu_ns,
}

impl Counts {
    /// The number of flow events of all three kinds.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events_new + self.events_update + self.events_destroy
    }
}
