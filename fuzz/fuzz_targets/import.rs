//! Configurations of Clash as users have them: whatever is printed for one is a configuration of ours, and says where
//! each thing stands that is not carried over.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use oneway::config::{Config, Options};
use oneway::import::clash;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match clash(Path::new("clash.yaml"), text) {
        Ok(imported) => {
            // Rule sets and databases are for the user to bring.
            let read = |_: &Path| Ok(b"payload: []\n".to_vec());
            let loaded =
                Config::from_toml(Path::new("oneway.toml"), &imported.toml, Options::default(), &read);
            if let Err(errors) = loaded
                && !errors.to_string().contains("mmdb")
                && !errors.to_string().contains("geosite.dat")
            {
                panic!("{errors}\n{}", imported.toml);
            }
            for note in imported.warnings.iter().chain(&imported.notes) {
                assert!(note.to_string().starts_with("clash.yaml:") && !note.to_string().contains('\n'));
            }
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
});
