//! The daemon's control socket, from the client's side.
//!
//! ```text
//! request   a request, as a line of JSON ──► socket ──► frames ──► Answer::next_frame, one at a time
//!                                            entry      the entries of a dump's frame
//! ```
//!
//! An answer may be of any length. Only one frame of it, at most a mebibyte, is in memory at a time.

use std::io::{self, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use ctflow_engine::os_error::os_error_text;
use ctflow_engine::server::frame::{self, FrameError, Kind, ReadError};
use serde_json::Value;
use thiserror::Error;

use crate::config::{self, ConfigError};

pub(crate) mod entry;
pub(crate) mod request;

use entry::Entries;
use request::Request;

/// How to find the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// By the socket in the default configuration file; without that file, by the default socket.
    Default,
    /// By the socket in this configuration file.
    Config(PathBuf),
    /// By this socket.
    Socket(PathBuf),
}

/// Bytes of the read buffer.
const READ_BYTES: usize = 64 * 1024;

/// Why a request could not be sent to the daemon, or why the daemon did not carry it out.
#[derive(Debug, Error)]
pub(crate) enum ControlError {
    /// No daemon listens on the socket.
    #[error(
        "no daemon answers at {}: {}; start it with `ctflow daemon', or name another one with --socket PATH or -C FILE",
        .path.display(), os_error_text(.source)
    )]
    Absent {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// This user may not open the socket.
    #[error(
        "not permitted to use the daemon's socket {}: {}; run as root or as the daemon's user",
        .path.display(), os_error_text(.source)
    )]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The connection failed.
    #[error("the connection to the daemon at {} failed: {}; try again, and see the daemon's log", .path.display(), os_error_text(.source))]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The daemon refused the request, or failed to carry it out.
    #[error("the daemon refused: {text}")]
    Refused {
        /// The daemon's reason.
        text: String,
        /// The exit code that the daemon suggests.
        code: u8,
    },
    /// The daemon ended before its answer was complete.
    #[error("the daemon ended before its answer was complete; see its log for the reason")]
    Ended,
    /// The content of the answer is not valid.
    #[error("the daemon's answer is not valid ({0}); check that the daemon and this program have the same version")]
    Protocol(&'static str),
    /// A frame of the answer is not valid.
    #[error("the daemon's answer is not valid ({0}); check that the daemon and this program have the same version")]
    Frame(#[from] FrameError),
    /// The configuration that names the daemon's socket cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl ControlError {
    /// Returns the exit code: the daemon's, at least 1, for a refusal, else 1.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Refused { code, .. } => (*code).max(1),
            _ => 1,
        }
    }
}

/// A decoded frame of an answer.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    /// Entries of a dump.
    Entries(Entries<'a>),
    /// Whole netlink messages.
    Messages(&'a [u8]),
    /// This many messages were lost here.
    Lost(u64),
    /// A JSON document.
    Document(Value),
    /// The end of the answer.
    Done,
}

/// The daemon's answer to one request, read frame by frame.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The socket's path, for errors.
    path: PathBuf,
    stream: BufReader<UnixStream>,
    payload: Vec<u8>,
    done: bool,
}

/// Returns the path of the daemon's control socket: as named, or from the configuration. Where no configuration was
/// named and the default one does not exist, this is the default path.
///
/// # Errors
/// [`ControlError::Config`] if the configuration cannot be read.
pub(crate) fn socket_path(reach: &Reach) -> Result<PathBuf, ControlError> {
    match reach {
        Reach::Socket(path) => Ok(path.clone()),
        Reach::Config(path) => Ok(config::socket(path)?),
        Reach::Default => match config::socket(Path::new(config::DEFAULT_PATH)) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(config::DEFAULT_SOCKET.into())
            }
            found => Ok(found?),
        },
    }
}

/// Connects to the daemon and sends a request.
///
/// # Errors
/// [`ControlError::Absent`], [`ControlError::Forbidden`], [`ControlError::Broken`], or as [`socket_path`].
pub(crate) fn send_request(reach: &Reach, request: Request) -> Result<Answer, ControlError> {
    let path = socket_path(reach)?;
    let mut stream = UnixStream::connect(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::Absent { path: path.clone(), source }
        }
        io::ErrorKind::PermissionDenied => ControlError::Forbidden { path: path.clone(), source },
        _ => ControlError::Broken { path: path.clone(), source },
    })?;
    let sent = stream.write_all(request.to_line().as_bytes());
    match sent {
        // A broken pipe: the daemon may have refused without reading the request. Its answer can still be read.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(ControlError::Broken { path, source: error });
        }
        _ => {}
    }
    let stream = BufReader::with_capacity(READ_BYTES, stream);
    Ok(Answer { path, stream, payload: Vec::new(), done: false })
}

/// Sends a request whose answer has no content, and waits until the daemon has carried it out.
///
/// # Errors
/// As [`send_request`] and [`Answer::next_frame`].
pub(crate) fn execute(reach: &Reach, request: Request) -> Result<(), ControlError> {
    let mut answer = send_request(reach, request)?;
    while !matches!(answer.next_frame()?, Frame::Done) {}
    Ok(())
}

/// Sends a request and returns the document that answers it.
///
/// # Errors
/// As [`send_request`] and [`Answer::next_frame`]; [`ControlError::Protocol`] if the answer is not a document.
pub(crate) fn request_document(reach: &Reach, request: Request) -> Result<Value, ControlError> {
    request_document_with_progress(reach, request, |_, _| {})
}

/// Sends a request that takes time and returns the document that answers it. Calls `progress` for each report of
/// progress, with the number of entries done and the number of all entries.
///
/// # Errors
/// As [`request_document`].
pub(crate) fn request_document_with_progress(
    reach: &Reach,
    request: Request,
    mut progress: impl FnMut(u64, u64),
) -> Result<Value, ControlError> {
    let mut answer = send_request(reach, request)?;
    let mut document = None;
    loop {
        match answer.next_frame()? {
            Frame::Document(value) if value.get("progress").is_some() => {
                let number = |key| value.get(key).and_then(Value::as_u64).unwrap_or(0);
                progress(number("progress"), number("of"));
            }
            Frame::Document(value) => document = Some(value),
            Frame::Done => return document.ok_or(ControlError::Protocol("it has no document")),
            _ => return Err(ControlError::Protocol("it is not a document")),
        }
    }
}

impl Answer {
    /// Waits for the next frame and returns it. After the last one it returns [`Frame::Done`] again.
    ///
    /// # Errors
    /// [`ControlError::Refused`], [`ControlError::Ended`], [`ControlError::Broken`], or the frame is not valid.
    pub(crate) fn next_frame(&mut self) -> Result<Frame<'_>, ControlError> {
        if self.done {
            return Ok(Frame::Done);
        }
        let kind = frame::read(&mut self.stream, &mut self.payload).map_err(|error| match error {
            ReadError::Io(source) => match source.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => ControlError::Ended,
                _ => ControlError::Broken { path: self.path.clone(), source },
            },
            ReadError::Frame(error) => ControlError::Frame(error),
        })?;
        let payload = self.payload.as_slice();
        match kind {
            Kind::Entries => Ok(Frame::Entries(Entries::new(payload))),
            Kind::Messages => Ok(Frame::Messages(payload)),
            Kind::Lost => Ok(Frame::Lost(frame::decode_lost(payload)?)),
            Kind::Json => serde_json::from_slice(payload)
                .map(Frame::Document)
                .map_err(|_| ControlError::Protocol("a frame is not JSON")),
            Kind::Done => {
                self.done = true;
                Ok(Frame::Done)
            }
            Kind::Failed => Err(parse_refusal(payload)),
        }
    }

    /// Returns whether bytes that were read from the socket are still in the buffer.
    pub(crate) fn has_buffered(&self) -> bool {
        !self.stream.buffer().is_empty()
    }
}

impl AsFd for Answer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

/// Returns the error that a frame of kind [`Kind::Failed`] describes.
fn parse_refusal(payload: &[u8]) -> ControlError {
    let document: Value = serde_json::from_slice(payload).unwrap_or_default();
    let Some(text) = document.get("error").and_then(Value::as_str) else {
        return ControlError::Protocol("a refusal has no reason");
    };
    let code = document.get("code").and_then(Value::as_u64).and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    // The text may quote a peer or a file. Its control characters must not break the line that is printed.
    let text = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    ControlError::Refused { text, code }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// Returns the answer of a daemon that answers one request with these bytes.
    fn answer_of(bytes: &[u8]) -> Answer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let bytes = bytes.to_vec();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].ends_with(b"}\n"));
            let _ = stream.write_all(&bytes);
        });
        let answer = send_request(&Reach::Socket(path), Request::Status).unwrap();
        daemon.join().unwrap();
        answer
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[..], &[kind], payload].concat()
    }

    #[test]
    fn frames_are_read_one_by_one() {
        let frames =
            [frame(b'J', b"{\"a\":1}"), frame(b'L', &7u64.to_be_bytes()), frame(b'M', b"abcd"), frame(b'D', b"")];
        let mut answer = answer_of(&frames.concat());
        assert!(matches!(answer.next_frame(), Ok(Frame::Document(value)) if value["a"] == 1));
        assert!(matches!(answer.next_frame(), Ok(Frame::Lost(7))));
        assert!(matches!(answer.next_frame(), Ok(Frame::Messages(b"abcd"))));
        assert!(matches!(answer.next_frame(), Ok(Frame::Done)) && matches!(answer.next_frame(), Ok(Frame::Done)));
    }

    #[test]
    fn invalid_answers_are_errors() {
        let refused = frame(b'X', br#"{"error":"no such\ncache","code":3}"#);
        let error = answer_of(&refused).next_frame().unwrap_err();
        assert_eq!((error.to_string().as_str(), error.code()), ("the daemon refused: no such cache", 3));
        for bytes in [&b""[..], b"\0\0", &frame(b'J', b"{}")[..6], &[0xff; 5]] {
            let error = answer_of(bytes).next_frame().unwrap_err();
            assert!(matches!(error, ControlError::Ended | ControlError::Frame(_)), "{error}");
        }
        for wrong in [frame(b'J', b"{"), frame(b'L', b"1"), frame(b'?', b""), frame(b'X', b"")] {
            let mut answer = answer_of(&wrong);
            assert!(
                matches!(answer.next_frame(), Err(ControlError::Protocol(_) | ControlError::Frame(_))),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn an_absent_daemon_is_named() {
        let error = send_request(&Reach::Socket("/nonexistent/ctflow.sock".into()), Request::Stop).unwrap_err();
        assert!(matches!(error, ControlError::Absent { .. }));
        assert!(error.to_string().contains("/nonexistent/ctflow.sock"), "{error}");
        assert!(matches!(
            send_request(&Reach::Config("/nonexistent".into()), Request::Stop),
            Err(ControlError::Config(_))
        ));
    }
}
