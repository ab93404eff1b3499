//! Answers the queries of clients.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use lru::LruCache;
use parking_lot::RwLock;

use crate::fake_ip::{Fake, TTL};
use crate::message::{Asked, Refusal, parse_query};
use crate::{Client, FakeIp, Memory};

/// Addresses whose names are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();

/// Servers that are remembered to have been asked.
const SERVERS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// What names are answered with.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Addresses that stand for them.
    FakeIp(Arc<FakeIp>),
    /// Their own addresses.
    Real,
}

/// What a query came by, and its answer will go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A connection.
    Tcp,
}

/// What can be said about a query at once.
#[derive(Debug)]
pub enum Quick {
    /// The answer.
    Answer(Vec<u8>),
    /// Nothing; it is no query.
    Drop,
    /// That an upstream has to be asked: [`Server::finish`].
    Ask(Box<Asked>),
}

/// What a server has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounters {
    /// Queries that came.
    pub queries: u64,
    /// Answered with a fake address.
    pub fake: u64,
    /// Answered from the cache.
    pub cached: u64,
    /// Passed on to upstreams.
    pub forwarded: u64,
    /// Answered with SERVFAIL.
    pub failed: u64,
    /// Dropped because they were no queries.
    pub malformed: u64,
}

/// Answers queries. Shared by all workers.
#[derive(Debug)]
pub struct Server {
    mode: Mode,
    client: Arc<Client>,
    memory: Memory,
    servers: RwLock<LruCache<IpAddr, ()>>,
    queries: AtomicU64,
    fake: AtomicU64,
    cached: AtomicU64,
    forwarded: AtomicU64,
    failed: AtomicU64,
    malformed: AtomicU64,
}

impl Server {
    /// A server that asks by `client`.
    pub fn new(mode: Mode, client: Arc<Client>) -> Self {
        Self {
            mode,
            client,
            memory: Memory::new(REMEMBERED),
            servers: RwLock::new(LruCache::new(SERVERS)),
            queries: AtomicU64::new(0),
            fake: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
        }
    }

    /// The names of the real addresses that were answered.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether somebody has asked this server over UDP, and was answered here. So it is one to whom it was asked, and
    /// connections to it need not be tried.
    pub fn stands_for(&self, server: IpAddr) -> bool {
        self.servers.read().contains(&server)
    }

    /// Notes that it was asked.
    pub fn asked(&self, server: IpAddr) {
        if !self.stands_for(server) {
            self.servers.write().put(server, ());
        }
    }

    /// What it has done.
    pub fn counters(&self) -> ServerCounters {
        ServerCounters {
            queries: self.queries.load(Relaxed),
            fake: self.fake.load(Relaxed),
            cached: self.cached.load(Relaxed),
            forwarded: self.forwarded.load(Relaxed),
            failed: self.failed.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
        }
    }

    /// What can be said about a query without asking anybody. `original` is the server that the client asked.
    pub fn quick(&self, bytes: &[u8], transport: Transport, original: SocketAddr, now: Instant) -> Quick {
        self.queries.fetch_add(1, Relaxed);
        let asked = match parse_query(bytes) {
            Ok(asked) => asked,
            Err(Refusal::Answer(answer)) => return Quick::Answer(answer),
            Err(Refusal::Malformed) => {
                self.malformed.fetch_add(1, Relaxed);
                return Quick::Drop;
            }
        };
        if let Mode::FakeIp(fake) = &self.mode
            && let Some(answer) = self.in_place(fake, &asked, now)
        {
            return Quick::Answer(self.encode(&asked, &answer, transport));
        }
        if let Some(answer) = self.client.cached(&asked, original) {
            self.cached.fetch_add(1, Relaxed);
            return Quick::Answer(self.relay(&asked, answer, transport));
        }
        Quick::Ask(Box::new(asked))
    }

    /// Asks the upstreams. `original` is the server that the client asked.
    pub async fn finish(&self, asked: &Asked, transport: Transport, original: SocketAddr) -> Vec<u8> {
        self.forwarded.fetch_add(1, Relaxed);
        let answer = self.client.ask(asked, Some(original)).await;
        self.relay(asked, answer, transport)
    }

    /// An answer that needs no upstream because the name has a fake address.
    fn in_place(&self, fake: &Arc<FakeIp>, asked: &Asked, now: Instant) -> Option<Message> {
        if !asked.is_internet() {
            return None;
        }
        match asked.kind() {
            kind @ (RecordType::A | RecordType::AAAA) => {
                let name = asked.host()?;
                if fake.excludes(name) || self.client.may_loop(asked) {
                    return None;
                }
                Some(match fake.address(name, kind == RecordType::AAAA, now) {
                    Fake::Address(ip) => {
                        self.fake.fetch_add(1, Relaxed);
                        asked.address(ip, TTL)
                    }
                    Fake::NoFamily => asked.code(ResponseCode::NoError),
                    Fake::Full => asked.code(ResponseCode::ServFail),
                })
            }
            // They carry addresses as hints (RFC 9460, 7.3), and connections to those would have no name: without them
            // programs ask for A and AAAA.
            RecordType::HTTPS | RecordType::SVCB | RecordType::ANY => {
                let name = asked.host()?;
                (!fake.excludes(name)).then(|| asked.code(ResponseCode::NoError))
            }
            RecordType::PTR => {
                let ip = pointed_at(asked.name())?;
                if !fake.contains(ip) {
                    return None;
                }
                let name = fake.name(ip).and_then(|name| Name::from_ascii(format!("{name}.")).ok());
                Some(match name {
                    Some(name) => asked.pointer(name, TTL),
                    None => asked.code(ResponseCode::NXDomain),
                })
            }
            _ => None,
        }
    }

    fn relay(&self, asked: &Asked, answer: Message, transport: Transport) -> Vec<u8> {
        let addresses = answer
            .answers
            .iter()
            .filter_map(|record| Some((record.data.ip_addr()?, Duration::from_secs(record.ttl.into()))));
        if let Some(name) = asked.host() {
            self.memory.learn(name, addresses, Instant::now());
        }
        self.encode(asked, &asked.relay(answer), transport)
    }

    fn encode(&self, asked: &Asked, answer: &Message, transport: Transport) -> Vec<u8> {
        if answer.metadata.response_code == ResponseCode::ServFail {
            self.failed.fetch_add(1, Relaxed);
        }
        let limit = match transport {
            Transport::Udp => Some(asked.udp_limit()),
            Transport::Tcp => None,
        };
        asked.encode(answer, limit)
    }
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` is about.
fn pointed_at(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

#[cfg(test)]
mod tests;
