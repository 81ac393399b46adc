//! ctflow(1), in troff, generated from the flags and the verbs.

use std::fmt::Write;

use super::checks;
use super::defs::{Argument, Effect, FLAGS, Flag, TABLES};
use super::matrix::{Need, Row};
use super::raw::Action;
use super::verbs::{VERBS, Verb, VerbOption, WordHelp};
use crate::persona::Persona;
use crate::protocol;
use crate::troff::{escaped, example, item, prose, section};
use crate::words;

/// The description. The page has no date, so that it changes only with its content.
const ABOUT: &str = "Lists, changes and follows the connections that the Linux kernel tracks, and replicates them \
                     between firewalls. The command line is that of conntrack(8). Installed under a name that ends \
                     in conntrack, the program prints the same lines as conntrack, and has no verbs. If the first \
                     word has no dash it is a verb; otherwise the command line has exactly one command, and options \
                     in any order. Long options may be abbreviated while they are unambiguous.";

/// The section TABLES.
const TABLE_TEXT: &str = "A command works on the table conntrack (flows), unless another table follows it: expect \
                          (expectations), and with -L also dying and unconfirmed. Names may be abbreviated.";

/// Exit codes and their meanings.
const EXITS: [(&str, &str); 4] = [
    ("0", "Success."),
    ("1", "Failure, or no entry matched; the reason is printed on standard error."),
    ("2", "The command line is wrong, and nothing was done. Some wrong values exit with 1, as in conntrack."),
    ("3", "status (without --ready) and role (without a word): a peer is primary, too, and active_active is not set."),
];

/// The environment variable `CTFLOW_LOG`.
const LOG: &str = "The lowest level of messages on standard error, or in the daemon's log: error (the default), warn, info \
                   (the daemon's default) or debug.";

/// Differences from conntrack, one paragraph each.
const DIFFERENCES: [&str; 30] = [
    "A negated status with -D (-u '!ASSURED', -u UNREPLIED) deletes only the matching flows; conntrack deletes all \
     flows.",
    "Plain and negated status flags can be combined: -L -u 'SEEN_REPLY,!ASSURED'. -u UNSET selects the flows that \
     have none of the flags that -o save prints.",
    "Options may be combined in any order. conntrack 1.4.7 uses the status as the mark if -m comes before -u, and \
     prints nothing for -j with an address together with -p.",
    "-b sets the buffer of the socket that receives the events.",
    "-E counts lost events and reports them.",
    "-U and -G find flows in zones, and accept -w.",
    "If the kernel refuses to change some flows, -U prints how many, and exits with 1.",
    "-A changes an existing flow. -U does not need -f, and prints every flow that it changes, unlike conntrack 1.4.7.",
    "Several labels, in one list or over several options, select flows that have all of them.",
    "--labelmap is also accepted with -I and -A.",
    "-c selects by security mark. Current kernels report only security contexts, not marks, so it selects nothing; \
     conntrack selects everything.",
    "-n, -g and -j with an IPv6 address select by that address; with a port, they also match if the translated port \
     equals the original one.",
    "ICMP flows count as translated only if their addresses or ids are translated.",
    "A mistyped SCTP state is an error, and the message lists the valid ones. HEARTBEAT_SENT and HEARTBEAT_ACKED are \
     accepted, too.",
    "SCTP tags are the numbers in the packets, independent of the machine's byte order.",
    "-I expect uses the given protocol; conntrack overwrites it with the expected port, version 1.4.7 for all \
     protocols.",
    "-D expect exits with 0 if the expectation was deleted, and prints the number of deleted ones.",
    "XML is always well formed, and is a document even without entries. SCTP and DCCP states are correct, and ICMP \
     fields are included.",
    "-o save includes marks, labels that have names, helpers (--ct-helper), and NAT of the port alone. It omits \
     EXPECTED, which cannot be set, and the requester of an event. It is complete for protocols without a tracker. \
     So whatever is saved can be loaded.",
    "-R keeps the ports of flows with source and destination NAT.",
    "-F -f FAMILY deletes the flows of that family only.",
    "-C and -S exit with 0 without privileges if the result is right.",
    "Numbers are checked: port 70000 is refused; conntrack wraps it.",
    "Addresses may be attached to -n, -g and -j (-n192.0.2.1, --src-nat=192.0.2.1); conntrack ignores attached \
     addresses without a message.",
    "A status that selects nothing (-u SRC_NAT) is an error with -L and -D; with -D, conntrack deletes everything.",
    "If a label file cannot be read, the message names the file.",
    "Lines of any length are printed completely.",
    "If a line of a file is wrong, -R names it and executes nothing. Consecutive lines that create flows are sent \
     together; if the kernel refuses one, lines after it may have been executed, and the message names the last one.",
    "--dump=expect and similar forms accept a table.",
    "-o json prints one object on each line; --write and --read store events as pcapng.",
];

/// The introduction of the section JSON.
const JSON_TEXT: &str = "With -o json each line is an object. A key is present if the kernel sent its value. Keys \
                         keep their meaning; new keys may be added, at any position. Numbers are integers; counters \
                         and times may need all 64 bits.";

/// The keys of the objects, in groups with their meaning; `output::json` has the same table beside the code.
const JSON: [(&str, &str); 17] = [
    (
        "event, event_ns, event_clock, requester",
        "Of events: new, update or destroy; the time, in ns since the epoch; the clock of that time, kernel or \
         reader; the process that requested the change: port_id, and program if it was found.",
    ),
    ("family, protocol, protocol_number", "ipv4 or ipv6; the name, such as tcp, or unknown; the number."),
    ("timeout, zone, id", "Seconds until the entry expires; the zone of both directions; the kernel's id."),
    ("master", "The master, the flow that this entry belongs to: a tuple with its protocol."),
    ("orig, reply", "The directions of a flow: tuples with further attributes."),
    (
        "state, role, handshake_seq",
        "The state of TCP, SCTP and DCCP, by name; of DCCP also the role, client or server, and a number.",
    ),
    ("status, status_flags", "The status as a number, and the names of its bits."),
    ("mark, secmark, secctx, use", "As in the plain output."),
    (
        "labels, label_names",
        "The bit numbers of the labels; if there is a label file, their names, or null for labels without a name.",
    ),
    ("start_ns, stop_ns", "The times at which the flow started and ended, in ns since the epoch."),
    ("helper, helper_info", "The name of the helper; its private data in hexadecimal."),
    ("synproxy", "The numbers isn, its and tsoff of the SYN proxy."),
    (
        "src, dst, sport, dport, src_key, dst_key, icmp_type, icmp_code, icmp_id, zone",
        "Of a tuple: addresses; ports, or keys of GRE, or the fields of ICMP and ICMPv6; the zone of this direction \
         alone.",
    ),
    (
        "packets, bytes, tcp_wscale, tcp_flags, tcp_flags_mask, vtag, seqadj",
        "Of a direction: counters; TCP window scale and flags; the SCTP verification tag; sequence adjustment: \
         correction_pos, offset_before and offset_after.",
    ),
    (
        "tuple, mask, flags, flag_names, class, function, nat",
        "Of an expectation: the expected tuple, and the mask of the bits that are compared; its flags as a number \
         and by name; class and function as the kernel reports them; the NAT: a tuple with its protocol and \
         direction, orig or reply.",
    ),
    ("entries", "Of -C: the number of entries."),
    ("cpu", "Of -S, one object for each CPU: its number, and the counters under the names of the plain output."),
];

/// Common tasks: a command line, and its purpose.
const EXAMPLES: [(&str, &str); 21] = [
    ("ctflow -E -o timestamp", "Follow all events, with their times, until interrupted."),
    ("ctflow -E -p udp --dport 53 -o timestamp", "Follow DNS queries."),
    ("ctflow -E -p tcp -e NEW,DESTROY", "Follow the starts and ends of TCP flows only."),
    ("ctflow -C", "Print the number of flows."),
    ("ctflow -L -s 192.0.2.0/24 -p tcp --dport 443", "List the HTTPS flows of a network."),
    ("ctflow -L -j", "List all flows with NAT."),
    (
        "ctflow -L -o json | jq -r 'select(.orig.dport == 443) | .orig.src' | sort | uniq -c",
        "Count the HTTPS flows of each host.",
    ),
    ("ctflow -D -s 192.0.2.7", "Delete all flows that a host opened."),
    ("ctflow -D -p tcp -u UNREPLIED", "Delete the TCP flows that were never answered."),
    ("ctflow -U -s 192.0.2.7 -m 0x10/0xff", "Change the mark of the flows of a host: the low byte becomes 0x10."),
    ("ctflow -L -o save > flows.txt", "Save the table as a file of commands."),
    ("ctflow -R flows.txt", "Load that file, on this machine or another."),
    ("ctflow -E --write flows.pcapng", "Capture events to a file, until interrupted."),
    ("ctflow -E --read flows.pcapng -o timestamp", "Print the events in that file, without privileges."),
    ("ctflow doctor", "Check this machine: what works, what is missing, how to fix it."),
    ("ctflow daemon --check", "Check the configuration of the daemon."),
    ("ctflow status", "Print the state of this firewall and its peers, problems, and whether it can take over."),
    ("ctflow status --ready", "Test in a script whether this firewall may take over."),
    ("ctflow sync verify", "Compare this firewall's flows with the copies on its peers."),
    ("ctflow role primary", "Take over from the other firewall."),
    ("ctflow bench --report bench.html", "Measure the capacity of this machine, and write a page with plots."),
];

/// The whole manual page.
pub(crate) fn page() -> String {
    let mut page = String::from(
        ".\\\" Made by `ctflow man' from the flags' definitions: cargo run -p ctflow -- man > packaging/ctflow.1\n",
    );
    let _ = writeln!(page, ".TH CTFLOW 1 \"\" \"{}\" \"User Commands\"", escaped(Persona::Ctflow.banner()));
    // Without hyphenation: a hyphen that troff inserts looks like part of an option's name.
    page += ".nh\n.ad l\n.SH NAME\nctflow \\- list, change, follow and replicate tracked connections\n.SH SYNOPSIS\n";
    page += ".B ctflow\n.I COMMAND\n[\\fITABLE\\fR] [\\fIOPTION\\fR]...\n.br\n.B ctflow\n.I VERB\n[\\fIARGUMENT\\fR]\n";
    page += &section("DESCRIPTION", &prose(ABOUT));
    page += &section("COMMANDS", &flags(|flag| matches!(flag.effect, Effect::Command { .. } | Effect::File)));
    page += &section("TABLES", &prose(TABLE_TEXT));
    page += &section("OPTIONS", &flags(|flag| is_option(flag) && flag.protocols().is_empty()));
    let fields = flags(|flag| !flag.protocols().is_empty());
    let introduction = prose("These options are accepted only after the -p of their protocol.");
    page += &section("OPTIONS OF PROTOCOLS", &(introduction + &fields));
    page += &section("VERBS", &VERBS.into_iter().map(verb_item).collect::<String>());
    let keys: String = JSON.iter().map(|(keys, text)| item(&format!("\\fB{}\\fR", escaped(keys)), text)).collect();
    page += &section("JSON", &(prose(JSON_TEXT) + &keys));
    page += &section("ENVIRONMENT", &item("\\fBCTFLOW_LOG\\fR", LOG));
    page + &last_sections()
}

/// The sections after ENVIRONMENT.
fn last_sections() -> String {
    let exits: String = EXITS.iter().map(|(code, text)| item(&format!("\\fB{code}\\fR"), text)).collect();
    let differences: String = DIFFERENCES.iter().map(|text| format!(".IP \\(bu 2\n{}", prose(text))).collect();
    let examples: String = EXAMPLES.iter().map(example).collect();
    section("EXIT STATUS", &exits)
        + &section("DIFFERENCES FROM CONNTRACK", &differences)
        + &section("EXAMPLES", &examples)
        + ".SH SEE ALSO\n.BR ctflow.toml (5),\n.BR ctflowd (8),\n.BR conntrack (8),\n.BR nft (8),\n.BR jq (1),\n.BR wireshark (1)\n"
}

/// Whether the flag belongs to the section OPTIONS.
fn is_option(flag: &Flag) -> bool {
    matches!(flag.effect, Effect::Option { .. } | Effect::Ignored(_))
}

/// The items of the selected flags.
fn flags(selects: impl Fn(&Flag) -> bool) -> String {
    FLAGS.into_iter().filter(|flag| selects(flag)).map(flag_item).collect()
}

/// The item of a flag.
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

/// The sentences that list the commands that accept or require an option, and its protocols.
fn legal_commands(legal: &Row, protocols: &[u8]) -> String {
    let spelled = |selects: &dyn Fn(Action, Need) -> bool| {
        let commands = legal.commands().filter(|command| selects(command.0, legal.need(*command)));
        commands.map(checks::command_spelling).collect::<Vec<_>>().join(", ")
    };
    // `-C` and `-S` accept -o json only.
    let others = [Action::Count, Action::Stats];
    let mut text = format!(" Accepted with {}.", spelled(&|action, _| !others.contains(&action)));
    if legal.commands().any(|(action, _)| action == Action::Count) {
        text += " With -C and -S, only json is accepted.";
    }
    let needed = spelled(&|_, need| need == Need::Required);
    if !needed.is_empty() {
        let _ = write!(text, " Required with {needed}.");
    }
    if !protocols.is_empty() {
        let names = protocols.iter().map(|number| protocol::name(*number));
        let _ = write!(text, " Protocols: {}.", words::join_with_and(names));
    }
    text
}

/// The names of a flag, with its argument.
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

/// A verb: its text, then its words and its options set in.
fn verb_item(verb: &Verb) -> String {
    let text = format!("{} {}", verb.about, verb.man);
    let item = item(&verb_head(verb.name, verb.argument), text.trim_end());
    let words = verb.words.iter().map(word_item);
    let inner: String = words.chain(verb.options.iter().map(option_item)).collect();
    if inner.is_empty() { item } else { format!("{item}.RS\n{inner}.RE\n") }
}

/// A word of a verb.
fn word_item(word: &WordHelp) -> String {
    let (name, arguments) = word.usage.split_once(' ').unwrap_or((word.usage, ""));
    item(&verb_head(name, arguments), word.man)
}

/// A bold name with its arguments.
fn verb_head(name: &str, arguments: &str) -> String {
    format!("\\fB{}\\fR {}", escaped(name), escaped(arguments)).trim_end().to_owned()
}

/// The item of a verb's option.
fn option_item(option: &VerbOption) -> String {
    let names = option.spellings().map(|name| format!("\\fB{}\\fR", escaped(&name))).collect::<Vec<_>>().join(", ");
    item(format!("{names} \\fI{}\\fR", escaped(option.argument)).trim_end_matches(" \\fI\\fR"), option.help)
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
        assert!(text("event-mask").contains("Accepted with \\-E.\n"), "{}", text("event-mask"));
        assert!(text("state").contains("Required with \\-I, \\-A.\nProtocols: tcp, sctp and dccp.\n"));
        assert!(text("output").contains("With \\-C and \\-S, only json is accepted.\n"));
    }

    /// Reads the keys from the source of the JSON writer.
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
