//! The main job in throw-away network namespaces, with its proof.
//!
//! One machine, `host`, is captured; beyond its uplink lie a web origin, a DNS server and a SOCKS5 server. Real
//! connections go through a real capture, and recorders on both sides of it say what was on the wire.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use oneway::Engine;
use oneway::config::{Config, Options, ProxySpec};
use oneway::control::FlowInfo;
use oneway_lab::capture::{Direction, Recorder};
use oneway_lab::client::{Outcome, Ping, RecordType};
use oneway_lab::servers::origin;
use oneway_lab::topology::{Simple, address, name, port};
use oneway_lab::{Entered, LabError, Snapshot, Topology};
use serde::Serialize;

use crate::failure::{FAILED, Failure};
use crate::output::Output;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the wire must be quiet at the end: a loop is never quiet.
const QUIET: Duration = Duration::from_millis(500);

/// One thing that was tried.
#[derive(Debug, Serialize)]
struct Line {
    part: &'static str,
    what: String,
    ok: bool,
    saw: String,
}

/// Collects what was tried and prints it as it comes.
struct Report {
    output: Output,
    lines: Vec<Line>,
}

impl Report {
    fn heading(&self, text: &str) {
        if !self.output.is_json() {
            // The verdict cannot be shown either then, and says so.
            let _ = self.output.print(format_args!("\n{text}"), &());
        }
    }

    fn line(&mut self, part: &'static str, what: impl Into<String>, ok: bool, saw: impl Into<String>) {
        let line = Line { part, what: what.into(), ok, saw: saw.into() };
        if !self.output.is_json() {
            let mark = if ok { "ok    " } else { "FAILED" };
            let _ = self.output.print(format_args!("  {mark} {:<44} {}", line.what, line.saw), &());
        }
        self.lines.push(line);
    }
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        Self::new(FAILED, format_args!("the laboratory of network namespaces failed: {error}"))
    }
}

/// Shows the main job and prints its proof. Changes nothing outside the namespaces that it makes.
pub(crate) fn demo(output: Output) -> Result<ExitCode, Failure> {
    let by = match oneway_lab::enter()? {
        Entered::Root => "root",
        Entered::UserNamespace => "a user namespace",
    };
    let mut report = Report { output, lines: Vec::new() };
    report.heading(&format!(
        "throw-away network namespaces (as {by}): host ── up1 ── origin, DNS, SOCKS5 server"
    ));
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;

    let proxy = format!("socks5://{}", address::SOCKS.v4_port(port::SOCKS));
    let spec = proxy.parse::<ProxySpec>().map_err(Failure::usage)?;
    report.heading(&format!("oneway run --proxy {proxy}"));
    part("proxied", &lab, Options { proxy: Some(spec), ..Options::default() }, &mut report)?;
    report.heading("oneway run");
    part("direct", &lab, Options::default(), &mut report)?;

    report.heading("after both have stopped");
    let diff = before.diff(&Snapshot::take(&lab.host)?);
    let same = if diff.is_empty() {
        "links, addresses, routes, rules, nft, sysctls".to_owned()
    } else {
        diff.clone()
    };
    report.line("undo", "the host is as it was", diff.is_empty(), same);

    let failed = report.lines.iter().filter(|line| !line.ok).count();
    let verdict = match failed {
        0 => "proof: everything asked for came, nothing of ours was read from the TUN, and the host is as it was".to_owned(),
        n => format!("{n} of {} FAILED", report.lines.len()),
    };
    output.print(
        format_args!("\n{verdict}"),
        &serde_json::json!({ "failed": failed, "lines": report.lines }),
    )?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Captures, tries everything, looks at the wire, and stops.
fn part(part: &'static str, lab: &Simple, options: Options, report: &mut Report) -> Result<(), Failure> {
    let proxied = options.proxy.is_some();
    let config = Config::load(None, options)?.config;
    let engine =
        lab.host.run(|| Engine::start(&config))?.map_err(|error| Failure::new(error.exit_code(), error))?;
    let status = engine.status();
    report.line(
        part,
        "captured, and proven before that",
        engine.status().loops.verdict.to_string() == "proven",
        engine.ready_line(),
    );
    let inside = Recorder::start(&lab.host, Some(&status.tun))?;
    let outside = Recorder::start(&lab.host, Some(Simple::UP1))?;

    let mut dialled = traffic(part, lab, proxied, report)?;
    flows(part, lab, &engine, report)?;
    dialled += 1;

    inside.settle(QUIET, PATIENCE, |packet| packet.is_traffic())?;
    let entered: BTreeSet<_> = inside
        .matching(|packet| packet.is_syn() && packet.direction == Direction::Out)?
        .iter()
        .map(|packet| (packet.src, packet.dst, packet.ports))
        .collect();
    let saw = format!("{dialled} made, {} read from the TUN", entered.len());
    report.line(part, "each connection entered the TUN once", entered.len() == dialled, saw);
    let returned = inside.count(|packet| address::SOCKS.both().contains(&packet.dst))?;
    report.line(part, "nothing for the proxy entered the TUN", returned == 0, format!("{returned} packets"));
    let left = outside.count(|packet| packet.is_syn() && packet.direction == Direction::Out)?;
    report.line(
        part,
        "our own connections left by the uplink",
        left > 0,
        format!("{left} SYNs on {}", Simple::UP1),
    );
    let packets = engine.status().counters.tun;
    let saw = format!(
        "{} packets read, {} written, then none for {QUIET:?}",
        packets.packets_read, packets.packets_written
    );
    report.line(part, "the TUN is quiet again: no loop", true, saw);
    lab.host.run(|| engine.stop())?.map_err(|error| Failure::new(error.exit_code(), error))
}

/// Real connections, datagrams and queries. Returns how many TCP connections were asked for.
fn traffic(part: &'static str, lab: &Simple, proxied: bool, report: &mut Report) -> Result<usize, Failure> {
    const SIZE: usize = 1_000_000;
    let client = lab.host.client();
    // Two downloads, the query over TCP, and the closed port.
    let mut dialled = 4;
    let mut named = None;
    for to in address::ORIGIN.ports(origin::port::HTTP) {
        let reply = client.http_get(to, &format!("/bytes/{SIZE}"), PATIENCE)?;
        let ok = reply.status == 200 && reply.body.len() == SIZE;
        let saw = format!("{} with {} bytes in {:.1?}", reply.status, reply.body.len(), reply.took);
        report.line(part, format!("GET http://{to}/bytes/{SIZE}"), ok, saw);
    }
    for to in address::ORIGIN.ports(origin::port::ECHO) {
        let data = [7; 1_200];
        let exchange = client.udp(to, &data, PATIENCE)?;
        let ok = exchange.data == data && exchange.from == Some(to);
        report.line(
            part,
            format!("1200 bytes by UDP to {to}"),
            ok,
            format!("{} back in {:.1?}", exchange.data.len(), exchange.took),
        );
    }
    for (to, tcp) in [(address::DNS.v4_port(port::DNS), false), (address::DNS.v6_port(port::DNS), true)] {
        let answer = client.dns(to, name::ORIGIN, RecordType::A, tcp, PATIENCE)?;
        let own = answer.addresses == [address::ORIGIN.v4];
        // With a proxy the name gets an address that stands for it, and the proxy is told the name.
        let ok = !answer.addresses.is_empty() && own != proxied;
        let by = if tcp { "TCP" } else { "UDP" };
        report.line(
            part,
            format!("A {} from {to} by {by}", name::ORIGIN),
            ok,
            format!("{:?}", answer.addresses),
        );
        named = answer.addresses.first().copied();
    }
    if let Some(ip) = named.filter(|_| proxied) {
        let to = SocketAddr::new(ip, origin::port::HTTP);
        let reply = client.http_get(to, &format!("/bytes/{SIZE}"), PATIENCE)?;
        let asked = format!("{}:{}", name::ORIGIN, origin::port::HTTP);
        let told = lab.socks.requests_for(&asked).len();
        report.line(
            part,
            format!("GET http://{to}/bytes/{SIZE}: by name"),
            reply.body.len() == SIZE && told == 1,
            format!("{} with {} bytes; the proxy was asked for {asked}", reply.status, reply.body.len()),
        );
        dialled += 1;
    }
    let closed = address::SPARE.v4_port(4);
    let dial = client.tcp(closed, PATIENCE)?;
    report.line(
        part,
        format!("connect to the closed port {closed}"),
        dial.outcome == Outcome::Refused,
        format!("{:?} in {:.1?}, before any SYN-ACK", dial.outcome, dial.took),
    );
    let ping = client.ping(address::ORIGIN.v4.into(), PATIENCE)?;
    let ok = match &ping {
        Ping::Reply { .. } => !proxied,
        _ => proxied,
    };
    let expected = if proxied { "refused, as no proxy carries it" } else { "the origin's own answer" };
    report.line(part, format!("ping {}: {expected}", address::ORIGIN.v4), ok, format!("{ping:?}"));
    Ok(dialled)
}

/// A live flow as `oneway flows` shows it.
fn flows(part: &'static str, lab: &Simple, engine: &Engine, report: &mut Report) -> Result<(), Failure> {
    let to: SocketAddr = address::ORIGIN.v6_port(origin::port::ECHO);
    let mut stream = lab.host.client().tcp(to, PATIENCE)?.connected()?;
    let echoed = stream.write_all(b"hello").and_then(|()| {
        let mut back = [0; 5];
        stream.read_exact(&mut back).map(|()| back)
    });
    let echoed =
        echoed.map_err(|error| Failure::new(FAILED, format_args!("cannot talk to {to}: {error}")))?;
    let counted = |flow: &FlowInfo| (flow.bytes.up, flow.bytes.down) == (5, 5);
    // Bytes are counted after they were handed on: who receives them may look before that.
    let deadline = Instant::now() + PATIENCE;
    let flow = loop {
        let live = engine.flows().into_iter();
        let flow = live.filter(|flow| flow.network == "tcp").find(|flow| flow.target == to.to_string());
        if flow.as_ref().is_some_and(counted) || Instant::now() >= deadline {
            break flow;
        }
        thread::sleep(Duration::from_millis(1));
    };
    let ok = echoed == *b"hello" && flow.as_ref().is_some_and(counted);
    let saw = flow.map_or_else(
        || "none".to_owned(),
        |f| {
            format!(
                "{} {} -> {} via {}, {} B up, {} B down",
                f.network, f.source, f.target, f.outbound, f.bytes.up, f.bytes.down
            )
        },
    );
    report.line(part, "the live flow in the table", ok, saw);
    Ok(())
}
