use std::io::Read;

use super::*;

fn names(set: &SetData) -> Vec<(String, NameKind)> {
    let mut names: Vec<_> = set.names().map(|(name, kind)| (name.to_owned(), kind)).collect();
    names.sort();
    names
}

/// Writes a trie as mihomo and sing-box do: sorted reversed names, level by level.
fn trie(names: &[&str]) -> (Vec<u64>, Vec<u64>, Vec<u8>) {
    let mut keys: Vec<Vec<u8>> = names.iter().map(|name| name.bytes().rev().collect()).collect();
    keys.sort();
    let set = |words: &mut Vec<u64>, at: usize, value: bool| {
        words.resize(words.len().max(at / 64 + 1), 0);
        words[at / 64] |= u64::from(value) << (at % 64);
    };
    let (mut leaves, mut bitmap, mut labels) = (vec![], vec![], vec![]);
    let mut queue = std::collections::VecDeque::from([(0, keys.len(), 0)]);
    let (mut node, mut at) = (0, 0);
    while let Some((mut from, to, column)) = queue.pop_front() {
        if keys.get(from).is_some_and(|key| key.len() == column) {
            set(&mut leaves, node, true);
            from += 1;
        }
        while from < to {
            let label = keys[from][column];
            let next = (from..to).find(|n| keys[*n][column] != label).unwrap_or(to);
            labels.push(label);
            set(&mut bitmap, at, false);
            at += 1;
            queue.push_back((from, next, column + 1));
            from = next;
        }
        set(&mut bitmap, at, true);
        at += 1;
        node += 1;
    }
    (leaves, bitmap, labels)
}

/// Zstandard without compression: one frame with raw blocks (RFC 8878, 3.1.1).
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x80 | 0x20];
    out.extend((bytes.len() as u32).to_le_bytes());
    let blocks: Vec<_> = bytes.chunks(60_000).collect();
    for (at, block) in blocks.iter().enumerate() {
        let header = (block.len() as u32) << 3 | u32::from(at + 1 == blocks.len());
        out.extend(&header.to_le_bytes()[..3]);
        out.extend(*block);
    }
    out
}

fn mrs(behavior: u8, body: &[u8]) -> Vec<u8> {
    let mut file = b"MRS\x01".to_vec();
    file.push(behavior);
    file.extend(3u64.to_be_bytes());
    file.extend(2u64.to_be_bytes());
    file.extend([9, 9, 1]);
    file.extend(body);
    zstd(&file)
}

fn mrs_names(names: &[&str]) -> Vec<u8> {
    let (leaves, bitmap, labels) = trie(names);
    let mut body = Vec::new();
    for words in [leaves, bitmap] {
        body.extend((words.len() as u64).to_be_bytes());
        words.iter().for_each(|word| body.extend(word.to_be_bytes()));
    }
    body.extend((labels.len() as u64).to_be_bytes());
    body.extend(labels);
    mrs(0, &body)
}

/// zlib without compression: stored blocks (RFC 1950, RFC 1951 3.2.4).
fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01, 1];
    let len = bytes.len() as u16;
    out.extend(len.to_le_bytes());
    out.extend((!len).to_le_bytes());
    out.extend(bytes);
    let (mut a, mut b) = (1u32, 0u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    out.extend((b << 16 | a).to_be_bytes());
    out
}

fn srs(body: &[u8]) -> Vec<u8> {
    let mut file = b"SRS\x02".to_vec();
    file.extend(zlib(body));
    file
}

fn srs_names(names: &[&str]) -> Vec<u8> {
    let (leaves, bitmap, labels) = trie(names);
    let mut body = vec![2, 0];
    for words in [leaves, bitmap] {
        body.push(words.len() as u8);
        words.iter().for_each(|word| body.extend(word.to_be_bytes()));
    }
    // As a number of up to 14 bits.
    body.extend([labels.len() as u8 | 0x80, (labels.len() >> 7) as u8]);
    body.extend(labels);
    body
}

#[test]
fn texts_of_all_behaviors() {
    let text = "# head\n+.a.test\n\n*.b.test\r\n//c\n.c.test\n  d.test  \n";
    let set = SetData::parse(text.as_bytes(), Format::Text, Behavior::Domain).unwrap();
    assert_eq!(
        names(&set),
        [
            ("a.test".to_owned(), NameKind::Suffix),
            ("b.test".to_owned(), NameKind::Star),
            ("c.test".to_owned(), NameKind::Below),
            ("d.test".to_owned(), NameKind::Exact),
        ]
    );
    let yaml = "payload:\n  - '10.0.0.0/8'\n  - \"2001:db8::/32\"\n  - 192.0.2.1\n";
    assert_eq!(SetData::parse(yaml.as_bytes(), Format::Yaml, Behavior::IpCidr).unwrap().nets.len(), 3);
    let yaml = "payload:\n- DOMAIN-SUFFIX,a.test\n- IP-CIDR,10.0.0.0/8,no-resolve\n- PROCESS-NAME,curl\n- USER-AGENT,x*\n";
    let set = SetData::parse(yaml.as_bytes(), Format::Yaml, Behavior::Classical).unwrap();
    assert_eq!((set.len(), set.others.len(), set.skipped().len()), (3, 2, 1));
    assert_eq!((set.skipped()[0].line, set.skipped()[0].column), (5, 3));
    assert!(SetData::parse(b"payload:\n", Format::Yaml, Behavior::Classical).unwrap().is_empty());
}

#[test]
fn every_wrong_entry_is_named() {
    let error = SetData::parse(b"a.test\na..b\n\n+.\n", Format::Text, Behavior::Domain).unwrap_err();
    let SetError::Entries(errors) = error else { panic!("{error}") };
    let places: Vec<_> = errors.iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(2, 1), (4, 1)]);
    assert_eq!(errors[0].message, "\"a..b\" is no host name: two dots have nothing between them");
    let error =
        SetData::parse(b"RULE-SET,x\nMATCH\nDOMAIN,x y\n", Format::Text, Behavior::Classical).unwrap_err();
    let SetError::Entries(errors) = error else { panic!("{error}") };
    let texts: Vec<_> = errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(
        texts,
        [
            "RULE-SET cannot stand in a rule set",
            "MATCH cannot stand in a rule set",
            "\"x y\" is no host name: it has a blank, a slash or a control character"
        ]
    );
    let error = SetData::parse(b"ok.test\n\xc3\xa9x\xff", Format::Text, Behavior::Domain).unwrap_err();
    assert_eq!(error.to_string(), "rule 2, column 3: this is not UTF-8; is the file a text?");
}

#[test]
fn entries_that_never_match_are_left_out_and_named() {
    let text =
        "DOMAIN-SUFFIX,*.a.test\nDOMAIN-SUFFIX,+.a.test\nDOMAIN-KEYWORD,a b\nDOMAIN-WILDCARD,*.a.test\n";
    let set = SetData::parse(text.as_bytes(), Format::Text, Behavior::Classical).unwrap();
    let places: Vec<_> = set.skipped().iter().map(|error| (error.line, error.column)).collect();
    assert_eq!((set.len(), places), (2, vec![(1, 15), (3, 16)]));
    assert_eq!(names(&set), [("a.test".to_owned(), NameKind::Suffix)]);
    let set = SetData::parse(b"a*.test\n+.b.test\n", Format::Text, Behavior::Domain).unwrap();
    let skipped: Vec<_> = set.skipped().iter().map(ToString::to_string).collect();
    assert_eq!(set.len(), 1);
    assert_eq!(
        skipped,
        ["rule 1, column 1: \"a*.test\" never matches: no host name has '*' in it; DOMAIN-WILDCARD knows it"]
    );
    // Left out, it would be the opposite.
    let text = b"NOT,((DOMAIN,*.a.test))\n";
    let error = SetData::parse(text, Format::Text, Behavior::Classical).unwrap_err();
    assert!(matches!(error, SetError::Entries(_)), "{error}");
}

#[test]
fn compiled_names_of_mihomo() {
    let file = mrs_names(&["a.test", "+.a.test", "*.b.test", "x.*.y", "single", "+.below.test"]);
    let set = SetData::parse(&file, Format::Mrs, Behavior::Domain).unwrap();
    assert_eq!(
        names(&set),
        [
            ("a.test".to_owned(), NameKind::Exact),
            ("a.test".to_owned(), NameKind::Below),
            ("b.test".to_owned(), NameKind::Star),
            ("below.test".to_owned(), NameKind::Below),
            ("single".to_owned(), NameKind::Exact),
        ]
    );
    assert_eq!(set.others.len(), 1);
}

#[test]
fn compiled_networks_of_mihomo() {
    let mut body = 2u64.to_be_bytes().to_vec();
    for address in ["::ffff:10.0.0.0", "::ffff:10.0.2.255", "2001:db8::", "2001:db8::ffff"] {
        body.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    let set = SetData::parse(&mrs(1, &body), Format::Mrs, Behavior::IpCidr).unwrap();
    let nets: Vec<_> = set.nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.0/23", "10.0.2.0/24", "2001:db8::/112"]);
}

#[test]
fn compiled_rules_of_sing_box() {
    let names = srs_names(&["\na.test", "\r.b.test", "c.test"]);
    // One rule of names alone, one with a port, one joint.
    let mut body = vec![3, 0];
    body.extend(&names);
    body.extend([0xff, 0, 0]);
    body.extend([3, 1, 3]);
    body.extend(b"goo");
    body.extend([9, 1, 1, 0xbb, 0xff, 0]);
    body.extend([1, 1, 1, 0, 1, 1, 3]);
    body.extend(b"udp");
    body.extend([0xff, 1, 0]);
    let set = SetData::parse(&srs(&body), Format::Srs, Behavior::Classical).unwrap();
    let names: Vec<_> = set.names().collect();
    assert_eq!(names.len(), 3);
    assert!(names.contains(&("a.test", NameKind::Suffix)) && names.contains(&("b.test", NameKind::Below)));
    assert_eq!(set.others.len(), 2);
    let text = format!("{:?}", set.others);
    assert!(text.contains("Port(Destination, Ranges([(443, 443)]))"), "{text}");
    assert!(text.contains("Any([Not(All([Network(Udp)]))])"), "{text}");

    let mut networks = vec![1, 0, 6, 1];
    networks.extend(1u64.to_be_bytes());
    networks.extend([4, 192, 0, 2, 0, 4, 192, 0, 2, 255, 0xff, 0]);
    let set = SetData::parse(&srs(&networks), Format::Srs, Behavior::Classical).unwrap();
    assert_eq!(set.nets, ["192.0.2.0/24".parse().unwrap()]);
}

#[test]
fn broken_files_say_how() {
    let error = |file: &[u8], format| SetData::parse(file, format, Behavior::Domain).unwrap_err().to_string();
    assert!(error(b"hello", Format::Mrs).starts_with("this is no Zstandard file"));
    assert_eq!(
        error(&zstd(b"hello, world"), Format::Mrs),
        "this is no rule set of mihomo: MRS and version 1 are expected at its start"
    );
    assert!(error(&mrs(2, &[]), Format::Mrs).starts_with("behaviour 2 is neither names"));
    assert_eq!(
        error(&mrs(1, &u64::MAX.to_be_bytes()), Format::Mrs),
        "18446744073709551615 entries are announced, but the file is shorter, at byte 32 of 32"
    );
    assert_eq!(
        error(b"MRS\x01", Format::Srs),
        "this is no rule set of sing-box: SRS is expected at its start"
    );
    assert_eq!(error(b"SRS\x09xxxx", Format::Srs), "version 9 is not known; 1 to 4 are, at byte 4 of 8");
    assert!(error(b"SRS\x01xxxx", Format::Srs).starts_with("this is no zlib stream"));
    assert_eq!(
        error(&srs(&[1, 0, 13, 0, 0xff, 0]), Format::Srs),
        "package_name is not supported; leave it out of the rule set, at byte 3 of 6"
    );
}

#[test]
fn no_cut_and_no_flipped_bit_panics() {
    let mrs = mrs_names(&["a.test", "+.a.test", "x.*.y"]);
    let mut body = vec![1, 0];
    body.extend(srs_names(&["\na.test", "c.test"]));
    body.extend([0xff, 0]);
    let mut unpacked = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(&mrs[..]).unwrap().read_to_end(&mut unpacked).unwrap();
    for at in 0..unpacked.len().max(body.len()) {
        let _ = SetData::parse(&zstd(&unpacked[..at.min(unpacked.len())]), Format::Mrs, Behavior::Domain);
        let _ = SetData::parse(&srs(&body[..at.min(body.len())]), Format::Srs, Behavior::Domain);
        for bit in 0..8 {
            for (bytes, format) in [(&unpacked, Format::Mrs), (&body, Format::Srs)] {
                let mut bytes = bytes.clone();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
                let file = if format == Format::Mrs { zstd(&bytes) } else { srs(&bytes) };
                let _ = SetData::parse(&file, format, Behavior::Domain);
            }
        }
    }
}
