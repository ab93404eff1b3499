//! From what the configuration asks for to what the route planner and the maker of sockets are told.

use std::sync::Arc;

use oneway_egress::{HostRoute, Namespace, Protect as Asked, SourceRule, Uplink, UplinkPair};
use oneway_route::{Family, NftSupport, Plan, Protect, Snapshot, Uplinks};

use crate::assemble;
use crate::config::Config;
use crate::error::EngineError;

/// The protection that is planned for first. `auto` may still fall back to another one.
pub(super) fn planned_for(asked: Asked, has_namespace: bool) -> Protect {
    match asked {
        Asked::Auto if has_namespace => Protect::Netns,
        Asked::Auto | Asked::Mark => Protect::Mark,
        Asked::MarkTerminal => Protect::MarkTerminal,
        Asked::MarkIfgroup => Protect::MarkIfgroup,
        Asked::Bind => Protect::Bind,
        Asked::SourceRule => Protect::SourceRule,
        Asked::HostRoute => Protect::HostRoute,
        Asked::HostRouteHalves => Protect::HostRouteHalves,
        Asked::Netns => Protect::Netns,
    }
}

/// What is left with a device that was handed over and no right to make routes and rules.
pub(super) fn without_rights(asked: Asked, has_namespace: bool) -> Result<Asked, EngineError> {
    match asked {
        Asked::Auto if has_namespace => Ok(Asked::Netns),
        Asked::Auto => Ok(Asked::Bind),
        Asked::MarkTerminal
        | Asked::MarkIfgroup
        | Asked::SourceRule
        | Asked::HostRoute
        | Asked::HostRouteHalves => Err(EngineError::Unsupported {
            what: format!("--protect {asked}"),
            where_: "without CAP_NET_ADMIN, which its rules and routes need",
            instead: "grant it, or use --protect bind",
        }),
        asked => Ok(asked),
    }
}

/// Whether our own sockets are to be made in another namespace.
pub(super) fn is_elsewhere(config: &Config) -> bool {
    let wanted = matches!(assemble::protect(config), Asked::Auto | Asked::Netns);
    wanted && config.egress.netns.is_some()
}

/// Enters the namespace that our own sockets are to be made in, if there is to be one.
///
/// # Errors
/// [`EngineError::Egress`] if it cannot be entered; [`EngineError::Unsupported`] if what is sent there may come back.
pub(super) fn namespace(config: &Config) -> Result<Option<Arc<Namespace>>, EngineError> {
    let Some(name) = config.egress.netns.as_ref().filter(|_| is_elsewhere(config)) else { return Ok(None) };
    let namespace = Arc::new(Namespace::open(name.as_str())?);
    // By such a device it is this host that carries it on, as anything that it forwards.
    if config.capture.forwarded {
        let there = look(&namespace)?;
        if let Some(link) = there.links.iter().find(|link| link.up && link.kind.as_deref() == Some("veth")) {
            return Err(EngineError::Unsupported {
                what: format!(
                    "--protect netns with --forwarded, where {} leaves {} by this host,",
                    link.name,
                    name.as_str()
                ),
                where_: "as what this host carries on is captured, too",
                instead: "leave --forwarded out, or use --protect mark",
            });
        }
    }
    Ok(Some(namespace))
}

/// What another namespace looks like.
pub(crate) fn look(namespace: &Namespace) -> Result<Snapshot, EngineError> {
    Ok(namespace.run(|| Snapshot::take_again(NftSupport::Unknown))??)
}

/// What sockets are bound to by a plan for that.
pub(super) fn source_rule(plan: &Plan) -> Option<SourceRule> {
    let devices = Family::ALL.map(|family| plan.uplinks.get(family).map(Uplink::from));
    plan.sources.map(|sources| SourceRule { sources, devices })
}

/// What sockets are bound to where a device is what protects them.
pub(super) fn uplinks(found: &Uplinks) -> Option<UplinkPair> {
    let [v4, v6] = Family::ALL.map(|family| found.get(family).map(Uplink::from));
    UplinkPair::new(v4, v6)
}

/// The servers of a plan that has host routes.
pub(super) fn host_route(plan: &Plan) -> Option<HostRoute> {
    let servers = || Arc::new(plan.servers.iter().copied().collect());
    plan.protect.is_host_route().then(|| HostRoute {
        table: plan.table,
        tun: plan.tun_name.clone(),
        halves: plan.protect == Protect::HostRouteHalves,
        servers: servers(),
    })
}
