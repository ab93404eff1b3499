//! Guards that are left out on purpose, to see a loop, and to see that the next guard stops it.
//!
//! Only `oneway lab` and tests ask for it, by an option that no configuration file has. Whoever runs without a guard never
//! says of itself that it is proven.

use std::fmt;
use std::str::FromStr;

/// Something that keeps packets of ours from coming back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Safeguard {
    /// What the strategy does to each of our sockets, or asks of its destination.
    Protect = 1,
    /// The same for IPv6 alone.
    ProtectIpv6 = 1 << 1,
    /// Reading the protection back, and what the kernel says of our sockets before the capture and after each change.
    Proof = 1 << 2,
    /// Protecting before anything is captured: without it sockets are not protected in the first second.
    Order = 1 << 3,
    /// What is refused at the device before any rule.
    Ingress = 1 << 4,
    /// What is refused before a socket is made.
    Egress = 1 << 5,
    /// The look for our own packets among those that are read from the device, and the breaker.
    Detector = 1 << 6,
    /// Making again what others undo.
    Drift = 1 << 7,
    /// That neither our own device nor other programs' tunnels are taken for the uplink.
    Uplink = 1 << 8,
    /// Refusing fake addresses that stand for nothing.
    FakeIp = 1 << 9,
    /// Finding programs of this host, proxies and resolvers, that send by us what we send to them.
    Circle = 1 << 10,
}

impl Safeguard {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Protect,
        Self::ProtectIpv6,
        Self::Proof,
        Self::Order,
        Self::Ingress,
        Self::Egress,
        Self::Detector,
        Self::Drift,
        Self::Uplink,
        Self::FakeIp,
        Self::Circle,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Protect => "protect",
            Self::ProtectIpv6 => "protect-ipv6",
            Self::Proof => "proof",
            Self::Order => "order",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Detector => "detector",
            Self::Drift => "drift",
            Self::Uplink => "uplink",
            Self::FakeIp => "fake-ip",
            Self::Circle => "circle",
        }
    }
}

impl fmt::Display for Safeguard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Safeguard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|guard| guard.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("unknown guard {text:?}; one of {names} is expected")
        })
    }
}

/// The guards that are left out; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without(u16);

impl Without {
    /// Whether this one is left out.
    pub const fn has(self, guard: Safeguard) -> bool {
        self.0 & guard as u16 != 0
    }

    /// Whether any is left out.
    pub const fn any(self) -> bool {
        self.0 != 0
    }
}

impl FromIterator<Safeguard> for Without {
    fn from_iter<T: IntoIterator<Item = Safeguard>>(guards: T) -> Self {
        Self(guards.into_iter().fold(0, |all, guard| all | guard as u16))
    }
}

impl fmt::Display for Without {
    /// Their names, with commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Safeguard::ALL.into_iter().filter(|guard| self.has(*guard)).map(Safeguard::name);
        f.write_str(&names.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_and_a_bit_of_its_own() {
        for guard in Safeguard::ALL {
            assert_eq!(guard.name().parse(), Ok(guard));
            let without: Without = [guard].into_iter().collect();
            let others = Safeguard::ALL.into_iter().filter(|other| without.has(*other));
            assert_eq!(others.collect::<Vec<_>>(), [guard]);
            assert_eq!(without.to_string(), guard.name());
        }
        assert!(!Without::default().any());
        assert!("everything".parse::<Safeguard>().is_err());
    }
}
