//! Setting up a network namespace of one program's own: nothing was there before, and it goes with the program.

use ipnet::IpNet;

use crate::change::{Change, RouteSpec};
use crate::error::RouteError;
use crate::id::{Family, Table};
use crate::os;

/// What the kernel gives `lo` (`loopback_setup`, drivers/net/loopback.c).
const LOOPBACK_MTU: u32 = 65_536;

/// Brings `lo` and the device `tun` up in the calling thread's network namespace, gives the device its addresses, and leads
/// everything to it, in the families of these addresses, with that congestion control if it is given. Returns those that it has; IPv6 may be switched off.
///
/// # Errors
/// The step that failed.
pub fn furnish(
    tun: &str,
    mtu: u32,
    addresses: &[IpNet],
    congestion: Option<&str>,
) -> Result<Vec<IpNet>, RouteError> {
    for (name, mtu) in [("lo", LOOPBACK_MTU), (tun, mtu)] {
        os::make(&Change::Link { name: name.to_owned(), mtu, before: None })?;
    }
    let mut done = Vec::new();
    for net in addresses {
        let family = Family::of_net(*net);
        let way = RouteSpec {
            dev: Some(tun.to_owned()),
            congestion: congestion.map(str::to_owned),
            ..RouteSpec::throw(Table::MAIN, family.everything())
        };
        let address = Change::Address { name: tun.to_owned(), net: *net };
        match os::make(&address).and_then(|()| os::make(&Change::Route(way))) {
            Ok(()) => done.push(*net),
            Err(error) if family == Family::V6 => tracing::info!("no IPv6 here: {error}"),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
