//! What options say together: which go with which command, which need one another, which exclude one another.

use std::sync::LazyLock;

use ctflow_parser::uapi;

use super::defs::{self, Effect, Flag};
use super::matrix::{self, Need};
use super::raw::{Action, Chosen, Ends, LabelsDel, Raw};
use super::usage::Usage;
use crate::output::{Encoding, Subject};
use crate::protocol;

/// Refuses the first thing, in the order of the help text, that does not fit.
pub(super) fn check(raw: &Raw, chosen: &Chosen) -> Result<(), Usage> {
    let wanted = (chosen.action, chosen.subject());
    legal(raw, wanted)?;
    required(raw, wanted)?;
    if matches!(chosen.action, Action::Get | Action::Create | Action::Add) && chosen.subject() == Subject::Flows {
        pairs(raw, wanted)?;
    }
    together(raw, wanted)
}

fn is_given(raw: &Raw, flag: &Flag) -> bool {
    raw.given.iter().any(|given| std::ptr::eq(*given, flag))
}

fn legal(raw: &Raw, wanted: (Action, Subject)) -> Result<(), Usage> {
    let column = matrix::column(wanted);
    // A load file has many lines and few mistakes: only where something is wrong do all flags count, for their order.
    if !raw.given.iter().all(|flag| fits(raw, flag, wanted, column).is_ok()) {
        let mut given = defs::FLAGS.into_iter().filter(|flag| is_given(raw, flag));
        return given.try_for_each(|flag| fits(raw, flag, wanted, column));
    }
    match (raw.state, raw.protocol) {
        (Some((of, _)), Some(protocol)) if of != protocol => Err(Usage::OtherProtocol { option: "state", protocol }),
        _ => Ok(()),
    }
}

/// Whether a given option goes with the command, which has that `column`, and with the protocol.
fn fits(raw: &Raw, flag: &Flag, wanted: (Action, Subject), column: Option<usize>) -> Result<(), Usage> {
    let Effect::Option { protocols, ref legal, .. } = flag.effect else { return Ok(()) };
    // Counts and statistics have one form besides their line.
    let numbers = matches!(wanted.0, Action::Count | Action::Stats) && raw.format.encoding != Encoding::Json;
    if legal.at(column) == Need::Illegal || numbers {
        let forms = |(action, _): &(Action, Subject)| !matches!(action, Action::Count | Action::Stats);
        let commands: Vec<_> = legal.commands().filter(forms).map(spelled).collect();
        return Err(Usage::Illegal { option: flag.long, command: spelled(wanted), commands: commands.join(", ") });
    }
    let protocol = raw.protocol.unwrap_or(0);
    if !protocols.is_empty() && !protocols.contains(&protocol) {
        return Err(Usage::OtherProtocol { option: flag.long, protocol });
    }
    Ok(())
}

/// The flags that some command needs.
static NEEDED: LazyLock<Vec<&Flag>> = LazyLock::new(|| {
    let needed = |flag: &&Flag| match flag.effect {
        Effect::Option { ref legal, .. } => legal.commands().any(|command| legal.need(command) == Need::Required),
        _ => false,
    };
    defs::FLAGS.into_iter().filter(needed).collect()
});

fn required(raw: &Raw, wanted: (Action, Subject)) -> Result<(), Usage> {
    let column = matrix::column(wanted);
    for flag in NEEDED.iter() {
        let Effect::Option { protocols, ref legal, .. } = flag.effect else { continue };
        let exists = protocols.is_empty() || raw.protocol.is_some_and(|protocol| protocols.contains(&protocol));
        if exists && legal.at(column) == Need::Required && !is_given(raw, flag) {
            return Err(Usage::Needed { option: flag.long, command: spelled(wanted) });
        }
    }
    Ok(())
}

/// A flow is named by both ends of one direction; then any half of the other may stand beside them.
fn pairs(raw: &Raw, wanted: (Action, Subject)) -> Result<(), Usage> {
    let addresses = |ends: &Ends| (ends.src.is_some(), ends.dst.is_some());
    let ports = |ends: &Ends| (ends.src_port.is_some(), ends.dst_port.is_some());
    pair(addresses(&raw.orig), addresses(&raw.reply), [("src", "dst"), ("reply-src", "reply-dst")], wanted)?;
    let names = match protocol::fields(raw.protocol.unwrap_or(0)) {
        protocol::Fields::Ports => [("sport", "dport"), ("reply-port-src", "reply-port-dst")],
        protocol::Fields::Keys => [("srckey", "dstkey"), ("reply-key-src", "reply-key-dst")],
        protocol::Fields::Icmp | protocol::Fields::None => return Ok(()),
    };
    pair(ports(&raw.orig), ports(&raw.reply), names, wanted)
}

fn pair(
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
    Err(Usage::HalfPair { first, second, command: spelled(wanted) })
}

fn together(raw: &Raw, (action, subject): (Action, Subject)) -> Result<(), Usage> {
    let nat = [("src-nat", raw.nat.src), ("dst-nat", raw.nat.dst)].into_iter().find(|(_, nat)| nat.is_some());
    if let (Some(_), Some((second, _))) = (raw.nat.any, nat) {
        return Err(Usage::Together { first: "any-nat", second, hint: "the former is either of the latter" });
    }
    let own = [("read", raw.read.is_some()), ("buffer-size", raw.buffer_bytes.is_some())];
    if let (Some(_), Some((second, _))) = (&raw.daemon, own.into_iter().find(|(_, given)| *given)) {
        return Err(Usage::Together {
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
        return Err(Usage::LoneMask { mask, address });
    }
    if raw.zero {
        zero_alone(raw)?;
    }
    let selects = matches!(action, Action::List | Action::Delete);
    if selects && raw.given.iter().any(|flag| flag.long == "status") && super::plan::status_filter(raw).is_none() {
        return Err(Usage::NoStatus);
    }
    Ok(())
}

/// The kernel resets what it lists, whatever is shown of it. Translation and family may go with it all the same, as
/// in conntrack.
fn zero_alone(raw: &Raw) -> Result<(), Usage> {
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
    let second = raw.given.iter().map(|flag| flag.long).find(|long| SELECTING.contains(long));
    let hint = "counters of flows that are not shown would be reset, too";
    second.map_or(Ok(()), |second| Err(Usage::Together { first: "zero", second, hint }))
}

/// A command as one would type it.
pub(super) fn spelled((wanted, subject): (Action, Subject)) -> String {
    let is_wanted = |flag: &&&Flag| matches!(flag.effect, Effect::Command { action, .. } if action == wanted);
    let letter = defs::FLAGS.iter().find(is_wanted).and_then(|flag| flag.short).unwrap_or('?');
    match subject {
        Subject::Flows => format!("-{letter}"),
        Subject::Expectations => format!("-{letter} expect"),
    }
}

/// The flags that are in the state a saved line calls `UNSET` when none of them is set.
pub(super) const UNSET: u32 = uapi::IPS_SEEN_REPLY | uapi::IPS_ASSURED | uapi::IPS_FIXED_TIMEOUT | uapi::IPS_EXPECTED;
