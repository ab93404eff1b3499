//! Whole sections, and the order of what is told.

use std::path::Path;

use super::clash;

#[test]
fn what_changes_the_way_of_traffic_is_told_first() {
    let imported = clash(
        Path::new("c.yaml"),
        "mixed-port: 7890
proxies:
- {name: a b, type: socks5, server: 192.0.2.1, port: 1080, udp: true}
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
