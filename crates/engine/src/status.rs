//! The running engine in the words of the control socket.

use std::time::Instant;

use oneway_flow::Network;

use crate::Engine;
use crate::control::{
    Bytes, Counters, FailingUpstream, FlowInfo, GuardStatus, Health, LoopFree, LoopVerdict, OutboundStatus,
    ProtectStatus, Status, TcpCounters, TunCounters, UdpCounters, UplinkStatus, Verdict,
};
use crate::watched::Proof;

pub(crate) fn status(engine: &Engine) -> Status {
    let about = &engine.about;
    let shared = &engine.shared;
    let stats = shared.stats.snapshot();
    let uplinks = about.watched.uplinks();
    let (strategy, strategy_why) = about.watched.strategy();
    let quarantined: Vec<String> = shared
        .egress
        .quarantined(Instant::now())
        .into_iter()
        .map(|(which, _)| crate::lifecycle::quarantined(which))
        .collect();
    let (up, down) = shared.flows.total_bytes();
    let active =
        |network| shared.flows.list().iter().filter(|flow| flow.arrival.network == network).count() as u64;
    let dispatch = shared.dispatch.load_full();
    let outbounds = dispatch.entries().iter().map(|entry| {
        let health = entry.health();
        OutboundStatus {
            name: entry.name.to_string(),
            kind: entry.kind.to_owned(),
            server: entry.server.clone(),
            health: match entry.group.as_ref().map_or(health.up, |_| dispatch.group_works(entry)) {
                None => Health::Unknown,
                Some(true) => Health::Up,
                Some(false) => Health::Down,
            },
            last_error: health.last_error,
            members: dispatch.members(entry),
        }
    });
    let (reloads, reloaded) = about.reloads.get();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: about.started.elapsed().as_secs(),
        reloads,
        reloaded_s: reloaded.map(|at| at.elapsed().as_secs()),
        stack: engine.about.stack.to_string(),
        tun: about.tun.clone(),
        capture: about.capture.to_string(),
        port: about.port,
        strict: about.strict,
        uplink: UplinkStatus {
            ipv4: uplinks.v4.as_ref().map(|uplink| uplink.name.clone()),
            ipv6: uplinks.v6.as_ref().map(|uplink| uplink.name.clone()),
        },
        protect: ProtectStatus { strategy: strategy.to_string(), explanation: strategy_why },
        outbounds: outbounds.collect(),
        failing_upstreams: shared
            .dns
            .client()
            .failing()
            .into_iter()
            .map(|(server, error)| FailingUpstream { server, error })
            .collect(),
        blind: dispatch.blind().map(str::to_owned),
        counters: Counters {
            tun: TunCounters {
                packets_read: stats.tun_read,
                packets_written: stats.tun_written,
                malformed: stats.malformed,
                refused: stats.guarded,
                dropped: stats.ignored + stats.udp_dropped + stats.tun_write_failed + stats.fragments_refused,
            },
            tcp: TcpCounters {
                opened: stats.tcp_connected,
                active: active(Network::Tcp),
                refused: stats.tcp_refused + stats.tcp_limited,
                limited: stats.tcp_limited,
                shortened: stats.tcp_shortened,
            },
            udp: UdpCounters {
                opened: stats.udp_opened,
                active: shared.udp.len() as u64,
                refused: stats.udp_refused,
            },
            bytes: Bytes { up, down },
            dns: shared.dns.counters(),
        },
        loops: verdict(engine, &quarantined),
        guard: GuardStatus {
            returned: shared.egress.returned_packets(),
            quarantined,
            circles: dispatch.circles().refused(),
            ..about.watched.status()
        },
    }
}

/// Whether anything of ours comes back, and what goes in a circle by way of a proxy of this host: that is refused, but is no way
/// out.
pub(crate) fn verdict(engine: &Engine, quarantined: &[String]) -> LoopVerdict {
    // What was proven was about a capture that is no more, or that nobody watches over.
    if let Some(why) = engine.over() {
        return LoopVerdict { verdict: Verdict::NotProven, why };
    }
    if let Some(why) = engine.about.watched.missing() {
        let why = format!("what somebody has removed cannot be put back: {why}");
        return LoopVerdict { verdict: Verdict::NotProven, why };
    }
    if !quarantined.is_empty() {
        let why = format!("packets of our own came back; nothing is sent to {}", quarantined.join(", "));
        return LoopVerdict { verdict: Verdict::Loops, why };
    }
    let (proof, without) = (engine.about.watched.proof(), engine.shared.egress.left_out());
    let verdict = match &proof {
        Proof { loops: true, .. } => Verdict::Loops,
        _ if without.any() => {
            let why = crate::explain::sabotaged(without);
            return LoopVerdict { verdict: Verdict::NotProven, why };
        }
        Proof { proven: true, .. } => match circle(engine) {
            Some(circle) => return circle,
            None => Verdict::Proven,
        },
        _ => Verdict::NotProven,
    };
    LoopVerdict { verdict, why: proof.why }
}

fn circle(engine: &Engine) -> Option<LoopVerdict> {
    if !engine.is_capturing_here() {
        return None;
    }
    let dispatch = engine.shared.dispatch.load_full();
    let circles = match engine.home.run(|| crate::explain::circles(&dispatch, &engine.about.exclusions)) {
        Ok(circles) => circles,
        Err(error) => return Some(LoopVerdict { verdict: Verdict::NotProven, why: error.to_string() }),
    };
    let (id, worst, why) = circles.into_iter().max_by_key(|(_, verdict, _)| *verdict)?;
    let verdict = match worst {
        LoopFree::Proven => return None,
        LoopFree::NotProven => Verdict::NotProven,
        LoopFree::Loops => Verdict::Loops,
    };
    Some(LoopVerdict { verdict, why: format!("outbound {:?}: {why}", dispatch.by_id(id).name) })
}

pub(crate) fn flows(engine: &Engine) -> Vec<FlowInfo> {
    let flows = engine.shared.flows.list().into_iter().map(|flow| FlowInfo {
        id: flow.id,
        network: flow.arrival.network.to_string(),
        source: flow.arrival.source,
        target: flow.target.to_string(),
        rule: flow.rule.to_string(),
        outbound: flow.outbound.to_string(),
        bytes: Bytes { up: flow.up, down: flow.down },
        age_s: flow.age.as_secs(),
        state: if flow.established { "open" } else { "dialling" }.to_owned(),
    });
    flows.collect()
}
