//! DNS messages: what is taken from clients and from upstreams, and what is answered.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::plain::refuses_edns;

/// The longest query that is looked at. A question takes at most 255 bytes for its name and 4 more (RFC 1035, 2.3.4
/// and 4.1.2), the rest is EDNS; padding (RFC 8467) fills up to 128 or 468.
pub const MAX_QUERY: usize = 1024;

/// What we take over UDP (RFC 6891, 6.2.3): what passes every link unfragmented, as agreed on the DNS flag day 2020.
pub(crate) const OUR_PAYLOAD: u16 = 1232;

/// The most that a client is sent over UDP, whatever it says it can take: the rest comes over TCP.
const MOST_PAYLOAD: u16 = 4096;

/// What every message may have without EDNS (RFC 1035, 2.3.4).
const LEAST_PAYLOAD: u16 = 512;

/// Length of a message's header.
const HEADER: usize = 12;

/// Why a query is not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no DNS query at all: dropped, as an answer might be taken for a query by whoever sent it.
    Malformed,
    /// It is one that cannot be answered; this says so.
    Answer(Vec<u8>),
}

/// A query of a client.
#[derive(Clone, Debug)]
pub struct Asked {
    id: u16,
    query: Query,
    host: Option<Arc<str>>,
    recursion_desired: bool,
    checking_disabled: bool,
    edns: Option<ClientEdns>,
}

#[derive(Clone, Copy, Debug)]
struct ClientEdns {
    payload: u16,
    dnssec_ok: bool,
}

/// Parses a query of a client.
///
/// # Errors
/// [`Refusal`]: what is to be done instead.
pub fn parse_query(bytes: &[u8]) -> Result<Asked, Refusal> {
    let Some([id_hi, id_lo, flags, _, qd_hi, qd_lo, an_hi, an_lo, ns_hi, ns_lo, _, _]) =
        bytes.first_chunk::<HEADER>()
    else {
        return Err(Refusal::Malformed);
    };
    let id = u16::from_be_bytes([*id_hi, *id_lo]);
    // QR: somebody's answer.
    if flags & 0x80 != 0 || bytes.len() > MAX_QUERY {
        return Err(Refusal::Malformed);
    }
    let op_code = OpCode::from_u8(flags >> 3 & 0x0f);
    if op_code != OpCode::Query {
        return Err(refuse(id, op_code, ResponseCode::NotImp));
    }
    // Looked at before anything is parsed: the counts decide how much memory parsing takes.
    if [*qd_hi, *qd_lo, *an_hi, *an_lo, *ns_hi, *ns_lo] != [0, 1, 0, 0, 0, 0] {
        return Err(refuse(id, op_code, ResponseCode::FormErr));
    }
    let message = Message::from_vec(bytes).map_err(|_| Refusal::Malformed)?;
    let [query] = message.queries.as_slice() else {
        return Err(refuse(id, op_code, ResponseCode::FormErr));
    };
    let edns = message
        .edns
        .as_ref()
        .map(|edns| ClientEdns { payload: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok });
    let asked = Asked {
        id,
        host: host(query.name()).map(Arc::from),
        query: query.clone(),
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns,
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Err(Refusal::Answer(asked.encode(&asked.code(ResponseCode::BADVERS), None)));
    }
    // Transfers take more than one message.
    if matches!(asked.kind(), RecordType::AXFR | RecordType::IXFR) {
        return Err(Refusal::Answer(asked.encode(&asked.code(ResponseCode::Refused), None)));
    }
    Ok(asked)
}

fn refuse(id: u16, op_code: OpCode, code: ResponseCode) -> Refusal {
    Message::error_msg(id, op_code, code).to_vec().map_or(Refusal::Malformed, Refusal::Answer)
}

/// The name as text, in lower case and without the final dot, if it could be that of a host (RFC 952, RFC 1123, and
/// the underscore that is met in practice).
pub(crate) fn host(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                return None;
            }
            text.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    (!text.is_empty()).then_some(text)
}

impl Asked {
    /// A query of our own.
    pub(crate) fn own(name: Name, kind: RecordType) -> Self {
        Self {
            id: 0,
            host: host(&name).map(Arc::from),
            query: Query::query(name, kind),
            recursion_desired: true,
            checking_disabled: false,
            edns: None,
        }
    }

    /// The type that is asked for.
    pub fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// The name, in lower case and without the final dot, if it could be that of a host.
    pub fn host(&self) -> Option<&Arc<str>> {
        self.host.as_ref()
    }

    /// The name as patterns are asked about it: [`Asked::host`], or with a `?`, which is in no pattern, for each label that no
    /// host has, as services and delegated networks have them (RFC 6763, RFC 2317).
    pub(crate) fn labels(&self) -> Cow<'_, str> {
        if let Some(host) = &self.host {
            return Cow::Borrowed(host);
        }
        let label = |label: &[u8]| host(&Name::from_labels([label]).ok()?);
        let labels = self.query.name().iter().map(|bytes| label(bytes).unwrap_or_else(|| "?".to_owned()));
        Cow::Owned(labels.collect::<Vec<_>>().join("."))
    }

    /// Whether it is about the Internet.
    pub fn is_internet(&self) -> bool {
        self.query.query_class() == DNSClass::IN
    }

    pub(crate) fn name(&self) -> &Name {
        self.query.name()
    }

    /// What its answer is shared by where the configuration's servers are asked.
    pub(crate) fn key(&self) -> Key {
        self.key_at(None)
    }

    /// The same where `server`, which a client chose, is asked first.
    pub(crate) fn key_at(&self, server: Option<SocketAddr>) -> Key {
        Key {
            query: self.query.clone(),
            server,
            dnssec_ok: self.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: self.checking_disabled,
        }
    }

    /// How long an answer over UDP may be.
    pub fn udp_limit(&self) -> usize {
        let payload = self.edns.map_or(LEAST_PAYLOAD, |edns| edns.payload.clamp(LEAST_PAYLOAD, MOST_PAYLOAD));
        payload.into()
    }

    /// The question as it goes to an upstream, with a transaction number that nobody can guess.
    pub(crate) fn outgoing(&self) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(self.query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(OUR_PAYLOAD).set_version(0);
        edns.set_dnssec_ok(self.edns.is_some_and(|edns| edns.dnssec_ok));
        message.set_edns(edns);
        message
    }

    /// An answer without records: for [`ResponseCode::NoError`], that there are none of this type.
    pub fn code(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        if let Some(theirs) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_PAYLOAD).set_version(0).set_dnssec_ok(theirs.dnssec_ok);
            message.set_edns(edns);
        }
        message
    }

    /// An answer with one address.
    pub(crate) fn address(&self, ip: IpAddr, ttl: u32) -> Message {
        let data = match ip {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        };
        self.record(data, ttl)
    }

    /// An answer with the name of an address.
    pub(crate) fn pointer(&self, name: Name, ttl: u32) -> Message {
        self.record(RData::PTR(PTR(name)), ttl)
    }

    fn record(&self, data: RData, ttl: u32) -> Message {
        let mut message = self.code(ResponseCode::NoError);
        message.add_answer(Record::from_rdata(self.query.name().clone(), ttl, data));
        message
    }

    /// An upstream's answer for this client.
    pub(crate) fn relay(&self, answer: Message) -> Message {
        let mut message = self.code(answer.metadata.response_code);
        message.metadata.authentic_data = answer.metadata.authentic_data;
        message.answers = answer.answers;
        message.authorities = answer.authorities;
        message.additionals = answer.additionals;
        if self.edns.is_none() && message.metadata.response_code.high() > 0 {
            // A code that only EDNS has room for (RFC 6891, 6.1.3).
            message.metadata.response_code = ResponseCode::ServFail;
        }
        message
    }

    /// The bytes of an answer. What is longer than `limit` becomes the request to ask over TCP (RFC 2181, 9).
    pub(crate) fn encode(&self, message: &Message, limit: Option<usize>) -> Vec<u8> {
        let whole = message.to_vec();
        let encoded = match (whole, limit) {
            (Ok(bytes), Some(limit)) if bytes.len() > limit => message.truncate().to_vec(),
            (Ok(bytes), None) if bytes.len() > usize::from(u16::MAX) => {
                self.code(ResponseCode::ServFail).to_vec()
            }
            (whole, _) => whole,
        };
        encoded
            .or_else(|_| Message::error_msg(self.id, OpCode::Query, ResponseCode::ServFail).to_vec())
            .unwrap_or_default()
    }
}

/// What answers may be shared by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    query: Query,
    /// The server that a client chose: what it says is for those alone that have chosen it, too, and never for ourselves.
    server: Option<SocketAddr>,
    dnssec_ok: bool,
    checking_disabled: bool,
}

impl Key {
    /// The type that is asked for.
    pub(crate) fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// Name, type and class.
    pub(crate) fn query(&self) -> &Query {
        &self.query
    }
}

/// Why a message is not the answer to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is to another question: sent by somebody who guesses, or late. The right one may still come.
    Foreign,
    /// It claims to be ours and cannot be parsed.
    Malformed,
    /// It is ours, and says that the whole only fits TCP.
    Truncated,
}

/// Whether `bytes` are the answer to `query`.
///
/// # Errors
/// [`Unfit`].
pub fn accept(query: &Message, bytes: &[u8]) -> Result<Message, Unfit> {
    let Some([id_hi, id_lo, flags, more, qd_hi, qd_lo, ..]) = bytes.first_chunk::<HEADER>() else {
        return Err(Unfit::Foreign);
    };
    let questions = u16::from_be_bytes([*qd_hi, *qd_lo]);
    if u16::from_be_bytes([*id_hi, *id_lo]) != query.metadata.id || flags & 0x80 == 0 || questions > 1 {
        return Err(Unfit::Foreign);
    }
    let Ok(answer) = Message::from_vec(bytes) else {
        // Some send the header back alone, with the counts of the query.
        let code = ResponseCode::from(0, more & 0x0f);
        if refuses_edns(code) {
            return Ok(Message::error_msg(query.metadata.id, OpCode::Query, code));
        }
        // Some servers cut a truncated message in the middle of a record.
        return Err(if flags & 0x02 != 0 { Unfit::Truncated } else { Unfit::Malformed });
    };
    let code = answer.metadata.response_code;
    // Servers that do not understand a question may leave it out. That says nothing about any name.
    let bare = answer.queries.is_empty() && !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
    if answer.queries != query.queries && !bare {
        return Err(Unfit::Foreign);
    }
    debug_assert_eq!(answer.metadata.message_type, MessageType::Response);
    if answer.metadata.truncation {
        return Err(Unfit::Truncated);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
