//! What all scenarios need.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use oneway_lab::client::{DnsAnswer, Outcome, RecordType};
use oneway_lab::harness::Failed;
use oneway_lab::program::Program;
use oneway_lab::topology::{Simple, address, port};
use oneway_lab::{LabError, NetNs, Oneway};
use serde_json::Value;

/// The program under test.
pub const ONEWAY: &str = env!("CARGO_BIN_EXE_oneway");
/// The name that it gives its device where nobody has taken it.
pub const TUN: &str = "oneway0";
/// One second.
pub const SECOND: Duration = Duration::from_secs(1);

/// The stack that this test is about.
pub fn stack() -> &'static str {
    match oneway_lab::harness::variant() {
        "" => "user",
        variant => variant,
    }
}

/// `oneway run` in the lab's host, ready when it says so.
pub fn program(host: &NetNs, options: &[&str]) -> Program {
    let words = [&["run", "--stack", stack()], options].concat();
    Program::new(host, ONEWAY, words).ready("ready:", 10 * SECOND)
}

/// Starts it.
pub fn run(host: &NetNs, options: &[&str]) -> Result<Oneway, LabError> {
    program(host, options).start()
}

/// The lab's proxy, as a URL.
pub fn proxy() -> String {
    format!("socks5://{}", address::SOCKS.v4_port(port::SOCKS))
}

/// The lab's DNS server, as an upstream.
pub fn upstream() -> String {
    format!("udp://{}", address::DNS.v4)
}

/// Asks the lab's DNS server, or who answers in its place.
pub fn ask(lab: &Simple, name: &str, kind: RecordType, v6: bool, tcp: bool) -> Result<DnsAnswer, LabError> {
    let server = if v6 { address::DNS.v6_port(port::DNS) } else { address::DNS.v4_port(port::DNS) };
    lab.host.client().dns(server, name, kind, tcp, 5 * SECOND)
}

/// The only address of a name.
pub fn address_of(lab: &Simple, name: &str, kind: RecordType) -> Result<IpAddr, Failed> {
    let answer = ask(lab, name, kind, false, false)?;
    match answer.addresses.as_slice() {
        [ip] => Ok(*ip),
        other => Err(format!("{name} {kind}: {:?} {} {other:?}", answer.outcome, answer.code).into()),
    }
}

/// Whether this is one of the addresses that stand for names.
pub fn is_fake(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => matches!(v4.octets(), [198, 18 | 19, ..]),
        IpAddr::V6(v6) => matches!(v6.segments(), [0xfc00, 0x18, 0, 0, ..]),
    }
}

/// Fetches a page, and has a datagram sent back, by this address.
pub fn expect_reachable(lab: &Simple, ip: IpAddr) -> Result<(), Failed> {
    use oneway_lab::servers::origin::port::{ECHO, HTTP};
    let client = lab.host.client();
    let reply = client.http_get(SocketAddr::new(ip, HTTP), "/bytes/100000", 5 * SECOND)?;
    assert_eq!((reply.status, reply.body.len()), (200, 100_000), "{ip}");
    let echo = SocketAddr::new(ip, ECHO);
    let exchange = client.udp(echo, b"datagram", 5 * SECOND)?;
    assert_eq!((exchange.outcome, exchange.from), (Outcome::Done, Some(echo)), "{ip}");
    assert_eq!(exchange.data, b"datagram");
    Ok(())
}

/// What `oneway status --json` says.
pub fn status(host: &NetNs) -> Result<Value, Failed> {
    let mut running = Program::new(host, ONEWAY, ["status", "--json"]).start()?;
    running.wait(10 * SECOND)?;
    Ok(serde_json::from_str(&running.stdout())?)
}

/// A number of it, by its JSON pointer.
pub fn number(host: &NetNs, pointer: &str) -> Result<u64, Failed> {
    let status = status(host)?;
    status.pointer(pointer).and_then(Value::as_u64).ok_or_else(|| format!("no {pointer} in {status}").into())
}
