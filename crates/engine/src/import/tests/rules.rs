//! What becomes of rules and rule sets.

use super::carried_over;

#[test]
fn rule_sets_are_renamed_wherever_they_are_named() {
    let (toml, notes) = carried_over(
        "rule-providers:
  my set: {type: file, behavior: classical, format: text, path: c.list}
sub-rules:
  sub one: ['AND,((RULE-SET,my set),(NETWORK,tcp)),REJECT']
rules:
- RULE-SET,my set,REJECT
- AND,((NETWORK,tcp),(NOT,((rule-set, my set )))),REJECT
- OR,((RULE-SET,my set,src),(RULE-SET,my set)),REJECT
- SUB-RULE,(RULE-SET,my set),sub one
",
    );
    for rule in [
        "  \"AND,((RULE-SET,my-set),(NETWORK,tcp)),block\"",
        "  \"RULE-SET,my-set,block\"",
        "  \"AND,((NETWORK,tcp),(NOT,((rule-set,my-set)))),block\"",
        "  \"OR,((RULE-SET,my-set,src),(RULE-SET,my-set)),block\"",
        "  \"SUB-RULE,(RULE-SET,my-set),sub-one\"",
    ] {
        assert!(toml.contains(rule), "{rule}\n{toml}");
    }
    assert!(!notes.iter().any(|note| note.contains("left out")), "{notes:#?}");
}

#[test]
fn a_rule_set_without_a_file_stands_where_it_is_used() {
    let (toml, notes) = carried_over(
        "rule-providers:
  ads: {type: inline, behavior: domain, payload: [a.example, +.b.example, .c.example, '*.d.example', +.*.e.example]}
  nets: {type: inline, behavior: ipcidr, payload: [192.0.2.0/24, '2001:db8::/32']}
  mixed: {type: inline, behavior: classical, payload: ['DOMAIN-KEYWORD,x', 'IP-CIDR,198.51.100.0/24,no-resolve', 'AND,((NETWORK,udp),(DST-PORT,443))', 'NO-SUCH,1']}
  empty: {type: inline, behavior: domain, payload: []}
rules:
- RULE-SET,ads,REJECT
- RULE-SET,nets,DIRECT,no-resolve
- RULE-SET,mixed,REJECT
- AND,((NETWORK,udp),(RULE-SET,nets)),REJECT
- NOT,((RULE-SET,empty)),DIRECT
- RULE-SET,empty,DIRECT
- RULE-SET,unused,DIRECT
",
    );
    let list = toml.split_once("list = [\n").unwrap().1;
    let expected = r#"  "DOMAIN,a.example,block",
  "DOMAIN-SUFFIX,b.example,block",
  "DOMAIN-SUFFIX,.c.example,block",
  'DOMAIN-REGEX,^[^.]+\.d\.example$,block',
  'DOMAIN-REGEX,^(.+\.)?[^.]+\.e\.example$,block',
  "IP-CIDR,192.0.2.0/24,direct,no-resolve",
  "IP-CIDR,2001:db8::/32,direct,no-resolve",
  "DOMAIN-KEYWORD,x,block",
  "IP-CIDR,198.51.100.0/24,block,no-resolve",
  "AND,((NETWORK,udp),(DST-PORT,443)),block",
  # "NO-SUCH,1,block",
  "AND,((NETWORK,udp),(OR,((IP-CIDR,192.0.2.0/24),(IP-CIDR,2001:db8::/32)))),block",
"#;
    assert!(list.starts_with(expected), "{list}");
    assert!(!toml.contains("[rule-set"), "{toml}");
    assert!(notes.iter().any(|note| note.contains("the rule \"NO-SUCH,1,block\" is left out")), "{notes:#?}");
    assert_eq!(notes.len(), 3, "{notes:#?}");
}

#[test]
fn names_are_written_as_toml_has_them() {
    let (toml, _) = carried_over(
        r#"
proxies:
- {name: 'a"b''c\d', type: socks5, server: 192.0.2.1, port: 1080, udp: true, username: "u\"'\n\\", password: "x\t\x7f"}
rule-providers:
  'r"''': {type: file, behavior: domain, path: a.yaml}
sub-rules:
  's"''': ['MATCH,DIRECT']
dns: {enable: true, nameserver: [192.0.2.1], nameserver-policy: {+.a.example: 192.0.2.2}}
rules: ['MATCH,a"b''c\d']
"#,
    );
    assert!(toml.contains(r#"[outbound."a\"b'c\\d"]"#), "{toml}");
}

#[test]
fn databases_are_named_where_they_are_needed() {
    for (rule, needed) in [
        ("OR,((GEOIP,CN),(GEOIP,LAN)),DIRECT", "geoip"),
        ("GEOIP,CN,Lan-1", "geoip"),
        ("geoip,cn,DIRECT", "geoip"),
        ("src-geoip,CN,DIRECT", "geoip"),
        ("GEOIP,lan,DIRECT", ""),
        ("OR,((GEOIP,LAN),(NETWORK,udp)),DIRECT", ""),
        ("ip-asn,13335,DIRECT", "asn"),
        ("GeoSite,cn,DIRECT", "geosite"),
        ("AND,((GEOSITE,cn),(NETWORK,tcp)),DIRECT", "geosite"),
    ] {
        let text = format!(
            "proxies: [{{name: Lan-1, type: socks5, server: 192.0.2.1, port: 1080, udp: true}}]\nrules: ['{rule}']\n"
        );
        let (toml, _) = carried_over(&text);
        for key in ["geoip", "asn", "geosite"] {
            assert_eq!(toml.contains(&format!("\n{key} = ")), key == needed, "{rule}\n{toml}");
        }
    }
}

#[test]
fn a_rule_that_is_left_out_leads_nowhere() {
    let (toml, notes) = carried_over(
        "rules: ['AND,((DOMAIN,a.example),(DOMAIN,b.example)),DIRECT,no-resolve', 'DOMAIN,c.example,nobody']\n",
    );
    assert!(notes[0].contains("is left out"), "{notes:?}");
    assert!(notes[1].contains("there is no proxy \"nobody\": its rule leads to block"), "{notes:?}");
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(toml.contains("\"DOMAIN,c.example,block\""), "{toml}");
}
