//! The program that the kernel runs on every event before it is queued: which worker's it is, and whether anybody
//! wants it.
//!
//! Each worker's socket is offered every event. A classic BPF program accepts on each socket its own share, by `CTA_ID`
//! modulo the number of workers: a flow keeps its id for life, so all its events go to one worker, in order. What the operator
//! filters is in the same program and is dropped before it costs a copy or a byte of socket buffer.
//!
//! ```text
//!  byte 0          4           5         6        8     12     16          17       18         20
//!  nlmsghdr: len   type (low)  (high     flags    seq   pid    nfgenmsg:   version  resource   attributes ...
//!                  message     subsystem)                      family
//! ```
//! (The type is one number in the machine's own order: the picture is of a little-endian one.)
//!
//! A program never loses what it does not understand: a message without the attribute that a condition asks for passes that
//! condition, except that a missing mark is a mark of zero, which is how the kernel says it.

use thiserror::Error;

use ctflow_parser::filter::Masked;
use ctflow_parser::flow::FlowView;
use ctflow_parser::uapi::{
    CTA_EXPECT_TUPLE, CTA_ID, CTA_MARK, CTA_PROTO_NUM, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, NFNL_SUBSYS_CTNETLINK,
    NFNL_SUBSYS_CTNETLINK_EXP,
};

use crate::limits::{FILTER_PORT_IDS, FILTER_PROTOCOLS, STEER_INSTRUCTIONS, WORKERS};

/// Which worker a socket belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// This worker's index.
    pub worker: u32,
    /// How many workers share the events.
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

/// Which events the operator wants, decided in the kernel. The default wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this address family, as `nfgenmsg` has it (2 for IPv4, 10 for IPv6).
    pub family: Option<u8>,
    /// Only flows and expectations of one of these layer-4 protocols; empty for all.
    pub protocols: Vec<u8>,
    /// Only flows whose mark, masked, is this. Expectations have no mark and pass.
    pub mark: Option<Masked>,
    /// Not the changes that requests from these netlink port ids cause: this node's own.
    pub ignored_port_ids: Vec<u32>,
}

impl Filter {
    /// Whether the program passes events of this flow, whatever its mark is. A dump shows flows that it does not: taken in,
    /// they would stay for ever, since their ends are not told.
    #[must_use]
    pub fn passes(&self, flow: &FlowView<'_>) -> bool {
        let family = self.family.is_none_or(|family| family == flow.family);
        let listed = |proto| self.protocols.is_empty() || self.protocols.contains(&proto);
        family && flow.orig.is_none_or(|orig| listed(orig.proto))
    }
}

/// What cannot be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SteerError {
    /// A worker's index past the last, or too many workers.
    #[error("no worker {worker} of {workers}: use 1 to {WORKERS} workers, counted from 0")]
    Share {
        /// The index.
        worker: u32,
        /// The number of workers.
        workers: u32,
    },
    /// A longer list than a program has room for.
    #[error("the kernel-side filter names {0} protocols: use at most {FILTER_PROTOCOLS}, or filter in user space")]
    Protocols(usize),
    /// A longer list than a program has room for: a mistake of this program's.
    #[error("the kernel-side filter ignores {0} netlink port ids, more than {FILTER_PORT_IDS}")]
    PortIds(usize),
}

/// One classic BPF instruction, as the kernel's `sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A steering program, ready to be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
}

impl Program {
    /// Compiles `share` and `filter`; none when every event is accepted, and nothing need be attached.
    ///
    /// # Errors
    /// [`SteerError`]: a share that does not exist or a list past its bound.
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

// Where things stand in an event, in bytes from its start.
const SUBSYSTEM: u32 = if cfg!(target_endian = "little") { 5 } else { 4 };
const PORT_ID: u32 = 12;
const FAMILY: u32 = 16;
const ATTRIBUTES: u32 = 20;
/// From the start of an attribute to its value.
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

/// `SKF_AD_OFF + SKF_AD_NLATTR`: where the attribute of type X is, looking from A; zero when there is none.
const FIND_ATTRIBUTE: u32 = 0u32.wrapping_sub(0x1000).wrapping_add(12);
/// `SKF_AD_OFF + SKF_AD_NLATTR_NEST`: the same inside the attribute at A.
const FIND_NESTED: u32 = 0u32.wrapping_sub(0x1000).wrapping_add(16);

const ACCEPT: u32 = u32::MAX; // bytes of the message to keep: all of them
const DROP: u32 = 0;

/// Puts a program together from conditions. A conditional jump reaches 255 instructions only, so it never goes further
/// than the next one or two; whatever is skipped is skipped by a plain jump.
#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
}

impl Assembler {
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

    fn emit_flow_conditions(&mut self, share: Share, filter: &Filter) {
        self.drop_other_shares(share);
        self.drop_other_protocols(CTA_TUPLE_ORIG, &filter.protocols);
        self.drop_other_marks(filter.mark);
        self.return_verdict(ACCEPT);
    }

    fn emit_expectation_conditions(&mut self, share: Share, filter: &Filter) {
        self.drop_other_protocols(CTA_EXPECT_TUPLE, &filter.protocols);
        self.return_verdict(verdict_without_id(share));
    }

    /// Drops what a request from one of these port ids caused.
    fn drop_port_ids(&mut self, port_ids: &[u32]) {
        if port_ids.is_empty() {
            return;
        }
        self.emit(LOAD_WORD, PORT_ID);
        for port_id in port_ids {
            let as_loaded = u32::from_be_bytes(port_id.to_ne_bytes()); // loads are in network order, the field is not
            self.only_if_equal(as_loaded, |code| code.return_verdict(DROP));
        }
    }

    fn drop_other_families(&mut self, family: Option<u8>) {
        if let Some(family) = family {
            self.load_byte(FAMILY);
            self.skip_if_equal(u32::from(family), |code| code.return_verdict(DROP));
        }
    }

    /// Drops what is another worker's by its id.
    fn drop_other_shares(&mut self, share: Share) {
        if share.workers == 1 {
            return;
        }
        self.find_attribute(CTA_ID);
        if share.worker != 0 {
            self.only_if_equal(0, |code| code.return_verdict(DROP)); // without an id it is worker 0's
        }
        self.skip_if_equal(0, |code| {
            code.emit(COPY_TO_X, 0);
            code.emit(LOAD_WORD_AT_X, VALUE);
            code.emit(MODULO, share.workers);
            code.skip_if_equal(share.worker, |code| code.return_verdict(DROP));
        });
    }

    /// Drops a message whose `tuple` is of none of the `protocols`.
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

    /// Drops unless A is one of these.
    fn drop_unless_one_of(&mut self, values: &[u8]) {
        match values.split_first() {
            Some((first, rest)) => self.skip_if_equal(u32::from(*first), |code| code.drop_unless_one_of(rest)),
            None => self.return_verdict(DROP),
        }
    }

    fn drop_other_marks(&mut self, mark: Option<Masked>) {
        let Some(Masked { value, mask }) = mark else { return };
        self.find_attribute(CTA_MARK);
        self.skip_if_equal(0, |code| {
            code.emit(COPY_TO_X, 0);
            code.emit(LOAD_WORD_AT_X, VALUE);
        }); // not found leaves zero in A: the mark that the kernel leaves out
        self.emit(AND, mask);
        self.skip_if_equal(value & mask, |code| code.return_verdict(DROP));
    }

    /// A = where the message's attribute of this type is, or zero.
    fn find_attribute(&mut self, kind: u16) {
        self.emit(LOAD_X_NUMBER, u32::from(kind));
        self.emit(LOAD_NUMBER, ATTRIBUTES);
        self.emit(LOAD_WORD, FIND_ATTRIBUTE);
    }

    /// A = where the attribute of this type is inside the one at A, or zero.
    fn find_nested(&mut self, kind: u16) {
        self.emit(LOAD_X_NUMBER, u32::from(kind));
        self.emit(LOAD_WORD, FIND_NESTED);
    }

    /// Does what `body` says unless A is `value`.
    fn skip_if_equal(&mut self, value: u32, body: impl FnOnce(&mut Self)) {
        self.instructions.push(Instruction { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: value });
        self.jump_over(body);
    }

    /// Does what `body` says if A is `value`.
    fn only_if_equal(&mut self, value: u32, body: impl FnOnce(&mut Self)) {
        self.instructions.push(Instruction { code: JUMP_IF_EQUAL, jt: 1, jf: 0, k: value });
        self.jump_over(body);
    }

    /// A jump to behind what `body` writes.
    fn jump_over(&mut self, body: impl FnOnce(&mut Self)) {
        let jump = self.instructions.len();
        self.emit(JUMP, 0);
        body(self);
        let distance = u32::try_from(self.instructions.len() - jump - 1).unwrap_or(u32::MAX);
        if let Some(instruction) = self.instructions.get_mut(jump) {
            instruction.k = distance;
        }
    }

    fn load_byte(&mut self, offset: u32) {
        self.emit(LOAD_BYTE, offset);
    }

    fn return_verdict(&mut self, verdict: u32) {
        self.emit(RETURN, verdict);
    }

    fn emit(&mut self, code: u16, k: u32) {
        self.instructions.push(Instruction { code, jt: 0, jf: 0, k });
    }
}

/// Messages without an id cannot be shared out: they are worker 0's.
fn verdict_without_id(share: Share) -> u32 {
    if share.worker == 0 { ACCEPT } else { DROP }
}

// What the programs do is tested on a real kernel, in tests/receive.rs.
#[cfg(test)]
mod tests {
    use super::*;

    /// The longest program that can be asked for.
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
        for (place, instruction) in code.iter().enumerate() {
            let furthest = match instruction.code {
                JUMP => instruction.k as usize,
                JUMP_IF_EQUAL => usize::from(instruction.jt.max(instruction.jf)),
                _ => 0,
            };
            assert!(place + furthest + 1 < code.len() || instruction.code == RETURN, "{place}: {instruction:?}");
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
