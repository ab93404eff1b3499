//! Files of `/proc`, with names in them that programs and administrators choose. The first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 2 {
        0 => oneway_flow::fuzzing::files(bytes),
        _ => oneway_route::fuzzing::mountinfo(&String::from_utf8_lossy(bytes)),
    }
});
