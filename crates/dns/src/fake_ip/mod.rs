//! Addresses that stand for names: given out by DNS, turned back into the name when somebody connects to them.

mod store;
mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use parking_lot::Mutex;

pub use store::StoreError;

use crate::Patterns;
use store::{Found, Store};
use table::{Full, Table};

/// Seconds that a client may keep a fake address: it means nothing once this program has ended.
pub const TTL: u32 = 1;

/// More names than that are not remembered, however large the pools are. It takes some 10 MB.
const MOST: u32 = 1 << 16;

/// Which addresses, and for which names.
#[derive(Clone, Debug)]
pub struct FakeIpConfig {
    /// Where IPv4 addresses are taken from; none where IPv4 is not captured.
    pub v4: Option<Ipv4Net>,
    /// Where IPv6 addresses are taken from; none where IPv6 is not captured.
    pub v6: Option<Ipv6Net>,
    /// Names that keep their real addresses.
    pub exclude: Patterns,
    /// The file that keeps the names across restarts.
    pub file: Option<PathBuf>,
    /// Whose names they are: those of another place (a network namespace) are forgotten.
    pub place: String,
}

/// A pool that is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPool {
    /// It has fewer than 6 addresses.
    #[error("the pool {0} of fake addresses is too small; use one of at least 8, such as 198.18.0.0/15")]
    TooSmall(IpNet),
    /// There is none.
    #[error("there is no pool of fake addresses; IPv4 or IPv6 has to be captured")]
    None,
}

/// What a name gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fake {
    Address(IpAddr),
    /// There is no pool of this family.
    NoFamily,
    /// No address can be spared.
    Full,
}

/// The fake addresses. Shared by all workers.
#[derive(Debug)]
pub struct FakeIp {
    v4: Option<Ipv4Net>,
    v6: Option<Ipv6Net>,
    exclude: ArcSwap<Patterns>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    table: Table,
    store: Option<Store>,
}

impl FakeIp {
    /// The addresses, with the names of before where there is a file. A file that cannot be used is said in the log, and
    /// is no reason to stop.
    ///
    /// # Errors
    /// [`BadPool`].
    pub fn new(config: FakeIpConfig) -> Result<Self, BadPool> {
        let v4 = config.v4.map(|net| net.trunc());
        let v6 = config.v6.map(|net| net.trunc());
        let mut capacity = MOST;
        for net in v4.map(IpNet::V4).into_iter().chain(v6.map(IpNet::V6)) {
            let bits = u32::from(net.max_prefix_len() - net.prefix_len());
            // Neither the network's own address nor the last one is given out.
            let hosts = 1_u32.checked_shl(bits).unwrap_or(u32::MAX).saturating_sub(2);
            if hosts < 6 {
                return Err(BadPool::TooSmall(net));
            }
            capacity = capacity.min(hosts);
        }
        if v4.is_none() && v6.is_none() {
            return Err(BadPool::None);
        }
        let (table, store) = match &config.file {
            Some(path) => {
                // The slots stand for other addresses if either pool changes, and other programs were told of them
                // elsewhere.
                let pools = format!("{} {} {}", text(v4), text(v6), config.place);
                match Store::open(path, &pools) {
                    Ok((store, Found::Names(names))) => (Table::restore(capacity, names), Some(store)),
                    Ok((store, Found::Corrupt(aside))) => {
                        tracing::warn!(
                            file = %path.display(), aside = %aside.display(),
                            "the file of fake addresses is damaged and was set aside; all begin anew",
                        );
                        (Table::new(capacity), Some(store))
                    }
                    Err(error) => {
                        tracing::warn!("{error}");
                        (Table::new(capacity), None)
                    }
                }
            }
            None => (Table::new(capacity), None),
        };
        let exclude = ArcSwap::from_pointee(config.exclude);
        Ok(Self { v4, v6, exclude, inner: Mutex::new(Inner { table, store }) })
    }

    /// The prefixes that fake addresses are in. Nothing may ever be sent there.
    pub fn prefixes(&self) -> Vec<IpNet> {
        self.v4.map(IpNet::V4).into_iter().chain(self.v6.map(IpNet::V6)).collect()
    }

    /// Whether this is an address that only means something to this program.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.is_some_and(|net| net.contains(&ip)),
            IpAddr::V6(ip) => self.v6.is_some_and(|net| net.contains(&ip)),
        }
    }

    /// Whether a name (in lower case) keeps its real address.
    pub fn excludes(&self, name: &str) -> bool {
        self.exclude.load().matches(name)
    }

    /// Replaces the names that keep their real addresses. Addresses that were given out go on to stand for their names.
    pub fn set_excluded(&self, exclude: Patterns) {
        self.exclude.store(Arc::new(exclude));
    }

    /// The address that stands for a name, a new one if it has none.
    pub(crate) fn address(&self, name: &str, v6: bool, now: Instant) -> Fake {
        if (v6 && self.v6.is_none()) || (!v6 && self.v4.is_none()) {
            return Fake::NoFamily;
        }
        let mut inner = self.inner.lock();
        match inner.table.slot(name, now) {
            Ok((slot, new)) => {
                if new {
                    inner.keep(slot, name);
                }
                self.of(slot, v6).map_or(Fake::NoFamily, Fake::Address)
            }
            Err(Full) => Fake::Full,
        }
    }

    /// The name that an address stands for.
    pub fn name(&self, ip: IpAddr) -> Option<Arc<str>> {
        let slot = self.slot(ip)?;
        self.inner.lock().table.name(slot).cloned()
    }

    /// The same, and the address stands for it for as long as the guard lives.
    pub fn pin(self: &Arc<Self>, ip: IpAddr) -> Option<Pinned> {
        let slot = self.slot(ip)?;
        let name = self.inner.lock().table.pin(slot)?;
        Some(Pinned { fake: Arc::clone(self), slot, name })
    }

    /// How many names have an address.
    pub fn len(&self) -> usize {
        self.inner.lock().table.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn of(&self, slot: u32, v6: bool) -> Option<IpAddr> {
        if v6 {
            let base = self.v6?.network().to_bits();
            Some(Ipv6Addr::from_bits(base + 1 + u128::from(slot)).into())
        } else {
            let base = self.v4?.network().to_bits();
            Some(Ipv4Addr::from_bits(base + 1 + slot).into())
        }
    }

    fn slot(&self, ip: IpAddr) -> Option<u32> {
        if !self.contains(ip) {
            return None;
        }
        match ip {
            IpAddr::V4(ip) => ip.to_bits().checked_sub(self.v4?.network().to_bits() + 1),
            IpAddr::V6(ip) => u32::try_from(ip.to_bits().checked_sub(self.v6?.network().to_bits() + 1)?).ok(),
        }
    }
}

impl Inner {
    /// Writes a name down. If that fails it is said once, and not tried again.
    fn keep(&mut self, slot: u32, name: &str) {
        let Self { table, store } = self;
        let Some(open) = store else { return };
        let mut kept = open.append(slot, name);
        if kept.is_ok() && open.is_due(table.len()) {
            kept = open.rewrite(&table.entries());
        }
        if let Err(error) = kept {
            tracing::warn!("{error}");
            *store = None;
        }
    }
}

fn text(net: Option<impl ToString>) -> String {
    net.map_or_else(|| "-".to_owned(), |net| net.to_string())
}

/// A fake address in use: nobody else gets it while this lives.
#[derive(Debug)]
pub struct Pinned {
    fake: Arc<FakeIp>,
    slot: u32,
    name: Arc<str>,
}

impl Pinned {
    /// The name that the address stands for.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.fake.inner.lock().table.unpin(self.slot, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(v4: &str, file: Option<PathBuf>) -> Arc<FakeIp> {
        fake_at("here", v4, file)
    }

    fn fake_at(place: &str, v4: &str, file: Option<PathBuf>) -> Arc<FakeIp> {
        let config = FakeIpConfig {
            v4: Some(v4.parse().unwrap()),
            v6: Some("fc00:18::/64".parse().unwrap()),
            exclude: Patterns::new(["*.lan"]).unwrap(),
            file,
            place: place.to_owned(),
        };
        Arc::new(FakeIp::new(config).unwrap())
    }

    fn address(fake: &FakeIp, name: &str, v6: bool) -> IpAddr {
        match fake.address(name, v6, Instant::now()) {
            Fake::Address(ip) => ip,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_keeps_its_addresses_and_they_lead_back_to_it() {
        let fake = fake("198.18.0.0/15", None);
        let v4 = address(&fake, "a.example", false);
        let v6 = address(&fake, "a.example", true);
        assert_eq!(v4, IpAddr::from([198, 18, 0, 1]));
        assert_eq!(v6, "fc00:18::1".parse::<IpAddr>().unwrap());
        assert_eq!(address(&fake, "a.example", false), v4);
        assert_ne!(address(&fake, "b.example", false), v4);
        for ip in [v4, v6] {
            assert_eq!(fake.name(ip).as_deref(), Some("a.example"));
        }
        for stranger in
            ["198.18.0.0", "198.18.0.3", "198.19.255.255", "192.0.2.1", "fc00:18::", "fc00:18::1:0:1"]
        {
            assert_eq!(fake.name(stranger.parse().unwrap()), None, "{stranger}");
        }
        assert!(fake.contains("198.19.255.255".parse().unwrap()));
        assert!(!fake.contains("198.20.0.0".parse().unwrap()));
    }

    #[test]
    fn an_address_in_use_is_not_given_to_another_name() {
        let fake = fake("198.18.0.0/29", None);
        let first = address(&fake, "0.example", false);
        let pin = fake.pin(first).unwrap();
        let later = Instant::now() + std::time::Duration::from_secs(3600);
        for n in 1..100 {
            let step = later + std::time::Duration::from_secs(60 * n);
            assert_ne!(fake.address(&format!("{n}.example"), false, step), Fake::Address(first));
        }
        assert_eq!(&**pin.name(), "0.example");
        assert_eq!(fake.name(first).as_deref(), Some("0.example"));
        drop(pin);
        assert_eq!(fake.len(), 6);
    }

    #[test]
    fn at_the_limit_the_new_one_is_refused_and_the_old_ones_live() {
        let fake = fake("198.18.0.0/29", None);
        let now = Instant::now();
        for n in 0..6 {
            assert!(matches!(fake.address(&format!("{n}.example"), false, now), Fake::Address(_)));
        }
        assert_eq!(fake.address("6.example", false, now), Fake::Full);
        assert!(matches!(fake.address("0.example", false, now), Fake::Address(_)));
    }

    #[test]
    fn a_restart_keeps_the_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.fake-ip");
        let before: Vec<_> = {
            let fake = fake("198.18.0.0/15", Some(file.clone()));
            (0..50).map(|n| address(&fake, &format!("{n}.example"), false)).collect()
        };
        let fake = fake("198.18.0.0/15", Some(file.clone()));
        for (n, ip) in before.iter().enumerate() {
            assert_eq!(fake.name(*ip), Some(format!("{n}.example").into()));
        }
        assert!(!before.contains(&address(&fake, "new.example", false)));
        let elsewhere = fake_at("elsewhere", "198.18.0.0/15", Some(file));
        assert!(elsewhere.is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_no_reason_to_stop() {
        let fake = fake("198.18.0.0/15", Some("/nowhere/at/all.fake-ip".into()));
        assert_eq!(address(&fake, "a.example", false), IpAddr::from([198, 18, 0, 1]));
    }

    #[test]
    fn pools_of_no_use_are_refused() {
        let config = |v4: Option<&str>| FakeIpConfig {
            v4: v4.map(|net| net.parse().unwrap()),
            v6: None,
            exclude: Patterns::default(),
            file: None,
            place: String::new(),
        };
        assert!(matches!(FakeIp::new(config(Some("198.18.0.0/30"))), Err(BadPool::TooSmall(_))));
        assert_eq!(FakeIp::new(config(None)).unwrap_err(), BadPool::None);
        let only_v4 = FakeIp::new(config(Some("198.18.0.0/29"))).unwrap();
        assert_eq!(only_v4.address("a.example", true, Instant::now()), Fake::NoFamily);
    }
}
