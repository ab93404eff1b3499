use super::*;

fn outbound(name: &str) -> Option<OutboundId> {
    match name {
        "direct" => Some(OutboundId(0)),
        "block" => Some(OutboundId(1)),
        "proxy" => Some(OutboundId(7)),
        _ => None,
    }
}

fn error(rule: &str) -> (usize, String) {
    let errors = parse_list(&[rule], outbound).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].line, 1);
    assert!(!errors[0].to_string().contains('\n'));
    (errors[0].column, errors[0].message.clone())
}

#[test]
fn parses_the_known_forms() {
    let parsed = parse_list(
        &[
            "IP-CIDR,10.0.0.0/8,direct",
            "ip-cidr, 192.168.1.7/16 ,block, no-resolve",
            "IP-CIDR6,2001:db8::/32,proxy,no-resolve",
            "IP-CIDR,192.0.2.1,proxy",
            "MATCH,proxy",
        ],
        outbound,
    )
    .unwrap();
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    assert_eq!(
        parsed.rules,
        [
            CidrRule::new(net("10.0.0.0/8"), OutboundId(0)),
            CidrRule::new(net("192.168.0.0/16"), OutboundId(1)),
            CidrRule::new(net("2001:db8::/32"), OutboundId(7)),
            CidrRule::new(net("192.0.2.1/32"), OutboundId(7)),
        ]
    );
    assert_eq!(parsed.last, Some(OutboundId(7)));
    assert_eq!(parsed.compile(OutboundId(0)).final_outbound(), OutboundId(7));
}

#[test]
fn names_the_place_and_the_cure() {
    assert_eq!(error("IP-CIDR,10.0.0.0/33,direct").0, 9);
    assert_eq!(error("IP-CIDR,  example.com,direct").0, 11);
    assert_eq!(
        error("IP-CIDR,10.0.0.0/8,nowhere"),
        (20, "there is no outbound named \"nowhere\"".to_owned())
    );
    assert_eq!(error("IP-CIDR,10.0.0.0/8"), (19, "an outbound is missing here".to_owned()));
    assert_eq!(error("IP-CIDR").0, 8);
    assert_eq!(error("IP-CIDR,10.0.0.0/8,direct,src").0, 27);
    assert_eq!(error("IP-CIDR,10.0.0.0/8,direct,no-resolve,x").0, 38);
    assert_eq!(error("MATCH").0, 6);
    assert_eq!(error("MATCH,direct,x").0, 14);
    assert_eq!(error("").0, 1);
    assert_eq!(error("WHATEVER,x,direct").0, 1);
    let (column, message) = error("DOMAIN-SUFFIX,example.com,proxy");
    assert_eq!(column, 1);
    assert!(message.starts_with("DOMAIN-SUFFIX is not supported yet"), "{message}");
}

#[test]
fn reports_every_error_of_a_file() {
    let text = "# head\n\n- IP-CIDR,10.0.0.0/8,direct\r\nGEOIP,CN,direct\n  MATCH,nowhere\n";
    let errors = parse_text(text, outbound).unwrap_err();
    let places: Vec<_> = errors.iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(4, 1), (5, 9)]);
    let yaml = parse_text("  - IP-CIDR,10.0.0.0/99,direct", outbound).unwrap_err();
    assert_eq!(yaml[0].column, 13);
}

#[test]
fn rules_behind_match_are_left_out() {
    let mut parsed =
        parse_list(&["MATCH,proxy", "IP-CIDR,10.0.0.0/8,direct", "MATCH,direct"], outbound).unwrap();
    assert_eq!(parsed.last, Some(OutboundId(7)));
    assert!(parsed.rules.is_empty());
    assert_eq!(parsed.unreachable, [2, 3]);
    parsed.append(parse_list(&["IP-CIDR,10.0.0.0/8,direct"], outbound).unwrap());
    assert!(parsed.rules.is_empty());

    let mut open = parse_list(&["IP-CIDR,10.0.0.0/8,direct"], outbound).unwrap();
    open.append(parse_list(&["IP-CIDR,10.0.0.0/9,block", "MATCH,block"], outbound).unwrap());
    assert_eq!(open.rules.len(), 2);
    assert_eq!(open.last, Some(OutboundId(1)));
}

#[test]
fn no_input_panics() {
    for text in [",", ",,,,,", "é,é,é", "- ", "-", "\u{0}", "IP-CIDR,\u{2003}é/8,direct", "- é,x"] {
        let _ = parse_list(&[text], outbound);
        let _ = parse_text(text, outbound);
    }
}
