use std::net::SocketAddr;
use std::path::Path;

use oneway_flow::{Inbound, Network, Target};

use super::*;
use crate::config::{Config, Options};

const DIRECT: &str = "MATCH,direct";
const REFUSED: &str = "IP-CIDR,192.0.2.0/24,REJECT";
const OWN: [&str; 2] = ["192.0.2.1", "198.51.100.1"];
const OTHER: [&str; 1] = ["2001:db8::1"];

fn table(rules: &[&str]) -> Dispatch {
    let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    let toml = format!(
        "[outbound.p]\ntype = \"socks5\"\nserver = \"203.0.113.1:1080\"\n[outbound.g]\ntype = \"select\"\n\
         members = [\"block\", \"p\"]\n[rules]\nlist = {rules:?}\n[sub-rules]\nsub = [\"{REFUSED}\", \"{DIRECT}\"]\n"
    );
    let config = Config::from_toml(Path::new("c"), &toml, Options::default(), &read).unwrap().config;
    crate::assemble::dispatch(&config, &crate::assemble::system_resolver()).unwrap().0
}

/// By which outbound a flow to a name with these addresses goes, and to which of them if it is without a proxy.
fn judged(rules: &[&str], dialled: &str, addresses: &[&str]) -> (String, Vec<String>) {
    let dispatch = table(rules);
    let target =
        Target { addr: SocketAddr::new(dialled.parse().unwrap(), 80), host: Some("a.example".into()) };
    let subject = Subject {
        network: Network::Tcp,
        source: "198.51.100.9:9".parse().unwrap(),
        inbound: Inbound::Tun,
        target: &target,
        is_fake: true,
        dscp: 0,
    };
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let find = |_| Ok::<_, Infallible>(Owner::default());
    let Ok(decision) = dispatch.judge(&subject, &find, |_| Ok(addresses.clone()));
    let leads = |ip: &&IpAddr| {
        let Ok(leads) = dispatch.leads_to(decision.outbound.0, &subject, **ip, &find);
        leads
    };
    let led = addresses.iter().filter(leads).map(ToString::to_string).collect();
    (dispatch.by_id(decision.outbound.0).name.to_string(), led)
}

#[test]
fn a_refused_address_is_not_come_to_by_way_of_the_other_family() {
    let all = [OWN[0], OWN[1], OTHER[0]];
    for dialled in ["198.18.0.1", "fc00:18::1"] {
        for last in [DIRECT, "MATCH,p"] {
            assert_eq!(judged(&[REFUSED, last], dialled, &all).0, "block", "{dialled} {last}");
            assert_eq!(judged(&[REFUSED, last], dialled, &all[1..]).0, last["MATCH,".len()..], "{dialled}");
            let sub = ["SUB-RULE,(NETWORK,tcp),sub", last];
            assert_eq!(judged(&sub, dialled, &all).0, "block", "{dialled} {last}");
        }
    }
}

#[test]
fn the_family_that_was_dialled_chooses_and_we_go_only_where_the_rules_lead() {
    let rules = ["IP-CIDR6,2001:db8::/32,direct", REFUSED, "MATCH,p"];
    let all = [OWN[0], OTHER[0]];
    // A rule before the refusal: it counts, and leads to its own address alone.
    assert_eq!(judged(&rules, "fc00:18::1", &all), ("direct".into(), vec![OTHER[0].into()]));
    assert_eq!(judged(&rules, "198.18.0.1", &all).0, "block");
    // Other outbounds of the other family do not count.
    assert_eq!(judged(&rules, "198.18.0.1", &[OWN[1], OTHER[0]]).0, "p");
    // One of several, whichever comes first in the answer.
    let rules = ["IP-CIDR,198.51.100.0/24,direct", "MATCH,p"];
    assert_eq!(judged(&rules, "198.18.0.1", &OWN), ("direct".into(), vec![OWN[1].into()]));
    // There is no other family.
    assert_eq!(judged(&rules, "fc00:18::1", &OWN).0, "direct");
    assert_eq!(judged(&rules, "fc00:18::1", &[]).0, "p");
}

#[test]
fn rules_that_do_not_look_at_addresses_lead_to_all_of_them() {
    let all = [OWN[0], OTHER[0]];
    let named = ["DOMAIN,a.example,direct", REFUSED];
    assert_eq!(judged(&named, "198.18.0.1", &all).1, all);
    let unresolved = ["IP-CIDR,192.0.2.0/24,REJECT,no-resolve", DIRECT];
    assert_eq!(judged(&unresolved, "198.18.0.1", &all).1, all);
    // What a group refuses now may be what it lets through next.
    assert_eq!(judged(&["IP-CIDR,192.0.2.0/24,g", DIRECT], "fc00:18::1", &all).0, "direct");
}
