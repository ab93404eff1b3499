//! Configurations that a program has made itself.

use super::*;
use crate::assemble::{dispatch, system_resolver};

/// What is said of the default with one change.
#[track_caller]
fn refused(change: impl FnOnce(&mut Config), expected: &[&str]) {
    let mut config = Config::default();
    change(&mut config);
    match dispatch(&config, &system_resolver()) {
        Err(crate::EngineError::Config(errors)) => {
            let texts: Vec<_> = errors.as_slice().iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected);
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it is taken: {expected:?}"),
    }
}

fn group(members: &[&str]) -> OutboundSpec {
    OutboundSpec::Group(GroupSpec {
        kind: GroupKind::Fallback,
        members: members.iter().map(|member| (*member).to_owned()).collect(),
        check: CheckSpec::default(),
    })
}

fn proxy(url: &str) -> ProxySpec {
    url.parse().unwrap()
}

#[test]
fn outbounds_that_are_none() {
    let with = |name: &'static str, spec: OutboundSpec| {
        move |config: &mut Config| drop(config.outbounds.insert(name.to_owned(), spec))
    };
    refused(with("g", group(&[])), &["outbound.g: it has no members; list at least one"]);
    refused(with("g", group(&["x"])), &["outbound.g: no outbound is named \"x\""]);
    refused(
        with("g", group(&["block", "block"])),
        &["outbound.g: \"block\" and \"block\" are the same member"],
    );
    refused(with("g", group(&["direct", "g"])), &["outbound.g: it leads back to itself: g -> g"]);
    let always = "this outbound always exists and cannot be redefined";
    refused(with("direct", OutboundSpec::Block), &[&format!("outbound.direct: {always}")]);
    refused(|config| drop(config.outbounds.remove("block")), &[&format!("outbound.block: {always}")]);
    let mut idle = group(&["direct"]);
    if let OutboundSpec::Group(group) = &mut idle {
        group.check.interval = Duration::ZERO;
    }
    refused(with("g", idle), &["outbound.g: its checks have no time; give an interval and a timeout"]);
    refused(
        |config| config.rules.final_outbound = "nowhere".to_owned(),
        &["the final outbound \"nowhere\" is not defined"],
    );
}

#[test]
fn proxies_that_cannot_be_spoken_to() {
    let socks = || proxy("socks5://192.0.2.1:1080");
    let trojan = || proxy("trojan://word@192.0.2.1:443");
    let credentials = |username: &str, password: &str| {
        Some(Credentials { username: username.to_owned(), password: Secret::from(password.to_owned()) })
    };
    for (spec, why) in [
        (
            ProxySpec { credentials: credentials(&"x".repeat(256), "y"), ..socks() },
            "a SOCKS5 user name has 1 to 255 bytes (RFC 1929)",
        ),
        (ProxySpec { credentials: None, ..trojan() }, "Trojan needs a `password` of 1 to 255 bytes"),
        (ProxySpec { tls: None, ..trojan() }, "Trojan is spoken by TLS; say how the server is known"),
        (
            ProxySpec { protocol: ProxyProtocol::Socks4, tls: trojan().tls, ..socks() },
            "socks4 is not spoken by TLS",
        ),
    ] {
        let expected = format!("outbound.p: {why}");
        refused(
            |config| drop(config.outbounds.insert("p".to_owned(), OutboundSpec::Proxy(spec))),
            &[&expected],
        );
    }
    for url in [
        "socks4://me@192.0.2.1:1",
        "http://me@192.0.2.1:1",
        "http://me:word@192.0.2.1:1",
        "trojan://word@192.0.2.1:1",
    ] {
        let mut config = Config::default();
        config.outbounds.insert("p".to_owned(), OutboundSpec::Proxy(proxy(url)));
        assert!(dispatch(&config, &system_resolver()).is_ok(), "{url}");
    }
}

#[test]
fn settings_that_do_not_go_together() {
    refused(
        |config| {
            config.tun.name = Some("tun7".parse().unwrap());
            config.tun.fd = Some(TunFd::try_from(7).unwrap());
            config.tun.addresses = vec!["10.9.0.1/24".parse().unwrap(), "10.9.1.1/24".parse().unwrap()];
        },
        &[
            "a device that is handed over has a name already; give a name or a descriptor, not both",
            "a TUN device has at most one address of each family",
        ],
    );
    refused(
        |config| config.egress.protect = Protect::Netns,
        &["netns needs a namespace; name one with egress.netns, or use mark"],
    );
    refused(
        |config| config.egress.protect = Protect::HostRoute,
        &[
            "host-route cannot protect direct connections to arbitrary destinations, and the final outbound is direct; send \
           everything by a proxy, or use mark",
        ],
    );
    refused(
        |config| {
            config.dns.mode = DnsMode::FakeIp;
            config.capture.exclude = prefixes(&["198.18.1.0/24"]);
        },
        &["198.18.1.0/24 overlaps the fake addresses 198.18.0.0/15; see dns.fake-ip"],
    );
    refused(
        |config| config.dns.domains = vec![("+.corp.example".parse().unwrap(), Vec::new())],
        &["dns.domains: \"+.corp.example\" has no resolver; list at least one"],
    );
    let Ok(DnsUpstream::Secure(mut secure)) = "tls://192.0.2.53".parse() else { panic!("no such upstream") };
    secure.server_name = Some("a b".to_owned());
    refused(
        |config| config.dns.upstream = vec![DnsUpstream::Secure(secure)],
        &[
            "dns.upstream: tls://192.0.2.53:853#a b: \"a b\" is no name that a certificate can be for; use a host name or \
           an address",
        ],
    );
}
