//! `--capture redirect` and `--capture tproxy`: this host's own traffic comes by the packet filter, the rest by the device.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use oneway_lab::capture::{Direction, Recorder};
use oneway_lab::client::{Client, Outcome, parallel, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Standard, address, port as proxy};
use oneway_lab::{LabError, Snapshot, Topology};

use crate::common::{
    ONEWAY, SECOND, TUN, ask, command, expect_connectivity, number, program, reaches_origin, run, stop,
};
use crate::drift::tool;

const MODES: [&str; 2] = ["redirect", "tproxy"];
/// Within this time a client must have learned that it goes nowhere.
const PROMPT: Duration = Duration::from_millis(100);

pub fn programs_are_carried_and_no_segment_is_in_the_device() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let socks = format!("socks5://{}", address::SOCKS.v4_port(proxy::SOCKS));
    let more = [&[][..], &["--proxy", &socks], &["--strict"]];
    for (mode, options) in MODES.into_iter().flat_map(|mode| more.map(|options| (mode, options))) {
        let options = &[&["--capture", mode], options].concat()[..];
        let mut oneway = run(host, options)?;
        let tun = Recorder::start(host, Some(TUN))?;
        let wire = Recorder::start(host, Some(Standard::UP1))?;
        assert!(reaches_origin(host, SECOND), "{options:?}: {}", oneway.stderr());
        for to in address::ORIGIN.ports(port::HTTP) {
            let reply = host.client().http_get(to, "/bytes/3000000", 10 * SECOND)?;
            assert_eq!((reply.status, reply.body.len()), (200, 3_000_000), "{to}");
        }
        let segments = tun.matching(|packet| packet.protocol == 6)?;
        assert!(segments.is_empty(), "{options:?}: {segments:#?}");
        // Datagrams come by the device, or only their answers do.
        let out = tun.count(|packet| packet.is_udp() && packet.direction == Direction::Out)?;
        assert_eq!(out > 0, mode == "redirect", "{out} datagrams in the device, {mode}");
        let asked = host.client().udp(address::ORIGIN.v6_port(port::ECHO), &[7; 8000], SECOND)?;
        assert_eq!((asked.outcome, asked.data.len()), (Outcome::Done, 8000), "{mode}");
        // A relay does not tell.
        if !options.contains(&"--proxy") {
            let closed = host.client().udp(address::ORIGIN.v4_port(4999), b"x", SECOND)?;
            assert_eq!(closed.outcome, Outcome::Refused, "{mode}");
        }
        // One connection of a program is one of ours.
        wire.forget()?;
        let counted = number(&ask(host, "status")?, "/counters/tcp/opened");
        parallel(40, |n| {
            let to = address::ORIGIN.ports(port::HTTP)[n % 2];
            host.client().http_get(to, "/", 5 * SECOND).map(|reply| reply.status)
        });
        wait_until(SECOND, "all are counted", || {
            ask(host, "status").is_ok_and(|status| number(&status, "/counters/tcp/opened") == counted + 40)
        })?;
        assert!(wire.count(|packet| packet.is_syn())? <= 44, "{options:?}: more than one for one");
        stop(&mut oneway, host, &before)?;
    }
    Ok(())
}

/// S14.
pub fn a_strict_reverse_path_filter_is_in_nobodys_way() -> TestResult {
    let lab = Topology::standard()?;
    lab.strict_rp_filter()?;
    let before = Snapshot::take(&lab.host)?;
    for mode in MODES {
        let mut oneway = run(&lab.host, &["--capture", mode])?;
        assert!(reaches_origin(&lab.host, SECOND), "{mode}");
        stop(&mut oneway, &lab.host, &before)?;
    }
    Ok(())
}

/// What wg-quick has made of the packet filter: every datagram that comes in gets the mark of its connection (S17).
pub fn whoever_restores_marks_is_in_nobodys_way() -> TestResult {
    let lab = Topology::standard()?;
    lab.strict_rp_filter()?;
    let host = &lab.host;
    host.set_sysctl("ipv4/conf/all/src_valid_mark", "1")?;
    for (mode, first) in MODES.into_iter().flat_map(|mode| [(mode, true), (mode, false)]) {
        let begin = || {
            for line in [
                "add table inet other",
                "add chain inet other in { type filter hook prerouting priority mangle; }",
                "add rule inet other in meta l4proto udp meta mark set ct mark",
            ] {
                tool(host, &format!("nft {line}"))?;
            }
            Ok::<_, Failed>(())
        };
        let before = Snapshot::take(host)?;
        if first {
            begin()?;
        }
        let mut oneway = run(host, &["--capture", mode])?;
        if !first {
            begin()?;
        }
        let tun = Recorder::start(host, Some(TUN))?;
        for to in address::ORIGIN.ports(port::ECHO) {
            let asked = host.client().udp(to, &[7; 8000], SECOND)?;
            assert_eq!((asked.outcome, asked.data.len()), (Outcome::Done, 8000), "{mode}, {first}: {to}");
        }
        let out = tun.count(|packet| packet.is_udp() && packet.direction == Direction::Out)?;
        assert_eq!(out > 0, mode == "redirect", "{out} datagrams in the device, {mode}");
        assert!(reaches_origin(host, SECOND), "{mode}, {first}");
        tool(host, "nft delete table inet other")?;
        assert!(reaches_origin(host, SECOND), "{mode}, {first}: without it");
        stop(&mut oneway, host, &before)?;
    }
    Ok(())
}

/// Rules know what comes by the device and what does not, also where they have to ask for more, and after a reload.
pub fn rules_know_how_it_comes_in() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    let words = file.display().to_string();
    let to = address::ORIGIN.v4_port(port::ECHO);
    for (mode, tcp, udp) in
        [("tun", "TUN", "TUN"), ("redirect", "REDIR", "TUN"), ("tproxy", "TPROXY", "TPROXY")]
    {
        let others = ["TUN", "REDIR", "TPROXY"].into_iter().filter(|kind| *kind != tcp && *kind != udp);
        let mut rules: Vec<_> = others.map(|kind| format!("IN-TYPE,{kind},block")).collect();
        rules.push("PROCESS-NAME,nobody,block".to_owned());
        rules.push(format!("AND,((NETWORK,TCP),(IN-TYPE,{tcp})),direct"));
        rules.push(format!("AND,((NETWORK,UDP),(IN-TYPE,{udp})),direct"));
        rules.push("MATCH,block".to_owned());
        std::fs::write(&file, format!("[rules]\nlist = {rules:?}\n"))?;
        let mut oneway = run(host, &["--capture", mode, "--config", &words])?;
        let mut stream = host.client().tcp(to, SECOND)?.connected()?;
        stream.set_read_timeout(Some(SECOND))?;
        let mut echoes = || -> std::io::Result<()> {
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])
        };
        echoes().map_err(|error| format!("{mode}: {error}"))?;
        let exchange = host.client().udp(to, b"ping", SECOND)?;
        assert_eq!(exchange.data, b"ping", "{mode}: {:?}", exchange.outcome);
        for (words, rule) in [(&[][..], &rules[rules.len() - 3]), (&["--udp"], &rules[rules.len() - 2])] {
            let target = to.to_string();
            let why = command(host, &[&["why", &target, "--json"], words].concat())?;
            assert!(why.stdout.contains(rule.as_str()), "{mode} {words:?}: {}{}", why.stdout, why.stderr);
        }
        assert_eq!(ask(host, "reload")?["reset"], 0, "{mode}");
        echoes().map_err(|error| format!("{mode}, after a reload: {error}"))?;
        oneway.stop(5 * SECOND)?;
    }
    Ok(())
}

/// How a connection ends that is accepted before anybody has been asked.
fn ends(client: &Client, to: SocketAddr) -> Result<(bool, Duration), Failed> {
    let begin = Instant::now();
    let dial = client.tcp(to, SECOND)?;
    let Some(mut stream) = dial.stream else {
        return Ok((dial.outcome != Outcome::TimedOut, begin.elapsed()));
    };
    stream.set_read_timeout(Some(SECOND))?;
    let reset = matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset);
    Ok((reset, begin.elapsed()))
}

/// S1, and the promise in place of "connect means connected": who cannot be connected is reset at once.
pub fn what_leads_nowhere_is_reset_at_once() -> TestResult {
    MODES.into_iter().try_for_each(nowhere)
}

fn nowhere(mode: &str) -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let own = ["--tun-address", "10.88.0.1/24", "--tun-address", "fd88::1/64"];
    let mut oneway = run(host, &[&["--capture", mode], &own[..]].concat())?;
    let wire = Recorder::start(host, Some(Standard::UP1))?;
    let handed_to = ask(host, "status")?["port"].as_u64().ok_or("no port")?;
    let mut nowhere: Vec<SocketAddr> = Vec::new();
    for ip in ["10.88.0.1", "10.88.0.2", "10.88.0.255", "fd88::1", "fd88::77:1", "240.0.0.1", "0.1.2.3"] {
        nowhere.push(SocketAddr::new(ip.parse()?, 4444));
    }
    // Its own listeners, dialled as they are: nothing was redirected, and nothing is dialled for it.
    for ip in ["127.0.0.1", "::1"] {
        nowhere.push(SocketAddr::new(ip.parse()?, u16::try_from(handed_to)?));
    }
    for to in &nowhere {
        let (refused, took) = ends(&host.client(), *to)?;
        assert!(refused && took < 3 * PROMPT, "{mode}, {to}: {refused} after {took:?}");
        if !to.ip().is_loopback() {
            let sent = host.client().udp(*to, b"nobody", SECOND)?;
            let silent = matches!(sent.outcome, Outcome::Done | Outcome::TimedOut);
            assert!(!silent && sent.took < 3 * PROMPT, "{mode}, UDP {to}: {sent:?}");
        }
    }
    let left = wire.matching(|packet| packet.is_syn() || packet.is_udp())?;
    assert!(left.is_empty(), "{left:#?}");
    // A closed port.
    for to in address::ORIGIN.ports(4999) {
        let (refused, took) = ends(&host.client(), to)?;
        assert!(refused && took < 3 * PROMPT, "{to}: {refused} after {took:?}");
    }
    assert!(oneway.cpu_time()? < 5 * SECOND);
    stop(&mut oneway, host, &before)
}

/// S10.
pub fn a_killed_one_leaves_nothing_in_the_way() -> TestResult {
    MODES.into_iter().try_for_each(killed)
}

fn killed(mode: &str) -> TestResult {
    let options = &["--capture", mode];
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, options)?;
    let client = host.client();
    let load = thread::spawn(move || client.download(address::ORIGIN.v4_port(port::CHARGEN), 4, 2 * SECOND));
    wait_until(5 * SECOND, "the load is on", || {
        ask(host, "status").is_ok_and(|status| number(&status, "/counters/bytes/down") > 1_000_000)
    })?;
    oneway.kill()?;
    expect_connectivity(host)?;
    let recovered = command(host, &["recover"])?;
    assert_eq!(recovered.code, Some(0), "{}", recovered.stderr);
    before.expect_same(host)?;
    let mut again = run(host, options)?;
    assert!(reaches_origin(host, SECOND));
    stop(&mut again, host, &before)?;
    let _ = load.join();
    Ok(())
}

/// Somebody deletes the table: connections come by the device until it is back.
pub fn a_deleted_table_is_put_back() -> TestResult {
    MODES.into_iter().try_for_each(deleted)
}

fn deleted(mode: &str) -> TestResult {
    let options = &["--capture", mode];
    let table = format!("inet oneway_{mode}");
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, options)?;
    let whole = tool(host, &format!("nft list table {table}"))?;
    for removal in [format!("nft delete table {table}"), format!("nft flush chain {table} output")] {
        tool(host, &removal)?;
        assert!(reaches_origin(host, SECOND), "after {removal}");
        wait_until(2 * SECOND, "it is back", || {
            tool(host, &format!("nft list table {table}")).is_ok_and(|now| now == whole)
        })?;
    }
    // What is forwarded is captured, by the device.
    stop(&mut oneway, host, &before)?;
    let mut oneway = run(host, &[&options[..], &["--forwarded"]].concat())?;
    let tun = Recorder::start(host, Some(TUN))?;
    for to in address::ORIGIN.both() {
        let reply = lab.container.client().http_get(SocketAddr::new(to, port::HTTP), "/", 2 * SECOND)?;
        assert_eq!(reply.status, 200, "{to}");
    }
    assert!(tun.count(|packet| packet.is_syn())? >= 2);
    stop(&mut oneway, host, &before)
}

/// As with the device: who asks for what never answers takes no more than its share.
pub fn one_source_does_not_take_all_places() -> TestResult {
    const TO_NOWHERE: usize = 300;
    for mode in MODES {
        let lab = Topology::simple()?;
        let _oneway = program(&lab.host, ONEWAY, &["--capture", mode]).file_limit(256).start()?;
        let client = lab.host.client();
        let refused =
            || ask(&lab.host, "status").is_ok_and(|status| number(&status, "/counters/tcp/refused") > 0);
        thread::scope(|scope| {
            let crowd = scope.spawn(|| {
                parallel(TO_NOWHERE, |_| {
                    let mut stream = client.tcp(address::BLACK_HOLE.v4_port(80), SECOND)?.connected()?;
                    let _ = stream.set_read_timeout(Some(8 * SECOND));
                    Ok::<_, LabError>(stream.read(&mut [0]).map_err(|error| error.kind()))
                })
            });
            wait_until(5 * SECOND, "its places are all taken", refused)?;
            for _ in 0..20 {
                // The other family's address is another source.
                let reply = client.http_get(address::ORIGIN.v6_port(port::HTTP), "/", 5 * SECOND)?;
                assert_eq!(reply.status, 200, "{mode}");
            }
            crowd.join().map_err(|_| "the crowd panicked")?;
            Ok::<_, Failed>(())
        })?;
    }
    Ok(())
}

/// The kernel has accepted it, and so nothing but the place of its dial tells that it is gone.
pub fn who_closes_without_a_word_is_not_waited_for() -> TestResult {
    for mode in MODES {
        let lab = Topology::simple()?;
        let _oneway = program(&lab.host, ONEWAY, &["--capture", mode]).file_limit(256).start()?;
        let client = lab.host.client();
        wait_until(20 * SECOND, "its places are all taken", || {
            drop(client.tcp(address::BLACK_HOLE.v4_port(80), SECOND));
            ask(&lab.host, "status").is_ok_and(|status| number(&status, "/counters/tcp/refused") > 0)
        })?;
        wait_until(30 * SECOND, "there is room again", || reaches_origin(&lab.host, 5 * SECOND))?;
    }
    Ok(())
}

/// A server that is late: who has only closed its half hears what it says, and what was sent by who is gone arrives.
pub fn who_has_said_or_awaits_something_is_waited_for() -> TestResult {
    for mode in MODES {
        let lab = Topology::simple()?;
        let (host, net) = (&lab.host, &lab.net);
        let _oneway = run(host, &["--capture", mode])?;
        let listener = net.run(|| TcpListener::bind(address::SPARE.v4_port(5002)))??;
        tool(net, "nft add table inet late")?;
        tool(net, "nft add chain inet late in { type filter hook input priority 0 ; }")?;
        tool(net, "nft add rule inet late in tcp flags & (syn|ack) == syn drop")?;
        let connect = |to| host.client().tcp(to, SECOND)?.connected();
        let late = address::ORIGIN.v4_port(port::FIN_FIRST);
        let mut listens = connect(late)?;
        listens.shutdown(Shutdown::Write)?;
        let mut says = connect(address::SPARE.v4_port(5002))?;
        says.write_all(b"a last word")?;
        drop(says);
        drop(connect(late)?);
        let flows = || ask(host, "flows").ok()?["flows"].as_array().map(Vec::len);
        let begin = Instant::now();
        wait_until(30 * SECOND, "one is given up", || begin.elapsed() > 7 * SECOND && flows() == Some(2))?;
        tool(net, "nft delete table inet late")?;
        listens.set_read_timeout(Some(40 * SECOND))?;
        let mut bye = String::new();
        listens.read_to_string(&mut bye)?;
        assert_eq!(bye, "bye\n", "{mode}");
        let mut heard = None;
        listener.set_nonblocking(true)?;
        wait_until(40 * SECOND, "the word comes", || {
            heard = listener.accept().ok();
            heard.is_some()
        })?;
        let (mut heard, mut word) = (heard.ok_or("nobody")?.0, String::new());
        heard.set_nonblocking(false)?;
        heard.set_read_timeout(Some(40 * SECOND))?;
        heard.read_to_string(&mut word)?;
        assert_eq!(word, "a last word", "{mode}");
    }
    Ok(())
}
