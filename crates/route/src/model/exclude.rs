//! What our nftables table does to a packet before its route is looked up for good.

use crate::change::Change;
use crate::plan::Plan;

/// The mark that a packet of this host gets by a plan's table, if its socket was made in a control group whose own
/// number and those of the groups above it are `groups`. A packet that leaves by loopback keeps its own.
///
/// A chain of type `route` has the route looked up again when the mark has changed (`ip_route_me_harder`,
/// net/ipv4/netfilter.c), with the source address of the first time: [`decide`](crate::decide) is to be asked with this
/// mark and that source.
pub fn marked_by(plan: &Plan, mark: u32, groups: &[u64]) -> u32 {
    let tables = plan.steps.iter().filter_map(|step| match &step.change {
        Change::Nft(table) => Some(table),
        _ => None,
    });
    tables.fold(mark, |mark, table| {
        let excluded = table.excluded.iter().any(|group| groups.contains(&group.id));
        if excluded { mark | table.mark.0 } else { mark }
    })
}
