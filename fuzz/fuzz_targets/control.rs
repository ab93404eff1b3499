//! What comes by the control socket: requests to an instance, and its answers to the command line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneway::control::{ControlReply, ControlRequest};

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<ControlRequest>(data) {
        let again = serde_json::to_vec(&request).expect("a request is text and numbers");
        assert_eq!(serde_json::from_slice::<ControlRequest>(&again).expect("our own"), request);
    }
    if let Ok(reply) = serde_json::from_slice::<ControlReply>(data) {
        let again = serde_json::to_vec(&reply).expect("a reply is text and numbers");
        let _ = serde_json::from_slice::<ControlReply>(&again);
    }
});
