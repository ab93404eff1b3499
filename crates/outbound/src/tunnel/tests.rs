//! Over plain sockets on loopback, which have ends and resets as TLS has them.

#![allow(clippy::disallowed_methods, reason = "the servers of these tests are not outgoing sockets")]

use std::time::Instant;

use oneway_egress::{Egress, FlowEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A flow's end of a tunnel, and the far end of what carries it.
async fn tunnel(first: &[u8]) -> (Protected<TcpStream>, FlowEnd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let egress = Egress::unprotected_for_loopback_tests();
    let carrier = egress.connect_tcp(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let mut connected = open(carrier, first.to_vec(), Vec::new()).unwrap();
    let tie = connected.stream.take_tie().unwrap();
    (connected.stream, tie, far)
}

async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn large_transfers_both_ways_at_once_arrive_whole() {
    let (flow, tie, far) = tunnel(b"request").await;
    let bytes: Vec<u8> = (0..9_000_011u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    let (flow, _) = flow.into_parts();
    let ((mut fr, mut fw), (mut sr, mut sw)) = (flow.into_split(), far.into_split());
    let (up, down) = (bytes.clone(), bytes.clone());
    let sending = tokio::spawn(async move {
        fw.write_all(&up).await.unwrap();
        fw.shutdown().await.unwrap();
    });
    let answering = tokio::spawn(async move {
        sw.write_all(&down).await.unwrap();
        sw.shutdown().await.unwrap();
    });
    let (at_far, at_flow) = tokio::join!(rest(&mut sr), rest(&mut fr));
    sending.await.unwrap();
    answering.await.unwrap();
    assert!(at_far.starts_with(b"request") && at_far[7..] == bytes);
    assert!(at_flow == bytes);
    assert!(!tie.is_cut());
}

#[tokio::test]
async fn each_direction_ends_for_itself() {
    let (mut flow, tie, mut far) = tunnel(b"").await;
    flow.write_all(b"question").await.unwrap();
    flow.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await, b"question");
    far.write_all(b"answer").await.unwrap();
    drop(far);
    assert_eq!(rest(&mut flow).await, b"answer");
    assert!(!tie.is_cut());

    let (mut flow, tie, mut far) = tunnel(b"").await;
    far.write_all(b"greeting").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(rest(&mut flow).await, b"greeting");
    flow.write_all(b"answer").await.unwrap();
    // As the relay does it with its last direction: closed without a word.
    drop((flow, tie));
    assert_eq!(rest(&mut far).await, b"answer");
}

#[tokio::test]
async fn a_reset_of_the_far_end_is_no_end_of_the_stream() {
    for half_closed in [false, true] {
        let (mut flow, tie, mut far) = tunnel(b"").await;
        if half_closed {
            flow.shutdown().await.unwrap();
            assert_eq!(rest(&mut far).await, b"");
        }
        far.write_all(b"part").await.unwrap();
        let mut part = [0; 4];
        flow.read_exact(&mut part).await.unwrap();
        oneway_flow::reset_on_close(&far);
        drop(far);
        assert_eq!(rest(&mut flow).await, b"");
        assert!(tie.is_cut(), "half closed: {half_closed}");
    }
}

#[tokio::test]
async fn a_flow_that_is_reset_or_left_resets_the_far_end() {
    for (half_closed, reset) in [(false, true), (false, false), (true, true)] {
        let (mut flow, tie, mut far) = tunnel(b"").await;
        if half_closed {
            flow.shutdown().await.unwrap();
            assert_eq!(rest(&mut far).await, b"");
        }
        if reset {
            tie.reset();
        }
        drop((flow, tie));
        let begin = Instant::now();
        let error = loop {
            match far.read(&mut [0; 8]).await {
                Ok(0) if half_closed && begin.elapsed() < Duration::from_secs(5) => {
                    if let Some(error) = far.take_error().unwrap() {
                        break error;
                    }
                    tokio::task::yield_now().await;
                }
                Ok(len) => panic!("{len} bytes"),
                Err(error) => break error,
            }
        };
        // What a reset is called after the end of the stream (`tcp_reset`, net/ipv4/tcp_input.c).
        let kind = if half_closed { io::ErrorKind::BrokenPipe } else { io::ErrorKind::ConnectionReset };
        assert_eq!(error.kind(), kind, "{half_closed} {reset}");
    }
}

/// Sends until nothing more is taken.
async fn fill(far: &mut TcpStream) -> usize {
    let chunk = vec![7; 65_536];
    let mut sent = 0;
    while let Ok(Ok(len)) = tokio::time::timeout(Duration::from_millis(300), far.write(&chunk)).await {
        sent += len;
        assert!(sent < 64 << 20, "nothing holds the sender back");
    }
    sent
}

#[tokio::test]
async fn a_flow_that_reads_nothing_is_told_of_a_reset_and_one_that_reads_has_all_before() {
    for full in [false, true] {
        let (mut flow, tie, mut far) = tunnel(b"").await;
        let sent = match full {
            true => fill(&mut far).await,
            false => far.write(b"part").await.unwrap(),
        };
        let told = tokio::time::timeout(Duration::from_millis(10), tie.failed()).await;
        assert!(told.is_err(), "a reset before there was one");
        oneway_flow::reset_on_close(&far);
        drop(far);
        tokio::time::timeout(Duration::from_secs(10), tie.failed()).await.unwrap();
        let received = rest(&mut flow).await.len();
        assert!(tie.is_cut());
        // What the far end's kernel had not sent by then is lost with it.
        assert!(received <= sent && received >= sent.min(1 << 17), "{received} of {sent}");
    }
}

#[tokio::test]
async fn a_slow_reader_stops_the_sender_and_nothing_is_lost() {
    let (mut flow, _tie, mut far) = tunnel(b"").await;
    let sent = fill(&mut far).await;
    far.shutdown().await.unwrap();
    assert_eq!(rest(&mut flow).await.len(), sent);
}

#[test]
fn an_idle_tunnel_is_small() {
    assert!(std::mem::size_of::<Direction>() <= 56);
}
