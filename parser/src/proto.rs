//! The state that the TCP, SCTP and DCCP trackers keep of a flow, and the names of their states.

use crate::attr::{Attr, Attrs, header};
use crate::error::ParseError;
use crate::uapi;
use crate::write::{Full, Writer};

/// The state names of TCP, in the kernel's order (`enum tcp_conntrack` in nf_conntrack_tcp.h).
pub const TCP_STATES: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];

/// The state names of SCTP, in the kernel's order (`enum sctp_conntrack` in nf_conntrack_sctp.h).
pub const SCTP_STATES: [&str; 10] = [
    "NONE",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "ESTABLISHED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
    "HEARTBEAT_ACKED",
];

/// The state names of DCCP, in the kernel's order (`enum ct_dccp_states`, Linux before 6.16).
pub const DCCP_STATES: [&str; 10] =
    ["NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING", "TIMEWAIT", "IGNORE", "INVALID"];

/// The TCP tracker's flags of one direction (`struct nf_ct_tcp_flags`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpFlags {
    /// `IP_CT_TCP_FLAG_*`.
    pub flags: u8,
    /// In a request, the flags to change; the kernel sends 0.
    pub mask: u8,
}

/// The TCP tracker's state. A destroy event has only the state; that of an old kernel has nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Index into [`TCP_STATES`].
    pub state: Option<u8>,
    /// The window scale of the original direction, 0 to 14.
    pub wscale_orig: Option<u8>,
    /// The window scale of the reply direction, 0 to 14.
    pub wscale_reply: Option<u8>,
    /// The flags of the original direction.
    pub flags_orig: Option<TcpFlags>,
    /// The flags of the reply direction.
    pub flags_reply: Option<TcpFlags>,
}

/// The SCTP tracker's state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SctpInfo {
    /// Index into [`SCTP_STATES`].
    pub state: Option<u8>,
    /// The verification tag of the original direction.
    pub vtag_orig: Option<u32>,
    /// The verification tag of the reply direction.
    pub vtag_reply: Option<u32>,
}

/// The DCCP tracker's state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DccpInfo {
    /// Index into [`DCCP_STATES`].
    pub state: Option<u8>,
    /// 0 when the original direction is the client's, 1 when it is the server's.
    pub role: Option<u8>,
    /// The sequence number of the handshake.
    pub handshake_seq: Option<u64>,
}

/// The state of a protocol's tracker (CTA_PROTOINFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtoInfo {
    /// The state of a TCP flow.
    Tcp(TcpInfo),
    /// The state of an SCTP flow.
    Sctp(SctpInfo),
    /// The state of a DCCP flow.
    Dccp(DccpInfo),
}

impl ProtoInfo {
    /// Parses the nest of CTA_PROTOINFO into `out`, which becomes `None` where the nest has no known protocol.
    #[inline]
    pub(crate) fn read(attr: &Attr<'_>, out: &mut Option<Self>) -> Result<(), ParseError> {
        match usual_tcp(attr.payload) {
            Some(tcp) => *out = Some(Self::Tcp(tcp)),
            None => *out = Self::walk(attr.nested())?,
        }
        Ok(())
    }

    /// Parses any form.
    fn walk(attrs: Attrs<'_>) -> Result<Option<Self>, ParseError> {
        let mut info = None;
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                uapi::CTA_PROTOINFO_TCP => info = Some(Self::Tcp(TcpInfo::parse(attr.nested())?)),
                uapi::CTA_PROTOINFO_DCCP => info = Some(Self::Dccp(DccpInfo::parse(attr.nested())?)),
                uapi::CTA_PROTOINFO_SCTP => info = Some(Self::Sctp(SctpInfo::parse(attr.nested())?)),
                _ => {}
            }
        }
        Ok(info)
    }

    /// Writes the nest.
    pub(crate) fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        writer.nest(uapi::CTA_PROTOINFO, |info| match self {
            Self::Tcp(tcp) => info.nest(uapi::CTA_PROTOINFO_TCP, |nest| tcp.write(nest)),
            Self::Dccp(dccp) => info.nest(uapi::CTA_PROTOINFO_DCCP, |nest| dccp.write(nest)),
            Self::Sctp(sctp) => info.nest(uapi::CTA_PROTOINFO_SCTP, |nest| sctp.write(nest)),
        })
    }

    /// The number of the tracker's state.
    #[must_use]
    pub fn state(&self) -> Option<u8> {
        match self {
            Self::Tcp(tcp) => tcp.state,
            Self::Sctp(sctp) => sctp.state,
            Self::Dccp(dccp) => dccp.state,
        }
    }

    /// The name of the tracker's state. A number without a name, which a later kernel may use, is named `NONE`.
    #[must_use]
    pub fn state_name(&self) -> Option<&'static str> {
        let (names, state) = match self {
            Self::Tcp(tcp) => (&TCP_STATES, tcp.state),
            Self::Sctp(sctp) => (&SCTP_STATES, sctp.state),
            Self::Dccp(dccp) => (&DCCP_STATES, dccp.state),
        };
        state.map(|state| names.get(usize::from(state)).copied().unwrap_or("NONE"))
    }
}

/// The TCP state in the usual form, in which kernels write it in NEW and UPDATE events: five attributes in this order
/// and nothing else. `None` for any other form. See `usual` in [`tuple`](crate::tuple) for why it has a reader of its
/// own.
#[inline]
fn usual_tcp(payload: &[u8]) -> Option<TcpInfo> {
    use uapi::*;
    const TCP: [u8; 4] = header(44, CTA_PROTOINFO_TCP | NLA_F_NESTED);
    const STATE: [u8; 4] = header(5, CTA_PROTOINFO_TCP_STATE);
    const WSCALE_ORIG: [u8; 4] = header(5, CTA_PROTOINFO_TCP_WSCALE_ORIGINAL);
    const WSCALE_REPLY: [u8; 4] = header(5, CTA_PROTOINFO_TCP_WSCALE_REPLY);
    const FLAGS_ORIG: [u8; 4] = header(6, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL);
    const FLAGS_REPLY: [u8; 4] = header(6, CTA_PROTOINFO_TCP_FLAGS_REPLY);

    let (words, []) = payload.as_chunks::<4>() else { return None };
    let [tcp, h0, state, h1, wscale_orig, h2, wscale_reply, h3, flags_orig, h4, flags_reply] =
        <&[[u8; 4]; 11]>::try_from(words).ok()?;
    let headers = (*tcp, *h0, *h1, *h2, *h3, *h4);
    if headers != (TCP, STATE, WSCALE_ORIG, WSCALE_REPLY, FLAGS_ORIG, FLAGS_REPLY) {
        return None;
    }
    let flags = |[flags, mask, ..]: [u8; 4]| Some(TcpFlags { flags, mask });
    Some(TcpInfo {
        state: Some(state[0]),
        wscale_orig: Some(wscale_orig[0]),
        wscale_reply: Some(wscale_reply[0]),
        flags_orig: flags(*flags_orig),
        flags_reply: flags(*flags_reply),
    })
}

impl TcpFlags {
    /// Parses the two bytes of the attribute.
    fn parse(attr: &Attr<'_>) -> Result<Self, ParseError> {
        attr.array().map(|[flags, mask]| Self { flags, mask })
    }

    /// Writes the attribute, if there are flags.
    fn write(flags: Option<Self>, writer: &mut Writer<'_>, kind: u16) -> Result<(), Full> {
        flags.map_or(Ok(()), |Self { flags, mask }| writer.attr(kind, &[flags, mask]))
    }
}

impl TcpInfo {
    /// Parses the nest.
    #[inline]
    fn parse(attrs: Attrs<'_>) -> Result<Self, ParseError> {
        let mut info = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                uapi::CTA_PROTOINFO_TCP_STATE => info.state = Some(attr.u8()?),
                uapi::CTA_PROTOINFO_TCP_WSCALE_ORIGINAL => info.wscale_orig = Some(attr.u8()?),
                uapi::CTA_PROTOINFO_TCP_WSCALE_REPLY => info.wscale_reply = Some(attr.u8()?),
                uapi::CTA_PROTOINFO_TCP_FLAGS_ORIGINAL => info.flags_orig = Some(TcpFlags::parse(&attr)?),
                uapi::CTA_PROTOINFO_TCP_FLAGS_REPLY => info.flags_reply = Some(TcpFlags::parse(&attr)?),
                _ => {}
            }
        }
        Ok(info)
    }

    /// Writes the content of the nest.
    fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        writer.u8_opt(uapi::CTA_PROTOINFO_TCP_STATE, self.state)?;
        writer.u8_opt(uapi::CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, self.wscale_orig)?;
        writer.u8_opt(uapi::CTA_PROTOINFO_TCP_WSCALE_REPLY, self.wscale_reply)?;
        TcpFlags::write(self.flags_orig, writer, uapi::CTA_PROTOINFO_TCP_FLAGS_ORIGINAL)?;
        TcpFlags::write(self.flags_reply, writer, uapi::CTA_PROTOINFO_TCP_FLAGS_REPLY)
    }
}

impl SctpInfo {
    /// Parses the nest.
    fn parse(attrs: Attrs<'_>) -> Result<Self, ParseError> {
        let mut info = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                uapi::CTA_PROTOINFO_SCTP_STATE => info.state = Some(attr.u8()?),
                uapi::CTA_PROTOINFO_SCTP_VTAG_ORIGINAL => info.vtag_orig = Some(attr.be32()?),
                uapi::CTA_PROTOINFO_SCTP_VTAG_REPLY => info.vtag_reply = Some(attr.be32()?),
                _ => {}
            }
        }
        Ok(info)
    }

    /// Writes the content of the nest.
    fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        writer.u8_opt(uapi::CTA_PROTOINFO_SCTP_STATE, self.state)?;
        writer.be32_opt(uapi::CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, self.vtag_orig)?;
        writer.be32_opt(uapi::CTA_PROTOINFO_SCTP_VTAG_REPLY, self.vtag_reply)
    }
}

impl DccpInfo {
    /// Parses the nest.
    fn parse(attrs: Attrs<'_>) -> Result<Self, ParseError> {
        let mut info = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                uapi::CTA_PROTOINFO_DCCP_STATE => info.state = Some(attr.u8()?),
                uapi::CTA_PROTOINFO_DCCP_ROLE => info.role = Some(attr.u8()?),
                uapi::CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ => info.handshake_seq = Some(attr.be64()?),
                _ => {}
            }
        }
        Ok(info)
    }

    /// Writes the content of the nest.
    fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        writer.u8_opt(uapi::CTA_PROTOINFO_DCCP_STATE, self.state)?;
        writer.u8_opt(uapi::CTA_PROTOINFO_DCCP_ROLE, self.role)?;
        self.handshake_seq.map_or(Ok(()), |seq| writer.attr(uapi::CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ, &seq.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::attr::only;

    proptest! {
        /// The reader of the usual form and the walk agree on TCP states of that form, and on damaged ones.
        #[test]
        fn usual_tcp_reads_as_the_walk_reads_it(
            numbers: [u8; 7], at in 4usize..48, value: u8,
        ) {
            let [state, orig, reply, flags_orig, mask_orig, flags_reply, mask_reply] = numbers;
            let flags = |flags, mask| Some(TcpFlags { flags, mask });
            let tcp = TcpInfo {
                state: Some(state),
                wscale_orig: Some(orig),
                wscale_reply: Some(reply),
                flags_orig: flags(flags_orig, mask_orig),
                flags_reply: flags(flags_reply, mask_reply),
            };
            let mut buffer = [0; 64];
            let mut writer = Writer::new(&mut buffer);
            ProtoInfo::Tcp(tcp).write(&mut writer).unwrap();
            let mut bytes = writer.bytes().to_vec();
            prop_assert_eq!(usual_tcp(only(&bytes).payload), Some(tcp));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            if let Some(read) = usual_tcp(only(&bytes).payload) {
                prop_assert_eq!(ProtoInfo::walk(only(&bytes).nested()), Ok(Some(ProtoInfo::Tcp(read))));
            }
        }
    }
}
