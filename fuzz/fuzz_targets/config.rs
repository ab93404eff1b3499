//! `oneway.toml` as users write it: each error names its place, and none is a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use oneway::config::{Config, Options};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Authorities are read from where they are said to be, which may be a device without an end.
    if text.contains("ca") && text.contains('/') {
        return;
    }
    let read = |_: &Path| Ok(b"DOMAIN,a.example,direct\n".to_vec());
    if let Err(errors) = Config::from_toml(Path::new("oneway.toml"), text, Options::default(), &read) {
        assert!(!errors.to_string().is_empty());
    }
});
