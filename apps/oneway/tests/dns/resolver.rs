//! The host's resolver settings: changed where programs ask past the capture, and only there.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use oneway_lab::client::{Outcome, RecordType, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::program::Program;
use oneway_lab::servers::{DnsServer, SocksOptions, Zone};
use oneway_lab::topology::{address, name, port};
use oneway_lab::{NetNs, Oneway, Snapshot, Topology};

use crate::common::{ONEWAY, SECOND, address_of, program, run};

/// What the resolver on the link says of the origin.
const SAID: [u8; 4] = [198, 51, 100, 77];
/// Where queries are answered, with the addresses that the device gets here.
const HERE: &str = "10.162.0.254";

/// The file as the program sees it, whose mount namespace is its own.
fn path(oneway: &Oneway) -> PathBuf {
    Path::new("/proc").join(oneway.pid().to_string()).join("root").join("etc/resolv.conf")
}

fn resolv_conf(oneway: &Oneway) -> Result<String, Failed> {
    Ok(std::fs::read_to_string(path(oneway))?)
}

fn write(oneway: &Oneway, text: &str) -> TestResult {
    Ok(std::fs::write(path(oneway), text)?)
}

/// The file itself: it is there when the program that it was laid over for is gone.
fn handle(oneway: &Oneway) -> Result<File, Failed> {
    Ok(File::open(path(oneway))?)
}

fn text(file: &mut File) -> Result<String, Failed> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn names_us(text: &str) -> bool {
    text.lines().any(|line| line == format!("nameserver {HERE}"))
}

/// Asks as the C library would: all that the file names is this address.
fn ask_here(host: &NetNs, tcp: bool) -> Result<Vec<IpAddr>, Failed> {
    let here = SocketAddr::new(HERE.parse()?, port::DNS);
    Ok(host.client().dns(here, name::ORIGIN, RecordType::A, tcp, 5 * SECOND)?.addresses)
}

pub fn who_asks_on_the_link_asks_here() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let zone = Zone::new().a(name::ORIGIN, SAID.into());
    let onlink = DnsServer::start(&lab.r1, &address::R1_LAN.ports(port::DNS), zone)?;
    let text_before = format!("# by hand\nsearch example\nnameserver {}\n", address::R1_LAN.v4);
    let mut oneway = program(&lab.host, &[]).resolv_conf(&text_before).start()?;
    let mut file = handle(&oneway)?;
    let now = resolv_conf(&oneway)?;
    assert!(names_us(&now) && now.contains("\nsearch example\n"), "{now}");
    // Who was asked before is asked again soon should this program be killed.
    let behind = format!("\nnameserver {HERE}\nnameserver {}\noptions timeout:1\n", address::R1_LAN.v4);
    assert!(now.contains(&behind), "{now}");
    for tcp in [false, true] {
        assert_eq!(ask_here(&lab.host, tcp)?, [IpAddr::from(SAID)], "TCP {tcp}");
    }
    // We have asked who was asked before, and remembered.
    assert_eq!(onlink.questions().len(), 1);
    let mut doctor = Program::new(&lab.host, ONEWAY, ["doctor"]).start()?;
    doctor.wait(10 * SECOND)?;
    let said = doctor.stdout();
    assert!(
        said.contains("resolver settings: /etc/resolv.conf") && said.contains("asked directly"),
        "{said}"
    );
    let (status, _) = oneway.stop(5 * SECOND)?;
    assert!(status.success(), "{}", oneway.stderr());
    assert_eq!(text(&mut file)?, text_before);
    before.expect_same(&lab.host).map_err(Into::into)
}

/// Who comes into another network has its servers, whether or not the file is ours: names that nobody asked a server for, and
/// those that the rules ask for, are looked up there. Where servers need host routes, the new ones get theirs.
pub fn the_systems_servers_are_followed() -> TestResult {
    const NAME: &str = "moves.example";
    for protect in ["auto", "host-route"] {
        let lab = Topology::simple()?;
        let of = |ip| Zone::new().a(NAME, ip).ttl(3600);
        let at = address::SPARE.v4_port(port::DNS);
        let first = DnsServer::start(&lab.net, &[at], of(address::BLACK_HOLE.v4))?;
        let zone = of(address::ORIGIN.v4);
        lab.dns.set_zone(zone.clone());
        lab.socks.set_options(SocksOptions { zone, ..lab.socks.options() });
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("oneway.toml");
        let text = format!(
            "[dns]\nupstream = [\"system\"]\n[egress]\nprotect = \"{protect}\"\n\
             [outbound.out]\ntype = \"socks5\"\nserver = \"{}\"\n\
             [rules]\nlist = [\"IP-CIDR,{}/32,out\", \"MATCH,block\"]\n",
            address::SOCKS.v4_port(port::SOCKS),
            address::ORIGIN.v4
        );
        std::fs::write(&file, text)?;
        let before = format!("nameserver {}\n", at.ip());
        let oneway =
            program(&lab.host, &["--config", &file.to_string_lossy()]).resolv_conf(&before).start()?;
        let fake = address_of(&lab, NAME, RecordType::A)?;
        let to = SocketAddr::new(fake, oneway_lab::servers::origin::port::ECHO);
        let dial = || lab.host.client().tcp(to, 5 * SECOND).map(|dial| dial.outcome);
        assert_eq!((dial()?, first.asked(NAME)), (Outcome::Refused, 2), "{protect}: it is elsewhere");

        write(&oneway, &format!("nameserver {}\n", address::DNS.v4))?;
        wait_until(5 * SECOND, "the other server is asked", || {
            dial().is_ok_and(|outcome| outcome == Outcome::Done)
        })?;
        assert_eq!(first.asked(NAME), 2, "{protect}");
    }
    Ok(())
}

pub fn nothing_is_changed_where_the_capture_does() -> TestResult {
    let lab = Topology::standard()?;
    let captured = format!("nameserver {}\n", address::DNS.v4);
    let on_link = format!("nameserver {}\n", address::R1_LAN.v4);
    for (text, options) in [
        (&captured, &[][..]),
        (&captured, &["--dns", "fake-ip"]),
        (&on_link, &["--strict"]),
        (&on_link, &["--resolver", "off"]),
        (&on_link, &["--dns", "off"]),
        (&on_link, &["--exclude", "192.0.2.0/24", "--include", "203.0.113.0/24"]),
    ] {
        let mut oneway = program(&lab.host, options).resolv_conf(text).start()?;
        assert_eq!(&resolv_conf(&oneway)?, text, "{options:?}");
        oneway.stop(5 * SECOND)?;
    }
    // And the file of another network namespace never is: this one's is the machine's.
    let oneway = run(&lab.host, &[])?;
    assert!(!names_us(&resolv_conf(&oneway)?));
    Ok(())
}

/// Whatever is captured, in whichever way: what the file names is answered.
pub fn every_mode_answers() -> TestResult {
    let lab = Topology::standard()?;
    let text = format!("nameserver {}\n", address::DNS.v4);
    for options in [
        &["--strict"][..],
        &["--capture", "redirect"],
        &["--capture", "tproxy"],
        &["--capture", "tproxy", "--strict"],
        &["--protect", "bind"],
        &["--protect", "source-rule"],
        &["--protect", "mark-ifgroup"],
        &["--include", "203.0.113.0/24"],
        &["--exclude", "10.0.0.0/8"],
    ] {
        let options = [options, &["--resolver", "always"]].concat();
        let mut oneway = program(&lab.host, &options).resolv_conf(&text).start()?;
        assert!(names_us(&resolv_conf(&oneway)?), "{options:?}");
        for tcp in [false, true] {
            let answer = ask_here(&lab.host, tcp).map_err(|e| format!("{options:?}, TCP {tcp}: {e:?}"))?;
            assert_eq!(answer, [IpAddr::from(address::ORIGIN.v4)], "{options:?}, TCP {tcp}");
        }
        let (status, _) = oneway.stop(5 * SECOND)?;
        assert!(status.success(), "{}", oneway.stderr());
    }
    Ok(())
}

pub fn who_writes_over_it_is_named_and_comes_back() -> TestResult {
    let lab = Topology::standard()?;
    let text_before = format!("nameserver {}\n", address::R1_LAN.v4);
    let mut oneway = program(&lab.host, &[]).resolv_conf(&text_before).start()?;
    let mut file = handle(&oneway)?;
    assert!(names_us(&text(&mut file)?));
    let theirs = format!("# Generated by a manager\nnameserver {}\n", address::DNS.v4);
    for _ in 0..12 {
        write(&oneway, &theirs)?;
        // Two seconds are promised; this machine may be busy.
        wait_until(10 * SECOND, "it is ours again", || text(&mut file).is_ok_and(|text| names_us(&text)))?;
    }
    // Whom they name is who is asked now.
    wait_until(10 * SECOND, "the other servers are followed", || {
        ask_here(&lab.host, false).is_ok_and(|answer| answer == [IpAddr::from(address::ORIGIN.v4)])
    })?;
    let said = oneway.stderr();
    assert!(said.contains("Generated by a manager"), "{said}");
    assert!(said.matches("somebody keeps removing").count() == 1, "{said}");
    let (status, _) = oneway.stop(5 * SECOND)?;
    assert!(status.success(), "{}", oneway.stderr());
    assert_eq!(text(&mut file)?, theirs);
    Ok(())
}

pub fn after_a_crash_it_is_recovered() -> TestResult {
    let lab = Topology::standard()?;
    let text_before = format!("nameserver {}\n", address::R1_LAN.v4);
    let mut oneway = program(&lab.host, &[]).resolv_conf(&text_before).start()?;
    let mut file = handle(&oneway)?;
    oneway.kill()?;
    let left = text(&mut file)?;
    assert!(names_us(&left));
    let mut recover = Program::new(&lab.host, ONEWAY, ["recover"]).resolv_conf(left).start()?;
    // It is gone before its file could be opened; what it has done is in what it says.
    assert!(recover.wait(10 * SECOND)?.success(), "{}", recover.stderr());
    assert!(recover.stdout().contains("undone"), "{}", recover.stdout());
    Ok(())
}

pub fn what_cannot_be_changed_is_said() -> TestResult {
    let lab = Topology::standard()?;
    let of_stub = "nameserver 127.0.0.1\n";
    let command = |words: &[&str]| -> Result<(Option<i32>, String), Failed> {
        let mut running = Program::new(&lab.host, ONEWAY, words).resolv_conf(of_stub).start()?;
        let status = running.wait(10 * SECOND)?;
        Ok((status.code(), running.stdout() + &running.stderr()))
    };
    // Only a program of this host is known, which may ask us in turn.
    let (_, said) = command(&["plan"])?;
    assert!(said.contains("may go past the capture") && said.contains("--dns-upstream"), "{said}");
    let (code, said) = command(&["plan", "--resolver", "always"])?;
    assert!(code == Some(1) && said.contains("--resolver always"), "{code:?} {said}");
    let upstream = format!("udp://{}", address::DNS.v4);
    let (_, said) = command(&["plan", "--dns-upstream", &upstream])?;
    assert!(said.contains(&format!("nameserver {HERE}")) && said.contains("if it is still ours"), "{said}");
    Ok(())
}
