//! Asking a DNS server.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::{Client, Outcome, fail};
use crate::error::LabError;

/// What came back from a DNS server.
#[derive(Debug, Clone)]
pub struct DnsAnswer {
    /// [`Outcome::Done`] when an answer came; all else below is empty otherwise.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// The response code.
    pub code: ResponseCode,
    /// Whether the answer is truncated (TC).
    pub truncated: bool,
    /// The addresses in the answer section.
    pub addresses: Vec<IpAddr>,
    /// The whole message.
    pub message: Option<Message>,
    /// Its size in bytes.
    pub size: usize,
}

impl Client {
    /// Asks `server` for the records of `name` of the type `kind`, over TCP or UDP.
    ///
    /// # Errors
    /// [`LabError::Client`] when `name` is none, there can be no socket, or the answer is not DNS or not to the
    /// question.
    pub fn dns(
        &self,
        server: SocketAddr,
        name: &str,
        kind: RecordType,
        tcp: bool,
        timeout: Duration,
    ) -> Result<DnsAnswer, LabError> {
        let what = || format!("ask {server} for {name} {kind}");
        let invalid = |text: String| fail(what(), io::Error::new(io::ErrorKind::InvalidData, text));
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        let mut owner = Name::from_utf8(name).map_err(|error| invalid(error.to_string()))?;
        owner.set_fqdn(true);
        message.add_query(Query::query(owner, kind));
        let question = message.to_vec().map_err(|error| invalid(error.to_string()))?;
        let begin = Instant::now();
        let (outcome, bytes) = if tcp {
            self.ask_tcp(server, &question, timeout)?
        } else {
            let exchange = self.udp(server, &question, timeout)?;
            (exchange.outcome, exchange.data)
        };
        let mut answer = DnsAnswer {
            outcome,
            took: begin.elapsed(),
            code: ResponseCode::NoError,
            truncated: false,
            addresses: Vec::new(),
            message: None,
            size: bytes.len(),
        };
        if outcome == Outcome::Done {
            let reply = Message::from_vec(&bytes).map_err(|error| invalid(error.to_string()))?;
            if reply.metadata.id != message.metadata.id {
                return Err(invalid("the answer is to another question".to_owned()));
            }
            answer.code = reply.metadata.response_code;
            answer.truncated = reply.metadata.truncation;
            answer.addresses = reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
            answer.message = Some(reply);
        }
        Ok(answer)
    }

    fn ask_tcp(
        &self,
        server: SocketAddr,
        question: &[u8],
        timeout: Duration,
    ) -> Result<(Outcome, Vec<u8>), LabError> {
        let dial = self.tcp(server, timeout)?;
        let Some(mut stream) = dial.stream else { return Ok((dial.outcome, Vec::new())) };
        let mut framed = u16::try_from(question.len()).unwrap_or(0).to_be_bytes().to_vec();
        framed.extend_from_slice(question);
        let mut ask = || -> io::Result<Vec<u8>> {
            stream.set_read_timeout(Some(timeout))?;
            stream.write_all(&framed)?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        };
        Ok(match ask() {
            Ok(answer) => (Outcome::Done, answer),
            Err(error) => (Outcome::from(&error), Vec::new()),
        })
    }
}
