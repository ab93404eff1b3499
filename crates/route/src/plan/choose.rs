//! Free numbers and names: what nobody on this host uses yet.

use super::{PlanError, Request};
use crate::host::{Route, Rule, RuleAction, Snapshot};
use crate::id::{Family, Mark, Priority, Table};
use crate::query::RouteKind;

/// Our tables are looked for from here on: far from 51820 (wg-quick), 52 (Tailscale), 100 and up (by
/// hand), 1000 and up (VRFs, netplan).
const FIRST_TABLE: u32 = 16_200;
const TABLES: u32 = 1_000;
/// `main` is asked at this priority on a host that nobody changed (`fib_default_rules_init`).
const MAIN_PRIORITY: u32 = 32_766;

/// Bits in the order they are tried. The high byte's low nibble and bit 28 and 29 first: Tailscale
/// uses 0x00ff0000, Kubernetes 0x4000 and 0x8000, Cilium 0x0f00, wg-quick the number 0xca6c; Calico
/// may use any of the upper half, Android the lower.
const MARKS: [u32; 12] = [
    0x1000_0000,
    0x2000_0000,
    0x0400_0000,
    0x0800_0000,
    0x4000_0000,
    0x0200_0000,
    0x0100_0000,
    0x8000_0000,
    0x1000,
    0x2000,
    0x1,
    0x2,
];

/// The device's name.
pub(super) fn tun_name(request: &Request, host: &Snapshot) -> Result<String, PlanError> {
    let Some(name) = &request.tun_name else {
        if !request.device_is_ours {
            return Err(PlanError::NoSuchTun(None));
        }
        let free = (0..).map(|n| format!("oneway{n}")).find(|n| host.link(n).is_none());
        return free.ok_or(PlanError::NoSuchTun(None));
    };
    // `dev_valid_name`, net/core/dev.c.
    let bad = name.is_empty()
        || name.len() > 15
        || matches!(name.as_str(), "." | "..")
        || name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c == '\0');
    if bad {
        return Err(PlanError::BadTunName(name.clone()));
    }
    match host.link(name) {
        Some(link) if link.kind.as_deref() != Some("tun") && request.device_is_ours => {
            Err(PlanError::TunNameTaken(name.clone()))
        }
        None if !request.device_is_ours => Err(PlanError::NoSuchTun(Some(name.clone()))),
        Some(link) if !link.up && !request.device_is_ours => Err(PlanError::TunDown(name.clone())),
        _ => Ok(name.clone()),
    }
}

/// The bits of packet marks that a rule looks at. A rule that compares the whole mark with a number
/// looks at the bits of that number: a mark of another bit alone is never equal.
fn bits(rule: &Rule) -> u32 {
    match rule.fwmark {
        Some((Mark(mark), u32::MAX)) => mark,
        Some((Mark(mark), mask)) => mark | mask,
        None => 0,
    }
}

/// Our bit and a second free one for the rehearsal.
pub(super) fn marks(request: &Request, host: &Snapshot) -> Result<(Mark, Mark), PlanError> {
    let used = host.rules.iter().fold(0, |used, rule| used | bits(rule));
    let mut free = MARKS.iter().copied().filter(|bit| used & bit == 0);
    let ours = match request.mark {
        Some(mark) if mark.0.count_ones() != 1 => return Err(PlanError::NotOneBit(mark)),
        Some(mark) => match host.rules.iter().find(|r| bits(r) & mark.0 != 0) {
            Some(rule) => return Err(PlanError::MarkInUse { mark, rule: rule.priority.0 }),
            None => mark,
        },
        None => Mark(free.next().ok_or(PlanError::NoFreeMark)?),
    };
    let second = free.find(|bit| *bit != ours.0).ok_or(PlanError::NoFreeMark)?;
    Ok((ours, Mark(second)))
}

/// Another free bit than these.
pub(super) fn mark_but(host: &Snapshot, taken: [Mark; 2]) -> Result<Mark, PlanError> {
    let used = host.rules.iter().fold(taken[0].0 | taken[1].0, |used, rule| used | bits(rule));
    MARKS.into_iter().find(|bit| used & bit == 0).map(Mark).ok_or(PlanError::NoFreeMark)
}

/// A table that holds nothing and that nobody asks.
pub(super) fn table(host: &Snapshot) -> Result<Table, PlanError> {
    table_but(host, Table::MAIN)
}

/// Another one than this.
pub(super) fn table_but(host: &Snapshot, taken: Table) -> Result<Table, PlanError> {
    (FIRST_TABLE..FIRST_TABLE + TABLES)
        .map(Table)
        .find(|t| {
            *t != taken
                && host.routes.iter().all(|r| r.table != *t)
                && host.rules.iter().all(|r| r.action != RuleAction::Lookup(*t))
        })
        .ok_or(PlanError::NoFreeTable)
}

/// A free name for an nftables table of ours.
pub(super) fn nft_name(host: &Snapshot, wanted: &str) -> String {
    /// `NFPROTO_INET`
    const INET: u8 = 1;
    let taken = |name: &str| host.nft_tables.iter().any(|t| t.family == INET && t.name == name && !t.ours);
    let mut name = wanted.to_owned();
    let mut n = 0;
    while taken(&name) {
        n += 1;
        name = format!("{wanted}{n}");
    }
    name
}

/// Whether unmarked traffic of this host gets to this rule's table, be it only what has one of the host's own addresses: a
/// program's packets have one of them as soon as its socket is connected.
fn is_of_this_host(host: &Snapshot, rule: &Rule) -> bool {
    let own = |src: ipnet::IpNet| host.addresses.iter().any(|address| src.contains(&address.net.addr()));
    is_plain_but_for_source(rule) && rule.src.is_none_or(own)
}

/// Whether ordinary unmarked traffic of this host gets to this rule's table.
fn plain(rule: &Rule) -> bool {
    rule.src.is_none() && is_plain_but_for_source(rule)
}

fn is_plain_but_for_source(rule: &Rule) -> bool {
    let unmarked = match rule.fwmark {
        None => true,
        Some((Mark(mark), mask)) => (mark & mask == 0) != rule.invert,
    };
    let inverted_otherwise = rule.invert && rule.fwmark.is_none();
    let narrow = rule.dst.is_some() || rule.oif.is_some() || rule.uids.is_some();
    let local = rule.iif.as_deref().is_none_or(|i| i == "lo");
    unmarked && !inverted_otherwise && !narrow && local && rule.other.is_empty()
}

/// A user whose programs are captured; `None` if any user's are.
pub(super) fn captured_user(request: &Request) -> Option<u32> {
    let excluded = &request.exclude_uids;
    // Of one more number than are excluded, one is not.
    (0..).take(1 + excluded.len()).find(|uid| !excluded.contains(uid)).filter(|_| !excluded.is_empty())
}

/// Whether a table has a route for everything.
fn has_default(host: &Snapshot, family: Family, table: Table) -> bool {
    host.routes.iter().any(|r| r.family() == family && r.table == table && r.dst.prefix_len() == 0)
}

fn has_specific(host: &Snapshot, family: Family, table: Table) -> bool {
    host.routes.iter().any(|r| {
        r.family() == family && r.table == table && r.dst.prefix_len() > 0 && r.kind != RouteKind::Throw
    })
}

/// A block of free priorities in a row.
pub(super) struct Block {
    /// The first.
    pub(super) first: Priority,
}

/// Finds `wanted` free priorities, as late as possible but before every rule that would take all of the
/// host's traffic, or all from one of its addresses: `lookup main`, and those whose table holds a default route.
pub(super) fn block(host: &Snapshot, families: &[Family], wanted: u32) -> Result<Block, PlanError> {
    let below = host
        .rules
        .iter()
        .filter(|r| families.contains(&r.family) && is_of_this_host(host, r) && r.priority.0 > 0)
        .filter(|r| match r.action {
            RuleAction::Lookup(table) => {
                r.suppress_prefixlength.is_none()
                    && (table == Table::MAIN || has_default(host, r.family, table))
            }
            RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => true,
            _ => false,
        })
        .map(|r| r.priority.0)
        .min()
        .unwrap_or(MAIN_PRIORITY)
        .min(MAIN_PRIORITY);
    let taken = |p: u32| host.rules.iter().any(|r| r.priority.0 == p);
    let mut end = below;
    while end > wanted {
        // The lowest used number of the candidate block, if any: the next candidate ends there.
        match (end - wanted..end).find(|p| taken(*p)) {
            None => return Ok(Block { first: Priority(end - wanted) }),
            Some(used) => end = used,
        }
    }
    Err(PlanError::NoFreePriorities { wanted, below })
}

/// The tables after `first` whose specific routes come before the capture: main, and those of other
/// VPNs that the host asks for all of its traffic.
pub(super) fn respected(host: &Snapshot, family: Family, first: Priority) -> Vec<Table> {
    let mut tables = Vec::new();
    for rule in host.rules.iter().filter(|r| r.family == family && r.priority > first && plain(r)) {
        if let RuleAction::Lookup(table) = rule.action
            && !matches!(table, Table::LOCAL | Table::DEFAULT)
            && !tables.contains(&table)
            && (table == Table::MAIN || has_specific(host, family, table))
        {
            tables.push(table);
        }
    }
    if !tables.contains(&Table::MAIN) {
        tables.push(Table::MAIN);
    }
    tables
}

/// Whether the table of the host's own addresses is asked behind a priority, and not before everything: as with VRFs, whose
/// documentation (Documentation/networking/vrf.rst) has its rule moved behind theirs.
pub(super) fn asks_local_behind(host: &Snapshot, family: Family, priority: Priority) -> bool {
    let local = |rule: &&Rule| {
        rule.family == family && rule.action == RuleAction::Lookup(Table::LOCAL) && plain(rule)
    };
    host.rules.iter().filter(local).map(|rule| rule.priority).min().is_some_and(|first| first > priority)
}

/// The marks by which other programs steer or exempt their own traffic: it is not ours to capture, or
/// two tunnels would carry each other.
pub(super) fn foreign_marks(host: &Snapshot) -> Vec<(Mark, u32)> {
    let mut marks: Vec<_> =
        host.rules.iter().filter_map(|r| r.fwmark).filter(|(mark, mask)| mark.0 & mask != 0).collect();
    marks.sort();
    marks.dedup();
    marks
}

/// The longest prefix that still is "everything" in a table: 0, or more where another VPN splits the
/// default route into halves (OpenVPN's `def1`) or names global unicast alone.
pub(crate) fn default_length(host: &Snapshot, family: Family, table: Table) -> u32 {
    let most = match family {
        Family::V4 => 1,
        Family::V6 => 4,
    };
    host.routes
        .iter()
        .filter(|r| r.family() == family && r.table == table && r.kind == RouteKind::Unicast)
        .map(|r| r.dst)
        .filter(|dst| dst.prefix_len() <= most)
        .map(|dst| u32::from(dst.prefix_len()))
        .max()
        .unwrap_or(0)
}

/// [`respected`], each table with its [`default_length`]: to find that takes a look at every route.
pub(super) fn respected_beyond(host: &Snapshot, family: Family, first: Priority) -> Vec<(Table, u32)> {
    let tables = respected(host, family, first);
    tables.into_iter().map(|table| (table, default_length(host, family, table))).collect()
}

/// Whether a route is of one of these tables, and of those of its routes that come before the capture.
pub(super) fn is_specific(route: &Route, tables: &[(Table, u32)]) -> bool {
    tables.iter().any(|(table, most)| *table == route.table && u32::from(route.dst.prefix_len()) > *most)
}

/// The rules that send all of a family's traffic to another table than main that has a route for everything: another
/// VPN's. Each with its table.
pub(super) fn everything_elsewhere(host: &Snapshot, family: Family) -> Vec<(Priority, Table)> {
    let elsewhere = |rule: &Rule| match rule.action {
        RuleAction::Lookup(table)
            if !matches!(table, Table::MAIN | Table::LOCAL | Table::DEFAULT)
                && rule.suppress_prefixlength.is_none()
                && has_default(host, family, table) =>
        {
            Some((rule.priority, table))
        }
        _ => None,
    };
    host.rules.iter().filter(|r| r.family == family && plain(r)).filter_map(elsewhere).collect()
}

/// Whether a rule asks main about all of a family's traffic.
pub(super) fn asks_main(host: &Snapshot, family: Family) -> bool {
    let main = |rule: &&Rule| {
        rule.action == RuleAction::Lookup(Table::MAIN)
            && rule.suppress_prefixlength.is_none()
            && rule.suppress_ifgroup.is_none()
    };
    host.rules.iter().filter(|r| r.family == family && plain(r)).any(|rule| main(&rule))
}
