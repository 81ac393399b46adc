//! Flows of every kind that this kernel tracks: created by requests, and by real packets where only those create them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use ctflow_engine::netlink::nft::{Chain, Hook, Rule, Ruleset};
use ctflow_lab::sysctl;
use ctflow_lab::topology::{CLIENT, Firewall, REDIRECTED, SERVER, SERVER6};
use ctflow_lab::traffic::{tcp_exchange, udp_exchange};
use ctflow_parser::flow::{FlowView, Helper, Labels, RareAttributes};
use ctflow_parser::proto::{ProtoInfo, SctpInfo, TcpInfo};
use ctflow_parser::request::{FlowChange, NatRange};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi::*;

use super::support::{PROGRAM, create_as, flow, ports, run};

const V4: (&str, &str) = ("10.0.0.1", "10.0.0.2");
const V6: (&str, &str) = ("2001:db8::1", "::1.2.3.4");

/// Enables counters, time stamps and labels in the calling thread's network. Flows have labels only if a rule uses
/// them.
pub(crate) fn record_all() {
    let label = Rule::new().destination_port(IPPROTO_UDP, 53).set_label(5);
    Ruleset::new("labels").chain(Chain::filter("forward", Hook::Forward).rule(label)).apply().unwrap();
    sysctl::write("net/netfilter/nf_conntrack_acct", "1").unwrap();
    sysctl::write("net/netfilter/nf_conntrack_timestamp", "1").unwrap();
}

/// Creates a flow of every kind that a request can create.
pub(crate) fn create_every_kind() {
    let kinds = [protocols(), states(), statuses(), zones(), translations(), extras()].concat();
    kinds.iter().for_each(create_as);
}

/// Returns a flow of each protocol, by IPv4 and IPv6 where the protocol has both.
fn protocols() -> Vec<FlowChange<'static>> {
    let mut made = Vec::new();
    for (src, dst) in [V4, V6] {
        for proto in [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, IPPROTO_SCTP, IPPROTO_DCCP] {
            made.push(flow(src, dst, proto, ports(1000, 53)));
        }
        made.push(flow(src, dst, IPPROTO_GRE, ports(0x10, 0xbeef)));
        made.extend([2, 4, 50, 51, 200, 255].map(|number| flow(src, dst, number, L4::None)));
    }
    let icmp = |(src, dst), proto, kind, id| flow(src, dst, proto, L4::Icmp { kind, code: 0, id });
    made.extend([icmp(V4, IPPROTO_ICMP, 8, 77), icmp(V6, IPPROTO_ICMPV6, 128, 9)]);
    made.into_iter().map(change).collect()
}

/// Returns a flow in each state of TCP and SCTP that a request can set.
fn states() -> Vec<FlowChange<'static>> {
    let tcp = (1..=9u8).map(|state| {
        let proto = Some(ProtoInfo::Tcp(TcpInfo { state: Some(state), ..TcpInfo::default() }));
        FlowView { proto, ..flow(V4.0, V4.1, IPPROTO_TCP, ports(1100 + u16::from(state), 80)) }
    });
    let sctp = (1..=8u8).map(|state| {
        let (vtag_orig, vtag_reply) = (Some(0x0102_0304), Some(u32::from(state)));
        let proto = Some(ProtoInfo::Sctp(SctpInfo { state: Some(state), vtag_orig, vtag_reply }));
        FlowView { proto, ..flow(V4.0, V4.1, IPPROTO_SCTP, ports(1100 + u16::from(state), 80)) }
    });
    tcp.chain(sctp).map(change).collect()
}

/// Returns flows with the status flags that a request can set, together and alone, and with marks.
fn statuses() -> Vec<FlowChange<'static>> {
    let table = [
        (IPS_SEEN_REPLY, 0),
        (IPS_SEEN_REPLY | IPS_ASSURED, 42),
        (IPS_ASSURED, 0x8000_0001),
        (IPS_FIXED_TIMEOUT, 43),
        (IPS_FIXED_TIMEOUT | IPS_SEEN_REPLY | IPS_ASSURED, 0xffff_ffff),
    ];
    let of = |proto| {
        (1200..).zip(table).map(move |(port, (status, mark))| FlowView {
            status: Some(status | IPS_CONFIRMED),
            mark: Some(mark),
            ..flow("10.0.1.1", "10.0.1.2", proto, ports(port, 443))
        })
    };
    of(IPPROTO_TCP).chain(of(IPPROTO_UDP)).map(change).collect()
}

/// Returns flows with the same tuple in different zones: of both directions, and of one direction.
fn zones() -> Vec<FlowChange<'static>> {
    let plain = |port| flow("10.0.2.1", "10.0.2.2", IPPROTO_TCP, ports(port, 80));
    let in_zone = |tuple: Option<Tuple>, zone| tuple.map(|tuple| Tuple { zone: Some(zone), ..tuple });
    let [one, other, third] = [1000, 1001, 1002].map(plain);
    let v6 = flow("2001:db8::1", "2001:db8::5", IPPROTO_UDP, ports(7, 53));
    let zoned = [
        one,
        FlowView { zone: Some(7), ..one },
        FlowView { zone: Some(65535), ..one },
        FlowView { zone: Some(7), ..v6 },
        FlowView { orig: in_zone(other.orig, 3), ..other },
        FlowView { reply: in_zone(third.reply, 4), ..third },
    ];
    zoned.map(change).into()
}

/// Returns flows with NAT of source, destination, both, and the port alone; by IPv4, IPv6 and ICMP.
fn translations() -> Vec<FlowChange<'static>> {
    let to = |address: &str, port| Some(NatRange { address: address.parse().unwrap(), port });
    let v4 = |port| flow("10.0.3.1", "10.0.3.2", IPPROTO_TCP, ports(port, 80));
    let v6 = |port| flow("2001:db8:3::1", "2001:db8:3::2", IPPROTO_UDP, ports(port, 53));
    let ping = flow("10.0.3.1", "10.0.3.2", IPPROTO_ICMP, L4::Icmp { kind: 8, code: 0, id: 5 });
    let made = [
        (v4(1), to("192.0.2.99", None), None),
        (v4(2), to("192.0.2.99", Some(4000)), None),
        (v4(3), None, to("198.51.100.99", None)),
        (v4(4), None, to("198.51.100.99", Some(8080))),
        (v4(5), to("192.0.2.99", Some(4001)), to("198.51.100.99", Some(8080))),
        (v4(6), to("10.0.3.1", Some(4002)), None),
        (v6(1), to("2001:db8:3::99", None), None),
        (v6(2), to("2001:db8:3::99", Some(4000)), None),
        (v6(3), None, to("2001:db8:3::98", Some(5353))),
        (v6(4), to("2001:db8:3::99", Some(4003)), to("2001:db8:3::98", None)),
        (ping, to("192.0.2.99", None), None),
    ];
    made.map(|(flow, nat_src, nat_dst)| FlowChange { nat_src, nat_dst, ..change(flow) }).into()
}

/// Returns flows with labels, which need [`record_all`], and with helpers.
fn extras() -> Vec<FlowChange<'static>> {
    let labelled = |port, labels| {
        let flow = flow("10.0.4.1", "10.0.4.2", IPPROTO_UDP, ports(port, 53));
        let labels = Some(Labels(labels));
        let rare = RareAttributes { labels, ..RareAttributes::default() };
        FlowChange { labels_mask: labels, ..change(FlowView { rare, ..flow }) }
    };
    let helped = |proto, port, name| {
        change(FlowView { rare: helped_by(name), ..flow("10.0.4.1", "10.0.4.2", proto, ports(1000, port)) })
    };
    vec![
        labelled(1, 1),
        labelled(2, 1 | 1 << 5),
        labelled(3, 1 << 127 | 1 << 5),
        labelled(4, 1 << 77),
        labelled(5, 1 << 77 | 1),
        helped(IPPROTO_TCP, 21, "ftp"),
        helped(IPPROTO_UDP, 69, "tftp"),
    ]
}

/// Returns a helper as a flow's only rare attribute.
fn helped_by(name: &'static str) -> RareAttributes<'static> {
    RareAttributes { helper: Some(Helper { name, info: &[] }), ..RareAttributes::default() }
}

fn change(flow: FlowView<'static>) -> FlowChange<'static> {
    FlowChange { flow, ..FlowChange::default() }
}

/// Creates an expectation of the flow with the FTP helper of [`create_every_kind`].
pub(crate) fn create_expectation() {
    let line = "-I expect -s 10.0.4.1 -d 10.0.4.2 -p tcp --sport 1000 --dport 21 --tuple-src 10.0.4.2 --tuple-dst \
                10.0.4.1 --tuple-port-src 0 --tuple-port-dst 4000 --mask-src 255.255.255.255 --mask-dst \
                255.255.255.255 --mask-port-src 0 --mask-port-dst 65535 -t 300";
    let args: Vec<_> = line.split_whitespace().collect();
    assert_eq!(run(PROGRAM, &args), (0, String::new(), String::new()));
}

/// Creates flows with real packets, with masquerading, redirection and no NAT. They have counters, labels, and end.
pub(crate) fn traffic() {
    tcp_exchange(REDIRECTED, b"hello").unwrap();
    tcp_exchange((SERVER, 80).into(), b"hello").unwrap();
    tcp_exchange((SERVER6, 80).into(), b"hello").unwrap();
    udp_exchange((SERVER, 53).into(), b"hello").unwrap();
    udp_exchange((SERVER6, 53).into(), b"hello").unwrap();
}

/// The only port of the FTP client's control connection.
const FTP_CLIENT: u16 = 40_000;
/// The first port where the FTP client awaits a data connection.
const FTP_DATA: u16 = 40_960;

/// Runs an FTP session in active mode through `firewall`, whose helper parses it: one data connection was expected and
/// is open, another one is still expected. The connections stay open until the returned value is dropped.
pub(crate) fn ftp(firewall: &Firewall) -> [TcpStream; 2] {
    let (client, server) = (CLIENT.to_string(), SERVER.to_string());
    // The kernel assigns helpers to new flows only, so the flow is created before its first packet.
    let proto = Some(ProtoInfo::Tcp(TcpInfo { state: Some(1), ..TcpInfo::default() }));
    let control = flow(&client, &server, IPPROTO_TCP, ports(FTP_CLIENT, 443));
    create_as(&change(FlowView { proto, rare: helped_by("ftp"), ..control }));
    let (control, listener) = firewall.client.run(|| {
        sysctl::write("net/ipv4/ip_local_port_range", &format!("{FTP_CLIENT} {FTP_CLIENT}")).unwrap();
        let listener = TcpListener::bind((CLIENT, FTP_DATA)).unwrap();
        let mut control = TcpStream::connect((SERVER, 443)).unwrap();
        send_line(&mut control, "USER anonymous\r\n");
        send_line(&mut control, &port_command(FTP_DATA));
        sysctl::write("net/ipv4/ip_local_port_range", "1024 65535").unwrap();
        (control, listener)
    });
    let data = firewall.server.run(|| TcpStream::connect(SocketAddr::new(CLIENT, FTP_DATA)).unwrap());
    listener.accept().unwrap();
    let mut control = control;
    send_line(&mut control, &port_command(FTP_DATA + 1));
    [control, data]
}

/// Sends a line and waits for the server's echo, which every firewall on the path has forwarded by then.
fn send_line(control: &mut TcpStream, line: &str) {
    control.write_all(line.as_bytes()).unwrap();
    control.read_exact(&mut vec![0; line.len()]).unwrap();
}

fn port_command(port: u16) -> String {
    let IpAddr::V4(address) = CLIENT else { panic!("FTP's PORT is of IPv4") };
    let [a, b, c, d] = address.octets();
    let [high, low] = port.to_be_bytes();
    format!("PORT {a},{b},{c},{d},{high},{low}\r\n")
}
