//! Where captured traffic must not go, decided before rules, names and sniffing.
//!
//! A destination inside the TUN's own prefixes, sent on, comes straight back: the most common loop of the field. The
//! others have no place on any network, or belong to one link only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

/// What a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To be decided by rules.
    Ordinary,
    /// To be refused with RST or ICMP.
    Refused,
    /// One to many on the TUN itself (neighbour discovery, mDNS…): nobody is there, and nobody waits for an answer.
    Multicast,
}

/// The prefixes that are the program's own.
#[derive(Clone, Debug)]
pub struct Guard {
    own: Vec<IpNet>,
    /// Where queries are answered, of the TUN's own network; nothing is ever sent there.
    answers: Option<SocketAddr>,
    /// Left out on purpose: everything is ordinary.
    left_out: bool,
}

impl Guard {
    /// A guard for these prefixes: those of the TUN and of other addresses that only mean something to this program.
    pub fn new(own: Vec<IpNet>) -> Self {
        Self { own: own.into_iter().map(|net| net.trunc()).collect(), answers: None, left_out: false }
    }

    /// The same, or none if it is left out on purpose.
    #[must_use]
    pub fn left_out(self, left_out: bool) -> Self {
        Self { left_out, ..self }
    }

    /// The same, and queries to that address are answered.
    #[must_use]
    pub fn answering(self, answers: Option<SocketAddr>) -> Self {
        Self { answers, ..self }
    }

    /// Whether queries to that address are answered here.
    pub fn answers(&self, dst: SocketAddr) -> bool {
        self.answers == Some(dst)
    }

    /// What a destination is, with its port.
    pub fn classify_port(&self, dst: SocketAddr) -> Destination {
        if self.answers(dst) { Destination::Ordinary } else { self.classify(dst.ip()) }
    }

    /// What a destination is. Martians are those of RFC 1812, 5.3.7 and RFC 6890.
    pub fn classify(&self, dst: IpAddr) -> Destination {
        if self.left_out {
            return Destination::Ordinary;
        }
        if self.own.iter().any(|net| net.contains(&dst)) {
            return Destination::Refused;
        }
        match dst {
            IpAddr::V4(v4) if v4.is_broadcast() => Destination::Refused,
            _ if dst.is_multicast() => Destination::Multicast,
            IpAddr::V4(v4) if is_martian(v4) => Destination::Refused,
            IpAddr::V6(v6) if v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local() => {
                Destination::Refused
            }
            // An IPv4-mapped address never stands on a wire (RFC 4942, 2.2).
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Destination::Refused,
            _ => Destination::Ordinary,
        }
    }
}

fn is_martian(v4: Ipv4Addr) -> bool {
    // 0/8, 127/8, 169.254/16 and the reserved 240/4.
    v4.octets()[0] == 0 || v4.is_loopback() || v4.is_link_local() || v4.octets()[0] >= 240
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_of_one_own_address_is_answered() {
        let own = "192.0.2.254:53".parse().unwrap();
        let guard = Guard::new(vec!["192.0.2.1/24".parse().unwrap()]).answering(Some(own));
        assert_eq!(guard.classify_port(own), Destination::Ordinary);
        for other in ["192.0.2.254:54", "192.0.2.253:53", "192.0.2.1:53"] {
            assert_eq!(guard.classify_port(other.parse().unwrap()), Destination::Refused, "{other}");
        }
    }

    #[test]
    fn own_prefixes_and_martians_are_refused_and_the_rest_is_not() {
        let guard = Guard::new(vec!["192.0.2.1/24".parse().unwrap(), "2001:db8:1::1/64".parse().unwrap()]);
        let refused = [
            "192.0.2.0",
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.255",
            "2001:db8:1::",
            "2001:db8:1::1",
            "2001:db8:1::2",
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "::ffff:198.51.100.1",
        ];
        for dst in refused {
            assert_eq!(guard.classify(dst.parse().unwrap()), Destination::Refused, "{dst}");
        }
        for dst in ["224.0.0.1", "239.1.2.3", "ff02::1", "ff05::2"] {
            assert_eq!(guard.classify(dst.parse().unwrap()), Destination::Multicast, "{dst}");
        }
        for dst in ["192.0.3.0", "198.51.100.1", "10.0.0.1", "2001:db8:2::1", "fd00::1"] {
            assert_eq!(guard.classify(dst.parse().unwrap()), Destination::Ordinary, "{dst}");
        }
    }
}
