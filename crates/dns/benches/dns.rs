//! What an answer costs that needs nobody else.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use oneway_dns::{
    Client, ClientConfig, DEFAULT_EXCLUDED, FakeIp, FakeIpConfig, Mode, Patterns, Quick, Server, Transport,
};
use oneway_egress::Egress;

/// Whom clients ask.
const ASKED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
    message.to_vec().expect("a query")
}

fn fake(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = FakeIp::new(FakeIpConfig {
        v4: "198.18.0.0/15".parse().ok(),
        v6: "fc00:18::/64".parse().ok(),
        exclude: Patterns::new(DEFAULT_EXCLUDED.iter().copied()).expect("patterns"),
        file: Some(folder.path().join("bench.fake-ip")),
        place: String::new(),
    });
    let egress = Arc::new(Egress::unprotected_for_loopback_tests());
    let client = Arc::new(Client::new(egress, ClientConfig::default()));
    let server = Server::new(Mode::FakeIp(Arc::new(fake.expect("pools"))), client);
    let mut group = c.benchmark_group("fake-ip");
    group.throughput(Throughput::Elements(1));
    let known = query("www.example.com.");
    group.bench_function("known name", |b| {
        b.iter(|| black_box(server.quick(black_box(&known), Transport::Udp, ASKED, Instant::now())));
    });
    let names: Vec<_> = (0..50_000).map(|n| query(&format!("host-{n}.example.com."))).collect();
    let mut next = names.iter().cycle();
    group.bench_function("50,000 names in turn", |b| {
        b.iter(|| {
            let query = next.next().expect("a cycle has no end");
            let answer = server.quick(query, Transport::Udp, ASKED, Instant::now());
            assert!(matches!(answer, Quick::Answer(_)));
        });
    });
    group.finish();
}

criterion_group!(benches, fake);
criterion_main!(benches);
