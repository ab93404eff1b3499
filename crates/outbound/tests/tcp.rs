//! TCP through each outbound, against servers on loopback.
#![allow(clippy::disallowed_methods, reason = "the servers of the test are not ours to protect")]
#![allow(clippy::unwrap_used, reason = "what fails ends the test")]

mod server;

use std::io::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use oneway_egress::EgressError;
use oneway_flow::Target;
use oneway_outbound::{Answer, Backlog, Connected, DialError, Outbound, ProxyFault, Timeouts};
use server::{
    Options, Socks5Server, V4, V6, closed_port, egress, http_proxy, outbound, outbound_within, reply, script,
    short, tcp_echo, unhurried, until,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn echoes(connected: Connected) {
    let mut stream = connected.stream;
    assert!(connected.early.is_empty());
    assert!(stream.nodelay().unwrap());
    stream.write_all(b"to and fro").await.unwrap();
    let mut back = [0; 10];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"to and fro");
}

async fn fails(outbound: &Outbound, dst: SocketAddr) -> (Answer, String) {
    let error = outbound.connect(&egress(), &dst.into()).await.unwrap_err();
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains("secret"), "{text}");
    if let Some(proxy) = outbound.proxy() {
        assert!(text.contains(&**proxy.label()), "{text}");
    }
    (error.answer(), text)
}

#[tokio::test]
async fn direct_connects_and_tells_the_truth() {
    let origin = tcp_echo(V4).await;
    echoes(Outbound::Direct.connect(&egress(), &origin.into()).await.unwrap()).await;
    let mapped = format!("[::ffff:127.0.0.1]:{}", origin.port()).parse::<SocketAddr>().unwrap();
    echoes(Outbound::Direct.connect(&egress(), &mapped.into()).await.unwrap()).await;
    assert_eq!(fails(&Outbound::Direct, closed_port().await).await.0, Answer::Rst);
    assert_eq!(fails(&Outbound::Direct, "0.0.0.0:80".parse().unwrap()).await.0, Answer::Rst);
    assert_eq!(fails(&Outbound::Direct, "224.0.0.1:80".parse().unwrap()).await.0, Answer::Rst);
    assert_eq!(fails(&Outbound::Block, origin).await.0, Answer::Rst);
}

#[test]
fn kernel_errors_become_answers() {
    use std::io::{Error, ErrorKind};
    for (kind, answer) in [
        (ErrorKind::ConnectionRefused, Answer::Rst),
        (ErrorKind::NetworkUnreachable, Answer::IcmpNet),
        (ErrorKind::HostUnreachable, Answer::IcmpHost),
        (ErrorKind::PermissionDenied, Answer::IcmpAdmin),
        (ErrorKind::TimedOut, Answer::Silent),
    ] {
        let error = DialError::Direct { dst: V4, source: EgressError::Connect(Error::from(kind)) };
        assert_eq!(error.answer(), answer);
    }
}

#[tokio::test]
async fn socks5_connects_by_address_and_name_with_and_without_login() {
    for login in [None, Some(("me", "secret"))] {
        for at in [V4, V6] {
            let server = Socks5Server::start(at, Options { login, ..Options::default() }).await;
            let proxy = outbound(&server.url());
            for origin in [tcp_echo(V4).await, tcp_echo(V6).await] {
                echoes(proxy.connect(&egress(), &origin.into()).await.unwrap()).await;
            }
            let origin = tcp_echo(V4).await;
            // The address is a lie, as a fake one is; the name counts.
            let addr = SocketAddr::new([198, 18, 0, 1].into(), origin.port());
            let named = Target { addr, host: Some("127.0.0.1".into()) };
            echoes(proxy.connect(&egress(), &named).await.unwrap()).await;
        }
    }
}

#[tokio::test]
async fn socks5_failures_name_the_proxy_and_answer_truly() {
    let server =
        Socks5Server::start(V4, Options { login: Some(("me", "secret")), ..Options::default() }).await;
    let good = outbound(&server.url());
    assert_eq!(fails(&good, closed_port().await).await.0, Answer::Rst);
    let origin = tcp_echo(V4).await;
    let wrong = outbound(&format!("socks5://me:secret2@{}", server.addr));
    assert!(fails(&wrong, origin).await.1.contains("refused the user or the password"));
    let none = outbound(&format!("socks5://{}", server.addr));
    assert!(fails(&none, origin).await.1.contains("wants a user and a password"));
    let error = good
        .connect(&egress(), &Target { addr: origin, host: Some("does not exist".into()) })
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::Proxy { fault: ProxyFault::Unspeakable(_), .. }), "{error}");

    for (code, answer) in
        [(2, Answer::IcmpAdmin), (3, Answer::IcmpNet), (4, Answer::IcmpHost), (6, Answer::Silent)]
    {
        let at = script(vec![(3, vec![5, 0]), (10, reply(code, V4))]).await;
        assert_eq!(fails(&outbound(&format!("socks5://{at}")), origin).await.0, answer);
    }
}

#[tokio::test]
async fn proxies_that_are_down_or_something_else_are_refused_at_once() {
    let origin = tcp_echo(V4).await;
    let begin = Instant::now();
    let down = closed_port().await;
    let babbler = script(vec![(1, b"SSH-2.0-OpenSSH_9.9\r\n".to_vec())]).await;
    let closer = {
        let listener = TcpListener::bind(V4).await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        addr
    };
    for scheme in ["socks5", "socks4", "socks4a", "http"] {
        for at in [down, babbler, closer] {
            assert_eq!(
                fails(&outbound(&format!("{scheme}://{at}")), origin).await.0,
                Answer::Rst,
                "{scheme}"
            );
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn silence_is_the_proxys_before_the_request_and_the_destinations_after() {
    let origin = tcp_echo(V4).await;
    let mute = script(vec![]).await;
    let hangs = script(vec![(3, vec![5, 0])]).await;
    let (answer, text) = fails(&outbound_within(&format!("socks5://{mute}"), short()), origin).await;
    assert_eq!(answer, Answer::Rst, "{text}");
    let (answer, text) = fails(&outbound_within(&format!("socks5://{hangs}"), short()), origin).await;
    assert_eq!(answer, Answer::Silent, "{text}");
    let (answer, text) = fails(&outbound_within(&format!("http://{mute}"), short()), origin).await;
    assert_eq!(answer, Answer::Silent, "{text}");
}

#[tokio::test]
async fn early_bytes_are_neither_lost_nor_doubled() {
    let banner = b"SSH-2.0-early\r\n";
    let socks5 = script(vec![(3, vec![5, 0]), (10, [&reply(0, V4)[..], banner].concat())]).await;
    let socks4 = script(vec![(9, [&[0, 90, 0, 0, 0, 0, 0, 0][..], banner].concat())]).await;
    let http = script(vec![(20, [&b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n"[..], banner].concat())]).await;
    let dst: SocketAddr = "192.0.2.7:22".parse().unwrap();
    for url in [format!("socks5://{socks5}"), format!("socks4://{socks4}"), format!("http://{http}")] {
        let mut connected = outbound(&url).connect(&egress(), &dst.into()).await.unwrap();
        let mut read = connected.early;
        while read.len() < banner.len() {
            assert_ne!(connected.stream.read_buf(&mut read).await.unwrap(), 0);
        }
        assert_eq!(read, banner, "{url}");
    }
}

#[tokio::test]
async fn http_connects_and_tells_the_truth() {
    let proxy = outbound(&format!("http://{}", http_proxy().await));
    for origin in [tcp_echo(V4).await, tcp_echo(V6).await] {
        echoes(proxy.connect(&egress(), &origin.into()).await.unwrap()).await;
    }
    let named = Target { addr: tcp_echo(V4).await, host: Some("localhost".into()) };
    echoes(proxy.connect(&egress(), &named).await.unwrap()).await;
    assert_eq!(fails(&proxy, closed_port().await).await.0, Answer::Rst);
    let teapot = script(vec![(20, b"HTTP/1.1 403 No\r\n\r\n".to_vec())]).await;
    assert_eq!(fails(&outbound(&format!("http://{teapot}")), closed_port().await).await.0, Answer::IcmpAdmin);
}

#[tokio::test]
async fn socks4_cannot_say_ipv6() {
    let (answer, _) = fails(&outbound("socks4a://127.0.0.1:1"), "[2001:db8::1]:80".parse().unwrap()).await;
    assert_eq!(answer, Answer::IcmpNet);
}

#[tokio::test]
async fn a_dead_address_of_the_proxy_does_not_stop_the_others() {
    let server = Socks5Server::start(V4, Options::default()).await;
    let origin = tcp_echo(V4).await;
    let proxy = outbound("socks5://proxy.invalid:1");
    let error = proxy.connect(&egress(), &origin.into()).await.unwrap_err();
    assert!(matches!(error, DialError::Resolve { .. }), "{error}");
    assert_eq!(error.answer(), Answer::Rst);
    // A guarded one, a closed one, the good one.
    let addrs = vec!["0.0.0.0:1".parse().unwrap(), closed_port().await, server.addr];
    proxy.proxy().unwrap().set_addrs(addrs);
    for _ in 0..2 {
        echoes(proxy.connect(&egress(), &origin.into()).await.unwrap()).await;
    }
    let egress = egress();
    echoes(proxy.connect(&egress, &origin.into()).await.unwrap()).await;
    assert_eq!(egress.counters().made, 1, "the address that worked was not tried first");

    let local = outbound(&format!("socks5://localhost:{}", server.addr.port()));
    assert!(local.resolve().await.unwrap().contains(&server.addr));
    echoes(local.connect(&egress, &origin.into()).await.unwrap()).await;
}

/// A SOCKS5 proxy that connects to nobody and echoes, and reads each of a client's messages with one call.
struct ByCalls {
    addr: SocketAddr,
    /// Forgets what came together with a greeting.
    forgetful: Arc<AtomicBool>,
    /// Connections on which something did.
    pipelined: Arc<AtomicUsize>,
}

impl ByCalls {
    async fn start(forgetful: bool) -> Self {
        let listener = TcpListener::bind(V4).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (forgetful, pipelined) = (Arc::new(AtomicBool::new(forgetful)), Arc::new(AtomicUsize::new(0)));
        let (forgets, count) = (Arc::clone(&forgetful), Arc::clone(&pipelined));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream, Arc::clone(&forgets), Arc::clone(&count)));
            }
        });
        Self { addr, forgetful, pipelined }
    }

    async fn serve(
        mut stream: TcpStream,
        forgets: Arc<AtomicBool>,
        pipelined: Arc<AtomicUsize>,
    ) -> Result<()> {
        let mut buffer = [0; 512];
        let together = stream.read(&mut buffer).await? > 3;
        pipelined.fetch_add(usize::from(together), SeqCst);
        stream.write_all(&[5, 0]).await?;
        if !together || forgets.load(SeqCst) {
            assert_ne!(stream.read(&mut buffer).await?, 0);
        }
        stream.write_all(&reply(0, V4)).await?;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.map(drop)
    }

    fn pipelined(&self) -> usize {
        self.pipelined.load(SeqCst)
    }
}

#[tokio::test]
async fn socks5_request_goes_with_the_greeting_once_that_is_known_to_work() {
    let server = ByCalls::start(false).await;
    let proxy = outbound(&format!("socks5://{}", server.addr));
    let dst: SocketAddr = "192.0.2.7:22".parse().unwrap();
    for _ in 0..64 {
        echoes(proxy.connect(&egress(), &dst.into()).await.unwrap()).await;
    }
    assert_eq!(server.pipelined(), 0, "for a few connections it is not worth a trial");
    echoes(proxy.connect(&egress(), &dst.into()).await.unwrap()).await;
    until("the trial", || server.pipelined() == 1).await;
    while server.pipelined() < 2 {
        echoes(proxy.connect(&egress(), &dst.into()).await.unwrap()).await;
    }
    let before = server.pipelined();
    echoes(proxy.connect(&egress(), &dst.into()).await.unwrap()).await;
    assert_eq!(server.pipelined(), before + 1);
    // Another server has to show it anew.
    proxy.proxy().unwrap().set_addrs(vec![server.addr]);
    for _ in 0..=64 {
        echoes(proxy.connect(&egress(), &dst.into()).await.unwrap()).await;
    }
    until("another trial", || server.pipelined() >= before + 2).await;
}

#[tokio::test]
async fn socks5_proxy_that_forgets_a_request_sent_ahead_gets_none() {
    let server = ByCalls::start(true).await;
    let proxy = outbound_within(&format!("socks5://{}", server.addr), unhurried());
    let dst: SocketAddr = "192.0.2.7:22".parse().unwrap();
    let begin = Instant::now();
    let mut connections = 0;
    while begin.elapsed() < 2 * unhurried().handshake || connections < 100 {
        echoes(proxy.connect(&egress(), &dst.into()).await.unwrap()).await;
        connections += 1;
    }
    assert_eq!(server.pipelined(), 1, "the trial is all that it gets");
}

#[tokio::test]
async fn socks5_proxy_that_forgets_it_later_is_found_out() {
    let server = ByCalls::start(false).await;
    let proxy = outbound_within(&format!("socks5://{}", server.addr), unhurried());
    let dst: SocketAddr = "192.0.2.7:22".parse().unwrap();
    while server.pipelined() < 2 {
        echoes(proxy.connect(&egress(), &dst.into()).await.unwrap()).await;
    }
    server.forgetful.store(true, SeqCst);
    let error = proxy.connect(&egress(), &dst.into()).await.unwrap_err();
    assert!(matches!(error, DialError::HandshakeTimeout { .. }), "{error}");
    echoes(proxy.connect(&egress(), &dst.into()).await.unwrap()).await;
}

#[tokio::test]
async fn hanging_dials_delay_nobody() {
    let hangs = script(vec![(3, vec![5, 0])]).await;
    let server = Socks5Server::start(V4, Options::default()).await;
    let (stuck, good) = (outbound(&format!("socks5://{hangs}")), outbound(&server.url()));
    let origin = tcp_echo(V4).await;
    let dials: Vec<_> = (0..300)
        .map(|_| {
            let stuck = stuck.clone();
            tokio::spawn(async move { stuck.connect(&egress(), &origin.into()).await.map(drop) })
        })
        .collect();
    let begin = Instant::now();
    echoes(good.connect(&egress(), &origin.into()).await.unwrap()).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    for dial in dials {
        assert!(!dial.is_finished());
        dial.abort();
    }
}

/// The future of a dial lives in every flow's task, which has to stay below 4 KiB in all.
#[test]
fn futures_are_small() {
    let (egress, target) = (egress(), Target::from_addr(V4));
    let proxy = outbound_within("socks5://127.0.0.1:1", Timeouts::default());
    let connect = size_of_val(&proxy.connect(&egress, &target));
    let backlog = Arc::new(Backlog::new(0));
    let udp = size_of_val(&proxy.udp(&egress, oneway_route::Family::V4, &backlog));
    println!("connect {connect}, udp {udp}");
    assert!(connect < 1024, "{connect}");
    assert!(udp < 1024, "{udp}");
}
