//! The host's resolver settings: changed where the capture alone does not see what programs ask.

use std::net::IpAddr;

use super::{Phase, Plan, PlanError, Request, Step, choose};
use crate::change::Change;
use crate::host::Snapshot;
use crate::model::{Packet, decide, planned};
use crate::nft::{DNS, UDP};
use crate::resolver::{Resolver, nameserver, servers};

const LEFT: &str = "the resolver settings of this host are left alone";
const PAST: &str = "what programs ask may go past the capture";

/// Whether a note of a plan is one of these.
pub(super) fn is_about(note: &str) -> bool {
    note.starts_with(LEFT) || note.starts_with(PAST)
}

/// Adds the change to a plan, or a note that says why there is none.
pub(super) fn add_to(plan: &mut Plan, request: &Request, host: &Snapshot) -> Result<(), PlanError> {
    let Some(resolver) = &request.resolver else { return Ok(()) };
    let path = resolver.path.display();
    let why = match (why(resolver, plan, request, host), resolver.always) {
        (Ok(why), _) => why,
        (Err(_), true) => "it was asked for by --resolver always".to_owned(),
        (Err(why), false) => {
            plan.notes.push(format!("{LEFT}: {why}"));
            return Ok(());
        }
    };
    let (address, blocked) = match (nameserver(&plan.tun_addresses), &resolver.fixed, resolver.upstream) {
        (None, _, _) => {
            (None, Some("the TUN has no address to spare; use a --tun-address of /30".to_owned()))
        }
        (_, Some(fixed), _) => (None, Some(fixed.clone())),
        (_, _, false) => (
            None,
            Some(
                "no other server is known that could be asked then; name one with --dns-upstream".to_owned(),
            ),
        ),
        (address, _, _) => (address, None),
    };
    match (address, blocked) {
        (Some(address), None) => plan.steps.extend(steps(resolver, plan, address, &why)),
        (_, blocked) => {
            let blocked = blocked.unwrap_or_default();
            if resolver.always {
                return Err(PlanError::Resolver(blocked));
            }
            plan.notes.push(format!("{PAST}: {why}. {path} is left alone: {blocked}"));
        }
    }
    Ok(())
}

/// The last steps: until then there is nobody who answers.
fn steps(resolver: &Resolver, plan: &Plan, address: IpAddr, why: &str) -> Vec<Step> {
    let step = |change, why: &str| Step { phase: Phase::Capture, change, why: why.to_owned() };
    if !resolver.resolved {
        return vec![step(Change::ResolvConf(resolver.file(address, plan.strict)), why)];
    }
    let ours = step(Change::LinkDns { name: plan.tun_name.clone(), nameserver: address }, why);
    let others = resolver.everything.iter().filter(|link| link.name != plan.tun_name);
    let why = "of all links that are asked for all names, the first answer is taken";
    let narrow = others.map(|link| step(Change::LinkDomains(link.clone()), why));
    [ours].into_iter().chain(narrow).collect()
}

/// Why the capture alone does not do, or why it does.
fn why(resolver: &Resolver, plan: &Plan, request: &Request, host: &Snapshot) -> Result<String, String> {
    if resolver.resolved {
        return Ok("systemd-resolved asks each link's servers by sockets that are bound to that link, past the capture".into());
    }
    let words = servers(&resolver.text);
    if words.is_empty() {
        return Ok("no server is named, so that programs ask one of this host that need not be there".into());
    }
    let host = planned(host, plan);
    let mut chosen = Vec::new();
    for word in &words {
        let Ok(server) = word.parse::<IpAddr>().map(|ip| ip.to_canonical()) else {
            return Ok(format!("{word} is an address of one link alone, which is never captured"));
        };
        if server.is_loopback() {
            return Ok(format!(
                "{server} is a program of this host: it may keep answers, check them (DNSSEC), or ask by a bound socket or TLS"
            ));
        }
        if plan.tun_addresses.iter().any(|net| net.contains(&server)) {
            return Ok(format!("{server} is of the TUN's own network, where nothing is sent"));
        }
        if is_captured(&host, plan, request, server) {
            continue;
        }
        if request.exclude.iter().any(|net| net.contains(&server)) {
            chosen.push(format!("{server} is excluded"));
        } else if !request.include.is_empty() && !request.include.iter().any(|net| net.contains(&server)) {
            chosen.push(format!("{server} is not included"));
        } else {
            return Ok(format!("{server} is asked directly: another route than the capture's leads to it"));
        }
    }
    match chosen.as_slice() {
        [] => Err(format!("queries to {} are captured", words.join(", "))),
        chosen => Err(chosen.join(", ")),
    }
}

/// Whether a query of any program that is not excluded goes into the TUN.
fn is_captured(host: &Snapshot, plan: &Plan, request: &Request, server: IpAddr) -> bool {
    let tun = host.link(&plan.tun_name).map(|link| link.index);
    let uid = choose::captured_user(request).unwrap_or_default();
    let packet = Packet {
        dst: server,
        src: None,
        mark: 0,
        oif: None,
        iif: None,
        uid,
        sport: None,
        dport: Some((UDP, DNS)),
        socket: true,
    };
    decide(host, &packet).iter().all(|outcome| outcome.answer.oif == tun)
}
