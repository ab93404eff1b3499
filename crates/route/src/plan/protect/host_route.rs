//! `host-route`: our sockets go to the servers only, and our table has a host route for each beside the default route into
//! the capture device.
//!
//! Behind each stands an `unreachable` of a worse metric. The kernel removes a route when its device goes down: without the
//! other one, what is meant for the server would go into the capture device then.

use ipnet::IpNet;

use super::{Draft, PlanError, Protect, Step, refuse, step};
use crate::change::{Change, RouteSpec};
use crate::host::Route;
use crate::id::Table;
use crate::model::{Packet, decide};
use crate::plan::Uplink;
use crate::plan::capture::SPARE_METRIC;
use crate::query::{RouteKind, RouteQuery};

pub(super) const WHY_CAPTURED: &str =
    "captures all but what our table has host routes for: the servers, to which alone our own sockets go";

/// Better than every other: IPv6 takes 0 for 1024.
const METRIC: u32 = 1;
/// Each needs two routes.
const MOST: usize = 1_024;

pub(super) fn prepare(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let servers = draft.request.servers.len();
    if servers > MOST {
        return Err(refuse(
            Protect::HostRoute,
            format!("there are {servers} servers, and {MOST} is the most"),
            "--protect mark",
        ));
    }
    draft.notes.push(
        "what other programs send to the servers' addresses is not captured either: a host route does not tell who sends"
            .to_owned(),
    );
    Ok(())
}

pub(super) fn routes(draft: &Draft<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for server in &draft.request.servers {
        let Ok(dst) = IpNet::new(*server, if server.is_ipv4() { 32 } else { 128 }) else { continue };
        // The way that the host has without us.
        let outcome = decide(draft.host, &Packet::of(&RouteQuery::to(*server), 0)).into_iter().next();
        let here = draft.host.addresses.iter().any(|a| a.net.addr() == *server)
            || outcome.as_ref().is_some_and(|o| o.answer.kind == RouteKind::Local);
        if here || server.is_loopback() {
            continue;
        }
        let way = outcome.filter(|o| o.answer.kind == RouteKind::Unicast && o.answer.oif_name != draft.tun);
        if let Some(outcome) = way {
            let route = outcome.route.and_then(|index| draft.host.routes.get(index));
            let spec = RouteSpec { metric: METRIC, ..RouteSpec::throw(draft.table, dst) };
            let spec = match past(draft, route) {
                Some(uplink) => RouteSpec { dev: Some(uplink.name.clone()), gateway: uplink.gateway, ..spec },
                None => RouteSpec {
                    dev: Some(outcome.answer.oif_name),
                    gateway: outcome.answer.gateway,
                    src: route.and_then(|route| route.prefsrc),
                    ..spec
                },
            };
            steps.push(step(
                Change::Route(spec),
                "a server that our own sockets go to, by the way of this host",
            ));
        }
        let refuse = RouteSpec { refuses: true, metric: SPARE_METRIC, ..RouteSpec::throw(draft.table, dst) };
        steps.push(step(
            Change::Route(refuse),
            "nothing is sent to the server while its gateway is lost, and so nothing into the capture device",
        ));
    }
    steps
}

/// The uplink, if the host's own choice is a default route of main that leads nowhere, and there is a better one (S8).
fn past<'a>(draft: &'a Draft<'_>, route: Option<&Route>) -> Option<&'a Uplink> {
    let route = route.filter(|route| route.table == Table::MAIN && route.dst.prefix_len() == 0)?;
    let link = draft.host.link_at(route.oif?).filter(|link| draft.host.leads_nowhere(link))?;
    draft.uplinks.get(route.family()).filter(|uplink| uplink.index != link.index)
}

pub(super) fn explanation(draft: &Draft<'_>) -> String {
    format!(
        "our own sockets go to {} servers alone and are refused to all else; table {} has a host route to each, which is \
         more specific than the route into {}, and an unreachable route behind it for when the gateway is lost",
        draft.request.servers.len(),
        draft.table,
        draft.tun
    )
}
