//! Routes that have their next hops from objects (ip-nexthop(8)).

use oneway_route::{IfIndex, NextHop, Request, Route, RouteKind, RouteQuery, Snapshot, query};

use crate::drift::run;
use crate::host::{FAR4, FAR6, Net, capture, planned, set};

crate::trials!(routes_are_read_with_the_next_hops_of_their_objects);

fn routes_are_read_with_the_next_hops_of_their_objects() {
    // 0 has the kernel tell nothing but their numbers.
    for compatible in ["0", "1"] {
        let net = Net::new();
        net.host.run(|| {
            set("net/ipv4/nexthop_compat_mode", compatible);
            for words in [
                "ip nexthop add id 1 via 192.0.2.1 dev eth0",
                "ip nexthop add id 2 via 198.51.100.1 dev eth1",
                "ip nexthop add id 3 group 1,10/2,3",
                "ip nexthop add id 4 blackhole",
                "ip nexthop add id 6 via 2001:db8:a::1 dev eth0",
                "ip nexthop add id 7 dev eth1",
                "ip route del default dev eth0",
                "ip route del default dev eth1",
                "ip -6 route del default dev eth0",
                "ip -6 route del default dev eth1",
                "ip route add default nhid 1",
                "ip -6 route add default nhid 6",
                "ip route add 10.1.0.0/24 nhid 3",
                "ip route add 10.2.0.0/24 nhid 4",
                "ip route add 10.3.0.0/24 nhid 6",
                "ip route add 10.4.0.0/24 nhid 7",
            ] {
                run(words);
            }
            let host = Snapshot::take().unwrap();
            let index = |name| host.link(name).unwrap().index;
            let [eth0, eth1] = ["eth0", "eth1"].map(index);
            let route = |dst: &str| host.routes.iter().find(|r| r.dst == dst.parse().unwrap()).unwrap();
            let way = |route: &Route| (route.oif, route.gateway.map(|gateway| gateway.to_string()));
            let one = |oif: IfIndex, gateway: &str| (Some(oif), Some(gateway.to_owned()));
            assert_eq!(way(route("0.0.0.0/0")), one(eth0, "192.0.2.1"), "{compatible}");
            assert_eq!(way(route("::/0")), one(eth0, "2001:db8:a::1"), "{compatible}");
            assert_eq!(way(route("10.3.0.0/24")), one(eth0, "2001:db8:a::1"), "{compatible}");
            assert_eq!(way(route("10.4.0.0/24")), (Some(eth1), None), "{compatible}");
            assert_eq!(route("10.2.0.0/24").kind, RouteKind::Blackhole);
            let hop = |oif, gateway: &str, hops| NextHop { oif, gateway: gateway.parse().ok(), hops };
            let group = route("10.1.0.0/24");
            assert_eq!(group.next_hops, [hop(eth0, "192.0.2.1", 9), hop(eth1, "198.51.100.1", 2)]);

            let plan = planned(&Request::default());
            let uplinks = [plan.uplinks.v4.clone(), plan.uplinks.v6.clone()].map(Option::unwrap);
            assert_eq!(uplinks.map(|uplink| uplink.name), ["eth0", "eth0"]);
            let (_tun, applied) = capture(&plan, net.journal());
            for far in [FAR4, FAR6] {
                let ours = RouteQuery { mark: plan.mark, ..RouteQuery::to(far.parse().unwrap()) };
                let answer = query(&ours).unwrap();
                assert_eq!(answer.oif_name, "eth0");
                assert!(answer.gateway.is_some(), "{answer:?}");
            }
            applied.undo(&mut oneway_route::no_hook).unwrap();
        });
    }
}
