//! Resolvers that are asked over QUIC. The server's QUIC and cryptography are others' work.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;

use oneway_lab::capture::Recorder;
use oneway_lab::client::{Outcome, RecordType};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::topology::{Simple, address, name, port};
use oneway_lab::{NetNs, Topology};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, RecvStream, SendStream, ServerConfig};
use rustls::pki_types::PrivateKeyDer;
use tokio::sync::oneshot;

use crate::common::{SECOND, TUN, address_of, ask, expect_reachable, upstream};
use crate::secure::{configured, forward, is_told_of};

const DOQ: u16 = 853;

/// DNS over QUIC at the lab's DNS server. Dropped, it ends with all its connections.
struct Server {
    folder: tempfile::TempDir,
    accepted: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

impl Server {
    fn start(namespace: &NetNs, addresses: &[SocketAddr], name: &str) -> Result<Self, Failed> {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()])?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("ca.pem"), made.cert.pem())?;
        let provider = Arc::new(quinn::rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(
                vec![made.cert.der().clone()],
                PrivateKeyDer::try_from(made.signing_key.serialize_der())?,
            )?;
        tls.alpn_protocols = vec![b"doq".to_vec()];
        let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let (count, addresses) = (Arc::clone(&accepted), addresses.to_vec());
        namespace.spawn_thread("doq", move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                for address in addresses {
                    match Endpoint::server(config.clone(), address) {
                        Ok(endpoint) => drop(tokio::spawn(accept(endpoint, Arc::clone(&count)))),
                        Err(error) => return drop(ready.send(Err(error))),
                    }
                }
                let _ = ready.send(Ok(()));
                let _ = stopped.await;
            });
        })?;
        started.recv()??;
        Ok(Self { folder, accepted, _stop: stop })
    }

    /// Ends it, and leaves what it is known by.
    fn end(self) -> tempfile::TempDir {
        self.folder
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Relaxed)
    }
}

async fn accept(endpoint: Endpoint, count: Arc<AtomicUsize>) {
    while let Some(incoming) = endpoint.accept().await {
        let count = Arc::clone(&count);
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            count.fetch_add(1, Relaxed);
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(answer(send, receive));
            }
        });
    }
}

/// What the lab's DNS server says.
async fn answer(mut send: SendStream, mut receive: RecvStream) -> Result<(), Failed> {
    let question = receive.read_to_end(65_537).await?;
    let answer = forward(&question[2..], address::DNS.v4_port(port::DNS)).await?;
    send.write_all(&u16::try_from(answer.len())?.to_be_bytes()).await?;
    send.write_all(&answer).await?;
    Ok(send.finish()?)
}

fn doq(lab: &Simple, name: &str) -> Result<Server, Failed> {
    Server::start(&lab.net, &address::DNS.ports(DOQ), name)
}

pub fn names_are_asked_by_quic_on_one_connection() -> TestResult {
    for server_at in [IpAddr::from(address::DNS.v4), IpAddr::from(address::DNS.v6)] {
        let lab = Topology::simple()?;
        let server = doq(&lab, &server_at.to_string())?;
        let at = SocketAddr::new(server_at, DOQ);
        let _oneway = configured(&lab.host, server.folder.path(), &format!("upstream = [\"quic://{at}\"]"))?;
        let (uplink, tun) =
            (Recorder::start(&lab.host, Some("up1"))?, Recorder::start(&lab.host, Some(TUN))?);
        for name in [name::ORIGIN, name::ORIGIN4] {
            assert_eq!(address_of(&lab, name, RecordType::A)?, IpAddr::from(address::ORIGIN.v4));
        }
        let whole = ask(&lab, name::LARGE, RecordType::TXT, false, true)?;
        assert!(!whole.truncated && whole.size > 3000, "{} bytes", whole.size);
        expect_reachable(&lab, address::ORIGIN.v4.into())?;
        assert_eq!(server.accepted(), 1);
        let clear = uplink.count(|packet| packet.ports.0 == port::DNS || packet.ports.1 == port::DNS)?;
        assert_eq!(clear, 0, "nothing is asked in the clear");
        let returned = tun.count(|packet| packet.ports.0 == DOQ || packet.ports.1 == DOQ)?;
        assert_eq!(returned, 0, "what we ask does not come back to us");
    }
    Ok(())
}

pub fn an_impostor_is_not_asked_by_quic() -> TestResult {
    let lab = Topology::simple()?;
    let server = doq(&lab, "other.example")?;
    let quic = format!("quic://{}", address::DNS.v4);
    {
        let oneway = configured(&lab.host, server.folder.path(), &format!("upstream = [\"{quic}\"]"))?;
        for name in [name::ORIGIN, name::ORIGIN4] {
            let answer = ask(&lab, name, RecordType::A, false, false)?;
            assert_eq!((answer.outcome, answer.code.to_string().as_str()), (Outcome::Done, "Server Failure"));
        }
        assert_eq!(lab.dns.asked(name::ORIGIN), 0);
        is_told_of(&lab, &oneway, &format!("quic://{}", address::DNS.v4_port(DOQ)))?;
    }
    let named = format!("upstream = [\"{quic}#other.example\"]");
    let _oneway = configured(&lab.host, server.folder.path(), &named)?;
    assert_eq!(address_of(&lab, name::ORIGIN, RecordType::A)?, IpAddr::from(address::ORIGIN.v4));
    Ok(())
}

/// A server that is gone without a word is passed over.
pub fn a_lost_connection_of_quic_is_passed_over() -> TestResult {
    let lab = Topology::simple()?;
    let server = doq(&lab, &address::DNS.v4.to_string())?;
    let dns = format!("upstream = [\"quic://{}\", \"{}\"]", address::DNS.v4, upstream());
    let _oneway = configured(&lab.host, server.folder.path(), &dns)?;
    assert_eq!(address_of(&lab, name::ORIGIN, RecordType::A)?, IpAddr::from(address::ORIGIN.v4));
    let _folder = server.end();
    let answer = ask(&lab, name::ORIGIN4, RecordType::A, false, false)?;
    assert_eq!(answer.addresses, [address::ORIGIN.v4]);
    assert!(answer.took < 2 * SECOND, "{:?}", answer.took);
    Ok(())
}
