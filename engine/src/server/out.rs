//! The buffer of frames that a client has not read yet.

use std::io::{self, Write};

use serde::Serialize;

use super::failure::Failure;
use super::frame::{Header, Kind};
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::limits::SERVER_OUT_BYTES;
use crate::shard::entries::split_entries;

/// Encoded frames that a client has not read yet. A job must check [`OutBuffer::has_room`] before it appends more.
#[derive(Debug, Default)]
pub(super) struct OutBuffer {
    bytes: Vec<u8>,
    /// How many of `bytes` are written already.
    written: usize,
}

impl OutBuffer {
    /// Whether fewer than [`SERVER_OUT_BYTES`] wait for the client, so that its job may append more.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.len() - self.written < SERVER_OUT_BYTES
    }

    /// Whether everything is written.
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Appends one frame. The payload must have at most [`PAYLOAD_BYTES_MAX`] bytes.
    pub(super) fn push_frame(&mut self, kind: Kind, payload: &[u8]) {
        let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&Header { kind, bytes }.encode());
        self.bytes.extend_from_slice(payload);
    }

    /// Appends entries, in as many frames as they need.
    pub(super) fn push_entries(&mut self, entries: &[u8]) {
        split_entries(entries, PAYLOAD_BYTES_MAX).for_each(|piece| self.push_frame(Kind::Entries, piece));
    }

    /// Appends a JSON document.
    ///
    /// # Errors
    /// The document cannot be encoded, or is longer than a frame.
    pub(super) fn push_json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        let failed = |error: serde_json::Error| Failure::new(format!("cannot encode the answer: {error}"));
        let text = serde_json::to_vec(document).map_err(failed)?;
        if text.len() > PAYLOAD_BYTES_MAX {
            return Err(Failure::new(format!("the answer is too long: {} bytes", text.len())));
        }
        self.push_frame(Kind::Json, &text);
        Ok(())
    }

    /// Appends the last frame of a request that failed.
    pub(super) fn push_failure(&mut self, failure: &Failure) {
        self.push_frame(Kind::Failed, &serde_json::to_vec(failure).unwrap_or_default());
    }

    /// Writes as much as `stream` accepts without waiting. Returns the number of bytes written.
    ///
    /// # Errors
    /// The client has closed the connection.
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

    /// Removes the written bytes once they are more than half, and frees the memory of a buffer that was large.
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

    /// A stream that accepts a given number of bytes.
    struct LimitedStream(Vec<u8>, usize);

    impl Write for LimitedStream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let accepted = bytes.len().min(self.1);
            self.1 -= accepted;
            self.0.extend_from_slice(&bytes[..accepted]);
            if accepted == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(accepted) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_stream_receives_everything_in_order() {
        let mut out = OutBuffer::default();
        let mut stream = LimitedStream(Vec::new(), 0);
        let mut expected = Vec::new();
        for number in 0..100u8 {
            out.push_frame(Kind::Messages, &[number; 40]);
            expected.extend_from_slice(&[0, 0, 0, 40, b'M']);
            expected.extend_from_slice(&[number; 40]);
            stream.1 = 17;
            assert_eq!(out.write(&mut stream).unwrap(), 17);
        }
        stream.1 = usize::MAX;
        out.write(&mut stream).unwrap();
        assert!(out.is_empty() && stream.0 == expected);
    }

    #[test]
    fn only_unwritten_bytes_count_against_the_room() {
        let mut out = OutBuffer::default();
        out.push_frame(Kind::Messages, &vec![0; SERVER_OUT_BYTES]);
        assert!(!out.has_room());
        out.write(&mut LimitedStream(Vec::new(), 100)).unwrap();
        assert!(out.has_room());
    }
}
