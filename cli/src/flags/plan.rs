//! The meaning of a command line: everything a command needs, with the defaults filled in.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ctflow_engine::capture::receive::BackendKind;
use ctflow_lab::load::Kind;
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::record::Event;
use ctflow_parser::request::{IfExists, Selector, Table};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;
use ctflow_replicate::Role;

use super::checks;
use super::completions::Shell;
use super::defs::{self, Effect, Flag};
use super::doc::Topic;
use super::raw::{Action, Endpoints, LabelsDel, RawArgs, TypedCommand, subject_of};
use super::usage::Usage;
use crate::change::{self, Creation, ExpectationCreation, TrackerFields};
use crate::control::Reach;
use crate::control::request::{Cache, Request};
use crate::event::choice::SinkChoice;
use crate::output::{Encoding, Format, Subject};
use crate::persona::Persona;
use crate::protocol;
use crate::selection::{DirectionFilter, Network, Selection, Status};

/// A command, and the program name that it runs under.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The name under which the program was called.
    pub(crate) persona: Persona,
    /// The command.
    pub(crate) command: Command,
    /// The file that names labels; `None` for the system's file.
    pub(crate) labelmap: Option<PathBuf>,
    /// Warnings to print on standard error before the command runs.
    pub(crate) warnings: Vec<&'static str>,
}

/// A command with everything it needs.
#[derive(Debug)]
pub(crate) enum Command {
    /// `-h`, `help`, or no arguments.
    Help(Topic),
    /// `-V`.
    Version,
    /// `-L`.
    List(List),
    /// `-G`.
    Get(Get),
    /// `-G expect`: print the expectation that awaits exactly this tuple.
    GetExpect(Tuple),
    /// `-D`.
    Delete(Delete),
    /// `-D expect`: delete the expectation that awaits exactly this tuple.
    DeleteExpect(Tuple),
    /// `-I`, `-A`.
    Create(Create),
    /// `-I expect`.
    CreateExpect(ExpectationCreation),
    /// `-U`.
    Update(Update),
    /// `-F`.
    Flush(Flush),
    /// `-R`.
    Load(Load),
    /// `-E`.
    Events(Events),
    /// `-C`.
    Count(Count),
    /// `-S`.
    Stats(Stats),
    /// `demo`.
    Demo,
    /// `bench`.
    Bench(Bench),
    /// `doctor`.
    Doctor(Doctor),
    /// `completions`.
    Completions(Shell),
    /// `man`.
    Man(Page),
    /// `ctflowd -h`.
    DaemonHelp,
    /// `daemon`, and `ctflowd` without a request.
    Daemon(Daemon),
    /// `keygen`: write a key to a file, or to standard output for `None`.
    Keygen(Option<PathBuf>),
    /// `sync`, `status`, and `ctflowd` with a request.
    Control(Control),
}

/// A manual page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// ctflow(1).
    Program,
    /// ctflow.toml(5).
    Configuration,
    /// ctflowd(8).
    Daemon,
}

/// `daemon`: how to run the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Daemon {
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// Only check the configuration, and start nothing.
    pub(crate) check: bool,
    /// Run in the background.
    pub(crate) detach: bool,
}

/// A request to the running daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Control {
    /// How to find the daemon.
    pub(crate) reach: Reach,
    /// The request.
    pub(crate) request: ControlRequest,
}

/// A request to the running daemon, and how to print the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlRequest {
    /// Write the external cache into the kernel: flows, expectations, or both for `None`.
    Commit(Option<Subject>),
    /// Print the status.
    Status {
        /// Print JSON.
        json: bool,
    },
    /// Test whether the node may take over.
    Ready,
    /// Print the role, or set it.
    Role {
        /// The role to set; `None` to print it.
        role: Option<Role>,
        /// Print the daemon's document.
        json: bool,
    },
    /// Print a cache in the formats of `-L`.
    Dump {
        /// The cache.
        cache: Cache,
        /// Its flows or its expectations.
        of: Subject,
        /// The output format.
        format: Format,
    },
    /// Print a cache as conntrackd does.
    Cache {
        /// The cache.
        cache: Cache,
        /// Its flows or its expectations.
        of: Subject,
        /// Print XML.
        xml: bool,
    },
    /// Print a page of conntrackd's statistics.
    Statistics(StatisticsPage),
    /// Compare the replicas with their sources.
    Verify,
    /// A request whose answer is only that it is done.
    Simple(Request),
}

/// A page of conntrackd's statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatisticsPage {
    /// Caches, traffic, the active link and losses.
    Overview(Subject),
    /// Datagrams that were refused or lost.
    Network,
    /// Each cache in detail.
    Cache,
    /// The engine.
    Runtime,
    /// Each link.
    Link,
    /// The resend queue.
    ResendQueue,
    /// All queues.
    Queue,
    /// Child processes: none.
    Process,
}

/// `-G`: the flow to find, and the output format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Get {
    /// The tuple by which the kernel finds the flow.
    pub(crate) selector: Selector,
    /// The zone of both directions.
    pub(crate) zone: Option<u16>,
    /// Further conditions on the flow: id, labels, state, mark.
    pub(crate) selection: Selection,
    /// The output format.
    pub(crate) format: Format,
}

/// `-D`: the flows to delete, and the output format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delete {
    /// The part of the selection that the kernel applies.
    pub(crate) filter: DumpFilter,
    /// The whole selection.
    pub(crate) selection: Selection,
    /// The output format.
    pub(crate) format: Format,
}

/// `-I`, `-A`: the flow to create, and what to do if it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Create {
    /// The flow.
    pub(crate) creation: Creation,
    /// `Refuse` for `-I`, `Change` for `-A`.
    pub(crate) if_exists: IfExists,
}

/// `-U`: the flows to change, the change, and the output format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Update {
    /// The part of the selection that the kernel applies.
    pub(crate) filter: DumpFilter,
    /// The whole selection.
    pub(crate) selection: Selection,
    /// The change.
    pub(crate) update: change::Update,
    /// The output format.
    pub(crate) format: Format,
}

/// `-F`: the table to empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flush {
    /// Flows or expectations.
    pub(crate) subject: Subject,
    /// `AF_UNSPEC` for both families.
    pub(crate) family: u8,
}

/// `-R`: where the commands are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Load {
    /// Standard input: `-R -`.
    Stdin,
    /// A file.
    File(PathBuf),
}

/// `-L`: the entries to list, and the output format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List {
    /// The table.
    pub(crate) table: Table,
    /// The part of the selection that the kernel applies.
    pub(crate) filter: DumpFilter,
    /// The whole selection, applied again to what the kernel sends: an older kernel may ignore its part.
    pub(crate) selection: Selection,
    /// The output format.
    pub(crate) format: Format,
    /// Whether the counters are reset to 0.
    pub(crate) zero: bool,
}

impl List {
    /// What the entries of the table are.
    pub(crate) fn subject(&self) -> Subject {
        subject_of(self.table)
    }
}

/// `-E`: the events to follow, and where they come from and go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Events {
    /// Flows or expectations.
    pub(crate) subject: Subject,
    /// The kinds of event.
    pub(crate) mask: EventMask,
    /// The flows whose events are followed.
    pub(crate) selection: Selection,
    /// The output format.
    pub(crate) format: Format,
    /// Receive buffer of the event socket, in bytes; `None` for the default, which grows.
    pub(crate) buffer_bytes: Option<u32>,
    /// Where the events go.
    pub(crate) sink: SinkChoice,
    /// A capture file to read the events from, instead of the kernel.
    pub(crate) read: Option<PathBuf>,
    /// The daemon to read the events from, instead of the kernel.
    pub(crate) daemon: Option<Reach>,
}

/// `-C`: the entries to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// Flows or expectations.
    pub(crate) subject: Subject,
    /// The family: `AF_UNSPEC` for flows, which the kernel counts itself; `AF_INET` for expectations, which are counted
    /// by listing them.
    pub(crate) family: u8,
    /// Print JSON.
    pub(crate) json: bool,
}

/// `-S`: the statistics to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Flows or expectations.
    pub(crate) subject: Subject,
    /// Print JSON.
    pub(crate) json: bool,
}

/// `bench`: the load, the trials, and the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bench {
    /// The kind of traffic.
    pub(crate) load: Kind,
    /// Events per second; `None` for as many as this machine generates.
    pub(crate) rate: Option<NonZeroU32>,
    /// Flows that stay in the table throughout.
    pub(crate) flows: u32,
    /// Duration of each trial.
    pub(crate) trial_duration: Duration,
    /// Number of rounds.
    pub(crate) rounds: usize,
    /// Number of workers; `None` for as many as the daemon uses.
    pub(crate) workers: Option<NonZeroU32>,
    /// The receive back end of the workers.
    pub(crate) backend: BackendKind,
    /// Whether every receive back end is measured.
    pub(crate) compare: bool,
    /// Number of backups.
    pub(crate) replicas: usize,
    /// The age from which a flow is replicated.
    pub(crate) min_age: Duration,
    /// Whether the load runs on this host's own table instead of in namespaces.
    pub(crate) host: bool,
    /// Print JSON.
    pub(crate) json: bool,
    /// The file to write a page with plots to.
    pub(crate) report: Option<PathBuf>,
}

/// `doctor`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Doctor {
    /// Print the findings as JSON.
    pub(crate) json: bool,
}

/// Kinds of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventMask {
    /// A flow or expectation was created.
    pub(crate) new: bool,
    /// It was changed.
    pub(crate) update: bool,
    /// It was destroyed.
    pub(crate) destroy: bool,
}

impl EventMask {
    /// No event.
    pub(crate) const NONE: Self = Self { new: false, update: false, destroy: false };
    /// Every event.
    pub(crate) const ALL: Self = Self { new: true, update: true, destroy: true };

    /// Whether the mask has `event`.
    pub(crate) fn has(self, event: Event) -> bool {
        match event {
            Event::New => self.new,
            Event::Update => self.update,
            Event::Destroy => self.destroy,
        }
    }

    /// The events of both masks.
    pub(crate) fn or(self, other: Self) -> Self {
        Self { new: self.new || other.new, update: self.update || other.update, destroy: self.destroy || other.destroy }
    }
}

/// Turns a parsed command line into a plan.
pub(super) fn plan(persona: Persona, raw: RawArgs) -> Result<Plan, Usage> {
    let command = plan_command(&raw)?;
    Ok(Plan { persona, command, labelmap: raw.labelmap, warnings: raw.warnings })
}

fn plan_command(raw: &RawArgs) -> Result<Command, Usage> {
    let Some(chosen) = &raw.command else { return plan_without_command(raw) };
    checks::check(raw, chosen)?;
    let expect = chosen.subject() == Subject::Expectations;
    Ok(match chosen.action {
        Action::List => Command::List(plan_list(raw, chosen)),
        Action::Get if expect => Command::GetExpect(tuple_of(raw, &raw.orig)?),
        Action::Get => Command::Get(plan_get(raw)?),
        Action::Delete if expect => Command::DeleteExpect(tuple_of(raw, &raw.orig)?),
        Action::Delete => Command::Delete(plan_delete(raw)),
        Action::Create if expect => Command::CreateExpect(plan_expectation(raw)?),
        Action::Create => Command::Create(Create { creation: plan_creation(raw)?, if_exists: IfExists::Refuse }),
        Action::Add => Command::Create(Create { creation: plan_creation(raw)?, if_exists: IfExists::Change }),
        Action::Update => Command::Update(plan_update(raw)),
        Action::Flush => Command::Flush(Flush { subject: chosen.subject(), family: raw.family.unwrap_or(0) }),
        Action::Event => Command::Events(plan_events(raw, chosen)),
        Action::Count => Command::Count(plan_count(raw, chosen)),
        Action::Stats => Command::Stats(Stats { subject: chosen.subject(), json: is_json(raw) }),
        Action::Version => Command::Version,
        Action::Help => Command::Help(raw.protocol.map_or(Topic::Overview, Topic::OverviewWithProtocol)),
    })
}

/// The plan of a command line without a command: help without options, an error with options.
fn plan_without_command(raw: &RawArgs) -> Result<Command, Usage> {
    let is_command = |flag: &&&Flag| matches!(flag.effect, Effect::Command { .. });
    let letters = || defs::FLAGS.iter().filter(is_command).filter_map(|flag| flag.short);
    if raw.options.is_empty() {
        return Ok(Command::Help(Topic::Overview));
    }
    let commands = letters().map(|letter| format!("-{letter}")).collect::<Vec<_>>().join(", ");
    Err(Usage::NoCommand { commands })
}

fn plan_list(raw: &RawArgs, chosen: &TypedCommand) -> List {
    let family = match chosen.subject() {
        Subject::Flows => raw.family.unwrap_or(uapi::AF_UNSPEC),
        Subject::Expectations => raw.family.unwrap_or(uapi::AF_INET), // as conntrack, and as `-C expect`
    };
    let selection = Selection { family, status: status_filter(raw).unwrap_or_default(), ..selection(raw) };
    List { table: chosen.table, filter: selection.kernel_filter(), selection, format: format(raw), zero: raw.zero }
}

fn plan_delete(raw: &RawArgs) -> Delete {
    let status = status_filter(raw).unwrap_or_default();
    let selection = Selection { status, timeout: raw.timeout, ..selection(raw) };
    Delete { filter: selection.kernel_filter(), selection, format: raw.format }
}

/// Plans `-U`: state, mark, status and timeout are the change, so they do not select flows.
fn plan_update(raw: &RawArgs) -> Update {
    let selection = Selection { state: None, mark: None, ..selection(raw) };
    let (labels_del, del_bits) = match &raw.labels_del {
        LabelsDel::All => (Vec::new(), u128::MAX),
        LabelsDel::Named(names) => (names.clone(), 0),
    };
    let update = change::Update {
        timeout: raw.timeout,
        status: raw.status.set,
        mark: raw.mark,
        proto: tracker(raw),
        labels_add: raw.labels_add.clone(),
        add_bits: 0,
        labels_del,
        del_bits,
    };
    Update { filter: selection.kernel_filter(), selection, update, format: format(raw) }
}

/// The output format. Like conntrack, prints labels if an option names labels.
fn format(raw: &RawArgs) -> Format {
    let names = !raw.labels.is_empty() || !raw.labels_add.is_empty() || raw.labels_del != LabelsDel::default();
    Format { labels: raw.format.labels || names, ..raw.format }
}

/// The selection by the options that mean the same in all commands.
fn selection(raw: &RawArgs) -> Selection {
    Selection {
        family: raw.family.unwrap_or(uapi::AF_UNSPEC),
        protocol: raw.protocol,
        orig: side(&raw.orig, [raw.mask.src.or(raw.prefix.src), raw.mask.dst.or(raw.prefix.dst)]),
        reply: side(&raw.reply, [None, None]),
        icmp: raw.icmp,
        state: raw.state.map(|(_, state)| state),
        mark: raw.mark,
        secmark: raw.secmark,
        zone: raw.zone,
        orig_zone: raw.orig_zone,
        reply_zone: raw.reply_zone,
        nat: raw.nat,
        labels: raw.labels.clone(),
        id: raw.id,
        ..Selection::default()
    }
}

/// The selection by one direction, with the masks of its source and destination.
fn side(ends: &Endpoints, [src_mask, dst_mask]: [Option<IpAddr>; 2]) -> DirectionFilter {
    let network = |address, mask: Option<_>| mask.map_or(Network::one(address), |mask| Network::masked(address, mask));
    DirectionFilter {
        src: ends.src.map(|address| network(address, src_mask)),
        dst: ends.dst.map(|address| network(address, dst_mask)),
        src_port: ends.src_port,
        dst_port: ends.dst_port,
    }
}

/// The status to select by; `None` if `-u` named none. `UNSET` alone selects the flows that a saved line calls `UNSET`.
pub(super) fn status_filter(raw: &RawArgs) -> Option<Status> {
    match (raw.status, raw.status_unset) {
        (Status { set: 0, clear: 0 }, true) => Some(Status { set: 0, clear: checks::UNSET }),
        (Status { set: 0, clear: 0 }, false) => None,
        (status, _) => Some(status),
    }
}

/// The tuples of both directions. Each part that was not given mirrors the other direction.
fn orig_and_reply(raw: &RawArgs) -> Result<(Tuple, Tuple), Usage> {
    let (orig, reply) = (&raw.orig, &raw.reply);
    let orig_ends = Endpoints {
        src: orig.src.or(reply.dst),
        dst: orig.dst.or(reply.src),
        src_port: orig.src_port.or(reply.dst_port),
        dst_port: orig.dst_port.or(reply.src_port),
    };
    let reply_ends = Endpoints {
        src: reply.src.or(orig_ends.dst),
        dst: reply.dst.or(orig_ends.src),
        src_port: reply.src_port.or(orig_ends.dst_port),
        dst_port: reply.dst_port.or(orig_ends.src_port),
    };
    let (mut orig, mut reply) = (tuple_of(raw, &orig_ends)?, tuple_of(raw, &reply_ends)?);
    (orig.zone, reply.zone) = (raw.orig_zone, raw.reply_zone);
    if let L4::Icmp { kind, .. } = &mut reply.l4 {
        *kind = icmp_reply_type(reply.proto, *kind);
    }
    Ok((orig, reply))
}

/// The ICMP type that answers `kind`, or that `kind` answers; `kind` itself if it is no query.
fn icmp_reply_type(protocol: u8, kind: u8) -> u8 {
    let pairs: &[(u8, u8)] = if protocol == uapi::IPPROTO_ICMP {
        &[(8, 0), (13, 14), (15, 16), (17, 18)]
    } else {
        &[(128, 129), (139, 140)]
    };
    let other = |&(request, reply)| match kind {
        kind if kind == request => Some(reply),
        kind if kind == reply => Some(request),
        _ => None,
    };
    pairs.iter().find_map(other).unwrap_or(kind)
}

/// The tuple with those addresses and ports, which [`checks`] has found to be complete.
fn tuple_of(raw: &RawArgs, ends: &Endpoints) -> Result<Tuple, Usage> {
    let (Some(src), Some(dst)) = (ends.src, ends.dst) else {
        let command = raw.command.as_ref().map(|chosen| chosen.typed.to_string()).unwrap_or_default();
        return Err(Usage::IncompletePair { first: "src", second: "dst", command });
    };
    let proto = raw.protocol.unwrap_or(0);
    let icmp = raw.icmp;
    let l4 = match protocol::fields(proto) {
        protocol::Fields::Ports | protocol::Fields::Keys => {
            L4::Ports { src: ends.src_port.unwrap_or(0), dst: ends.dst_port.unwrap_or(0) }
        }
        protocol::Fields::Icmp => {
            L4::Icmp { kind: icmp.kind.unwrap_or(0), code: icmp.code.unwrap_or(0), id: icmp.id.unwrap_or(0) }
        }
        protocol::Fields::None => L4::None,
    };
    Ok(Tuple { src, dst, proto, l4, zone: None })
}

fn plan_get(raw: &RawArgs) -> Result<Get, Usage> {
    let (orig, reply) = orig_and_reply(raw)?;
    let by_orig = raw.orig.src.is_some() && raw.orig.dst.is_some();
    let which = if by_orig { Selector::Orig(orig) } else { Selector::Reply(reply) };
    Ok(Get { selector: which, zone: raw.zone, selection: selection(raw), format: format(raw) })
}

/// The options that set the state of a protocol's tracker.
fn tracker(raw: &RawArgs) -> TrackerFields {
    let (vtag_orig, vtag_reply) = raw.vtags;
    TrackerFields { state: raw.state.map(|(_, state)| state), vtag_orig, vtag_reply, role: raw.role }
}

fn plan_creation(raw: &RawArgs) -> Result<Creation, Usage> {
    let (orig, reply) = orig_and_reply(raw)?;
    let range = |nat: Option<crate::selection::NatTarget>| nat.and_then(|to| change::nat_range(to.address, to.port));
    Ok(Creation {
        orig,
        reply,
        timeout: raw.timeout,
        status: raw.status.set,
        mark: raw.mark.map(|mark| mark.value),
        zone: raw.zone,
        proto: tracker(raw),
        nat_src: range(raw.nat.src),
        nat_dst: range(raw.nat.dst),
        labels: raw.labels_add.clone(),
        helper: raw.helper.clone(),
        label_bits: 0,
    })
}

fn plan_expectation(raw: &RawArgs) -> Result<ExpectationCreation, Usage> {
    let (tuple, mask) = (tuple_of(raw, &raw.expected)?, tuple_of(raw, &raw.mask)?);
    Ok(ExpectationCreation { tuple, mask, master: tuple_of(raw, &raw.orig)?, timeout: raw.timeout })
}

fn plan_events(raw: &RawArgs, chosen: &TypedCommand) -> Events {
    Events {
        subject: chosen.subject(),
        mask: raw.events.unwrap_or(EventMask::ALL),
        selection: selection(raw),
        format: format(raw),
        buffer_bytes: raw.buffer_bytes,
        sink: raw.sink.clone(),
        read: raw.read.clone(),
        daemon: raw.daemon.clone(),
    }
}

fn is_json(raw: &RawArgs) -> bool {
    raw.format.encoding == Encoding::Json
}

fn plan_count(raw: &RawArgs, chosen: &TypedCommand) -> Count {
    let subject = chosen.subject();
    let family = if subject == Subject::Expectations { uapi::AF_INET } else { uapi::AF_UNSPEC };
    Count { subject, family, json: is_json(raw) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn plan(line: &str) -> Result<Command, Usage> {
        plan_command(&RawArgs::read(line.split_whitespace().map(OsString::from))?)
    }

    #[test]
    fn a_listing_has_its_table_filter_and_format() {
        let Ok(Command::List(list)) = plan("-L dying -f ipv6 -p udp -o id") else { panic!("no listing") };
        assert_eq!((list.table, list.subject()), (Table::Dying, Subject::Flows));
        assert_eq!(list.filter.family, uapi::AF_INET6);
        assert!(list.filter.orig.is_some_and(|orig| orig.tuple.proto == 17));
        let Ok(Command::List(both)) = plan("-L -p udp") else { panic!("no listing") };
        assert_eq!((both.filter.orig, both.selection.protocol), (None, Some(17)));
        assert_eq!(list.selection, Selection { family: uapi::AF_INET6, protocol: Some(17), ..Selection::default() });
        assert!(list.format.id && !list.format.extended);
    }

    #[test]
    fn flows_are_of_both_families_and_expectations_of_ipv4() {
        let family = |line| match plan(line) {
            Ok(Command::List(list)) => list.filter.family,
            Ok(Command::Events(events)) => events.selection.family,
            Ok(Command::Count(count)) => count.family,
            other => panic!("{other:?}"),
        };
        let lines = ["-L", "-L dying", "-E", "-E expect", "-C", "-L expect", "-C expect", "-L expect -f ipv6"];
        assert_eq!(lines.map(family), [0, 0, 0, 0, 0, uapi::AF_INET, uapi::AF_INET, uapi::AF_INET6]);
    }

    #[test]
    fn all_events_are_followed_without_an_event_mask() {
        let Ok(Command::Events(events)) = plan("-E") else { panic!("no events") };
        assert_eq!((events.subject, events.mask, events.buffer_bytes), (Subject::Flows, EventMask::ALL, None));
        let Ok(Command::Events(events)) = plan("-E -e DESTROY -b 4096") else { panic!("no events") };
        assert_eq!(events.mask, EventMask { destroy: true, ..EventMask::NONE });
        assert_eq!(events.buffer_bytes, Some(4096));
    }

    #[test]
    fn no_arguments_print_help_and_options_alone_are_refused() {
        assert!(matches!(plan(""), Ok(Command::Help(Topic::Overview))));
        assert!(matches!(plan("word -- -L"), Ok(Command::Help(Topic::Overview))));
        let commands = "-L, -G, -D, -I, -A, -U, -F, -E, -C, -S, -V, -h".to_owned();
        assert_eq!(plan("-o xml").unwrap_err(), Usage::NoCommand { commands });
    }

    const COMMANDS: [&str; 14] = [
        "-L",
        "-G",
        "-I",
        "-A",
        "-U",
        "-D",
        "-E",
        "-F",
        "-L expect",
        "-G expect",
        "-I expect",
        "-D expect",
        "-E expect",
        "-h",
    ];

    /// conntrack's table of options and commands: whether the first error is that the option is illegal.
    #[test]
    fn each_option_is_legal_with_the_commands_of_its_row() {
        let table = [
            ("-s 1.1.1.1", "ooooooo- -ooo- -"),
            ("-r 1.1.1.1", "ooooooo- -ooo- -"),
            ("-p udp", "ooooooo- -ooo- o"),
            ("-t 5", "--oooo-- --o-- -"),
            ("-u ASSURED", "o-oooo-- --o-- -"),
            ("-z", "o------- ----- -"),
            ("-e NEW", "------o- ----- -"),
            ("--mask-src 1.1.1.1", "o---ooo- --o-- -"),
            ("-m 1", "o-ooooo- ----- -"),
            ("-i 1", "-o--oo-- ----- -"),
            ("-f ipv4", "o---oooo o---- -"),
            ("-n", "o-ooooo- ----- -"),
            ("-g", "o-ooooo- ----- -"),
            ("-j", "o-----o- ----- -"),
            ("-o id", "oo--ooo- o---o -"),
            ("-c 1", "o-----o- ----- -"),
            ("-b 9", "------o- ----- -"),
            ("-w 1", "ooooooo- ----- -"),
            ("--orig-zone 1", "ooooooo- ----- -"),
            ("-l a", "oo--ooo- ----- -"),
            ("--label-add a", "--ooo--- ----- -"),
            ("--label-del", "----o--- ----- -"),
            ("--labelmap x", "o-ooooo- ----- -"),
            ("-a x", "oooooooo ooooo o"),
            ("--tuple-src 1.1.1.1", "-------- --o-- -"),
            ("-p tcp --sport 1", "ooooooo- -ooo- -"),
            ("-p tcp --reply-port-src 1", "ooooooo- -o-o- -"),
            ("-p gre --reply-key-src 1", "ooooooo- -ooo- -"),
            ("-p tcp --mask-port-src 1", "-------- --o-- -"),
            ("-p tcp --state NONE", "ooooooo- ----- -"),
            ("-p sctp --orig-vtag 1", "-oooo--- --o-- -"),
            ("-p dccp --role client", "--oo---- --o-- -"),
            ("-p icmp --icmp-type 8", "ooooooo- ----- -"),
            ("-p icmp --icmp-id 8", "ooooooo- ----- -"),
        ];
        for (option, row) in table {
            let letters = row.chars().filter(|letter| *letter != ' ');
            for (command, letter) in COMMANDS.into_iter().zip(letters) {
                let illegal = matches!(plan(&format!("{command} {option}")), Err(Usage::Illegal { .. }));
                assert_eq!(illegal, letter == '-', "{command} {option}");
            }
        }
        for command in ["-C", "-S", "-C expect", "-S expect", "-F expect", "-V"] {
            assert!(plan(&format!("{command} -a x")).is_ok());
            assert!(matches!(plan(&format!("{command} -f ipv4")), Err(Usage::Illegal { .. })), "{command}");
        }
    }

    #[test]
    fn missing_required_options_are_named() {
        let needed = |line: &str| match plan(line).unwrap_err() {
            Usage::MissingOption { option, .. } => option,
            Usage::IncompletePair { first, .. } => first,
            other => panic!("{line}: {other}"),
        };
        let table = [
            ("-I -s 1.1.1.1 -d 1.1.1.2", "protonum"),
            ("-G -s 1.1.1.1 -d 1.1.1.2", "protonum"),
            ("-A -p udp", "timeout"),
            ("-I -p tcp -t 1", "state"),
            ("-I -p icmp -t 1 --icmp-type 8", "icmp-code"),
            ("-G -p icmp", "icmp-type"),
            ("-I -p sctp -t 1 --state NONE", "orig-vtag"),
            ("-G -p udp", "src"),
            ("-G -p udp -s 1.1.1.1", "src"),
            ("-G -p udp -s 1.1.1.1 -r 1.1.1.1", "src"),
            ("-G -p udp -r 1.1.1.1", "reply-src"),
            ("-G -p udp -s 1.1.1.1 -d 1.1.1.1", "sport"),
            ("-G -p udp -s 1.1.1.1 -d 1.1.1.1 --reply-port-src 1", "reply-port-src"),
            ("-G -p gre -s 1.1.1.1 -d 1.1.1.1 --srckey 1", "srckey"),
            ("-I expect", "src"),
            ("-D expect -s 1.1.1.1 -d 1.1.1.1 -p tcp --sport 1 --dport 1", "reply-port-src"),
        ];
        for (line, option) in table {
            assert_eq!(needed(line), option, "{line}");
        }
        assert!(
            plan("-G -p udp -r 1.1.1.1 -q 1.1.1.2 -s 9.9.9.9 --sport 1 --dport 2").is_ok(),
            "a complete direction and a part of the other"
        );
    }

    #[test]
    fn a_missing_direction_mirrors_the_other() {
        let creation = |line| match plan(line) {
            Ok(Command::Create(create)) => create.creation,
            other => panic!("{other:?}"),
        };
        let whole = "-I -p udp -t 9 -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 --sport 1 --dport 2 \
                     --reply-port-src 2 --reply-port-dst 1";
        for line in [
            "-I -p udp -t 9 -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2",
            "-I -p udp -t 9 -r 10.0.0.2 -q 10.0.0.1 --reply-port-src 2 --reply-port-dst 1",
            "-I -p udp -t 9 -s 10.0.0.1 -d 10.0.0.2 --reply-port-src 2 --reply-port-dst 1",
        ] {
            assert_eq!(creation(line), creation(whole), "{line}");
        }
        let saved = "-A -t 29 -u SEEN_REPLY -s 192.0.2.2 -d 198.51.100.10 -r 198.51.100.10 -n 198.51.100.1:7 -p udp \
                     --sport 40005 --dport 5300 --reply-port-src 5300 --reply-port-dst 50009 -m 5/1 --orig-zone 3";
        let creation = creation(saved);
        assert_eq!((creation.reply.ports(), creation.orig.zone), (Some((5300, 50009)), Some(3)));
        assert_eq!(creation.reply.dst, IpAddr::from([192, 0, 2, 2]));
        assert_eq!(creation.nat_src.map(|nat| nat.port), Some(Some(7)));
        assert_eq!((creation.mark, creation.status, creation.nat_dst), (Some(5), uapi::IPS_SEEN_REPLY, None));
    }

    #[test]
    fn an_icmp_reply_has_the_answering_type() {
        let line = "-I -p icmp -t 9 -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-code 0 --icmp-id 7";
        let Ok(Command::Create(create)) = plan(line) else { panic!("no creation") };
        assert_eq!(create.creation.reply.l4, L4::Icmp { kind: 0, code: 0, id: 7 });
        assert_eq!((icmp_reply_type(58, 129), icmp_reply_type(58, 1), icmp_reply_type(1, 13)), (128, 1, 14));
    }

    #[test]
    fn get_selects_by_either_direction_and_zone() {
        let get = |line| match plan(line) {
            Ok(Command::Get(get)) => get,
            other => panic!("{other:?}"),
        };
        let by_orig = get("-G -p udp -s 1.1.1.1 -d 1.1.1.2 --sport 1 --dport 2 -w 7");
        assert!(matches!(by_orig.selector, Selector::Orig(tuple) if tuple.ports() == Some((1, 2))));
        assert_eq!(by_orig.zone, Some(7));
        let by_reply = get("-G -p udp -r 1.1.1.1 -q 1.1.1.2 --sport 1 --dport 2");
        assert!(matches!(by_reply.selector, Selector::Reply(tuple) if tuple.ports() == Some((2, 1))));
    }

    #[test]
    fn a_negated_status_selects_flows_to_delete() {
        let delete = |line| match plan(line) {
            Ok(Command::Delete(delete)) => (delete.selection.status, delete.filter.status.map(|status| status.mask)),
            other => panic!("{other:?}"),
        };
        let (assured, seen) = (uapi::IPS_ASSURED, uapi::IPS_SEEN_REPLY);
        assert_eq!(delete("-D -u !ASSURED"), (Status { set: 0, clear: assured }, Some(assured)));
        assert_eq!(delete("-D -u a,UNREPLIED"), (Status { set: assured, clear: seen }, Some(assured | seen)));
        assert_eq!(delete("-D -u UNSET"), (Status { set: 0, clear: checks::UNSET }, Some(checks::UNSET)));
        assert_eq!(plan("-D -u SRC_NAT").unwrap_err(), Usage::NoStatus, "conntrack deletes everything");
    }

    #[test]
    fn an_update_does_not_select_by_what_it_changes() {
        let line = "-U -s 10.0.0.0/8 -p tcp --state CLOSE -m 1/3 -u ASSURED -t 4 --label-del -w 7";
        let Ok(Command::Update(plan)) = plan(line) else { panic!("no update") };
        let (selection, update) = (plan.selection, plan.update);
        assert_eq!((selection.state, selection.mark, selection.timeout), (None, None, None));
        assert_eq!((selection.status, selection.zone), (Status::default(), Some(7)));
        assert_eq!((update.proto.state, update.timeout, update.status), (Some(8), Some(4), uapi::IPS_ASSURED));
        assert_eq!((update.mark.map(|mark| mark.mask), update.del_bits), (Some(3), u128::MAX));
    }

    #[test]
    fn expected_ports_are_ports_in_every_protocol() {
        let line = "-I expect -s 1.1.1.1 -d 1.1.1.2 -p sctp --sport 1 --dport 2 --tuple-src 2.2.2.2 --tuple-dst 2.2.2.3 \
                    --mask-src 255.255.255.255 --mask-dst 255.0.0.0 --tuple-port-src 3 --tuple-port-dst 4 \
                    --mask-port-src 65535 --mask-port-dst 0 -t 9 --orig-vtag 1 --reply-vtag 1";
        let Ok(Command::CreateExpect(expected)) = plan(line) else { panic!("no expectation") };
        assert_eq!((expected.tuple.proto, expected.tuple.ports()), (132, Some((3, 4))));
        assert_eq!((expected.mask.ports(), expected.master.ports()), (Some((65535, 0)), Some((1, 2))));
    }

    #[test]
    fn an_illegal_option_names_its_commands() {
        let refused = plan("-C expect -e NEW --output=id").unwrap_err();
        let expected = Usage::Illegal {
            option: "output",
            command: "-C expect".into(),
            commands: "-L, -G, -U, -D, -E, -L expect, -E expect".into(),
        };
        assert_eq!(refused, expected);
    }
}
