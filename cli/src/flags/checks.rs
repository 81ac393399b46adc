//! Checks on combinations: which options a command accepts and requires, and which options exclude each other.

use std::sync::LazyLock;

use ctflow_parser::uapi;

use super::defs::{self, Effect, Flag};
use super::matrix::{self, Need};
use super::raw::{Action, Endpoints, LabelsDel, RawArgs, TypedCommand};
use super::usage::Usage;
use crate::output::{Encoding, Subject};
use crate::protocol;

/// Refuses illegal, missing and contradicting options; of several, the first in the order of the help text.
pub(super) fn check(raw: &RawArgs, chosen: &TypedCommand) -> Result<(), Usage> {
    let command = (chosen.action, chosen.subject());
    check_legal(raw, command)?;
    check_required(raw, command)?;
    if matches!(chosen.action, Action::Get | Action::Create | Action::Add) && chosen.subject() == Subject::Flows {
        check_pairs(raw, command)?;
    }
    check_exclusions(raw, command)
}

/// Whether the command line has the flag.
fn is_given(raw: &RawArgs, flag: &Flag) -> bool {
    raw.options.iter().any(|given| std::ptr::eq(*given, flag))
}

/// Refuses options that the command does not accept.
fn check_legal(raw: &RawArgs, command: (Action, Subject)) -> Result<(), Usage> {
    let column = matrix::column(command);
    // Load files have many lines and few errors, so the walk over all flags, which finds the first in the order of the
    // help text, only follows an error.
    if !raw.options.iter().all(|flag| check_option(raw, flag, command, column).is_ok()) {
        let mut given = defs::FLAGS.into_iter().filter(|flag| is_given(raw, flag));
        return given.try_for_each(|flag| check_option(raw, flag, command, column));
    }
    match (raw.state, raw.protocol) {
        (Some((of, _)), Some(protocol)) if of != protocol => Err(Usage::WrongProtocol { option: "state", protocol }),
        _ => Ok(()),
    }
}

/// Refuses an option that the command, whose index in the matrix is `column`, or the protocol does not accept.
fn check_option(raw: &RawArgs, flag: &Flag, command: (Action, Subject), column: Option<usize>) -> Result<(), Usage> {
    let Effect::Option { protocols, ref legal, .. } = flag.effect else { return Ok(()) };
    // `-C` and `-S` accept -o json only: their line has no other form.
    let numbers = matches!(command.0, Action::Count | Action::Stats) && raw.format.encoding != Encoding::Json;
    if legal.need_in_column(column) == Need::Illegal || numbers {
        let forms = |(action, _): &(Action, Subject)| !matches!(action, Action::Count | Action::Stats);
        let commands: Vec<_> = legal.commands().filter(forms).map(command_spelling).collect();
        return Err(Usage::Illegal {
            option: flag.long,
            command: command_spelling(command),
            commands: commands.join(", "),
        });
    }
    let protocol = raw.protocol.unwrap_or(0);
    if !protocols.is_empty() && !protocols.contains(&protocol) {
        return Err(Usage::WrongProtocol { option: flag.long, protocol });
    }
    Ok(())
}

/// The flags that at least one command requires.
static REQUIRED_FLAGS: LazyLock<Vec<&Flag>> = LazyLock::new(|| {
    let needed = |flag: &&Flag| match flag.effect {
        Effect::Option { ref legal, .. } => legal.commands().any(|command| legal.need(command) == Need::Required),
        _ => false,
    };
    defs::FLAGS.into_iter().filter(needed).collect()
});

/// Refuses a command without an option that it requires.
fn check_required(raw: &RawArgs, command: (Action, Subject)) -> Result<(), Usage> {
    let column = matrix::column(command);
    for flag in REQUIRED_FLAGS.iter() {
        let Effect::Option { protocols, ref legal, .. } = flag.effect else { continue };
        let exists = protocols.is_empty() || raw.protocol.is_some_and(|protocol| protocols.contains(&protocol));
        if exists && legal.need_in_column(column) == Need::Required && !is_given(raw, flag) {
            return Err(Usage::MissingOption { option: flag.long, command: command_spelling(command) });
        }
    }
    Ok(())
}

/// Checks that both addresses, and both ports or keys, of one direction are given. Any part of the other direction may
/// be given besides.
fn check_pairs(raw: &RawArgs, command: (Action, Subject)) -> Result<(), Usage> {
    let addresses = |ends: &Endpoints| (ends.src.is_some(), ends.dst.is_some());
    let ports = |ends: &Endpoints| (ends.src_port.is_some(), ends.dst_port.is_some());
    check_pair(addresses(&raw.orig), addresses(&raw.reply), [("src", "dst"), ("reply-src", "reply-dst")], command)?;
    let names = match protocol::fields(raw.protocol.unwrap_or(0)) {
        protocol::Fields::Ports => [("sport", "dport"), ("reply-port-src", "reply-port-dst")],
        protocol::Fields::Keys => [("srckey", "dstkey"), ("reply-key-src", "reply-key-dst")],
        protocol::Fields::Icmp | protocol::Fields::None => return Ok(()),
    };
    check_pair(ports(&raw.orig), ports(&raw.reply), names, command)
}

/// Checks one kind of pair; each tuple says whether source and destination are given.
fn check_pair(
    orig: (bool, bool),
    reply: (bool, bool),
    names: [(&'static str, &'static str); 2],
    command: (Action, Subject),
) -> Result<(), Usage> {
    if orig == (true, true) || reply == (true, true) {
        return Ok(());
    }
    let only_reply = orig == (false, false) && reply != (false, false);
    let (first, second) = names[usize::from(only_reply)];
    Err(Usage::IncompletePair { first, second, command: command_spelling(command) })
}

/// Refuses options that exclude each other, and masks without an address.
fn check_exclusions(raw: &RawArgs, (action, subject): (Action, Subject)) -> Result<(), Usage> {
    let nat = [("src-nat", raw.nat.src), ("dst-nat", raw.nat.dst)].into_iter().find(|(_, nat)| nat.is_some());
    if let (Some(_), Some((second, _))) = (raw.nat.any, nat) {
        return Err(Usage::MutuallyExclusive { first: "any-nat", second, hint: "--any-nat selects both kinds of NAT" });
    }
    let own = [("read", raw.read.is_some()), ("buffer-size", raw.buffer_bytes.is_some())];
    if let (Some(_), Some((second, _))) = (&raw.daemon, own.into_iter().find(|(_, given)| *given)) {
        return Err(Usage::MutuallyExclusive { first: "daemon", second, hint: "the events come from the daemon" });
    }
    let removes = raw.labels_del != LabelsDel::default();
    if removes && !raw.labels_add.is_empty() {
        return Err(Usage::BothLabels);
    }
    let masks = [("mask-src", raw.mask.src, "src", raw.orig.src), ("mask-dst", raw.mask.dst, "dst", raw.orig.dst)];
    let lone = masks.into_iter().find(|(_, mask, _, of)| mask.is_some() && of.is_none());
    if let (Some((mask, _, address, _)), Subject::Flows) = (lone, subject) {
        return Err(Usage::MaskWithoutAddress { mask, address });
    }
    if raw.zero {
        check_zero(raw)?;
    }
    let selects = matches!(action, Action::List | Action::Delete);
    if selects && raw.options.iter().any(|flag| flag.long == "status") && super::plan::status_filter(raw).is_none() {
        return Err(Usage::NoStatus);
    }
    Ok(())
}

/// Refuses `-z` with options that select flows: the kernel resets the counters of all flows that it lists, including
/// those that the selection does not print. Like conntrack, accepts the NAT options and `-f`.
fn check_zero(raw: &RawArgs) -> Result<(), Usage> {
    const SELECTING: [&str; 15] = [
        "src",
        "dst",
        "reply-src",
        "reply-dst",
        "mask-src",
        "mask-dst",
        "protonum",
        "status",
        "mark",
        "secmark",
        "id",
        "zone",
        "orig-zone",
        "reply-zone",
        "label",
    ];
    let second = raw.options.iter().map(|flag| flag.long).find(|long| SELECTING.contains(long));
    let hint = "the counters of flows that are not printed would be reset, too";
    second.map_or(Ok(()), |second| Err(Usage::MutuallyExclusive { first: "zero", second, hint }))
}

/// A command as the user types it, such as `-L expect`.
pub(super) fn command_spelling((command, subject): (Action, Subject)) -> String {
    let is_command = |flag: &&&Flag| matches!(flag.effect, Effect::Command { action, .. } if action == command);
    let letter = defs::FLAGS.iter().find(is_command).and_then(|flag| flag.short).unwrap_or('?');
    match subject {
        Subject::Flows => format!("-{letter}"),
        Subject::Expectations => format!("-{letter} expect"),
    }
}

/// The status flags of which none is set in a flow that a saved line calls `UNSET`.
pub(super) const UNSET: u32 = uapi::IPS_SEEN_REPLY | uapi::IPS_ASSURED | uapi::IPS_FIXED_TIMEOUT | uapi::IPS_EXPECTED;
