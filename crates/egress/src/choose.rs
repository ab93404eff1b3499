//! Picks the protection that works on this host.

use std::sync::Arc;

use oneway_route::Mark;

use crate::{Egress, EgressError, HostRoute, Namespace, Protect, SourceRule, Strategy, UplinkPair};

/// The chosen protection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What to give to [`Egress::new`].
    pub strategy: Strategy,
    /// One sentence on why, for `plan`, `doctor` and the log.
    pub why: String,
}

/// What there is to protect with.
#[derive(Clone, Debug)]
pub struct Means<'a> {
    /// The mark that the capture's rule lets pass.
    pub mark: Mark,
    /// What to bind to, if there is an uplink.
    pub uplink: Option<&'a UplinkPair>,
    /// Whether the user named the uplink, be it there or not. A mark follows the host's routes to whatever uplink is
    /// best, so only a bound socket keeps to a pinned one.
    pub pinned: bool,
    /// The addresses and ports that the capture's rule lets pass.
    pub source: Option<SourceRule>,
    /// The servers that have host routes.
    pub servers: Option<HostRoute>,
    /// The namespace that is not captured.
    pub namespace: Option<&'a Arc<Namespace>>,
}

impl<'a> Means<'a> {
    /// A mark, and an uplink to bind to.
    pub fn new(mark: Mark, uplink: Option<&'a UplinkPair>) -> Self {
        Self { mark, uplink, pinned: false, source: None, servers: None, namespace: None }
    }
}

/// Picks a strategy and proves on a real socket of each family that it takes and reads back.
///
/// # Errors
/// [`EgressError::Protect`] if what was asked for (or, for `auto`, everything) fails on this host;
/// [`EgressError::Unsupported`] for a mechanism that lacks its means.
pub fn choose(protect: Protect, means: &Means<'_>) -> Result<Choice, EgressError> {
    let (mark, uplink) = (means.mark, means.uplink);
    match protect {
        Protect::Mark => try_mark(Strategy::Mark(mark), mark),
        Protect::MarkTerminal => try_mark(Strategy::MarkTerminal(mark), mark),
        Protect::MarkIfgroup => try_mark(Strategy::MarkIfgroup(mark), mark),
        Protect::Bind => try_bind(uplink, "asked for with --protect bind"),
        Protect::Auto => match (means.namespace, means.pinned) {
            (Some(_), _) => try_netns(means, "the configuration names a namespace, and nothing is stronger"),
            (None, true) => try_bind(
                uplink,
                "the uplink is pinned, and a mark alone would follow the host's routes elsewhere",
            ),
            (None, false) => match try_mark(Strategy::Mark(mark), mark) {
                Ok(mut choice) => {
                    choice.why.push_str(
                        "; the strongest that goes on as the host's routes and other programs' rules change: bind is tied \
                         to one uplink, netns needs a namespace",
                    );
                    Ok(choice)
                }
                Err(no_mark) => try_bind(uplink, &format!("second choice: {no_mark}")),
            },
        },
        Protect::SourceRule => match &means.source {
            Some(rule) => try_source_rule(rule),
            None => Err(unsupported(protect, "there is no right to make rules; use --protect bind")),
        },
        Protect::HostRoute | Protect::HostRouteHalves => match &means.servers {
            Some(rule) => Ok(Choice {
                strategy: Strategy::HostRoute(rule.clone()),
                why: format!(
                    "sockets go to {} servers alone, and before each is made the kernel says that it takes the host route \
                     of table {}",
                    rule.servers.len(),
                    rule.table
                ),
            }),
            None => Err(unsupported(protect, "there is no right to make routes; use --protect bind")),
        },
        Protect::Netns => try_netns(means, "asked for with --protect netns"),
    }
}

fn try_mark(strategy: Strategy, mark: Mark) -> Result<Choice, EgressError> {
    trial(&strategy)?;
    Ok(Choice { why: format!("SO_MARK can be set and reads back as {:#x}", mark.0), strategy })
}

fn try_source_rule(rule: &SourceRule) -> Result<Choice, EgressError> {
    let strategy = Strategy::SourceRule(rule.clone());
    if strategy.is_unbound() {
        let why = "there is no uplink with an address yet, and no socket is made before there is".to_owned();
        return Ok(Choice { strategy, why });
    }
    let (first, last) = rule.sources.ports;
    let absent = |what: &str| {
        let v6 = what.ends_with("v6");
        v6 && rule.sources.v6.is_none() || !v6 && rule.sources.v4.is_none()
    };
    let egress = Egress::new(strategy.clone(), Vec::new())?;
    for test in egress.self_test() {
        match test.result {
            Err(EgressError::Create { .. } | EgressError::Unsupported { .. }) | Ok(()) => {}
            // A family without an uplink is no obstacle to the other one.
            Err(_) if absent(test.what) => {}
            Err(protect) => return Err(protect),
        }
    }
    Ok(Choice {
        strategy,
        why: format!("the address and a port of {first}-{last} can be bound and read back"),
    })
}

fn try_netns(means: &Means<'_>, because: &str) -> Result<Choice, EgressError> {
    let Some(namespace) = means.namespace else {
        return Err(unsupported(
            Protect::Netns,
            "name the namespace with egress.netns, or use --protect mark",
        ));
    };
    let strategy = Strategy::Netns(Arc::clone(namespace));
    trial(&strategy)?;
    let why = format!("sockets made in {} read back as of that namespace; {because}", namespace.name());
    Ok(Choice { strategy, why })
}

fn try_bind(uplink: Option<&UplinkPair>, because: &str) -> Result<Choice, EgressError> {
    let Some(uplink) = uplink else {
        let why =
            format!("there is no uplink to bind to yet, and no socket is made before there is; {because}");
        return Ok(Choice { strategy: Strategy::unbound(), why });
    };
    let strategy = Strategy::Bind(uplink.clone());
    trial(&strategy)?;
    Ok(Choice { why: format!("SO_BINDTODEVICE reads back as {uplink}; {because}"), strategy })
}

/// Applies the strategy to throw-away sockets. A family that the host does not have proves nothing either way.
fn trial(strategy: &Strategy) -> Result<(), EgressError> {
    let egress = Egress::new(strategy.clone(), Vec::new())?;
    for test in egress.self_test() {
        match test.result {
            Err(EgressError::Create { .. } | EgressError::Unsupported { .. }) | Ok(()) => {}
            Err(protect) => return Err(protect),
        }
    }
    Ok(())
}

fn unsupported(protect: Protect, instead: &'static str) -> EgressError {
    EgressError::Unsupported { what: format!("--protect {protect}"), instead }
}
