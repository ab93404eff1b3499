//! Our nftables table by raw nfnetlink messages (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! A batch is a transaction: the kernel checks every message and makes all changes at once at the end
//! mark, or none. A batch without an end mark is checked and thrown away, which makes it a question.

mod intact;
mod sets;

#[cfg(feature = "fuzzing")]
pub(crate) use intact::look;
pub(crate) use intact::{has_rule_for, intact};

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::netlink::{Message, Netlink, acknowledgement, attributes, decode};
use super::serving;
use crate::cgroup::Cgroup;
use crate::error::RouteError;
use crate::host::{NftSupport, NftTableId};
use crate::id::{Family, Mark};
use crate::nft::answers::{Began, Carried};
use crate::nft::{Chain, Direction, Expr, Inbound, Memory, NftTable, Peers, RedirectTable, TCP};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFT_TABLE_F_DORMANT: u32 = 1;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_REG_2: u32 = 2;
const IFNAMSIZ: usize = 16;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;

/// The tag of a table of ours, as its user data: type 0 (a comment, which `nft` prints), length, text.
const TAG: &[u8] = b"\x00\x07oneway\x00";

/// Makes a table; an older one of ours by that name goes in the same transaction.
pub(super) fn make(name: &str, sets: &[Peers], chains: &[Chain]) -> Result<(), RouteError> {
    let what = format!("make nftables table inet {name}");
    let mut batch = Batch::new(Netlink::netfilter()?);
    // Asked first, because there is no "delete if there" before Linux 6.3 (NFT_MSG_DESTROYTABLE).
    let replace = tables()?.iter().any(|t| t.family == NFPROTO_INET && t.name == name && t.ours);
    if replace {
        batch.message(NFT_MSG_DELTABLE, 0, |b| b.string(1, name));
    }
    batch.table(name, sets, chains, 0);
    batch.send(&what, true)
}

/// Makes a table, and puts those into its sets who are connected to this host already, and whom this host's sockets are
/// connected to.
pub(super) fn make_answering(table: &NftTable) -> Result<(), RouteError> {
    make(&table.name, &table.sets(), &table.chains())?;
    if table.memory == Memory::Tracking {
        return Ok(());
    }
    // Asked when the table is there: who comes from now on needs no look.
    if !table.serving.is_empty() {
        sets::fill(&table.name, Peers::both(Began::There, Carried::Tcp), &serving::served()?)?;
    }
    sets::fill(&table.name, Peers::both(Began::Here, Carried::Udp), &serving::asked()?)
}

/// Removes a table that carries our tag.
pub(super) fn unmake(name: &str) -> Result<bool, RouteError> {
    if !ours()?.iter().any(|n| n == name) {
        return Ok(false);
    }
    let mut batch = Batch::new(Netlink::netfilter()?);
    batch.message(NFT_MSG_DELTABLE, 0, |b| b.string(1, name));
    match batch.send(&format!("delete nftables table inet {name}"), true) {
        Err(e) if e.raw_os_error() == Some(ENOENT) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

/// Our tables' names. None where nftables is not there or nobody may ask.
pub(super) fn ours() -> Result<Vec<String>, RouteError> {
    Ok(tables()?.into_iter().filter(|t| t.ours && t.family == NFPROTO_INET).map(|t| t.name).collect())
}

/// All tables, likewise.
pub(super) fn tables() -> Result<Vec<NftTableId>, RouteError> {
    let what = "list the nftables tables";
    let Ok(mut netlink) = Netlink::netfilter() else { return Ok(Vec::new()) };
    let request = |sequence| {
        let mut bytes = Bytes::default();
        bytes.message(nft(NFT_MSG_GETTABLE), NLM_F_REQUEST | NLM_F_DUMP, sequence, NFPROTO_UNSPEC, 0, |_| {});
        bytes.0
    };
    match netlink.dump_bytes(what, request, |message| table(what, &message)) {
        Err(RouteError::Refused { .. }) => Ok(Vec::new()),
        found => found,
    }
}

/// A table of an answer; `None` is another message.
pub(super) fn table(what: &str, message: &Message<'_>) -> Result<Option<NftTableId>, RouteError> {
    if message.kind != nft(NFT_MSG_NEWTABLE) {
        return Ok(None);
    }
    let (Some(family), Some(rest)) = (message.payload.first(), message.payload.get(4..)) else {
        return Err(decode(what, "a table without a header".into()));
    };
    let mut table = NftTableId { family: *family, name: String::new(), ours: false };
    for (kind, value) in attributes(rest) {
        match kind {
            1 => table.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            6 => table.ours = value == TAG,
            _ => {}
        }
    }
    Ok(Some(table))
}

/// Whether all that our table needs is there: asks by a batch that is checked and thrown away. The
/// table in it is dormant, so that not even for that moment a hook is in the packets' way.
pub(super) fn support() -> Result<NftSupport, RouteError> {
    let any = Cgroup { path: "any".into(), id: 1, level: 1, ours: false };
    let mut table = NftTable {
        name: format!("oneway-ask-{}", std::process::id()),
        mark: Mark(1),
        tun: "oneway".into(),
        inbound: Inbound::Anywhere,
        memory: Memory::Tracking,
        ends_here: true,
        mark_bypassing: false,
        serving: vec![22],
        excluded: vec![any],
        user: Some(0),
    };
    let answering =
        NftTable { name: format!("{}-sets", table.name), memory: Memory::Sockets, ..table.clone() };
    let redirecting = RedirectTable {
        name: format!("{}-redirect", table.name),
        tun: table.tun.clone(),
        mark: table.mark,
        port: 1,
        apart: true,
    };
    for found in [NftSupport::Full, NftSupport::NoCgroups] {
        let Ok(netlink) = Netlink::netfilter() else { break };
        let mut batch = Batch::new(netlink);
        batch.table(&table.name, &[], &table.chains(), NFT_TABLE_F_DORMANT);
        if found == NftSupport::Full {
            batch.table(&answering.name, &answering.sets(), &answering.chains(), NFT_TABLE_F_DORMANT);
            batch.table(&redirecting.name, &[], &redirecting.chains(), NFT_TABLE_F_DORMANT);
        }
        match batch.send("ask what nftables can do", false) {
            Ok(()) => return Ok(found),
            Err(e) if e.raw_os_error() == Some(EPERM) => return Ok(NftSupport::Unknown),
            Err(e @ RouteError::Refused { .. }) => {
                tracing::debug!("nftables cannot do all that is needed: {e}")
            }
            Err(e) => return Err(e),
        }
        table.excluded.clear();
    }
    Ok(NftSupport::Missing)
}

const fn nft(message: u16) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8) | message
}

/// A transaction under construction.
struct Batch {
    netlink: Netlink,
    bytes: Bytes,
    first: u32,
    last: u32,
    /// Where the last message begins.
    at: usize,
}

impl Batch {
    fn new(mut netlink: Netlink) -> Self {
        let mut bytes = Bytes::default();
        let first = netlink.next_sequence();
        bytes.message(
            NFNL_MSG_BATCH_BEGIN,
            NLM_F_REQUEST,
            first,
            NFPROTO_UNSPEC,
            NFNL_SUBSYS_NFTABLES,
            |_| {},
        );
        Self { netlink, bytes, first, last: first, at: 0 }
    }

    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Bytes)) {
        self.last = self.netlink.next_sequence();
        self.at = self.bytes.0.len();
        self.bytes.message(nft(kind), NLM_F_REQUEST | flags, self.last, NFPROTO_INET, 0, body);
    }

    fn table(&mut self, name: &str, sets: &[Peers], chains: &[Chain], flags: u32) {
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, |b| {
            b.string(1, name);
            b.be32(2, flags);
            b.attribute(6, TAG);
        });
        for (number, set) in (1..).zip(sets) {
            self.message(NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL, |b| {
                b.string(1, name);
                b.set(*set, number);
            });
        }
        for chain in chains {
            self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, |b| {
                b.string(1, name);
                b.chain(chain);
            });
            for rule in &chain.rules {
                self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |b| {
                    b.string(1, name);
                    b.string(2, chain.name);
                    b.nested(4, |b| rule.iter().for_each(|expr| b.rule_part(expr)));
                });
            }
        }
    }

    /// Sends it and waits for the last message's acknowledgement, before which the kernel says of the others what it refuses
    /// (`nfnetlink_rcv_batch`, net/netfilter/nfnetlink.c). If each were acknowledged, those of a large table would not fit
    /// into the socket. With `commit` it is ended and so made.
    fn send(mut self, what: &str, commit: bool) -> Result<(), RouteError> {
        self.bytes.ask_acknowledgement(self.at);
        if commit {
            let end = self.netlink.next_sequence();
            self.bytes.message(
                NFNL_MSG_BATCH_END,
                NLM_F_REQUEST,
                end,
                NFPROTO_UNSPEC,
                NFNL_SUBSYS_NFTABLES,
                |_| {},
            );
        }
        self.netlink.make_room(self.bytes.0.len());
        self.netlink.send(what, &self.bytes.0)?;
        let (first, last) = (self.first, self.last);
        let mut outcome = Ok(());
        self.netlink.receive(what, |sequence, flags, message| {
            if message.kind != NLMSG_ERROR {
                return Ok(false);
            }
            if let Err(refusal) = acknowledgement(what, flags, message.payload)?
                && outcome.is_ok()
            {
                outcome = Err(refusal);
            }
            // The begin mark is only answered when the batch as a whole is refused.
            Ok(sequence == last || sequence == first)
        })?;
        outcome.map_err(|refusal| refusal.of(what))
    }
}

/// Netlink messages and attributes, written one after the other.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        family: u8,
        resource: u16,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.0.len();
        self.0.extend(0_u32.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(sequence.to_ne_bytes());
        self.0.extend(0_u32.to_ne_bytes());
        // struct nfgenmsg: family, version 0, resource in network byte order.
        self.0.extend([family, 0]);
        self.0.extend(resource.to_be_bytes());
        body(self);
        // A message of ours is some hundred bytes.
        let length = (self.0.len() - start) as u32;
        self.0[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sets `NLM_F_ACK` of the message that begins at `at` (`struct nlmsghdr`).
    fn ask_acknowledgement(&mut self, at: usize) {
        if let Some(flags) = self.0.get_mut(at + 6..).and_then(<[u8]>::first_chunk_mut) {
            *flags = (u16::from_ne_bytes(*flags) | NLM_F_ACK).to_ne_bytes();
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn string(&mut self, kind: u16, text: &str) {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.attribute(kind, &value);
    }

    fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        const NLA_F_NESTED: u16 = 0x8000;
        let start = self.0.len();
        self.0.extend(0_u16.to_ne_bytes());
        self.0.extend((kind | NLA_F_NESTED).to_ne_bytes());
        body(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// `NFTA_CHAIN_NAME`, `NFTA_CHAIN_HOOK`, `NFTA_CHAIN_POLICY`, `NFTA_CHAIN_TYPE`.
    fn chain(&mut self, chain: &Chain) {
        self.string(3, chain.name);
        self.nested(4, |b| {
            b.be32(1, chain.hook as u32);
            b.be32(2, (chain.priority as i32).cast_unsigned());
        });
        self.be32(5, NF_ACCEPT);
        self.string(7, chain.kind);
    }

    /// One element of `NFTA_RULE_EXPRESSIONS`.
    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Self)) {
        self.nested(1, |b| {
            b.string(1, name);
            b.nested(2, data);
        });
    }

    fn rule_part(&mut self, expr: &Expr) {
        const EQ: u32 = 0;
        const NEQ: u32 = 1;
        match expr {
            Expr::IifName(name) => self.device(META_IIFNAME, EQ, name),
            Expr::IifNameNot(name) => self.device(META_IIFNAME, NEQ, name),
            Expr::OifNameNot(name) => self.device(META_OIFNAME, NEQ, name),
            Expr::CtDirection(direction) => {
                self.load("ct", CT_DIRECTION);
                self.compare(EQ, &[*direction as u8]);
            }
            Expr::CtStateNew => {
                self.load("ct", CT_STATE);
                self.bitwise(&CT_STATE_NEW.to_ne_bytes(), &[0; 4]);
                self.compare(NEQ, &[0; 4]);
            }
            Expr::TcpSport(port) => {
                self.protocol(EQ, TCP);
                self.transport(0, 2);
                self.compare(EQ, &port.to_be_bytes());
            }
            Expr::CtStateNotRelated => {
                self.load("ct", CT_STATE);
                self.bitwise(&CT_STATE_RELATED.to_ne_bytes(), &[0; 4]);
                self.compare(EQ, &[0; 4]);
            }
            Expr::TcpBegins => self.tcp_flags(TCP_FIN_SYN_RST_ACK, TCP_SYN),
            Expr::TcpWithoutSyn => self.tcp_flags(TCP_SYN, 0),
            Expr::TcpAgrees => self.tcp_flags(TCP_SYN_ACK, TCP_SYN_ACK),
            Expr::Cgroup(group) => {
                // NFTA_SOCKET_KEY, NFTA_SOCKET_DREG, NFTA_SOCKET_LEVEL.
                self.expression("socket", |b| {
                    b.be32(1, SOCKET_CGROUPV2);
                    b.be32(2, NFT_REG_1);
                    b.be32(3, group.level);
                });
                self.compare(EQ, &group.id.to_ne_bytes());
            }
            Expr::OifName(name) => self.device(META_OIFNAME, EQ, name),
            Expr::MetaMarkIs(Mark(mark), mask) => {
                self.load("meta", META_MARK);
                self.bitwise(&mask.to_ne_bytes(), &[0; 4]);
                self.compare(EQ, &(mark & mask).to_ne_bytes());
            }
            Expr::MetaMarkIsNot(Mark(mark)) => {
                self.load("meta", META_MARK);
                self.compare(NEQ, &mark.to_ne_bytes());
            }
            Expr::SocketMarkIs(Mark(mark), mask) => {
                // NFTA_SOCKET_KEY, NFTA_SOCKET_DREG.
                self.expression("socket", |b| {
                    b.be32(1, SOCKET_MARK);
                    b.be32(2, NFT_REG_1);
                });
                self.bitwise(&mask.to_ne_bytes(), &[0; 4]);
                self.compare(EQ, &(mark & mask).to_ne_bytes());
            }
            Expr::Known(peers, entering) => self.look_up(*peers, *entering),
            Expr::Remember(peers, entering) => self.put_in(*peers, *entering),
            Expr::Uid(uid) => {
                self.load("meta", META_SKUID);
                self.compare(EQ, &uid.to_ne_bytes());
            }
            Expr::Family(family) => self.family(*family),
            Expr::Daddr(net) => {
                self.family(Family::of_net(*net));
                // RFC 791 section 3.1, RFC 8200 section 3.
                match net {
                    IpNet::V4(net) => self.destination(16, &net.network().octets(), &net.netmask().octets()),
                    IpNet::V6(net) => self.destination(24, &net.network().octets(), &net.netmask().octets()),
                }
            }
            Expr::Dport(protocol, port) => {
                self.protocol(EQ, *protocol);
                self.transport(2, 2);
                self.compare(EQ, &port.to_be_bytes());
            }
            // NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA, in it NFTA_DATA_VERDICT, in it NFTA_VERDICT_CODE.
            Expr::Accept => self.verdict(NF_ACCEPT),
            Expr::Drop => self.verdict(NF_DROP),
            Expr::Reject => self.reject(NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED),
            Expr::Reset => self.reject(NFT_REJECT_TCP_RST, 0),
            Expr::Redirect(port) => self.redirect(*port),
            Expr::Protocol(number) => self.protocol(EQ, *number),
            Expr::ProtocolNot(number) => self.protocol(NEQ, *number),
            Expr::Tproxy(family, port) => self.tproxy(*family, *port),
            Expr::MetaMarkHas(mark) => self.has("meta", META_MARK, *mark),
            Expr::CtMarkHas(mark) => self.has("ct", CT_MARK, *mark),
            Expr::MetaMarkAdd(mark) => self.add("meta", META_MARK, META_SREG, *mark),
            Expr::MetaMarkRemove(mark) => self.remove("meta", META_MARK, META_SREG, *mark),
            Expr::CtMarkAdd(mark) => self.add("ct", CT_MARK, CT_SREG, *mark),
            Expr::CtMarkRemove(mark) => self.remove("ct", CT_MARK, CT_SREG, *mark),
            Expr::CtZone(zone) => self.zone(*zone),
        }
    }

    /// Loads a key of `meta` or `ct` into the register: `NFTA_{META,CT}_DREG`, `NFTA_{META,CT}_KEY`.
    fn load(&mut self, from: &str, key: u32) {
        self.expression(from, |b| {
            b.be32(1, NFT_REG_1);
            b.be32(2, key);
        });
    }

    fn verdict(&mut self, verdict: u32) {
        self.expression("immediate", |b| {
            b.be32(1, NFT_REG_VERDICT);
            b.nested(2, |b| b.nested(2, |b| b.be32(1, verdict)));
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |b| {
            b.be32(1, NFT_REG_1);
            b.be32(2, operator);
            b.nested(3, |b| b.attribute(1, value));
        });
    }

    /// The register becomes `(register & mask) ^ xor`. Marks are in host byte order there.
    fn bitwise(&mut self, mask: &[u8], xor: &[u8]) {
        self.expression("bitwise", |b| {
            b.be32(1, NFT_REG_1);
            b.be32(2, NFT_REG_1);
            b.be32(3, mask.len() as u32);
            b.nested(4, |b| b.attribute(1, mask));
            b.nested(5, |b| b.attribute(1, xor));
        });
    }

    /// Loads bytes of the transport header.
    fn transport(&mut self, offset: u32, length: u32) {
        self.payload(NFT_REG_1, NFT_PAYLOAD_TRANSPORT_HEADER, offset, length);
    }

    fn payload(&mut self, register: u32, base: u32, offset: u32, length: u32) {
        self.expression("payload", |b| {
            b.be32(1, register);
            b.be32(2, base);
            b.be32(3, offset);
            b.be32(4, length);
        });
    }

    fn protocol(&mut self, operator: u32, number: u8) {
        self.load("meta", META_L4PROTO);
        self.compare(operator, &[number]);
    }

    /// Of the flags of `mask`, those of `set` and no others are set.
    fn tcp_flags(&mut self, mask: u8, set: u8) {
        self.protocol(0, TCP);
        self.transport(TCP_FLAGS_AT, 1);
        self.bitwise(&[mask], &[0]);
        self.compare(0, &[set]);
    }

    fn family(&mut self, family: Family) {
        let number = match family {
            Family::V4 => NFPROTO_IPV4,
            Family::V6 => NFPROTO_IPV6,
        };
        self.load("meta", META_NFPROTO);
        self.compare(0, &[number]);
    }

    /// Compares the destination in the network header.
    fn destination(&mut self, offset: u32, net: &[u8], mask: &[u8]) {
        self.payload(NFT_REG_1, NFT_PAYLOAD_NETWORK_HEADER, offset, net.len() as u32);
        if mask.iter().any(|byte| *byte != 0xff) {
            self.bitwise(mask, &vec![0; mask.len()]);
        }
        self.compare(0, net);
    }

    /// `NFTA_REJECT_TYPE`, `NFTA_REJECT_ICMP_CODE`.
    fn reject(&mut self, kind: u32, code: u8) {
        self.expression("reject", |b| {
            b.be32(1, kind);
            if kind != NFT_REJECT_TCP_RST {
                b.attribute(2, &[code]);
            }
        });
    }

    /// `NFTA_IMMEDIATE_DREG`, `NFTA_IMMEDIATE_DATA`, in it `NFTA_DATA_VALUE`.
    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.expression("immediate", |b| {
            b.be32(1, register);
            b.nested(2, |b| b.attribute(1, value));
        });
    }

    /// `NFTA_TPROXY_FAMILY`, `NFTA_TPROXY_REG_ADDR`, `NFTA_TPROXY_REG_PORT`.
    fn tproxy(&mut self, family: Family, port: u16) {
        let number = match family {
            Family::V4 => {
                self.immediate(NFT_REG_1, &Ipv4Addr::LOCALHOST.octets());
                NFPROTO_IPV4
            }
            Family::V6 => {
                self.immediate(NFT_REG_1, &Ipv6Addr::LOCALHOST.octets());
                NFPROTO_IPV6
            }
        };
        self.immediate(NFT_REG_2, &port.to_be_bytes());
        self.expression("tproxy", |b| {
            b.be32(1, number.into());
            b.be32(2, NFT_REG_1);
            b.be32(3, NFT_REG_2);
        });
    }

    /// `NFTA_REDIR_REG_PROTO_{MIN,MAX}`.
    fn redirect(&mut self, port: u16) {
        self.immediate(NFT_REG_1, &port.to_be_bytes());
        self.expression("redir", |b| {
            b.be32(1, NFT_REG_1);
            b.be32(2, NFT_REG_1);
        });
    }

    /// `NFTA_CT_KEY`, `NFTA_CT_DIRECTION`, `NFTA_CT_SREG`. A zone is in host byte order there.
    fn zone(&mut self, zone: u16) {
        self.immediate(NFT_REG_1, &zone.to_ne_bytes());
        self.expression("ct", |b| {
            b.be32(2, CT_ZONE);
            b.attribute(3, &[Direction::Original as u8]);
            b.be32(CT_SREG, NFT_REG_1);
        });
    }

    fn device(&mut self, key: u32, operator: u32, name: &str) {
        let mut value = [0; IFNAMSIZ];
        let length = name.len().min(IFNAMSIZ - 1);
        value[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.load("meta", key);
        self.compare(operator, &value);
    }

    fn has(&mut self, from: &str, key: u32, mark: Mark) {
        self.load(from, key);
        self.bitwise(&mark.0.to_ne_bytes(), &[0; 4]);
        self.compare(0, &mark.0.to_ne_bytes());
    }

    fn add(&mut self, to: &str, key: u32, source: u16, mark: Mark) {
        self.change(to, key, source, !mark.0, mark.0);
    }

    fn remove(&mut self, from: &str, key: u32, source: u16, mark: Mark) {
        self.change(from, key, source, !mark.0, 0);
    }

    fn change(&mut self, what: &str, key: u32, source: u16, mask: u32, xor: u32) {
        self.load(what, key);
        self.bitwise(&mask.to_ne_bytes(), &xor.to_ne_bytes());
        self.expression(what, |b| {
            b.be32(2, key);
            b.be32(source, NFT_REG_1);
        });
    }
}

/// `enum nft_meta_keys`, `enum nft_ct_keys`, and the source register attributes of both.
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_SKUID: u32 = 10;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const META_SREG: u16 = 3;
const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_MARK: u32 = 3;
const CT_ZONE: u32 = 17;
const CT_SREG: u16 = 4;
/// `enum nft_socket_keys`
const SOCKET_MARK: u32 = 1;
const SOCKET_CGROUPV2: u32 = 3;
/// `enum nft_payload_bases`
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
/// `NF_CT_STATE_BIT` of `IP_CT_RELATED` and of `IP_CT_NEW`
const CT_STATE_RELATED: u32 = 4;
const CT_STATE_NEW: u32 = 8;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// `enum nft_reject_types`, `enum nft_reject_inet_code`
const NFT_REJECT_TCP_RST: u32 = 1;
const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
const NFT_REJECT_ICMPX_ADMIN_PROHIBITED: u8 = 3;
/// RFC 9293 section 3.1.
const TCP_FLAGS_AT: u32 = 13;
const TCP_SYN: u8 = 2;
const TCP_SYN_ACK: u8 = 0x12;
const TCP_FIN_SYN_RST_ACK: u8 = 0x17;
