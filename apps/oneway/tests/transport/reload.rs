//! `oneway reload`: what stays, what is reset, and what a wrong file does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use oneway_lab::Oneway;
use oneway_lab::client::wait_until;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::pattern;
use oneway_lab::program::Program;
use oneway_lab::servers::origin::port;
use oneway_lab::servers::{SocksOptions, SocksServer};
use oneway_lab::topology::{Pair, Simple, Topology, address};
use serde_json::Value;

use crate::common::{ONEWAY, SECOND, ask, run};

const ONE: u16 = 1081;
const TWO: u16 = 1082;

/// A laboratory with two proxies, and a configuration that can be changed.
struct Changing {
    lab: Simple,
    one: SocksServer,
    two: SocksServer,
    folder: tempfile::TempDir,
}

impl Changing {
    fn new() -> Result<Self, Failed> {
        let lab = Topology::simple()?;
        let start =
            |port| SocksServer::start(&lab.net, &[address::SPARE.v4_port(port)], SocksOptions::default());
        let (one, two) = (start(ONE)?, start(TWO)?);
        Ok(Self { lab, one, two, folder: tempfile::tempdir()? })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("oneway.toml")
    }

    fn write(&self, outbounds: &[(&str, u16)], rules: &[&str], more: &str) -> TestResult {
        let rules: Vec<_> = rules.iter().map(|rule| format!("{rule:?}")).collect();
        let outbounds: Vec<_> = outbounds
            .iter()
            .map(|(name, port)| {
                let server = address::SPARE.v4_port(*port);
                format!("[outbound.{name}]\ntype = \"socks5\"\nserver = \"{server}\"\n")
            })
            .collect();
        let text = format!(
            "[dns]\nmode = \"off\"\n[rules]\nlist = [{}]\n{}{more}",
            rules.join(", "),
            outbounds.concat()
        );
        Ok(std::fs::write(self.file(), text)?)
    }

    fn run(&self) -> Result<Oneway, Failed> {
        let file = self.file();
        Ok(run(&self.lab.host, None, &["--config", file.to_str().ok_or("the folder's name is no text")?])?)
    }

    fn reload(&self) -> Result<Value, Failed> {
        ask(&self.lab.host, "reload")
    }

    fn connect(&self, to: SocketAddr) -> Result<TcpStream, Failed> {
        let stream = self.lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
        stream.set_read_timeout(Some(5 * SECOND))?;
        Ok(stream)
    }
}

fn echoes(stream: &mut TcpStream) -> TestResult {
    let mut heard = [0; 5];
    stream.write_all(b"hello")?;
    stream.read_exact(&mut heard)?;
    assert_eq!(&heard, b"hello");
    Ok(())
}

/// Whether the connection was reset.
fn is_reset(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

pub fn flows_that_are_still_allowed_stay() -> TestResult {
    let changing = Changing::new()?;
    let echo = address::ORIGIN.ports(port::ECHO);
    changing.write(&[("one", ONE), ("two", TWO)], &["MATCH,one"], "")?;
    let _oneway = changing.run()?;
    let mut old = [changing.connect(echo[0])?, changing.connect(echo[1])?];
    let datagrams = changing.lab.host.client().udp_socket(false)?;
    datagrams.set_read_timeout(Some(5 * SECOND))?;
    let source = datagrams.local_addr()?;
    let asks = |byte: u8| -> TestResult {
        datagrams.send_to(&[byte; 9], echo[0])?;
        let mut answer = [0; 10];
        assert_eq!(datagrams.recv(&mut answer)?, 9);
        assert_eq!(answer[0], byte);
        Ok(())
    };
    asks(1)?;
    // New flows go elsewhere; those that there are stay.
    changing.write(&[("one", ONE), ("two", TWO)], &["NETWORK,udp,one", "MATCH,two"], "")?;
    let done = changing.reload()?;
    assert_eq!(
        (done["reset"].as_u64(), done["changed"].as_array().map(Vec::len)),
        (Some(0), Some(0)),
        "{done}"
    );
    old.iter_mut().try_for_each(echoes)?;
    asks(2)?;
    assert_eq!(datagrams.local_addr()?, source);
    assert_eq!(changing.one.counters().associations, 1, "the session stayed");
    let before = changing.two.requests().len();
    echoes(&mut changing.connect(echo[0])?)?;
    assert_eq!(changing.two.requests().len(), before + 1);

    // Its outbound is no more.
    changing.write(&[("two", TWO)], &["MATCH,two"], "")?;
    let done = changing.reload()?;
    assert_eq!(done["removed"][0], "one", "{done}");
    assert!(old.iter_mut().all(is_reset));
    asks(3)?;
    assert_eq!(changing.two.counters().associations, 1, "datagrams go by the other one");

    // Its outbound is another one by the same name.
    let mut stream = changing.connect(echo[1])?;
    changing.write(&[("two", ONE)], &["MATCH,two"], "")?;
    let done = changing.reload()?;
    assert_eq!(done["changed"][0], "two", "{done}");
    assert!(is_reset(&mut stream));

    // A rule blocks it.
    let (mut stays, mut goes) = (changing.connect(echo[0])?, changing.connect(echo[1])?);
    changing.write(&[("two", ONE)], &[&format!("IP-CIDR6,{}/128,block", echo[1].ip()), "MATCH,two"], "")?;
    let done = changing.reload()?;
    assert_eq!(done["reset"], 1, "{done}");
    assert!(is_reset(&mut goes));
    echoes(&mut stays)?;
    let status = ask(&changing.lab.host, "status")?;
    assert_eq!(status["reloads"], 4, "{status}");
    Ok(())
}

pub fn a_wrong_file_changes_nothing() -> TestResult {
    let changing = Changing::new()?;
    let echo = address::ORIGIN.v4_port(port::ECHO);
    changing.write(&[("one", ONE)], &["MATCH,one"], "")?;
    let _oneway = changing.run()?;
    let mut old = changing.connect(echo)?;
    let refused = |why: &str| -> TestResult {
        let mut reload = Program::new(&changing.lab.host, ONEWAY, ["reload"]).start()?;
        let status = reload.wait(10 * SECOND)?;
        let said = reload.stderr();
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains(why) && said.lines().count() == 1, "{said}");
        Ok(())
    };
    changing.write(&[("one", ONE)], &["DOMAIN-SUFFIX,example.com,nobody", "MATCH,one"], "")?;
    refused("oneway.toml:4:9: rule \"DOMAIN-SUFFIX,example.com,nobody\"")?;
    std::fs::write(changing.folder.path().join("rules.txt"), "DOMAIN,a.example,one\nDOMAIN\n")?;
    std::fs::write(changing.file(), "[rules]\nfiles = [\"rules.txt\"]\n[outbound.one]\ntype = \"block\"\n")?;
    refused("rules.txt:2:")?;
    std::fs::write(changing.file(), "[rules\n")?;
    refused("oneway.toml:1:")?;
    std::fs::remove_file(changing.file())?;
    refused("cannot read the configuration")?;
    changing.write(&[("one", ONE)], &["MATCH,one"], "[tun]\nmtu = 1400\n[limits]\nhalf-closed = \"7s\"\n")?;
    refused("tun.mtu, limits cannot change while oneway runs")?;

    echoes(&mut old)?;
    let before = changing.one.requests().len();
    echoes(&mut changing.connect(echo)?)?;
    assert_eq!(changing.one.requests().len(), before + 1, "the rules of before are in force");
    assert_eq!(ask(&changing.lab.host, "status")?["reloads"], 0);
    Ok(())
}

pub fn a_hundred_reloads_leave_nothing_behind() -> TestResult {
    const BYTES: usize = 30_000_000;
    const KEPT: usize = 16;
    let changing = Changing::new()?;
    changing.write(&[("one", ONE), ("two", TWO)], &["MATCH,one"], "")?;
    let oneway = changing.run()?;
    let origin = address::ORIGIN.v4_port(port::HTTP);
    let get =
        |bytes: usize| changing.lab.host.client().http_get(origin, &format!("/bytes/{bytes}"), 30 * SECOND);
    // Each worker keeps a few pipes for later.
    for _ in 0..16 {
        get(BYTES / 10)?;
    }
    changing.reload()?;
    let idle = || {
        let flows = ask(&changing.lab.host, "flows").ok();
        flows.and_then(|flows| flows["flows"].as_array().map(Vec::is_empty)).unwrap_or(false)
    };
    wait_until(5 * SECOND, "no flow is left", idle)?;
    let (descriptors, memory) = (oneway.fd_count()?, oneway.rss()?);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| -> TestResult {
        let downloads = scope.spawn(|| -> Result<usize, String> {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                let reply = get(BYTES).map_err(|error| error.to_string())?;
                if reply.body != pattern::bytes(BYTES) {
                    return Err("other bytes".to_owned());
                }
                count += 1;
            }
            Ok(count)
        });
        let before = changing.one.requests().len();
        let both = || changing.one.requests().len() > before && !changing.two.requests().is_empty();
        for n in (0..).take_while(|n| *n < 100 || !both()) {
            let rule = if n % 2 == 0 { "MATCH,two" } else { "MATCH,one" };
            changing.write(&[("one", ONE), ("two", TWO)], &[rule], "")?;
            assert_eq!(changing.reload()?["reset"], 0);
        }
        over.store(true, Ordering::Relaxed);
        let count = downloads.join().map_err(|_| "the downloads panicked")??;
        assert!(count > 0);
        Ok(())
    })?;
    wait_until(5 * SECOND, "no flow is left", idle)?;
    // Each worker keeps some pipes for the next connection.
    wait_until(5 * SECOND, "the descriptors are back", || {
        oneway.fd_count().is_ok_and(|now| now <= descriptors + KEPT)
    })?;
    let grown = oneway.rss()?.saturating_sub(memory);
    assert!(grown < 8 << 20, "grown by {grown} bytes");
    Ok(())
}

pub fn what_is_captured_may_change() -> TestResult {
    let changing = Changing::new()?;
    let http = |to: Pair| changing.lab.host.client().http_get(to.v4_port(port::HTTP), "/client", 5 * SECOND);
    changing.write(&[("one", ONE)], &["MATCH,one"], "")?;
    let mut oneway = changing.run()?;
    let by = |server: &SocksServer, to: Pair| server.requests_for(&to.v4_port(port::HTTP).to_string()).len();
    http(address::ORIGIN)?;
    assert_eq!(by(&changing.one, address::ORIGIN), 1);
    let mut stream = changing.connect(address::ORIGIN.v4_port(port::ECHO))?;
    let exclude = format!("[capture]\nexclude = [\"{}/32\"]\n", address::ORIGIN.v4);
    changing.write(&[("one", ONE)], &["MATCH,one"], &exclude)?;
    let done = changing.reload()?;
    assert!(done["reset"].as_u64() >= Some(1), "{done}");
    assert!(is_reset(&mut stream));
    http(address::ORIGIN)?;
    assert_eq!(by(&changing.one, address::ORIGIN), 1, "it is not captured any more");
    assert!(ask(&changing.lab.host, "flows")?["flows"].as_array().is_some_and(Vec::is_empty));
    // And back, this time by a signal.
    changing.write(&[("one", ONE)], &["MATCH,one"], "")?;
    oneway.signal(rustix::process::Signal::HUP.as_raw())?;
    wait_until(10 * SECOND, "the configuration was read again", || {
        ask(&changing.lab.host, "status").is_ok_and(|status| status["reloads"] == 2)
    })?;
    http(address::ORIGIN)?;
    assert_eq!(by(&changing.one, address::ORIGIN), 2);
    oneway.stop(2 * SECOND)?;
    Ok(())
}

pub fn new_servers_get_their_routes_first() -> TestResult {
    let changing = Changing::new()?;
    let spare = address::SPARE.v4_port(ONE).to_string();
    let moved = address::SOCKS.v4_port(oneway_lab::topology::port::SOCKS).to_string();
    let write = |server: &str| {
        let text = format!(
            "[egress]\nprotect = \"host-route\"\n[dns]\nmode = \"off\"\n[outbound.one]\ntype = \"socks5\"\n\
             server = \"{server}\"\n[rules]\nfinal = \"one\"\n"
        );
        std::fs::write(changing.file(), text)
    };
    write(&spare)?;
    let mut oneway = changing.run()?;
    let client = changing.lab.host.client();
    let http = || client.http_get(address::ORIGIN.v4_port(port::HTTP), "/", 5 * SECOND);
    assert_eq!(http()?.status, 200);
    write(&moved)?;
    changing.reload()?;
    assert_eq!(http()?.status, 200, "the very first flow");
    assert_eq!(changing.lab.socks.requests().len(), 1);
    let status = ask(&changing.lab.host, "status")?;
    assert_eq!((&status["guard"]["returned"], &status["loops"]["verdict"]), (&0.into(), &"proven".into()));
    oneway.stop(2 * SECOND)?;
    Ok(())
}
