//! Groups: which of several proxies carries a flow, and when that changes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Instant;

use oneway_lab::capture::Recorder;
use oneway_lab::client::{Outcome, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::program::Program;
use oneway_lab::servers::origin::port;
use oneway_lab::servers::socks::SocksCommand;
use oneway_lab::servers::{SocksOptions, SocksServer};
use oneway_lab::topology::{Simple, Topology, address};
use oneway_lab::{NetNs, Oneway};
use rustix::process::Signal;
use serde_json::Value;

use crate::common::{ONEWAY, SECOND, ask, run};

const ONE: u16 = 1081;
const TWO: u16 = 1082;
/// Nobody listens there.
const CLOSED: u16 = 2;

/// A laboratory with two more proxies, `one` and `two`.
struct Proxies {
    lab: Simple,
    one: Option<SocksServer>,
    two: SocksServer,
    folder: tempfile::TempDir,
}

impl Proxies {
    fn new() -> Result<Self, Failed> {
        let lab = Topology::simple()?;
        let (one, two) = (start(&lab.net, ONE)?, start(&lab.net, TWO)?);
        Ok(Self { lab, one: Some(one), two, folder: tempfile::tempdir()? })
    }

    /// Runs the program with this group as the final outbound.
    fn run(&self, group: &str) -> Result<Oneway, Failed> {
        let file = self.folder.path().join("oneway.toml");
        std::fs::write(&file, self.text(group))?;
        Ok(run(&self.lab.host, None, &["--config", path(&file)?])?)
    }

    fn text(&self, group: &str) -> String {
        let server = |port| address::SPARE.v4_port(port);
        let url = format!("http://{}/bytes/1", address::ORIGIN.v4_port(port::HTTP));
        format!(
            "[dns]\nmode = \"off\"\n[rules]\nfinal = \"group\"\n\
             [outbound.one]\ntype = \"socks5\"\nserver = \"{}\"\n\
             [outbound.two]\ntype = \"socks5\"\nserver = \"{}\"\n\
             [outbound.http]\ntype = \"http\"\nserver = \"{}\"\n\
             [outbound.group]\n{}\n",
            server(ONE),
            server(TWO),
            address::HTTP_PROXY.v4_port(oneway_lab::topology::port::HTTP_PROXY),
            group.replace("URL", &url),
        )
    }

    /// How many flows to `to` each of the two has carried since this was last asked.
    fn carried(&self, to: SocketAddr) -> (usize, usize) {
        let count = |server: &SocksServer| {
            let count = server.requests_for(&to.to_string()).len();
            server.forget();
            count
        };
        (self.one.as_ref().map_or(0, count), count(&self.two))
    }
}

fn start(net: &NetNs, port: u16) -> Result<SocksServer, Failed> {
    Ok(SocksServer::start(net, &[address::SPARE.v4_port(port)], SocksOptions::default())?)
}

fn path(path: &Path) -> Result<&str, Failed> {
    Ok(path.to_str().ok_or("a path that is no text")?)
}

fn echoes(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

/// A connection that says something and ends; whether that worked.
fn tries(host: &NetNs, to: SocketAddr) -> bool {
    let connected = host.client().tcp(to, 5 * SECOND).and_then(|tried| tried.connected());
    connected.is_ok_and(|mut stream| echoes(&mut stream).is_ok())
}

/// The members that the group would take now.
fn taken(host: &NetNs) -> Result<Vec<String>, Failed> {
    let status = ask(host, "status")?;
    let outbounds = status["outbounds"].as_array().cloned().unwrap_or_default();
    let group =
        outbounds.iter().find(|outbound| outbound["name"] == "group").ok_or("no group in the status")?;
    let members = group["members"].as_array().cloned().unwrap_or_default();
    let taken = members.iter().filter(|member| member["taken"] == true);
    Ok(taken.filter_map(|member| member["name"].as_str()).map(str::to_owned).collect())
}

pub fn the_first_that_works_is_taken() -> TestResult {
    let mut proxies = Proxies::new()?;
    let _oneway =
        proxies.run("type = \"fallback\"\nmembers = [\"one\", \"two\"]\nurl = \"URL\"\ninterval = \"1s\"")?;
    let host = proxies.lab.host.clone();
    let to = address::ORIGIN.v4_port(port::ECHO);
    let mut kept = host.client().tcp(to, 5 * SECOND)?.connected()?;
    echoes(&mut kept)?;
    assert_eq!(proxies.carried(to), (1, 0));

    proxies.one = None;
    wait_until(5 * SECOND, "the second carries", || tries(&host, to))?;
    assert_eq!(taken(&host)?, ["two"]);
    proxies.two.forget();
    let mut by_two = host.client().tcp(to, 5 * SECOND)?.connected()?;
    echoes(&mut by_two)?;
    assert_eq!(proxies.carried(to), (0, 1));

    proxies.one = Some(start(&proxies.lab.net, ONE)?);
    wait_until(10 * SECOND, "the first is taken again", || taken(&host).is_ok_and(|taken| taken == ["one"]))?;
    proxies.carried(to);
    assert!(tries(&host, to));
    assert_eq!(proxies.carried(to), (1, 0));
    // What the second carries stays there.
    echoes(&mut by_two)?;
    Ok(())
}

/// A check may be long in coming: the flow that finds out that a member is down goes by the next one.
pub fn a_flow_that_finds_a_member_down_takes_the_next() -> TestResult {
    for kind in ["fallback", "url-test", "load-balance"] {
        let mut proxies = Proxies::new()?;
        let group =
            format!("type = \"{kind}\"\nmembers = [\"one\", \"two\"]\nurl = \"URL\"\ninterval = \"3600s\"");
        let _oneway = proxies.run(&group)?;
        let host = proxies.lab.host.clone();
        let ports = [port::ECHO, port::HTTP];
        assert!(tries(&host, address::ORIGIN.v4_port(port::ECHO)));
        proxies.one = None;
        let gone = address::SPARE.v4_port(ONE);
        wait_until(5 * SECOND, "nobody listens there", || {
            proxies.lab.net.client().tcp(gone, SECOND).is_ok_and(|tried| tried.outcome == Outcome::Refused)
        })?;
        proxies.two.forget();
        for to in ports.map(|port| address::ORIGIN.v4_port(port)) {
            assert_eq!(host.client().tcp(to, 5 * SECOND)?.outcome, Outcome::Done, "{kind} {to}");
            assert_eq!(proxies.carried(to), (0, 1), "{kind}");
        }
        // Nobody is left, and each is asked once.
        proxies.two = start(&proxies.lab.net, TWO + 1)?;
        assert_eq!(
            host.client().tcp(address::ORIGIN.v4_port(port::ECHO), 5 * SECOND)?.outcome,
            Outcome::Refused,
            "{kind}"
        );
    }
    Ok(())
}

pub fn the_fastest_is_taken() -> TestResult {
    let proxies = Proxies::new()?;
    let one = proxies.one.as_ref().ok_or("it runs")?;
    one.set_options(SocksOptions { delay: SECOND / 5, ..one.options() });
    let _oneway =
        proxies.run("type = \"url-test\"\nmembers = [\"one\", \"two\"]\nurl = \"URL\"\ninterval = \"1s\"")?;
    let host = &proxies.lab.host;
    wait_until(5 * SECOND, "the faster one is taken", || taken(host).is_ok_and(|taken| taken == ["two"]))?;
    let to = address::ORIGIN.v4_port(port::ECHO);
    assert!(tries(host, to));
    assert_eq!(proxies.carried(to), (0, 1));
    one.set_options(SocksOptions::default());
    proxies.two.set_options(SocksOptions { delay: SECOND / 5, ..SocksOptions::default() });
    wait_until(10 * SECOND, "the other one is taken", || {
        // Only a group that is used is checked.
        tries(host, to) && taken(host).is_ok_and(|taken| taken == ["one"])
    })?;
    let status = ask(host, "status")?;
    let members = status["outbounds"].as_array().into_iter().flatten().find(|o| o["name"] == "group");
    let check = |at: usize| members.and_then(|group| group["members"][at]["check_us"].as_u64()).unwrap_or(0);
    assert!(check(0) > 0 && check(1) > 200_000, "{status}");
    Ok(())
}

fn select(host: &NetNs, group: &str, member: &str) -> Result<(Option<i32>, String), Failed> {
    let mut running = Program::new(host, ONEWAY, ["select", group, member]).start()?;
    let code = running.wait(10 * SECOND)?.code();
    Ok((code, running.stderr()))
}

pub fn a_selection_survives() -> TestResult {
    const GROUP: &str = "type = \"select\"\nmembers = [\"one\", \"two\", \"DIRECT\"]";
    let proxies = Proxies::new()?;
    let host = &proxies.lab.host;
    let to = address::ORIGIN.v6_port(port::ECHO);
    {
        let mut oneway = proxies.run(GROUP)?;
        // A namespace of before may have had the same number.
        assert_eq!(select(host, "group", "one")?.0, Some(0));
        assert!(tries(host, to));
        assert_eq!(proxies.carried(to), (1, 0));
        for (group, member, says) in [
            ("group", "http", "\"http\" is no member of \"group\"; there are one, two, direct"),
            ("group", "REJECT", "\"REJECT\" is no member of \"group\"; there are one, two, direct"),
            ("group", "three", "\"three\" is no member of \"group\"; there are one, two, direct"),
            ("one", "two", "\"one\" is no group of type select; there are group"),
            ("none", "two", "\"none\" is no group of type select; there are group"),
        ] {
            let (code, error) = select(host, group, member)?;
            assert_eq!((code, error), (Some(2), format!("error: {says}\n")));
        }
        assert_eq!(taken(host)?, ["one"]);
        // As the configuration names it.
        for direct in ["DIRECT", "direct"] {
            assert_eq!(select(host, "group", direct)?.0, Some(0), "{direct}");
            assert_eq!(taken(host)?, ["direct"]);
        }
        assert_eq!(select(host, "group", "two")?.0, Some(0));
        assert!(tries(host, to));
        assert_eq!(proxies.carried(to), (0, 1));
        oneway.signal(Signal::KILL.as_raw())?;
        oneway.wait(5 * SECOND)?;
    }
    let _oneway = proxies.run(GROUP)?;
    assert!(tries(host, to));
    assert_eq!(proxies.carried(to), (0, 1));
    let why = ask_why(host, "203.0.113.1:80")?;
    assert_eq!((&why["group"], &why["outbound"]), (&Value::from("group"), &Value::from("two")), "{why}");
    Ok(())
}

fn ask_why(host: &NetNs, target: &str) -> Result<Value, Failed> {
    let mut running = Program::new(host, ONEWAY, ["why", target, "--json"]).start()?;
    running.wait(10 * SECOND)?;
    let document: Value = serde_json::from_str(&running.stdout())?;
    Ok(document["answers"][0].clone())
}

pub fn flows_are_spread() -> TestResult {
    const FLOWS: usize = 10;
    let proxies = Proxies::new()?;
    let host = &proxies.lab.host;
    let to = address::ORIGIN.v4_port(port::ECHO);
    {
        let _oneway = proxies.run(
            "type = \"load-balance\"\nstrategy = \"round-robin\"\nmembers = [\"one\", \"two\"]\nurl = \"URL\"",
        )?;
        assert!((0..FLOWS).all(|_| tries(host, to)));
        assert_eq!(proxies.carried(to), (FLOWS / 2, FLOWS / 2));
    }
    let _oneway = proxies.run("type = \"load-balance\"\nmembers = [\"one\", \"two\"]\nurl = \"URL\"")?;
    assert!((0..FLOWS).all(|_| tries(host, to)));
    let (one, two) = proxies.carried(to);
    assert!(one + two == FLOWS && (one == 0 || two == 0), "{one} and {two} to one destination");
    Ok(())
}

pub fn flows_are_spread_below_a_group_that_finds_out_by_trying() -> TestResult {
    const FLOWS: usize = 10;
    let proxies = Proxies::new()?;
    let _oneway = proxies.run(
        "type = \"probe\"\nmembers = [\"turns\", \"direct\"]\n[outbound.turns]\ntype = \"load-balance\"\n\
         strategy = \"round-robin\"\nmembers = [\"one\", \"two\"]\nurl = \"URL\"",
    )?;
    let to = address::ORIGIN.v4_port(port::ECHO);
    assert!((0..FLOWS).all(|_| tries(&proxies.lab.host, to)));
    assert_eq!(proxies.carried(to), (FLOWS / 2, FLOWS / 2));
    Ok(())
}

pub fn datagrams_take_a_member_that_carries_them() -> TestResult {
    let proxies = Proxies::new()?;
    let _oneway = proxies.run("type = \"fallback\"\nmembers = [\"http\", \"two\"]\nurl = \"URL\"")?;
    let client = proxies.lab.host.client();
    let socket = client.udp_socket(false)?;
    socket.set_read_timeout(Some(5 * SECOND))?;
    for n in 0..5_u8 {
        socket.send_to(&[n; 100], address::ORIGIN.v4_port(port::ECHO))?;
        let mut answer = [0; 200];
        assert_eq!(socket.recv(&mut answer)?, 100);
        assert_eq!(answer[0], n);
    }
    assert_eq!(proxies.two.counters().associations, 1);
    let to = address::ORIGIN.v4_port(port::ECHO);
    assert!(tries(&proxies.lab.host, to));
    assert!(proxies.two.requests_for(&to.to_string()).is_empty(), "connections take the first");
    Ok(())
}

/// A socket whose datagrams come back.
struct Echoing(UdpSocket);

impl Echoing {
    fn new(host: &NetNs) -> Result<Self, Failed> {
        let socket = host.client().udp_socket(false)?;
        socket.set_read_timeout(Some(SECOND))?;
        Ok(Self(socket))
    }

    fn echoes(&self) -> bool {
        let mut answer = [0; 16];
        let sent = self.0.send_to(b"ping", address::ORIGIN.v4_port(port::ECHO));
        sent.is_ok() && self.0.recv(&mut answer).is_ok_and(|len| answer[..len] == *b"ping")
    }
}

/// Datagrams of one socket stay with the member that carries them, whatever the group would choose now.
pub fn datagrams_stay_with_their_member() -> TestResult {
    const GROUP: &str = "type = \"select\"\nmembers = [\"one\", \"two\"]";
    let associations = |server: &SocksServer| server.counters().associations;
    let proxies = Proxies::new()?;
    let (host, one) = (&proxies.lab.host, proxies.one.as_ref().ok_or("it runs")?);
    let _oneway = proxies.run(GROUP)?;
    assert_eq!(select(host, "group", "one")?.0, Some(0));
    let socket = Echoing::new(host)?;
    wait_until(5 * SECOND, "the first carries", || socket.echoes())?;
    assert_eq!(select(host, "group", "two")?.0, Some(0));
    for _ in 0..10 {
        assert!(socket.echoes());
    }
    let mut reload = Program::new(host, ONEWAY, ["reload"]).start()?;
    assert!(reload.wait(10 * SECOND)?.success(), "{}", reload.stderr());
    assert!(socket.echoes());
    assert_eq!((associations(one), associations(&proxies.two)), (1, 0));
    let new = Echoing::new(host)?;
    wait_until(5 * SECOND, "the second carries what is new", || new.echoes())?;
    assert_eq!((associations(one), associations(&proxies.two)), (1, 1));

    // What is no member any more carries nothing more for the group.
    let file = proxies.folder.path().join("oneway.toml");
    std::fs::write(&file, proxies.text(&GROUP.replace("\"one\", ", "")))?;
    let mut reload = Program::new(host, ONEWAY, ["reload"]).start()?;
    assert!(reload.wait(10 * SECOND)?.success(), "{}", reload.stderr());
    wait_until(5 * SECOND, "the second carries", || socket.echoes())?;
    assert_eq!((associations(one), associations(&proxies.two)), (1, 2));
    Ok(())
}

/// They go on by the next when their proxy is gone, and stay there when it is back.
pub fn datagrams_leave_a_member_that_is_gone() -> TestResult {
    let mut proxies = Proxies::new()?;
    let _oneway =
        proxies.run("type = \"fallback\"\nmembers = [\"one\", \"two\"]\nurl = \"URL\"\ninterval = \"1s\"")?;
    let host = proxies.lab.host.clone();
    let socket = Echoing::new(&host)?;
    wait_until(5 * SECOND, "the first carries", || socket.echoes())?;
    assert_eq!(proxies.two.counters().associations, 0);
    proxies.one = None;
    wait_until(10 * SECOND, "the second carries", || socket.echoes())?;
    assert_eq!(proxies.two.counters().associations, 1);

    let one = start(&proxies.lab.net, ONE)?;
    let to = address::ORIGIN.v4_port(port::ECHO);
    wait_until(10 * SECOND, "the first is taken again", || {
        // A group that is not used is not checked.
        tries(&host, to) && taken(&host).is_ok_and(|taken| taken == ["one"])
    })?;
    let new = || Echoing::new(&host).is_ok_and(|socket| socket.echoes()) && one.counters().associations > 0;
    wait_until(10 * SECOND, "the first carries what is new", new)?;
    let before = one.counters().datagrams_out;
    for _ in 0..10 {
        assert!(socket.echoes());
    }
    assert_eq!(one.counters().datagrams_out, before);
    Ok(())
}

/// As `ssh -D` does: its connections go by it all the same, and datagrams by the next.
pub fn a_proxy_that_carries_no_datagrams_keeps_its_connections() -> TestResult {
    const ROUNDS: usize = 20;
    let proxies = Proxies::new()?;
    let one = proxies.one.as_ref().ok_or("it runs")?;
    one.set_options(SocksOptions { udp: false, hangs_up: true, ..one.options() });
    let _oneway = proxies.run("type = \"fallback\"\nmembers = [\"one\", \"two\"]\nurl = \"URL\"")?;
    let (host, to) = (&proxies.lab.host, address::ORIGIN.v4_port(port::ECHO));
    let echoes = || host.client().udp(to, b"ping", SECOND).is_ok_and(|exchange| exchange.data == b"ping");
    wait_until(5 * SECOND, "datagrams take the second", echoes)?;
    for _ in 0..ROUNDS {
        // Once in a while the first is asked again.
        echoes();
        assert!(tries(host, to));
    }
    assert_eq!(proxies.carried(to), (ROUNDS, 0));
    assert!(proxies.two.counters().associations as usize > ROUNDS / 2);
    Ok(())
}

/// What has just refused a way for datagrams is not asked with each of them.
pub fn a_proxy_that_carries_no_datagrams_is_not_asked_with_each() -> TestResult {
    const ROUNDS: u64 = 200;
    let proxies = Proxies::new()?;
    let one = proxies.one.as_ref().ok_or("it runs")?;
    one.set_options(SocksOptions { udp: false, hangs_up: true, ..one.options() });
    let _oneway = proxies.run("type = \"fallback\"\nmembers = [\"one\"]\nurl = \"URL\"")?;
    let client = proxies.lab.host.client();
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        let exchange = client.udp(address::ORIGIN.v4_port(port::ECHO), b"ping", 5 * SECOND)?;
        assert_eq!(exchange.outcome, Outcome::Refused);
    }
    let requests = one.requests();
    let asked = requests.iter().filter(|request| request.command == SocksCommand::UdpAssociate).count();
    let took = begin.elapsed();
    assert!((1..=2 + took.as_secs()).contains(&(asked as u64)), "asked {asked} times in {took:?}");
    one.set_options(SocksOptions::default());
    wait_until(5 * SECOND, "it is asked again", || {
        let exchange = client.udp(address::ORIGIN.v4_port(port::ECHO), b"ping", SECOND);
        exchange.is_ok_and(|exchange| exchange.data == b"ping")
    })?;
    Ok(())
}

/// Where every member has failed its check, datagrams go to the first that carries any: it may work all the same.
pub fn datagrams_of_a_group_that_fails_take_a_member_that_carries_them() -> TestResult {
    let proxies = Proxies::new()?;
    let (host, to) = (&proxies.lab.host, address::ORIGIN.v4_port(port::ECHO));
    let url = format!("http://{}/", address::ORIGIN.v4_port(CLOSED));
    for (members, is_carried) in
        [("\"http\", \"two\", \"one\"", true), ("\"http\"", false), ("\"block\", \"http\"", false)]
    {
        let group = format!("type = \"fallback\"\nmembers = [{members}]\nurl = \"{url}\"");
        let _oneway = proxies.run(&group)?;
        wait_until(10 * SECOND, "every check has failed", || {
            let status = ask(host, "status").unwrap_or_default();
            let outbounds = status["outbounds"].as_array().cloned().unwrap_or_default();
            outbounds.iter().any(|outbound| outbound["name"] == "group" && outbound["health"] == "down")
        })?;
        let exchange = host.client().udp(to, b"ping", 5 * SECOND)?;
        match is_carried {
            true => assert_eq!(exchange.data, b"ping", "{members}: {:?}", exchange.outcome),
            false => assert_eq!(exchange.outcome, Outcome::Refused, "{members}"),
        }
    }
    let associations = |server: &SocksServer| server.counters().associations;
    assert_eq!((associations(&proxies.two), proxies.one.as_ref().map(associations)), (1, Some(0)));
    Ok(())
}

/// What the network does with connections from the host to some addresses. The proxies are beyond that.
#[allow(clippy::disallowed_methods, reason = "the administrator of the network is played")]
pub fn filter(net: &NetNs, to: &[SocketAddr], verdict: &str) -> TestResult {
    let mut rules = String::from("table inet between\ndelete table inet between\ntable inet between {\n");
    rules += "chain c { type filter hook input priority 0;\n";
    for to in to {
        let (family, host) = match to.is_ipv4() {
            true => ("ip", address::HOST_UP1.v4.to_string()),
            false => ("ip6", address::HOST_UP1.v6.to_string()),
        };
        let (ip, port) = (to.ip(), to.port());
        rules += &format!("{family} saddr {host} {family} daddr {ip} tcp dport {port} {verdict}\n");
    }
    rules += "}\n}\n";
    let done = net.run(|| std::process::Command::new("nft").arg(&rules).output())??;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("nft: {}", String::from_utf8_lossy(&done.stderr)).into()),
    }
}

pub fn what_reaches_a_destination_is_found_out_and_remembered() -> TestResult {
    let proxies = Proxies::new()?;
    let _oneway = proxies.run("type = \"probe\"\nmembers = [\"direct\", \"one\"]\ntimeout = \"1s\"")?;
    let (host, net) = (&proxies.lab.host, &proxies.lab.net);
    let both = address::ORIGIN.ports(port::ECHO);
    let others = address::ORIGIN_OTHER.ports(port::ECHO);
    let syns = |wire: &Recorder, to: SocketAddr| wire.count(move |p| p.is_syn() && p.dst == to.ip());
    for to in both {
        assert!(tries(host, to), "{to}: directly");
        assert_eq!(proxies.carried(to), (0, 0), "{to}: what works needs no proxy");
    }

    // Silence costs the time that the group gives; a refusal costs none. Either way it is tried once.
    filter(net, &[others[0], both[0]], "drop")?;
    for to in [others[0], both[0]] {
        let begin = Instant::now();
        assert!(tries(host, to), "{to}: by the proxy, whatever was found before");
        assert!(begin.elapsed() >= SECOND, "{to}: it was tried directly");
        assert_eq!(proxies.carried(to), (1, 0));
    }
    filter(net, &[others[1], both[1]], "reject with tcp reset")?;
    for to in [others[1], both[1]] {
        assert!(tries(host, to), "{to}");
        assert_eq!(proxies.carried(to), (1, 0));
    }
    filter(net, &[others[0], others[1], both[0], both[1]], "drop")?;
    let wire = Recorder::start(host, Some(Simple::UP1))?;
    for to in both.into_iter().chain(others) {
        let mut kept = host.client().tcp(to, 5 * SECOND)?.connected()?;
        echoes(&mut kept)?;
        assert_eq!(proxies.carried(to), (1, 0), "{to}: it is known");
        assert_eq!(syns(&wire, to)?, 0, "{to}: nothing is tried again");
        let flows = ask(host, "flows")?;
        let flow =
            flows["flows"].as_array().into_iter().flatten().find(|flow| flow["target"] == to.to_string());
        assert_eq!(flow.map(|flow| flow["outbound"].clone()), Some("one".into()), "{flows}");
    }
    // Datagrams cannot be tried, and go the way that is known.
    let socket = host.client().udp_socket(false)?;
    socket.set_read_timeout(Some(5 * SECOND))?;
    socket.send_to(b"datagram", both[0])?;
    assert_eq!(socket.recv(&mut [0; 64])?, 8);
    assert_eq!(proxies.one.as_ref().map(|one| one.counters().associations), Some(1));

    // Where nothing reaches it, the client hears what the last has heard.
    for to in address::ORIGIN.ports(CLOSED) {
        assert_eq!(host.client().tcp(to, 5 * SECOND)?.outcome, Outcome::Refused, "{to}");
        assert_eq!(proxies.carried(to), (1, 0), "{to}: both were tried");
    }
    Ok(())
}

/// Whether all members of the group have been checked, and work.
fn are_checked(host: &NetNs) -> bool {
    let is_checked = |member: &Value| member["works"] == true && member["check_us"].is_u64();
    ask(host, "status").is_ok_and(|status| {
        let outbounds = status["outbounds"].as_array().into_iter().flatten();
        let members = outbounds.filter(|outbound| outbound["name"] == "group").map(|group| &group["members"]);
        members.filter_map(Value::as_array).all(|members| members.iter().all(is_checked))
    })
}

/// The members of members are tried, and a check finds out by trying, too: the first of the inner group reaches nothing.
pub fn members_of_members_are_tried_and_checked() -> TestResult {
    const INNER: &str =
        "[outbound.inner]\ntype = \"probe\"\nmembers = [\"block\", \"two\"]\ntimeout = \"1s\"";
    let proxies = Proxies::new()?;
    let host = &proxies.lab.host;
    let to = address::ORIGIN.v4_port(port::ECHO);
    {
        let _oneway = proxies
            .run(&format!("type = \"probe\"\nmembers = [\"inner\", \"one\"]\ntimeout = \"1s\"\n{INNER}"))?;
        assert!(tries(host, to));
        assert_eq!(
            proxies.carried(to),
            (0, 1),
            "the next member of the inner group, before that of the outer one"
        );
    }
    let _oneway = proxies.run(&format!(
        "type = \"fallback\"\nmembers = [\"inner\", \"one\"]\nurl = \"URL\"\ninterval = \"1s\"\n{INNER}"
    ))?;
    wait_until(10 * SECOND, "both members are checked, and work", || are_checked(host))?;
    assert_eq!(taken(host)?, ["inner"]);
    Ok(())
}

/// Of a selection, to the group around it, what was selected counts.
pub fn a_selection_that_is_down_is_left() -> TestResult {
    let mut proxies = Proxies::new()?;
    let _oneway = proxies.run(
        "type = \"fallback\"\nmembers = [\"chosen\", \"two\"]\nurl = \"URL\"\ninterval = \"1h\"\n\
         [outbound.chosen]\ntype = \"select\"\nmembers = [\"one\", \"direct\"]",
    )?;
    let host = proxies.lab.host.clone();
    let to = address::ORIGIN.v4_port(port::ECHO);
    wait_until(10 * SECOND, "both members are checked, and work", || are_checked(&host))?;
    assert!(tries(&host, to));
    assert_eq!(proxies.carried(to), (1, 0));
    proxies.one = None;
    assert!(tries(&host, to), "the flow that notices that it is gone goes by the next");
    assert_eq!((proxies.carried(to), taken(&host)?), ((0, 1), vec!["two".to_owned()]));
    Ok(())
}
