use super::*;

fn proxy(url: &str) -> ProxyConfig {
    url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[test]
fn parses_the_known_schemes() {
    let plain = proxy("socks5://proxy.example:1080");
    assert_eq!((plain.protocol, plain.host.as_str(), plain.port), (Protocol::Socks5, "proxy.example", 1080));
    assert_eq!(plain.credentials, None);
    assert_eq!(proxy("socks5h://192.0.2.1:1/").protocol, Protocol::Socks5);
    assert_eq!(proxy("SOCKS4://192.0.2.1:1").protocol, Protocol::Socks4);
    assert_eq!(proxy("socks4a://192.0.2.1:1").protocol, Protocol::Socks4a);
    assert_eq!(proxy(" http://192.0.2.1:80 ").port, 80);
    let v6 = proxy("socks5://[2001:db8::1]:1080");
    assert_eq!(v6.host, "2001:db8::1");
    assert_eq!(v6.to_string(), "socks5://[2001:db8::1]:1080");
    assert!(matches!(OutboundConfig::from_url("http://a:1"), Ok(OutboundConfig::Proxy(_))));
}

#[test]
fn decodes_and_hides_credentials() {
    let login = |url: &str| {
        let credentials = proxy(url).credentials.unwrap();
        (credentials.user().to_owned(), credentials.password().to_owned())
    };
    let pair = |user: &str, password: &str| (user.to_owned(), password.to_owned());
    assert_eq!(login("socks5://me:secret@h:1"), pair("me", "secret"));
    assert_eq!(login("socks5://me@h:1"), pair("me", ""));
    assert_eq!(login("socks5://m%40e:a%3Ab%25%2f@h:1"), pair("m@e", "a:b%/"));
    assert_eq!(login("socks5://me:p@ss:word@h:1"), pair("me", "p@ss:word"));
    assert_eq!(login("socks5://%C3%A4:%c3%a4@h:1"), pair("ä", "ä"));
    let config = proxy("socks5://me:secret@h:1");
    assert!(!format!("{config:?} {config}").contains("secret"));
}

#[test]
fn errors_are_one_line_and_keep_the_secret() {
    for bad in [
        "",
        "proxy.example:1080",
        "ftp://h:1",
        "vless://h:1",
        "socks5://",
        "socks5://h",
        "socks5://h:",
        "socks5://h:0",
        "socks5://h:+1",
        "socks5://h:65536",
        "socks5://h:1/path",
        "socks5://:1080",
        "socks5://2001:db8::1:1080",
        "socks5://[2001:db8::1]",
        "socks5://[2001:db8::1:1080",
        "socks5://[h]:1080",
        "socks5://ho st:1",
        "socks5://ho\nst:1",
        "socks5://:secret@h:1",
        "socks5://me:secret%@h:1",
        "socks5://me:secret%g0@h:1",
        "socks5://me:secret%0@h:1",
        "socks5://me:secret%é@h:1",
        "socks5://me:secret%ff@h:1",
        &format!("socks5://me:secret{}@h:1", "x".repeat(255)),
    ] {
        let error = OutboundConfig::from_url(bad).unwrap_err().to_string();
        assert!(!error.contains('\n') && !error.contains("secret"), "{bad:?}: {error}");
    }
}
