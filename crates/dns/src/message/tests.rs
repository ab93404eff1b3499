use hickory_proto::rr::rdata::TXT;
use proptest::prelude::*;

use super::*;

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn asked(name: &str, kind: RecordType) -> Asked {
    parse_query(&question(name, kind).to_vec().unwrap()).unwrap()
}

fn code_of(refusal: Refusal) -> ResponseCode {
    match refusal {
        Refusal::Answer(bytes) => Message::from_vec(&bytes).unwrap().metadata.response_code,
        Refusal::Malformed => panic!("malformed"),
    }
}

#[test]
fn a_query_is_taken_apart() {
    let asked = asked("WWW.Example.COM.", RecordType::AAAA);
    assert_eq!(asked.host().map(|host| &**host), Some("www.example.com"));
    assert_eq!(asked.kind(), RecordType::AAAA);
    assert_eq!(asked.udp_limit(), 512);
    assert!(asked.is_internet());
}

#[test]
fn an_answer_repeats_the_question_as_it_was_written() {
    let question = question("WwW.Example.com.", RecordType::A);
    let asked = parse_query(&question.to_vec().unwrap()).unwrap();
    let bytes = asked.encode(&asked.address([192, 0, 2, 7].into(), 1), Some(512));
    let answer = Message::from_vec(&bytes).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    assert!(answer.queries[0].name().eq_case(question.queries[0].name()));
    assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
    assert_eq!(answer.answers[0].ttl, 1);
    assert_eq!(answer.answers[0].data.ip_addr(), Some([192, 0, 2, 7].into()));
    assert!(answer.edns.is_none(), "RFC 6891, 7: none where none was asked with");
}

#[test]
fn what_is_no_query_is_dropped() {
    let good = question("example.com.", RecordType::A).to_vec().unwrap();
    for len in 0..good.len() {
        assert!(parse_query(&good[..len]).is_err(), "{len}");
    }
    let mut answer = good.clone();
    answer[2] |= 0x80;
    assert_eq!(parse_query(&answer).unwrap_err(), Refusal::Malformed);
    let mut long = good.clone();
    long.resize(MAX_QUERY + 1, 0);
    assert_eq!(parse_query(&long).unwrap_err(), Refusal::Malformed);
}

#[test]
fn compression_pointers_that_go_in_circles_are_dropped() {
    let mut header = vec![0; HEADER];
    header[5] = 1;
    // To itself, to each other, forward, into the header, beyond the end.
    for name in [&[0xc0, 12][..], &[1, b'a', 0xc0, 12], &[0xc0, 14, 0xc0, 12], &[0xc0, 0], &[0xff, 0xff]] {
        let mut bytes = header.clone();
        bytes.extend_from_slice(name);
        bytes.extend([0, 1, 0, 1]);
        if let Ok(asked) = parse_query(&bytes) {
            assert!(asked.name().len() <= 255);
        }
        let mut looping = header.clone();
        looping.extend([0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(parse_query(&looping).unwrap_err(), Refusal::Malformed);
    }
}

#[test]
fn what_cannot_be_answered_is_told_so() {
    let mut bytes = question("example.com.", RecordType::A).to_vec().unwrap();
    bytes[5] = 2;
    assert_eq!(code_of(parse_query(&bytes).unwrap_err()), ResponseCode::FormErr);
    // 65,535 questions must not cost memory for them.
    bytes[4..6].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(code_of(parse_query(&bytes).unwrap_err()), ResponseCode::FormErr);
    let mut bytes = question("example.com.", RecordType::A).to_vec().unwrap();
    bytes[2] |= 4 << 3;
    assert_eq!(code_of(parse_query(&bytes).unwrap_err()), ResponseCode::NotImp);
    let bytes = question("example.com.", RecordType::AXFR).to_vec().unwrap();
    assert_eq!(code_of(parse_query(&bytes).unwrap_err()), ResponseCode::Refused);
    let mut newer = question("example.com.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    // 16 has two names; without a signature it is this one.
    let code = code_of(parse_query(&newer.to_vec().unwrap()).unwrap_err());
    assert_eq!(u16::from(code), u16::from(ResponseCode::BADVERS));
}

#[test]
fn what_is_too_long_for_udp_is_truncated_and_whole_over_tcp() {
    let asked = asked("example.com.", RecordType::TXT);
    let text = TXT::new((0..10).map(|_| "x".repeat(250)).collect());
    let message = asked.record(RData::TXT(text), 60);
    let short = Message::from_vec(&asked.encode(&message, Some(asked.udp_limit()))).unwrap();
    assert!(short.metadata.truncation && short.answers.is_empty());
    let whole = Message::from_vec(&asked.encode(&message, None)).unwrap();
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers, message.answers);
}

#[test]
fn names_that_are_no_hosts_are_not_taken_for_some() {
    assert_eq!(
        asked("_dmarc.example.com.", RecordType::TXT).host().map(|h| &**h),
        Some("_dmarc.example.com")
    );
    assert!(asked(".", RecordType::NS).host().is_none());
    let odd = Name::from_labels([&b"a b"[..], b"example"]).unwrap();
    assert!(host(&odd).is_none());
    let dotted = Name::from_labels([&b"a.b"[..], b"example"]).unwrap();
    assert!(host(&dotted).is_none(), "a dot inside a label is no separator");
}

#[test]
fn only_the_answer_to_the_question_is_accepted() {
    let query = asked("example.com.", RecordType::A).outgoing();
    let good = {
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        answer.add_queries(query.queries.iter().cloned());
        answer
    };
    assert!(accept(&query, &good.to_vec().unwrap()).is_ok());
    let mut other_id = good.clone();
    other_id.metadata.id = query.metadata.id.wrapping_add(1);
    assert_eq!(accept(&query, &other_id.to_vec().unwrap()), Err(Unfit::Foreign));
    let mut other_name = good.clone();
    other_name.queries = question("example.net.", RecordType::A).queries;
    assert_eq!(accept(&query, &other_name.to_vec().unwrap()), Err(Unfit::Foreign));
    let mut other_kind = good.clone();
    other_kind.queries = question("example.com.", RecordType::AAAA).queries;
    assert_eq!(accept(&query, &other_kind.to_vec().unwrap()), Err(Unfit::Foreign));
    let mut none = good.clone();
    none.queries.clear();
    assert_eq!(accept(&query, &none.to_vec().unwrap()), Err(Unfit::Foreign));
    none.metadata.response_code = ResponseCode::FormErr;
    assert!(accept(&query, &none.to_vec().unwrap()).is_ok());
    assert_eq!(accept(&query, &query.to_vec().unwrap()), Err(Unfit::Foreign), "a query is no answer");
    let mut cut = good.clone();
    cut.metadata.truncation = true;
    assert_eq!(accept(&query, &cut.to_vec().unwrap()), Err(Unfit::Truncated));
    assert_eq!(accept(&query, &[]), Err(Unfit::Foreign));
    let mut broken = good.to_vec().unwrap();
    broken[7] = 9;
    assert_eq!(accept(&query, &broken), Err(Unfit::Malformed));
    broken[2] |= 2;
    assert_eq!(accept(&query, &broken), Err(Unfit::Truncated));
}

#[test]
fn transaction_numbers_differ() {
    let asked = asked("example.com.", RecordType::A);
    let ids: std::collections::HashSet<_> = (0..64).map(|_| asked.outgoing().metadata.id).collect();
    assert!(ids.len() > 32);
}

/// Bytes of a query or an answer with some of them changed, or any bytes.
fn noise(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let changed = (changes, any::<prop::sample::Index>()).prop_map(move |(changes, end)| {
        let mut bytes = good.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let end = end.index(2 * bytes.len());
        bytes.truncate(end);
        bytes
    });
    prop_oneof![3 => changed, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    #[test]
    fn any_bytes_of_a_client_are_answered_or_dropped(
        bytes in noise(question("www.example.com.", RecordType::HTTPS).to_vec().unwrap())
    ) {
        match parse_query(&bytes) {
            Ok(asked) => {
                let answer = asked.encode(&asked.code(ResponseCode::NXDomain), Some(asked.udp_limit()));
                prop_assert_eq!(&answer[..2], &bytes[..2]);
                prop_assert!(Message::from_vec(&answer).is_ok());
            }
            Err(Refusal::Answer(answer)) => prop_assert!(Message::from_vec(&answer).is_ok()),
            Err(Refusal::Malformed) => {}
        }
    }

    #[test]
    fn any_bytes_of_an_upstream_are_taken_or_dropped(
        bytes in noise({
            let asked = asked("a.example.", RecordType::A);
            asked.address([192, 0, 2, 7].into(), 60).to_vec().unwrap()
        })
    ) {
        let mut query = asked("a.example.", RecordType::A).outgoing();
        if let Some(id) = bytes.first_chunk::<2>() {
            query.metadata.id = u16::from_be_bytes(*id);
        }
        if let Ok(answer) = accept(&query, &bytes) {
            prop_assert_eq!(answer.metadata.id, query.metadata.id);
            let asked = asked("a.example.", RecordType::A);
            let relayed = asked.encode(&asked.relay(answer), Some(512));
            prop_assert!(relayed.len() <= 512);
            prop_assert!(Message::from_vec(&relayed).is_ok());
        }
    }
}
