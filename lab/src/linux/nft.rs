//! NAT on a machine of the laboratory, and a look at anybody's tables: nftables by netlink.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::error::LabError;
use crate::netlink::Netlink;
use crate::ns::NetNs;

/// The table that the laboratory makes, one for each family.
pub const TABLE: &str = "lab-nat";

/// `NFNL_SUBSYS_NFTABLES` and the messages of include/uapi/linux/netfilter/nf_tables.h.
pub(crate) mod message {
    const SUBSYSTEM: u16 = 10 << 8;
    pub(crate) const NEW_TABLE: u16 = SUBSYSTEM;
    pub(crate) const GET_TABLE: u16 = SUBSYSTEM | 1;
    pub(crate) const DELETE_TABLE: u16 = SUBSYSTEM | 2;
    pub(crate) const NEW_CHAIN: u16 = SUBSYSTEM | 3;
    pub(crate) const GET_CHAIN: u16 = SUBSYSTEM | 4;
    pub(crate) const NEW_RULE: u16 = SUBSYSTEM | 6;
    pub(crate) const GET_RULE: u16 = SUBSYSTEM | 7;
    pub(crate) const GET_SET: u16 = SUBSYSTEM | 10;
    pub(super) const BATCH_BEGIN: u16 = 0x10;
    pub(super) const BATCH_END: u16 = 0x11;
}

const NLM_F_APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// `NF_INET_PRE_ROUTING` and `NF_INET_POST_ROUTING`, with the usual priorities of NAT there.
const PREROUTING: (u32, i32) = (0, -100);
const POSTROUTING: (u32, i32) = (4, 100);
/// `NFT_REG_1`, a register of 16 bytes, and `NFT_REG_2`.
const REG1: u32 = 1;
const REG2: u32 = 2;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// A table of nftables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// `NFPROTO_*`: 1 inet, 2 ip, 10 ip6, 7 bridge, 5 netdev, 3 arp.
    pub family: u8,
    /// Its name.
    pub name: String,
}

/// The tables of a namespace, sorted.
///
/// # Errors
/// [`LabError::Netlink`] when the kernel has no nftables.
pub fn tables(namespace: &NetNs) -> Result<Vec<Table>, LabError> {
    talk(namespace, "list the nftables", |netlink| {
        let mut tables: Vec<Table> = netlink
            .dump_raw(message::GET_TABLE, &general(0, 0))?
            .iter()
            .filter_map(|raw| {
                let name = attributes(raw.body.get(4..)?).find(|(kind, _)| *kind == 1)?.1;
                let text = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
                Some(Table { family: raw.body[0], name: text })
            })
            .collect();
        tables.sort();
        Ok(tables)
    })
}

/// Deletes a table with all that is in it.
///
/// # Errors
/// [`LabError::Netlink`]; `ENOENT` when there is none.
pub fn delete_table(namespace: &NetNs, table: &Table) -> Result<(), LabError> {
    let mut body = general(table.family, 0);
    string(&mut body, 1, &table.name);
    change(namespace, "delete an nftable", vec![(message::DELETE_TABLE, 0, body)])
}

/// Gives packets from `source` to anywhere else the address of the device that they leave by.
///
/// # Errors
/// [`LabError::Netlink`] when the kernel has no NAT.
pub fn masquerade(namespace: &NetNs, source: IpNet) -> Result<(), LabError> {
    let (family, from, to) = header_offsets(source.addr());
    let net = octets(source.network());
    let mask = octets(source.netmask());
    let expressions = [
        payload(NETWORK_HEADER, from, net.len(), REG1),
        mask_register(&mask),
        compare(true, &net),
        payload(NETWORK_HEADER, to, net.len(), REG1),
        mask_register(&mask),
        compare(false, &net),
        expression("masq", |_| {}),
    ];
    add_rule(namespace, family, ("postrouting", POSTROUTING), &expressions)
}

/// Sends TCP and UDP that comes for `address` and `port` to `to` instead.
///
/// # Errors
/// [`LabError::Netlink`] when the kernel has no NAT.
pub fn forward_port(namespace: &NetNs, address: IpAddr, port: u16, to: SocketAddr) -> Result<(), LabError> {
    let (family, _, destination) = header_offsets(address);
    let wanted = octets(address);
    for protocol in [libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8] {
        let expressions = [
            payload(NETWORK_HEADER, destination, wanted.len(), REG1),
            compare(true, &wanted),
            expression("meta", |data| {
                number(data, 1, REG1);
                number(data, 2, META_L4PROTO);
            }),
            compare(true, &[protocol]),
            payload(TRANSPORT_HEADER, 2, 2, REG1),
            compare(true, &port.to_be_bytes()),
            immediate(REG1, &octets(to.ip())),
            immediate(REG2, &to.port().to_be_bytes()),
            expression("nat", |data| {
                number(data, 1, 1);
                number(data, 2, u32::from(family));
                number(data, 3, REG1);
                number(data, 5, REG2);
            }),
        ];
        add_rule(namespace, family, ("prerouting", PREROUTING), &expressions)?;
    }
    Ok(())
}

fn add_rule(
    namespace: &NetNs,
    family: u8,
    (chain, (hook, priority)): (&str, (u32, i32)),
    expressions: &[Vec<u8>],
) -> Result<(), LabError> {
    let mut table = general(family, 0);
    string(&mut table, 1, TABLE);
    let mut base = general(family, 0);
    string(&mut base, 1, TABLE);
    string(&mut base, 3, chain);
    nested(&mut base, 4, |data| {
        number(data, 1, hook);
        number(data, 2, priority.cast_unsigned());
    });
    string(&mut base, 7, "nat");
    let mut rule = general(family, 0);
    string(&mut rule, 1, TABLE);
    string(&mut rule, 2, chain);
    nested(&mut rule, 4, |data| {
        for expression in expressions {
            attribute(data, 1 | NESTED, expression);
        }
    });
    change(
        namespace,
        "add a NAT rule",
        vec![
            (message::NEW_TABLE, NLM_F_CREATE, table),
            (message::NEW_CHAIN, NLM_F_CREATE, base),
            (message::NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, rule),
        ],
    )
}

fn change(namespace: &NetNs, what: &'static str, changes: Vec<(u16, u16, Vec<u8>)>) -> Result<(), LabError> {
    let count = changes.len();
    let mut messages = vec![(message::BATCH_BEGIN, 0, general(0, 10))];
    messages.extend(changes.into_iter().map(|(kind, flags, body)| (kind, flags | NLM_F_ACK, body)));
    messages.push((message::BATCH_END, 0, general(0, 10)));
    talk(namespace, what, |netlink| netlink.batch(&messages, count))
}

/// Runs a conversation with nfnetlink inside the namespace.
pub(crate) fn talk<T: Send>(
    namespace: &NetNs,
    what: &'static str,
    conversation: impl FnOnce(&mut Netlink) -> io::Result<T> + Send,
) -> Result<T, LabError> {
    namespace.run(|| conversation(&mut Netlink::open(NETLINK_NETFILTER)?))?.map_err(|source| {
        LabError::Netlink { what: what.to_owned(), name: namespace.name().to_owned(), source }
    })
}

/// `struct nfgenmsg`.
pub(crate) fn general(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

/// The attributes in `bytes`: type without its flags, and value. Ends at the first malformed one.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn nested(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(out, kind | NESTED, &inner);
}

fn string(out: &mut Vec<u8>, kind: u16, text: &str) {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    attribute(out, kind, &value);
}

/// Numbers of nftables are in network byte order.
fn number(out: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(out, kind, &value.to_be_bytes());
}

fn expression(name: &str, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    string(&mut out, 1, name);
    nested(&mut out, 2, fill);
    out
}

fn payload(header: u32, offset: u32, length: usize, register: u32) -> Vec<u8> {
    expression("payload", |data| {
        number(data, 1, register);
        number(data, 2, header);
        number(data, 3, offset);
        number(data, 4, u32::try_from(length).unwrap_or(0));
    })
}

fn mask_register(mask: &[u8]) -> Vec<u8> {
    expression("bitwise", |data| {
        number(data, 1, REG1);
        number(data, 2, REG1);
        number(data, 3, u32::try_from(mask.len()).unwrap_or(0));
        nested(data, 4, |value| attribute(value, 1, mask));
        nested(data, 5, |value| attribute(value, 1, &vec![0; mask.len()]));
    })
}

fn compare(equal: bool, with: &[u8]) -> Vec<u8> {
    expression("cmp", |data| {
        number(data, 1, REG1);
        number(data, 2, u32::from(!equal));
        nested(data, 3, |value| attribute(value, 1, with));
    })
}

fn immediate(register: u32, bytes: &[u8]) -> Vec<u8> {
    expression("immediate", |data| {
        number(data, 1, register);
        nested(data, 2, |value| attribute(value, 1, bytes));
    })
}

/// Family, and where source and destination address are in the header.
fn header_offsets(address: IpAddr) -> (u8, u32, u32) {
    match address {
        IpAddr::V4(_) => (NFPROTO_IPV4, 12, 16),
        IpAddr::V6(_) => (NFPROTO_IPV6, 8, 24),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
