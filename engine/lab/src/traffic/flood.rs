//! New flows as fast as the kernel creates them: each packet goes to its own address and port and is a flow of its own.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};

use crate::LabError;
use crate::topology::FLOOD_NETWORK;

/// Packets passed to the kernel in one system call.
const BATCH: u32 = 64;
/// Ports used on each destination.
const PORTS: u32 = 32_768;
const FIRST_PORT: u32 = 1024;
/// Destination addresses: all of 198.18.0.0/15 but its first and last.
const ADDRESSES: u32 = (1 << 17) - 2;

/// Sends one-packet UDP flows to 198.18.0.0/15, none of them twice. [`topology`](crate::topology) describes where
/// the packets end. Its socket belongs to the namespace of the thread that opened it, client or firewall; the value may
/// move between threads.
#[derive(Debug)]
pub struct Flood {
    socket: UdpSocket,
    sent: u32,
}

impl Flood {
    /// The most flows of one flood, each with an address and port of its own: 4.29 billion.
    pub const MOST: u32 = ADDRESSES * PORTS;

    /// Opens a socket. Every flood has its own source port, so the flows of two floods differ.
    ///
    /// # Errors
    /// [`LabError::System`] when no descriptor or port is left.
    pub fn open() -> Result<Self, LabError> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
        Ok(Self { socket: socket.map_err(|error| LabError::system("open the flood's socket", error))?, sent: 0 })
    }

    /// Flows sent so far.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// Sends `flows` further flows as fast as the kernel accepts packets, and returns how long that took.
    ///
    /// # Errors
    /// [`LabError::FloodTooLarge`], or [`LabError::System`] where there is no route to the flood's network.
    pub fn send(&mut self, flows: u32) -> Result<Duration, LabError> {
        self.send_batches(flows, |_| ())
    }

    /// Sends `flows` further flows at a steady rate, at most 64 at once, and returns how long that took.
    ///
    /// # Errors
    /// As [`Flood::send`].
    pub fn send_paced(&mut self, flows: u32, per_second: NonZeroU32) -> Result<Duration, LabError> {
        let started = Instant::now();
        self.send_batches(flows, |sent| {
            let due = Duration::from_secs(1).saturating_mul(sent) / per_second.get();
            thread::sleep(due.saturating_sub(started.elapsed()));
        })
    }

    /// Sends `flows` further flows in batches of [`BATCH`], and calls `pause` before each with the flows sent so far.
    fn send_batches(&mut self, flows: u32, pause: impl Fn(u32)) -> Result<Duration, LabError> {
        let max = Self::MOST;
        let end = self.sent.checked_add(flows).filter(|end| *end <= max);
        let end = end.ok_or(LabError::FloodTooLarge { requested: u64::from(self.sent) + u64::from(flows), max })?;
        let (first, started) = (self.sent, Instant::now());
        while self.sent < end {
            pause(self.sent - first);
            let batch = BATCH.min(end - self.sent);
            self.sent += self.send_batch(batch).map_err(|error| {
                LabError::system(format!("send a flood to {FLOOD_NETWORK}/15 after {} flows", self.sent), error)
            })?;
        }
        Ok(started.elapsed())
    }

    /// Sends the next `packets` packets in one system call, and returns how many the kernel accepted.
    fn send_batch(&self, packets: u32) -> Result<u32, rustix::io::Errno> {
        let targets: Vec<SocketAddrAny> = (self.sent..self.sent + packets).map(|flow| target(flow).into()).collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> = targets.iter().map(|_| <_>::default()).collect();
        let payload = [IoSlice::new(b"flood")];
        let mut messages: Vec<MMsgHdr<'_>> = targets
            .iter()
            .zip(&mut controls)
            .map(|(to, control)| MMsgHdr::new_with_addr(to, &payload, control))
            .collect();
        let sent = sendmmsg(&self.socket, &mut messages, SendFlags::empty())?;
        Ok(u32::try_from(sent).unwrap_or(packets))
    }
}

/// The destination of flow number `flow`; different for every flow below [`Flood::MOST`].
fn target(flow: u32) -> SocketAddrV4 {
    let address = Ipv4Addr::from_bits(FLOOD_NETWORK.to_bits() + 1 + flow / PORTS);
    let port = FIRST_PORT + flow % PORTS;
    SocketAddrV4::new(address, u16::try_from(port).unwrap_or(u16::MAX))
}

const _: () = assert!(FIRST_PORT + PORTS - 1 <= u16::MAX as u32, "every flow's port fits 16 bits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_stay_in_the_floods_network() {
        assert_eq!(target(0), "198.18.0.1:1024".parse().unwrap());
        assert_eq!(target(32_768), "198.18.0.2:1024".parse().unwrap());
        assert_eq!(target(Flood::MOST - 1), "198.19.255.254:33791".parse().unwrap());
    }
}
