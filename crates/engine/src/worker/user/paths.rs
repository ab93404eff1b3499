//! Clients to whom a path leads that is narrower than the device, as routers say (RFC 1191, RFC 8201).
//!
//! A connection hears of its own path by losing packets. The next one of the same client is to begin with what is known, as one
//! of the kernel would: it loses none, and asks for segments that the path carries. What is longer may be dropped on the way to
//! us without a word: a veth pair does so where its ends have different MTUs (`is_skb_forwardable`, net/core/dev.c), and lets
//! only superpackets pass.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use oneway_stack::tcp::{Config, Time};
use parking_lot::Mutex;

/// Clients that are remembered at most. One more finds out for each of its connections.
const MOST: usize = 1024;

/// How long a router is believed: the path may have become wider (RFC 1191 6.3, RFC 8201 4).
const BELIEVED: Duration = Duration::from_secs(600);

/// The narrow paths of all workers' clients.
#[derive(Debug, Default)]
pub(crate) struct Paths(Mutex<HashMap<IpAddr, Path>>);

#[derive(Debug)]
struct Path {
    mtu: u16,
    since: Time,
}

impl Path {
    fn is_old(&self, now: Time) -> bool {
        now.since(self.since) >= BELIEVED
    }
}

impl Paths {
    /// A connection of `client` has found its path to carry packets of `mtu` bytes only. What is known to be narrower stays: a
    /// router before the narrowest place tells less, and the kernel ignores it, too (`__ip_rt_update_pmtu`, net/ipv4/route.c).
    pub(super) fn learn(&self, client: IpAddr, mtu: u16, now: Time) {
        let mut paths = self.0.lock();
        if paths.get(&client).is_some_and(|path| path.mtu < mtu && !path.is_old(now)) {
            return;
        }
        if paths.len() >= MOST && !paths.contains_key(&client) {
            paths.retain(|_, path| !path.is_old(now));
            if paths.len() >= MOST {
                return;
            }
        }
        paths.insert(client, Path { mtu, since: now });
    }

    /// `config`, with an MTU that suits a new connection of `client`.
    pub(super) fn config_for(&self, client: IpAddr, config: &Arc<Config>, now: Time) -> Arc<Config> {
        match self.0.lock().get(&client) {
            Some(path) if path.mtu < config.mtu && !path.is_old(now) => {
                Arc::new(Config { mtu: path.mtu, ..Config::clone(config) })
            }
            _ => Arc::clone(config),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: usize) -> IpAddr {
        let [.., a, b] = number.to_be_bytes();
        IpAddr::from([198, 51, a, b])
    }

    #[test]
    fn a_narrow_path_is_remembered_for_a_while() {
        let (paths, config, start) = (Paths::default(), Arc::new(Config::default()), Time::from_micros(7));
        let mtu = |number, now| paths.config_for(client(number), &config, now).mtu;
        for mtu in [1400, 1300, 1350] {
            paths.learn(client(1), mtu, start);
        }
        assert_eq!([mtu(1, start), mtu(2, start)], [1300, config.mtu]);
        assert_eq!(mtu(1, start + BELIEVED - Duration::from_micros(1)), 1300);
        assert_eq!(mtu(1, start + BELIEVED), config.mtu, "it may be wider by now");
        paths.learn(client(1), 1400, start + BELIEVED);
        assert_eq!(mtu(1, start + BELIEVED), 1400);
    }

    #[test]
    fn no_path_makes_the_device_wider() {
        let (paths, now) = (Paths::default(), Time::default());
        let config = Arc::new(Config { mtu: 1280, ..Config::default() });
        paths.learn(client(1), 1300, now);
        assert_eq!(paths.config_for(client(1), &config, now).mtu, 1280);
    }

    #[test]
    fn there_is_a_limit_and_the_old_give_way() {
        let (paths, start) = (Paths::default(), Time::default());
        (0..MOST + 1).for_each(|number| paths.learn(client(number), 1300, start));
        assert_eq!(paths.0.lock().len(), MOST);
        let known = |number| paths.0.lock().contains_key(&client(number));
        assert!(known(0) && !known(MOST), "those of before stay");
        paths.learn(client(0), 1400, start + BELIEVED);
        paths.learn(client(MOST), 1300, start + BELIEVED);
        assert_eq!(paths.0.lock().len(), 2, "what is not believed any more takes no place");
    }
}
