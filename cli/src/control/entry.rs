//! The entries of a dump: a head, and what the replication protocol says of a flow or an expectation.

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_replicate::entry::{decode_expect, decode_flow};

use super::ControlError;

/// Bytes of an entry's head, its length included.
const HEAD_BYTES: usize = 26;

/// An entry of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// `AF_INET`, `AF_INET6`, or 0 for an expectation.
    family: u8,
    /// Since when the cache has it, in milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// When it changed last, likewise.
    pub(crate) changed_ms: u64,
    told: &'a [u8],
}

/// What an entry is.
#[derive(Debug)]
pub(crate) enum Told<'a> {
    /// A flow.
    Flow(FlowView<'a>),
    /// An expectation.
    Expect(ExpectView<'a>),
}

/// The entries of a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    /// Those that stand in `payload`.
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    fn take(&mut self) -> Option<Entry<'a>> {
        let (head, rest) = self.0.split_first_chunk::<HEAD_BYTES>()?;
        let [family, _, _, _, _, _, _, _, times @ .., high, low] = head;
        let (since, changed) = times.split_first_chunk::<8>()?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (told, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        let changed_ms = u64::from_be_bytes(*changed.first_chunk()?);
        Some(Entry { family: *family, since_ms: u64::from_be_bytes(*since), changed_ms, told })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, ControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.take();
        if entry.is_none() {
            self.0 = &[];
        }
        Some(entry.ok_or(ControlError::Protocol("an entry is cut short")))
    }
}

impl<'a> Entry<'a> {
    /// What it tells.
    ///
    /// # Errors
    /// It is none that this program knows.
    pub(crate) fn told(&self) -> Result<Told<'a>, ControlError> {
        let told = match self.family {
            0 => decode_expect(self.told).map(Told::Expect),
            family => decode_flow(family, self.told).map(Told::Flow),
        };
        told.map_err(|_| ControlError::Protocol("an entry is no flow and no expectation"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ctflow_parser::tuple::{L4, Tuple};
    use ctflow_replicate::entry::encode_flow;

    /// A frame's payload with one flow.
    pub(crate) fn flow_entry(flow: &FlowView<'_>, since_ms: u64) -> Vec<u8> {
        let mut told = Vec::new();
        encode_flow(flow, &mut told).unwrap();
        let mut bytes = vec![flow.family, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(since_ms.to_be_bytes());
        bytes.extend((since_ms + 1).to_be_bytes());
        bytes.extend(u16::try_from(told.len()).unwrap().to_be_bytes());
        [bytes, told].concat()
    }

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
    fn entries_stand_one_behind_the_other() {
        let bytes = [flow_entry(&udp(), 5), flow_entry(&udp(), 6)].concat();
        let read: Vec<_> = Entries::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(read.iter().map(|entry| (entry.since_ms, entry.changed_ms)).collect::<Vec<_>>(), [(5, 6), (6, 7)]);
        let Told::Flow(flow) = read[0].told().unwrap() else { unreachable!() };
        assert_eq!((flow.orig, flow.reply, flow.timeout), (udp().orig, udp().reply, Some(30)));
        for cut in 1..bytes.len() {
            let whole = Entries::new(&bytes[..cut]).take_while(Result::is_ok).count();
            let broken = Entries::new(&bytes[..cut]).any(|entry| entry.is_err());
            assert!(whole <= 1 && broken == (cut * 2 != bytes.len()), "{cut}");
        }
        let foreign = Entry { family: 2, since_ms: 0, changed_ms: 0, told: b"foreign" };
        assert!(matches!(foreign.told(), Err(ControlError::Protocol(_))));
    }
}
