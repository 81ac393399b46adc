//! Every bound of the engine, and how it was derived.
//!
//! Bounds that depend on each other are checked at compile time, at the end of this file. A change that breaks such a
//! relation does not build.

use std::time::Duration;

use ctflow_parser::request::REQUEST_BYTES;

/// Bytes of socket buffer that one conntrack event uses: what the kernel charges for the packet buffer (a 1 KiB data
/// block and 256 bytes of bookkeeping), whatever the message's own 100 to 300 bytes. Measured on Linux 6.18, x86-64.
pub const EVENT_BUFFER_BYTES: usize = 1_280;

/// The least bytes that the kernel charges for a packet buffer: its bookkeeping (`struct sk_buff` and
/// `skb_shared_info`) without data.
pub(crate) const EVENT_BUFFER_BYTES_MIN: u32 = 512;

/// Bytes of one receive buffer. Events usually have 100 to 300 bytes. Labels, a helper, a security context, counters
/// and sequence adjustment add some hundreds. 8 KiB leave room for what later kernels may add. Longer events are
/// dropped and counted.
pub const DATAGRAM_BYTES: usize = 8 * 1_024;

/// Distance between the starts of two receive buffers, in bytes: a buffer and five cache lines, as many as an event
/// uses. At a power of two the events of a batch would all fall into the same few sets of the processor's caches and
/// evict each other.
pub(crate) const DATAGRAM_STRIDE: usize = DATAGRAM_BYTES + 5 * 64;

/// Buffers that one io_uring back end provides to the kernel; the kernel requires a power of two. The kernel can fill
/// so many, 1 MiB, before the reader recycles them. From 64 to 1,024 buffers the cost of an event differs by no more
/// than the measurement's noise, so the memory decides.
pub(crate) const RING_BUFFERS: u16 = 128;

/// Completions that the ring holds: one for every buffer, and in addition one end of the receive and one of each watch.
pub(crate) const RING_COMPLETIONS: u32 = 2 * RING_BUFFERS as u32;

/// Requests that wait to be submitted: the receive and each watched descriptor once, rounded up to a power of two.
pub(crate) const RING_SUBMISSIONS: u32 = 16;

/// Datagrams that are read together, by one `recvmmsg` call or as completions, and passed to the sink together: 520 KiB
/// of buffers. A batch of twice as many makes an event no cheaper.
pub const RECEIVE_BATCH: usize = 64;

/// Datagrams after which a receive call returns even if more are queued, so that the caller gets to its other work:
/// about 4 ms at 1 µs an event.
pub const DATAGRAMS_PER_RECEIVE: usize = 4_096;

/// Descriptors besides the socket that can end a wait: shutdown, commands, standard output, signals, a timer, and a few
/// in reserve.
pub const INTERRUPTS: usize = 8;

/// Socket buffer that is requested by default, in bytes. The kernel doubles it: 13,107 events, which is 130 ms of
/// 100,000 events a second.
pub const SOCKET_BUFFER_BYTES: usize = 8 * 1_024 * 1_024;

/// Largest socket buffer that is requested by default as it grows, in bytes. It bridges a stall of 200 ms (a worker
/// that waits for its core) at 1,000,000 events a second: rate × stall × 1,280 / 2 = 128 MB.
pub(crate) const SOCKET_BUFFER_BYTES_CEILING: usize = 128 * 1_024 * 1_024;

/// Largest socket buffer that can be requested, in bytes: the kernel doubles it into a signed 32-bit number.
pub(crate) const SOCKET_BUFFER_BYTES_MAX: usize = 1_024 * 1_024 * 1_024 - 1;

/// The longest that events pile up before a wake-up, and so the most that pacing adds to an event's latency. At a
/// millisecond the wake-up's 5 µs are half a percent. A longer wait saves nothing measurable.
pub const WAIT_MAX: Duration = Duration::from_millis(1);

/// The shortest wait that is requested: the kernel's own timer slack. Below it the reader wakes with the next event.
pub(crate) const WAIT_MIN: Duration = Duration::from_micros(50);

/// Events within [`WAIT_MAX`] from which it pays to let them pile up. Below it at most 8,000 wake-ups a second are
/// saved, some 4 % of a core, and low latency is worth more.
pub(crate) const BUSY_EVENTS: usize = 8;

/// Events may pile up to one in so many parts of the socket buffer. The rest is for a stall of the reader.
pub(crate) const PILE_UP_FRACTION: usize = 4;

/// Layer-4 protocols that a kernel-side filter can name. Only nine have a tracker of their own.
pub const FILTER_PROTOCOLS: usize = 32;

/// Netlink port ids whose own changes can be filtered out. A few sockets of this process commit, and each costs one
/// comparison in the packet path.
pub const FILTER_PORT_IDS: usize = 16;

/// Workers that can share the events. Each socket costs the packet path 3 to 5 %.
pub const WORKERS: u32 = 64;

/// Instructions of the longest steering program: four for each port id or protocol, and under a hundred for the rest.
pub(crate) const STEER_INSTRUCTIONS: usize = 4 * (FILTER_PROTOCOLS + FILTER_PORT_IDS) + 100;

/// Most workers by default: a quarter of the cores, up to this. Each further socket costs the packet path 3 to 5 %.
pub const WORKERS_DEFAULT_MAX: u32 = 8;

/// Buckets of a shard's table, for each address family. With a million flows in a shard, a bucket indexes 4,000 of them,
/// and its growth stops the worker for a few hundred microseconds at most.
pub(crate) const BUCKETS_PER_TABLE: usize = 256;

/// Records in one chunk of a slab: 64 KiB of IPv4 flows. It is few enough to populate at once, and enough that a
/// million flows are a thousand chunks.
pub(crate) const SLAB_CHUNK_RECORDS: usize = 1_024;

/// Flows of each address family that a shard holds by default: 16 times the kernel's default table of 262,144. A shard
/// uses 260 MB when it is full.
pub const FLOWS_PER_SHARD: u32 = 4_194_304;

/// Flows of each address family whose change waits to be sent to replicas. At 100,000 events a second they are sent
/// within milliseconds, so the bound is a replication stage that stands still for ten seconds. Past it, their buckets
/// are sent whole.
pub(crate) const LEDGER_DIRTY_MAX: usize = 1_048_576;

/// Flows that wait for their least age, for each least age that is configured: 1,000,000 flows a second for a second.
/// Past it a flow is sent at once. 16 MB when full.
pub(crate) const LEDGER_YOUNG_MAX: usize = 1_048_576;

/// The longest that changes wait to be sent together where all flows need a least age, in milliseconds. A takeover
/// loses no more than that in addition, and at 100,000 events a second a batch is full by then.
pub(crate) const BATCH_DELAY_MS_MAX: u32 = 10;

/// Ends of flows that wait to be sent, 40 bytes each. Past it their buckets are sent whole.
pub(crate) const LEDGER_ENDS_MAX: usize = 262_144;

/// Batches that wait for the replication stage before a shard is drained no further: 350 KB. Flows that change
/// meanwhile are sent later, in their newest state.
pub(crate) const OUTBOX_BATCHES: usize = 256;

/// Batches in the channel from a worker to the replication stage: 90 KB a worker, a millisecond at 100,000 events a
/// second.
pub(crate) const STAGE_BATCHES: usize = 64;

/// Requests in a worker's channel. When it is full, the requester has to wait.
pub(crate) const REQUESTS_PER_WORKER: usize = 8;

/// Requests that a worker answers between two batches of events. The longest is a bucket: a millisecond with four
/// million flows.
pub(crate) const REQUESTS_PER_ROUND: usize = 1;

/// The longest that a requester waits for a worker's answer. A round of a worker takes milliseconds; one that takes a
/// second is stuck.
pub(crate) const WORKER_ANSWER_MAX: Duration = Duration::from_secs(1);

/// Flows that hot mode injects into the kernel together. A worker compares so many with its shard in some ten
/// microseconds, and the kernel creates them in two milliseconds.
pub(crate) const INJECT_FLOWS: usize = 512;

/// How long two nodes may both be primary before it is reported as an error. A role change reaches them one after the
/// other, and VRRP's next advertisement is a second away.
pub(crate) const SPLIT_BRAIN_GRACE: Duration = Duration::from_secs(5);

/// Interval at which hot mode checks whether the peers are live whose flows this kernel holds.
pub(crate) const HOT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which hot mode confirms all flows that it holds in the kernel. A flow that is not confirmed for 11 days
/// has so little time left that it no longer counts as held.
pub(crate) const HOT_CONFIRM_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

/// Seconds by which the kernel's count of a timeout may differ from this process's.
pub(crate) const HOT_SLACK_S: u64 = 2;

/// Delay before hot mode injects flows again into a kernel that refused all requests.
pub(crate) const HOT_RETRY: Duration = Duration::from_secs(1);

/// Buckets of replicas that a commit reads ahead of the kernel: one that is being encoded, and one ready.
pub(crate) const COMMIT_BUCKETS_AHEAD: usize = 2;

/// How long a client waits for a commit. One of four million flows takes some 15 s.
pub(crate) const SERVER_COMMIT_MAX: Duration = Duration::from_secs(120);

/// Bytes of flows with a master that a commit keeps until their masters are committed: 500,000 flows.
pub(crate) const COMMIT_RELATED_BYTES: usize = 64 * 1_024 * 1_024;

/// Different reasons of refusal that a commit counts apart.
pub(crate) const COMMIT_REASONS: usize = 16;

/// Expectations that a shard or a replica holds: 16 times the kernel's default bound on all expectations on a large
/// machine.
pub const EXPECTATIONS_MAX: usize = 65_536;

/// Flows destroyed during a resync's dump that a shard remembers. A dump of a million flows takes about 3 s, in which
/// some 100,000 flows of a shard end. Past the bound the resync is repeated.
pub(crate) const RESYNC_DESTROYED_MAX: usize = 262_144;

/// Bytes of the buffer that a dump is read into. The kernel composes as much as the last read had room for, up to 32
/// KiB.
pub(crate) const DUMP_BUFFER_BYTES: usize = 32 * 1_024;

/// Requests that are sent together. From 32 on, creating flows gets no faster, because only the kernel's own work is
/// left. More would need more room for the answers, should all be refused.
pub const BATCH_REQUESTS: usize = 64;

/// Queries that are sent together. The kernel answers each by a message that it charges with a page and its
/// bookkeeping, 4.7 KiB, and all of them must fit the receive buffer.
pub(crate) const BATCH_QUERIES: usize = 16;

/// Bytes of requests that are sent together: 64 of 448 bytes, where usual ones have 130 to 300, with room for one of
/// the longest. A send buffer holds 208 KiB unless `net.core.wmem_default` was changed.
pub(crate) const BATCH_BYTES: usize = 32 * 1_024;

/// Bytes of requests (150 to 300 bytes each) that a load file's checked lines are kept in until all lines are checked.
/// That is room for as many flows as the kernel's default table of 262,144. Lines past the bound are read from the file again.
pub const LOAD_STAGED_BYTES: usize = 64 * 1_024 * 1_024;

/// Receive buffer that is requested so that every request sent together can be refused, in bytes. A refusal is short,
/// and charged as any short message. The kernel doubles the size, which is the margin.
pub(crate) const BATCH_ANSWERS_BYTES: usize = BATCH_REQUESTS * EVENT_BUFFER_BYTES;

/// Parts of a dump that are read ahead of their user: 256 KiB. The user may be held up by writing to a slow disk or
/// pipe.
pub const DUMP_PARTS_AHEAD: usize = 8;

/// Bytes of dumped messages from which they are sent to their shard: about 60 flows, 30 µs of a worker's time.
pub(crate) const RESYNC_BATCH_BYTES: usize = 16 * 1_024;

/// Commands that wait for one worker. Past it, reading the dump pauses. With the batches' size: 400 KiB a worker.
pub(crate) const COMMANDS_PER_WORKER: usize = 8;

/// Commands that a worker runs between two batches of events: 60 µs at most.
pub(crate) const RESYNC_BATCHES_PER_ROUND: usize = 2;

/// Reports of one worker that can be queued: a needed resync before and after the start of a resync, the start and the
/// end of that resync, and the end of the worker.
pub(crate) const REPORTS_PER_WORKER: usize = 5;

/// Interval at which the number of flows held is compared with the kernel's: one request each time, 10 µs.
pub(crate) const RECONCILE_CHECK: Duration = Duration::from_secs(5);

/// Comparisons in a row that must find too many flows held before all shards are resynchronised. Queued events are
/// milliseconds old, not ten seconds.
pub(crate) const RECONCILE_CHECKS: u32 = 2;

/// Excess of flows held that is tolerated: one in so many of the kernel's, and at least as many. On a busy firewall the
/// two numbers are never read at the same instant.
pub(crate) const RECONCILE_SLACK: u64 = 64;

/// The longest time without a resync. A dump of a million flows costs the kernel 2 s of one core: 0.3 % of ten minutes.
pub(crate) const RECONCILE_INTERVAL: Duration = Duration::from_secs(600);

/// Parts of a dump that the control thread reads before it reads reports again: 32 × 32 KiB, about 10 ms.
pub(crate) const RESYNC_PARTS_PER_ROUND: usize = 32;

/// Delay before the control thread tries again when a worker's channel was full.
pub(crate) const RESYNC_RETRY: Duration = Duration::from_millis(1);

/// The shortest time between the end of one resync and the start of the next. Without it, a firewall that keeps losing
/// events would spend its time on dumps and lose more.
pub(crate) const RESYNC_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Slots that a sweep checks between two batches of events: about 20 µs when no flow is purged, 1 ms when all are.
pub(crate) const SWEEP_SLICE: u32 = 4_096;

/// Links that a node may have. One of them carries the deltas.
pub const LINKS: usize = 4;

/// Event tokens of a link: for its socket, and for accepted and dialled connections.
pub const LINK_TOKENS: usize = 64;

/// Connections that a TCP link accepts: twice as many as peers, for connections that are being replaced.
pub const LINK_ACCEPTED_MAX: usize = 32;

/// Peers of one link. Every batch goes to each of them, so more are better served by multicast.
pub(crate) const LINK_PEERS: usize = LINK_TOKENS - 1 - LINK_ACCEPTED_MAX;

/// Sequence-adjustment refreshes that wait: more than helpers create expectations in 20 ms, at 100,000 a second. Past
/// it the next resync brings the adjustment.
pub(crate) const SEQADJ_REFRESHES: usize = 2_048;

/// How long after its expectation a flow's sequence adjustment is refreshed. The kernel rewrites the packet right after
/// it has sent the event of the expectation, unless its core is preempted.
pub(crate) const SEQADJ_REFRESH_DELAY: Duration = Duration::from_millis(20);

/// How long a flow whose NAT address moved stays in the shard, unless a resync removes it earlier.
pub(crate) const MOVED_FLOW_KEEP: Duration = Duration::from_secs(60);

/// How long no resync starts after a flow's NAT address moved: longer than the other firewall takes to notice, and to
/// commit four million flows. Events lost meanwhile, while this firewall gives up its role, are repaired by the resync
/// after it.
pub(crate) const MOVED_RESYNC_HOLD: Duration = Duration::from_secs(30);

/// Masquerade addresses that are remembered. More addresses are a NAT pool, which is queried repeatedly.
pub(crate) const LOCAL_ADDRESSES: usize = 1_024;

/// The shortest time between two queries of an address that was not local.
pub(crate) const LOCAL_QUERY_INTERVAL: Duration = Duration::from_secs(10);

/// Services, and links, that an operator may exempt from the isolation of a backup. With those and the ports of four
/// links' peers there are at most 400 rules, which are sent to the kernel in one message.
pub const ISOLATION_ENTRIES: usize = 64;

/// Addresses besides the peers' that a link remembers, to answer senders with other addresses.
pub(crate) const LINK_ADDRESSES: usize = 64;

/// Socket buffers that are requested for each direction, in bytes: the window of 1 MiB and as much bookkeeping, and the
/// same for a second peer.
pub(crate) const LINK_BUFFER_BYTES: usize = 4 * 1_024 * 1_024;

/// Bytes that wait to be sent over a link. Past it datagrams are dropped and counted, and the peer requests them again.
pub(crate) const LINK_QUEUE_BYTES: usize = 1_024 * 1_024;

/// Datagrams that are sent by one call. Past 32 the call itself adds nothing to the cost any more.
pub(crate) const LINK_SEND_BATCH: usize = 64;

/// Datagrams that are received from a link before other work runs: 5 ms of applying them.
pub(crate) const LINK_DATAGRAMS_PER_ROUND: usize = 256;

/// The longest datagram of the protocol, in bytes: see PROTOCOL.md.
pub(crate) const LINK_DATAGRAM_MAX: usize = 65_000;

/// Interval at which the active link is chosen anew and connections are checked.
pub(crate) const LINK_TICK: Duration = Duration::from_millis(100);

/// Batches that the replication stage receives from a worker before it does other work: 2 ms of sealing and sending.
pub(crate) const STAGE_BATCHES_PER_ROUND: usize = 256;

/// Requests in the replication stage's channel. When it is full, the requester has to wait.
pub(crate) const STAGE_REQUESTS: usize = 16;

/// How long the replication stage may take to answer. A round of the stage takes milliseconds; one that takes a second
/// is stuck.
pub const STAGE_ANSWER_MAX: Duration = Duration::from_secs(1);

/// Resync requests that wait: one of each client of the control server, and as many whose clients have gone.
pub(crate) const RESYNC_REQUESTS: usize = 2 * SERVER_CLIENTS;

/// Clients that the control server serves at once. Further ones wait in the socket's queue. Operators have few
/// consoles, and monitors send few requests.
pub(crate) const SERVER_CLIENTS: usize = 16;

/// Connections that wait to be accepted.
pub(crate) const SERVER_BACKLOG: u32 = 64;

/// Bytes of a request. The longest one that exists has under a hundred.
pub(crate) const SERVER_REQUEST_BYTES: usize = 4_096;

/// How long a client may take to send its request, which a program does at once.
pub(crate) const SERVER_REQUEST_MAX: Duration = Duration::from_secs(5);

/// How long a client may leave its answer unread.
pub(crate) const SERVER_UNREAD_MAX: Duration = Duration::from_secs(60);

/// Bytes that wait for a client before more of its answer is fetched. A bucket, which is fetched whole, can come on
/// top: 1.6 MB with four million flows in each shard. So 16 clients hold some 30 MB at worst.
pub(crate) const SERVER_OUT_BYTES: usize = 256 * 1_024;

/// Delay before the control server repeats a request to a thread whose channel was full.
pub(crate) const SERVER_RETRY: Duration = Duration::from_millis(1);

/// Interval at which the control server checks whether the peers have answered, or all changes have been sent.
pub(crate) const SERVER_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a worker, the kernel or the daemon itself may take to answer a client's request. Flushing a kernel table of
/// millions of flows takes seconds.
pub(crate) const SERVER_ANSWER_MAX: Duration = Duration::from_secs(60);

/// How long peers may take to compare replicas: the protocol's own bound.
pub(crate) const SERVER_VERIFY_MAX: Duration = Duration::from_millis(ctflow_replicate::limits::VERIFY_MS);

/// The shortest time between two log lines about refused users of the control socket.
pub(crate) const SERVER_REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How long answers may still be sent while the server stops.
pub(crate) const SERVER_SHUTDOWN_MAX: Duration = Duration::from_secs(1);

/// Interval at which a client that waits for a commit is sent its progress.
pub(crate) const SERVER_PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Background jobs: threads that run a client's blocking work, one for each client.
pub(crate) const SERVER_BACKGROUND_JOBS: usize = SERVER_CLIENTS;

/// The longest payload of a frame on the control socket, in bytes. `CONTROL.md` promises it to clients, which may keep a
/// buffer of that size.
pub const PAYLOAD_BYTES_MAX: usize = 1_024 * 1_024;

/// Bytes of a chunk of messages from a worker to a watcher: some 300 events.
pub(crate) const WATCH_CHUNK_BYTES: usize = 64 * 1_024;

/// Chunks in the channel from one worker to one watcher: 4 MiB when all are full, 150 ms of 100,000 events a second.
pub(crate) const WATCH_CHUNKS: usize = 64;

/// Delay before the replication stage repeats a request to a worker whose channel was full.
pub(crate) const STAGE_RETRY: Duration = Duration::from_millis(1);

/// The shortest datagram that a link must carry, in bytes: the IPv6 minimum MTU less headers. Where the MTU is not
/// known, datagrams are no longer than this.
pub(crate) const LINK_DATAGRAM_MIN: usize = 1_280 - 48;

/// A link that has received no genuine message for so long is not healthy: five keepalives were missed.
pub const LINK_SILENCE_MAX: Duration = Duration::from_millis(2_500);

/// How long an earlier link must have been healthy again before it becomes the active one, so that a link that keeps
/// failing is not used.
pub const LINK_RECOVERY_MIN: Duration = Duration::from_secs(3);

/// Interval at which a control message is also sent over each link that is not the active one.
pub(crate) const LINK_KEEPALIVE_INTERVAL: Duration = Duration::from_millis(500);

/// The shortest time between two attempts to dial a TCP connection.
pub(crate) const LINK_DIAL_INTERVAL: Duration = Duration::from_millis(500);

/// How long a dialled connection may take to be accepted, or to acknowledge sent data, before another is dialled. The
/// kernel's own retries come at growing intervals: after a link was cut for half a minute, the next may take another
/// half.
pub(crate) const LINK_STALLED_MAX: Duration = Duration::from_secs(2);

/// How long an accepted connection may carry no genuine message. Its peer sends one twice a second, and the kernel does
/// not report a peer that has vanished.
pub const LINK_ACCEPTED_SILENCE_MAX: Duration = Duration::from_secs(10);

/// The default of `net.core.rmem_max`, in bytes.
const RMEM_MAX_DEFAULT: usize = 212_992;

/// The kernel's bound on a classic BPF program (`BPF_MAXINSNS`).
const BPF_INSTRUCTIONS: usize = 4_096;

const _: () = assert!(RING_BUFFERS.is_power_of_two() && RING_SUBMISSIONS.is_power_of_two());
const _: () = assert!(RING_SUBMISSIONS as usize > INTERRUPTS);
const _: () = assert!(RING_COMPLETIONS as usize > RING_BUFFERS as usize + 1 + INTERRUPTS);
const _: () = assert!(DATAGRAM_BYTES.is_multiple_of(64)); // no two buffers share a cache line
const _: () = assert!(DATAGRAMS_PER_RECEIVE.is_multiple_of(RECEIVE_BATCH)); // a receive call ends with a whole batch
const _: () = assert!(SOCKET_BUFFER_BYTES <= SOCKET_BUFFER_BYTES_CEILING);
const _: () = assert!(SOCKET_BUFFER_BYTES_CEILING <= SOCKET_BUFFER_BYTES_MAX);
const _: () = assert!(WAIT_MIN.as_nanos() < WAIT_MAX.as_nanos());
const _: () = assert!(BATCH_BYTES >= 2 * REQUEST_BYTES); // one more request always has room, before the batch is sent
const _: () = assert!(BATCH_ANSWERS_BYTES <= RMEM_MAX_DEFAULT); // every kernel grants so much
const _: () = assert!(BATCH_QUERIES * 4_800 <= BATCH_ANSWERS_BYTES);
const _: () = assert!(STEER_INSTRUCTIONS <= BPF_INSTRUCTIONS);
// The events that may pile up must fit their share of the default buffer many times over, or pacing would always be cut
// short.
const _: () = assert!(BUSY_EVENTS * PILE_UP_FRACTION * EVENT_BUFFER_BYTES < SOCKET_BUFFER_BYTES);
// A chunk has room for any message, and with one message too many it still fits a frame.
const _: () = assert!(DATAGRAM_BYTES <= WATCH_CHUNK_BYTES && WATCH_CHUNK_BYTES + DATAGRAM_BYTES <= PAYLOAD_BYTES_MAX);
// A client that waits for peers waits longer than the stage may take to report their progress.
const _: () = assert!(STAGE_ANSWER_MAX.as_millis() < SERVER_VERIFY_MAX.as_millis());
