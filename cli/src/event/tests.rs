//! The loop between a source that follows a script and a sink that records what it gets.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;

use super::*;
use crate::flags::plan::EventMask;
use crate::output::Subject;
use crate::selection::Selection;
use sink::EventCounts;
use source::{Loss, Round};

const EVENTS: &[u8] = include_bytes!("../../../parser/fixtures/events.nl");
/// Too short for a header.
const MALFORMED: &[u8] = b"abc";

/// A round: its frames, the events lost in it, and what follows it; `None` for a failure.
type ScriptedRound = (Vec<&'static [u8]>, Option<u64>, Option<Next>);

struct Script {
    interruption: Option<Rc<Interruption>>,
    rounds: VecDeque<ScriptedRound>,
    unread: u64,
}

impl Source for Script {
    fn interruption(&self) -> Option<Rc<Interruption>> {
        self.interruption.clone()
    }

    fn next_round(&mut self, receive: &mut dyn FnMut(Frame<'_>)) -> Result<Round, Failure> {
        let (frames, lost, next) = self.rounds.pop_front().expect("no round after the end");
        frames.iter().for_each(|bytes| receive(Frame { time_ns: Some(1), bytes }));
        let loss = lost.map(|count| Loss { count, reason: "as scripted".to_owned() });
        next.map(|next| Round { loss, next }).ok_or(Failure::NoCount)
    }

    fn count_unread(&mut self) -> Result<u64, Failure> {
        Ok(self.unread)
    }
}

#[derive(Default)]
struct Recorder {
    counts: EventCounts,
    /// Writes nothing until its patience ends.
    is_stuck: bool,
    /// The number of events that it can write.
    room: Option<u64>,
    calls: Vec<String>,
}

impl Sink for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn write_event(&mut self, _event: &Event<'_>) -> Result<(), Failure> {
        self.counts.accepted += 1;
        let is_full = self.room.is_some_and(|room| self.counts.accepted > room);
        if is_full { Err(io::Error::from(io::ErrorKind::StorageFull).into()) } else { Ok(()) }
    }

    fn record_loss(&mut self, count: u64) {
        self.calls.push(format!("{count} lost after {}", self.counts.accepted));
    }

    fn flush(&mut self, patience: Patience<'_>) -> Result<u64, Failure> {
        if !self.is_stuck {
            self.counts.written = self.counts.accepted;
        }
        self.calls.push(patience.time.map_or("flush", |_| "flush in time").to_owned());
        Ok(self.counts.unwritten())
    }

    fn append_end(&mut self) {
        self.calls.push("end".to_owned());
    }

    fn counts(&self) -> EventCounts {
        self.counts
    }
}

/// The number of flow events in [`EVENTS`].
fn events() -> u64 {
    let flows = Messages::new(EVENTS).filter(|message| match message {
        Ok(Message::Record(record)) => record.flow().is_ok(),
        _ => false,
    });
    flows.count().try_into().unwrap()
}

/// Follows a script, with `signals` that have arrived, or without them for a file.
fn follow_script(signals: Option<usize>, rounds: &[ScriptedRound], unread: u64, sink: &mut Recorder) -> Followed {
    let (receiver, mut sender) = UnixStream::pair().unwrap();
    receiver.set_nonblocking(true).unwrap();
    sender.write_all(&vec![0; signals.unwrap_or(0)]).unwrap();
    let interruption = signals.map(|_| Rc::new(Interruption::by_bytes_of(receiver)));
    let mut source = Script { interruption, rounds: rounds.iter().cloned().collect(), unread };
    let selection = Selection::default();
    let filter = Filter { subject: Subject::Flows, mask: EventMask::ALL, selection: &selection };
    follow("test", &mut source, filter, sink)
}

#[test]
fn every_event_of_a_live_source_is_shown_or_lost_and_the_queued_ones_follow_a_signal() {
    let rounds = [
        (vec![EVENTS], Some(3), Some(Next::More)),
        (vec![MALFORMED], None, Some(Next::Wait)),
        (vec![], None, Some(Next::Interrupted)),
        (vec![EVENTS], None, Some(Next::Wait)),
        (vec![EVENTS], None, Some(Next::End)),
    ];
    let mut sink = Recorder::default();
    let followed = follow_script(Some(1), &rounds, 0, &mut sink);
    followed.result.unwrap();
    assert_eq!((followed.shown, followed.lost, followed.sink_failed), (3 * events(), 4, false));
    let losses = [format!("3 lost after {}", events()), format!("1 lost after {}", events())];
    let rest = ["flush", "flush", "flush in time", "flush in time", "end", "flush in time"];
    assert_eq!(sink.calls, losses.into_iter().chain(rest.map(str::to_owned)).collect::<Vec<_>>());
}

#[test]
fn a_wait_that_no_signal_interrupted_goes_on() {
    let rounds = [(vec![], None, Some(Next::Interrupted)), (vec![EVENTS], None, Some(Next::End))];
    let followed = follow_script(Some(0), &rounds, 0, &mut Recorder::default());
    assert_eq!((followed.shown, followed.lost), (events(), 0));
}

#[test]
fn a_stuck_reader_leaves_events_unread_and_unwritten_which_are_lost() {
    let mut sink = Recorder { is_stuck: true, ..Recorder::default() };
    let followed = follow_script(Some(1), &[(vec![EVENTS], None, Some(Next::Interrupted))], 7, &mut sink);
    followed.result.unwrap();
    assert_eq!((followed.shown, followed.lost), (0, events() + 7));
    assert_eq!(sink.calls, ["flush", "flush in time"]);
}

#[test]
fn after_a_failure_of_the_sink_what_a_live_source_has_received_is_lost() {
    let rounds = [(vec![EVENTS], None, Some(Next::More)), (vec![EVENTS], None, Some(Next::Wait))];
    let mut sink = Recorder { room: Some(5), ..Recorder::default() };
    let followed = follow_script(Some(0), &rounds, 0, &mut sink);
    assert!(matches!(followed.result, Err(Failure::Output(_))) && followed.sink_failed);
    assert_eq!((followed.shown, followed.lost), (0, 2 * events()));
    assert!(sink.calls.is_empty());
}

#[test]
fn a_file_ends_at_once_when_the_sink_fails() {
    let mut sink = Recorder { room: Some(5), ..Recorder::default() };
    let followed = follow_script(None, &[(vec![EVENTS], None, Some(Next::More))], 0, &mut sink);
    assert!(matches!(followed.result, Err(Failure::Output(_))) && followed.sink_failed);
}

#[test]
fn what_a_file_has_malformed_is_an_error_and_no_loss() {
    let rounds = [(vec![MALFORMED, EVENTS, MALFORMED], None, Some(Next::More)), (vec![], None, Some(Next::End))];
    let mut sink = Recorder::default();
    let followed = follow_script(None, &rounds, 0, &mut sink);
    assert!(matches!(followed.result, Err(Failure::Malformed { count: 2, .. })));
    assert_eq!((followed.shown, followed.lost, followed.sink_failed), (events(), 0, false));
    assert_eq!(sink.calls, ["end", "flush"], "its reader may be slow");
}

#[test]
fn what_a_failing_source_has_sent_is_written_and_ended() {
    for signals in [None, Some(0)] {
        let mut sink = Recorder::default();
        let followed = follow_script(signals, &[(vec![EVENTS], None, None)], 0, &mut sink);
        assert!(matches!(followed.result, Err(Failure::NoCount)));
        assert_eq!((followed.shown, followed.lost, followed.sink_failed), (events(), 0, false));
        assert_eq!(sink.calls[0], "end");
    }
}
