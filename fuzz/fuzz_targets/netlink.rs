//! What the kernel may say of links, addresses, routes, rules and sockets. The first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 3 {
        0 => oneway_route::fuzzing::routing(bytes),
        1 => oneway_route::fuzzing::sockets(bytes),
        _ => oneway_flow::fuzzing::sockets(bytes),
    }
});
