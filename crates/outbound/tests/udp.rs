//! Datagrams, directly and by a SOCKS5 relay, against servers on loopback.
#![allow(clippy::disallowed_methods, reason = "the servers of the test are not ours to protect")]
#![allow(clippy::unwrap_used, reason = "what fails ends the test")]

mod server;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use oneway_egress::{IcmpErrorEvent, IcmpErrorKind, RecvBatch};
use oneway_flow::{Network, Target};
use oneway_outbound::{Answer, Backlog, Outbound, PROXY_HEADER_MAX, UdpPath};
use oneway_route::Family;
use server::{Options, Socks5Server, V4, V6, closed_port, egress, outbound, reply, udp_echo, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);

/// Room enough.
fn backlog() -> Arc<Backlog> {
    Arc::new(Backlog::new(1 << 20))
}

/// What is there already, at most `most` datagrams.
fn waiting(path: &UdpPath, most: usize) -> std::io::Result<Vec<(Vec<u8>, SocketAddr)>> {
    let mut batch = RecvBatch::new(most, 78, 65_535 + PROXY_HEADER_MAX);
    let mut taken = Vec::new();
    path.try_recv(&mut batch, |slot, payload, _, from| taken.push((slot[payload].to_vec(), from)))?;
    Ok(taken)
}

/// Sends a datagram, now or when there is a relay again.
fn send(path: &UdpPath, payload: &[u8], dst: &Target) -> std::io::Result<()> {
    match path.try_send_to(payload, dst) {
        Err(error) if error.kind() == ErrorKind::NotConnected => path.keep(payload, dst, Box::new(|_| {})),
        done => done,
    }
}

/// Waits for the next datagram; there is one.
async fn recv(path: &UdpPath) -> (Vec<u8>, SocketAddr) {
    loop {
        if !path.ready().await.unwrap().datagrams {
            // An error, which is for somebody else.
            tokio::task::yield_now().await;
            continue;
        }
        match waiting(path, 1) {
            Ok(mut taken) => match taken.pop() {
                Some(datagram) => return datagram,
                None => continue,
            },
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

async fn receive(path: &UdpPath) -> (Vec<u8>, SocketAddr) {
    timeout(PATIENCE, recv(path)).await.expect("a datagram")
}

/// Waits for the next ICMP error.
async fn icmp_error(path: &UdpPath) -> IcmpErrorEvent {
    let next = async {
        loop {
            if path.ready().await.unwrap().errors
                && let Some(event) = path.try_icmp_error().unwrap()
            {
                return event;
            }
        }
    };
    timeout(PATIENCE, next).await.expect("an error")
}

async fn echoes(path: &UdpPath, dst: &Target, payload: &[u8]) -> SocketAddr {
    path.try_send_to(payload, dst).unwrap();
    let (back, from) = receive(path).await;
    assert_eq!(back.len(), payload.len());
    assert_eq!(back, payload);
    from
}

async fn socks5(server: &Socks5Server) -> UdpPath {
    outbound(&server.url()).udp(&egress(), Family::V4, &backlog()).await.unwrap()
}

#[tokio::test]
async fn direct_has_one_mapping_for_all_destinations() {
    let path = Outbound::Direct.udp(&egress(), Family::V4, &backlog()).await.unwrap();
    let seen = UdpSocket::bind(V4).await.unwrap();
    for _ in 0..50 {
        let origin = udp_echo(V4).await;
        assert_eq!(echoes(&path, &origin.into(), b"ping").await, origin);
    }
    path.try_send_to(b"who", &seen.local_addr().unwrap().into()).unwrap();
    let mut buf = [0; 9];
    let (_, from) = seen.recv_from(&mut buf).await.unwrap();
    assert_eq!(from.port(), path.local_addr().unwrap().port());
    // A third party that was never sent to.
    UdpSocket::bind(V4).await.unwrap().send_to(b"third", from).await.unwrap();
    assert_eq!(receive(&path).await.0, b"third");

    let path6 = Outbound::Direct.udp(&egress(), Family::V6, &backlog()).await.unwrap();
    let origin6 = udp_echo(V6).await;
    assert_eq!(echoes(&path6, &origin6.into(), &[7; 9000]).await, origin6);
}

#[tokio::test]
async fn direct_tells_which_destination_is_closed_and_goes_on_with_the_others() {
    for (at, family) in [(V4, Family::V4), (V6, Family::V6)] {
        let path = Outbound::Direct.udp(&egress(), family, &backlog()).await.unwrap();
        let origin = udp_echo(at).await;
        let closed = UdpSocket::bind(at).await.unwrap().local_addr().unwrap();
        for round in 0..20u8 {
            path.try_send_to(&[round; 100], &closed.into()).unwrap();
            // Sent with the error of the one before pending on the socket.
            echoes(&path, &origin.into(), &[round; 32]).await;
            let error = icmp_error(&path).await;
            assert_eq!((error.dst, error.kind), (closed, IcmpErrorKind::Port));
            assert_eq!(error.offender, Some(closed.ip()));
            assert_eq!(error.payload_prefix(), [round; 64]);
        }
    }
}

#[tokio::test]
async fn direct_reports_errors_to_one_who_already_waits() {
    let path = Outbound::Direct.udp(&egress(), Family::V4, &backlog()).await.unwrap();
    let closed = UdpSocket::bind(V4).await.unwrap().local_addr().unwrap();
    for _ in 0..3 {
        path.try_send_to(b"x", &closed.into()).unwrap();
        assert_eq!(icmp_error(&path).await.dst, closed);
        assert!(path.try_icmp_error().unwrap().is_none());
    }
}

#[tokio::test]
async fn direct_refuses_guarded_destinations() {
    let egress = egress();
    egress.set_forbidden(vec!["198.18.0.0/15".parse().unwrap()]);
    let path = Outbound::Direct.udp(&egress, Family::V4, &backlog()).await.unwrap();
    for dst in
        ["198.18.0.1:53", "0.0.0.0:53", "224.0.0.251:5353", "255.255.255.255:67", "[::ffff:198.18.0.1]:53"]
    {
        let error = path.try_send_to(b"x", &dst.parse::<SocketAddr>().unwrap().into()).unwrap_err();
        assert_eq!(Answer::to_io(&error).on(Network::Udp), Answer::IcmpPort, "{dst}: {error}");
    }
}

#[tokio::test]
async fn socks5_relays_every_size_and_family() {
    for at in [V4, V6] {
        let server =
            Socks5Server::start(at, Options { login: Some(("me", "secret")), ..Options::default() }).await;
        let path = socks5(&server).await;
        let origin = udp_echo(V4).await;
        for len in [0, 1, 1400, 1472, 9000, 60_000] {
            assert_eq!(echoes(&path, &origin.into(), &vec![3; len]).await, origin);
        }
    }
}

#[tokio::test]
async fn socks5_has_one_mapping_and_true_sources() {
    let server = Socks5Server::start(V4, Options::default()).await;
    let path = socks5(&server).await;
    for _ in 0..50 {
        let origin = udp_echo(V4).await;
        assert_eq!(echoes(&path, &origin.into(), b"ping").await, origin);
    }
    assert_eq!(server.associated.load(SeqCst), 1);
    // A third party, as the relay tells it.
    server.inject.send_replace(b"\0\0\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x09\x00\x35third".to_vec());
    assert_eq!(receive(&path).await, (b"third".to_vec(), "[2001:db8::9]:53".parse().unwrap()));
}

#[tokio::test]
async fn socks5_bound_addresses_that_mean_the_proxy() {
    for bound in ["0.0.0.0", "::", "127.0.0.1"] {
        let bound: IpAddr = bound.parse().unwrap();
        let server = Socks5Server::start(V4, Options { bound: Some(bound), ..Options::default() }).await;
        echoes(&socks5(&server).await, &udp_echo(V4).await.into(), b"ping").await;
    }
}

#[tokio::test]
async fn socks5_names_go_out_and_come_back() {
    let server =
        Socks5Server::start(V4, Options { source_name: Some("example.com"), ..Options::default() }).await;
    let path = socks5(&server).await;
    let origin = udp_echo(V4).await;
    let addr = SocketAddr::new([198, 18, 0, 9].into(), origin.port());
    let named = Target { addr, host: Some("example.com".into()) };
    assert_eq!(echoes(&path, &named, b"ping").await, addr);
    let error = path.try_send_to(b"x", &Target { addr, host: Some("a b".into()) }).unwrap_err();
    assert_eq!(Answer::to_io(&error), Answer::IcmpHost);
    // A name that nothing was sent to is nobody's.
    server.inject.send_replace(b"\0\0\0\x03\x01x\0\x35lost".to_vec());
    until("the count", || {
        match waiting(&path, 1) {
            Ok(taken) => assert_eq!(taken, []),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        path.counters().malformed == 1
    })
    .await;
}

#[tokio::test]
async fn socks5_drops_what_the_relay_did_not_send_and_counts_what_it_should_not_have() {
    let server = Socks5Server::start(V4, Options::default()).await;
    let path = socks5(&server).await;
    let origin = udp_echo(V4).await;
    echoes(&path, &origin.into(), b"ping").await;
    let client = server.client.borrow().unwrap();
    let spoofer = UdpSocket::bind(V4).await.unwrap();
    for _ in 0..5 {
        spoofer.send_to(b"\0\0\0\x01\x08\x08\x08\x08\0\x35spoofed", client).await.unwrap();
    }
    server.inject.send_replace(b"\0\0\x01\x01\x08\x08\x08\x08\0\x35fragment".to_vec());
    echoes(&path, &origin.into(), b"ping").await;
    server.inject.send_replace(b"\0\0\0".to_vec());
    echoes(&path, &origin.into(), b"ping").await;
    until("the counts", || {
        let _ = waiting(&path, 1);
        let counters = path.counters();
        // The kernel drops what others than the relay send.
        (counters.foreign, counters.fragments, counters.malformed) == (0, 1, 1)
    })
    .await;
}

#[tokio::test]
async fn socks5_association_lost_is_made_anew_within_a_second() {
    let server = Socks5Server::start(V4, Options::default()).await;
    let path = socks5(&server).await;
    let origin = udp_echo(V4).await;
    let port = path.local_addr().unwrap().port();
    for round in 2..5 {
        echoes(&path, &origin.into(), b"ping").await;
        server.end.notify_waiters();
        timeout(PATIENCE, path.control_closed()).await.unwrap();
        let begin = Instant::now();
        // Those sent meanwhile are late, not lost.
        for n in 0..10u8 {
            send(&path, &[n], &origin.into()).unwrap();
        }
        for n in 0..10u8 {
            assert_eq!(receive(&path).await, (vec![n], origin));
        }
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        assert_eq!(server.associated.load(SeqCst), round);
        assert_eq!(path.local_addr().unwrap().port(), port);
    }
    // Without anything to send there is no new one.
    server.end.notify_waiters();
    path.control_closed().await;
    until("the end", || server.associations.load(SeqCst) == 0).await;
    assert_eq!(server.associated.load(SeqCst), 4);
}

#[tokio::test]
async fn socks5_datagrams_that_wait_share_one_bound() {
    const LEN: usize = 10_000;
    let server = Socks5Server::start(V4, Options::default()).await;
    let backlog = Arc::new(Backlog::new(3 * (LEN + 1_000)));
    let proxy = outbound(&server.url());
    let (one, other) =
        (proxy.udp(&egress(), Family::V4, &backlog).await, proxy.udp(&egress(), Family::V4, &backlog).await);
    let (one, other) = (one.unwrap(), other.unwrap());
    let origin = udp_echo(V4).await;
    for path in [&one, &other] {
        echoes(path, &origin.into(), b"ping").await;
    }
    server.end.notify_waiters();
    timeout(PATIENCE, async { tokio::join!(one.control_closed(), other.control_closed()) }).await.unwrap();
    // Nothing is awaited here, so that no new association is made meanwhile.
    let send = |path: &UdpPath| send(path, &[1; LEN], &origin.into()).map_err(|error| error.kind());
    assert_eq!([send(&one), send(&one), send(&other)], [Ok(()); 3]);
    assert_eq!([send(&one), send(&other)], [Err(ErrorKind::WouldBlock); 2]);
    for path in [&one, &one, &other] {
        assert_eq!(receive(path).await.0.len(), LEN);
    }
    assert_eq!(backlog.taken(), 0, "all room is given back");
    server.end.notify_waiters();
    timeout(PATIENCE, one.control_closed()).await.unwrap();
    send(&one).unwrap();
    assert!(backlog.taken() > LEN);
    drop(one);
    until("the room of a path that ends", || backlog.taken() == 0).await;
}

#[tokio::test]
async fn socks5_datagrams_that_wait_tell_what_becomes_of_them() {
    let (server, serving) = Socks5Server::start_with_handle(V4, Options::default()).await;
    let path = socks5(&server).await;
    let origin = udp_echo(V4).await;
    let (sent, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let keep = || {
        let (sent, lost) = (Arc::clone(&sent), Arc::clone(&lost));
        let fate = move |is_sent| {
            let count = if is_sent { sent } else { lost };
            count.fetch_add(1, SeqCst);
        };
        path.keep(b"ping", &origin.into(), Box::new(fate)).map_err(|error| error.kind())
    };
    let told = || (sent.load(SeqCst), lost.load(SeqCst));
    let unsent = || {
        let target = origin.into();
        let one = path.try_send_to(b"ping", &target).map_err(|error| error.kind());
        let (count, several) = path.try_send_segments(b"pingpong", 4, &target);
        assert_eq!((one, count), (Err(ErrorKind::NotConnected), 0));
        several.unwrap_err().kind()
    };
    keep().unwrap();
    assert_eq!(told(), (1, 0), "nothing is to be waited for");

    server.end.notify_waiters();
    timeout(PATIENCE, path.control_closed()).await.unwrap();
    // Nothing is awaited here, so that no new association is made meanwhile.
    assert_eq!(unsent(), ErrorKind::NotConnected);
    let kept = (0..20).filter(|_| keep().is_ok()).count();
    assert_eq!((kept, told()), (16, (1, 0)), "nothing is told before it is known");
    until("they are sent", || told() == (17, 0)).await;

    serving.abort();
    until("the listener's end", || serving.is_finished()).await;
    server.end.notify_waiters();
    timeout(PATIENCE, path.control_closed()).await.unwrap();
    assert_eq!([keep(), keep()], [Ok(()), Ok(())]);
    until("they are dropped", || told() == (17, 2)).await;
    assert_eq!(keep(), Err(ErrorKind::ConnectionRefused));
    assert_eq!(told(), (17, 2), "whoever is refused knows");
}

#[tokio::test]
async fn socks5_datagrams_that_wait_are_dropped_with_their_path() {
    let server = Socks5Server::start(V4, Options::default()).await;
    let path = socks5(&server).await;
    server.end.notify_waiters();
    timeout(PATIENCE, path.control_closed()).await.unwrap();
    let fate = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&fate);
    let tell = Box::new(move |is_sent| told.store(if is_sent { 1 } else { 2 }, SeqCst));
    path.keep(b"ping", &udp_echo(V4).await.into(), tell).unwrap();
    drop(path);
    until("it is dropped", || fate.load(SeqCst) != 0).await;
    assert_eq!(fate.load(SeqCst), 2);
}

#[tokio::test]
async fn socks5_proxy_that_ends_every_association_is_asked_with_pauses() {
    let listener = TcpListener::bind(V4).await.unwrap();
    let at = listener.local_addr().unwrap();
    let relay = UdpSocket::bind(V4).await.unwrap().local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 3]).await.unwrap();
            stream.write_all(&[5, 0]).await.unwrap();
            stream.read_exact(&mut [0; 10]).await.unwrap();
            stream.write_all(&server::reply(0, relay)).await.unwrap();
            count.fetch_add(1, SeqCst);
        }
    });
    let path = outbound(&format!("socks5://{at}")).udp(&egress(), Family::V4, &backlog()).await.unwrap();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        let _ = send(&path, b"x", &V4.into());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = asked.load(SeqCst);
    assert!((3..10).contains(&asked), "{asked} associations within a second");
}

#[tokio::test]
async fn socks5_proxy_gone_is_refused_and_back_again_is_found() {
    let (server, serving) = Socks5Server::start_with_handle(V4, Options::default()).await;
    let path = socks5(&server).await;
    let origin = udp_echo(V4).await;
    echoes(&path, &origin.into(), b"ping").await;
    serving.abort();
    until("the listener's end", || serving.is_finished()).await;
    server.end.notify_waiters();
    path.control_closed().await;
    until("the refusal", || {
        let sent = send(&path, b"x", &origin.into());
        sent.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    })
    .await;
    let again = Socks5Server::start(server.addr, Options::default()).await;
    let begin = Instant::now();
    until("a new association", || {
        let _ = send(&path, b"y", &origin.into());
        again.associations.load(SeqCst) == 1
    })
    .await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    // What was sent while the association was on its way may be lost.
    let answered = async {
        loop {
            let _ = send(&path, b"y", &origin.into());
            if let Ok((_, from)) = timeout(Duration::from_millis(100), recv(&path)).await {
                return from;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, answered).await.expect("an answer"), origin);
}

#[tokio::test]
async fn dropped_paths_leave_nothing() {
    let server = Socks5Server::start(V4, Options::default()).await;
    let mut paths = Vec::new();
    for _ in 0..200 {
        paths.push(socks5(&server).await);
    }
    assert_eq!(server.associations.load(SeqCst), 200);
    drop(paths);
    until("the end of all associations", || server.associations.load(SeqCst) == 0).await;
}

#[tokio::test]
async fn what_cannot_carry_datagrams_says_so() {
    assert!(Outbound::Direct.carries_udp() && !Outbound::Block.carries_udp());
    assert!(outbound("socks5://127.0.0.1:1").carries_udp());
    for url in ["http://127.0.0.1:1", "socks4://127.0.0.1:1"] {
        assert!(!outbound(url).carries_udp(), "{url}");
        let error = outbound(url).udp(&egress(), Family::V4, &backlog()).await.unwrap_err();
        assert_eq!(error.answer_on(Network::Udp), Answer::IcmpPort, "{error}");
    }
    let down = outbound(&format!("socks5://{}", closed_port().await));
    let error = down.udp(&egress(), Family::V4, &backlog()).await.unwrap_err();
    assert_eq!(error.answer_on(Network::Udp), Answer::IcmpPort, "{error}");
    let blocked = Outbound::Block.udp(&egress(), Family::V4, &backlog()).await.unwrap_err();
    assert_eq!(blocked.answer_on(Network::Udp), Answer::IcmpPort);
    // CONNECT only: command not supported.
    let at = server::script(vec![(3, vec![5, 0]), (10, vec![5, 7])]).await;
    let error = outbound(&format!("socks5://{at}")).udp(&egress(), Family::V4, &backlog()).await.unwrap_err();
    assert_eq!(error.answer_on(Network::Udp), Answer::IcmpPort, "{error}");
}

#[tokio::test]
async fn many_datagrams_are_drained_at_once() {
    let server = Socks5Server::start(V4, Options::default()).await;
    let path = socks5(&server).await;
    let origin = udp_echo(V4).await;
    // More and fewer than fill a batch: none is lost, none is waited for that nobody announces again.
    for most in [1, 2, 7, 64] {
        for n in 0..100u8 {
            path.try_send_to(&[n], &origin.into()).unwrap();
        }
        let mut batch = RecvBatch::new(most, 0, 2048);
        let mut seen = Vec::new();
        while seen.len() < 100 {
            let ready = timeout(PATIENCE, path.ready()).await.expect("a datagram").unwrap();
            assert!(ready.datagrams);
            while path
                .try_recv(&mut batch, |slot, payload, _, _| seen.push(slot[payload][0]))
                .is_ok_and(|more| more)
            {}
        }
        assert_eq!(seen, (0..100).collect::<Vec<_>>(), "{most} at a time");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_relay_sent_together_is_handed_on_together() {
    const SIZE: usize = 100;
    let relay = std::net::UdpSocket::bind(V4).unwrap();
    relay.set_read_timeout(Some(PATIENCE)).unwrap();
    let associated = reply(0, relay.local_addr().unwrap());
    let at = server::script(vec![(3, vec![5, 0]), (10, associated)]).await;
    let path = outbound(&format!("socks5://{at}")).udp(&egress(), Family::V4, &backlog()).await.unwrap();
    let origin: SocketAddr = "192.0.2.7:53".parse().unwrap();
    path.try_send_to(b"question", &origin.into()).unwrap();
    let mut heard = [0; 64];
    let (len, client) = relay.recv_from(&mut heard).unwrap();
    let header = &heard[..len - b"question".len()];

    let answers: Vec<u8> = (0..5 * SIZE + 30).map(|n| n as u8).collect();
    let relayed: Vec<u8> = answers.chunks(SIZE).flat_map(|answer| [header, answer].concat()).collect();
    oneway_lab::client::send_in_segments(&relay, (header.len() + SIZE) as u16).unwrap();
    relay.send_to(&relayed, client).unwrap();
    let ready = timeout(PATIENCE, path.ready()).await.expect("datagrams").unwrap();
    assert!(ready.datagrams);
    let mut batch = RecvBatch::new(4, 0, 65_535);
    let mut seen = Vec::new();
    path.try_recv(&mut batch, |slot, payload, size, from| seen.push((slot[payload].to_vec(), size, from)))
        .unwrap();
    assert_eq!(seen, [(answers, SIZE, origin)]);
}
