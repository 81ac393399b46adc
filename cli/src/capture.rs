//! Capture files of netlink messages: written as pcapng; read as pcapng or pcap, from `--write` or from a capture on an
//! `nlmon` device.
//!
//! ```text
//! file    | section header | interface: link type 253, nanoseconds | packet | packet | …
//! packet  | packet type 2 | ARPHRD_NETLINK 2 | unused 10 | netlink family 2 | frame |
//!           `------------------- big endian ------------------------------´  the machine's byte order
//! ```
//!
//! `pcap-parser` (MIT or Apache-2.0) parses the blocks: it supports both formats in both byte orders, and depends on
//! few small crates and no procedural macro. `pcap-file` depends on two generations of syn, and its next version is
//! still a release candidate; `pcapng` and `pcarp` support only one of the formats. Writing needs three kinds of
//! block and no crate.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ctflow_engine::os_error::os_error_text;
use pcap_parser::nom::{self, Offset};
use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{
    Block, InterfaceDescriptionBlock, LegacyPcapBlock, OptionCode, PcapError, PcapHeader, parse_block_be,
    parse_block_le, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};
use thiserror::Error;

use crate::text::counted;

/// `LINKTYPE_NETLINK`.
const LINKTYPE_NETLINK: u16 = 253;
/// `ARPHRD_NETLINK` of linux/if_arp.h.
const ARPHRD_NETLINK: u16 = 824;
/// `NETLINK_NETFILTER` of linux/netlink.h.
const NETLINK_NETFILTER: u16 = 12;
/// `PACKET_USER` of linux/if_packet.h: a packet from the kernel to a process.
const PACKET_USER: u16 = 6;
/// Length of the header before the netlink messages of a packet.
const COOKED_HEADER_BYTES: usize = 16;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
/// Code and length of the option `if_tsresol`. Its value is a power of ten: 9 for nanoseconds.
const NANOSECONDS: [u16; 2] = [9, 1];

const NS_PER_SECOND: u64 = 1_000_000_000;
/// The least number of bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// The longest block that is read. A netlink packet rarely has more than 64 KiB, and tools write no longer blocks.
const BLOCK_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most interfaces that a section may describe. A capture has a handful.
const INTERFACES_MAX: usize = 4096;

/// A capture file cannot be written, or cannot be read any further.
#[derive(Debug, Error)]
pub(crate) enum CaptureError {
    /// The file cannot be created. Usually its directory is missing, or belongs to another user.
    #[error(
        "cannot create {}: {}; name a file in a directory that you may write to",
        path.display(),
        os_error_text(.source)
    )]
    Create {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file cannot be written. Usually the disk is full.
    #[error("cannot write to {}: {}; events from now on are missing in it", path.display(), os_error_text(.source))]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file does not exist, or cannot be read.
    #[error("cannot read {}: {}", path.display(), os_error_text(.source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The same file is named for reading and for writing.
    #[error("{} is the file that is read; name another file to write to", path.display())]
    SameFile {
        /// The file.
        path: PathBuf,
    },
    /// The file does not start like a capture file.
    #[error("{} is not a capture file; name a file in pcapng or pcap format", path.display())]
    NotACapture {
        /// The file.
        path: PathBuf,
    },
    /// The packets are not netlink's: they were captured on an Ethernet device, for example.
    #[error("{} has packets of link type {found}, not netlink's 253; capture on an nlmon device", path.display())]
    LinkType {
        /// The file.
        path: PathBuf,
        /// The link type of the packets.
        found: i32,
    },
    /// The file ends within a block: it was copied while being written, or the disk was full.
    #[error(
        "{} is cut off after {}; the rest cannot be read",
        path.display(),
        counted(*.packets, "packet", "packets")
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The number of complete packets before the cut.
        packets: u64,
    },
    /// A block is malformed.
    #[error(
        "{} is damaged at byte {offset}, after {}; the rest cannot be read",
        path.display(),
        counted(*.packets, "packet", "packets")
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The position of the block in the file, in bytes.
        offset: u64,
        /// The number of complete packets before the block.
        packets: u64,
    },
}

/// Writes netlink frames to a pcapng file. Frames are buffered in memory until [`Writer::flush`].
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Writer {
    /// Creates the file, or truncates it, and writes the head of the section.
    ///
    /// # Errors
    /// [`CaptureError::Create`] and [`CaptureError::Write`].
    pub(crate) fn create(path: &Path) -> Result<Self, CaptureError> {
        let path = path.to_owned();
        let file = match File::create(&path) {
            Ok(file) => BufWriter::with_capacity(READ_BYTES, file),
            Err(source) => return Err(CaptureError::Create { path, source }),
        };
        let mut writer = Self { path, file };
        writer.write_with(write_head)?;
        Ok(writer)
    }

    /// Appends one frame that was received at `now_ns`, in nanoseconds since 1970. Wireshark (4.0) shows only the
    /// first message of a frame; the kernel sends every event in a frame of its own.
    ///
    /// # Errors
    /// [`CaptureError::Write`].
    pub(crate) fn write_frame(&mut self, now_ns: u64, frame: &[u8]) -> Result<(), CaptureError> {
        self.write_with(|file| write_packet(file, now_ns, frame))
    }

    /// Writes all buffered frames to the file.
    ///
    /// # Errors
    /// [`CaptureError::Write`].
    pub(crate) fn flush(&mut self) -> Result<(), CaptureError> {
        self.write_with(Write::flush)
    }

    /// Calls `write` with the file, and adds the file's name to an error.
    fn write_with(&mut self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), CaptureError> {
        write(&mut self.file).map_err(|source| CaptureError::Write { path: self.path.clone(), source })
    }
}

/// Writes the section header and the description of the one interface. The file is in the machine's byte order, which
/// its header declares, because readers assume the same byte order for the netlink messages.
fn write_head(file: &mut impl Write) -> io::Result<()> {
    let [major, minor] = [1u16, 0].map(u16::to_ne_bytes);
    let whole_file = u64::MAX.to_ne_bytes(); // the section's length is not known
    write_block(file, SECTION_HEADER, &[&BYTE_ORDER_MAGIC.to_ne_bytes(), &major, &minor, &whole_file])?;
    let [code, length] = NANOSECONDS.map(u16::to_ne_bytes);
    let options = [&code[..], &length, &[9, 0, 0, 0], &[0; 4]].concat(); // the last four bytes end the list of options
    let unlimited = [0; 4];
    write_block(file, INTERFACE_DESCRIPTION, &[&LINKTYPE_NETLINK.to_ne_bytes(), &[0; 2], &unlimited, &options])
}

/// Writes a packet block with one frame, received at `now_ns`, in nanoseconds since 1970.
fn write_packet(file: &mut impl Write, now_ns: u64, frame: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let bytes = u32::try_from(frame.len().saturating_add(COOKED_HEADER_BYTES)).map_err(too_long)?.to_ne_bytes();
    let time = [now_ns >> 32, now_ns & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(0).to_ne_bytes());
    let [high, low] = time;
    let interface = [0; 4];
    write_block(file, ENHANCED_PACKET, &[&interface, &high, &low, &bytes, &bytes, &cooked_header(), frame])
}

/// The header before the netlink messages: `struct sockaddr_ll` in the form of captures.
fn cooked_header() -> [u8; COOKED_HEADER_BYTES] {
    let mut header = [0; COOKED_HEADER_BYTES];
    let fields = [PACKET_USER.to_be_bytes(), ARPHRD_NETLINK.to_be_bytes(), [0; 2], [0; 2], [0; 2], [0; 2], [0; 2]];
    let fields = fields.into_iter().chain([NETLINK_NETFILTER.to_be_bytes()]);
    for (bytes, field) in header.chunks_exact_mut(2).zip(fields) {
        bytes.copy_from_slice(&field);
    }
    header
}

/// Writes a block of any kind: its type, its length, the body padded to four bytes, and the length again.
fn write_block(file: &mut impl Write, kind: u32, body: &[&[u8]]) -> io::Result<()> {
    let body_bytes: usize = body.iter().map(|part| part.len()).sum();
    let padded = body_bytes.next_multiple_of(4);
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let length = u32::try_from(padded.saturating_add(12)).map_err(too_long)?.to_ne_bytes();
    file.write_all(&kind.to_ne_bytes())?;
    file.write_all(&length)?;
    for part in body {
        file.write_all(part)?;
    }
    file.write_all([0; 3].get(..padded - body_bytes).unwrap_or_default())?;
    file.write_all(&length)
}

/// One frame of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// The time of its capture, in nanoseconds since 1970; 0 if the file does not contain it.
    pub(crate) time_ns: u64,
    /// The netlink messages.
    pub(crate) frame: &'a [u8],
}

/// Reads the netfilter frames of a capture file, and skips packets of other netlink families and of other interfaces.
///
/// The reader assumes that the netlink messages are in this machine's byte order.
#[derive(Debug)]
pub(crate) struct Reader<R = File> {
    blocks: BlockBuffer<R>,
    format: Format,
    /// The number of packets read so far, skipped ones included.
    packets: u64,
    /// Whether the end of the file has been reached, or an error was returned.
    finished: bool,
}

/// The file's format, with the state that later blocks depend on.
#[derive(Debug)]
enum Format {
    Pcap(PcapHeader),
    Pcapng { order: ByteOrder, interfaces: Vec<Interface> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// An interface of a pcapng section: its link type and its unit of time.
#[derive(Debug, Clone, Copy)]
struct Interface {
    link_type: i32,
    units_per_second: u128,
    offset_seconds: i64,
}

/// The content of a block.
enum BlockContent {
    /// A packet: its time in nanoseconds since 1970, and the range of the captured bytes in the block.
    Packet { link_type: i32, time_ns: u64, data: Range<usize> },
    /// A block without a packet.
    Other,
}

/// The block is malformed.
struct DamagedBlock;

impl Reader {
    /// Opens a file and reads its head.
    ///
    /// # Errors
    /// [`CaptureError::Read`] and [`CaptureError::NotACapture`]; in a pcap file [`CaptureError::LinkType`] too.
    pub(crate) fn open(path: &Path) -> Result<Self, CaptureError> {
        match File::open(path) {
            Ok(file) => Self::new(path, file),
            Err(source) => Err(CaptureError::Read { path: path.to_owned(), source }),
        }
    }
}

impl<R: Read> Reader<R> {
    /// Reads the head of `source`. Errors name it `path`.
    ///
    /// # Errors
    /// The same as [`Reader::open`].
    pub(crate) fn new(path: &Path, source: R) -> Result<Self, CaptureError> {
        let mut blocks = BlockBuffer { path: path.to_owned(), source, buffer: Vec::new(), start: 0, offset: 0 };
        let no_capture = || CaptureError::NotACapture { path: path.to_owned() };
        let head = blocks.first_bytes::<24>()?.ok_or_else(no_capture)?;
        let format = match head {
            [0x0a, 0x0d, 0x0d, 0x0a, ..] => Format::Pcapng { order: ByteOrder::Little, interfaces: Vec::new() },
            _ => {
                let (_, header) = parse_pcap_header(&head).map_err(|_| no_capture())?;
                blocks.consume(head.len());
                Format::Pcap(header)
            }
        };
        let reader = Self { blocks, format, packets: 0, finished: false };
        match &reader.format {
            Format::Pcap(header) => reader.check_link_type(header.network.0).map(|_| reader),
            Format::Pcapng { .. } => Ok(reader),
        }
    }

    /// The next netfilter frame; `None` at the end of the file, and after an error.
    ///
    /// # Errors
    /// [`CaptureError::Truncated`] and [`CaptureError::Damaged`] after the last complete packet,
    /// [`CaptureError::LinkType`] if no interface is netlink's, and [`CaptureError::Read`].
    pub(crate) fn read_packet(&mut self) -> Result<Option<Packet<'_>>, CaptureError> {
        if self.finished {
            return Ok(None);
        }
        let found = self.find_netfilter_packet();
        self.finished = !matches!(found, Ok(Some(_)));
        let Some((time_ns, frame)) = found? else { return Ok(None) };
        Ok(self.blocks.buffer.get(frame).map(|frame| Packet { time_ns, frame }))
    }

    /// Finds the next netfilter packet. Returns its time and the range of its frame in the buffer.
    fn find_netfilter_packet(&mut self) -> Result<Option<(u64, Range<usize>)>, CaptureError> {
        while let Some(length) = self.load_block()? {
            let offset = self.blocks.offset;
            let found =
                self.format.parse_block(self.blocks.peek(length)).map_err(|DamagedBlock| self.damaged(offset))?;
            let start = self.blocks.start;
            self.blocks.consume(length);
            let BlockContent::Packet { link_type, time_ns, data } = found else { continue };
            self.packets = self.packets.saturating_add(1);
            let data = start.saturating_add(data.start)..start.saturating_add(data.end);
            let captured = self.blocks.buffer.get(data.clone()).unwrap_or_default();
            if self.check_link_type(link_type)? && is_netfilter(captured) {
                return Ok(Some((time_ns, data.start.saturating_add(COOKED_HEADER_BYTES)..data.end)));
            }
        }
        Ok(None)
    }

    /// Reads the next block completely into the buffer. Returns its length; `None` at the end of the file.
    fn load_block(&mut self) -> Result<Option<usize>, CaptureError> {
        let offset = self.blocks.offset;
        let length = match &mut self.format {
            Format::Pcap(header) => self.blocks.pcap_length(header),
            Format::Pcapng { order, .. } => self.blocks.pcapng_length(order),
        };
        let length = match length? {
            Some(length) if length <= BLOCK_BYTES_MAX => length,
            Some(_) => return Err(self.damaged(offset)),
            None if self.blocks.is_empty() => return Ok(None),
            None => return Err(self.truncated()),
        };
        if self.blocks.fill(length)? { Ok(Some(length)) } else { Err(self.truncated()) }
    }

    /// Whether `found` is netlink's link type.
    ///
    /// # Errors
    /// [`CaptureError::LinkType`] for another link type, unless the pcapng section has also described a netlink
    /// interface.
    fn check_link_type(&self, found: i32) -> Result<bool, CaptureError> {
        let netlink = i32::from(LINKTYPE_NETLINK);
        let has_netlink = match &self.format {
            Format::Pcap(_) => false,
            Format::Pcapng { interfaces, .. } => interfaces.iter().any(|other| other.link_type == netlink),
        };
        if found == netlink || has_netlink {
            return Ok(found == netlink);
        }
        Err(CaptureError::LinkType { path: self.blocks.path.clone(), found })
    }

    /// The error for a file that ends within a block.
    fn truncated(&self) -> CaptureError {
        CaptureError::Truncated { path: self.blocks.path.clone(), packets: self.packets }
    }

    /// The error for a malformed block at `offset` in the file.
    fn damaged(&self, offset: u64) -> CaptureError {
        CaptureError::Damaged { path: self.blocks.path.clone(), offset, packets: self.packets }
    }
}

/// Whether a captured packet is of netlink's netfilter family, according to its header.
fn is_netfilter(captured: &[u8]) -> bool {
    let field = |index| captured.as_chunks::<2>().0.get(index).map(|field| u16::from_be_bytes(*field));
    field(1) == Some(ARPHRD_NETLINK) && field(7) == Some(NETLINK_NETFILTER)
}

impl Format {
    /// Parses one complete block.
    fn parse_block(&mut self, block: &[u8]) -> Result<BlockContent, DamagedBlock> {
        match self {
            Self::Pcap(header) => parse_pcap_packet(header, block),
            Self::Pcapng { order, interfaces } => {
                let parse = if *order == ByteOrder::Big { parse_block_be } else { parse_block_le };
                parse_pcapng_block(interfaces, block, &complete(parse(block))?)
            }
        }
    }
}

/// The result of parsing a complete block. If the parser needs more bytes, the block's length is wrong and it is
/// malformed.
fn complete<T>(result: nom::IResult<&[u8], T, PcapError<&[u8]>>) -> Result<T, DamagedBlock> {
    result.map(|(_, parsed)| parsed).map_err(|_| DamagedBlock)
}

/// Parses a packet of a pcap file.
fn parse_pcap_packet(header: &PcapHeader, block: &[u8]) -> Result<BlockContent, DamagedBlock> {
    let parse = match () {
        () if header.is_modified_format() => parse_pcap_frame_modified,
        () if header.is_bigendian() => parse_pcap_frame_be,
        () => parse_pcap_frame,
    };
    let LegacyPcapBlock { ts_sec, ts_usec, data, .. } = complete(parse(block))?;
    let unit_ns = if header.is_nanosecond_precision() { 1 } else { 1_000 };
    let time_ns = u64::from(ts_sec) * NS_PER_SECOND + u64::from(ts_usec) * unit_ns;
    Ok(BlockContent::Packet { link_type: header.network.0, time_ns, data: range_in(block, data) })
}

/// Applies a pcapng block: section headers and interface descriptions change `interfaces`, packets are returned.
fn parse_pcapng_block(
    interfaces: &mut Vec<Interface>,
    bytes: &[u8],
    block: &Block<'_>,
) -> Result<BlockContent, DamagedBlock> {
    match block {
        Block::SectionHeader(_) => interfaces.clear(),
        Block::InterfaceDescription(_) if interfaces.len() >= INTERFACES_MAX => return Err(DamagedBlock),
        Block::InterfaceDescription(description) => interfaces.push(Interface::new(description)?),
        Block::EnhancedPacket(packet) => {
            let index = usize::try_from(packet.if_id).map_err(|_| DamagedBlock)?;
            let interface = interfaces.get(index).ok_or(DamagedBlock)?;
            let time_ns = interface.time_ns(u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low));
            let data = range_in(bytes, packet.packet_data());
            return Ok(BlockContent::Packet { link_type: interface.link_type, time_ns, data });
        }
        Block::SimplePacket(packet) => {
            let interface = interfaces.first().ok_or(DamagedBlock)?;
            let data = range_in(bytes, packet.packet_data());
            return Ok(BlockContent::Packet { link_type: interface.link_type, time_ns: 0, data });
        }
        _ => {}
    }
    Ok(BlockContent::Other)
}

/// The range of `part`, which is a part of `block`, within `block`.
fn range_in(block: &[u8], part: &[u8]) -> Range<usize> {
    let start = block.offset(part);
    start..start.saturating_add(part.len())
}

impl Interface {
    /// Reads link type, time resolution and time offset of a description.
    fn new(description: &InterfaceDescriptionBlock<'_>) -> Result<Self, DamagedBlock> {
        // pcap-parser supports no resolution by powers of two, and no time offset in big endian; both are read here.
        let power = u32::from(description.if_tsresol & 0x7f);
        let base = if description.if_tsresol & 0x80 == 0 { 10u128 } else { 2 };
        let units_per_second = base.checked_pow(power).ok_or(DamagedBlock)?;
        let offset = description.options.iter().find(|option| option.code == OptionCode::IfTsoffset);
        let offset = offset.and_then(|option| option.value().first_chunk().copied());
        let big_endian = description.block_type != INTERFACE_DESCRIPTION;
        let seconds = if big_endian { i64::from_be_bytes } else { i64::from_le_bytes };
        let link_type = description.linktype.0;
        Ok(Self { link_type, units_per_second, offset_seconds: offset.map_or(0, seconds) })
    }

    /// The time `units` in nanoseconds since 1970, clamped to the range of u64.
    fn time_ns(&self, units: u64) -> u64 {
        let nanoseconds = u128::from(units) * u128::from(NS_PER_SECOND) / self.units_per_second;
        let offset = i128::from(self.offset_seconds) * i128::from(NS_PER_SECOND);
        let sum = i128::try_from(nanoseconds).unwrap_or(i128::MAX).saturating_add(offset);
        u64::try_from(sum.max(0)).unwrap_or(u64::MAX)
    }
}

/// Buffers the file's bytes and returns them block by block.
#[derive(Debug)]
struct BlockBuffer<R> {
    path: PathBuf,
    source: R,
    buffer: Vec<u8>,
    /// The position of the next block in the buffer.
    start: usize,
    /// The position of the next block in the file, in bytes.
    offset: u64,
}

impl<R: Read> BlockBuffer<R> {
    /// The length that the next packet of a pcap file declares; `None` if the file ends before.
    fn pcap_length(&mut self, header: &PcapHeader) -> Result<Option<usize>, CaptureError> {
        let header_bytes = if header.is_modified_format() { 24 } else { 16 };
        let order = if header.is_bigendian() { ByteOrder::Big } else { ByteOrder::Little };
        let Some([_, _, captured, _]) = self.first_words()? else { return Ok(None) };
        Ok(Some(length(order.u32(captured)).saturating_add(header_bytes)))
    }

    /// The length that the next block of a pcapng file declares; `None` if the file ends before. A section header
    /// changes the byte order.
    fn pcapng_length(&mut self, order: &mut ByteOrder) -> Result<Option<usize>, CaptureError> {
        let Some([kind, bytes, magic]) = self.first_words()? else { return Ok(None) };
        if kind == SECTION_HEADER.to_be_bytes() {
            *order = if magic == BYTE_ORDER_MAGIC.to_be_bytes() { ByteOrder::Big } else { ByteOrder::Little };
        }
        Ok(Some(length(order.u32(bytes))))
    }

    /// The first `N` words of four bytes of the next block; `None` if the file ends before.
    fn first_words<const N: usize>(&mut self) -> Result<Option<[[u8; 4]; N]>, CaptureError> {
        let there = self.fill(N.saturating_mul(4))?;
        Ok(self.peek(N.saturating_mul(4)).as_chunks::<4>().0.first_chunk().copied().filter(|_| there))
    }

    /// The first `N` bytes of the next block; `None` if the file ends before.
    fn first_bytes<const N: usize>(&mut self) -> Result<Option<[u8; N]>, CaptureError> {
        let there = self.fill(N)?;
        Ok(self.peek(N).first_chunk().copied().filter(|_| there))
    }

    /// Reads until the buffer has `bytes` from the next block's start. Returns false if the file ends before.
    fn fill(&mut self, bytes: usize) -> Result<bool, CaptureError> {
        let missing = bytes.saturating_sub(self.buffer.len().saturating_sub(self.start));
        if missing == 0 {
            return Ok(true);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let most = u64::try_from(missing.max(READ_BYTES)).unwrap_or(u64::MAX);
        let read = self.source.by_ref().take(most).read_to_end(&mut self.buffer);
        let read = read.map_err(|source| CaptureError::Read { path: self.path.clone(), source })?;
        Ok(read >= missing)
    }

    /// The first `bytes` of the next block, or fewer if the buffer has fewer.
    fn peek(&self, bytes: usize) -> &[u8] {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        rest.get(..bytes).unwrap_or(rest)
    }

    /// Removes `bytes` from the front of the buffer.
    fn consume(&mut self, bytes: usize) {
        self.start = self.start.saturating_add(bytes).min(self.buffer.len());
        self.offset = self.offset.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Whether no bytes are buffered.
    fn is_empty(&self) -> bool {
        self.start >= self.buffer.len()
    }
}

fn length(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use ctflow_parser::frame::{Message, Messages};
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::*;

    const EVENTS: &[u8] = include_bytes!("../../parser/fixtures/events.nl");
    const NOW_NS: u64 = 1_795_197_497_123_456_789;

    type Frames = Vec<(u64, Vec<u8>)>;

    /// The recorded events, each in a frame of its own, and then a frame with all of them. The frames are a
    /// microsecond apart.
    fn events() -> Frames {
        let record = |message| match message {
            Ok(Message::Record(record)) => record.bytes(),
            other => panic!("a record, not {other:?}"),
        };
        let frames = Messages::new(EVENTS).map(record).chain([EVENTS]);
        frames.enumerate().map(|(index, frame)| (NOW_NS + 1_000 * index as u64, frame.to_vec())).collect()
    }

    fn write(path: &Path, frames: &Frames) {
        let mut writer = Writer::create(path).unwrap();
        for (time_ns, frame) in frames {
            writer.write_frame(*time_ns, frame).unwrap();
        }
        writer.flush().unwrap();
    }

    /// The frames of a file, and the error that ends the reading, if any.
    fn read(file: &[u8]) -> (Frames, Result<(), String>) {
        let mut frames = Vec::new();
        let ending = Reader::new(Path::new("x.pcapng"), file).and_then(|mut reader| {
            while let Some(Packet { time_ns, frame }) = reader.read_packet()? {
                frames.push((time_ns, frame.to_vec()));
            }
            assert_eq!(reader.read_packet().unwrap(), None);
            Ok(())
        });
        (frames, ending.map_err(|error| error.to_string()))
    }

    fn written(frames: &Frames) -> Vec<u8> {
        let mut file = Vec::new();
        write_head(&mut file).unwrap();
        for (time_ns, frame) in frames {
            write_packet(&mut file, *time_ns, frame).unwrap();
        }
        file
    }

    fn cooked_frame(family: u16, frame: &[u8]) -> Vec<u8> {
        [&4u16.to_be_bytes()[..], &ARPHRD_NETLINK.to_be_bytes(), &[0; 10], &family.to_be_bytes(), frame].concat()
    }

    /// A pcap file in the form of other tools. `word` determines its byte order.
    fn pcap(magic: u32, word: fn(u32) -> [u8; 4], link_type: u32, packets: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
        let version = word(0x0004_0002); // two numbers of 16 bits; no reader checks them
        let mut file = [word(magic), version, [0; 4], [0; 4], word(65_535), word(link_type)].concat();
        for (seconds, fraction, data) in packets {
            let bytes = word(u32::try_from(data.len()).unwrap());
            file.extend([word(*seconds), word(*fraction), bytes, bytes].concat());
            file.extend(data);
        }
        file
    }

    fn block(word: fn(u32) -> [u8; 4], kind: u32, body: &[u8]) -> Vec<u8> {
        let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
        let bytes = word(u32::try_from(12 + body.len() + padding.len()).unwrap());
        [&word(kind)[..], &bytes, body, &padding, &bytes].concat()
    }

    fn section(word: fn(u32) -> [u8; 4]) -> Vec<u8> {
        block(word, SECTION_HEADER, &[word(BYTE_ORDER_MAGIC), word(1), [0xff; 4], [0xff; 4]].concat())
    }

    /// A block with an interface description, with the option `if_tsresol` if `resolution` is given.
    fn interface(word: fn(u32) -> [u8; 4], link_type: u8, resolution: Option<u8>) -> Vec<u8> {
        let half = |value| if word(1) == [1, 0, 0, 0] { [value, 0] } else { [0, value] };
        let option = |value| [half(9), half(1), [value, 0], [0, 0], [0, 0], [0, 0]].concat();
        let options = resolution.map(option).unwrap_or_default();
        block(word, INTERFACE_DESCRIPTION, &[&half(link_type)[..], &[0; 2], &[0; 4], &options].concat())
    }

    fn enhanced(word: fn(u32) -> [u8; 4], index: u32, units: u64, data: &[u8]) -> Vec<u8> {
        let [low, high] = [units & 0xffff_ffff, units >> 32].map(|half| word(u32::try_from(half).unwrap()));
        let bytes = word(u32::try_from(data.len()).unwrap());
        block(word, ENHANCED_PACKET, &[&word(index)[..], &high, &low, &bytes, &bytes, data].concat())
    }

    #[test]
    fn written_frames_are_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.pcapng");
        write(&path, &events());
        let mut reader = Reader::open(&path).unwrap();
        for (time_ns, frame) in events() {
            assert_eq!(reader.read_packet().unwrap(), Some(Packet { time_ns, frame: &frame }));
        }
        assert_eq!(reader.read_packet().unwrap(), None);
    }

    #[test]
    fn wireshark_sees_the_flows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.pcapng");
        let mut single = events();
        single.pop(); // the frame with all events, of which Wireshark shows only the first
        write(&path, &single);
        let output = Command::new("tshark").args(["-V", "-r"]).arg(&path).output();
        let output = ctflow_lab::or_skip!(output.map_err(|error| format!("tshark: {error}")));
        let text = String::from_utf8_lossy(&output.stdout);
        // The words of Wireshark 4.0.
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for expected in [
            "Encapsulation type: Linux Netlink (158)",
            "Family: Netfilter (0x000c)",
            "Subsystem: Conntrack (1)",
            "Attribute: Original IP tuple",
            "IPv4 source address",
            "Port: 80",
        ] {
            assert!(text.contains(expected), "no {expected:?} in:\n{}", text.get(..6_000).unwrap_or(&text));
        }
        assert!(!text.contains("Malformed"));
    }

    #[test]
    fn pcap_files_are_read_in_both_byte_orders_and_resolutions() {
        let packets = [
            (3, 7, cooked_frame(NETLINK_NETFILTER, b"one")),
            (4, 8, cooked_frame(0, b"a route")), // another family
            (5, 9, b"short".to_vec()),
            (6, 999, cooked_frame(NETLINK_NETFILTER, b"")),
        ];
        for word in [u32::to_le_bytes, u32::to_be_bytes] {
            for (magic, unit) in [(0xa1b2_c3d4, 1_000), (0xa1b2_3c4d, 1)] {
                let expected =
                    vec![(3 * NS_PER_SECOND + 7 * unit, b"one".to_vec()), (6 * NS_PER_SECOND + 999 * unit, Vec::new())];
                assert_eq!(read(&pcap(magic, word, 253, &packets)), (expected, Ok(())));
            }
        }
    }

    #[test]
    fn pcapng_files_are_read_with_sections_and_interfaces_of_every_kind() {
        let data = cooked_frame(NETLINK_NETFILTER, b"frame");
        let mut file = Vec::new();
        let mut expected = Vec::new();
        for word in [u32::to_be_bytes, u32::to_le_bytes] {
            file.extend(section(word));
            for (index, (resolution, units, time_ns)) in [
                (None, 5_000_001, 5_000_001_000), // microseconds
                (Some(9), NOW_NS, NOW_NS),
                (Some(0x80 | 10), 3 * 512, 1_500_000_000), // 1/1,024 s
            ]
            .into_iter()
            .enumerate()
            {
                file.extend(interface(word, 253, resolution));
                file.extend(enhanced(word, u32::try_from(index).unwrap(), units, &data));
                expected.push((time_ns, b"frame".to_vec()));
            }
            file.extend(interface(word, 1, None));
            file.extend(enhanced(word, 3, 1, &[0; 60])); // Ethernet packets beside netlink's are skipped
            file.extend(block(word, 0x0bad, b"a block of the future"));
        }
        assert_eq!(read(&file), (expected, Ok(())));
    }

    #[test]
    fn a_cut_file_is_read_up_to_the_cut_wherever_that_is() {
        let frames: Frames = events().into_iter().take(3).collect();
        let whole = written(&frames);
        let ends: Vec<usize> =
            (0..=3).map(|count| written(&frames.iter().take(count).cloned().collect()).len()).collect();
        for length in 24..whole.len() {
            let (got, ending) = read(&whole[..length]);
            let packets = ends.iter().skip(1).filter(|end| **end <= length).count();
            assert_eq!(got, frames[..packets]);
            let section_only = length == section(u32::to_le_bytes).len();
            if ends.contains(&length) || section_only {
                assert_eq!(ending, Ok(()), "{length}");
            } else {
                let after = counted(packets as u64, "packet", "packets");
                assert_eq!(ending, Err(format!("x.pcapng is cut off after {after}; the rest cannot be read")));
            }
        }
    }

    #[test]
    fn files_without_netlink_packets_are_refused_in_one_line() {
        let ethernet = pcap(0xa1b2_c3d4, u32::to_le_bytes, 1, &[]);
        let ethernet_ng = [
            section(u32::to_le_bytes),
            interface(u32::to_le_bytes, 1, None),
            enhanced(u32::to_le_bytes, 0, 1, &[0; 60]),
        ]
        .concat();
        let link_type = "x.pcapng has packets of link type 1, not netlink's 253; capture on an nlmon device";
        let no_capture = "x.pcapng is not a capture file; name a file in pcapng or pcap format";
        for (file, message) in [
            (&ethernet[..], link_type),
            (&ethernet_ng, link_type),
            (b"", no_capture),
            (b"flow", no_capture),
            (&[b'x'; 100], no_capture),
        ] {
            assert_eq!(read(file), (vec![], Err(message.to_owned())));
        }
        let wrong_length =
            [section(u32::to_le_bytes), 6u32.to_le_bytes().to_vec(), u32::MAX.to_le_bytes().to_vec(), vec![0; 8]];
        let damaged = "x.pcapng is damaged at byte 28, after 0 packets; the rest cannot be read";
        assert_eq!(read(&wrong_length.concat()).1, Err(damaged.to_owned()));
        let missing = Reader::open(Path::new("/nonexistent/x.pcapng")).unwrap_err().to_string();
        assert_eq!(missing, "cannot read /nonexistent/x.pcapng: No such file or directory");
        let nowhere = Writer::create(Path::new("/nonexistent/x.pcapng")).unwrap_err().to_string();
        assert!(nowhere.starts_with("cannot create /nonexistent/x.pcapng: No such file"), "{nowhere}");
    }

    #[test]
    fn a_full_disk_is_reported() {
        let mut writer = Writer::create(Path::new("/dev/full")).unwrap();
        writer.write_frame(1, b"frame").unwrap();
        let error = writer.flush().unwrap_err().to_string();
        assert!(error.starts_with("cannot write to /dev/full: No space left on device"), "{error}");
        std::mem::forget(writer); // its drop would write again
    }

    proptest! {
        #[test]
        fn any_written_frames_are_read_back(frames in vec((any::<u64>(), vec(any::<u8>(), 0..300)), 0..20)) {
            assert_eq!(read(&written(&frames)), (frames, Ok(())));
        }

        #[test]
        fn a_damaged_byte_ends_the_reading_without_a_panic(
            at in 0..4_000usize, byte in any::<u8>(), tail in vec(any::<u8>(), 0..100)
        ) {
            let mut file = written(&events().into_iter().take(15).collect());
            let at = at % file.len();
            file[at] = byte;
            file.extend(&tail);
            let (frames, _) = read(&file);
            assert!(frames.len() <= file.len() / 32);
        }

        #[test]
        fn blocks_of_any_kind_and_content_cause_no_panic(
            blocks in vec((0..14u32, vec(any::<u8>(), 0..80)), 0..8), big in any::<bool>()
        ) {
            let word = if big { u32::to_be_bytes } else { u32::to_le_bytes };
            let mut file = [section(word), interface(word, 253, Some(9))].concat();
            blocks.iter().for_each(|(kind, body)| file.extend(block(word, *kind, body)));
            let _ = read(&file);
        }
    }
}
