//! Names with their own addresses.

use oneway_lab::Topology;
use oneway_lab::capture::Recorder;
use oneway_lab::client::{Outcome, RecordType};
use oneway_lab::harness::TestResult;
use oneway_lab::topology::{address, name, port};

use crate::common::{SECOND, TUN, address_of, ask, expect_reachable, number, program, run, upstream};

pub fn names_get_their_own_addresses() -> TestResult {
    // By the server that was asked, and by one that was configured.
    let upstream = upstream();
    let configured: &[&str] = &["--dns-upstream", &upstream];
    for options in [&[], configured] {
        let lab = Topology::simple()?;
        let _oneway = run(&lab.host, options)?;
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let answer = ask(&lab, name::ORIGIN, RecordType::A, v6, tcp)?;
            assert_eq!(answer.addresses, [address::ORIGIN.v4], "{v6} {tcp} {options:?}");
        }
        // Asked for once of each server, of which the program has chosen two, and then known.
        let servers = if options.is_empty() { 2 } else { 1 };
        assert_eq!(lab.dns.asked(name::ORIGIN), servers, "{:?}", lab.dns.questions());
        assert_eq!(address_of(&lab, name::ORIGIN6, RecordType::AAAA)?, address::ORIGIN.v6);
        expect_reachable(&lab, address::ORIGIN.v4.into())?;
        let missing = ask(&lab, "nobody.example", RecordType::A, false, false)?;
        assert_eq!(
            (missing.outcome, missing.code.to_string().as_str()),
            (Outcome::Done, "Non-Existent Domain")
        );
        let servers = u64::try_from(servers)?;
        assert_eq!(number(&lab.host, "/counters/dns/forwarded")?, 2 + servers);
        assert_eq!(number(&lab.host, "/counters/dns/cached")?, 4 - servers);
    }
    Ok(())
}

pub fn large_answers_come_whole() -> TestResult {
    let lab = Topology::simple()?;
    let _oneway = run(&lab.host, &["--dns-upstream", &upstream()])?;
    let cut = ask(&lab, name::LARGE, RecordType::TXT, false, false)?;
    assert!(cut.truncated && cut.size <= 512, "{} bytes", cut.size);
    for v6 in [false, true] {
        let whole = ask(&lab, name::LARGE, RecordType::TXT, v6, true)?;
        assert!(!whole.truncated && whole.size > 3000, "{} bytes", whole.size);
    }
    Ok(())
}

pub fn switched_off_it_is_carried_like_other_traffic() -> TestResult {
    let lab = Topology::simple()?;
    let _oneway = run(&lab.host, &["--dns", "off"])?;
    for tcp in [false, true] {
        assert_eq!(ask(&lab, name::ORIGIN, RecordType::A, false, tcp)?.addresses, [address::ORIGIN.v4]);
    }
    assert_eq!(lab.dns.asked(name::ORIGIN), 2);
    assert_eq!(number(&lab.host, "/counters/dns/queries")?, 0);
    Ok(())
}

pub fn noise_is_dropped_and_counted() -> TestResult {
    let lab = Topology::simple()?;
    let _oneway = run(&lab.host, &[])?;
    let tun = Recorder::start(&lab.host, Some(TUN))?;
    let server = address::DNS.v4_port(port::DNS);
    let socket = lab.host.client().udp_socket(false)?;
    let long = [0; 1400];
    let looping = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1];
    let answer = [0, 1, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
    for noise in [&b"x"[..], &long, &looping, &answer] {
        socket.send_to(noise, server)?;
    }
    // What comes after it is answered.
    assert_eq!(address_of(&lab, name::ORIGIN, RecordType::A)?, std::net::IpAddr::from(address::ORIGIN.v4));
    assert_eq!(number(&lab.host, "/counters/dns/malformed")?, 4);
    let back = tun.count(|packet| packet.is_udp() && packet.src == server.ip())?;
    assert_eq!(back, 1, "only the query got an answer");
    Ok(())
}

/// Each of these connections holds two descriptors, and what holds them must leave some for whoever watches over the host.
pub fn silent_connections_leave_descriptors() -> TestResult {
    let lab = Topology::simple()?;
    let mut oneway = program(&lab.host, &[]).file_limit(256).start()?;
    let answer = ask(&lab, name::ORIGIN, RecordType::A, false, false)?;
    assert_eq!(answer.addresses, [address::ORIGIN.v4]);
    let server = address::DNS.v4_port(port::DNS);
    let client = lab.host.client();
    let mut open = Vec::new();
    while let Ok(more) = client.tcp_many(server, 1, SECOND) {
        open.extend(more);
        assert!(open.len() < 256, "nothing is refused");
    }
    let held = oneway.fd_count()?;
    assert!(held <= 240, "{held} descriptors of 256 for {} connections", open.len());
    assert!(number(&lab.host, "/counters/tcp/limited")? > 0);
    assert!(oneway.stderr().contains("connections are refused: "), "{}", oneway.stderr());
    // They give back what they held.
    drop(open);
    oneway_lab::client::wait_until(10 * SECOND, "another one is let in", || {
        client.tcp_many(server, 1, SECOND).is_ok()
    })?;
    assert!(oneway.stop(2 * SECOND)?.0.success());
    Ok(())
}
