//! L13: an echo request that was sent on is captured and sent on again.

use std::time::Duration;

use oneway::config::Safeguard::{Detector, Proof, Protect};
use oneway_lab::topology::address;

use super::Scene;

pub(super) fn scene() -> Scene {
    Scene {
        without: vec![Protect, Proof, Detector],
        ignite: |lab| {
            for to in address::ORIGIN.both() {
                lab.host.client().ping(to, Duration::from_millis(100))?;
            }
            Ok(2)
        },
        ..Scene::default()
    }
}
