//! The addresses a link knows, by number: its peers', and those it was written to from.

use std::net::SocketAddr;

use crate::limits::LINK_ADDRESSES;

/// Peers first, then strangers, of whom the oldest is forgotten for a new one: anybody can send.
#[derive(Debug)]
pub(super) struct Addresses {
    known: Vec<SocketAddr>,
    peers: usize,
    next_replaced: usize,
}

impl Addresses {
    pub(super) fn with_peers(peers: &[SocketAddr]) -> Self {
        Self { known: peers.to_vec(), peers: peers.len(), next_replaced: peers.len() }
    }

    /// The peers that were set.
    pub(super) fn peers(&self) -> impl Iterator<Item = SocketAddr> {
        self.known.iter().take(self.peers).copied()
    }

    pub(super) fn get(&self, number: u16) -> Option<SocketAddr> {
        self.known.get(usize::from(number)).copied()
    }

    /// The number of `address`.
    pub(super) fn number_of(&mut self, address: SocketAddr) -> u16 {
        let place = self.known.iter().position(|known| *known == address).unwrap_or_else(|| self.add(address));
        u16::try_from(place).unwrap_or(u16::MAX)
    }

    fn add(&mut self, address: SocketAddr) -> usize {
        let bound = self.peers + LINK_ADDRESSES;
        if self.known.len() < bound {
            self.known.push(address);
            return self.known.len() - 1;
        }
        let place = self.next_replaced;
        self.next_replaced = if place + 1 < bound { place + 1 } else { self.peers };
        if let Some(oldest) = self.known.get_mut(place) {
            *oldest = address;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_keep_their_numbers_when_unknown_senders_write() {
        let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let mut addresses = Addresses::with_peers(&[address(1), address(2)]);
        for port in 100..1_000 {
            let number = addresses.number_of(address(port));
            assert_eq!(addresses.get(number), Some(address(port)));
        }
        assert_eq!((addresses.number_of(address(2)), addresses.get(0)), (1, Some(address(1))));
        assert_eq!(addresses.known.len(), 2 + LINK_ADDRESSES);
        assert_eq!(addresses.peers().count(), 2);
    }
}
