//! L11: another program's rule, before all others, leads marked packets into our device as well.

use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use oneway::config::Safeguard::{Detector, Proof};
use oneway_lab::servers::origin;
use oneway_lab::topology::{Simple, address};
use oneway_lab::{LabError, Route, Rule};

use super::{Scene, dial, send};

/// A table that nobody else uses.
const TABLE: u32 = 999;

pub(super) fn scene() -> Scene {
    Scene {
        without: vec![Proof, Detector],
        ignite: |lab| {
            routes().iter().try_for_each(|route| lab.host.add_route(route))?;
            rules().iter().try_for_each(|rule| lab.host.add_rule(rule))?;
            // The watch has heard of it by then.
            thread::sleep(Duration::from_millis(400));
            let sent = send(lab, &address::ORIGIN.ports(origin::port::ECHO))?;
            Ok(sent + dial(lab, &address::ORIGIN.ports(origin::port::HTTP))?)
        },
        tidy,
        ..Scene::default()
    }
}

fn routes() -> [Route; 2] {
    let any = [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())];
    any.map(|net| Route::to(net).dev("oneway0").table(TABLE))
}

fn rules() -> [Rule; 2] {
    [false, true].map(|ipv6| Rule { ipv6, priority: 1, table: TABLE, ..Rule::default() })
}

fn tidy(lab: &Simple) -> Result<(), LabError> {
    rules().iter().try_for_each(|rule| lab.host.delete_rule(rule))?;
    routes().iter().try_for_each(|route| lab.host.delete_route(route))
}
