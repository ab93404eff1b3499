use std::net::SocketAddr;
use std::sync::Arc;

use oneway_flow::Network;

use crate::query::{Query, Step};
use crate::{Asn, Context, GeoIp, GeoSite, OutboundId, Program, RuleList, RuleSet};

/// A value of a MaxMind database, as its specification 2.0 writes it.
enum Data {
    Text(&'static str),
    Short(u16),
    Number(u32),
    Long(u64),
    List(Vec<Data>),
    Map(Vec<(&'static str, Data)>),
}

impl Data {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => {
                out.push(2 << 5 | text.len() as u8);
                out.extend(text.bytes());
            }
            Self::Short(number) => {
                out.push(5 << 5 | 2);
                out.extend(number.to_be_bytes());
            }
            Self::Long(number) => {
                out.extend([8, 9 - 7]);
                out.extend(number.to_be_bytes());
            }
            Self::Number(number) => {
                out.push(6 << 5 | 4);
                out.extend(number.to_be_bytes());
            }
            // Types above 7 stand in a byte of their own, less 7.
            Self::List(list) => {
                out.extend([list.len() as u8, 11 - 7]);
                list.iter().for_each(|data| data.write(out));
            }
            Self::Map(map) => {
                out.push(7 << 5 | map.len() as u8);
                for (key, data) in map {
                    Self::Text(key).write(out);
                    data.write(out);
                }
            }
        }
    }
}

/// A database of IPv4 networks of 24 bits.
fn database(kind: &'static str, networks: Vec<([u8; 3], Data)>) -> Vec<u8> {
    // A tree of pairs; what is not set leads to "nothing", which is the number of nodes.
    let mut nodes: Vec<[Option<u32>; 2]> = vec![[None; 2]];
    let mut data = Vec::new();
    let mut leaves = Vec::new();
    for (network, value) in networks {
        let mut node = 0;
        for bit in 0..24 {
            let side = usize::from(network[bit / 8] >> (7 - bit % 8) & 1);
            if bit == 23 {
                leaves.push((node, side, data.len() as u32));
            } else {
                node = match nodes[node][side] {
                    Some(next) => next as usize,
                    None => {
                        nodes.push([None; 2]);
                        let next = nodes.len() - 1;
                        nodes[node][side] = Some(next as u32);
                        next
                    }
                };
            }
        }
        value.write(&mut data);
    }
    let count = nodes.len() as u32;
    for (node, side, at) in leaves {
        nodes[node][side] = Some(count + 16 + at);
    }
    let mut file: Vec<u8> = Vec::new();
    for record in nodes.iter().flatten() {
        file.extend(&record.unwrap_or(count).to_be_bytes()[1..]);
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    Data::Map(vec![
        ("binary_format_major_version", Data::Short(2)),
        ("binary_format_minor_version", Data::Short(0)),
        ("build_epoch", Data::Long(1)),
        ("database_type", Data::Text(kind)),
        ("description", Data::Map(vec![])),
        ("ip_version", Data::Short(4)),
        ("languages", Data::List(vec![])),
        ("node_count", Data::Number(count)),
        ("record_size", Data::Short(24)),
    ])
    .write(&mut file);
    file
}

const FIRST: [u8; 3] = [192, 0, 2];
const SECOND: [u8; 3] = [198, 51, 100];

fn country(code: &'static str) -> Data {
    Data::Map(vec![
        ("continent", Data::Text("XX")),
        ("country", Data::Map(vec![("iso_code", Data::Text(code))])),
    ])
}

fn rules(lines: &[&str], geoip: Option<Vec<u8>>, asn: Option<Vec<u8>>, geosite: Option<Vec<u8>>) -> RuleSet {
    let geosite = geosite.map(|bytes| GeoSite::new(bytes).unwrap());
    let outbound = |_: &str| Some(OutboundId(0));
    let context = Context { geoip: true, asn: true, geosite: geosite.as_ref(), ..Context::new(&outbound) };
    let mut list = RuleList::default();
    lines.iter().for_each(|line| assert!(list.push(line, 1, &context).unwrap()));
    RuleSet::compile(Program {
        geoip: geoip.map(|bytes| Arc::new(GeoIp::new(bytes).unwrap())),
        asn: asn.map(|bytes| Arc::new(Asn::new(bytes).unwrap())),
        geosite,
        ..Program::new(list, OutboundId(9))
    })
    .unwrap()
}

fn decided(set: &RuleSet, query: &Query<'_>) -> Option<usize> {
    match set.decide(query) {
        Step::Decided(decision) => decision.rule,
        needs => panic!("{needs:?}"),
    }
}

fn to(address: &str) -> Query<'static> {
    Query::new(Network::Tcp, None, address.parse::<SocketAddr>().unwrap())
}

#[test]
fn countries_in_all_three_layouts() {
    let list = |code| Data::List(vec![Data::Text("private"), Data::Text(code)]);
    for geoip in [
        database("GeoLite2-Country", vec![(FIRST, country("DE")), (SECOND, country("CN"))]),
        database("sing-geoip", vec![(FIRST, Data::Text("de")), (SECOND, Data::Text("cn"))]),
        database("Meta-geoip0", vec![(FIRST, Data::Text("de")), (SECOND, list("cn"))]),
    ] {
        let lines = [
            "GEOIP,LAN,o",
            "AND,((GEOIP,CN),(DST-PORT,22)),o",
            "GEOIP,de,o",
            "GEOIP,CN,o,no-resolve",
            "GEOIP,CN,o",
            "SRC-GEOIP,DE,o",
        ];
        let set = rules(&lines, Some(geoip), None, None);
        assert_eq!(decided(&set, &to("10.1.2.3:1")), Some(0));
        assert_eq!(decided(&set, &to("[fe80::1]:1")), Some(0));
        assert_eq!(decided(&set, &to("198.51.100.1:22")), Some(1));
        assert_eq!(decided(&set, &to("192.0.2.1:1")), Some(2));
        assert_eq!(decided(&set, &to("198.51.100.1:1")), Some(3));
        assert_eq!(decided(&set, &to("203.0.113.1:1")), None);
        // A database of IPv4 knows nothing of IPv6.
        assert_eq!(decided(&set, &to("[2001:db8::1]:1")), None);
        let from = Query { source: Some("192.0.2.7:1".parse().unwrap()), ..to("203.0.113.1:1") };
        assert_eq!(decided(&set, &from), Some(5));
        let late = Query::to_host(Network::Tcp, None, "a.test", 1);
        let late = late.with_address(Some("198.51.100.1".parse().unwrap()), 4);
        assert_eq!(decided(&set, &late), Some(4));
    }
}

#[test]
fn systems_as_numbers_and_as_texts() {
    let number = |number| Data::Map(vec![("autonomous_system_number", Data::Number(number))]);
    for asn in [
        database("GeoLite2-ASN", vec![(FIRST, number(64_496)), (SECOND, number(64_497))]),
        database(
            "ipinfo generic_asn_free.mmdb",
            vec![
                (FIRST, Data::Map(vec![("asn", Data::Text("AS64496"))])),
                (SECOND, Data::Map(vec![("asn", Data::Text("AS64497"))])),
            ],
        ),
    ] {
        let set = rules(&["IP-ASN,64497,o", "OR,((IP-ASN,AS64496,no-resolve)),o"], None, Some(asn), None);
        assert_eq!(decided(&set, &to("198.51.100.1:1")), Some(0));
        assert_eq!(decided(&set, &to("192.0.2.1:1")), Some(1));
        assert_eq!(decided(&set, &to("203.0.113.1:1")), None);
    }
    let error = Asn::new(database("GeoLite2-Country", vec![(FIRST, country("DE"))])).unwrap_err();
    assert!(error.to_string().ends_with("not one of autonomous systems"), "{error}");
    let error = GeoIp::new(database("GeoLite2-ASN", vec![(FIRST, number(1))])).unwrap_err();
    assert!(error.to_string().ends_with("not one of countries"), "{error}");
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

fn domain(kind: u8, value: &str, attribute: Option<&str>) -> Vec<u8> {
    let mut bytes = vec![8, kind];
    bytes.extend(field(2, value.as_bytes()));
    if let Some(key) = attribute {
        bytes.extend(field(3, &[field(1, key.as_bytes()), vec![16, 1]].concat()));
    }
    field(2, &bytes)
}

#[test]
fn names_by_category() {
    let mut category = field(1, b"CN");
    category.extend(domain(0, "KeyWord", None));
    category.extend(domain(1, "^re[0-9]+$", None));
    category.extend(domain(2, "suffix.test", Some("ads")));
    category.extend(domain(3, "full.test", None));
    let file = field(1, &category);
    let set = rules(&["GEOSITE,cn@ads,o", "GEOSITE,CN,o", "GEOSITE,!cn,o"], None, None, Some(file.clone()));
    for (host, rule) in [
        ("a.suffix.test", 0),
        ("full.test", 1),
        ("a.full.test", 2),
        ("xkeyword.x", 1),
        ("re77", 1),
        ("other.test", 2),
    ] {
        assert_eq!(decided(&set, &Query { host: Some(host), ..to("203.0.113.1:1") }), Some(rule), "{host}");
    }
    for end in 0..file.len() {
        if let Ok(cut) = GeoSite::new(file[..end].to_vec()) {
            let _ = cut.entries("cn", None);
        }
    }
    assert!(GeoSite::new(Vec::new()).is_err());
    assert!(GeoSite::new(b"<html>".to_vec()).is_err());
}
