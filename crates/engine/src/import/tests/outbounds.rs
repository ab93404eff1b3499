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
