//! The addresses of a link, by number: those of its configured peers, and of other senders.

use std::net::SocketAddr;

use crate::limits::LINK_ADDRESSES;

/// The configured peers come first, then up to [`LINK_ADDRESSES`] other senders. When these are full, a new sender
/// replaces the oldest one, because anyone can send a datagram.
#[derive(Debug)]
pub(super) struct Addresses {
    /// All addresses; the index is the number.
    known: Vec<SocketAddr>,
    /// How many of them are configured peers.
    peers: usize,
    /// The index of the oldest other sender, which is replaced next.
    next_replaced: usize,
}

impl Addresses {
    /// A table with the configured peers only.
    pub(super) fn with_peers(peers: &[SocketAddr]) -> Self {
        Self { known: peers.to_vec(), peers: peers.len(), next_replaced: peers.len() }
    }

    /// The addresses of the configured peers.
    pub(super) fn peers(&self) -> impl Iterator<Item = SocketAddr> {
        self.known.iter().take(self.peers).copied()
    }

    /// The address with this number.
    pub(super) fn get(&self, number: u16) -> Option<SocketAddr> {
        self.known.get(usize::from(number)).copied()
    }

    /// The number of `address`, which is added if it is new.
    pub(super) fn number_of(&mut self, address: SocketAddr) -> u16 {
        let index = self.known.iter().position(|known| *known == address).unwrap_or_else(|| self.add(address));
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    /// Adds an address; returns its index.
    fn add(&mut self, address: SocketAddr) -> usize {
        let addresses_max = self.peers + LINK_ADDRESSES;
        if self.known.len() < addresses_max {
            self.known.push(address);
            return self.known.len() - 1;
        }
        let index = self.next_replaced;
        self.next_replaced = if index + 1 < addresses_max { index + 1 } else { self.peers };
        if let Some(oldest) = self.known.get_mut(index) {
            *oldest = address;
        }
        index
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
