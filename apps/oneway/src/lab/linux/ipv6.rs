//! L4: what keeps IPv4 out of the capture was forgotten for IPv6.

use oneway::config::Safeguard::{Detector, Proof, ProtectIpv6};
use oneway_lab::servers::origin;
use oneway_lab::topology::address;

use super::{Scene, send};

pub(super) fn scene() -> Scene {
    Scene {
        without: vec![ProtectIpv6, Proof, Detector],
        ignite: |lab| send(lab, &[address::ORIGIN.v6_port(origin::port::ECHO)]),
        ..Scene::default()
    }
}
