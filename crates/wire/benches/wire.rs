//! What a packet costs: summing 64 KiB, and the rewriting that must not.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use oneway_wire::emit::{self, TcpHeader};
use oneway_wire::ip::IpView;
use oneway_wire::rewrite::{Offsets, rewrite, rewrite_at};
use oneway_wire::{checksum, tcp};

fn sum(c: &mut Criterion) {
    let mut group = c.benchmark_group("sum");
    for len in [20usize, 40, 1460, 65_536] {
        let data = vec![0x5au8; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(len.to_string(), |b| b.iter(|| checksum::sum(black_box(&data))));
    }
    group.finish();
}

fn packets(c: &mut Criterion) {
    for (name, src, dst) in
        [("v4", "192.0.2.1:1111", "198.51.100.2:443"), ("v6", "[2001:db8::1]:1111", "[2001:db8:2::2]:443")]
    {
        let ends: [SocketAddr; 2] = [src, dst].map(|text| text.parse().expect("an address"));
        let header = TcpHeader { seq: 1, ack: 1, flags: tcp::Flags::ACK, window: 500, options: &[1; 12] };
        let mut packet = Vec::new();
        emit::tcp_segment(&mut packet, ends[0], ends[1], &header, &[7; 60_000]).expect("fits");
        let mut group = c.benchmark_group(name);
        group.bench_function("parse", |b| b.iter(|| IpView::parse(black_box(&packet))));
        group.bench_function("offsets", |b| b.iter(|| Offsets::parse(black_box(&packet))));
        group.bench_function("rewrite", |b| {
            b.iter(|| rewrite(black_box(&mut packet), black_box(ends[1]), black_box(ends[0]), false))
        });
        let offsets = Offsets::parse(&packet).expect("TCP");
        group.bench_function("rewrite_at", |b| {
            b.iter(|| {
                let (src, dst) = (black_box(ends[1]), black_box(ends[0]));
                rewrite_at(black_box(&mut packet), black_box(&offsets), src, dst, black_box(true))
            })
        });
        group.finish();
    }
}

criterion_group!(benches, sum, packets);
criterion_main!(benches);
