//! Against a server on loopback whose QUIC and cryptography are others' work.

#![allow(clippy::disallowed_methods, reason = "the server of these tests is not an outgoing socket")]

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use hickory_proto::rr::RecordType;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connecting, Incoming, SendStream, ServerConfig};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use tokio::sync::mpsc;

use super::super::tests::{answer, asked, client, expect_answer};
use super::super::{CONNECT, STALE};
use super::*;
use crate::{Place, Secure, SecureKind, Upstream};
use oneway_tls::TlsSettings;

/// What a server does with its connections, which are numbered from 0.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Right,
    /// Wants to see first that the client is where it says (RFC 9000, 8.1.2).
    Retries,
    /// Answers one question on each connection, then closes it.
    Once,
    /// Says nothing more on the first connection after its first answer.
    Forgetful,
    /// Answers with a number.
    Numbered,
    /// Ends its streams too soon.
    Short,
}

/// What a server has seen.
#[derive(Debug, PartialEq)]
enum Seen {
    /// It was given up, with this code.
    Closed(u64),
    /// An answer was no longer wanted, with this code.
    Stopped(u64),
}

struct Server {
    upstream: Upstream,
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: mpsc::UnboundedReceiver<Seen>,
    _folder: tempfile::TempDir,
}

fn server(manner: Manner, name: &str) -> Server {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = quinn::rustls::crypto::ring::default_provider();
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"doq".to_vec()];
    let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = endpoint.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let (say, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let Some(connecting) = begin(incoming, manner) else { continue };
            tokio::spawn(serve(connecting, manner, Arc::clone(&count), say.clone()));
        }
    });
    let settings = TlsSettings { ca: Some(ca), ..TlsSettings::default() };
    let secure = Secure::new(Place::Addr(addr), SecureKind::Quic, settings);
    Server { upstream: Upstream::Secure(Arc::new(secure)), addr, connections, seen, _folder: folder }
}

fn begin(incoming: Incoming, manner: Manner) -> Option<Connecting> {
    if manner == Manner::Retries && !incoming.remote_address_validated() {
        incoming.retry().unwrap();
        return None;
    }
    Some(incoming.accept().unwrap())
}

async fn serve(
    connecting: Connecting,
    manner: Manner,
    count: Arc<AtomicUsize>,
    say: mpsc::UnboundedSender<Seen>,
) {
    let Ok(connection) = connecting.await else { return };
    let number = count.fetch_add(1, Relaxed);
    let mut asked = 0;
    loop {
        let (send, mut receive) = match connection.accept_bi().await {
            Ok(stream) => stream,
            Err(ConnectionError::ApplicationClosed(close)) => {
                let _ = say.send(Seen::Closed(close.error_code.into_inner()));
                return;
            }
            Err(_) => return,
        };
        // To its end, which has to be said.
        let question = receive.read_to_end(MOST).await.unwrap();
        assert_eq!(question[..2], (question.len() as u16 - 2).to_be_bytes());
        assert_eq!(question[2..4], [0, 0], "a number");
        asked += 1;
        if manner == Manner::Forgetful && number == 0 && asked > 1 {
            std::mem::forget((send, receive));
            continue;
        }
        let replying = tokio::spawn(reply(send, question, manner, say.clone()));
        if manner == Manner::Once {
            replying.await.unwrap();
            return connection.close(NO_ERROR, b"");
        }
    }
}

async fn reply(mut send: SendStream, question: Vec<u8>, manner: Manner, say: mpsc::UnboundedSender<Seen>) {
    if question.windows(5).any(|part| part == b"\x04hold") {
        let code = send.stopped().await.unwrap().unwrap();
        let _ = say.send(Seen::Stopped(code.into_inner()));
        return;
    }
    let mut answer = answer(&question[2..]);
    let len = (answer.len() as u16).to_be_bytes();
    match manner {
        Manner::Numbered => answer[1] = 1,
        Manner::Short => answer.truncate(20),
        _ => {}
    }
    let _ = send.write_all(&[&len[..], &answer].concat()).await;
    let _ = send.finish();
    let _ = send.stopped().await;
}

#[tokio::test]
async fn many_questions_share_one_connection() {
    for manner in [Manner::Right, Manner::Retries] {
        let mut server = server(manner, "127.0.0.1");
        let client = client(vec![server.upstream.clone()]);
        expect_answer(&client, "first.example.").await;
        // One that waits for its answer holds no other up.
        let names: Vec<String> = (0..200).map(|n| format!("n{n}.example.")).collect();
        let others = async {
            for name in &names {
                expect_answer(&client, name).await;
            }
        };
        let held = asked("hold.example.", RecordType::A);
        tokio::select! {
            biased;
            _ = client.ask(&held, None) => panic!("an answer that was never sent"),
            () = others => {}
        }
        assert_eq!(server.connections.load(Relaxed), 1);
        let large = client.ask(&asked("large.example.", RecordType::TXT), None).await;
        assert!(large.to_vec().unwrap().len() > 51_000);
        // The server learns that nobody waits for that answer any more.
        assert_eq!(server.seen.recv().await, Some(Seen::Stopped(3)));
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_or_forgotten_is_made_again() {
    for manner in [Manner::Once, Manner::Forgetful] {
        let server = server(manner, "127.0.0.1");
        let client = client(vec![server.upstream.clone()]);
        expect_answer(&client, "a.example.").await;
        let begin = Instant::now();
        expect_answer(&client, "b.example.").await;
        assert!(begin.elapsed() < STALE * 2, "{:?}", begin.elapsed());
        assert_eq!(server.connections.load(Relaxed), 2);
    }
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection() {
    for manner in [Manner::Numbered, Manner::Short] {
        let mut server = server(manner, "127.0.0.1");
        let client = client(vec![server.upstream.clone()]);
        let message = client.ask(&asked("a.example.", RecordType::A), None).await;
        assert!(message.answers.is_empty());
        assert_eq!(server.seen.recv().await, Some(Seen::Closed(2)));
    }
}

#[tokio::test]
async fn who_is_not_trusted_is_not_asked() {
    let other = server(Manner::Right, "192.0.2.1");
    let right = server(Manner::Right, "127.0.0.1");
    let both = client(vec![other.upstream.clone(), right.upstream.clone()]);
    expect_answer(&both, "a.example.").await;
    assert_eq!((other.connections.load(Relaxed), right.connections.load(Relaxed)), (0, 1));
}

/// What ICMP says of the first packet ends the attempt.
#[tokio::test]
async fn where_nobody_listens_nobody_is_waited_for() {
    let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let place = Place::Addr(gone.local_addr().unwrap());
    drop(gone);
    let settings = TlsSettings { skip_verify: true, ..TlsSettings::default() };
    let nobody = Upstream::Secure(Arc::new(Secure::new(place, SecureKind::Quic, settings)));
    let client = client(vec![nobody]);
    let begin = Instant::now();
    let message = client.ask(&asked("a.example.", RecordType::A), None).await;
    assert!(message.answers.is_empty());
    assert!(begin.elapsed() < CONNECT / 10, "{:?}", begin.elapsed());
}

/// No datagram is shorter than QUIC's least, however short the name (RFC 9250, 5.4).
#[tokio::test]
async fn the_length_of_a_name_is_not_seen() {
    let server = server(Manner::Right, "127.0.0.1");
    let relay = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let Upstream::Secure(secure) = &server.upstream else { unreachable!() };
    let settings = secure.settings.clone();
    let place = Place::Addr(relay.local_addr().unwrap());
    let behind = Upstream::Secure(Arc::new(Secure::new(place, SecureKind::Quic, settings)));
    let (say, mut lengths) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        let mut client = None;
        loop {
            let (len, from) = relay.recv_from(&mut buffer).await.unwrap();
            let to = if from == server.addr {
                client.unwrap()
            } else {
                // Those with a short header carry questions (RFC 9000, 17.3).
                if buffer[0] & 0x80 == 0 {
                    let _ = say.send(len);
                }
                client = Some(from);
                server.addr
            };
            relay.send_to(&buffer[..len], to).await.unwrap();
        }
    });
    let client = client(vec![behind]);
    let mut seen = Vec::new();
    for name in ["a.example.", "a-name-of-many-more-letters-than-the-other-one.example."] {
        while lengths.try_recv().is_ok() {}
        expect_answer(&client, name).await;
        let mut of_this = Vec::new();
        while let Ok(len) = lengths.try_recv() {
            of_this.push(len);
        }
        seen.push(of_this.into_iter().max().unwrap());
    }
    assert!(seen[0] >= 1200 && seen[0] == seen[1], "{seen:?}");
}
