//! A question's way back to who asked: an answer, or the certainty that none will come.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};
use thiserror::Error;

/// The end that answers. Dropping it without an answer is noticed at the other one.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    sender: Option<Sender<T>>,
    waker: Option<Arc<mio::Waker>>,
}

/// The end that waits for the answer.
#[derive(Debug)]
pub(crate) struct Awaited<T>(Receiver<T>);

/// The answer will not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no answer")]
pub(crate) struct NoAnswer;

/// A question's two ends. `waker` is woken by the answer, where whoever asked does not wait for it otherwise.
pub(crate) fn channel<T>(waker: Option<Arc<mio::Waker>>) -> (Reply<T>, Awaited<T>) {
    let (sender, receiver) = bounded(1);
    (Reply { sender: Some(sender), waker }, Awaited(receiver))
}

impl<T> Reply<T> {
    /// Answers.
    pub(crate) fn send(self, answer: T) {
        // There is room for the one answer there is, and whoever asked may have gone.
        let _ = self.sender.as_ref().map(|sender| sender.try_send(answer));
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.sender = None; // before the wake: who wakes must find either an answer or nobody
        let _ = self.waker.as_ref().map(|waker| waker.wake());
    }
}

impl<T> Awaited<T> {
    /// The answer, if it has come.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub(crate) fn poll(&self) -> Result<Option<T>, NoAnswer> {
        match self.0.try_recv() {
            Ok(answer) => Ok(Some(answer)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(NoAnswer),
        }
    }

    /// Waits for the answer, however long that takes, unless who was asked has `ended`.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub(crate) fn wait_unless_ended(&self, ended: &Receiver<Infallible>) -> Result<T, NoAnswer> {
        select! {
            recv(self.0) -> answer => answer.map_err(|_| NoAnswer),
            recv(ended) -> _ => self.0.try_recv().map_err(|_| NoAnswer),
        }
    }

    /// Waits for the answer, no longer than this.
    ///
    /// # Errors
    /// [`NoAnswer`], also where it has not come by then.
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
            "the question waits for ever with nobody to read it"
        );
    }
}
