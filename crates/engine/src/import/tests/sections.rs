//! Whole sections, and the order of what is told.

use std::path::Path;

use super::{Config, Options, carried_over, clash};

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
fn the_device_is_carried_over() {
    let (toml, notes) = carried_over(
        "tun:
  enable: true
  stack: mixed
  device: utun7
  mtu: 1400
  strict-route: true
  auto-route: true
  auto-detect-interface: true
  dns-hijack: ['any:53', 'tcp://any:53']
  route-address: [0.0.0.0/1, '8000::/1']
  inet4-route-exclude-address: [192.168.0.1/16]
  route-exclude-address: [10.0.0.0/8, '2001:db8::/32']
  exclude-uid: [1000, 1001]
",
    );
    assert_eq!(
        toml,
        r#"[capture]
stack = "system"
include = ["0.0.0.0/1", "8000::/1"]
exclude = ["192.168.0.0/16", "10.0.0.0/8", "2001:db8::/32"]
exclude-uid = [1000, 1001]
strict = true

[tun]
name = "utun7"
mtu = 1400"#
    );
    assert_eq!(notes, [""; 0]);
    let (toml, notes) = carried_over("ipv6: false\ntun: {enable: true, stack: gvisor, strict-route: true}\n");
    assert_eq!(toml, "[capture]\nstack = \"user\"\nipv6 = false\nstrict = true");
    assert_eq!(notes, [""; 0]);
}

#[test]
fn what_of_the_device_and_the_hosts_is_not_carried_over_is_listed() {
    let (toml, notes) = carried_over(
        "tun:
  enable: true
  stack: lwip
  device: a/b
  mtu: 9
  strict-route: false
  auto-route: false
  route-exclude-address: [10.0.0.0/8, x]
  exclude-uid: [x]
  include-uid: [1]
  dns-hijack: ['192.0.2.1:53']
  inet6-address: ['fdfe::1/126']
hosts:
  a.example: 0.0.0.0
  b.example: [192.0.2.1]
",
    );
    assert_eq!(toml, "[capture]\nexclude = [\"10.0.0.0/8\"]");
    let places: Vec<&str> = notes.iter().filter_map(|note| note.split(':').nth(1)).collect();
    assert_eq!(places, ["7", "8", "9", "10", "14", "15", "3", "4", "5", "11", "12"], "{notes:#?}");
    assert!(notes[3].contains("`tun.include-uid` is not carried over"), "{notes:#?}");
    assert!(notes[4].contains("\"a.example\" of `hosts` is not carried over"), "{notes:#?}");
    let (toml, notes) = carried_over("tun: {enable: false, mtu: 1400}\n");
    assert_eq!(toml, "");
    assert_eq!(notes, ["c.yaml:1:1: `tun.enable` is not true: traffic is captured all the same"]);
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

#[test]
fn a_configuration_of_clash_is_known_where_one_of_ours_is_expected() {
    let read = |file: &str, text: &str| {
        let errors = Config::from_toml(Path::new(file), text, Options::default(), &|_| Ok(Vec::new()));
        errors.unwrap_err().as_slice().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let said = |file: &str| {
        let what = "this looks like a configuration of Clash; `oneway import` prints the one of ours that it amounts to";
        [format!("{file}:1:1: {what}")]
    };
    assert_eq!(read("a.conf", super::CLASH), said("a.conf"));
    assert_eq!(read("a.YML", "a: [\nb: c\n"), said("a.YML"));
    assert!(!read("a.toml", "a: b\n")[0].contains("Clash"));
    assert!(!read("a.toml", "[rules]\nlist = [\n")[0].contains("Clash"));
    assert!(!read("a.yaml", "nonsense = 1\n")[0].contains("Clash"), "this is TOML");
}
