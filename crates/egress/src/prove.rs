//! Shows, by asking the kernel with the sockets' real attributes, that what leaves does not come back.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use oneway_route::{Family, IfIndex, RouteAnswer, RouteKind, RouteQuery, Safeguard};

use crate::netns::NamespaceRoutes;
use crate::{Egress, EgressError, Namespace, Reach, RouteOracle, Strategy, reach};

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
        // Not of the breaker: whether that may be closed is what is asked.
        if !self.without.has(Safeguard::Egress)
            && let Err(refused) = self.forbidden.check(dst)
        {
            return verdict(dst, None, Finding::Proven, format!("no socket is made: {refused}"));
        }
        if self.apart {
            let why = "our sockets are in another network namespace than the capture, and no route of theirs leads there";
            return verdict(dst, None, Finding::Proven, why.to_owned());
        }
        let strategy = self.strategy();
        let reached = match &*strategy {
            _ if self.is_unprotected(Family::of(dst)) => Ok(Reach::Uplink),
            Strategy::Bind(uplinks) => reach::ask(oracle, RouteQuery::to(dst), uplinks.get(Family::of(dst))),
            Strategy::HostRoute(rule) => rule.ask(oracle, dst),
            Strategy::SourceRule(_) if dst.is_loopback() => Ok(Reach::Local),
            Strategy::SourceRule(rule) => rule.address(Family::of(dst)).map(|_| Reach::Uplink),
            Strategy::Netns(namespace) => return elsewhere(namespace, dst),
            _ => Ok(Reach::Uplink),
        };
        let query = match reached {
            Ok(Reach::Local) => RouteQuery::to(dst),
            Ok(Reach::Uplink) => self.question(dst),
            Err(error @ EgressError::Route { .. }) => {
                return verdict(dst, None, Finding::NotProven, error.to_string());
            }
            Err(refused) => {
                return verdict(dst, None, Finding::Proven, format!("no socket is made: {refused}"));
            }
        };
        // Without a user the kernel takes the asking process's own (`inet_rtm_getroute`), which is our sockets'.
        let judged = |query: &RouteQuery| match oracle.route(query) {
            Ok(answer) => (judge(dst, tun, &strategy, &answer), Some(answer)),
            Err(error) => {
                (verdict(dst, None, Finding::NotProven, format!("cannot ask the kernel: {error}")), None)
            }
        };
        let (first, answer) = judged(&query);
        let source = answer.filter(|a| a.kind == RouteKind::Unicast).and_then(|a| a.prefsrc);
        // A connection is routed again with the source that it got (`ip_route_connect`, include/net/route.h), and then
        // meets rules by source. IPv6 takes a device named together with a source for a wish in this question, which
        // it is not for a socket.
        let again = first.loop_free && query.src.is_none() && (query.oif.is_none() || dst.is_ipv4());
        match source.filter(|_| again) {
            Some(src) => {
                let (mut second, _) = judged(&RouteQuery { src: Some(src), ..query });
                if second.loop_free {
                    return first;
                }
                second.why.push_str(&format!("; so it is for packets from {src}"));
                second
            }
            None => first,
        }
    }
}

/// A socket of another namespace: it reads back as of there, and there the kernel is asked where it leads.
fn elsewhere(namespace: &Arc<Namespace>, dst: IpAddr) -> Verdict {
    let name = namespace.name();
    if !namespace.is_current() {
        let why = format!("netns {name}: the name leads to another namespace than the one of our sockets");
        return verdict(dst, None, Finding::NotProven, why);
    }
    match NamespaceRoutes(Arc::clone(namespace)).route(&RouteQuery::to(dst)) {
        Ok(answer) => {
            let via = answer.oif.map(|_| format!("{name}/{}", answer.oif_name));
            let by = via.clone().unwrap_or_else(|| "no interface".to_owned());
            let why = format!(
                "netns {name}: sockets read back as of that namespace, where the capture device does not exist and the \
                 kernel sends it by {by}"
            );
            verdict(dst, via, Finding::Proven, why)
        }
        Err(error) => verdict(
            dst,
            None,
            Finding::NotProven,
            format!("netns {name}: cannot ask the kernel there: {error}"),
        ),
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
        RouteKind::Unicast | RouteKind::Broadcast | RouteKind::Multicast => {
            let why = format!("{strategy}: the kernel routes it by {by}, not by the capture");
            verdict(dst, name, Finding::Proven, why)
        }
        RouteKind::Local | RouteKind::Anycast => {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use oneway_route::{Mark, RouteError, Table};

    use super::*;

    const UPLINK: IfIndex = IfIndex(2);
    const TUN: IfIndex = IfIndex(7);

    /// Says the same to every question, and counts them.
    #[derive(Clone, Debug)]
    struct Says(Option<RouteAnswer>, Arc<AtomicUsize>);

    impl RouteOracle for Says {
        fn route(&self, _: &RouteQuery) -> Result<RouteAnswer, RouteError> {
            self.1.fetch_add(1, Relaxed);
            self.0.clone().ok_or_else(|| RouteError::NotProven("the test says so".to_owned()))
        }
    }

    fn says(oif: IfIndex, kind: RouteKind, table: Option<Table>) -> Says {
        let answer = RouteAnswer {
            oif: Some(oif),
            oif_name: "dev".to_owned(),
            prefsrc: None,
            gateway: None,
            table,
            kind,
        };
        Says(Some(answer), Arc::default())
    }

    fn egress(strategy: Strategy, oracle: &Says) -> Egress {
        Egress::with_oracle(strategy, Vec::new(), Box::new(oracle.clone())).unwrap()
    }

    fn bind() -> Strategy {
        Strategy::Bind(crate::Uplink { index: UPLINK, name: "eth0".to_owned() }.into())
    }

    fn prove(strategy: Strategy, oracle: &Says) -> Verdict {
        egress(strategy, oracle).prove(oracle, TUN, &["192.0.2.1".parse().unwrap()]).remove(0)
    }

    #[test]
    fn judges_by_the_answer() {
        let mark = || Strategy::Mark(Mark(8));
        let main = Some(Table::MAIN);
        assert_eq!(prove(mark(), &says(UPLINK, RouteKind::Unicast, main)).finding, Finding::Proven);
        assert_eq!(prove(mark(), &says(TUN, RouteKind::Unicast, main)).finding, Finding::Loops);
        assert_eq!(prove(mark(), &says(TUN, RouteKind::Local, main)).finding, Finding::Proven);
        assert_eq!(prove(mark(), &says(UPLINK, RouteKind::Other(77), main)).finding, Finding::NotProven);
        let unreachable = prove(mark(), &says(UPLINK, RouteKind::Unreachable, None));
        assert_eq!((unreachable.finding, unreachable.via), (Finding::Proven, None));
        for strategy in [mark(), bind()] {
            assert_eq!(prove(strategy, &Says(None, Arc::default())).finding, Finding::NotProven);
        }
    }

    #[test]
    fn an_answer_without_a_table_is_the_kernels_guess() {
        let verdict = prove(bind(), &says(UPLINK, RouteKind::Unicast, None));
        assert!(verdict.loop_free && verdict.via.is_none(), "{verdict:?}");
        assert!(verdict.why.contains("no route"), "{}", verdict.why);
    }

    /// Routes by the source alone.
    #[derive(Debug)]
    struct BySource;

    impl RouteOracle for BySource {
        fn route(&self, query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
            let (oif, prefsrc) = match query.src {
                Some(_) => (TUN, None),
                None => (UPLINK, Some("192.0.2.9".parse().unwrap())),
            };
            let (oif_name, table, kind) = ("dev".to_owned(), Some(Table::MAIN), RouteKind::Unicast);
            Ok(RouteAnswer { oif: Some(oif), oif_name, prefsrc, gateway: None, table, kind })
        }
    }

    #[test]
    fn a_rule_by_source_is_found() {
        let egress = Egress::with_oracle(Strategy::Mark(Mark(8)), Vec::new(), Box::new(BySource)).unwrap();
        let verdict = egress.prove(&BySource, TUN, &["192.0.2.1".parse().unwrap()]).remove(0);
        assert_eq!(verdict.finding, Finding::Loops);
        assert!(verdict.why.ends_with("for packets from 192.0.2.9"), "{}", verdict.why);
    }

    #[test]
    fn remembers_for_sockets_but_not_for_proofs() {
        let oracle = says(UPLINK, RouteKind::Unicast, Some(Table::MAIN));
        let egress = egress(bind(), &oracle);
        let dst: std::net::SocketAddr = "192.0.2.1:53".parse().unwrap();
        for _ in 0..100 {
            egress.check_datagram(dst).unwrap();
        }
        // Two questions (is it local, and is it beyond the device), and again should a second have passed.
        let asked = oracle.1.load(Relaxed);
        assert!(asked < 20, "{asked}");
        egress.routes_changed();
        egress.check_datagram(dst).unwrap();
        assert_eq!(oracle.1.load(Relaxed), asked + 2);
        egress.prove(&oracle, TUN, &[dst.ip()]);
        assert_eq!(oracle.1.load(Relaxed), asked + 5);
    }
}
