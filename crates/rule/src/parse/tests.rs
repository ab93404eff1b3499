use super::*;
use crate::condition::NameKind;

fn outbound(name: &str) -> Option<OutboundId> {
    match name {
        "direct" => Some(OutboundId(0)),
        "block" => Some(OutboundId(1)),
        "proxy" => Some(OutboundId(7)),
        _ => None,
    }
}

fn context() -> Context<'static> {
    Context {
        rule_set: &|name| (name == "ads").then_some(SetId(0)),
        sub_rule: &|name| (name == "local").then_some(SubId(0)),
        geoip: true,
        ..Context::new(&outbound)
    }
}

#[track_caller]
fn good(text: &str) -> Rule {
    let mut list = RuleList::default();
    list.push(text, 1, &context()).unwrap_or_else(|error| panic!("{text}: {error}"));
    list.rules.pop().unwrap()
}

#[track_caller]
fn wrong(text: &str) -> (usize, String) {
    let error = RuleList::default().push(text, 1, &context()).expect_err(text);
    assert_eq!(error.line, 1);
    assert!(!error.message.contains('\n'), "{}", error.message);
    (error.column, error.message)
}

#[test]
fn every_kind_is_read() {
    for text in [
        "DOMAIN,www.example.com,proxy",
        "domain-suffix, Example.COM , proxy",
        "DOMAIN-SUFFIX,.example.com,proxy",
        "DOMAIN-KEYWORD,google,proxy",
        "DOMAIN-WILDCARD,*.ex?mple.com,proxy",
        r"DOMAIN-REGEX,^ab{1,3}c\.com$,proxy",
        "IP-CIDR,10.0.0.0/8,direct",
        "IP-CIDR,10.0.0.1/8,direct,no-resolve",
        "IP-CIDR6,2001:db8::/32,proxy",
        "IP-CIDR,192.0.2.1,proxy,src",
        "SRC-IP-CIDR,192.168.0.0/16,direct",
        "IP-SUFFIX,8.8.8.8/24,proxy",
        "GEOIP,DE,direct",
        "GEOIP,LAN,direct,no-resolve",
        "SRC-GEOIP,cn,direct",
        "DST-PORT,80,proxy",
        "DST-PORT,80/443/8000-8999,proxy",
        "SRC-PORT,9000-8000,proxy",
        "NETWORK,UDP,proxy",
        "PROCESS-NAME,curl,proxy",
        "PROCESS-PATH,/usr/bin/curl,proxy",
        "PROCESS-NAME-REGEX,^cu.l$,proxy",
        "PROCESS-PATH-WILDCARD,/opt/*,proxy",
        "UID,1000,proxy",
        "UID,1000-1999/0,proxy",
        "IN-TYPE,TUN/SOCKS,proxy",
        "DSCP,46,proxy",
        "RULE-SET,ads,block",
        "RULE-SET,ads,block,no-resolve",
        "AND,((DOMAIN,example.com),(NETWORK,udp)),block",
        "OR,((DST-PORT,22),(NOT,((SRC-IP-CIDR,192.0.2.0/24)))),direct",
        "NOT,((DOMAIN-REGEX,a{1,2})),proxy",
        "AND, ((IP-CIDR,1.0.0.0/8,no-resolve), (OR,((UID,1),(UID,2)))), proxy",
        "SUB-RULE,(NETWORK,tcp),local",
        "SUB-RULE,(AND,((NETWORK,tcp),(DST-PORT,443))),local",
        "- MATCH,proxy",
        "FINAL,direct",
    ] {
        good(text);
    }
}

#[test]
fn payloads_become_what_they_mean() {
    let Condition::Net(net, address) = good("IP-CIDR,10.1.2.3/8,direct,no-resolve").condition else {
        panic!()
    };
    assert_eq!((net.to_string().as_str(), address.resolve), ("10.0.0.0/8", false));
    let Condition::Port(_, ports) = good("DST-PORT,443/9000-8000,direct").condition else { panic!() };
    assert!(ports.contains(443) && ports.contains(8500) && !ports.contains(444));
    let Condition::Regex(regex) = good(r"DOMAIN-REGEX,^a{1,3}$,proxy").condition else { panic!() };
    assert!(regex.is_match("AAA") && !regex.is_match("aaaa"));
    let Condition::All(inner) = good("AND,((DOMAIN,a.b),(NETWORK,udp)),block").condition else { panic!() };
    assert_eq!(inner.len(), 2);
    for (text, kind) in [
        ("DOMAIN,A.example,block", NameKind::Exact),
        ("DOMAIN-SUFFIX,a.example.,block", NameKind::Suffix),
        ("DOMAIN-SUFFIX,+.a.example,block", NameKind::Suffix),
        ("DOMAIN-SUFFIX,.a.example,block", NameKind::Below),
    ] {
        let Condition::Name(read, name) = good(text).condition else { panic!("{text}") };
        assert_eq!((read, &*name), (kind, "a.example"), "{text}");
    }
    assert_eq!(good("MATCH,proxy").action, Action::Outbound(OutboundId(7)));
    assert_eq!(good("SUB-RULE,(NETWORK,tcp),local").action, Action::Sub(SubId(0)));
}

#[test]
fn the_place_and_the_cure() {
    for (text, column, message) in [
        ("", 1, "a kind of rule is missing here, such as DOMAIN-SUFFIX or MATCH"),
        (
            "WHATEVER,x,direct",
            1,
            "unknown kind of rule \"WHATEVER\"; see the README for those that there are",
        ),
        ("IN-PORT,7890,direct", 1, "IN-PORT is not supported: there is nothing here that it could ask about"),
        ("DOMAIN", 7, "a host name is missing here"),
        ("DOMAIN,a b,direct", 8, "\"a b\" is no host name: it has a blank, a slash or a control character"),
        ("DOMAIN,.a.b,direct", 8, "\".a.b\" is no host name: it begins with a dot"),
        (
            "DOMAIN,+.a.b,direct",
            8,
            "\"+.a.b\" never matches: no host name has '+' in it; DOMAIN-SUFFIX takes a name with all below it",
        ),
        (
            "DOMAIN-SUFFIX,*.a.b,direct",
            15,
            "\"*.a.b\" never matches: no host name has '*' in it; DOMAIN-WILDCARD knows it",
        ),
        ("DOMAIN-SUFFIX,+.a.b:1,direct", 17, "\"a.b:1\" never matches: no host name has ':' in it"),
        (
            "DOMAIN-KEYWORD,*ads*,direct",
            16,
            "\"*ads*\" never matches: no host name has '*' in it; DOMAIN-WILDCARD knows it",
        ),
        (
            "DOMAIN-WILDCARD,.a.b,direct",
            17,
            "\".a.b\" never matches: no host name has nothing between two dots, or before the first",
        ),
        ("DOMAIN,a.b", 11, "an outbound is missing here"),
        ("DOMAIN,a.b,nowhere", 12, "there is no outbound named \"nowhere\""),
        ("DOMAIN,é.b,nowhere", 12, "there is no outbound named \"nowhere\""),
        ("DOMAIN,a.b,direct,quick", 19, "unknown option \"quick\"; no-resolve and src may follow"),
        ("DOMAIN,a.b,direct,src", 19, "DOMAIN has no option src; rules on addresses have"),
        (
            "IP-CIDR,10.0.0.0/33,direct",
            9,
            "\"10.0.0.0/33\" is not a network; one such as 10.0.0.0/8 or 2001:db8::/32 is expected",
        ),
        (
            "IP-CIDR,  example.com,direct",
            11,
            "\"example.com\" is not a network; one such as 10.0.0.0/8 or 2001:db8::/32 is expected",
        ),
        ("IP-CIDR", 8, "a network, such as 10.0.0.0/8, is missing here"),
        ("DST-PORT,80/x/443,direct", 13, "\"x\" is not a port such as 443, 80/443 or 8000-8999"),
        ("DST-PORT,65536,direct", 10, "\"65536\" is not a port such as 443, 80/443 or 8000-8999"),
        ("DSCP,64,direct", 6, "\"64\" is not a code point from 0 to 63 such as 46 or 8-15"),
        ("UID,root,direct", 5, "\"root\" is not a user number such as 1000 or 1000-1999"),
        ("NETWORK,sctp,direct", 9, "\"sctp\" is no network; use tcp, udp or icmp"),
        ("IN-TYPE,TUN/MOON,direct", 13, "\"MOON\" is no type of inbound; use TUN, REDIR or TPROXY"),
        ("DOMAIN-REGEX,a(b,direct", 14, "\"a(b\" is no regular expression: unclosed group"),
        (
            "DOMAIN-REGEX,^(?!a),direct",
            14,
            "\"^(?!a)\" is no regular expression: look-around, including look-ahead and look-behind, is not supported",
        ),
        (
            "GEOSITE,cn,direct",
            9,
            "GEOSITE needs a database of names; give its file by the key geosite in [rules]",
        ),
        (
            "IP-ASN,64496,direct",
            1,
            "IP-ASN needs a database of networks; give its file by the key asn in [rules]",
        ),
        ("GEOIP,D E,direct", 7, "\"D E\" is no code of a country; use one such as DE, or LAN"),
        ("RULE-SET,x,direct", 10, "there is no rule set named \"x\"; it is defined by [rule-set.x]"),
        ("SUB-RULE,(NETWORK,tcp),x", 24, "there is no list of sub-rules named \"x\""),
        (
            "SUB-RULE,NETWORK,tcp,local",
            10,
            "a condition in brackets is expected here, such as (DOMAIN,example.com)",
        ),
        (
            "AND,(DOMAIN,a.b),direct",
            6,
            "a condition in brackets is expected here, such as (DOMAIN,example.com)",
        ),
        ("AND,((DOMAIN,a.b),(NETWORK,udp),direct", 31, "a ) is missing here"),
        ("AND,((DOMAIN,a.b),(NETWORK,quic)),direct", 28, "\"quic\" is no network; use tcp, udp or icmp"),
        ("AND,((MATCH)),direct", 7, "MATCH cannot stand inside another rule"),
        (
            "NOT,((DOMAIN,a.b),(DOMAIN,c.d)),direct",
            5,
            "NOT takes one condition, such as NOT,((DOMAIN,example.com))",
        ),
        ("MATCH", 6, "an outbound is missing here"),
        ("MATCH,direct,x", 14, "\"x\" is one field too many"),
    ] {
        assert_eq!(wrong(text), (column, message.to_owned()), "{text}");
    }
    let without = Context { geoip: false, ..context() };
    let error = RuleList::default().push("GEOIP,CN,direct", 1, &without).unwrap_err();
    assert_eq!(
        error.message,
        "GEOIP needs a database of countries; give its file by the key geoip in [rules]"
    );
    assert!(RuleList::default().push("GEOIP,LAN,direct", 1, &without).is_ok());
}

#[test]
fn nesting_has_an_end() {
    let nested = |depth: usize| format!("{}DOMAIN,a.b{},direct", "NOT,((".repeat(depth), "))".repeat(depth));
    good(&nested(32));
    assert!(wrong(&nested(33)).1.contains("nest at most 32 deep"));
    wrong(&nested(20_000));
}

#[test]
fn files_are_read_whole_and_every_error_is_named() {
    let text =
        "\u{feff}# head\n\n- IP-CIDR,10.0.0.0/8,direct\r\n// another\nGEOIP,CN,nowhere\n  MATCH,nowhere\n";
    let mut list = RuleList::default();
    let errors = list.push_text(text, &context());
    let places: Vec<_> = errors.iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(5, 10), (6, 9)]);
    assert_eq!((list.len(), list.text(0)), (1, Some("IP-CIDR,10.0.0.0/8,direct")));

    let yaml = "port: 7890\nproxies:\n  - {name: a, type: socks5}\nrules:\n  - DOMAIN,a.b,proxy\n  - 'IP-CIDR,1/8,proxy'\n\
                \x20 - \"MATCH,direct\" # the end\n";
    let mut list = RuleList::default();
    let errors = list.push_yaml(yaml, &context());
    let places: Vec<_> = errors.iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(6, 14)]);
    assert_eq!((list.len(), list.text(1)), (2, Some("MATCH,direct")));
    for (text, place) in [("rules: [", (2, 1)), ("a: b", (1, 1)), ("- a", (1, 1)), ("rules: {a: b}", (1, 8))]
    {
        let errors = RuleList::default().push_yaml(text, &context());
        let first = errors.first().expect(text);
        assert_eq!((first.line, first.column), place, "{text}: {first}");
    }
}

#[test]
fn rules_behind_match_are_left_out() {
    let mut list = RuleList::default();
    assert_eq!(list.push("MATCH,proxy", 1, &context()), Ok(true));
    assert_eq!(list.push("IP-CIDR,10.0.0.0/8,direct", 2, &context()), Ok(false));
    assert!(list.is_closed());
    assert_eq!(list.len(), 1);
}

#[test]
fn no_input_panics() {
    for text in [
        ",",
        ",,,,,",
        "é,é,é",
        "- ",
        "-",
        "\u{0}",
        "IP-CIDR,\u{2003}é/8,direct",
        "- é,x",
        "AND,é(",
        "AND,((é)),x",
    ] {
        let _ = RuleList::default().push(text, 1, &context());
        let _ = RuleList::default().push_text(text, &context());
        let _ = RuleList::default().push_yaml(text, &context());
    }
}
