//! The entries of a dump: each has a head, and a flow or an expectation as the replication protocol encodes it.

use ctflow_engine::server::frame::FrameError;
use ctflow_engine::shard::entries::{self, EntryHead};
use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_replicate::entry::{decode_expect, decode_flow};

use super::ControlError;

/// An entry of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// Family, stream and times.
    pub(crate) head: EntryHead,
    /// The flow or expectation in the replication protocol's encoding.
    body: &'a [u8],
}

/// The decoded body of an entry.
#[derive(Debug)]
pub(crate) enum Decoded<'a> {
    /// A flow.
    Flow(FlowView<'a>),
    /// An expectation.
    Expect(ExpectView<'a>),
}

/// Iterates over the entries of a frame. The first error ends the iteration.
#[derive(Debug, Clone)]
pub(crate) struct Entries<'a>(entries::Entries<'a>);

impl<'a> Entries<'a> {
    /// Creates an iterator over the entries in `payload`.
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self(entries::Entries::new(payload))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, ControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.0.next()?;
        Some(entry.map(|(head, body)| Entry { head, body }).map_err(|cut| ControlError::from(FrameError::from(cut))))
    }
}

impl<'a> Entry<'a> {
    /// Decodes the body. Family 0 is an expectation, every other one a flow.
    ///
    /// # Errors
    /// [`ControlError::Protocol`] if the body is neither.
    pub(crate) fn decode(&self) -> Result<Decoded<'a>, ControlError> {
        let decoded = match self.head.family {
            0 => decode_expect(self.body).map(Decoded::Expect),
            family => decode_flow(family, self.body).map(Decoded::Flow),
        };
        decoded.map_err(|_| ControlError::Protocol("an entry is neither a flow nor an expectation"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ctflow_parser::tuple::{L4, Tuple};
    use ctflow_replicate::entry::encode_flow;

    /// Returns a frame's payload with one flow that is in the cache since `since_ms` and changed one millisecond later.
    pub(crate) fn flow_entry(flow: &FlowView<'_>, since_ms: u64) -> Vec<u8> {
        let mut body = Vec::new();
        encode_flow(flow, &mut body).unwrap();
        let head = EntryHead { family: flow.family, stream: 0, since_ms, changed_ms: since_ms + 1 };
        [&head.encode(u16::try_from(body.len()).unwrap())[..], &body].concat()
    }

    /// Returns a UDP flow with a NAT address.
    pub(crate) fn udp() -> FlowView<'static> {
        let tuple = |src: &str, dst: &str, l4| Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            proto: 17,
            l4,
            zone: None,
        };
        FlowView {
            family: 2,
            orig: Some(tuple("192.0.2.2", "198.51.100.10", L4::Ports { src: 43004, dst: 53 })),
            reply: Some(tuple("198.51.100.10", "198.51.100.1", L4::Ports { src: 53, dst: 43004 })),
            status: Some(2),
            timeout: Some(30),
            id: Some(7),
            ..FlowView::default()
        }
    }

    #[test]
    fn entries_are_read_one_after_another() {
        let bytes = [flow_entry(&udp(), 5), flow_entry(&udp(), 6)].concat();
        let read: Vec<_> = Entries::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(
            read.iter().map(|entry| (entry.head.since_ms, entry.head.changed_ms)).collect::<Vec<_>>(),
            [(5, 6), (6, 7)]
        );
        let Decoded::Flow(flow) = read[0].decode().unwrap() else { unreachable!() };
        assert_eq!((flow.orig, flow.reply, flow.timeout), (udp().orig, udp().reply, Some(30)));
        let foreign = Entry { body: b"foreign", ..read[0] };
        assert!(matches!(foreign.decode(), Err(ControlError::Protocol(_))));
    }
}
