//! Resolvers that are asked by TLS and by HTTPS.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use oneway_lab::client::{Outcome, RecordType};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::topology::{Simple, address, name, port};
use oneway_lab::{NetNs, Oneway, Topology};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::common::{SECOND, TUN, address_of, ask, expect_reachable, program, status, upstream};
use crate::tls::{Identity, TlsServer};

const DOT: u16 = 853;
const DOH: u16 = 443;

/// DNS over TLS at the lab's DNS server.
fn dot(lab: &Simple, names: &[&str]) -> Result<(Identity, TlsServer), Failed> {
    let identity = Identity::new(names, &["dot"])?;
    let addresses = address::DNS.ports(DOT);
    let server = TlsServer::in_front_of(&lab.net, &addresses, &identity, address::DNS.v4_port(port::DNS))?;
    Ok((identity, server))
}

/// DNS over HTTPS at the spare address.
fn doh(lab: &Simple, names: &[&str]) -> Result<(Identity, TlsServer), Failed> {
    let identity = Identity::new(names, &["h2"])?;
    let server = TlsServer::start(&lab.net, &address::SPARE.ports(DOH), &identity, |stream| {
        http(stream, address::DNS.v4_port(port::DNS))
    })?;
    Ok((identity, server))
}

/// Answers each request with what the server `behind` says.
async fn http(stream: TlsStream<TcpStream>, behind: SocketAddr) -> io::Result<()> {
    let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request.map_err(io::Error::other)?;
        tokio::spawn(async move {
            let is_right = request.method() == "POST" && request.uri().path() == "/dns-query";
            let mut body = request.into_body();
            let mut query = Vec::new();
            while let Some(part) = body.data().await {
                query.extend_from_slice(&part.map_err(io::Error::other)?);
            }
            let answer = forward(&query, behind).await?;
            let response = http::Response::builder()
                .status(if is_right { 200 } else { 404 })
                .header("content-type", "application/dns-message")
                .body(())
                .map_err(io::Error::other)?;
            let mut send = respond.send_response(response, false).map_err(io::Error::other)?;
            send.send_data(Bytes::from(answer), true).map_err(io::Error::other)
        });
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "the server of the test is another program")]
pub async fn forward(query: &[u8], behind: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(behind).await?;
    stream.write_u16(u16::try_from(query.len()).map_err(io::Error::other)?).await?;
    stream.write_all(query).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// `oneway run` with a configuration beside the authority of the servers.
pub fn configured(host: &NetNs, folder: &Path, dns: &str) -> Result<Oneway, Failed> {
    let file = folder.join("oneway.toml");
    std::fs::write(&file, format!("[dns]\nca = \"ca.pem\"\n{dns}\n"))?;
    Ok(program(host, &["-c", file.to_str().ok_or("the folder's name is no text")?]).start()?)
}

pub fn names_are_asked_by_tls_on_one_connection() -> TestResult {
    let lab = Topology::simple()?;
    let (identity, server) = dot(&lab, &[&address::DNS.v4.to_string()])?;
    let _oneway =
        configured(&lab.host, identity.folder(), &format!("upstream = [\"tls://{}\"]", address::DNS.v4))?;
    let uplink = oneway_lab::capture::Recorder::start(&lab.host, Some("up1"))?;
    for (name, kind) in [(name::ORIGIN, RecordType::A), (name::ORIGIN4, RecordType::A)] {
        assert_eq!(address_of(&lab, name, kind)?, std::net::IpAddr::from(address::ORIGIN.v4));
    }
    let whole = ask(&lab, name::LARGE, RecordType::TXT, false, true)?;
    assert!(!whole.truncated && whole.size > 3000, "{} bytes", whole.size);
    expect_reachable(&lab, address::ORIGIN.v4.into())?;
    assert_eq!(server.accepted(), 1);
    let clear = uplink.count(|packet| packet.ports.0 == port::DNS || packet.ports.1 == port::DNS)?;
    assert_eq!(clear, 0, "nothing is asked in the clear");
    Ok(())
}

pub fn names_are_asked_by_https_on_one_connection() -> TestResult {
    let lab = Topology::simple()?;
    let (identity, server) = doh(&lab, &[&address::SPARE.v6.to_string()])?;
    let dns = format!("upstream = [\"https://[{}]/dns-query\"]", address::SPARE.v6);
    let _oneway = configured(&lab.host, identity.folder(), &dns)?;
    for (name, kind) in [(name::ORIGIN, RecordType::A), (name::ORIGIN4, RecordType::A)] {
        assert_eq!(address_of(&lab, name, kind)?, std::net::IpAddr::from(address::ORIGIN.v4));
    }
    let whole = ask(&lab, name::LARGE, RecordType::TXT, false, true)?;
    assert!(!whole.truncated && whole.size > 3000, "{} bytes", whole.size);
    assert_eq!(server.accepted(), 1);
    Ok(())
}

/// The log says once that a server is not trusted, and `status` as long as it is so.
pub fn is_told_of(lab: &Simple, oneway: &Oneway, server: &str) -> TestResult {
    let log = oneway.stderr();
    let said: Vec<_> = log.lines().filter(|line| line.contains("a DNS upstream does not answer")).collect();
    assert!(matches!(said[..], [line] if line.contains(server) && line.contains("certificate")), "{log}");
    let failing = status(&lab.host)?["failing_upstreams"].clone();
    assert_eq!(failing[0]["server"], server);
    assert!(failing[0]["error"].as_str().is_some_and(|why| why.contains("certificate")), "{failing}");
    Ok(())
}

/// Nobody is asked in its place, unless the configuration names somebody.
pub fn an_impostor_is_not_asked() -> TestResult {
    let lab = Topology::simple()?;
    let (identity, server) = dot(&lab, &["other.example"])?;
    let tls = format!("tls://{}", address::DNS.v4);
    {
        let oneway = configured(&lab.host, identity.folder(), &format!("upstream = [\"{tls}\"]"))?;
        for name in [name::ORIGIN, name::ORIGIN4] {
            let answer = ask(&lab, name, RecordType::A, false, false)?;
            assert_eq!((answer.outcome, answer.code.to_string().as_str()), (Outcome::Done, "Server Failure"));
        }
        assert_eq!((lab.dns.asked(name::ORIGIN), server.accepted()), (0, 0));
        is_told_of(&lab, &oneway, &format!("tls://{}", address::DNS.v4_port(DOT)))?;
    }
    {
        let both = format!("upstream = [\"{tls}\", \"{}\"]", upstream());
        let _oneway = configured(&lab.host, identity.folder(), &both)?;
        let answer = ask(&lab, name::ORIGIN, RecordType::A, false, false)?;
        assert_eq!(answer.addresses, [address::ORIGIN.v4]);
        assert!(answer.took < SECOND, "{:?}", answer.took);
    }
    // Its own name, given behind the address.
    let _oneway = configured(&lab.host, identity.folder(), &format!("upstream = [\"{tls}#other.example\"]"))?;
    assert_eq!(address_of(&lab, name::ORIGIN, RecordType::A)?, std::net::IpAddr::from(address::ORIGIN.v4));
    assert_eq!(server.accepted(), 1);
    Ok(())
}

/// The resolver's name is found by protected sockets, and never by way of the capture (S4).
pub fn a_resolver_given_by_name_is_found_outside_the_capture() -> TestResult {
    const NAME: &str = "resolver.example";
    let lab = Topology::simple()?;
    lab.dns.set_zone(lab.dns.zone().a(NAME, address::SPARE.v4));
    let (identity, server) = doh(&lab, &[NAME])?;
    let dns = format!("mode = \"fake-ip\"\nupstream = [\"https://{NAME}/dns-query\", \"{}\"]", upstream());
    let _oneway = configured(&lab.host, identity.folder(), &dns)?;
    let tun = oneway_lab::capture::Recorder::start(&lab.host, Some(TUN))?;
    // Here it is ourselves who want to know where the name is.
    expect_reachable(&lab, address_of(&lab, name::ORIGIN, RecordType::A)?)?;
    assert_eq!(server.accepted(), 1);
    assert_eq!(lab.dns.asked(NAME), 2, "for each family");
    let entered = tun.count(|packet| packet.ports.1 == port::DNS)?;
    assert_eq!(entered, 1, "only the program's own query entered the TUN");
    Ok(())
}

/// A server that is restarted is asked again on a new connection, and one that is gone is passed over.
pub fn a_lost_connection_is_made_again() -> TestResult {
    let lab = Topology::simple()?;
    let (identity, server) = dot(&lab, &[&address::DNS.v4.to_string()])?;
    let tls = format!("tls://{}", address::DNS.v4);
    let dns = format!("upstream = [\"{tls}\", \"{}\"]", upstream());
    let _oneway = configured(&lab.host, identity.folder(), &dns)?;
    assert_eq!(address_of(&lab, name::ORIGIN, RecordType::A)?, std::net::IpAddr::from(address::ORIGIN.v4));
    drop(server);
    let answer = ask(&lab, name::ORIGIN4, RecordType::A, false, false)?;
    assert_eq!(answer.addresses, [address::ORIGIN.v4]);
    assert!(answer.took < 2 * SECOND, "{:?}", answer.took);
    Ok(())
}
