//! L8: a fake address that stands for nothing (any more) is dialled as if somebody had it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use oneway::config::Safeguard::{Detector, Egress, FakeIp, Proof, Protect};

use super::{Scene, dial, send, words};

/// Of the default range; no name has been asked for.
const STALE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 77, 77));

pub(super) fn scene() -> Scene {
    Scene {
        options: words(&["--dns", "fake-ip"]),
        without: vec![FakeIp, Egress, Protect, Proof, Detector],
        ignite: |lab| {
            let sent = send(lab, &[SocketAddr::new(STALE, 7)])?;
            Ok(sent + dial(lab, &[SocketAddr::new(STALE, 80)])?)
        },
        ..Scene::default()
    }
}
