//! Destinations that no socket may have.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use parking_lot::RwLock;

use crate::{EgressError, ForbiddenReason};

/// The guarded destinations. Read for every connection and datagram, replaced when the capture changes.
#[derive(Debug, Default)]
pub(crate) struct Forbidden {
    prefixes: RwLock<Vec<IpNet>>,
    listeners: RwLock<Vec<SocketAddr>>,
}

impl Forbidden {
    pub(crate) fn new(prefixes: Vec<IpNet>) -> Self {
        Self { prefixes: RwLock::new(prefixes), listeners: RwLock::default() }
    }

    pub(crate) fn set_prefixes(&self, prefixes: Vec<IpNet>) {
        *self.prefixes.write() = prefixes;
    }

    pub(crate) fn set_listeners(&self, mut listeners: Vec<SocketAddr>) {
        for listener in &mut listeners {
            *listener = canonical(*listener);
        }
        *self.listeners.write() = listeners;
    }

    /// `dst` must be canonical.
    pub(crate) fn check(&self, dst: IpAddr) -> Result<(), EgressError> {
        let reason = match dst {
            IpAddr::V4(v4) if v4 == Ipv4Addr::BROADCAST => Some(ForbiddenReason::Broadcast),
            IpAddr::V4(v4) if v4.octets()[0] == 0 => Some(ForbiddenReason::Unspecified),
            IpAddr::V6(v6) if v6.is_unspecified() => Some(ForbiddenReason::Unspecified),
            _ if dst.is_multicast() => Some(ForbiddenReason::Multicast),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(ForbiddenReason::LinkLocal),
            _ => self
                .prefixes
                .read()
                .iter()
                .find(|net| net.contains(&dst))
                .map(|net| ForbiddenReason::Prefix(*net)),
        };
        match reason {
            Some(reason) => Err(EgressError::Forbidden { dst, reason }),
            None => Ok(()),
        }
    }

    /// Whether a listener has this address; for one on the unspecified address (and so on every address of this
    /// host) `is_local` is asked. `dst` must be canonical.
    pub(crate) fn check_listeners(
        &self,
        dst: SocketAddr,
        is_local: impl Fn() -> bool,
    ) -> Result<(), EgressError> {
        let listeners = self.listeners.read();
        let hit = listeners.iter().filter(|listener| listener.port() == dst.port()).any(|listener| {
            let any = listener.ip().is_unspecified();
            // A listener on `::` takes IPv4 too unless it was made IPv6-only, which cannot be seen here.
            let family = listener.is_ipv6() || dst.is_ipv4();
            listener.ip() == dst.ip() || (any && family && is_local())
        });
        if hit {
            return Err(EgressError::Forbidden { dst: dst.ip(), reason: ForbiddenReason::OwnListener });
        }
        Ok(())
    }
}

/// An IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2) reaches the IPv4 host, so it is judged and dialled as IPv4.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(forbidden: &Forbidden, dst: &str) -> Option<ForbiddenReason> {
        let dst: IpAddr = dst.parse().unwrap();
        match forbidden.check(dst.to_canonical()) {
            Ok(()) => None,
            Err(EgressError::Forbidden { reason, .. }) => Some(reason),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn guards_prefixes_and_martians() {
        let net: IpNet = "198.18.0.0/15".parse().unwrap();
        let net6: IpNet = "fd00:18::/64".parse().unwrap();
        let forbidden = Forbidden::new(vec![net, net6]);
        assert_eq!(reason(&forbidden, "198.19.255.255"), Some(ForbiddenReason::Prefix(net)));
        assert_eq!(reason(&forbidden, "::ffff:198.18.0.1"), Some(ForbiddenReason::Prefix(net)));
        assert_eq!(reason(&forbidden, "fd00:18::"), Some(ForbiddenReason::Prefix(net6)));
        assert_eq!(reason(&forbidden, "0.0.0.0"), Some(ForbiddenReason::Unspecified));
        assert_eq!(reason(&forbidden, "0.1.2.3"), Some(ForbiddenReason::Unspecified));
        assert_eq!(reason(&forbidden, "::"), Some(ForbiddenReason::Unspecified));
        assert_eq!(reason(&forbidden, "::ffff:0.0.0.0"), Some(ForbiddenReason::Unspecified));
        assert_eq!(reason(&forbidden, "224.0.0.1"), Some(ForbiddenReason::Multicast));
        assert_eq!(reason(&forbidden, "ff02::1"), Some(ForbiddenReason::Multicast));
        assert_eq!(reason(&forbidden, "fe80::1"), Some(ForbiddenReason::LinkLocal));
        assert_eq!(reason(&forbidden, "255.255.255.255"), Some(ForbiddenReason::Broadcast));
        for good in ["192.0.2.1", "127.0.0.1", "::1", "2001:db8::1", "198.20.0.0"] {
            assert_eq!(reason(&forbidden, good), None, "{good}");
        }
        forbidden.set_prefixes(vec!["192.0.2.0/24".parse().unwrap()]);
        assert_eq!(reason(&forbidden, "198.18.0.1"), None);
        assert!(reason(&forbidden, "192.0.2.1").is_some());
    }

    #[test]
    fn guards_own_listeners() {
        let forbidden = Forbidden::default();
        forbidden.set_listeners(vec!["127.0.0.1:53".parse().unwrap(), "[::]:9090".parse().unwrap()]);
        let hit = |dst: &str, local: bool| forbidden.check_listeners(dst.parse().unwrap(), || local).is_err();
        assert!(hit("127.0.0.1:53", false));
        assert!(!hit("127.0.0.2:53", true));
        assert!(hit("192.0.2.7:9090", true));
        assert!(hit("[2001:db8::7]:9090", true));
        assert!(!hit("192.0.2.7:9090", false));
        assert!(!hit("192.0.2.7:9091", true));
    }
}
