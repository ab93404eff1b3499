//! Against servers on loopback. Their closures say what comes back.

#![allow(clippy::disallowed_methods, reason = "the servers of these tests are not outgoing sockets")]

use std::sync::atomic::AtomicBool;

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

/// Octets before the question (RFC 1035, 4.1.1).
const HEADER: usize = 12;

/// An answer to `query` with one address.
fn answer(query: &Message, last: u8) -> Message {
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.add_queries(query.queries.iter().cloned());
    let name = query.queries[0].name().clone();
    let data = match query.queries[0].query_type() {
        RecordType::AAAA => RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())),
        _ => RData::A(A::new(192, 0, 2, last)),
    };
    message.add_answer(Record::from_rdata(name, 60, data));
    message
}

fn code(query: &Message, code: ResponseCode) -> Message {
    let mut message = answer(query, 0);
    message.answers.clear();
    message.metadata.response_code = code;
    message
}

/// A server that sends what `reply` returns for each query.
async fn server(mut reply: impl FnMut(&Message) -> Vec<Message> + Send + 'static) -> SocketAddr {
    let bytes = |message: &Message| message.to_vec().unwrap();
    raw_server(move |query| reply(query).iter().map(bytes).collect()).await
}

/// The same with bytes, which need be no messages.
async fn raw_server(mut reply: impl FnMut(&Message) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..len]).unwrap();
            for bytes in reply(&query) {
                socket.send_to(&bytes, from).await.unwrap();
            }
        }
    });
    address
}

/// A port where nobody listens.
async fn closed() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn client(upstreams: &[SocketAddr]) -> Arc<Client> {
    let egress = Arc::new(Egress::unprotected_for_loopback_tests());
    let upstreams = upstreams.iter().copied().map(Upstream::Udp).collect();
    Arc::new(Client::new(
        egress,
        ClientConfig { upstreams, original_first: false, ..ClientConfig::default() },
    ))
}

fn asked(name: &str) -> Asked {
    Asked::own(Name::from_ascii(name).unwrap(), RecordType::A)
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

#[tokio::test]
async fn an_answer_is_kept_and_asked_for_once() {
    let asked_for = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked_for);
    let server = server(move |query| {
        count.fetch_add(1, Relaxed);
        vec![answer(query, 7)]
    })
    .await;
    let client = client(&[server]);
    let question = asked("a.example.");
    let (first, second) = tokio::join!(client.ask(&question, None), client.ask(&question, None));
    let third = client.ask(&question, None).await;
    for message in [first, second, third] {
        assert_eq!(addresses(&message), [ip(7)]);
    }
    assert_eq!(asked_for.load(Relaxed), 1);
    assert!(client.flights.lock().all.is_empty());
}

#[tokio::test]
async fn what_has_just_ended_is_given_while_it_is_asked_for_anew() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let server = server(move |query| {
        let mut first = answer(query, 1);
        first.answers[0].ttl = 1;
        // Then it is silent.
        if seen.fetch_add(1, Relaxed) == 0 { vec![first] } else { Vec::new() }
    })
    .await;
    let client = client(&[server]);
    let asked = asked("a.example.");
    let begin = std::time::Instant::now();
    while count.load(Relaxed) < 2 {
        assert!(begin.elapsed() < Duration::from_secs(10), "it is never asked for again");
        let now = client.ask(&asked, None).await;
        assert_eq!(addresses(&now), [ip(1)], "{now:?}");
        assert_eq!(now.answers[0].ttl, 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Our own questions are not answered so: a proxy's name may lead elsewhere by now.
    let own = tokio::time::timeout(Duration::from_millis(200), client.resolve("a.example")).await;
    assert!(own.is_err(), "{own:?}");
}

#[tokio::test]
async fn some_names_are_asked_for_elsewhere() {
    let by = |last| server(move |query| vec![answer(query, last)]);
    let (others, below, one) = (by(1).await, by(2).await, by(3).await);
    let by_domain = [("a.corp.example", one), ("+.corp.example", below)]
        .map(|(names, at)| (Patterns::new([names]).unwrap(), vec![Upstream::Udp(at)]));
    let config = ClientConfig {
        upstreams: vec![Upstream::Udp(others)],
        original_first: true,
        by_domain: by_domain.into(),
    };
    let client = Arc::new(Client::new(Arc::new(Egress::unprotected_for_loopback_tests()), config));
    for (name, last) in
        [("a.corp.example.", 3), ("B.Corp.example.", 2), ("corp.example.", 2), ("acorp.example.", 1)]
    {
        // Whoever the program has asked: it is these that know such names.
        let original = if last == 1 { None } else { Some(others) };
        assert_eq!(addresses(&client.ask(&asked(name), original).await), [ip(last)], "{name}");
    }
    // Such as no host has: services, and parts of networks.
    for labels in
        [&[&b"My Printer"[..], b"_ipp", b"_tcp", b"corp", b"example"][..], &[b"0/25", b"corp", b"example"]]
    {
        let mut name = Name::from_labels(labels.iter().copied()).unwrap();
        name.set_fqdn(true);
        let asked = Asked::own(name, RecordType::A);
        assert_eq!(addresses(&client.ask(&asked, Some(others)).await), [ip(2)]);
    }
}

#[tokio::test]
async fn a_closed_port_is_passed_over_at_once_and_remembered() {
    let client = client(&[closed().await, server(|query| vec![answer(query, 7)]).await]);
    let begin = Instant::now();
    assert_eq!(addresses(&client.ask(&asked("a.example."), None).await), [ip(7)]);
    assert!(begin.elapsed() < STAGGER, "{:?}", begin.elapsed());
    assert_eq!(client.order(&asked("a.example."), None)[0].0, 1);
}

#[tokio::test]
async fn a_silent_server_is_overtaken() {
    let client = client(&[server(|_| Vec::new()).await, server(|query| vec![answer(query, 7)]).await]);
    let begin = Instant::now();
    assert_eq!(addresses(&client.ask(&asked("a.example."), None).await), [ip(7)]);
    assert!(begin.elapsed() >= STAGGER && begin.elapsed() < PATIENCE_LOCAL, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn guesses_are_dropped_and_counted() {
    let server = server(|query| {
        let mut wrong_number = answer(query, 66);
        wrong_number.metadata.id ^= 1;
        let mut wrong_question = answer(query, 66);
        wrong_question.queries = vec![Query::query(Name::from_ascii("b.example.").unwrap(), RecordType::A)];
        vec![wrong_number, wrong_question, answer(query, 7)]
    })
    .await;
    let client = client(&[server]);
    assert_eq!(addresses(&client.ask(&asked("a.example."), None).await), [ip(7)]);
    assert_eq!(client.counters().foreign, 2);
}

/// Each comes before the right answer, which is still taken.
#[tokio::test]
async fn malformed_oversized_and_looping_answers_are_dropped_and_counted() {
    let server = raw_server(|query| {
        let right = answer(query, 7).to_vec().unwrap();
        let question = query.queries[0].name().len() + 4;
        let records = HEADER + question;
        let mut cut = right.clone();
        cut.truncate(right.len() - 1);
        let mut oversized = answer(query, 66);
        let name = query.queries[0].name().clone();
        oversized.add_answers(
            (0..300).map(|_| Record::from_rdata(name.clone(), 60, RData::A(A::new(192, 0, 2, 66)))),
        );
        let oversized = oversized.to_vec().unwrap();
        assert!(oversized.len() > 4096, "{} bytes", oversized.len());
        let mut looping = right[..records].to_vec();
        looping.extend([0xc0, u8::try_from(records).unwrap(), 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 66]);
        vec![cut, oversized, looping, right]
    })
    .await;
    let client = client(&[server]);
    assert_eq!(addresses(&client.ask(&asked("a.example."), None).await), [ip(7)]);
    let counters = client.counters();
    assert_eq!((counters.malformed, counters.foreign), (3, 0));
}

#[tokio::test]
async fn what_is_truncated_is_asked_for_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
        let query = Message::from_vec(&buffer[..len]).unwrap();
        let mut message = code(&query, ResponseCode::NoError);
        message.metadata.truncation = true;
        socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut bytes).await.unwrap();
        let query = Message::from_vec(&bytes).unwrap();
        let mut whole = answer(&query, 7);
        for last in 8..108 {
            whole.add_answer(answer(&query, last).answers.remove(0));
        }
        let bytes = whole.to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    });
    let message = client(&[address]).ask(&asked("a.example."), None).await;
    assert_eq!(addresses(&message).len(), 101);
}

/// Whoever guesses the number gets it right in the end.
#[tokio::test]
async fn many_guesses_lead_to_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
        let query = Message::from_vec(&buffer[..len]).unwrap();
        let mut guess = answer(&query, 66);
        for _ in 0..64 {
            guess.metadata.id = guess.metadata.id.wrapping_add(1);
            socket.send_to(&guess.to_vec().unwrap(), from).await.unwrap();
        }
        // The socket may be closed by now.
        let _ = socket.send_to(&answer(&query, 66).to_vec().unwrap(), from).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut bytes).await.unwrap();
        let bytes = answer(&Message::from_vec(&bytes).unwrap(), 7).to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    });
    let client = client(&[address]);
    assert_eq!(addresses(&client.ask(&asked("a.example."), None).await), [ip(7)]);
    assert_eq!(client.counters().foreign, 32);
}

#[tokio::test]
async fn a_server_that_fails_is_no_answer_if_another_has_one() {
    let failing = server(|query| vec![code(query, ResponseCode::ServFail)]).await;
    let refusing = server(|query| vec![code(query, ResponseCode::Refused)]).await;
    let good = server(|query| vec![code(query, ResponseCode::NXDomain)]).await;
    let message = client(&[failing, refusing, good]).ask(&asked("a.example."), None).await;
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    let message = client(&[refusing, failing]).ask(&asked("a.example."), None).await;
    assert_eq!(message.metadata.response_code, ResponseCode::Refused);
}

/// What servers say to a question with EDNS that do not know it, and that they are asked without it from then on.
#[tokio::test]
async fn old_servers_are_asked_without_edns() {
    fn header_alone(query: &Message) -> Vec<u8> {
        let mut bytes = code(query, ResponseCode::FormErr).to_vec().unwrap();
        bytes.truncate(HEADER);
        bytes
    }
    let refusals: [fn(&Message) -> Vec<u8>; 3] = [
        |query| code(query, ResponseCode::FormErr).to_vec().unwrap(),
        |query| code(query, ResponseCode::NotImp).to_vec().unwrap(),
        header_alone,
    ];
    for (n, refusal) in refusals.into_iter().enumerate() {
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        let server = raw_server(move |query| match query.edns {
            Some(_) => {
                count.fetch_add(1, Relaxed);
                vec![refusal(query)]
            }
            None => vec![answer(query, 7).to_vec().unwrap()],
        })
        .await;
        let client = client(&[server]);
        for name in ["a.example.", "b.example."] {
            assert_eq!(addresses(&client.ask(&asked(name), None).await), [ip(7)], "{n} {name}");
        }
        assert_eq!(refused.load(Relaxed), 1, "{n}");
    }
}

/// A question that no server would understand says nothing about EDNS.
#[tokio::test]
async fn a_server_that_understands_nothing_is_asked_with_edns_again() {
    let with = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&with);
    let server = server(move |query| {
        count.fetch_add(usize::from(query.edns.is_some()), Relaxed);
        vec![code(query, ResponseCode::NotImp)]
    });
    let client = client(&[server.await]);
    for name in ["a.example.", "b.example."] {
        let answer = client.ask(&asked(name), None).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
    }
    assert_eq!(with.load(Relaxed), 2);
}

/// As firewalls and routers do.
#[tokio::test]
async fn where_edns_is_dropped_it_is_left_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dropped);
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..len]).unwrap();
            if query.edns.is_some() {
                count.fetch_add(1, Relaxed);
                continue;
            }
            let mut message = answer(&query, 7);
            let is_long = query.queries[0].name().to_string().starts_with("long");
            message.metadata.truncation = is_long;
            socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            if !is_long {
                continue;
            }
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut bytes).await.unwrap();
            let query = Message::from_vec(&bytes).unwrap();
            assert!(query.edns.is_none());
            let bytes = answer(&query, 8).to_vec().unwrap();
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    let client = client(&[address]);
    assert_eq!(addresses(&client.ask(&asked("a.example."), None).await), [ip(7)]);
    let before = dropped.load(Relaxed);
    let begin = Instant::now();
    for (name, last) in [("b.example.", 7), ("long.example.", 8)] {
        assert_eq!(addresses(&client.ask(&asked(name), None).await), [ip(last)], "{name}");
    }
    assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    assert_eq!(dropped.load(Relaxed), before);
}

#[tokio::test]
async fn a_lost_datagram_is_no_reason_to_leave_edns_out() {
    let first = AtomicBool::new(true);
    let server = server(move |query| match query.edns {
        Some(_) if first.swap(false, Relaxed) => Vec::new(),
        Some(_) => vec![answer(query, 7)],
        None => vec![answer(query, 66)],
    })
    .await;
    let client = client(&[server]);
    for name in ["a.example.", "b.example."] {
        assert_eq!(addresses(&client.ask(&asked(name), None).await), [ip(7)], "{name}");
    }
}

#[tokio::test]
async fn silence_becomes_servfail_in_time() {
    let client = client(&[server(|_| Vec::new()).await]);
    let begin = Instant::now();
    let message = client.ask(&asked("a.example."), None).await;
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let nobody = super::tests::client(&[]).ask(&asked("a.example."), None).await;
    assert_eq!(nobody.metadata.response_code, ResponseCode::ServFail);
}

/// A stub on this host that passes on what it is asked to a server far away: by way of us.
#[tokio::test]
async fn a_stub_that_asks_us_is_sent_to_whom_it_meant() {
    let far = server(|query| vec![answer(query, 7)]).await;
    // Not on loopback as far as the client knows.
    let original = SocketAddr::new("127.0.0.1".parse().unwrap(), far.port());
    let (questions, mut to_stub) = tokio::sync::mpsc::unbounded_channel();
    let stub = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = client(&[stub.local_addr().unwrap()]);
    let asks = Arc::clone(&client);
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        let (len, from) = stub.recv_from(&mut buffer).await.unwrap();
        questions.send(()).unwrap();
        let query = Message::from_vec(&buffer[..len]).unwrap();
        let own = Asked::own(query.queries[0].name().clone(), RecordType::A);
        assert!(asks.may_loop(&own));
        // What `join` decides, with an address that is not ours.
        let Join::Escape(server) = asks.join(&own.key(), Some("198.51.100.53:53".parse().unwrap())) else {
            panic!("it was not noticed")
        };
        assert_eq!(server, "198.51.100.53:53".parse().unwrap());
        assert!(matches!(asks.join(&own.key(), Some(server)), Join::Wait(_)), "only once");
        let found = asks.race(&own, vec![(0, Upstream::Udp(original))], Whose::Ours).await;
        let mut reply = answer(&query, 0);
        reply.answers = found.answer.answers;
        stub.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
    });
    let begin = Instant::now();
    assert_eq!(addresses(&client.ask(&asked("a.example."), None).await), [ip(7)]);
    assert!(begin.elapsed() < STAGGER);
    assert!(to_stub.recv().await.is_some());
}

#[tokio::test]
async fn the_server_that_was_asked_comes_first_where_none_is_configured() {
    let other = server(|query| vec![answer(query, 8)]).await;
    let original = server(|query| vec![answer(query, 7)]).await;
    let egress = Arc::new(Egress::unprotected_for_loopback_tests());
    let config = ClientConfig {
        upstreams: vec![Upstream::Udp(other)],
        original_first: true,
        ..ClientConfig::default()
    };
    let client = Arc::new(Client::new(egress, config));
    assert_eq!(addresses(&client.ask(&asked("a.example."), Some(original)).await), [ip(7)]);
    assert_eq!(addresses(&client.ask(&asked("b.example."), None).await), [ip(8)]);
    assert_eq!(client.order(&asked("a.example."), Some(other)).len(), 1);
}

/// Anybody may ask a server of his own, which says what he likes.
#[tokio::test]
async fn what_a_chosen_server_says_is_for_those_who_chose_it() {
    let theirs = server(|query| vec![answer(query, 66)]).await;
    let other = server(|query| vec![answer(query, 8)]).await;
    let systems = server(|query| vec![answer(query, 7)]).await;
    let config = |original_first| ClientConfig {
        upstreams: vec![Upstream::Udp(systems)],
        original_first,
        ..ClientConfig::default()
    };
    let egress = Arc::new(Egress::unprotected_for_loopback_tests());
    let client = Arc::new(Client::new(egress, config(true)));
    let name = asked("a.example.");
    // On its way, and known.
    let (first, second, third) = tokio::join!(
        client.ask(&name, Some(theirs)),
        client.ask(&name, Some(other)),
        client.resolve("a.example"),
    );
    assert_eq!((addresses(&first), addresses(&second)), (vec![ip(66)], vec![ip(8)]));
    assert!(third.unwrap().addresses.contains(&ip(7)));
    let cached = |server| client.cached(&name, server).map(|message| addresses(&message));
    assert_eq!(
        (cached(theirs), cached(other), cached(systems)),
        (Some(vec![ip(66)]), Some(vec![ip(8)]), None)
    );
    assert_eq!(client.resolve("a.example").await.unwrap().addresses[0], ip(7));
    assert_eq!(client.counters().sent, 4, "each was asked once");
    // Where the configuration says who is asked, it is the same for all.
    client.set_config(config(false));
    assert_eq!(addresses(&client.ask(&name, Some(theirs)).await), [ip(7)]);
    assert_eq!(cached(other), Some(vec![ip(7)]));
    assert!(client.flights.lock().all.is_empty() && client.flights.lock().count == 0);
}

#[tokio::test]
async fn addresses_that_lead_back_are_not_resolved_to() {
    let fake = Arc::new(AtomicBool::new(true));
    let only_fake = Arc::clone(&fake);
    let server = server(move |query| match query.queries[0].query_type() {
        RecordType::A if only_fake.load(Relaxed) => vec![answer(query, 66)],
        RecordType::A => vec![answer(query, 7)],
        _ => vec![code(query, ResponseCode::NoError)],
    })
    .await;
    let client = client(&[server]);
    client.egress.set_forbidden(vec!["192.0.2.64/26".parse().unwrap()]);
    let error = client.resolve("a.example").await.unwrap_err();
    assert!(error.to_string().contains("nothing may be sent to"), "{error}");
    fake.store(false, Relaxed);
    let found = client.resolve("b.example").await.unwrap();
    assert_eq!(found, Resolved { addresses: vec![ip(7)], ttl: Duration::from_secs(60) });
}

#[tokio::test]
async fn both_families_are_resolved() {
    let client = client(&[server(|query| vec![answer(query, 7)]).await]);
    let found = client.resolve("a.example").await.unwrap();
    assert_eq!(found.addresses, [ip(7), "2001:db8::7".parse().unwrap()]);
}

/// As some servers and firewalls drop questions for one of them.
#[tokio::test]
async fn addresses_of_one_family_do_not_wait_for_the_other() {
    for silent in [RecordType::A, RecordType::AAAA] {
        let answers = move |query: &Message| match query.queries[0].query_type() == silent {
            true => Vec::new(),
            false => vec![answer(query, 7)],
        };
        let client = client(&[server(answers).await]);
        let begin = Instant::now();
        let found = client.resolve("a.example").await.unwrap();
        assert_eq!((found.addresses.len(), found.ttl), (1, LATE_TTL));
        assert!(begin.elapsed() < PATIENCE_LOCAL, "{:?}", begin.elapsed());
    }
    // One that has no address is no reason not to wait.
    let only_ipv6 = server(|query| match query.queries[0].query_type() {
        RecordType::A => vec![code(query, ResponseCode::NoError)],
        _ => vec![answer(query, 7)],
    });
    let found = client(&[only_ipv6.await]).resolve("a.example").await.unwrap();
    assert_eq!(found.addresses, ["2001:db8::7".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn a_name_without_addresses_is_not_found() {
    let client = client(&[server(|query| vec![code(query, ResponseCode::NXDomain)]).await]);
    assert_eq!(client.resolve("a.example").await.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn the_number_of_questions_on_their_way_is_limited() {
    let client = client(&[server(|_| Vec::new()).await]);
    let landings: Vec<_> =
        (0..MOST_FLIGHTS).map(|n| client.join(&asked(&format!("{n}.example.")).key(), None)).collect();
    assert!(landings.iter().all(|join| matches!(join, Join::Lead(..))));
    let message = client.ask(&asked("one.more.example."), None).await;
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(client.counters().limited, 1);
}
