//! The steering program, which the kernel runs on every event before it queues it: it accepts the events of one
//! worker's share that pass the operator's filter.
//!
//! The kernel offers every event to each worker's socket. A classic BPF program on each socket accepts the socket's
//! share, by `CTA_ID` modulo the number of workers. A flow keeps its id for life, so all its events go to one worker,
//! in order. The operator's filter is part of the same program, and an event that it drops costs no copy and no byte of
//! socket buffer.
//!
//! ```text
//!  byte 0          4           5         6        8     12     16          17       18         20
//!  nlmsghdr: len   type (low)  (high     flags    seq   pid    nfgenmsg:   version  resource   attributes ...
//!                  message     subsystem)                      family
//! ```
//! (The type is one number in the machine's byte order: the picture shows a little-endian machine.)
//!
//! A program never drops a message that it cannot check. A message without the attribute of a condition passes that
//! condition. The exception is the mark: the kernel leaves out a mark of zero, so a missing mark counts as zero.

use thiserror::Error;

use ctflow_parser::filter::Masked;
use ctflow_parser::flow::FlowView;
use ctflow_parser::uapi::{
    CTA_EXPECT_TUPLE, CTA_ID, CTA_MARK, CTA_PROTO_NUM, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, NFNL_SUBSYS_CTNETLINK,
    NFNL_SUBSYS_CTNETLINK_EXP,
};

use crate::limits::{FILTER_PORT_IDS, FILTER_PROTOCOLS, STEER_INSTRUCTIONS, WORKERS};

/// The share of the events that goes to a worker's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The worker's index, below `workers`.
    pub worker: u32,
    /// The number of workers that share the events, 1 to [`WORKERS`].
    pub workers: u32,
}

impl Share {
    /// All events, for a single reader.
    pub const ALL: Self = Self { worker: 0, workers: 1 };
}

impl Default for Share {
    fn default() -> Self {
        Self::ALL
    }
}

/// The operator's filter of events, which the kernel applies. The default passes all events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Passes only this address family, as `nfgenmsg` has it (2 for IPv4, 10 for IPv6).
    pub family: Option<u8>,
    /// Passes only flows and expectations of these layer-4 protocols. At most [`FILTER_PROTOCOLS`]; empty passes all.
    pub protocols: Vec<u8>,
    /// Passes only flows whose masked mark has this value. Expectations have no mark and pass.
    pub mark: Option<Masked>,
    /// Drops the events that requests from these netlink port ids cause: this node's own. At most [`FILTER_PORT_IDS`].
    pub ignored_port_ids: Vec<u32>,
}

impl Filter {
    /// Whether the program passes events of this flow, whatever its mark is. A dump also lists flows whose events it
    /// drops. In a shard they would stay for ever, because no event reports their end.
    #[must_use]
    pub fn passes(&self, flow: &FlowView<'_>) -> bool {
        let family = self.family.is_none_or(|family| family == flow.family);
        let listed = |proto| self.protocols.is_empty() || self.protocols.contains(&proto);
        family && flow.orig.is_none_or(|orig| listed(orig.proto))
    }
}

/// A share or filter that cannot be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SteerError {
    /// The worker's index is past the last, or there are too many workers.
    #[error("no worker {worker} of {workers}: use 1 to {WORKERS} workers, counted from 0")]
    Share {
        /// The worker's index.
        worker: u32,
        /// The number of workers.
        workers: u32,
    },
    /// The list of protocols is longer than a program has room for.
    #[error("the kernel-side filter names {0} protocols: use at most {FILTER_PROTOCOLS}, or filter in user space")]
    Protocols(usize),
    /// The list of port ids is longer than a program has room for, which is a bug in ctflow.
    #[error("the kernel-side filter ignores {0} netlink port ids, more than {FILTER_PORT_IDS}")]
    PortIds(usize),
}

/// One classic BPF instruction, as the kernel's `sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// The number of instructions to skip when a comparison holds.
    pub jt: u8,
    /// The number of instructions to skip when a comparison fails.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// A steering program, ready to be attached to a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
}

impl Program {
    /// Compiles `share` and `filter`. Returns `None` when every event is accepted, so that no program has to be
    /// attached.
    ///
    /// # Errors
    /// [`SteerError`] for a share that does not exist or a list past its bound.
    pub fn compile(share: Share, filter: &Filter) -> Result<Option<Self>, SteerError> {
        check_bounds(share, filter)?;
        if share.workers == 1 && *filter == Filter::default() {
            return Ok(None);
        }
        let mut code = Assembler::default();
        code.emit_program(share, filter);
        debug_assert!(code.instructions.len() <= STEER_INSTRUCTIONS, "derived in limits.rs");
        Ok(Some(Self { instructions: code.instructions }))
    }

    /// The instructions, in order.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }
}

/// Checks the share, and the lengths of the filter's lists.
fn check_bounds(share: Share, filter: &Filter) -> Result<(), SteerError> {
    let Share { worker, workers } = share;
    if worker >= workers || workers > WORKERS {
        return Err(SteerError::Share { worker, workers });
    }
    if filter.protocols.len() > FILTER_PROTOCOLS {
        return Err(SteerError::Protocols(filter.protocols.len()));
    }
    if filter.ignored_port_ids.len() > FILTER_PORT_IDS {
        return Err(SteerError::PortIds(filter.ignored_port_ids.len()));
    }
    Ok(())
}

// Offsets in an event, in bytes from its start.
const SUBSYSTEM: u32 = if cfg!(target_endian = "little") { 5 } else { 4 };
const PORT_ID: u32 = 12;
const FAMILY: u32 = 16;
const ATTRIBUTES: u32 = 20;
/// The offset of an attribute's value from the attribute's start.
const VALUE: u32 = 4;

// Operations, as linux/bpf_common.h and linux/filter.h put them together.
const LOAD_NUMBER: u16 = 0x00; // BPF_LD | BPF_IMM
const LOAD_X_NUMBER: u16 = 0x01; // BPF_LDX | BPF_IMM
const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const LOAD_BYTE_AT_X: u16 = 0x50; // BPF_LD | BPF_B | BPF_IND
const LOAD_WORD_AT_X: u16 = 0x40; // BPF_LD | BPF_W | BPF_IND
const COPY_TO_X: u16 = 0x07; // BPF_MISC | BPF_TAX
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const MODULO: u16 = 0x94; // BPF_ALU | BPF_MOD | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// `SKF_AD_OFF + SKF_AD_NLATTR`: the offset of the attribute of type X, searched from offset A; zero when there is
/// none.
const FIND_ATTRIBUTE: u32 = 0u32.wrapping_sub(0x1000).wrapping_add(12);
/// `SKF_AD_OFF + SKF_AD_NLATTR_NEST`: the offset of the attribute of type X inside the attribute at A; zero when there
/// is none.
const FIND_NESTED: u32 = 0u32.wrapping_sub(0x1000).wrapping_add(16);

const ACCEPT: u32 = u32::MAX; // the number of bytes of the message to keep: all
const DROP: u32 = 0;

/// Assembles a program from conditions. A conditional jump reaches only 255 instructions, so it never skips more than
/// one instruction. That one is a plain jump, which skips the rest.
#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
}

impl Assembler {
    /// Emits the whole program.
    fn emit_program(&mut self, share: Share, filter: &Filter) {
        self.drop_port_ids(&filter.ignored_port_ids);
        self.drop_other_families(filter.family);
        self.load_byte(SUBSYSTEM);
        self.only_if_equal(u32::from(NFNL_SUBSYS_CTNETLINK), |code| code.emit_flow_conditions(share, filter));
        self.only_if_equal(u32::from(NFNL_SUBSYS_CTNETLINK_EXP), |code| {
            code.emit_expectation_conditions(share, filter);
        });
        self.return_verdict(verdict_without_id(share));
    }

    /// Emits the conditions on an event of a flow.
    fn emit_flow_conditions(&mut self, share: Share, filter: &Filter) {
        self.drop_other_shares(share);
        self.drop_other_protocols(CTA_TUPLE_ORIG, &filter.protocols);
        self.drop_other_marks(filter.mark);
        self.return_verdict(ACCEPT);
    }

    /// Emits the conditions on an event of an expectation.
    fn emit_expectation_conditions(&mut self, share: Share, filter: &Filter) {
        self.drop_other_protocols(CTA_EXPECT_TUPLE, &filter.protocols);
        self.return_verdict(verdict_without_id(share));
    }

    /// Drops events that a request from one of these port ids caused.
    fn drop_port_ids(&mut self, port_ids: &[u32]) {
        if port_ids.is_empty() {
            return;
        }
        self.emit(LOAD_WORD, PORT_ID);
        for port_id in port_ids {
            // A load converts from network order, but the field is in the machine's.
            let as_loaded = u32::from_be_bytes(port_id.to_ne_bytes());
            self.only_if_equal(as_loaded, |code| code.return_verdict(DROP));
        }
    }

    /// Drops events of any other address family.
    fn drop_other_families(&mut self, family: Option<u8>) {
        if let Some(family) = family {
            self.load_byte(FAMILY);
            self.skip_if_equal(u32::from(family), |code| code.return_verdict(DROP));
        }
    }

    /// Drops events of flows whose id assigns them to another worker.
    fn drop_other_shares(&mut self, share: Share) {
        if share.workers == 1 {
            return;
        }
        self.find_attribute(CTA_ID);
        if share.worker != 0 {
            self.only_if_equal(0, |code| code.return_verdict(DROP)); // a message without an id belongs to worker 0
        }
        self.skip_if_equal(0, |code| {
            code.emit(COPY_TO_X, 0);
            code.emit(LOAD_WORD_AT_X, VALUE);
            code.emit(MODULO, share.workers);
            code.skip_if_equal(share.worker, |code| code.return_verdict(DROP));
        });
    }

    /// Drops events whose `tuple` has none of the `protocols`.
    fn drop_other_protocols(&mut self, tuple: u16, protocols: &[u8]) {
        if protocols.is_empty() {
            return;
        }
        self.find_attribute(tuple);
        self.skip_if_equal(0, |code| {
            code.find_nested(CTA_TUPLE_PROTO);
            code.skip_if_equal(0, |code| {
                code.find_nested(CTA_PROTO_NUM);
                code.skip_if_equal(0, |code| {
                    code.emit(COPY_TO_X, 0);
                    code.emit(LOAD_BYTE_AT_X, VALUE);
                    code.drop_unless_one_of(protocols);
                });
            });
        });
    }

    /// Drops the event unless A is one of these values.
    fn drop_unless_one_of(&mut self, values: &[u8]) {
        match values.split_first() {
            Some((first, rest)) => self.skip_if_equal(u32::from(*first), |code| code.drop_unless_one_of(rest)),
            None => self.return_verdict(DROP),
        }
    }

    /// Drops events of flows whose masked mark has another value.
    fn drop_other_marks(&mut self, mark: Option<Masked>) {
        let Some(Masked { value, mask }) = mark else { return };
        self.find_attribute(CTA_MARK);
        self.skip_if_equal(0, |code| {
            code.emit(COPY_TO_X, 0);
            code.emit(LOAD_WORD_AT_X, VALUE);
        }); // without the attribute, A is zero: the mark that the kernel leaves out
        self.emit(AND, mask);
        self.skip_if_equal(value & mask, |code| code.return_verdict(DROP));
    }

    /// A = the offset of the message's attribute of this type, or zero.
    fn find_attribute(&mut self, kind: u16) {
        self.emit(LOAD_X_NUMBER, u32::from(kind));
        self.emit(LOAD_NUMBER, ATTRIBUTES);
        self.emit(LOAD_WORD, FIND_ATTRIBUTE);
    }

    /// A = the offset of the attribute of this type inside the one at A, or zero.
    fn find_nested(&mut self, kind: u16) {
        self.emit(LOAD_X_NUMBER, u32::from(kind));
        self.emit(LOAD_WORD, FIND_NESTED);
    }

    /// Emits `body`, which runs unless A is `value`.
    fn skip_if_equal(&mut self, value: u32, body: impl FnOnce(&mut Self)) {
        self.instructions.push(Instruction { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: value });
        self.jump_over(body);
    }

    /// Emits `body`, which runs only if A is `value`.
    fn only_if_equal(&mut self, value: u32, body: impl FnOnce(&mut Self)) {
        self.instructions.push(Instruction { code: JUMP_IF_EQUAL, jt: 1, jf: 0, k: value });
        self.jump_over(body);
    }

    /// Emits a jump over `body`, then `body`.
    fn jump_over(&mut self, body: impl FnOnce(&mut Self)) {
        let jump = self.instructions.len();
        self.emit(JUMP, 0);
        body(self);
        let distance = u32::try_from(self.instructions.len() - jump - 1).unwrap_or(u32::MAX);
        if let Some(instruction) = self.instructions.get_mut(jump) {
            instruction.k = distance;
        }
    }

    /// A = the byte at `offset`.
    fn load_byte(&mut self, offset: u32) {
        self.emit(LOAD_BYTE, offset);
    }

    /// Ends the program with `verdict`, [`ACCEPT`] or [`DROP`].
    fn return_verdict(&mut self, verdict: u32) {
        self.emit(RETURN, verdict);
    }

    /// Appends one instruction.
    fn emit(&mut self, code: u16, k: u32) {
        self.instructions.push(Instruction { code, jt: 0, jf: 0, k });
    }
}

/// The verdict on messages without a flow id: they go to worker 0.
fn verdict_without_id(share: Share) -> u32 {
    if share.worker == 0 { ACCEPT } else { DROP }
}

// tests/receive.rs tests the programs on a real kernel.
#[cfg(test)]
mod tests {
    use super::*;

    /// The filter with the longest program.
    fn largest() -> Filter {
        Filter {
            family: Some(2),
            protocols: (0..).take(FILTER_PROTOCOLS).collect(),
            mark: Some(Masked { value: 1, mask: 1 }),
            ignored_port_ids: (1..).take(FILTER_PORT_IDS).collect(),
        }
    }

    #[test]
    fn a_single_reader_of_everything_needs_no_program() {
        assert_eq!(Program::compile(Share::ALL, &Filter::default()), Ok(None));
    }

    #[test]
    fn the_longest_program_keeps_to_its_bound_and_jumps_only_inside() {
        let program = Program::compile(Share { worker: 1, workers: 2 }, &largest()).unwrap().unwrap();
        let code = program.instructions();
        assert!(code.len() <= STEER_INSTRUCTIONS);
        assert_eq!(code.last().unwrap().code, RETURN);
        for (index, instruction) in code.iter().enumerate() {
            let furthest = match instruction.code {
                JUMP => instruction.k as usize,
                JUMP_IF_EQUAL => usize::from(instruction.jt.max(instruction.jf)),
                _ => 0,
            };
            assert!(index + furthest + 1 < code.len() || instruction.code == RETURN, "{index}: {instruction:?}");
        }
    }

    #[test]
    fn shares_and_lists_past_their_bounds_are_refused_by_name() {
        let refused = |share, filter: &Filter| Program::compile(share, filter).unwrap_err().to_string();
        let beyond = Share { worker: 2, workers: 2 };
        assert_eq!(refused(beyond, &Filter::default()), "no worker 2 of 2: use 1 to 64 workers, counted from 0");
        let many = Filter { protocols: vec![6; FILTER_PROTOCOLS + 1], ..Filter::default() };
        assert_eq!(Program::compile(Share::ALL, &many), Err(SteerError::Protocols(FILTER_PROTOCOLS + 1)));
        let many = Filter { ignored_port_ids: vec![1; FILTER_PORT_IDS + 1], ..Filter::default() };
        assert_eq!(Program::compile(Share::ALL, &many), Err(SteerError::PortIds(FILTER_PORT_IDS + 1)));
    }
}
