//! ctflow.toml(5), in troff, generated from the keys.

use std::fmt::Write;

use super::keys::{Key, SECTIONS, Section};
use super::{DEFAULT_PATH, DEFAULT_SOCKET};
use crate::persona::Persona;
use crate::troff::{escaped, item, line, prose, section};

/// The description.
const ABOUT: &str = "The daemon of ctflow, started as `ctflow daemon -C FILE' or as ctflowd, reads its configuration \
                     from a TOML file. Each key belongs to a section. Unknown sections, unknown keys and invalid \
                     values are refused, with their line. `ctflow daemon -C FILE --check' checks a file and starts \
                     nothing.";

/// What SIGHUP does.
const RELOAD: &str = "On SIGHUP the daemon reads the file again and opens its log file again. It applies the keys \
                      that can change while it runs: min_age_ms, min_ages_ms and the filter. The log names every \
                      other key, or its section, that changed; those need a restart. If the filter accepted certain protocols at the \
                      start, the kernel sends events of those protocols only, until the daemon is restarted.";

/// Configurations: both firewalls of a pair, optional sections for both, and one of three firewalls.
const EXAMPLES: [(&str, &str); 4] = [
    (
        "A pair of firewalls, fw1 and fw2, connected by a cable. `ctflow keygen /etc/ctflow/key' creates the key on \
         one of them; copy it to the other. The file of fw1:",
        "[node]\nname = \"fw1\"\n\n[[link]]\nlocal = \"192.0.2.1:3780\"\npeers = [\"192.0.2.2:3780\"]\n\n[security]\n\
         key_file = \"/etc/ctflow/key\"\n",
    ),
    (
        "The file of fw2:",
        "[node]\nname = \"fw2\"\n\n[[link]]\nlocal = \"192.0.2.2:3780\"\npeers = [\"192.0.2.1:3780\"]\n\n[security]\n\
         key_file = \"/etc/ctflow/key\"\n",
    ),
    (
        "Optional sections for both: the backup keeps the flows of the primary in its kernel, so that a takeover is \
         fast. Besides replication and VRRP it accepts only ssh, and everything from its management network.",
        "[sync]\nhot = true\n\n[takeover]\nisolate = true\nisolate_accept = [\"tcp/22\"]\n\
         isolate_spare = [\"mgmt0\"]\n",
    ),
    (
        "One of three firewalls, over multicast, with a second link in case the first fails. Flows of UDP and ICMP \
         that end early, such as DNS queries, are not replicated.",
        "[node]\nname = \"fw1\"\n\n[[link]]\ntransport = \"multicast\"\nlocal = \"192.0.2.1:3780\"\n\
         peers = [\"225.0.0.50:3780\"]\ninterface = \"eth2\"\n\n[[link]]\nlocal = \"198.51.100.1:3780\"\n\
         peers = [\"198.51.100.2:3780\", \"198.51.100.3:3780\"]\n\n[security]\nkey_file = \"/etc/ctflow/key\"\n\n\
         [sync]\nmin_ages_ms = { udp = 250, icmp = 1000 }\n\n[sync.filter]\n\
         addresses = { ignore = [\"127.0.0.0/8\", \"::1\", \"192.0.2.0/24\"] }\n",
    ),
];

/// The whole manual page.
pub(crate) fn page() -> String {
    let mut page = String::from(
        ".\\\" Made by `ctflow man ctflow.toml' from the keys' definitions: cargo run -p ctflow -- man ctflow.toml > \
         packaging/ctflow.toml.5\n",
    );
    let _ = writeln!(page, ".TH CTFLOW.TOML 5 \"\" \"{}\" \"File Formats\"", escaped(Persona::Ctflow.banner()));
    page += ".nh\n.ad l\n.SH NAME\nctflow.toml \\- configuration of the daemon of ctflow\n";
    page += &section("DESCRIPTION", &prose(ABOUT));
    page += ".SH SECTIONS AND KEYS\n";
    page += &SECTIONS.iter().map(section_text).collect::<String>();
    page += &section("RELOADING", &prose(RELOAD));
    page += &section(
        "FILES",
        &(file_item(DEFAULT_PATH, "The configuration, unless -C names another.")
            + &file_item(DEFAULT_SOCKET, "The control socket.")),
    );
    page += &section("EXAMPLES", &EXAMPLES.iter().map(example).collect::<String>());
    page + ".SH SEE ALSO\n.BR ctflow (1),\n.BR ctflowd (8)\n"
}

/// A section with its keys.
fn section_text(section: &Section) -> String {
    format!(".SS {}\n{}", escaped(&section.head()), prose(section.man))
        + &section.keys.iter().map(key_item).collect::<String>()
}

/// The item of a key.
fn key_item(key: &Key) -> String {
    let text = format!("{} Takes {}. Default: {}.", key.man, key.takes, key.default);
    item(&format!("\\fB{}\\fR", escaped(key.name)), &text)
}

/// The item of a file.
fn file_item(path: &str, text: &str) -> String {
    item(&format!("\\fI{}\\fR", escaped(path)), text)
}

/// A text and the file that it introduces.
fn example((text, file): &(&str, &str)) -> String {
    let lines: String = file.lines().map(|text| line(text) + "\n").collect();
    format!(".PP\n{}.PP\n.RS 4\n.EX\n{lines}.EE\n.RE\n", prose(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_item() {
        let page = page();
        let items = SECTIONS.iter().flat_map(|section| section.keys).map(key_item);
        assert!(page.is_ascii() && items.into_iter().all(|item| page.contains(&item)));
    }

    #[test]
    fn the_examples_are_valid_configurations() {
        for (_, text) in EXAMPLES {
            crate::config::file::read(text).unwrap();
        }
    }
}
