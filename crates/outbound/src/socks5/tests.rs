use super::*;

/// What a machine did with a whole conversation.
#[derive(Debug, PartialEq)]
struct Run {
    written: Vec<u8>,
    early: Vec<u8>,
    bound: Option<BoundAddr>,
}

/// Feeds the server's bytes in pieces, as the driver would: never more than asked for if `exact`.
fn run(mut machine: Socks5, pieces: &[&[u8]], exact: bool) -> Result<Run, ProxyFault> {
    let mut written = Vec::new();
    machine.start(false, &mut written);
    let mut arrived: std::collections::VecDeque<u8> = std::collections::VecDeque::new();
    let mut pieces = pieces.iter();
    let mut input = Vec::new();
    loop {
        match machine.step(&input, &mut written)? {
            Progress::Need(most) => {
                assert!(most > 0);
                if arrived.is_empty() {
                    arrived
                        .extend(pieces.next().expect("the machine needs more than the server sent").iter());
                }
                let take = if exact { most.min(arrived.len()) } else { arrived.len() };
                input.extend(arrived.drain(..take));
            }
            Progress::Took(len) => drop(input.drain(..len)),
            Progress::Done(len) => {
                input.drain(..len);
                if exact {
                    assert!(input.is_empty(), "it read past the reply");
                }
                input.extend(arrived);
                return Ok(Run { written, early: input, bound: machine.bound().cloned() });
            }
        }
    }
}

fn target(addr: &str, host: Option<&str>) -> Target {
    Target { addr: addr.parse().unwrap(), host: host.map(Into::into) }
}

fn credentials() -> Credentials {
    Credentials::new("me", "secret").unwrap()
}

const REPLIES: &[&[u8]] = &[
    &[5, 0, 0, 1, 192, 0, 2, 9, 0x1f, 0x90],
    &[5, 0, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0x1f, 0x90],
    b"\x05\0\0\x03\x05relay\x1f\x90",
    b"\x05\0\0\x03\0\x1f\x90",
];

#[test]
fn every_split_of_every_reply_works() {
    let bounds = [
        BoundAddr::Ip("192.0.2.9:8080".parse().unwrap()),
        BoundAddr::Ip("[2001:db8::9]:8080".parse().unwrap()),
        BoundAddr::Name("relay".to_owned(), 8080),
        BoundAddr::Name(String::new(), 8080),
    ];
    for (reply, bound) in REPLIES.iter().zip(bounds) {
        for auth in [false, true] {
            let mut server = if auth { vec![5, 2, 1, 0] } else { vec![5, 0] };
            server.extend_from_slice(reply);
            server.extend_from_slice(b"early");
            let machine = || {
                let login = auth.then(credentials);
                Socks5::connect(&target("192.0.2.7:443", None), login.as_ref()).unwrap()
            };
            for exact in [false, true] {
                let whole = run(machine(), &[&server], exact).unwrap();
                assert_eq!(whole.bound.as_ref(), Some(&bound));
                assert_eq!(whole.early, b"early");
                for cut in 1..server.len() {
                    let split = run(machine(), &[&server[..cut], &server[cut..]], exact).unwrap();
                    assert_eq!(split.bound, whole.bound, "cut at {cut}");
                    assert_eq!(split.written, whole.written, "cut at {cut}");
                    assert!(b"early".starts_with(&split.early), "cut at {cut}: {:?}", split.early);
                }
                let bytes: Vec<&[u8]> = server.chunks(1).collect();
                let dripped = run(machine(), &bytes, exact).unwrap();
                assert_eq!(
                    (dripped.bound, dripped.written, dripped.early),
                    (whole.bound, whole.written, vec![])
                );
            }
        }
    }
}

#[test]
fn writes_the_messages_of_the_rfc() {
    let granted = REPLIES[0];
    let connect = |dst: &Target, login: Option<&Credentials>, server: &[&[u8]]| {
        run(Socks5::connect(dst, login).unwrap(), server, true).unwrap().written
    };
    assert_eq!(
        connect(&target("192.0.2.7:443", None), None, &[&[5, 0], granted]),
        b"\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x07\x01\xbb"
    );
    assert_eq!(
        connect(&target("[2001:db8::7]:443", None), None, &[&[5, 0], granted])[3..],
        *b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x01\xbb"
    );
    assert_eq!(
        connect(&target("[::ffff:192.0.2.7]:443", None), None, &[&[5, 0], granted])[3..],
        *b"\x05\x01\x00\x01\xc0\x00\x02\x07\x01\xbb"
    );
    assert_eq!(
        connect(
            &target("198.18.0.7:443", Some("example.com")),
            Some(&credentials()),
            &[&[5, 2], &[1, 0], granted]
        ),
        b"\x05\x02\x00\x02\x01\x02me\x06secret\x05\x01\x00\x03\x0bexample.com\x01\xbb"
    );
    // The server may also choose not to ask.
    assert_eq!(
        connect(&target("198.18.0.7:443", Some("192.0.2.1")), Some(&credentials()), &[&[5, 0], granted]),
        b"\x05\x02\x00\x02\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb"
    );
    let associate = run(Socks5::udp_associate(None), &[&[5, 0], granted], true).unwrap();
    assert_eq!(associate.written[3..], *b"\x05\x03\x00\x01\0\0\0\0\0\0");
}

#[test]
fn reply_codes_become_answers() {
    for (code, answer) in [
        (1, Answer::Rst),
        (2, Answer::IcmpAdmin),
        (3, Answer::IcmpNet),
        (4, Answer::IcmpHost),
        (5, Answer::Rst),
        (6, Answer::Silent),
        (7, Answer::IcmpPort),
        (8, Answer::IcmpAdmin),
        (9, Answer::Rst),
        (255, Answer::Rst),
    ] {
        // Nothing behind the code is waited for.
        match parse_reply(&[5, code]) {
            Err(ProxyFault::Refused { code: found, answer: is, .. }) => {
                assert_eq!((found, is), (u16::from(code), answer));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn refusals_and_garbage() {
    let plain = || Socks5::connect(&target("192.0.2.7:443", None), None).unwrap();
    let login = || Socks5::connect(&target("192.0.2.7:443", None), Some(&credentials())).unwrap();
    assert!(matches!(run(plain(), &[&[5, 0xff]], true), Err(ProxyFault::Auth(_))));
    assert!(matches!(run(login(), &[&[5, 0xff]], true), Err(ProxyFault::Auth(_))));
    assert!(matches!(run(login(), &[&[5, 2, 1, 1]], true), Err(ProxyFault::Auth(_))));
    for garbage in [&b"HTTP/1.1 400"[..], &[4, 0], &[5, 2], &[5, 1], &[5, 0, 4, 0], &[5, 0, 5, 0, 0, 9, 1]] {
        assert!(matches!(run(plain(), &[garbage], true), Err(ProxyFault::Garbage { .. })), "{garbage:?}");
    }
}

#[test]
fn names_that_could_mean_something_else_are_refused() {
    for host in ["", "a b", "a\r\nb", "a\0b", "ex/ample", "a:1", "ä.example", &"x".repeat(256)] {
        let asked = Socks5::connect(&target("198.18.0.1:1", Some(host)), None);
        assert!(matches!(asked, Err(ProxyFault::Unspeakable(_))), "{host:?}");
    }
    assert!(Socks5::connect(&target("198.18.0.1:1", Some(&"x".repeat(255))), None).is_ok());
}

#[test]
fn no_reply_panics_or_grows() {
    // SplitMix64.
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for _ in 0..20_000 {
        let len = (random() % 300) as usize;
        let mut input: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        if let [version, code, _, kind, ..] = input.as_mut_slice() {
            (*version, *code, *kind) = (5, 0, (random() % 5) as u8);
        }
        match parse_reply(&input) {
            Ok(Reply::Need(more)) => assert!((1..=262).contains(&more)),
            Ok(Reply::Granted { len: used, .. }) => assert!(used <= input.len()),
            Err(_) => {}
        }
    }
}

#[test]
fn a_request_goes_with_the_greeting_where_no_login_decides_what_follows() {
    let at = target("192.0.2.7:443", None);
    let mut out = Vec::new();
    let mut machine = Socks5::connect(&at, None).unwrap();
    machine.start(true, &mut out);
    assert_eq!(out, [5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 7, 1, 0xbb]);
    out.clear();
    assert!(!machine.requested(), "the proxy has not shown that it is one");
    assert_eq!(machine.step(&[5, 0], &mut out), Ok(Progress::Took(2)));
    assert!(machine.requested());
    assert_eq!(machine.step(REPLIES[0], &mut out), Ok(Progress::Done(10)));
    assert!(out.is_empty(), "something is said twice");

    Socks5::connect(&at, Some(&credentials())).unwrap().start(true, &mut out);
    assert_eq!(out, [5, 2, 0, 2]);
}
