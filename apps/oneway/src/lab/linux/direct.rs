//! L2: what is sent out directly is captured again.

use oneway::config::Safeguard::{Detector, Proof, Protect};
use oneway_lab::servers::origin;
use oneway_lab::topology::address;

use super::{Scene, dial, send};

pub(super) fn scene() -> Scene {
    Scene {
        without: vec![Protect, Proof, Detector],
        ignite: |lab| {
            let sent = send(lab, &address::ORIGIN.ports(origin::port::ECHO))?;
            Ok(sent + dial(lab, &address::ORIGIN.ports(origin::port::HTTP))?)
        },
        ..Scene::default()
    }
}
