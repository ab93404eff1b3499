//! What a client's DNS query becomes, and the answers to it.
#![no_main]

use hickory_proto::op::{Message, ResponseCode};
use libfuzzer_sys::fuzz_target;
use oneway_dns::{MAX_QUERY, Refusal, parse_query};

fuzz_target!(|data: &[u8]| match parse_query(data) {
    Ok(asked) => {
        assert!(data.len() <= MAX_QUERY);
        assert!((512..=4096).contains(&asked.udp_limit()));
        if let Some(host) = asked.host() {
            assert!(!host.is_empty() && host.len() <= 253);
            assert!(host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)));
        }
        // Whatever was asked can be answered, and the answer says to what.
        let answer = asked.code(ResponseCode::NXDomain);
        let bytes = answer.to_vec().expect("our own answer");
        let again = Message::from_vec(&bytes).expect("our own answer");
        assert_eq!(again.queries, answer.queries);
        assert_eq!(&bytes[..2], &data[..2], "the number is the client's");
    }
    Err(Refusal::Answer(bytes)) => {
        let answer = Message::from_vec(&bytes).expect("our own answer");
        assert_ne!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(bytes.len() <= 12 + 255 + 4 + 11, "an answer without records");
    }
    Err(Refusal::Malformed) => {}
});
