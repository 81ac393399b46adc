//! What options say together: which go with which command, which need one another, which exclude one another.

use std::sync::LazyLock;

use ctflow_parser::uapi;

use super::defs::{self, Effect, Flag};
use super::matrix::{self, Need};
use super::raw::{Action, Endpoints, LabelsDel, RawArgs, TypedCommand};
use super::usage::Usage;
use crate::output::{Encoding, Subject};
use crate::protocol;

/// Refuses the first thing, in the order of the help text, that does not fit.
pub(super) fn check(raw: &RawArgs, chosen: &TypedCommand) -> Result<(), Usage> {
    let wanted = (chosen.action, chosen.subject());
    check_legal(raw, wanted)?;
    check_required(raw, wanted)?;
    if matches!(chosen.action, Action::Get | Action::Create | Action::Add) && chosen.subject() == Subject::Flows {
        check_pairs(raw, wanted)?;
    }
    check_exclusions(raw, wanted)
}

fn is_given(raw: &RawArgs, flag: &Flag) -> bool {
    raw.options.iter().any(|given| std::ptr::eq(*given, flag))
}

fn check_legal(raw: &RawArgs, wanted: (Action, Subject)) -> Result<(), Usage> {
    let column = matrix::column(wanted);
    // A load file has many lines and few mistakes: only where something is wrong do all flags count, for their order.
    if !raw.options.iter().all(|flag| check_option(raw, flag, wanted, column).is_ok()) {
        let mut given = defs::FLAGS.into_iter().filter(|flag| is_given(raw, flag));
        return given.try_for_each(|flag| check_option(raw, flag, wanted, column));
    }
    match (raw.state, raw.protocol) {
        (Some((of, _)), Some(protocol)) if of != protocol => Err(Usage::WrongProtocol { option: "state", protocol }),
        _ => Ok(()),
    }
}

/// Whether a given option goes with the command, which has that `column`, and with the protocol.
fn check_option(raw: &RawArgs, flag: &Flag, wanted: (Action, Subject), column: Option<usize>) -> Result<(), Usage> {
    let Effect::Option { protocols, ref legal, .. } = flag.effect else { return Ok(()) };
    // Counts and statistics have one form besides their line.
    let numbers = matches!(wanted.0, Action::Count | Action::Stats) && raw.format.encoding != Encoding::Json;
    if legal.need_in_column(column) == Need::Illegal || numbers {
        let forms = |(action, _): &(Action, Subject)| !matches!(action, Action::Count | Action::Stats);
        let commands: Vec<_> = legal.commands().filter(forms).map(command_spelling).collect();
        return Err(Usage::Illegal {
            option: flag.long,
            command: command_spelling(wanted),
            commands: commands.join(", "),
        });
    }
    let protocol = raw.protocol.unwrap_or(0);
    if !protocols.is_empty() && !protocols.contains(&protocol) {
        return Err(Usage::WrongProtocol { option: flag.long, protocol });
    }
    Ok(())
}

/// The flags that some command needs.
static REQUIRED_FLAGS: LazyLock<Vec<&Flag>> = LazyLock::new(|| {
    let needed = |flag: &&Flag| match flag.effect {
        Effect::Option { ref legal, .. } => legal.commands().any(|command| legal.need(command) == Need::Required),
        _ => false,
    };
    defs::FLAGS.into_iter().filter(needed).collect()
});

fn check_required(raw: &RawArgs, wanted: (Action, Subject)) -> Result<(), Usage> {
    let column = matrix::column(wanted);
    for flag in REQUIRED_FLAGS.iter() {
        let Effect::Option { protocols, ref legal, .. } = flag.effect else { continue };
        let exists = protocols.is_empty() || raw.protocol.is_some_and(|protocol| protocols.contains(&protocol));
        if exists && legal.need_in_column(column) == Need::Required && !is_given(raw, flag) {
            return Err(Usage::MissingOption { option: flag.long, command: command_spelling(wanted) });
        }
    }
    Ok(())
}

/// A flow is named by both ends of one direction; then any half of the other may stand beside them.
fn check_pairs(raw: &RawArgs, wanted: (Action, Subject)) -> Result<(), Usage> {
    let addresses = |ends: &Endpoints| (ends.src.is_some(), ends.dst.is_some());
    let ports = |ends: &Endpoints| (ends.src_port.is_some(), ends.dst_port.is_some());
    check_pair(addresses(&raw.orig), addresses(&raw.reply), [("src", "dst"), ("reply-src", "reply-dst")], wanted)?;
    let names = match protocol::fields(raw.protocol.unwrap_or(0)) {
        protocol::Fields::Ports => [("sport", "dport"), ("reply-port-src", "reply-port-dst")],
        protocol::Fields::Keys => [("srckey", "dstkey"), ("reply-key-src", "reply-key-dst")],
        protocol::Fields::Icmp | protocol::Fields::None => return Ok(()),
    };
    check_pair(ports(&raw.orig), ports(&raw.reply), names, wanted)
}

fn check_pair(
    orig: (bool, bool),
    reply: (bool, bool),
    names: [(&'static str, &'static str); 2],
    wanted: (Action, Subject),
) -> Result<(), Usage> {
    if orig == (true, true) || reply == (true, true) {
        return Ok(());
    }
    let only_reply = orig == (false, false) && reply != (false, false);
    let (first, second) = names[usize::from(only_reply)];
    Err(Usage::IncompletePair { first, second, command: command_spelling(wanted) })
}

fn check_exclusions(raw: &RawArgs, (action, subject): (Action, Subject)) -> Result<(), Usage> {
    let nat = [("src-nat", raw.nat.src), ("dst-nat", raw.nat.dst)].into_iter().find(|(_, nat)| nat.is_some());
    if let (Some(_), Some((second, _))) = (raw.nat.any, nat) {
        return Err(Usage::MutuallyExclusive { first: "any-nat", second, hint: "the former is either of the latter" });
    }
    let own = [("read", raw.read.is_some()), ("buffer-size", raw.buffer_bytes.is_some())];
    if let (Some(_), Some((second, _))) = (&raw.daemon, own.into_iter().find(|(_, given)| *given)) {
        return Err(Usage::MutuallyExclusive {
            first: "daemon",
            second,
            hint: "the events come from the daemon, as it receives them",
        });
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

/// The kernel resets what it lists, whatever is shown of it. Translation and family may go with it all the same, as
/// in conntrack.
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
    let hint = "counters of flows that are not shown would be reset, too";
    second.map_or(Ok(()), |second| Err(Usage::MutuallyExclusive { first: "zero", second, hint }))
}

/// A command as one would type it.
pub(super) fn command_spelling((wanted, subject): (Action, Subject)) -> String {
    let is_wanted = |flag: &&&Flag| matches!(flag.effect, Effect::Command { action, .. } if action == wanted);
    let letter = defs::FLAGS.iter().find(is_wanted).and_then(|flag| flag.short).unwrap_or('?');
    match subject {
        Subject::Flows => format!("-{letter}"),
        Subject::Expectations => format!("-{letter} expect"),
    }
}

/// The flags that are in the state a saved line calls `UNSET` when none of them is set.
pub(super) const UNSET: u32 = uapi::IPS_SEEN_REPLY | uapi::IPS_ASSURED | uapi::IPS_FIXED_TIMEOUT | uapi::IPS_EXPECTED;
