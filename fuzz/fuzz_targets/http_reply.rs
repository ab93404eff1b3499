//! What an HTTP proxy answers to CONNECT, however its bytes are cut.
#![no_main]

mod drive;

use drive::drive;
use libfuzzer_sys::fuzz_target;
use oneway_flow::Target;
use oneway_outbound::{Credentials, HttpConnect, Status, parse_response};

fuzz_target!(|data: &[u8]| {
    let target = Target::from_addr(([192, 0, 2, 1], 443).into());
    let credentials = Credentials::new("user", "password").expect("short");
    for credentials in [None, Some(&credentials)] {
        let make = || HttpConnect::connect(&target, credentials).expect("an address");
        assert_eq!(drive(&mut make(), false, data, 1), drive(&mut make(), false, data, usize::MAX));
    }
    if let Ok(Status::Complete { len, .. }) = parse_response(data) {
        assert!(len <= data.len());
    }
});
