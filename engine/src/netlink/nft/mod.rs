//! nftables rules, written as nf_tables messages: enough to track, mark, translate and drop flows.
//!
//! A [`Ruleset`] is one table of the `inet` family. It is sent to the kernel as one batch, which the kernel applies as
//! a whole or not at all. A rule is a list of expressions that load values into registers, compare them, and end in a
//! verdict. Each method of [`Rule`] appends the expressions of one statement of nft(8), and is named like it.

mod uapi;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;

use ctflow_parser::uapi::{
    AF_INET, AF_INET6, AF_UNSPEC, IPPROTO_ICMPV6, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES,
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST,
};
use ctflow_parser::write::{Full, Writer};

use self::uapi::*;
use crate::netlink::{NetlinkError, Requests};
use crate::sys::netlink::Protocol;

/// The length of one batch, enough for some 400 rules. The kernel copies it as a whole, so it must also fit the
/// socket's send buffer.
const BATCH_BYTES: usize = 200 * 1024;

/// A table with its helpers and chains.
#[derive(Debug, Clone)]
pub struct Ruleset {
    table: String,
    helpers: Vec<Helper>,
    chains: Vec<Chain>,
}

/// A connection tracking helper, by the name that rules refer to.
#[derive(Debug, Clone)]
struct Helper {
    name: String,
    protocol: u8,
}

impl Ruleset {
    /// An empty table of the `inet` family.
    #[must_use]
    pub fn new(table: &str) -> Self {
        Self { table: table.to_owned(), helpers: Vec::new(), chains: Vec::new() }
    }

    /// `ct helper <name> { type "<name>" protocol <protocol> }`, for [`Rule::set_helper`].
    #[must_use]
    pub fn helper(mut self, name: &str, protocol: u8) -> Self {
        self.helpers.push(Helper { name: name.to_owned(), protocol });
        self
    }

    /// Adds a chain.
    #[must_use]
    pub fn chain(mut self, chain: Chain) -> Self {
        self.chains.push(chain);
        self
    }

    /// Loads the table into the calling thread's network namespace, as [`Loader::load`] does.
    ///
    /// # Errors
    /// Those of [`Loader`].
    pub fn apply(&self) -> Result<(), NetlinkError> {
        Loader::open()?.load(self)
    }

    /// Removes the table from the calling thread's network namespace, as [`Loader::remove`] does.
    ///
    /// # Errors
    /// Those of [`Loader`].
    pub fn remove(&self) -> Result<(), NetlinkError> {
        Loader::open()?.remove(&self.table)
    }

    /// Writes the messages that replace the table by this one.
    fn write(&self, batch: &mut Batch<'_>, flags: u32) -> Result<(), Full> {
        batch.add_marker(NFNL_MSG_BATCH_BEGIN)?;
        batch.remove_table(&self.table)?;
        batch.add_table(&self.table, flags)?;
        self.helpers.iter().try_for_each(|helper| helper.write(batch, &self.table))?;
        self.chains.iter().try_for_each(|chain| chain.write(batch, &self.table))?;
        batch.add_marker(NFNL_MSG_BATCH_END)
    }
}

impl Helper {
    /// Writes the message that adds the helper to `table`.
    fn write(&self, batch: &mut Batch<'_>, table: &str) -> Result<(), Full> {
        batch.add(format!("add ct helper {table} {}", self.name), NFT_MSG_NEWOBJ, |message| {
            message.text(NFTA_OBJ_TABLE, table)?;
            message.text(NFTA_OBJ_NAME, &self.name)?;
            message.be32(NFTA_OBJ_TYPE, NFT_OBJECT_CT_HELPER)?;
            message.nest(NFTA_OBJ_DATA, |helper| {
                helper.text(NFTA_CT_HELPER_NAME, &self.name)?;
                helper.u8(NFTA_CT_HELPER_L4PROTO, self.protocol)
            })
        })
    }
}

/// Loads tables into a network namespace.
#[derive(Debug)]
pub struct Loader {
    requests: Requests,
}

impl Loader {
    /// Opens a loader for the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NetlinkError::System`] when the netlink socket cannot be opened.
    pub fn open() -> Result<Self, NetlinkError> {
        Requests::open(Protocol::Netfilter).map(|requests| Self { requests })
    }

    /// Loads a ruleset in place of the table of the same name. The kernel replaces the table atomically: no packet
    /// passes without rules, or meets only a part of them.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] with the name of the part that the kernel refused. Nothing is changed then.
    pub fn load(&self, ruleset: &Ruleset) -> Result<(), NetlinkError> {
        self.load_with(ruleset, 0)
    }

    /// Loads a ruleset as [`Loader::load`] does, as a table owned by this loader: no other process can change or flush
    /// it, and the kernel removes it when the loader is dropped or the process ends. Kernels before 5.12 have no owned
    /// tables; there the table is an ordinary one.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub(crate) fn load_owned(&self, ruleset: &Ruleset) -> Result<(), NetlinkError> {
        self.load_with(ruleset, NFT_TABLE_F_OWNER).or_else(|_| self.load(ruleset))
    }

    /// Loads a ruleset as a table with these flags.
    fn load_with(&self, ruleset: &Ruleset, flags: u32) -> Result<(), NetlinkError> {
        let rules = ruleset.chains.iter().map(|chain| 1 + chain.rules.len()).sum::<usize>();
        let last = REMOVE_TABLE_OPERATIONS + 1 + ruleset.helpers.len() + rules;
        self.perform(&format!("load nftables table {}", ruleset.table), last, |batch| ruleset.write(batch, flags))
    }

    /// Removes a table with all its content, if it exists.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`], usually because the process lacks the right, or the kernel has no nf_tables.
    pub fn remove(&self, table: &str) -> Result<(), NetlinkError> {
        self.perform(&format!("remove nftables table {table}"), REMOVE_TABLE_OPERATIONS, |batch| {
            batch.add_marker(NFNL_MSG_BATCH_BEGIN)?;
            batch.remove_table(table)?;
            batch.add_marker(NFNL_MSG_BATCH_END)
        })
    }

    /// Sends the batch that `write` writes, and waits for the kernel. `whole` names the batch for the errors, and
    /// `last` is the number of its operations.
    fn perform(
        &self,
        whole: &str,
        last: usize,
        write: impl FnOnce(&mut Batch<'_>) -> Result<(), Full>,
    ) -> Result<(), NetlinkError> {
        let mut buffer = vec![0; BATCH_BYTES];
        let mut batch = Batch { writer: Writer::new(&mut buffer), operations: Vec::new(), last };
        write(&mut batch).map_err(NetlinkError::too_large(whole))?;
        self.requests.perform(batch.writer.bytes(), &batch.operations, whole)
    }
}

/// The point in a packet's path at which a chain is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// When a packet arrives, before it is routed.
    Prerouting,
    /// When a packet is delivered to this host.
    Input,
    /// When a packet is forwarded from one link to another.
    Forward,
    /// When this host sends a packet.
    Output,
    /// When a packet leaves; afterwards the kernel adds its flow to the conntrack table.
    Postrouting,
}

/// The type of a chain, which sets its priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChainType {
    /// Before connection tracking.
    Raw,
    /// Accepts, drops and marks.
    Filter,
    /// Translates addresses.
    Nat,
}

/// A chain on a hook. A packet for which no rule decides is accepted.
#[derive(Debug, Clone)]
pub struct Chain {
    name: String,
    kind: ChainType,
    hook: Hook,
    rules: Vec<Rule>,
}

impl Chain {
    /// A chain that is applied to every packet before connection tracking, and can exempt packets from it.
    #[must_use]
    pub fn raw(name: &str, hook: Hook) -> Self {
        Self { name: name.to_owned(), kind: ChainType::Raw, hook, rules: Vec::new() }
    }

    /// A chain that accepts, drops and marks. It is applied to every packet, after destination translation.
    #[must_use]
    pub fn filter(name: &str, hook: Hook) -> Self {
        Self { name: name.to_owned(), kind: ChainType::Filter, hook, rules: Vec::new() }
    }

    /// A chain that translates addresses. It is applied to the first packet of each flow.
    #[must_use]
    pub fn nat(name: &str, hook: Hook) -> Self {
        Self { name: name.to_owned(), kind: ChainType::Nat, hook, rules: Vec::new() }
    }

    /// Adds a rule.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Writes the messages that add the chain and its rules to `table`.
    fn write(&self, batch: &mut Batch<'_>, table: &str) -> Result<(), Full> {
        batch.add(format!("add chain {table} {}", self.name), NFT_MSG_NEWCHAIN, |message| {
            message.text(NFTA_CHAIN_TABLE, table)?;
            message.text(NFTA_CHAIN_NAME, &self.name)?;
            message.nest(NFTA_CHAIN_HOOK, |hook| {
                hook.be32(NFTA_HOOK_HOOKNUM, self.hook.number())?;
                hook.attr(NFTA_HOOK_PRIORITY, &self.priority().to_be_bytes())
            })?;
            message.text(NFTA_CHAIN_TYPE, if self.kind == ChainType::Nat { "nat" } else { "filter" })
        })?;
        for (index, rule) in self.rules.iter().enumerate() {
            batch.add(
                format!("add rule {} of chain {table} {}", index + 1, self.name),
                NFT_MSG_NEWRULE,
                |message| {
                    message.text(NFTA_RULE_TABLE, table)?;
                    message.text(NFTA_RULE_CHAIN, &self.name)?;
                    message.nest(NFTA_RULE_EXPRESSIONS, |list| {
                        rule.expressions.iter().try_for_each(|expression| expression.write(list))
                    })
                },
            )?;
        }
        Ok(())
    }

    /// The chain's priority on its hook, as nft(8) sets it for the type.
    fn priority(&self) -> i32 {
        match (self.kind, self.hook) {
            (ChainType::Raw, _) => NF_IP_PRI_RAW,
            (ChainType::Filter, _) => NF_IP_PRI_FILTER,
            (ChainType::Nat, Hook::Prerouting | Hook::Output) => NF_IP_PRI_NAT_DST,
            (ChainType::Nat, _) => NF_IP_PRI_NAT_SRC,
        }
    }
}

impl Hook {
    /// The kernel's number of the hook.
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => NF_INET_PRE_ROUTING,
            Self::Input => NF_INET_LOCAL_IN,
            Self::Forward => NF_INET_FORWARD,
            Self::Output => NF_INET_LOCAL_OUT,
            Self::Postrouting => NF_INET_POST_ROUTING,
        }
    }
}

/// The states of a packet's flow, as `ct state` names them, with the kernel's bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// The packet is not a valid part of any flow.
    Invalid = 1,
    /// The packet belongs to a flow with packets in both directions.
    Established = 2,
    /// The packet starts a flow that another flow announced.
    Related = 4,
    /// The packet starts a flow, or belongs to one without packets in the reply direction.
    New = 8,
}

/// One rule: its conditions, then its action.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    expressions: Vec<Expression>,
}

impl Rule {
    /// A rule without conditions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `iifname <link>`
    #[must_use]
    pub fn input(self, link: &str) -> Self {
        self.push(Expression::LoadMeta(NFT_META_IIFNAME)).equal(link_name(link))
    }

    /// `oifname <link>`
    #[must_use]
    pub fn output(self, link: &str) -> Self {
        self.push(Expression::LoadMeta(NFT_META_OIFNAME)).equal(link_name(link))
    }

    /// `ip daddr <network>/<prefix>`
    #[must_use]
    pub fn destination(self, network: Ipv4Addr, prefix: u8) -> Self {
        let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix.into())).unwrap_or(0);
        self.family(AF_INET)
            .push(Expression::LoadPayload { base: NFT_PAYLOAD_NETWORK_HEADER, offset: 16, bytes: 4 })
            .push(Expression::Mask(mask.to_be_bytes()))
            .equal((network.to_bits() & mask).to_be_bytes())
    }

    /// `ip saddr <address>` or `ip6 saddr <address>`
    #[must_use]
    pub fn source(self, address: IpAddr) -> Self {
        let base = NFT_PAYLOAD_NETWORK_HEADER;
        match address {
            IpAddr::V4(address) => self
                .family(AF_INET)
                .push(Expression::LoadPayload { base, offset: 12, bytes: 4 })
                .equal(address.octets()),
            IpAddr::V6(address) => self
                .family(AF_INET6)
                .push(Expression::LoadPayload { base, offset: 8, bytes: 16 })
                .equal(address.octets()),
        }
    }

    /// `meta l4proto <protocol>`
    #[must_use]
    pub fn protocol(self, protocol: u8) -> Self {
        self.push(Expression::LoadMeta(NFT_META_L4PROTO)).equal([protocol])
    }

    /// `meta l4proto <protocol> th sport <port>`
    #[must_use]
    pub(crate) fn source_port(self, protocol: u8, port: u16) -> Self {
        self.protocol(protocol)
            .push(Expression::LoadPayload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 0, bytes: 2 })
            .equal(port.to_be_bytes())
    }

    /// `meta l4proto <protocol> th dport <port>`
    #[must_use]
    pub fn destination_port(self, protocol: u8, port: u16) -> Self {
        self.protocol(protocol)
            .push(Expression::LoadPayload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 2, bytes: 2 })
            .equal(port.to_be_bytes())
    }

    /// `icmpv6 type <first>-<last>`
    #[must_use]
    pub(crate) fn icmpv6_type(self, first: u8, last: u8) -> Self {
        self.protocol(IPPROTO_ICMPV6)
            .push(Expression::LoadPayload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 0, bytes: 1 })
            .push(Expression::Compare { operator: NFT_CMP_GTE, value: vec![first] })
            .push(Expression::Compare { operator: NFT_CMP_LTE, value: vec![last] })
    }

    /// `ct state <one of states>`; it also switches connection tracking on in the namespace.
    #[must_use]
    pub fn state(self, states: &[State]) -> Self {
        let bits = states.iter().fold(0, |bits, state| bits | *state as u32);
        self.push(Expression::LoadFlow(NFT_CT_STATE))
            .push(Expression::Mask(bits.to_ne_bytes()))
            .push(Expression::Compare { operator: NFT_CMP_NEQ, value: vec![0; 4] })
    }

    /// `ct direction reply`: the packet goes in the direction opposite to the flow's first packet.
    #[must_use]
    pub fn reply(self) -> Self {
        self.push(Expression::LoadFlow(NFT_CT_DIRECTION)).equal([NF_CT_DIR_REPLY])
    }

    /// `ct mark <mark>`
    #[must_use]
    pub fn marked(self, mark: u32) -> Self {
        self.push(Expression::LoadFlow(NFT_CT_MARK)).equal(mark.to_ne_bytes())
    }

    /// `numgen random mod <packets> 0`: matches one packet in `packets`, at random.
    #[must_use]
    pub fn one_in(self, packets: NonZeroU32) -> Self {
        self.push(Expression::Random(packets.get())).equal([0; 4])
    }

    /// `ct mark set <mark>`
    #[must_use]
    pub fn set_mark(self, mark: u32) -> Self {
        self.push(Expression::Value { register: NFT_REG_1, value: mark.to_ne_bytes().to_vec() })
            .push(Expression::StoreFlow(NFT_CT_MARK))
    }

    /// `ct label set <label>`, with a label from 0 to 127. The flow keeps its other labels. Flows can have labels only
    /// if some rule uses labels.
    #[must_use]
    pub fn set_label(self, label: u8) -> Self {
        let bits = 1u128.checked_shl(label.into()).unwrap_or(0).to_ne_bytes();
        self.push(Expression::Value { register: NFT_REG_1, value: bits.to_vec() })
            .push(Expression::StoreFlow(NFT_CT_LABELS))
    }

    /// `ct helper set "<name>"`, with a helper of the ruleset.
    #[must_use]
    pub fn set_helper(self, name: &str) -> Self {
        self.push(Expression::Helper(name.to_owned()))
    }

    /// `masquerade`: the source becomes the output link's address.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.push(Expression::Masquerade)
    }

    /// `dnat ip to <address>:<port>`
    #[must_use]
    pub fn dnat(self, to: SocketAddrV4) -> Self {
        self.push(Expression::Value { register: NFT_REG_1, value: to.ip().octets().to_vec() })
            .push(Expression::Value { register: NFT_REG_2, value: to.port().to_be_bytes().to_vec() })
            .push(Expression::TranslateDestination)
    }

    /// `notrack`, which works in a raw chain only.
    #[must_use]
    pub fn notrack(self) -> Self {
        self.push(Expression::NoTrack)
    }

    /// `accept`
    #[must_use]
    pub fn accept(self) -> Self {
        self.push(Expression::Verdict(NF_ACCEPT))
    }

    /// `drop`
    #[must_use]
    pub fn drop(self) -> Self {
        self.push(Expression::Verdict(NF_DROP))
    }

    /// `meta nfproto <family>`
    fn family(self, family: u8) -> Self {
        self.push(Expression::LoadMeta(NFT_META_NFPROTO)).equal([family])
    }

    /// Appends a comparison with register 1.
    fn equal(self, value: impl Into<Vec<u8>>) -> Self {
        self.push(Expression::Compare { operator: NFT_CMP_EQ, value: value.into() })
    }

    /// Appends an expression.
    fn push(mut self, expression: Expression) -> Self {
        self.expressions.push(expression);
        self
    }
}

/// A link's name as the kernel compares it, padded with zeros. A name without room for a zero matches nothing, as no
/// link has one.
fn link_name(name: &str) -> [u8; IFNAMSIZ] {
    let mut padded = [0; IFNAMSIZ];
    padded.iter_mut().zip(name.bytes()).for_each(|(target, byte)| *target = byte);
    padded
}

/// An expression of the kernel's rule machine. Loads write to register 1, and conditions read it.
#[derive(Debug, Clone)]
enum Expression {
    /// Loads a property of the packet (`NFT_META_…`).
    LoadMeta(u32),
    /// Loads bytes of a header.
    LoadPayload { base: u32, offset: u32, bytes: u32 },
    /// Loads a property of the flow (`NFT_CT_…`).
    LoadFlow(u32),
    /// Stores register 1 as a property of the flow.
    StoreFlow(u32),
    /// Loads a random number below this one.
    Random(u32),
    /// Clears the bits of register 1 that are not in the mask.
    Mask([u8; 4]),
    /// Continues with the rule only if the comparison of register 1 holds.
    Compare { operator: u32, value: Vec<u8> },
    /// Loads a constant into a register.
    Value { register: u32, value: Vec<u8> },
    /// Ends the rule with a verdict (`NF_…`).
    Verdict(u32),
    /// Sets the flow's helper.
    Helper(String),
    /// Exempts the packet from connection tracking.
    NoTrack,
    /// Translates the source to the output link's address.
    Masquerade,
    /// Translates the destination to the address in register 1 and the port in register 2.
    TranslateDestination,
}

impl Expression {
    /// Writes the expression as an element of a rule's list.
    fn write(&self, list: &mut Writer<'_>) -> Result<(), Full> {
        list.nest(NFTA_LIST_ELEM, |element| {
            element.text(NFTA_EXPR_NAME, self.name())?;
            element.nest(NFTA_EXPR_DATA, |data| self.write_data(data))
        })
    }

    /// The kernel's name of the expression.
    fn name(&self) -> &'static str {
        match self {
            Self::LoadMeta(_) => "meta",
            Self::LoadPayload { .. } => "payload",
            Self::LoadFlow(_) | Self::StoreFlow(_) => "ct",
            Self::Random(_) => "numgen",
            Self::Mask(_) => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Value { .. } | Self::Verdict(_) => "immediate",
            Self::Helper(_) => "objref",
            Self::NoTrack => "notrack",
            Self::Masquerade => "masq",
            Self::TranslateDestination => "nat",
        }
    }

    /// Writes the expression's own attributes.
    fn write_data(&self, data: &mut Writer<'_>) -> Result<(), Full> {
        match self {
            Self::LoadMeta(key) => write_numbers(data, &[(NFTA_META_DREG, NFT_REG_1), (NFTA_META_KEY, *key)]),
            Self::LoadPayload { base, offset, bytes } => write_numbers(
                data,
                &[
                    (NFTA_PAYLOAD_DREG, NFT_REG_1),
                    (NFTA_PAYLOAD_BASE, *base),
                    (NFTA_PAYLOAD_OFFSET, *offset),
                    (NFTA_PAYLOAD_LEN, *bytes),
                ],
            ),
            Self::LoadFlow(key) => write_numbers(data, &[(NFTA_CT_DREG, NFT_REG_1), (NFTA_CT_KEY, *key)]),
            Self::StoreFlow(key) => write_numbers(data, &[(NFTA_CT_SREG, NFT_REG_1), (NFTA_CT_KEY, *key)]),
            Self::Random(below) => write_numbers(
                data,
                &[(NFTA_NG_DREG, NFT_REG_1), (NFTA_NG_MODULUS, *below), (NFTA_NG_TYPE, NFT_NG_RANDOM)],
            ),
            Self::Mask(mask) => {
                write_numbers(
                    data,
                    &[(NFTA_BITWISE_SREG, NFT_REG_1), (NFTA_BITWISE_DREG, NFT_REG_1), (NFTA_BITWISE_LEN, 4)],
                )?;
                write_value(data, NFTA_BITWISE_MASK, mask)?;
                write_value(data, NFTA_BITWISE_XOR, &[0; 4])
            }
            Self::Compare { operator, value: against } => {
                write_numbers(data, &[(NFTA_CMP_SREG, NFT_REG_1), (NFTA_CMP_OP, *operator)])?;
                write_value(data, NFTA_CMP_DATA, against)
            }
            Self::Value { register, value: constant } => {
                data.be32(NFTA_IMMEDIATE_DREG, *register)?;
                write_value(data, NFTA_IMMEDIATE_DATA, constant)
            }
            Self::Verdict(verdict) => {
                data.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)?;
                data.nest(NFTA_IMMEDIATE_DATA, |immediate| {
                    immediate.nest(NFTA_DATA_VERDICT, |code| code.be32(NFTA_VERDICT_CODE, *verdict))
                })
            }
            Self::Helper(name) => {
                data.be32(NFTA_OBJREF_IMM_TYPE, NFT_OBJECT_CT_HELPER)?;
                data.text(NFTA_OBJREF_IMM_NAME, name)
            }
            Self::NoTrack | Self::Masquerade => Ok(()),
            Self::TranslateDestination => write_numbers(
                data,
                &[
                    (NFTA_NAT_TYPE, NFT_NAT_DNAT),
                    (NFTA_NAT_FAMILY, AF_INET.into()),
                    (NFTA_NAT_REG_ADDR_MIN, NFT_REG_1),
                    (NFTA_NAT_REG_PROTO_MIN, NFT_REG_2),
                ],
            ),
        }
    }
}

/// Writes 32-bit attributes.
fn write_numbers(data: &mut Writer<'_>, attributes: &[(u16, u32)]) -> Result<(), Full> {
    attributes.iter().try_for_each(|(kind, number)| data.be32(*kind, *number))
}

/// Writes an attribute that holds a register's value.
fn write_value(data: &mut Writer<'_>, kind: u16, bytes: &[u8]) -> Result<(), Full> {
    data.nest(kind, |nest| nest.attr(NFTA_DATA_VALUE, bytes))
}

/// A batch: messages between a begin and an end. The messages in between are numbered from 1, and the last one requests
/// an acknowledgement.
struct Batch<'b> {
    writer: Writer<'b>,
    /// The name of each message, for the errors.
    operations: Vec<String>,
    /// The number of the last message.
    last: usize,
}

/// The number of messages that [`Batch::remove_table`] writes.
const REMOVE_TABLE_OPERATIONS: usize = 2;

impl Batch<'_> {
    /// Adds the message that creates a table.
    fn add_table(&mut self, table: &str, flags: u32) -> Result<(), Full> {
        self.add(format!("add table {table}"), NFT_MSG_NEWTABLE, |message| {
            message.text(NFTA_TABLE_NAME, table)?;
            message.be32_opt(NFTA_TABLE_FLAGS, Some(flags).filter(|flags| *flags != 0))
        })
    }

    /// Adds the messages that remove a table, whether it exists or not.
    fn remove_table(&mut self, table: &str) -> Result<(), Full> {
        // The kernel refuses to remove a table that does not exist, and accepts to create one that does.
        self.add_table(table, 0)?;
        self.add(format!("remove table {table}"), NFT_MSG_DELTABLE, |message| message.text(NFTA_TABLE_NAME, table))
    }

    /// Adds the begin or the end of the batch.
    fn add_marker(&mut self, kind: u16) -> Result<(), Full> {
        let [high, low] = kind.to_be_bytes();
        self.writer.netfilter(high, low, NLM_F_REQUEST, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES.into(), |_| Ok(()))
    }

    /// Adds one message.
    fn add(
        &mut self,
        operation: String,
        kind: u8,
        body: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>,
    ) -> Result<(), Full> {
        self.operations.push(operation);
        let seq = u32::try_from(self.operations.len()).map_err(|_| Full)?;
        let ack = if self.operations.len() == self.last { NLM_F_ACK } else { 0 };
        // With NLM_F_APPEND a rule is added behind the earlier ones.
        let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_APPEND | ack;
        self.writer.netfilter(NFNL_SUBSYS_NFTABLES, kind, flags, seq, NFPROTO_INET, 0, body)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use ctflow_parser::uapi::IPPROTO_UDP;

    use super::*;
    use ctflow_lab::Lab;

    #[test]
    fn a_refused_rule_is_named_with_the_kernels_answer() {
        ctflow_lab::isolated!({
            let _lab = Lab::enter().unwrap();
            let chain = Chain::filter("forward", Hook::Forward)
                .rule(Rule::new().state(&[State::Established]).accept())
                .rule(Rule::new().masquerade())
                .rule(Rule::new().accept());
            let error = Ruleset::new("lab").chain(chain).apply().unwrap_err();
            assert_eq!(error.to_string(), "kernel refused to add rule 2 of chain lab forward: Operation not supported");
        });
    }

    #[test]
    fn a_tenth_of_the_packets_is_dropped_until_the_table_is_removed() {
        ctflow_lab::isolated!({
            let _lab = Lab::enter().unwrap();
            let receiver = UdpSocket::bind("127.0.0.1:7000").unwrap();
            receiver.set_nonblocking(true).unwrap();
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            let arrived_of = |packets: u32| {
                let arrived = |_: &u32| {
                    sender.send_to(b"x", "127.0.0.1:7000").unwrap(); // the loopback link delivers it within the call
                    receiver.recv(&mut [0; 1]).is_ok()
                };
                (0..packets).filter(arrived).count()
            };
            let rule = Rule::new().input("lo").one_in(10.try_into().unwrap()).drop();
            let loss = Ruleset::new("loss").chain(Chain::filter("input", Hook::Input).rule(rule));
            loss.apply().unwrap();
            let arrived = arrived_of(10_000);
            assert!((8_700..9_300).contains(&arrived), "{arrived} of 10,000 is ten standard deviations off");
            loss.apply().unwrap();
            let arrived = arrived_of(10_000);
            assert!((8_700..9_300).contains(&arrived), "{arrived}: a second load replaces the table");
            loss.remove().unwrap();
            assert_eq!(arrived_of(1_000), 1_000);
            loss.remove().unwrap();
        });
    }

    #[test]
    fn the_first_rule_that_decides_counts() {
        ctflow_lab::isolated!({
            let _lab = Lab::enter().unwrap();
            let receiver = UdpSocket::bind("127.0.0.1:7000").unwrap();
            receiver.set_nonblocking(true).unwrap();
            let chain = Chain::filter("input", Hook::Input)
                .rule(Rule::new().destination_port(IPPROTO_UDP, 7000).accept())
                .rule(Rule::new().drop());
            Ruleset::new("order").chain(chain).apply().unwrap();
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.send_to(b"x", "127.0.0.1:7000").unwrap();
            receiver.recv(&mut [0]).unwrap();
        });
    }

    #[test]
    fn a_ruleset_past_the_batch_is_refused_before_it_is_sent() {
        let rule = Rule::new().destination([192, 0, 2, 0].into(), 24).destination_port(6, 80).drop();
        let chain = (0..1_000).fold(Chain::filter("long", Hook::Input), |chain, _| chain.rule(rule.clone()));
        let error = Ruleset::new("lab").chain(chain).apply().unwrap_err();
        assert!(matches!(error, NetlinkError::TooLarge { .. }), "{error}");
    }
}
