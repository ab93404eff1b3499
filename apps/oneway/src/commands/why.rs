//! `oneway why`.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::process::ExitCode;

use oneway::config::Loaded;
use oneway::control::{ControlReply, ControlRequest, Way, Why, WhyQuestion};
use serde::Serialize;

use super::{load, running, unexpected};
use crate::args::{Global, WhyArgs};
use crate::engine;
use crate::failure::{FAILED, Failure};
use crate::logging;
use crate::output::{Output, printable};
use crate::service::privilege;

/// The port that is meant where none is given.
const PORT: u16 = 443;
/// A name with more addresses is asked about with its first ones.
const ADDRESSES: usize = 8;

#[derive(Serialize)]
struct Document {
    answers: Vec<Why>,
}

/// Says what would become of a packet, from the program's route to ours, and why nothing comes back.
pub(crate) fn why(global: &Global, args: WhyArgs, output: Output) -> Result<ExitCode, Failure> {
    let WhyArgs { destination, udp, uid, from, capture } = args;
    let (host, mut addresses) = addresses(&destination)?;
    if let Some(from) = from {
        addresses.retain(|addr| addr.is_ipv4() == from.is_ipv4());
        if addresses.is_empty() {
            let wanted = if from.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(Failure::usage(format!(
                "{destination:?} has no address of {wanted}, and nothing is sent from {from} to another one; give both of one family"
            )));
        }
    }
    let uid = uid.map_or_else(privilege::user, |uid| uid.get());
    let questions = addresses
        .into_iter()
        .map(|addr| WhyQuestion { addr, host: host.clone(), udp, uid, from })
        .collect::<Vec<_>>();
    let mut answers = Vec::with_capacity(questions.len());
    match running(global)? {
        Some(mut client) => {
            for question in questions {
                let request = ControlRequest::Why(question);
                match client.request(&request)? {
                    ControlReply::Why(answer) => answers.push(*answer),
                    other => return Err(unexpected(&request, &other)),
                }
            }
        }
        None => {
            let Loaded { config, warnings, .. } = load(global, capture)?;
            for warning in &warnings {
                logging::say(format_args!("warning: {warning}"));
            }
            for question in &questions {
                answers.push(engine::why(&config, question)?);
            }
        }
    }
    let text: Vec<_> = answers.iter().map(text).collect();
    output.print(text.join("\n\n"), &Document { answers })?;
    Ok(ExitCode::SUCCESS)
}

/// The addresses that are meant by `ADDRESS`, `ADDRESS:PORT`, `NAME` or `NAME:PORT`, and the name.
fn addresses(text: &str) -> Result<(Option<String>, Vec<SocketAddr>), Failure> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok((None, vec![SocketAddr::new(ip, PORT)]));
    }
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Ok((None, vec![addr]));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => match port.parse() {
            Ok(port) => (name, port),
            Err(_) => return Err(Failure::usage(format!("{port:?} is no port; give a number up to 65535"))),
        },
        None => (text, PORT),
    };
    let wrong = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '[' | ']' | ':');
    if name.is_empty() || name.len() > 253 || name.contains(wrong) {
        return Err(Failure::usage(format!(
            "{text:?} is no destination; give an address or a name, with :PORT if you like"
        )));
    }
    let found = (name, port).to_socket_addrs().map_err(|e| {
        Failure::new(FAILED, format!("cannot find the address of {name:?}: {e}; give an address"))
    })?;
    let mut found: Vec<_> = found.collect();
    found.dedup();
    found.truncate(ADDRESSES);
    Ok((Some(name.to_owned()), found))
}

fn text(why: &Why) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<10} {}", printable(value));
    };
    row("target", &format!("{} {}", why.network, why.target));
    row("about", if why.running { "the running instance" } else { "what `run` would do" });
    way(&mut row, "packet", &why.program);
    row("captured", if why.captured { "yes" } else { "no" });
    let decided = [
        ("guard", &why.guard),
        ("rule", &why.rule),
        ("not asked", &why.not_asked),
        ("group", &why.group),
        ("outbound", &why.outbound),
    ];
    for (name, value) in decided {
        if let Some(value) = value {
            row(name, value);
        }
    }
    for dial in &why.dials {
        row("sent to", &format!("{} ({}); egress guard: {}", dial.address, dial.whose, dial.guard));
        if let Some(found) = &dial.way {
            way(&mut row, "our packet", found);
        }
        row("verdict", &format!("{}: {}", dial.loop_free, dial.why));
    }
    row("loop-free", &format!("{}: {}", why.loop_free, why.why));
    text.truncate(text.trim_end().len());
    text
}

fn way(row: &mut impl FnMut(&str, &str), name: &str, way: &Way) {
    row(name, &way.packet);
    if let Some(rule) = &way.rule {
        row("  ip rule", rule);
    }
    if let Some(route) = &way.route {
        row("  ip route", route);
    }
    for assumed in &way.assumed {
        row("  assumed", assumed);
    }
    let device = way.device.as_deref().unwrap_or("no device");
    let gateway = way.gateway.map(|a| format!(" via {a}")).unwrap_or_default();
    let source = way.source.map(|a| format!(" from {a}")).unwrap_or_default();
    row("  leaves", &format!("by {device}{gateway}{source} ({}; {} says so)", way.kind, way.says));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let one = |text: &str| addresses(text).unwrap().1[0].to_string();
        assert_eq!(one("192.0.2.1"), "192.0.2.1:443");
        assert_eq!(one("192.0.2.1:53"), "192.0.2.1:53");
        assert_eq!(one("2001:db8::1"), "[2001:db8::1]:443");
        assert_eq!(one("[2001:db8::1]"), "[2001:db8::1]:443");
        assert_eq!(one("[2001:db8::1]:53"), "[2001:db8::1]:53");
        let (host, found) = addresses("localhost:80").unwrap();
        assert_eq!(host.as_deref(), Some("localhost"));
        assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == 80));
        for wrong in ["", ":80", "name:port", "a b", "http://a.example/", "[::1", "a:70000"] {
            assert!(addresses(wrong).is_err(), "{wrong}");
        }
    }
}
