//! Shows, by asking the kernel with the sockets' real attributes, that what leaves does not come back.

use std::fmt;
use std::net::IpAddr;

use oneway_route::{Family, IfIndex, RouteAnswer, RouteKind, RouteQuery};

use crate::{Egress, EgressError, Reach, RouteOracle, Strategy, reach};

/// What is known about one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Packets of our sockets cannot reach the capture, or no socket to there is made at all.
    Proven,
    /// The question could not be answered.
    NotProven,
    /// Packets of our sockets would enter the TUN.
    Loops,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proven => "proven",
            Self::NotProven => "not proven",
            Self::Loops => "LOOPS",
        })
    }
}

/// The verdict on one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The destination.
    pub dst: IpAddr,
    /// Its family.
    pub family: Family,
    /// The interface that our packets leave by, as the kernel names it; none if nothing leaves.
    pub via: Option<String>,
    /// [`Finding::Proven`].
    pub loop_free: bool,
    /// The verdict in three values.
    pub finding: Finding,
    /// One sentence: the attributes asked with, the kernel's answer, and what follows from it.
    pub why: String,
}

impl Egress {
    /// Asks for each destination which route a packet of our own sockets would take.
    ///
    /// `tun` is the capture's device. The question carries what the sockets carry: mark, device, and the user
    /// that this process runs as.
    pub fn prove(&self, oracle: &dyn RouteOracle, tun: IfIndex, destinations: &[IpAddr]) -> Vec<Verdict> {
        destinations.iter().map(|dst| self.prove_one(oracle, tun, dst.to_canonical())).collect()
    }

    fn prove_one(&self, oracle: &dyn RouteOracle, tun: IfIndex, dst: IpAddr) -> Verdict {
        if let Err(refused) = self.check(dst) {
            return verdict(dst, None, Finding::Proven, format!("no socket is made: {refused}"));
        }
        let strategy = self.strategy();
        let (mark, oif) = match &*strategy {
            Strategy::Mark(mark) => (Some(*mark), None),
            Strategy::Bind { index, name } => match reach::ask(oracle, dst, (*index, name)) {
                Ok(Reach::Local) => (None, None),
                Ok(Reach::Uplink) => (None, Some(*index)),
                Err(no_route @ EgressError::NoRoute { .. }) => {
                    return verdict(dst, None, Finding::Proven, format!("no socket is made: {no_route}"));
                }
                Err(error) => return verdict(dst, None, Finding::NotProven, error.to_string()),
            },
        };
        // Without a user the kernel takes the asking process's own (`inet_rtm_getroute`), which is our sockets'.
        let query = RouteQuery { dst, mark, oif, src: None, uid: None };
        match oracle.route(&query) {
            Ok(answer) => judge(dst, tun, &strategy, &answer),
            Err(error) => verdict(dst, None, Finding::NotProven, format!("cannot ask the kernel: {error}")),
        }
    }
}

fn judge(dst: IpAddr, tun: IfIndex, strategy: &Strategy, answer: &RouteAnswer) -> Verdict {
    let name = match answer.oif {
        Some(index) if answer.oif_name.is_empty() => Some(format!("interface {index}")),
        Some(_) => Some(answer.oif_name.clone()),
        None => None,
    };
    let by = name.as_deref().unwrap_or("no interface");
    if answer.oif == Some(tun) && answer.kind != RouteKind::Local {
        let why = format!(
            "{strategy}: the kernel routes it into the capture by {by}; its rule is missing or changed"
        );
        return verdict(dst, name, Finding::Loops, why);
    }
    match answer.kind {
        RouteKind::Unicast => {
            let why = format!("{strategy}: the kernel routes it by {by}, not by the capture");
            verdict(dst, name, Finding::Proven, why)
        }
        RouteKind::Local => {
            let why = format!("{strategy}: it is delivered on this host");
            verdict(dst, name, Finding::Proven, why)
        }
        RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Blackhole | RouteKind::Throw => {
            let why = format!("{strategy}: there is no route, so nothing is sent");
            verdict(dst, None, Finding::Proven, why)
        }
        _ => verdict(
            dst,
            name,
            Finding::NotProven,
            format!("{strategy}: unexpected kind of route {:?}", answer.kind),
        ),
    }
}

fn verdict(dst: IpAddr, via: Option<String>, finding: Finding, why: String) -> Verdict {
    Verdict { dst, family: Family::of(dst), via, loop_free: finding == Finding::Proven, finding, why }
}
