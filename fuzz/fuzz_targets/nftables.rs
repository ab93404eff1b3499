//! What the kernel may say of the packet filter's tables.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    oneway_route::fuzzing::nftables(data);
});
