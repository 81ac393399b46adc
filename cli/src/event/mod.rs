//! Events on their way: from a source through a filter to a sink.
//!
//! ```text
//! source                    follow: one loop for all of them                              sink
//!   kernel ─┐                                                                         ┌─► lines
//!   daemon ─┼─ frames ──► messages ──► records ──► filter ──► events ─────────────────┼─► pcapng
//!   pcap ───┘                 │ malformed               each is shown or lost         └─► …
//!      └──── losses ──────────┴──► the total, the sink, and standard error, where they happened
//! ```
//!
//! A round's frames go through in their order, on this one thread. The sink is flushed when the source is about to
//! wait: at once on a quiet firewall, with many events on a busy one. Within a round it is flushed when it is large.
//!
//! A live source ends with a signal. No new events arrive after the first one, but the queued ones are still written
//! while the sink's reader goes on reading. A second signal, or two seconds in which it reads nothing, ends the loop at
//! once. A file ends where it ends, and its reader may read as slowly as it likes.
//!
//! Every event of a live source is counted, as shown or as lost. Events that are not understood are lost. A file's are
//! counted in its error instead: they can be read again.

pub(crate) mod choice;
pub(crate) mod filter;
pub(crate) mod interruption;
pub(crate) mod sink;
pub(crate) mod source;

use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use ctflow_parser::error::ParseError;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::Record;

use crate::clock;
use crate::failure::Failure;
use crate::text::counted;

use filter::Filter;
use interruption::Interruption;
use sink::{Event, Patience, Sink};
use source::{Frame, Next, Source};

/// How long the last writes wait for a reader that reads nothing.
const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of following a source to its end.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Events that the sink has written.
    pub(crate) shown: u64,
    /// Events that were selected, or could have been, and are not written: the source lost them, they were not
    /// understood, or the sink did not write them.
    pub(crate) lost: u64,
    /// Whether the sink failed, so that it may have written less than the source had.
    pub(crate) sink_failed: bool,
    /// The first failure.
    pub(crate) result: Result<(), Failure>,
}

/// Passes the events of `source` that `filter` selects to `sink`, until the source ends, a signal arrives, or the sink
/// fails. Reports losses on standard error, in lines that begin with `banner`.
pub(crate) fn follow(banner: &str, source: &mut dyn Source, filter: Filter<'_>, sink: &mut dyn Sink) -> Followed {
    tracing::debug!(sink = sink.name(), "following events");
    source.notices(banner).iter().for_each(|notice| print_stderr(notice));
    let interruption = source.interruption();
    let delivery = Delivery {
        filter,
        sink,
        interruption,
        now_ns: None,
        undelivered: 0,
        malformed: 0,
        first_error: None,
        failed: None,
    };
    Follower { banner, source, delivery, lost: 0, source_failure: None }.run()
}

/// A source on its way into a sink, and what was lost on the way.
struct Follower<'f> {
    banner: &'f str,
    source: &'f mut dyn Source,
    delivery: Delivery<'f>,
    /// Events that the source lost, or that were not understood, so far.
    lost: u64,
    /// Why the source cannot be read any further.
    source_failure: Option<Failure>,
}

/// Parses frames and passes the selected events to the sink.
struct Delivery<'f> {
    filter: Filter<'f>,
    sink: &'f mut dyn Sink,
    /// The source's interruption, which ends a wait for the sink, too; `None` for a source that is not live.
    interruption: Option<Rc<Interruption>>,
    /// When the frames of the round were received: the wall clock at its first event, unless the frames have a time.
    now_ns: Option<u64>,
    /// Selected events that the sink was not handed, since it had failed.
    undelivered: u64,
    /// Messages that did not parse, since the last report about them.
    malformed: u64,
    /// Why the first of these did not parse.
    first_error: Option<ParseError>,
    /// The sink's first error. Nothing is written after it.
    failed: Option<Failure>,
}

impl Follower<'_> {
    /// Follows the source to its end, and counts every event.
    fn run(mut self) -> Followed {
        let followed = self.follow();
        let sink_failed = followed.is_err();
        let unread = self.source.count_unread().map(|unread| self.lost += unread);
        let Self { delivery, lost, source_failure, .. } = self;
        let counts = delivery.sink.counts();
        let count = delivery.malformed;
        let malformed = delivery.first_error.map(|first| Failure::Malformed { count, first });
        Followed {
            shown: counts.written,
            lost: lost + delivery.undelivered + counts.unwritten(),
            sink_failed,
            result: source_failure.map_or(followed, Err).and(unread).and(malformed.map_or(Ok(()), Err)),
        }
    }

    /// Receives and delivers events until the source ends or a signal arrives.
    ///
    /// # Errors
    /// The sink failed, the reader of standard output has gone, or the source does not stop.
    fn follow(&mut self) -> Result<(), Failure> {
        loop {
            match self.receive_round()? {
                Next::More => {}
                Next::Wait => {
                    self.delivery.flush(None)?;
                }
                Next::Interrupted => {
                    self.delivery.flush(None)?;
                    if self.delivery.consume_signal()? {
                        self.source.stop()?;
                        return self.drain();
                    }
                }
                Next::End => return self.delivery.finish(),
            }
        }
    }

    /// Delivers the events that are still queued in a stopped source, until all are written or the sink's reader reads
    /// no more.
    ///
    /// # Errors
    /// The sink failed.
    fn drain(&mut self) -> Result<(), Failure> {
        while self.delivery.flush_finally()? == 0 {
            if self.receive_round()? == Next::End {
                return self.delivery.finish();
            }
        }
        Ok(())
    }

    /// Receives and delivers the events of one round, and reports its losses. A source that fails has ended.
    ///
    /// # Errors
    /// The sink failed, and the source is not live. A live source's events are counted until the next flush.
    fn receive_round(&mut self) -> Result<Next, Failure> {
        let Self { source, delivery, .. } = self;
        delivery.now_ns = None;
        let round = source.next_round(&mut |frame| delivery.deliver_frame(frame));
        let (loss, next) = match round {
            Ok(round) => (round.loss, round.next),
            Err(failure) => {
                self.source_failure = Some(failure);
                (None, Next::End)
            }
        };
        if let Some(loss) = loss {
            self.report_loss(loss.count, &format!("lost here: {}", loss.reason));
        }
        if !self.delivery.is_live() {
            return self.delivery.failed.take().map_or(Ok(next), Err);
        }
        if let Some(error) = self.delivery.first_error.take() {
            let count = std::mem::take(&mut self.delivery.malformed);
            let advice = "update ctflow, or report it with the kernel's version";
            self.report_loss(count, &format!("not understood here: {error}; {advice}"));
        }
        Ok(next)
    }

    /// Counts events as lost, and reports on standard error what happened to them.
    fn report_loss(&mut self, count: u64, what: &str) {
        self.lost += count;
        self.delivery.sink.record_loss(count);
        print_stderr(&format!("{}: {} {what}", self.banner, counted(count, "event", "events")));
    }
}

impl Delivery<'_> {
    /// Whether events happen while they are followed.
    fn is_live(&self) -> bool {
        self.interruption.is_some()
    }

    /// Passes the selected events of one frame to the sink, and flushes that if it is large. An error of the sink is
    /// returned by the next [`Self::flush`].
    fn deliver_frame(&mut self, frame: Frame<'_>) {
        self.now_ns = frame.time_ns.or(self.now_ns);
        for message in Messages::new(frame.bytes) {
            let delivered = match message {
                Ok(Message::Record(record)) => self.deliver_record(&record),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = delivered {
                self.malformed += 1;
                self.first_error.get_or_insert(error);
            }
        }
        // After a signal this does not wait for a stuck reader. The events of the round gather: a few thousand at most.
        if self.sink.is_large() && self.failed.is_none() {
            self.failed = self.flush(None).err();
        }
    }

    /// Passes an event to the sink if it is selected.
    ///
    /// # Errors
    /// The record does not parse.
    fn deliver_record(&mut self, record: &Record<'_>) -> Result<(), ParseError> {
        let Self { filter, sink, now_ns, undelivered, failed, .. } = self;
        filter.select(record, |view| {
            if failed.is_some() {
                *undelivered += 1;
                return;
            }
            let now_ns = *now_ns.get_or_insert_with(clock::now_ns);
            *failed = sink.write_event(&Event { record, view, now_ns }).err();
        })
    }

    /// Writes the sink's gathered events until all are written, a signal arrives, or nothing was read for `time`.
    /// Returns how many are left.
    ///
    /// # Errors
    /// The sink failed now or before.
    fn flush(&mut self, time: Option<Duration>) -> Result<u64, Failure> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        let interrupt = self.interruption.as_ref().map(|interruption| interruption.signals());
        self.sink.flush(Patience { interrupt, time })
    }

    /// Writes the gathered events as the last ones. Returns how many are left.
    ///
    /// # Errors
    /// The sink failed now or before.
    fn flush_finally(&mut self) -> Result<u64, Failure> {
        self.flush(self.is_live().then_some(FINAL_WRITE_TIMEOUT))
    }

    /// Appends what the sink needs after its last event, and writes everything.
    ///
    /// # Errors
    /// The sink failed now or before.
    fn finish(&mut self) -> Result<(), Failure> {
        self.sink.append_end();
        self.flush_finally().map(|_left| ())
    }

    /// Removes one signal from those that have arrived. Returns whether there was one.
    ///
    /// # Errors
    /// There was none, and the reader of standard output has gone.
    fn consume_signal(&self) -> Result<bool, Failure> {
        self.interruption.as_ref().map_or(Ok(false), |interruption| interruption.consume_signal())
    }
}

/// Prints a line on standard error. An error is ignored: there is no other place to report it.
fn print_stderr(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests;
