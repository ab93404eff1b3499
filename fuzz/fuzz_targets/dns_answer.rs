//! What an upstream, or somebody who pretends to be one, may send.
#![no_main]

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use libfuzzer_sys::fuzz_target;
use oneway_dns::{Unfit, accept};

fuzz_target!(|data: &[u8]| {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii("a.example.").expect("a name"), RecordType::A));
    // With our own number, so that more than the first look at it is tried.
    let mut bytes = data.to_vec();
    if let Some(id) = bytes.first_chunk_mut::<2>() {
        *id = query.metadata.id.to_be_bytes();
    }
    match accept(&query, &bytes) {
        Ok(answer) => {
            assert_eq!(answer.metadata.id, query.metadata.id);
            assert!(answer.queries.len() <= 1 && !answer.metadata.truncation);
            // What is passed on must be such that others can read it.
            if let Ok(again) = answer.to_vec() {
                let _ = Message::from_vec(&again);
            }
        }
        Err(Unfit::Foreign | Unfit::Malformed | Unfit::Truncated) => {}
    }
    let mut other = bytes;
    if let Some(id) = other.first_chunk_mut::<2>() {
        *id = query.metadata.id.wrapping_add(1).to_be_bytes();
    }
    assert_eq!(accept(&query, &other), Err(Unfit::Foreign));
});
