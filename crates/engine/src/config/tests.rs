//! Every key, and the exact words for everything that can be wrong.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use oneway_rule::{Behavior, Format};

use super::*;

#[path = "tests/by_hand.rs"]
mod by_hand;
#[path = "tests/readme.rs"]
mod readme;

fn load(text: &str, options: Options) -> Result<Loaded, ConfigErrors> {
    Config::from_toml(Path::new("etc/oneway.toml"), text, options, &|path: &Path| match path.to_str() {
        Some("etc/rules.txt") => {
            Ok(b"\xef\xbb\xbf# comment\n\n  DOMAIN,a.example,direct  \r\n\tMATCH,proxy\n".to_vec())
        }
        _ => Err(io::ErrorKind::NotFound.into()),
    })
}

fn parse(text: &str) -> Config {
    let loaded = load(text, Options::default()).unwrap();
    assert_eq!(loaded.warnings, [], "{text}");
    loaded.config
}

#[track_caller]
fn wrong(text: &str, errors: &[&str]) {
    let found = load(text, Options::default()).expect_err(text);
    let found: Vec<String> = found.as_slice().iter().map(ToString::to_string).collect();
    assert_eq!(found, errors, "{text}");
}

#[track_caller]
fn warned(text: &str, warnings: &[&str]) {
    let found = load(text, Options::default()).unwrap().warnings;
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, warnings, "{text}");
}

fn at(line: usize, column: usize) -> Origin {
    Origin::File { file: Path::new("etc/oneway.toml").into(), line, column }
}

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn nothing_is_a_complete_configuration() {
    let config = Config::load(None, Options::default()).unwrap().config;
    assert_eq!(config, Config::default());
    assert_eq!(config, parse(""));
    assert_eq!(
        config,
        Config {
            capture: CaptureConfig {
                mode: CaptureMode::Tun,
                stack: DEFAULT_STACK,
                include: vec![],
                exclude: vec![],
                exclude_uid: vec![],
                exclude_cgroup: vec![],
                exclude_process: vec![],
                forwarded: false,
                ipv6: true,
                strict: false,
            },
            tun: TunConfig::default(),
            egress: EgressConfig { protect: Protect::Auto, interface: None, mark: None, netns: None },
            outbounds: BTreeMap::from([
                ("direct".to_owned(), OutboundSpec::Direct),
                ("block".to_owned(), OutboundSpec::Block),
            ]),
            rules: RulesConfig {
                lines: vec![],
                files: vec![],
                subs: vec![],
                sets: vec![],
                geoip: None,
                asn: None,
                geosite: None,
                final_outbound: "direct".to_owned(),
            },
            dns: DnsConfig {
                ca: None,
                authorities: None,
                skip_verify: false,
                resolver: HostResolver::Auto,
                mode: DnsMode::Real,
                upstream: vec![],
                domains: vec![],
                fake_ip: FakeIpConfig {
                    v4: "198.18.0.0/15".parse().unwrap(),
                    v6: "fc00:18::/64".parse().unwrap(),
                    persist: true,
                    exclude: vec![],
                },
            },
            sniff: SniffConfig::default(),
            limits: LimitsConfig::default(),
            confirm: None,
            control: None,
            log: LogConfig { level: LogLevel::Info, format: LogFormat::Text },
            without: Without::default(),
        }
    );
}

#[test]
fn limits_keys() {
    let config = parse("[limits]\nhalf-closed = \"90s\"\n");
    assert_eq!(config.limits.half_closed.map(Wait::get), Some(std::time::Duration::from_secs(90)));
    wrong(
        "[limits]\nhalf-closed = 90\n",
        &["etc/oneway.toml:2:15: limits.half-closed: expected a string, found an integer"],
    );
    wrong(
        "[limits]\nhalf-closed = \"90\"\nhalf-open = \"1s\"\n",
        &[
            "etc/oneway.toml:2:15: limits.half-closed: \"90\" is no time from 1ms to 24h; write it as 500ms, 300s, \
             5m or 1h",
            "etc/oneway.toml:3:1: unknown key `half-open` in [limits]; the keys are half-closed",
        ],
    );
}

#[test]
fn sniff_keys() {
    let config =
        parse("[sniff]\nenable = true\ntimeout = \"1s\"\ntls = [443, 8443]\nhttp = []\nquic = [443]\n").sniff;
    assert!(config.enable);
    assert_eq!(config.timeout, std::time::Duration::from_secs(1));
    let ports = |ports: &[Port]| ports.iter().map(|port| port.get()).collect::<Vec<_>>();
    assert_eq!(
        (ports(&config.tls), ports(&config.http), ports(&config.quic)),
        (vec![443, 8443], vec![], vec![443])
    );
    wrong(
        "[sniff]\ntls = [0]\nhttp = [65536]\nquic = \"443\"\nports = [1]\n",
        &[
            "etc/oneway.toml:2:8: sniff.tls: 0 is no port; use 1 to 65535",
            "etc/oneway.toml:3:9: sniff.http: 65536 is no port; use 1 to 65535",
            "etc/oneway.toml:4:8: sniff.quic: expected a list, found a string",
            "etc/oneway.toml:5:1: unknown key `ports` in [sniff]; the keys are enable, timeout, tls, http, quic",
        ],
    );
}

#[test]
fn capture_keys() {
    let config = parse(
        r#"
        [capture]
        mode = "tun"
        stack = "user"
        include = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"]
        exclude = ["192.0.2.128/25"]
        exclude-uid = [33, 1000]
        exclude-cgroup = ["/system.slice/a.service"]
        exclude-process = ["curl", "/usr/bin/ssh"]
        forwarded = true
        ipv6 = false
        strict = true
        "#,
    );
    assert_eq!(
        config.capture,
        CaptureConfig {
            mode: CaptureMode::Tun,
            stack: StackKind::User,
            include: prefixes(&["192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"]),
            exclude: prefixes(&["192.0.2.128/25"]),
            exclude_uid: vec![Uid::try_from(33).unwrap(), Uid::try_from(1000).unwrap()],
            exclude_cgroup: vec!["/system.slice/a.service".parse().unwrap()],
            exclude_process: vec!["curl".parse().unwrap(), "/usr/bin/ssh".parse().unwrap()],
            forwarded: true,
            ipv6: false,
            strict: true,
        }
    );
}

#[test]
fn tun_egress_and_other_keys() {
    let config = parse(
        r#"
        control = "/run/other.sock"
        [tun]
        name = "tun7"
        addresses = ["10.8.0.1/24", "fd00::1/64"]
        mtu = 9000
        pcap = "packets.pcap"
        fault = "loss=5%, reorder=0.1"
        [egress]
        protect = "bind"
        interface = "eth1"
        mark = 0x1000_0000
        [dns]
        mode = "off"
        upstream = ["system", "udp://9.9.9.9", "tcp://[2001:db8::53]:5353"]
        fake-ip = { v4 = "10.64.0.0/16", v6 = "fd00:64::/96", persist = false, exclude = ["*.lan"] }
        [log]
        level = "warn"
        format = "json"
        "#,
    );
    assert_eq!(config.control.as_deref(), Some(Path::new("/run/other.sock")));
    assert_eq!(config.tun.name.as_ref().map(InterfaceName::as_str), Some("tun7"));
    let addresses: Vec<String> = config.tun.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.8.0.1/24", "fd00::1/64"]);
    assert_eq!(config.tun.mtu.map(Mtu::get), Some(9000));
    assert_eq!(config.tun.pcap.as_deref(), Some(Path::new("etc/packets.pcap")));
    let fault = config.tun.fault.unwrap();
    assert_eq!((fault.loss, fault.reorder, fault.needs_checksums()), (0.05, 0.1, false));
    assert_eq!(config.egress.protect, Protect::Bind);
    assert_eq!(config.egress.interface.as_ref().map(InterfaceName::as_str), Some("eth1"));
    assert_eq!(config.egress.mark.map(MarkBit::get), Some(0x1000_0000));
    assert_eq!(config.dns.mode, DnsMode::Off);
    let upstream: Vec<String> = config.dns.upstream.iter().map(ToString::to_string).collect();
    assert_eq!(upstream, ["system", "udp://9.9.9.9:53", "tcp://[2001:db8::53]:5353"]);
    assert_eq!(config.dns.fake_ip.pools().map(|pool| pool.to_string()), ["10.64.0.0/16", "fd00:64::/96"]);
    assert!(!config.dns.fake_ip.persist);
    assert_eq!(config.dns.fake_ip.exclude, ["*.lan".parse().unwrap()]);
    assert_eq!(config.log, LogConfig { level: LogLevel::Warn, format: LogFormat::Json });
    assert_eq!(parse("tun.fd = 5").tun.fd.map(TunFd::get), Some(5));
}

#[test]
fn outbounds() {
    let config = parse(
        r#"
        [outbound.home]
        type = "socks5"
        server = "Proxy.Example:1080"
        username = "me"
        password = "secret"
        [outbound.old]
        type = "socks4"
        server = "192.0.2.1:1081"
        [outbound.web]
        type = "http"
        server = "[2001:db8::1]:80"
        [outbound.plain]
        type = "direct"
        [outbound.none]
        type = "block"
        [rules]
        list = ["A,home", "B,old", "C,web", "D,plain"]
        final = "none"
        "#,
    );
    assert_eq!(config.outbounds.len(), 7);
    let home = ProxySpec {
        protocol: ProxyProtocol::Socks5,
        server: Server { host: ServerHost::Name("proxy.example".to_owned()), port: 1080.try_into().unwrap() },
        credentials: Some(Credentials { username: "me".to_owned(), password: "secret".to_owned().into() }),
        pipeline: true,
        tls: None,
        method: None,
    };
    assert_eq!(config.outbounds["home"], OutboundSpec::Proxy(home));
    assert!(!format!("{config:?}").contains("secret"));
    let OutboundSpec::Proxy(web) = &config.outbounds["web"] else { panic!("{:?}", config.outbounds) };
    assert_eq!(web.server.to_string(), "[2001:db8::1]:80");
    assert_eq!(config.outbounds["old"].kind(), "socks4");
    assert_eq!(config.outbounds["plain"], OutboundSpec::Direct);
    assert_eq!(config.outbounds["none"], OutboundSpec::Block);
    assert_eq!(config.rules.final_outbound, "none");
}

#[test]
fn rules_keep_their_place() {
    let config = parse(
        "[rules]\nfiles = [\"rules.txt\"]\nlist = [\n  \"IP-CIDR,10.0.0.0/8,direct\",\n  \" \", \"MATCH,block\"]\n",
    );
    let rules = [("IP-CIDR,10.0.0.0/8,direct", at(4, 3)), ("MATCH,block", at(5, 8))];
    let rules = rules.map(|(text, origin)| RuleLine { text: text.to_owned(), origin });
    assert_eq!(config.rules.lines, rules);
    let [file] = &config.rules.files[..] else { panic!("{:?}", config.rules.files) };
    assert_eq!((&*file.path, &file.origin), (Path::new("etc/rules.txt"), &at(2, 10)));
    assert!(file.bytes.ends_with(b"\tMATCH,proxy\n"));
}

#[test]
fn rule_sets_and_sub_rules() {
    let config = parse(
        r##"
        [rule-set.a]
        path = "rules.txt"
        behavior = "domain"
        [rule-set.b]
        path = "rules.txt"
        format = "yaml"
        [sub-rules]
        inner = ["DST-PORT,443,direct", "# nothing"]
        [rules]
        geoip = "rules.txt"
        "##,
    );
    let [a, b] = &config.rules.sets[..] else { panic!("{:?}", config.rules.sets) };
    assert_eq!((a.name.as_str(), a.format, a.behavior), ("a", Format::Text, Behavior::Domain));
    assert_eq!((b.name.as_str(), b.format, b.behavior), ("b", Format::Yaml, Behavior::Classical));
    assert_eq!(a.file.origin, at(3, 16));
    let lines = vec![RuleLine { text: "DST-PORT,443,direct".to_owned(), origin: at(9, 18) }];
    assert_eq!(config.rules.subs, [("inner".to_owned(), lines)]);
    assert!(config.rules.geoip.is_some() && config.rules.asn.is_none());
}

#[test]
fn rule_sets_that_are_wrong() {
    wrong(
        "[rule-set.a]\nbehavior = \"x\"\n[rule-set.b]\npath = \"rules.bin\"\n[rule-set.\"c d\"]\npath = \"rules.txt\"\n\
         [rule-set.e]\npath = \"none.mrs\"\nkind = 1\n[sub-rules]\nx = 1\n",
        &[
            "etc/oneway.toml:1:11: [rule-set.a] has no `path`; add the path of its file",
            "etc/oneway.toml:2:12: rule-set.a.behavior: \"x\" is not known; use domain, ipcidr or classical",
            "etc/oneway.toml:4:8: rule-set.b.path: the ending of \"rules.bin\" does not say how it is written; \
             add format = \"text\", \"yaml\", \"mrs\" or \"srs\"",
            "etc/oneway.toml:5:11: \"c d\" is no name for a rule set; rules need it without commas and blanks",
            "etc/oneway.toml:8:8: rule-set.e.path: cannot read \"etc/none.mrs\": entity not found; \
             check the path and its permissions",
            "etc/oneway.toml:9:1: unknown key `kind` in [rule-set.e]; the keys are path, format, behavior",
            "etc/oneway.toml:11:5: sub-rules.x: expected a list, found an integer",
        ],
    );
}

#[test]
fn proxy_becomes_the_final_outbound() {
    let config = parse("proxy = \"socks5h://a%40b:p%3Aw@proxy.example:1080\"");
    assert_eq!(config.rules.final_outbound, "proxy");
    let OutboundSpec::Proxy(proxy) = &config.outbounds["proxy"] else { panic!("{:?}", config.outbounds) };
    assert_eq!(proxy.protocol, ProxyProtocol::Socks5);
    assert_eq!(proxy.server.to_string(), "proxy.example:1080");
    let credentials = proxy.credentials.as_ref().unwrap();
    assert_eq!((credentials.username.as_str(), credentials.password.expose()), ("a@b", "p:w"));
    assert_eq!(
        parse("proxy = \"http://192.0.2.1:80\"\nrules.final = \"proxy\"").rules.final_outbound,
        "proxy"
    );
}

#[test]
fn the_rule_that_matches_everything_names_the_final_outbound() {
    let p = "[outbound.p]\ntype = \"socks5\"\nserver = \"192.0.2.1:1080\"\n";
    let last = |rules: &str| parse(&format!("{p}[rules]\n{rules}")).rules.final_outbound;
    assert_eq!(last("list = [\"MATCH,p\"]"), "p");
    assert_eq!(
        last("list = [\"DOMAIN,a.example,block\", \"match, p\", \"MATCH,block\"]\nfinal = \"direct\""),
        "p"
    );
    assert_eq!(last("list = [\"DOMAIN,a.example,p\", \"MATCH,REJECT\"]\nfinal = \"p\""), "block");
    assert_eq!(last("list = [\"DOMAIN,a.example,p\"]"), "direct");
    // A protection that only reaches known servers takes it.
    let config = parse(&format!("{p}[egress]\nprotect = \"host-route\"\n[rules]\nlist = [\"MATCH,p\"]"));
    assert_eq!(config.egress.protect, Protect::HostRoute);
    let direct =
        format!("{p}[egress]\nprotect = \"host-route\"\n[rules]\nlist = [\"MATCH,DIRECT\"]\nfinal = \"p\"");
    wrong(
        &direct,
        &[
            "etc/oneway.toml:5:11: host-route cannot protect direct connections to arbitrary destinations, and the final \
           outbound is direct; send everything by a proxy, or use mark",
        ],
    );
}

#[test]
fn proxy_urls() {
    let parsed = |text: &str| text.parse::<ProxySpec>().map(|proxy| proxy.server);
    let name = |text: &str| ServerHost::Name(text.to_owned());
    let ip = |text: &str| ServerHost::Ip(text.parse::<IpAddr>().unwrap());
    for (url, host, port) in [
        ("socks5://proxy.example:1080", name("proxy.example"), 1080),
        ("SOCKS5://192.0.2.1:1/", ip("192.0.2.1"), 1),
        ("http://[2001:db8::1]:80", ip("2001:db8::1"), 80),
        ("socks4a://user@bücher.example:65535", name("xn--bcher-kva.example"), 65535),
    ] {
        assert_eq!(parsed(url), Ok(Server { host, port: port.try_into().unwrap() }), "{url}");
    }
    const HINT: &str = "use one such as socks5://user:password@proxy.example:1080";
    for (url, why) in [
        ("proxy.example:1080", format!("this is no proxy URL; {HINT}")),
        (
            "vless://proxy.example:443",
            "\"vless\" is no proxy protocol; use socks5, socks5h, socks4, socks4a, http, https or trojan"
                .to_owned(),
        ),
        ("http://proxy.example", format!("the proxy URL has no port; {HINT}")),
        ("socks5://:1080", format!("this is no proxy URL: empty host; {HINT}")),
        ("socks5://h:0", "\"0\" is no port; use 1 to 65535".to_owned()),
        ("socks5://h:65536", format!("this is no proxy URL: invalid port number; {HINT}")),
        ("socks5://h:1/path", format!("a proxy URL ends with the port; {HINT}")),
        ("socks5://h:1?q", format!("a proxy URL ends with the port; {HINT}")),
        ("socks5://me@h:1", "a SOCKS5 password has 1 to 255 bytes (RFC 1929)".to_owned()),
        ("socks5://:pw@h:1", "a password needs a user name".to_owned()),
        ("socks4://me:pw@h:1", "SOCKS4 has no password, only a user name".to_owned()),
        ("socks4://m%00e@h:1", "a SOCKS4 user name ends at a NUL byte".to_owned()),
        ("http://m%3Ae:pw@h:1", "an HTTP user name has no colon (RFC 7617)".to_owned()),
        ("http://m%FFe:pw@h:1", "the proxy URL is not UTF-8 once decoded".to_owned()),
    ] {
        assert_eq!(parsed(url), Err(InvalidValue(why)), "{url}");
    }
}

#[test]
fn options_win() {
    let text = r#"
        [capture]
        stack = "user"
        exclude = ["192.0.2.0/24"]
        include = ["198.51.100.0/24"]
        [outbound.proxy]
        type = "http"
        server = "192.0.2.1:80"
        [rules]
        final = "block"
        list = ["MATCH,proxy"]
        [log]
        level = "error"
    "#;
    let options = Options {
        stack: Some(StackKind::System),
        exclude: prefixes(&["203.0.113.0/24"]),
        proxy: Some("socks5://192.0.2.2:1080".parse().unwrap()),
        forwarded: true,
        log_level: Some(LogLevel::Debug),
        ..Options::default()
    };
    let Loaded { config, warnings, .. } = load(text, options).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.capture.stack, StackKind::System);
    assert_eq!(config.capture.exclude, prefixes(&["203.0.113.0/24"]));
    assert_eq!(config.capture.include, prefixes(&["198.51.100.0/24"]));
    assert!(config.capture.forwarded);
    assert_eq!(config.outbounds["proxy"].kind(), "socks5");
    assert_eq!(config.rules.final_outbound, "proxy");
    assert_eq!(config.log.level, LogLevel::Debug);
}

#[test]
fn every_option_reaches_the_configuration() {
    let options = Options {
        capture: Some(CaptureMode::Tun),
        include: prefixes(&["192.0.2.0/24"]),
        protect: Some(Protect::Bind),
        interface: Some("eth1".parse().unwrap()),
        tun_name: Some("tun7".parse().unwrap()),
        tun_addresses: vec!["10.8.0.1/24".parse().unwrap()],
        mtu: Some("1500".parse().unwrap()),
        dns: Some(DnsMode::Off),
        dns_upstream: vec!["udp://192.0.2.53".parse().unwrap()],
        resolver: Some(HostResolver::Always),
        exclude_uid: vec!["33".parse().unwrap()],
        exclude_cgroup: vec!["a/b".parse().unwrap()],
        exclude_process: vec!["curl".parse().unwrap()],
        strict: true,
        control: Some("/run/other.sock".into()),
        log_format: Some(LogFormat::Json),
        ..Options::default()
    };
    let config = Config::load(None, options).unwrap().config;
    let same = parse(
        r#"
        control = "/run/other.sock"
        [capture]
        include = ["192.0.2.0/24"]
        exclude-uid = [33]
        exclude-cgroup = ["a/b"]
        exclude-process = ["curl"]
        strict = true
        [tun]
        name = "tun7"
        addresses = ["10.8.0.1/24"]
        mtu = 1500
        [egress]
        protect = "bind"
        interface = "eth1"
        [dns]
        mode = "off"
        upstream = ["udp://192.0.2.53"]
        resolver = "always"
        [log]
        format = "json"
        "#,
    );
    assert_eq!(config, same);
    let fd = Options { tun_fd: Some("3".parse().unwrap()), ..Options::default() };
    assert_eq!(Config::load(None, fd).unwrap().config.tun.fd.map(TunFd::get), Some(3));
}

#[test]
fn syntax_errors() {
    wrong("[capture\n", &["etc/oneway.toml:1:9: unclosed table, expected `]`"]);
    wrong("a = 1\na = 2\n", &["etc/oneway.toml:2:1: duplicate key"]);
    wrong("[capture]\nstrict = tru\n", &["etc/oneway.toml:2:10: invalid boolean, expected `true`"]);
}

#[test]
fn unknown_keys() {
    wrong(
        "[capture]\nmode = \"tun\"\nstak = \"user\"\n",
        &[
            "etc/oneway.toml:3:1: unknown key `stak` in [capture]; the keys are mode, stack, include, exclude, \
           exclude-uid, exclude-cgroup, exclude-process, forwarded, ipv6, strict",
        ],
    );
    wrong(
        "[captur]\n",
        &[
            "etc/oneway.toml:1:2: unknown key `captur` at the top; the keys are proxy, confirm, control, capture, tun, \
           egress, dns, sniff, limits, outbound, rules, rule-set, sub-rules, log",
        ],
    );
    wrong(
        "tun.nam = 1",
        &[
            "etc/oneway.toml:1:5: unknown key `nam` in [tun]; the keys are name, addresses, mtu, fd, pcap, fault",
        ],
    );
    wrong(
        "[egress]\nx = 1",
        &["etc/oneway.toml:2:1: unknown key `x` in [egress]; the keys are protect, interface, mark, netns"],
    );
    wrong(
        "[dns]\nx = 1\nfake-ip = { y = 1 }",
        &[
            "etc/oneway.toml:2:1: unknown key `x` in [dns]; the keys are mode, upstream, resolver, ca, skip-verify, domains, fake-ip",
            "etc/oneway.toml:3:13: unknown key `y` in [dns.fake-ip]; the keys are v4, v6, persist, exclude",
        ],
    );
    wrong(
        "[rules]\nx = 1",
        &[
            "etc/oneway.toml:2:1: unknown key `x` in [rules]; the keys are final, list, files, geoip, asn, geosite",
        ],
    );
    wrong("[log]\nx = 1", &["etc/oneway.toml:2:1: unknown key `x` in [log]; the keys are level, format"]);
    wrong(
        "[outbound.p]\ntype = \"http\"\nserver = \"192.0.2.1:80\"\nx = 1",
        &[
            "etc/oneway.toml:4:1: unknown key `x` in [outbound.p]; the keys are type, server, username, password, tls",
        ],
    );
    wrong(
        "[outbound.p]\ntype = \"direct\"\nserver = \"192.0.2.1:80\"",
        &["etc/oneway.toml:3:1: unknown key `server` in [outbound.p]; the keys are type"],
    );
}

#[test]
fn wrong_types() {
    wrong(
        "[capture]\nstrict = \"yes\"\nexclude = \"192.0.2.0/24\"\nmode = 1\ninclude = [1979-05-27]\n",
        &[
            "etc/oneway.toml:2:10: capture.strict: expected a boolean, found a string",
            "etc/oneway.toml:3:11: capture.exclude: expected a list, found a string",
            "etc/oneway.toml:4:8: capture.mode: expected a string, found an integer",
            "etc/oneway.toml:5:12: capture.include: expected a string, found a date",
        ],
    );
    wrong("[tun]\nmtu = 1500.0", &["etc/oneway.toml:2:7: tun.mtu: expected an integer, found a float"]);
    wrong("tun = true", &["etc/oneway.toml:1:7: tun: expected a table, found a boolean"]);
    wrong("outbound.p = []", &["etc/oneway.toml:1:14: outbound.p: expected a table, found a list"]);
    wrong("rules.final = {}", &["etc/oneway.toml:1:15: rules.final: expected a string, found a table"]);
    wrong("tun.fd = -1", &["etc/oneway.toml:1:10: tun.fd: -1 is not between 0 and 4294967295"]);
}

#[test]
fn wrong_values() {
    for (text, error) in [
        (
            "capture.mode = \"tunn\"",
            "1:16: capture.mode: \"tunn\" is no capture mode; use tun, redirect or tproxy",
        ),
        ("capture.stack = \"\"", "1:17: capture.stack: \"\" is no stack; use user or system"),
        (
            "egress.protect = \"x\"",
            "1:18: egress.protect: \"x\" is no protection; use auto, mark, mark-terminal, mark-ifgroup, bind, \
             source-rule, host-route, host-route-halves or netns",
        ),
        ("dns.mode = \"x\"", "1:12: dns.mode: \"x\" is no DNS mode; use fake-ip, real or off"),
        (
            "log.level = \"x\"",
            "1:13: log.level: \"x\" is no log level; use error, warn, info, debug or trace",
        ),
        ("log.format = \"x\"", "1:14: log.format: \"x\" is no log format; use text or json"),
        (
            "capture.include = [\"192.0.2.0/24\", \"192.0.2.1/24\"]",
            "1:36: capture.include: \"192.0.2.1/24\" has host bits set; the prefix is 192.0.2.0/24",
        ),
        (
            "capture.exclude = [\"example.com\"]",
            "1:20: capture.exclude: \"example.com\" is no prefix; use an address and a length such as 192.0.2.0/24 or \
             2001:db8::/32",
        ),
        (
            "capture.include = []",
            "1:19: capture.include: an empty list captures nothing; leave the key out to capture everything",
        ),
        (
            "capture.exclude-uid = [4294967295]",
            "1:24: capture.exclude-uid: \"4294967295\" is no user number; use 0 to 4294967294, as `id -u NAME` \
             prints it",
        ),
        (
            "capture.exclude-cgroup = [\"a\", \"/../b\"]",
            "1:32: capture.exclude-cgroup: \"/../b\" is no control group; give its path, as `cat /proc/PID/cgroup` \
             shows it behind `0::`",
        ),
        (
            "capture.exclude-process = [\"bin/a\"]",
            "1:28: capture.exclude-process: \"bin/a\" is no program; give the name of its file, or the whole path, as \
             `readlink /proc/PID/exe` prints it",
        ),
        (
            "tun.name = \"a-name-too-long!\"",
            "1:12: tun.name: \"a-name-too-long!\" is no interface name; use 1 to 15 bytes without `/`, `:`, `%` and \
             blanks",
        ),
        ("tun.mtu = 1279", "1:11: tun.mtu: 1279 is no MTU; use 1280 to 65535"),
        (
            "tun.fault = \"loss=5%,colour=1%\"",
            "1:13: tun.fault: cannot read the fault \"colour=1%\"; write for example \
             loss=1%,delay=20ms,reorder=2%,duplicate=1%,corrupt=0.1%,seed=7",
        ),
        ("tun.mtu = 65536", "1:11: tun.mtu: 65536 is no MTU; use 1280 to 65535"),
        (
            "tun.fd = 2147483648",
            "1:10: tun.fd: 2147483648 is no file descriptor; give the number of one that is open",
        ),
        (
            "tun.addresses = [\"10.8.0.0/24\"]",
            "1:18: tun.addresses: \"10.8.0.0/24\" cannot be an address of a TUN device: it is the network's or the \
             broadcast address",
        ),
        (
            "tun.addresses = [\"10.8.0.1/31\"]",
            "1:18: tun.addresses: \"10.8.0.1/31\" cannot be an address of a TUN device: its prefix has no room for a \
             peer; use /30 (IPv4) or /126 (IPv6) or shorter",
        ),
        (
            "tun.addresses = [\"127.0.0.1/8\"]",
            "1:18: tun.addresses: \"127.0.0.1/8\" cannot be an address of a TUN device: it is unspecified, multicast \
             or loopback",
        ),
        (
            "tun.addresses = [\"10.8.0.1\"]",
            "1:18: tun.addresses: \"10.8.0.1\" is no address with a prefix length; use one such as 10.8.0.1/24",
        ),
        (
            "tun.addresses = [\"10.8.0.1/24\", \"10.9.0.1/24\"]",
            "1:17: a TUN device has at most one address of each family",
        ),
        (
            "tun = { name = \"tun7\", fd = 3 }",
            "1:16: a device that is handed over has a name already; give a name or a descriptor, not both",
        ),
        ("egress.mark = 0", "1:15: egress.mark: 0x0 is no single bit; use a power of two such as 0x10000000"),
        (
            "egress.mark = 255",
            "1:15: egress.mark: 0xff is no single bit; use a power of two such as 0x10000000",
        ),
        (
            "dns.upstream = [\"1.1.1.1\"]",
            "1:17: dns.upstream: \"1.1.1.1\" is no DNS upstream; use system, or udp://, tcp://, tls://, \
             https:// or quic:// and an address, such as udp://9.9.9.9 or https://9.9.9.9/dns-query",
        ),
        ("rules.final = \"x\"", "1:15: rules.final: no outbound is named \"x\"; there are direct, block"),
        (
            "rules.files = [\"none.txt\"]",
            "1:16: rules.files: cannot read \"etc/none.txt\": entity not found; check the path and its permissions",
        ),
    ] {
        wrong(text, &[&format!("etc/oneway.toml:{error}")]);
    }
}

#[test]
fn resolvers_of_some_names() {
    let config = parse(
        "[dns.domains]\n\"+.example\" = [\"system\"]\n\"+.corp.example\" = [\"udp://192.0.2.53\", \"tls://192.0.2.54#dns.example\"]",
    );
    let domains: Vec<_> =
        config.dns.domains.iter().map(|(names, list)| (names.as_str(), list.len())).collect();
    assert_eq!(domains, [("+.corp.example", 2), ("+.example", 1)], "the closest comes first");
    let narrowest = ["vpn.a.example", "*.a.example", "a.example", ".a.example", "+.a.example", "*.example"];
    for turn in 0..narrowest.len() {
        let mut names = narrowest;
        names.rotate_left(turn);
        let lines = names.map(|name| format!("{name:?} = [\"system\"]\n"));
        let config = parse(&format!("[dns.domains]\n{}", lines.concat()));
        let found: Vec<_> = config.dns.domains.iter().map(|(names, _)| names.as_str()).collect();
        assert_eq!(found, narrowest);
    }
    for (text, error) in [
        (
            "\"a..b\" = [\"system\"]",
            "2:1: dns.domains: \"a..b\" is no pattern of names; use example.com, *.example.com, .example.com or +.example.com",
        ),
        ("a = []", "2:1: dns.domains: \"a\" has no resolver; list at least one"),
        (
            "a = [\"tls://dns.example\"]",
            "2:1: dns.domains: tls://dns.example:853 is given by name; give its address, and its name behind it as in tls://192.0.2.53#dns.example",
        ),
    ] {
        wrong(&format!("[dns.domains]\n{text}"), &[&format!("etc/oneway.toml:{error}")]);
    }
}

#[test]
fn groups() {
    let config = parse(
        r#"
        [rules]
        final = "auto"
        [outbound.far]
        type = "http"
        server = "192.0.2.1:80"
        [outbound.auto]
        type = "url-test"
        members = ["far", "DIRECT", "again", "found"]
        url = "http://a.example/x"
        interval = "10s"
        tolerance = "5ms"
        timeout = "1s"
        [outbound.again]
        type = "load-balance"
        members = ["direct", "block"]
        strategy = "round-robin"
        [outbound.found]
        type = "probe"
        members = ["direct", "far"]
        interval = "1m"
        "#,
    );
    let OutboundSpec::Group(found) = &config.outbounds["found"] else { panic!("{config:?}") };
    assert_eq!(found.kind, GroupKind::Probe);
    assert_eq!((found.check.interval.as_secs(), found.check.timeout.as_secs()), (60, 3));
    let OutboundSpec::Group(auto) = &config.outbounds["auto"] else { panic!("{config:?}") };
    assert_eq!(auto.kind, GroupKind::UrlTest { tolerance: Duration::from_millis(5) });
    assert_eq!(auto.members, ["far", "DIRECT", "again", "found"]);
    assert_eq!(auto.check.url.to_string(), "http://a.example/x");
    assert_eq!((auto.check.interval.as_secs(), auto.check.timeout.as_secs()), (10, 1));
    let OutboundSpec::Group(again) = &config.outbounds["again"] else { panic!("{config:?}") };
    assert_eq!(again.kind, GroupKind::LoadBalance(Balance::RoundRobin));
    assert_eq!(again.check, CheckSpec::default());
}

#[test]
fn a_circle_of_groups_is_named_wherever_one_enters_it() {
    wrong(
        "[outbound.a]\ntype = \"select\"\nmembers = [\"b\"]\n[outbound.b]\ntype = \"select\"\nmembers = [\"direct\", \"a\"]",
        &[
            "etc/oneway.toml:1:11: outbound.a: it leads back to itself: a -> b -> a",
            "etc/oneway.toml:4:11: outbound.b: it leads back to itself: b -> a -> b",
        ],
    );
}

#[test]
fn wrong_outbounds() {
    for (text, error) in [
        ("outbound.direct = {}", "1:10: the outbound `direct` always exists and cannot be redefined"),
        (
            "outbound.\"a b\" = {}",
            "1:10: \"a b\" is no name for an outbound; rules need it without commas and blanks",
        ),
        (
            "[outbound.p]",
            "1:11: [outbound.p] has no `type`; use direct, block, socks5, socks4, http, trojan, shadowsocks, select, url-test, fallback, \
             load-balance or probe",
        ),
        (
            "[outbound.p]\ntype = \"socks\"",
            "2:8: outbound.p.type: \"socks\" is no type of outbound; use direct, block, socks5, socks4, http, trojan, shadowsocks, select, \
             url-test, fallback, load-balance or probe",
        ),
        (
            "[outbound.p]\ntype = \"fallback\"\nmembers = []",
            "1:11: [outbound.p] has no members; list at least one",
        ),
        (
            "[outbound.p]\ntype = \"select\"",
            "1:11: [outbound.p] has no `members`; list the names of other outbounds",
        ),
        (
            "[outbound.p]\ntype = \"select\"\nmembers = [\"direct\", \"direct\"]",
            "1:11: [outbound.p] has the member \"direct\" twice",
        ),
        (
            "[outbound.p]\ntype = \"select\"\nmembers = [\"REJECT\", \"direct\", \"block\"]",
            "1:11: outbound.p: \"REJECT\" and \"block\" are the same member",
        ),
        (
            "[outbound.p]\ntype = \"select\"\nmembers = [\"x\"]",
            "1:11: outbound.p: no outbound is named \"x\"",
        ),
        (
            "[outbound.p]\ntype = \"select\"\nmembers = [\"p\"]",
            "1:11: outbound.p: it leads back to itself: p -> p",
        ),
        (
            "[outbound.p]\ntype = \"select\"\nmembers = [\"direct\"]\ninterval = \"5s\"",
            "4:1: unknown key `interval` in [outbound.p]; the keys are type, members",
        ),
        (
            "[outbound.p]\ntype = \"fallback\"\nmembers = [\"direct\"]\nurl = \"https://a.example\"",
            "4:7: outbound.p.url: \"https://a.example\" cannot be checked: use an http:// URL; TLS would only tell of \
             its own troubles",
        ),
        (
            "[outbound.p]\ntype = \"load-balance\"\nmembers = [\"direct\"]\nstrategy = \"x\"",
            "4:12: outbound.p.strategy: \"x\" is no way to balance; use consistent-hash or round-robin",
        ),
        ("[outbound.p]\ntype = \"http\"", "1:11: [outbound.p] has no `server`; add HOST:PORT"),
        (
            "[outbound.p]\ntype = \"http\"\nserver = \"2001:db8::1:80\"",
            "3:10: outbound.p.server: \"2001:db8::1:80\" is no server; use HOST:PORT such as proxy.example:1080 or \
             [2001:db8::1]:1080",
        ),
        (
            "[outbound.p]\ntype = \"http\"\nserver = \"a b:80\"",
            "3:10: outbound.p.server: \"a b\" is neither a host name nor an address",
        ),
        (
            "[outbound.p]\ntype = \"http\"\nserver = \"a:http\"",
            "3:10: outbound.p.server: \"http\" is no port; use 1 to 65535",
        ),
        (
            "[outbound.p]\ntype = \"socks5\"\nserver = \"a:1\"\nusername = \"u\"",
            "1:11: [outbound.p] a SOCKS5 password has 1 to 255 bytes (RFC 1929)",
        ),
        (
            "[outbound.p]\ntype = \"socks5\"\nserver = \"a:1\"\nusername = \"\"\npassword = \"p\"",
            "1:11: [outbound.p] a SOCKS5 user name has 1 to 255 bytes (RFC 1929)",
        ),
        (
            "proxy = \"http://192.0.2.1:80\"\n[outbound.proxy]\ntype = \"direct\"",
            "1:9: proxy: [outbound.proxy] defines this outbound already; give one of the two",
        ),
    ] {
        wrong(text, &[&format!("etc/oneway.toml:{error}")]);
    }
}

#[test]
fn protections_that_cannot_be_are_refused_with_a_way_out() {
    for (text, error) in [
        (
            "egress.protect = \"host-route\"",
            "1:18: host-route cannot protect direct connections to arbitrary destinations, and the final outbound is \
             direct; send everything by a proxy, or use mark",
        ),
        (
            "proxy = \"socks5://192.0.2.1:1080\"\negress.protect = \"host-route\"\n\
             [rules]\nlist = [\"IP-CIDR,10.0.0.0/8,DIRECT\"]",
            "2:18: host-route cannot protect direct connections to arbitrary destinations, and a rule leads to direct; \
             send everything by a proxy, or use mark",
        ),
        (
            "egress.protect = \"netns\"",
            "1:18: netns needs a namespace; name one with egress.netns, or use mark",
        ),
        (
            "egress = { protect = \"bind\", netns = \"vpn\" }",
            "1:38: a namespace for protection by bind has no meaning; use netns, or leave it out",
        ),
        (
            "egress = { interface = \"eth1\", protect = \"mark\" }",
            "1:24: mark follows the host's routes and does not keep to an interface; use bind, or leave one of the two out",
        ),
        (
            "egress = { interface = \"eth1\", netns = \"vpn\" }",
            "1:40: an interface cannot be pinned in another namespace; leave one of the two out",
        ),
        (
            "egress.netns = \"\"",
            "1:16: egress.netns: \"\" is no network namespace; use a name that `ip netns list` shows, or a path",
        ),
    ] {
        wrong(text, &[&format!("etc/oneway.toml:{error}")]);
    }
}

#[test]
fn later_versions_are_refused() {
    for (text, error) in [
        ("confirm = 0", "1:11: confirm: nobody can confirm in 0 seconds; give at least 1"),
        (
            "api = { listen = \"127.0.0.1:9090\", secret = \"s\" }",
            "1:1: the HTTP API is not available in this version",
        ),
        ("[api]\nsecret = \"s\"", "1:2: the HTTP API is not available in this version"),
        ("[api]", "1:2: the HTTP API is not available in this version"),
    ] {
        wrong(text, &[&format!("etc/oneway.toml:{error}")]);
    }
    let options = Options { api: Some(([127, 0, 0, 1], 9).into()), ..Options::default() };
    let errors = Config::load(None, options).unwrap_err();
    assert_eq!(errors.to_string(), "--api: the HTTP API is not available in this version");
}

#[test]
fn warnings() {
    warned(
        "[outbound.p]\ntype = \"block\"",
        &["etc/oneway.toml:1:11: no rule leads to the outbound \"p\", and it is not the final one"],
    );
}

#[test]
fn all_errors_are_found_in_one_go() {
    wrong(
        "confirm = true\n[tun]\nmtu = 1\n[zzz]\n[capture]\nmode = \"é\"; x = 1\n",
        &["etc/oneway.toml:6:11: unexpected key or value, expected newline, `#`"],
    );
    wrong(
        "confirm = true\n[tun]\nmtu = 1\n[capture]\nmode = \"é\"\nstack = \"\"\n",
        &[
            "etc/oneway.toml:1:11: confirm: expected an integer, found a boolean",
            "etc/oneway.toml:3:7: tun.mtu: 1 is no MTU; use 1280 to 65535",
            "etc/oneway.toml:5:8: capture.mode: \"é\" is no capture mode; use tun, redirect or tproxy",
            "etc/oneway.toml:6:9: capture.stack: \"\" is no stack; use user or system",
        ],
    );
}

#[test]
fn rules_are_looked_at_whatever_else_is_wrong() {
    wrong(
        "tun.mtu = 1\n[rules]\nlist = [\"DOMAIN,a b,direct\", 7, \"MATCH,nowhere\"]\n",
        &[
            "etc/oneway.toml:1:11: tun.mtu: 1 is no MTU; use 1280 to 65535",
            "etc/oneway.toml:3:9: rule \"DOMAIN,a b,direct\", column 8: \"a b\" is no host name: it has a blank, a slash or a \
             control character",
            "etc/oneway.toml:3:30: rules.list: expected a string, found an integer",
            "etc/oneway.toml:3:33: rule \"MATCH,nowhere\", column 7: there is no outbound named \"nowhere\"",
        ],
    );
}

/// One mistake is one error, whoever refers to where it is.
#[test]
fn what_is_wrong_is_there_all_the_same() {
    wrong(
        r#"
        proxy = "socks9://192.0.2.1:1080"
        [outbound.p]
        type = "socks5"
        [outbound.g]
        type = "select"
        members = ["p"]
        [rule-set.a]
        path = "a.txt"
        [sub-rules]
        s = 7
        [rules]
        final = "p"
        geosite = "g.dat"
        list = ["RULE-SET,a,g", "SUB-RULE,(NETWORK,tcp),s", "GEOSITE,cn,p", "DST-PORT,1,proxy", "DST-PORT,x,p"]
        "#,
        &[
            "etc/oneway.toml:2:17: proxy: \"socks9\" is no proxy protocol; use socks5, socks5h, socks4, socks4a, http, https or \
             trojan",
            "etc/oneway.toml:3:19: [outbound.p] has no `server`; add HOST:PORT",
            "etc/oneway.toml:9:16: rule-set.a.path: cannot read \"etc/a.txt\": entity not found; check the path and its permissions",
            "etc/oneway.toml:11:13: sub-rules.s: expected a list, found an integer",
            "etc/oneway.toml:14:19: rules.geosite: cannot read \"etc/g.dat\": entity not found; check the path and its permissions",
            "etc/oneway.toml:15:97: rule \"DST-PORT,x,p\", column 10: \"x\" is not a port such as 443, 80/443 or 8000-8999",
        ],
    );
}

#[test]
fn columns_count_characters() {
    wrong(
        "tun = { name = \"é\", fd = true }",
        &["etc/oneway.toml:1:26: tun.fd: expected an integer, found a boolean"],
    );
}

#[test]
fn a_file_that_cannot_be_read() {
    let error = Config::load(Some(Path::new("/nonexistent/oneway.toml")), Options::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the configuration \"/nonexistent/oneway.toml\": No such file or directory (os error 2); \
         check the path and its permissions"
    );
}

#[test]
fn a_file_that_is_no_text_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("oneway.toml");
    for (bytes, place) in [
        (&b"[tun]\nname = \"\xc3\xa9\xe9\"\n"[..], "2:10"),
        (b"\xff\xfe[\0t\0", "1:1"),
        (b"# \xe2\x82", "1:3"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let error = Config::load(Some(&file), Options::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}:{place}: this is not UTF-8; is the file a text?", file.display())
        );
    }
}

#[test]
fn an_interface_name_is_what_the_kernel_takes() {
    for name in ["a", "eth0.100", "fifteen-bytes-1", "é"] {
        assert_eq!(name.parse::<InterfaceName>().unwrap().as_str(), name);
    }
    for name in ["", ".", "..", "a/b", "a b", "a:1", "tun%d", "sixteen-bytes-12"] {
        assert!(name.parse::<InterfaceName>().is_err(), "{name:?}");
    }
}

#[test]
fn errors_as_data() {
    let errors = load("tun.mtu = 1", Options { mtu: None, ..Options::default() }).unwrap_err();
    assert_eq!(
        serde_json::to_value(errors.as_slice()).unwrap(),
        serde_json::json!([{ "file": "etc/oneway.toml", "line": 1, "column": 11,
            "message": "tun.mtu: 1 is no MTU; use 1280 to 65535" }])
    );
    let error = ConfigError::new(Some(Origin::Option("--mtu")), "a\nb");
    assert_eq!(
        serde_json::to_value(&error).unwrap(),
        serde_json::json!({ "option": "--mtu", "message": "a, b" })
    );
}

#[test]
fn dns_defaults_follow_the_proxy() {
    assert_eq!(parse("").dns.mode, DnsMode::Real);
    assert_eq!(parse("proxy = \"socks5://192.0.2.1:1080\"").dns.mode, DnsMode::FakeIp);
    assert_eq!(parse("proxy = \"socks5://192.0.2.1:1080\"\ndns.mode = \"real\"").dns.mode, DnsMode::Real);
    assert_eq!(parse("outbound.b.type = \"block\"\nrules.final = \"b\"").dns.mode, DnsMode::Real);
}

#[test]
fn dns_upstreams_that_cannot_be_asked_are_errors() {
    for (upstream, error) in [
        (
            "udp://dns.example",
            "is a cycle: to ask this resolver its own name would have to be resolved first",
        ),
        ("tls://192.0.2.53/x", "is no DNS upstream"),
        ("https://user@192.0.2.53/dns-query", "is no DNS upstream"),
        ("https://192.0.2.53/dns-query?dns=x", "is no DNS upstream"),
        ("udp://192.0.2.53#dns.example", "is no DNS upstream"),
        ("udp://192.0.2.53/x", "is no DNS upstream"),
        ("udp://192.0.2.53:0", "is no DNS upstream"),
        ("udp://0.0.0.0", "is no DNS upstream"),
        ("quic://192.0.2.53/x", "is no DNS upstream"),
        ("quic://192.0.2.53:53", "port 53 is not for QUIC; the usual one is 853"),
        ("", "is no DNS upstream"),
    ] {
        let found = upstream.parse::<DnsUpstream>().unwrap_err().to_string();
        assert!(found.contains(error), "{upstream}: {found}");
    }
}

#[test]
fn proxies_that_are_spoken_to_by_tls() {
    let config = parse(
        r#"
        [outbound.t]
        type = "trojan"
        server = "t.example:443"
        password = "secret"
        server-name = "other.example"
        alpn = ["h2", "http/1.1"]
        [outbound.web]
        type = "http"
        server = "192.0.2.1:8443"
        tls = true
        skip-verify = true
        [rules]
        list = ["A,t", "B,web"]
        "#,
    );
    assert!(!format!("{config:?}").contains("secret"));
    let OutboundSpec::Proxy(trojan) = &config.outbounds["t"] else { panic!("{:?}", config.outbounds) };
    let tls = trojan.tls.as_ref().unwrap();
    assert_eq!(
        (tls.server_name.as_deref(), tls.alpn.len(), tls.skip_verify),
        (Some("other.example"), 2, false)
    );
    let OutboundSpec::Proxy(web) = &config.outbounds["web"] else { panic!("{:?}", config.outbounds) };
    assert!(web.tls.as_ref().unwrap().skip_verify);
    let url: ProxySpec = "trojan://p%40ss@t.example:443".parse().unwrap();
    assert_eq!(url.credentials.unwrap().password.expose(), "p@ss");
    assert!("https://192.0.2.1:8443".parse::<ProxySpec>().unwrap().tls.is_some());
    assert!("http://192.0.2.1:8080".parse::<ProxySpec>().unwrap().tls.is_none());
    let said = |url: &str| url.parse::<ProxySpec>().unwrap_err().to_string();
    assert_eq!(said("trojan://t.example:443"), "Trojan needs a `password` of 1 to 255 bytes");
    assert_eq!(said("trojan://user:pass@t.example:443"), "Trojan has no user name, only a password");
    wrong(
        "[outbound.t]\ntype = \"trojan\"\nserver = \"192.0.2.1:443\"\npassword = \"x\"\nca = \"none.pem\"",
        &[
            "etc/oneway.toml:1:11: [outbound.t] cannot read the certificates in etc/none.pem: No such file or directory \
             (os error 2); name a file of PEM certificates that this user may read",
        ],
    );
}

#[test]
fn shadowsocks_servers() {
    let config = parse(
        r#"
        [outbound.old]
        type = "shadowsocks"
        server = "192.0.2.1:8388"
        method = "chacha20-ietf-poly1305"
        password = "secret"
        [outbound.new]
        type = "shadowsocks"
        server = "192.0.2.1:8389"
        method = "2022-blake3-aes-128-gcm"
        password = "AAECAwQFBgcICQoLDA0ODw=="
        [rules]
        list = ["A,old", "B,new"]
        "#,
    );
    assert!(!format!("{config:?}").contains("secret"));
    for (keys, why) in [
        (
            "method = \"rc4-md5\"\npassword = \"x\"",
            "4:10: outbound.s.method: \"rc4-md5\" is no cipher of Shadowsocks that is available; there are aes-128-gcm, \
             aes-256-gcm, chacha20-ietf-poly1305, 2022-blake3-aes-128-gcm, 2022-blake3-aes-256-gcm, \
             2022-blake3-chacha20-poly1305",
        ),
        (
            "method = \"2022-blake3-aes-256-gcm\"\npassword = \"c2hvcnQ=\"",
            "1:11: [outbound.s] the password for 2022-blake3-aes-256-gcm is a key of 32 bytes in Base64, as `openssl rand \
             -base64 32` makes it",
        ),
        ("method = \"aes-128-gcm\"", "1:11: [outbound.s] Shadowsocks needs a `password` of 1 to 255 bytes"),
    ] {
        let text = format!("[outbound.s]\ntype = \"shadowsocks\"\nserver = \"192.0.2.1:8388\"\n{keys}");
        wrong(&text, &[&format!("etc/oneway.toml:{why}")]);
    }
}

#[test]
fn resolvers_that_are_asked_by_tls() {
    for (text, shown) in [
        ("tls://192.0.2.53", "tls://192.0.2.53:853"),
        ("tls://[2001:db8::53]:8853#dns.example", "tls://[2001:db8::53]:8853#dns.example"),
        ("quic://192.0.2.53", "quic://192.0.2.53:853"),
        ("quic://dns.example:8853#other.example", "quic://dns.example:8853#other.example"),
        ("https://1.1.1.1/dns-query", "https://1.1.1.1:443/dns-query"),
        ("https://192.0.2.53", "https://192.0.2.53:443/dns-query"),
        ("https://DNS.example:8443/a/b", "https://dns.example:8443/a/b"),
    ] {
        let upstream = text.parse::<DnsUpstream>().unwrap();
        assert_eq!(upstream.to_string(), shown);
        assert_eq!(shown.parse::<DnsUpstream>().unwrap(), upstream);
    }
    let config = parse("dns.upstream = [\"https://dns.example/dns-query\", \"udp://9.9.9.9\"]");
    assert_eq!(config.dns.upstream.len(), 2);
    parse("dns.upstream = [\"https://dns.example\"]\ndns.domains.\"+.example\" = [\"udp://9.9.9.9\"]");
    wrong(
        "dns.upstream = [\"https://a.example\", \"https://b.example\"]\ndns.domains.\"a.example\" = [\"udp://9.9.9.9\"]",
        &[
            "etc/oneway.toml:1:16: dns.upstream: \"https://b.example:443/dns-query\" is a cycle: to ask this resolver its \
           own name would have to be resolved first, and DNS is captured; give its address, or add a resolver that has \
           one, such as udp://9.9.9.9",
        ],
    );
    wrong(
        "dns.upstream = [\"https://dns.example/dns-query\"]",
        &[
            "etc/oneway.toml:1:16: dns.upstream: \"https://dns.example:443/dns-query\" is a cycle: to ask this resolver its \
           own name would have to be resolved first, and DNS is captured; give its address, or add a resolver that has \
           one, such as udp://9.9.9.9",
        ],
    );
    wrong(
        "proxy = \"socks5://192.0.2.1:1080\"\negress.protect = \"host-route\"\n\
         dns.upstream = [\"tls://dns.example\", \"udp://9.9.9.9\"]",
        &[
            "etc/oneway.toml:3:16: dns.upstream: tls://dns.example:853: host-route needs the address of each server \
           beforehand; give its address, and its name behind it as in tls://192.0.2.53#dns.example",
        ],
    );
    wrong(
        "dns.ca = \"none.pem\"",
        &[
            "etc/oneway.toml:1:10: dns.ca: cannot read the certificates in etc/none.pem: No such file or directory \
             (os error 2); name a file of PEM certificates that this user may read",
        ],
    );
}

/// `reload` takes up what differs.
#[test]
fn a_file_of_authorities_is_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let certificate =
        || rcgen::generate_simple_self_signed(vec!["proxy.example".to_owned()]).unwrap().cert.pem();
    let read = |content: &str| {
        std::fs::write(folder.path().join("ca.pem"), content).unwrap();
        let text = "dns.ca = \"ca.pem\"\n[outbound.out]\ntype = \"trojan\"\nserver = \"192.0.2.1:443\"\n\
                    password = \"p\"\nca = \"ca.pem\"\n";
        let nothing = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let loaded = Config::from_toml(&folder.path().join("o.toml"), text, Options::default(), &nothing);
        let config = loaded.unwrap().config;
        (config.dns, config.outbounds)
    };
    let [one, other] = [certificate(), certificate()];
    let (dns, outbounds) = read(&one);
    assert_eq!((&dns, &outbounds), (&read(&one).0, &read(&one).1));
    let (other_dns, other_outbounds) = read(&other);
    assert!(dns != other_dns && outbounds != other_outbounds);
    assert!(!format!("{outbounds:?}").contains("BEGIN"), "it is not shown whole");
}

#[test]
fn fake_addresses_overlap_nothing() {
    wrong(
        "proxy = \"socks5://192.0.2.1:1080\"\ncapture.exclude = [\"198.18.1.0/24\", \"10.0.0.0/8\"]",
        &["etc/oneway.toml:2:19: 198.18.1.0/24 overlaps the fake addresses 198.18.0.0/15; see dns.fake-ip"],
    );
    wrong(
        "proxy = \"socks5://192.0.2.1:1080\"\ntun.addresses = [\"198.18.0.1/30\"]",
        &["etc/oneway.toml:2:17: 198.18.0.1/30 overlaps the fake addresses 198.18.0.0/15; see dns.fake-ip"],
    );
    // Without fake addresses there is nothing to overlap.
    parse("capture.exclude = [\"198.18.1.0/24\"]");
    wrong(
        "dns.fake-ip = { v4 = \"fc00::/64\", v6 = \"fc00::/127\", exclude = [\"a b\"] }",
        &[
            "etc/oneway.toml:1:22: dns.fake-ip.v4: \"fc00::/64\" is no range of IPv4 addresses for names; use one of at \
             least 16, such as 198.18.0.0/15",
            "etc/oneway.toml:1:40: dns.fake-ip.v6: \"fc00::/127\" is no range of IPv6 addresses for names; use one of at \
             least 16, such as fc00:18::/64",
            "etc/oneway.toml:1:65: dns.fake-ip.exclude: \"a b\" is no pattern of names; use example.com, *.example.com, \
             .example.com or +.example.com",
        ],
    );
    for (key, range, instead) in [
        ("v4", "127.0.0.0/8", "198.18.0.0/15"),
        ("v4", "224.0.0.0/8", "198.18.0.0/15"),
        ("v4", "0.0.0.0/0", "198.18.0.0/15"),
        ("v6", "fe80::/64", "fc00:18::/64"),
    ] {
        wrong(
            &format!("dns.fake-ip = {{ {key} = \"{range}\" }}"),
            &[&format!(
                "etc/oneway.toml:1:22: dns.fake-ip.{key}: \"{range}\" has addresses that are never captured (loopback, \
                 link-local, multicast); use a range such as {instead}"
            )],
        );
    }
}
