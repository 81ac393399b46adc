//! ctflow.toml(5), in troff, made from the keys themselves.

use std::fmt::Write;

use super::keys::{Key, SECTIONS, Section};
use super::{DEFAULT_PATH, DEFAULT_SOCKET};
use crate::persona::Persona;
use crate::troff::{escaped, item, line, prose, section};

const ABOUT: &str = "The daemon of ctflow, started by `ctflow daemon -C FILE' or ctflowd, reads its configuration from a file in \
                     TOML. Keys stand under the head of their section. Keys and sections that nobody knows are refused, with \
                     the line, and so is every value that its key does not take. `ctflow daemon -C FILE --check' says whether \
                     a file is fine, and starts nothing.";

const RELOAD: &str = "On SIGHUP the daemon reads the file again, takes over what can change while it runs, which is \
                      min_age_ms, min_ages_ms and the filter, and names in the log what cannot. Protocols that were \
                      accepted at the start are all that the kernel tells until the end. The log is opened again.";

/// What serves a pair of firewalls, and what serves one of three.
const EXAMPLES: [(&str, &str); 2] = [
    (
        "One of a pair. All else has defaults that serve.",
        "[node]\nname = \"fw1\"\n\n[[link]]\nlocal = \"192.0.2.1:3780\"\npeers = [\"192.0.2.2:3780\"]\n\n[security]\n\
         key_file = \"/etc/ctflow/key\"\n",
    ),
    (
        "One of three, over multicast, with a second link for when the first fails. DNS that is answered at once is not \
         worth telling.",
        "[node]\nname = \"fw1\"\n\n[[link]]\ntransport = \"multicast\"\nlocal = \"192.0.2.1:3780\"\n\
         peers = [\"225.0.0.50:3780\"]\ninterface = \"eth2\"\n\n[[link]]\nlocal = \"198.51.100.1:3780\"\n\
         peers = [\"198.51.100.2:3780\", \"198.51.100.3:3780\"]\n\n[security]\nkey_file = \"/etc/ctflow/key\"\n\n\
         [sync]\nmin_ages_ms = { udp = 250, icmp = 1000 }\n\n[sync.filter]\n\
         addresses = { ignore = [\"127.0.0.0/8\", \"::1\", \"192.0.2.0/24\"] }\n",
    ),
];

/// The whole page.
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
        &(file_item(DEFAULT_PATH, "Where the file is looked for.") + &file_item(DEFAULT_SOCKET, "The control socket.")),
    );
    page += &section("EXAMPLES", &EXAMPLES.iter().map(example).collect::<String>());
    page + ".SH SEE ALSO\n.BR ctflow (1),\n.BR ctflowd (8)\n"
}

fn section_text(section: &Section) -> String {
    format!(".SS {}\n{}", escaped(&section.head()), prose(section.man))
        + &section.keys.iter().map(key_item).collect::<String>()
}

fn key_item(key: &Key) -> String {
    let text = format!("{} Takes {}. Default: {}.", key.man, key.takes, key.default);
    item(&format!("\\fB{}\\fR", escaped(key.name)), &text)
}

fn file_item(path: &str, text: &str) -> String {
    item(&format!("\\fI{}\\fR", escaped(path)), text)
}

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
