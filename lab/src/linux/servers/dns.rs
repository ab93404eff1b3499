//! A DNS server for a zone given as a map, over UDP and TCP.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

pub use hickory_proto::rr::RecordType;

use super::{ServerThread, datagrams, listen};
use crate::error::LabError;
use crate::ns::NetNs;

/// How a question about a name goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answered with SERVFAIL.
    ServFail,
    /// Answered with REFUSED.
    Refused,
    /// Not answered.
    Silent,
    /// Over UDP answered by an empty message with TC set, so that it has to be asked again over TCP.
    Truncated,
    /// Answered after this time.
    Slow(Duration),
}

/// The names that the server knows.
#[derive(Debug, Clone)]
pub struct Zone {
    records: BTreeMap<String, Vec<RData>>,
    faults: BTreeMap<String, Fault>,
    ttl: u32,
}

impl Default for Zone {
    fn default() -> Self {
        Self::new()
    }
}

impl Zone {
    /// No names; a time to live of 60 s.
    pub fn new() -> Self {
        Self { records: BTreeMap::new(), faults: BTreeMap::new(), ttl: 60 }
    }

    /// Sets the time to live of all answers, in seconds.
    #[must_use]
    pub fn ttl(mut self, seconds: u32) -> Self {
        self.ttl = seconds;
        self
    }

    /// Adds an IPv4 address.
    #[must_use]
    pub fn a(self, name: &str, address: Ipv4Addr) -> Self {
        self.record(name, RData::A(A(address)))
    }

    /// Adds an IPv6 address.
    #[must_use]
    pub fn aaaa(self, name: &str, address: Ipv6Addr) -> Self {
        self.record(name, RData::AAAA(AAAA(address)))
    }

    /// Makes `name` another name of `of`. A name that is none is ignored.
    #[must_use]
    pub fn cname(self, name: &str, of: &str) -> Self {
        match Name::from_utf8(of) {
            Ok(of) => self.record(name, RData::CNAME(CNAME(of))),
            Err(_) => self,
        }
    }

    /// Adds one TXT record of `size` bytes of text, in strings of 255.
    #[must_use]
    pub fn txt(self, name: &str, size: usize) -> Self {
        let strings = (0..size.div_ceil(255)).map(|i| "x".repeat(255.min(size - i * 255))).collect();
        self.record(name, RData::TXT(TXT::new(strings)))
    }

    /// Adds a record of any type.
    #[must_use]
    pub fn record(mut self, name: &str, data: RData) -> Self {
        self.records.entry(key(name)).or_default().push(data);
        self
    }

    /// Has questions about `name` go wrong.
    #[must_use]
    pub fn fault(mut self, name: &str, fault: Fault) -> Self {
        self.faults.insert(key(name), fault);
        self
    }

    /// The addresses of `name`, through other names.
    pub fn addresses(&self, name: &str) -> Vec<std::net::IpAddr> {
        let mut records = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            records.extend(self.follow(name, kind).1);
        }
        records.iter().filter_map(|record| record.data.ip_addr()).collect()
    }

    /// Whether the name exists, and its records of the type `kind` after the names that lead there.
    fn follow(&self, name: &str, kind: RecordType) -> (bool, Vec<Record>) {
        let (mut at, mut answers, mut known) = (key(name), Vec::new(), false);
        // A chain longer than this is a mistake in the zone.
        for _ in 0..8 {
            let Some(found) = self.records.get(&at) else { break };
            known = true;
            let Ok(owner) = Name::from_utf8(format!("{at}.")) else { break };
            let wanted = found.iter().filter(|data| kind == RecordType::ANY || data.record_type() == kind);
            let before = answers.len();
            answers.extend(wanted.map(|data| Record::from_rdata(owner.clone(), self.ttl, data.clone())));
            let next = found.iter().find_map(|data| match data {
                RData::CNAME(CNAME(next)) if kind != RecordType::CNAME => Some(next.clone()),
                _ => None,
            });
            match next {
                Some(next) if answers.len() == before => {
                    answers.push(Record::from_rdata(owner, self.ttl, RData::CNAME(CNAME(next.clone()))));
                    at = key(&next.to_utf8());
                }
                _ => break,
            }
        }
        (known, answers)
    }
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// A question that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name, in lower case and without the final dot.
    pub name: String,
    /// The type asked for.
    pub kind: RecordType,
    /// Who asked.
    pub client: SocketAddr,
    /// The server's address that was asked.
    pub server: SocketAddr,
    /// Whether it came over TCP.
    pub tcp: bool,
}

#[derive(Debug)]
struct Shared {
    zone: Mutex<Zone>,
    questions: Mutex<Vec<Question>>,
}

/// The DNS server, running.
#[derive(Debug)]
pub struct DnsServer {
    shared: Arc<Shared>,
    _thread: ServerThread,
}

impl DnsServer {
    /// Starts it on each of `addresses`, over UDP and TCP.
    ///
    /// # Errors
    /// [`LabError::Server`] when an address cannot be bound.
    pub fn start(namespace: &NetNs, addresses: &[SocketAddr], zone: Zone) -> Result<Self, LabError> {
        let shared = Arc::new(Shared { zone: Mutex::new(zone), questions: Mutex::default() });
        let (inside, addresses) = (shared.clone(), addresses.to_vec());
        let thread = ServerThread::start(namespace, "dns", move || async move {
            for address in addresses {
                let socket = Arc::new(datagrams(address)?);
                tokio::spawn(serve_udp(socket, address, inside.clone()));
                let listener = listen(address, None)?;
                let inside = inside.clone();
                tokio::spawn(async move {
                    while let Ok((stream, client)) = listener.accept().await {
                        tokio::spawn(serve_tcp(stream, client, address, inside.clone()));
                    }
                });
            }
            Ok(())
        })?;
        Ok(Self { shared, _thread: thread })
    }

    /// Replaces the zone.
    pub fn set_zone(&self, zone: Zone) {
        *self.shared.zone.lock() = zone;
    }

    /// A copy of the zone, to be changed and set again.
    pub fn zone(&self) -> Zone {
        self.shared.zone.lock().clone()
    }

    /// The questions that came so far.
    pub fn questions(&self) -> Vec<Question> {
        self.shared.questions.lock().clone()
    }

    /// How many questions came about `name`.
    pub fn asked(&self, name: &str) -> usize {
        let name = key(name);
        self.shared.questions.lock().iter().filter(|question| question.name == name).count()
    }

    /// Forgets the questions that came so far.
    pub fn forget(&self) {
        self.shared.questions.lock().clear();
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, server: SocketAddr, shared: Arc<Shared>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
        let (socket, shared) = (socket.clone(), shared.clone());
        tokio::spawn(async move {
            if let Some(answer) = answer(query, client, server, false, &shared).await {
                let _ = socket.send_to(&answer, client).await;
            }
        });
    }
}

async fn serve_tcp(
    mut stream: TcpStream,
    client: SocketAddr,
    server: SocketAddr,
    shared: Arc<Shared>,
) -> io::Result<()> {
    loop {
        // RFC 1035, 4.2.2: each message follows its length in two bytes.
        let length = stream.read_u16().await?;
        let mut buffer = vec![0; usize::from(length)];
        stream.read_exact(&mut buffer).await?;
        let Ok(query) = Message::from_vec(&buffer) else { return Ok(()) };
        if let Some(answer) = answer(query, client, server, true, &shared).await {
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend_from_slice(&answer);
            stream.write_all(&framed).await?;
        }
    }
}

async fn answer(
    query: Message,
    client: SocketAddr,
    server: SocketAddr,
    tcp: bool,
    shared: &Shared,
) -> Option<Vec<u8>> {
    let question = query.queries.first()?;
    let (name, kind) = (key(&question.name().to_utf8()), question.query_type());
    shared.questions.lock().push(Question { name: name.clone(), kind, client, server, tcp });
    let zone = shared.zone.lock().clone();
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_query(question.clone());
    let limit = match &query.edns {
        Some(edns) => {
            let mut ours = Edns::new();
            ours.set_max_payload(4096).set_version(0);
            response.set_edns(ours);
            usize::from(edns.max_payload().max(512))
        }
        None => 512,
    };
    match zone.faults.get(&name) {
        Some(Fault::Silent) => return None,
        Some(Fault::ServFail) => response.metadata.response_code = ResponseCode::ServFail,
        Some(Fault::Refused) => response.metadata.response_code = ResponseCode::Refused,
        Some(Fault::Truncated) if !tcp => response.metadata.truncation = true,
        other => {
            if let Some(Fault::Slow(time)) = other {
                tokio::time::sleep(*time).await;
            }
            fill(&mut response, &zone, &name, kind);
        }
    }
    let bytes = response.to_vec().ok()?;
    if !tcp && bytes.len() > limit {
        return response.truncate().to_vec().ok();
    }
    Some(bytes)
}

fn fill(response: &mut Message, zone: &Zone, name: &str, kind: RecordType) {
    let (known, answers) = zone.follow(name, kind);
    response.metadata.authoritative = true;
    if !known {
        response.metadata.response_code = ResponseCode::NXDomain;
    }
    if answers.is_empty() {
        // RFC 2308: without the SOA record a negative answer cannot be kept.
        let root = Name::root();
        let soa = SOA::new(root.clone(), root.clone(), 1, 3600, 600, 86_400, zone.ttl);
        response.add_authority(Record::from_rdata(root, zone.ttl, RData::SOA(soa)));
    }
    response.add_answers(answers);
}
