//! What the workers count. Each counts for itself and publishes after every batch; reading adds them up.
//!
//! A worker keeps plain numbers ([`Counts`]) and stores them into its own cache lines (`SharedCounters`) once a batch, so
//! that counting costs an addition an event and readers cost the event path nothing.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// What one worker has counted since it started, or all of them together.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        /// A worker's counts where others can read them, alone on their cache lines.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct SharedCounters {
            $($name: AtomicU64,)+
        }

        impl SharedCounters {
            /// Replaces what was published before.
            pub(crate) fn store(&self, counts: &Counts) {
                $(self.$name.store(counts.$name, Ordering::Relaxed);)+
            }

            /// What was published last; a count may be one batch ahead of its neighbour.
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
    /// Events of flows that began.
    events_new,
    /// Events of flows that changed.
    events_update,
    /// Events of flows that ended.
    events_destroy,
    /// Events of expectations.
    events_expect,
    /// Of the ended flows, those that moved away with their address, and are held for a while.
    moved,
    /// Bytes of all messages.
    bytes,
    /// Times the worker took events.
    rounds,
    /// Events that did not fit the socket buffer, or a receive buffer.
    events_lost,
    /// Messages that do not parse, or name no flow.
    malformed,
    /// Flows held now.
    flows,
    /// Expectations held now.
    expectations,
    /// Expectations refused because there were too many.
    expectations_refused,
    /// Changes that no batch could hold.
    unencodable,
    /// Changes of flows that are not to be replicated.
    filtered,
    /// Changes that were never told, since a later one of the same flow was, or its end.
    conflated,
    /// Changes of the shard, by events and resyncs: flows that came to be in it.
    flows_created,
    /// Flows in it that changed.
    flows_updated,
    /// Flows that left it because the kernel said so.
    flows_destroyed,
    /// Flows refused because the shard is full.
    flows_refused,
    /// Shards that are full now: they refused flows and have had no room since.
    full,
    /// Bytes of memory that hold flows now.
    cache_bytes,
    /// Bytes of socket buffer that events have now.
    buffer_bytes,
    /// Resyncs that a loss asked for: of events, or of flows that were refused or not understood.
    resyncs_requested,
    /// Workers whose flows are not known to be the kernel's now: a resync is wanted and not complete.
    resync_pending,
    /// Resyncs completed.
    resyncs,
    /// Flows that a resync found in the kernel and not here.
    resync_created,
    /// Flows that a resync did not confirm.
    purged,
    /// Where it is measured: nanoseconds on a processor that receiving took, waking included.
    receive_cpu_ns,
    /// Likewise taking events apart.
    parse_cpu_ns,
    /// Likewise taking them into the shard.
    cache_cpu_ns,
    /// Likewise making batches for replicas of them.
    delta_cpu_ns,
}

impl Counts {
    /// Events of flows, of all three kinds.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events_new + self.events_update + self.events_destroy
    }
}
