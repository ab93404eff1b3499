//! Rules and routes in the words of `ip rule` and `ip route`.

use std::fmt::Write as _;

use crate::host::{Route, Rule, RuleAction, Snapshot};
use crate::query::RouteKind;

/// A rule as `ip rule` lists it.
pub fn rule_words(rule: &Rule) -> String {
    let mut text = format!("{}:", rule.priority);
    // Writing to a String does not fail.
    if rule.invert {
        text.push_str(" not");
    }
    let _ = match rule.src {
        Some(net) => write!(text, " from {net}"),
        None => write!(text, " from all"),
    };
    for (word, value) in [
        ("to", rule.dst.map(|n| n.to_string())),
        ("iif", rule.iif.clone()),
        ("oif", rule.oif.clone()),
        ("fwmark", rule.fwmark.map(|(mark, mask)| format!("{mark}/{mask:#x}"))),
        ("uidrange", rule.uids.map(|(first, last)| format!("{first}-{last}"))),
        ("sport", rule.sports.map(|(first, last)| format!("{first}-{last}"))),
        ("ipproto", rule.ip_protocol.map(|protocol| protocol.to_string())),
        ("dport", rule.dports.map(|(first, last)| format!("{first}-{last}"))),
    ] {
        if let Some(value) = value {
            let _ = write!(text, " {word} {value}");
        }
    }
    let _ = match rule.action {
        RuleAction::Lookup(table) => write!(text, " lookup {table}"),
        RuleAction::Goto(priority) => write!(text, " goto {priority}"),
        RuleAction::Nop => write!(text, " nop"),
        RuleAction::Blackhole => write!(text, " blackhole"),
        RuleAction::Unreachable => write!(text, " unreachable"),
        RuleAction::Prohibit => write!(text, " prohibit"),
        RuleAction::Other(n) => write!(text, " type {n}"),
    };
    for (word, value) in
        [("suppress_prefixlength", rule.suppress_prefixlength), ("suppress_ifgroup", rule.suppress_ifgroup)]
    {
        if let Some(value) = value {
            let _ = write!(text, " {word} {value}");
        }
    }
    for other in &rule.other {
        let _ = write!(text, " [{other}]");
    }
    text
}

/// A route as `ip route` lists it, with its table.
pub fn route_words(host: &Snapshot, route: &Route) -> String {
    let mut text = match route.kind {
        RouteKind::Unicast => String::new(),
        kind => format!("{kind:?} ").to_lowercase(),
    };
    // Writing to a String does not fail.
    let _ = match route.dst.prefix_len() {
        0 => write!(text, "default"),
        n if n == route.dst.max_prefix_len() => write!(text, "{}", route.dst.addr()),
        _ => write!(text, "{}", route.dst),
    };
    let name = |index| host.link_at(index).map_or_else(|| format!("if{index}"), |l| l.name.clone());
    for (oif, gateway) in super::hops(route) {
        if let Some(gateway) = gateway {
            let _ = write!(text, " via {gateway}");
        }
        let _ = write!(text, " dev {}", name(oif));
    }
    let _ = write!(text, " table {}", route.table);
    if let Some(src) = route.prefsrc {
        let _ = write!(text, " src {src}");
    }
    if route.metric != 0 {
        let _ = write!(text, " metric {}", route.metric);
    }
    text
}
