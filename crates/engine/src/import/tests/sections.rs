//! Whole sections, and the order of what is told.

use std::path::Path;

use super::{carried_over, clash};

#[test]
fn a_section_of_another_kind_is_an_error() {
    for (text, error) in [
        ("proxies: []\nrules: |\n  MATCH,p\n", "3:1: `rules` is no list"),
        ("proxies:\n  p: {type: socks5}\n", "2:1: `proxies` is no list"),
        ("proxy-groups: 3\n", "1:1: `proxy-groups` is no list"),
        ("rule-providers:\n  - {name: x}\n", "2:1: `rule-providers` is no table"),
        ("sub-rules: 4\n", "1:1: `sub-rules` is no table"),
        ("sub-rules:\n  a: MATCH,DIRECT\n", "2:1: `sub-rules.a` is no list"),
        ("dns: [a]\n", "1:1: `dns` is no table"),
        ("sniffer: true\n", "1:1: `sniffer` is no table"),
        ("tun: true\n", "1:1: `tun` is no table"),
        ("hosts: [a]\n", "1:1: `hosts` is no table"),
    ] {
        let found = clash(Path::new("c.yaml"), text).map(|imported| imported.toml).unwrap_err().to_string();
        assert!(found.starts_with(&format!("c.yaml:{error}")), "{text}: {found}");
    }
    for nothing in
        ["rules:\n", "proxies: ~\nproxy-groups: []\nrule-providers:\nsub-rules: {}\ndns:\nhosts:\n"]
    {
        carried_over(nothing);
    }
}

#[test]
fn modes_and_ipv6_are_told() {
    for (text, note) in [
        ("mode: global\n", "1:1: `mode: global` is not carried over: the rules decide"),
        ("mode: Direct\n", "1:1: `mode: Direct` is not carried over: the rules decide"),
        (
            "ipv6: false\n",
            "1:1: `ipv6: false` is not carried over: IPv6 is captured, too, and goes by the rules",
        ),
    ] {
        let (_, notes) = carried_over(text);
        assert_eq!(notes, [format!("c.yaml:{note}")], "{text}");
    }
    assert_eq!(carried_over("mode: rule\nipv6: true\nlog-level: info\n").1, [""; 0]);
}

#[test]
fn what_changes_the_way_of_traffic_is_told_first() {
    let imported = clash(
        Path::new("c.yaml"),
        "mixed-port: 7890
proxies:
- {name: a b, type: socks5, server: 192.0.2.1, port: 1080, udp: true, headers: {}, smux: {enabled: true}}
- {name: c, type: vmess}
rules: ['IN-PORT,1,REJECT', 'MATCH,c']
",
    )
    .unwrap();
    let told: Vec<String> =
        imported.warnings.iter().chain(&imported.notes).map(ToString::to_string).collect();
    let expected = [
        "4:1: the proxy \"c\" is left out",
        "5:1: the rule \"IN-PORT,1,block\" is left out",
        "3:1: `smux` of the proxy \"a b\" is not carried over",
        "1:1: `mixed-port` is not carried over",
        "3:1: the proxy \"a b\" is called \"a-b\"",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (note, expected) in told.iter().zip(expected) {
        assert!(note.starts_with(&format!("c.yaml:{expected}")), "{note}\n{expected}");
    }
    assert_eq!(imported.warnings.len(), 2);
    let comments: Vec<&str> = imported.toml.lines().filter(|line| line.starts_with('#')).collect();
    assert_eq!(comments[1], "# By which traffic goes another way than with Clash, or nowhere:");
    assert_eq!(comments[4], "# What else is not carried over as it was:");
}
