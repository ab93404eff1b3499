use std::time::Duration;

use hickory_proto::op::Query;
use hickory_proto::rr::RData;
use oneway_egress::Egress;

use super::*;
use crate::{ClientConfig, FakeIpConfig, Patterns};

/// Whom clients ask. Nobody listens there.
const ORIGINAL: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn server(mode: impl FnOnce() -> Mode) -> Server {
    let egress = Arc::new(Egress::unprotected_for_loopback_tests());
    Server::new(mode(), Arc::new(Client::new(egress, ClientConfig::default())))
}

fn faking(v6: bool) -> (Server, Arc<FakeIp>) {
    let fake = Arc::new(
        FakeIp::new(FakeIpConfig {
            v4: Some("198.18.0.0/15".parse().unwrap()),
            v6: v6.then(|| "fc00:18::/64".parse().unwrap()),
            exclude: Patterns::new(["*.lan"]).unwrap(),
            file: None,
            place: String::new(),
        })
        .unwrap(),
    );
    (server(|| Mode::FakeIp(Arc::clone(&fake))), fake)
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn answered(server: &Server, name: &str, kind: RecordType) -> Message {
    match server.quick(&query(name, kind), Transport::Udp, ORIGINAL, Instant::now()) {
        Quick::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn is_asked(server: &Server, name: &str, kind: RecordType) -> bool {
    matches!(server.quick(&query(name, kind), Transport::Udp, ORIGINAL, Instant::now()), Quick::Ask(_))
}

#[test]
fn names_get_fake_addresses_of_both_families() {
    let (server, fake) = faking(true);
    let v4 = answered(&server, "WWW.a.example.", RecordType::A);
    let v6 = answered(&server, "www.A.example.", RecordType::AAAA);
    for message in [v4, v6] {
        assert_eq!(message.answers.len(), 1);
        assert_eq!(message.answers[0].ttl, 1);
        let ip = message.answers[0].data.ip_addr().unwrap();
        assert_eq!(fake.name(ip).as_deref(), Some("www.a.example"));
    }
    assert_eq!(server.counters().fake, 2);
}

#[test]
fn a_family_that_is_not_captured_has_no_addresses() {
    let (server, _) = faking(false);
    let message = answered(&server, "a.example.", RecordType::AAAA);
    assert_eq!((message.metadata.response_code, message.answers.len()), (ResponseCode::NoError, 0));
}

#[test]
fn nothing_hints_at_real_addresses() {
    let (server, _) = faking(true);
    for kind in [RecordType::HTTPS, RecordType::SVCB, RecordType::ANY] {
        let message = answered(&server, "a.example.", kind);
        assert_eq!(
            (message.metadata.response_code, message.answers.len()),
            (ResponseCode::NoError, 0),
            "{kind}"
        );
    }
}

#[test]
fn the_rest_and_what_is_excluded_is_asked_for() {
    let (server, _) = faking(true);
    for kind in [RecordType::MX, RecordType::TXT, RecordType::NS, RecordType::SRV, RecordType::CNAME] {
        assert!(is_asked(&server, "a.example.", kind), "{kind}");
    }
    for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS] {
        assert!(is_asked(&server, "nas.lan.", kind), "{kind}");
    }
    assert!(is_asked(&server, "1.2.0.192.in-addr.arpa.", RecordType::PTR));
}

#[test]
fn fake_addresses_have_names() {
    let (server, _) = faking(true);
    let v4 = answered(&server, "a.example.", RecordType::A).answers[0].data.ip_addr().unwrap();
    let v6 = answered(&server, "a.example.", RecordType::AAAA).answers[0].data.ip_addr().unwrap();
    for ip in [v4, v6] {
        let name = Name::from(ip);
        let message = answered(&server, &name.to_ascii(), RecordType::PTR);
        let RData::PTR(pointer) = &message.answers[0].data else { panic!("{message}") };
        assert_eq!(pointer.0.to_ascii(), "a.example.");
    }
    let stale = answered(&server, "9.9.19.198.in-addr.arpa.", RecordType::PTR);
    assert_eq!(stale.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn when_all_are_in_use_the_answer_is_a_failure_and_no_address() {
    let fake = Arc::new(
        FakeIp::new(FakeIpConfig {
            v4: Some("198.18.0.0/29".parse().unwrap()),
            v6: None,
            exclude: Patterns::default(),
            file: None,
            place: String::new(),
        })
        .unwrap(),
    );
    let server = server(|| Mode::FakeIp(fake));
    for n in 0..6 {
        assert_eq!(answered(&server, &format!("{n}.example."), RecordType::A).answers.len(), 1);
    }
    let message = answered(&server, "6.example.", RecordType::A);
    assert_eq!((message.metadata.response_code, message.answers.len()), (ResponseCode::ServFail, 0));
    assert_eq!(server.counters().failed, 1);
}

#[test]
fn in_real_mode_everything_is_asked_for() {
    let server = server(|| Mode::Real);
    for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::PTR] {
        assert!(is_asked(&server, "a.example.", kind), "{kind}");
    }
}

#[test]
fn servers_that_were_asked_are_remembered_up_to_a_limit() {
    let server = server(|| Mode::Real);
    let ip = |n: u32| IpAddr::from(n.to_be_bytes());
    for n in 0..2 * SERVERS.get() as u32 {
        assert!(!server.stands_for(ip(n)));
        server.asked(ip(n));
        assert!(server.stands_for(ip(n)));
    }
    assert!(!server.stands_for(ip(0)));
}

#[test]
fn what_is_no_query_is_counted() {
    let server = server(|| Mode::Real);
    for bytes in [&b""[..], b"x", &[0xff; 40], &[0; 2000]] {
        assert!(matches!(
            server.quick(bytes, Transport::Udp, ORIGINAL, Instant::now()),
            Quick::Drop | Quick::Answer(_)
        ));
    }
    assert!(server.counters().malformed >= 3);
    assert_eq!(server.counters().queries, 4);
}

#[tokio::test]
async fn without_an_upstream_the_answer_says_so() {
    let server = server(|| Mode::Real);
    let Quick::Ask(asked) =
        server.quick(&query("a.example.", RecordType::A), Transport::Udp, ORIGINAL, Instant::now())
    else {
        panic!("answered")
    };
    // The kernel says so.
    let begin = Instant::now();
    let bytes = server.finish(&asked, Transport::Udp, ORIGINAL).await;
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_secs(2));
}
