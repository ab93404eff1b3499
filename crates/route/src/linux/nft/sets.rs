//! The sets of a table, and the expressions that look into them.

use std::net::{IpAddr, SocketAddr};

use super::{
    Batch, Bytes, META_L4PROTO, NFT_MSG_NEWSETELEM, NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER,
    NFT_REG_1, NFT_REG_2, NLM_F_CREATE, Netlink,
};
use crate::error::RouteError;
use crate::id::Family;
use crate::nft::Peers;
use crate::nft::answers::Carried;

/// `enum nft_set_flags`: elements expire; packets put them in.
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
/// `enum nft_dynset_ops`
const NFT_DYNSET_OP_UPDATE: u32 = 1;
/// Of four bytes each: the second and third of the first register, the second of the second. The kernel names the first of
/// a register by the register (`nft_dump_register`, net/netfilter/nf_tables_api.c).
const NFT_REG32_01: u32 = 9;
const NFT_REG32_02: u32 = 10;
const NFT_REG32_05: u32 = 13;
/// Types by which `nft` prints keys (its `include/datatype.h`), six bits each, the first the highest.
const IPADDR: u32 = 7;
const IP6ADDR: u32 = 8;
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;
/// So many elements go into a message: the length of their list has 16 bits.
const AT_ONCE: usize = 256;

/// Puts connections into both of a table's sets of this kind: the other end, and this host's port.
pub(super) fn fill(
    table: &str,
    [v4, v6]: [Peers; 2],
    connections: &[(SocketAddr, u16)],
) -> Result<(), RouteError> {
    for peers in [v4, v6] {
        let elements: Vec<Vec<u8>> = connections
            .iter()
            .filter(|(peer, _)| Family::of(peer.ip()) == peers.family)
            .map(|(peer, port)| connection(*peer, *port))
            .collect();
        for part in elements.chunks(AT_ONCE) {
            let mut batch = Batch::new(Netlink::netfilter()?);
            batch.message(NFT_MSG_NEWSETELEM, NLM_F_CREATE, |b| b.elements(table, peers, part));
            batch.send(&format!("put connections into nftables table inet {table}"), true)?;
        }
    }
    Ok(())
}

/// A key, each part of it filled up to four bytes.
fn connection(peer: SocketAddr, port: u16) -> Vec<u8> {
    let mut key = match peer.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    for port in [peer.port(), port] {
        key.extend(port.to_be_bytes());
        key.extend([0, 0]);
    }
    key
}

impl Bytes {
    fn be64(&mut self, kind: u16, value: u64) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// `NFTA_SET_NAME`, `_FLAGS`, `_KEY_TYPE`, `_KEY_LEN`, `_DESC` with `NFTA_SET_DESC_SIZE`, `_ID`, `_TIMEOUT`.
    pub(super) fn set(&mut self, peers: Peers, number: u32) {
        let (kind, length) = match (peers.family, peers.carried) {
            (Family::V4, Carried::Tcp | Carried::Udp) => {
                (IPADDR << 12 | INET_SERVICE << 6 | INET_SERVICE, 12)
            }
            (Family::V6, Carried::Tcp | Carried::Udp) => {
                (IP6ADDR << 12 | INET_SERVICE << 6 | INET_SERVICE, 24)
            }
            (Family::V4, Carried::Other) => (IPADDR << 6 | INET_PROTO, 8),
            (Family::V6, Carried::Other) => (IP6ADDR << 6 | INET_PROTO, 20),
        };
        self.string(2, peers.name());
        self.be32(3, NFT_SET_TIMEOUT | NFT_SET_EVAL);
        self.be32(4, kind);
        self.be32(5, length);
        self.nested(9, |b| b.be32(1, Peers::MOST));
        self.be32(10, number);
        self.be64(11, u64::from(peers.kept(true)) * 1_000);
    }

    /// `NFTA_SET_ELEM_LIST_TABLE`, `_SET`, `_ELEMENTS`; of each `NFTA_SET_ELEM_KEY`.
    fn elements(&mut self, table: &str, peers: Peers, keys: &[Vec<u8>]) {
        self.string(1, table);
        self.string(2, peers.name());
        self.nested(3, |b| {
            for key in keys {
                b.nested(1, |b| b.nested(1, |b| b.attribute(1, key)));
            }
        });
    }

    /// `NFTA_LOOKUP_SET`, `NFTA_LOOKUP_SREG`.
    pub(super) fn look_up(&mut self, peers: Peers, entering: bool) {
        self.key(peers, entering);
        self.expression("lookup", |b| {
            b.string(1, peers.name());
            b.be32(2, NFT_REG_1);
        });
    }

    /// `NFTA_DYNSET_SET_NAME`, `_OP`, `_SREG_KEY`, `_TIMEOUT`.
    pub(super) fn put_in(&mut self, peers: Peers, entering: bool) {
        self.key(peers, entering);
        self.expression("dynset", |b| {
            b.string(1, peers.name());
            b.be32(3, NFT_DYNSET_OP_UPDATE);
            b.be32(4, NFT_REG_1);
            b.be64(6, u64::from(peers.kept(entering)) * 1_000);
        });
    }

    /// Loads the other end of a packet that comes in or leaves, and this host's port.
    fn key(&mut self, peers: Peers, entering: bool) {
        // RFC 791 section 3.1, RFC 8200 section 3: the destination is behind the source.
        let (source, length, second, third) = match peers.family {
            Family::V4 => (12, 4, NFT_REG32_01, NFT_REG32_02),
            Family::V6 => (8, 16, NFT_REG_2, NFT_REG32_05),
        };
        let (address, theirs, ours) = if entering { (source, 0, 2) } else { (source + length, 2, 0) };
        self.payload(NFT_REG_1, NFT_PAYLOAD_NETWORK_HEADER, address, length);
        match peers.carried {
            Carried::Tcp | Carried::Udp => {
                self.payload(second, NFT_PAYLOAD_TRANSPORT_HEADER, theirs, 2);
                self.payload(third, NFT_PAYLOAD_TRANSPORT_HEADER, ours, 2);
            }
            Carried::Other => self.expression("meta", |b| {
                b.be32(1, second);
                b.be32(2, META_L4PROTO);
            }),
        }
    }
}
