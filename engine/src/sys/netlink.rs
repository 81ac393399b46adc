//! One netlink socket: opening, sending, receiving, and its options.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, sockopt};

use super::pages::last_errno;
use crate::capture::steer::{Instruction, Program};

/// The kernel subsystem at the other end of a netlink socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Interfaces, addresses, routes.
    Route,
    /// Netfilter, which includes connection tracking.
    Netfilter,
}

/// The kernel's memory accounting of one socket (`SO_MEMINFO`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Bytes charged for the queued datagrams.
    pub queued_bytes: u32,
    /// Bytes that may be charged: the effective receive buffer.
    pub buffer_bytes: u32,
    /// Messages dropped because the buffer was full, since the socket was opened. The number wraps.
    pub drops: u32,
}

/// An owned netlink socket, bound to a port id that the kernel chose. Sending and receiving only need `&self`, because
/// the kernel serialises them.
#[derive(Debug)]
pub struct NetlinkSocket {
    fd: OwnedFd,
    port_id: u32,
}

impl NetlinkSocket {
    /// Opens and binds a socket in the calling thread's network namespace. Its descriptor is in blocking mode.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` when the kernel has no such subsystem loaded, `EMFILE` at the descriptor limit.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        let protocol = match protocol {
            Protocol::Route => None, // number 0, which rustix spells as the family's default
            Protocol::Netfilter => Some(netlink::NETFILTER),
        };
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        let port_id = SocketAddrNetlink::try_from(getsockname(&fd)?)?.pid();
        Ok(Self { fd, port_id })
    }

    /// The socket's address. The kernel repeats it in `nlmsg_pid` of every event that a request of this socket causes.
    #[must_use]
    pub fn port_id(&self) -> u32 {
        self.port_id
    }

    /// Returns a second descriptor of the same socket, with the same queue and options.
    ///
    /// # Errors
    /// `EMFILE` at the descriptor limit.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Sends whole messages to the kernel as one datagram.
    ///
    /// # Errors
    /// The kernel's error; `EMSGSIZE` when the datagram is larger than the send buffer.
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.fd, messages, SendFlags::empty())?;
        Ok(())
    }

    /// Waits for one datagram and reads it. Returns its full length, which is more than `buffer.len()` if it was
    /// truncated.
    ///
    /// # Errors
    /// `ENOBUFS` after an overrun, `EINTR` on a signal.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(receive_one(self.as_fd(), buffer, RecvFlags::empty())?)
    }

    /// Reads one datagram as [`NetlinkSocket::receive`] does, without waiting; `None` when the queue is empty.
    ///
    /// # Errors
    /// `ENOBUFS` after an overrun.
    pub(crate) fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match receive_one(self.as_fd(), buffer, RecvFlags::DONTWAIT) {
            Ok(length) => Ok(Some(length)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Requests a receive buffer of `bytes`, which the kernel limits to `net.core.rmem_max` and then doubles.
    ///
    /// # Errors
    /// None in practice, because the kernel limits the size instead.
    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        Ok(sockopt::set_socket_recv_buffer_size(&self.fd, bytes)?)
    }

    /// Requests a receive buffer of `bytes` regardless of `net.core.rmem_max`. The kernel doubles it.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN` in the first user namespace.
    pub fn force_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        Ok(sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes)?)
    }

    /// Attaches a program that selects the messages which reach the socket. It replaces any earlier one.
    ///
    /// # Errors
    /// `EINVAL` when the kernel refuses the program, `ENOMEM` when it is larger than `net.core.optmem_max` allows.
    pub fn attach_filter(&self, program: &Program) -> io::Result<()> {
        let mut code: Vec<libc::sock_filter> = program.instructions().iter().map(raw_instruction).collect();
        let len = libc::c_ushort::try_from(code.len()).map_err(|_| Errno::INVAL)?;
        let raw = libc::sock_fprog { len, filter: code.as_mut_ptr() };
        self.set_option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &raw) // the kernel copies `code` during the call
    }

    /// Joins a multicast group by its number.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`, `EINVAL` when the subsystem has no such group.
    pub fn join(&self, group: u32) -> io::Result<()> {
        self.set_option(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &group)
    }

    /// Leaves a multicast group.
    ///
    /// # Errors
    /// `EINVAL` when the subsystem has no such group.
    pub fn leave(&self, group: u32) -> io::Result<()> {
        self.set_option(libc::SOL_NETLINK, libc::NETLINK_DROP_MEMBERSHIP, &group)
    }

    /// Turns off `ENOBUFS` errors after an overrun. The kernel then no longer drops every message after an overrun
    /// until the queue is empty, and only counts the dropped messages.
    ///
    /// # Errors
    /// None in practice (Linux 2.6.30).
    pub(crate) fn set_no_enobufs(&self) -> io::Result<()> {
        self.set_option(libc::SOL_NETLINK, libc::NETLINK_NO_ENOBUFS, &1u32)
    }

    /// Reports a message that did not fit this socket's buffer to its sender. Connection tracking then keeps the
    /// DESTROY event of a flow and sends it again, which costs the flow's memory until then.
    ///
    /// # Errors
    /// None in practice (Linux 2.6.30).
    pub(crate) fn set_broadcast_error(&self) -> io::Result<()> {
        self.set_option(libc::SOL_NETLINK, libc::NETLINK_BROADCAST_ERROR, &1u32)
    }

    /// Requests the kernel's error text, and the offset of the offending attribute, in addition to the errno of a
    /// refused request.
    ///
    /// # Errors
    /// `ENOPROTOOPT` before Linux 4.12.
    pub(crate) fn set_extended_ack(&self) -> io::Result<()> {
        self.set_option(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, &1u32)
    }

    /// Requests error answers that repeat only the request's header, not its body.
    ///
    /// # Errors
    /// `ENOPROTOOPT` before Linux 4.3.
    pub(crate) fn set_capped_ack(&self) -> io::Result<()> {
        self.set_option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, &1u32)
    }

    /// The socket's queued bytes, buffer size and drop counter.
    ///
    /// # Errors
    /// `ENOPROTOOPT` before Linux 4.12.
    pub fn memory_info(&self) -> io::Result<MemoryInfo> {
        Ok(memory_info(self.as_fd())?)
    }

    /// Sets one option to the bytes of `value`.
    fn set_option<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        let start = std::ptr::from_ref(value).cast();
        let length = socket_length(size_of::<T>());
        // SAFETY: the kernel reads `length` bytes, all of `value`, which is borrowed for the whole call.
        let result = unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, start, length) };
        if result == 0 { Ok(()) } else { Err(last_errno().into()) }
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads one datagram into `buffer`, and returns its full length, whether it was truncated or not.
pub(crate) fn receive_one(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
    let (_, length) = rustix::net::recv(socket, buffer, flags | RecvFlags::TRUNC)?;
    Ok(length)
}

/// `SO_MEMINFO` of any socket.
pub(crate) fn memory_info(socket: BorrowedFd<'_>) -> Result<MemoryInfo, Errno> {
    const WORDS: usize = libc::SK_MEMINFO_DROPS as usize + 1;
    let mut words = [0u32; WORDS];
    let mut length = socket_length(size_of_val(&words));
    let start = words.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `length` bytes, the size of `words`, which is borrowed for the whole call.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, start, &raw mut length) };
    if result != 0 {
        return Err(last_errno());
    }
    let [queued_bytes, buffer_bytes, .., drops] = words;
    Ok(MemoryInfo { queued_bytes, buffer_bytes, drops })
}

/// A size in the type of the socket calls. All sizes passed to them are a few bytes.
fn socket_length(bytes: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes).unwrap_or(libc::socklen_t::MAX)
}

/// An instruction as the C library's type.
fn raw_instruction(instruction: &Instruction) -> libc::sock_filter {
    let Instruction { code, jt, jf, k } = *instruction;
    libc::sock_filter { code, jt, jf, k }
}

const _: () = assert!(libc::SK_MEMINFO_RMEM_ALLOC == 0 && libc::SK_MEMINFO_RCVBUF == 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_has_its_own_port_id() {
        let one = NetlinkSocket::open(Protocol::Route).unwrap();
        let other = NetlinkSocket::open(Protocol::Route).unwrap();
        assert_ne!(one.port_id(), 0);
        assert_ne!(one.port_id(), other.port_id());
    }

    #[test]
    fn a_fresh_socket_has_room_and_no_drops() {
        let info = NetlinkSocket::open(Protocol::Route).unwrap().memory_info().unwrap();
        assert!(info.buffer_bytes > 0);
        assert_eq!((info.queued_bytes, info.drops), (0, 0));
    }
}
