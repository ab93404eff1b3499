use std::path::Path;

use super::*;
use crate::config::{Config, Options};

mod outbounds;
mod rules;
mod sections;

/// All that is told, in its order.
fn told(imported: &Imported) -> Vec<String> {
    imported.warnings.iter().chain(&imported.notes).map(ToString::to_string).collect()
}

/// What comes out without the comments, which is a configuration, and what is told.
fn carried_over(text: &str) -> (String, Vec<String>) {
    let imported = clash(Path::new("c.yaml"), text).unwrap();
    Config::from_toml(Path::new("oneway.toml"), &imported.toml, Options::default(), &|_| Ok(Vec::new()))
        .unwrap_or_else(|errors| panic!("{errors}\n{}", imported.toml));
    let lines: Vec<&str> = imported.toml.lines().filter(|line| !line.starts_with('#')).collect();
    let toml = lines.join("\n").replace("\n[rules]\nlist = [\n]", "");
    (toml.trim().to_owned(), told(&imported))
}

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
    let notes = told(&found);
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[0].contains("`plugin` is not available"), "{notes:?}");
    assert!(notes[1].contains("ws around the protocol is not available"), "{notes:?}");
    assert!(notes[2].contains("Trojan needs a `password`"), "{notes:?}");
}

#[test]
fn a_configuration_is_carried_over() {
    let imported = clash(Path::new("clash.yaml"), CLASH).unwrap();
    let notes = told(&imported);
    assert_eq!(
        notes,
        [
            "clash.yaml:9:1: the proxy \"secret\" is left out: proxies of type vmess are not available; rules to it lead to block",
            "clash.yaml:4:1: Clash sends no UDP by proxies without `udp: true`, but by what the next rules say; here they get it: \"Tokyo 1\"",
            "clash.yaml:13:1: the group \"Lost\" has block in place of its member \"secret\"",
            "clash.yaml:13:1: the group \"Lost\" has no member that is carried over; rules to it lead to block",
            "clash.yaml:11:1: the group \"Auto\" is without its member \"secret\"",
            "clash.yaml:35:1: the rule \"IN-PORT,7890,direct\" is left out: IN-PORT is not supported: there is nothing here that it could ask about",
            "clash.yaml:11:1: the group \"Auto\" is checked by \"http://a.example/204\", without TLS",
            "clash.yaml:15:1: the rule set \"common\" is not loaded by itself: put https://lists.example/ads.yaml at \"./ads.yaml\"",
            "clash.yaml:21:1: the rule set \"nets\" is not loaded by itself: put https://lists.example/ads.yaml at \"nets.txt\"",
            "clash.yaml:1:1: the database of GEOIP is not loaded by itself: put it at \"country.mmdb\"",
            "clash.yaml:1:1: `mixed-port` is not carried over",
            "clash.yaml:4:1: the proxy \"Tokyo 1\" is called \"Tokyo-1\"",
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

#[test]
fn dns_is_carried_over() {
    let (toml, notes) = carried_over(
        "dns:
  enable: true
  ipv6: true
  prefer-h3: false
  respect-rules: false
  enhanced-mode: fake-ip
  fake-ip-range: 198.18.0.1/16
  fake-ip-range6: fdfe:dcba:9876::1/64
  fake-ip-filter: ['*.lan', +.local, 'xbox.*.*.microsoft.com', .example.org]
  default-nameserver: [223.5.5.5]
  nameserver:
    - 223.5.5.5
    - 192.0.2.1:5353
    - 2001:db8::1
    - tcp://192.0.2.2
    - tls://192.0.2.3
    - https://dns.example/dns-query
    - quic://192.0.2.4
    - system
    - udp://223.5.5.5:53
  nameserver-policy:
    +.corp.example: 192.0.2.53
    'a.example, *.b.example': [tls://192.0.2.54, https://192.0.2.55/q]
",
    );
    assert_eq!(
        toml,
        r#"[dns]
mode = "fake-ip"
upstream = ["udp://223.5.5.5:53", "udp://192.0.2.1:5353", "udp://[2001:db8::1]:53", "tcp://192.0.2.2:53", "tls://192.0.2.3:853", "https://dns.example:443/dns-query", "quic://192.0.2.4:853", "system"]
fake-ip.v4 = "198.18.0.0/16"
fake-ip.v6 = "fdfe:dcba:9876::/64"
fake-ip.exclude = ["*.lan", "+.local", "xbox.*.*.microsoft.com", ".example.org"]

[dns.domains]
"+.corp.example" = ["udp://192.0.2.53:53"]
"a.example" = ["tls://192.0.2.54:853", "https://192.0.2.55:443/q"]
"*.b.example" = ["tls://192.0.2.54:853", "https://192.0.2.55:443/q"]"#
    );
    assert_eq!(notes, [""; 0]);
}

#[test]
fn what_of_dns_cannot_be_carried_over_is_listed() {
    let (toml, notes) = carried_over(
        "hosts: {a.example: 192.0.2.1}
dns:
  enable: true
  listen: 0.0.0.0:53
  ipv6: false
  enhanced-mode: redir-host
  use-hosts: true
  nameserver:
    - https://192.0.2.1/dns-query#proxy
    - udp://dns.example
    - dhcp://en0
    - [nested]
  fallback: [tls://192.0.2.9]
  fallback-filter: {geoip: true}
  proxy-server-nameserver: [192.0.2.8]
  respect-rules: true
  fake-ip-filter-mode: whitelist
  fake-ip-filter: [a.example]
  fake-ip-range: 198.18.0.0/30
  nameserver-policy:
    geosite:cn,private: 192.0.2.1
    a.example: https://dns.example/dns-query
    a b: 192.0.2.1
  new-key: 1
",
    );
    assert_eq!(toml, "[dns]\nmode = \"real\"\nupstream = [\"https://192.0.2.1:443/dns-query\"]");
    let expected = [
        "9:1: the resolver https://192.0.2.1:443/dns-query is asked directly, without \"proxy\"",
        "16:1: `dns.respect-rules` is not carried over",
        "21:1: \"geosite:cn,private\" of `dns.nameserver-policy` is left out",
        "22:1: \"a.example\" of `dns.nameserver-policy` is left out: none of its resolvers",
        "23:1: \"a b\" of `dns.nameserver-policy` is left out: \"a b\" is no pattern",
        "1:1: \"a.example\" of `hosts` is not carried over",
        "4:1: `dns.listen` is not carried over",
        "5:1: `dns.ipv6` is not carried over",
        "7:1: `dns.use-hosts` is not carried over",
        "12:1: an entry of `dns.nameserver` is no text and left out",
        "10:1: the resolver \"udp://dns.example\" is left out: \"udp://dns.example\" is a cycle",
        "11:1: the resolver \"dhcp://en0\" is left out",
        "13:1: `dns.fallback` is not carried over",
        "14:1: `dns.fallback-filter` is not carried over",
        "15:1: `dns.proxy-server-nameserver` is not carried over",
        "18:1: `dns.fake-ip-filter` is not carried over: the mode \"whitelist\" is not available",
        "19:1: `dns.fake-ip-range` is left out: \"198.18.0.0/30\" is no range",
        "22:1: the resolver \"https://dns.example/dns-query\" of `dns.nameserver-policy` is left out",
        "24:1: `dns.new-key` is not carried over",
    ];
    assert_eq!(notes.len(), expected.len(), "{notes:#?}");
    for (note, expected) in notes.iter().zip(expected) {
        assert!(note.starts_with(&format!("c.yaml:{expected}")), "{note}\n{expected}");
    }
}

#[test]
fn resolvers_by_name_are_found_by_the_default_ones() {
    let named = "dns: {enable: true, nameserver: [https://dns.example/dns-query]";
    let (toml, notes) =
        carried_over(&format!("{named}, default-nameserver: [tls://192.0.2.1, tls://other.example]}}"));
    let upstream = r#"upstream = ["https://dns.example:443/dns-query", "tls://192.0.2.1:853"]"#;
    assert!(toml.contains(upstream), "{toml}");
    assert!(notes[0].contains("tls://192.0.2.1:853 will be asked for these"), "{notes:?}");
    let (toml, notes) = carried_over(&format!("{named}}}"));
    let upstream = r#"upstream = ["https://dns.example:443/dns-query", "system"]"#;
    assert!(toml.contains(upstream), "{toml}");
    assert_eq!(notes.len(), 1, "{notes:?}");
}

#[test]
fn dns_that_is_off_stays_off() {
    for text in ["dns: {enable: false, nameserver: [192.0.2.1]}", "dns: {enhanced-mode: fake-ip}"] {
        let (toml, notes) = carried_over(text);
        assert_eq!(toml, "[dns]\nmode = \"off\"");
        assert_eq!(notes.len(), 1, "{notes:?}");
    }
    for nothing in ["dns:", "dns: {}", "sniffer: ~"] {
        assert_eq!(carried_over(nothing), (String::new(), Vec::new()), "{nothing}");
    }
}

#[test]
fn the_sniffer_is_carried_over() {
    let (toml, notes) = carried_over(
        "sniffer:
  enable: true
  parse-pure-ip: true
  force-dns-mapping: true
  override-destination: false
  sniff:
    TLS: {ports: [443, 8443-8445, 444]}
    HTTP:
      ports: [80, http, 9-8, 0]
      override-destination: true
    SMTP: {}
  force-domain: [+.v2ex.com]
  skip-domain: [Mijia Cloud]
",
    );
    assert_eq!(toml, "[sniff]\nenable = true\ntls = [443, 444, 8443, 8444, 8445]\nhttp = [80]\nquic = []");
    let places: Vec<&str> = notes.iter().filter_map(|note| note.split(':').nth(1)).collect();
    assert_eq!(places, ["4", "5", "9", "9", "9", "10", "11", "12", "13"], "{notes:#?}");
    assert!(notes[7].ends_with("`sniffer.force-domain` is not carried over"), "{notes:#?}");
    // Without ports those of the default are looked at; the ports of the world are not written out.
    let (toml, notes) = carried_over("sniffer: {enable: true, sniff: {tls: , http: {ports: 1-65535}}}");
    assert_eq!(toml, "[sniff]\nenable = true\nquic = []");
    assert_eq!(notes.len(), 1, "{notes:?}");
}

#[test]
fn a_key_that_is_there_twice_is_an_error() {
    let error = clash(Path::new("x.yaml"), "dns:\n  ipv6: true\n  ipv6: false\n").unwrap_err().to_string();
    assert_eq!(error, "x.yaml:3:3: the key \"ipv6\" is there already");
}
