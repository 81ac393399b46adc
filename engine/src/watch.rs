//! Watchers: those who want to see the events that a worker receives.
//!
//! ```text
//!  round ── frames ──► Watcher: open chunk ── bounded channel ──► server ──► client
//!                        full: counted, told at that place
//! ```
//!
//! A worker never waits for one. What neither the channel nor the open chunk has room for is counted, and so is what the
//! socket lost; the count travels in front of what came after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::Subject;

use crate::limits::{WATCH_CHUNK_BYTES, WATCH_CHUNKS};

/// Messages in a row.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// So many are missing before these.
    pub(crate) lost: u64,
    /// Whole netlink messages, each padded to four bytes.
    pub(crate) messages: Vec<u8>,
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct Watcher {
    subject: Subject,
    chunks: Sender<Chunk>,
    waker: Arc<mio::Waker>,
    /// That something waits for room; shared with whoever watches, and nobody else.
    starved: Arc<AtomicBool>,
    open_chunk: Chunk,
    /// Missing behind what is open.
    lost: u64,
    sent_since_wake: bool,
}

/// The other end. The first chunk is empty: from there on the worker hands on what it receives.
#[derive(Debug)]
pub(crate) struct WatchReceiver {
    pub(crate) chunks: Receiver<Chunk>,
    starved: Arc<AtomicBool>,
}

/// The two ends of a watch of `subject`; `waker` is woken when there is more to take.
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
    /// Whether somebody still watches.
    pub(crate) fn is_watched(&self) -> bool {
        Arc::strong_count(&self.starved) > 1
    }

    /// Says that it begins.
    pub(crate) fn send_start(&mut self) {
        self.try_send(Chunk::default()).unwrap_or_default();
        self.wake();
    }

    /// Takes the messages of a datagram.
    pub(crate) fn on_datagram(&mut self, frame: &[u8]) {
        for message in Messages::new(frame) {
            if let Ok(Message::Record(record)) = message
                && record.subject() == self.subject
            {
                self.push_message(record.bytes());
            }
        }
    }

    /// So many were lost behind what was seen, or among it.
    pub(crate) fn count_lost(&mut self, count: u64) {
        self.lost = self.lost.saturating_add(count);
    }

    /// Hands on what there is, and wakes whoever takes it.
    pub(crate) fn flush(&mut self) {
        while (!self.open_chunk.is_empty() || self.lost > 0) && self.try_send_open_chunk() {}
        self.wake();
    }

    fn push_message(&mut self, message: &[u8]) {
        let full = self.open_chunk.messages.len() + message.len() > WATCH_CHUNK_BYTES;
        if (full || self.lost > 0) && !self.try_send_open_chunk() {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        self.open_chunk.messages.extend_from_slice(message);
        self.open_chunk.messages.resize(self.open_chunk.messages.len().next_multiple_of(4), 0);
    }

    /// Hands on the open chunk and begins the next, where there is room; whether there was.
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

    fn try_send(&mut self, chunk: Chunk) -> Result<(), Chunk> {
        match self.chunks.try_send(chunk) {
            Ok(()) => {
                self.sent_since_wake = true;
                Ok(())
            }
            Err(TrySendError::Full(chunk)) => Err(chunk),
            Err(TrySendError::Disconnected(_)) => Ok(()), // nobody watches any more
        }
    }

    fn wake(&mut self) {
        if std::mem::take(&mut self.sent_since_wake) {
            let _ = self.waker.wake(); // fails only where the server is gone
        }
    }
}

impl WatchReceiver {
    /// Whether the worker waits for room, which there is once a chunk was taken: it has to be woken. Says so once.
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

    /// A message of the flows' subsystem.
    fn message() -> Vec<u8> {
        let mut buffer = [0; 256];
        let mut writer = Writer::new(&mut buffer);
        request::flush(&mut writer, 1, 0).unwrap();
        let mut bytes = writer.bytes().to_vec();
        bytes[4..8].copy_from_slice(&[0, 1, 0, 0]); // an event of a new flow, and no request
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
        let mut take = |watch: &WatchReceiver| {
            while let Ok(chunk) = watch.chunks.try_recv() {
                lost.extend(Some((got, chunk.lost)).filter(|(_, lost)| *lost > 0));
                got += (chunk.messages.len() / message.len()) as u64;
            }
        };
        take(&watch);
        watcher.on_datagram(&message);
        watcher.flush();
        take(&watch);
        assert_eq!((lost.as_slice(), got), (&[(sent - 10, 15)][..], sent - 10 + 1));
    }

    #[test]
    fn socket_losses_reach_the_watcher_at_the_end_of_the_round() {
        let (mut watcher, watch) = watcher();
        watcher.on_datagram(&message());
        watcher.count_lost(3);
        watcher.flush();
        let taken: Vec<_> = watch.chunks.try_iter().map(|chunk| (chunk.lost, chunk.messages.len())).collect();
        assert_eq!(taken, [(0, message().len()), (3, 0)]);
        assert!(watcher.is_watched());
        drop(watch);
        assert!(!watcher.is_watched());
    }
}
