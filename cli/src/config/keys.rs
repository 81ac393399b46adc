//! The keys that there are: one item each, with what it takes, what holds without it, and all there is to say.
//!
//! Messages about unknown keys and wrong values, and the manual page, are made from [`SECTIONS`].

/// A table of the file.
#[derive(Debug)]
pub(crate) struct Section {
    /// Its name, dots included.
    pub(crate) name: &'static str,
    /// Whether it stands in double brackets, once for each.
    pub(crate) repeated: bool,
    /// All there is to say.
    pub(crate) man: &'static str,
    /// Its keys.
    pub(crate) keys: &'static [Key],
}

/// A key of a section.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it takes, as in `it takes …`.
    pub(crate) takes: &'static str,
    /// What holds without it.
    pub(crate) default: &'static str,
    /// All there is to say.
    pub(crate) man: &'static str,
}

/// All sections, in the order of the manual page.
pub(crate) static SECTIONS: [Section; 9] = [
    Section {
        name: "node",
        repeated: false,
        man: "This machine, as its peers know it.",
        keys: &[Key {
            name: "name",
            takes: "a name of letters, digits, dots, dashes and underscores, at most 255",
            default: "the host name",
            man: "No two nodes that replicate to each other may have the same.",
        }],
    },
    Section {
        name: "link",
        repeated: true,
        man: "A channel to the peers. There may be up to four. The first that is healthy is used, and all are watched: the \
              next takes over when it fails, and gives way when it is back.",
        keys: &[
            Key {
                name: "transport",
                takes: "\"udp\", \"multicast\" or \"tcp\"",
                default: "\"udp\"",
                man: "How datagrams are carried: to each peer, to all of a group, or in connections that each node \
                      opens to its peers.",
            },
            Key {
                name: "local",
                takes: "\"ADDRESS:PORT\", an IPv6 address in brackets",
                default: "none, it must be given",
                man: "Where to listen, and what to send from. Of multicast, the port, which must be the group's, and the \
                      address of the interface, or 0.0.0.0 or [::].",
            },
            Key {
                name: "peers",
                takes: "a list of \"ADDRESS:PORT\", 1 to 64, of the same family as local",
                default: "none, it must be given",
                man: "Where the peers listen; with multicast the one group.",
            },
            Key {
                name: "interface",
                takes: "the name of a network interface",
                default: "any interface; multicast needs one",
                man: "Datagrams leave and come by this interface only.",
            },
        ],
    },
    Section {
        name: "security",
        repeated: false,
        man: "Links are encrypted and authenticated with a key that all nodes share, unless they are told not to be. \
              One of both keys must be given.",
        keys: &[
            Key {
                name: "key_file",
                takes: "the absolute path of a file with 64 hexadecimal digits",
                default: "none",
                man: "The key of 256 bits, as `ctflow keygen' makes it. A file that anybody but its owner may read or \
                      write is refused.",
            },
            Key {
                name: "insecure",
                takes: "true or false",
                default: "false",
                man: "Sends and takes everything in clear: whoever reaches a link can read and forge flows.",
            },
        ],
    },
    Section {
        name: "control",
        repeated: false,
        man: "How operators reach the daemon.",
        keys: &[Key {
            name: "socket",
            takes: "an absolute path of at most 107 bytes",
            default: "\"/run/ctflow.sock\"",
            man: "The UNIX socket of `ctflow status', `ctflow sync' and ctflowd's letters. It serves root and the daemon's \
                  own user.",
        }],
    },
    Section {
        name: "log",
        repeated: false,
        man: "Where the daemon writes what it has to say.",
        keys: &[Key {
            name: "file",
            takes: "an absolute path",
            default: "standard error",
            man: "Lines are added at its end.",
        }],
    },
    Section {
        name: "engine",
        repeated: false,
        man: "How events are received and kept.",
        keys: &[
            Key {
                name: "workers",
                takes: "a number, 1 to 64",
                default: "a quarter of the cores, 8 at most",
                man: "Threads that receive events, each with a socket and a shard of the flows of its own.",
            },
            Key {
                name: "backend",
                takes: "\"auto\", \"io_uring\", \"recvmmsg\" or \"recv\"",
                default: "\"auto\"",
                man: "How events are received; auto takes the cheapest that the machine permits.",
            },
            Key {
                name: "buffer_bytes",
                takes: "a number of bytes, 65536 to 1073741823",
                default: "8 MiB, which grows under pressure",
                man: "The receive buffer of each worker's socket. An event takes 1,280 bytes of it.",
            },
            Key {
                name: "buffer_bytes_max",
                takes: "a number of bytes, 65536 to 1073741823, at least buffer_bytes",
                default: "128 MiB",
                man: "How far that buffer may grow when events come faster than they are taken.",
            },
            Key {
                name: "flows_max",
                takes: "a number, 1024 to 4294967295",
                default: "4194304 for each worker",
                man: "Flows that the internal cache holds, and the external cache of each peer, all workers together. \
                      What does not fit is refused and counted.",
            },
        ],
    },
    Section {
        name: "sync",
        repeated: false,
        man: "What is replicated, and how.",
        keys: &[
            Key {
                name: "mode",
                takes: "\"ftfw\", \"alarm\" or \"notrack\"",
                default: "\"ftfw\"",
                man: "ftfw makes every loss good; alarm tells everything again and again; notrack sends once and forgets. All \
                      nodes must have the same.",
            },
            Key {
                name: "hot",
                takes: "true or false",
                default: "false",
                man: "Puts what the peers tell into this machine's kernel at once, so that a takeover has nothing left \
                      to commit. A flow stays there until its source says that it ended, or nobody confirms it any more; \
                      an expectation for as long as it was to be awaited when it was told. It takes memory in the kernel, \
                      and counts towards nf_conntrack_max.",
            },
            Key {
                name: "min_age_ms",
                takes: "a number of milliseconds, 0 to 60000",
                default: "0",
                man: "Flows that end before they are so old are never told to the peers. Where every protocol has such an \
                      age, changes of older flows wait for a hundredth of the shortest, at most 10 ms, to be told together.",
            },
            Key {
                name: "min_ages_ms",
                takes: "a table of milliseconds, 0 to 60000, by protocol: { udp = 250 }",
                default: "{ }",
                man: "The same for single protocols, by name or number, in place of min_age_ms.",
            },
            Key {
                name: "window_bytes",
                takes: "a number of bytes, 65536 to 1073741824",
                default: "1 MiB",
                man: "Bytes of each worker's batches that may be on their way before a peer acknowledges them. What does not \
                      fit waits, and only its newest state is sent. Of mode ftfw.",
            },
            Key {
                name: "resend_bytes",
                takes: "a number of bytes, 1048576 to 68719476736, at least window_bytes",
                default: "64 MiB",
                man: "Bytes of sent batches that are kept to be sent again, all workers together. A peer that missed more \
                      gets those parts of the cache again that changed. Of mode ftfw.",
            },
            Key {
                name: "refresh_s",
                takes: "a number of seconds, 1 to 86400",
                default: "15",
                man: "In this time everything is told once. Of mode alarm.",
            },
            Key {
                name: "cache_timeout_s",
                takes: "a number of seconds, 2 to 864000, more than refresh_s",
                default: "180",
                man: "What a peer did not tell for so long leaves its external cache. Of mode alarm.",
            },
        ],
    },
    Section {
        name: "takeover",
        repeated: false,
        man: "What happens when this machine becomes primary, by `ctflow role primary', and when it steps back.",
        keys: &[
            Key {
                name: "commit_timeout_s",
                takes: "a number of seconds, 1 to 432000",
                default: "what was left of each flow's own",
                man: "How long a flow that is put into the kernel lives if no packet comes.",
            },
            Key {
                name: "tcp_window_tracking",
                takes: "true or false",
                default: "false",
                man: "Has the kernel check the windows of TCP flows that were taken over, from the next packets on. \
                      Otherwise none of their packets is dropped for being out of its window.",
            },
            Key {
                name: "purge_timeout_s",
                takes: "a number of seconds, 1 to 86400",
                default: "60",
                man: "So long after it stepped back the kernel is cleared of what this machine tracked; in hot mode, of \
                      what it holds for peers none of which was heard for so long.",
            },
            Key {
                name: "ready_within_s",
                takes: "a number of seconds, 1 to 3600",
                default: "30",
                man: "So long `ctflow status --ready' fails at most while the external cache is not in sync: a takeover \
                      is not held up for longer.",
            },
            Key {
                name: "active_active",
                takes: "true or false",
                default: "false",
                man: "Both machines are primary, each for traffic of its own: two primaries are not reported as an error. Of two \
                      words on a flow the newer one counts. A machine takes over the other one's traffic by taking the \
                      role of primary once more.",
            },
            Key {
                name: "isolate",
                takes: "true or false",
                default: "false",
                man: "While it is backup, or at fault, this machine forwards nothing, and accepts nothing but replication, \
                      VRRP, group membership, neighbour discovery, what isolate_accept and isolate_spare name, and answers \
                      to what it asked itself. The rules are in the nftables table inet ctflow-isolate, which is there \
                      only then. They close and do not open: a packet that passes meets all other rules. They go when \
                      this machine becomes primary and its flows are in the kernel (in hot mode: at once), and with the \
                      daemon, however it ends; before Linux 5.12 what a daemon that died left is removed by the next \
                      one, or by `nft delete table inet ctflow-isolate'.",
            },
            Key {
                name: "isolate_accept",
                takes: "a list of at most 64 \"PROTOCOL/PORT\" or \"PROTOCOL\"",
                default: "[\"tcp/22\"]",
                man: "What else reaches this machine then, by the destination's port: how it is managed. Routing \
                      protocols, DHCP (udp/68) and monitoring belong here.",
            },
            Key {
                name: "isolate_spare",
                takes: "a list of at most 64 interface names",
                default: "[]",
                man: "Interfaces from which this machine itself can be reached all the same: a management network. Nothing \
                      is forwarded from there either.",
            },
        ],
    },
    Section {
        name: "sync.filter",
        repeated: false,
        man: "Which flows are cached and replicated. Each key takes { accept = [...] }, and then only those, or \
              { ignore = [...] }, and then all others. A flow must pass all that are given.",
        keys: &[
            Key {
                name: "protocols",
                takes: "{ accept = [...] } or { ignore = [...] } with protocols by name or number",
                default: "all",
                man: "Layer-4 protocols, by the names of /etc/protocols or their numbers.",
            },
            Key {
                name: "addresses",
                takes: "{ accept = [...] } or { ignore = [...] } with \"ADDRESS\" or \"ADDRESS/PREFIX\"",
                default: "all",
                man: "Compared with the source of the original direction and the source of the answers, which is the \
                      real server behind a translated address: one of them is enough.",
            },
            Key {
                name: "tcp_states",
                takes: "{ accept = [...] } or { ignore = [...] } with SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, \
                        CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE or SYN_SENT2",
                default: "all",
                man: "States of TCP flows. A flow that leaves the accepted states leaves the caches; its end is always \
                      told.",
            },
            Key {
                name: "zones",
                takes: "{ accept = [...] } or { ignore = [...] } with numbers, 0 to 65535",
                default: "all",
                man: "Conntrack zones; 0 is that of flows without one.",
            },
            Key {
                name: "mark",
                takes: "\"VALUE/MASK\" or \"VALUE\", decimal, or hexadecimal behind 0x",
                default: "all",
                man: "Only flows whose mark, under the mask, is the value.",
            },
        ],
    },
];

/// The section of that name.
pub(super) fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

impl Section {
    /// The key of that name.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// As it stands in a file.
    pub(crate) fn head(&self) -> String {
        if self.repeated { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_described_and_none_twice() {
        for section in &SECTIONS {
            assert!(section.man.ends_with('.'), "{}", section.name);
            for key in section.keys {
                assert!(key.man.ends_with('.') && !key.takes.is_empty() && !key.default.is_empty(), "{}", key.name);
                assert_eq!(section.keys.iter().filter(|other| other.name == key.name).count(), 1, "{}", key.name);
            }
        }
    }
}
