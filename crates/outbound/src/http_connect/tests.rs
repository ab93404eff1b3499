use super::*;

fn target(addr: &str, host: Option<&str>) -> Target {
    Target { addr: addr.parse().unwrap(), host: host.map(Into::into) }
}

fn machine() -> HttpConnect {
    HttpConnect::connect(&target("192.0.2.7:443", None), None).unwrap()
}

/// Feeds the pieces one by one and returns what is left behind the head.
fn run<'a>(
    mut machine: HttpConnect,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, ProxyFault> {
    let mut input = Vec::new();
    let mut pieces = pieces.into_iter();
    loop {
        match machine.step(&input, &mut Vec::new())? {
            Progress::Need(_) => {
                input.extend_from_slice(pieces.next().expect("the machine needs more than the server sent"));
            }
            Progress::Took(len) => drop(input.drain(..len)),
            Progress::Done(len) => {
                input.drain(..len);
                for piece in pieces {
                    input.extend_from_slice(piece);
                }
                return Ok(input);
            }
        }
    }
}

#[test]
fn asks_by_address_and_by_name() {
    let ask = |target: &Target, credentials: Option<&Credentials>| {
        let mut out = Vec::new();
        HttpConnect::connect(target, credentials).unwrap().start(false, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        ask(&target("192.0.2.7:443", None), None),
        "CONNECT 192.0.2.7:443 HTTP/1.1\r\nHost: 192.0.2.7:443\r\n\r\n"
    );
    assert_eq!(
        ask(&target("[2001:db8::7]:80", None), None),
        "CONNECT [2001:db8::7]:80 HTTP/1.1\r\nHost: [2001:db8::7]:80\r\n\r\n"
    );
    let login = Credentials::new("Aladdin", "open sesame").unwrap();
    assert_eq!(
        ask(&target("198.18.0.7:443", Some("example.com")), Some(&login)),
        "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\
         Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
    );
    let injected = target("198.18.0.7:443", Some("a\r\nEvil: yes"));
    assert!(HttpConnect::connect(&injected, None).is_err());
}

#[test]
fn every_split_keeps_the_early_bytes() {
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200 Connection established\r\nProxy-Agent: x\r\nContent-Length: 7\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\nA: b\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let server = [head.as_bytes(), b"SSH-2.0\r\n\r\n"].concat();
        for cut in 1..server.len() {
            let early = run(machine(), [&server[..cut], &server[cut..]]).unwrap();
            assert_eq!(early, b"SSH-2.0\r\n\r\n", "{head:?} cut at {cut}");
        }
        assert_eq!(run(machine(), server.chunks(1)).unwrap(), b"SSH-2.0\r\n\r\n", "{head:?}");
        assert_eq!(run(machine(), [&server[..]]).unwrap(), b"SSH-2.0\r\n\r\n", "{head:?}");
    }
}

#[test]
fn status_codes_become_answers() {
    for (code, answer) in [
        (403, Answer::IcmpAdmin),
        (404, Answer::IcmpHost),
        (502, Answer::Rst),
        (503, Answer::IcmpHost),
        (504, Answer::Silent),
        (400, Answer::Rst),
        (301, Answer::Rst),
        (599, Answer::Rst),
    ] {
        let head = format!("HTTP/1.1 {code} Whatever\r\nContent-Length: 2\r\n\r\n");
        match run(machine(), [head.as_bytes()]) {
            Err(ProxyFault::Refused { code: found, answer: is, .. }) => {
                assert_eq!((found, is), (code, answer))
            }
            other => panic!("{code}: {other:?}"),
        }
    }
    assert!(matches!(run(machine(), [&b"HTTP/1.1 407 Who?\r\n\r\n"[..]]), Err(ProxyFault::Auth(_))));
}

#[test]
fn endless_and_malformed_heads_are_bounded() {
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    while endless.len() < 2 * MAX_HEAD {
        endless.extend_from_slice(b"X-Padding: yes\r\n");
    }
    let error = run(machine(), endless.chunks(100)).unwrap_err();
    assert!(matches!(error, ProxyFault::Garbage { .. }), "{error}");
    // Complete, but too long.
    endless.extend_from_slice(b"\r\n");
    assert!(run(machine(), [&endless[..]]).is_err());
    let too_many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1));
    assert!(run(machine(), [too_many.as_bytes()]).is_err());
    // Interim responses are consumed one by one, and not without end.
    let mut machine = machine();
    let interim = b"HTTP/1.1 103 Early Hints\r\n\r\n";
    let mut taken = 0;
    let error = loop {
        match machine.step(interim, &mut Vec::new()) {
            Ok(progress) => assert_eq!(progress, Progress::Took(interim.len())),
            Err(error) => break error,
        }
        taken += interim.len();
        assert!(taken <= MAX_HEAD);
    };
    assert!(
        matches!(error, ProxyFault::Garbage { .. }) && taken > MAX_HEAD / 2,
        "{error} after {taken} bytes"
    );
}

#[test]
fn something_else_is_noticed_at_once() {
    for garbage in [&b"\x05\0"[..], b"SSH-2.0-x\r\n", b"HTTP/2", b"\n", b"http/1.1 200 OK\r\n\r\n"] {
        let error = run(machine(), [garbage]).unwrap_err();
        assert!(matches!(error, ProxyFault::Garbage { .. }), "{garbage:?}");
    }
    for malformed in [&b"HTTP/1.1 abc\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n: x\r\n\r\n"] {
        assert!(run(machine(), [malformed]).is_err(), "{malformed:?}");
    }
}
