//! L5: the default routes vanish, as with a sleeping laptop, and the only device left that leads anywhere is the TUN.

use std::thread;
use std::time::Duration;

use oneway::config::Safeguard::{Detector, Proof, Uplink};
use oneway_lab::servers::origin;
use oneway_lab::topology::{Simple, address};
use oneway_lab::{LabError, Route};

use super::{Scene, dial, send, words};

pub(super) fn scene() -> Scene {
    Scene {
        options: words(&["--protect", "bind"]),
        without: vec![Uplink, Proof, Detector],
        ignite: |lab| {
            routes().into_iter().try_for_each(|route| lab.host.delete_route(&route))?;
            let mut sent = 0;
            // Until the watch has seen it.
            for _ in 0..5 {
                thread::sleep(Duration::from_millis(80));
                sent += send(lab, &address::ORIGIN.ports(origin::port::ECHO))?;
            }
            Ok(sent + dial(lab, &address::ORIGIN.ports(origin::port::HTTP))?)
        },
        tidy: restore,
        ..Scene::default()
    }
}

fn routes() -> Vec<Route> {
    let defaults = address::R1_LAN.both().into_iter();
    defaults.map(|gateway| Route::default_by(gateway).dev(Simple::UP1).metric(100)).collect()
}

fn restore(lab: &Simple) -> Result<(), LabError> {
    routes().into_iter().try_for_each(|route| lab.host.add_route(&route))
}
