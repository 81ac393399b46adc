//! Every bound of the event path, and how it was derived.
//!
//! Bounds that depend on each other are checked against each other at compile time, at the end of this file: changing one
//! of them either still adds up or does not build.

use std::time::Duration;

use ctflow_parser::request::REQUEST_BYTES;

use crate::server::frame::PAYLOAD_BYTES_MAX;

/// Bytes of socket buffer that one conntrack event takes: what the kernel charges for the packet buffer (a 1 KiB data
/// block and 256 bytes of bookkeeping), whatever the message's own 100 to 300 bytes. Measured on Linux 6.18, x86-64.
pub const EVENT_BUFFER_BYTES: usize = 1_280;

/// The least that any packet buffer is charged for: its bookkeeping (`struct sk_buff` and `skb_shared_info`), without data.
pub const EVENT_BUFFER_BYTES_MIN: u32 = 512;

/// Bytes of one receive buffer. Events are 100 to 300 bytes as a rule; labels, a helper, a security context, counters and
/// sequence adjustment add some hundreds. 8 KiB leave room for what kernels to come may add, and what is larger all the
/// same is counted.
pub const DATAGRAM_BYTES: usize = 8 * 1_024;

/// From one receive buffer to the next: five cache lines more than a buffer, which is what an event takes. At a power of two
/// the events of a batch would all fall into the same few sets of the processor's caches and push each other out.
pub const DATAGRAM_STRIDE: usize = DATAGRAM_BYTES + 5 * 64;

/// Buffers that one io_uring back end provides to the kernel; a power of two, as the kernel asks. It is what the kernel can
/// fill before this side gives buffers back: 1 MiB. From 64 to 1,024 of them, the cost of an event does not differ by more
/// than the measurement's own noise, so the memory decides.
pub const RING_BUFFERS: u16 = 128;

/// Completions the ring holds: every buffer filled, and besides them one ending of the receive and one of each watch.
pub const RING_COMPLETIONS: u32 = 2 * RING_BUFFERS as u32;

/// Requests waiting to be submitted: the receive and each watched descriptor once, rounded up to a power of two.
pub const RING_SUBMISSIONS: u32 = 16;

/// Datagrams that are taken together, by one `recvmmsg` call or as completions, and handed on together: 520 KiB of buffers.
/// Twice as many make an event no cheaper.
pub const RECEIVE_BATCH: usize = 64;

/// Datagrams after which one receive call returns even if more are queued, so that the caller gets to its other work:
/// about 4 ms at 1 µs an event.
pub const DATAGRAMS_PER_RECEIVE: usize = 4_096;

/// Descriptors besides the socket that can wake a receive: shutdown, commands, standard output, signals, a timer, and
/// as many again.
pub const INTERRUPTS: usize = 8;

/// Socket buffer asked for when nothing else is said, in bytes. The kernel doubles it: 13,107 events, which is 130 ms of
/// 100,000 events a second.
pub const SOCKET_BUFFER_BYTES: usize = 8 * 1_024 * 1_024;

/// Where growing a socket buffer ends when nothing else is said, in bytes asked. Longest stall to ride out: 200 ms
/// (a worker waiting for its core) at 1,000,000 events a second, which is rate × stall × 1,280 / 2 = 128 MB.
pub const SOCKET_BUFFER_BYTES_CEILING: usize = 128 * 1_024 * 1_024;

/// The most a socket buffer can be asked to be, in bytes: the kernel doubles it into a signed 32-bit number.
pub const SOCKET_BUFFER_BYTES_MAX: usize = 1_024 * 1_024 * 1_024 - 1;

/// The longest that events are left to pile up before a wake-up: the most that pacing may add to an event's latency.
/// At a millisecond the wake-up's 5 µs are half a percent; longer buys nothing measurable.
pub const WAIT_MAX: Duration = Duration::from_millis(1);

/// The shortest wait worth asking for: the kernel's own timer slack. Below it the reader wakes with the next event.
pub const WAIT_MIN: Duration = Duration::from_micros(50);

/// Events within [`WAIT_MAX`] from which it pays to let them pile up. Below it at most 8,000 wake-ups a second are
/// saved, some 4 % of a core, and latency is worth more.
pub const BUSY_EVENTS: usize = 8;

/// Events may pile up to this fraction (one in so many) of the socket buffer; the rest is for a stall of the reader.
pub const PILE_UP_FRACTION: usize = 4;

/// Layer-4 protocols a kernel-side filter can name. All there are with a tracker of their own is nine.
pub const FILTER_PROTOCOLS: usize = 32;

/// Port ids whose own changes can be filtered: a few sockets of this process commit, and each costs one comparison
/// in the packet path.
pub const FILTER_PORT_IDS: usize = 16;

/// Workers that can share the events between them. Each socket costs the packet path 3 to 5 %.
pub const WORKERS: u32 = 64;

/// Instructions of the longest steering program: four a port id or protocol, and under a hundred for the rest.
pub const STEER_INSTRUCTIONS: usize = 4 * (FILTER_PROTOCOLS + FILTER_PORT_IDS) + 100;

/// Workers when nothing else is said, at most: a quarter of the cores up to this. Each further socket costs the packet path
/// 3 to 5 %.
pub const WORKERS_DEFAULT_MAX: u32 = 8;

/// Small tables in a shard, for each family. With a million flows in it a table indexes 4,000 of them, and its growth
/// stops the worker for a few hundred microseconds at most.
pub const TABLES_PER_SHARD: usize = 256;

/// Records in one chunk of a slab: 56 KiB of IPv4 flows, few enough to touch at once and many enough that a million
/// flows are a thousand chunks.
pub const SLAB_CHUNK_RECORDS: usize = 1_024;

/// Flows of each family that a shard holds when nothing else is said: 16 times the kernel's default table of 262,144, a
/// shard; 260 MB when all of it is in use.
pub const FLOWS_PER_SHARD: u32 = 4_194_304;

/// Flows of each family whose change waits to be told to replicas. At 100,000 events a second they are told within
/// milliseconds, so this is a replication stage that stands still for ten seconds; past it their buckets are told whole.
pub const LEDGER_DIRTY_MAX: usize = 1_048_576;

/// Flows that wait for their least age, for each least age there is: 1,000,000 flows a second for a second. Past it a flow
/// is told at once. 16 MB when full.
pub const LEDGER_YOUNG_MAX: usize = 1_048_576;

/// The longest that changes wait to be told together where all flows must be of some age, in milliseconds: a takeover misses
/// no more than that besides, and at 100,000 events a second a batch is full by then.
pub const BATCH_DELAY_MS_MAX: u32 = 10;

/// Ended flows that wait to be told, 40 bytes each; past it their buckets are told whole.
pub const LEDGER_ENDS_MAX: usize = 262_144;

/// Batches that wait for the replication stage to take them before a shard tells no more: 350 KB. What changes meanwhile is
/// told later, as it is then.
pub const OUTBOX_BATCHES: usize = 256;

/// Batches on their way from a worker to the replication stage: 90 KB a worker, a millisecond at 100,000 events a second.
pub const STAGE_BATCHES: usize = 64;

/// What a worker can be asked for before whoever asks has to wait.
pub const REQUESTS_PER_WORKER: usize = 8;

/// What a worker does of it between two batches of events: a bucket each at most, a millisecond with four million flows.
pub const REQUESTS_PER_ROUND: usize = 1;

/// How long a worker may take to answer whoever can wait for it. A round of it is milliseconds; one that takes a second is
/// stuck.
pub const WORKER_ANSWER_MAX: Duration = Duration::from_secs(1);

/// Flows put into the kernel together: what a worker is asked of them at once takes it some ten microseconds, and they take
/// the kernel two milliseconds.
pub const INJECT_FLOWS: usize = 512;

/// How long two nodes may be primary together before that is said to be wrong: a change of roles reaches them one after
/// the other, and VRRP's next advertisement is a second away.
pub const SPLIT_BRAIN_GRACE: Duration = Duration::from_secs(5);

/// How often it is looked whether peers are live whose flows are held in this kernel.
pub const HOT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often everything that is held is confirmed: well before a flow that never changes has so little time left that it
/// does not count as held, after 11 days.
pub const HOT_CONFIRM_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

/// Seconds by which the kernel's count of a timeout may differ from this process's.
pub const HOT_SLACK_S: u64 = 2;

/// How soon it is tried again to put replicas into a kernel that refused all requests.
pub const HOT_RETRY: Duration = Duration::from_secs(1);

/// Buckets of replicas that a commit has read ahead of the kernel: one that is being encoded, and one ready.
pub const COMMIT_BUCKETS_AHEAD: usize = 2;

/// How long a client waits for a commit: one of four million flows takes some 15 s.
pub const SERVER_COMMIT_MAX: Duration = Duration::from_secs(120);

/// Bytes of flows with a master that a commit keeps until the masters are there: 500,000 of them.
pub const COMMIT_RELATED_BYTES: usize = 64 * 1_024 * 1_024;

/// Different reasons of refusal that a commit tells apart.
pub const COMMIT_REASONS: usize = 16;

/// Expectations that a shard or a replica holds: 16 times the kernel's default bound for all of them on a large machine.
pub const EXPECTATIONS_MAX: usize = 65_536;

/// Flows destroyed during a resync's dump that are kept in mind. A dump of a million flows takes about 3 s, in which a
/// shard sees some 100,000 flows end; past the bound the resync is done again.
pub const RESYNC_DESTROYED_MAX: usize = 262_144;

/// Bytes of the buffer a dump is read with. The kernel composes as much as the last read had room for, up to 32 KiB.
pub const DUMP_BUFFER_BYTES: usize = 32 * 1_024;

/// Requests sent together. From 32 on, creating flows gets no faster: the kernel's own work on them is what is left. More
/// would only need more room for the answers, should all be refused.
pub const BATCH_REQUESTS: usize = 64;

/// Questions sent together: each is answered by a message that the kernel charges a page and its bookkeeping for, 4.7 KiB,
/// and all of them must fit the receive buffer.
pub const BATCH_QUERIES: usize = 16;

/// Bytes of requests sent together: 64 of 448 bytes, where the usual ones have 130 to 300, and room for one of the longest
/// there are. A send buffer holds 208 KiB unless somebody changed `net.core.wmem_default`.
pub const BATCH_BYTES: usize = 32 * 1_024;

/// Bytes that a load file's checked lines are kept in, as requests of 150 to 300 bytes, until all lines are checked: what
/// fills the kernel's default table of 262,144 flows. Lines past it are read from the file again.
pub const LOAD_PREPARED_BYTES: usize = 64 * 1_024 * 1_024;

/// Receive buffer asked for so that every request sent together can be refused, in bytes. A refusal is short, and charged
/// as any short message. The kernel doubles it, which is the margin.
pub const BATCH_ANSWERS_BYTES: usize = BATCH_REQUESTS * EVENT_BUFFER_BYTES;

/// Parts of a dump that are read ahead of their user: 256 KiB, which a write to a slow disk or pipe may hold up.
pub const DUMP_PARTS_AHEAD: usize = 8;

/// Bytes of dumped messages from which they are sent to their shard: about 60 flows, 30 µs of a worker's time.
pub const RESYNC_BATCH_BYTES: usize = 16 * 1_024;

/// Commands that wait for one worker; past that the dump waits. With the batches' size: 400 KiB a worker.
pub const COMMANDS_PER_WORKER: usize = 8;

/// Commands that a worker carries out between two batches of events: 60 µs at most.
pub const RESYNC_BATCHES_PER_ROUND: usize = 2;

/// Reports of one worker that can be under way: a wish before and one after a resync began, the beginning and the end of
/// that resync, and the end of the worker.
pub const REPORTS_PER_WORKER: usize = 5;

/// How often the number of flows held is compared with the kernel's: one request each time, 10 µs.
pub const RECONCILE_CHECK: Duration = Duration::from_secs(5);

/// Comparisons in a row that must find too many flows held before everything is resynchronised: events on their way are
/// milliseconds old, not ten seconds.
pub const RECONCILE_CHECKS: u32 = 2;

/// How many flows too many are none: one in so many of the kernel's, and at least as many. On a busy firewall the two
/// counts are never taken at the same instant.
pub const RECONCILE_SLACK: u64 = 64;

/// The longest without a resync. A dump of a million flows takes the kernel 2 s of one core: 0.3 % of ten minutes.
pub const RECONCILE_INTERVAL: Duration = Duration::from_secs(600);

/// Parts of a dump that the control thread reads before it looks for reports again: 32 × 32 KiB, about 10 ms.
pub const RESYNC_PARTS_PER_ROUND: usize = 32;

/// How soon the control thread tries again when a worker's channel was full.
pub const RESYNC_RETRY: Duration = Duration::from_millis(1);

/// The shortest time between the end of one resync and the beginning of the next. A firewall that loses events all the
/// time would otherwise spend its time on dumps, and lose more.
pub const RESYNC_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Places that a sweep looks at between two batches of events: about 20 µs when nothing is purged, 1 ms when all is.
pub const SWEEP_SLICE: u32 = 4_096;

/// Links that a node may have, of which one carries the deltas.
pub const LINKS: usize = 4;

/// Event tokens of a link: its socket, connections that were accepted and dialled.
pub const LINK_TOKENS: usize = 64;

/// Connections that a TCP link accepts: twice as many as peers, for those that are being replaced.
pub const LINK_ACCEPTED_MAX: usize = 32;

/// Peers of one link. Every batch goes to each of them, so many are better served by multicast.
pub const LINK_PEERS: usize = LINK_TOKENS - 1 - LINK_ACCEPTED_MAX;

/// Flows that wait to be told anew: more than helpers expect anything of in 20 ms, at 100,000 expectations a second. What
/// does not fit is told by the next resync.
pub const SEQADJ_REFRESHES: usize = 2_048;

/// How long after its expectation a flow is told anew. The kernel rewrites the packet right after it has
/// told of the expectation, unless something takes its core from it.
pub const SEQADJ_REFRESH_DELAY: Duration = Duration::from_millis(20);

/// How long a flow that has moved with its address stays in the shard, unless a resync comes before.
pub const MOVED_FLOW_KEEP: Duration = Duration::from_secs(60);

/// How long no resync comes before: longer than the other firewall takes to notice, and to commit four million flows. What is
/// lost meanwhile, as a firewall steps back, is found afterwards.
pub const MOVED_RESYNC_HOLD: Duration = Duration::from_secs(30);

/// Addresses that flows are hidden behind and that are remembered: more are a pool, which is asked for again and again.
pub const LOCAL_ADDRESSES: usize = 1_024;

/// How often at most an address is asked for that was not local.
pub const LOCAL_QUERY_INTERVAL: Duration = Duration::from_secs(10);

/// Services, and links, that an operator may except from the isolation of a backup. With those and the ports of four links'
/// peers there are at most 400 rules, which go to the kernel in one message.
pub const ISOLATION_ENTRIES: usize = 64;

/// Addresses besides the peers' that a link remembers, to answer those who write from others.
pub const LINK_ADDRESSES: usize = 64;

/// Socket buffers asked for, in bytes, each way: the window of 1 MiB and as much bookkeeping, with room for a second peer's.
pub const LINK_BUFFER_BYTES: usize = 4 * 1_024 * 1_024;

/// Bytes that wait to be sent over a link; past it datagrams are dropped, counted, and asked for again by the peer.
pub const LINK_QUEUE_BYTES: usize = 1_024 * 1_024;

/// Datagrams sent with one call. Past 32 the call itself is no part of the cost any more.
pub const LINK_SEND_BATCH: usize = 64;

/// Datagrams received from a link before other work gets its turn: 5 ms of applying them.
pub const LINK_DATAGRAMS_PER_ROUND: usize = 256;

/// The longest datagram there is, in bytes: see PROTOCOL.md.
pub const LINK_DATAGRAM_MAX: usize = 65_000;

/// How often the active link is chosen anew, and connections looked after.
pub const LINK_TICK: Duration = Duration::from_millis(100);

/// Batches that the replication stage takes from a worker before it looks at other work: 2 ms of sealing and sending.
pub const STAGE_BATCHES_PER_ROUND: usize = 256;

/// What can be wanted of the replication stage before whoever wants has to wait.
pub const STAGE_REQUESTS: usize = 16;

/// How long the replication stage may take to answer. A turn of it is milliseconds; one that takes a second is stuck.
pub const STAGE_ANSWER_MAX: Duration = Duration::from_secs(1);

/// Wishes for a resync that wait: one of each client of the control server, and as many whose clients have gone.
pub const RESYNC_REQUESTS: usize = 2 * SERVER_CLIENTS;

/// Clients of the control server that are served at once; the next ones wait in the socket's queue. Operators have few
/// consoles, and monitors ask now and then.
pub const SERVER_CLIENTS: usize = 16;

/// Connections that wait to be served.
pub const SERVER_BACKLOG: u32 = 64;

/// Bytes of a request; the longest one there is takes under a hundred.
pub const SERVER_REQUEST_BYTES: usize = 4_096;

/// How long a client may take to ask: it has nothing to think about.
pub const SERVER_REQUEST_MAX: Duration = Duration::from_secs(5);

/// How long a client may not read what is there for it.
pub const SERVER_UNREAD_MAX: Duration = Duration::from_secs(60);

/// Bytes that wait for a client before more of its answer is fetched. With a bucket on top, which is fetched whole, and is
/// 1.6 MB with four million flows in each shard, 16 clients hold some 30 MB at worst.
pub const SERVER_OUT_BYTES: usize = 256 * 1_024;

/// How soon the control server asks again whose channel was full.
pub const SERVER_RETRY: Duration = Duration::from_millis(1);

/// How soon it looks again whether the peers have answered, or all is on its way.
pub const SERVER_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a worker, the kernel or the daemon itself may take to answer what a client waits for. Emptying the kernel's
/// table of millions of flows takes seconds.
pub const SERVER_ANSWER_MAX: Duration = Duration::from_secs(60);

/// How long peers may take to compare: the protocol's own bound.
pub const SERVER_VERIFY_MAX: Duration = Duration::from_millis(ctflow_replicate::limits::VERIFY_MS);

/// How often it is said in the log that a stranger was refused.
pub const SERVER_REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How long answers may still go out while the server stops.
pub const SERVER_SHUTDOWN_MAX: Duration = Duration::from_secs(1);

/// How often a client that waits for a commit is told how far it is.
pub const SERVER_PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Threads that do for clients what blocks, each for one client.
pub const SERVER_BACKGROUND_JOBS: usize = SERVER_CLIENTS;

/// Bytes of a chunk of messages on its way from a worker to a watcher: some 300 events.
pub const WATCH_CHUNK_BYTES: usize = 64 * 1_024;

/// Chunks on their way from one worker to one watcher: 4 MiB when all are full, 150 ms of 100,000 events a second.
pub const WATCH_CHUNKS: usize = 64;

/// How soon the replication stage asks a worker again whose channel was full.
pub const STAGE_RETRY: Duration = Duration::from_millis(1);

/// The shortest datagram that a link must carry: the IPv6 minimum MTU less headers. Where the MTU is not known it is what is sent.
pub const LINK_DATAGRAM_MIN: usize = 1_280 - 48;

/// A link over which nothing genuine came for so long is not healthy: five witnesses missed.
pub const LINK_SILENCE_MAX: Duration = Duration::from_millis(2_500);

/// How long an earlier link must have been healthy again to become the active one, so that one that comes and goes is left alone.
pub const LINK_RECOVERY_MIN: Duration = Duration::from_secs(3);

/// How often a control message goes over a link that is not the active one.
pub const LINK_KEEPALIVE_INTERVAL: Duration = Duration::from_millis(500);

/// How often a TCP connection is dialled.
pub const LINK_DIAL_INTERVAL: Duration = Duration::from_millis(500);

/// How long a dialled connection may not be accepted, or not acknowledge what it was sent, before another is dialled. The
/// kernel's own retries come ever later: after a link was cut for half a minute, another half may pass before the next.
pub const LINK_STALLED_MAX: Duration = Duration::from_secs(2);

/// How long an accepted connection may bring nothing genuine: its peer says something twice a second, and one that has gone
/// without a word is not told by the kernel.
pub const LINK_ACCEPTED_SILENCE_MAX: Duration = Duration::from_secs(10);

/// What `net.core.rmem_max` is unless somebody changed it, in bytes.
const RMEM_MAX_DEFAULT: usize = 212_992;

/// The kernel's bound on a classic BPF program (`BPF_MAXINSNS`).
const BPF_INSTRUCTIONS: usize = 4_096;

const _: () = assert!(RING_BUFFERS.is_power_of_two() && RING_SUBMISSIONS.is_power_of_two());
const _: () = assert!(RING_SUBMISSIONS as usize > INTERRUPTS);
const _: () = assert!(RING_COMPLETIONS as usize > RING_BUFFERS as usize + 1 + INTERRUPTS);
const _: () = assert!(DATAGRAM_BYTES.is_multiple_of(64)); // no two buffers share a cache line
const _: () = assert!(DATAGRAMS_PER_RECEIVE.is_multiple_of(RECEIVE_BATCH)); // a receive's bound ends a batch
const _: () = assert!(SOCKET_BUFFER_BYTES <= SOCKET_BUFFER_BYTES_CEILING);
const _: () = assert!(SOCKET_BUFFER_BYTES_CEILING <= SOCKET_BUFFER_BYTES_MAX);
const _: () = assert!(WAIT_MIN.as_nanos() < WAIT_MAX.as_nanos());
const _: () = assert!(BATCH_BYTES >= 2 * REQUEST_BYTES); // the next request always has room, sent or not
const _: () = assert!(BATCH_ANSWERS_BYTES <= RMEM_MAX_DEFAULT); // what any kernel grants
const _: () = assert!(BATCH_QUERIES * 4_800 <= BATCH_ANSWERS_BYTES);
const _: () = assert!(STEER_INSTRUCTIONS <= BPF_INSTRUCTIONS);
// What may pile up must fit the default buffer's share many times over, or pacing would always be cut short.
const _: () = assert!(BUSY_EVENTS * PILE_UP_FRACTION * EVENT_BUFFER_BYTES < SOCKET_BUFFER_BYTES);
// A chunk takes any message, and with one too many it fits a frame.
const _: () = assert!(DATAGRAM_BYTES <= WATCH_CHUNK_BYTES && WATCH_CHUNK_BYTES + DATAGRAM_BYTES <= PAYLOAD_BYTES_MAX);
// Who waits for peers waits longer than the stage may take to say how far they are.
const _: () = assert!(STAGE_ANSWER_MAX.as_millis() < SERVER_VERIFY_MAX.as_millis());
