#![allow(clippy::disallowed_methods, reason = "loopback sockets stand in for the two ends")]

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpListener;

use super::half::Half;
use super::*;

/// A client and a server with a relay between them.
async fn relayed(
    limit: Duration,
    early: &[u8],
) -> (TcpStream, TcpStream, tokio::task::JoinHandle<(End, u64, u64)>) {
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let back = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
    let upstream = TcpStream::connect(back.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = front.accept().await.unwrap();
    let (server, _) = back.accept().await.unwrap();
    let early = early.to_vec();
    let task = tokio::task::spawn_local(async move {
        let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
        let pipes = PipePool::default();
        let relay = Relay {
            client: accepted,
            upstream: Box::new(upstream),
            tunnel: None,
            early,
            up: &up,
            down: &down,
            half_closed_limit: limit,
        };
        let end = relay.run(&pipes, std::future::pending()).await;
        (end, up.into_inner(), down.into_inner())
    });
    (client, server, task)
}

fn local<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { tokio::time::timeout(LONG, test).await.expect("it hangs") };
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn bulk_and_small_bytes_arrive_whole_both_ways_and_are_counted() {
    local(async {
        let (client, server, task) = relayed(LONG, b"early").await;
        let bytes: Vec<u8> = (0..9_000_011u32).map(|n| (n ^ (n >> 8)) as u8).collect();
        let (mut cr, mut cw) = client.into_split();
        let (mut sr, mut sw) = server.into_split();
        let sent = bytes.clone();
        let up = tokio::task::spawn_local(async move {
            cw.write_all(&sent).await.unwrap();
            cw.shutdown().await.unwrap();
        });
        let sent = bytes.clone();
        let down = tokio::task::spawn_local(async move {
            for chunk in sent.chunks(1_000_003) {
                sw.write_all(chunk).await.unwrap();
            }
            sw.shutdown().await.unwrap();
        });
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        let (a, b) = tokio::join!(sr.read_to_end(&mut at_server), cr.read_to_end(&mut at_client));
        a.unwrap();
        b.unwrap();
        up.await.unwrap();
        down.await.unwrap();
        assert!(at_server == bytes);
        assert_eq!(&at_client[..5], b"early");
        assert!(at_client[5..] == bytes);
        let (end, up, down) = task.await.unwrap();
        assert!(matches!(end, End::Closed), "{end:?}");
        assert_eq!((up, down), (bytes.len() as u64, bytes.len() as u64 + 5));
    });
}

#[test]
fn a_half_closed_connection_goes_on_the_other_way() {
    local(async {
        let (mut client, mut server, task) = relayed(LONG, b"").await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        assert!(matches!(task.await.unwrap().0, End::Closed));
    });
}

/// Whose, and whether one of the directions is closed by then.
const RESETS: [(Side, bool); 4] =
    [(Side::Client, false), (Side::Upstream, false), (Side::Client, true), (Side::Upstream, true)];

#[test]
fn a_reset_travels_as_a_reset_both_ways_and_through_a_half_closed_one() {
    local(async {
        for (by, half_closed) in RESETS {
            let (client, server, task) = relayed(LONG, b"").await;
            let (mut killer, mut victim) =
                if by == Side::Client { (client, server) } else { (server, client) };
            if half_closed {
                killer.shutdown().await.unwrap();
                assert_eq!(victim.read(&mut [0; 8]).await.unwrap(), 0);
            }
            reset_on_close(&killer);
            drop(killer);
            if half_closed {
                victim.ready(Interest::ERROR).await.unwrap();
                assert!(victim.take_error().unwrap().is_some(), "{by:?}");
            } else {
                let error = victim.read(&mut [0; 8]).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{by:?}");
            }
            let (end, _, _) = task.await.unwrap();
            assert!(matches!(end, End::Reset { by: found, .. } if found == by), "{by:?} {end:?}");
        }
    });
}

/// Writes until nothing is taken any more. `socket` is at one end of a relay.
async fn fill(socket: &mut TcpStream) -> u64 {
    let chunk = [7; 65_536];
    let mut sent = 0;
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(300), socket.write(&chunk)).await {
        sent += n as u64;
        assert!(sent < 256 << 20, "nothing holds the sender back");
    }
    sent
}

#[test]
fn a_reset_reaches_an_end_that_takes_nothing() {
    local(async {
        for (by, half_closed) in RESETS {
            let (client, server, task) = relayed(LONG, b"").await;
            let (mut killer, mut victim) =
                if by == Side::Client { (client, server) } else { (server, client) };
            if half_closed {
                victim.shutdown().await.unwrap();
                assert_eq!(killer.read(&mut [0; 8]).await.unwrap(), 0);
            }
            fill(&mut killer).await;
            reset_on_close(&killer);
            drop(killer);
            victim.ready(Interest::ERROR).await.unwrap();
            assert!(victim.take_error().unwrap().is_some(), "{by:?}");
            let (end, ..) = task.await.unwrap();
            let told = matches!(&end, End::Reset { by: found, error }
                if *found == by && error.kind() == io::ErrorKind::ConnectionReset);
            assert!(told, "{by:?} {half_closed} {end:?}");
        }
    });
}

#[test]
fn what_came_before_a_reset_is_delivered_to_whoever_reads() {
    local(async {
        let (mut client, mut server, task) = relayed(LONG, b"").await;
        let sent = fill(&mut server).await;
        reset_on_close(&server);
        drop(server);
        let (mut received, mut buffer) = (0, vec![0; 65_536]);
        let error = loop {
            match client.read(&mut buffer).await {
                Ok(0) => panic!("the end of the stream in place of a reset after {received} of {sent} bytes"),
                Ok(n) => received += n as u64,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let (end, _, down) = task.await.unwrap();
        assert!(matches!(end, End::Reset { by: Side::Upstream, .. }), "{end:?}");
        // What the server's kernel had not sent by then is lost with it.
        assert!(received > 1 << 20 && received == down && received <= sent, "{received}, {down} of {sent}");
    });
}

#[test]
fn the_end_of_a_stream_waits_for_whoever_takes_nothing() {
    local(async {
        let (mut client, mut server, task) = relayed(LONG, b"").await;
        let sent = fill(&mut server).await;
        drop(server);
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(client.take_error().unwrap().is_none() && !task.is_finished());
        let (mut received, mut buffer) = (0, vec![0; 65_536]);
        loop {
            match client.read(&mut buffer).await.unwrap() {
                0 => break,
                n => received += n as u64,
            }
        }
        assert_eq!(received, sent);
        drop(client);
        assert!(matches!(task.await.unwrap().0, End::Closed));
    });
}

#[test]
fn half_closed_silence_is_reaped() {
    local(async {
        let (mut client, mut server, task) = relayed(Duration::from_millis(30), b"").await;
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(matches!(task.await.unwrap().0, End::Silent));
        server.ready(Interest::ERROR).await.unwrap();
        assert!(server.take_error().unwrap().is_some(), "the silent end is reset");
    });
}

/// Writes what the relay and its own sockets take, so that a FIN follows at once: `most` bytes or until nothing is taken.
async fn write_through(client: &mut TcpStream, most: usize) -> usize {
    const CHUNK: usize = 16 * 1024;
    let mut sent = 0;
    while sent + CHUNK <= most {
        client.write_all(&[7; CHUNK]).await.unwrap();
        let mut looks = 0;
        while unacknowledged(client) > 0 {
            if looks == 300 {
                return sent;
            }
            looks += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        sent += CHUNK;
    }
    sent
}

#[test]
fn what_waits_for_a_server_that_takes_nothing_is_reaped() {
    local(async {
        let limit = Duration::from_millis(200);
        let (mut client, _server, _task) = relayed(limit, b"").await;
        let most = write_through(&mut client, 256 << 20).await;
        let (mut client, server, task) = relayed(limit, b"").await;
        write_through(&mut client, most - 48 * 1024).await;
        tokio::time::sleep(3 * limit).await;
        assert!(!task.is_finished(), "the client has not ended");
        let begin = std::time::Instant::now();
        client.shutdown().await.unwrap();
        assert!(matches!(task.await.unwrap().0, End::Silent));
        assert!(begin.elapsed() >= limit, "after {:?}", begin.elapsed());
        server.ready(Interest::ERROR).await.unwrap();
        assert!(server.take_error().unwrap().is_some(), "the server is reset");
    });
}

#[test]
fn what_waits_for_a_slow_server_is_delivered() {
    local(async {
        let limit = Duration::from_millis(200);
        let (mut client, mut server, task) = relayed(limit, b"").await;
        let sent = fill(&mut client).await;
        client.shutdown().await.unwrap();
        let (mut received, begin) = (0, std::time::Instant::now());
        let mut buffer = vec![0; 1 << 20];
        loop {
            match server.read(&mut buffer).await.unwrap() {
                0 => break,
                n => received += n as u64,
            }
            if begin.elapsed() < 5 * limit {
                tokio::time::sleep(limit / 4).await;
            }
        }
        assert_eq!(received, sent);
        drop(server);
        assert!(matches!(task.await.unwrap().0, End::Closed));
    });
}

#[test]
fn an_idle_relay_is_small() {
    // Two sockets of tokio's (32 bytes each here) and what one direction needs between two polls.
    let size = std::mem::size_of::<Half<'_>>();
    assert!(size <= 112, "{size} bytes for one direction");
}

#[test]
fn what_is_said_right_before_a_reset_may_be_heard_before_it() {
    local(async {
        let begun = Instant::now();
        let (mut client, mut server, task) = relayed(LONG, b"").await;
        server.write_all(b"words").await.unwrap();
        reset_on_close(&server);
        drop(server);
        let (end, _, down) = task.await.unwrap();
        assert!(matches!(end, End::Reset { by: Side::Upstream, .. }), "{end:?}");
        assert!(begun.elapsed() >= HEARD, "{:?}", begun.elapsed());
        let mut heard = Vec::new();
        let error = client.read_to_end(&mut heard).await.unwrap_err();
        assert_eq!((&heard[..], down, error.kind()), (&b"words"[..], 5, io::ErrorKind::ConnectionReset));
    });
}
