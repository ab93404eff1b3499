//! What a superpacket costs in our own TCP, without the kernel's part of it.

#[path = "peer.rs"]
mod peer;

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hashbrown::HashMap;
use oneway_stack::tcp::Segment;
use oneway_wire::tcp::TcpView;

fn superpackets(c: &mut Criterion) {
    let mut group = c.benchmark_group("superpacket");
    group.throughput(Throughput::Bytes(peer::LEN as u64));
    let mut peer = peer::Peer::new();
    group.bench_function("upload", |b| b.iter(|| assert_eq!(peer.upload(), peer::LEN)));
    let mut peer = peer::Peer::new();
    group.bench_function("download", |b| b.iter(|| assert!(peer.download() > peer::LEN / 2)));
    group.finish();
}

fn segment_in(c: &mut Criterion) {
    // An acknowledgment with timestamps and two SACK blocks.
    let mut bytes = [0_u8; 52];
    bytes[12] = 13 << 4;
    bytes[20..24].copy_from_slice(&[1, 1, 8, 10]);
    bytes[32..36].copy_from_slice(&[1, 1, 5, 18]);
    c.bench_function("segment/parse options", |b| {
        b.iter(|| {
            let view = TcpView::parse(black_box(&bytes)).expect("TCP");
            Segment::from_view(&view)
        });
    });
}

/// The table that a worker looks its connections up in.
fn look_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("connection look-up");
    for flows in [1_000_u32, 10_000, 100_000] {
        let key = |n: u32| {
            let client = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), (n % 60_000) as u16);
            let server = SocketAddr::new(Ipv4Addr::new(198, 51, 100, (n / 60_000) as u8).into(), 443);
            (client, server)
        };
        let table: HashMap<_, _> = (0..flows).map(|n| (key(n), std::rc::Rc::new(n))).collect();
        let mut n = 0_u32;
        group.bench_with_input(BenchmarkId::from_parameter(flows), &flows, |b, &flows| {
            b.iter(|| {
                // A stride that visits all of them, no two neighbours in a row.
                n = (n + 7_919) % flows;
                table.get(black_box(&key(n))).map(|found| **found)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, superpackets, segment_in, look_up);
criterion_main!(benches);
