//! Files that this program has written and finds again, and those of the system that it reads. The first byte says which.
#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use oneway_dns::{FakeIp, FakeIpConfig, Patterns, hosts, nameservers};
use oneway_route::Undo;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    match kind % 4 {
        0 => fake_addresses(bytes),
        1 => {
            // A line of the journal.
            if let Ok(undo) = serde_json::from_slice::<Undo>(bytes) {
                let again = serde_json::to_vec(&undo).expect("an undo is text and numbers");
                assert_eq!(serde_json::from_slice::<Undo>(&again).expect("our own"), undo);
            }
        }
        2 => {
            let _ = nameservers(&text);
            oneway_route::fuzzing::resolv_conf(&text);
        }
        _ => drop(hosts(&text, "a.example")),
    }
});

/// The addresses that were given out, in a file that somebody may have written into.
fn fake_addresses(bytes: &[u8]) {
    let path: PathBuf = format!("/dev/shm/oneway-fuzz-{}.fake-ip", std::process::id()).into();
    std::fs::write(&path, bytes).expect("a file in memory");
    let open = || {
        FakeIp::new(FakeIpConfig {
            v4: Some("198.18.0.0/24".parse().expect("a network")),
            v6: None,
            exclude: Patterns::default(),
            file: Some(path.clone()),
            place: "x".into(),
        })
        .expect("a pool that is large enough")
    };
    let fake = open();
    let names = |fake: &FakeIp| (0..=255).map(|n| fake.name([198, 18, 0, n].into())).collect::<Vec<_>>();
    let found = names(&fake);
    assert!(found.iter().flatten().count() == fake.len() && fake.len() <= 254);
    // What was taken over is written again, and found again.
    drop(fake);
    assert_eq!(names(&open()), found);
    for ending in ["fake-ip", "fake-ip.corrupt", "fake-ip.new"] {
        let _ = std::fs::remove_file(path.with_extension(ending));
    }
}
