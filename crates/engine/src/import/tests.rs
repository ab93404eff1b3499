use std::path::Path;

use super::*;
use crate::config::{Config, Options};

const CLASH: &str = "\
mixed-port: 7890
mode: rule
proxies:
  - {name: \"Tokyo 1\", type: socks5, server: 192.0.2.1, port: 1080, username: u, password: p}
  - name: web
    type: http
    server: 2001:db8::1
    port: 8080
  - {name: secret, type: vmess, server: s.example, port: 8388, uuid: x}
proxy-groups:
  - {name: Auto, type: url-test, proxies: [secret, Other], url: https://a.example/204, interval: 300, tolerance: 20, timeout: 2000}
  - {name: Other, type: select, proxies: [web, DIRECT]}
  - {name: Lost, type: select, proxies: [secret]}
rule-providers:
  common: &p
    type: http
    behavior: domain
    url: https://lists.example/ads.yaml
    path: ./ads.yaml
  nets:
    <<: *p
    behavior: ipcidr
    format: text
    path: nets.txt
sub-rules:
  inner:
    - DST-PORT,443,Tokyo 1
rules:
  - DOMAIN-SUFFIX,example.com,Auto
  - RULE-SET,common,REJECT
  - RULE-SET,nets,DIRECT,no-resolve
  - DOMAIN-KEYWORD,x,Lost
  - AND,((NETWORK,udp),(DST-PORT,443)),REJECT
  - SUB-RULE,(NETWORK,tcp),inner
  - IN-PORT,7890,DIRECT
  - GEOIP,CN,DIRECT
  - MATCH,secret
";

const TOML: &str = r#"
[outbound.Tokyo-1]
type = "socks5"
server = "192.0.2.1:1080"
username = "u"
password = "p"

[outbound.web]
type = "http"
server = "[2001:db8::1]:8080"

[outbound.Other]
type = "select"
members = ["web", "direct"]

[outbound.Auto]
type = "url-test"
members = ["Other"]
url = "http://a.example/204"
interval = "300s"
timeout = "2000ms"
tolerance = "20ms"

[rule-set.common]
path = "./ads.yaml"
format = "yaml"
behavior = "domain"

[rule-set.nets]
path = "nets.txt"
format = "text"
behavior = "ipcidr"

[sub-rules]
inner = [
  "DST-PORT,443,Tokyo-1",
]

[rules]
geoip = "country.mmdb"
list = [
  "DOMAIN-SUFFIX,example.com,Auto",
  "RULE-SET,common,block",
  "RULE-SET,nets,direct,no-resolve",
  "DOMAIN-KEYWORD,x,block",
  "AND,((NETWORK,udp),(DST-PORT,443)),block",
  "SUB-RULE,(NETWORK,tcp),inner",
  # "IN-PORT,7890,direct",
  "GEOIP,CN,direct",
  "MATCH,block",
]
"#;

#[test]
fn proxies_by_tls_are_carried_over() {
    let found = clash(
        Path::new("clash.yaml"),
        "proxies:\n\
         - {name: t, type: trojan, server: t.example, port: 443, password: p, sni: other.example, alpn: [h2], udp: true}\n\
         - {name: w, type: http, server: 192.0.2.1, port: 8443, tls: true, skip-cert-verify: true}\n\
         - {name: s, type: ss, server: 192.0.2.2, port: 8388, cipher: aes-128-gcm, password: x, udp: true}\n\
         - {name: p, type: ss, server: 192.0.2.2, port: 8388, cipher: aes-128-gcm, password: x, plugin: obfs}\n\
         - {name: ws, type: trojan, server: t.example, port: 443, password: p, network: ws}\n\
         - {name: no, type: trojan, server: t.example, port: 443}\n\
         rules: [\"DOMAIN,a.example,w\", \"MATCH,t\"]\n",
    )
    .unwrap();
    let wanted = "\n[outbound.t]\ntype = \"trojan\"\nserver = \"t.example:443\"\npassword = \"p\"\n\
                  server-name = \"other.example\"\nalpn = [\"h2\"]\n\
                  \n[outbound.w]\ntype = \"http\"\nserver = \"192.0.2.1:8443\"\ntls = true\nskip-verify = true\n\
                  \n[outbound.s]\ntype = \"shadowsocks\"\nserver = \"192.0.2.2:8388\"\npassword = \"x\"\nmethod = \"aes-128-gcm\"\n";
    assert!(found.toml.contains(wanted), "{}", found.toml);
    let notes: Vec<String> = found.notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[0].contains("`plugin` is not available"), "{notes:?}");
    assert!(notes[1].contains("ws around the protocol is not available"), "{notes:?}");
    assert!(notes[2].contains("Trojan needs a `password`"), "{notes:?}");
}

#[test]
fn a_configuration_is_carried_over() {
    let imported = clash(Path::new("clash.yaml"), CLASH).unwrap();
    let notes: Vec<String> = imported.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "clash.yaml:4:1: the proxy \"Tokyo 1\" is called \"Tokyo-1\"",
            "clash.yaml:9:1: the proxy \"secret\" is left out: proxies of type vmess are not available; rules to it lead to block",
            "clash.yaml:13:1: the group \"Lost\" is without its member \"secret\"",
            "clash.yaml:13:1: the group \"Lost\" has no member that is carried over; rules to it lead to block",
            "clash.yaml:11:1: the group \"Auto\" is without its member \"secret\"",
            "clash.yaml:11:1: the group \"Auto\" is checked by \"http://a.example/204\", without TLS",
            "clash.yaml:15:1: the rule set \"common\" is not loaded by itself: put https://lists.example/ads.yaml at \"./ads.yaml\"",
            "clash.yaml:21:1: the rule set \"nets\" is not loaded by itself: put https://lists.example/ads.yaml at \"nets.txt\"",
            "clash.yaml:35:1: the rule \"IN-PORT,7890,direct\" is left out: IN-PORT is not supported: there is nothing here that it could ask about",
            "clash.yaml:1:1: the database of GEOIP is not loaded by itself: put it at \"country.mmdb\"",
            "clash.yaml:1:1: `mixed-port` is not carried over",
        ]
    );
    let body = imported.toml.find("\n\n[outbound").map(|at| &imported.toml[at + 1..]);
    assert_eq!(body, Some(TOML), "{}", imported.toml);
    let read = |_: &Path| Ok(b"payload: []\n".to_vec());
    let loaded =
        Config::from_toml(Path::new("oneway.toml"), &imported.toml, Options::default(), &read).unwrap();
    assert_eq!(loaded.config.rules.sets.len(), 2);
    assert_eq!(loaded.config.rules.lines.len(), 8);
}

#[test]
fn what_is_no_configuration_says_where() {
    for (text, error) in [
        ("a: [", "x.yaml:2:1: this is no YAML:"),
        ("", "x.yaml:1:1: the file is empty"),
        ("- a", "x.yaml:1:1: this is no configuration of Clash: a table is expected"),
        ("{a: b}: c", "x.yaml:1:1: a key is a text"),
    ] {
        let found = clash(Path::new("x.yaml"), text).unwrap_err().to_string();
        assert!(found.starts_with(error), "{text}: {found}");
    }
}

#[test]
fn aliases_have_a_limit() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let before = format!("*a{}, ", n - 1).repeat(10);
        text.push_str(&format!("a{n}: &a{n} [{before}]\n"));
    }
    let error = clash(Path::new("x.yaml"), &text).unwrap_err().to_string();
    assert!(error.ends_with("the document has more than 2000000 parts"), "{error}");
    let deep = format!("a: {}{}", "[".repeat(5000), "]".repeat(5000));
    assert!(clash(Path::new("x.yaml"), &deep).is_err());
}
