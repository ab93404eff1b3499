//! L1: connections to the proxy server are captured, and sent to the proxy server.

use oneway::config::Safeguard::{Detector, Proof, Protect};
use oneway_lab::servers::origin;
use oneway_lab::topology::{address, port};

use super::{Scene, dial, words};

pub(super) fn scene() -> Scene {
    let proxy = format!("socks5://{}", address::SOCKS.v4_port(port::SOCKS));
    Scene {
        options: words(&["--proxy", &proxy]),
        without: vec![Protect, Proof, Detector],
        ignite: |lab| dial(lab, &address::ORIGIN.ports(origin::port::HTTP)),
        ..Scene::default()
    }
}
