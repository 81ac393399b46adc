//! The keys of the configuration: one item each, with its accepted values, its default and its manual text.
//!
//! Messages about unknown keys and wrong values, and the manual page, are generated from [`SECTIONS`].

/// A section of the file: a TOML table.
#[derive(Debug)]
pub(crate) struct Section {
    /// Its full name, with dots.
    pub(crate) name: &'static str,
    /// Whether it may be repeated, and so is written in double brackets.
    pub(crate) repeated: bool,
    /// Its text in the manual page.
    pub(crate) man: &'static str,
    /// Its keys.
    pub(crate) keys: &'static [Key],
}

/// A key of a section.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name.
    pub(crate) name: &'static str,
    /// The values that it accepts, as in the message `it takes …`.
    pub(crate) takes: &'static str,
    /// Its default, as text.
    pub(crate) default: &'static str,
    /// Its text in the manual page.
    pub(crate) man: &'static str,
}

/// All sections, in the order of the manual page.
pub(crate) static SECTIONS: [Section; 9] = [
    Section {
        name: "node",
        repeated: false,
        man: "This machine, as its peers identify it.",
        keys: &[Key {
            name: "name",
            takes: "a name of letters, digits, dots, dashes and underscores, at most 255",
            default: "the host name",
            man: "The name of the node. Nodes that replicate to each other must have different names.",
        }],
    },
    Section {
        name: "link",
        repeated: true,
        man: "A channel to the peers; up to four. The first healthy one carries the replication, and all are \
              monitored. If it fails, the next one takes over, until the first is healthy again.",
        keys: &[
            Key {
                name: "transport",
                takes: "\"udp\", \"multicast\" or \"tcp\"",
                default: "\"udp\"",
                man: "How datagrams are sent: to each peer (udp), to a multicast group, or over TCP connections that \
                      each node opens to its peers.",
            },
            Key {
                name: "local",
                takes: "\"ADDRESS:PORT\", an IPv6 address in brackets",
                default: "none; required",
                man: "The address and port to listen on and to send from. For multicast: the port, which must be the \
                      group's, and the address of the interface, or 0.0.0.0 or [::].",
            },
            Key {
                name: "peers",
                takes: "a list of \"ADDRESS:PORT\", 1 to 64, of the same family as local",
                default: "none; required",
                man: "The addresses on which the peers listen; for multicast, the group.",
            },
            Key {
                name: "interface",
                takes: "the name of a network interface",
                default: "any interface; required for multicast",
                man: "Datagrams are sent and received on this interface only.",
            },
        ],
    },
    Section {
        name: "security",
        repeated: false,
        man: "Links are encrypted and authenticated with a key that all nodes share, unless insecure is set. One of \
              the two keys is required.",
        keys: &[
            Key {
                name: "key_file",
                takes: "the absolute path of a file with 64 hexadecimal digits",
                default: "none",
                man: "The file with the 256-bit key that `ctflow keygen' created. The file is refused if anyone but \
                      its owner can read or write it.",
            },
            Key {
                name: "insecure",
                takes: "true or false",
                default: "false",
                man: "Sends and accepts everything in clear: anyone who can reach a link can read and forge flows.",
            },
        ],
    },
    Section {
        name: "control",
        repeated: false,
        man: "Access for operators.",
        keys: &[Key {
            name: "socket",
            takes: "an absolute path of at most 107 bytes",
            default: "\"/run/ctflow.sock\"",
            man: "The UNIX socket for `ctflow status', `ctflow sync', `ctflow role' and ctflowd's letters. Only root \
                  and the daemon's own user may use it.",
        }],
    },
    Section {
        name: "log",
        repeated: false,
        man: "The log of the daemon.",
        keys: &[Key {
            name: "file",
            takes: "an absolute path",
            default: "standard error",
            man: "The file that log lines are appended to.",
        }],
    },
    Section {
        name: "engine",
        repeated: false,
        man: "How events are received and flows are stored.",
        keys: &[
            Key {
                name: "workers",
                takes: "a number, 1 to 64",
                default: "a quarter of the cores, at most 8",
                man: "Threads that receive events. Each has a socket of its own and stores a part of the flows.",
            },
            Key {
                name: "backend",
                takes: "\"auto\", \"io_uring\", \"recvmmsg\" or \"recv\"",
                default: "\"auto\"",
                man: "How events are received. auto selects the cheapest back end that works on this machine.",
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
                man: "The size to which that buffer may grow when events arrive faster than they are processed.",
            },
            Key {
                name: "flows_max",
                takes: "a number, 1024 to 4294967295",
                default: "4194304 for each worker",
                man: "Flows in the internal cache, and in the external cache of each peer, over all workers. Further \
                      flows are refused and counted.",
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
                man: "ftfw repairs every loss; alarm sends everything again and again; notrack sends once and \
                      repairs nothing. All nodes must have the same mode.",
            },
            Key {
                name: "hot",
                takes: "true or false",
                default: "false",
                man: "Writes the peers' flows into this machine's kernel as they arrive, so that a takeover has \
                      nothing left to commit. A flow stays in the kernel until its source reports its end or no \
                      longer confirms it; an expectation stays for the time that it had left when it was sent. These \
                      flows use kernel memory and count towards nf_conntrack_max.",
            },
            Key {
                name: "min_age_ms",
                takes: "a number of milliseconds, 0 to 60000",
                default: "0",
                man: "Flows that end before this age are never sent to the peers. If every protocol has such an age, \
                      changes of older flows are delayed by a hundredth of the shortest one, at most 10 ms, to be \
                      sent together.",
            },
            Key {
                name: "min_ages_ms",
                takes: "a table of milliseconds, 0 to 60000, by protocol: { udp = 250 }",
                default: "{ }",
                man: "The same for single protocols, by name or number, instead of min_age_ms.",
            },
            Key {
                name: "window_bytes",
                takes: "a number of bytes, 65536 to 1073741824",
                default: "1 MiB",
                man: "Bytes of each worker's changes that may be sent before a peer acknowledges them. Further \
                      changes wait, and only the newest state of a flow is sent. Mode ftfw only.",
            },
            Key {
                name: "resend_bytes",
                takes: "a number of bytes, 1048576 to 68719476736, at least window_bytes",
                default: "64 MiB",
                man: "Bytes of sent changes that are kept for resending, over all workers. If a peer has missed \
                      more, the parts of the cache that changed are sent to it again. Mode ftfw only.",
            },
            Key {
                name: "refresh_s",
                takes: "a number of seconds, 1 to 86400",
                default: "15",
                man: "Everything is sent once in this time. Mode alarm only.",
            },
            Key {
                name: "cache_timeout_s",
                takes: "a number of seconds, 2 to 864000, more than refresh_s",
                default: "180",
                man: "Flows that a peer has not sent for this time are removed from its external cache. Mode alarm \
                      only.",
            },
        ],
    },
    Section {
        name: "takeover",
        repeated: false,
        man: "What happens when this machine becomes primary (`ctflow role primary'), or becomes backup.",
        keys: &[
            Key {
                name: "commit_timeout_s",
                takes: "a number of seconds, 1 to 432000",
                default: "the time that each flow had left",
                man: "How long a flow that a takeover writes into the kernel lives without a packet.",
            },
            Key {
                name: "tcp_window_tracking",
                takes: "true or false",
                default: "false",
                man: "Makes the kernel check the windows of TCP flows that were taken over, starting with the next \
                      packets. If false, none of their packets is dropped for being outside the window.",
            },
            Key {
                name: "purge_timeout_s",
                takes: "a number of seconds, 1 to 86400",
                default: "60",
                man: "The time after becoming backup at which the flows that this machine tracked are deleted from \
                      its kernel. In hot mode, also the time without a message from any peer after which the flows \
                      held for peers are deleted.",
            },
            Key {
                name: "ready_within_s",
                takes: "a number of seconds, 1 to 3600",
                default: "30",
                man: "The longest time for which `ctflow status --ready' fails while the external cache is not in \
                      sync: a takeover is not delayed any longer.",
            },
            Key {
                name: "active_active",
                takes: "true or false",
                default: "false",
                man: "Both machines are primary, each for its own traffic, and two primaries are not reported as an \
                      error. If both have the same flow, its newer state is kept. A machine takes over the other \
                      one's traffic when its role is set to primary again.",
            },
            Key {
                name: "isolate",
                takes: "true or false",
                default: "false",
                man: "While it is backup or in fault, this machine forwards nothing, and accepts only replication, \
                      VRRP, group membership, neighbour discovery, what isolate_accept and isolate_spare name, and \
                      replies to its own requests. The rules are in the nftables table inet ctflow-isolate, which \
                      exists only during that time. They only block: a packet that passes them is still subject to \
                      all other rules. They are removed when this machine becomes primary and its flows are in the \
                      kernel (in hot mode: immediately), and when the daemon ends, for whatever reason. Before Linux \
                      5.12 the rules of a daemon that died remain until the next one starts, or until `nft delete \
                      table inet ctflow-isolate'.",
            },
            Key {
                name: "isolate_accept",
                takes: "a list of at most 64 \"PROTOCOL/PORT\" or \"PROTOCOL\"",
                default: "[\"tcp/22\"]",
                man: "Services of this machine that stay reachable during isolation, by destination port: ssh, for \
                      example. Routing protocols, DHCP (udp/68) and monitoring belong here.",
            },
            Key {
                name: "isolate_spare",
                takes: "a list of at most 64 interface names",
                default: "[]",
                man: "Interfaces that are exempt from isolation for traffic to this machine itself: a management \
                      network. Traffic from them is not forwarded either.",
            },
        ],
    },
    Section {
        name: "sync.filter",
        repeated: false,
        man: "Which flows are cached and replicated. A key with { accept = [...] } selects only the listed ones, a \
              key with { ignore = [...] } all others. A flow must pass all keys that are set.",
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
                man: "Compared with the source of the original direction and the source of the reply direction, \
                      which is the real server behind a translated address. A flow is listed if either one matches.",
            },
            Key {
                name: "tcp_states",
                takes: "{ accept = [...] } or { ignore = [...] } with SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, \
                        CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE or SYN_SENT2",
                default: "all",
                man: "States of TCP flows. A flow that leaves the accepted states is removed from the caches; the \
                      end of a flow is always sent.",
            },
            Key {
                name: "zones",
                takes: "{ accept = [...] } or { ignore = [...] } with numbers, 0 to 65535",
                default: "all",
                man: "Conntrack zones; 0 means flows without a zone.",
            },
            Key {
                name: "mark",
                takes: "\"VALUE/MASK\" or \"VALUE\", decimal, or hexadecimal after 0x",
                default: "all",
                man: "Selects flows whose mark, under the mask, equals the value.",
            },
        ],
    },
];

/// The section with that full name.
pub(super) fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

impl Section {
    /// The key with that name.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The head of the section as it is written in a file.
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
