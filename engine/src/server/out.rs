//! Frames on their way to a client.

use std::io::{self, Write};

use serde::Serialize;

use super::failure::Failure;
use super::frame::{self, Header, Kind, PAYLOAD_BYTES_MAX};
use crate::limits::SERVER_OUT_BYTES;

/// What a client has yet to read. Who fills it asks [`OutBuffer::has_room`] before.
#[derive(Debug, Default)]
pub(super) struct OutBuffer {
    bytes: Vec<u8>,
    written: usize,
}

impl OutBuffer {
    /// Whether more may be fetched for the client.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.len() - self.written < SERVER_OUT_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Appends a frame, or as many as `payload` needs where its length does not matter.
    pub(super) fn push_frame(&mut self, kind: Kind, payload: &[u8]) {
        let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&Header { kind, bytes }.encode());
        self.bytes.extend_from_slice(payload);
    }

    /// Appends entries, in as many frames as they need.
    pub(super) fn push_entries(&mut self, entries: &[u8]) {
        frame::split_entries(entries).for_each(|piece| self.push_frame(Kind::Entries, piece));
    }

    /// Appends a document.
    pub(super) fn push_json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_vec(document).map_err(|error| Failure::new(format!("no document: {error}")))?;
        if text.len() > PAYLOAD_BYTES_MAX {
            return Err(Failure::new(format!("the document is too long: {} bytes", text.len())));
        }
        self.push_frame(Kind::Json, &text);
        Ok(())
    }

    /// Appends the last frame of a request that failed.
    pub(super) fn push_failure(&mut self, failure: &Failure) {
        self.push_frame(Kind::Failed, &serde_json::to_vec(failure).unwrap_or_default());
    }

    /// Writes as much as `stream` takes; gives how many bytes that were.
    ///
    /// # Errors
    /// The client has gone.
    pub(super) fn write(&mut self, stream: &mut impl Write) -> io::Result<usize> {
        let before = self.written;
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let written = self.written - before;
        self.compact();
        Ok(written)
    }

    /// Takes back the room of what was written, once that is most of it.
    fn compact(&mut self) {
        if self.is_empty() {
            (self.bytes.len() > SERVER_OUT_BYTES).then(|| self.bytes = Vec::new());
            self.bytes.clear();
            self.written = 0;
        } else if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes some bytes at a time.
    struct Narrow(Vec<u8>, usize);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.1);
            self.1 -= taken;
            self.0.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_stream_receives_everything_in_order() {
        let mut out = OutBuffer::default();
        let mut way = Narrow(Vec::new(), 0);
        let mut expected = Vec::new();
        for number in 0..100u8 {
            out.push_frame(Kind::Messages, &[number; 40]);
            expected.extend_from_slice(&[0, 0, 0, 40, b'M']);
            expected.extend_from_slice(&[number; 40]);
            way.1 = 17;
            assert_eq!(out.write(&mut way).unwrap(), 17);
        }
        way.1 = usize::MAX;
        out.write(&mut way).unwrap();
        assert!(out.is_empty() && way.0 == expected);
    }

    #[test]
    fn only_unwritten_bytes_count_against_the_room() {
        let mut out = OutBuffer::default();
        out.push_frame(Kind::Messages, &vec![0; SERVER_OUT_BYTES]);
        assert!(!out.has_room());
        out.write(&mut Narrow(Vec::new(), 100)).unwrap();
        assert!(out.has_room());
    }
}
