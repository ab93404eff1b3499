//! Queries that are answered here: over UDP, and over TCP by a stream that ends in this program.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oneway_dns::{MAX_QUERY, Quick, Transport};
use oneway_egress::local_pair;
use oneway_flow::Target;
use oneway_outbound::{Connected, DialError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Worker;
use super::reply::DATAGRAM_HEADROOM;
use crate::dispatch::{Choice, Subject};
use crate::dns::Destined;

/// How long a connection may be silent (RFC 7766, 6.2.3: a few seconds).
const IDLE: Duration = Duration::from_secs(15);

/// Queries of one connection that are answered at the same time (RFC 7766, 6.2.1.1).
const PIPELINED: usize = 16;

impl Worker {
    /// A query over UDP.
    pub(super) fn dns_datagram(self: &Rc<Self>, client: SocketAddr, server: SocketAddr, query: &[u8]) {
        // While we stop, what clients ask again goes to the server itself: a fake address would be of no use to them.
        if self.draining() {
            return self.shared.stats.ignored.add();
        }
        let Some(dns) = self.shared.dns.hijacks(server) else { return };
        let quick = dns.quick(query, Transport::Udp, server, Instant::now());
        if !matches!(quick, Quick::Drop) {
            dns.asked(server.ip());
        }
        match quick {
            Quick::Answer(answer) => self.dns_reply(&answer, server, client),
            Quick::Drop => {}
            Quick::Ask(_) if self.dns_waiting.get() >= self.shared.limits.dns_queries => {
                // The client asks again, and then there may be room.
                self.shared.stats.udp_dropped.add();
            }
            Quick::Ask(asked) => {
                self.dns_waiting.set(self.dns_waiting.get() + 1);
                let worker = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    if let Some(dns) = worker.shared.dns.hijacks(server) {
                        let answer = dns.finish(&asked, Transport::Udp, server).await;
                        worker.dns_reply(&answer, server, client);
                    }
                    worker.dns_waiting.set(worker.dns_waiting.get() - 1);
                });
            }
        }
    }

    fn dns_reply(&self, answer: &[u8], server: SocketAddr, client: SocketAddr) {
        let mut buffer = vec![0; DATAGRAM_HEADROOM];
        buffer.extend_from_slice(answer);
        let payload = DATAGRAM_HEADROOM..buffer.len();
        let size = payload.len();
        self.write_datagrams(&mut buffer, payload, size, server, client);
    }

    /// The rule and the outbound that are shown for a flow.
    pub(super) fn labels(&self, choice: &Choice<'_>, target: &Target) -> (Arc<str>, Arc<str>) {
        match self.shared.dns.hijacks(target.addr) {
            Some(_) => ("dns".into(), "dns".into()),
            None => (choice.rule(), Arc::clone(&choice.entry.name)),
        }
    }

    /// Connects a flow by its outbound, by name where only that is known, or to the DNS server here.
    pub(super) async fn connect(
        self: &Rc<Self>,
        choice: &Choice<'_>,
        subject: &Subject<'_>,
        destined: &Destined,
    ) -> Result<Connected, DialError> {
        let shared = &self.shared;
        let target = &destined.target;
        if let Some(dns) = shared.dns.hijacks(target.addr) {
            // Connected means connected: where nobody is known to be a DNS server, a scan would see one everywhere.
            if !dns.stands_for(target.addr.ip()) && !shared.guard.answers(target.addr) {
                drop(self.connect_outside(choice, subject, destined).await?);
            }
            return self.dns_stream(target.addr).await;
        }
        self.connect_outside(choice, subject, destined).await
    }

    async fn connect_outside(
        self: &Rc<Self>,
        choice: &Choice<'_>,
        subject: &Subject<'_>,
        destined: &Destined,
    ) -> Result<Connected, DialError> {
        let shared = &self.shared;
        let target = &destined.target;
        if destined.pin.is_some() && choice.entry.is_direct() {
            return Box::pin(async {
                let addresses = choice.led_to(subject, shared.dns.addresses(target).await?).await;
                shared.dns.connect_to(&shared.egress, target, addresses).await
            })
            .await;
        }
        choice.entry.outbound.connect(&shared.egress, target).await
    }

    /// A stream to the DNS server here. It stands for the one at `server`.
    async fn dns_stream(self: &Rc<Self>, server: SocketAddr) -> Result<Connected, DialError> {
        let (stream, own) = local_pair().map_err(|source| DialError::Direct { dst: server, source })?;
        tokio::task::spawn_local(Rc::clone(self).dns_serve(own, server));
        Ok(Connected { stream, early: Vec::new() })
    }

    /// Answers the queries of one connection, each as soon as it can be (RFC 7766, 7).
    async fn dns_serve(self: Rc<Self>, stream: TcpStream, server: SocketAddr) {
        let (mut read, mut write) = stream.into_split();
        let (answers, mut ready) = mpsc::channel::<Vec<u8>>(PIPELINED);
        let reading = async move {
            while let Ok(Some(query)) = timeout(IDLE, read_query(&mut read)).await {
                let Some(dns) = self.shared.dns.hijacks(server) else { return };
                // Room for the answer before the work for it: who asks without reading is asked to wait.
                let Ok(place) = answers.clone().reserve_owned().await else { return };
                match dns.quick(&query, Transport::Tcp, server, Instant::now()) {
                    Quick::Answer(answer) => drop(place.send(answer)),
                    // Nothing else on this connection would make sense.
                    Quick::Drop => return,
                    Quick::Ask(asked) => {
                        let shared = Arc::clone(&self.shared);
                        tokio::task::spawn_local(async move {
                            if let Some(dns) = shared.dns.hijacks(server) {
                                place.send(dns.finish(&asked, Transport::Tcp, server).await);
                            }
                        });
                    }
                }
            }
        };
        let writing = async move {
            while let Some(answer) = ready.recv().await {
                let Ok(len) = u16::try_from(answer.len()) else { return };
                let framed = [&len.to_be_bytes(), answer.as_slice()].concat();
                if !matches!(timeout(IDLE, write.write_all(&framed)).await, Ok(Ok(()))) {
                    return;
                }
            }
        };
        // Answers that are on their way are still written when no more queries come.
        tokio::join!(reading, writing);
    }
}

/// One query; none at the end of the stream, or if it is longer than any is.
async fn read_query(read: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let len = usize::from(read.read_u16().await.ok()?);
    if len > MAX_QUERY {
        return None;
    }
    let mut query = vec![0; len];
    read.read_exact(&mut query).await.ok()?;
    Some(query)
}
