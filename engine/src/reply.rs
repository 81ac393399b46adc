//! The reply channel of a request: it carries one answer, or the fact that none will arrive.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};
use thiserror::Error;

/// The end that sends the answer. Dropping it without one ends the wait at the other end with [`NoAnswer`].
#[derive(Debug)]
pub(crate) struct Reply<T> {
    sender: Option<Sender<T>>,
    /// Woken by the answer, or when none will arrive.
    waker: Option<Arc<mio::Waker>>,
}

/// The end that waits for the answer.
#[derive(Debug)]
pub(crate) struct Awaited<T>(Receiver<T>);

/// No answer will arrive: the other end was dropped, or has not answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no answer")]
pub(crate) struct NoAnswer;

/// Creates a reply channel. `waker`, if any, wakes a requester that polls for the answer instead of waiting for it.
pub(crate) fn channel<T>(waker: Option<Arc<mio::Waker>>) -> (Reply<T>, Awaited<T>) {
    let (sender, receiver) = bounded(1);
    (Reply { sender: Some(sender), waker }, Awaited(receiver))
}

impl<T> Reply<T> {
    /// Sends the answer.
    pub(crate) fn send(self, answer: T) {
        // The channel has room for its single answer. The call fails only if the requester has stopped waiting.
        let _ = self.sender.as_ref().map(|sender| sender.try_send(answer));
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.sender = None; // before the wake: the woken requester must find an answer or a closed channel
        let _ = self.waker.as_ref().map(|waker| waker.wake());
    }
}

impl<T> Awaited<T> {
    /// Returns the answer if it has arrived, without waiting.
    ///
    /// # Errors
    /// [`NoAnswer`] when the other end was dropped without an answer.
    pub(crate) fn poll(&self) -> Result<Option<T>, NoAnswer> {
        match self.0.try_recv() {
            Ok(answer) => Ok(Some(answer)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(NoAnswer),
        }
    }

    /// Waits for the answer without a time limit, until the thread that should answer closes `ended`.
    ///
    /// # Errors
    /// [`NoAnswer`] when that thread ended, or dropped the request, without an answer.
    pub(crate) fn wait_unless_ended(&self, ended: &Receiver<Infallible>) -> Result<T, NoAnswer> {
        select! {
            recv(self.0) -> answer => answer.map_err(|_| NoAnswer),
            recv(ended) -> _ => self.0.try_recv().map_err(|_| NoAnswer),
        }
    }

    /// Waits for the answer, no longer than `longest`.
    ///
    /// # Errors
    /// [`NoAnswer`] when the other end was dropped without an answer, or the time is up.
    pub(crate) fn wait(&self, longest: Duration) -> Result<T, NoAnswer> {
        self.0.recv_timeout(longest).map_err(|_| NoAnswer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_arrives_or_is_known_not_to() {
        let (reply, awaited) = channel::<u8>(None);
        assert_eq!(awaited.poll(), Ok(None));
        reply.send(7);
        assert_eq!((awaited.poll(), awaited.poll()), (Ok(Some(7)), Err(NoAnswer)));
        let (reply, awaited) = channel::<u8>(None);
        drop(reply);
        assert_eq!(awaited.poll(), Err(NoAnswer));
        let (_reply, awaited) = channel::<u8>(None);
        assert_eq!(awaited.wait(Duration::from_millis(1)), Err(NoAnswer));
        let (alive, ended) = bounded(0);
        drop(alive);
        assert_eq!(
            awaited.wait_unless_ended(&ended),
            Err(NoAnswer),
            "an ended thread leaves the request unread, so the wait must end"
        );
    }
}
