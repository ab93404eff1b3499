//! The devices that bound sockets leave by.

use std::fmt;

use oneway_route::{Family, IfIndex};

/// An interface that leads to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
}

impl From<&oneway_route::Uplink> for Uplink {
    fn from(found: &oneway_route::Uplink) -> Self {
        Self { index: found.index, name: found.name.clone() }
    }
}

/// The interface of each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkPair {
    v4: Uplink,
    v6: Uplink,
}

impl UplinkPair {
    /// A family without one has the other's: what is on that link is reached, and all else is refused. `None` if neither has one.
    pub fn new(v4: Option<Uplink>, v6: Option<Uplink>) -> Option<Self> {
        match (v4, v6) {
            (Some(v4), Some(v6)) => Some(Self { v4, v6 }),
            (Some(one), None) | (None, Some(one)) => Some(one.into()),
            (None, None) => None,
        }
    }

    /// That of a family.
    pub fn get(&self, family: Family) -> &Uplink {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Whether it is both families' at once.
    pub fn is_one(&self) -> bool {
        self.v4 == self.v6
    }
}

impl From<Uplink> for UplinkPair {
    fn from(both: Uplink) -> Self {
        Self { v4: both.clone(), v6: both }
    }
}

impl fmt::Display for UplinkPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { v4, v6 } = self;
        if self.is_one() {
            f.write_str(&v4.name)
        } else {
            write!(f, "{} (IPv4) and {} (IPv6)", v4.name, v6.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink(index: u32) -> Uplink {
        Uplink { index: IfIndex(index), name: format!("eth{index}") }
    }

    #[test]
    fn a_family_without_one_has_the_others() {
        let [one, two] = [1, 2].map(uplink);
        assert_eq!(UplinkPair::new(None, None), None);
        for pair in [UplinkPair::new(Some(one.clone()), None), UplinkPair::new(None, Some(one.clone()))] {
            let pair = pair.unwrap();
            assert_eq!((pair.get(Family::V4), pair.get(Family::V6)), (&one, &one));
            assert_eq!((pair.is_one(), pair.to_string()), (true, "eth1".to_owned()));
        }
        let pair = UplinkPair::new(Some(one.clone()), Some(two.clone())).unwrap();
        assert_eq!((pair.get(Family::V4), pair.get(Family::V6)), (&one, &two));
        assert_eq!((pair.is_one(), pair.to_string()), (false, "eth1 (IPv4) and eth2 (IPv6)".to_owned()));
    }
}
