//! Flows of which only the address is known, and whose first bytes may tell the name.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use oneway_flow::{FlowGuard, Inbound, Network, Target};
use oneway_outbound::Connected;
use oneway_sniff::{MOST, Sniffed};
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::Worker;
use crate::config::{Port, SniffConfig};
use crate::dispatch::{Choice, Dispatch, Entry, Subject};
use crate::dns::Destined;

/// The first byte of a TLS stream: the content type of handshake records.
const TLS: u8 = 22;

thread_local! {
    /// Used within one turn only: a client that is silent has no buffer.
    static LOOKED_AT: RefCell<Box<[u8]>> = RefCell::new(vec![0; MOST].into_boxed_slice());
}

/// A connection of which the address is known alone.
#[derive(Debug)]
pub(super) struct Nameless {
    client: SocketAddr,
    addr: SocketAddr,
    dscp: u8,
    /// Where the address has led.
    entry: Arc<Entry>,
    /// The group that it was chosen by.
    group: Option<u32>,
    timeout: Duration,
    tls: bool,
    http: bool,
}

/// What a name has changed.
#[derive(Debug)]
pub(super) struct Renamed {
    pub(super) flow: FlowGuard,
    /// None if it leads where the address does.
    pub(super) connected: Option<Connected>,
}

impl Nameless {
    /// How long the name may take from the first byte on.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Looks at all that the client has sent.
    pub(super) fn look(&self, bytes: &[u8]) -> Sniffed {
        let wanted = match bytes.first() {
            None => true,
            Some(&TLS) => self.tls,
            Some(_) => self.http,
        };
        if wanted { oneway_sniff::stream(bytes) } else { Sniffed::Nothing }
    }
}

/// Whether a port is among these.
pub(super) fn has(ports: &[Port], port: u16) -> bool {
    ports.iter().any(|listed| listed.get() == port)
}

impl Worker {
    /// What there is to look for in a connection that an outbound was chosen for; none if the rules would not choose
    /// otherwise for any name, or it is known.
    pub(super) fn nameless(
        &self,
        dispatch: &Dispatch,
        choice: &Choice<'_>,
        destined: &Destined,
        client: SocketAddr,
        dscp: u8,
    ) -> Option<Nameless> {
        let SniffConfig { timeout, tls, http, .. } = dispatch.sniff()?;
        let addr = destined.target.addr;
        let (tls, http) = (has(tls, addr.port()), has(http, addr.port()));
        let is_named = destined.judged.host.is_some() || self.shared.dns.hijacks(addr).is_some();
        if is_named || !choice.is_by_rule() || !(tls || http) {
            return None;
        }
        let (entry, group) = (Arc::clone(choice.entry), choice.group.map(|group| group.serial));
        Some(Nameless { client, addr, dscp, entry, group, timeout: *timeout, tls, http })
    }

    /// Decides again, now that the name is known, and connects if that leads elsewhere. None if it is refused, or cannot be
    /// connected.
    ///
    /// A group that the address has led to has found its member, by trying maybe: what is connected is not connected again.
    pub(super) async fn by_name(self: &Rc<Self>, nameless: &Nameless, name: String) -> Option<Renamed> {
        let Nameless { client, addr, dscp, ref entry, group, .. } = *nameless;
        let flows = &self.shared.flows;
        // A proxy is told the name.
        let target = Target { addr, host: Some(name.into()) };
        let destined = Destined { judged: target.clone(), target, pin: None };
        let target = &destined.target;
        let (network, inbound) = (Network::Tcp, Inbound::Tun);
        let subject = Subject { network, source: client, inbound, target, is_fake: false, dscp };
        let dispatch = self.shared.dispatch.load_full();
        let mut choice = dispatch.choose_waiting(&subject).await;
        let is_same_group = group.is_some() && choice.group.map(|group| group.serial) == group;
        if !is_same_group {
            choice = choice.to_dial(&subject).await;
        }
        let stays = is_same_group || Arc::ptr_eq(choice.entry, entry);
        let first = if stays { entry } else { choice.entry };
        let outbound = Arc::clone(&first.name);
        let flow = flows.enter(subject.arrival(), target.clone(), choice.rule(), outbound);
        if stays {
            flow.set_established();
            return Some(Renamed { flow, connected: None });
        }
        let result = tokio::select! {
            result = Box::pin(self.dial_by(&dispatch, &mut choice, &subject, &destined)) => result,
            () = self.ended(flow.id) => return None,
        };
        let flow = self.as_it_went(flow, first, &choice);
        match result {
            Ok(connected) => {
                flow.set_established();
                Some(Renamed { flow, connected: Some(connected) })
            }
            Err(error) => {
                tracing::debug!(%client, %target, rule = %flow.rule, outbound = %choice.entry.name, %error, "not connected by its name");
                None
            }
        }
    }

    /// Waits for a name in what a client of the kernel's stack sends. None if it says none, or the server speaks first.
    ///
    /// # Errors
    /// How the client's socket has failed. It tells that once, and whoever reads next finds the end of the stream.
    pub(super) async fn wait_for_name(
        &self,
        client: &TcpStream,
        upstream: &TcpStream,
        nameless: &Nameless,
    ) -> io::Result<Option<String>> {
        let mut seen = 0;
        let mut deadline = None;
        loop {
            let silent = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let ready = tokio::select! {
                biased;
                _ = upstream.readable() => return Ok(None),
                ready = client.ready(Interest::READABLE) => ready?,
                () = silent => return Ok(None),
            };
            let mut found = Sniffed::Nothing;
            let peeked = client.try_io(Interest::READABLE, || {
                LOOKED_AT.with_borrow_mut(|buffer| {
                    let (len, _) = rustix::net::recv(client, &mut buffer[..], RecvFlags::PEEK)?;
                    // What was seen before is no news.
                    if len > 0 && len == seen {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    found = nameless.look(buffer.get(..len).unwrap_or_default());
                    Ok(len)
                })
            });
            match peeked {
                Ok(0) => return Ok(None),
                Ok(len) => seen = len,
                // Where the client has closed its half there is no more to wait for.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            match found {
                Sniffed::Name(name) => return Ok(Some(name)),
                Sniffed::Nothing => return Ok(None),
                Sniffed::More => {
                    deadline.get_or_insert(Instant::now() + nameless.timeout);
                }
            }
        }
    }
}
