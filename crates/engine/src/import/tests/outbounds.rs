//! What becomes of proxies and groups that cannot be carried over.

use super::carried_over;

/// The members of a group of ours.
fn members(toml: &str, group: &str) -> Option<String> {
    let section = toml.split_once(&format!("[outbound.{group}]\n"))?.1;
    let line = section.lines().find_map(|line| line.strip_prefix("members = "))?;
    Some(line.replace(['[', ']', '"'], ""))
}

const LOST: &str = "\
proxies:
- {name: hk, type: socks5, server: 192.0.2.1, port: 1080, udp: true}
- {name: us, type: vmess, server: 192.0.2.1, port: 1081}
proxy-groups:
- {name: US, type: url-test, proxies: [us]}
- {name: Mine, type: select, proxies: [hk, DIRECT]}
- {name: Near, type: select, proxies: [DIRECT, hk]}
";

#[test]
fn what_a_group_has_lost_does_not_leave_directly() {
    for (group, expected) in [
        ("type: select, proxies: [US, DIRECT]", "block, direct"),
        ("type: select, proxies: [hk, us, nobody, DIRECT]", "hk, block, direct"),
        ("type: SELECT, proxies: [nobody, DIRECT]", "block, direct"),
        ("type: select, proxies: [[hk], DIRECT]", "block, direct"),
        ("type: select, use: [airport], proxies: [DIRECT]", "block, direct"),
        ("type: select, include-all: true, proxies: [DIRECT]", "block, direct"),
        ("type: select, include-all: false, use: [], proxies: [DIRECT]", "direct"),
        // No check would find that `block` works.
        ("type: fallback, proxies: [hk, us, DIRECT]", "hk"),
        ("type: fallback, proxies: [hk, DIRECT, us]", "hk, direct"),
        ("type: fallback, proxies: [hk, us, Near]", "hk"),
        ("type: fallback, use: [airport], proxies: [hk, DIRECT]", "hk"),
        ("type: url-test, proxies: [DIRECT, us, hk]", "hk"),
        ("type: url-test, proxies: [us, Mine]", "Mine"),
        ("type: load-balance, proxies: [DIRECT, hk]", "direct, hk"),
    ] {
        let text = format!("{LOST}- {{name: G, {group}}}\nrules: ['MATCH,G']\n");
        let (toml, _) = carried_over(&text);
        assert_eq!(members(&toml, "G").as_deref(), Some(expected), "{group}\n{toml}");
        assert!(toml.contains("\"MATCH,G\""), "{toml}");
    }
    for group in [
        "type: fallback, proxies: [us, DIRECT]",
        "type: url-test, proxies: [DIRECT, us]",
        "type: relay, proxies: [DIRECT, hk]",
        "type: relay, proxies: [hk]",
        "type: smart, proxies: [DIRECT, hk]",
        "type: select, use: [airport]",
    ] {
        let text = format!("{LOST}- {{name: G, {group}}}\nrules: ['MATCH,G']\n");
        let (toml, notes) = carried_over(&text);
        assert_eq!(members(&toml, "G"), None, "{group}\n{toml}");
        assert!(toml.contains("\"MATCH,block\""), "{group}\n{toml}");
        assert!(notes.iter().any(|note| note.ends_with("rules to it lead to block")), "{notes:#?}");
    }
}

#[test]
fn a_proxy_that_leaves_in_a_way_of_its_own_is_left_out() {
    for key in ["dialer-proxy: hk", "interface-name: eth9", "routing-mark: 6666"] {
        let text = format!(
            "proxies:\n- {{name: p, type: socks5, server: 192.0.2.1, port: 1080, {key}}}\nrules: ['MATCH,p']\n"
        );
        let (toml, notes) = carried_over(&text);
        assert!(!toml.contains("[outbound."), "{toml}");
        assert!(toml.contains("\"MATCH,block\""), "{toml}");
        let word = key.split(':').next().unwrap();
        assert!(notes[0].contains(&format!("\"p\" is left out: `{word}` is not available")), "{notes:?}");
    }
    for key in ["interface-name: eth9", "routing-mark: 6666"] {
        let text = format!(
            "proxy-groups: [{{name: g, type: select, proxies: [DIRECT], {key}}}]\nrules: ['MATCH,g']\n"
        );
        let (toml, notes) = carried_over(&text);
        assert!(toml.contains("\"MATCH,block\""), "{toml}");
        assert!(notes[0].contains("is not available; rules to it lead to block"), "{notes:?}");
    }
}

#[test]
fn no_key_of_a_proxy_or_group_is_dropped_in_silence() {
    let (toml, notes) = carried_over(
        "proxies:
- {name: a, type: http, server: 192.0.2.1, port: 1, headers: {X: y}, ip-version: ipv4, smux: {enabled: true}, tfo: true}
- {name: b, type: ss, server: 192.0.2.1, port: 1, cipher: aes-128-gcm, password: x, obfs: tls, smux: {enabled: false}, udp: true}
- {name: c, type: trojan, server: 192.0.2.1, port: 1, password: x, certificate: a.pem, private-key: b.pem, udp: true}
- {name: d, type: socks5, server: 192.0.2.1, port: 1, udp: false, sni: x.example}
- {name: e, type: socks5, server: 192.0.2.1, port: 1}
- {name: a, type: socks5, server: 192.0.2.2, port: 1, udp: true}
- {name: DIRECT, type: socks5, server: 192.0.2.2, port: 1, udp: true}
proxy-groups:
- {name: g, type: select, proxies: [a], disable-udp: true, filter: x, exclude-filter: y, hidden: true, icon: z, url: w}
- {name: h, type: fallback, proxies: [a], expected-status: 200, strategy: round-robin, tolerance: 5, lazy: true}
- {type: select, proxies: [a]}
- {name: g, type: select, proxies: [b]}
- {name: b, type: select, proxies: [a]}
rules: ['DOMAIN,a.example,a', 'MATCH,g']
",
    );
    let mut expected = [
        "2:1: `headers` of the proxy \"a\"",
        "2:1: `ip-version` of the proxy \"a\"",
        "2:1: `smux` of the proxy \"a\"",
        "3:1: `obfs` of the proxy \"b\"",
        "4:1: `certificate` of the proxy \"c\"",
        "4:1: `private-key` of the proxy \"c\"",
        "5:1: `sni` of the proxy \"d\"",
        "5:1: Clash sends no UDP by proxies without `udp: true`, but by what the next rules say; here they get it: \"d\", \"e\"",
        "7:1: a second proxy \"a\" is left out",
        "8:1: a second proxy \"DIRECT\" is left out",
        "10:1: `disable-udp` of the group \"g\"",
        "10:1: `filter` of the group \"g\"",
        "10:1: `exclude-filter` of the group \"g\"",
        "11:1: `expected-status` of the group \"h\"",
        "11:1: `strategy` of the group \"h\"",
        "12:1: a group without a name is left out",
        "13:1: a second \"g\" is left out",
        "14:1: a second \"b\" is left out",
    ]
    .map(|note| format!("c.yaml:{note}"));
    let mut found = notes.clone();
    found.sort();
    expected.sort();
    assert_eq!(found.len(), expected.len(), "{notes:#?}");
    for (note, expected) in found.iter().zip(expected) {
        assert!(note.starts_with(&expected), "{note}\n{expected}");
    }
    assert_eq!(toml.matches("server = \"192.0.2.2:1\"").count(), 0, "{toml}");
    assert_eq!(members(&toml, "g").as_deref(), Some("a"));
}
