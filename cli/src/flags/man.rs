//! The manual page, in troff, made from the flags and the verbs themselves.

use std::fmt::Write;

use super::checks;
use super::defs::{Argument, Effect, FLAGS, Flag, TABLES};
use super::matrix::{Need, Row};
use super::raw::Action;
use super::verbs::{VERBS, Verb, VerbOption};
use super::words;
use crate::persona::Persona;
use crate::protocol;
use crate::troff::{escaped, item, line, prose, section};

/// Without a date, so that the page changes only when what it says does.
const ABOUT: &str = "Lists, changes and follows the connections that the Linux kernel tracks. The command line is that \
                     of conntrack(8); installed under a name that ends in conntrack, the program also prints what \
                     that one prints, and has no verbs. The first word is a verb if it has no dash; else exactly one \
                     command is given, and options in any order. Long options may be cut short as long as they are \
                     unambiguous.";

const TABLE_TEXT: &str = "A command works on the table conntrack, the flows, unless another is named behind it: expect, \
                          the expectations; with -L also dying and unconfirmed. Names may be cut short.";

const EXITS: [(&str, &str); 3] = [
    ("0", "What was asked for was done."),
    ("1", "It could not be done, or there was nothing to do it with; standard error says why."),
    ("2", "The command line is wrong, and nothing was done. Some wrong values exit with 1, as in conntrack."),
];

const LOG: &str = "What to say on standard error besides errors: warn, info or debug. Without it, errors only.";

/// What a user of conntrack finds otherwise here.
const DIFFERENCES: [&str; 30] = [
    "A negated status with -D (-u '!ASSURED', -u UNREPLIED) deletes the flows that it names; conntrack deletes all.",
    "Plain and negated status flags can stand together: -L -u 'SEEN_REPLY,!ASSURED'. -u UNSET selects the flows that \
     have none of the flags that -o save names.",
    "Options may stand in any order and company: conntrack's 1.4.7 takes the status for the mark where -m stands before \
     -u, and shows nothing for -j with an address beside -p.",
    "-b sizes the socket that receives the events.",
    "-E counts the events that were lost, and says so.",
    "-U and -G reach flows of zones; -w is legal with both.",
    "-U of flows some of which the kernel refuses to change says how many, and exits 1.",
    "-A changes a flow that is there, -U needs no -f, and prints every flow that it changes, unlike conntrack's 1.4.7.",
    "Several labels mean all of them, in one list or over several options.",
    "--labelmap also goes with -I and -A.",
    "-c selects by security mark. Today's kernels tell none, only security contexts, so that it selects nothing; \
     conntrack selects everything.",
    "-n, -g and -j with an IPv6 address select by that address, and with a port also where it is the port from before.",
    "ICMP flows count as translated only where their addresses or ids are.",
    "A mistyped SCTP state is an error that names the right ones; HEARTBEAT_SENT and HEARTBEAT_ACKED can be given, too.",
    "SCTP tags are the numbers that the packets have, whatever the machine's byte order.",
    "-I expect awaits the protocol that it is told; conntrack writes the awaited port over it, 1.4.7 for all protocols.",
    "-D expect exits with 0 when the expectation was deleted, and says how many were.",
    "XML is well formed everywhere, a document also where there is nothing to show, has the right states of SCTP and \
     DCCP, and the fields of ICMP.",
    "-o save keeps marks, labels that have names, helpers (--ct-helper), and ports translated alone; leaves out \
     EXPECTED, which the kernel lets nobody set, and whose request an event was; and is complete for protocols without a \
     tracker. So what is saved can be loaded.",
    "-R keeps the ports of flows that are translated at both ends.",
    "-F -f FAMILY deletes the flows of that family only.",
    "-C and -S exit with 0 without privileges when the answer is right.",
    "Numbers are checked: a port of 70000 is refused, not wrapped.",
    "Addresses may be joined to -n, -g and -j (-n192.0.2.1, --src-nat=192.0.2.1); conntrack drops them in silence.",
    "A status of -D, -L that says nothing (-u SRC_NAT) is an error; conntrack deletes everything.",
    "Which file of labels cannot be read is said.",
    "Lines are never cut, however long.",
    "-R names the line that is wrong, and then does nothing at all. It sends lines that make flows together: where the \
     kernel refuses one, some behind it may be carried out, and up to which line is said.",
    "--dump=expect and its like take the table.",
    "-o json prints one object to a line; --write and --read keep events as pcapng.",
];

const JSON_TEXT: &str = "With -o json each line is an object. A key is there where the kernel sent the value; keys do \
                         not change their meaning, new ones may come, in any place. Numbers are whole, and counters \
                         and times may take all of 64 bits.";

/// What objects have which keys; `output::json` has the same table beside the code.
const JSON: [(&str, &str); 17] = [
    (
        "event, event_ns, event_clock, requester",
        "In events: new, update or destroy; when, in ns since the epoch; whose clock that is, kernel or reader; who asked \
         for it: port_id, and program where it was found.",
    ),
    ("family, protocol, protocol_number", "ipv4 or ipv6; tcp and its like, else unknown; the number."),
    ("timeout, zone, id", "Seconds until it expires; the zone of both directions; the kernel's id."),
    ("master", "The flow that it belongs to: a tuple with its protocol."),
    ("orig, reply", "Directions of a flow: tuples, and what is known of each."),
    ("state, role, handshake_seq", "Of TCP, SCTP and DCCP by name; of DCCP also client or server, and a number."),
    ("status, status_flags", "The number, and the names of its bits."),
    ("mark, secmark, secctx, use", "As in the line."),
    ("labels, label_names", "Numbers; with a file of labels a name or null for each."),
    ("start_ns, stop_ns", "When a flow began and ended, in ns since the epoch."),
    ("helper, helper_info", "Its name; its private data in hex."),
    ("synproxy", "The numbers isn, its and tsoff."),
    (
        "src, dst, sport, dport, src_key, dst_key, icmp_type, icmp_code, icmp_id, zone",
        "Of a tuple: addresses; ports, or keys of GRE, or the fields of ICMP and ICMPv6; the zone of this direction alone.",
    ),
    (
        "packets, bytes, tcp_wscale, tcp_flags, tcp_flags_mask, vtag, seqadj",
        "Of a direction: counters; what TCP and SCTP know; correction_pos, offset_before and offset_after.",
    ),
    (
        "tuple, mask, flags, flag_names, class, function, nat",
        "Of an expectation: what it awaits, and which bits of it count; its flags as a number and by name; as the kernel \
         has them; a tuple with its protocol and direction, orig or reply.",
    ),
    ("entries", "Of -C: how many."),
    ("cpu", "Of -S, an object to a CPU: its number, beside the counters under the names that their line has."),
];

/// What to type, and what for.
const EXAMPLES: [(&str, &str); 10] = [
    ("ctflow -E -p udp --dport 53 -o timestamp", "Follow DNS queries as they happen."),
    ("ctflow -L -j", "List all flows whose addresses or ports are translated."),
    ("ctflow -D -s 192.0.2.7", "Delete all flows that a host opened."),
    ("ctflow -D -p tcp -u UNREPLIED", "Delete the TCP flows that were never answered."),
    ("ctflow -L -o save > flows.txt", "Save the table as commands."),
    ("ctflow -R flows.txt", "Load it again, here or elsewhere."),
    ("ctflow -E --write flows.pcapng", "Capture events to a file, until interrupted."),
    ("ctflow -E --read flows.pcapng -o timestamp", "Read that file back, without privileges."),
    (
        "ctflow -L -o json | jq -r 'select(.orig.dport == 443) | .orig.src' | sort | uniq -c",
        "Count the HTTPS flows of each host.",
    ),
    ("ctflow -C", "Print the number of flows."),
];

/// The whole page.
pub(crate) fn page() -> String {
    let mut page = String::from(
        ".\\\" Made by `ctflow man' from the flags' definitions: cargo run -p ctflow -- man > packaging/ctflow.1\n",
    );
    let _ = writeln!(page, ".TH CTFLOW 1 \"\" \"{}\" \"User Commands\"", escaped(Persona::Ctflow.banner()));
    // A hyphen that troff adds looks like one of an option's name.
    page += ".nh\n.ad l\n.SH NAME\nctflow \\- connection tracking, its table and its events\n.SH SYNOPSIS\n";
    page += ".B ctflow\n.I COMMAND\n[\\fITABLE\\fR] [\\fIOPTION\\fR]...\n.br\n.B ctflow\n.I VERB\n[\\fIARGUMENT\\fR]\n";
    page += &section("DESCRIPTION", &prose(ABOUT));
    page += &section("COMMANDS", &flags(|flag| matches!(flag.effect, Effect::Command { .. } | Effect::File)));
    page += &section("TABLES", &prose(TABLE_TEXT));
    page += &section("OPTIONS", &flags(|flag| is_option(flag) && flag.protocols().is_empty()));
    let fields = flags(|flag| !flag.protocols().is_empty());
    page += &section("OPTIONS OF PROTOCOLS", &(prose("These exist behind the -p of their protocol only.") + &fields));
    page += &section("VERBS", &VERBS.into_iter().map(verb_item).collect::<String>());
    let keys: String = JSON.iter().map(|(keys, text)| item(&format!("\\fB{}\\fR", escaped(keys)), text)).collect();
    page += &section("JSON", &(prose(JSON_TEXT) + &keys));
    page += &section("ENVIRONMENT", &item("\\fBCTFLOW_LOG\\fR", LOG));
    page + &last_sections()
}

fn last_sections() -> String {
    let exits: String = EXITS.iter().map(|(code, text)| item(&format!("\\fB{code}\\fR"), text)).collect();
    let differences: String = DIFFERENCES.iter().map(|text| format!(".IP \\(bu 2\n{}", prose(text))).collect();
    let examples: String = EXAMPLES.iter().map(example).collect();
    section("EXIT STATUS", &exits)
        + &section("DIFFERENCES FROM CONNTRACK", &differences)
        + &section("EXAMPLES", &examples)
        + ".SH SEE ALSO\n.BR ctflow.toml (5),\n.BR ctflowd (8),\n.BR conntrack (8),\n.BR nft (8),\n.BR jq (1),\n.BR wireshark (1)\n"
}

fn is_option(flag: &Flag) -> bool {
    matches!(flag.effect, Effect::Option { .. } | Effect::Ignored(_))
}

fn flags(wanted: impl Fn(&Flag) -> bool) -> String {
    FLAGS.into_iter().filter(|flag| wanted(flag)).map(flag_item).collect()
}

fn flag_item(flag: &Flag) -> String {
    let company = match flag.effect {
        Effect::Command { tables, .. } if !tables.is_empty() => {
            let names = TABLES.iter().filter(|(_, table)| tables.contains(table)).map(|(name, _)| *name);
            format!(" Tables: {}.", words::join_with_and(names))
        }
        Effect::Option { ref legal, protocols, .. } => legal_commands(legal, protocols),
        _ => String::new(),
    };
    item(&flag_head(flag), &format!("{}{company}", flag.man))
}

/// With which commands an option goes, behind which protocols.
fn legal_commands(legal: &Row, protocols: &[u8]) -> String {
    let spelled = |wanted: &dyn Fn(Action, Need) -> bool| {
        let commands = legal.commands().filter(|command| wanted(command.0, legal.need(*command)));
        commands.map(checks::command_spelling).collect::<Vec<_>>().join(", ")
    };
    // Counts and statistics have one form besides their line.
    let others = [Action::Count, Action::Stats];
    let mut text = format!(" Goes with {}.", spelled(&|action, _| !others.contains(&action)));
    if legal.commands().any(|(action, _)| action == Action::Count) {
        text += " With -C and -S, only json.";
    }
    let needed = spelled(&|_, need| need == Need::Required);
    if !needed.is_empty() {
        let _ = write!(text, " Needed with {needed}.");
    }
    if !protocols.is_empty() {
        let names = protocols.iter().map(|number| protocol::name(*number));
        let _ = write!(text, " Protocols: {}.", words::join_with_and(names));
    }
    text
}

fn flag_head(flag: &Flag) -> String {
    let short = flag.short.map(|letter| format!("-{letter}"));
    let names = short.into_iter().chain(flag.names().map(|name| format!("--{name}")));
    let names = names.map(|name| format!("\\fB{}\\fR", escaped(&name))).collect::<Vec<_>>().join(", ");
    match flag.argument {
        Argument::None => names,
        Argument::Table => format!("{names} [\\fITABLE\\fR]"),
        Argument::Required(argument) => format!("{names} \\fI{}\\fR", escaped(argument)),
        Argument::Optional(argument) => format!("{names} [\\fI{}\\fR]", escaped(argument)),
    }
}

fn verb_item(verb: &Verb) -> String {
    let text = item(format!("\\fB{}\\fR {}", escaped(verb.name), escaped(verb.argument)).trim_end(), verb.man);
    let options: String = verb.options.iter().map(option_item).collect();
    if options.is_empty() { text } else { format!("{text}.RS\n{options}.RE\n") }
}

fn option_item(option: &VerbOption) -> String {
    let names = option.spellings().map(|name| format!("\\fB{}\\fR", escaped(&name))).collect::<Vec<_>>().join(", ");
    item(format!("{names} \\fI{}\\fR", escaped(option.argument)).trim_end_matches(" \\fI\\fR"), option.help)
}

fn example((command, text): &(&str, &str)) -> String {
    format!(".TP\n{}.EX\n{}\n.EE\n", prose(text), line(command))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn every_flag_and_verb_has_its_item() {
        let page = page();
        assert!(page.is_ascii());
        assert!(FLAGS.into_iter().all(|flag| page.contains(&flag_item(flag))));
        assert!(VERBS.into_iter().all(|verb| page.contains(&verb_item(verb))));
        assert!(flag_item(FLAGS[0]).starts_with(".TP\n\\fB\\-L\\fR, \\fB\\-\\-dump\\fR [\\fITABLE\\fR]\n"));
    }

    #[test]
    fn an_option_names_its_commands() {
        let text = |name| FLAGS.into_iter().find(|flag| flag.long == name).map(flag_item).unwrap();
        assert!(text("event-mask").contains("Goes with \\-E.\n"), "{}", text("event-mask"));
        assert!(text("state").contains("Needed with \\-I, \\-A.\nProtocols: tcp, sctp and dccp.\n"));
        assert!(text("output").contains("With \\-C and \\-S, only json.\n"));
    }

    /// The keys as the writer spells them, in its source.
    #[test]
    fn every_json_key_is_described() {
        let words: Vec<_> = JSON
            .iter()
            .flat_map(|(keys, text)| [keys, text])
            .flat_map(|text| text.split([' ', ',', '.', ';', ':']))
            .collect();
        let (writer, _) = include_str!("../output/json.rs").split_once("#[cfg(test)]").unwrap();
        let pieces: Vec<_> = writer.split("\\\"").collect();
        let keys = pieces.windows(2).filter(|pair| pair[1].starts_with(':')).map(|pair| pair[0]);
        let keys: Vec<_> = keys.filter(|key| !key.is_empty()).collect();
        assert!(keys.len() > 60, "{}", keys.len());
        keys.iter().for_each(|key| assert!(words.contains(key), "{key}"));
    }

    #[test]
    fn the_examples_are_command_lines() {
        for (command, _) in EXAMPLES {
            let ours = command.split(['|', '>']).next().unwrap();
            let words = ours.split_whitespace().skip(1).map(OsString::from);
            assert!(crate::flags::parse(Persona::Ctflow, words).is_ok(), "{command}");
        }
    }
}
