//! What the system's bus may say after a call.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    oneway_route::fuzzing::dbus_answer(data);
});
