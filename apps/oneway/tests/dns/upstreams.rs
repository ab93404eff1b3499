//! Whom it asks, and what happens when they do not answer.

#![allow(clippy::disallowed_methods, reason = "the stub resolver of the test is another program")]

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oneway_lab::Topology;
use oneway_lab::capture::Recorder;
use oneway_lab::client::{Outcome, RecordType, wait_until};
use oneway_lab::harness::TestResult;
use oneway_lab::servers::origin::port as origin;
use oneway_lab::servers::{DnsServer, SocksOptions, SocksServer, Zone};
use oneway_lab::topology::{self, address, name, port};

use crate::common::{SECOND, TUN, address_of, ask, expect_reachable, number, program, run, upstream};

pub fn a_dead_one_is_passed_over() -> TestResult {
    let lab = Topology::simple()?;
    let closed = format!("udp://{}", address::SPARE.v4);
    let silent = format!("tcp://{}", address::BLACK_HOLE.v4);
    let _oneway = run(
        &lab.host,
        &["--dns-upstream", &closed, "--dns-upstream", &silent, "--dns-upstream", &upstream()],
    )?;
    let answer = ask(&lab, name::ORIGIN, RecordType::A, false, false)?;
    assert_eq!(answer.addresses, [address::ORIGIN.v4]);
    assert!(answer.took < 2 * SECOND, "{:?}", answer.took);
    // The one that answered is asked first from now on.
    let answer = ask(&lab, name::ORIGIN4, RecordType::A, false, false)?;
    assert_eq!(answer.addresses, [address::ORIGIN.v4]);
    assert!(answer.took < SECOND / 4, "{:?}", answer.took);
    Ok(())
}

pub fn when_all_are_dead_the_answer_says_so() -> TestResult {
    let lab = Topology::simple()?;
    let closed = format!("udp://{}", address::SPARE.v4);
    let _oneway = run(&lab.host, &["--dns-upstream", &closed])?;
    let answer = ask(&lab, name::ORIGIN, RecordType::A, false, false)?;
    assert_eq!((answer.outcome, answer.code.to_string().as_str()), (Outcome::Done, "Server Failure"));
    assert!(answer.took < SECOND, "{:?}", answer.took);
    assert_eq!(lab.dns.asked(name::ORIGIN), 0, "nobody else was asked");
    Ok(())
}

/// Names of a network of one's own are known to its own server, and are nobody else's business.
pub fn some_names_are_asked_for_elsewhere() -> TestResult {
    let lab = Topology::simple()?;
    let zone = Zone::new().a("host.corp.example", address::SPARE.v4);
    let own = DnsServer::start(&lab.net, &[address::SPARE.v4_port(port::DNS)], zone)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    let text = format!(
        "[dns]\nmode = \"real\"\nupstream = [{:?}]\n[dns.domains]\n\"+.corp.example\" = [\"udp://{}\"]\n",
        upstream(),
        address::SPARE.v4
    );
    std::fs::write(&file, text)?;
    let _oneway = run(&lab.host, &["--config", &file.to_string_lossy()])?;
    let answer = ask(&lab, "host.corp.example", RecordType::A, false, false)?;
    assert_eq!(answer.addresses, [address::SPARE.v4], "{}", answer.code);
    assert_eq!(ask(&lab, name::ORIGIN, RecordType::A, false, false)?.addresses, [address::ORIGIN.v4]);
    assert_eq!(lab.dns.asked("host.corp.example"), 0, "nobody else hears of it");
    assert_eq!(own.asked(name::ORIGIN), 0);
    Ok(())
}

/// A stub resolver on the same host passes what it is asked on to the server outside: by way of us (S6).
pub fn a_stub_that_asks_us_gets_its_answer() -> TestResult {
    for mode in ["real", "fake-ip"] {
        let lab = Topology::simple()?;
        let stub = lab.host.run(|| UdpSocket::bind("127.0.0.1:53"))??;
        // It ends some time after the test.
        stub.set_read_timeout(Some(10 * SECOND))?;
        let passed = Arc::new(AtomicUsize::new(0));
        let (count, client) = (Arc::clone(&passed), lab.host.client());
        lab.host.spawn_thread("stub", move || {
            let mut buffer = [0; 2048];
            while let Ok((len, from)) = stub.recv_from(&mut buffer) {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = client.udp(address::DNS.v4_port(port::DNS), &buffer[..len], 3 * SECOND);
                let Ok(answer) = answer else { continue };
                let _ = stub.send_to(&answer.data, from);
            }
        })?;
        let _oneway = run(&lab.host, &["--dns", mode, "--dns-upstream", "udp://127.0.0.1"])?;
        if mode == "real" {
            let answer = ask(&lab, name::ORIGIN, RecordType::A, false, false)?;
            assert_eq!(answer.addresses, [address::ORIGIN.v4], "{}", answer.code);
            assert!(answer.took < 2 * SECOND, "{:?}", answer.took);
            assert!((1..=2).contains(&passed.load(Ordering::Relaxed)));
        } else {
            // Here it is ourselves who want to know where the name is.
            expect_reachable(&lab, address_of(&lab, name::ORIGIN, RecordType::A)?)?;
        }
        let asked = lab.dns.asked(name::ORIGIN);
        assert!((1..=2).contains(&asked), "{mode}: asked {asked} times");
        assert!(number(&lab.host, "/counters/dns/loops")? >= 1, "{mode}");
    }
    Ok(())
}

/// What a guesser sends, and what is broken, costs no question its answer and is seen in `status`.
pub fn spoofed_and_malformed_answers_are_dropped_and_counted() -> TestResult {
    let lab = Topology::simple()?;
    let resolver = lab.net.run(|| UdpSocket::bind(address::SPARE.v4_port(port::DNS)))??;
    // It ends some time after the test.
    resolver.set_read_timeout(Some(10 * SECOND))?;
    let client = lab.net.client();
    lab.net.spawn_thread("resolver", move || {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = resolver.recv_from(&mut buffer) {
            let answer = client.udp(address::DNS.v4_port(port::DNS), &buffer[..len], 3 * SECOND);
            let Ok(answer) = answer else { continue };
            let mut spoofed = answer.data.clone();
            if let Some(number) = spoofed.first_mut() {
                *number ^= 1;
            }
            let cut = answer.data.split_last().map_or(&[][..], |(_, rest)| rest);
            for data in [&spoofed, cut, &answer.data] {
                let _ = resolver.send_to(data, from);
            }
        }
    })?;
    let asked = format!("udp://{}", address::SPARE.v4);
    let _oneway = run(&lab.host, &["--dns-upstream", &asked])?;
    assert_eq!(address_of(&lab, name::ORIGIN, RecordType::A)?, std::net::IpAddr::from(address::ORIGIN.v4));
    assert!(number(&lab.host, "/counters/dns/spoofed")? >= 1);
    assert!(number(&lab.host, "/counters/dns/malformed")? >= 1);
    Ok(())
}

/// Whoever is named to be asked is asked for a proxy's name, and nobody else. A proxy that is not found is down until it is, and
/// keeps nobody else from starting.
pub fn a_proxy_that_is_not_found_is_down_alone() -> TestResult {
    const LOST: &str = "lost.example";
    let lab = Topology::simple()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    // By the system's servers both are found, or none.
    for (system, dns) in [
        (address::SPARE.v4, format!("upstream = [\"{}\"]", upstream())),
        (address::BLACK_HOLE.v4, format!("domains.\"+.example\" = [\"{}\"]", upstream())),
        (address::DNS.v4, String::new()),
    ] {
        lab.dns.set_zone(topology::zone().ttl(1));
        let text = format!(
            "[dns]\n{dns}\n[outbound.out]\ntype = \"socks5\"\nserver = \"{}:{socks}\"\n[outbound.lost]\n\
             type = \"socks5\"\nserver = \"{LOST}:{socks}\"\n[rules]\nlist = [\"DST-PORT,{},lost\", \"MATCH,out\"]\n",
            name::SOCKS,
            origin::CHARGEN,
            socks = port::SOCKS,
        );
        std::fs::write(&file, text)?;
        let wire = Recorder::start(&lab.host, Some(topology::Simple::UP1))?;
        let begin = std::time::Instant::now();
        let options = ["--config", &*file.to_string_lossy()];
        let program = program(&lab.host, &options).resolv_conf(format!("nameserver {system}\n"));
        let oneway = program.start()?;
        assert!(begin.elapsed() < 4 * SECOND, "{:?}", begin.elapsed());
        let said = oneway.stderr();
        assert!(said.contains("outbound is down") && said.contains(LOST), "{said}");
        let fake = address_of(&lab, name::ORIGIN4, RecordType::A)?;
        expect_reachable(&lab, fake)?;
        let to = std::net::SocketAddr::new(fake, origin::CHARGEN);
        assert_eq!(lab.host.client().tcp(to, SECOND)?.outcome, Outcome::Refused);
        let past = |packet: &oneway_lab::capture::Packet| {
            packet.ports.1 == port::DNS && packet.dst != address::DNS.v4 && packet.dst != address::DNS.v6
        };
        assert_eq!(wire.matching(past)?, [], "{system}");
        // It is looked for again when it is wanted.
        lab.dns.set_zone(topology::zone().ttl(1).a(LOST, address::SOCKS.v4));
        wait_until(10 * SECOND, "the proxy is found", || {
            lab.host.client().tcp(to, SECOND).is_ok_and(|dial| dial.outcome == Outcome::Done)
        })?;
    }
    Ok(())
}

/// The proxy's name is never looked up through the capture, never gets a fake address, and is followed when it moves (S4).
pub fn a_proxy_given_by_name_is_followed() -> TestResult {
    const TTL: u32 = 2;
    let lab = Topology::simple()?;
    lab.dns.set_zone(topology::zone().ttl(TTL));
    let moved = SocksOptions { zone: topology::zone(), ..SocksOptions::default() };
    let moved = SocksServer::start(&lab.net, &address::SPARE.ports(port::SOCKS), moved)?;
    let proxy = format!("socks5://{}:{}", name::SOCKS, port::SOCKS);
    let resolv_conf = format!("nameserver {}\n", address::DNS.v4);
    let _oneway = program(&lab.host, &["--proxy", &proxy]).resolv_conf(resolv_conf).start()?;
    let tun = Recorder::start(&lab.host, Some(TUN))?;
    expect_reachable(&lab, address_of(&lab, name::ORIGIN, RecordType::A)?)?;
    assert!(!lab.socks.requests().is_empty());
    let before = tun.count(|packet| packet.ports.1 == port::DNS)?;

    let zone = Zone::new().ttl(TTL).a(name::SOCKS, address::SPARE.v4).aaaa(name::SOCKS, address::SPARE.v6);
    lab.dns.set_zone(zone);
    let ip = address_of(&lab, name::ORIGIN4, RecordType::A)?;
    let to = std::net::SocketAddr::new(ip, oneway_lab::servers::origin::port::HTTP);
    wait_until((TTL + 5) * SECOND, "the proxy's new address is in use", || {
        let fetched = lab.host.client().http_get(to, "/", SECOND);
        fetched.is_ok_and(|reply| reply.status == 200) && !moved.requests().is_empty()
    })?;
    let ours = tun.count(|packet| packet.ports.1 == port::DNS)? - before;
    assert_eq!(ours, 1, "only the program's own query entered the TUN");
    let fake = ask(&lab, name::ORIGIN, RecordType::A, false, false)?;
    assert_eq!(fake.addresses.len(), 1);
    Ok(())
}
