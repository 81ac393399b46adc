//! A capture file as a source, one of ours or one of an `nlmon` device. Events have the file's times. No rights are
//! needed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use super::{Frame, Next, Round, Source};
use crate::capture::{CaptureError, Reader};
use crate::event::interruption::Interruption;
use crate::failure::Failure;

/// Events of a capture file.
pub(super) struct Pcap {
    reader: Reader,
}

impl Pcap {
    /// Opens the file. Refuses one that is also `written`, the sink's file: opening that to write would empty it.
    ///
    /// # Errors
    /// The file cannot be read, is no capture file, or is the file to write.
    pub(super) fn open(path: &Path, written: Option<&Path>) -> Result<Self, CaptureError> {
        if let Some(written) = written.filter(|written| is_same_file(path, written)) {
            return Err(CaptureError::SameFile { path: written.to_owned() });
        }
        Ok(Self { reader: Reader::open(path)? })
    }
}

impl Source for Pcap {
    fn interruption(&self) -> Option<Rc<Interruption>> {
        None
    }

    fn next_round(&mut self, receive: &mut dyn FnMut(Frame<'_>)) -> Result<Round, Failure> {
        let packet = self.reader.read_packet()?;
        let next = if packet.is_some() { Next::More } else { Next::End };
        if let Some(packet) = packet {
            receive(Frame { time_ns: Some(packet.time_ns), bytes: packet.frame });
        }
        Ok(Round { loss: None, next })
    }
}

/// Returns whether both paths name the same regular file.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        let file = fs::metadata(path).ok().filter(fs::Metadata::is_file);
        file.map(|file| (file.dev(), file.ino()))
    };
    identity(one).is_some_and(|one| identity(other) == Some(one))
}
