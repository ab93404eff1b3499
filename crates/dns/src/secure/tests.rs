//! Against servers on loopback that speak TLS.

#![allow(clippy::disallowed_methods, reason = "the servers of these tests are not outgoing sockets")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{RData, Record};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{Client, ClientConfig, Patterns};

/// What a server does with its connections, which are numbered from 0.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Answers, the later question first where two come at once.
    Backwards,
    /// Answers one question on each connection, then closes it.
    Once,
    /// Answers one question on the first connection, then nothing more on it.
    Forgetful,
    /// HTTP/2.
    Http,
    /// HTTP/2, with another status.
    HttpError,
    /// HTTP/2, with a head that goes on and on.
    HttpHead,
}

struct Server {
    addr: SocketAddr,
    settings: TlsSettings,
    connections: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

fn certificate(names: &[&str], word: &str) -> (TlsAcceptor, tempfile::TempDir, PathBuf) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(oneway_tls::provider().unwrap())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![word.as_bytes().to_vec()];
    (TlsAcceptor::from(Arc::new(config)), folder, path)
}

pub(super) fn answer(bytes: &[u8]) -> Vec<u8> {
    let query = Message::from_vec(bytes).unwrap();
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.add_queries(query.queries.iter().cloned());
    let name = query.queries[0].name().clone();
    let data = match query.queries[0].query_type() {
        RecordType::TXT => RData::TXT(TXT::new((0..200).map(|_| "x".repeat(255)).collect())),
        RecordType::A => RData::A(A::new(127, 0, 0, 1)),
        _ => return message.to_vec().unwrap(),
    };
    message.add_answer(Record::from_rdata(name, 60, data));
    message.to_vec().unwrap()
}

async fn server(manner: Manner, names: &[&str]) -> Server {
    let is_http = matches!(manner, Manner::Http | Manner::HttpError | Manner::HttpHead);
    let (acceptor, folder, ca) = certificate(names, if is_http { "h2" } else { "dot" });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let number = count.fetch_add(1, Relaxed);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let _ = match manner {
                    Manner::Http | Manner::HttpError | Manner::HttpHead => speak_http(stream, manner).await,
                    _ => speak(stream, manner, number).await,
                };
            });
        }
    });
    Server {
        addr,
        settings: TlsSettings { ca: Some(ca), ..TlsSettings::default() },
        connections,
        _folder: folder,
    }
}

async fn speak(
    mut stream: tokio_rustls::server::TlsStream<TcpStream>,
    manner: Manner,
    number: usize,
) -> io::Result<()> {
    let mut held: Option<Vec<u8>> = None;
    let mut asked = 0;
    loop {
        let len = stream.read_u16().await?;
        let mut bytes = vec![0; len.into()];
        stream.read_exact(&mut bytes).await?;
        asked += 1;
        let mut answers = vec![answer(&bytes)];
        match manner {
            Manner::Forgetful if number == 0 && asked > 1 => continue,
            // `hold.` waits for the next one.
            Manner::Backwards if bytes.windows(5).any(|part| part == b"\x04hold") => {
                held = answers.pop();
                continue;
            }
            Manner::Backwards => answers.extend(held.take()),
            _ => {}
        }
        for answer in answers {
            stream.write_u16(answer.len() as u16).await?;
            stream.write_all(&answer).await?;
        }
        stream.flush().await?;
        if manner == Manner::Once {
            return stream.shutdown().await;
        }
    }
}

async fn speak_http(stream: tokio_rustls::server::TlsStream<TcpStream>, manner: Manner) -> io::Result<()> {
    let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request.map_err(io::Error::other)?;
        tokio::spawn(async move {
            assert_eq!(request.method(), http::Method::POST);
            assert_eq!(request.uri().path(), "/dns-query");
            assert_eq!(request.headers()["content-type"], "application/dns-message");
            let mut body = request.into_body();
            let mut query = Vec::new();
            while let Some(part) = body.data().await {
                query.extend_from_slice(&part.unwrap());
            }
            assert_eq!(query[..2], [0, 0], "RFC 8484, 4.1");
            let status = if manner == Manner::HttpError { 503 } else { 200 };
            let padding = if manner == Manner::HttpHead { 8 } else { 0 };
            let mut response = http::Response::builder().status(status);
            for n in 0..padding {
                response = response.header(format!("x-padding-{n}"), "x".repeat(4096));
            }
            let response = response.header("content-type", "application/dns-message").body(()).unwrap();
            let mut send = respond.send_response(response, false).unwrap();
            // Whoever asks may have had enough of it.
            let _ = send.send_data(Bytes::from(answer(&query)), true);
        });
    }
    Ok(())
}

fn secure(server: &Server, kind: SecureKind) -> Upstream {
    Upstream::Secure(Arc::new(Secure::new(Place::Addr(server.addr), kind, server.settings.clone())))
}

fn https() -> SecureKind {
    SecureKind::Https { path: "/dns-query".to_owned() }
}

pub(super) fn client(upstreams: Vec<Upstream>) -> Arc<Client> {
    let egress = Arc::new(Egress::unprotected_for_loopback_tests());
    Arc::new(Client::new(
        egress,
        ClientConfig { upstreams, original_first: false, ..ClientConfig::default() },
    ))
}

pub(super) fn asked(name: &str, kind: RecordType) -> Asked {
    Asked::own(Name::from_ascii(name).unwrap(), kind)
}

pub(super) async fn expect_answer(client: &Arc<Client>, name: &str) {
    let message = client.ask(&asked(name, RecordType::A), None).await;
    assert_eq!(message.answers.len(), 1, "{name}: {}", message.metadata.response_code);
}

#[tokio::test]
async fn many_questions_share_one_connection_and_are_answered_in_any_order() {
    for (manner, kind) in [(Manner::Backwards, SecureKind::Tls), (Manner::Http, https())] {
        let server = server(manner, &["127.0.0.1"]).await;
        let client = client(vec![secure(&server, kind)]);
        expect_answer(&client, "first.example.").await;
        let held = expect_answer(&client, "hold.example.");
        let names: Vec<String> = (0..40).map(|n| format!("n{n}.example.")).collect();
        let others = async {
            for name in &names {
                expect_answer(&client, name).await;
            }
        };
        tokio::join!(held, others);
        assert_eq!(server.connections.load(Relaxed), 1);
        let large = client.ask(&asked("large.example.", RecordType::TXT), None).await;
        assert!(large.to_vec().unwrap().len() > 51_000);
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_or_forgotten_is_made_again() {
    for manner in [Manner::Once, Manner::Forgetful] {
        let server = server(manner, &["127.0.0.1"]).await;
        let client = client(vec![secure(&server, SecureKind::Tls)]);
        expect_answer(&client, "a.example.").await;
        let begin = Instant::now();
        expect_answer(&client, "b.example.").await;
        assert!(begin.elapsed() < STALE * 2, "{:?}", begin.elapsed());
        assert_eq!(server.connections.load(Relaxed), 2);
    }
}

#[tokio::test]
async fn who_is_not_trusted_is_not_asked() {
    let other = server(Manner::Backwards, &["192.0.2.1"]).await;
    let client_of_other = client(vec![secure(&other, SecureKind::Tls)]);
    let message = client_of_other.ask(&asked("a.example.", RecordType::A), None).await;
    assert!(message.answers.is_empty());
    // Another one is, at once.
    let right = server(Manner::Http, &["127.0.0.1"]).await;
    let both = client(vec![secure(&other, SecureKind::Tls), secure(&right, https())]);
    expect_answer(&both, "a.example.").await;
}

#[tokio::test]
async fn an_error_of_http_is_no_answer() {
    let server = server(Manner::HttpError, &["127.0.0.1"]).await;
    let client = client(vec![secure(&server, https())]);
    let message = client.ask(&asked("a.example.", RecordType::A), None).await;
    assert!(message.answers.is_empty());
    assert_eq!(client.counters().failed, 1);
}

#[tokio::test]
async fn a_head_without_measure_is_no_answer() {
    let server = server(Manner::HttpHead, &["127.0.0.1"]).await;
    let client = client(vec![secure(&server, https())]);
    let message = client.ask(&asked("a.example.", RecordType::A), None).await;
    assert!(message.answers.is_empty());
    assert_eq!(client.counters().failed, 1);
}

#[tokio::test]
async fn a_server_given_by_name_is_found_by_one_given_by_address() {
    let bootstrap = server(Manner::Backwards, &["127.0.0.1"]).await;
    let named = server(Manner::Http, &["dns.example"]).await;
    let place = Place::Name("dns.example".into(), named.addr.port());
    let upstream = Upstream::Secure(Arc::new(Secure::new(place, https(), named.settings.clone())));
    let client = client(vec![upstream, secure(&bootstrap, SecureKind::Tls)]);
    expect_answer(&client, "a.example.").await;
    expect_answer(&client, "b.example.").await;
    assert_eq!((named.connections.load(Relaxed), bootstrap.connections.load(Relaxed)), (1, 1));
}

#[tokio::test]
async fn a_server_given_by_name_is_found_by_those_that_are_asked_for_its_name() {
    let bootstrap = server(Manner::Backwards, &["127.0.0.1"]).await;
    let named = server(Manner::Http, &["dns.example"]).await;
    let place = Place::Name("dns.example".into(), named.addr.port());
    let upstream = Upstream::Secure(Arc::new(Secure::new(place, https(), named.settings.clone())));
    let by_domain = (Patterns::new(["dns.example"]).unwrap(), vec![secure(&bootstrap, SecureKind::Tls)]);
    let config =
        ClientConfig { upstreams: vec![upstream], by_domain: vec![by_domain], ..ClientConfig::default() };
    let client = Arc::new(Client::new(Arc::new(Egress::unprotected_for_loopback_tests()), config));
    expect_answer(&client, "a.example.").await;
    assert_eq!((named.connections.load(Relaxed), bootstrap.connections.load(Relaxed)), (1, 1));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_overtaken() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = Server {
        addr: listener.local_addr().unwrap(),
        settings: server(Manner::Once, &["127.0.0.1"]).await.settings,
        connections: Arc::default(),
        _folder: tempfile::tempdir().unwrap(),
    };
    let careless = TlsSettings { ca: None, skip_verify: true, ..silent.settings.clone() };
    let place = Place::Addr(silent.addr);
    let first = Upstream::Secure(Arc::new(Secure::new(place, SecureKind::Tls, careless)));
    let right = server(Manner::Http, &["127.0.0.1"]).await;
    let client = client(vec![first, secure(&right, https())]);
    let begin = Instant::now();
    expect_answer(&client, "a.example.").await;
    assert!(begin.elapsed() < CONNECT / 2, "{:?}", begin.elapsed());
}

/// However many ask, and give up.
#[tokio::test]
async fn a_server_that_says_nothing_is_connected_to_once_at_a_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let careless = TlsSettings { skip_verify: true, ..TlsSettings::default() };
    let place = Place::Addr(listener.local_addr().unwrap());
    let silent = Arc::new(Secure::new(place, SecureKind::Tls, careless));
    let egress = Arc::new(Egress::unprotected_for_loopback_tests());
    let query = asked("a.example.", RecordType::A).outgoing();
    let (bytes, dropped) = (query.to_vec().unwrap(), Dropped::default());
    let others: Arc<[Upstream]> = Arc::from([]);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..50 {
        let answer = silent.ask(&egress, &others, &query, &bytes, &dropped);
        assert!(timeout(Duration::from_millis(1), answer).await.is_err());
    }
    assert_eq!(tasks(), before + 1);
}
