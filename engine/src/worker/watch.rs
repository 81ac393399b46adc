//! Watchers: clients that follow the events of a worker.
//!
//! ```text
//!  round ── frames ──► Watcher: open chunk ── bounded channel ──► server ──► client
//!                        full: count the loss, report it in the next chunk
//! ```
//!
//! A worker never waits for a watcher. It counts the messages that neither the channel nor the open chunk has room for,
//! and those that the socket lost. The count precedes the messages that follow the loss.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::Subject;

use crate::limits::{WATCH_CHUNK_BYTES, WATCH_CHUNKS};

/// Consecutive messages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// The number of messages lost before these.
    pub(crate) lost: u64,
    /// Whole netlink messages, each padded to four bytes.
    pub(crate) messages: Vec<u8>,
}

/// The worker's end of a watch.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// The kind of messages that the client follows.
    subject: Subject,
    chunks: Sender<Chunk>,
    /// Wakes the server.
    waker: Arc<mio::Waker>,
    /// Whether a chunk waits for room in the channel. Only the other end shares it, so its reference count shows
    /// whether that end still exists.
    starved: Arc<AtomicBool>,
    /// The chunk that messages are appended to.
    open_chunk: Chunk,
    /// The number of messages lost after those in the open chunk.
    lost: u64,
    /// Whether a chunk was sent since the last wake of the server.
    sent_since_wake: bool,
}

/// The server's end of a watch. The first chunk is empty: the worker forwards every event that it receives after it.
#[derive(Debug)]
pub(crate) struct WatchReceiver {
    /// The chunks that the worker has sent.
    pub(crate) chunks: Receiver<Chunk>,
    starved: Arc<AtomicBool>,
}

/// Creates a watch of the messages of `subject`. `waker` is woken when chunks have been sent.
pub(crate) fn watch_channel(subject: Subject, waker: Arc<mio::Waker>) -> (Watcher, WatchReceiver) {
    let (sender, chunks) = bounded(WATCH_CHUNKS);
    let starved = Arc::<AtomicBool>::default();
    let watcher = Watcher {
        subject,
        chunks: sender,
        waker,
        starved: starved.clone(),
        open_chunk: Chunk::default(),
        lost: 0,
        sent_since_wake: false,
    };
    (watcher, WatchReceiver { chunks, starved })
}

impl Watcher {
    /// Whether the server's end still exists.
    pub(crate) fn is_watched(&self) -> bool {
        Arc::strong_count(&self.starved) > 1
    }

    /// Sends the empty chunk that marks the start of the watch.
    pub(crate) fn send_start(&mut self) {
        self.try_send(Chunk::default()).unwrap_or_default();
        self.wake();
    }

    /// Appends the messages of a datagram that the client follows.
    pub(crate) fn on_datagram(&mut self, frame: &[u8]) {
        for message in Messages::new(frame) {
            if let Ok(Message::Record(record)) = message
                && record.subject() == self.subject
            {
                self.push_message(record.bytes());
            }
        }
    }

    /// Counts `count` messages as lost: after those appended so far, or among them.
    pub(crate) fn count_lost(&mut self, count: u64) {
        self.lost = self.lost.saturating_add(count);
    }

    /// Sends the open chunk and the count of lost messages, as far as the channel has room, and wakes the server.
    pub(crate) fn flush(&mut self) {
        while (!self.open_chunk.is_empty() || self.lost > 0) && self.try_send_open_chunk() {}
        self.wake();
    }

    /// Appends a message to the open chunk, or counts it as lost when neither the chunk nor the channel has room.
    fn push_message(&mut self, message: &[u8]) {
        // After a loss a new chunk is needed, too: a chunk has its count of lost messages before its messages.
        let full = self.open_chunk.messages.len() + message.len() > WATCH_CHUNK_BYTES;
        if (full || self.lost > 0) && !self.try_send_open_chunk() {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        self.open_chunk.messages.extend_from_slice(message);
        self.open_chunk.messages.resize(self.open_chunk.messages.len().next_multiple_of(4), 0);
    }

    /// Sends the open chunk and starts the next one. Returns whether the channel had room.
    fn try_send_open_chunk(&mut self) -> bool {
        let open = std::mem::take(&mut self.open_chunk);
        if open.is_empty() {
            self.open_chunk.lost = std::mem::take(&mut self.lost);
            return true;
        }
        match self.try_send(open) {
            Ok(()) => {
                self.open_chunk.lost = std::mem::take(&mut self.lost);
                true
            }
            Err(open) => {
                self.open_chunk = open;
                self.starved.store(true, Ordering::Release);
                false
            }
        }
    }

    /// Sends a chunk, or returns it as the error when the channel is full.
    fn try_send(&mut self, chunk: Chunk) -> Result<(), Chunk> {
        match self.chunks.try_send(chunk) {
            Ok(()) => {
                self.sent_since_wake = true;
                Ok(())
            }
            Err(TrySendError::Full(chunk)) => Err(chunk),
            Err(TrySendError::Disconnected(_)) => Ok(()), // the client has gone: the chunk is dropped
        }
    }

    /// Wakes the server if a chunk was sent since the last wake.
    fn wake(&mut self) {
        if std::mem::take(&mut self.sent_since_wake) {
            let _ = self.waker.wake(); // fails only when the server has ended
        }
    }
}

impl WatchReceiver {
    /// Returns whether the worker waits for room in the channel, and resets that. Call it after a chunk was received,
    /// and wake the worker if it returns true.
    pub(crate) fn take_starved(&self) -> bool {
        self.starved.swap(false, Ordering::AcqRel)
    }
}

impl Chunk {
    fn is_empty(&self) -> bool {
        self.lost == 0 && self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use ctflow_parser::request;
    use ctflow_parser::write::Writer;

    use super::*;

    fn watcher() -> (Watcher, WatchReceiver) {
        let poll = mio::Poll::new().unwrap();
        watch_channel(Subject::Flow, Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap()))
    }

    /// An event of a flow.
    fn message() -> Vec<u8> {
        let mut buffer = [0; 256];
        let mut writer = Writer::new(&mut buffer);
        request::flush(&mut writer, 1, 0).unwrap();
        let mut bytes = writer.bytes().to_vec();
        bytes[4..8].copy_from_slice(&[0, 1, 0, 0]); // change the request into the event of a new flow
        bytes
    }

    #[test]
    fn a_slow_watcher_receives_how_many_it_missed_and_where() {
        let (mut watcher, watch) = watcher();
        watcher.send_start();
        let message = message();
        let mut sent = 0u64;
        let mut rounds = 0;
        while watcher.lost == 0 {
            watcher.on_datagram(&message);
            watcher.flush();
            (sent, rounds) = (sent + 1, rounds + 1);
            assert!(rounds < 1_000_000);
        }
        for _ in 0..9 {
            watcher.on_datagram(&message);
            sent += 1;
        }
        watcher.count_lost(5);
        let mut got = 0u64;
        let mut lost = Vec::new();
        let mut receive = |watch: &WatchReceiver| {
            while let Ok(chunk) = watch.chunks.try_recv() {
                lost.extend(Some((got, chunk.lost)).filter(|(_, lost)| *lost > 0));
                got += (chunk.messages.len() / message.len()) as u64;
            }
        };
        receive(&watch);
        watcher.on_datagram(&message);
        watcher.flush();
        receive(&watch);
        assert_eq!((lost.as_slice(), got), (&[(sent - 10, 15)][..], sent - 10 + 1));
    }

    #[test]
    fn socket_losses_reach_the_watcher_at_the_end_of_the_round() {
        let (mut watcher, watch) = watcher();
        watcher.on_datagram(&message());
        watcher.count_lost(3);
        watcher.flush();
        let received: Vec<_> = watch.chunks.try_iter().map(|chunk| (chunk.lost, chunk.messages.len())).collect();
        assert_eq!(received, [(0, message().len()), (3, 0)]);
        assert!(watcher.is_watched());
        drop(watch);
        assert!(!watcher.is_watched());
    }
}
